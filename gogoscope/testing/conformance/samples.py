"""Keys, durations and values that a store must take, or must refuse."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import pytest

Test = TypeVar("Test", bound=Callable[..., Any])

ODD_KEYS = [
    "a*b",
    "a?b",
    "[ab]",
    "a]b",
    "100%",
    "#tag",
    "a\\b",
    "a/b",
    "..",
    "line\nfeed",
    "Ünïcødé ✓ 🎉",
    "\U0010ffff",
    " ",
    ".*",
    "(a|b)+$^",
    "'; DROP TABLE records; --",
    "k" * 1024,
]

BAD_KEYS: list[tuple[Any, type[Exception], str]] = [
    ("", ValueError, "key must not be empty"),
    (7, TypeError, "key must be a str, got 7 of type int"),
    (None, TypeError, "key must be a str, got None"),
    (b"k", TypeError, "key must be a str, got b'k' of type bytes"),
    ("nul\0byte", ValueError, "key must not contain NUL"),
    ("\ud800", ValueError, "key must be encodable as UTF-8"),
]

BAD_DURATIONS = [
    pytest.param(0, ValueError, id="zero"),
    pytest.param(-1, ValueError, id="negative"),
    pytest.param(math.nan, ValueError, id="nan"),
    pytest.param(math.inf, ValueError, id="infinite"),
    pytest.param("30", TypeError, id="str"),
    pytest.param(True, TypeError, id="bool"),
]

BAD_VALUES = [
    pytest.param((1, 2), TypeError, "value is of type tuple", id="tuple"),
    pytest.param({1: "a"}, TypeError, "value has the key 1 of type int", id="int key"),
    pytest.param({"a": [0, {"b": {1, 2}}]}, TypeError, r"value\['a'\]\[1\]\['b'\]", id="set"),
    pytest.param([math.nan], ValueError, r"value\[0\] is nan", id="nan"),
    pytest.param({"x": -math.inf}, ValueError, r"value\['x'\] is -inf", id="infinity"),
    pytest.param([b"bytes"], TypeError, r"value\[0\] is of type bytes", id="bytes"),
    pytest.param(object(), TypeError, "value is of type object", id="object"),
    pytest.param(["\ud800"], ValueError, r"value\[0\] must be encodable as UTF-8", id="surrogate"),
    pytest.param({"a": "\ud83d\ude00"}, ValueError, r"value\['a'\] must be enc", id="surrogates"),
    pytest.param({"\udc00": 1}, ValueError, "a key in value must be encodable", id="key surrogate"),
]

EDGE_VALUES: list[Any] = [
    None,
    True,
    0,
    -0.0,
    5e-324,
    1.7976931348623157e308,
    0.1,
    1.0,
    1e22,
    2**64,
    -(2**80),
    "",
    "\0",
    "Ünïcødé ✓ 🎉",
    [],
    {},
    {"": [None, {"b": 1, "a": [[]]}], "é\n": False},
]


def sampled(
    argument: str, corpus: Sequence[Any], strategy: Callable[[Any], Any], examples: int
) -> Callable[[Test], Test]:
    """Run a test on drawn arguments where hypothesis is installed, else on a fixed corpus.

    :param argument: the name of the test's argument
    :param corpus: its values where hypothesis is not installed
    :param strategy: given ``hypothesis.strategies``, returns what its values are drawn from
    :param examples: how many are drawn
    """
    if importlib.util.find_spec("hypothesis") is None:
        return pytest.mark.parametrize(argument, corpus)
    import hypothesis.strategies  # noqa: PLC0415 - the kit works without it

    settings = hypothesis.settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=[
            hypothesis.HealthCheck.function_scoped_fixture,
            hypothesis.HealthCheck.too_slow,
            # Each backend's class runs the same test function: that is what the kit is for.
            hypothesis.HealthCheck.differing_executors,
        ],
    )

    def decorate(test: Test) -> Test:
        drawn: Any = settings(hypothesis.given(**{argument: strategy(hypothesis.strategies)})(test))
        return drawn  # type: ignore[no-any-return] # what hypothesis makes of it

    return decorate


def json_values(st: Any) -> Any:
    """Return the strategy of all values that a cache takes."""
    scalars = (
        st.none()
        | st.booleans()
        | st.integers(-(2**80), 2**80)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=20)
    )
    return st.recursive(
        scalars,
        lambda inner: (
            st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
        ),
        max_leaves=12,
    )
