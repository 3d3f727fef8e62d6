"""Another library that is missing or breaks is named in the tables, and ends no run."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from tests.benchmarks import bench_scope, lock_peers
from tests.benchmarks.bench_scope import Case, peer
from tests.benchmarks.bench_stores import Pair, Table
from tests.benchmarks.peers import why_left_out


async def breaks(*_: Any) -> None:
    raise ValueError("it is broken\nin many lines")


async def works(*_: Any) -> None:
    """Do nothing."""


def test_what_is_told_fits_on_a_line() -> None:
    assert why_left_out(ModuleNotFoundError("No module named 'x'")) == "not installed"
    assert why_left_out(ValueError("it is broken\nin many lines")) == (
        "failed: ValueError: it is broken"
    )
    assert why_left_out(ExceptionGroup("several", [OSError()])) == "failed: OSError"


def test_a_peer_of_tasks_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    sides = {
        "ours": bench_scope.on_asyncio(works),
        "gone": peer("no_such_library", works),
        "broken": peer("json", breaks),
    }
    case = Case("tasks", 1, sides)
    medians = bench_scope.measure(case, 3)
    assert list(medians) == ["ours"]
    bench_scope.report(case, medians)
    printed = capsys.readouterr().out.split("\n")
    assert [line.split("  ")[-1] for line in printed if "gone" in line] == ["not installed"]
    assert [line.split("  ")[-1] for line in printed if "broken" in line] == [
        "failed: ValueError: it is broken"
    ]


def test_a_lock_of_others_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def opener(*_: Any) -> Any:
        raise ValueError("it is broken")

    monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", "")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setattr("logging.disable", lambda level: None)
    monkeypatch.setattr(lock_peers, "DISTRIBUTIONS", {"broken": "json", "gone": "no_such_library"})
    monkeypatch.setattr(lock_peers, "_OPENERS", {"broken": opener})
    lock_peers.measure_peers("http://127.0.0.1:1")
    broken, gone = capsys.readouterr().out.splitlines()
    assert broken.split("  ")[-1] == "failed: ValueError: it is broken"
    assert gone.split("  ")[-1] == "not installed"


def test_a_store_of_others_is_left_out_but_never_ours(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(1)
    anyio.run(table.compare, [Pair("broken", breaks, works, theirs=True)])
    assert "failed: ValueError: it is broken" in capsys.readouterr().out
    with pytest.raises(ValueError, match="it is broken"):
        anyio.run(table.compare, [Pair("ours", breaks, works)])
