"""Where the items of a map come from.

Items that lie ready in a container are taken by whichever worker is free. Whatever else yields
items runs code, which may open scopes, timeouts and task groups between one item and the next, and
set context variables. So a single task, in a single context, steps it and closes it; it puts ready
as many items as may be out, and the workers take them from there.

``exhausted`` tells that no further items will come, ``complete`` that all of them came.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Generator, Iterable, Iterator
from typing import Any, Generic, Protocol, TypeVar

import anyio

from gogoscope._core.background import Home
from gogoscope._core.context import Frame
from gogoscope._core.errors import raise_again, split_group
from gogoscope._core.slots import Slot, Slots

Item = TypeVar("Item")
Item_co = TypeVar("Item_co", covariant=True)

_CONTAINERS: tuple[Iterable[Any], ...] = (
    [], (), range(0), range(1 << 70), {}, {}.keys(), {}.values(), {}.items(),
    set(), frozenset(), deque(), b"", "", "\N{SNOWMAN}",
)  # fmt: skip
_LIE_READY = {kind for one in _CONTAINERS for kind in (type(one), type(iter(one)))}
"""The types whose iteration runs no code of anybody: their items lie ready."""


class Nothing:
    """What is taken where there is no item."""


NOTHING = Nothing()


class Room(Protocol):
    """How many more items may be out."""

    room: int


class Source(Protocol[Item_co]):
    """The items of a map, as its workers know them."""

    exhausted: bool
    complete: bool

    @property
    def any(self) -> bool:
        """Whether there may be an item to take now."""
        ...

    def take(self) -> Item_co | Nothing:
        """Take an item, or ``NOTHING`` if there is none now."""
        ...

    def go_on(self) -> None:
        """Note that there is room for more items."""
        ...


def lie_ready(items: object) -> bool:
    """Return whether the items of an iterable lie ready."""
    return type(items) in _LIE_READY


class Container(Generic[Item]):
    """Items that lie ready."""

    __slots__ = ("_iterator", "_out", "complete", "exhausted")

    def __init__(self, items: Iterable[Item], out: Room) -> None:
        self._iterator = iter(items)
        self._out = out
        self.exhausted = self.complete = False

    @property
    def any(self) -> bool:
        """Whether there may be an item to take now."""
        return self._out.room > 0 and not self.exhausted

    def take(self) -> Item | Nothing:
        """Take an item, or ``NOTHING`` if there is no room for it, and after the last."""
        if self._out.room <= 0:
            return NOTHING
        item = next(self._iterator, NOTHING)
        if item is NOTHING:
            self.exhausted = self.complete = True
        else:
            self._out.room -= 1
        return item

    def go_on(self) -> None:
        """Do nothing: the items wait to be taken."""


class Stepped(Generic[Item]):
    """Items that one task takes from where they come from.

    :param items: what yields them
    :param out: is changed for each item that is taken
    :param on_item: called when an item is ready
    """

    __slots__ = ("_idle", "_items", "_on_item", "_out", "_ready", "complete", "exhausted")

    def __init__(
        self,
        items: Iterable[Item] | AsyncIterable[Item],
        out: Room,
        on_item: Callable[[], object],
    ) -> None:
        self._items = items
        self._out = out
        self._on_item = on_item
        self._ready: deque[Item] = deque()
        self._idle: anyio.Event | None = None
        self.exhausted = self.complete = False

    @property
    def any(self) -> bool:
        """Whether there is an item to take now."""
        return bool(self._ready)

    def take(self) -> Item | Nothing:
        """Take an item, or ``NOTHING`` if none is ready."""
        return self._ready.popleft() if self._ready else NOTHING

    def go_on(self) -> None:
        """Let the task go on, if it waits for room."""
        if self._idle is not None and self._out.room > 0:
            self._idle.set()
            self._idle = None

    async def run(self) -> None:
        """Take items until there are no more, as fast as there is room for them; then close.

        :raises BaseException: what the source raised
        """
        try:
            await self._run()
        except StopAsyncIteration as error:  # a loop over the results would take it for its end
            raise RuntimeError("the source of a map raised StopAsyncIteration") from error

    async def _run(self) -> None:
        source: Any = self._items
        with anyio.CancelScope() as around_all_scopes_of_the_source:
            try:
                if isinstance(source, AsyncIterable):
                    source = aiter(source)
                    await self._step(source)
                else:
                    source = iter(source)
                    await self._step_at_once(source)
            finally:
                self.exhausted = True
                around_all_scopes_of_the_source.shield = True
                await _close(source)
                # An iterator around a generator closes it when nothing refers to it: here and now.
                self._items = ()
                del source

    async def abandon(self) -> None:
        """Close what items would have come from."""
        self.exhausted = True
        with anyio.CancelScope(shield=True):
            await _close(self._items)
        self._items = ()

    async def _step(self, iterator: AsyncIterator[Item]) -> None:
        try:
            while await self._room():
                try:
                    item = await anext(iterator)
                except StopAsyncIteration:
                    self.complete = True
                    return
                self._put(item)
                del item
        finally:
            del iterator

    async def _step_at_once(self, iterator: Iterator[Item]) -> None:
        out = self._out
        try:
            while out.room > 0 or await self._room():
                try:
                    item = next(iterator)
                except StopIteration:
                    self.complete = True
                    return
                self._put(item)
                del item
        finally:
            del iterator

    def _put(self, item: Item) -> None:
        self._out.room -= 1
        self._ready.append(item)
        self._on_item()

    async def _room(self) -> bool:
        """Wait until more items may be out; return ``True``."""
        while self._out.room <= 0:
            self._idle = anyio.Event()
            await self._idle.wait()
        return True


async def _close(source: object) -> None:
    """Close what items came from, as leaving a loop over a generator does."""
    try:
        if isinstance(source, Generator):
            source.close()
        elif isinstance(source, AsyncIterable):
            close = getattr(source, "aclose", None)
            if close is not None:
                await close()
    except BaseExceptionGroup as group:
        # A task group around a "yield" makes a group of the exception that closes a generator.
        rest = split_group(group, GeneratorExit)[1]
        if rest is not None:
            raise_again(rest)
    finally:
        del source


class SourceFrame:
    """What the code of a source runs in: work of a scope that needs no slot.

    So its waits lend nothing of what is around, as those who take the items may be running.
    """

    __slots__ = ("_bounded_by", "_depth", "_inside", "_outer")

    _slot: Slot | None = None

    def __init__(self, scope: Frame, slots: Slots | None) -> None:
        self._outer = scope
        self._bounded_by = slots
        self._depth = 0
        self._inside: set[Frame] = set()

    @property
    def _home(self) -> Home:
        return self._outer._home

    @property
    def _number(self) -> int:
        return self._outer._number
