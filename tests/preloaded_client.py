"""The commands `python` and `dvc` of preloaded.py, which copies this file: has the server do what it is asked to, and ends as that does.

It loads little and without `site`, as it is started hundreds of times.
"""

import array
import json
import os
import socket
import sys
from pathlib import Path

command = Path(__file__)
arguments = ["-m", "dvc", *sys.argv[1:]] if command.name == "dvc" else sys.argv[1:]
while arguments and arguments[0] in ("-B", "-P", "-u"):
    del arguments[0]
if not arguments or arguments[0] not in ("-m", "-c"):
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])

server = socket.socket(socket.AF_UNIX)
server.connect(str(command.parents[1] / "socket"))
files = [int(link.name) for link in list(Path("/proc/self/fd").iterdir()) if link.exists()]  # the folder itself was open too
files.remove(server.fileno())
asked = {"arguments": arguments, "environment": dict(os.environ), "folder": str(Path.cwd()), "files": files, "group": os.getpgrp()}
message = json.dumps(asked | {"python": str(command.with_name("python"))}).encode()
server.sendmsg([len(message).to_bytes(8, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))])
server.sendall(message)
for number in files:
    if number > 2:
        os.close(number)
answer = server.recv(8)
sys.exit(int.from_bytes(answer, "big") if answer else 1)
