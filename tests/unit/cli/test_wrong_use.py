"""Wrong use: one line that says what is wrong, and the exit code for it."""

from __future__ import annotations

from pathlib import Path

import pytest

import gogoscope
from gogoscope.persistence import CacheProvider
from tests.support.operated import Command

MEMORY = "memory://wrong-use"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["lokcs"], 'Did you mean "locks"?'),
        (["x"], 'Unknown command "x". Available commands: locks,'),
        (["locks", "--nope"], "--nope"),
        (["locks", "a", "b"], "['b']"),
        (["locks", "--watch", "--every", "soon"], "--every"),
        (["locks", "--watch", "--every", "0"], "--every"),
        (["locks", "--watch", "--every", "nan"], "--every"),
        (["locks", "\udcff*"], "PATTERN must be encodable as UTF-8"),
        (["keys", "\udcff*"], "PATTERN must be encodable as UTF-8"),
        (["holder"], "KEY"),
        (["holder", ""], "KEY"),
        (["holder", "a\0b"], "NUL"),
        (["holder", "\udcff"], "UTF-8"),
        (["get", "-k"], "-k"),
        (["release", "k", "--token", "1"], "--token"),
        (["release", "k", "--kind", "door"], "--kind"),
        (["open", ""], "NAME"),
        (["resolve", "k"], "--result or --repeat"),
        (["resolve", "k", "--result", "1", "--repeat"], "--result or --repeat"),
        (["resolve", "k", "--result", "{", "--yes"], "JSON"),
        (["resolve", "k", "--result", "NaN", "--yes"], "cannot be kept"),
        (["resolve", "k", "--result", "[" * 5000, "--yes"], "JSON"),
        (["resolve", "k", "--repeat", "--keep", "5"], "--keep"),
        (["resolve", "k", "--result", "1", "--keep", "0"], "--keep"),
        (["\x1b[31m"], r"\x1b[31m"),
    ],
)
def test_wrong_arguments(command: Command, arguments: list[str], told: str) -> None:
    shown = command(*arguments[:1], "--store", MEMORY, *arguments[1:])
    assert (shown.code, shown.out) == (2, "")
    assert told in shown.err
    assert shown.err.startswith("gogoscope: ")
    assert shown.err.removesuffix("\n").isprintable()


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("", "--store URL"),
        ("app.db", "has no scheme"),
        ("nope://app", "sqlite"),
        ("memory:?colour=red", "colour"),
        ("sqlite:app.db", "sqlite:///"),
        ("redis://me:secret@host:port/0", "host:port"),
        ("memory:#", "%23"),
    ],
)
def test_wrong_urls(command: Command, url: str, told: str) -> None:
    shown = command("locks", "--store", url)
    assert (shown.code, shown.out) == (2, "")
    assert told in shown.err
    assert "secret" not in shown.err
    assert len(shown.err.splitlines()) == 1


def test_no_store_at_all(command: Command) -> None:
    shown = command("locks")
    assert shown.code == 2
    assert "GOGOSCOPE_STORE" in shown.err


def test_a_file_that_is_not_there_is_not_made(command: Command, tmp_path: Path) -> None:
    shown = command("locks", "--store", f"sqlite:///{tmp_path / 'typo.db'}")
    assert shown.code == 3
    assert "typo.db" in shown.err
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_looked_at_is_told_in_one_line(command: Command) -> None:
    shown = command("locks", "--store", f"sqlite:///{'a' * 10_000}")
    assert shown.code == 3
    assert "cannot be looked at: " in shown.err
    assert len(shown.err.splitlines()) == 1


def test_a_file_of_another_kind_is_refused(command: Command, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no database\n" * 100)
    shown = command("locks", "--store", f"sqlite:///{tmp_path / 'notes.txt'}")
    assert shown.code == 3
    assert len(shown.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["locks"], "locks"),
        (["holder", "k"], "locks"),
        (["circuits"], "circuit breakers"),
        (["open", "k", "--yes"], "circuit breakers"),
        (["semaphores"], "permits"),
        (["read-write-locks"], "permits"),
        (["rates"], "rate limits"),
        (["schedules"], "schedules"),
        (["pause", "k", "--yes"], "schedules"),
        (["runs"], "runs"),
        (["resolve", "k", "--repeat", "--yes"], "runs"),
        (["jobs"], "jobs"),
    ],
)
def test_what_a_store_lacks_is_said_by_name(
    command: Command, monkeypatch: pytest.MonkeyPatch, arguments: list[str], what: str
) -> None:
    methods = [name for name in dir(CacheProvider) if not name.startswith("_")]

    async def ping(self: object) -> None:
        return

    def nothing(self: object, *args: object) -> None:
        return

    store = type("OnlyCached", (), {**dict.fromkeys(methods, nothing), "ping": ping})()

    class Opened:
        async def __aenter__(self) -> object:
            return store

        async def __aexit__(self, *exc_info: object) -> None:
            return

    monkeypatch.setattr(gogoscope, "open_persistence", lambda url: Opened())
    shown = command(*arguments, "--store", MEMORY)
    assert (shown.code, shown.out) == (4, "")
    assert shown.err == f"gogoscope: this store keeps no {what}: {MEMORY}\n"
