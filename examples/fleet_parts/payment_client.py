"""How a worker asks the payment service: one small HTTP request, without blocking.

A timeout around it cancels the request at once. A blocking client in a thread could not do that.
"""

from __future__ import annotations

import json
from typing import Any

import anyio

from .orders import Order


class PaymentError(Exception):
    """The payment service failed or did not answer; a retry may help."""


class PaymentRefusedError(Exception):
    """The payment service refused; a retry does not help."""


async def request_payment(port: int, order: Order, fencing_token: int) -> dict[str, Any]:
    """Ask the service to charge an order, and return the receipt."""
    body = json.dumps({"cents": order.cents})
    request = (
        f"POST /payments HTTP/1.0\r\n"
        f"Idempotency-Key: {order.number}\r\n"
        f"Fencing-Token: {fencing_token}\r\n"
        f"Content-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    )
    try:
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            await stream.send(request.encode())
            answer = b"".join([chunk async for chunk in stream])
    except (OSError, anyio.BrokenResourceError) as error:
        raise PaymentError(f"no connection to the service: {error}") from error
    head, _, content = answer.partition(b"\r\n\r\n")
    if not head:
        raise PaymentError("the service closed the connection without an answer")
    status = int(head.split()[1])
    if status == 200:
        receipt: dict[str, Any] = json.loads(content)
        return receipt
    failure = PaymentError if status >= 500 else PaymentRefusedError
    raise failure(f"the service answered {status}: {content.decode()}")
