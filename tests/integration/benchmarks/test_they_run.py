"""Each benchmark whose output is recorded runs from start to end, here with few rounds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.record import RECORDINGS, Recording

ROOT = Path(__file__).resolve().parents[3]

# Each is skipped without its server; the benchmark starts one of its own.
ENGINES = {
    "locks": "atomic_dynamodb",
    "stores": "atomic_dynamodb",
    "dynamodb": "atomic_dynamodb",
    "lambda": "atomic_dynamodb",
    "run_once": "atomic_dynamodb",
    "redis": "redis_engine",
    "rate_limits": "redis_engine",
    "schedules": "redis_engine",
    "postgres": "postgres_engine",
}


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda recording: recording.name)
def test_a_benchmark_runs_to_its_end(recording: Recording, request: pytest.FixtureRequest) -> None:
    if recording.name in ENGINES:
        request.getfixturevalue(ENGINES[recording.name])
    ran = subprocess.run(
        recording.command(sys.executable, short=True),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip()
