"""The stores that several processes share, for tests that run on each of them by its URL alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.engines import DYNAMODB
from tests.support.postgres_server import POSTGRES
from tests.support.redis_server import REDIS

SHARED_STORES = ["sqlite", DYNAMODB, POSTGRES, REDIS]
"""The parameters of a fixture that returns :func:`shared_store_url`."""

_FIXTURES = {
    "dynamodb": "atomic_dynamodb_url",
    "postgresql": "postgres_url",
    "redis": "redis_url",
}


def shared_store_url(request: pytest.FixtureRequest, folder: Path) -> str:
    """Return the URL of a store that is named by the fixture's parameter.

    A test on an event loop that the store's client does not run on is skipped.

    :param folder: an empty one
    """
    if request.param == "sqlite":
        return f"sqlite:///{folder / 'store.db'}"
    url: str = request.getfixturevalue(_FIXTURES[request.param])
    return url
