"""Rule 4: what leaves a block."""

from __future__ import annotations

import itertools

import pytest

from gogoscope.scopes.leaving import verdict

ORDER = ["interrupt", "body", "outside", "fatal", "timed_out", "unhandled"]


def facts(*names: str) -> dict[str, Exception]:
    return {name: Exception(name) for name in names}


@pytest.mark.parametrize(
    "names", [names for number in range(7) for names in itertools.combinations(ORDER, number)]
)
def test_rule_4_the_first_in_the_exit_order_leaves_the_block(names: tuple[str, ...]) -> None:
    there = facts(*names)
    expected = next((there[name] for name in ORDER if name in there), None)
    assert verdict(**there) is expected


def test_rule_4_an_error_that_is_false_leaves_the_block_all_the_same() -> None:
    class EmptyError(Exception):
        def __len__(self) -> int:
            return 0

    empty = EmptyError()
    assert verdict(body=empty, timed_out=TimeoutError()) is empty
