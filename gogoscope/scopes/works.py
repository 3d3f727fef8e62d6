"""What runs in a block: tasks, the workers of maps, and the blocks of scopes inside.

``running`` is all that runs. ``_offers`` is work whose results somebody has yet to take: it may
have ended by itself, or may end only when they are taken; ``_maps`` are those that run, wanted or
not. ``_stopping`` is the work in which somebody stops the block, and which cannot end before that
does. ``_idle`` wakes those who wait until nothing else runs: the block's end, and who stops it;
``awaited`` tells that somebody may wait.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

import anyio

from gogoscope._core.launches import Launched, Launches, unbegun


class Work(Protocol):
    """Something that runs in a block."""

    def _stop(self) -> None:
        """Cancel it."""
        ...


class Offer(Work, Launches, Protocol):
    """Work that ends only when somebody takes its results, or it is closed."""

    def _close(self) -> None:
        """Cancel it, since nobody takes its results any more."""
        ...


class Works:
    """All work of one block."""

    __slots__ = ("_idle", "_maps", "_offers", "_stopping", "awaited", "running")

    def __init__(self) -> None:
        self.running: set[Work] = set()
        self._maps: set[Offer] = set()
        self._offers: set[Offer] = set()
        self._stopping: Counter[Work] = Counter()
        self._idle: anyio.Event | None = None
        self.awaited = False

    def __iter__(self) -> Iterator[Work]:
        return iter(self.running)

    def __len__(self) -> int:
        return len(self.running)

    def offer(self, offer: Offer) -> None:
        """Note that work has begun whose results somebody has to take."""
        self.running.add(offer)
        self._maps.add(offer)
        self._offers.add(offer)

    def map_ended(self, offer: Offer) -> None:
        """Note that nothing of a map runs any more."""
        self._maps.discard(offer)
        self.ended(offer)

    def taken(self, offer: Offer) -> None:
        """Note that nobody has to take from an offer any more."""
        self._offers.discard(offer)

    def ended(self, work: Work) -> None:
        """Note that nothing of some work runs any more."""
        self.running.discard(work)
        if self.awaited:
            self.wake_if_idle()

    def stop(self) -> None:
        """Cancel everything."""
        for work in list(self.running):
            work._stop()

    def unbegun(self, *others: Launches) -> list[Launched]:
        """Return the tasks of asyncio that have not begun, or never will."""
        return unbegun([*others, *self._maps])

    def close_offers(self, beside: Collection[Work]) -> bool:
        """Close the offers if nothing runs that could take from them.

        :param beside: works that go on
        :returns: whether nothing else runs any more
        """
        others = self.running.difference(beside)
        if others <= self._offers:
            for offer in list(self._offers):
                offer._close()
            return self.running.issubset(beside)
        return False

    @contextmanager
    def stopped_by(self, works: Iterable[Work]) -> Iterator[None]:
        """Note, while the block runs, that it is some works that wait for all others to end."""
        callers = Counter(works)
        self._stopping.update(callers)
        self.wake_if_idle()
        try:
            yield
        finally:
            self._stopping -= callers

    def is_idle(self) -> bool:
        """Return whether nothing runs that could take from an offer, or end."""
        return self.running - self._stopping.keys() <= self._offers

    def idle(self) -> anyio.Event:
        """Return an event that is set when nothing runs that could take from an offer, or end."""
        if self._idle is None or self._idle.is_set():
            self._idle = anyio.Event()
            self.awaited = True
        return self._idle

    def wake_if_idle(self) -> None:
        """Wake those who wait until nothing runs, if that is so."""
        # At the end of each task: the sets are not touched while more runs than they hold.
        if len(self.running) > len(self._offers) + len(self._stopping):
            return
        if self._idle is not None and self.is_idle():
            self._idle.set()
