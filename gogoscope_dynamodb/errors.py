"""What the errors of a client mean: what became of the request, and whether to send it again.

Errors are recognised by the code that the server answered with, or else by the names of their
classes: the AWS SDK need not be imported, and a caller's client may come from any SDK that shares
these names.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any

from attrs import frozen

from gogoscope.exceptions import (
    ConfigurationError,
    Effect,
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
TOO_MANY_REQUESTS = 429
ANSWER_TYPE = "application/x-amz-json"
_PARTS = {
    "scan": "Items",
    "describe_table": "Table",
    "create_table": "TableDescription",
    "describe_time_to_live": "TimeToLiveDescription",
}
"""The part without which an answer is none."""


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
_NOT_SENT = Failure(Effect.NOT_SENT, retry=True, error=StoreTimeoutError)
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
    "ClientConnectorError": _UNREACHABLE,  # of aiohttp
    "ConnectError": _UNREACHABLE,  # of httpx
    "NewConnectionError": _UNREACHABLE,
    "gaierror": _UNREACHABLE,
    "ConnectionRefusedError": _UNREACHABLE,
    "ConnectTimeoutError": _UNREACHABLE,
    "ProxyConnectionError": _UNREACHABLE,
    "CredentialRetrievalError": _UNREACHABLE,
    "MetadataRetrievalError": _UNREACHABLE,
    "RenewalError": _UNREACHABLE,
    "NoRoomError": _NOT_SENT,
    "NoCredentialsError": _MISCONFIGURED,
    "PartialCredentialsError": _MISCONFIGURED,
    "NoAuthTokenError": _MISCONFIGURED,
    "SSLError": _UNREACHABLE,
    "ReadTimeoutError": UNANSWERED,
    "TimeoutError": UNANSWERED,
    "ConnectionError": _BROKEN,
    "HTTPClientError": _BROKEN,
    "IncompleteReadError": _BROKEN,
    "ResponseParserError": _BROKEN,
    "ChecksumError": _BROKEN,
    "ForeignAnswerError": _BROKEN,
    "OSError": _BROKEN,
    "ParamValidationError": _REFUSED,
    "NoRegionError": _MISCONFIGURED,
    "InvalidRegionError": _MISCONFIGURED,
}


def classify(error: Exception) -> Failure:
    """Return what an error of a request means.

    It may be any error: where credentials are renewed, for example, the SDK raises what it finds.
    """
    if isinstance(error, ssl.SSLError):
        return _BROKEN  # The SDK's own error of this name is that of a handshake.
    code, status = error_code(error), _http_status(error)
    if status == TOO_MANY_REQUESTS:
        return _THROTTLED
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


class ForeignAnswerError(Exception):
    """An answer with status 200 that is not DynamoDB's: that of a portal or of another server."""


def check_answer(operation: str, parameters: Mapping[str, Any], response: Any) -> None:
    """Make sure that an answer is DynamoDB's, and has the parts that were asked for.

    :raises ForeignAnswerError: if it is not, or lacks one
    """
    if not isinstance(response, Mapping):
        raise ForeignAnswerError(f"{operation} was answered with {type(response).__name__}")
    metadata = response.get("ResponseMetadata", {})
    headers = metadata.get("HTTPHeaders", {})
    # What came over HTTP says of what type it is, as DynamoDB always does; a stub's need not.
    unsaid = "" if "HTTPStatusCode" in metadata else ANSWER_TYPE
    content = str(headers.get("content-type", unsaid))
    if not content.startswith(ANSWER_TYPE):
        raise ForeignAnswerError(f"{operation} was answered with {content!r}, not {ANSWER_TYPE!r}")
    needed = _PARTS.get(operation)
    if headers and operation == "update_item" and parameters.get("ReturnValues") == "ALL_NEW":
        needed = "Attributes"
    if needed is not None and needed not in response:
        raise ForeignAnswerError(f"{operation} was answered without {needed}")


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
