"""The AWS client: the operations of it that are used, and how one is opened."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from contextvars import Context
from typing import Any, Protocol

import anyio

from gogoscope.exceptions import ConfigurationError, UnsupportedEventLoopError
from gogoscope.persistence import Detached, monotonic
from gogoscope_dynamodb.sessions import kept_session
from gogoscope_dynamodb.short_cut import take_short_cut

CLOSE_SECONDS = 5.0
RENEWAL_SECONDS = 60.0
MANDATORY_SECONDS = 600


class DynamoDBClient(Protocol):
    """The operations of a low-level async DynamoDB client that are used."""

    def get_item(self, *args: Any, **kwargs: Any) -> Awaitable[Any]:
        """Read an item."""
        ...

    def put_item(self, *args: Any, **kwargs: Any) -> Awaitable[Any]:
        """Write an item."""
        ...

    def update_item(self, *args: Any, **kwargs: Any) -> Awaitable[Any]:
        """Change an item."""
        ...

    def delete_item(self, *args: Any, **kwargs: Any) -> Awaitable[Any]:
        """Remove an item."""
        ...

    def scan(self, *args: Any, **kwargs: Any) -> Awaitable[Any]:
        """Read a page of a table."""
        ...

    def batch_get_item(self, *args: Any, **kwargs: Any) -> Awaitable[Any]:
        """Read up to 100 items."""
        ...

    def create_table(self, *args: Any, **kwargs: Any) -> Awaitable[Any]:
        """Create a table."""
        ...

    def describe_table(self, *args: Any, **kwargs: Any) -> Awaitable[Any]:
        """Describe a table."""
        ...

    def describe_time_to_live(self, *args: Any, **kwargs: Any) -> Awaitable[Any]:
        """Describe the time to live of a table."""
        ...

    def update_time_to_live(self, *args: Any, **kwargs: Any) -> Awaitable[Any]:
        """Change the time to live of a table."""
        ...


def check_client(client: object) -> None:
    """Refuse any other object than a low-level async client.

    A synchronous one would send its request and return what cannot be awaited.

    :raises TypeError: if it is another; the message says how to get one
    """
    kinds = {(kind.__module__.partition(".")[0], kind.__name__) for kind in type(client).__mro__}
    synchronous = ("botocore", "BaseClient") in kinds and (
        "aiobotocore",
        "AioBaseClient",
    ) not in kinds
    resource = any(name == "ServiceResource" for _, name in kinds)
    if synchronous or resource or not hasattr(client, "update_item"):
        raise TypeError(
            f"client must be a low-level async DynamoDB client, got {client!r}; enter "
            "aioboto3.Session().client('dynamodb') with 'async with' and pass what that returns"
        )


@asynccontextmanager
async def open_client(
    region: str | None = None, endpoint_url: str | None = None, *, fast: bool = False
) -> AsyncIterator[DynamoDBClient]:
    """Open a client on the running event loop for the length of a block.

    :param region: the AWS region; the one of the environment or the AWS profile if left out
    :param endpoint_url: another endpoint; ``AWS_ENDPOINT_URL_DYNAMODB`` if left out
    :param fast: whether requests for one item take the short cut through the SDK
    :raises UnsupportedEventLoopError: if the running event loop is not one of asyncio's
    :raises BackendUnavailableError: if aioboto3 is not installed
    :raises ConfigurationError: if no region is set anywhere
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise UnsupportedEventLoopError(
            "aioboto3 runs on asyncio only; run the program with anyio.run(main) on its asyncio "
            "backend, or pass DynamoDBAdapter a client that runs on this event loop, as one of "
            "aiobotocore 3 with its HttpxSession does"
        ) from None
    try:
        session = await kept_session(region, endpoint_url)
        opening = session.client(region, endpoint_url)
        client = await opening.__aenter__()
    except Exception as error:
        if not _is_about_settings(error):
            raise
        raise ConfigurationError(
            f"no DynamoDB client can be opened: {error} (the region is the URL option 'region' or "
            "AWS_DEFAULT_REGION)"
        ) from error
    if fast:
        take_short_cut(client)
    try:
        yield client
    finally:
        with anyio.move_on_after(CLOSE_SECONDS, shield=True):
            await opening.__aexit__(None, None, None)


def _is_about_settings(error: Exception) -> bool:
    of_sdk = any(kind.__name__ == "BotoCoreError" for kind in type(error).__mro__)
    return of_sdk or isinstance(error, ValueError)


class RenewalError(Exception):
    """The credentials of a client cannot be renewed, so the request was not sent."""


class Renewals:
    """Renews the temporary credentials of a client when that is due, once for all who wait.

    While the present ones are still good for some minutes, they are renewed beside all requests,
    and none waits for that: the lease of a lock may be shorter than a renewal takes. When they are
    not, all wait for the one that renews them, and share its error.

    The SDK would renew them in the request that finds them due, unless it is renewing them already.
    So a request goes on when the renewal beside it has begun.

    Mutable state: ``_failures`` counts the renewals that failed, and ``_failure`` is the last one.
    ``_beside`` runs the renewal beside all requests; while there is one, ``_begun`` says whether
    the SDK is at it.

    :param client: the client; one whose credentials cannot be seen has none to renew
    """

    def __init__(self, client: object) -> None:
        signer = getattr(client, "_request_signer", None)
        self._credentials = getattr(signer, "_credentials", None)
        self._due = getattr(self._credentials, "refresh_needed", None)
        self._lock = anyio.Lock()
        self._failures = 0
        self._failure: Exception | None = None
        self._beside = Detached()
        self._begun: anyio.Event | None = None

    def due(self) -> bool:
        """Return whether the credentials are to be renewed, or are being renewed."""
        return self._due is not None and bool(self._due())

    async def ready(self) -> float:
        """Wait until the credentials can sign a request; return the seconds it took.

        :raises RenewalError: if they cannot be renewed
        """
        if self._due is None or not self._due():
            return 0.0
        if not self._due(MANDATORY_SECONDS):
            if self._begun is None and not self._lock.locked():
                self._begin_beside()
            if self._begun is not None:
                await self._begun.wait()
            return 0.0
        called, failures = monotonic(), self._failures
        async with self._lock:
            if self._failure is not None and self._failures != failures:
                raise RenewalError(str(self._failure)) from self._failure
            if self._due():
                await self._renew()
        return monotonic() - called

    async def end(self) -> None:
        """End what goes on beside the requests; shielded, and without waiting for it."""
        with anyio.CancelScope(shield=True):
            await self._beside.end(0)

    def _begin_beside(self) -> None:
        """Begin to renew beside all requests."""
        self._begun = begun = anyio.Event()

        async def renew() -> None:
            try:
                async with self._lock:
                    with suppress(RenewalError):  # the next request begins another one
                        await self._renew(begun)
            finally:
                begun.set()
                self._begun = None

        # In a context of its own: that of the request would be kept with its scopes.
        if not Context().run(self._beside.start, renew, False):
            self._begun = None

    async def _renew(self, begun: anyio.Event | None = None) -> None:
        """Renew the credentials.

        :param begun: is set when that has begun
        :raises RenewalError: if it fails
        """
        if begun is not None:
            begun.set()  # who waits for it goes on when this waits
        try:
            with anyio.fail_after(RENEWAL_SECONDS):
                await self._credentials.get_frozen_credentials()  # type: ignore[union-attr]
        except Exception as error:
            self._failures += 1
            self._failure = RenewalError(
                f"the AWS credentials cannot be renewed: {type(error).__name__}: {error}"
            )
            raise self._failure from error


def region_of(client: object) -> str:
    """Return the region of a client, for messages."""
    return getattr(getattr(client, "meta", None), "region_name", None) or "unknown"


def pool_size(client: object) -> int | None:
    """Return how many connections a client has at most, or ``None`` if it does not tell."""
    config = getattr(getattr(client, "meta", None), "config", None)
    size = getattr(config, "max_pool_connections", None)
    return size if isinstance(size, int) else None
