"""The example that hangs shows what it waits for, and stops when it is told to."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "seeing.py"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGUSR1")
def test_a_program_that_hangs_prints_its_tree_on_a_signal() -> None:
    with subprocess.Popen(
        [sys.executable, "-u", str(EXAMPLE)], stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        seen = program.stdout.readline()
        program.send_signal(signal.SIGUSR1)
        try:
            while "waits for lock 'account:bob'" not in seen or "account:alice'" not in seen:
                line = program.stdout.readline()
                assert line, "the program ended"
                seen += line
                if "scope bank [" in line:  # a tree begins, maybe in the middle of a line
                    program.send_signal(signal.SIGUSR1)
            program.send_signal(signal.SIGTERM)
            rest = program.stdout.read()
            assert program.wait(20) == 0
        finally:
            program.kill()
    assert rest.endswith("stopped: SIGTERM\n")
