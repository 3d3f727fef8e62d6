"""Metrics, under names that stay: durations in seconds, and counts.

No key of a lock, run, job or cached value is an attribute of a metric, since there may be any
number of them. So a scope that a lease opens, whose name ends with the key, is told without it.

Events come from the threads of all event loops, and metrics are collected in yet another thread. So
each change is one step of a ``dict`` or a ``set``, or is made under a lock.

``_leases`` are those that are held, ``_queued`` is when tasks got into the line for a slot,
``_running`` are the scopes of the tasks whose functions run, by the ``id`` of their events;
``_active`` are the scopes that had such tasks. ``_labels`` are, by the names of open scopes that a
lease opened, the name without the key, and how many scopes have it; ``_naming`` is held meanwhile.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from time import monotonic
from typing import Any

from attrs import frozen
from opentelemetry.metrics import CallbackOptions, Histogram, Meter, Observation
from opentelemetry.util.types import AttributeValue

from gogoscope import events
from gogoscope._core.cancellation import says_cancelled
from gogoscope._core.forks import lock_across_forks
from gogoscope.events import Event

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
"""The bounds of the buckets of durations."""

SCOPE = "gogoscope.scope.name"
TASK = "gogoscope.task.name"
OUTCOME = "gogoscope.outcome"
ERROR = "error.type"


@frozen
class Lease:
    """A lease that is held: since when, in which scope, and what for."""

    began: float
    scope: str
    key: str


class Metrics:
    """Counts events, and measures what lies between them.

    :param meter: makes the instruments
    """

    def __init__(self, meter: Meter) -> None:
        def duration(of: str, what: str) -> Histogram:
            return meter.create_histogram(
                f"gogoscope.{of}.duration",
                "s",
                f"The duration of {what}.",
                explicit_bucket_boundaries_advisory=SECONDS,
            )

        count = meter.create_counter
        self._leases: dict[int, Lease] = {}
        self._labels: dict[str, tuple[str, int]] = {}
        self._naming = lock_across_forks()
        self._queued: dict[int, float] = {}
        self._running: dict[int, str] = {}
        self._scopes = duration("scope", "scopes")
        self._tasks = duration("task", "the functions of tasks, all attempts together")
        self._queues = duration("task.queue", "waits for a slot, where they are bounded")
        self._active: set[str] = set()
        meter.create_observable_up_down_counter(
            "gogoscope.task.active",
            [self._count_active],  # asked when metrics are collected: counting costs a task little
            "{task}",
            "The tasks whose functions run.",
        )
        self._retries = count("gogoscope.task.retries", "{retry}", "The retries of tasks.")
        self._timeouts = count("gogoscope.task.timeouts", "{timeout}", "The timeouts of tasks.")
        self._unhandled = count("gogoscope.errors.unhandled", "{error}", "Errors nobody read.")
        self._waits = duration("lock.wait", "waits for locks, those that are free included")
        self._holds = duration("lock.hold", "the time that locks are held")
        self._permit_waits = duration("permit.wait", "waits for permits, those free included")
        self._permits = duration("permit.hold", "the time that permits are held")
        self._limits = duration("rate_limit.wait", "waits for a place in a rate limit")
        self._limited = count("gogoscope.rate_limit.rejections", "{call}", "The calls refused.")
        self._ticks = duration("tick", "the ticks of schedules")
        self._missed = count("gogoscope.tick.misses", "{tick}", "The ticks that were left out.")
        self._losses = count("gogoscope.lease.losses", "{lease}", "The leases that were lost.")
        self._runs = duration("run", "runs")
        self._found = count("gogoscope.run.found", "{run}", "The results of runs done before.")
        self._jobs = duration("job", "the time that jobs are held")
        self._saves = count("gogoscope.job.saves", "{save}", "The saved states of jobs.")
        self._lookups = count("gogoscope.cache.lookups", "{lookup}", "The looks for cached values.")
        self._loads = duration("cache.load", "functions that load cached values")
        self._stale = count("gogoscope.cache.stale", "{value}", "The old values returned.")
        self._changes = count("gogoscope.circuit.changes", "{change}", "The changes of circuits.")
        self._rejected = count("gogoscope.circuit.rejections", "{call}", "The calls not admitted.")
        self._probes = count("gogoscope.circuit.probes", "{probe}", "The probes that ended.")
        self._requests = duration("store.request", "requests to stores")
        self._handlers: dict[type[Event], Callable[[Any], object]] = {
            events.ScopeStarted: self._scope_started,
            events.ScopeEnded: self._scope_ended,
            events.TaskQueued: self._task_queued,
            events.TaskStarted: self._task_started,
            events.TaskSucceeded: self._task_ended,
            events.TaskFailed: self._task_ended,
            events.TaskStopped: self._task_ended,
            events.RetryScheduled: lambda e: self._retries.add(1, self._of_task(e)),
            events.TaskTimedOut: lambda e: self._timeouts.add(1, self._of_task(e)),
            events.ErrorUnseen: lambda e: self._unhandled.add(1, self._of(e) | _failed(e.error)),
            events.LockTimedOut: lambda e: self._waited(e, "timed out"),
            events.LockWaitStopped: lambda e: self._waited(e, "stopped"),
            events.LockAcquired: self._lock_acquired,
            events.LockReleased: lambda e: self._lease_ended(
                e, self._holds, "released" if e.freed else "lost"
            ),
            events.PermitAcquired: self._permit_acquired,
            events.PermitReleased: lambda e: self._lease_ended(
                e, self._permits, "released" if e.freed else "lost"
            ),
            events.RateLimitWaited: lambda e: self._limits.record(e.seconds, _of_limit(e)),
            events.RateLimitExceeded: lambda e: self._limited.add(1, _of_limit(e)),
            events.TickStarted: self._tick_began,
            events.TickEnded: lambda e: self._tick_ended(e, _SUCCEEDED),
            events.TickFailed: lambda e: self._tick_ended(e, _failed(e.error)),
            events.TickStopped: lambda e: self._tick_ended(e, _CANCELLED),
            events.TicksMissed: lambda e: self._missed.add(e.count, _of_schedule(e)),
            events.LeaseLost: lambda e: self._losses.add(1, self._of(e)),
            events.RunStarted: self._lease_began,
            events.RunCompleted: lambda e: self._lease_ended(e, self._runs, "completed"),
            events.RunAbandoned: lambda e: self._lease_ended(e, self._runs, "abandoned"),
            events.RunFound: self._run_found,
            events.JobStarted: self._lease_began,
            events.JobSaved: lambda e: self._saves.add(1, self._of(e)),
            events.JobEnded: lambda e: self._lease_ended(
                e, self._jobs, "finished" if e.finished else "left"
            ),
            events.CacheHit: lambda e: self._looked(e, "local hit" if e.local else "hit"),
            events.CacheMissed: lambda e: self._looked(e, "miss"),
            events.CacheLoaded: lambda e: self._loads.record(
                e.seconds, self._of(e) | {OUTCOME: "succeeded"}
            ),
            events.CacheLoadFailed: lambda e: self._loads.record(
                e.seconds, self._of(e) | _failed(e.error)
            ),
            events.CacheStaleGiven: lambda e: self._stale.add(1, self._of(e)),
            events.CircuitStateChanged: self._circuit_changed,
            events.CircuitCallRejected: lambda e: self._rejected.add(1, _of_circuit(e)),
            events.CircuitProbeEnded: lambda e: self._probes.add(
                1, _of_circuit(e) | {OUTCOME: _VERDICTS[e.succeeded]}
            ),
            events.StoreAsked: self._asked,
        }

    def __call__(self, event: Event) -> None:
        """Count an event."""
        handler = self._handlers.get(type(event))
        if handler is not None:
            handler(event)

    def forget(self) -> None:
        """Count nothing that has begun before."""
        for begun in (self._leases, self._labels, self._queued, self._running):
            begun.clear()

    def _count_active(self, options: CallbackOptions) -> list[Observation]:
        running = Counter(list(self._running.values()))
        return [Observation(running[label], {SCOPE: label}) for label in list(self._active)]

    def _of(self, event: Event) -> dict[str, AttributeValue]:
        """Return the attributes of whatever happens in a scope."""
        return {SCOPE: self._label(event.scope)}

    def _of_task(self, event: Any) -> dict[str, AttributeValue]:
        return self._of(event) | {TASK: event.task}

    def _label(self, scope: str) -> str:
        known = self._labels.get(scope)
        return scope if known is None else known[0]

    def _scope_started(self, event: events.ScopeStarted) -> None:
        lease = self._leases.get(event.parent)
        if lease is not None:
            doing = event.scope.removeprefix(lease.scope).removesuffix(lease.key).strip()
            self._shorten(event.scope, f"{self._label(lease.scope)} {doing}")

    def _run_found(self, event: events.RunFound) -> None:
        self._found.add(1, self._of(event))
        # Its scope has no lease, since nothing runs.
        self._shorten(f"{event.scope} running {event.key}", f"{self._label(event.scope)} running")

    def _shorten(self, scope: str, label: str) -> None:
        """Tell of a scope under another name until it ends."""
        with self._naming:
            _, others = self._labels.get(scope, ("", 0))
            self._labels[scope] = label, others + 1

    def _scope_ended(self, event: events.ScopeEnded) -> None:
        outcome = _SUCCEEDED if event.error is None else _failed(event.error)
        self._scopes.record(event.seconds, self._of(event) | outcome)
        if event.scope not in self._labels:
            return
        with self._naming:
            label, scopes = self._labels.get(event.scope, ("", 1))
            if scopes > 1:
                self._labels[event.scope] = label, scopes - 1
            else:
                self._labels.pop(event.scope, None)

    def _task_queued(self, event: events.TaskQueued) -> None:
        self._queued[event.id] = monotonic()

    def _task_started(self, event: events.TaskStarted) -> None:
        queued = self._queued.pop(event.id, None)
        if queued is not None:
            self._queues.record(monotonic() - queued, self._of_task(event))
        label = self._running[event.id] = self._label(event.scope)
        self._active.add(label)

    def _task_ended(
        self, event: events.TaskSucceeded | events.TaskFailed | events.TaskStopped
    ) -> None:
        self._queued.pop(event.id, None)
        self._running.pop(event.id, None)
        match event:
            case events.TaskFailed():
                outcome = _failed(event.error)
            case events.TaskStopped():
                outcome = _CANCELLED
            case _:
                outcome = _SUCCEEDED
        self._tasks.record(event.seconds, self._of_task(event) | outcome)

    def _waited(self, event: events.LockTimedOut | events.LockWaitStopped, outcome: str) -> None:
        self._waits.record(event.seconds, self._of(event) | {OUTCOME: outcome})

    def _lock_acquired(self, event: events.LockAcquired) -> None:
        self._waits.record(event.seconds, self._of(event) | {OUTCOME: "acquired"})
        self._lease_began(event)

    def _permit_acquired(self, event: events.PermitAcquired) -> None:
        self._permit_waits.record(event.seconds, self._of(event) | {OUTCOME: "acquired"})
        self._lease_began(event)

    def _lease_began(
        self,
        event: events.LockAcquired | events.PermitAcquired | events.RunStarted | events.JobStarted,
    ) -> None:
        self._leases[event.id] = Lease(monotonic(), event.scope, event.key)

    def _lease_ended(self, event: Event, held: Histogram, outcome: str) -> None:
        lease = self._leases.pop(event.id, None)
        if lease is not None:
            held.record(monotonic() - lease.began, self._of(event) | {OUTCOME: outcome})

    def _tick_began(self, event: events.TickStarted) -> None:
        self._leases[event.id] = Lease(monotonic(), event.scope, event.schedule)

    def _tick_ended(self, event: events.ScheduleEvent, outcome: dict[str, AttributeValue]) -> None:
        lease = self._leases.pop(event.id, None)
        if lease is not None:
            self._ticks.record(monotonic() - lease.began, _of_schedule(event) | outcome)

    def _looked(self, event: Event, outcome: str) -> None:
        self._lookups.add(1, self._of(event) | {OUTCOME: outcome})

    def _circuit_changed(self, event: events.CircuitStateChanged) -> None:
        self._changes.add(1, _of_circuit(event) | {"gogoscope.circuit.state": event.new})

    def _asked(self, event: events.StoreAsked) -> None:
        outcome = _SUCCEEDED if event.error is None else _failed(event.error)
        self._requests.record(event.seconds, {"gogoscope.store.request": event.request} | outcome)


_SUCCEEDED: dict[str, AttributeValue] = {OUTCOME: "succeeded"}
_CANCELLED: dict[str, AttributeValue] = {OUTCOME: "cancelled"}
_VERDICTS = {True: "succeeded", False: "failed", None: "cancelled"}


def _failed(error: BaseException | None) -> dict[str, AttributeValue]:
    """Return what an error says of the outcome; ``None`` is a cancellation."""
    if error is None or says_cancelled(error):
        return _CANCELLED
    return {OUTCOME: "failed", ERROR: type(error).__qualname__}


def _of_limit(event: events.RateLimitEvent) -> dict[str, AttributeValue]:
    return {"gogoscope.rate_limit.name": event.limit}


def _of_schedule(event: events.ScheduleEvent) -> dict[str, AttributeValue]:
    return {"gogoscope.schedule.name": event.schedule}


def _of_circuit(event: events.CircuitEvent) -> dict[str, AttributeValue]:
    return {"gogoscope.circuit.name": event.circuit}
