"""Results are what they say."""

from __future__ import annotations

import pytest

from gogoscope import Err, Ok, Task

pytestmark = pytest.mark.anyio


def test_results_are_what_they_say() -> None:
    assert Ok(None, 1) == (None, 1)
    assert Err(ValueError(), None)[1] is None
    assert isinstance(Task, type)
