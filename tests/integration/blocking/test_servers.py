"""The blocking clients in the workers of servers: gunicorn with Flask and Django, and Celery.

Two workers are forked by a process that has used the store before. The tests do not wait for the
end of a server: the pool of Celery, when it is terminated, may wait for a lock of its own for ever.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import psutil
import pytest

from gogoscope.blocking import connect
from tests.support.guarded import free_port

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork"),
]

ROOT = Path(__file__).parents[3]
SERVED = "tests.integration.blocking.served"
PATIENCE = 90.0


def until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.02)


class Served:
    """A server with two workers.

    :param folder: where its workers write
    :param process: the parent of its workers
    :param do: has a worker do something, and returns what it answered
    """

    def __init__(
        self, folder: Path, process: subprocess.Popen[bytes], do: Callable[[str, str], str]
    ) -> None:
        self.folder = folder
        self.url = store_url(folder)
        self.process = process
        self.do = do
        self._threads = ThreadPoolExecutor(8)

    def begin(self, act: str, key: str) -> Future[str]:
        """Let a worker do something, without waiting for it."""
        return self._threads.submit(self.do, act, key)

    def holder(self, key: str) -> int:
        """Return the worker that holds a lock, once it does."""
        until((self.folder / f"{key}.held").exists)
        return int((self.folder / f"{key}.held").read_text())

    def let_go(self, key: str) -> None:
        """Let the holder of a lock end."""
        (self.folder / f"{key}.enough").touch()


def store_url(folder: Path) -> str:
    return f"sqlite:///{folder / 'store.db'}"


@contextmanager
def running(kind: str, folder: Path) -> Iterator[Served]:
    """Run a server in a block.

    :param kind: ``"flask"``, ``"django"`` or ``"celery"``
    """
    pytest.importorskip(kind)
    environment = os.environ | {
        "SHOP_FOLDER": str(folder),
        "SHOP_STORE": store_url(folder),
        "PYTHONPATH": str(ROOT),
    }
    if kind == "celery":
        arguments, do = celery(folder)
    else:
        pytest.importorskip("gunicorn")
        arguments, do = gunicorn(kind, folder)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments], stdout=log, stderr=log, env=environment, cwd=folder
        )
    try:
        served = Served(folder, process, do)
        assert served.do("enter", "ready") == "entered"
        yield served
    except BaseException:
        print((folder / "log").read_text())
        raise
    finally:
        for worker in workers_of(process):
            worker.kill()
        process.kill()
        process.wait()


def workers_of(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def gunicorn(kind: str, folder: Path) -> tuple[list[str], Callable[[str, str], str]]:
    port = free_port()

    def do(act: str, key: str) -> str:
        url = f"http://127.0.0.1:{port}/{act}/{key}"
        end = time.monotonic() + PATIENCE
        while True:
            try:
                with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
                    return str(answer.read().decode())
            except urllib.error.URLError as error:
                if not isinstance(error.reason, ConnectionRefusedError) or time.monotonic() > end:
                    raise
                time.sleep(0.05)  # it does not listen yet

    arguments = ["gunicorn", "--preload", "-w", "2", "-t", "300", "--graceful-timeout", "60"]
    return [*arguments, "-b", f"127.0.0.1:{port}", f"{SERVED}.{kind}_app"], do


def celery(folder: Path) -> tuple[list[str], Callable[[str, str], str]]:
    from celery import Celery  # type: ignore[import-untyped]

    outbox, queue = folder / "outbox", folder / "queue"
    for made in (outbox, queue, folder / "results"):
        made.mkdir()
    app = Celery(broker="filesystem://", backend=f"file://{folder / 'results'}")
    app.conf.broker_transport_options = {
        "data_folder_in": str(queue),
        "data_folder_out": str(outbox),
        "control_folder": str(queue),
    }
    sending = Lock()

    def do(act: str, key: str) -> str:
        with sending:  # Celery ends at once if it reads a message that is half written
            asked: Any = app.send_task("do", [act, key])
            for message in outbox.iterdir():
                message.rename(queue / message.name)
        return str(asked.get(timeout=PATIENCE, interval=0.02))

    return ["celery", "-A", f"{SERVED}.celery_app", "worker", "-c", "2", "--pool", "prefork"], do


@pytest.fixture(scope="module", params=["flask", "django", "celery"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a server, which the tests of this file share."""
    with running(request.param, tmp_path_factory.mktemp(request.param)) as server:
        yield server


def test_a_lock_that_a_worker_holds_is_taken_for_the_other(served: Served) -> None:
    holding = served.begin("hold", "long-a")
    served.holder("long-a")
    assert served.do("enter", "long-a") == "taken"
    served.let_go("long-a")
    assert holding.result(PATIENCE) == "held"
    assert served.do("enter", "long-a") == "entered"


def test_an_effect_happens_once_for_all_workers(served: Served) -> None:
    doing = [served.begin("charge", "7") for _ in range(4)]
    assert len({one.result(PATIENCE) for one in doing}) == 1
    assert (served.folder / "charged").read_text() == "7\n"


def test_a_rate_limit_is_that_of_all_workers(served: Served) -> None:
    doing = [served.begin("mail", str(number)) for number in range(5)]
    assert sorted(one.result(PATIENCE) for one in doing) == ["later"] * 2 + ["sent"] * 3


def test_the_lock_of_a_worker_that_was_killed_is_had_by_the_other(served: Served) -> None:
    holding = served.begin("hold", "short-b")
    os.kill(served.holder("short-b"), signal.SIGKILL)
    (served.folder / "short-b.held").unlink()
    other = served.begin("hold", "short-b")
    assert served.holder("short-b") > 0
    served.let_go("short-b")
    assert other.result(PATIENCE) == "held"
    holding.exception(PATIENCE)


@pytest.mark.parametrize("kind", ["flask", "celery"])
def test_sigterm_lets_the_block_end_and_releases_what_the_process_holds(
    tmp_path: Path, kind: str
) -> None:
    with running(kind, tmp_path) as served, connect(served.url) as db:
        assert served.do("keep", "kept") == "kept"
        assert db.acquire_lock("kept", 5) is None
        holding = served.begin("hold", "long-a")
        served.holder("long-a")
        served.process.send_signal(signal.SIGTERM)
        served.let_go("long-a")
        assert holding.result(PATIENCE) == "held"
        with db.lock("long-a", wait=PATIENCE), db.lock("kept", wait=PATIENCE):
            pass


@pytest.mark.parametrize("kind", ["flask", "celery"])
def test_sigquit_ends_the_block_and_releases_at_once(tmp_path: Path, kind: str) -> None:
    with running(kind, tmp_path) as served, connect(served.url) as db:
        holding = served.begin("hold", "long-a")
        served.holder("long-a")
        served.process.send_signal(signal.SIGQUIT)
        with db.lock("long-a", wait=PATIENCE):
            pass
        if kind == "flask":
            holding.exception(PATIENCE)
