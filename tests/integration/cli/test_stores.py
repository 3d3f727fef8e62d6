"""Every command on every store that processes share."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.operated import ODD_KEYS, Command, ask, fill

pytestmark = pytest.mark.slow


@pytest.fixture
def url(bare_url: str) -> str:
    """A store below a prefix, with one of everything."""
    url = bare_url
    if "key_prefix=" not in url:
        url += f"{'&' if '?' in url else '?'}key_prefix=app:"
    fill(url)
    return url


def test_what_it_holds_is_shown(command: Command, url: str) -> None:
    def listed(name: str, key: str = "key") -> dict[str, Any]:
        shown = command(name, "--json", "--store", url)
        assert shown.code == 0
        assert shown.err.startswith(f"looking for {name} in ")
        assert ", which reads " in shown.err
        return {one.pop(key): one for one in shown.document[name.replace("-", "_")]}

    locks = listed("locks")
    assert {key: lock["owner"] for key, lock in locks.items()} == {
        "order:1": "alice",
        "order:2": "bob",
    }
    assert 3000 < locks["order:1"]["lease_left"] <= 3600
    circuits = listed("circuits", "name")
    assert {name: one["state"] for name, one in circuits.items()} == {
        "payments": "open",
        "search": "closed",
    }
    assert {key: run["state"] for key, run in listed("runs").items()} == {
        "charge:running": "running",
        "charge:done": "done",
        "charge:died": "unknown",
        "charge:dead": "unknown",
    }
    assert listed("semaphores")["licences"]["owner"] == "ivan"
    assert set(listed("read-write-locks")) == {"config", "prices"}
    rates = listed("rates", "name")
    assert {name: one["state"] for name, one in rates.items()} == {
        "openai": "used",
        "stripe": "paused",
    }
    assert listed("schedules", "name")["nightly"]["state"] == "waiting"
    assert listed("jobs")["reindex"]["saves"] == 1
    keys = command("keys", "--json", "--store", url).document["keys"]
    assert keys == sorted([*ODD_KEYS, "greeting", "nothing"])
    assert command("keys", "gr*", "--store", url).rows == [["greeting"]]
    for key in ODD_KEYS:
        assert command("get", "--store", url, "--", key).document == key
    assert command("holder", "order:1", "--json", "--store", url).document["pid"] == 42
    for absent in (("holder", "order:9"), ("get", "absent")):
        assert command(*absent, "--store", url).code == 1


def test_what_is_wrong_is_set_right(command: Command, url: str) -> None:
    assert command("release", "order:1", "--store", url).code == 5
    assert command("release", "order:1", "--yes", "--store", url).code == 0
    assert ask(url, "holder", "order:1") is None
    assert command("release", "order:1", "--yes", "--store", url).code == 1
    assert command("open", "search", "--yes", "--store", url).code == 0
    assert ask(url, "get_state", "search").state == "forced-open"
    for change in ("close", "reset"):
        assert command(change, "payments", "--yes", "--store", url).code == 0
        assert ask(url, "get_state", "payments").state == "closed"
    for change in ("pause", "continue", "trigger"):
        assert command(change, "nightly", "--yes", "--store", url).code == 0
    assert ask(url, "read_schedule", "nightly").trigger_ms is not None
    assert command("pause", "absent", "--yes", "--store", url).code == 1
    result = ("--result", '{"receipt": 7}')
    assert command("resolve", "charge:died", *result, "--yes", "--store", url).code == 0
    assert ask(url, "read_run", "charge:died").state == "done"
    assert command("resolve", "charge:dead", "--repeat", "--yes", "--store", url).code == 0
    assert ask(url, "read_run", "charge:dead").state == "open"
    assert command("resolve", "charge:running", "--repeat", "--yes", "--store", url).code == 1


def test_the_doctor_finds_nothing_wrong(command: Command, url: str) -> None:
    shown = command("doctor", "--json", "--store", url)
    wrong = [one for one in shown.document["findings"] if one["state"] == "wrong"]
    assert wrong == []
    assert shown.code == 0
    checks = {one["check"] for one in shown.document["findings"]}
    assert {"version", "reads", "writes", "values", "locks", "clock", "prefixes"} <= checks
    prefixes = next(one for one in shown.document["findings"] if one["check"] == "prefixes")
    assert prefixes["state"] == "fine"
    # Others may have keys there, and the doctor looks at some of all.
    assert prefixes["found"]
