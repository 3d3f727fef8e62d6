"""What the errors of AWS clients mean."""

from __future__ import annotations

import socket
import ssl
from typing import Any

import aiohttp
import pytest
from botocore import exceptions as aws

from gogoscope.exceptions import (
    ConfigurationError,
    Effect,
    PersistenceError,
    StoreConnectionError,
    StoreTimeoutError,
    ThrottledError,
    UnexpectedStoreError,
)
from gogoscope_dynamodb.errors import classify, error_code
from tests.support.dynamodb_faults import client_error

URL = "http://somewhere"


def endpoint_error(inner: Exception) -> Any:
    return aws.EndpointConnectionError(endpoint_url=URL, error=inner)


def connector_error() -> aiohttp.ClientConnectorError:
    return aiohttp.ClientConnectorError(None, OSError(111, "refused"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "error",
    [
        aws.SSLError(endpoint_url=URL, error=ssl.SSLError("no")),
        endpoint_error(connector_error()),
        endpoint_error(type("ConnectError", (Exception,), {})("that of httpx")),
        endpoint_error(socket.gaierror("no such host")),
        endpoint_error(ConnectionRefusedError()),
        aws.ConnectTimeoutError(endpoint_url=URL),
        aws.ProxyConnectionError(proxy_url=URL),
        aws.CredentialRetrievalError(provider="sso", error_msg="down"),
        aws.MetadataRetrievalError(error_msg="down"),
        ConnectionRefusedError(),
    ],
    ids=repr,
)
def test_a_request_that_was_not_sent_is_retried_without_doubt(error: Exception) -> None:
    failure = classify(error)
    assert (failure.effect, failure.retry) == (Effect.NOT_SENT, True)
    assert failure.error is StoreConnectionError


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (aws.ConnectionClosedError(endpoint_url=URL), StoreConnectionError),
        (aws.ReadTimeoutError(endpoint_url=URL), StoreTimeoutError),
        (endpoint_error(aiohttp.ClientOSError(104, "reset")), StoreConnectionError),
        (endpoint_error(Exception("who knows")), StoreConnectionError),
        (aws.HTTPClientError(error="broken"), StoreConnectionError),
        (aws.IncompleteReadError(actual_bytes=1, expected_bytes=2), StoreConnectionError),
        (
            aws.ChecksumError(checksum_type="crc32", expected_checksum="1", actual_checksum="2"),
            StoreConnectionError,
        ),
        (ssl.SSLError("a bad record"), StoreConnectionError),
        (ConnectionResetError(), StoreConnectionError),
        (TimeoutError(), StoreTimeoutError),
        (client_error("InternalServerError", status=500), StoreConnectionError),
        (client_error("502", status=502), StoreConnectionError),
        (client_error("RequestTimeout", status=400), StoreTimeoutError),
    ],
    ids=repr,
)
def test_a_broken_request_may_have_been_applied(error: Exception, kind: Any) -> None:
    failure = classify(error)
    assert (failure.effect, failure.retry) == (Effect.MAYBE_APPLIED, True)
    assert failure.error is kind


@pytest.mark.parametrize(
    "code",
    [
        "ProvisionedThroughputExceededException",
        "ThrottlingException",
        "RequestLimitExceeded",
        "TransactionConflictException",
    ],
)
def test_a_throttled_request_is_retried_without_doubt(code: str) -> None:
    failure = classify(client_error(code))
    assert (failure.effect, failure.retry) == (Effect.FAILED, True)
    assert failure.error is ThrottledError


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (aws.NoCredentialsError(), ConfigurationError),
        (aws.PartialCredentialsError(provider="env", cred_var="KEY"), ConfigurationError),
        (client_error("UnrecognizedClientException"), ConfigurationError),
        (aws.ParamValidationError(report="bad"), PersistenceError),
        (client_error("SomethingNew"), PersistenceError),
    ],
    ids=repr,
)
def test_an_error_that_no_retry_can_help_is_final(error: Exception, kind: Any) -> None:
    failure = classify(error)
    assert not failure.retry
    assert failure.error is kind


@pytest.mark.parametrize("error", [ZeroDivisionError(), RuntimeError("x"), TypeError("y")])
def test_an_error_that_is_not_a_clients_leaves_in_doubt_what_the_request_did(
    error: Exception,
) -> None:
    failure = classify(error)
    assert failure.effect is Effect.MAYBE_APPLIED
    assert not failure.retry
    assert failure.error is UnexpectedStoreError


def test_an_error_without_an_answer_has_no_code() -> None:
    assert error_code(None) is None
    assert error_code(OSError()) is None
    assert error_code(client_error("Some")) == "Some"
