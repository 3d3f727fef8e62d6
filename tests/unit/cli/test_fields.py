"""How the parts of a record are told to programs and to people."""

from __future__ import annotations

import time
from typing import Any

import pytest

from gogoscope.cli.fields import Kind, for_people, for_programs, span
from tests.support.operated import ODD_KEYS, Command, ask

NO_DATE = 2.0**60
"""A time that no calendar has: anybody may have written it."""


@pytest.mark.parametrize(
    ("kind", "value", "told"),
    [
        ("text", None, ""),
        ("text", "a\tb\x1b[2J\n", r"a\tb\x1b[2J\n"),
        ("state", "open", "open"),
        ("count", 0, "0"),
        ("time", 0.0015, "1970-01-01T00:00:00.001Z"),
        ("time", NO_DATE, str(NO_DATE)),
        ("seconds", -1.5, "-1.500"),
        ("object", {"a": "\x1b\t"}, r'{"a": "\u001b\t"}'),
        ("object", {}, "{}"),
    ],
)
def test_what_programs_read(kind: Kind, value: Any, told: str) -> None:
    assert for_programs(kind, value) == told


@pytest.mark.parametrize(
    ("kind", "value", "told"),
    [
        ("text", None, "-"),
        ("text", "a\x1b[2J", r"a\x1b[2J"),
        ("time", NO_DATE, str(NO_DATE)),
        ("seconds", 90.0, "1m30s"),
        ("seconds", -90.0, "over for 1m30s"),
        ("seconds", 0.0, "-"),
        ("object", {"a": "\x1b", "b": "1"}, r"a=\x1b, b=1"),
    ],
)
def test_what_people_read(kind: Kind, value: Any, told: str) -> None:
    assert for_people(kind, value) == told


def test_people_are_told_how_far_a_time_is() -> None:
    now = time.time()
    assert for_people("time", now - 7200.5, briefly=True) == "2h00m ago"
    assert for_people("time", now + 7255, briefly=True) == "in 2h00m"
    assert for_people("time", now - 7200.5).endswith(" (2h00m ago)")


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0.0123, "12ms"),
        (1.25, "1.2s"),
        (59.4, "59s"),
        (59.9, "60s"),
        (61, "1m01s"),
        (3600, "1h00m"),
        (86_400 * 4 + 7200, "4d02h"),
    ],
)
def test_a_duration_has_two_units_at_most(seconds: float, told: str) -> None:
    assert span(seconds) == told


def test_no_name_and_no_owner_controls_a_terminal_or_breaks_a_line(
    command: Command, url: str
) -> None:
    for key in ODD_KEYS:
        ask(url, "acquire", key, 60, key)
        ask(url, "record_failure", key, 1)
    for listing, known in (("locks", 2), ("circuits", 2)):
        shown = command(listing, "--store", url)
        assert len(shown.out.splitlines()) == known + len(ODD_KEYS)
        assert shown.out.replace("\n", "").replace("\t", "").isprintable()
        assert len({len(row) for row in shown.rows}) == 1
