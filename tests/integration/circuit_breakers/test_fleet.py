"""A circuit breaker shared by real processes, some of which are killed, stopped or cancelled."""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from gogoscope import open_persistence
from gogoscope.persistence.protocols.circuit_breakers import CircuitBreakerState
from tests.support.shared_stores import SHARED_STORES, shared_store_url

WORKER = Path(__file__).parent / "fleet_worker.py"
PROCESSES = 8
PATIENCE = 60.0

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="no such signals on Windows")


@pytest.fixture(params=SHARED_STORES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return shared_store_url(request, tmp_path)


class Process:
    """One process of the fleet."""

    def __init__(self, url: str, options: dict[str, Any]) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, "-W", "error", str(WORKER), url, json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            self._lines.put(line)

    def tell(self, command: str) -> None:
        assert self.popen.stdin is not None
        self.popen.stdin.write(f"{command}\n")
        self.popen.stdin.flush()

    def hear(self) -> Any:
        """Return the next answer."""
        return json.loads(self._lines.get(timeout=PATIENCE))

    def ask(self, command: str) -> Any:
        self.tell(command)
        return self.hear()

    def end(self) -> None:
        with self.popen:  # closes the pipes
            if sys.platform != "win32":
                self.popen.send_signal(signal.SIGCONT)
            assert self.popen.stdin is not None
            self.popen.stdin.close()
            try:
                self.popen.wait(10)
            finally:
                self.popen.kill()
                self._reader.join()


Start = Callable[..., list[Process]]


@pytest.fixture
def start(url: str) -> Iterator[Start]:
    """Start processes that share a circuit with the options given."""
    started: list[Process] = []

    def start_processes(number: int, **options: Any) -> list[Process]:
        fleet = [Process(url, options) for _ in range(number)]
        started.extend(fleet)
        for process in fleet:
            assert process.hear() == "ready"
        return fleet

    yield start_processes
    for process in started:
        process.end()


def found_state(url: str) -> CircuitBreakerState | None:
    async def read() -> CircuitBreakerState | None:
        async with open_persistence(url) as store:
            found: CircuitBreakerState | None = await store.get_state("payments")
            return found

    return anyio.run(read)


def shared_state(url: str) -> CircuitBreakerState:
    state = found_state(url)
    assert state is not None
    return state


def wait_for(url: str, name: str) -> None:
    """Wait for a state; a call that has ended tells the store in the background."""
    give_up = time.monotonic() + PATIENCE
    while (state := found_state(url)) is None or state.state != name:
        assert time.monotonic() < give_up, state
        time.sleep(0.02)


def wait_until_half_open(url: str) -> None:
    time.sleep(max(0.0, (shared_state(url).open_until_ms or 0) / 1000 - time.time()))


def trip(url: str, process: Process) -> None:
    """Have a call fail, and wait until the store knows."""
    assert process.ask("fail 1") == ["OSError"]
    wait_for(url, "open")


def test_every_failure_of_the_fleet_counts_once_and_it_trips_once(url: str, start: Start) -> None:
    fleet = start(PROCESSES, failure_threshold=40, reset_timeout=60, refresh_interval=0.3)
    for process in fleet:
        assert process.ask("call") == "NoneType"
    for process in fleet:
        process.tell("fail 5")
    for process in fleet:
        assert process.hear() == ["OSError"] * 5
    # A success before that would clear the count, as failures in a row are counted.
    wait_for(url, "open")
    for process in fleet:
        process.tell("until_rejected")
    assert [process.hear() for process in fleet] == [0] * PROCESSES
    state = shared_state(url)
    assert (state.state, state.failure_count, state.open_count) == ("open", 40, 1)
    assert len(state.reporters) == PROCESSES


def test_every_process_rejects_within_its_refresh_interval_without_asking(
    url: str, start: Start
) -> None:
    interval = 1.0
    fleet = start(PROCESSES, failure_threshold=1, reset_timeout=60, refresh_interval=interval)
    for process in fleet:
        assert process.ask("call") == "NoneType"
    trip(url, fleet[0])
    for process in fleet:
        process.tell("until_rejected")
    assert [process.hear() for process in fleet] == [0] * PROCESSES
    # The trip is dated by the process that made it, so nobody's clock but this machine's counts.
    since_ms = shared_state(url).since_ms
    assert since_ms is not None
    assert time.time() - since_ms / 1000 <= interval + 4.0


@pytest.mark.slow
@pytest.mark.parametrize("probes", [1, 3])
def test_exactly_as_many_probes_as_allowed_run_in_the_whole_fleet(
    url: str, start: Start, probes: int
) -> None:
    fleet = start(
        PROCESSES,
        failure_threshold=1,
        reset_timeout=4,
        half_open_probes=probes,
        success_threshold=probes,
        refresh_interval=0.1,
    )
    trip(url, fleet[0])
    for process in fleet[1:]:
        assert process.ask("until_rejected") >= 0
    wait_until_half_open(url)
    for process in fleet:
        process.tell("probe 5")
    heard = [process.hear() for process in fleet for _ in range(5)]
    assert sorted(heard) == ["CircuitOpenError"] * (len(heard) - probes) + ["called"] * probes
    assert len(shared_state(url).probes) == probes
    for process in fleet:
        process.tell("release succeed")
    for process in fleet:
        process.tell("until_called")
    ended = [process.hear() for process in fleet for _ in range(1)]
    assert set(ended) <= {"called", "NoneType"}
    wait_for(url, "closed")
    assert shared_state(url).failure_count == 0


@pytest.mark.slow
@posix_only
def test_a_killed_process_delays_the_next_probe_by_its_lease_at_most(
    url: str, start: Start
) -> None:
    lease = 2.0  # the reset timeout, as nobody knows how long the call takes
    prober, other = start(2, failure_threshold=1, reset_timeout=lease, refresh_interval=0.1)
    trip(url, prober)
    assert other.ask("until_rejected") >= 0
    wait_until_half_open(url)
    assert prober.ask("probe 1") == "called"
    claimed = time.monotonic()
    prober.popen.kill()
    assert other.ask("call") == "CircuitOpenError"
    assert other.ask("until_called") == "called"
    assert time.monotonic() - claimed <= lease + 4.0
    wait_for(url, "closed")


@pytest.mark.slow
def test_a_cancelled_probe_is_returned_at_once(url: str, start: Start) -> None:
    prober, other = start(2, failure_threshold=1, reset_timeout=4, refresh_interval=0.1)
    trip(url, prober)
    assert other.ask("until_rejected") >= 0
    wait_until_half_open(url)
    assert prober.ask("probe 1") == "called"
    assert other.ask("call") == "CircuitOpenError"
    began = time.monotonic()
    assert prober.ask("cancel") == "TaskCancelled"
    assert other.ask("until_called") == "called"
    assert time.monotonic() - began < 3.5
    wait_for(url, "closed")


@posix_only
@pytest.mark.parametrize("late", ["succeed", pytest.param("fail", marks=pytest.mark.slow)])
def test_the_late_verdict_of_a_process_that_was_stopped_changes_nothing(
    url: str, start: Start, late: str
) -> None:
    zombie, other = start(2, failure_threshold=1, reset_timeout=3, refresh_interval=0.1)
    trip(url, zombie)
    assert other.ask("until_rejected") >= 0
    wait_until_half_open(url)
    assert zombie.ask("probe 1") == "called"
    zombie.popen.send_signal(signal.SIGSTOP)
    if late == "succeed":
        while other.ask("probe 1") != "called":
            time.sleep(0.01)
        assert other.ask("release fail") == "OSError"
    else:
        assert other.ask("until_called") == "called"
    wait_for(url, "open" if late == "succeed" else "closed")
    before = shared_state(url)
    zombie.tell(f"release {late}")
    zombie.popen.send_signal(signal.SIGCONT)
    assert zombie.hear() == ("NoneType" if late == "succeed" else "OSError")
    # The zombie has told the store by the time that its next request is answered.
    zombie.ask("call")
    after = shared_state(url)
    assert (after.state, after.open_count) == (before.state, before.open_count)
    assert after.open_until_ms == before.open_until_ms
