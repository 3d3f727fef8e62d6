"""What locks on DynamoDB cost: requests, waits, latency, and other libraries beside them.

Everything is measured in one run, on DynamoDB Local or the engine that the tests use:

    python -m tests.benchmarks.bench_locks [--seconds 20] [--rounds 1500] [--check]

``--check`` fails if a number is over its limit. Other libraries are measured if they are installed
(``pip install 'gogoscope[bench]'``).
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.to_thread

from gogoscope import Scope, scope
from gogoscope_dynamodb import DynamoDBAdapter, create_table
from gogoscope_dynamodb.client import open_client
from tests.benchmarks.lock_peers import ALONE, HEADER, Result, measure_peers
from tests.benchmarks.lock_peers import HANDOFFS as HANDOFFS_OF_PEERS
from tests.benchmarks.replay import Replay, Request
from tests.support.dynamodb_faults import FaultyClient
from tests.support.engines import DUMMY_CREDENTIALS, new_table_name, running_engine

HOLD = 0.005
PROCESSES, WAITERS, HANDOFFS = 4, 8, 100
MOST_REQUESTS, MOST_REQUESTS_OF_FLEET = 1.1, 3.2
MOST_UNFAIR, MOST_LATENCY = 1.5, 1.1
WARM_UP = 100


class Report:
    """Prints one line for each number, and notes whether one was over its limit."""

    def __init__(self) -> None:
        self.fine = True

    def line(self, name: str, value: float, limit: float, unit: str = "") -> None:
        within = value <= limit
        self.fine = self.fine and within
        verdict = "" if within else "  OVER"
        print(f"{name:<54}{value:>9.3f}{unit}  (at most {limit:g}){verdict}", flush=True)


async def count_requests(counter: FaultyClient, store: DynamoDBAdapter, report: Report) -> None:
    """Count the requests of each step that nobody else disturbs."""

    async def requests(step: Callable[[], Awaitable[Any]]) -> int:
        counter.calls.clear()
        await step()
        return len(counter.calls)

    async with scope(persistence=store) as s:
        handle = await s.acquire_lock("warm-up", 30)
        assert handle is not None
        report.line("requests: acquire", await requests(lambda: s.acquire_lock("one", 30)), 1)
        report.line("requests: failed try", await requests(lambda: s.acquire_lock("one", 30)), 1)
        report.line("requests: renew", await requests(handle.extend), 1)
        report.line("requests: release", await requests(handle.release), 1)


async def contend_in_one_process(
    counter: FaultyClient, store: DynamoDBAdapter, report: Report
) -> None:
    """Let the waiters of one process pass a lock among them."""
    left = HANDOFFS
    counter.calls.clear()
    async with scope(persistence=store) as s:

        async def work() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                async with s.lock("contended", ttl=10):
                    await anyio.sleep(HOLD)

        started = time.perf_counter()
        async with anyio.create_task_group() as group:
            for _ in range(32):
                group.start_soon(work)
    seconds = time.perf_counter() - started
    each = len(counter.calls) / HANDOFFS
    report.line("requests a handoff, 32 waiters in a process", each, MOST_REQUESTS)
    print(f"{'  seconds for 100 handoffs of 5 ms':<54}{seconds:>9.3f}")


async def be_one_process(endpoint_url: str, table: str, seconds: float) -> None:
    """Be one of the processes of a fleet that contends: ready, go, numbers as JSON."""
    waits: list[float] = []
    async with open_client(endpoint_url=endpoint_url) as client:
        counter = FaultyClient(client)
        store = DynamoDBAdapter(counter, table)
        await store.read_lock("warm-up")
        print("ready", flush=True)
        await anyio.to_thread.run_sync(sys.stdin.readline)
        counter.calls.clear()
        end = time.monotonic() + seconds
        async with scope(persistence=store) as s:

            async def work() -> None:
                while time.monotonic() < end:
                    began = time.perf_counter()
                    async with s.lock("fleet", ttl=10):
                        waits.append(time.perf_counter() - began)
                        await anyio.sleep(HOLD)

            async with anyio.create_task_group() as group:
                for _ in range(WAITERS):
                    group.start_soon(work)
    result = {"waits": waits, "requests": len(counter.calls)}
    print(json.dumps(result), flush=True)


def contend_between_processes(
    endpoint_url: str, table: str, seconds: float, report: Report
) -> None:
    """Let the waiters of several processes contend for a lock."""
    command = [sys.executable, "-m", "tests.benchmarks.bench_locks", "--process", endpoint_url]
    fleet = [
        subprocess.Popen(
            [*command, table, "--seconds", str(seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(PROCESSES)
    ]
    try:
        for process in fleet:
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
        for process in fleet:
            assert process.stdin
            process.stdin.write("go\n")
            process.stdin.flush()
        outputs = [process.communicate(timeout=seconds + 60)[0] for process in fleet]
    finally:
        for process in fleet:
            process.kill()
            process.wait()
    results = [json.loads(output) for output in outputs]
    handoffs = sum(len(result["waits"]) for result in results)
    requests = sum(result["requests"] for result in results)
    p99 = sorted(statistics.quantiles(result["waits"], n=100)[98] for result in results)
    medians = [statistics.median(result["waits"]) for result in results]
    report.line(
        "requests a handoff, 4 processes x 8 waiters", requests / handoffs, MOST_REQUESTS_OF_FLEET
    )
    report.line("p99 wait, worst process to best", p99[-1] / p99[0], MOST_UNFAIR)
    print(f"{'  handoffs a second':<54}{handoffs / seconds:>9.1f}")
    print(f"{'  p99 wait of best and worst, in seconds':<54}{p99[0]:>9.3f} {p99[-1]:.3f}")
    median = f"{min(medians):>9.3f} {max(medians):.3f}"
    print(f"{'  median wait of best and worst, in seconds':<54}{median}")
    print(f"{'  handoffs of each process':<54}{[len(result['waits']) for result in results]}")


async def compare_latency(client: Any, table: str, rounds: int, report: Report) -> None:
    """Alternate taking and releasing a lock in a scope with the two raw requests."""
    replay = Replay.on(client, table)
    requests: list[Request] = []

    async def take_and_free(s: Scope) -> None:
        handle = await s.acquire_lock("ours", 30)
        assert handle is not None
        await handle.release()

    async with (
        scope(persistence=DynamoDBAdapter(client, table)) as s,
        scope(persistence=replay.store) as shown,
    ):

        async def ours() -> None:
            await take_and_free(s)

        async def raw() -> None:
            await replay.send(requests)

        sides: list[tuple[list[float], Callable[[], Awaitable[None]]]] = [([], ours), ([], raw)]
        gc.collect()
        gc.disable()
        for _ in range(min(WARM_UP, rounds) + rounds):
            requests = await replay.requests(lambda _: take_and_free(shown), 1)
            for times, call in sides:
                began = time.perf_counter()
                await call()
                times.append(time.perf_counter() - began)
            sides.reverse()
        gc.enable()
    medians = {call.__name__: statistics.median(times[-rounds:]) for times, call in sides}
    report.line(
        "acquire and release, to the two raw requests",
        medians["ours"] / medians["raw"],
        MOST_LATENCY,
    )
    microseconds = f"{medians['ours'] * 1e6:>9.0f} {medians['raw'] * 1e6:.0f}"
    print(f"{'  in microseconds, ours and raw':<54}{microseconds}")


async def like_the_peers(counter: FaultyClient, store: DynamoDBAdapter) -> None:
    """Print what a turn costs alone, and with eight waiters, in the form of the other libraries."""
    async with scope(persistence=store) as s:

        async def turn(hold: float = 0) -> None:
            async with s.lock("job", ttl=10):
                if hold:
                    await anyio.sleep(hold)

        counter.calls.clear()
        turns = []
        for _ in range(ALONE):
            began = time.perf_counter()
            await turn()
            turns.append(time.perf_counter() - began)
        alone = len(counter.calls) / ALONE
        counter.calls.clear()
        left = HANDOFFS_OF_PEERS

        async def work() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                await turn(HOLD)

        began = time.perf_counter()
        async with anyio.create_task_group() as group:
            for _ in range(WAITERS):
                group.start_soon(work)
        seconds = time.perf_counter() - began
    contended = len(counter.calls) / HANDOFFS_OF_PEERS
    handoffs = HANDOFFS_OF_PEERS / seconds
    print(HEADER)
    print(f"{'gogoscope':<24}{Result(alone, statistics.median(turns) * 1000, contended, handoffs)}")


async def main(endpoint_url: str, rounds: int, seconds: float) -> bool:
    """Measure everything; tell whether it is within its limits."""
    report = Report()
    table = new_table_name()
    async with open_client(endpoint_url=endpoint_url) as client:
        await create_table(client, table)
        counter = FaultyClient(client)
        store = DynamoDBAdapter(counter, table)
        await count_requests(counter, store, report)
        await contend_in_one_process(counter, store, report)
        await anyio.to_thread.run_sync(
            contend_between_processes, endpoint_url, table, seconds, report
        )
        await compare_latency(client, table, rounds, report)
        await like_the_peers(counter, store)
    return report.fine


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1500)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--process", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ.update(
        {name: DUMMY_CREDENTIALS[name] for name in DUMMY_CREDENTIALS.keys() - os.environ}
    )
    if options.process:
        anyio.run(be_one_process, options.process[0], options.process[1], options.seconds)
    else:
        with running_engine() as engine:
            fine = anyio.run(main, engine.endpoint_url, options.rounds, options.seconds)
            measure_peers(engine.endpoint_url)
        sys.exit(not fine and options.check)
