"""Races between real processes on one store, which they open by its URL."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

WORKER = Path(__file__).with_name("worker.py")
RACE_SECONDS = 120.0


def race(url: str, processes: int, command: str, *arguments: object) -> list[Any]:
    """Let processes run a command of the worker at the same time, and return their results.

    :param url: the store's URL
    :param processes: how many
    :param command: a function of ``worker.py``
    :param arguments: what it is given after the store
    """
    workers = [
        subprocess.Popen(  # noqa: S603 - our own file
            [sys.executable, "-P", WORKER, url, command, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(processes)
    ]
    try:
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n", "a process could not open the store"
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write("go\n")
            worker.stdin.flush()
        outputs = [worker.communicate(timeout=RACE_SECONDS)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
            for pipe in (worker.stdin, worker.stdout):
                if pipe is not None:
                    pipe.close()
    assert [worker.returncode for worker in workers] == [0] * processes
    return [json.loads(output) for output in outputs]
