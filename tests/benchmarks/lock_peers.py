"""Other lock libraries for DynamoDB, on the same engine and the same task.

They are not async, so each waiter is a thread. Requests are counted where botocore sends them.
"""

from __future__ import annotations

import importlib
import logging
import os
import statistics
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import Any

from attrs import define, frozen

from tests.benchmarks.peers import why_left_out

HOLD = 0.005
WAITERS, HANDOFFS, ALONE = 8, 40, 200
LONGEST_SECONDS = 20.0
DISTRIBUTIONS = {
    "python-dynamodb-lock": "python_dynamodb_lock",
    "dynamo-dlm": "dynamo_dlm",
    "dynalock": "dynalock",
}

Locked = Callable[[], AbstractContextManager[Any]]


@define
class Requests:
    """Counts what botocore sends."""

    count: int = 0

    def note(self, **event: Any) -> None:
        self.count += 1


@frozen
class Result:
    """Requests and milliseconds of a lock taken and freed alone; and of a contended handoff."""

    alone: float
    milliseconds: float
    contended: float
    handoffs: float

    def __str__(self) -> str:
        alone = f"{self.alone:>9.2f}{self.milliseconds:>12.2f}"
        return f"{alone}{self.contended:>12.2f}{self.handoffs:>13.1f}"


HEADER = f"{'':<24}{'requests':>9}{'ms a turn':>12}{'contended':>12}{'handoffs/s':>13}"


def measure_peers(endpoint_url: str) -> None:
    """Print a line for each library: what a turn costs alone, and with eight waiters."""
    os.environ["AWS_ENDPOINT_URL_DYNAMODB"] = endpoint_url
    logging.disable(logging.CRITICAL)
    for name, module in DISTRIBUTIONS.items():
        try:
            importlib.import_module(module)
            found = str(_measure(_OPENERS[name]))
        except Exception as error:
            found = f"  {why_left_out(error)}"
        print(f"{name:<24}{found}", flush=True)


def _measure(opener: Callable[[Any, Requests], tuple[Locked, Callable[[], None]]]) -> Result:
    boto3: Any = importlib.import_module("boto3")
    boto3.setup_default_session()
    requests = Requests()
    boto3.DEFAULT_SESSION.events.register("before-send.dynamodb", requests.note)
    locked, close = opener(boto3, requests)
    try:
        with locked():
            pass
        requests.count, turns = 0, []
        for _ in range(ALONE):
            began = time.perf_counter()
            with locked():
                pass
            turns.append(time.perf_counter() - began)
        alone = requests.count / ALONE
        requests.count = 0
        began = time.perf_counter()
        handoffs = _contend(locked)
        seconds = time.perf_counter() - began
        contended = requests.count / max(1, handoffs)
        return Result(alone, statistics.median(turns) * 1000, contended, handoffs / seconds)
    finally:
        close()


def _contend(locked: Locked) -> int:
    end = time.monotonic() + LONGEST_SECONDS
    done = 0
    errors: list[Exception] = []

    def work() -> None:
        nonlocal done
        try:
            while done < HANDOFFS and time.monotonic() < end:
                with locked():
                    time.sleep(HOLD)
                    done += 1
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(WAITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.1, end + 5 - time.monotonic()))
    if errors:
        raise errors[0]
    return done


def _table(boto3: Any, *keys: tuple[str, str], types: str = "S") -> str:
    name = f"peer-{uuid.uuid4().hex[:12]}"
    boto3.client("dynamodb").create_table(
        TableName=name,
        KeySchema=[{"AttributeName": key, "KeyType": kind} for key, kind in keys],
        AttributeDefinitions=[
            {"AttributeName": key, "AttributeType": types[number % len(types)]}
            for number, (key, _) in enumerate(keys)
        ],
        BillingMode="PAY_PER_REQUEST",
    )
    return name


def _python_dynamodb_lock(boto3: Any, requests: Requests) -> tuple[Locked, Callable[[], None]]:
    peer: Any = importlib.import_module("python_dynamodb_lock.python_dynamodb_lock")
    table = _table(boto3, ("lock_key", "HASH"), ("sort_key", "RANGE"))
    client = peer.DynamoDBLockClient(
        boto3.resource("dynamodb"), table_name=table, lease_duration=timedelta(seconds=10)
    )

    @contextmanager
    def locked() -> Any:
        # Its own name for the owner stands for the process, so it is its own for each turn.
        lock = client.acquire_lock("job", retry_period=timedelta(seconds=0.02))
        try:
            yield
        finally:
            lock.release()

    return locked, lambda: client.close(release_locks=True)


def _dynamo_dlm(boto3: Any, requests: Requests) -> tuple[Locked, Callable[[], None]]:
    peer: Any = importlib.import_module("dynamo_dlm")
    table = _table(boto3, ("resource_id", "HASH"), ("concurrency_id", "RANGE"), types="SN")
    return (lambda: peer.DynamoDbLock("job", table_name=table)), lambda: None


def _dynalock(boto3: Any, requests: Requests) -> tuple[Locked, Callable[[], None]]:
    peer: Any = importlib.import_module("dynalock")
    table = _table(boto3, ("LockId", "HASH"))
    region = os.environ.get("AWS_DEFAULT_REGION", "us-east-1")

    @contextmanager
    def locked() -> Any:
        # It never waits by itself.
        lock = peer.DynaLock(lock_id="job", region_name=region, table_name=table)
        while True:
            try:
                lock._acquire_lock()
                break
            except peer.LockAlreadyAcquiredError:
                time.sleep(0.02)
        try:
            yield
        finally:
            lock._release_lock()

    return locked, lambda: None


_OPENERS = {
    "python-dynamodb-lock": _python_dynamodb_lock,
    "dynamo-dlm": _dynamo_dlm,
    "dynalock": _dynalock,
}
