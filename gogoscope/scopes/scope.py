"""The scope: a task group whose tasks return results and whose safety nets the fleet shares."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterable, Awaitable, Callable, Hashable, Iterable, Mapping
from datetime import timedelta
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, Literal, TypeVar, TypeVarTuple

from gogoscope._core.arguments import check_count, check_flag, check_name, check_observer
from gogoscope._core.callables import (
    async_function,
    call_in_thread,
    callable_name,
    name_of_code,
    sync_function,
)
from gogoscope._core.context import current
from gogoscope._core.durations import seconds
from gogoscope._core.hints import as_one_class, explains
from gogoscope._core.stopping import Stopping
from gogoscope.events import OnError, OnEvent
from gogoscope.exceptions import LeaseLostError
from gogoscope.jobs.job import JobPart
from gogoscope.runs.run import RunPart
from gogoscope.scopes import doors
from gogoscope.scopes.combinators import Combinators
from gogoscope.scopes.dedupe import Dedupe
from gogoscope.scopes.mapping import Completed
from gogoscope.scopes.options import (
    CircuitOption,
    RateOption,
    RetryOption,
    ScopeOptions,
    TaskOptions,
)
from gogoscope.scopes.pipeline import SafetyNets
from gogoscope.scopes.plain import quick_call, quick_task, value_of
from gogoscope.scopes.resuming import Resumed, Resuming
from gogoscope.scopes.services import Services
from gogoscope.scopes.signals import stop_on_signals
from gogoscope.scopes.stopping import stop
from gogoscope.scopes.task import Task
from gogoscope.scopes.tree import draw

if TYPE_CHECKING:
    from signal import Signals

    from gogoscope.cache.cache import Cache
    from gogoscope.cache.decorator import CachedDecorator
    from gogoscope.cache.local import LocalCache
    from gogoscope.jobs.block import JobBlock
    from gogoscope.jobs.claims import JobLeases
    from gogoscope.jobs.options import JobOptions, Migrate
    from gogoscope.locks.block import LockBlock
    from gogoscope.locks.leader import Campaign
    from gogoscope.permits.block import PermitBlock
    from gogoscope.permits.wish import What, Wish
    from gogoscope.persistence.lock_handle import LockHandle
    from gogoscope.persistence.run_records import AfterCrash
    from gogoscope.runs.block import RunBlock
    from gogoscope.runs.once import KeptErrors, Once
    from gogoscope.runs.transactions import RunInTransaction
    from gogoscope.schedules.options import Missed, Scheduled
    from gogoscope.schedules.tick import Tick
    from gogoscope.schedules.when import When

T = TypeVar("T")
Item = TypeVar("Item")
Ts = TypeVarTuple("Ts")


_START = "start a function with s.task(fn, *args)"


@as_one_class
@explains(
    attributes={
        **dict.fromkeys(("create_task", "start", "start_soon", "spawn", "submit"), _START),
        "gather": "start functions with s.task, and wait for them with s.all(task, ...)",
        "cancel_scope": "cancel it with s.cancel(reason)",
    },
)
class Scope(Combinators):
    """A block whose tasks end with it; made by :func:`scope`."""

    def __init__(self, options: ScopeOptions, parent: Scope | None = None) -> None:
        super().__init__(
            Services(options.name, options.persistence, options.on_event),
            slots=options.slots,
            timeout=options.timeout,
            fail_fast=options.fail_fast,
            cancel_on_exit=options.on_exit == "cancel",
            on_error=options.on_error,
            stopping=Stopping(None if parent is None else parent.stopping),
            inline=options.inline,
            around=parent,
        )
        self._options: ScopeOptions = options
        self._dedupe = Dedupe()
        self._own_nets = None

    @quick_task
    def task(
        self,
        fn: Callable[[*Ts], Awaitable[T]],
        /,
        *args: *Ts,
        name: str | None = None,
        timeout: float | timedelta | None = None,
        retry: RetryOption = None,
        circuit_breaker: CircuitOption = None,
        rate_limit: RateOption = None,
        priority: float = 0,
        dedupe: Hashable = None,
        once: Once | None = None,
        on_error: OnError | None = None,
    ) -> Task[T]:
        """Start a function at the next checkpoint; ``err, value = await`` what this returns.

        An option left out is the scope's. Pass keyword arguments with ``functools.partial``.

        :param fn: an async function, or any that returns an awaitable
        :param args: its positional arguments
        :param name: the task's name; the function's if left out
        :param timeout: seconds for all attempts together; ``math.inf`` for no limit
        :param retry: a policy, a number of attempts, or ``False``
        :param circuit_breaker: a policy, or ``False``
        :param rate_limit: bounds how often it is called, each attempt counted; or ``False``
        :param priority: higher goes first where ``concurrency`` makes tasks wait
        :param dedupe: a key: while a task with that key runs, this returns its outcome, too, and
            ``fn`` is not called; the options of the first count
        :param once: has its effect happen once for a key, in the whole fleet: a later call returns
            the result that was kept
        :param on_error: is called once with the error, if nobody awaits the task when it ends, or
            if nobody reads the error
        :raises ScopeClosedError: outside the scope's block
        :raises TypeError: if ``fn`` is not a function that can be awaited
        """
        self._check_open()
        fn = async_function(fn, "s.task({}, *args)")
        if (
            once is None
            and timeout is retry is circuit_breaker is rate_limit is None
            and priority == 0
        ):
            nets = self._safety_nets()
        else:
            nets = self._safety_nets(
                TaskOptions(timeout, retry, circuit_breaker, priority, rate_limit), once
            )
        if name is not None:
            check_name(name)
        if on_error is not None:
            check_observer("on_error", on_error)
        if dedupe is not None and not self._cancelling:
            joined = self._dedupe.join(dedupe, name, on_error)
            if joined is not None:
                return joined
        # Only now does it stand in line for a slot.
        guard = None if nets is None or self._cancelling else nets.guard()
        task = self._start(Task(self, fn, args, name, guard, on_error))
        return task if dedupe is None else self._dedupe.share(dedupe, task, name, on_error)

    @quick_call
    async def call(
        self,
        fn: Callable[[*Ts], Awaitable[T]],
        /,
        *args: *Ts,
        name: str | None = None,
        timeout: float | timedelta | None = None,
        retry: RetryOption = None,
        circuit_breaker: CircuitOption = None,
        rate_limit: RateOption = None,
        priority: float = 0,
        dedupe: Hashable = None,
        once: Once | None = None,
        on_error: OnError | None = None,
    ) -> T:
        """Run a function as a task; return its value, or raise its error.

        It is :meth:`task` in its raising form, with the same options: ``value = await s.call(fn)``.
        Nothing starts before it is awaited. If the caller is cancelled, so is the task.

        :raises Exception: the error of the function
        :raises TaskCancelled: if the task was cancelled, but its caller is not
        :raises ScopeClosedError: outside the scope's block
        :raises TypeError: if ``fn`` is not a function that can be awaited
        """
        # No variable refers to the task, so that it may run in here.
        return await value_of(
            await self.task(
                async_function(fn, "s.call({}, *args)"),
                *args,
                name=name,
                timeout=timeout,
                retry=retry,
                circuit_breaker=circuit_breaker,
                rate_limit=rate_limit,
                priority=priority,
                dedupe=dedupe,
                once=once,
                on_error=on_error,
            )
        )

    def _safety_nets(
        self, options: TaskOptions | None = None, once: Once | None = None
    ) -> SafetyNets | None:
        """Return what surrounds tasks with these options, ``None`` if nothing does.

        What surrounds tasks without options of their own is found out once.
        """
        if options is not None:
            around = (
                None if once is None else doors.runner(self._home, partial(RunScope, self), once)
            )
            return options.safety_nets(self._options, self._home, around)
        if self._own_nets is None:
            self._own_nets = (TaskOptions().safety_nets(self._options, self._home),)
        return self._own_nets[0]

    def thread(
        self,
        fn: Callable[[*Ts], T],
        /,
        *args: *Ts,
        name: str | None = None,
        timeout: float | timedelta | None = None,
        retry: RetryOption = None,
        circuit_breaker: CircuitOption = None,
        rate_limit: RateOption = None,
        priority: float = 0,
        once: Once | None = None,
        on_error: OnError | None = None,
    ) -> Task[T]:
        """Start a function that is not async in a worker thread.

        A timeout or cancellation takes effect when the thread ends, since it cannot be stopped.
        At most 40 threads run at a time in an event loop, in all scopes together; for more, set
        ``anyio.to_thread.current_default_thread_limiter().total_tokens``. The options are those of
        :meth:`task`.

        :raises ScopeClosedError: outside the scope's block
        :raises TypeError: if ``fn`` is an async function; from ``await`` if that cannot be told
            before it is called
        """
        return self.task(
            partial(call_in_thread, sync_function(fn), *args),
            name=name or callable_name(fn),
            timeout=timeout,
            retry=retry,
            circuit_breaker=circuit_breaker,
            rate_limit=rate_limit,
            priority=priority,
            once=once,
            on_error=on_error,
        )

    @property
    def cache(self) -> Cache:
        """The cache on the scope's store.

        :raises CapabilityNotSupportedError: if the store has none
        """
        return doors.cache(self._home)

    def cached(
        self,
        ttl: float | timedelta | None,
        *,
        key: Callable[..., str] | None = None,
        stale_while_revalidate: float | timedelta = 0,
        stale_if_error: float | timedelta = 0,
        negative_ttl: float | timedelta | None = None,
        lease: float | timedelta = 10,
    ) -> CachedDecorator:
        """Keep the results of an async function in the scope's cache: ``@s.cached(60)``.

        The options are those of :func:`gogoscope.cached` and of ``s.cache.get_or_set``.
        """
        return doors.cached(
            self.cache,
            ttl,
            key=key,
            stale_while_revalidate=stale_while_revalidate,
            stale_if_error=stale_if_error,
            negative_ttl=negative_ttl,
            lease=lease,
        )

    def child(
        self,
        *,
        name: str | None = None,
        timeout: float | timedelta | None = None,
        concurrency: int | None = None,
        retry: RetryOption = None,
        circuit_breaker: CircuitOption = None,
        rate_limit: RateOption = None,
        persistence: object = None,
        fail_fast: bool = False,
        on_exit: Literal["wait", "cancel"] = "wait",
        inline: bool | None = None,
        on_error: OnError | None = None,
        on_event: OnEvent | None = None,
    ) -> Scope:
        """Make a scope inside this one: ``async with s.child() as inner``.

        It inherits store, circuit breaker, rate limit, retry and observer, and shares the slots,
        unless it is given its own. The options are those of :func:`scope`.
        """
        self._check_open()
        frame = sys._getframe(1)
        options = ScopeOptions.inside(
            self._options,
            self._home.inherited,
            name=name or partial(name_of_code, frame.f_code, frame.f_globals),
            timeout=timeout,
            concurrency=concurrency,
            retry=retry,
            circuit_breaker=circuit_breaker,
            rate_limit=rate_limit,
            persistence=persistence,
            fail_fast=fail_fast,
            on_exit=on_exit,
            inline=inline,
            on_error=on_error,
            on_event=on_event,
        )
        return Scope(options, self)

    async def stop(self, grace: float | timedelta = 10) -> None:
        """Stop gracefully: set ``stopping``, wait for the other tasks, and cancel the scope.

        It waits for no task that it is called in. A body that stops its own scope is not cancelled
        itself: when this returns there, the tasks have ended, and no further one starts.

        :param grace: seconds between setting ``stopping`` and cancelling, 0 or more
        """
        await stop(self, grace)

    def stop_on_signals(
        self,
        *,
        grace: float | timedelta = 10,
        signals: Iterable[Signals] | None = None,
    ) -> None:
        """Stop gracefully when the operating system asks for it.

        Call it at the beginning of the block, in the main thread. On the first signal
        ``stopping`` is set, and the block has ``grace`` seconds to end; then, or on a second
        signal, the scope is cancelled with the signal's name as its reason. Other scopes that
        asked get the signal, too, and so does the handler that was there before.

        :param grace: seconds between setting ``stopping`` and cancelling, 0 or more
        :param signals: the signals; ``SIGTERM`` and ``SIGINT`` if left out
        :raises ScopeClosedError: outside the block
        :raises ValueError: if one of them is no signal, or cannot be handled
        :raises RuntimeError: in another thread than the main one
        """
        stop_on_signals(self, grace, signals)

    def tree(self) -> str:
        """Draw the scope, its tasks and the scopes inside as text.

        Each line has a name, a state, an age, and what it waits for. The age of a task counts from
        where it first waited; where somebody listens to events, from its start. It may be called
        from a signal handler.
        """
        return draw(self)

    async def acquire_lock(
        self, key: str, ttl: float | timedelta, wait: float | timedelta | None = 0
    ) -> LockHandle | None:
        """Take a lock that is not renewed; it is released at the scope's end at the latest.

        :param key: the lock
        :param ttl: the lease in seconds, at most 3,600, or a ``timedelta`` of at most 12 hours
        :param wait: seconds to wait for it; ``None`` waits for ever. For the store's answer a wait
            may last a second all the same; 0 asks once, and waits for that answer only
        :returns: a handle, itself an async context manager, or ``None`` if it was not free in time
        :raises LockError: if it would wait for a block of the same task
        :raises PersistenceError: if the store failed, or did not answer in time
        :raises ScopeClosedError: outside the scope's block
        """
        self._check_open()
        return await doors.acquire_lock(self._home, key, ttl, wait)

    def lock(
        self,
        key: str,
        ttl: float | timedelta = 30,
        wait: float | timedelta | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> LockBlock[LockedScope]:
        """Hold a lock for a block: ``async with s.lock(key) as locked``.

        The lock is renewed at a third of its lease until the block and the tasks started with
        ``locked.task`` have ended; then it is released. If the lease is lost, block and tasks are
        cancelled and the block raises ``LeaseLostError``.

        :param key: the lock
        :param ttl: the lease in seconds, at most 3,600, or a ``timedelta`` of at most 12
            hours: how long a dead holder blocks others
        :param wait: seconds to wait for it; ``None`` waits for ever
        :param metadata: what to tell people about the holder, besides host, pid and scope
        :raises LockTimeoutError: on entering, if it was not free in time
        :raises LockError: on entering, if this task holds it already
        """
        return doors.lock_block(self._home, partial(LockedScope, self), key, ttl, wait, metadata)

    def semaphore(
        self,
        key: str,
        limit: int,
        ttl: float | timedelta = 30,
        wait: float | timedelta | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> PermitBlock[PermitScope]:
        """Hold one of ``limit`` permits for a block: ``async with s.semaphore(key, 5) as permit``.

        At most ``limit`` blocks of the fleet run at a time. The permit has a lease of its own, and
        the block is a scope, as with :meth:`lock`. Those who wait get it in the order in which they
        came, but for a quarter of a second in which a process may keep it among its own tasks.
        Make one for each block: unlike a semaphore of the event loop, it is not shared.

        :param key: the semaphore; a lock of that name is something else
        :param limit: how many permits there are, as this caller sees it: it waits until fewer are
            held
        :param ttl: the lease in seconds, at most 3,600, or a ``timedelta`` of at most 12
            hours: how long a dead holder keeps its permit
        :param wait: seconds to wait for a permit; ``None`` waits for ever
        :param metadata: what to tell people about the holder, besides host, pid and scope
        :raises LockTimeoutError: on entering, if no permit was free in time
        :raises LockError: on entering, if this task holds ``limit`` permits already
        :raises RuntimeError: on entering, if this very block was entered and not left
        """
        return self._permit("semaphore", key, check_count("limit", limit), ttl, wait, metadata)

    def read_lock(
        self,
        key: str,
        ttl: float | timedelta = 30,
        wait: float | timedelta | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> PermitBlock[PermitScope]:
        """Read for a block, while nobody writes: ``async with s.read_lock(key) as reading``.

        Any number of readers may hold it at a time. While a writer waits, no reader that comes
        later is let in. The options and the block are those of :meth:`lock`.

        :param key: the read/write lock; a lock or semaphore of that name is something else
        :raises LockTimeoutError: on entering, if it was not free in time
        :raises LockError: on entering, if this task holds it already, for reading or writing
        """
        return self._permit("read_lock", key, None, ttl, wait, metadata)

    def write_lock(
        self,
        key: str,
        ttl: float | timedelta = 30,
        wait: float | timedelta | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> PermitBlock[PermitScope]:
        """Write for a block, alone: ``async with s.write_lock(key) as writing``.

        It waits for the readers and the writers that came before, and for no others. The options
        and the block are those of :meth:`lock`.

        :param key: the read/write lock; a lock or semaphore of that name is something else
        :raises LockTimeoutError: on entering, if it was not free in time
        :raises LockError: on entering, if this task holds it already, for reading or writing
        """
        return self._permit("write_lock", key, None, ttl, wait, metadata)

    def _permit(
        self,
        what: What,
        key: str,
        limit: int | None,
        ttl: float | timedelta,
        wait: float | timedelta | None,
        metadata: Mapping[str, str] | None,
    ) -> PermitBlock[PermitScope]:
        open_block = partial(PermitScope, self)
        return doors.permit_block(self._home, open_block, what, key, limit, ttl, wait, metadata)

    def leader(
        self,
        key: str,
        ttl: float | timedelta = 15,
        metadata: Mapping[str, str] | None = None,
    ) -> Campaign[LockedScope]:
        """Lead the fleet for a block; written in a loop that campaigns again.

        ::

            while not s.stopping.is_set():
                async with s.leader("billing") as term:
                    term.every(60, send_bills)

        Entering waits until no other process leads, through failures of the store as well. The
        term is a lock that is renewed, and its block a scope, as with :meth:`lock`. A lost term
        cancels the block and its tasks and raises nothing: the code after the block runs, and the
        loop campaigns again. Leaving the block resigns, and the next process leads at once.

        When this scope is stopping, the leader resigns: its block ends as if the term were lost,
        but after the ticks of ``term.every`` that are in progress.

        :param key: what is led; a lock of that name
        :param ttl: the lease in seconds, at most 3,600, or a ``timedelta`` of at most 12
            hours: how long a dead leader is waited for
        :param metadata: what to tell people about the leader, besides host, pid and scope
        :raises LockError: on entering, if this task leads already
        :raises PersistenceError: on entering, if the store fails for good
        :raises TaskCancelled: on entering, when this scope is stopping; that is no error of a task
        """
        open_term = partial(LockedScope, self)
        return doors.campaign(self._home, open_term, key, ttl, metadata, self.stopping)

    def claim(
        self,
        key: str,
        keep: float | timedelta | None,
        *,
        lease: float | timedelta = 30,
        wait: float | timedelta | None = None,
        payload: Any = None,
        after_crash: AfterCrash = "run",
        keep_errors: KeptErrors = (),
        local: LocalCache | None = None,
    ) -> RunBlock[RunScope]:
        """Have the effect of a block happen once for a key, in the whole fleet.

        ::

            async with s.claim(f"charge:{order.id}", keep=86_400) as run:
                if run.done:
                    return run.result
                run.complete(await charge(order))

        Entering waits while somebody else runs. At the end of the block, what ``run.complete`` was
        called with is kept; an exception abandons the run, and the next caller runs. The block is a
        scope whose lease is renewed, as with :meth:`lock`; it is the open form of ``once=`` of
        :meth:`task`. The options are those of :class:`gogoscope.Once`. A transaction of yours may
        complete the run: see ``run.transact_item`` and ``run.complete(connection=...)``.

        :raises RunInProgressError: on entering, if somebody else runs for longer than ``wait``
        :raises OutcomeUnknownError: on entering, if the last run died, and may not be repeated
        :raises PayloadMismatchError: on entering, if the key stands for another payload
        :raises KeptError: on entering, if the run ended with an error that was kept
        :raises ResultNotKeptError: on entering, if the run is done, but its result was not kept
        :raises LeaseLostError: if somebody else has taken the run over
        """
        return doors.run_block(
            self._home,
            partial(RunScope, self),
            key,
            keep,
            lease,
            wait,
            payload,
            after_crash,
            keep_errors,
            local,
        )

    def job(
        self,
        key: str,
        state: Any = None,
        *,
        version: int = 1,
        lease: float | timedelta = 30,
        wait: float | timedelta | None = None,
        restart: bool = False,
        keep: float | timedelta | None = 604_800,
        migrate: Migrate | None = None,
    ) -> JobBlock[JobScope]:
        """Hold a job for a block, and go on from the state that was saved last.

        ::

            async with s.job("reindex", state={"after": None}) as job:
                while page := await fetch(job.state["after"]):
                    await handle(page)
                    await job.save({"after": page.last})

        One process at a time has the job. The block is a scope whose lease is renewed, as with
        :meth:`lock`. Left without an error, the job has finished, which ``job.finished`` tells
        those who enter it later; otherwise the next one goes on from the saved state.

        :param key: the job
        :param state: what it begins with
        :param version: that of the state's form; a state that a newer version saved is refused
        :param lease: how long a dead holder blocks the job, in seconds; at most 3,600, or a
            ``timedelta`` of at most 12 hours
        :param wait: seconds to wait for it; ``None`` waits for ever
        :param restart: whether it begins anew, whatever was saved
        :param keep: how long it is remembered that it has finished, in seconds; ``None`` for ever
        :param migrate: returns a state of an older version in the form of this one, of the state
            and that version
        :raises LockTimeoutError: on entering, if it was not free in time
        :raises LockError: on entering, if this code is part of the job already
        :raises JobVersionError: on entering, if the state has the form of another version
        :raises LeaseLostError: if somebody else has taken the job over
        """
        return doors.job_block(
            self._home,
            partial(JobScope, self),
            key,
            state,
            version,
            lease,
            wait,
            restart,
            keep,
            migrate,
        )

    def resume(
        self,
        key: str,
        fn: Callable[[Item], Awaitable[T]],
        items: Iterable[Item] | AsyncIterable[Item],
        *,
        limit: int | None = None,
        total: int | None = None,
        save_every: float | timedelta = 1.0,
        retry_failed: bool = False,
        restart: bool = False,
        lease: float | timedelta = 30,
        wait: float | timedelta | None = None,
        keep: float | timedelta | None = 604_800,
        timeout: float | timedelta | None = None,
        retry: RetryOption = None,
        circuit_breaker: CircuitOption = None,
        rate_limit: RateOption = None,
    ) -> Resumed[Item, T]:
        """Run a function on each item that is not done yet: ``async for item, result in``.

        ::

            rows = s.resume("import:42", load, csv.DictReader(file), limit=50)
            async for row, result in rows:
                print(rows.progress)

        It is :meth:`as_completed` in a :meth:`job`: after a crash, whoever calls it next goes on
        where the last one stopped. An item is done when the loop comes back for the next one; a
        failed one only if its error was read. After a crash, at most these run once more: ``limit``
        items, the one that the loop has, and those done in the last ``save_every`` seconds.
        ``once=`` is for what must not.

        :param key: the job
        :param fn: an async function of an item
        :param items: any iterable or async iterable, in the same order each time; the items are
            known by their position
        :param limit: how many items may run, or wait to be delivered, at a time; 100 if left out
        :param total: how many items there are, for the progress, if ``len(items)`` cannot tell
        :param save_every: seconds between two saves, at least
        :param retry_failed: whether the items that failed before run once more
        :param restart: whether it begins anew, whatever was saved
        :param lease: how long a dead process blocks the job, in seconds
        :param wait: seconds to wait for the job; ``None`` waits for ever
        :param keep: how long it is remembered that all is done, in seconds; ``None`` for ever
        """
        fn = async_function(fn, "s.resume(key, {}, items)")
        if not isinstance(items, Iterable | AsyncIterable):
            raise TypeError(f"items must be iterable, got {items!r} of type {type(items).__name__}")
        check_flag("retry_failed", retry_failed)
        if total is not None:
            check_count("total", total, 0)

        async def call(placed: tuple[int, Item]) -> T:
            return await fn(placed[1])

        def start(
            job: JobScope,
            remaining: Iterable[tuple[int, Item]] | AsyncIterable[tuple[int, Item]],
        ) -> Completed[tuple[int, Item], T]:
            return job.as_completed(
                wraps(fn)(call),
                remaining,
                limit,
                timeout=timeout,
                retry=retry,
                circuit_breaker=circuit_breaker,
                rate_limit=rate_limit,
            )

        block = self.job(key, lease=lease, wait=wait, restart=restart, keep=keep)
        every = seconds("save_every", save_every, zero=True)
        run = partial(self.task, name=f"resume {key}")
        return Resumed(run, Resuming(block, start, items, total, every, retry_failed=retry_failed))

    def schedule(
        self,
        name: str,
        when: When,
        fn: Callable[[Tick], Awaitable[object]],
        *,
        missed: Missed = "once",
        max_missed: int = 100,
        lease: float | timedelta = 60,
        retries: int = 1,
        on_error: OnError | None = None,
    ) -> Task[None]:
        """Run a function at its times, each time in one process of the fleet.

        ::

            s.schedule("invoices", cron("0 3 * * mon-fri", tz="Europe/Berlin"), send_invoices)
            s.schedule("sync", interval(300), sync)

        Every process that has the schedule calls this; whichever comes first runs the tick. No
        tick runs before its time or beside another one, and none is started again unless its
        process died. A new schedule, and one whose times have changed, begins with the next tick
        from now. An error is told, and the schedule goes on. It ends when this scope is stopping,
        after the tick in progress.

        :param name: the schedule
        :param when: its times: ``interval(seconds)``, or ``cron(expression, tz=...)``
        :param fn: an async function of a :class:`gogoscope.Tick`; its scope is cancelled if the
            lease is lost
        :param missed: what is done about ticks that nobody could start in time: ``"once"`` runs
            the newest and tells it how many came before, ``"all"`` runs each, ``"skip"`` none that
            came while another one ran, or is more than a lease old
        :param max_missed: how many of the newest ``"all"`` runs
        :param lease: how long a dead process keeps others from its tick, in seconds; at most
            3,600, or a ``timedelta`` of at most 12 hours
        :param retries: how often a tick is started again after its process died
        :param on_error: is called with the error of each tick that fails; it is logged if left out
        :returns: a task that ends when the scope is stopping
        :raises ScopeClosedError: outside the scope's block
        :raises TypeError: if an argument is of the wrong type
        :raises ValueError: if one is out of range
        """
        fn = async_function(fn, "s.schedule(name, when, {})")
        self._check_open()
        keeper = doors.keeper(
            self._home,
            partial(TickScope, self),
            self.stopping,
            name,
            when,
            fn,
            missed,
            max_missed,
            lease,
            retries,
            on_error,
        )
        # Without a slot, which it would hold between the ticks; each tick has one.
        return self._start(Task(self, keeper.run, (), keeper.name, None, None))


class LeasedScope(Scope):
    """A scope whose block and tasks end when a lease is lost.

    :param parent: the scope around
    :param doing: stands after the name of that one
    :param lease: what the block ends with
    """

    _leased: str

    def __init__(self, parent: Scope, doing: str, lease: LockHandle | None = None) -> None:
        options = ScopeOptions.inside(
            parent._options, parent._home.inherited, name=lambda: f"{parent.name} {doing}"
        )
        super().__init__(options, parent)
        self._lease = lease

    def _number_around(self) -> int:
        return super()._number_around() if self._lease is None else self._lease._number

    def _lease_lost(self, loss: LeaseLostError) -> None:
        """Cancel the block, which then raises the loss."""
        self._fail(loss, f"the lease of its {self._leased} was lost: {loss.reason}")


class HeldScope(LeasedScope):
    """The block of what is held: a scope whose tasks end when the lease is lost.

    Its tasks may count on it until they end: it is renewed, and released after the last.
    """

    def __init__(self, parent: Scope, doing: str, handle: LockHandle) -> None:
        super().__init__(parent, doing, handle)
        self._handle = handle

    @property
    def key(self) -> str:
        """What is held."""
        return self._handle.key

    @property
    def fencing_token(self) -> int:
        """A number that is higher than that of every earlier holder."""
        return self._handle.fencing_token

    @property
    def expires_at(self) -> float:
        """When the lease ends unless renewed, in seconds since the Unix epoch."""
        return self._handle.expires_at

    def ensure(self) -> None:
        """Raise if the lease is over; makes no request. Call it before each outside write.

        :raises LeaseLostError: if it is not held any more
        """
        self._handle.ensure()

    async def is_valid(self) -> bool:
        """Ask the store whether this block still holds it."""
        return await self._handle.is_valid()

    async def extend(self, ttl: float | timedelta) -> bool:
        """Let the lease end ``ttl`` seconds from now, and renew it for as long from then on."""
        return await self._handle.extend(ttl)


class LockedScope(HeldScope):
    """The block of a lock; made by ``s.lock``."""

    _leased = "lock"

    def __init__(self, parent: Scope, handle: LockHandle) -> None:
        super().__init__(parent, f"holding {handle.key}", handle)

    @property
    def owner(self) -> str:
        """The name that ``extend(key, ttl, owner)`` takes."""
        return self._handle.owner


class PermitScope(HeldScope):
    """The block of a permit; made by ``s.semaphore``, ``s.read_lock`` and ``s.write_lock``."""

    def __init__(self, parent: Scope, wish: Wish, handle: LockHandle) -> None:
        self._leased = str(wish)
        super().__init__(parent, wish.doing, handle)


class RunScope(RunPart, LeasedScope):
    """The block of a run: a scope whose tasks end when the lease is lost; made by ``s.claim``."""

    _leased = "run"

    def __init__(
        self,
        parent: Scope,
        once: Once,
        handle: LockHandle | None,
        result: Any,
        token: int,
        transaction: RunInTransaction | None,
    ) -> None:
        super().__init__(parent, f"running {once.key}", handle)
        self._transaction = transaction
        self._once = once
        self._handle = handle
        self._result = result
        self._token = token


class TickScope(LeasedScope):
    """What a tick runs in: a scope whose tasks end when the lease is lost."""

    _leased = "tick"

    def __init__(self, parent: Scope, handle: LockHandle) -> None:
        super().__init__(parent, f"at schedule {handle.key}", handle)

    async def _run_tick(self, fn: Scheduled, tick: Tick) -> None:
        await self.call(fn, tick)


class JobScope(JobPart, LeasedScope):
    """The block of a job: a scope whose tasks end when the lease is lost; made by ``s.job``."""

    _leased = "job"

    def __init__(
        self,
        parent: Scope,
        options: JobOptions,
        handle: LockHandle,
        leases: JobLeases,
        state: Any,
        finished: bool,
    ) -> None:
        super().__init__(parent, f"at job {options.key}", handle)
        self._options_of_job = options
        self._handle = handle
        self._leases = leases
        self._state = state
        self._finished = finished

    def _told(self) -> str:
        return "" if self._leases.meter.done is None else str(self.progress)


def scope(
    *,
    name: str | None = None,
    timeout: float | timedelta | None = None,
    concurrency: int | None = None,
    retry: RetryOption = None,
    circuit_breaker: CircuitOption = None,
    rate_limit: RateOption = None,
    persistence: object = None,
    fail_fast: bool = False,
    on_exit: Literal["wait", "cancel"] = "wait",
    inline: bool = True,
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
    :param rate_limit: what its tasks inherit
    :param persistence: where locks, circuits and cached values live: a URL, which opens a store
        for the block, or an open store, or a bundle of stores; if left out, the default store of
        this process (:func:`open_persistence`), or its memory
    :param fail_fast: whether the first error of a task cancels the scope and is raised
    :param on_exit: ``"cancel"`` cancels the tasks that still run when the block ends normally
    :param inline: ``False`` gives each task a task of the event loop of its own, for functions that
        register the current one; else a task may run inside the code that awaits it
    :param on_error: is called once with each error of a task that nobody awaits when it ends, or
        whose error nobody reads
    :param on_event: is called with the events of the scope
    :raises TypeError: if an option is of the wrong type
    :raises ValueError: if an option is out of range
    """
    frame = sys._getframe(1)
    options = ScopeOptions(
        name=name or partial(name_of_code, frame.f_code, frame.f_globals),
        timeout=timeout,
        concurrency=concurrency,
        retry=retry,
        circuit_breaker=circuit_breaker,
        rate_limit=rate_limit,
        persistence=persistence,
        fail_fast=fail_fast,
        on_exit=on_exit,
        inline=inline,
        on_error=on_error,
        on_event=on_event,
    )
    return Scope(options)


def current_scope() -> Scope | None:
    """Return the innermost scope around the calling code, or ``None``."""
    frame = current.get()
    while frame is not None and not isinstance(frame, Scope):
        frame = frame._outer
    return frame
