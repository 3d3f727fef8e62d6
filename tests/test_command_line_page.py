"""The page about the command line tells what the program does: its commands, shapes and codes."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from gogoscope.cli import changing
from gogoscope.cli.commands import app
from gogoscope.cli.exits import MEANINGS
from gogoscope.cli.listings import LISTINGS
from gogoscope.persistence import Examinable
from gogoscope.stores.memory import MemoryRecords
from tests.support.operated import Command, commands, fill

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "pages" / "command_line.md").read_text(encoding="utf-8")

USAGE = {
    "holder": "KEY",
    "get": "KEY",
    "release": "KEY",
    "resolve": "KEY",
    "keys": "[PATTERN]",
    "doctor": "",
    **dict.fromkeys((*changing.CIRCUIT_CHANGES, *changing.SCHEDULE_CHANGES), "NAME"),
    **{listing.name: "[PATTERN]" for listing in LISTINGS},
}


def table_of_commands() -> str:
    """Return the page's table of commands, as the program has them."""
    lines = ["| command | what it does |", "|---|---|"]
    for name in app:
        if not name.startswith("-"):
            usage = f"gogoscope {name} {USAGE[name]}".strip()
            lines.append(f"| `{usage}` | {app[name].help.strip().splitlines()[0]} |")
    return "\n".join(lines)


def table_of_lists() -> str:
    """Return the page's table of lists, as they are."""
    lines = ["| list | its fields |", "|---|---|"]
    for listing in LISTINGS:
        fields = [f"`{listing.key}` (text)"]
        fields += [f"`{field.name}` ({field.kind})" for field in listing.fields]
        lines.append(f"| `{listing.name}` | {', '.join(fields)} |")
    return "\n".join(lines)


def table_of_codes() -> str:
    """Return the page's table of exit codes, as they are."""
    lines = ["| code | meaning |", "|---|---|"]
    return "\n".join(lines + [f"| {code} | {meaning} |" for code, meaning in MEANINGS.items()])


@pytest.mark.parametrize("table", [table_of_commands, table_of_lists, table_of_codes])
def test_the_tables_are_those_of_the_program(table: Any) -> None:
    assert table() in PAGE, f"the page should have:\n{table()}"


@pytest.fixture
def command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Command:
    monkeypatch.chdir(tmp_path)
    return commands(capsys, monkeypatch)


@pytest.fixture
def held(tmp_path: Path) -> Iterator[None]:
    """Run the program of the page until it holds what the commands of the page name."""
    (program,) = re.findall(r"^```python\n# held.py\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    path = tmp_path / "held.py"
    path.write_text(program, encoding="utf-8")
    with subprocess.Popen(
        [sys.executable, path],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            yield
        finally:
            holder.kill()


@pytest.mark.usefixtures("held")
def test_every_command_of_the_page_runs(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    url = "sqlite:///app.db?key_prefix=app:"
    blocks = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines()]
    assert f"export GOGOSCOPE_STORE='{url}'" in lines
    monkeypatch.setenv("GOGOSCOPE_STORE", url)
    shown = [line for line in lines if line.startswith("gogoscope ")]
    assert len(shown) >= 15
    deadline = time.monotonic() + 60  # the process that died has a lease of a second
    while time.monotonic() < deadline:
        runs = command("runs", "--json").document["runs"]
        if [run["state"] for run in runs] == ["crashed", "crashed"]:
            break
    for line in shown:
        arguments = shlex.split(line.partition(" | ")[0])[1:]
        finished = command(*arguments)
        assert finished.code == 0, (line, finished)


@pytest.mark.parametrize(
    ("arguments", "row"),
    [
        (("keys", "--json"), "keys"),
        (("get", "greeting", "--json"), "get"),
        (("release", "order:1", "--yes", "--json"), "release"),
        (("release", "licences", "--kind", "semaphore", "--yes", "--json"), "release"),
        (("resolve", "charge:died", "--repeat", "--yes", "--json"), "resolve"),
        (("pause", "nightly", "--yes", "--json"), "pause"),
        (("doctor", "--json"), "doctor"),
    ],
)
def test_the_other_documents_have_the_fields_of_the_page(
    command: Command, arguments: tuple[str, ...], row: str
) -> None:
    url = "sqlite:///app.db"
    fill(url)
    (told,) = re.findall(rf"^\| `{row}`[^|]* \| (.*) \|$", PAGE, re.MULTILINE)[-1:]
    document = command(*arguments, "--store", url).document
    assert set(document) <= set(re.findall(r"[a-z]+", told))
    for name in document:
        assert re.search(rf"[`\"]{name}[`\"]", told)
    for finding in document.get("findings", ()):
        for name in finding:
            assert f"`{name}`" in told


def test_the_store_of_the_page_is_examined() -> None:
    (program,) = re.findall(r"^```python\n(from .*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {}
    exec(program, names)
    store = names["FolderStore"](MemoryRecords())
    assert isinstance(store, Examinable)
    (finding,) = anyio.run(store.examine)
    assert finding.state == "wrong"
