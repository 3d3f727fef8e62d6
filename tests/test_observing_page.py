"""The page about observing shows programs that run, and tell what it says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from gogoscope.events import lookers, subscribers

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "pages" / "observing.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^```python\n# (\w+)\.py\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE))


@pytest.fixture(autouse=True)
def run_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    assert subscribers == []
    assert lookers == []


def run(name: str) -> None:
    exec(compile(FILES[name], name, "exec"), {"__name__": "page"})


def test_every_program_of_the_page_is_run_here() -> None:
    assert len(FILES) == PAGE.count("```python")
    tested = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert set(FILES) <= tested


def test_slow(capsys: pytest.CaptureFixture[str]) -> None:
    run("slow")
    assert capsys.readouterr().out == "bill in shop was slow\n"


def test_with_structlog(capsys: pytest.CaptureFixture[str]) -> None:
    structlog = pytest.importorskip("structlog")
    try:
        run("with_structlog")
    finally:
        structlog.reset_defaults()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [
        "event='ScopeStarted'",
        "event='TaskStarted'",
        "event='RetryScheduled'",
        "event='TaskFailed'",
        "event='ScopeEnded'",
    ]
    assert "task='charge'" in lines[3]
    assert "error=ConnectionError('no line')" in lines[3]


def test_with_opentelemetry(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("opentelemetry.sdk")
    run("with_opentelemetry")
    told = capsys.readouterr().out.splitlines()
    assert told == ["task charge", "scope shop holding order:17", "lock hold", "scope shop"]


def test_with_prometheus(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("prometheus_client")
    run("with_prometheus")
    told = capsys.readouterr().out
    assert 'task_failures_total{task="charge"} 1.0\n' in told
    assert 'task_seconds_count{task="charge"} 1.0\n' in told


def test_with_trace() -> None:
    run("with_trace")
    lines = json.loads(Path("trace.json").read_text(encoding="ascii"))
    names = [line["name"] for line in lines if line["ph"] == "B"]
    assert names.count("wait for lock till") == 9


def test_with_tqdm(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm")
    run("with_tqdm")
    assert "100/100" in capsys.readouterr().err


def test_with_rich(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rich")
    run("with_rich")
    assert "100%" in capsys.readouterr().out


def test_the_page_names_every_metric() -> None:
    metrics = ROOT / "gogoscope" / "integrations" / "opentelemetry" / "metrics.py"
    source = metrics.read_text(encoding="utf-8")
    named = set(re.findall(r'"(gogoscope\.[a-z_.]+)", "\{', source))
    named |= {f"gogoscope.{of}.duration" for of in re.findall(r'duration\("([a-z_.]+)"', source)}
    assert len(named) > 15
    assert {name for name in named if f"`{name}`" not in PAGE} == set()
