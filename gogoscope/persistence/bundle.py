"""The capabilities that a store may have, and mixing stores: one for each capability.

A capability is a field of :class:`Persistence`: its name is the capability's name, and its type the
Protocol. That is the only list of them. Whatever else goes through all capabilities asks
:func:`capabilities`: which of them a store has, what the conformance kit tests, what a store that a
test unplugs stands for.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, cast, get_args, get_type_hints

from attrs import field, fields, frozen

from gogoscope.exceptions import CapabilityNotSupportedError
from gogoscope.persistence.protocols.cache import CacheProvider
from gogoscope.persistence.protocols.circuit_breakers import CircuitBreakerStateProvider
from gogoscope.persistence.protocols.jobs import JobProvider
from gogoscope.persistence.protocols.locks import LockProvider
from gogoscope.persistence.protocols.permits import PermitProvider
from gogoscope.persistence.protocols.rate_limits import RateLimitProvider
from gogoscope.persistence.protocols.runs import RunProvider
from gogoscope.persistence.protocols.schedules import ScheduleProvider

P = TypeVar("P")


def _tuple(values: Iterable[object]) -> tuple[object, ...]:
    return tuple(values)


@frozen
class Persistence:
    """A store for each capability; a scope may use several stores at once.

    :param locks: keeps locks
    :param circuit_breakers: keeps the state of circuit breakers
    :param cache: keeps cached values
    :param runs: keeps what is to be run once
    :param jobs: keeps how far jobs have come
    :param permits: keeps the holders of semaphores and read/write locks
    :param rate_limits: keeps what of each rate is used up
    :param schedules: keeps which ticks of schedules have been started
    :param others: stores of capabilities that others have written; see :meth:`capability`
    """

    locks: LockProvider | None = None
    circuit_breakers: CircuitBreakerStateProvider | None = None
    cache: CacheProvider | None = None
    runs: RunProvider | None = None
    jobs: JobProvider | None = None
    permits: PermitProvider | None = None
    rate_limits: RateLimitProvider | None = None
    schedules: ScheduleProvider | None = None
    others: tuple[object, ...] = field(default=(), converter=_tuple, kw_only=True)
    _made_of: object = field(default=None, eq=False, repr=False, kw_only=True, alias="_made_of")

    @classmethod
    def of(cls, store: object) -> Persistence:
        """Return the capabilities of any store object, itself a bundle or not.

        :raises TypeError: if it has none
        """
        if isinstance(store, Persistence):
            return store
        parts: dict[str, Any] = {
            name: store for name, protocol in capabilities().items() if isinstance(store, protocol)
        }
        if not parts:
            if hasattr(store, "__aenter__"):
                raise TypeError(
                    f"persistence must be an open store, got {store!r}; enter it first: "
                    "async with open_persistence(url) as store"
                )
            raise TypeError(
                "persistence must be a URL, a store, or a Persistence bundle of stores, "
                f"got {store!r} of type {type(store).__name__}"
            )
        return cls(**parts, _made_of=store)

    def capability(self, protocol: Callable[..., P]) -> P:
        """Return the first store of the bundle that has a capability.

        :param protocol: a Protocol that is ``runtime_checkable``, or a class
        :raises CapabilityNotSupportedError: if no store has it
        """
        own = [getattr(self, name) for name in capabilities()]
        return first_of([self._made_of, *own, *self.others], protocol, self)


@functools.cache
def capabilities() -> Mapping[str, Any]:
    """Return the Protocol of each capability by its name."""
    hints = get_type_hints(Persistence)
    own = (part.name for part in fields(Persistence))
    return {name: get_args(hints[name])[0] for name in own if type(None) in get_args(hints[name])}


def first_of(stores: Iterable[object], protocol: Callable[..., P], asked: object) -> P:
    """Return the first store that has a capability.

    :param asked: what was asked for it, for the error
    :raises TypeError: if the Protocol is no class
    :raises CapabilityNotSupportedError: if no store has it
    """
    if not isinstance(protocol, type):
        raise TypeError(
            f"protocol must be a Protocol or a class, got {protocol!r} of type "
            f"{type(protocol).__name__}"
        )
    for store in stores:
        if isinstance(store, protocol):
            return cast("P", store)
    raise unsupported(protocol.__name__, asked)


def provider_of(capability: str, store: object) -> Any:
    """Return the part of a store, or of a bundle of stores, that has a capability.

    :raises CapabilityNotSupportedError: if none has
    """
    provider = getattr(Persistence.of(store), capability)
    if provider is None:
        raise unsupported(capability, store)
    return provider


def unsupported(capability: str, store: object) -> CapabilityNotSupportedError:
    """Return the error for a capability that a store lacks."""
    if isinstance(store, Persistence) and store._made_of is not None:
        store = store._made_of
    return CapabilityNotSupportedError(capability, type(store).__name__)
