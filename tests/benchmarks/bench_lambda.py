"""What an invocation of a Lambda handler costs, against a plain aioboto3 client that is kept.

An invocation takes and frees a lock on DynamoDB: two conditional writes. The plain side sends the
same requests in an event loop that is kept, too, one invocation at a time. They take turns in one
run; what is told is the ratio of the processor's time of this process, as the median of the rounds.
The first invocation, which opens the store, is left out. Run it from the repository:

    python -m tests.benchmarks.bench_lambda [--rounds 60] [--check]

``--check`` fails if the ratio is over its limit.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import statistics
import sys
from contextlib import suppress
from typing import Any
from urllib.parse import urlencode

import aioboto3  # type: ignore[import-untyped]

from gogoscope import current_scope
from gogoscope.integrations.aws import lambda_handler
from gogoscope_dynamodb import create_table
from tests.benchmarks.bench_dynamodb import CALLS, WARM_UP, Sides, acquire_and_release, ratio
from tests.benchmarks.replay import Replay
from tests.support.engines import DUMMY_CREDENTIALS, new_table_name, running_engine

CPU_LIMIT = 1.4


class Context:
    """What AWS passes to a handler."""

    def get_remaining_time_in_millis(self) -> int:
        """Return the time that is left."""
        return 30_000


async def handle(event: Any, context: Any) -> None:
    """Take and free a lock."""
    s = current_scope()
    assert s is not None
    lock = await s.acquire_lock("lock", 30)
    assert lock is not None
    assert await lock.release()


def measure(endpoint_url: str, rounds: int) -> Sides:
    """Let both sides take turns."""
    table = new_table_name()
    url = f"dynamodb://{table}?{urlencode({'endpoint_url': endpoint_url})}"
    session: Any = aioboto3.Session()
    sides = Sides()
    with asyncio.Runner() as runner:
        opening = session.client("dynamodb", endpoint_url=endpoint_url)
        plain = runner.run(opening.__aenter__())
        runner.run(create_table(plain, table))
        replay = Replay.on(plain, table)
        handler = lambda_handler(handle, store=url)
        handler({}, Context())
        for request in runner.run(replay.requests(acquire_and_release, 1)):  # which make the items
            with suppress(Exception):  # some of them were refused
                runner.run(replay.send([request]))
        gc.collect()
        gc.disable()
        for _ in range(min(WARM_UP, rounds) + rounds):
            requests = runner.run(replay.requests(acquire_and_release, CALLS))
            with sides.timed("raw"):
                for number in range(0, len(requests), 2):
                    runner.run(replay.send(requests[number : number + 2]))
            with sides.timed("handler"):
                for _ in range(CALLS):
                    handler({}, Context())
        gc.enable()
        runner.run(plain.delete_table(TableName=table))
        runner.run(opening.__aexit__(None, None, None))
    return sides


def main() -> bool:
    """Print the ratio; tell whether it is within its limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    os.environ.update({**DUMMY_CREDENTIALS, **os.environ})
    with running_engine() as engine:
        sides = measure(engine.endpoint_url, options.rounds)
    found = ratio(sides.cpu, "handler")
    raw = statistics.median(sides.cpu["raw"]) / CALLS * 1e6
    print(f"a kept client {raw:.0f} us CPU an invocation; handler {found:.3f} (limit {CPU_LIMIT})")
    return found <= CPU_LIMIT or not options.check


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
