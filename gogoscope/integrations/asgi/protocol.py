"""The types of ASGI, and a plain answer.

The protocol is that of https://asgi.readthedocs.io, version 3.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, TypeAlias

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Connection: TypeAlias = MutableMapping[str, Any]
"""What ASGI calls a scope."""
Application: TypeAlias = Callable[[Any, Any, Any], Awaitable[None]]
"""Called with a connection, a ``Receive`` and a ``Send``; each framework has types of its own."""

HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
"""A token of RFC 9110, section 5.6.2."""


def check_header_name(name: str, value: str) -> None:
    """Refuse what is no name of a header.

    :raises TypeError: naming the argument
    :raises ValueError: if HTTP does not allow it
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, got {value!r} of type {type(value).__name__}")
    if not HEADER_NAME.fullmatch(value):
        raise ValueError(f"{name} must be the name of a header, got {value!r}")


def header(connection: Connection, name: bytes) -> str | None:
    """Return the value of a header of a request, the first if there are several.

    :param name: the header, in lower case
    """
    headers: Iterable[tuple[bytes, bytes]] = connection.get("headers", ())
    for key, value in headers:
        if key.lower() == name:
            return value.decode("latin-1")
    return None


async def answer(send: Send, status: int, text: str) -> None:
    """Answer a request with a line of text."""
    body = f"{text}\n".encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
