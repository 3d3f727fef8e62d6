"""Kills processes that run ``s.resume`` at every write: ``forking.py URL DIR``.

Each kill has a job of its own. First every job is begun by a process that kills itself at its n-th
write, before or after it is carried out. Then another process goes on with it. At last two
processes do one job together, one at a time.
"""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import anyio

from gogoscope import LeaseLostError, PersistenceError, open_persistence, scope

ITEMS, LIMIT = 6, 2
WRITES = 1 + ITEMS + 1
LEASE, LONG_LEASE = 1.0, 60.0
STEP = 2


class Dying:
    """Replaces the writes of a store: at the n-th, the process is killed."""

    def __init__(self, store: Any, dies_at: int, after: bool) -> None:
        self.writes = 0
        self.dies_at = dies_at
        self.after = after
        for name in ("claim_job", "save_job", "finish_job"):
            setattr(store, name, self.dying(getattr(store, name)))

    def dying(self, write: Any) -> Any:
        async def dying(*args: Any, **options: Any) -> Any:
            self.writes += 1
            if self.writes == self.dies_at and not self.after:
                os.kill(os.getpid(), signal.SIGKILL)
            answer = await write(*args, **options)
            if self.writes == self.dies_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return answer

        return dying


async def work(url: str, key: str, log: Path, lease: float, dies_at: int, after: bool) -> None:
    """Do a job until it is done."""
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    async def load(row: int) -> None:
        os.write(file, f"{os.getpid()} begins {row}\n".encode())
        try:
            await anyio.sleep(0.005)
        finally:
            os.write(file, f"{os.getpid()} ends {row}\n".encode())

    async with open_persistence(url) as store:
        if dies_at:
            Dying(store, dies_at, after)
        async with scope(persistence=store) as s:
            while True:
                left = STEP
                async for _, result in s.resume(
                    key, load, range(ITEMS), limit=LIMIT, save_every=0, lease=lease
                ):
                    result.unwrap()
                    left -= 1
                    if dies_at < 0 and not left:
                        break
                else:
                    return


def fork(*arguments: Any) -> int:
    """Run the work in a process of its own; return its id."""
    child = os.fork()
    if child:
        return child
    try:
        anyio.run(work, *arguments)
    except BaseExceptionGroup as errors:
        known = errors.subgroup((LeaseLostError, PersistenceError))
        os._exit(1 if known is not None else 2)
    except (LeaseLostError, PersistenceError):
        os._exit(1)
    except BaseException:
        os._exit(2)
    os._exit(0)


def ended(child: int) -> int:
    """Wait for a process; return its exit code, or minus the signal that killed it."""
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code == 2:
        raise RuntimeError("a process failed")
    return code


def main(url: str, folder: Path) -> None:
    kills = [(at, after) for at in range(1, WRITES + 1) for after in (False, True)]
    if not url.startswith("sqlite:"):  # which tells all; a server takes longer
        kills = kills[1::4] + kills[2::4]
    jobs = {f"job:{at}:{after}": (at, after) for at, after in kills}
    for key, (at, after) in jobs.items():
        log = folder / f"{at}-{after}"
        # What loses its lease on a busy machine before it can be killed has failed as well.
        assert ended(fork(url, key, log, LEASE, at, after)) != 0
    for key, (at, after) in jobs.items():
        log = folder / f"{at}-{after}"
        ended_with = ended(fork(url, key, log, LONG_LEASE, 0, False))
        assert ended_with == 0, (key, ended_with)
        runs = Counter(line.split()[2] for line in log.read_text().splitlines() if "begins" in line)
        assert len(runs) == ITEMS, (key, runs)
        assert runs.total() <= ITEMS + LIMIT + 1, (key, runs)
    log = folder / "together"
    children = [fork(url, "together", log, LONG_LEASE, -1, False) for _ in range(2)]
    assert [ended(child) for child in children] == [0, 0]
    running: Counter[str] = Counter()
    rows = set()
    for line in log.read_text().splitlines():
        pid, what, row = line.split()
        running[pid] += 1 if what == "begins" else -1
        assert not any(count for other, count in running.items() if other != pid), line
        rows.add(row)
    assert len(rows) == ITEMS
    print("nothing was lost")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
