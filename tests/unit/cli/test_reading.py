"""What the commands show that only read."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.operated import ODD_KEYS, Command, fill


def test_locks_shows_who_holds_what(command: Command, url: str) -> None:
    shown = command("locks", "--store", url)
    assert shown.code == 0
    first, second = shown.rows
    assert first[:5] == ["order:1", "alice", "web-1", "42", "orders"]
    assert json.loads(first[8]) == {"why": "x"}
    assert second[:2] == ["order:2", "bob"]


def test_a_list_in_json_is_one_document_in_the_order_of_the_keys(
    command: Command, url: str
) -> None:
    locks = command("locks", "--json", "--store", url).document["locks"]
    assert [lock["key"] for lock in locks] == ["order:1", "order:2"]
    assert 0 < locks[0].pop("lease_left") <= 3600
    assert locks[0].pop("since") > 1_600_000_000
    assert locks[0].pop("fencing_token") > 0
    assert locks[0] == {
        "key": "order:1",
        "owner": "alice",
        "host": "web-1",
        "pid": 42,
        "scope": "orders",
        "metadata": {"why": "x"},
    }


def test_a_pattern_chooses_what_is_listed(command: Command, url: str) -> None:
    assert [row[0] for row in command("locks", "*:2", "--store", url).rows] == ["order:2"]
    assert command("locks", "nothing*", "--store", url).out == ""


def test_holder_shows_one_lock(command: Command, url: str) -> None:
    assert command("holder", "order:1", "--store", url).rows[0][:2] == ["order:1", "alice"]
    assert command("holder", "order:1", "--json", "--store", url).document["pid"] == 42


def test_a_lock_that_nobody_holds_is_not_found(command: Command, url: str) -> None:
    shown = command("holder", "order:9", "--store", url)
    assert (shown.code, shown.out) == (1, "")
    assert shown.err == "gogoscope: nobody holds 'order:9'\n"


def test_semaphores_shows_who_holds_a_permit_and_who_waits(command: Command, url: str) -> None:
    permits = command("semaphores", "--json", "--store", url).document["semaphores"]
    assert [(one["key"], one["state"], one["owner"]) for one in permits] == [
        ("licences", "holds", "gina"),
        ("licences", "holds", "hugo"),
        ("licences", "waits", "ivan"),
    ]
    assert len({one["fencing_token"] for one in permits[:2]}) == 2


def test_read_write_locks_shows_who_reads_and_who_writes(command: Command, url: str) -> None:
    permits = command("read-write-locks", "--json", "--store", url).document["read_write_locks"]
    assert [(one["key"], one["state"], one["owner"]) for one in permits] == [
        ("config", "reads", "alice"),
        ("prices", "writes", "jane"),
    ]


def test_rates_shows_what_is_used_and_what_is_paused(command: Command, url: str) -> None:
    used, paused = command("rates", "--json", "--store", url).document["rates"]
    assert (used["name"], used["state"], used["paused_for"]) == ("openai", "used", 0)
    assert 3000 < used["full_in"] <= 3600
    assert (paused["name"], paused["state"]) == ("stripe", "paused")
    assert 3000 < paused["paused_for"] <= 3600


def test_schedules_shows_when_each_comes_next(command: Command, url: str) -> None:
    (schedule,) = command("schedules", "--json", "--store", url).document["schedules"]
    assert (schedule["name"], schedule["state"]) == ("nightly", "waiting")
    assert (schedule["definition"], schedule["next"]) == ("0 3 * * *", 4_000_000_000)
    assert schedule["outcome"] is None
    (row,) = command("schedules", "--store", url).rows
    assert row[:4] == ["nightly", "waiting", "0 3 * * *", "2096-10-02T07:06:40.000Z"]


def test_circuits_shows_which_are_open(command: Command, url: str) -> None:
    circuits = command("circuits", "--json", "--store", url).document["circuits"]
    assert [(one["name"], one["state"], one["failures"]) for one in circuits] == [
        ("payments", "open", 1),
        ("search", "closed", 0),
    ]
    assert circuits[0]["open_until"] > circuits[0]["last_failure"] > 1_600_000_000


def test_runs_shows_those_of_which_nobody_knows_the_outcome(command: Command, url: str) -> None:
    runs = command("runs", "--json", "--store", url).document["runs"]
    assert {run["key"]: run["state"] for run in runs} == {
        "charge:running": "running",
        "charge:done": "done",
        "charge:died": "unknown",
        "charge:dead": "unknown",
    }


def test_jobs_shows_how_far_they_have_come(command: Command, url: str) -> None:
    (job,) = command("jobs", "--json", "--store", url).document["jobs"]
    assert (job["key"], job["saves"], job["version"], job["owner"]) == ("reindex", 1, 2, "alice")


def test_keys_are_lines_without_anything_that_controls_a_terminal(
    command: Command, url: str
) -> None:
    shown = command("keys", "--store", url)
    assert len(shown.out.splitlines()) == len(ODD_KEYS) + 2
    assert shown.out.replace("\n", "").isprintable()
    assert r"\x1b[2Jcleared" in shown.out.splitlines()
    assert r"tab\tand\nbreak" in shown.out.splitlines()


def test_keys_in_json_are_exact_and_ascii(command: Command, url: str) -> None:
    shown = command("keys", "--json", "--store", url)
    assert shown.out.isascii()
    assert shown.document == {"keys": sorted([*ODD_KEYS, "greeting", "nothing"])}


def test_get_prints_the_value_as_json(command: Command, url: str) -> None:
    assert command("get", "greeting", "--store", url).document == {"text": "hello", "n": [1, None]}
    assert command("get", "nothing", "--store", url).out == "null\n"


def test_get_in_json_tells_when_the_value_ends(command: Command, url: str) -> None:
    greeting = command("get", "greeting", "--json", "--store", url).document
    assert greeting == {
        "key": "greeting",
        "value": {"text": "hello", "n": [1, None]},
        "until": None,
        "left": None,
    }
    nothing = command("get", "nothing", "--json", "--store", url).document
    assert 0 < nothing["left"] <= 3600
    assert nothing["until"] > 1_600_000_000


@pytest.mark.parametrize("key", ODD_KEYS)
def test_any_key_can_be_named_behind_two_dashes(command: Command, url: str, key: str) -> None:
    assert command("get", "--store", url, "--", key).document == key


def test_a_value_that_is_not_there_is_not_found(command: Command, url: str) -> None:
    shown = command("get", "\x1b[31mabsent", "--store", url)
    assert (shown.code, shown.out) == (1, "")
    assert "\x1b" not in shown.err


@pytest.mark.parametrize(
    "listing", ["locks", "circuits", "runs", "jobs", "keys", "semaphores", "rates", "schedules"]
)
def test_a_scan_says_first_what_it_will_read(command: Command, url: str, listing: str) -> None:
    shown = command(listing, "--store", url)
    assert shown.err.startswith(f"looking for {listing} in {url}")
    assert len(shown.err.splitlines()) == 1


def test_the_store_comes_from_the_environment(
    command: Command, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOGOSCOPE_STORE", url)
    assert command("get", "greeting").code == 0
    assert command("get", "greeting", "--store", "memory://another").code == 1


def test_what_every_command_takes_may_stand_before_it(command: Command, url: str) -> None:
    assert command("--store", url, "--json", "get", "nothing").document["value"] is None
    assert command(f"--store={url}", "get", "nothing").out == "null\n"


def test_a_record_that_cannot_be_understood_is_told_in_one_line(
    command: Command, tmp_path: Path
) -> None:
    path = tmp_path / "app.db"
    url = f"sqlite:///{path}"
    fill(url)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE records SET content = '{' WHERE key = 'order:1'")
    shown = command("locks", "--store", url)
    assert [row[0] for row in shown.rows] == ["order:2"]
    announced, told = shown.err.splitlines()
    assert announced.startswith("looking for locks")
    assert told.startswith("gogoscope: a corrupt record is left out: the stored lock 'order:1' ")
    assert len(command("locks", "--store", url).err.splitlines()) == 2
