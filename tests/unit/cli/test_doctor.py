"""What the doctor finds out about a store, and how it tells."""

from __future__ import annotations

from typing import Any

import pytest

from gogoscope import ConfigurationError, StoreTimeoutError
from gogoscope.cli import doctor
from gogoscope.persistence import Finding
from gogoscope.stores import MemoryStore, SQLiteStore
from tests.support.operated import Command, ask


def findings(document: Any) -> dict[str, Any]:
    return {finding["check"]: finding for finding in document["findings"]}


def test_a_good_store_is_fine(command: Command, url: str) -> None:
    shown = command("doctor", "--json", "--store", url)
    assert shown.code == 0
    assert shown.document["healthy"] is True
    assert shown.document["store"] == url
    found = findings(shown.document)
    for check in ("reads", "writes", "values", "locks", "lists", "circuits", "runs", "jobs"):
        assert found[check]["state"] == "fine"
    assert "ms at the median" in found["reads"]["found"]
    assert found["version"]["found"].startswith("gogoscope ")


def test_it_says_first_what_it_will_do(command: Command, url: str) -> None:
    (line,) = command("doctor", "--store", url).err.splitlines()
    assert line.startswith(f"examining {url}: 40 small requests, one value and one lock")


def test_it_leaves_nothing_behind_but_the_memory_of_a_lock(command: Command, url: str) -> None:
    before = sorted(ask(url, "keys")), ask(url, "locks").keys(), ask(url, "runs")
    command("doctor", "--store", url)
    assert before == (sorted(ask(url, "keys")), ask(url, "locks").keys(), ask(url, "runs"))


def test_it_lists_the_prefixes_in_use(command: Command, url: str) -> None:
    found = findings(command("doctor", "--json", "--store", url).document)["prefixes"]
    assert found["state"] == "fine"
    assert found["found"].startswith("app: (")


def test_a_prefix_that_nobody_uses_is_doubtful(command: Command, url: str) -> None:
    mistyped = url.replace("app:", "ap:")
    for _ in range(2):  # what it leaves behind itself makes no difference
        shown = command("doctor", "--json", "--store", mistyped)
        found = findings(shown.document)["prefixes"]
        assert (shown.code, found["state"]) == (0, "doubtful")
        assert found["found"].startswith("none of them ap:: app: (")
        assert "key_prefix=ap:" in found["advice"]


def test_what_is_wrong_is_told_with_what_to_do_and_an_exit_code(
    command: Command, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def examine(self: object) -> list[Finding]:
        return [Finding("disk\x1b", "wrong", "12 bytes\tfree", "free some space")]

    monkeypatch.setattr(MemoryStore, "examine", examine)
    monkeypatch.setattr(SQLiteStore, "examine", examine)
    shown = command("doctor", "--store", url)
    assert shown.code == 1
    assert [r"disk\x1b", "wrong", r"12 bytes\tfree", "free some space"] in shown.rows
    assert shown.err.splitlines()[-1] == r"gogoscope: something is wrong with disk\x1b"
    assert command("doctor", "--json", "--store", url).document["healthy"] is False


def test_what_is_not_permitted_is_wrong(
    command: Command, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(self: object, *args: object, **options: object) -> None:
        raise ConfigurationError("this user may not\nwrite")

    for store in (MemoryStore, SQLiteStore):
        monkeypatch.setattr(store, "set", refuse)
        monkeypatch.setattr(store, "acquire", refuse)
    shown = command("doctor", "--json", "--store", url)
    assert shown.code == 1
    found = findings(shown.document)
    for check in ("values", "writes", "locks"):
        assert found[check]["state"] == "wrong"
        assert found[check]["found"] == "this user may not write"
        assert "grant" in found[check]["advice"]
    assert found["circuits"]["state"] == "fine"


def test_values_and_locks_that_do_not_work_are_wrong(
    command: Command, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(self: object, *args: object, **options: object) -> None:
        return None

    for store in (MemoryStore, SQLiteStore):
        monkeypatch.setattr(store, "get_entry", nothing)
        monkeypatch.setattr(store, "acquire", nothing)
    found = findings(command("doctor", "--json", "--store", url).document)
    assert found["values"]["state"] == found["locks"]["state"] == "wrong"


def test_a_slow_store_is_wrong(command: Command, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "SLOW_SECONDS", 0.0)
    found = findings(command("doctor", "--json", "--store", url).document)
    assert found["reads"]["state"] == found["writes"]["state"] == "wrong"


def test_a_server_that_fails_when_it_is_looked_at_is_wrong(
    command: Command, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(self: object) -> list[Finding]:
        raise StoreTimeoutError("no answer")

    monkeypatch.setattr(MemoryStore, "examine", fail)
    monkeypatch.setattr(SQLiteStore, "examine", fail)
    shown = command("doctor", "--json", "--store", url)
    assert (shown.code, findings(shown.document)["server"]["state"]) == (1, "wrong")


def test_a_store_that_tells_nothing_of_itself_is_tried_all_the_same(
    command: Command, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gogoscope.persistence.Examinable", NothingHasThis)
    found = findings(command("doctor", "--json", "--store", url).document)
    assert found["values"]["state"] == "fine"
    assert found["server"]["state"] == "doubtful"


class NothingHasThis:
    """A class that no store is of."""


def test_a_store_that_cannot_be_opened_as_it_is_configured_is_wrong(
    command: Command, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(self: object) -> None:
        raise ConfigurationError("the table has other keys")

    monkeypatch.setattr(MemoryStore, "ping", refuse)
    monkeypatch.setattr(SQLiteStore, "ping", refuse)
    shown = command("doctor", "--json", "--store", url)
    assert shown.code == 1
    opening = findings(shown.document)["opening"]
    assert opening["found"] == "the table has other keys"
    assert "the URL" in opening["advice"]  # it may be the wrong one, or the password in it
    assert command("locks", "--store", url).code == 3
