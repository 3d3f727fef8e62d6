"""A Flask app, a plain worker and async processes exclude each other."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gogoscope import PersistenceError
from gogoscope.blocking import connect
from tests.support.redis_server import REDIS, running_redis
from tests.support.shared_stores import shared_store_url

WORKER = Path(__file__).parent / "worker.py"
TIMES = 15

pytestmark = pytest.mark.slow


@pytest.fixture(params=["sqlite", REDIS])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of a store that processes share."""
    return shared_store_url(request, tmp_path)


def start(kind: str, url: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, WORKER, kind, url, folder / "inside", str(TIMES)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_blocking_and_async_processes_are_never_inside_together(url: str, tmp_path: Path) -> None:
    pytest.importorskip("flask")
    kinds = ["flask", "plain", "loop", "loop"]
    workers = [start(kind, url, tmp_path) for kind in kinds]
    try:
        for kind, worker in zip(kinds, workers, strict=True):
            out, err = worker.communicate(timeout=120)
            assert worker.returncode == 0, (out, err)
            assert out.split() == [kind] * TIMES
    finally:
        for worker in workers:
            worker.kill()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_the_lock_of_a_process_that_was_killed_is_free_after_its_lease(
    url: str, tmp_path: Path
) -> None:
    with start("dying", url, tmp_path) as holder, connect(url) as db:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            holder.send_signal(signal.SIGKILL)
            began = time.monotonic()
            with db.lock("section", wait=60) as lock:
                assert time.monotonic() - began < 60
                lock.ensure()
        finally:
            holder.kill()


@pytest.mark.engine
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGSTOP")
def test_a_store_that_is_stopped_and_continued_loses_no_lock() -> None:
    with running_redis() as server:
        url = f"{server.url}?request_timeout=0.5"
        with connect(url) as db, db.lock("section", ttl=60) as lock:
            pid = server.pid
            server.signal(signal.SIGSTOP)
            try:
                with pytest.raises(PersistenceError):
                    db.cache.get("k")
                lock.ensure()
            finally:
                server.resume(pid)
            assert lock.is_valid()
        with connect(url) as second, second.lock("section", wait=0):
            pass
