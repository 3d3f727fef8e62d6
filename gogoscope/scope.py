"""The scope: a task group whose tasks give results and whose safety nets the fleet shares."""

from __future__ import annotations

import functools
import inspect
import math
import os.path
import sys
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from types import CodeType, TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, TypeVarTuple

import anyio

from gogoscope.cancellation import (
    cancelled_natively,
    checkpoint_if_cancelled,
    split_cancellation,
)
from gogoscope.durations import seconds
from gogoscope.exceptions import ScopeClosedError
from gogoscope.observers import log_error, notify
from gogoscope.options import (
    CircuitOption,
    OnError,
    OnEvent,
    RetryOption,
    circuit_option,
    refusal,
    retry_option,
    surely_not_awaitable,
)
from gogoscope.persistence.lock_handle import LockHandle
from gogoscope.persistence.validation import check_count
from gogoscope.pipeline import Pipeline
from gogoscope.safety_nets import SafetyNets
from gogoscope.slots import Slot, Slots
from gogoscope.task import Task, callable_name, current
from gogoscope.unseen import UnseenErrors

if TYPE_CHECKING:
    from gogoscope.events import Event
    from gogoscope.locked_scope import LockBlock
    from gogoscope.persistence.protocols import CacheProvider

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_FROM_OUTSIDE = "cancelled from outside its scope"


class Scope:
    """A block whose tasks end with it; made by :func:`scope`.

    ``cancel_reason`` is what :meth:`cancel` was given, ``cancelling`` whether the tasks are being
    cancelled by this scope.
    """

    def __init__(
        self,
        *,
        name: str | Callable[[], str],
        timeout: float | timedelta | None = None,
        concurrency: int | None = None,
        retry: RetryOption = None,
        circuit_breaker: CircuitOption = None,
        persistence: object = None,
        fail_fast: bool = False,
        on_exit: Literal["wait", "cancel"] = "wait",
        on_error: OnError | None = None,
        on_event: OnEvent | None = None,
        parent: Scope | None = None,
    ) -> None:
        self._name = name
        self._timeout = None if timeout is None else seconds("timeout", timeout, infinite=True)
        self.slots = None if concurrency is None else Slots(check_count("concurrency", concurrency))
        self.retry = retry_option(retry)
        self.circuit_breaker = circuit_option(circuit_breaker)
        if on_exit not in ("wait", "cancel"):
            raise ValueError(f"on_exit must be 'wait' or 'cancel', got {on_exit!r}")
        self._fail_fast = fail_fast
        self._cancel_on_exit = on_exit == "cancel"
        self._on_error = on_error
        self.on_event = on_event
        if parent is not None:
            self.slots = self.slots or parent.slots
            self.retry = parent.retry if retry is None else self.retry
            self.circuit_breaker = (
                parent.circuit_breaker if circuit_breaker is None else self.circuit_breaker
            )
            self.on_event = on_event or parent.on_event
            persistence = parent.nets.store if persistence is None else persistence
        self.nets: SafetyNets = SafetyNets(lambda: self.name, self.emit, persistence)
        self.unseen_errors = UnseenErrors()
        self.cancel_reason: str | None = None
        self.cancelling = False
        self._timed_out = False
        self._why: str | None = None
        self._fatal: Exception | None = None
        self._tasks: set[Task[Any]] = set()
        self._idle: anyio.Event | None = None
        self._used = False
        self._group: anyio.abc.TaskGroup | None = None
        self._cancel_scope: anyio.CancelScope | None = None
        self._host: Task[Any] | Scope | None = None
        nets = (self.slots, self.retry, self.circuit_breaker)
        self._needs_pipeline = nets != (None, None, None)

    def __repr__(self) -> str:
        return f"<Scope {self.name!r}>"

    @property
    def name(self) -> str:
        """The name given, else the module and qualified name of the function that made it."""
        if not isinstance(self._name, str):
            self._name = self._name()
        return self._name

    @property
    def slot(self) -> Slot | None:
        """The slot held by the task whose function this scope's block stands in."""
        return None if self._host is None else self._host.slot

    @property
    def cache(self) -> CacheProvider:
        """The store's cache: ``get``, ``set``, ``delete``, ``has``, ``clear`` and ``keys``.

        :raises CapabilityNotSupportedError: if the store has none
        """
        return self.nets.cache

    def task(
        self,
        fn: Callable[[*Ts], Awaitable[T]],
        /,
        *args: *Ts,
        name: str | None = None,
        timeout: float | timedelta | None = None,
        retry: RetryOption = None,
        circuit_breaker: CircuitOption = None,
        priority: float = 0,
        on_error: OnError | None = None,
    ) -> Task[T]:
        """Start a function at the next checkpoint; ``err, value = await`` what this returns.

        An option left out is the scope's. Pass keyword arguments with ``functools.partial``.

        :param fn: an async function, or any that returns an awaitable
        :param args: its positional arguments
        :param name: the task's name; the function's if left out
        :param timeout: seconds for all tries together; ``math.inf`` for no limit
        :param retry: a policy, a number of attempts, or ``False``
        :param circuit_breaker: a policy, or ``False``
        :param priority: higher goes first where ``concurrency`` makes tasks wait
        :param on_error: gets the error if the task ends with nobody awaiting it
        :raises ScopeClosedError: outside the scope's block
        :raises TypeError: if ``fn`` is not a function that can be awaited
        """
        if self._group is None:
            raise ScopeClosedError(f"the block of {self!r} is not open; no task can start in it")
        if not callable(fn) or surely_not_awaitable(fn):
            raise refusal(fn)
        pipeline: Pipeline | None = None
        if (
            self._needs_pipeline
            or timeout is not None
            or retry is not None
            or circuit_breaker is not None
        ):
            pipeline = self._pipeline(timeout, retry, circuit_breaker, priority)
        task: Task[T] = Task(self, fn, args, name, pipeline, on_error)
        if self.cancelling:
            if pipeline is not None:
                pipeline.never_run()
            task.end_cancelled(self._why)
        else:
            self._tasks.add(task)
            task.handle = self._group.create_task(task.run(), name=task.name)
        return task

    def thread(
        self,
        fn: Callable[[*Ts], T],
        /,
        *args: *Ts,
        name: str | None = None,
        timeout: float | timedelta | None = None,
        retry: RetryOption = None,
        circuit_breaker: CircuitOption = None,
        priority: float = 0,
        on_error: OnError | None = None,
    ) -> Task[T]:
        """Start a function that is not async in a worker thread.

        A timeout or cancellation takes effect when the thread ends, since it cannot be stopped.
        The options are those of :meth:`task`.

        :raises ScopeClosedError: outside the scope's block
        :raises TypeError: if ``fn`` is an async function
        """
        if not callable(fn) or inspect.iscoroutinefunction(fn):
            raise TypeError(
                f"s.thread takes a function that is not async, got {fn!r}; "
                "run an async function with s.task(fn, *args)"
            )
        return self.task(
            functools.partial(_call_in_thread, fn, *args),
            name=name or callable_name(fn),
            timeout=timeout,
            retry=retry,
            circuit_breaker=circuit_breaker,
            priority=priority,
            on_error=on_error,
        )

    def cancel(self, reason: str | None = None) -> None:
        """Cancel the block and its tasks; the block then ends without an exception."""
        if self._group is not None and not self.cancelling:
            self.cancel_reason = reason
            self._cancel(reason)

    async def acquire_lock(
        self, key: str, ttl: float | timedelta, wait: float | timedelta | None = 0
    ) -> LockHandle | None:
        """Take a lock that is not renewed; it is released at the scope's end at the latest.

        :param key: the lock
        :param ttl: the lease in seconds, at most 12 hours
        :param wait: seconds to wait for it; ``None`` waits for ever
        :returns: a handle, itself an async context manager, or ``None`` if it was not free in time
        :raises ScopeClosedError: outside the scope's block
        """
        self.check_open()
        return await self.nets.acquire_lock(key, ttl, wait)

    def lock(
        self,
        key: str,
        ttl: float | timedelta = 30,
        wait: float | timedelta | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> LockBlock:
        """Hold a lock for a block: ``async with s.lock(key) as locked``.

        The lock is renewed at a third of its lease until the block and the tasks started with
        ``locked.task`` have ended; then it is released. If the lease is lost, block and tasks are
        cancelled and the block raises ``LeaseLostError``.

        :param key: the lock
        :param ttl: the lease in seconds, at most 12 hours: how long a dead holder blocks others
        :param wait: seconds to wait for it; ``None`` waits for ever
        :param metadata: what to tell people about the holder, besides host, pid and scope
        :raises LockTimeoutError: on entering, if it was not free in time
        :raises LockError: on entering, if this task holds it already
        """
        from gogoscope.locked_scope import LockBlock  # noqa: PLC0415 - its block is a scope itself

        return LockBlock(self, key, ttl, wait, metadata)

    async def __aenter__(self) -> Self:
        if self._used:
            raise ScopeClosedError(f"{self!r} was used before; a scope has one block")
        self._used = True
        await self.nets.open()
        deadline = math.inf if self._timeout is None else anyio.current_time() + self._timeout
        self._cancel_scope = anyio.CancelScope(deadline=deadline)
        self._cancel_scope.__enter__()
        group = anyio.create_task_group()
        self._group = await group.__aenter__()
        self.nets.start(self._group)
        self._host = current.get()
        current.set(self)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:  # not bool: type checkers would then doubt every return inside a block
        self._note_timeout()
        if exc is not None:
            cancelled = split_cancellation(exc)[1] is None
            why = f"the block of its scope ended with {type(exc).__name__}"
            self._cancel(_FROM_OUTSIDE if cancelled else why)
        elif self._cancel_on_exit:
            self._cancel("the block of its scope ended")
        outgoing = await self._end(exc)
        errors, further = self.unseen_errors.take()
        if outgoing is not None:
            self._report_unseen(outgoing, errors, further)
            if outgoing is exc:
                return False
            raise outgoing from outgoing.__cause__
        if errors:
            more = f" and {further} more, not kept," if further else ""
            raise ExceptionGroup(
                f"{len(errors)} errors{more} of tasks of scope {self.name!r} that nobody looked at",
                errors,
            ) from None
        return True

    async def _end(self, exc: BaseException | None) -> BaseException | None:
        """End everything that belongs to the scope; give the exception that leaves the block."""
        assert self._group is not None
        assert self._cancel_scope is not None
        leaving = exc
        while self._tasks:
            self._idle = anyio.Event()
            cancelled = await self._shielded(self._idle.wait)
            leaving = leaving or cancelled
        self._note_timeout()
        cancelled = await self._shielded(self.nets.settle)
        leaving = leaving or cancelled
        interrupt = None
        group, self._group = self._group, None
        try:
            await group.__aexit__(None, None, None)
        except BaseException as raised:  # noqa: BLE001 - judged by what it is
            cancellation, interrupt = split_cancellation(_unwrapped(raised))
            leaving = leaving or cancellation
        current.set(self._host)
        leaving = _left_by(self._cancel_scope, leaving)
        if interrupt is not None and not isinstance(leaving, Exception):
            # asyncio has let it out of its event loop already, and cancels all tasks natively
            leaving = leaving if leaving is not None and cancelled_natively() else interrupt
        if leaving is None:
            leaving = await self._pending_cancellation() or self._own_error()
        await self._shielded(self.nets.close)
        return leaving

    async def _shielded(self, step: Callable[[], Awaitable[object]]) -> BaseException | None:
        """Take a step that the scope's end needs; give a cancellation that knows no shield."""
        try:
            with anyio.CancelScope(shield=True):
                await step()
        except anyio.get_cancelled_exc_class() as cancelled:
            self._cancel(_FROM_OUTSIDE)
            return cancelled
        return None

    async def _pending_cancellation(self) -> BaseException | None:
        """Give the cancellation that the code around the scope is about to get."""
        try:
            await checkpoint_if_cancelled()
        except anyio.get_cancelled_exc_class() as cancelled:
            return cancelled
        return None

    def _own_error(self) -> Exception | None:
        if self._fatal is not None:
            return self._fatal
        if self._timed_out:
            return TimeoutError(
                f"scope {self.name!r} took longer than its timeout of {self._timeout:g} s"
            )
        return None

    def _note_timeout(self) -> None:
        assert self._cancel_scope is not None
        if self._cancel_scope.cancel_called and not self.cancelling:
            self._timed_out = True
            self._cancel(f"the timeout of its scope, {self._timeout:g} s, passed")

    def _cancel(self, why: str | None) -> None:
        assert self._cancel_scope is not None
        if not self.cancelling:
            self.cancelling = True
            self._why = why
            self._cancel_scope.cancel(why)

    def fail(self, error: Exception, why: str) -> None:
        """Cancel the scope; its block then raises ``error``, unless something else goes first."""
        if self._fatal is None:
            self._fatal = error
        self._cancel(why)

    def why_cancelled(self) -> str | None:
        """Give the reason for the result of a task that this scope cancelled."""
        self._note_timeout()
        return self._why if self.cancelling else _FROM_OUTSIDE

    def settled(self, task: Task[Any], error: Exception | None, *, looked_at: bool) -> None:
        """Note that a task has its result."""
        self._tasks.discard(task)
        if error is not None:
            if self._fail_fast and self._fatal is None:
                self.fail(error, f"task {task.name!r} of its scope failed")
            elif not looked_at:
                self.unlooked(task, error)
        if self._idle is not None and not self._tasks:
            self._idle.set()

    def unlooked(self, task: Task[Any], error: Exception) -> None:
        """Note that nobody looks at the error of a task that has ended."""
        on_error = task.on_error or self._on_error
        if on_error is not None:
            notify(on_error, error)
        else:
            self.unseen_errors.add(task, error)

    def emit(self, event: Event) -> None:
        """Send an event to the scope's observer."""
        notify(self.on_event, event)

    def _report_unseen(
        self, outgoing: BaseException, errors: list[Exception], further: int
    ) -> None:
        from gogoscope.events import ErrorUnseen  # noqa: PLC0415 - rarely needed

        cancellation, _ = split_cancellation(outgoing)
        for error in errors:
            if error is outgoing:
                continue
            if cancellation is None:
                outgoing.add_note(f"unseen error of a task of scope {self.name!r}: {error!r}")
            log_error("an error of scope %r was not looked at", self.name, error=error)
            self.emit(ErrorUnseen(self.name, error))
        if further:
            log_error("%d more errors of scope %r were not looked at", further, self.name)

    def check_open(self) -> None:
        """Raise unless the scope's block is open."""
        if self._group is None:
            raise ScopeClosedError(f"the block of {self!r} is not open")

    def _pipeline(
        self,
        timeout: float | timedelta | None,
        retry: RetryOption,
        circuit_breaker: CircuitOption,
        priority: float,
    ) -> Pipeline:
        limit = math.inf
        if timeout is not None:
            limit = seconds("timeout", timeout, infinite=True)
        breaker = (
            self.circuit_breaker if circuit_breaker is None else circuit_option(circuit_breaker)
        )
        return Pipeline(
            timeout=None if limit == math.inf else limit,
            slot=None if self.slots is None else Slot(self.slots, priority),
            retry=self.retry if retry is None else retry_option(retry),
            circuit=None if breaker is None else self.nets.circuit(breaker),
        )


def _left_by(scope: anyio.CancelScope, leaving: BaseException | None) -> BaseException | None:
    """Leave a cancel scope with an exception; give what is left of it."""
    try:
        if leaving is None:
            scope.__exit__(None, None, None)
        elif scope.__exit__(type(leaving), leaving, leaving.__traceback__):
            return None
    except BaseException as rest:  # noqa: BLE001 - it is given back
        return rest
    return leaving


def _unwrapped(raised: BaseException) -> BaseException:
    """Give the only exception of a group, as a task's KeyboardInterrupt comes out of one."""
    while isinstance(raised, BaseExceptionGroup) and len(raised.exceptions) == 1:
        raised = raised.exceptions[0]
    return raised


async def _call_in_thread(fn: Callable[..., T], *args: Any) -> T:
    from anyio import to_thread  # noqa: PLC0415 - rarely needed

    value = await to_thread.run_sync(fn, *args)
    await checkpoint_if_cancelled()
    return value


def scope(
    *,
    name: str | None = None,
    timeout: float | timedelta | None = None,
    concurrency: int | None = None,
    retry: RetryOption = None,
    circuit_breaker: CircuitOption = None,
    persistence: object = None,
    fail_fast: bool = False,
    on_exit: Literal["wait", "cancel"] = "wait",
    on_error: OnError | None = None,
    on_event: OnEvent | None = None,
) -> Scope:
    """Make a scope for ``async with``.

    :param name: names it in errors, and its circuit; module and qualified name of the calling
        function if left out (the script's name for ``__main__``), the same in every process
    :param timeout: seconds after which block and tasks are cancelled and ``TimeoutError`` raised
    :param concurrency: how many of its tasks run at a time
    :param retry: what its tasks inherit: a policy, or a number of attempts
    :param circuit_breaker: what its tasks inherit
    :param persistence: where locks, circuits and cached values live: a URL, which opens a store
        for the block, or an open store, or a bundle of stores; the memory of this process if left
        out
    :param fail_fast: whether the first error of a task cancels the scope and is raised
    :param on_exit: ``"cancel"`` cancels the tasks that still run when the block ends normally
    :param on_error: gets the errors of tasks that end with nobody awaiting them
    :param on_event: gets the scope's events
    :raises TypeError: if an option is of the wrong type
    :raises ValueError: if an option is out of range
    """
    frame = sys._getframe(1)  # noqa: SLF001 - the standard library offers no other way this fast
    return Scope(
        name=name or functools.partial(_name_of_caller, frame.f_code, frame.f_globals),
        timeout=timeout,
        concurrency=concurrency,
        retry=retry,
        circuit_breaker=circuit_breaker,
        persistence=persistence,
        fail_fast=fail_fast,
        on_exit=on_exit,
        on_error=on_error,
        on_event=on_event,
    )


def current_scope() -> Scope | None:
    """Give the innermost scope around the calling code, or ``None``."""
    innermost = current.get()
    return innermost.scope if isinstance(innermost, Task) else innermost


def _name_of_caller(code: CodeType, namespace: Mapping[str, Any]) -> str:
    module = str(namespace.get("__name__", "?"))
    if module == "__main__":
        script = str(namespace.get("__file__", module))
        module = os.path.splitext(os.path.basename(script))[0]  # noqa: PTH119, PTH122 - costs less
    return f"{module}.{code.co_qualname}"
