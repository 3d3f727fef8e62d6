"""One session of the AWS SDK for each process and set of settings, made beside the event loop.

To import the SDK and to read the descriptions of its services takes up to a second, in which no
other task would run. So a worker thread does both: it makes a session, and opens and closes a first
client, after which the session has all that it needs. Later clients of the session are cheap.

This is the only module that imports the SDK to open a client, and says how our own clients are set:

- The SDK sends a request once. Its own retries do not tell whether a write may have been applied.
- The mode of these retries is named, whatever the environment says: "adaptive" would hold requests
  back unseen until a lease is over, and "standard" would not look at the checksum of an answer.
- Parameters are not validated, since only checked ones are sent.
- It waits for answers without a limit of its own: the store bounds each request.
- The name of the client is fixed. The SDK would build its own anew for each request.
- Two handlers of the SDK are taken away. They look at every request, but concern only operations
  that are not used here.

Mutable state: ``_kept`` are the last sessions that were made, each under the settings of the
environment that it was made with: whoever changes those gets a new one. A forked process makes its
own.
"""

from __future__ import annotations

import asyncio
import functools
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from importlib.metadata import version
from typing import Any

import anyio.to_thread
from attrs import frozen

from gogoscope.exceptions import BackendUnavailableError
from gogoscope.persistence import after_fork

MOST_KEPT = 8
POOL_SIZE = 50

_UNUSED_HANDLERS = {
    "before-parameter-build": "generate_idempotent_uuid",  # for transactions and exports
    "before-call": "inject_api_version_header_if_needed",  # for DescribeEndpoints
}

_Settings = tuple[tuple[str, str], ...]


@frozen
class Session:
    """A session of the SDK, and the configuration of its clients."""

    _session: Any
    _config: Any

    @asynccontextmanager
    async def client(
        self, region: str | None = None, endpoint_url: str | None = None
    ) -> AsyncIterator[Any]:
        """Open a DynamoDB client for the length of a block."""
        handlers = import_module("botocore.handlers")
        async with self._session.client(
            "dynamodb", region_name=region, endpoint_url=endpoint_url, config=self._config
        ) as client:
            for event, name in _UNUSED_HANDLERS.items():
                client.meta.events.unregister(event, getattr(handlers, name, None))
            yield client


_kept: dict[_Settings, Session] = {}
after_fork(_kept.clear)


async def kept_session(region: str | None = None, endpoint_url: str | None = None) -> Session:
    """Return a session on whose clients the event loop need not wait long.

    :param region: the region of the next client
    :param endpoint_url: its endpoint
    :raises BackendUnavailableError: if the SDK is not installed
    :raises Exception: what opening a client raises
    """
    settings = _settings()
    session = _kept.get(settings)
    if session is None or sys.modules.get("aioboto3") is None:
        make = functools.partial(_make, settings, region, endpoint_url)
        alone = anyio.CapacityLimiter(1)  # others may hold all threads until the store is open
        session = await anyio.to_thread.run_sync(make, abandon_on_cancel=True, limiter=alone)
    return session


def _settings() -> _Settings:
    names = sorted(name for name in os.environ if name.startswith("AWS_") or name == "HOME")
    return tuple((name, os.environ[name]) for name in names)


def _make(settings: _Settings, region: str | None, endpoint_url: str | None) -> Session:
    session = _new_session()

    async def read_all() -> None:
        async with session.client(region, endpoint_url):
            pass

    asyncio.run(read_all())
    for oldest in list(_kept)[: len(_kept) + 1 - MOST_KEPT]:
        _kept.pop(oldest, None)
    return _kept.setdefault(settings, session)


def _new_session() -> Session:
    try:
        # Imported here, since the SDK is optional and slow to import. Neither has types.
        import aioboto3  # type: ignore[import-untyped] # noqa: PLC0415
        from aiobotocore.session import get_session  # noqa: PLC0415
        from botocore.config import Config  # noqa: PLC0415
    except ImportError as error:
        raise BackendUnavailableError(
            "DynamoDB needs aioboto3; install it with: pip install 'gogoscope[dynamodb]'"
        ) from error
    core = get_session()
    config = Config(
        retries={"mode": "legacy", "total_max_attempts": 1},
        max_pool_connections=POOL_SIZE,
        parameter_validation=False,
        read_timeout=None,
        user_agent=_user_agent(core),
    )
    return Session(aioboto3.Session(botocore_session=core), config)


def _user_agent(core: Any) -> str:
    """Return the name of our clients; the SDK leaves out the id of the app where one is given."""
    own = core.user_agent().removesuffix(f" {core.user_agent_extra}")  # which it adds by itself
    app_id = core.get_config_variable("user_agent_appid")
    return f"gogoscope/{version('gogoscope')} {own}" + (f" app/{app_id}" if app_id else "")
