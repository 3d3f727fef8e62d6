"""Commands that change something: what they do, and that they do it only if it is meant."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.operated import Command, ask, fill

CHANGES = [
    ("release", "order:1"),
    ("release", "licences", "--kind", "semaphore"),
    ("open", "search"),
    ("close", "payments"),
    ("reset", "payments"),
    ("resolve", "charge:died", "--repeat"),
    ("pause", "nightly"),
    ("forget", "nightly"),
]


@pytest.mark.parametrize("change", CHANGES, ids=" ".join)
def test_nothing_is_changed_without_a_terminal_or_yes(
    command: Command, url: str, change: tuple[str, ...]
) -> None:
    shown = command(*change, "--store", url)
    assert (shown.code, shown.out) == (5, "")
    assert "pass --yes" in shown.err
    assert ask(url, "holder", "order:1") is not None
    assert len(ask(url, "read_permits", "semaphore", "licences").holders) == 2
    assert ask(url, "get_state", "search").state == "closed"
    assert ask(url, "get_state", "payments").state == "open"
    assert ask(url, "read_run", "charge:died").state == "unknown"
    assert ask(url, "read_schedule", "nightly").paused_ms is None


def test_release_frees_a_lock_whoever_holds_it(command: Command, url: str) -> None:
    assert command("release", "order:1", "--yes", "--store", url).out == "released 'order:1'\n"
    assert ask(url, "holder", "order:1") is None
    assert command("release", "order:1", "--yes", "--store", url).code == 1


def test_release_frees_all_permits_or_one(command: Command, url: str) -> None:
    release = ("release", "licences", "--kind", "semaphore", "--yes", "--store", url)
    first, _, _ = command("semaphores", "--json", "--store", url).document["semaphores"]
    one = command(*release, "--json", "--token", str(first["fencing_token"]))
    assert one.document == {"key": "licences", "released": 1}
    assert command(*release, "--token", str(first["fencing_token"])).code == 1
    assert len(ask(url, "read_permits", "semaphore", "licences").holders) == 1
    assert command(*release).out == "released 1 of the permits of 'licences'\n"
    assert command(*release).code == 1
    other = ("release", "config", "--kind", "read-write-lock", "--yes", "--store", url)
    assert command(*other).code == 0
    assert not ask(url, "read_permits", "read_write_lock", "config").holders


def test_the_question_tells_who_holds_the_lock(command: Command, url: str) -> None:
    told = command("release", "order:1", "--store", url).err
    assert "'order:1' is held by alice on web-1 (pid 42) since" in told


@pytest.mark.parametrize(
    ("change", "name", "state"),
    [("open", "search", "forced-open"), ("close", "payments", "closed")],
)
def test_a_circuit_is_set_by_hand(
    command: Command, url: str, change: str, name: str, state: str
) -> None:
    shown = command(change, name, "--yes", "--json", "--store", url)
    assert (shown.document["name"], shown.document["state"]) == (name, state)
    assert ask(url, "get_state", name).state == state


def test_reset_forgets_what_happened_to_a_circuit(command: Command, url: str) -> None:
    assert command("reset", "payments", "-y", "--store", url).code == 0
    assert ask(url, "get_state", "payments").failure_count == 0


def test_a_circuit_of_which_nothing_is_known_is_told_before_it_is_opened(
    command: Command, url: str
) -> None:
    told = command("open", "pyaments", "--store", url).err
    assert "Nothing was ever recorded of a circuit 'pyaments'" in told


def test_a_schedule_is_paused_and_continued_and_triggered_and_forgotten(
    command: Command, url: str
) -> None:
    def state() -> str:
        (schedule,) = command("schedules", "--json", "--store", url).document["schedules"]
        return str(schedule["state"])

    shown = command("pause", "nightly", "--yes", "--json", "--store", url)
    assert shown.document == {"name": "nightly", "done": "pause"}
    assert state() == "paused"
    assert "is paused" in command("continue", "nightly", "--store", url).err
    assert command("continue", "nightly", "--yes", "--store", url).code == 0
    assert state() == "waiting"
    assert command("trigger", "nightly", "--yes", "--store", url).code == 0
    assert ask(url, "read_schedule", "nightly").trigger_ms is not None
    assert command("forget", "nightly", "--yes", "--store", url).code == 0
    for change in ("pause", "continue", "trigger", "forget"):
        gone = command(change, "nightly", "--yes", "--store", url)
        assert (gone.code, gone.err) == (1, "gogoscope: there is no schedule 'nightly'\n")


def test_resolve_keeps_the_result_of_a_run_that_died(command: Command, url: str) -> None:
    shown = command("resolve", "charge:died", "--result", "[-5]", "--yes", "--store", url)
    assert (shown.code, shown.out) == (0, "run 'charge:died' is done\n")
    record = ask(url, "read_run", "charge:died")
    assert record.state == "done"
    assert record.outcome in ("[-5]", [-5])  # memory keeps no text


def test_a_result_may_begin_with_a_dash(command: Command, url: str) -> None:
    shown = command("resolve", "charge:died", "--result", "-5", "--yes", "--store", url)
    assert shown.code == 0


def test_a_result_may_be_kept_for_the_shortest_time(command: Command, url: str) -> None:
    resolve = ("resolve", "charge:died", "--result", "1", "--keep", "0.0000001")
    shown = command(*resolve, "--yes", "--store", url)
    assert (shown.code, shown.out) == (0, "run 'charge:died' is done\n")


def test_resolve_lets_a_run_that_died_be_repeated(command: Command, url: str) -> None:
    shown = command("resolve", "charge:dead", "--repeat", "--yes", "--json", "--store", url)
    assert shown.document == {"key": "charge:dead", "resolved": "repeat"}
    assert ask(url, "read_run", "charge:dead").state == "open"


@pytest.mark.parametrize("key", ["charge:running", "charge:done", "charge:unheard-of"])
def test_a_run_that_did_not_die_is_not_resolved(command: Command, url: str, key: str) -> None:
    shown = command("resolve", key, "--repeat", "--yes", "--store", url)
    assert (shown.code, shown.out) == (1, "")
    assert len(shown.err.splitlines()) == 1


def corrupted(folder: Path, key: str) -> str:
    """Return the URL of a store in which the record of a key cannot be understood."""
    path = folder / "app.db"
    fill(f"sqlite:///{path}")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE records SET content = '{' WHERE key = ?", (key,))
    return f"sqlite:///{path}"


@pytest.mark.parametrize(
    ("change", "listing", "done"),
    [
        ("release order:1", "locks", "removed the corrupt record 'order:1'"),
        (
            "release licences --kind semaphore",
            "semaphores",
            "removed the corrupt record 'licences'",
        ),
        ("reset payments", "circuits", "circuit 'payments' is closed"),
        ("forget nightly", "schedules", "forget: done for schedule 'nightly'"),
    ],
)
def test_what_is_corrupt_is_shown_and_set_right(
    command: Command, tmp_path: Path, change: str, listing: str, done: str
) -> None:
    words = change.split()
    url = corrupted(tmp_path, words[1])
    assert "is left out" in command(listing, "--store", url).err
    asked = command(*words, "--store", url)
    assert asked.code == 5
    assert f"{words[1]!r} cannot be understood" in asked.err
    shown = command(*words, "--yes", "--store", url)
    assert (shown.code, shown.out) == (0, f"{done}\n")
    assert "is left out" not in command(listing, "--store", url).err


def test_a_corrupt_schedule_is_forgotten_or_left_as_it_is(command: Command, tmp_path: Path) -> None:
    url = corrupted(tmp_path, "nightly")
    paused = command("pause", "nightly", "--yes", "--store", url)
    assert (paused.code, paused.out) == (3, "")
    assert "'nightly' cannot be understood" in paused.err


def test_how_many_held_what_was_corrupt_is_not_known(command: Command, tmp_path: Path) -> None:
    url = corrupted(tmp_path, "order:1")
    shown = command("release", "order:1", "--yes", "--json", "--store", url)
    assert shown.document == {"key": "order:1", "released": None}


def test_one_permit_of_what_is_corrupt_frees_no_other(command: Command, tmp_path: Path) -> None:
    url = corrupted(tmp_path, "licences")
    release = ("release", "licences", "--kind", "semaphore", "--yes", "--store", url)
    one = command(*release, "--token", "1")
    assert (one.code, one.out) == (3, "")
    assert "'licences' cannot be understood" in one.err
    assert command(*release).out == "removed the corrupt record 'licences'\n"
