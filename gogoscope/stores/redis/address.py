"""Where a server is, and how to log in to it: the part of a URL before its options."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote, urlsplit

from attrs import evolve, field, frozen

from gogoscope.exceptions import InvalidURLError
from gogoscope.persistence import PersistenceURL

SCHEMES = ("redis", "rediss")
DEFAULT_PORT = 6379
_DATABASE = re.compile(r"[0-9]{1,9}")


@frozen
class Address:
    """A server, one of its databases, and the user; ``repr`` shows no password."""

    host: str
    port: int = DEFAULT_PORT
    database: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: bool = False

    def __str__(self) -> str:
        return f"redis{'s' * self.tls}://{self.place}/{self.database}"

    @property
    def place(self) -> str:
        """The host and the port, which name the server among others."""
        return f"{self.host}:{self.port}"

    def at(self, place: str) -> Address:
        """Return the address of another server of the same cluster.

        :param place: its host and port, as servers name one another; the host may be empty
        """
        host, _, port = place.rpartition(":")
        return evolve(self, host=host or self.host, port=int(port))

    def settings(self) -> dict[str, Any]:
        """Return what a connection of the client is made with."""
        return {
            "host": self.host,
            "port": self.port,
            "db": self.database,
            "username": self.username,
            "password": self.password,
        }


def address_of(url: PersistenceURL) -> Address:
    """Return the address in a URL like ``rediss://user:password@host:6379/0``.

    User and password may be percent-encoded; the password may contain ``@`` and ``/`` as they are.

    :raises InvalidURLError: if it has another scheme, no host, or a malformed port or database
    """
    login, _, server = url.url.partition("?")[0].partition("//")[2].rpartition("@")
    username, _, password = login.partition(":")
    parts = urlsplit(f"//{server}")
    database = parts.path.removeprefix("/") or "0"
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if url.scheme not in SCHEMES or not host or not _DATABASE.fullmatch(database):
        raise InvalidURLError(f"{str(url)!r} is not like redis://user:password@host:6379/0")
    return Address(
        host=host,
        port=DEFAULT_PORT if port is None else port,
        database=int(database),
        username=unquote(username) or None,
        password=unquote(password) or None,
        tls=url.scheme == "rediss",
    )
