"""What the errors of a client mean: what became of the request, and whether to send it again.

Errors are recognised by the code that the server answered with, or else by the names of their
classes: the AWS SDK need not be imported, and a caller's client may come from any SDK that shares
these names.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

from attrs import frozen

from gogoscope.exceptions import (
    ConfigurationError,
    GogoscopeError,
    PersistenceError,
    RecordTooLargeError,
    StoreConnectionError,
    StoreTimeoutError,
    ThrottledError,
    UnexpectedStoreError,
)

CONDITION_FAILED = "ConditionalCheckFailedException"
TABLE_MISSING = "ResourceNotFoundException"
ACCESS_DENIED = "AccessDeniedException"
INVALID_REQUEST = "ValidationException"
TABLE_BUSY = "ResourceInUseException"


class Effect(Enum):
    """What a failed request has done."""

    NOT_SENT = "not sent"
    MAYBE_APPLIED = "maybe applied"
    FAILED = "failed"


@frozen(eq=False)
class Failure:
    """What an error of a request means.

    ``effect`` says what the request has done, ``retry`` whether to send it again, and ``error``
    which error to raise when it is not sent again.
    """

    effect: Effect
    retry: bool
    error: type[GogoscopeError]


UNANSWERED = Failure(Effect.MAYBE_APPLIED, retry=True, error=StoreTimeoutError)
INVALID = Failure(Effect.FAILED, retry=False, error=PersistenceError)
_BROKEN = Failure(Effect.MAYBE_APPLIED, retry=True, error=StoreConnectionError)
_UNREACHABLE = Failure(Effect.NOT_SENT, retry=True, error=StoreConnectionError)
_THROTTLED = Failure(Effect.FAILED, retry=True, error=ThrottledError)
_MISCONFIGURED = Failure(Effect.FAILED, retry=False, error=ConfigurationError)
_TOO_LARGE = Failure(Effect.FAILED, retry=False, error=RecordTooLargeError)
_REFUSED = Failure(Effect.FAILED, retry=False, error=PersistenceError)
_UNEXPECTED = Failure(Effect.MAYBE_APPLIED, retry=False, error=UnexpectedStoreError)

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


def classify(error: Exception) -> Failure:
    """Return what an error of a request means.

    It may be any error: where credentials are renewed, for example, the SDK raises what it finds.
    """
    code, status = error_code(error), _http_status(error)
    if code is not None:
        if code in _BY_CODE:
            return _BY_CODE[code]
        if code == INVALID_REQUEST:
            return _TOO_LARGE if "tem size" in str(error) else INVALID
        return _BROKEN if status >= 500 else _REFUSED
    bases = type(error).__mro__
    if type(error).__name__ == "EndpointConnectionError":
        # It is raised for a connection that was refused and for one that broke. The error that it
        # wraps tells which.
        bases = type(getattr(error, "kwargs", {}).get("error")).__mro__ + bases
    known = (_BY_CLASS[base.__name__] for base in bases if base.__name__ in _BY_CLASS)
    return next(known, _UNEXPECTED)


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
