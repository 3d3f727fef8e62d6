"""Arguments are checked with errors that name them, what they were and what is allowed."""

from __future__ import annotations

import math
import re
from datetime import timedelta
from enum import StrEnum
from typing import Any

import pytest
from attrs import field, frozen
from attrs.validators import optional
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gogoscope._core.arguments import check_count, count
from gogoscope._core.durations import duration, to_seconds, to_seconds_or_none
from gogoscope.persistence.validation import (
    check_key,
    check_key_prefix,
    check_lease,
    check_max_clock_skew,
    check_ttl,
    glob_matcher,
    literal_start,
)

ALLOWED = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
"""What a key may consist of."""


@settings(deadline=None)
@given(st.text(ALLOWED, min_size=1))
def test_any_text_without_nul_is_a_key(key: str) -> None:
    assert check_key(key) is key


@pytest.mark.parametrize(
    ("key", "error", "message"),
    [
        ("", ValueError, "key must not be empty, got ''"),
        (None, TypeError, "key must be a str, got None of type NoneType"),
        (7, TypeError, "key must be a str, got 7 of type int"),
        (b"k", TypeError, "key must be a str, got b'k' of type bytes"),
        ("a\0b", ValueError, r"key must not contain NUL, got 'a\\x00b'"),
        ("a\ud800", ValueError, r"key must be encodable as UTF-8, got 'a\\ud800'"),
    ],
)
def test_a_bad_key_is_refused(key: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        check_key(key)


def test_the_name_of_another_argument_may_be_given() -> None:
    with pytest.raises(ValueError, match="owner must not be empty"):
        check_key("", "owner")


@pytest.mark.parametrize("prefix", ["", "a:", "a/", "a.", "a|", "a#", "a:b:", ":"])
def test_a_prefix_is_empty_or_ends_with_a_separator(prefix: str) -> None:
    assert check_key_prefix(prefix) == prefix


@pytest.mark.parametrize("prefix", ["a", "a:b", "a-", "a: "])
def test_a_prefix_without_separator_is_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match="key_prefix must end with one of") as caught:
        check_key_prefix(prefix)
    assert f"got {prefix!r}" in str(caught.value)


def test_a_prefix_of_another_type_is_refused() -> None:
    not_a_prefix: Any = 7
    with pytest.raises(TypeError, match="key_prefix must be a str, got 7 of type int"):
        check_key_prefix(not_a_prefix)
    with pytest.raises(ValueError, match="key_prefix must be encodable"):
        check_key_prefix("\ud800:")


def test_a_ttl_is_seconds_or_a_timedelta() -> None:
    assert check_ttl(1) == 1.0
    assert check_ttl(0.5) == 0.5
    assert check_ttl(timedelta(minutes=2)) == 120.0
    assert isinstance(check_ttl(1), float)


@pytest.mark.parametrize("check", [check_ttl, check_lease])
@pytest.mark.parametrize("ttl", [0, -1, math.nan, math.inf, -math.inf, timedelta(0)])
def test_a_ttl_out_of_range_is_refused(check: Any, ttl: Any) -> None:
    with pytest.raises(ValueError, match="ttl must be"):
        check(ttl)


@pytest.mark.parametrize("check", [check_ttl, check_lease])
@pytest.mark.parametrize("ttl", ["1", None, True, [1], 1j])
def test_a_ttl_of_another_type_is_refused(check: Any, ttl: Any) -> None:
    with pytest.raises(TypeError, match="ttl must be a number of seconds or a timedelta"):
        check(ttl)


@pytest.mark.parametrize("ttl", [0.0009, 1e-9, timedelta(microseconds=999)])
def test_a_lease_that_is_over_before_anybody_learns_of_it_is_refused(ttl: Any) -> None:
    assert check_lease(0.001) == check_lease(timedelta(milliseconds=1)) == 0.001
    with pytest.raises(ValueError, match=r"lease must be 0\.001 seconds or more, got "):
        check_lease(ttl, "lease")


def test_a_count_is_one_that_every_store_can_keep() -> None:
    assert check_count("limit", 2**63 - 1) == 2**63 - 1
    with pytest.raises(
        ValueError, match=r"limit must be less than 2\*\*63, got 9223372036854775808"
    ):
        check_count("limit", 2**63)


def test_a_lease_is_at_most_12_hours() -> None:
    assert check_lease(timedelta(hours=12)) == 43_200.0
    with pytest.raises(
        ValueError, match=r"ttl must be at most 43200 seconds, got 43200\.001; .*not milliseconds"
    ):
        check_lease(timedelta(seconds=43_200.001))


@pytest.mark.parametrize("ttl", [3_600.001, 30_000, 43_200])
def test_a_lease_of_more_than_an_hour_is_a_timedelta(ttl: float) -> None:
    assert check_lease(3_600) == 3_600.0
    assert check_lease(timedelta(seconds=ttl)) == ttl
    with pytest.raises(
        ValueError, match=r"ttl must be at most 3600 .*not milliseconds.* as a timedelta"
    ):
        check_lease(ttl)


@pytest.mark.parametrize("value", [1.0, "1", True, None])
def test_a_count_of_another_type_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="limit must be an int"):
        check_count("limit", value)


def test_a_count_has_a_minimum() -> None:
    assert check_count("limit", 1) == 1
    assert check_count("limit", 0, minimum=0) == 0
    with pytest.raises(ValueError, match="limit must be 1 or more, got 0"):
        check_count("limit", 0)


@pytest.mark.parametrize(
    ("pattern", "start"),
    [("", ""), ("*", ""), ("?a", ""), ("user:*", "user:"), ("a?b*", "a"), ("plain", "plain")],
)
def test_the_literal_start_of_a_pattern_is_what_stands_before_its_wildcards(
    pattern: str, start: str
) -> None:
    assert literal_start(pattern) == start


@pytest.mark.parametrize("pattern", [None, "", "*", "**"])
def test_nothing_matches_the_empty_string_which_is_no_key(pattern: str | None) -> None:
    assert not glob_matcher(pattern)("")


@settings(deadline=None)
@given(key=st.text(ALLOWED), cut=st.integers(0, 10))
def test_a_key_with_a_run_replaced_by_a_star_matches_it(key: str, cut: int) -> None:
    literal = key.replace("*", "").replace("?", "")
    assume(literal)  # nothing matches the empty text, which is no key
    begin, end = literal[:cut], literal[cut:]
    assert glob_matcher(f"{begin}*{end}")(literal)
    assert glob_matcher(f"{begin}*{end}")(f"{begin}anything\n{end}")
    assert glob_matcher(f"{begin}?{end}")(f"{begin}\n{end}")
    assert not glob_matcher(f"{begin}?{end}")(literal)
    assert glob_matcher(literal)(literal)
    assert not glob_matcher(literal)(literal + "x")
    assert not glob_matcher(literal)("x" + literal)


@settings(deadline=None)
@given(pattern=st.text("ab*?", max_size=12), key=st.text("ab", min_size=1, max_size=12))
def test_a_pattern_matches_what_trying_every_run_for_its_stars_matches(
    pattern: str, key: str
) -> None:
    reference = re.compile(pattern.replace("*", ".*").replace("?", ".")).fullmatch(key)
    assert glob_matcher(pattern)(key) == (reference is not None)


def test_a_pattern_of_many_stars_takes_no_longer_than_its_length() -> None:
    matches = glob_matcher("*a" * 500 + "*b")
    assert not matches("a" * 2_000)
    assert matches("a" * 2_000 + "b")


def test_a_pattern_is_case_sensitive_and_none_matches_all() -> None:
    assert not glob_matcher("User:*")("user:1")
    assert glob_matcher(None)("anything")
    not_a_pattern: Any = 7
    with pytest.raises(TypeError, match="pattern must be a str or None"):
        glob_matcher(not_a_pattern)


class Unshowable:
    """Something whose ``repr`` fails; the error about it does not."""

    def __repr__(self) -> str:
        raise RuntimeError


@frozen
class Waits:
    pause: float = field(default=1.0, converter=to_seconds, validator=duration(maximum=60))
    limit: float | None = field(
        default=None,
        converter=to_seconds_or_none,
        validator=optional(duration(zero=True, infinite=True)),
    )
    tries: int = field(default=1, validator=count())


def test_a_field_takes_durations_and_keeps_seconds() -> None:
    waits = Waits(timedelta(minutes=1), 2)
    assert (waits.pause, waits.limit) == (60.0, 2.0)
    assert isinstance(waits.limit, float)
    assert Waits(limit=math.inf).limit == math.inf
    assert Waits(limit=0).limit == 0.0
    assert Waits().limit is None


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"pause": 0}, ValueError, "pause must be more than 0 seconds"),
        ({"pause": 10**5000}, ValueError, "pause must be a finite number of seconds"),
        ({"pause": -(10**5000)}, ValueError, "pause must be more than 0 seconds"),
        ({"limit": 10**400}, ValueError, "limit must be a finite number of seconds"),
        ({"pause": Unshowable()}, TypeError, "pause must be a number of seconds or a timedelta"),
        ({"tries": Unshowable()}, TypeError, "tries must be an int"),
        ({"pause": 61}, ValueError, "pause must be at most 60 seconds"),
        ({"pause": None}, TypeError, "pause must be a number of seconds or a timedelta, got None"),
        ({"pause": True}, TypeError, "pause must be a number of seconds or a timedelta, got True"),
        ({"limit": "1"}, TypeError, "limit must be a number of seconds or a timedelta, got '1'"),
        ({"limit": timedelta(-1)}, ValueError, "limit must be 0 or more seconds"),
        ({"tries": 0}, ValueError, "tries must be 1 or more, got 0"),
        ({"tries": 1.0}, TypeError, "tries must be an int"),
    ],
)
def test_the_error_of_a_field_names_it(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Waits(**options)


@pytest.mark.parametrize("pattern", ["\ud800", "a\udfff*"])
def test_a_pattern_that_no_key_can_match_is_refused_by_name(pattern: str) -> None:
    with pytest.raises(ValueError, match="pattern must be encodable as UTF-8"):
        glob_matcher(pattern)


class Pattern(StrEnum):
    USERS = "user:*"


def test_a_pattern_may_be_of_a_subclass_of_str_as_a_key_may() -> None:
    assert check_key(Pattern.USERS) == "user:*"
    assert glob_matcher(Pattern.USERS)("user:1")


@pytest.mark.parametrize("skew", [-1, 1e306, float("nan"), float("inf")])
def test_a_difference_of_clocks_is_one_that_can_be_counted_in_milliseconds(skew: float) -> None:
    with pytest.raises(ValueError, match="max_clock_skew must be"):
        check_max_clock_skew(skew)
    assert check_max_clock_skew(0) == 0
