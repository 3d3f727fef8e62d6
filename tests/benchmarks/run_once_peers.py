"""Run once, beside AWS Lambda Powertools: what becomes of an effect when callers die, stall or lag.

Both are asked for the same four things, on DynamoDB Local, each caller with a thread or a process
of its own. A caller that stalls is one whose thread sleeps: on gogoscope's side its event loop
stands still, so nothing renews its lease. Run it with::

    python -m tests.benchmarks.run_once_peers
"""

from __future__ import annotations

import importlib
import logging
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any, Protocol

import anyio
from attrs import define, field, frozen

from gogoscope import LeaseLostError, Once, RunInProgressError, scope
from gogoscope_dynamodb import DynamoDBAdapter, create_table
from gogoscope_dynamodb.client import open_client
from tests.benchmarks.peers import why_left_out
from tests.support.engines import DUMMY_CREDENTIALS, running_engine

LEASE = 1.0
STALL = 2.5
"""Longer than a lease, and shorter than two of them with what a takeover waits for."""
PATIENCE = 12.0
LARGE = "x" * 500_000
OURS, THEIRS = "gogoscope", "powertools"
TABLE = "run-once-peers"
TABLE_OF_THEIRS = "run-once-peers-of-powertools"

Effect = Callable[[], Any]


class Peer(Protocol):
    """A library that runs a function once for a key."""

    def call(
        self, key: str, effect: Effect, *, lease: float | None = LEASE, stalls: bool = False
    ) -> Any:
        """Call it once, as a caller in a thread of its own does; wait for nobody.

        :param lease: for how many seconds the caller has a right to run, ``None`` if it says
            nothing of that; gogoscope renews a lease, and Powertools does not
        :param stalls: whether nothing else happens in its thread while the effect does
        """
        ...

    def blocked_for(self, key: str) -> float:
        """Return for how many seconds the key is blocked, as its record says."""
        ...


class Ours:
    def call(
        self, key: str, effect: Effect, *, lease: float | None = LEASE, stalls: bool = False
    ) -> Any:
        async def run() -> Any:
            return effect()

        async def call() -> Any:
            async with (
                DynamoDBAdapter(None, TABLE, endpoint_url=_url()) as store,
                scope(persistence=store) as s,
            ):
                once = Once(key, 3_600, lease=LEASE, wait=0)
                if stalls:
                    return await s.call(run, once=once)
                return (await s.thread(effect, once=once)).unwrap()

        return anyio.run(call)

    def blocked_for(self, key: str) -> float:
        return LEASE


class Theirs:
    def call(
        self, key: str, effect: Effect, *, lease: float | None = LEASE, stalls: bool = False
    ) -> Any:
        idempotency: Any = importlib.import_module("aws_lambda_powertools.utilities.idempotency")
        config = idempotency.IdempotencyConfig()
        if lease is not None:
            config.register_lambda_context(_Context(time.monotonic() + lease))

        @idempotency.idempotent_function(  # type: ignore[untyped-decorator]
            data_keyword_argument="key",
            persistence_store=idempotency.DynamoDBPersistenceLayer(TABLE_OF_THEIRS),
            config=config,
        )
        def call(*, key: str) -> Any:
            return effect()

        return call(key=key)

    def blocked_for(self, key: str) -> float:
        boto3: Any = importlib.import_module("boto3")
        items = boto3.client("dynamodb").scan(TableName=TABLE_OF_THEIRS)["Items"]
        (item,) = [item for item in items if item["status"]["S"] == "INPROGRESS"]
        return float(item["expiration"]["N"]) - time.time()


@frozen
class _Context:
    """What Lambda tells of an invocation."""

    ends_at: float

    def get_remaining_time_in_millis(self) -> int:
        return int((self.ends_at - time.monotonic()) * 1000)


PEERS: dict[str, Peer] = {OURS: Ours(), THEIRS: Theirs()}


@define
class Caller:
    """A caller in a thread of its own; ``told`` is what it got."""

    peer: Peer
    key: str
    effect: Effect
    lease: float = LEASE
    stalls: bool = False
    told: Any = None
    thread: threading.Thread = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.told = self.peer.call(self.key, self.effect, lease=self.lease, stalls=self.stalls)
        except Exception as error:  # it is what the caller is told
            self.told = error

    def result(self) -> Any:
        self.thread.join()
        return self.told


def call_until_it_runs(peer: Peer, key: str, effect: Effect) -> Any:
    """Call again and again while somebody else is said to run, for a time."""
    give_up = time.monotonic() + PATIENCE
    while True:
        try:
            return peer.call(key, effect)
        except Exception as error:
            if not _is_running(error) or time.monotonic() > give_up:
                return error
            time.sleep(0.1)


def crash(name: str) -> str:
    """Return how long a caller that was killed blocks its key."""
    subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.run_once_peers", "crash", name],
        check=False,
    )
    began = time.monotonic()
    peer = PEERS[name]
    told = call_until_it_runs(peer, f"{name} crash", lambda: "second")
    if told == "second":
        return f"{time.monotonic() - began:.1f} s"
    waited = time.monotonic() - began
    return f"{waited + peer.blocked_for(f'{name} crash'):,.0f} s (by its record)"


def failing_zombie(name: str) -> str:
    """Return how many run at most because one that stalled fails."""
    runs: list[str] = []
    peer, key = PEERS[name], f"{name} failing"

    def stalls_and_fails() -> Any:
        runs.append("first")
        time.sleep(STALL)
        raise ValueError("it fails")

    def is_slow() -> str:
        runs.append("second")
        time.sleep(STALL)
        return "of the second"

    def third() -> str:
        runs.append("third")
        return "of the third"

    zombie = Caller(peer, key, stalls_and_fails, stalls=True)
    time.sleep(LEASE * 1.5)
    second = Caller(peer, key, is_slow, lease=10 * LEASE)
    zombie.result()
    call_until_it_runs(peer, key, third)
    second.result()
    return f"{len(runs)} runs"


def succeeding_zombie(name: str) -> str:
    """Return which results the callers get if the first one stalls and then succeeds."""
    peer, key = PEERS[name], f"{name} succeeding"

    def stalls() -> str:
        time.sleep(STALL)
        return "of the first"

    zombie = Caller(peer, key, stalls, stalls=True)
    time.sleep(LEASE * 1.5)
    second = call_until_it_runs(peer, key, lambda: "of the second")
    first = zombie.result()
    later = peer.call(key, lambda: "of a third")
    results = {told for told in (first, second, later) if isinstance(told, str)}
    lost = "; the first caller gets LeaseLostError" if isinstance(first, LeaseLostError) else ""
    return f"{_counted(len(results), 'result')}{lost}"


def large_result(name: str) -> str:
    """Return how often an effect happens whose result is larger than an item."""
    runs: list[int] = []
    peer, key = PEERS[name], f"{name} large"

    def effect() -> str:
        runs.append(1)
        return LARGE

    told = [call_until_it_runs(peer, key, effect) for _ in range(2)]
    shown = ["the value" if one == LARGE else type(one).__name__ for one in told]
    return f"{_counted(len(runs), 'run')}: {', then '.join(shown)}"


def _counted(number: int, name: str) -> str:
    return f"{number} {name}" if number == 1 else f"{number} {name}s"


def _is_running(error: Exception) -> bool:
    return isinstance(error, RunInProgressError) or "AlreadyInProgress" in type(error).__name__


def _url() -> str:
    return os.environ["AWS_ENDPOINT_URL_DYNAMODB"]


async def _make_tables(url: str) -> None:
    async with open_client(endpoint_url=url) as client:
        await create_table(client, TABLE)
        await client.create_table(
            TableName=TABLE_OF_THEIRS,
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )


SITUATIONS = {
    "a caller is killed: its key is blocked for": crash,
    "a zombie fails while its successor runs": failing_zombie,
    "a zombie succeeds after its successor": succeeding_zombie,
    "a result of 500 KB": large_result,
}


def main() -> None:
    """Print a line for each situation."""
    if sys.argv[1:2] == ["crash"]:
        name = sys.argv[2]
        PEERS[name].call(f"{name} crash", lambda: os._exit(1), lease=None)
        return
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    with running_engine() as engine:
        if not engine.atomic:
            sys.exit("it needs DynamoDB Local, or a real endpoint")
        os.environ.update(DUMMY_CREDENTIALS, AWS_ENDPOINT_URL_DYNAMODB=engine.endpoint_url)
        anyio.run(_make_tables, engine.endpoint_url)
        print(f"{'':<44}{OURS:<52}{THEIRS}")
        for situation, measure in SITUATIONS.items():
            ours = measure(OURS)
            try:
                importlib.import_module("aws_lambda_powertools")
                theirs = measure(THEIRS)
            except Exception as error:
                theirs = why_left_out(error)
            print(f"{situation:<44}{ours:<52}{theirs}", flush=True)


if __name__ == "__main__":
    main()
