"""Finds the circuit that a policy works on, inside a scope and outside of any.

Inside a scope the circuit is in the scope's store, and ends with the scope (:class:`Circuits`).
Outside of any scope it is in the default store of the process, and ends with that, if there is one
in this event loop; else it is in the memory store of the process. There is one for each name and
thread, not for each event loop: to find out which event loop runs costs as much as a whole call.
That is safe, since the memory store never suspends; so a circuit that an earlier event loop of the
thread has left is as good as a new one.

Only this process writes to its memory, and each write is noted. So a call through a closed circuit
outside of any scope asks nobody, not even the clock, as long as nothing was written (``recent``).
"""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from weakref import WeakValueDictionary, ref

from gogoscope._core.arguments import encodable
from gogoscope._core.background import Home, ProcessObserver, run_nothing
from gogoscope._core.callables import stable_name
from gogoscope._core.clock import monotonic
from gogoscope._core.context import current
from gogoscope._core.forks import after_fork
from gogoscope._core.groups import run_all
from gogoscope._core.per_store import PerStore
from gogoscope.circuit_breakers.circuit import Circuit, SharedCircuit
from gogoscope.circuit_breakers.policy import CircuitPolicy
from gogoscope.circuit_breakers.sync import Term
from gogoscope.persistence.bundle import provider_of
from gogoscope.persistence.default import default_home, default_home_here, on_change
from gogoscope.persistence.protocols.circuit_breakers import CircuitBreakerStateProvider
from gogoscope.stores.memory import process_store

REMEMBERED = 1024
"""How many unused circuits are remembered, of each store and of each thread."""
MANY = 256
"""How many circuits a scope has before it looks for those that are idle."""
IDLE_SECONDS = 600.0
"""For how long a circuit was not used that a scope forgets."""
SETTLE_SECONDS = 1.0
"""How long the end of a scope waits until everything is sent to the store."""
RECOVERY_SECONDS = 0.05
"""How long it waits for a store that failed, in case it answers again."""


class Circuits:
    """The circuits of one scope; attached to it, and settled at its end.

    There is one for each name, of the policy that was used last: one that is written where it is
    used is another policy each time. What all of them know and have to send is shared. Those that
    are idle are forgotten, so that a long scope does not keep each name that it has ever used.
    """

    # _look_at: how many circuits there are when the idle ones are looked for.

    def __init__(self, home: Home) -> None:
        self._home = home
        self._circuits: dict[str, Circuit] = {}
        self._look_at = MANY
        self._term = Term()
        self._to_finish: list[Circuit] | None = None

    @classmethod
    def of(cls, home: Home) -> Circuits:
        """Return the circuits of a scope."""
        return home.attach(cls, cls)

    def circuit(self, policy: CircuitPolicy, name: str | None = None) -> Circuit:
        """Return the circuit of a policy in the scope's store.

        :param name: the circuit of a policy that has no name; the scope's name if left out
        :raises CapabilityNotSupportedError: if the store keeps no circuit breakers
        """
        name = policy.name or name or encodable(self._home.name)
        circuit = self._circuits.get(name)
        if circuit is None or circuit.policy is not policy:
            provider = _circuit_breakers_of(self._home.store())
            shared = shared_circuit(provider, name)
            spawn, home, term = self._home.spawn, self._home, self._term
            circuit = Circuit(policy, name, provider, shared, spawn, home, term)
            if len(self._circuits) >= self._look_at:
                self._forget_idle()
            self._circuits[name] = circuit
        return circuit

    def _forget_idle(self) -> None:
        """Forget the circuits that are idle, unless a call has one: its end may be to be sent."""
        idle = [name for name, kept in self._circuits.items() if kept.is_idle(IDLE_SECONDS)]
        for name in idle:
            in_use = ref(self._circuits.pop(name))()
            if in_use is not None:
                self._circuits[name] = in_use
        self._look_at = max(MANY, 2 * len(self._circuits))

    def begin_end(self) -> float:
        """Choose the circuits to finish: those whose store does not fail as the end begins.

        One that fails only later may answer again in time.

        :returns: seconds to wait for what the circuits do in the background
        """
        circuits = self._circuits.values()
        self._to_finish = [circuit for circuit in circuits if not circuit.store_failed]
        return SETTLE_SECONDS if self._to_finish or not circuits else RECOVERY_SECONDS

    async def settle(self) -> None:
        """Send what is still to be sent; errors of the store are not raised."""
        if self._to_finish is None:
            self.begin_end()
        to_finish = self._to_finish or []
        self._term.ends = monotonic() + SETTLE_SECONDS
        await run_all([circuit.finish for circuit in to_finish])


class _CircuitsOfThread(threading.local):
    """The circuits that code outside of any scope uses in the current thread, by their names.

    Each is of the policy that was used last.
    """

    def __init__(self) -> None:
        self.circuits: dict[str | None, Circuit] = {}


here = _CircuitsOfThread()
recent: dict[CircuitPolicy, Circuit] = {}
"""The last circuit of each policy that is used again and again, of whatever thread.

As long as nothing is written to a circuit of this process, any thread may go by its snapshot.
"""


def circuit_for(policy: CircuitPolicy, fn: Callable[..., object]) -> Circuit:
    """Return the circuit that guards a function: its policy's, else one named after it.

    :raises RuntimeError: in another event loop than that of the current scope
    """
    frame = current.get()
    name = policy.name or stable_name(fn)
    if frame is None:
        return _outside_of_scopes(policy, name)
    frame._home.check_here()
    return Circuits.of(frame._home).circuit(policy, name)


def circuit_in(policy: CircuitPolicy, store: object) -> Circuit:
    """Return the circuit that a policy names, to look at it or to set it by hand.

    :param store: an open store or a bundle; ``None`` is the store of the current scope, or the
        process-wide one outside of any scope
    :raises ValueError: if the policy has no name, and there is no scope that has one
    :raises RuntimeError: in another event loop than that of the current scope
    """
    frame = current.get()
    name = policy.name or (None if frame is None else encodable(frame._home.name))
    if name is None:
        raise ValueError(
            "this circuit breaker has no name, so nobody can tell which circuit is meant; give it "
            "one: CircuitBreaker(name=...)"
        )
    if store is not None:
        provider = _circuit_breakers_of(store)
        shared = shared_circuit(provider, name)
        return Circuit(policy, name, provider, shared, run_nothing, ProcessObserver())
    if frame is None:
        return _outside_of_scopes(policy, name)
    frame._home.check_here()
    return Circuits.of(frame._home).circuit(policy, name)


class _SharedCircuits:
    """What one event loop knows of the circuits of one store.

    It keeps the circuits in use and those that were used last. So a short scope finds what earlier
    scopes knew, and the circuits of names that are used only once are forgotten.
    """

    def __init__(self) -> None:
        self._in_use: WeakValueDictionary[str, SharedCircuit] = WeakValueDictionary()
        self._last_used: OrderedDict[str, SharedCircuit] = OrderedDict()

    def of(self, name: str) -> SharedCircuit:
        shared = self._in_use.get(name)
        if shared is None:
            self._in_use[name] = shared = SharedCircuit()
        self._last_used[name] = shared
        self._last_used.move_to_end(name)
        if len(self._last_used) > REMEMBERED:
            self._last_used.popitem(last=False)
        return shared


_shared_circuits = PerStore("shared_circuits", _SharedCircuits)


def shared_circuit(store: CircuitBreakerStateProvider, name: str) -> SharedCircuit:
    """Return what the current event loop knows of a circuit.

    It is kept while a scope uses it, and after that until 1,024 other circuits have been used.
    """
    return _shared_circuits.of(store).of(name)


def _outside_of_scopes(policy: CircuitPolicy, name: str) -> Circuit:
    home = default_home_here()
    if home is None:
        return _in_process_store(policy, name)
    return Circuits.of(home).circuit(policy, name)


def _in_process_store(policy: CircuitPolicy, name: str) -> Circuit:
    _forget_after_fork()
    circuit = here.circuits.get(name)
    store = process_store()
    shared = shared_circuit(store, name)
    # An earlier event loop of this thread may have left a circuit that this loop does not share.
    if circuit is None or circuit.policy is not policy or circuit.shared is not shared:
        if len(here.circuits) >= REMEMBERED:
            # Otherwise names that are made for one call would be kept for ever.
            here.circuits.clear()
            recent.clear()
        if circuit is not None:
            recent.pop(circuit.policy, None)
            shared.snapshot.go_on_with(circuit.snapshot)
        observer = ProcessObserver()
        circuit = Circuit(policy, name, store, shared, _run_now, observer, lasting=True)
        here.circuits[name] = circuit
    elif circuit.plain and len(recent) < REMEMBERED and default_home() is None:
        recent[policy] = circuit
    circuit.catch_up()
    return circuit


def _circuit_breakers_of(store: object) -> CircuitBreakerStateProvider:
    provider: CircuitBreakerStateProvider = provider_of("circuit_breakers", store)
    return provider


def _run_now(work: Callable[[], Awaitable[object]], *, brief: bool = True) -> bool:
    """Run at once what runs in the background for other stores: the memory store never suspends.

    Work that is not brief is for stores that may fail, which the memory store never does.
    """
    if not brief:
        return False
    try:
        work().__await__().send(None)
    except StopIteration:
        return True
    raise RuntimeError("the memory store of this process suspended, which it never does")


@functools.cache
def _forget_after_fork() -> None:
    """Make a forked process, which has a store of its own, forget the circuits of its parent."""
    after_fork(_forget_all)


def _forget_all() -> None:
    here.circuits.clear()
    recent.clear()


# With a default store, code outside of any scope may work on another circuit than before.
on_change(recent.clear)
