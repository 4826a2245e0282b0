"""Passwords in URIs: they come by the environment alone, and are shown nowhere."""

import re

PASSWORD = re.compile(r"(\w://[^/\s:@]*):[^\s]*@")  # up to the last @, as a password may hold one


def masked(text: str) -> str:
    """A text without the passwords of the URIs in it."""
    return PASSWORD.sub(r"\1:***@", text)


def without_password(uri: str) -> str:
    """The URI itself. Raises ValueError if it holds a password."""
    if PASSWORD.search(uri):
        raise ValueError("a password stands in it, which all who read this file would see: give the URI by the environment")
    return uri
