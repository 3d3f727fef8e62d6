"""A circuit at work: decides from memory, tells the store in the background.

A process keeps a snapshot of each circuit and changes it by the same rules as the store. A call
through a closed circuit looks only at the snapshot. Everything that the store must know is noted
here and sent by :meth:`Circuit.flush`; its replies, and a refresh every ``refresh_interval``,
replace the snapshot. So while the store fails, the snapshot alone is a local circuit breaker.
"""

from __future__ import annotations

import math
import os
from collections.abc import Awaitable, Callable

import anyio

from gogoscope.circuit_breaker import CircuitBreaker
from gogoscope.circuit_snapshot import Permit, Snapshot
from gogoscope.clock import monotonic, wall_time
from gogoscope.events import (
    CircuitStateChanged,
    CircuitStoreFailed,
    CircuitStoreRecovered,
    Event,
)
from gogoscope.exceptions import CircuitOpenError, PersistenceError
from gogoscope.observers import log_warning, notify
from gogoscope.persistence import circuit_rules
from gogoscope.persistence.protocols import (
    CircuitBreakerState,
    CircuitBreakerStateProvider,
    FailureReport,
)

FIRST_READ_SECONDS = 0.5
STORE_SECONDS = 1.0
SHORTEST_PROBE_LEASE = 1.0
RESETS_PER_SUCCESS = 3


class Circuit:
    """One policy at work on one circuit of one store, for one scope."""

    __slots__ = ("_emit", "_scope", "_snapshot", "_spawn", "_store", "name", "policy")

    def __init__(
        self,
        policy: CircuitBreaker,
        name: str,
        store: CircuitBreakerStateProvider,
        snapshot: Snapshot,
        spawn: Callable[[Callable[[], Awaitable[None]]], None],
        emit: Callable[[Event], None],
        scope: str,
    ) -> None:
        self.name = name
        self.policy = policy
        self._store = store
        self._snapshot = snapshot
        self._spawn = spawn
        self._emit = emit
        self._scope = scope

    def admit_now(self) -> Permit | None:
        """Let a call through a closed circuit; ``None`` if that needs :meth:`admit`."""
        snapshot = self._snapshot
        if monotonic() - snapshot.asked_at >= self.policy.refresh_interval:
            if snapshot.asked_at == -math.inf:
                return None
            self._look_again()
        return snapshot.permit if snapshot.state.state == "closed" else None

    async def admit(self, longest_call: float = 0.0) -> Permit:
        """Let a call through, as a half-open probe if need be.

        :param longest_call: seconds that the call may take, if that is known
        :raises CircuitOpenError: if it must not be made
        """
        while self._snapshot.asked_at == -math.inf:
            await self._read_first()
        permit = self.admit_now()
        if permit is not None:
            return permit
        self._reject_unless_probing()
        return await self._claim_probe(longest_call)

    def succeeded(self, permit: Permit) -> None:
        """Note that a call gave a value."""
        snapshot = self._snapshot
        if permit.probe is not None:
            self._settle(permit.probe, succeeded=True)
        elif (
            snapshot.state.failure_count
            and permit is snapshot.permit
            and self.policy.window is None
        ):
            snapshot.unsent = 0
            snapshot.succeeded_ms = _now_ms()
            self._change(circuit_rules.reset_failures(snapshot.state, snapshot.succeeded_ms))
            self._send_soon()

    def raised(self, permit: Permit, error: Exception) -> None:
        """Note that a call raised an error; the policy says whether that is a failure."""
        if self.policy.counts(error):
            self.failed(permit)
        else:
            self.abandoned(permit)

    def failed(self, permit: Permit) -> None:
        """Note that a call failed. A call that began before the circuit changed is too late."""
        snapshot = self._snapshot
        if permit.probe is not None:
            self._settle(permit.probe, succeeded=False)
        elif permit is snapshot.permit:
            snapshot.unsent += 1
            self._change(self._counted(snapshot.state, 1))
            self._send_soon()

    def abandoned(self, permit: Permit) -> None:
        """Note that a call says nothing of what was called; a probe gives its turn back."""
        if permit.probe is not None:
            self._settle(permit.probe, succeeded=None)

    @property
    def store_failed(self) -> bool:
        """Whether the store failed when it was last asked."""
        return self._snapshot.store_failed

    async def flush(self) -> None:
        """Tell the store what it does not know; never raises for a store that fails.

        Shielded from cancellation and bounded, so that it may be called from where a task ends.
        """
        snapshot = self._snapshot
        while snapshot.dirty:
            if snapshot.sending is not None:
                with anyio.move_on_after(STORE_SECONDS, shield=True) as patience:
                    await snapshot.sending.wait()
                if patience.cancelled_caught:
                    return
                if snapshot.store_failed:
                    return
                continue
            sent = snapshot.sending = anyio.Event()
            try:
                with anyio.fail_after(STORE_SECONDS, shield=True):
                    await self._send()
            except Exception as error:  # noqa: BLE001 - no store error reaches a protected call
                self._store_failed(error)
                return
            finally:
                sent.set()
                snapshot.sending = None

    async def refresh(self) -> None:
        """Look at what the store knows; never raises for a store that fails."""
        try:
            with anyio.fail_after(STORE_SECONDS):
                state = await self._store.get_state(self.name)
        except Exception as error:  # noqa: BLE001 - no store error reaches a protected call
            self._store_failed(error)
            return
        self._store_answered()
        if not self._snapshot.dirty and self._snapshot.sending is None:
            self._learn(state or CircuitBreakerState(version=self._snapshot.stored.version))
        await self.flush()

    def _look_again(self) -> None:
        self._snapshot.asked_at = monotonic()
        self._spawn(self.refresh)

    def _send_soon(self) -> None:
        if self._snapshot.sending is None and not self._snapshot.store_failed:
            self._spawn(self.flush)

    async def _read_first(self) -> None:
        snapshot = self._snapshot
        if snapshot.first_read is not None:
            await snapshot.first_read.wait()
            return
        read = snapshot.first_read = anyio.Event()
        try:
            with anyio.fail_after(FIRST_READ_SECONDS):
                state = await self._store.get_state(self.name)
            if state is not None:
                self._learn(state)
        except Exception as error:  # noqa: BLE001 - no store error reaches a protected call
            self._store_failed(error)
        finally:
            read.set()
            snapshot.first_read = None
        snapshot.asked_at = monotonic()

    def _reject_unless_probing(self) -> None:
        """Raise if a probe would be refused by what is known here, which needs no request."""
        snapshot = self._snapshot
        state = snapshot.state
        now_ms = _now_ms()
        if state.state == "forced-open":
            raise CircuitOpenError(self.name, self.policy.refresh_interval)
        if state.state == "open" and (state.open_until_ms or 0) > now_ms:
            raise CircuitOpenError(self.name, ((state.open_until_ms or 0) - now_ms) / 1000)
        limit = self.policy.half_open_probes
        _, reply = circuit_rules.claim_probe(state, "", 1, limit, now_ms)
        if snapshot.claims >= limit or not reply.granted:
            raise CircuitOpenError(self.name, self._until_probes_end(state, now_ms))

    async def _claim_probe(self, longest_call: float) -> Permit:
        snapshot = self._snapshot
        nonce = os.urandom(8).hex()
        lease = max(SHORTEST_PROBE_LEASE, self.policy.reset_timeout, longest_call + 1)
        lease_ms = math.ceil(lease * 1000)
        limit = self.policy.half_open_probes
        snapshot.claims += 1
        try:
            with anyio.fail_after(STORE_SECONDS):
                reply = await self._store.claim_probe(self.name, nonce, lease_ms, limit)
        except Exception as error:  # noqa: BLE001 - no store error reaches a protected call
            self._store_failed(error)
            _, reply = circuit_rules.claim_probe(snapshot.state, nonce, lease_ms, limit, _now_ms())
            if reply.granted:
                self._change(reply.state)
            else:
                self._note_verdict(nonce, succeeded=None)
        except BaseException:
            self._note_verdict(nonce, succeeded=None)
            raise
        else:
            self._store_answered()
            self._learn(reply.state)
        finally:
            snapshot.claims -= 1
        if reply.granted:
            return Permit(nonce)
        if reply.state.state == "closed":
            return snapshot.permit
        raise CircuitOpenError(self.name, self._until_probes_end(reply.state, _now_ms()))

    def _until_probes_end(self, state: CircuitBreakerState, now_ms: int) -> float:
        ends = [*state.probes.values(), state.open_until_ms or 0]
        later = [end - now_ms for end in ends if end > now_ms]
        return min(later) / 1000 if later else self.policy.refresh_interval

    def _settle(self, nonce: str, *, succeeded: bool | None) -> None:
        snapshot = self._snapshot
        if succeeded is None:
            after = circuit_rules.return_probe(snapshot.state, nonce)
        else:
            after, _ = circuit_rules.settle_probe(
                snapshot.state,
                nonce,
                succeeded=succeeded,
                success_threshold=self.policy.success_threshold,
                open_ms=self._open_ms(),
                now_ms=_now_ms(),
            )
        self._note_verdict(nonce, succeeded=succeeded)
        if after is not None:
            self._change(after)
            if after.state == "closed":
                snapshot.succeeded_ms = _now_ms()

    def _note_verdict(self, nonce: str, *, succeeded: bool | None) -> None:
        self._snapshot.verdicts.append((nonce, succeeded, self._open_ms()))
        self._send_soon()

    async def _send(self) -> None:
        """Send one of the things that the store does not know, the oldest kind first."""
        snapshot = self._snapshot
        if snapshot.verdicts:
            nonce, succeeded, open_ms = snapshot.verdicts.popleft()
            if succeeded is None:
                await self._store.return_probe(self.name, nonce)
                state = await self._store.get_state(self.name)
            else:
                state = await self._store.settle_probe(
                    self.name,
                    nonce,
                    succeeded=succeeded,
                    success_threshold=self.policy.success_threshold,
                    open_ms=open_ms,
                )
        elif snapshot.succeeded_ms is not None:
            state = await self._send_reset(snapshot.succeeded_ms)
        else:
            state = await self._send_failures()
        self._store_answered()
        if state is None:
            state = await self._store.get_state(self.name)
        if state is not None:
            self._learn(state)

    async def _send_reset(self, succeeded_ms: int) -> CircuitBreakerState:
        """Clear the failures that came before a success.

        Another process may count one meanwhile: it is cleared, too, unless it came later.
        """
        snapshot = self._snapshot
        state = snapshot.stored
        for _ in range(RESETS_PER_SUCCESS):
            if not _failed_before(state, succeeded_ms):
                break
            reset = await self._store.reset_failures(self.name, state.version)
            if reset is not None:
                state = reset
                break
            state = await self._store.get_state(self.name) or CircuitBreakerState()
        if snapshot.succeeded_ms == succeeded_ms:
            snapshot.succeeded_ms = None
        return state

    async def _send_failures(self) -> CircuitBreakerState:
        snapshot = self._snapshot
        count, snapshot.unsent = snapshot.unsent, 0
        try:
            return await self._store.count_failures(
                self.name, self._report(count, snapshot.stored.open_count)
            )
        except PersistenceError as error:
            if error.retryable and not isinstance(error, TimeoutError):
                snapshot.unsent = min(snapshot.unsent + count, self.policy.failure_threshold)
            raise

    def _report(self, count: int, open_count: int) -> FailureReport:
        return FailureReport(
            reporter=self._snapshot.reporter,
            count=count,
            threshold=self.policy.failure_threshold,
            open_ms=self.policy.open_ms(open_count),
            window_ms=self.policy.window_ms(),
            quorum=self.policy.quorum,
        )

    def _open_ms(self) -> int:
        return self.policy.open_ms(self._snapshot.state.open_count)

    def _counted(self, state: CircuitBreakerState, count: int) -> CircuitBreakerState:
        return circuit_rules.count_failures(state, self._report(count, state.open_count), _now_ms())

    def _learn(self, stored: CircuitBreakerState) -> None:
        """Take over what the store showed, unless something newer was seen, and add our own."""
        snapshot = self._snapshot
        if stored.version < snapshot.stored.version:
            return
        snapshot.stored = stored
        state = stored
        if snapshot.succeeded_ms is not None and state.state == "closed":
            state = circuit_rules.reset_failures(state, _now_ms())
        if snapshot.unsent:
            state = self._counted(state, snapshot.unsent)
        if not snapshot.verdicts:
            self._change(state)

    def _change(self, state: CircuitBreakerState) -> None:
        snapshot = self._snapshot
        old, snapshot.state = snapshot.state.state, state
        if state.state != old:
            snapshot.permit = Permit()
            if state.state == "closed":
                snapshot.unsent = 0
            self._emit(CircuitStateChanged(self._scope, self.name, old, state.state))
            notify(self.policy.on_state_change, self.name, old, state.state)

    def _store_failed(self, error: Exception) -> None:
        if not self._snapshot.store_failed:
            self._snapshot.store_failed = True
            log_warning(
                "the store of circuit %r failed; guarding it locally", self.name, error=error
            )
            self._emit(CircuitStoreFailed(self._scope, self.name, error))

    def _store_answered(self) -> None:
        if self._snapshot.store_failed:
            self._snapshot.store_failed = False
            log_warning("the store of circuit %r answers again", self.name)
            self._emit(CircuitStoreRecovered(self._scope, self.name))


def _failed_before(state: CircuitBreakerState, time_ms: int) -> bool:
    return (
        state.state == "closed"
        and state.failure_count > 0
        and (state.last_failure_ms or 0) <= time_ms
    )


def _now_ms() -> int:
    return math.floor(wall_time() * 1000)
