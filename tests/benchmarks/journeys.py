"""How many functions of this package, in how many files, a call of a user walks through.

A call that a newcomer can follow is short and stays in few files. Counted is what
``sys.setprofile`` reports as a call in a file of ``gogoscope`` or ``gogoscope_dynamodb``, so a
coroutine counts once when it starts and once each time it goes on. DynamoDB Local, or the engine
that the tests use, is needed. Run it from the repository:

    python -m tests.benchmarks.journeys [--functions]

``--functions`` lists the functions, too. To count in another checkout, run this file by its path:
with that checkout, and then this one, as PYTHONPATH.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import anyio

import gogoscope
import gogoscope_dynamodb
from gogoscope import CircuitBreaker, Retry, scope
from gogoscope_dynamodb import DynamoDBAdapter, create_table
from gogoscope_dynamodb.client import open_client
from tests.support.engines import DUMMY_CREDENTIALS, new_table_name, running_engine

PACKAGES = tuple(
    str(Path(str(package.__file__)).parent) for package in (gogoscope, gogoscope_dynamodb)
)


class Journey:
    """Counts entries into functions, by file and name."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.entries: Counter[tuple[str, str]] = Counter()

    def __str__(self) -> str:
        files = {file for file, _ in self.entries}
        return f"{self.title:<52}{self.entries.total():>8}{len(files):>8}"

    def functions(self) -> Iterator[str]:
        """Return a line for each function, the most entered one first."""
        for (file, name), count in self.entries.most_common():
            yield f"{count:>8}  {Path(file).relative_to(Path(PACKAGES[0]).parent)}  {name}"

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count in a block what its thread does."""
        sys.setprofile(self._count)
        try:
            yield
        finally:
            sys.setprofile(None)

    def _count(self, frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(PACKAGES):
            self.entries[code.co_filename, code.co_qualname] += 1


async def answer() -> dict[str, int]:
    """Do the work of a user's function."""
    return {"answer": 42}


async def guarded_tasks() -> list[Journey]:
    """Count two guarded tasks of a scope, in a process that has run one before."""
    retry, breaker = Retry.of(3), CircuitBreaker("journeys")

    async def call(s: gogoscope.Scope) -> None:
        _ = (await s.task(answer, retry=retry, circuit_breaker=breaker, timeout=5)).error

    async with scope(concurrency=4) as s:
        await call(s)
    journeys = [
        Journey("a guarded task, the first of its scope"),
        Journey("a guarded task, the second"),
    ]
    async with scope(concurrency=4) as s:
        _ = (await s.task(answer)).error
        for journey in journeys:
            with journey.counted():
                await call(s)
    return journeys


async def on_dynamodb(endpoint_url: str) -> list[Journey]:
    """Count what one free lock, and one value that has to be loaded, take on DynamoDB."""
    table = new_table_name()
    async with open_client(endpoint_url=endpoint_url) as client:
        await create_table(client, table)
        async with scope(persistence=DynamoDBAdapter(client, table)) as s:

            async def lock(key: str) -> None:
                async with s.lock(key):
                    pass

            async def load(key: str) -> None:
                await s.cache.get_or_set(key, answer, 60)

            return [
                await second("a free lock on DynamoDB", lock),
                await second("a cold get_or_set on DynamoDB", load),
            ]


async def second(title: str, call: Callable[[str], Awaitable[Any]]) -> Journey:
    """Count a call whose first time, with another key, is over."""
    await call("first")
    journey = Journey(title)
    with journey.counted():
        await call("second")
    return journey


async def main(endpoint_url: str, functions: bool) -> None:
    """Print the table."""
    print(f"{'':<52}{'entries':>8}{'files':>8}")
    for journey in [*await guarded_tasks(), *await on_dynamodb(endpoint_url)]:
        print(journey)
        for line in journey.functions() if functions else ():
            print(line)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--functions", action="store_true")
    options = parser.parse_args()
    os.environ.update(
        {name: DUMMY_CREDENTIALS[name] for name in DUMMY_CREDENTIALS.keys() - os.environ}
    )
    with running_engine() as engine:
        anyio.run(main, engine.endpoint_url, options.functions)
