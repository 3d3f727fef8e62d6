"""Which items of a job are done: all below a watermark, and some beyond it.

Items are known by their position, so they must come in the same order each time. What is kept does
not grow with the number of items, but with how many of them have failed, and with how far apart
they end: two short numbers for each.
"""

from __future__ import annotations

from typing import Any

from gogoscope.exceptions import CorruptRecordError

MOST = 10_000_000
"""So many positions beyond the watermark, or failed, are not read: nobody has kept them."""


class Positions:
    """The positions that are done, and those of them that failed.

    :param state: what :meth:`state` returned, ``None`` for nothing done
    :param retry_failed: whether those that failed are to be done again
    :raises CorruptRecordError: if the state is none of ours
    """

    # _below: every position below it is done, but for those in _again.
    # _beyond: what is done from there on.
    # _failed: what is done and failed.
    # _again: what failed and is to be done again.

    def __init__(self, state: Any = None, *, retry_failed: bool = False) -> None:
        try:
            self._below = 0 if state is None else _position(state["below"])
            self._beyond = set() if state is None else _unpacked(state["beyond"])
            self._failed = set() if state is None else _unpacked(state["failed"])
        except (TypeError, KeyError, ValueError) as error:
            raise CorruptRecordError(f"the state of a job is not of s.resume: {error!r}") from error
        self._again = set(self._failed) if retry_failed else set()

    @property
    def count(self) -> int:
        """How many are done."""
        return self._below + len(self._beyond) - len(self._again)

    def __contains__(self, position: int) -> bool:
        done = position < self._below or position in self._beyond
        return done and position not in self._again

    def add(self, position: int, *, failed: bool) -> None:
        """Note that a position is done."""
        self._again.discard(position)
        self._failed.discard(position)
        if failed:
            self._failed.add(position)
        if position >= self._below:
            self._beyond.add(position)
            while self._below in self._beyond:
                self._beyond.discard(self._below)
                self._below += 1

    def state(self) -> dict[str, Any]:
        """Return what is to be saved."""
        return {
            "below": self._below,
            "beyond": _packed(self._beyond),
            "failed": _packed(self._failed),
        }


def _packed(positions: set[int]) -> list[int]:
    """Return positions as the lengths of what is left out and what is in, in turn."""
    lengths: list[int] = []
    end = 0
    for position in sorted(positions):
        if lengths and position == end:
            lengths[-1] += 1
        else:
            lengths += [position - end, 1]
        end = position + 1
    return lengths


def _unpacked(lengths: Any) -> set[int]:
    if sum(map(_position, lengths[1::2])) > MOST or len(lengths) % 2:
        raise ValueError("so many positions are no work of ours")
    positions: set[int] = set()
    end = 0
    for gap, length in zip(lengths[::2], lengths[1::2], strict=True):
        begin = end + _position(gap)
        end = begin + length
        positions.update(range(begin, end))
    return positions


def _position(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"a position must be an int of 0 or more, got {value!r}")
    return value
