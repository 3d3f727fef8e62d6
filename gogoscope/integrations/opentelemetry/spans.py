"""Spans: of whatever lasts, from its first event to its last.

The parent of a span is the span that is current where its first event happens. That is right over
the boundaries of tasks: a task runs in a copy of the context in which it was started, and its own
span becomes the current one in that copy alone. The span of a scope is current in its body, that of
a load while the function runs. Only the scope of a lease has another parent: the span of the lease.

``_open`` has the spans that have not ended, by the ``id`` of their events.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from attrs import define
from opentelemetry import context as contexts
from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    Span,
    SpanContext,
    StatusCode,
    Tracer,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from gogoscope import events
from gogoscope._core.cancellation import says_cancelled
from gogoscope._core.place import number_here
from gogoscope.events import Event, description

_traces = TraceContextTextMapPropagator()

CANCELLED = "gogoscope.cancelled"
REASON = "gogoscope.cancel.reason"


@define(eq=False)
class Opened:
    """A span that has not ended.

    ``before`` is the context to go back to at its end, if it became the current one in a context
    that is not its own. ``is_lease`` tells that the scope inside of it is to be its child.
    """

    span: Span
    before: Context | None = None
    is_lease: bool = False


class Spans:
    """Makes spans of events.

    :param tracer: makes them
    """

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._open: dict[int, Opened] = {}
        self._handlers: dict[type[Event], Callable[[Any], object]] = {
            events.ScopeStarted: self._scope_started,
            events.ScopeCancelled: self._cancelled,
            events.ScopeEnded: self._scope_ended,
            events.TaskQueued: self._task_queued,
            events.TaskStarted: self._task_started,
            events.TaskSucceeded: self._end,
            events.TaskFailed: self._failed,
            events.TaskTimedOut: self._noted,
            events.TaskStopped: self._task_stopped,
            events.RetryScheduled: self._retried,
            events.LockWaiting: self._lock_waiting,
            events.LockTimedOut: self._lock_timed_out,
            events.LockWaitStopped: self._failed,
            events.LockAcquired: self._lock_acquired,
            events.LockReleased: self._lock_released,
            events.LeaseLost: self._lease_lost,
            events.PermitAcquired: self._permit_acquired,
            events.PermitReleased: self._permit_released,
            events.TickStarted: self._tick_started,
            events.TickEnded: self._end,
            events.TickFailed: self._failed,
            events.TickStopped: self._tick_stopped,
            events.RunStarted: self._run_started,
            events.RunCompleted: self._run_completed,
            events.RunAbandoned: self._run_abandoned,
            events.JobStarted: self._job_started,
            events.JobSaved: self._job_saved,
            events.JobEnded: self._job_ended,
            events.CacheLoadStarted: self._load_started,
            events.CacheLoadFailed: self._failed,
            events.CacheLoaded: self._end,
            events.CircuitProbeStarted: self._probe_started,
            events.CircuitProbeEnded: self._probe_ended,
        }

    def __call__(self, event: Event) -> None:
        """Begin or end the span of what an event tells of, or note the event in it."""
        handler = self._handlers.get(type(event))
        if handler is not None:
            handler(event)

    def forget(self) -> None:
        """Let others end the spans that are open."""
        self._open.clear()

    def close(self) -> None:
        """End the spans that are open."""
        while self._open:
            self._open.popitem()[1].span.end()

    def _begin(
        self,
        event: Event,
        name: str,
        attributes: Mapping[str, str | int | float | bool],
        *,
        links: list[Link] | None = None,
        is_lease: bool = False,
    ) -> Opened:
        around = self._open.get(event.parent)
        context = None
        if around is not None and around.is_lease:
            context = set_span_in_context(around.span)
        span = self._tracer.start_span(
            name,
            context,
            attributes={"gogoscope.scope.name": event.scope, **attributes},
            links=links,
        )
        opened = self._open[event.id] = Opened(span, is_lease=is_lease)
        return opened

    def _end(self, event: Event) -> None:
        opened = self._open.pop(event.id, None)
        if opened is not None:
            if opened.before is not None and get_current_span() is opened.span:
                contexts.attach(opened.before)
            opened.span.end()

    def _make_current(self, opened: Opened) -> None:
        """Let what the code here does be inside of a span, until it ends."""
        opened.before = contexts.get_current()
        contexts.attach(set_span_in_context(opened.span))

    def _span(self, event: Event) -> Span | None:
        opened = self._open.get(event.id)
        return None if opened is None else opened.span

    # What several kinds of spans have in common.

    def _failed(self, event: Any) -> None:
        """End a span with an error, or as cancelled."""
        span = self._span(event)
        if span is not None:
            if event.error is None:
                span.set_attribute(CANCELLED, True)
            else:
                _tell_error(span, event.error)
        self._end(event)

    def _cancelled(self, event: Any) -> None:
        span = self._span(event)
        if span is not None:
            span.set_attribute(CANCELLED, True)
            if event.reason is not None:
                span.set_attribute(REASON, str(event.reason))

    def _noted(self, event: events.TaskTimedOut) -> None:
        span = self._span(event)
        if span is not None:
            span.add_event("timeout", {"gogoscope.timeout": event.timeout})

    # Scopes and tasks.

    def _scope_started(self, event: events.ScopeStarted) -> None:
        opened = self._begin(event, f"scope {event.scope}", {})
        if number_here() == event.id:
            self._make_current(opened)

    def _scope_ended(self, event: events.ScopeEnded) -> None:
        span = self._span(event)
        if span is not None and event.error is not None:
            _tell_error(span, event.error)
        self._end(event)

    def _task_queued(self, event: events.TaskQueued) -> None:
        opened = self._begin(event, f"task {event.task}", {"gogoscope.task.name": event.task})
        opened.span.add_event("queued")

    def _task_started(self, event: events.TaskStarted) -> None:
        opened = self._open.get(event.id)
        if opened is None:
            opened = self._begin(event, f"task {event.task}", {"gogoscope.task.name": event.task})
        else:
            opened.span.add_event("started")
        if number_here() == event.id:
            # In the context of the task, which ends with it. A call that joins another task
            # (dedupe) has none.
            contexts.attach(set_span_in_context(opened.span))

    def _task_stopped(self, event: events.TaskStopped) -> None:
        self._cancelled(event)
        self._end(event)

    def _retried(self, event: events.RetryScheduled) -> None:
        span = self._span(event)
        if span is not None:
            span.add_event(
                "retry",
                {
                    "gogoscope.retry.attempt": event.attempt,
                    "gogoscope.retry.delay": event.delay,
                    "exception.type": type(event.error).__qualname__,
                    "exception.message": description(event.error),
                },
            )

    # Leases.

    def _lock_waiting(self, event: events.LockWaiting) -> None:
        attributes = {"gogoscope.lock.key": event.key}
        if event.holder is not None:
            attributes["gogoscope.lock.holder"] = event.holder
        links = None
        waited_for = self._waited_for(event)
        if waited_for is not None and waited_for.is_valid:
            links = [Link(waited_for)]
        self._begin(event, "lock wait", attributes, links=links)

    def _waited_for(self, event: events.LockWaiting) -> SpanContext | None:
        """Return the span of who has the lock: of the lock itself in this process."""
        holder = self._open.get(event.held_by)
        if holder is not None:
            return holder.span.get_span_context()
        if event.traceparent is None:
            return None
        told = _traces.extract({"traceparent": event.traceparent}, Context())
        return get_current_span(told).get_span_context()

    def _lock_timed_out(self, event: events.LockTimedOut) -> None:
        span = self._span(event)
        if span is not None:
            span.set_status(StatusCode.ERROR, f"not free within {event.seconds:.3g} s")
        self._end(event)

    def _lock_acquired(self, event: events.LockAcquired) -> None:
        self._end(event)  # of the wait, if there was one
        self._begin_lease(event, "lock", event.key, event.fencing_token)

    def _begin_lease(
        self, event: Event, kind: str, key: str, token: int, **more: bool | str
    ) -> None:
        attributes: dict[str, str | int | bool] = {
            f"gogoscope.{kind}.key": key,
            f"gogoscope.{kind}.fencing_token": token,
        }
        attributes |= {f"gogoscope.{kind}.{name}": value for name, value in more.items()}
        name = f"{kind} hold" if kind in ("lock", "permit") else kind
        self._begin(event, name, attributes, is_lease=True)

    def _lock_released(self, event: events.LockReleased) -> None:
        self._set(event, "gogoscope.lock.freed", event.freed)
        self._end(event)

    def _permit_acquired(self, event: events.PermitAcquired) -> None:
        self._begin_lease(event, "permit", event.key, event.fencing_token, what=event.what)

    def _permit_released(self, event: events.PermitReleased) -> None:
        self._set(event, "gogoscope.permit.freed", event.freed)
        self._end(event)

    def _lease_lost(self, event: events.LeaseLost) -> None:
        span = self._span(event)
        if span is not None:
            span.set_status(StatusCode.ERROR, f"the lease was lost: {event.reason}")

    def _run_started(self, event: events.RunStarted) -> None:
        self._begin_lease(event, "run", event.key, event.fencing_token)

    def _run_completed(self, event: events.RunCompleted) -> None:
        self._set(event, "gogoscope.run.outcome", "completed")
        self._end(event)

    def _run_abandoned(self, event: events.RunAbandoned) -> None:
        self._set(event, "gogoscope.run.outcome", "abandoned")
        self._end(event)

    def _job_started(self, event: events.JobStarted) -> None:
        self._begin_lease(event, "job", event.key, event.fencing_token, resumed=event.resumed)

    def _job_saved(self, event: events.JobSaved) -> None:
        span = self._span(event)
        if span is not None:
            done = {"gogoscope.job.done": event.done, "gogoscope.job.total": event.total}
            span.add_event("saved", {name: n for name, n in done.items() if n is not None})

    def _job_ended(self, event: events.JobEnded) -> None:
        self._set(event, "gogoscope.job.finished", event.finished)
        self._end(event)

    def _tick_started(self, event: events.TickStarted) -> None:
        attributes: dict[str, str | int] = {
            "gogoscope.schedule.name": event.schedule,
            "gogoscope.tick.at": event.at.isoformat(),
            "gogoscope.tick.attempt": event.attempt,
        }
        self._begin(event, f"tick {event.schedule}", attributes, is_lease=True)

    def _tick_stopped(self, event: events.TickStopped) -> None:
        self._set(event, CANCELLED, True)
        self._end(event)

    # Cache and circuit breakers.

    def _load_started(self, event: events.CacheLoadStarted) -> None:
        self._make_current(self._begin(event, "cache load", {"gogoscope.cache.key": event.key}))

    def _probe_started(self, event: events.CircuitProbeStarted) -> None:
        self._begin(event, "circuit probe", {"gogoscope.circuit.name": event.circuit})

    def _probe_ended(self, event: events.CircuitProbeEnded) -> None:
        if event.succeeded is None:
            self._set(event, CANCELLED, True)
        else:
            self._set(event, "gogoscope.circuit.probe.succeeded", event.succeeded)
        self._end(event)

    def _set(self, event: Event, name: str, value: str | bool) -> None:
        span = self._span(event)
        if span is not None:
            span.set_attribute(name, value)


def _tell_error(span: Span, error: BaseException) -> None:
    """Note in a span the error that ends it; a cancellation is none."""
    if says_cancelled(error):
        span.set_attribute(CANCELLED, True)
        return
    told = description(error)
    try:
        span.record_exception(error)
    except Exception:  # noqa: BLE001 - it cannot even be looked at
        span.add_event("exception", {"exception.type": type(error).__qualname__})
    span.set_status(StatusCode.ERROR, told)


def trace_here() -> Mapping[str, str]:
    """Return what tells other processes of the current span."""
    told: dict[str, str] = {}
    _traces.inject(told)
    return {"traceparent": told["traceparent"]} if "traceparent" in told else {}
