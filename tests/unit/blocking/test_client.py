"""Calls of a client: what runs in which thread, and what comes of it."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import gogoscope
from gogoscope import CircuitBreaker, CircuitOpenError, LockTimeoutError, Once, ScopeClosedError
from gogoscope.blocking import BlockingCache, Client, Lock, connect
from gogoscope.events import LockWaiting

PATIENCE = 20.0
request: contextvars.ContextVar[str] = contextvars.ContextVar("request")


def until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.005)


def held_elsewhere(db: Client, key: str) -> Lock:
    """Take a lock in another thread."""
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(db.lock(key).acquire).result(PATIENCE)


def test_a_function_runs_in_the_thread_and_the_context_of_its_caller(db: Client) -> None:
    def here() -> tuple[int, str]:
        before = request.get()
        request.set("changed")
        return threading.get_ident(), before

    request.set("ours")
    assert db.call(here) == (threading.get_ident(), "ours")
    assert request.get() == "changed"
    assert db.cache.get_or_set("thread", threading.get_ident, 60) == threading.get_ident()
    assert db.call(threading.get_ident, once=Once("thread", 60)) == threading.get_ident()


def test_an_error_comes_out_as_it_is_with_the_frames_of_the_caller(db: Client) -> None:
    errors: list[ValueError] = []

    def fail() -> None:
        errors.append(ValueError("no"))
        raise errors[-1]

    with pytest.raises(ValueError, match="no") as caught:
        db.call(fail, retry=gogoscope.Retry(3, delay=gogoscope.fixed(0)))
    error = errors[2]
    assert caught.value is error
    assert error.__context__ is None
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    assert len(files) <= 5
    assert files[0] == files[-1] == __file__


def test_a_function_is_retried(db: Client) -> None:
    left = [ConnectionError(), ConnectionError()]

    def fail_twice() -> str:
        if left:
            raise left.pop()
        return "done"

    assert db.call(fail_twice, retry=gogoscope.Retry(3, delay=gogoscope.fixed(0))) == "done"


def test_a_circuit_opens_for_all_clients(db: Client, url: str) -> None:
    payments = CircuitBreaker("payments", failure_threshold=2, reset_timeout=600)

    @db.guarded(circuit_breaker=payments)
    def pay(amount: int, *, to: str) -> str:
        """Pay."""
        if amount < 0:
            raise OSError("down")
        return f"{amount} to {to}"

    assert pay(3, to="ann") == "3 to ann"
    assert pay.__doc__ == "Pay."
    for _ in range(2):
        with pytest.raises(OSError, match="down"):
            pay(-1, to="ann")
    with pytest.raises(CircuitOpenError, match="payments"):
        pay(3, to="ann")
    with connect(url) as second, pytest.raises(CircuitOpenError):
        second.call(print, circuit_breaker=payments)


def test_an_effect_happens_once_for_a_key(db: Client) -> None:
    calls: list[int] = []

    def key(order: int, *, euro: int) -> str:
        return f"charge:{order}"

    def payload(order: int, *, euro: int) -> int:
        return euro

    @db.once(key, keep=60, payload=payload)
    def charge(order: int, *, euro: int) -> dict[str, int]:
        calls.append(order)
        return {"receipt": order}

    with ThreadPoolExecutor(4) as threads:
        got = [threads.submit(charge, 1, euro=5) for _ in range(4)]
        assert [one.result() for one in got] == [{"receipt": 1}] * 4
    assert charge(2, euro=5) == {"receipt": 2}
    assert calls == [1, 2]
    with pytest.raises(gogoscope.PayloadMismatchError):
        charge(2, euro=6)


def test_of_many_threads_one_loads_a_value(db: Client) -> None:
    calls: list[int] = []
    release = threading.Event()

    @db.cached(60, key=str)
    def load(number: int) -> int:
        calls.append(number)
        assert release.wait(PATIENCE)
        return number * 2

    with ThreadPoolExecutor(8) as threads:
        got = [threads.submit(load, 4) for _ in range(8)]
        until(lambda: bool(calls))
        release.set()
        assert [one.result() for one in got] == [8] * 8
    assert calls == [4]


def test_the_cache_has_the_methods_of_the_async_one(db: Client) -> None:
    cache = db.cache
    assert cache.set("a", 1, 60)
    assert not cache.set("a", 2, 60, if_absent=True)
    cache.set_many({"b": 2, "c": 3}, 60)
    assert cache.get("a") == 1
    assert cache.get("none", "nothing") == "nothing"
    entry = cache.get_entry("a")
    assert entry is not None
    assert entry.value == 1
    assert cache.get_many(["a", "b", "z"]) == {"a": 1, "b": 2}
    assert sorted(cache.keys("*")) == ["a", "b", "c"]
    assert cache.has("b")
    assert cache.touch("b", 100)
    assert cache.delete("b")
    assert not cache.delete("b")
    cache.delete_many(["c"])
    assert cache.keys() == ["a"]
    cache.clear()
    assert cache.keys() == []


def test_an_old_value_is_refreshed_in_another_thread_while_nobody_waits(db: Client) -> None:
    loaded: list[int] = []

    def load() -> int:
        loaded.append(threading.get_ident())
        return len(loaded)

    def get() -> int:
        return db.cache.get_or_set("k", load, 0.05, stale_while_revalidate=600)

    assert get() == 1
    time.sleep(0.1)
    until(lambda: get() > 1)
    here = threading.get_ident()
    assert loaded[0] == here
    assert here not in loaded[1:]


def test_a_load_that_waits_for_its_own_value_is_refused(db: Client) -> None:
    def load() -> int:
        return db.cache.get_or_set("k", load, 60)

    with pytest.raises(RuntimeError, match="waits for its own value"):
        db.cache.get_or_set("k", load, 60)


def test_what_a_function_calls_may_use_the_client_again(db: Client) -> None:
    def outer() -> int:
        with db.lock("inner"):
            return db.call(db.cache.get_or_set, "k", inner, 60)

    def inner() -> int:
        return db.call(lambda: 7, retry=2)

    assert db.call(outer, retry=2) == 7


def test_a_timeout_ends_the_call_when_the_function_returns(db: Client) -> None:
    ran: list[int] = []

    def slow() -> None:
        ran.append(1)
        time.sleep(0.6)
        raise OSError("again")

    with pytest.raises(TimeoutError):
        db.call(slow, timeout=0.5, retry=gogoscope.Retry(5, delay=gogoscope.fixed(0)))
    assert ran == [1]


async def _async() -> None: ...


@pytest.mark.parametrize(
    "use",
    [
        lambda db: db.call(_async),
        lambda db: db.call(lambda: _async()),
        lambda db: db.once("k", 60)(_async),
        lambda db: db.guarded(retry=2)(_async),
        lambda db: db.cached(60)(_async),
        lambda db: db.cache.get_or_set("k", _async, 60),
        lambda db: db.cache.get_or_set("k", lambda: _async(), 60),
    ],
)
def test_an_async_function_is_refused(db: Client, use: Callable[[Client], object]) -> None:
    with pytest.raises(TypeError, match="not async"):
        use(db)


@pytest.mark.parametrize("value", [None, 3, "text"])
def test_what_is_no_function_is_refused(db: Client, value: Any) -> None:
    with pytest.raises(TypeError, match="takes a function"):
        db.call(value)


@pytest.mark.parametrize(
    ("use", "instead"),
    [
        (lambda db: db.lock("k").acquire(), r"async with s\.lock\(key\)"),
        (lambda db: db.call(print), r"await s\.call\(fn, \*args\)"),
        (lambda db: db.cache.get("k"), r"await s\.cache\.get\(key\)"),
        (lambda db: db.claim("k", 60).__enter__(), r"async with s\.claim"),
        (lambda db: db.close(), "async with scope"),
        (lambda db: db.__enter__(), "async with scope"),
    ],
)
def test_inside_an_event_loop_the_async_form_is_shown(
    db: Client, use: Callable[[Client], object], instead: str
) -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match=instead):
            use(db)
        await asyncio.to_thread(db.cache.set, "k", 1)

    asyncio.run(main())


def test_inside_trio_it_is_refused_too(db: Client) -> None:
    trio = pytest.importorskip("trio")

    async def main() -> None:
        with pytest.raises(RuntimeError, match="would block the event loop"):
            db.cache.get("k")
        await trio.to_thread.run_sync(db.cache.set, "k", 1)

    trio.run(main)


def test_a_closed_client_refuses_and_has_released_everything(url: str) -> None:
    db = connect(url, name="shop")
    with connect(url) as second:
        held = db.lock("a").acquire()
        handle = db.acquire_lock("b", 60)
        db.close()
        db.close()
        assert handle is not None
        for key in "ab":
            with second.lock(key, wait=0):
                pass
        with pytest.raises(ScopeClosedError, match="'shop' is closed"):
            db.cache.get("k")
        with pytest.raises(gogoscope.LeaseLostError):
            held.ensure()


def test_a_handle_of_a_closed_client_holds_nothing_and_hides_no_error(url: str) -> None:
    db = connect(url)
    handle = db.acquire_lock("a", 60)
    assert handle is not None
    with pytest.raises(KeyError, match="of the block"), handle:
        db.close()
        raise KeyError("of the block")
    assert not handle.release()
    assert not handle.is_valid()
    assert not handle.extend(60)


def test_a_block_that_a_closed_client_held_says_that_it_holds_nothing(url: str) -> None:
    db = connect(url)
    lock = db.lock("a").acquire()
    db.close()
    assert not lock.is_valid()
    assert not lock.extend(60)


def end_loop(db: Client) -> None:
    """End the event loop of the process by a predicate that exits."""

    def quits(error: Exception) -> bool:
        raise SystemExit

    def fail() -> None:
        raise OSError("down")

    with pytest.raises(ScopeClosedError, match=r"the event loop .* has ended"):
        db.call(fail, retry=gogoscope.Retry(2, retry_on=quits))


def test_a_client_works_after_a_predicate_has_ended_the_loop(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    db = connect(url)
    end_loop(db)
    until(lambda: "the event loop of gogoscope.blocking was ended" in caplog.text)
    assert db.cache.get("k") is None


def test_what_was_held_in_a_loop_that_has_ended_is_not_held_any_more(url: str) -> None:
    db = connect(url)
    handle, lock = db.acquire_lock("a", 60), db.lock("b").acquire()
    assert handle is not None
    with pytest.raises(KeyError, match="of the block"), handle:
        end_loop(db)
        raise KeyError("of the block")
    with db.lock("a", wait=60), db.lock("b", wait=60):
        for held in (handle, lock):
            assert not held.is_valid()
            assert not held.extend(60)
            with pytest.raises(gogoscope.LeaseLostError):
                held.ensure()
        assert not handle.release()
    with pytest.raises(ScopeClosedError, match=r"the event loop .* has ended"):
        lock.release()


def test_closing_ends_calls_in_progress(url: str) -> None:
    db = connect(url)
    with connect(url) as second, second.lock("a"), ThreadPoolExecutor(1) as threads:
        db.cache.get("k")
        waiting = threads.submit(db.lock("a").acquire)
        time.sleep(0.05)
        db.close()
        with pytest.raises(ScopeClosedError, match="closed"):
            waiting.result(PATIENCE)


def test_clients_of_one_url_share_a_store_and_all_clients_a_thread(url: str) -> None:
    with connect(url) as first, connect(url) as second:
        first.cache.set("k", 5)
        assert second.cache.get("k") == 5
        named = [thread for thread in threading.enumerate() if thread.name == "gogoscope"]
        assert len(named) == 1
        assert named[0].daemon


def test_a_client_that_nobody_uses_any_more_is_closed(url: str) -> None:
    db = connect(url)
    db.acquire_lock("a", 600)
    host = db._hosts._host
    del db
    until(lambda: host is not None and host._scope is None)
    with connect(url) as second, second.lock("a", wait=PATIENCE):
        pass


def test_what_comes_from_a_client_works_when_nobody_refers_to_the_client(url: str) -> None:
    def parts() -> tuple[Callable[[str], str], BlockingCache, Lock]:
        db = connect(url)
        db.cache.set("k", 5)

        @db.cached(60)
        def price(article: str) -> str:
            return f"price of {article}"

        return price, db.cache, db.lock("stock").acquire()

    price, cache, lock = parts()
    gc.collect()
    assert price("a") == "price of a"
    assert cache.get("k") == 5
    assert lock.is_valid()
    lock.release()


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("nonsense", gogoscope.InvalidURLError),
        ("nobody://x", gogoscope.UnknownBackendError),
        ("memory:?nonsense=1", gogoscope.InvalidURLError),
        (7, TypeError),
    ],
)
def test_a_bad_url_is_refused_at_once(url: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        connect(url)


def test_a_store_that_cannot_be_opened_is_tried_again_with_the_next_call(tmp_path: Any) -> None:
    folder = tmp_path / "later"
    db = connect(f"sqlite:///{folder / 'store.db'}")
    for _ in range(2):
        with pytest.raises(gogoscope.GogoscopeError):
            db.cache.get("k")
    folder.mkdir()
    assert db.cache.get("k") is None
    db.close()


def test_events_tell_what_happened(url: str) -> None:
    seen: list[str] = []

    def note(event: object) -> None:
        seen.append(type(event).__name__)

    with connect(url, name="shop", on_event=note) as db, db.lock("a"):
        pass
    assert {"ScopeStarted", "LockAcquired", "LockReleased", "ScopeEnded"} <= set(seen)
    assert repr(db).startswith("<blocking Client 'shop' of ")
    assert db.name == "shop"


@pytest.fixture
def interrupt() -> Iterator[Callable[[Callable[[], bool]], None]]:
    """Return what sends a Ctrl-C to the main thread once something is so."""
    senders: list[threading.Thread] = []

    def send(is_so: Callable[[], bool]) -> None:
        def wait() -> None:
            until(is_so)
            signal.raise_signal(signal.SIGINT) if os.name == "nt" else os.kill(
                os.getpid(), signal.SIGINT
            )

        senders.append(threading.Thread(target=wait))
        senders[-1].start()

    yield send
    for sender in senders:
        sender.join(PATIENCE)


@pytest.mark.skipif(sys.platform == "win32", reason="a lock is not interrupted there")
def test_ctrl_c_while_waiting_leaves_nothing_behind(
    db: Client, url: str, interrupt: Callable[[Callable[[], bool]], None]
) -> None:
    waiting: list[object] = []

    def note(event: object) -> None:
        if isinstance(event, LockWaiting):
            waiting.append(event)

    with connect(url, on_event=note) as second:
        held = held_elsewhere(db, "a")
        interrupt(lambda: bool(waiting))
        with pytest.raises(KeyboardInterrupt):
            second.lock("a").acquire()
        held.release()
        with db.lock("a", wait=0):
            pass


@pytest.mark.skipif(sys.platform == "win32", reason="a lock is not interrupted there")
def test_ctrl_c_in_a_function_abandons_its_run_and_its_load(
    db: Client, interrupt: Callable[[Callable[[], bool]], None]
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        db.call(interrupted, once=Once("k", 60))
    assert db.call(lambda: 3, once=Once("k", 60, wait=0)) == 3
    with pytest.raises(KeyboardInterrupt):
        db.cache.get_or_set("k", interrupted, 60)
    assert db.cache.get_or_set("k", lambda: 4, 60) == 4


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there is no timer")
def test_an_exception_of_a_signal_handler_takes_the_lock_back(db: Client, url: str) -> None:
    class TooLongError(Exception):
        pass

    def stop(*_: object) -> None:
        raise TooLongError

    before = signal.signal(signal.SIGALRM, stop)
    try:
        with connect(url) as second:
            held = held_elsewhere(db, "a")
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            with pytest.raises(TooLongError):
                second.lock("a").acquire()
            with pytest.raises(LockTimeoutError):
                second.lock("a", wait=0).acquire()
            held.release()
    finally:
        signal.signal(signal.SIGALRM, before)
    with db.lock("a", wait=0):
        pass
