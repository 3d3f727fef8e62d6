"""Blocks of threads: locks, permits, runs, rate limits."""

from __future__ import annotations

import gc
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import Any

import pytest

import gogoscope
from gogoscope import (
    LeaseLostError,
    LockError,
    LockTimeoutError,
    Persistence,
    RateLimit,
    RateLimitExceededError,
    RunError,
)
from gogoscope.blocking import Client, Lock, connect
from gogoscope.events import LeaseLost

PATIENCE = 20.0


def other(url: str) -> Client:
    return connect(url, name="other")


def elsewhere(use: Callable[[], object]) -> Any:
    """Do something in another thread, as another client of the store does."""
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(use).result(PATIENCE)


def test_a_lock_excludes_other_threads_and_is_released_with_its_block(db: Client) -> None:
    inside: list[int] = []
    most: list[int] = []

    def work(number: int) -> None:
        for _ in range(5):
            with db.lock("stock", wait=60):
                inside.append(number)
                most.append(len(inside))
                inside.remove(number)

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(work, range(6)))
    assert most == [1] * 30


def test_fencing_tokens_grow(db: Client) -> None:
    tokens = []
    for _ in range(3):
        with db.lock("stock") as lock:
            tokens.append(lock.fencing_token)
            assert lock.key == "stock"
            assert lock.expires_at > 0
            assert lock.is_valid()
    assert tokens == sorted(set(tokens))


def test_a_lock_that_is_held_is_not_had_in_time(db: Client, url: str) -> None:
    with db.lock("stock"), other(url) as second:
        with pytest.raises(LockTimeoutError, match="stock"):
            elsewhere(second.lock("stock", wait=0).acquire)
        assert second.acquire_lock("stock", 10) is None


def test_a_thread_that_holds_a_lock_does_not_wait_for_itself(db: Client) -> None:
    with db.lock("stock"):
        with pytest.raises(LockError, match="this thread holds the lock 'stock' already"):
            db.lock("stock").acquire()
        with db.lock("another"):
            pass
    with db.lock("stock"):
        pass


def test_a_thread_may_wait_for_what_an_ended_one_holds_though_it_has_its_number(db: Client) -> None:
    held: list[Lock] = []
    came: list[type[Exception]] = []

    def hold() -> None:
        held.append(db.lock("stock").acquire())

    def ask() -> None:
        with pytest.raises(LockError) as caught:
            db.lock("stock", wait=0).acquire()
        came.append(caught.type)

    def run(work: Callable[[], object]) -> None:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join(PATIENCE)

    run(hold)
    for _ in range(20):  # the first one has the number already, in most cases
        run(ask)
    assert came == [LockTimeoutError] * 20


def test_a_lock_is_acquired_and_released_without_a_block(db: Client, url: str) -> None:
    lock = db.lock("stock").acquire()
    with ThreadPoolExecutor(1) as threads:
        threads.submit(lock.release).result()
    lock.release()
    with other(url) as second, second.lock("stock", wait=0):
        pass
    with pytest.raises(RuntimeError, match="enter it first"):
        lock.ensure()


def test_a_lock_that_nobody_refers_to_any_more_is_released(db: Client) -> None:
    db.lock("stock").acquire()
    gc.collect()
    with db.lock("stock", wait=PATIENCE):
        pass


def test_the_loss_of_a_lease_is_shown_by_ensure_and_at_the_end(db: Client, url: str) -> None:
    lost = threading.Event()

    def note(event: object) -> None:
        if isinstance(event, LeaseLost):
            lost.set()

    with connect(url, on_event=note) as client:  # noqa: SIM117 - the block itself raises
        with pytest.raises(LeaseLostError, match="stock"):
            with client.lock("stock", ttl=0.2) as lock:
                lock.ensure()
                steal(db, "stock")
                assert lost.wait(PATIENCE)
                with pytest.raises(LeaseLostError, match="stock") as caught:
                    lock.ensure()
                assert len(traceback.extract_tb(caught.value.__traceback__)) < 6


def steal(db: Client, key: str) -> None:
    """Free a lock by force."""

    async def free(s: gogoscope.Scope) -> None:
        locks = Persistence.of(s._home.store()).locks
        assert locks is not None
        await locks.force_release(key)

    db._hosts.call(free).value()


def test_an_error_of_the_block_leaves_it_as_it_is_and_releases(db: Client) -> None:
    with pytest.raises(ZeroDivisionError) as caught, db.lock("stock"):
        _ = 1 / 0
    names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert names == ["test_an_error_of_the_block_leaves_it_as_it_is_and_releases"]
    with db.lock("stock", wait=0):
        pass


def test_ctrl_c_in_the_block_releases_the_lock(db: Client) -> None:
    with pytest.raises(KeyboardInterrupt), db.lock("stock"):
        raise KeyboardInterrupt
    with db.lock("stock", wait=0):
        pass


def test_a_lease_is_extended(db: Client) -> None:
    with db.lock("stock", ttl=10) as lock:
        before = lock.expires_at
        assert lock.extend(100)
        assert lock.expires_at > before + 50


def test_a_lock_without_renewal_is_a_handle(db: Client) -> None:
    handle = db.acquire_lock("stock", 30)
    assert handle is not None
    with handle:
        handle.ensure()
        assert handle.is_valid()
        assert handle.extend(20)
        assert handle.key == "stock"
        assert handle.expires_at > handle.fencing_token * 0
    with pytest.raises(LeaseLostError):
        handle.ensure()
    assert handle.release() is False
    assert db.acquire_lock("stock", 30) is not None


def test_a_semaphore_admits_as_many_as_it_has_permits(db: Client, url: str) -> None:
    with db.semaphore("printers", 2), db.semaphore("printers", 2) as permit:
        permit.ensure()
        with pytest.raises(LockError, match="holds semaphore 'printers' already"):
            db.semaphore("printers", 2).acquire()
        with other(url) as second, pytest.raises(LockTimeoutError):
            elsewhere(second.semaphore("printers", 2, wait=0).acquire)


def test_readers_read_side_by_side_and_a_writer_writes_alone(db: Client, url: str) -> None:
    with other(url) as second, db.read_lock("table"):
        elsewhere(lambda: second.read_lock("table", wait=0).acquire().release())
        with pytest.raises(LockTimeoutError):
            elsewhere(second.write_lock("table", wait=0).acquire)
        with pytest.raises(LockError, match="'table' already"):
            db.write_lock("table").acquire()


def test_a_run_is_done_once(db: Client) -> None:
    with db.claim("charge:1", keep=60, payload={"euro": 7}) as run:
        assert not run.done
        run.ensure()
        run.complete({"receipt": 1})
    assert run.result == {"receipt": 1}
    with db.claim("charge:1", keep=60, payload={"euro": 7}) as again:
        assert again.done
        assert again.result == {"receipt": 1}
        assert again.fencing_token == run.fencing_token
        with pytest.raises(RunError, match="done before"):
            again.complete(8)
    with pytest.raises(gogoscope.PayloadMismatchError):
        db.claim("charge:1", keep=60, payload={"euro": 8}).__enter__()


def test_a_run_that_fails_is_abandoned_and_one_whose_error_is_kept_is_not(db: Client) -> None:
    with pytest.raises(ValueError, match="no"), db.claim("charge:1", keep=60):
        raise ValueError("no")
    with pytest.raises(KeyError), db.claim("charge:1", keep=60, keep_errors=KeyError) as run:
        assert not run.done
        raise KeyError("kept")
    with pytest.raises(gogoscope.KeptError, match="kept"):
        db.claim("charge:1", keep=60).__enter__()


def test_a_run_does_not_wait_for_itself(db: Client) -> None:
    with db.claim("charge:1", keep=60):
        with pytest.raises(RunError, match="it would wait for itself"):
            db.claim("charge:1", keep=60).__enter__()
        with pytest.raises(RunError, match="it would wait for itself"):
            db.call(print, once=gogoscope.Once("charge:1", 60))


def test_a_rate_limit_bounds_what_begins(db: Client) -> None:
    limit = RateLimit("mail", rate=1, per=3600, burst=3)
    with db.acquire(limit, cost=2) as permit:
        permit.spent(1)
        assert permit.cost == 2
    with db.acquire(limit), db.acquire(limit):
        pass
    with pytest.raises(RateLimitExceededError):
        db.acquire(limit, wait=0).__enter__()


@pytest.mark.parametrize(
    ("use", "error"),
    [
        (lambda db: db.lock(""), ValueError),
        (lambda db: db.lock("k", ttl=-1), ValueError),
        (lambda db: db.lock("k", wait="soon"), TypeError),
        (lambda db: db.lock("k", metadata={"a": 1}), TypeError),
        (lambda db: db.acquire_lock("k", 0), ValueError),
        (lambda db: db.semaphore("k", 0), ValueError),
        (lambda db: db.semaphore("k", None), TypeError),
        (lambda db: db.claim("k", keep=-1), ValueError),
        (lambda db: db.acquire("mail"), TypeError),
        (lambda db: db.acquire(RateLimit("m", rate=1, per=1), cost=9), ValueError),
        (lambda db: db.once(3, keep=60), TypeError),
        (lambda db: db.once("k", keep=-1), ValueError),
        (lambda db: db.once("k", keep=1, payload=3), TypeError),
        (lambda db: db.call(print, once="k"), TypeError),
        (lambda db: db.cached(-1), ValueError),
        (lambda db: db.cache.get_or_set("k", print, -1), ValueError),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_asked(
    use: Callable[[Client], object], error: type[Exception]
) -> None:
    db = connect("memory://never-opened")
    with pytest.raises(error):
        use(db)
    assert db._hosts._host is None or db._hosts._host._scope is None


def test_a_block_is_entered_once_at_a_time(db: Client) -> None:
    lock = db.lock("stock")
    with lock, pytest.raises(RuntimeError, match="open already"):
        lock.acquire()
    with lock:
        pass


def test_a_block_is_entered_once_at_a_time_though_threads_wait_in_it(db: Client) -> None:
    shared = db.semaphore("licences", 2, wait=60)
    refused: list[str] = []

    def enter() -> None:
        try:
            with shared:
                pass
        except RuntimeError as error:
            refused.append(str(error))

    with ThreadPoolExecutor(2) as threads:
        with db.semaphore("licences", 2), db.semaphore("licences", 2):
            entering = [threads.submit(enter), threads.submit(enter)]
            wait(entering, PATIENCE, FIRST_COMPLETED)
        wait(entering, PATIENCE)
    with db.semaphore("licences", 2, wait=0), db.semaphore("licences", 2, wait=0):
        assert len(refused) == 1
    assert "is open already" in refused[0]
