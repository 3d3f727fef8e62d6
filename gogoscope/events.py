"""What a scope tells its observer: frozen events."""

from __future__ import annotations

from attrs import frozen


@frozen
class Event:
    """Something that happened in the scope named ``scope``."""

    scope: str


@frozen
class ErrorUnseen(Event):
    """Another exception left the scope, so the error of ``task``, unseen, is not raised."""

    error: Exception


@frozen
class CircuitStateChanged(Event):
    """A circuit breaker went from ``old`` to ``new`` as far as this process knows."""

    circuit: str
    old: str
    new: str


@frozen
class CircuitStoreFailed(Event):
    """The store of a circuit breaker failed; a local breaker guards until it is back."""

    circuit: str
    error: Exception


@frozen
class CircuitStoreRecovered(Event):
    """The store of a circuit breaker answers again."""

    circuit: str


@frozen
class LeaseLost(Event):
    """The lease of a lock was lost while its block ran."""

    key: str
    reason: str
