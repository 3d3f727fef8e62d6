"""What an event is.

An event is frozen, and can be compared, hashed, pickled and matched. Its class has no generated
code, since generating it for all events would take as long as importing the rest of the package.

Besides its fields, an event has two numbers, which relate it to others of its process. Whoever
makes an event of something that lasts passes ``id``, by name; whoever sends it fills in ``parent``.
Numbers come from :func:`new_id`, and only when somebody listens.
"""

from __future__ import annotations

import inspect
import itertools
from typing import Any, ClassVar, dataclass_transform

from gogoscope.events.log import description

new_id = itertools.count(1).__next__
"""Return a number that nothing else in this process has had."""

NUMBERS = ("id", "parent")
"""What an event has besides its fields."""


_NUMBERS = frozenset(NUMBERS)


def _number(*, default: int, kw_only: bool) -> Any:
    """Declare a number of a class of events; it is no field."""
    return default


@dataclass_transform(frozen_default=True, field_specifiers=(_number,))
class _Frozen:
    """A record whose fields are the annotations of its class that have no default, in order."""

    __match_args__: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        own = [name for name in inspect.get_annotations(cls) if name not in cls.__dict__]
        cls.__match_args__ = (*cls.__match_args__, *own)  # type: ignore[misc] # once a class

    def __init__(self, *values: Any, **named: Any) -> None:
        names = self.__match_args__
        if len(values) == len(names) and named.keys() <= _NUMBERS:  # as we make them, and quicker
            self.__dict__.update(zip(names, values, strict=True), **named)
            return
        numbers = {name: named.pop(name) for name in NUMBERS if name in named}
        given = dict(zip(names, values, strict=False))
        repeated = given.keys() & named.keys()
        given.update(named)
        if len(values) > len(names) or repeated or given.keys() != set(names):
            raise TypeError(f"{type(self).__name__} takes {', '.join(names)}, each once")
        self.__dict__.update(given, **numbers)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} cannot be changed")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} cannot be changed")

    def __repr__(self) -> str:
        shown = (*self.__match_args__, *(name for name in NUMBERS if getattr(self, name, 0)))
        fields = ", ".join(f"{name}={description(getattr(self, name))}" for name in shown)
        return f"{type(self).__name__}({fields})"

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self._values() == other._values()

    def __hash__(self) -> int:
        return hash((type(self), *self._values()))

    def _values(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in self.__match_args__)


class Event(_Frozen):
    """Something that happened in the scope named ``scope``.

    ``id`` is the number of what the event tells of: all events of one scope, task, lock (from the
    wait to the release), run, job, load or probe have the same, and nothing else in the process has
    it. It is 0 if nothing that lasts is told of. ``parent`` is the number of what that is inside
    of: of a task, its scope; of a scope, the task, scope or lease around; of everything else, the
    task or the body of a scope in which it happened; 0 outside of all. Both are told by name, and
    do not count when events are compared or hashed, since they differ from run to run.
    """

    scope: str
    id: int = _number(default=0, kw_only=True)
    parent: int = _number(default=0, kw_only=True)
