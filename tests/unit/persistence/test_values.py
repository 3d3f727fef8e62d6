"""Values are stored faithfully, or refused with the path of what is not."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gogoscope.exceptions import CorruptRecordError
from gogoscope.persistence.values import JSONCodec

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
VALUES = st.recursive(SCALARS, lambda v: st.lists(v) | st.dictionaries(st.text(), v))


class Text(str):
    """A str that JSON would turn into a plain one."""

    __slots__ = ()


@settings(deadline=None)
@given(VALUES)
def test_loading_returns_what_was_dumped_with_the_same_types(value: Any) -> None:
    codec = JSONCodec()
    loaded = codec.loads(codec.dumps(value))
    assert repr(loaded) == repr(value)


@settings(deadline=None)
@given(VALUES)
def test_the_text_is_compact_json_in_utf_8(value: Any) -> None:
    text = JSONCodec().dumps(value)
    assert json.loads(text.encode()) == value


def test_text_that_is_not_ascii_takes_no_more_than_its_size() -> None:
    assert JSONCodec().dumps({"größe": "大🎉"}) == '{"größe":"大🎉"}'


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ("\ud800", "value must be encodable"),
        (["é", "\ud83d\ude00"], r"value\[1\] must be encodable"),
        ({"a": ["\udc80"]}, r"value\['a'\]\[0\] must be encodable"),
        ([{"\ud800": 1}], r"a key in value\[0\] must be encodable"),
    ],
)
def test_a_surrogate_lone_or_in_a_pair_is_refused_with_its_path(value: Any, path: str) -> None:
    with pytest.raises(ValueError, match=path):
        JSONCodec().dumps(value)


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ((1,), "value is of type tuple"),
        ([1, [2, (3,)]], r"value\[1\]\[1\] is of type tuple"),
        ({"a": {"b": {1}}}, r"value\['a'\]\['b'\] is of type set"),
        ({"a": {1: 2}}, r"value\['a'\] has the key 1 of type int"),
        ({None: 1}, "value has the key None of type NoneType"),
        ([Text("x")], r"value\[0\] is of type Text"),
        ({Text("x"): 1}, "value has the key 'x' of type Text"),
        ([b"x"], r"value\[0\] is of type bytes"),
        ([1j], r"value\[0\] is of type complex"),
        ([object], r"value\[0\] is of type type"),
    ],
)
def test_another_type_is_refused_with_its_path(value: Any, path: str) -> None:
    with pytest.raises(TypeError, match=path):
        JSONCodec().dumps(value)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_json_lacks_is_refused_with_its_path(number: float) -> None:
    with pytest.raises(ValueError, match=rf"value\['x'\]\[0\] is {number!r}"):
        JSONCodec().dumps({"x": [number]})


def test_an_int_too_long_to_be_read_back_is_refused_with_its_path() -> None:
    with pytest.raises(ValueError, match=r"value\[0\] is an int of more than 4300 digits"):
        JSONCodec().dumps([10**4300])
    assert JSONCodec().loads(JSONCodec().dumps([10**4299])) == [10**4299]


def test_a_value_that_contains_itself_is_refused() -> None:
    value: list[Any] = []
    value.append({"again": value})
    with pytest.raises(ValueError, match="contains itself"):
        JSONCodec().dumps(value)


@pytest.mark.parametrize(
    "text", ["", "{", "[1,]", "nope", "NaN", "[-Infinity]", "1 2", "[" * 99_999]
)
def test_a_text_that_is_not_json_is_a_corrupt_record(text: str) -> None:
    with pytest.raises(CorruptRecordError) as caught:
        JSONCodec().loads(text)
    assert caught.value.__cause__ is not None
