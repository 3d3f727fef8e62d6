"""The fleet pays every order once, and its judge can tell right from wrong."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.shared_stores import SHARED_STORES, shared_store_url

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"


def run_example(*arguments: str, exit_code: int = 0) -> str:
    finished = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / arguments[0]), *arguments[1:]],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert finished.returncode == exit_code, finished.stdout + finished.stderr
    assert not finished.stderr
    return finished.stdout


def figure(output: str, name: str) -> str:
    found = re.search(rf"^{name} +(.+)$", output, re.MULTILINE)
    assert found, output
    return found[1]


def assert_paid_once(output: str, orders: int) -> None:
    assert figure(output, "orders paid") == f"{orders} of {orders}"
    assert figure(output, "charged twice") == "0"
    assert figure(output, "overlapping executions") == "0"
    assert figure(output, "lost") == "0"


@pytest.mark.slow
def test_the_fleet_pays_every_order_once_through_failures_and_an_outage() -> None:
    output = run_example("fleet.py", "--orders", "40", "--workers", "2")
    assert_paid_once(output, 40)
    assert int(figure(output, "failures").split()[0]) > 0
    assert int(figure(output, "circuit opened").split()[0]) > 0
    assert int(figure(output, "calls spared")) > 0


def test_the_fleet_pays_every_order_once_though_a_worker_is_killed_holding_a_lock() -> None:
    output = run_example("fleet.py", "--orders", "40", "--workers", "2", "--kill")
    assert_paid_once(output, 40)
    killed = r"^worker-\d was killed while it held the lock of order A-\d{4}$"
    assert re.search(killed, output, re.MULTILINE)


@pytest.fixture(params=SHARED_STORES[1:])
def server_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return shared_store_url(request, tmp_path)


@pytest.mark.parametrize("kill", [[], ["--kill"]])
def test_the_fleet_pays_every_order_once_on_a_server(kill: list[str], server_url: str) -> None:
    store = ("--persistence", server_url)
    output = run_example("fleet.py", "--orders", "40", "--workers", "2", *store, *kill)
    assert_paid_once(output, 40)
    assert ("was killed while it held the lock" in output) is bool(kill)
    assert int(figure(output, "circuit opened").split()[0]) > 0
    assert int(figure(output, "calls spared")) > 0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals")
def test_the_fleet_shows_its_progress_as_a_table_in_a_terminal() -> None:
    import pty

    ours, theirs = pty.openpty()
    command = [sys.executable, str(EXAMPLES / "fleet.py"), "--orders", "20"]
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"}
    with subprocess.Popen(command, stdout=theirs, stdin=theirs, env=environment) as fleet:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # a terminal whose last writer has ended
            while piece := os.read(ours, 65536):
                shown += piece
        os.close(ours)
    assert fleet.returncode == 0
    text = shown.decode()
    assert "the fleet at work" in text
    assert "charged" in text
    assert "\x1b[" in text, "nothing was ever drawn over"
    assert text.rstrip().endswith("every order was paid once, by one worker at a time")


def test_a_payment_service_that_dies_ends_the_fleet_at_once_with_what_was_lost() -> None:
    command = [sys.executable, str(EXAMPLES / "fleet.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as fleet:
        assert fleet.stdout is not None
        shown = [fleet.stdout.readline(), fleet.stdout.readline()]
        listening = [
            child
            for child in psutil.Process(fleet.pid).children()
            if any(c.status == psutil.CONN_LISTEN for c in child.net_connections("tcp"))
        ]
        assert len(listening) == 1
        listening[0].kill()
        output = "".join(shown) + fleet.stdout.read()
    assert fleet.returncode == 1
    assert "stopped: the payment service has died" in output
    assert int(figure(output, "lost").split()[0]) > 0


@pytest.mark.slow
def test_without_the_lock_the_ledger_shows_overlaps_and_double_charges() -> None:
    output = run_example("fleet.py", "--orders", "40", "--without-lock", exit_code=1)
    assert int(figure(output, "overlapping executions").split()[0]) > 0
    assert int(figure(output, "charged twice").split()[0]) > 0


@pytest.fixture
def verdicts(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module("fleet_parts.verdict")


RECEIPT = {"order": "A-1", "charge": "ch-1", "cents": 500}
STARTED = {"what": "started", "order": "A-1", "execution": 1}
CHARGED = {"what": "charged", "execution": 1, **RECEIPT}
ENDED = {"what": "ended", "order": "A-1", "execution": 1}
PAID = [STARTED, CHARGED, ENDED]


@pytest.mark.parametrize(
    ("ledger", "receipt", "wrong"),
    [
        (PAID, RECEIPT, []),
        ([STARTED, ENDED, *PAID], RECEIPT, []),
        ([], None, ["lost"]),
        ([], RECEIPT, ["lost"]),
        (PAID, None, ["lost"]),
        (PAID, {**RECEIPT, "charge": "ch-2"}, ["lost"]),
        (PAID, {**RECEIPT, "cents": 1}, ["lost"]),
        ([*PAID, *PAID], RECEIPT, ["charged_twice"]),
        ([STARTED, STARTED, ENDED, CHARGED, ENDED], RECEIPT, ["overlapped"]),
        ([STARTED], None, ["lost"]),
        ([*PAID, STARTED], RECEIPT, ["lost"]),
    ],
)
def test_the_judge_tells_what_is_wrong(
    verdicts: Any, ledger: list[dict[str, Any]], receipt: object, wrong: list[str]
) -> None:
    order = verdicts.Order(number="A-1", customer="Ada", cents=500)
    verdict = verdicts.judge([order], ledger, [receipt])
    found = [name for name in ("lost", "charged_twice", "overlapped") if getattr(verdict, name)]
    assert found == wrong
    assert verdict.good is (not wrong)
    assert verdict.paid == (set() if "lost" in wrong else {"A-1"})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--orders", "0"], "--orders must be between 1 and 400, got 0"),
        (["--workers", "0"], "--workers must be between 1 and 64, got 0"),
        (["--kill", "--workers", "1"], "--kill needs"),
        (["--persistence", "memory:"], "shared store"),
        (["--persistence", "MEMORY:"], "shared store"),
        (["--persistence", "nosuch://x"], "no backend is registered for the scheme 'nosuch'"),
    ],
)
def test_the_fleet_refuses_what_cannot_work(arguments: list[str], message: str) -> None:
    finished = subprocess.run(
        [sys.executable, str(EXAMPLES / "fleet.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert finished.returncode == 2
    assert message in finished.stderr
    assert "Traceback" not in finished.stderr


def running(processes: list[psutil.Process], seconds: float) -> list[psutil.Process]:
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    return [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C cannot be sent to one process there")
def test_ctrl_c_stops_every_process_of_the_fleet() -> None:
    fleet = subprocess.Popen(
        [sys.executable, "-u", str(EXAMPLES / "fleet.py")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell starts what it runs in the background with Ctrl-C ignored, and that is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        assert fleet.stdout is not None
        while "charged" not in (line := fleet.stdout.readline()):
            assert line, "the fleet ended too early"
        children = psutil.Process(fleet.pid).children(recursive=True)
        assert len(children) >= 5
        os.killpg(fleet.pid, signal.SIGINT)
        output, errors = fleet.communicate(timeout=30)
        assert fleet.returncode == 130
        assert "interrupted; every process is stopped" in output
        assert not errors
        assert not running(children, seconds=10)
    finally:
        if fleet.poll() is None:
            os.killpg(fleet.pid, signal.SIGKILL)
            fleet.wait()
