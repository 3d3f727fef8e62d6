"""Making the circuit of a policy for the place where it is used."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Awaitable, Callable

from gogoscope.circuit import Circuit
from gogoscope.circuit_home import here
from gogoscope.circuit_link import CircuitLink
from gogoscope.circuit_policy import CircuitPolicy
from gogoscope.circuit_snapshot import snapshot_of
from gogoscope.events import Event
from gogoscope.observers import notify, subscribers
from gogoscope.persistence.bundle import Persistence, unsupported
from gogoscope.task import Task, callable_name, current

REMEMBERED = 1024


class ProcessHost:
    """The process as a user of circuits, outside of any scope."""

    name = ""

    @property
    def observed(self) -> bool:
        """Whether anybody listens to the whole process."""
        return bool(subscribers)

    def emit(self, event: Event) -> None:
        """Send an event to those who listen to the whole process."""
        for subscriber in list(subscribers):
            notify(subscriber, event)


def circuit_for(policy: CircuitPolicy, fn: Callable[..., object]) -> Circuit:
    """Give the circuit that guards a function: its policy's, else one named after the function."""
    innermost = current.get()
    if innermost is not None:
        scope = innermost.scope if isinstance(innermost, Task) else innermost
        return scope.nets.circuit(policy, policy.name or _name_of(fn))
    return _in_process_store(policy, policy.name or _name_of(fn))


def circuit_in(policy: CircuitPolicy, store: object) -> Circuit:
    """Give the circuit that a policy names, for looking at it and for setting it by hand.

    :param store: an open store or a bundle; if ``None`` that of the scope around, else the
        process-wide one
    :raises ValueError: if the policy has no name, and there is no scope that gives it one
    """
    innermost = current.get()
    scope = innermost.scope if isinstance(innermost, Task) else innermost
    name = policy.name or (None if scope is None else scope.name)
    if name is None:
        raise ValueError(
            "this circuit breaker has no name, so nobody can tell which circuit is meant; give it "
            "one: CircuitBreaker(name=...)"
        )
    if store is not None:
        provider = Persistence.of(store).circuit_breakers
        if provider is None:
            raise unsupported("circuit_breakers", store)
        snapshot = snapshot_of(provider, name)
        return Circuit(CircuitLink(policy, name, provider, snapshot, _leave_out, ProcessHost()))
    if scope is not None:
        return scope.nets.circuit(policy, name)
    return _in_process_store(policy, name)


def _in_process_store(policy: CircuitPolicy, name: str) -> Circuit:
    from gogoscope.persistence.memory import process_store  # noqa: PLC0415 - a backend

    _forget_after_fork()
    key = policy if policy.name is not None else (policy, name)
    circuit = here.circuits.get(key)
    store = process_store()
    # Another event loop of this thread has its own, which the scopes of that loop share.
    if circuit is None or circuit.snapshot is not snapshot_of(store, name):
        if len(here.circuits) >= REMEMBERED:
            # Policies that are made for a single call would be kept for ever.
            here.circuits.clear()
        link = CircuitLink(policy, name, store, snapshot_of(store, name), _run_now, ProcessHost())
        circuit = here.circuits[key] = Circuit(link, lasting=True)
    return circuit


def _run_now(work: Callable[[], Awaitable[None]], *, brief: bool = True) -> bool:
    """Do at once what other stores do in the background: the memory store never suspends.

    What is not brief is for stores that fail, which it never does either.
    """
    if not brief:
        return False
    try:
        work().__await__().send(None)
    except StopIteration:
        return True
    raise RuntimeError("the memory store of this process suspended, which it never does")


def _leave_out(work: Callable[[], Awaitable[None]], *, brief: bool = True) -> bool:
    """Do no background work, for setting a circuit by hand, which has none."""
    return False


@functools.cache
def _forget_after_fork() -> None:
    """Let a forked process, which has a store of its own, not use the circuits of its parent."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_forget_all)


def _forget_all() -> None:
    here.circuits.clear()


def _name_of(fn: Callable[..., object]) -> str:
    """Give the same name for a function in every process."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    named = fn if inspect.isroutine(fn) else type(fn)
    return f"{named.__module__}.{callable_name(fn)}"
