"""What reaches the page's server at all: requests of its own page, of limited size and time.

Without it, a page elsewhere that is opened in a browser of this machine could talk to a server on the loopback address. It would do so by
the address, or by a name that its owner lets point there (DNS rebinding).
"""

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

SMALL = 1_000_000  # bytes of a request that uploads nothing
BODY_SECONDS = 600  # in which a request has to arrive
STORES = 4  # uploads of the largest size that lie on the disk at the same time
UPLOADS = ("/gradio_api/upload", "/gradio_api/process_recording")
POLICY = b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"  # forbids the browser requests to other machines
HEADERS = [(b"content-security-policy", POLICY), (b"referrer-policy", b"no-referrer"), (b"x-content-type-options", b"nosniff")]

Scope = MutableMapping[str, Any]  # this and the next four: types of ASGI
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]


class Guard:
    """ASGI middleware: refuses requests of other pages and under other names, and those that are too large or too slow.

    Args:
        names: further host names of the server, as a reverse proxy passes them on. Addresses, `localhost` and the machine's own name are
            allowed always.
        most: bytes of an upload.
        store: folder of the uploads.
    """

    def __init__(self, app: ASGIApp, names: Iterable[str], most: int, store: Path):
        own = {"localhost", socket.gethostname().lower(), socket.getfqdn().lower()}
        self.app, self.names, self.most, self.store = app, own | {name.lower() for name in names}, most, store

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        refusal = self._refusal(scope, headers)
        if refusal and scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif refusal:
            await _answer(send, *refusal)
        elif scope["type"] == "websocket":
            await self.app(scope, receive, send)
        else:
            await _Limited(self._limit(scope), receive, send).run(self.app, scope)

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str] | None:
        """Status and reason of a request that is not answered; None if it is."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self._is_own(host):
            return 421, f"this server does not answer to the name {host[:80]!r}: start it with --name"
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return 403, "pages of other servers may not use this one"
        elsewhere = headers.get("sec-fetch-site") in ("cross-site", "same-site")
        if elsewhere and not (headers.get("sec-fetch-mode") == "navigate" and scope.get("method") == "GET"):
            return 403, "pages of other servers may not use this one"
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self._limit(scope):
            return 413, f"a request to this address has at most {self._limit(scope)} bytes"
        if scope["path"].startswith(UPLOADS) and _size(self.store) > STORES * self.most:
            return 507, "there are too many recordings on this server: those of an hour ago are removed soon"
        return None

    def _is_own(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
            if name in self.names:
                return True
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True  # an address cannot be made to point elsewhere

    def _limit(self, scope: Scope) -> int:
        return self.most + SMALL if scope["path"].startswith(UPLOADS) else SMALL


class _Limited:
    """One request, whose body is counted and timed as it arrives."""

    def __init__(self, limit: int, receive: Receive, send: Send):
        self.left, self._receive, self._send = limit, receive, send
        self.refusal: tuple[int, str] | None = None
        self.begun = self.whole = False
        self.until = asyncio.get_running_loop().time() + BODY_SECONDS

    async def run(self, app: ASGIApp, scope: Scope) -> None:
        with contextlib.suppress(_Refused):
            await app(scope, self.receive, self.send)
        if self.refusal and not self.begun:
            await _answer(self._send, *self.refusal)

    async def receive(self) -> Message:
        if self.whole:  # the body is here: what is awaited is the end of the connection
            return await self._receive()
        try:
            async with asyncio.timeout_at(self.until):
                message = await self._receive()
        except TimeoutError:
            self.refusal = 408, f"a request has {BODY_SECONDS} s to arrive"
            raise _Refused from None
        self.left -= len(message.get("body", b""))
        self.whole = not message.get("more_body", False)
        if self.left < 0:
            self.refusal = 413, "the request is too large"
            raise _Refused
        return message

    async def send(self, message: Message) -> None:
        if self.refusal:  # what the application makes of the exception
            return
        if message["type"] == "http.response.start":
            self.begun = True
            message = {**message, "headers": [*message.get("headers", ()), *HEADERS]}
        await self._send(message)


class _Refused(Exception):
    """The rest of a request is not read."""


async def _answer(send: Send, status: int, reason: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close"), *HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": f"{reason}\n".encode()})


def _size(folder: Path) -> int:
    """Bytes of the files in a folder, of which some may vanish meanwhile."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue
    return total
