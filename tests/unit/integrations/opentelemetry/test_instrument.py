"""Instrumenting a process: how it begins and ends, and which span is the parent of which."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import pytest
from opentelemetry import trace
from opentelemetry.metrics import Observation
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import StatusCode

from gogoscope import BackendUnavailableError, Cache, RateLimit, RateLimitExceededError, scope
from gogoscope.events import lookers, subscribers
from gogoscope.integrations.opentelemetry import instrument, metrics, uninstrument
from gogoscope.stores.memory import MemoryStore
from tests.support.exported import Exported

pytestmark = pytest.mark.anyio


async def fine() -> str:
    return "fine"


async def test_a_second_call_changes_nothing(exported: Exported) -> None:
    again = instrument(tracer_provider=exported.tracers, meter_provider=exported.meters)
    assert again is instrument()
    async with scope(name="s"):
        pass
    assert exported.tree() == ["scope s"]


def test_other_providers_are_refused_while_it_lasts(exported: Exported) -> None:
    with pytest.raises(RuntimeError, match="call uninstrument"):
        instrument(tracer_provider=TracerProvider())


async def test_after_its_end_nothing_is_observed(exported: Exported) -> None:
    handle = instrument()
    async with scope(name="open"):
        handle.uninstrument()
        handle.uninstrument()
        uninstrument()
        async with scope(name="later") as s:
            await s.call(fine)
    assert exported.tree() == ["scope open"]
    assert subscribers == []
    assert lookers == []


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
async def test_a_forked_process_counts_and_ends_nothing_of_its_parent(exported: Exported) -> None:
    async def fork() -> bool:
        if (pid := os.fork()) == 0:
            running = exported.metrics()["gogoscope.task.active", "parent"]
            uninstrument()
            os._exit(0 if running == 0 and exported.spans == [] else 1)
        return os.waitpid(pid, 0)[1] == 0

    async with scope(name="parent") as s:
        assert await s.call(fork)


async def test_tasks_that_run_are_counted_while_others_begin_in_another_thread(
    exported: Exported, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Metrics are collected in a thread of their own."""

    async def work() -> None:
        await anyio.sleep(0)

    def begin_more() -> None:
        async def more() -> None:
            async with scope(name=f"scope {len(begun)}") as s:
                await s.call(work, retry=2)

        begun.append(1)
        anyio.run(more)

    def observe(*args: Any) -> Observation:
        with ThreadPoolExecutor(1) as threads:
            threads.submit(begin_more).result()
        return Observation(*args)

    begun: list[int] = []
    async with scope(name="first") as s:
        await s.call(work)
        monkeypatch.setattr(metrics, "Observation", observe)
        exported.metrics()
    assert begun
    assert caplog.records == []


async def test_a_task_has_the_span_that_was_current_where_it_was_started(
    exported: Exported,
) -> None:
    tracer = trace.get_tracer("test", tracer_provider=exported.tracers)

    async def outer() -> None:
        with tracer.start_as_current_span("by hand"):
            s.task(inner, name="inner")
        s.task(beside, name="beside")

    async def inner() -> None:
        await anyio.sleep(0)
        with tracer.start_as_current_span("inside"):
            await anyio.sleep(0)

    async def beside() -> None:
        await anyio.sleep(0)

    with tracer.start_as_current_span("request"):
        async with scope(name="s") as s:
            s.task(outer, name="outer")
    assert exported.tree() == [
        "request",
        "  scope s",
        "    task outer",
        "      by hand",
        "        task inner",
        "          inside",
        "      task beside",
    ]


async def test_the_code_around_has_its_own_span_again(
    exported: Exported, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    tracer = trace.get_tracer("test", tracer_provider=exported.tracers)
    with tracer.start_as_current_span("request") as request:
        async with scope(name="s", persistence=MemoryStore()) as s:
            inside = trace.get_current_span()
            await s.call(fine)
            await s.cache.get_or_set("a", fine, 60)
            _ = await s.all(s.task(fine, dedupe=1), s.task(fine, dedupe=1))
            async with s.lock("a"):
                pass
            assert trace.get_current_span() is inside is not request
        assert trace.get_current_span() is request
    assert not trace.get_current_span().get_span_context().is_valid
    assert caplog.text == ""


async def test_calls_that_share_a_task_have_a_span_each(exported: Exported) -> None:
    async with scope(name="s") as s:
        calls = [s.task(fine, name=f"call {n}", dedupe=1) for n in range(2)]
        _ = await s.all(*calls)
    assert sorted(exported.tree()) == ["  task call 0", "  task call 0", "  task call 1", "scope s"]


async def test_a_load_outside_of_scopes_has_a_span(exported: Exported) -> None:
    cache = Cache(MemoryStore())
    for _ in range(2):
        assert await cache.get_or_set("a", fine, 60) == "fine"
    assert exported.tree() == ["cache load"]
    assert exported.metrics()["gogoscope.cache.lookups", "", "hit"] == 1


async def test_a_task_in_the_line_for_a_slot_is_measured(exported: Exported) -> None:
    async with scope(name="s", concurrency=1) as s:
        _ = await s.all(s.task(anyio.sleep, 0.01, name="a"), s.task(fine, name="b"))
    assert [event.name for event in exported.span("task b").events] == ["queued", "started"]
    assert exported.metrics()["gogoscope.task.queue.duration", "s", "b"] == 1


async def test_a_waiter_is_linked_to_a_holder_in_another_process(exported: Exported) -> None:
    """Which is another event loop's, as far as the queue of the lock can tell."""
    store = MemoryStore()
    tracer = trace.get_tracer("test", tracer_provider=exported.tracers)
    with tracer.start_as_current_span("other process") as other:
        ids = other.get_span_context()
        metadata = {"traceparent": f"00-{ids.trace_id:032x}-{ids.span_id:016x}-01"}
    async with scope(name="holder", persistence=store) as s, s.lock("a", metadata=metadata):
        handle = await store.holder("a")
        assert handle is not None
        assert handle.metadata["traceparent"] == metadata["traceparent"]
        async with scope(name="waiter", persistence=store.with_prefix("")) as t:
            assert await t.acquire_lock("a", 5, wait=0.05) is None
    (link,) = exported.span("lock wait").links
    assert link.context.span_id == ids.span_id
    assert exported.span("lock wait").status.status_code is StatusCode.ERROR


async def test_a_holder_tells_of_its_trace(exported: Exported) -> None:
    store = MemoryStore()
    async with scope(name="s", persistence=store) as s, s.lock("a"):
        holder = await store.holder("a")
    span = exported.span("scope s").context
    assert holder is not None
    trace_parent = f"00-{span.trace_id:032x}-{span.span_id:016x}-"
    assert holder.metadata["traceparent"].startswith(trace_parent)


class UnreadableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even that")


async def test_an_error_that_cannot_be_read_ends_its_span(exported: Exported) -> None:
    async def broken() -> None:
        raise UnreadableError

    async with scope(name="s") as s:
        _ = (await s.task(broken, name="broken")).error
    assert exported.tree() == ["scope s", "  task broken"]
    assert exported.span("task broken").status.status_code is StatusCode.ERROR


async def test_an_error_of_the_body_is_that_of_its_scope(exported: Exported) -> None:
    with pytest.raises(KeyError):
        async with scope(name="s"):
            raise KeyError("body")
    assert exported.span("scope s").status.status_code is StatusCode.ERROR


async def test_a_cancellation_is_no_error(exported: Exported) -> None:
    with anyio.move_on_after(0.01):
        async with scope(name="s") as s:
            await s.call(anyio.sleep_forever, name="endless")
    for name in ("scope s", "task endless"):
        span = exported.span(name)
        assert span.attributes["gogoscope.cancelled"] is True
        assert span.status.status_code is StatusCode.UNSET


def test_without_the_extra_it_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['opentelemetry.metrics'] = None\n"
        "try:\n    import gogoscope.integrations.opentelemetry\n"
        "except ImportError as error:\n    print(type(error).__name__, error)"
    )
    told = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    assert told.startswith(BackendUnavailableError.__name__)
    assert "pip install 'gogoscope[otel]'" in told


async def test_a_permit_has_a_span_and_a_call_that_a_rate_limit_refuses_is_counted(
    exported: Exported,
) -> None:
    calls = RateLimit("calls", rate=1, per=3600, burst=1, wait=0)
    async with scope(name="s", persistence=MemoryStore()) as s:
        async with s.semaphore("seats", limit=2):
            pass
        async with calls.acquire():
            pass
        with pytest.raises(RateLimitExceededError):
            await calls.acquire().__aenter__()
    assert exported.tree() == [
        "scope s",
        "  permit hold",
        "    scope s holding a permit of seats",
    ]
    metrics = exported.metrics()
    assert metrics["gogoscope.permit.hold.duration", "s", "released"] == 1
    assert metrics["gogoscope.permit.wait.duration", "s", "acquired"] == 1
    assert metrics["gogoscope.rate_limit.rejections", "calls"] == 1
