"""``once=``: a function has its effect once for a key, and later callers get its result."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import anyio
import pytest

from gogoscope import (
    CapabilityNotSupportedError,
    CircuitBreaker,
    KeptError,
    LeaseLostError,
    Once,
    OutcomeUnknownError,
    PayloadMismatchError,
    Persistence,
    ResultNotKeptError,
    RunError,
    RunInProgressError,
    Scope,
    StoreConnectionError,
    TaskCancelled,
    UnexpectedStoreError,
    current_scope,
    scope,
)
from gogoscope.events import Event, RunCompleted, RunFound, RunStarted
from gogoscope.persistence.values import JSONCodec
from gogoscope.stores import MemoryStore
from gogoscope.testing import VirtualClock
from tests.support.hostile_errors import HOSTILE, hostile
from tests.unit.runs.run_store import RunStore, another_process

pytestmark = pytest.mark.anyio


class Effect:
    """Counts how often it was had."""

    def __init__(self, value: Any = "receipt", error: Exception | None = None) -> None:
        self.calls = 0
        self.value = value
        self.error = error
        self.began = anyio.Event()
        self.may_end = anyio.Event()
        self.may_end.set()

    async def __call__(self) -> Any:
        self.calls += 1
        self.began.set()
        await self.may_end.wait()
        if self.error is not None:
            raise self.error
        return self.value


@pytest.fixture
def store() -> RunStore:
    return RunStore()


async def test_a_second_call_returns_the_kept_result_and_calls_nothing(store: RunStore) -> None:
    effect = Effect({"id": 7, "lines": [1, 2.5, None]})
    async with scope(persistence=store) as s:
        first = await s.call(effect, once=Once("charge", 60))
        again = await s.call(effect, once=Once("charge", 60))
    assert first == again == effect.value
    assert again is not effect.value
    assert effect.calls == 1


async def test_callers_at_the_same_time_wait_for_one_run(store: RunStore) -> None:
    effect = Effect()
    effect.may_end = anyio.Event()
    async with scope(persistence=store) as s, scope(persistence=another_process(store)) as t:
        tasks = [u.task(effect, once=Once("charge", 60)) for u in (s, t) for _ in range(20)]
        await effect.began.wait()
        effect.may_end.set()
        assert [(await task).unwrap() for task in tasks] == ["receipt"] * 40
    assert effect.calls == 1


async def test_many_callers_of_one_process_make_no_more_requests_than_one(store: RunStore) -> None:
    effect = Effect()
    effect.may_end = anyio.Event()
    async with scope(persistence=store) as s:
        tasks = [s.task(effect, once=Once("charge", 60)) for _ in range(50)]
        await anyio.wait_all_tasks_blocked()
        effect.may_end.set()
        for task in tasks:
            (await task).unwrap()
        assert (store.calls["claim"], store.calls["complete"]) == (1, 1)
        await s.call(effect, once=Once("charge", 60))
        assert (store.calls["claim"], store.calls["complete"]) == (2, 1)


async def test_the_result_is_forgotten_after_its_time(store: RunStore) -> None:
    effect = Effect()
    async with scope(persistence=store) as s:
        await s.call(effect, once=Once("charge", timedelta(seconds=60)))
        store.clock.now += 59.9
        await s.call(effect, once=Once("charge", 60))
        assert effect.calls == 1
        store.clock.now += 0.2
        await s.call(effect, once=Once("charge", None))
        store.clock.now += 100 * 365 * 86_400
        await s.call(effect, once=Once("charge", 60))
    assert effect.calls == 2


async def test_after_an_error_the_next_caller_runs(store: RunStore) -> None:
    effect = Effect(error=OSError("broken"))
    async with scope(persistence=store) as s:
        for _ in range(2):
            assert isinstance((await s.task(effect, once=Once("charge", 60))).error, OSError)
        effect.error = None
        assert await s.call(effect, once=Once("charge", 60)) == "receipt"
    assert effect.calls == 3


async def test_an_error_that_is_to_be_kept_is_raised_for_later_callers(store: RunStore) -> None:
    effect = Effect(error=ValueError("card expired", 17))
    once = Once("charge", 60, keep_errors=(ValueError, KeyError))
    async with scope(persistence=store) as s:
        assert (await s.task(effect, once=once)).error is effect.error
        error = (await s.task(effect, once=once)).error
    assert isinstance(error, KeptError)
    assert error.error_type == "builtins.ValueError"
    assert error.arguments == ("card expired", 17)
    assert "card expired" in str(error)
    assert effect.calls == 1


async def test_all_attempts_together_are_one_run(store: RunStore) -> None:
    effect = Effect(error=OSError("broken"))

    async def recovering() -> str:
        if effect.calls == 2:
            effect.error = None
        return str(await effect())

    async with scope(persistence=store) as s:
        assert await s.call(recovering, once=Once("charge", 60), retry=3) == "receipt"
        assert await s.call(recovering, once=Once("charge", 60), retry=3) == "receipt"
    assert effect.calls == 3
    assert store.calls["claim"] == 2


async def test_a_call_that_the_circuit_rejects_is_no_run(store: RunStore) -> None:
    effect = Effect(error=OSError("broken"))
    breaker = CircuitBreaker("payments", failure_threshold=1)
    async with scope(persistence=store) as s:
        for _ in range(2):
            (await s.task(effect, circuit_breaker=breaker, once=Once("a", 60))).error  # noqa: B018
        effect.error = None
        assert await s.call(effect, once=Once("a", 60)) == "receipt"


async def test_a_cancelled_run_is_abandoned_at_once(store: RunStore) -> None:
    effect = Effect()
    effect.may_end = anyio.Event()
    async with scope(persistence=store) as s:
        task = s.task(effect, once=Once("charge", 60))
        await effect.began.wait()
        task.cancel()
        assert isinstance((await task).error, TaskCancelled)
        effect.may_end.set()
        assert await s.call(effect, once=Once("charge", 60, wait=0)) == "receipt"


async def test_a_run_whose_own_block_is_cancelled_is_abandoned(store: RunStore) -> None:
    async with scope(persistence=store) as s:
        async with s.claim("charge", 60) as run:
            run.cancel()
            await anyio.sleep(3600)
            run.complete("receipt")
        assert (await store.runs())["charge"].state == "open"
        async with s.claim("charge", 60) as run:
            assert not run.done
            run.complete("receipt")
            run.cancel()  # at its end, where there is nothing left to cut
        assert (await store.runs())["charge"].state == "done"


async def test_a_run_whose_tasks_are_cancelled_when_its_body_has_ended_is_abandoned(
    store: RunStore,
) -> None:
    async with scope(persistence=store) as s:

        async def cancel(run: Scope) -> None:
            await anyio.wait_all_tasks_blocked()
            run.cancel()

        async with s.claim("charge", 60) as run:
            run.task(anyio.sleep, 3600)
            s.task(cancel, run)
            run.complete("receipt")
        assert (await store.runs())["charge"].state == "open"


async def test_a_run_in_another_task_is_abandoned_when_its_scope_is_stopped(
    store: RunStore,
) -> None:
    # As a handler of a web server does it, in the scope of the whole service.
    async with anyio.create_task_group() as server, scope(persistence=store) as s:

        async def handle() -> None:
            async with s.claim("charge", 60) as run:
                await anyio.sleep(3600)
                run.complete("receipt")

        server.start_soon(handle)
        await anyio.wait_all_tasks_blocked()
        await s.stop(grace=0)
    assert (await store.runs())["charge"].state == "open"


async def test_a_function_that_cancels_its_own_run_returns_nothing(store: RunStore) -> None:
    async def cancels() -> str:
        scope_of_run = current_scope()
        assert scope_of_run is not None
        scope_of_run.cancel()
        await anyio.sleep(3600)
        return "receipt"

    async with scope(persistence=store) as s:
        with pytest.raises(TaskCancelled, match="run 'charge' was cancelled"):
            await s.call(cancels, once=Once("charge", 60))
    assert (await store.runs())["charge"].state == "open"


async def test_a_waiting_caller_runs_when_the_runner_was_cancelled(store: RunStore) -> None:
    effect = Effect()
    effect.may_end = anyio.Event()
    async with scope(persistence=store) as s:
        first = s.task(effect, once=Once("charge", 60))
        await effect.began.wait()
        second = s.task(effect, once=Once("charge", 60))
        await anyio.wait_all_tasks_blocked()
        first.cancel()
        await first.wait()
        effect.may_end.set()
        assert (await second).unwrap() == "receipt"
        assert isinstance((await first).error, TaskCancelled)
    assert effect.calls == 2


async def test_a_waiting_caller_lends_its_slot(store: RunStore) -> None:
    async with (
        scope(persistence=another_process(store)) as t,
        t.claim("charge", 60),
        scope(persistence=store, concurrency=1) as s,
    ):
        waiting = s.task(Effect(), once=Once("charge", 60))
        await anyio.wait_all_tasks_blocked()
        assert await s.call(Effect("other")) == "other"
        waiting.cancel()
        assert isinstance((await waiting).error, TaskCancelled)


async def test_whoever_does_not_want_to_wait_learns_who_runs(store: RunStore) -> None:
    async with (
        scope(persistence=store) as s,
        scope(persistence=another_process(store)) as t,
        s.claim("charge", 60),
    ):
        for wait in (0, 0.05):
            for u in (s, t):
                with pytest.raises(RunInProgressError, match="process") as caught:
                    await u.call(Effect(), once=Once("charge", 60, wait=wait))
                assert isinstance(caught.value, TimeoutError)


async def test_whoever_waits_is_woken_though_others_have_asked_without_waiting(
    store: RunStore,
) -> None:
    effect = Effect()
    effect.may_end = anyio.Event()
    async with scope(persistence=store) as s:
        runs = s.task(effect, once=Once("charge", 60, lease=3600))
        await effect.began.wait()
        waits = s.task(effect, once=Once("charge", 60))
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(RunInProgressError):
            await s.call(effect, once=Once("charge", 60, wait=0))
        effect.may_end.set()
        with anyio.fail_after(10):
            assert [(await task).unwrap() for task in (runs, waits)] == ["receipt"] * 2
    assert effect.calls == 1


def test_whoever_asks_now_and_then_believes_no_lease_for_longer_than_it_lasts(
    virtual_clock: VirtualClock,
) -> None:
    async def program() -> None:
        store = RunStore()  # whose clock stands still: the lease of who died never ends by it
        effect = Effect()
        await store.die_running("charge", lease=30)
        async with scope(persistence=store) as s:
            for _ in range(2):
                with pytest.raises(RunInProgressError):
                    await s.call(effect, once=Once("charge", 60, wait=0))
                await anyio.sleep(20)
            assert await s.call(effect, once=Once("charge", 60, wait=0)) == "receipt"

    virtual_clock.run(program)


async def test_another_payload_under_the_same_key_is_an_error(store: RunStore) -> None:
    effect = Effect()
    effect.may_end = anyio.Event()
    async with scope(persistence=store) as s, scope(persistence=another_process(store)) as t:
        first = s.task(effect, once=Once("charge", 60, payload={"a": 1, "b": [2]}))
        await effect.began.wait()
        for u in (s, t):
            with pytest.raises(PayloadMismatchError):
                await u.call(effect, once=Once("charge", 60, payload={"a": 2}, wait=0))
        effect.may_end.set()
        (await first).unwrap()
        for u in (s, t):
            with pytest.raises(PayloadMismatchError):
                await u.call(effect, once=Once("charge", 60, payload={"a": 2}))
            assert await u.call(effect, once=Once("charge", 60, payload={"b": [2], "a": 1}))
            assert await u.call(effect, once=Once("charge", 60))
    assert effect.calls == 1


async def test_a_result_that_cannot_be_kept_leaves_the_run_done(
    store: RunStore, caplog: pytest.LogCaptureFixture
) -> None:
    effect = Effect((1, 2))
    async with scope(persistence=store) as s:
        assert await s.call(effect, once=Once("charge", 60)) == (1, 2)
        with pytest.raises(ResultNotKeptError):
            await s.call(effect, once=Once("charge", 60))
    assert effect.calls == 1
    assert "cannot be kept" in caplog.text


async def test_a_result_that_a_codec_fails_on_leaves_the_run_done() -> None:
    class Broken(JSONCodec):
        def dumps(self, value: Any) -> str:
            raise RuntimeError("of the codec")

    effect = Effect()
    async with scope(persistence=MemoryStore(codec=Broken())) as s:
        assert await s.call(effect, once=Once("charge", 60)) == "receipt"
        with pytest.raises(ResultNotKeptError):
            await s.call(effect, once=Once("charge", 60, wait=0))
    assert effect.calls == 1


@pytest.mark.parametrize("hostility", HOSTILE)
async def test_a_hostile_error_is_kept_like_others(hostility: str, store: RunStore) -> None:
    kind = hostile(hostility)
    effect = Effect(error=kind("no", object()))
    async with scope(persistence=store) as s:
        with pytest.raises(kind):
            await s.call(effect, once=Once("charge", 60, keep_errors=Exception))
        with pytest.raises(KeptError):
            await s.call(effect, once=Once("charge", 60, keep_errors=Exception, wait=0))
        with pytest.raises(kind):
            await s.call(effect, once=Once("other", 60, keep_errors=KeyError))
        with pytest.raises(kind):
            await s.call(effect, once=Once("other", 60, keep_errors=KeyError, wait=0))
    assert effect.calls == 3


async def test_an_error_whose_text_no_store_can_hold_is_kept_with_escapes(store: RunStore) -> None:
    effect = Effect(error=OSError(2, "no file", "\udcff.txt"))
    async with scope(persistence=store) as s:
        with pytest.raises(OSError, match="no file"):
            await s.call(effect, once=Once("charge", 60, keep_errors=OSError))
        with pytest.raises(KeptError, match=r"udcff\.txt"):
            await s.call(effect, once=Once("charge", 60, keep_errors=OSError, wait=0))
    assert effect.calls == 1


async def test_none_is_a_result_like_others(store: RunStore) -> None:
    effect = Effect(None)
    async with scope(persistence=store) as s:
        for _ in range(2):
            assert await s.call(effect, once=Once("charge", 60)) is None
    assert effect.calls == 1


async def test_a_dead_run_is_taken_over_after_its_lease(store: RunStore) -> None:
    await store.die_running("charge", lease=5)
    effect = Effect()
    async with scope(persistence=store) as s:
        with pytest.raises(RunInProgressError):
            await s.call(effect, once=Once("charge", 60, wait=0))
        store.clock.now += 5.1
        assert await s.call(effect, once=Once("charge", 60, wait=0)) == "receipt"


@pytest.mark.parametrize("who_asks", ["the dead run", "the caller"])
async def test_a_dead_run_is_not_repeated_where_somebody_is_to_be_asked(
    store: RunStore, who_asks: str
) -> None:
    dead, caller = ("ask", "run") if who_asks == "the dead run" else ("run", "ask")
    await store.die_running("charge", lease=5, after_crash=dead)
    store.clock.now += 5.1
    effect = Effect()
    once = Once("charge", 60, after_crash=caller, wait=0)  # type: ignore[arg-type]
    async with scope(persistence=store) as s:
        for _ in range(2):
            with pytest.raises(OutcomeUnknownError, match="resolve_run"):
                await s.call(effect, once=once)
        assert (await store.runs())["charge"].state == "unknown"
        assert await store.resolve_run("charge", result="found in the ledger") is True
        assert await s.call(effect, once=once) == "found in the ledger"
        assert await store.resolve_run("charge", repeat=True) is False
    assert effect.calls == 0


async def test_a_person_may_let_a_dead_run_be_repeated(store: RunStore) -> None:
    await store.die_running("charge", lease=5, after_crash="ask")
    with pytest.raises(RunInProgressError):
        await store.resolve_run("charge", repeat=True)
    store.clock.now += 5.1
    assert (await store.runs())["charge"].state == "crashed"
    with pytest.raises(TypeError, match="not both"):
        await store.resolve_run("charge", result=1, repeat=True)
    with pytest.raises(TypeError, match="not both"):
        await store.resolve_run("charge")
    assert await store.resolve_run("charge", repeat=True) is True
    async with scope(persistence=store) as s:
        assert await s.call(Effect(), once=Once("charge", 60, after_crash="ask")) == "receipt"


async def test_whoever_was_taken_over_returns_nothing_and_changes_nothing(store: RunStore) -> None:
    elsewhere = another_process(store)
    tokens: list[int] = []
    async with scope(persistence=store) as s:
        with pytest.raises(LeaseLostError):
            async with s.claim("charge", 60) as run:
                tokens.append(run.fencing_token)
                run.complete("of the zombie")
                await store.take_over("charge", "of its successor")
        async with scope(persistence=elsewhere) as t, t.claim("charge", 60) as later:
            assert later.done
            assert later.result == "of its successor"
            assert later.fencing_token > tokens[0]


async def test_a_run_whose_lease_is_lost_is_cancelled(store: RunStore) -> None:
    async def work() -> None:
        await store.take_over("charge", "of its successor")
        await anyio.sleep_forever()

    async with scope(persistence=store) as s:
        with anyio.fail_after(5):
            error = (await s.task(work, once=Once("charge", 60, lease=0.1))).error
    assert isinstance(error, LeaseLostError)


async def test_a_completion_whose_answer_is_lost_is_written_again(store: RunStore) -> None:
    store.lose_answers["complete"] = 2
    effect = Effect()
    async with scope(persistence=store) as s:
        assert await s.call(effect, once=Once("charge", 60)) == "receipt"
        assert await s.call(effect, once=Once("charge", 60)) == "receipt"
    assert (effect.calls, store.calls["complete"]) == (1, 3)


async def test_a_store_that_fails_is_told_and_nothing_runs(store: RunStore) -> None:
    store.failures["claim"] = [StoreConnectionError("down")]
    effect = Effect()
    async with scope(persistence=store) as s:
        error = (await s.task(effect, once=Once("charge", 60))).error
    assert isinstance(error, StoreConnectionError)
    assert effect.calls == 0


async def test_a_run_that_would_wait_for_itself_is_refused(store: RunStore) -> None:
    async with scope(persistence=store) as s, s.claim("charge", 60) as run:
        with pytest.raises(RunError, match="wait for itself"):
            await run.call(Effect(), once=Once("charge", 60))
        with pytest.raises(RunError, match="wait for itself"):
            async with s.claim("charge", 60):
                pytest.fail("it runs")
        waiting = s.task(Effect(), once=Once("charge", 60))
        run.complete("first")
    assert (await waiting).unwrap() == "first"


async def test_events_tell_what_ran_and_what_was_found(store: RunStore) -> None:
    events: list[Event] = []
    async with scope(persistence=store, on_event=events.append) as s:
        for _ in range(2):
            await s.call(Effect(), once=Once("charge", 60))
    told = [event for event in events if isinstance(event, RunStarted | RunCompleted | RunFound)]
    assert [type(event) for event in told] == [RunStarted, RunCompleted, RunFound]


async def test_a_run_whose_verdict_cannot_be_kept_has_an_end_for_observers(
    store: RunStore,
) -> None:
    kinds: list[str] = []
    observed = scope(persistence=store, on_event=lambda event: kinds.append(type(event).__name__))
    store.failures["complete"] = [UnexpectedStoreError("broken for good")]
    async with observed as s:
        with pytest.raises(UnexpectedStoreError):
            await s.call(Effect(1), once=Once("a", keep=60))

        async def taken_over() -> None:
            await store.take_over("b", "theirs")

        with pytest.raises(LeaseLostError):
            await s.call(taken_over, once=Once("b", keep=60))
    runs = [kind for kind in kinds if kind.startswith("Run")]
    assert runs == ["RunStarted", "RunAbandoned"] * 2


async def test_a_thread_may_run_once(store: RunStore) -> None:
    calls: list[int] = []

    def work() -> int:
        calls.append(1)
        return len(calls)

    async with scope(persistence=store) as s:
        for _ in range(2):
            assert (await s.thread(work, once=Once("charge", 60))).unwrap() == 1


async def test_a_store_without_runs_is_refused_where_the_task_is_made() -> None:
    locks = MemoryStore()
    async with scope(persistence=Persistence(locks=locks)) as s:
        with pytest.raises(CapabilityNotSupportedError, match="does not support runs"):
            await s.call(Effect(), once=Once("charge", 60))


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: Once("", 60), ValueError, "key must not be empty"),
        (lambda: Once("k", 0), ValueError, "keep must be more than 0"),
        (lambda: Once("k", "x"), TypeError, "keep must be a number"),  # type: ignore[arg-type]
        (lambda: Once("k", 60, lease=30_000), ValueError, "lease must be at most"),
        (lambda: Once("k", 60, wait=-1), ValueError, "wait must be 0 or more"),
        (lambda: Once("k", 60, payload=(1,)), TypeError, "value is of type tuple"),
        (lambda: Once("k", 60, after_crash="x"), ValueError, "after_crash"),  # type: ignore[arg-type]
        (lambda: Once("k", 60, keep_errors=[OSError]), TypeError, "keep_errors"),  # type: ignore[arg-type]
        (lambda: Once("k", 60, keep_errors=(1,)), TypeError, "keep_errors"),  # type: ignore[arg-type]
    ],
)
async def test_what_makes_no_sense_is_refused_at_once(make: Any, error: Any, text: str) -> None:
    with pytest.raises(error, match=text):
        make()


async def test_an_option_that_is_no_once_is_refused(store: RunStore) -> None:
    async with scope(persistence=store) as s:
        with pytest.raises(TypeError, match="once must be a Once"):
            s.task(Effect(), once="charge")  # type: ignore[arg-type]
