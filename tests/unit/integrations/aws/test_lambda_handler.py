"""An async function as a Lambda handler: one loop and store a container, a scope an invocation."""

from __future__ import annotations

import asyncio
import gc
import socket
import sys
import threading
import traceback
import warnings
from pathlib import Path
from typing import Any

import psutil
import pytest
from attrs import frozen

import gogoscope
from gogoscope import CircuitBreaker, current_scope
from gogoscope.integrations.aws import lambda_handler


@frozen
class Context:
    """What AWS passes to a handler."""

    left: float = 30.0

    def get_remaining_time_in_millis(self) -> int:
        return int(self.left * 1000)


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Return the URL of an empty store."""
    return f"sqlite:///{tmp_path / 'store.db'}"


def test_an_invocation_is_a_scope_and_all_share_a_loop_and_a_store(url: str) -> None:
    seen: list[tuple[int, object, object]] = []

    async def handle(event: Any, context: Any) -> Any:
        s = current_scope()
        assert s is not None
        seen.append((threading.get_ident(), asyncio.get_running_loop(), s._home.store()))
        async with s.lock("stock"):
            return {"got": event, "left": context.left}

    handler = lambda_handler(handle, store=url)
    assert handler({"a": 1}, Context()) == {"got": {"a": 1}, "left": 30.0}
    assert handler(2, Context(9)) == {"got": 2, "left": 9}
    assert len(set(seen)) == 1
    assert handler.__name__ == "handle"


def test_an_error_of_the_handler_comes_out_as_it_is(url: str) -> None:
    async def handle(event: Any, context: Any) -> None:
        raise KeyError("no such order")

    with pytest.raises(KeyError, match="no such order") as caught:
        lambda_handler(handle, store=url)({}, None)
    frames = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert frames[-1] == "handle"
    assert len(frames) <= 5
    assert caught.value.__context__ is None


def test_an_invocation_is_cancelled_before_its_time_is_over_and_releases(url: str) -> None:
    async def handle(event: Any, context: Any) -> str:
        s = current_scope()
        assert s is not None
        async with s.lock("stock", wait=0):
            if event == "slow":
                await asyncio.sleep(600)
        return "done"

    handler = lambda_handler(handle, store=url, margin=0.2)
    with pytest.raises(TimeoutError):
        handler("slow", Context(0.5))
    assert handler("quick", Context()) == "done"


def test_an_invocation_is_over_in_time_though_the_store_is_not_open_yet() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        handler = lambda_handler(_handle, store=f"redis://127.0.0.1:{silent.getsockname()[1]}/0")
        for _ in range(2):
            with pytest.raises(TimeoutError, match="the store was not open within"):
                handler({}, Context(0.6))


def test_a_handler_that_exits_ends_no_loop(url: str) -> None:
    async def handle(event: Any, context: Any) -> str:
        if event == "exit":
            sys.exit("no such order")
        return "done"

    handler = lambda_handler(handle, store=url)
    with pytest.raises(SystemExit, match="no such order"):
        handler("exit", Context())
    assert handler("go on", Context()) == "done"


def test_circuits_and_events_are_settled_before_the_answer(url: str) -> None:
    breaker = CircuitBreaker("payments", failure_threshold=3, reset_timeout=600)
    seen: list[str] = []

    def note(event: object) -> None:
        seen.append(type(event).__name__)

    async def fail() -> None:
        raise OSError("down")

    async def handle(event: Any, context: Any) -> None:
        s = current_scope()
        assert s is not None
        err, _ = await s.task(fail, circuit_breaker=breaker)
        assert isinstance(err, OSError)

    async def look(event: Any, context: Any) -> int:
        return (await breaker.state()).failure_count

    handler = lambda_handler(handle, store=url, on_event=note)
    handler({}, Context())
    assert seen[0] == "ScopeStarted"
    assert seen[-1] == "ScopeEnded"
    assert lambda_handler(look, store=url)({}, Context()) == 1


async def _handle(event: Any, context: Any) -> None: ...


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"fn": 3}, TypeError),
        ({"store": 3}, TypeError),
        ({"store": "nobody://x"}, gogoscope.UnknownBackendError),
        ({"margin": -1}, ValueError),
        ({"concurrency": 0}, ValueError),
        ({"retry": "often"}, TypeError),
        ({"on_event": 3}, TypeError),
        ({"name": 3}, TypeError),
    ],
)
def test_bad_arguments_are_refused_at_once(options: dict[str, Any], error: type[Exception]) -> None:
    fn = options.pop("fn", _handle)
    with pytest.raises(error):
        lambda_handler(fn, **{"store": "memory:", **options})


def test_inside_an_event_loop_it_is_refused() -> None:
    handler = lambda_handler(_handle, store="memory:")

    async def main() -> None:
        with pytest.raises(RuntimeError, match=r"await _handle\(event, context\)"):
            handler({}, None)

    asyncio.run(main())


@pytest.mark.slow
def test_a_thousand_invocations_leave_nothing_behind(url: str) -> None:
    tasks: list[int] = []

    async def work() -> None:
        return

    async def handle(event: Any, context: Any) -> None:
        s = current_scope()
        assert s is not None
        async with s.lock("stock"):
            await s.call(work)
        tasks.append(len(asyncio.all_tasks()))

    handler = lambda_handler(handle, store=url)
    process = psutil.Process()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(200):
            handler({}, Context())
        gc.collect()
        threads = set(threading.enumerate())
        files, objects = process.num_fds(), len(gc.get_objects())
        for _ in range(1000):
            handler({}, Context())
        gc.collect()
    # What an earlier test left to its own threads may end meanwhile: only what is new counts.
    assert set(threading.enumerate()) <= threads
    assert process.num_fds() <= files
    assert len(gc.get_objects()) - objects < 2000, "objects are left"
    assert max(tasks[-1000:]) <= max(tasks[:200])
