"""The spans and the metrics of a program that uses everything, compared with what is expected."""

from __future__ import annotations

import anyio
import pytest
from opentelemetry.trace import StatusCode

from gogoscope import CircuitBreaker, Once, Retry, scope
from gogoscope.stores.memory import MemoryStore
from gogoscope.testing import VirtualClock
from tests.support.exported import Exported

# In virtual time, which uvloop cannot keep.
pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])]


async def charge() -> str:
    return "charged"


async def load() -> int:
    return 1


class Flaky:
    """Fails so many times, then no more."""

    def __init__(self, failures: int) -> None:
        self.left = failures

    async def call(self) -> str:
        self.left -= 1
        if self.left >= 0:
            raise ConnectionError("no line")
        return "sent"


async def broken() -> None:
    raise ValueError("broken")


async def everything() -> None:
    """Use what there is, one after the other, so that there is one order of things."""
    breaker = CircuitBreaker("bank", failure_threshold=1, reset_timeout=10)

    async def order() -> str:
        async with s.lock("order:1") as locked:
            await locked.call(charge)
        return await s.call(charge, once=Once("charge:1", keep=60), name="pay")

    async def wait_for_lock() -> None:
        async with s.lock("order:2"):
            pass

    async with scope(name="shop", persistence=MemoryStore()) as s:
        await s.call(order, name="order")
        assert await s.call(charge, once=Once("charge:1", keep=60), name="pay again") == "charged"
        await s.call(Flaky(1).call, retry=Retry(2, delay=0), name="send")
        _ = (await s.task(broken)).error
        _ = (await s.task(anyio.sleep, 10, timeout=1, name="slow")).error
        assert await s.cache.get_or_set("price:1", load, 60) == 1
        assert await s.cache.get_or_set("price:1", load, 60) == 1
        _ = (await s.task(broken, circuit_breaker=breaker, name="bank down")).error
        _ = (await s.task(charge, circuit_breaker=breaker, name="bank refused")).error
        await anyio.sleep(20)
        await s.call(charge, circuit_breaker=breaker, name="bank up")
        async with s.job("import:1") as job:
            await job.save(1)
            await job.call(load)
        held = await s.acquire_lock("order:2", 5)
        assert held is not None
        waiting = s.task(wait_for_lock)
        await anyio.sleep(1)
        await held.release()
        await waiting.wait()
        stopped = s.task(anyio.sleep_forever, name="endless")
        await anyio.sleep(1)
        stopped.cancel("enough")
        await stopped.wait()
        assert [result.value async for result in s.map(Flaky.call, [Flaky(0), Flaky(0)])]


async def test_the_tree_of_spans(exported: Exported, virtual_clock: VirtualClock) -> None:
    await everything()
    assert exported.tree() == [
        "scope shop",
        "  task order",
        "    lock hold",
        "      scope shop holding order:1",
        "        task charge",
        "    task pay",
        "      run",
        "        scope shop running charge:1",
        "  task pay again",
        "    scope shop running charge:1",
        "  task send",
        "  task broken",
        "  task slow",
        "  cache load",
        "  task bank down",
        "  task bank refused",
        "  task bank up",
        "    circuit probe",
        "  job",
        "    scope shop at job import:1",
        "      task load",
        "  lock hold",
        "  task everything.<locals>.wait_for_lock",
        "    lock wait",
        "    lock hold",
        "      scope shop holding order:2",
        "  task endless",
        "  task Flaky.call",
        "  task Flaky.call",
    ]


async def test_what_the_spans_say(exported: Exported, virtual_clock: VirtualClock) -> None:
    await everything()
    wait, hold = exported.span("lock wait"), exported.span("lock hold", 1)
    assert [link.context.span_id for link in wait.links] == [hold.context.span_id]
    assert dict(hold.attributes)["gogoscope.lock.key"] == "order:2"
    assert dict(hold.attributes)["gogoscope.lock.freed"] is True
    failed = exported.span("task broken")
    assert failed.status.status_code is StatusCode.ERROR
    assert [event.name for event in failed.events] == ["exception"]
    assert failed.events[0].attributes["exception.type"] == "ValueError"
    assert [event.name for event in exported.span("task send").events] == ["retry"]
    assert exported.span("task send").status.status_code is StatusCode.UNSET
    assert [event.name for event in exported.span("task slow").events] == ["timeout", "exception"]
    stopped = exported.span("task endless")
    assert dict(stopped.attributes)["gogoscope.cancelled"] is True
    assert dict(stopped.attributes)["gogoscope.cancel.reason"] == "enough"
    assert stopped.status.status_code is StatusCode.UNSET
    assert dict(exported.span("job").attributes) == {
        "gogoscope.scope.name": "shop",
        "gogoscope.job.key": "import:1",
        "gogoscope.job.fencing_token": exported.span("job").attributes[
            "gogoscope.job.fencing_token"
        ],
        "gogoscope.job.resumed": False,
        "gogoscope.job.finished": True,
    }
    assert dict(exported.span("run").attributes)["gogoscope.run.outcome"] == "completed"
    assert len({span.context.trace_id for span in exported.spans if span.context}) == 1


async def test_the_metrics(exported: Exported, virtual_clock: VirtualClock) -> None:
    await everything()
    assert exported.metrics() == {
        (f"gogoscope.{name}", *attributes): value
        for (name, *attributes), value in {
            ("scope.duration", "shop", "succeeded"): 1,
            ("scope.duration", "shop holding", "succeeded"): 2,
            ("scope.duration", "shop running", "succeeded"): 2,
            ("scope.duration", "shop at job", "succeeded"): 1,
            ("task.active", "shop"): 0,
            ("task.active", "shop holding"): 0,
            ("task.active", "shop at job"): 0,
            ("task.duration", "shop", "order", "succeeded"): 1,
            ("task.duration", "shop", "pay", "succeeded"): 1,
            ("task.duration", "shop", "pay again", "succeeded"): 1,
            ("task.duration", "shop", "send", "succeeded"): 1,
            ("task.duration", "shop", "broken", "failed", "ValueError"): 1,
            ("task.duration", "shop", "slow", "failed", "TimeoutError"): 1,
            ("task.duration", "shop", "bank down", "failed", "ValueError"): 1,
            ("task.duration", "shop", "bank refused", "failed", "CircuitOpenError"): 1,
            ("task.duration", "shop", "bank up", "succeeded"): 1,
            ("task.duration", "shop", "everything.<locals>.wait_for_lock", "succeeded"): 1,
            ("task.duration", "shop", "endless", "cancelled"): 1,
            ("task.duration", "shop", "Flaky.call", "succeeded"): 2,
            ("task.duration", "shop holding", "charge", "succeeded"): 1,
            ("task.duration", "shop at job", "load", "succeeded"): 1,
            ("task.retries", "shop", "send"): 1,
            ("task.timeouts", "shop", "slow"): 1,
            ("lock.wait.duration", "shop", "acquired"): 3,
            ("lock.hold.duration", "shop", "released"): 3,
            ("run.duration", "shop", "completed"): 1,
            ("run.found", "shop"): 1,
            ("job.duration", "shop", "finished"): 1,
            ("job.saves", "shop"): 1,
            ("cache.lookups", "shop", "hit"): 1,
            ("cache.lookups", "shop", "miss"): 1,
            ("cache.load.duration", "shop", "succeeded"): 1,
            ("circuit.changes", "bank", "open"): 1,
            ("circuit.changes", "bank", "half-open"): 1,
            ("circuit.changes", "bank", "closed"): 1,
            ("circuit.rejections", "bank"): 1,
            ("circuit.probes", "bank", "succeeded"): 1,
            ("store.request.duration", "claim_lock", "succeeded"): 3,
            ("store.request.duration", "release_lock", "succeeded"): 3,
            ("store.request.duration", "hand_over_lock", "succeeded"): 1,
            ("store.request.duration", "claim_run", "succeeded"): 2,
            ("store.request.duration", "complete_run", "succeeded"): 1,
            ("store.request.duration", "claim_job", "succeeded"): 1,
            ("store.request.duration", "renew_job", "succeeded"): 1,
            ("store.request.duration", "finish_job", "succeeded"): 1,
            ("store.request.duration", "acquire", "succeeded"): 1,
            ("store.request.duration", "get_entry", "succeeded"): 3,
            ("store.request.duration", "set", "succeeded"): 1,
        }.items()
    }


async def test_durations_are_in_seconds_and_counts_have_units(
    exported: Exported, virtual_clock: VirtualClock
) -> None:
    await everything()
    units = exported.units()
    assert {unit for name, unit in units.items() if name.endswith(".duration")} == {"s"}
    assert all(
        unit.startswith("{") for name, unit in units.items() if not name.endswith(".duration")
    )
