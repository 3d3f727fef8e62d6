"""A short cut through the AWS SDK for the four requests that read or write one item.

Most of what a request costs in Python is the SDK's general machinery: it walks the description of
the service to turn parameters into JSON and back, asks for the credentials, and derives a signing
key from them, each time anew. For DynamoDB the parameters are the JSON, and a signing key lasts a
day. So two handlers of the client's own events go around that machinery:

- ``provide-client-params`` turns the parameters into the body. The SDK goes on with those that its
  rules for endpoints look at, and finds the URL and the headers of the request.
- ``before-call`` signs the request, sends it by the SDK's own HTTP session, and returns the answer.
  The SDK then raises the error that the answer may be, as ever.

Invariants:

- The same bytes are sent, with the same signature, and the same answers and errors come back, as
  without the short cut.
- What is not known here is left to the SDK: other operations, binary values, other ways to sign,
  an endpoint with a path. So is every answer but a plain one: the SDK's own parser reads it.
- The SDK is asked for the credentials in every second of the wall clock, so those that it has
  renewed are used from the next second on, and a process that was suspended asks at once.
- The checksum of an answer is checked before anything in it is believed.
- The events between the two, such as ``before-send``, are not emitted. Nobody can have registered
  a handler of theirs with a client that the store opened itself.

Mutable state of a :class:`ShortCut`: ``_signer``, which signs what is sent in the present second.
"""

from __future__ import annotations

import hmac
import itertools
import json
import time
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from attrs import define, field, frozen

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

OPERATIONS = frozenset({"GetItem", "PutItem", "UpdateItem", "DeleteItem"})
UNSIGNED = frozenset({"expect", "transfer-encoding", "user-agent", "x-amzn-trace-id"})
VERSION = "v4"
ALGORITHM = "AWS4-HMAC-SHA256"
OK = 200
_BODY = "gogoscope.body"

_Use = tuple[int, str, str, str, str | None]
"""What a signer is for: the second, the URL, the region, the service and the kind of signature."""


def take_short_cut(client: Any) -> None:
    """Let a client send requests for one item by the short cut.

    A client whose parts are not those that are known here stays as it is.

    :param client: a low-level async DynamoDB client of the SDK, which nobody else uses
    """
    session = getattr(getattr(client, "_endpoint", None), "http_session", None)
    if session is None or getattr(client.meta.config, "auth_scheme_preference", None):
        return
    from botocore.awsrequest import AWSPreparedRequest  # noqa: PLC0415 - it is loaded by now

    short_cut = ShortCut(session, AWSPreparedRequest)
    client.meta.events.register_last("provide-client-params", short_cut.write_body)
    client.meta.events.register_last("before-call", short_cut.send)


@define(eq=False)
class ShortCut:
    """The two handlers of one client.

    :param session: the SDK's HTTP session of the client
    :param new_request: makes a request that the session sends
    """

    _session: Any
    _new_request: Callable[..., Any]
    _signer: Signer | None = field(default=None, init=False)
    _name: str = field(factory=lambda: str(uuid.uuid4())[:-13], init=False)
    _numbers: Iterator[int] = field(factory=itertools.count, init=False)

    def write_body(
        self, params: dict[str, Any], model: Any, context: dict[str, Any], **_: Any
    ) -> dict[str, Any] | None:
        """Keep the body of a request, and return what the SDK still needs of its parameters.

        :returns: ``None`` to leave it to the SDK
        """
        if model.name not in OPERATIONS:
            return None
        try:
            body, rest = json.dumps(params), {"TableName": params["TableName"]}
        except (KeyError, TypeError, ValueError):
            return None
        if '"B": ' in body or '"BS": ' in body:
            return None  # The SDK encodes binary values.
        context[_BODY] = body.encode()
        return rest

    async def send(
        self,
        model: Any,
        params: dict[str, Any],
        request_signer: Any,
        context: dict[str, Any],
        **_: Any,
    ) -> tuple[Any, dict[str, Any]] | None:
        """Send a request whose body was kept; return the response and the answer in it.

        :returns: ``None`` to leave it to the SDK
        :raises ChecksumError: if the answer was damaged on its way
        :raises Exception: what the SDK raises when it renews credentials, or sends
        """
        body = context.pop(_BODY, None)
        if body is None:
            return None
        params["body"] = body
        signer = await self._signer_of(params["url"], request_signer, context)
        if signer is None:
            return None
        headers = {
            **signer.signed(params["headers"], body),
            "amz-sdk-invocation-id": f"{self._name}-{next(self._numbers):012x}",
            "amz-sdk-request": "attempt=1",
            "Content-Length": str(len(body)),
        }
        request = self._new_request("POST", params["url"], headers, body, stream_output=False)
        response = await self._session.send(request)
        return response, await _answer(response, model)

    async def _signer_of(
        self, url: str, request_signer: Any, context: dict[str, Any]
    ) -> Signer | None:
        signing = context.get("signing") or {}
        region = signing.get("region") or request_signer.region_name
        service = signing.get("signing_name") or request_signer.signing_name
        seconds = int(time.time())
        used_for = (seconds, url, region, service, context.get("auth_type"))
        if self._signer is None or self._signer.used_for != used_for:
            self._signer = await _new_signer(used_for, request_signer)
        return self._signer


async def _new_signer(used_for: _Use, by: Any) -> Signer | None:
    """Ask the SDK for the credentials; ``None`` if it signs in another way, or has none."""
    seconds, url, region, service, auth_type = used_for
    parts = urlsplit(url)
    if (auth_type or by.signature_version) != VERSION or parts.path != "/" or parts.query:
        return None
    auth = await by.get_auth_instance(service, region, VERSION)
    credentials = auth.credentials
    if credentials is None:
        return None
    from botocore.awsrequest import AWSRequest  # noqa: PLC0415 - it is loaded by now

    now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(seconds))
    scope = f"{now[:8]}/{region}/{service}/aws4_request"
    key = f"AWS4{credentials.secret_key}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return Signer(
        used_for=used_for,
        host=auth.headers_to_sign(AWSRequest("POST", url))["host"],
        time=now,
        scope=scope,
        access_key=credentials.access_key,
        token=credentials.token,
        key=key,
    )


@frozen(eq=False)
class Signer:
    """Signs the requests of one second: AWS Signature Version 4.

    ``_signings`` holds what depends on the headers alone, by the headers: each operation has its
    own, and sends them again and again.
    """

    used_for: _Use
    host: str
    time: str
    scope: str
    access_key: str
    token: str | None
    key: bytes

    _signings: dict[tuple[tuple[str, str], ...], Signing] = field(factory=dict, init=False)

    def signed(self, headers: Mapping[str, str], body: bytes) -> dict[str, str]:
        """Return the headers of a request with its signature."""
        given = tuple(headers.items())
        signing = self._signings.get(given)
        if signing is None:
            signing = self._signings[given] = self._signing_of(headers)
        request = signing.request.copy()
        request.update(sha256(body).hexdigest().encode())
        to_sign = f"{ALGORITHM}\n{self.time}\n{self.scope}\n{request.hexdigest()}"
        signature = hmac.digest(self.key, to_sign.encode(), "sha256").hex()
        return {**signing.headers, "Authorization": signing.authorization + signature}

    def _signing_of(self, headers: Mapping[str, str]) -> Signing:
        complete = {**headers, "X-Amz-Date": self.time}
        if self.token:
            complete["X-Amz-Security-Token"] = self.token
        signed = {name.lower(): " ".join(value.split()) for name, value in complete.items()}
        for name in UNSIGNED:
            signed.pop(name, None)
        signed["host"] = self.host
        names = sorted(signed)
        listed = ";".join(names)
        lines = "".join(f"{name}:{signed[name]}\n" for name in names)
        return Signing(
            headers=complete,
            request=sha256(f"POST\n/\n\n{lines}\n{listed}\n".encode()),
            authorization=(
                f"{ALGORITHM} Credential={self.access_key}/{self.scope}, "
                f"SignedHeaders={listed}, Signature="
            ),
        )


@frozen(eq=False)
class Signing:
    """What the signatures of all requests with the same headers have in common.

    ``request`` is the digest of all but the body's own, which comes last.
    """

    headers: dict[str, str]
    request: Hash
    authorization: str


async def _answer(response: Any, model: Any) -> dict[str, Any]:
    """Return what is in a response, as the SDK would."""
    body, headers = await response.content, response.headers
    expected = headers.get("x-amz-crc32")
    if expected is not None and (actual := zlib.crc32(body)) != int(expected):
        from botocore.exceptions import ChecksumError  # noqa: PLC0415 - it is loaded by now

        raise ChecksumError(
            checksum_type="crc32", expected_checksum=expected, actual_checksum=str(actual)
        )
    answer = _plain(response, body, model)
    if answer is None:
        answer = await _parsed(response, body, model)
    answer["ResponseMetadata"]["RetryAttempts"] = 0
    return answer


def _plain(response: Any, body: bytes, model: Any) -> dict[str, Any] | None:
    """Return an answer whose JSON is what the SDK would make of it; ``None`` for any other."""
    if response.status_code != OK or b'"B":' in body or b'"BS":' in body or b":null" in body:
        return None  # The SDK decodes binary values, and leaves out members without a value.
    try:
        answer = json.loads(body)
    except ValueError:
        return None
    if type(answer) is not dict or not answer.keys() <= model.output_shape.members.keys():
        return None
    if any(type(member) is not dict for member in answer.values()):
        return None
    # The SDK's own mapping of headers is slow to read; that of the HTTP library is not.
    headers = getattr(response.raw, "headers", response.headers)
    metadata: dict[str, Any] = {
        "HTTPStatusCode": OK,
        "HTTPHeaders": {name.lower(): value for name, value in headers.items()},
    }
    if (request_id := headers.get("x-amzn-requestid")) is not None:
        metadata["RequestId"] = request_id
    answer["ResponseMetadata"] = metadata
    return answer


async def _parsed(response: Any, body: bytes, model: Any) -> dict[str, Any]:
    """Return an answer as the SDK's own parser reads it, with what comes with an error."""
    from aiobotocore.parsers import create_parser  # noqa: PLC0415 - it is loaded by now

    service = model.service_model
    parser = create_parser(service.resolved_protocol)
    read = {
        "headers": response.headers,
        "status_code": response.status_code,
        "body": body,
        "context": {"operation_name": model.name},
    }
    answer: dict[str, Any] = await parser.parse(read, model.output_shape)
    code = answer.get("Error", {}).get("Code")
    shape = None if code is None else service.shape_for_error_code(code)
    if shape is not None:
        answer.update(await parser.parse(read, shape))
    return answer
