"""What people see, as far as it needs no terminal."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO

import pytest
from rich.console import Console

from gogoscope.cli import terminal

HEADINGS = ("check", "state", "found")
ROWS = [("journal", "fine", "write-ahead log"), ("order:1", "wrong", "nobody knows")]


def drawn(width: int, rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Return the lines of what is drawn, without what is empty."""
    console = Console(file=StringIO(), width=width, color_system=None)
    console.print(terminal.rows(HEADINGS, rows))
    file = console.file
    assert isinstance(file, StringIO)
    return [line.strip() for line in file.getvalue().splitlines() if line.strip()]


def test_rows_stand_below_their_headings() -> None:
    heading, _, *rows = drawn(60, ROWS)
    assert heading.split() == list(HEADINGS)
    assert rows[0].split() == ["journal", "fine", "write-ahead", "log"]


@pytest.mark.parametrize("width", [20, 24])
def test_a_terminal_that_is_too_narrow_for_whole_words_shows_a_card_for_each_row(
    width: int,
) -> None:
    lines = drawn(width, ROWS)
    assert [line.split()[-1] for line in lines if line.startswith("check")] == [
        "journal",
        "order:1",
    ]
    assert "write-ahead" in " ".join(lines)


def test_a_word_that_is_longer_than_the_terminal_is_broken_and_not_cut() -> None:
    assert "".join(drawn(40, [("k" * 200, "fine", "")])).count("k") == 201  # one is in "check"
