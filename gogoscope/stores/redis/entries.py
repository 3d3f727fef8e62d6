"""Entries in Redis: one key for each, and one script for each change."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence

from attrs import evolve

from gogoscope.exceptions import RecordTooLargeError, StoreTimeoutError
from gogoscope.persistence import (
    KEEP_MS,
    Clock,
    ClockSteps,
    CompareAndSwap,
    Entry,
    Swapped,
    corrupt_record,
    leave_out,
)
from gogoscope.persistence.watching import Changed, Ear, Listener, Stop
from gogoscope.stores.redis import scripts
from gogoscope.stores.redis.channels import ChannelEar
from gogoscope.stores.redis.connections import Argument
from gogoscope.stores.redis.requests import Reply, Request
from gogoscope.stores.redis.scripts import NONE
from gogoscope.stores.redis.server import Server

LARGEST = 512 * 1024 * 1024 - 10_000
LONGEST_MS = 10**15
"""For how long a key is kept at most; Redis refuses a time whose end has more than 63 bits."""
_HEAD = re.compile(rb"1 ([\w-]+) (\d{1,19}|\.) (\d{1,18}) ([\w,-]+|\.) [\w,.-]+\n")
_CLEARED = re.compile(rb"1 \. \S+ \d{1,18} \S+ \S+\n")
"""Both match only what the scripts understand, too: what they do not they refuse to swap."""


class RedisEntries(CompareAndSwap):
    """A place for entries.

    :param server: where they are
    :param clock: what it tells the time by; ``None`` for the server's time
    """

    def __init__(self, server: Server, clock: Clock | None) -> None:
        self._server = server
        self._clock = clock
        self._steps = None if clock is None else ClockSteps(clock)
        self.is_cluster = False
        self.listener = Listener(self._ear)

    def now_ms(self) -> int:
        """Return the server's time, or that of the store's own clock, in milliseconds."""
        return (
            self._server.clock.now_ms() if self._clock is None else int(self._clock.wall() * 1000)
        )

    def clock_was_set(self) -> bool:
        """Return whether that clock was set since the store was opened."""
        return self._server.clock.was_set() if self._steps is None else self._steps.stepped()

    def clock_error_ms(self) -> int:
        """Return by how much the server's time may be another than it is thought to be."""
        return self._server.clock.error_ms() if self._clock is None else 0

    def opened(self) -> None:
        """Begin to notice whether the clock is set."""
        self.clock_was_set()

    async def load(self, kind: str, key: str) -> Entry | None:
        """Return an entry as the newest completed write left it, ``None`` if there is none."""
        reply = await self._run(scripts.LOAD, kind, key, lambda attempt: (), writes=False)
        return entry_of(kind, key, reply.parts[0])

    async def swap(self, kind: str, key: str, seen: Entry | None, new: Entry) -> Swapped:
        """Write ``new`` if the last writer is still that of ``seen``, in one atomic step."""
        last = NONE if seen is None else seen.writer
        arguments = (last, *self._written(new), int(new.tell))
        reply = await self._run(
            scripts.SWAP, kind, key, lambda attempt: arguments, size=len(arguments[3])
        )
        if reply.status == scripts.DONE:
            return Swapped(swapped=True)
        return Swapped(
            swapped=False, found=entry_of(kind, key, reply.parts[0]), in_doubt=reply.in_doubt
        )

    async def put(self, kind: str, key: str, new: Entry) -> None:
        """Write ``new``, whatever is there, with a higher number than what is there has."""
        reply = await self._put(kind, key, new)
        in_doubt = reply.in_doubt
        while reply.status == scripts.BEHIND:
            new = evolve(new, number=int(reply.parts[0]) + 1)
            reply = await self._put(kind, key, new, in_doubt=in_doubt)
            in_doubt = in_doubt or reply.in_doubt
        if reply.status == scripts.IN_DOUBT:
            raise StoreTimeoutError(
                f"the {kind} {key!r} may have been written: the answer was lost, and too many "
                "others have written since"
            )

    async def _put(self, kind: str, key: str, new: Entry, *, in_doubt: bool = False) -> Reply:
        written = self._written(new)

        def arguments(attempt: Request) -> Sequence[Argument]:
            doubt = int(in_doubt or attempt.in_doubt)
            return attempt.latest_ms(), new.writer, doubt, *written, new.number

        return await self._run(scripts.PUT, kind, key, arguments, size=len(written[2]))

    async def keys(self, kind: str, prefix: str, after: str | None) -> tuple[list[str], str | None]:
        """Return a page of the keys of a kind that start with ``prefix``."""
        pattern = _pattern(kind, prefix)
        place, cursor = await self._position(after)
        request = Request(
            self._server,
            scripts.PAGE,
            lambda attempt: (cursor, pattern, self.now_ms()),
            place=place,
        )
        reply = await request.run()
        cursor, names = reply.parts
        return _keys(kind, names), await self._following(place, cursor)

    def watch(self, kind: str, key: str, changed: Changed) -> Stop:
        """Call ``changed`` when the server tells of an entry, on a connection of its own."""
        return self.listener.add(_name(kind, key).decode(), changed)

    async def _ear(self) -> Ear:
        return ChannelEar(await self._server.connect())

    async def clear(self, kind: str, prefix: str) -> None:
        """Remove every entry of a kind whose key starts with ``prefix``."""
        pattern, after = _pattern(kind, prefix), None
        while True:
            place, cursor = await self._position(after)
            reply = await self._clear_page(place, cursor, pattern)
            after = await self._following(place, reply.parts[0])
            if after is None:
                return

    async def _clear_page(self, place: str | None, cursor: str, pattern: bytes) -> Reply:
        return await Request(
            self._server,
            scripts.CLEAR,
            lambda attempt: (attempt.latest_ms(), cursor, pattern),
            place=place,
            writes=True,
        ).run()

    def _run(
        self,
        script: scripts.Script,
        kind: str,
        key: str,
        arguments: Callable[[Request], Sequence[Argument]],
        *,
        writes: bool = True,
        size: int = 0,
    ) -> Awaitable[Reply]:
        name = _name(kind, key)
        return Request(self._server, script, arguments, name, writes=writes, size=size).run()

    def _written(self, new: Entry) -> tuple[bytes, Argument, bytes]:
        """Return the head, for how many milliseconds an entry is kept, and its text."""
        text = new.text.encode()
        if len(text) > LARGEST:
            raise RecordTooLargeError(
                f"a record of {len(text)} bytes is more than the {LARGEST} that Redis accepts"
            )
        purge = new.purge_at_ms
        left: Argument = NONE
        if purge is not None:
            left = min(max(0, purge - self.now_ms()) + KEEP_MS, LONGEST_MS)
        words = (
            "1",
            new.writer,
            NONE.decode() if purge is None else str(purge),
            str(new.number),
            ",".join(new.writers[-2::-1]) or NONE.decode(),
        )
        return " ".join(words).encode(), left, text

    async def _position(self, after: str | None) -> tuple[str | None, str]:
        if after is not None:
            cursor, _, place = after.partition(" ")
            return place or None, cursor
        return (await self._places())[0], "0"

    async def _following(self, place: str | None, cursor: bytes) -> str | None:
        if cursor != b"0":
            return f"{cursor.decode()} {place or ''}"
        later = [other for other in await self._places() if other and place and other > place]
        return f"0 {later[0]}" if later else None

    async def _places(self) -> list[str | None]:
        """Return the servers of a cluster that have keys, in order; ``None`` is the only one."""
        if not self.is_cluster:
            return [None]
        slots = await self._server.look("CLUSTER", "SLOTS")
        address = self._server.address
        found = {
            address.at(f"{host.decode()}:{port}").place
            for _, _, (host, port, *_), *_ in (slots if isinstance(slots, list) else [])
        }
        return [*sorted(found)] or [None]


def _name(kind: str, key: str) -> bytes:
    return f"gogoscope:{kind}:{key}".encode()


def _pattern(kind: str, prefix: str) -> bytes:
    return re.sub(rb"[*?\[\]\\]", rb"\\\g<0>", _name(kind, prefix)) + b"*"


def _keys(kind: str, names: Sequence[bytes]) -> list[str]:
    begin, found = len(_name(kind, "")), []
    for name in names:
        try:
            found.append(name[begin:].decode())
        except UnicodeDecodeError as error:
            leave_out(corrupt_record(kind, repr(name[begin:]), error))
    return found


def entry_of(kind: str, key: str, found: bytes | None) -> Entry | None:
    """Return the entry that a key has.

    :raises CorruptRecordError: if what it has was not written by a script of ours
    """
    if found is None:
        return None
    words = _HEAD.match(found)
    if words is None:
        if _CLEARED.match(found):
            return None
        raise corrupt_record(kind, key, ValueError("this version did not write it"))
    writer, purge, number, older = words.groups()
    writers = [] if older == NONE else older.decode().split(",")[::-1]
    try:
        return Entry(
            found[words.end() :].decode(),
            None if purge == NONE else int(purge),
            int(number),
            (*writers, writer.decode()),
        )
    except ValueError as error:
        raise corrupt_record(kind, key, error) from error
