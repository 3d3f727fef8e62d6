"""Circuit breakers as the public API has them: a policy, and what can be done with its circuit."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from threading import get_ident
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, TypeVarTuple, cast

from attrs import frozen

from gogoscope._core.callables import explain_misuse, is_misuse, told
from gogoscope._core.cancellation import error_of_call
from gogoscope._core.context import current
from gogoscope._core.interrupts import interruptible, uninterrupted
from gogoscope.circuit_breakers.policy import CircuitPolicy
from gogoscope.circuit_breakers.registry import circuit_for, circuit_in, recent
from gogoscope.persistence.records.circuit_breakers import writes

if TYPE_CHECKING:
    from gogoscope.circuit_breakers.circuit import Circuit
    from gogoscope.circuit_breakers.snapshot import Permit
    from gogoscope.circuit_breakers.sync import Request
    from gogoscope.persistence.protocols.circuit_breakers import CircuitBreakerState

T = TypeVar("T")
P = ParamSpec("P")
Ts = TypeVarTuple("Ts")


# A call through a closed circuit uses it; an attribute of a module would cost a lookup.
_scope_here = current.get


@frozen(eq=False)
class CircuitBreaker(CircuitPolicy):
    """Stops calling what keeps failing, in the whole fleet: a frozen policy with a shared state.

    Make one for each dependency, at module level, and pass it to scopes or tasks; or guard a
    function with it by ``@breaker`` or ``await breaker.call(fn, *args)``. The state lives in the
    scope's store under ``name``; outside of any scope it lives in the memory of the process. All
    processes that share the store share the circuit.

    :param name: the name of the circuit; if left out, the name of the scope that uses the policy,
        or of the function that ``call`` or ``@breaker`` guards
    :param failure_threshold: failures that open the circuit: in a row (a success sets the count
        to 0), or within ``window``
    :param reset_timeout: seconds that the circuit stays open before it is half-open
    :param success_threshold: probes that must succeed, while half-open, to close the circuit
    :param window: seconds within which failures count; ``None`` counts failures in a row, and is
        60 seconds for rates
    :param failure_rate: the share of failures that opens the circuit for all processes, more than
        0 and at most 1, among the calls of one process within ``window``; instead of
        ``failure_threshold``
    :param slow_call: seconds after which a call is slow, whether or not it fails
    :param slow_rate: the share of slow calls that opens the circuit, as ``failure_rate`` does
    :param minimum_calls: calls of one process within ``window`` before it judges a rate
    :param half_open_probes: calls admitted at a time, in the whole fleet, while half-open
    :param record: errors that are failures: exception types, or a predicate of the error. A
        timeout of the task or of an attempt always is a failure; a cancellation never is.
    :param ignore: errors that count as nothing, though ``record`` covers them
    :param record_result: a predicate of the value of a call: ``True`` counts the call as a
        failure. The value is still returned. What it, ``record`` or ``ignore`` raises is raised in
        place of the value, or of the error, which is its context; the call counts as nothing.
    :param max_reset_timeout: the longest open time in seconds: each time a probe fails, the open
        time doubles, up to this. ``None`` keeps it at ``reset_timeout``.
    :param quorum: processes that must have reported failures before the circuit opens
    :param refresh_interval: seconds after which a process reads in the background what the others
        have changed
    :param on_state_change: called as ``on_state_change(name, old, new)``
    """

    async def call(self, fn: Callable[[*Ts], Awaitable[T]], /, *args: *Ts) -> T:
        """Call a function through the circuit and return its value.

        Inside a scope the circuit is in the scope's store, otherwise in the default store of the
        process, or in its memory if it has none.
        That the caller is cancelled counts as nothing, so put the timeout of a call that may hang
        inside ``fn``. Neither does a call with arguments that ``fn`` does not take.

        :param fn: an async function, or any that returns an awaitable
        :param args: its positional arguments
        :raises CircuitOpenError: if the circuit is open; ``fn`` is not called
        :raises TypeError: if ``fn`` is no function, or does not take these arguments
        :raises TaskCancelled: if ``fn`` ended with a cancellation that nobody asked for
        :raises Exception: what ``fn`` raised
        """
        circuit = recent.get(self)
        if (
            circuit is not None
            and circuit.seen is writes.last
            and (snapshot := circuit.snapshot).calm
            and _scope_here() is None
        ):
            permit = snapshot.permit
        else:
            circuit = circuit_for(self, fn)
            snapshot = circuit.snapshot
            admitted = circuit.admit_now()
            if admitted is None:
                return await self._call_when_admitted(circuit, fn, args)
            permit = admitted
        awaitable: Any = fn
        try:
            awaitable = fn(*args)
            value: T = await awaitable
        except BaseException as raised:  # noqa: BLE001 - it goes on, or the error that it is
            error = await self._ended(circuit, permit, raised, fn, awaitable)
            try:
                if error is raised:
                    raise
                raise error
            finally:
                del error  # whose traceback has this frame
        if not (snapshot.calm and circuit.plain):
            circuit.returned(permit, value)
            if circuit.left_to_call:
                await circuit.send_left()
        return value

    @uninterrupted
    async def _call_when_admitted(
        self, circuit: Circuit, fn: Callable[[*Ts], Awaitable[T]], args: tuple[*Ts]
    ) -> T:
        """Call a function, perhaps as a probe: nobody else is admitted until its end is known."""
        permit = await circuit.admit()
        awaitable: Any = fn
        try:
            awaitable = fn(*args)
            value: T = await interruptible(awaitable)
        except BaseException as raised:  # noqa: BLE001 - likewise
            error = await self._ended(circuit, permit, raised, fn, awaitable)
            try:
                if error is raised:
                    raise
                raise error
            finally:
                del error  # whose traceback has this frame
        circuit.returned(permit, value)
        if circuit.left_to_call:
            await circuit.send_left()
        return value

    @uninterrupted
    async def _ended(
        self,
        circuit: Circuit,
        permit: Permit,
        raised: BaseException,
        fn: Callable[..., object],
        awaitable: object,
    ) -> BaseException:
        """Note that a call raised something; return what goes on to the caller.

        :raises TypeError: if the function was no async one; says what to write
        """
        error = error_of_call(raised)
        if circuit.thread != get_ident():  # the memory is as that thread has seen it
            circuit, permit = _as_here(circuit, permit, circuit_for(self, fn))
        try:
            if error is None:
                circuit.abandoned(permit)
                return raised
            circuit.raised(permit, error)
            if is_misuse(error):
                explain_misuse(fn, awaitable, _USAGE)
            return error
        finally:
            del error, raised  # whose traceback may get this frame
            if circuit.left_to_call:
                await circuit.send_left()

    def __call__(self, fn: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        """Guard an async function, as ``@breaker``: each call of it goes through :meth:`call`.

        :raises TypeError: if ``fn`` is not an async function
        """
        if not (inspect.iscoroutinefunction(fn) or _has_async_call(fn)):
            raise TypeError(
                f"a circuit breaker guards async functions, got {told(fn)}; for a function that is "
                "not async, guard an async one that calls anyio.to_thread.run_sync(fn, *args)"
            )
        call = cast("Callable[..., Awaitable[T]]", self.call)
        unbound = cast("Callable[..., Awaitable[T]]", fn)

        @functools.wraps(fn)
        async def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
            return await call(functools.partial(unbound, **kwargs) if kwargs else unbound, *args)

        return guarded

    async def state(self, store: object = None) -> CircuitBreakerState:
        """Return the circuit's state from the store, in one read.

        :param store: an open store, or a bundle of stores; if left out, the store of the current
            scope, or the memory of the process outside of any scope
        :raises PersistenceError: if the store fails
        """
        return await self._by_hand(store, "get_state")

    async def force_open(self, store: object = None) -> CircuitBreakerState:
        """Reject every call, in the whole fleet, until :meth:`force_close`; return the new state.

        Other processes follow within their ``refresh_interval``. The parameters are those of
        :meth:`state`.
        """
        return await self._by_hand(store, "force_open")

    async def force_close(self, store: object = None) -> CircuitBreakerState:
        """Close the circuit, even if it is forced open, and clear its count; return the new state.

        It opens again if calls fail. The parameters are those of :meth:`state`.
        """
        return await self._by_hand(store, "force_close")

    async def reset(self, store: object = None) -> CircuitBreakerState:
        """Forget what happened: close the circuit unless it is forced open; return the new state.

        The parameters are those of :meth:`state`.
        """
        return await self._by_hand(store, "reset_circuit")

    async def _by_hand(self, store: object, request: Request) -> CircuitBreakerState:
        return await circuit_in(self, store).sync.ask(request)


def _has_async_call(fn: object) -> bool:
    return inspect.iscoroutinefunction(getattr(fn, "__call__", None))  # noqa: B004 - how, not if


def _as_here(circuit: Circuit, permit: Permit, own: Circuit) -> tuple[Circuit, Permit]:
    """Return this thread's own circuit and permit for a call that another thread's admitted."""
    current = permit.generation is circuit.snapshot.permit.generation
    return own, own.snapshot.permit if current else permit


_USAGE = "breaker.call({}, *args)"
