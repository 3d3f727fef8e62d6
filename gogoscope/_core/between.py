"""A block that is two functions: one for its beginning and one for its end.

``contextlib`` makes such a block of a generator, in which it raises what leaves the block. Then it
sets attributes of that exception, which an error of a user may refuse. Here it passes untouched.
"""

from __future__ import annotations

from collections.abc import Callable


class Between:
    """Calls one function where the block begins, and another one where it ends, however it does.

    :param begin: if it raises, the block does not begin
    :param end: raises nothing
    """

    __slots__ = ("_begin", "_end")

    def __init__(self, begin: Callable[[], object], end: Callable[[], object]) -> None:
        self._begin = begin
        self._end = end

    def __enter__(self) -> None:
        self._begin()

    def __exit__(self, *_: object) -> None:
        self._end()
