"""What is often written instead of what works, and errors that say so.

Python's own error for ``err, value = s.task(fn)`` is that a task is not iterable. A class says what
to write with :func:`explains`, out of the sight of type checkers, which find the mistake anyway.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Container, Mapping
from typing import Any, TypeVar

C = TypeVar("C", bound=type)


def explains(*, attributes: Mapping[str, str] | None = None, **methods: str) -> Callable[[C], C]:
    """Return a class decorator that explains what its objects cannot do.

    Each message begins with the ``repr`` of the object. A special method tells others what an
    object can do: only what no library asks for is explained like that.

    :param attributes: attributes that the objects lack, each with the end of the message of the
        ``AttributeError`` for it
    :param methods: special methods that the objects lack, each with the end of the message of the
        ``TypeError`` that calling it raises
    """
    ends = {} if attributes is None else dict(attributes)

    def decorate(explained: C) -> C:
        for name, end in methods.items():
            setattr(explained, name, _refusing(end))
        for name, end in ends.items():
            setattr(explained, name, _Lacking(name, end))
        if ends:
            setattr(explained, "__dir__", _without(ends))  # noqa: B010 - checkers must not see it
        return explained

    return decorate


def open_already(block: object) -> RuntimeError:
    """Return the error for entering a block while it is open: it keeps what it has of one entry."""
    return RuntimeError(f"{block!r} is open already; make one for each 'with'")


def _refusing(end: str) -> Callable[..., Any]:
    def refuse(self: object, *_: object) -> Any:
        raise TypeError(f"{self!r} {end}")

    return refuse


class _Lacking:
    """An attribute that objects lack.

    A ``__getattr__`` would do, but makes every access to any attribute several times as slow.
    """

    __slots__ = ("_end", "_name")

    def __init__(self, name: str, end: str) -> None:
        self._name = name
        self._end = end

    def __get__(self, instance: object, owner: type) -> Any:
        """Raise the error.

        :raises AttributeError: always
        """
        shown = f"{owner.__name__!r}" if instance is None else f"{instance!r}"
        raise AttributeError(
            f"{shown} has no {self._name!r}; {self._end}", name=self._name, obj=instance
        )


def _without(names: Container[str]) -> Callable[[object], list[str]]:
    def names_of(self: object) -> list[str]:
        return [name for name in object.__dir__(self) if name not in names]

    return names_of


def as_one_class(shown: C) -> C:
    """Let Python call the public methods of a class's bases after the class itself.

    They are what its users see in ``missing 1 required positional argument`` and the like. The
    bases belong to that class alone.
    """
    for base in shown.__mro__[1:]:
        for method in vars(base).values():
            if isinstance(method, types.FunctionType) and not method.__name__.startswith("_"):
                method.__qualname__ = f"{shown.__name__}.{method.__name__}"
    return shown
