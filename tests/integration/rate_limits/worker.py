"""One of the processes that share a rate limit: it calls as often as it may, and logs when."""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from contextlib import AbstractAsyncContextManager
from typing import Any

import anyio

from gogoscope import PersistenceError, RateLimit, RateLimitExceededError, open_persistence, scope
from gogoscope.stores.sqlite.store import SQLiteStore
from gogoscope_dynamodb import DynamoDBAdapter
from tests.integration.rate_limits.judge import Call
from tests.integration.rate_limits.plan import BURST, RATE, WAITERS
from tests.support.clocks import WrongClock

KEPT_TRIPS = 50


class Worker:
    """Calls, waits, and is cancelled now and then."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._chance = random.Random(options.seed)
        self._trips: list[float] = [0.0]
        path = f"{options.folder}/calls-{options.number}"
        self._log = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        self._limit = RateLimit(
            "tortured", rate=RATE, burst=BURST, batch=_batch(options.batch), local_share=0
        )

    async def run(self) -> None:
        while True:
            try:
                await self._run()
            except PersistenceError:  # it could not be opened
                await anyio.sleep(0.1)

    async def _run(self) -> None:
        async with _store(self._options.where, self._options.error) as store:
            self._measure(store)
            async with scope(persistence=store, on_exit="cancel") as s:
                for number in range(WAITERS):
                    s.task(self._call, number)
                await anyio.sleep_forever()

    def _measure(self, store: Any) -> None:
        """Note how long each reservation takes, from before it is sent to its answer."""
        reserve = store.reserve_rate

        async def measured(*arguments: Any) -> Any:
            began = time.monotonic()
            try:
                return await reserve(*arguments)
            finally:
                self._trips = [*self._trips[-KEPT_TRIPS:], time.monotonic() - began]

        store.reserve_rate = measured

    async def _call(self, number: int) -> None:
        impatient = self._options.cancel and number % 2 == 0
        while True:
            patience = self._chance.uniform(0, 0.3) if impatient else 60
            with anyio.move_on_after(patience):
                try:
                    async with self._limit.acquire(wait=60) as permit:
                        self._note(permit)
                except (PersistenceError, RateLimitExceededError):
                    await anyio.sleep(0.02)

    def _note(self, permit: Any) -> None:
        now = time.monotonic()
        late = max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - permit._place.go_at)
        held = self._options.batch != "1"
        delay = max(self._trips) + late if not held else max(self._trips) + min(late, 0.05)
        call = Call(now, delay, 1, self._options.slot)
        line = {"at": call.at, "delay": call.delay, "cost": call.cost, "slot": call.slot}
        os.write(self._log, json.dumps(line).encode() + b"\n")


def _batch(text: str) -> Any:
    return text if text == "auto" else int(text)


def _store(where: list[str], error: float) -> AbstractAsyncContextManager[Any]:
    kind, *rest = where
    if kind == "sqlite":
        return SQLiteStore(rest[0], clock=WrongClock(error))
    if kind == "dynamodb":
        return DynamoDBAdapter(None, rest[1], endpoint_url=rest[0], clock=WrongClock(error))
    return open_persistence(rest[0])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder")
    parser.add_argument("--number", type=int)
    parser.add_argument("--slot", type=int)
    parser.add_argument("--seed", type=float)
    parser.add_argument("--error", type=float)
    parser.add_argument("--batch", default="1")
    parser.add_argument("--cancel", action="store_true")
    parser.add_argument("where", nargs="+")
    anyio.run(Worker(parser.parse_args()).run)
