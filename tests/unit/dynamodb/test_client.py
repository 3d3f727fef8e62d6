"""What is told of a client."""

from __future__ import annotations

from gogoscope_dynamodb.client import region_of


def test_a_client_that_does_not_tell_its_region_is_no_problem() -> None:
    assert region_of(object()) == "unknown"
