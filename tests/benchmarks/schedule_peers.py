"""Other schedulers for the same task: a job a second, several processes, some of which are killed.

    python -m tests.benchmarks.schedule_peers [--seconds 30] [--processes 4] [--kills 2]
                                              [--after 20] [--arq PYTHON]

All of them share one Redis, which is started for the run. The job takes 0.4 seconds. A process that
has just begun it is killed with SIGKILL, as often as ``--kills`` says; no other takes its place.
Counted are the seconds for which the job was done more than once, and those for which it was not
done at all, 20 seconds after the last (``--after``).

- gogoscope: ``s.schedule`` with ``missed="all"`` and a lease of 2 seconds.
- APScheduler 3.11.3: an ``AsyncIOScheduler`` with a ``RedisJobStore`` in each process; ``coalesce``
  is off, so that it runs what was missed. (Version 4, which knows of other processes, is an alpha.)
- arq 0.26.3: a worker with a cron job, ``unique`` as it is by default, and a timeout of 2 seconds.
  It needs an older redis-py than the others, so it has a virtual environment of its own:
  ``python -m venv /some/venv && /some/venv/bin/pip install arq==0.26.3``; pass its python with
  ``--arq``. What is not installed is left out.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

SECONDS, PROCESSES, KILLS = 30, 4, 2
START_SECONDS = 60.0
LEASE = 2.0
JOB_SECONDS, AFTER_SECONDS = 0.4, 20.0
HEADER = f"{'':<22}{'seconds':>9}{'done twice':>12}{'never done':>12}{'latest':>13}"


def note(journal: Path, what: str, second: int) -> None:
    """Write what was done for a second, in one write."""
    fact = {"what": what, "second": second, "pid": os.getpid(), "wall": time.time()}
    with journal.open("a", encoding="utf-8") as file:
        file.write(json.dumps(fact) + "\n")


async def work(journal: Path, second: int) -> None:
    """Do the job of a second."""
    note(journal, "begin", second)
    await asyncio.sleep(JOB_SECONDS)
    note(journal, "end", second)


async def run_gogoscope(url: str, journal: Path) -> None:
    """Run the schedule of gogoscope until this process is killed."""
    from gogoscope import Tick, interval, scope

    async def job(tick: Tick) -> None:
        await work(journal, round(tick.at.timestamp()))

    async with scope(persistence=f"{url}?key_prefix=peers:") as s:
        s.schedule("job", interval(1), job, missed="all", lease=LEASE)


async def apscheduler_job(journal: str) -> None:
    """Run for the second in which this is called: the job is not told for which one."""
    await work(Path(journal), round(time.time()))


async def run_apscheduler(url: str, journal: Path) -> None:
    """Run the scheduler of APScheduler until this process is killed."""
    job_store = importlib.import_module("apscheduler.jobstores.redis").RedisJobStore
    schedulers = importlib.import_module("apscheduler.schedulers.asyncio")
    triggers = importlib.import_module("apscheduler.triggers.cron")
    port = int(url.rpartition(":")[2].partition("/")[0])
    scheduler = schedulers.AsyncIOScheduler(jobstores={"default": job_store(port=port)})
    scheduler.start()
    scheduler.add_job(
        apscheduler_job,
        triggers.CronTrigger(second="*", timezone="UTC"),
        args=[str(journal)],
        id="job",
        replace_existing=True,
        coalesce=False,
    )
    await asyncio.Event().wait()


def run_arq(url: str, journal: Path) -> None:
    """Run the worker of arq until this process is killed."""
    arq = importlib.import_module("arq")
    settings = importlib.import_module("arq.connections").RedisSettings.from_dsn(url)

    async def job(context: dict[str, Any]) -> None:
        due_ms = int(context["job_id"].rpartition(":")[2])  # that of a unique job ends with it
        await work(journal, round(due_ms / 1000))

    jobs = [arq.cron(job, name="job", second=set(range(60)), timeout=LEASE, microsecond=0)]
    arq.Worker(cron_jobs=jobs, redis_settings=settings, poll_delay=0.1).run()


def run_worker(library: str, url: str, journal: Path) -> None:
    """Be one of the processes."""
    if library == "arq":
        run_arq(url, journal)
    else:
        asyncio.run(
            {"gogoscope": run_gogoscope, "apscheduler": run_apscheduler}[library](url, journal)
        )


def measure(library: str, python: str, url: str, given: argparse.Namespace) -> str:
    """Let a library run, kill processes meanwhile, and return a line of what came of it."""
    seconds, processes, kills = given.seconds, given.processes, given.kills
    with TemporaryDirectory() as folder:
        journal = Path(folder) / "journal"
        journal.touch()
        command = [python, __file__, "--worker", library, url, str(journal)]
        quiet = subprocess.DEVNULL
        workers = [subprocess.Popen(command, stdout=quiet, stderr=quiet) for _ in range(processes)]
        try:
            wait_for_first(journal)
            time.sleep(5)  # until all are up
            began = round(time.time())
            for part in range(kills + 1):
                time.sleep(seconds / (kills + 1))
                if part < kills:
                    kill_next(journal, workers)
            ended = round(time.time()) - 1
            time.sleep(given.after)
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()
        return told(library, facts(journal), began, ended)


def wait_for_first(journal: Path) -> None:
    """Wait until the job was started once."""
    deadline = time.monotonic() + START_SECONDS
    while not facts(journal):
        if time.monotonic() > deadline:
            raise RuntimeError("the job was not started")
        time.sleep(0.1)


def kill_next(journal: Path, workers: list[subprocess.Popen[bytes]]) -> None:
    """Kill the process that begins the job next."""
    known = len(facts(journal))
    alive = {worker.pid for worker in workers if worker.poll() is None}
    while True:
        for fact in facts(journal)[known:]:
            if fact["what"] == "begin" and fact["pid"] in alive:
                os.kill(fact["pid"], signal.SIGKILL)
                return
        time.sleep(0.02)


def facts(journal: Path) -> list[dict[str, Any]]:
    """Read what has been written so far."""
    lines = journal.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.endswith("}")]


def told(library: str, facts: list[dict[str, Any]], began: int, ended: int) -> str:
    """Return the line of a library."""
    done = Counter(fact["second"] for fact in facts if fact["what"] == "end")
    span = range(began, ended)
    twice = sum(done[second] > 1 for second in span)
    never = sum(second not in done for second in span)
    late = [fact["wall"] - fact["second"] for fact in facts if fact["second"] in span]
    return f"{library:<22}{len(span):>9}{twice:>12}{never:>12}{max(late, default=0.0):>11.1f} s"


def main() -> None:
    """Measure all that are installed."""
    if sys.argv[1:2] == ["--worker"]:
        run_worker(sys.argv[2], sys.argv[3], Path(sys.argv[4]))
        return
    from tests.benchmarks.peers import why_left_out
    from tests.support.redis_server import running_redis

    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int, default=SECONDS)
    parser.add_argument("--processes", type=int, default=PROCESSES)
    parser.add_argument("--kills", type=int, default=KILLS)
    parser.add_argument("--after", type=float, default=AFTER_SECONDS)
    parser.add_argument("--arq", help="the python of a virtual environment with arq")
    given = parser.parse_args()
    pythons = {"gogoscope": sys.executable}
    if importlib.util.find_spec("apscheduler") is not None:
        pythons["apscheduler"] = sys.executable
    if given.arq:
        pythons["arq"] = given.arq
    print(f"{given.processes} processes, {given.kills} killed; {datetime.now(UTC):%Y-%m-%d}")
    print(HEADER)
    for library in ("gogoscope", "apscheduler", "arq"):
        if library not in pythons:
            print(f"{library:<22}not installed", flush=True)
            continue
        with running_redis() as redis:
            try:
                line = measure(library, pythons[library], redis.url, given)
            except Exception as error:
                if library == "gogoscope":
                    raise
                line = f"{library:<22}  {why_left_out(error)}"
        print(line, flush=True)


if __name__ == "__main__":
    main()
