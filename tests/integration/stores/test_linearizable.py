"""Histories of processes with wrong clocks, on stores whose answers are lost, late and doubled."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

import anyio
import pytest

from tests.support.faulty_proxy import FaultyProxy
from tests.support.linearizability import ABSENT, UNKNOWN, Lock, Operation, cache, lock, violations
from tests.support.shared_stores import shared_store_url

WORKER = "tests.integration.stores.history_worker"
PROCESSES = 4
HISTORIES = 20
SKEW = 2.0
START_SECONDS = 60.0
FAULTS = {
    "answers dropped after the write": 0.05,
    "requests dropped": 0.02,
    "requests delayed": 0.02,
    "answers delayed": 0.02,
    "status 500 after the write": 0.03,
    "requests that landed late": 0.05,
    "requests that landed twice": 0.05,
}


@asynccontextmanager
async def behind_a_proxy(url: str, proxy: FaultyProxy) -> AsyncIterator[str]:
    """Return the URL of a store, with the proxy before it if the store has an endpoint."""
    where, _, query = url.partition("?")
    options = dict(parse_qsl(query)) | {"max_clock_skew": str(SKEW)}
    if endpoint := options.get("endpoint_url"):
        async with proxy.running(endpoint):
            yield f"{where}?{urlencode(options | {'endpoint_url': proxy.url})}"
    else:
        yield f"{where}?{urlencode(options)}"


async def record(
    url: str, folder: Path, seconds: float, faults: dict[str, float], seed: int
) -> tuple[list[Operation], Counter[str]]:
    """Let processes use one key after the other; return the history and the faults injected.

    :param seconds: how long they use each key
    """
    chance = random.Random(seed)
    proxy = FaultyProxy(chance, faults)
    async with behind_a_proxy(url, proxy) as through:
        processes = [
            subprocess.Popen(
                [
                    *(sys.executable, "-m", WORKER, through, str(number)),
                    str(chance.uniform(-SKEW / 2, SKEW / 2)),
                    *(str(folder), str(HISTORIES), str(seconds)),
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
            with anyio.fail_after(HISTORIES * seconds + START_SECONDS):
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


@pytest.fixture(params=["sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of a store that processes share."""
    return shared_store_url(request, tmp_path)


@pytest.mark.slow
def test_what_processes_are_told_could_have_happened_one_at_a_time(
    url: str, tmp_path: Path
) -> None:
    seconds = 0.5 if url.startswith("sqlite") else 2.0
    history, done = anyio.run(record, url, tmp_path, seconds, FAULTS, 1)
    told = told_of(history)
    assert not judge(history), f"faults: {done}, told: {told}"
    assert told["in doubt"] < len(history) / 5
    assert min(told["acquire"], told["renew"], told["get"]) > HISTORIES
