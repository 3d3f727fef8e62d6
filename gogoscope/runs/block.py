"""The block of a run: it runs if nobody has, and keeps what came of it at its end.

The end is one of three. Without an error, or with one that is to be kept, the verdict is written,
shielded, as often as it takes within a bound. After any other error, and when cancelled, be it by
its own scope alone, the run is abandoned, and the next caller runs. After the loss of the lease
nothing is written: whoever took over has the run, and what was computed here is returned to nobody.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Protocol, TypeVar

import anyio

from gogoscope._core.background import Home
from gogoscope._core.clock import monotonic
from gogoscope._core.context import current
from gogoscope._core.errors import is_a
from gogoscope._core.hints import explains
from gogoscope.events import (
    Event,
    RunAbandoned,
    RunCompleted,
    RunFound,
    RunStarted,
    log_warning,
)
from gogoscope.exceptions import (
    LeaseLostError,
    RecordTooLargeError,
    ResultNotKeptError,
    RunError,
    TaskCancelled,
)
from gogoscope.locks.lease_block import Held, LeaseBlock
from gogoscope.persistence.asking import ask
from gogoscope.persistence.insisting import until_answered
from gogoscope.persistence.lock_handle import LockHandle
from gogoscope.persistence.run_records import RunRecord, Verdict
from gogoscope.persistence.stored import corrupt_record
from gogoscope.runs.claims import check_payload, lines, runs_of
from gogoscope.runs.local import LocalVerdicts
from gogoscope.runs.once import Once, error_of_text, text_of_error
from gogoscope.runs.run import RunPart
from gogoscope.runs.transactions import RunInTransaction


class InRun(Held, Protocol):
    """What runs inside the block of a run: a scope."""

    @property
    def done(self) -> bool:
        """Whether the run was done before."""
        ...

    @property
    def result(self) -> Any:
        """What it returned then, or what it is completed with."""
        ...

    def complete(self, value: Any) -> None:
        """Say what the run is to return."""
        ...


R = TypeVar("R", bound=InRun)
T = TypeVar("T")
OpenRun = Callable[[Once, LockHandle | None, Any, int, RunInTransaction | None], R]
"""Returns what runs in the block, of what was asked for, the lease, the result, and the token.

The last one is how a transaction of the caller's completes it; none without a lease.
"""


@explains(
    attributes=dict.fromkeys(
        ("complete", "done", "ensure", "fencing_token", "result", "task"),
        "enter it first: async with s.claim(key, keep=...) as run",
    )
)
class RunBlock(LeaseBlock[R]):
    """Begins a run and keeps what comes of it, or returns what came of it; made by ``s.claim``.

    :param home: the scope that the block stands in
    :param open_run: returns what runs in the block
    :param once: what is asked for
    """

    def __init__(self, home: Home, open_run: OpenRun[R], once: Once) -> None:
        super().__init__(home, self._open, once.key)
        self._open_run = open_run
        self._once = once
        self._done: R | None = None

    async def _enter(self) -> R:
        self._done = None
        self._provider = runs_of(self._home)
        self._arrived = anyio.current_time()
        self._refuse_itself()
        self._local = LocalVerdicts(self._once.local, self._provider)
        found: RunRecord | LockHandle | None = self._local.find(self.key)
        if isinstance(found, RunRecord):
            check_payload(found, self._once)
        else:
            self._line = lines.of(self._provider, self.key)
            found = await self._line.begin(self._home, self._provider, self._once)
        if isinstance(found, RunRecord):
            self._locked = self._done = self._open_run(
                self._once, None, self._value_of(found), found.lease.fencing_token, None
            )
            await self._done.__aenter__()
            if self._home.observed:
                self._home.emit(RunFound(self._home.name, self.key))
            return self._done
        self._begun = found
        return await super()._enter()

    async def _leave(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        if self._done is not None:
            return await self._done.__aexit__(exc_type, exc, traceback)
        return await super()._leave(exc_type, exc, traceback)

    async def _take(self) -> LockHandle:
        return self._begun

    def _open(self, handle: LockHandle) -> R:
        self._tell(RunStarted, handle.fencing_token, anyio.current_time() - self._arrived)
        self._transaction = RunInTransaction(self._provider, self._once, handle, self._renewal)
        return self._open_run(self._once, handle, None, handle.fencing_token, self._transaction)

    def _loss(self) -> LeaseLostError | None:
        # A transaction of the caller's may have completed the run before its lease was over.
        return None if self._transaction.begun else super()._loss()

    async def _give_up(self, leaving: BaseException | None) -> None:
        keeps = is_a(leaving, Exception) and is_a(leaving, self._once.keep_errors)
        transaction = self._transaction
        held = self._handle.lost is None
        if leaving is not None and keeps and held and not transaction.is_open():
            await self._complete("failed", text_of_error(leaving))
        elif transaction.begun:
            await self._settle(transaction, leaving)
        elif leaving is None and held and not self._cut:
            await self._complete(*self._verdict())
        else:
            try:
                await super()._give_up(leaving)
            finally:
                self._tell(RunAbandoned)

    def _verdict(self) -> tuple[Verdict, str | None]:
        """Return what the run came to, as it is kept."""
        try:
            return "done", self._provider.run_outcome(self._locked.result)
        except Exception as error:  # noqa: BLE001 - a codec of the user raises what it likes
            log_warning("the result of run %r cannot be kept", self.key, error=error)
            return "unkept", None

    async def _complete(self, state: Verdict, outcome: str | None) -> None:
        """Keep a verdict.

        :raises LeaseLostError: if somebody else has taken the run over
        :raises PersistenceError: if the store fails
        """
        handle, began, kept = self._handle, monotonic(), False
        try:
            try:
                written = await self._write(state, outcome)
            except RecordTooLargeError as error:
                log_warning("the result of run %r cannot be kept", self.key, error=error)
                state, outcome = "unkept", None
                written = await self._write(state, outcome)
            record: RunRecord | None
            if written:
                record = RunRecord(handle._record, state, self._once.payload, outcome=outcome)
            else:
                record, began = await self._committed(), self._transaction.made_at
            if record is None:
                raise LeaseLostError(self.key, "another run has taken its place")
            self._line.settle(record)
            self._local.keep(self.key, record, self._once.keep, began)
            kept = True
        finally:
            handle._abandon()
            if kept:
                self._tell(RunCompleted, state != "unkept")
            else:
                self._tell(RunAbandoned)

    async def _committed(self) -> RunRecord | None:
        """Return the run if a transaction of the caller's has completed it, else ``None``.

        :raises PersistenceError: if the store fails
        """
        if self._transaction.begun:
            await self._until_answered(self._transaction.was_committed)
        return self._transaction.kept

    def _tell(self, event: Callable[..., Event], *details: object) -> None:
        """Tell those who listen what happened to the run."""
        home = self._home
        if home.observed:
            home.emit(event(home.name, self.key, *details, id=self._begun._number))

    async def _settle(self, transaction: RunInTransaction, leaving: BaseException | None) -> None:
        """Find out whether a transaction of the caller's has completed the run; else abandon it.

        :raises RunError: if it has not, and nothing else leaves the block
        :raises LeaseLostError: likewise, if somebody else has taken the run over
        :raises PersistenceError: if the store fails
        """
        try:
            if leaving is None or self._handle.lost is None:
                await self._until_answered(transaction.settle)
        finally:
            if transaction.is_over:
                self._handle._abandon()
            else:
                self._free_later()
            if transaction.kept is not None:
                self._line.settle(transaction.kept)
                self._local.keep(self.key, transaction.kept, self._once.keep, transaction.made_at)
                self._tell(RunCompleted, True)
            else:
                self._tell(RunAbandoned)

    async def _write(self, state: Verdict, outcome: str | None) -> bool:
        """Write a verdict; what may have been written is written again, which changes nothing."""

        async def write() -> bool:
            return await ask(
                self._provider.complete_run,
                self.key,
                self._handle._nonce,
                state,
                outcome,
                self._once.keep,
            )

        return await self._until_answered(write)

    async def _until_answered(self, request: Callable[[], Awaitable[T]]) -> T:
        """Make a request, which may be made twice, until the store answers; within a bound.

        :raises PersistenceError: if the store failed until then
        """
        return await until_answered(request, f"whether it keeps what came of run {self.key!r}")

    def _value_of(self, record: RunRecord) -> Any:
        """Return the result that was kept.

        :raises KeptError: if an error was kept
        :raises ResultNotKeptError: if it could not be kept
        """
        if record.state == "unkept":
            raise ResultNotKeptError(self.key, "it is done, but its result could not be kept")
        if record.state == "done":
            return self._provider.run_value(self.key, record.outcome)
        try:
            error = error_of_text(self.key, record.outcome)
        except Exception as unreadable:
            raise corrupt_record("error of run", self.key, unreadable) from unreadable
        raise error

    def _refuse_itself(self) -> None:
        frame = current.get()
        while frame is not None:
            runs = isinstance(frame, RunPart) and frame.key == self.key and not frame.done
            if runs and runs_of(frame._home) is self._provider:
                raise RunError(self.key, "it would wait for itself: this code is part of it")
            frame = frame._outer


async def run_once(block: RunBlock[R], call: Callable[[], Awaitable[Any]]) -> Any:
    """Call a function inside the block of a run; return its value, or that of an earlier run.

    :raises TaskCancelled: if the function has cancelled the block
    """
    async with block as run:
        if run.done:
            return run.result
        run.complete(await call())
    if block._cut:
        raise TaskCancelled(f"run {block.key!r} was cancelled")
    return run.result
