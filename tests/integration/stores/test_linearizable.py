"""Histories of processes with wrong clocks, on stores whose answers are lost, late and doubled."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import anyio
import pytest
from attrs import frozen

from tests.support.faulty_proxy import FaultyProxy
from tests.support.linearizability import ABSENT, UNKNOWN, Lock, Operation, cache, lock, violations
from tests.support.shared_stores import SHARED_STORES, shared_store_url
from tests.support.tunnel import TUNNEL_FAULTS, Tunnel, through

WORKER = "tests.integration.stores.history_worker"
PROCESSES = 4
START_SECONDS = 60.0
FAULTS = {
    "answers dropped after the write": 0.03,
    "requests dropped": 0.01,
    "requests delayed": 0.01,
    "answers delayed": 0.01,
    "status 500 after the write": 0.02,
    "requests that landed late": 0.04,
    "requests that landed twice": 0.03,
}


@frozen
class Plan:
    """How long the processes use each of so many keys, and how wrong their clocks are.

    ``seconds`` is for one key, ``lease`` that of its locks in seconds. No two clocks differ by more
    than ``skew`` seconds.
    """

    histories: int = 20
    seconds: float = 2.0
    lease: float = 0.6
    skew: float = 2.0
    seed: int = 1


PLANS = {
    "sqlite": [Plan(seconds=0.5, lease=0.05)],
    "dynamodb": [Plan(10), Plan(10, skew=0.02)],
    "postgresql": [Plan(seconds=1.0, lease=0.3)],
    "redis": [Plan(seconds=1.0, lease=0.3)],
}


def with_skew(url: str, skew: float) -> str:
    """Return a URL whose store allows for so much between the clocks of two processes."""
    return f"{url}{'&' if '?' in url else '?'}max_clock_skew={skew}"


async def record(url: str, plan: Plan, folder: Path) -> tuple[list[Operation], Counter[str]]:
    """Let processes use one key after the other; return the history and the faults injected."""
    chance = random.Random(plan.seed)
    proxy = proxy_for(url, chance)
    async with through(with_skew(url, plan.skew), proxy) as near:
        processes = [
            subprocess.Popen(
                [
                    *(sys.executable, "-m", WORKER, near, str(number)),
                    str(chance.uniform(-plan.skew / 2, plan.skew / 2)),
                    *(str(folder), str(plan.histories), str(plan.seconds), str(plan.lease)),
                ]
            )
            for number in range(PROCESSES)
        ]
        try:
            with anyio.fail_after(START_SECONDS):
                while len(list(folder.glob("ready-*"))) < PROCESSES:
                    await anyio.sleep(0.05)
            (folder / "begin.new").write_text(str(time.monotonic()))
            proxy.faulty = True
            (folder / "begin.new").rename(folder / "begin")
            with anyio.fail_after(plan.histories * plan.seconds + START_SECONDS):
                while any(process.poll() is None for process in processes):
                    await anyio.sleep(0.1)
        finally:
            for process in processes:
                process.kill()
                process.wait()
    assert [process.returncode for process in processes] == [0] * PROCESSES
    lines = [
        json.loads(line)
        for path in folder.glob("history-*")
        for line in path.read_text().splitlines()
    ]
    return [operation_of(line) for line in lines], proxy.done


def proxy_for(url: str, chance: random.Random) -> FaultyProxy:
    """Return the proxy that understands what a store's server is spoken to, or else a tunnel."""
    if url.startswith("dynamodb:"):
        return FaultyProxy(chance, FAULTS)
    return Tunnel(chance, TUNNEL_FAULTS)


def operation_of(line: dict[str, Any]) -> Operation:
    """Return an operation as a process wrote it down; one that raised is in doubt."""
    names = ("process", "key", "name", "argument", "began")
    told = {"result": line["result"], "ended": line["ended"]} if "result" in line else {}
    return Operation(**{name: line[name] for name in names}, **told)


def judge(history: list[Operation]) -> list[str]:
    """Return what is wrong with a history of caches and locks."""
    locks = [operation for operation in history if operation.key.startswith("lock")]
    values = [operation for operation in history if operation.key.startswith("cache")]
    return violations(values, ABSENT, cache) + violations(locks, Lock(), lock)


def told_of(history: list[Operation]) -> Counter[str]:
    """Count what was asked, and of that what is in doubt."""
    told = Counter(operation.name for operation in history)
    told["in doubt"] = sum(operation.result is UNKNOWN for operation in history)
    return told


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """Return the kind of a store that processes share, and its URL."""
    return request.param, shared_store_url(request, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("place", SHARED_STORES, indirect=True)
def test_what_processes_are_told_could_have_happened_one_at_a_time(
    place: tuple[str, str], tmp_path: Path
) -> None:
    kind, url = place
    for number, plan in enumerate(PLANS[kind]):
        folder = tmp_path / str(number)
        folder.mkdir()
        history, done = anyio.run(record, url, plan, folder)
        told = told_of(history)
        found = judge(history)
        assert not found, "\n".join([*found, f"faults: {done}", f"told: {told}"])
        assert told["in doubt"] < len(history) / 5
        assert min(told["acquire"], told["get"]) > plan.histories
        assert told["renew"] > 0
        assert told["release"] > 0
