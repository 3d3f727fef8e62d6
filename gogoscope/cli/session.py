"""One use of a store: opened, asked, and closed."""

from __future__ import annotations

import sys
from typing import Any

import anyio
from attrs import frozen

import gogoscope
from gogoscope import persistence
from gogoscope._core.arguments import printable
from gogoscope.cli.exits import EndedError, ExitCode
from gogoscope.cli.output import Output, say

NOUNS = {"circuit_breakers": "circuit breakers", "cache": "cached values"}
"""What is said of a capability that a store lacks, where its name is not the word."""


@frozen
class Session:
    """An open store, and where to print.

    :param store: the store
    :param url: its URL without its secrets
    :param prefix: the key prefix that the URL names
    :param output: where to print
    :param agreed: whether every question is answered with yes
    """

    store: Any
    url: str
    prefix: str
    output: Output
    agreed: bool

    def part(self, capability: str) -> Any:
        """Return the store of a capability.

        :raises EndedError: if there is none
        """
        part = getattr(persistence.Persistence.of(self.store), capability, None)
        if part is None:
            noun = NOUNS.get(capability, capability.replace("_", " "))
            raise EndedError(ExitCode.NOT_SUPPORTED, f"this store keeps no {noun}: {self.url}")
        return part

    async def announce(self, what: str) -> None:
        """Say what a scan is about to read."""
        try:
            examined: Any = self.store.capability(persistence.Examinable)
        except gogoscope.CapabilityNotSupportedError:
            say(f"looking for {what} in {self.url}")
            return
        say(f"looking for {what} in {self.url}, which reads {await examined.describe_scan()}")

    async def confirm(self, question: str) -> None:
        """Ask whether to go on.

        :raises EndedError: if the answer is no, or nobody can be asked
        """
        if self.agreed:
            return
        if sys.stdin is None or not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise EndedError(
                ExitCode.NOT_CONFIRMED,
                f"{question} There is no terminal to answer in: pass --yes if you mean it",
            )
        sys.stdout.flush()
        sys.stderr.write(f"{printable(question)} [y/N] ")
        sys.stderr.flush()
        if sys.platform != "win32":  # there it would have to be a socket
            # Ctrl-C ends this, but not a read of the terminal, which an event loop tries again.
            await anyio.wait_readable(sys.stdin.fileno())
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise EndedError(ExitCode.NOT_CONFIRMED, "nothing was changed")
