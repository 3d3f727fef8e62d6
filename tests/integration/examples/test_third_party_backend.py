"""A backend of somebody else passes the kit and runs the main job, found by its entry point."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
BACKEND = ROOT / "examples" / "third_party_backend"
METADATA = "Metadata-Version: 2.1\nName: gogoscope-folder\nVersion: 0.1.0\n"
ENTRY_POINTS = "[gogoscope.persistence]\nfolder = gogoscope_folder:from_url\n"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="it locks with flock")


def run(tmp_path: Path, *arguments: str | Path) -> str:
    """Run Python with the backend on its path, as if it were installed; return what it printed."""
    installed = tmp_path / "gogoscope_folder-0.1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text(METADATA)
    (installed / "entry_points.txt").write_text(ENTRY_POINTS)
    finished = subprocess.run(
        [sys.executable, *arguments],
        cwd=BACKEND,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, BACKEND, tmp_path)))},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


@pytest.mark.slow
@pytest.mark.slow
def test_the_example_backend_passes_the_kit(tmp_path: Path) -> None:
    output = run(
        tmp_path,
        *("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:asyncio"),
        f"--basetemp={tmp_path / 't'}",
    )
    assert " passed" in output
    assert "skipped" not in output


@pytest.mark.slow
def test_the_fleet_runs_on_the_example_backend_unchanged(tmp_path: Path) -> None:
    folder = tmp_path / "fleet"
    folder.mkdir()
    fleet = ("--orders", "40", "--workers", "2", "--persistence", f"folder://{folder}")
    output = run(tmp_path, ROOT / "examples" / "fleet.py", *fleet)
    assert "40 of 40" in output


@pytest.mark.slow
def test_the_example_backend_stays_short() -> None:
    for name in ("gogoscope_folder.py", "gogoscope_folder_swaps.py"):
        assert len((BACKEND / name).read_text().splitlines()) < 170
