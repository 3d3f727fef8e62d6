"""The AWS client: what we call of it, opening one, and what its errors mean.

This is the only module that imports the AWS SDK, and only to open a client. Errors are told by
the names of their classes, so that a caller's client may come from any SDK that shares them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from enum import Enum
from typing import Any, Protocol

import anyio
from attrs import frozen

from gogoscope.exceptions import (
    BackendUnavailableError,
    ConfigurationError,
    GogoscopeError,
    PersistenceError,
    RecordTooLargeError,
    StoreConnectionError,
    StoreTimeoutError,
    ThrottledError,
    UnsupportedEventLoopError,
)

POOL_SIZE = 50
CLOSE_SECONDS = 5.0

CONDITION_FAILED = "ConditionalCheckFailedException"
TABLE_MISSING = "ResourceNotFoundException"
ACCESS_DENIED = "AccessDeniedException"
INVALID_REQUEST = "ValidationException"
TABLE_BUSY = "ResourceInUseException"


class DynamoDBClient(Protocol):
    """The operations that are called of a low-level async DynamoDB client."""

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

    def batch_write_item(self, *args: Any, **kwargs: Any) -> Awaitable[Any]:
        """Write or remove up to 25 items."""
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
    """Refuse what is no low-level async client, before it writes what nobody can await.

    :raises TypeError: showing how to get one
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
            "aioboto3.Session().client('dynamodb') with 'async with' and pass what that gives"
        )


@asynccontextmanager
async def open_client(
    region: str | None = None, endpoint_url: str | None = None
) -> AsyncIterator[DynamoDBClient]:
    """Open a client on the running event loop for the length of a block.

    Its own retries are off: they cannot tell whether a write may have been applied.

    :param region: the AWS region; the one of the environment or the AWS profile if left out
    :param endpoint_url: another endpoint; ``AWS_ENDPOINT_URL_DYNAMODB`` if left out
    :raises UnsupportedEventLoopError: if the running event loop is not one of asyncio's
    :raises BackendUnavailableError: if aioboto3 is not installed
    :raises ConfigurationError: if no region is set anywhere
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise UnsupportedEventLoopError(
            "aioboto3 runs on asyncio only; run the program with anyio.run(main) on its asyncio "
            "backend, or pass DynamoDBAdapter a client that works on this event loop"
        ) from None
    try:
        # Imported here, since the SDK is optional and slow to import; aioboto3 ships no types.
        import aioboto3  # type: ignore[import-untyped] # noqa: PLC0415
        from botocore.config import Config  # noqa: PLC0415
        from botocore.exceptions import BotoCoreError  # noqa: PLC0415
    except ImportError as error:
        raise BackendUnavailableError(
            "DynamoDB needs aioboto3; install it with: pip install 'gogoscope[dynamodb]'"
        ) from error
    try:
        session: Any = aioboto3.Session()
        opening = session.client(
            "dynamodb",
            region_name=region,
            endpoint_url=endpoint_url,
            config=Config(retries={"total_max_attempts": 1}, max_pool_connections=POOL_SIZE),
        )
        client = await opening.__aenter__()
    except (BotoCoreError, ValueError) as error:
        raise ConfigurationError(
            f"no DynamoDB client can be opened: {error} (the region is the URL option 'region' or "
            "AWS_DEFAULT_REGION)"
        ) from error
    try:
        yield client
    finally:
        with anyio.move_on_after(CLOSE_SECONDS, shield=True):
            await opening.__aexit__(None, None, None)


def region_of(client: object) -> str:
    """Return the region that a client speaks to, for messages."""
    return getattr(getattr(client, "meta", None), "region_name", None) or "unknown"


def pool_size(client: object) -> int | None:
    """Return how many connections a client keeps at most, or ``None`` if it does not tell."""
    config = getattr(getattr(client, "meta", None), "config", None)
    size = getattr(config, "max_pool_connections", None)
    return size if isinstance(size, int) else None


class Effect(Enum):
    """What a failed request has done."""

    NOT_SENT = "not sent"
    MAYBE_APPLIED = "maybe applied"
    FAILED = "failed"


@frozen(eq=False)
class Failure:
    """What an error of a request means.

    ``effect`` says what the request has done and ``retry`` whether to send it again; ``error`` is
    the kind of error to raise in the end.
    """

    effect: Effect
    retry: bool
    error: type[GogoscopeError]


UNANSWERED = Failure(Effect.MAYBE_APPLIED, retry=True, error=StoreTimeoutError)
_BROKEN = Failure(Effect.MAYBE_APPLIED, retry=True, error=StoreConnectionError)
_UNREACHABLE = Failure(Effect.NOT_SENT, retry=True, error=StoreConnectionError)
_THROTTLED = Failure(Effect.FAILED, retry=True, error=ThrottledError)
INVALID = Failure(Effect.FAILED, retry=False, error=PersistenceError)
_MISCONFIGURED = Failure(Effect.FAILED, retry=False, error=ConfigurationError)
_TOO_LARGE = Failure(Effect.FAILED, retry=False, error=RecordTooLargeError)
_REFUSED = Failure(Effect.FAILED, retry=False, error=PersistenceError)

_BY_CODE = {
    **dict.fromkeys(
        (
            "ProvisionedThroughputExceededException",
            "RequestLimitExceeded",
            "ThrottlingException",
            "ThrottledException",
            "Throttling",
            "LimitExceededException",
            "TransactionConflictException",
            "ReplicatedWriteConflictException",
        ),
        _THROTTLED,
    ),
    **dict.fromkeys(
        (
            TABLE_MISSING,
            ACCESS_DENIED,
            "UnrecognizedClientException",
            "InvalidSignatureException",
            "IncompleteSignatureException",
            "MissingAuthenticationTokenException",
        ),
        _MISCONFIGURED,
    ),
    "InternalServerError": _BROKEN,
    "RequestTimeout": UNANSWERED,
    "RequestTimeoutException": UNANSWERED,
}

_BY_CLASS = {
    "ClientConnectorError": _UNREACHABLE,
    "NewConnectionError": _UNREACHABLE,
    "gaierror": _UNREACHABLE,
    "ConnectionRefusedError": _UNREACHABLE,
    "ConnectTimeoutError": _UNREACHABLE,
    "ProxyConnectionError": _UNREACHABLE,
    "CredentialRetrievalError": _UNREACHABLE,
    "MetadataRetrievalError": _UNREACHABLE,
    "NoCredentialsError": _MISCONFIGURED,
    "PartialCredentialsError": _MISCONFIGURED,
    "NoAuthTokenError": _MISCONFIGURED,
    "ReadTimeoutError": UNANSWERED,
    "TimeoutError": UNANSWERED,
    "ConnectionError": _BROKEN,
    "HTTPClientError": _BROKEN,
    "IncompleteReadError": _BROKEN,
    "ResponseParserError": _BROKEN,
    "OSError": _BROKEN,
    "BotoCoreError": _REFUSED,
}


def classify(error: Exception) -> Failure | None:
    """Tell what an error of a request means; ``None`` if it is none of a client's errors."""
    code, status = error_code(error), _http_status(error)
    if code is not None:
        if code in _BY_CODE:
            return _BY_CODE[code]
        if code == INVALID_REQUEST:
            return _TOO_LARGE if "tem size" in str(error) else INVALID
        return _BROKEN if status >= 500 else _REFUSED
    bases = type(error).__mro__
    if type(error).__name__ == "EndpointConnectionError":
        # It stands for a connection that was refused and for one that broke: what it wraps tells.
        bases = type(getattr(error, "kwargs", {}).get("error")).__mro__ + bases
    known = (_BY_CLASS[base.__name__] for base in bases if base.__name__ in _BY_CLASS)
    return next(known, None)


def error_code(error: Exception | None) -> str | None:
    """Return the code of an error that the server answered with, or ``None``."""
    code = error_response(error).get("Error", {}).get("Code")
    return None if code is None else str(code)


def error_response(error: Exception | None) -> Mapping[str, Any]:
    """Return the answer that came with an error, empty if there is none."""
    response = getattr(error, "response", None)
    return response if isinstance(response, Mapping) else {}


def retried(response: Mapping[str, Any]) -> bool:
    """Return whether a client that retries by itself sent the request more than once."""
    return bool(response.get("ResponseMetadata", {}).get("RetryAttempts"))


def _http_status(error: Exception) -> int:
    status = error_response(error).get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status if isinstance(status, int) else 0
