"""Recorded traces: what they tell, and that any viewer can read them."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import anyio
import pytest

from gogoscope import CircuitBreaker, Retry, scope
from gogoscope.events import record_trace, subscribers
from gogoscope.stores.memory import MemoryStore

pytestmark = pytest.mark.anyio


async def fine() -> None:
    await anyio.sleep(0)


class Flaky:
    def __init__(self) -> None:
        self.calls = 0

    async def call(self) -> None:
        self.calls += 1
        if self.calls == 1:
            raise ConnectionError("no line")


def read(path: Path) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = json.loads(path.read_text(encoding="ascii"))
    return lines


def stacks(lines: list[dict[str, Any]]) -> list[list[str]]:
    """Return each slice with what it is inside of; check that slices of a lane are nested."""
    found, lanes, last = [], defaultdict[int, list[str]](list), 0.0
    for line in lines:
        assert line.keys() >= {"ph", "name", "ts", "pid", "tid"}
        lane = lanes[line["tid"]]
        if line["ph"] == "B":
            lane.append(line["name"])
            found.append(list(lane))
        elif line["ph"] == "E":
            assert lane.pop() == line["name"]
        assert line["ts"] >= last or line["name"].startswith("pause")
        last = max(last, line["ts"])
    assert not any(lanes.values())
    return found


async def test_what_happens_one_after_the_other_is_nested(tmp_path: Path) -> None:
    breaker = CircuitBreaker("bank", failure_threshold=1, reset_timeout=0.01)

    async def order() -> None:
        async with s.lock("a") as locked:
            await locked.call(fine)

    async def broken() -> None:
        raise ValueError("broken")

    with record_trace(tmp_path / "trace.json"):
        async with scope(name="shop", persistence=MemoryStore()) as s:
            await s.call(order, name="order")
            await s.call(Flaky().call, retry=Retry(2, delay=0.001), name="send")
            await s.cache.get_or_set("price", fine, 60)
            _ = (await s.task(broken, circuit_breaker=breaker, name="bank down")).error
            await anyio.sleep(0.1)
            await s.call(fine, circuit_breaker=breaker, name="bank up")
            async with s.claim("charge", keep=60), s.job("import"):
                pass
    lines = read(tmp_path / "trace.json")
    inner = "scope shop > run charge > scope shop running charge"
    assert [" > ".join(stack) for stack in stacks(lines)] == [
        "scope shop",
        "scope shop > order",
        "scope shop > order > lock a",
        "scope shop > order > lock a > scope shop holding a",
        "scope shop > order > lock a > scope shop holding a > fine",
        "scope shop > send",
        "scope shop > send > pause before attempt 2",
        "scope shop > load price",
        "scope shop > bank down",
        "scope shop > bank up",
        "scope shop > bank up > probe bank",
        "scope shop > run charge",
        inner,
        f"{inner} > job import",
        f"{inner} > job import > scope shop at job import",
    ]
    (failed,) = (line for line in lines if line["name"] == "TaskFailed")
    assert failed["args"]["error"] == "ValueError('broken')"
    assert {line["name"] for line in lines if line["ph"] == "i"} >= {"CacheMissed", "StoreAsked"}


FIELDS = {
    "B": set[str](),
    "E": set[str](),
    "i": {"s", "args"},
    "M": {"args"},
}
"""What lines of a kind have besides what all have, by the document "Trace Event Format"."""


async def test_each_line_has_the_fields_of_its_kind_and_lanes_are_in_order(tmp_path: Path) -> None:
    async def work(number: int) -> None:
        async with s.lock("a", wait=60):
            await anyio.sleep(0)
        if number % 3 == 0:
            raise ConnectionError("no line")

    with record_trace(tmp_path / "trace.json"):
        async with scope(name="shop", concurrency=3, persistence=MemoryStore()) as s:
            tasks = [s.task(work, n, retry=Retry(2, delay=0.001)) for n in range(20)]
            for task in tasks:
                _ = (await task).error
            await s.cache.get_or_set("price", fine, 60)
            async with s.claim("charge", keep=60), s.job("import"), s.semaphore("desk", 2):
                pass
    last = defaultdict[tuple[int, int], float](float)
    for line in read(tmp_path / "trace.json"):
        assert line.keys() == {"ph", "name", "cat", "ts", "pid", "tid"} | FIELDS[line["ph"]]
        assert isinstance(line["name"], str)
        assert type(line["pid"]) is type(line["tid"]) is int
        if line["ph"] == "M":
            assert line["name"] in ("process_name", "thread_name")
            assert line["args"].keys() == {"name"}
        elif line["ph"] == "i":
            assert line["s"] == "t"
        else:
            lane = line["pid"], line["tid"]
            assert line["ts"] >= last[lane]
            last[lane] = line["ts"]


async def test_what_overlaps_has_lanes_of_its_own_which_are_used_again(tmp_path: Path) -> None:
    with record_trace(tmp_path / "trace.json"):
        async with scope(name="shop", concurrency=3) as s:
            for n in range(50):
                s.task(anyio.sleep, 0.001, name=f"task {n}")
    lines = read(tmp_path / "trace.json")
    names = [stack[-1] for stack in stacks(lines)]
    assert {f"task {n}" for n in range(50)} <= set(names)
    assert "task 49 waits for a slot" in names
    assert len({line["tid"] for line in lines}) <= 51


async def test_a_wait_for_a_lock_is_a_slice(tmp_path: Path) -> None:
    async def hold() -> None:
        async with s.lock("a"):
            await anyio.sleep(0.02)

    with record_trace(tmp_path / "trace.json"):
        async with scope(name="shop", persistence=MemoryStore()) as s:
            s.task(hold, name="first")
            s.task(hold, name="second")
    names = [" > ".join(stack) for stack in stacks(read(tmp_path / "trace.json"))]
    assert [name for name in names if "wait for lock a" in name] == ["second > wait for lock a"]


async def test_what_ends_before_what_is_inside_of_it_leaves_a_file_that_is_nested(
    tmp_path: Path,
) -> None:
    with record_trace(tmp_path / "trace.json"):
        async with scope(name="shop", persistence=MemoryStore()) as s:

            async def take() -> None:
                await s.acquire_lock("a", 5)

            await s.call(take, name="take")
            await s.call(fine)
    lines = read(tmp_path / "trace.json")
    assert ["lock a"] in stacks(lines)
    assert [line["name"] for line in lines if line["ph"] == "B" and "lock" in line["name"]][1:] == [
        "lock a"
    ]


async def test_nothing_but_what_goes_on_is_kept(tmp_path: Path) -> None:
    with record_trace(tmp_path / "trace.json") as trace:
        async with scope() as s:
            for _ in range(20):
                await s.map(fine_of, range(100), limit=10)
                assert len(trace._open) <= 2
            assert trace._lanes <= 12
        assert not trace._open
    assert subscribers == []


async def fine_of(item: int) -> None:
    await anyio.sleep(0)


async def test_what_is_open_at_the_end_of_the_recording_ends_there(tmp_path: Path) -> None:
    async with scope(name="shop"):
        with record_trace(tmp_path / "trace.json"):
            async with scope(name="inner"), scope(name="innermost"):
                recording = record_trace(tmp_path / "other.json")
                recording.__enter__()
                inner = scope(name="third")
                await inner.__aenter__()
                recording.__exit__(None, None, None)
                await inner.__aexit__(None, None, None)
    assert [stack[-1] for stack in stacks(read(tmp_path / "other.json"))] == ["scope third"]
    assert len(stacks(read(tmp_path / "trace.json"))) == 3


PROGRAM = """
import sys
import anyio
from gogoscope import scope
from gogoscope.events import record_trace

async def main():
    with record_trace(sys.argv[1]):
        async with scope(name="shop") as s:
            s.task(anyio.sleep_forever, name="endless")
            await anyio.sleep(0.01)
            print("running", flush=True)
            await anyio.sleep_forever()

anyio.run(main)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_file_whose_process_was_killed_lacks_its_last_bracket_alone(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        process.send_signal(signal.SIGKILL)
        process.wait()
    text = path.read_text(encoding="ascii")
    names = [line["name"] for line in json.loads(text + "]") if line["ph"] == "B"]
    assert names == ["scope shop", "endless"]


async def test_names_and_values_of_any_kind_leave_a_file_that_can_be_read(tmp_path: Path) -> None:
    with record_trace(tmp_path / "trace.json"):
        async with scope(name='a "name" \\ \ud800 \n', persistence=MemoryStore()) as s:
            s.cancel('why "not"')
    assert len(stacks(read(tmp_path / "trace.json"))) == 1


async def test_a_disk_that_is_full_disturbs_no_task(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("there is no /dev/full")
    caplog.set_level(logging.ERROR)
    with pytest.raises(OSError, match="No space left"), record_trace(full):
        pass
    with record_trace(tmp_path / "trace.json") as trace:
        assert trace._file is not None
        trace._file.close()
        trace._file = full.open("wb", buffering=0)
        async with scope() as s:
            assert (await s.task(fine)).error is None
    assert caplog.text.count("the trace in") == 1


def test_a_file_that_cannot_be_written_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), record_trace(tmp_path / "missing" / "trace.json"):
        pass
    assert subscribers == []
