"""Torture of a rate limit: processes that are killed, cancelled and lied to share one.

    python -m tests.integration.rate_limits.torture [--seconds 120] [--seed 1]
        [--persistence sqlite|dynamodb|postgresql|redis] [--cancel] [--batch 1|auto] [--no-faults]

Eight processes, whose clocks are up to 1.5 s apart, call as often as they may. Some are killed,
and between them and a server is a proxy that loses, delays, repeats and refuses. With ``--cancel``,
half of those who wait are cancelled at random. Afterwards the log is judged: see ``judge.py``.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
from attrs import define, field

from tests.integration.locks.torture import STORES, Where, store_for
from tests.integration.rate_limits.judge import Verdict, judge, read_calls
from tests.integration.rate_limits.plan import BURST, CLOCK_ERROR, PROCESSES, RATE
from tests.support.engines import DUMMY_CREDENTIALS

START_SECONDS = 150.0
KILL_EVERY = 4.0
FAULT_SHARE = 0.1
"""So many of the usual faults: a process that waits for a lost answer calls nobody meanwhile."""
WORKER = "tests.integration.rate_limits.worker"


@define
class Fleet:
    """The processes by their slots: one that is killed is followed by another in its slot."""

    folder: Path
    arguments: list[str]
    chance: random.Random
    started: int = 0
    killed: int = 0
    numbers: dict[int, int] = field(factory=dict)
    died: list[int] = field(factory=list)
    processes: dict[int, subprocess.Popen[bytes]] = field(factory=dict)

    def start(self, slot: int) -> None:
        number = self.started
        self.started += 1
        self.numbers[slot] = number
        error = CLOCK_ERROR * (2 * slot / (PROCESSES - 1) - 1)
        options = ["--number", number, "--slot", slot, "--seed", self.chance.random()]
        options += ["--error", error, "--folder", self.folder]
        with (self.folder / f"errors-{number}").open("wb") as errors:
            self.processes[slot] = subprocess.Popen(
                [sys.executable, "-m", WORKER, *map(str, options), *self.arguments],
                stdin=subprocess.DEVNULL,
                stderr=errors,
            )

    def kill_one(self) -> None:
        slot = self.chance.choice(sorted(self.processes))
        self.end(slot)
        self.killed += 1
        self.start(slot)

    def end(self, slot: int) -> None:
        process = self.processes.pop(slot)
        if process.poll() is not None:
            self.died.append(self.numbers[slot])
        process.kill()
        process.wait()

    def all_call(self) -> bool:
        logs = (self.folder / f"calls-{number}" for number in self.numbers.values())
        return all(log.exists() and log.stat().st_size for log in logs)


async def torture(
    persistence: str,
    seconds: float,
    seed: int,
    *,
    cancel: bool = False,
    faults: bool = True,
    batch: str = "1",
) -> Verdict:
    """Torture a rate limit in a store, and judge what happened."""
    chance = random.Random(seed)
    with TemporaryDirectory() as name:
        folder = Path(name)
        proxy_chance = random.Random(chance.random())
        async with store_for(persistence, folder, proxy_chance, FAULT_SHARE) as where:
            options = ["--batch", batch, *(["--cancel"] if cancel else [])]
            fleet = Fleet(folder, [*options, *where.arguments], chance)
            try:
                begin, end = await _run(fleet, where, seconds, faults)
            finally:
                for slot in list(fleet.processes):
                    fleet.end(slot)
        most_held = (BURST // 4 if batch == "auto" else int(batch)) - 1
        verdict = judge(
            read_calls(folder),
            rate=RATE,
            burst=BURST,
            spread=2 * CLOCK_ERROR if persistence == "dynamodb" else 0.002,
            held=most_held * fleet.started,
            slots=PROCESSES,
            begin=begin,
            end=end,
        )
        verdict.faults.update(where.proxy.done)
        verdict.faults["killed"] = fleet.killed
        for number in fleet.died:
            text = (folder / f"errors-{number}").read_text()
            verdict.problems.append(f"process {number} died: {text[-1500:]}")
    return verdict


async def _run(fleet: Fleet, where: Where, seconds: float, faults: bool) -> tuple[float, float]:
    for slot in range(PROCESSES):
        fleet.start(slot)
    with anyio.fail_after(START_SECONDS):
        while not fleet.all_call():
            await anyio.sleep(0.05)
    await anyio.sleep(1)
    begin = time.monotonic()
    where.proxy.faulty = faults
    while (left := begin + seconds - time.monotonic()) > 0:
        await anyio.sleep(min(left, fleet.chance.uniform(0.5, 1.5) * KILL_EVERY))
        if faults and left > 2 * KILL_EVERY:
            fleet.kill_one()
    where.proxy.faulty = False
    return begin, time.monotonic()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--persistence", choices=STORES, default="sqlite")
    parser.add_argument("--cancel", action="store_true")
    parser.add_argument("--no-faults", action="store_true")
    parser.add_argument("--batch", default="1")
    chosen = parser.parse_args()
    os.environ.update(
        {name: DUMMY_CREDENTIALS[name] for name in DUMMY_CREDENTIALS.keys() - os.environ}
    )

    async def main() -> Verdict:
        return await torture(
            chosen.persistence,
            chosen.seconds,
            chosen.seed,
            cancel=chosen.cancel,
            faults=not chosen.no_faults,
            batch=chosen.batch,
        )

    outcome = anyio.run(main)
    print(outcome)
    sys.exit(bool(outcome.problems))
