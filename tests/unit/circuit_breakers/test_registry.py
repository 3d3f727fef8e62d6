"""Which circuit a policy without a name is at work on."""

from __future__ import annotations

import gc
import os
import runpy
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from gogoscope import CircuitBreaker, CircuitOpenError, Scope, open_persistence, scope
from gogoscope.circuit_breakers.registry import IDLE_SECONDS, MANY, Circuits, here, recent
from gogoscope.exceptions import StoreConnectionError
from gogoscope.persistence import CircuitBreakerState, FailureReport
from gogoscope.stores import MemoryStore
from gogoscope.testing import VirtualClock

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
SCRIPT = """
import anyio
from gogoscope import CircuitBreaker, scope

async def fetch():
    raise OSError("broken")

async def main():
    async with scope(persistence={url!r}) as s:
        _ = (await s.task(CircuitBreaker().call, fetch)).error

if __name__ == "__main__":
    anyio.run(main)
"""


@pytest.mark.anyio
async def test_functions_of_the_same_name_in_two_scripts_have_two_circuits(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/circuits.db"

    def run_scripts() -> None:
        for name in ("billing", "shipping"):
            script = tmp_path / f"{name}.py"
            script.write_text(SCRIPT.format(url=url))
            runpy.run_path(str(script), run_name="__main__")

    await anyio.to_thread.run_sync(run_scripts)
    async with open_persistence(url) as store:
        circuits = await store.circuits()
    assert {name: state.failure_count for name, state in circuits.items()} == {
        "billing.fetch": 1,
        "shipping.fetch": 1,
    }


class StoreThatFailsOnce(MemoryStore):
    """A store that fails while a scope waits for its background work, and then works again."""

    failed = False

    async def count_failures(self, key: str, report: FailureReport) -> CircuitBreakerState:
        if not self.failed:
            self.failed = True
            await anyio.sleep(0.05)
            raise StoreConnectionError("one broken connection")
        return await super().count_failures(key, report)


@pytest.mark.anyio
async def test_a_store_that_fails_once_while_the_scope_ends_is_told_all_the_same() -> None:
    async def fail() -> None:
        raise ValueError("planned")

    store = StoreThatFailsOnce()
    breaker = CircuitBreaker("payments", failure_threshold=2)
    async with scope(persistence=store):
        for _ in range(2):
            with pytest.raises(ValueError, match="planned"):
                await breaker.call(fail)
    state = await store.get_state("payments")
    assert state is not None
    assert (state.state, state.failure_count) == ("open", 2)


@pytest.mark.anyio
@pytest.mark.parametrize("module", ["billing", "shipping"])
async def test_a_function_of_a_package_that_is_run_is_named_after_the_package(
    tmp_path: Path, module: str
) -> None:
    url = f"sqlite:///{tmp_path}/circuits.db"
    (tmp_path / module).mkdir()
    (tmp_path / module / "__main__.py").write_text(SCRIPT.format(url=url))
    await anyio.run_process([sys.executable, "-m", module], cwd=tmp_path, env=ENVIRONMENT)
    async with open_persistence(url) as store:
        assert list(await store.circuits()) == [f"{module}.__main__.fetch"]


async def fine() -> int:
    return 1


async def broken() -> None:
    raise OSError("broken")


@pytest.mark.slow_elsewhere
@pytest.mark.anyio
async def test_breakers_that_are_written_where_they_are_used_keep_one_circuit() -> None:
    here.circuits.clear()
    recent.clear()
    async with scope(persistence=MemoryStore()) as s:
        for _ in range(10_000):
            inline = CircuitBreaker("inline", record=lambda error: True)
            assert await s.task(fine, circuit_breaker=inline) == (None, 1)
            assert await s.task(fine, circuit_breaker=CircuitBreaker()) == (None, 1)
        assert len(Circuits.of(s._home)._circuits) == 2
    for _ in range(1_000):
        assert await CircuitBreaker("inline outside").call(fine) == 1
        assert await CircuitBreaker().call(fine) == 1
        several = CircuitBreaker("inline outside")
        for _ in range(3):
            assert await several.call(fine) == 1
    assert len(here.circuits) == 2
    assert len(recent) <= 2
    gc.collect()
    alive = [kept for kept in gc.get_objects() if isinstance(kept, CircuitBreaker)]
    # Those of the two circuits, and those that the two variables still name.
    assert sum(policy.name in ("inline", "inline outside") for policy in alive) <= 4


@pytest.mark.anyio
async def test_failures_through_breakers_that_are_written_where_they_are_used_add_up() -> None:
    store = MemoryStore()
    async with scope(persistence=store) as s:
        for _ in range(3):
            inline = CircuitBreaker("inline", failure_threshold=3)
            _ = (await s.task(broken, circuit_breaker=inline)).error
        inline = CircuitBreaker("inline", failure_threshold=3)
        assert isinstance((await s.task(fine, circuit_breaker=inline)).error, CircuitOpenError)
    assert (await inline.state(store)).state == "open"


@pytest.mark.anyio
async def test_a_quorum_counts_a_process_once_however_often_it_opens_the_store(
    tmp_path: Path,
) -> None:
    breaker = CircuitBreaker("payments", failure_threshold=2, quorum=2)
    url = f"sqlite:///{tmp_path}/store.db"
    for _ in range(2):
        async with scope(persistence=url, circuit_breaker=breaker) as s:
            _ = (await s.task(broken)).error

    async def in_another_loop() -> None:
        async with scope(persistence=url, circuit_breaker=breaker) as s:
            _ = (await s.task(broken)).error

    await anyio.to_thread.run_sync(anyio.run, in_another_loop)
    async with open_persistence(url) as store:
        state = await breaker.state(store)
        assert (state.state, state.failure_count) == ("closed", 3)
        await store.count_failures("payments", FailureReport("another", 1, 2, 10_000, quorum=2))
        assert (await breaker.state(store)).state == "open"


@pytest.mark.slow_elsewhere
@pytest.mark.anyio
async def test_a_breaker_that_outlives_its_scope_still_tells_the_store() -> None:
    breaker = CircuitBreaker("payments", failure_threshold=2, reset_timeout=0.02)
    store = MemoryStore()
    may_call, ended = anyio.Event(), anyio.Event()

    async def outlive() -> None:
        await may_call.wait()
        for _ in range(2):
            with pytest.raises(OSError, match="broken"):
                await breaker.call(broken)
        state = await store.get_state("payments")
        assert state is not None
        assert state.state == "open"
        with pytest.raises(CircuitOpenError):
            await breaker.call(fine)
        await anyio.sleep(0.03)
        assert await breaker.call(fine) == 1
        state = await store.get_state("payments")
        assert state is not None
        assert state.state == "closed"
        await store.force_open("payments")
        with pytest.raises(CircuitOpenError), anyio.fail_after(5):
            while True:
                await breaker.call(fine)
                await anyio.sleep(0.05)
        ended.set()

    async with anyio.create_task_group() as group:
        async with scope(persistence=store) as s:

            async def start() -> None:
                await breaker.call(fine)
                group.start_soon(outlive)

            (await s.task(start)).unwrap()
        may_call.set()
    assert ended.is_set()


@pytest.mark.anyio
async def test_a_store_that_was_closed_with_its_scope_fails_no_call_that_outlives_it(
    tmp_path: Path,
) -> None:
    breaker = CircuitBreaker("payments", failure_threshold=2)
    may_call = anyio.Event()
    called: list[int] = []

    async def outlive() -> None:
        await may_call.wait()
        called.append(await breaker.call(fine))
        for _ in range(2):
            with pytest.raises(OSError, match="broken"):
                await breaker.call(broken)
        with pytest.raises(CircuitOpenError):
            await breaker.call(fine)

    async with anyio.create_task_group() as group:
        async with scope(persistence=f"sqlite:///{tmp_path}/store.db") as s:

            async def start() -> None:
                await breaker.call(fine)
                group.start_soon(outlive)

            (await s.task(start)).unwrap()
        may_call.set()
    assert called == [1]


@pytest.mark.anyio
async def test_a_breaker_of_a_scope_is_refused_in_another_event_loop() -> None:
    breaker = CircuitBreaker("payments")
    async with scope(persistence=MemoryStore()) as s:
        uses: list[Any] = [lambda: breaker.call(fine), breaker.state, breaker.force_open]
        for use in uses:
            with pytest.raises(RuntimeError, match=r"anyio\.from_thread"):
                (await s.thread(anyio.run, use)).unwrap()
        assert (await breaker.state()).version == 0
        assert await breaker.call(fine) == 1


@pytest.mark.anyio
async def test_a_scope_whose_name_utf_8_cannot_hold_has_a_circuit_in_the_store(
    tmp_path: Path,
) -> None:
    async def fetch() -> None:
        raise OSError("broken")

    async with open_persistence(f"sqlite:///{tmp_path}/circuits.db") as store:
        async with scope(
            name="script\udcff", persistence=store, circuit_breaker=CircuitBreaker()
        ) as s:
            _ = (await s.task(fetch)).error
        assert set(await store.circuits()) == {r"script\udcff"}


def test_a_long_scope_forgets_circuits_that_are_idle(virtual_clock: VirtualClock) -> None:
    async def program() -> None:
        async with scope(persistence=MemoryStore()) as s:
            for number in range(8 * MANY):
                assert await s.call(fine, circuit_breaker=CircuitBreaker(f"tenant {number}")) == 1
                if number % MANY == 0:
                    await anyio.sleep(2 * IDLE_SECONDS)
            assert len(Circuits.of(s._home)._circuits) <= 2 * MANY + 1

    virtual_clock.run(program)


class StoreThatIsAway(MemoryStore):
    """A store that takes no failures for a time."""

    away = False

    async def count_failures(self, key: str, report: FailureReport) -> CircuitBreakerState:
        if self.away:
            raise StoreConnectionError("away")
        return await super().count_failures(key, report)


def test_a_circuit_is_not_forgotten_that_has_a_call_or_something_to_send_or_counts(
    virtual_clock: VirtualClock,
) -> None:
    store = StoreThatIsAway()
    rated = CircuitBreaker(
        "rated", failure_rate=0.5, minimum_calls=2, window=20 * IDLE_SECONDS, reset_timeout=10**6
    )
    slow, unsent = CircuitBreaker("slow", failure_threshold=9), CircuitBreaker("unsent")

    async def slow_failure() -> None:
        await anyio.sleep(10 * IDLE_SECONDS)
        raise OSError

    async def many(s: Scope, kind: str) -> None:
        for number in range(3 * MANY):
            if number % MANY == 0:
                await anyio.sleep(2 * IDLE_SECONDS)
            await s.call(fine, circuit_breaker=CircuitBreaker(f"{kind} {number}"))

    async def program() -> None:
        async with scope(persistence=store) as s:
            circuits = Circuits.of(s._home)._circuits
            in_flight = s.task(slow_failure, circuit_breaker=slow)
            _ = (await s.task(broken, circuit_breaker=rated)).error
            store.away = True
            _ = (await s.task(broken, circuit_breaker=unsent)).error
            await many(s, "first")
            assert {"rated", "slow", "unsent"} <= circuits.keys()
            assert len(circuits) < 2 * MANY
            store.away = False
            _ = (await s.task(broken, circuit_breaker=rated)).error
            refused = await s.task(fine, circuit_breaker=rated)
            assert isinstance(refused.error, CircuitOpenError)
            _ = (await in_flight).error
            _ = (await s.task(broken, circuit_breaker=unsent)).error  # and what was not sent yet
            await many(s, "second")
            assert "rated" in circuits, "it is open"
            assert not {"slow", "unsent"} & circuits.keys()
        assert (await slow.state(store)).failure_count == 1
        assert (await unsent.state(store)).failure_count == 2

    virtual_clock.run(program)
