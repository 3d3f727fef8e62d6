"""What is often written instead of what works, and errors that say so.

Python's own error for ``err, value = s.task(fn)`` is that a task is not iterable. A class says what
to write with :func:`explains`, out of the sight of type checkers, which find the mistake anyway.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

C = TypeVar("C", bound=type)


def explains(attributes: tuple[str, ...] = (), hint: str = "", **methods: str) -> Callable[[C], C]:
    """Return a class decorator that explains what its objects cannot do.

    Each message begins with the ``repr`` of the object.

    :param attributes: attributes that the objects lack
    :param hint: ends the message of the ``AttributeError`` for one of these
    :param methods: special methods that the objects lack, each with the end of the message of the
        ``TypeError`` that calling it raises
    """

    def decorate(explained: C) -> C:
        for name, end in methods.items():
            setattr(explained, name, _refusing(end))
        if attributes:
            explained.__getattr__ = _lacking(frozenset(attributes), hint)  # type: ignore[attr-defined]
        return explained

    return decorate


def _refusing(end: str) -> Callable[..., Any]:
    def refuse(self: object, *_: object) -> Any:
        raise TypeError(f"{self!r} {end}")

    return refuse


def _lacking(names: frozenset[str], end: str) -> Callable[[object, str], Any]:
    def lack(self: object, name: str) -> Any:
        if name in names:
            raise AttributeError(f"{self!r} has no {name!r}; {end}", name=name, obj=self)
        raise AttributeError(
            f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self
        )

    return lack
