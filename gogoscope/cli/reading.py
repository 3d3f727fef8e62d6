"""Commands that only read."""

from __future__ import annotations

import json
import math
import sys

import anyio

import gogoscope
from gogoscope._core.arguments import printable
from gogoscope.cli import terminal
from gogoscope.cli.exits import EndedError, ExitCode
from gogoscope.cli.listings import LOCKS, Listing
from gogoscope.cli.output import document, say, writing
from gogoscope.cli.session import Session


async def list_all(session: Session, listing: Listing, pattern: str | None) -> None:
    """List everything of a capability that matches a pattern."""
    part = session.part(listing.capability)
    await session.announce(listing.name)
    session.output.records(listing, await getattr(part, listing.method)(pattern))


async def watch(session: Session, listing: Listing, pattern: str | None, every: float) -> None:
    """List everything again and again, until Ctrl-C ends the program.

    While the store fails, that is told, and it is asked again. Programs get a JSON document on each
    line, or the lines of each list with an empty one behind them.
    """
    part = session.part(listing.capability)
    await session.announce(f"{listing.name} every {every:g} s")
    output = session.output
    lives = output.terminal and not output.json
    with terminal.Screen(listing.name, every) if lives else terminal.NO_SCREEN as screen:
        while True:
            try:
                found = await getattr(part, listing.method)(pattern)
            except gogoscope.PersistenceError as error:
                if screen is None:
                    say(f"no answer: {error}")
                else:
                    screen.failed(error)
            else:
                if screen is not None:
                    screen.update(terminal.table(listing, found))
                elif output.json:
                    output.line(json.dumps(document(listing, found)))
                else:
                    output.records(listing, found)
                    output.line("")
                with writing():
                    sys.stdout.flush()
            await anyio.sleep(every)


async def show_holder(session: Session, key: str) -> None:
    """Show who holds a lock."""
    holder = await session.part("locks").holder(key)
    if holder is None:
        raise EndedError(ExitCode.FOUND, f"nobody holds {key!r}")
    session.output.record(LOCKS, key, holder)


async def list_keys(session: Session, pattern: str | None) -> None:
    """List the keys of cached values, as they are found."""
    cache = session.part("cache")
    await session.announce("keys")
    output = session.output
    if output.json:
        output.document({"keys": sorted(await cache.keys(pattern))})
        return
    async for key in cache.iterate_keys(pattern):
        output.line(printable(key))


async def show_value(session: Session, key: str) -> None:
    """Show a cached value."""
    entry = await session.part("cache").get_entry(key, latest=True)
    if entry is None:
        raise EndedError(ExitCode.FOUND, f"there is no value under {key!r}")
    if not session.output.json:
        session.output.document(entry.value)
        return
    until = None if entry.until_ms is None else entry.until_ms / 1000
    left = None if math.isinf(entry.left) else entry.left
    session.output.document({"key": key, "value": entry.value, "until": until, "left": left})
