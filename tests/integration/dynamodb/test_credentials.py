"""Held locks survive temporary credentials that are renewed often, slowly, or with failures."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest

from gogoscope import scope
from gogoscope_dynamodb import DynamoDBAdapter
from gogoscope_dynamodb.client import open_client
from tests.support.engines import Engine

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.usefixtures("on_asyncio")]

HOUR = 3600.0


class Provider:
    """Renews credentials: how long the new ones are good for, and what renewing them does.

    :param good_for: in seconds
    :param takes: how many seconds renewing them takes
    :param fails_with: what it raises for ``fails_for`` seconds from the first time on
    """

    def __init__(
        self,
        good_for: float,
        *,
        takes: float = 0.0,
        fails_with: Exception | None = None,
        fails_for: float = 0.0,
    ) -> None:
        self.good_for = good_for
        self.takes = takes
        self.fails_with = fails_with
        self.fails_for = fails_for
        self.renewals = 0
        self.began = 0.0

    async def renew(self) -> dict[str, str]:
        self.began = self.began or time.monotonic()
        self.renewals += 1
        await anyio.sleep(self.takes)
        if self.fails_with is not None and time.monotonic() < self.began + self.fails_for:
            raise self.fails_with
        return self.new(self.good_for)

    def new(self, good_for: float) -> dict[str, str]:
        end = datetime.now(UTC) + timedelta(seconds=good_for)
        return {
            "access_key": "test",
            "secret_key": "test",
            "token": f"token{self.renewals}",
            "expiry_time": end.isoformat(),
        }


@asynccontextmanager
async def client_of(provider: Provider, engine: Engine, good_for: float) -> AsyncIterator[Any]:
    """Open a client whose first credentials are good for some seconds."""
    import aioboto3  # type: ignore[import-untyped]
    from aiobotocore.credentials import AioRefreshableCredentials
    from aiobotocore.session import get_session
    from botocore.config import Config

    session: Any = get_session()
    session._credentials = AioRefreshableCredentials.create_from_metadata(
        provider.new(good_for), refresh_using=provider.renew, method="a test's own"
    )
    config = Config(retries={"total_max_attempts": 1})
    opening: Any = aioboto3.Session(botocore_session=session).client(
        "dynamodb", region_name="us-east-1", endpoint_url=engine.endpoint_url, config=config
    )
    async with opening as client:
        yield client


async def hold(store: DynamoDBAdapter, lease: float, seconds: float) -> None:
    async with scope(persistence=store) as s, s.lock("k", ttl=lease) as locked:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            locked.ensure()
            await anyio.sleep(0.05)


@pytest.mark.parametrize(
    ("provider", "first", "lease", "renewals"),
    [
        pytest.param(lambda: Provider(2.0), 2.0, 3.0, 3, id="rotating every 2 s"),
        pytest.param(lambda: Provider(HOUR, takes=3.0), 1.0, 4.0, 1, id="taking 3 s"),
        pytest.param(
            lambda: Provider(HOUR, fails_with=OSError("no route"), fails_for=5.0),
            1.0,
            10.0,
            3,
            id="failing for 5 s",
        ),
        pytest.param(
            lambda: Provider(HOUR, fails_with=KeyError("AccessKeyId"), fails_for=1.0),
            1.0,
            6.0,
            2,
            id="raising foreign errors",
        ),
        pytest.param(
            lambda: Provider(HOUR, takes=0.5), 500.0, 3.0, 1, id="when the SDK says they must be"
        ),
        pytest.param(
            lambda: Provider(HOUR, takes=5.0),
            901.0,
            3.0,
            1,
            id="taking longer than the lease while those at hand are good",
        ),
    ],
)
async def test_a_held_lock_survives_the_renewal_of_credentials(
    dynamodb_engine: Engine,
    dynamodb_table: str,
    provider: Callable[[], Provider],
    first: float,
    lease: float,
    renewals: int,
) -> None:
    own = provider()
    async with client_of(own, dynamodb_engine, first) as client:
        await hold(DynamoDBAdapter(client, dynamodb_table), lease, lease + 3)
    assert own.renewals >= renewals


async def test_the_retry_mode_of_the_environment_loses_no_lock(
    dynamodb_engine: Engine, dynamodb_table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_RETRY_MODE", "adaptive")
    async with open_client(endpoint_url=dynamodb_engine.endpoint_url) as client:
        store = DynamoDBAdapter(client, dynamodb_table)
        async with anyio.create_task_group() as group:

            async def load() -> None:
                while True:
                    await store.get("k")

            for _ in range(8):
                group.start_soon(load)
            await hold(store, 6.0, 9.0)
            group.cancel_scope.cancel()
