"""A Lambda container: a handler, called for each line that it reads, with what it answers."""

from __future__ import annotations

import sys
from typing import Any

import anyio

from gogoscope import CircuitBreaker, Once, current_scope
from gogoscope.integrations.aws import lambda_handler

TTL = 3.0
breaker = CircuitBreaker("bank", failure_threshold=3, reset_timeout=5)


async def work() -> int:
    return 1


async def handle(event: str, context: Any) -> str:
    """Use what a store has, under a lock; hold it for long if the event says so."""
    s = current_scope()
    assert s is not None
    async with s.lock("stock", ttl=TTL, wait=60) as locked:
        if event == "hold":
            print("holding", flush=True)
            await anyio.sleep(600)
        price = await s.cache.get_or_set("price", work, 60)
        kept = Once(f"sqs:{event}", keep=60)
        number = await s.call(work, circuit_breaker=breaker, once=kept)
        return f"{event} {price + number} {locked.fencing_token}"


def main() -> None:
    handler = lambda_handler(handle, store=sys.argv[1])
    for line in sys.stdin:
        try:
            print(handler(line.strip(), None), flush=True)
        except Exception as error:
            print(type(error).__name__, flush=True)


if __name__ == "__main__":
    main()
