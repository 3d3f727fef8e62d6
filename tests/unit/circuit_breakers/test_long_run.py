"""A fleet whose services come and go, for a quarter of an hour and for an hour of virtual time."""

from __future__ import annotations

import math
import random
from typing import Literal

import anyio
import pytest
from attrs import define

from gogoscope import CircuitBreaker, CircuitOpenError, Scope, scope
from gogoscope.stores.memory import MemoryStore
from gogoscope.testing import VirtualClock

PROCESSES = 20
SERVICES = 10
PERIOD = 20.0
"""Seconds between two calls of one process to one service, on average."""
RESET_TIMEOUT = 20.0
THRESHOLD = 5
PROBES = 2


@define
class Service:
    """Works for a while, then is dead for a while."""

    name: str
    dead: bool = False
    calls_while_dead: int = 0
    bound: int = 0
    calls: int = 0

    async def __call__(self) -> None:
        self.calls += 1
        self.calls_while_dead += self.dead
        dead = self.dead
        await anyio.sleep(0.02)
        if dead:
            raise OSError(f"{self.name} is dead")

    async def flap(self, chance: random.Random) -> None:
        """Come and go; add up what the policy allows while it is dead."""
        while True:
            await anyio.sleep(chance.uniform(30, 300))
            self.dead = True
            seconds = chance.uniform(5, 240)
            self.bound += allowed(seconds)
            await anyio.sleep(seconds)
            self.dead = False


def allowed(seconds: float) -> int:
    """Return how many calls may reach a service that is dead for a time.

    The failures that trip the circuit; one call of each process that has not looked at the store
    since, and those that it makes until it is answered; and the probes.
    """
    before_all_know = PROCESSES * (1 + math.ceil(1.0 / PERIOD))
    probes = PROBES * (1 + math.ceil(seconds / RESET_TIMEOUT))
    return THRESHOLD + before_all_know + probes


async def work(
    s: Scope, service: Service, breaker: CircuitBreaker, chance: random.Random, seen: list[int]
) -> None:
    """Call a service again and again, as one process does."""
    while True:
        await anyio.sleep(chance.uniform(0, 2 * PERIOD))
        err, _ = await s.task(service, circuit_breaker=breaker)
        assert err is None or isinstance(err, OSError | CircuitOpenError)
        seen[0] += 1
        seen[1] += isinstance(err, CircuitOpenError)


@pytest.mark.slow_elsewhere
@pytest.mark.parametrize("seconds", [900, pytest.param(3600, marks=pytest.mark.slow)])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_dead_service_is_called_no_more_than_the_policy_allows(
    backend: Literal["asyncio", "trio"], seconds: int
) -> None:
    chance = random.Random(7)
    services = [Service(f"service-{number}") for number in range(SERVICES)]
    breakers = {
        service.name: CircuitBreaker(
            service.name,
            failure_threshold=THRESHOLD,
            reset_timeout=RESET_TIMEOUT,
            half_open_probes=PROBES,
        )
        for service in services
    }
    seen = [0, 0]

    async def process(store: MemoryStore) -> None:
        async with scope(persistence=store) as s:
            for service in services:
                s.task(work, s, service, breakers[service.name], chance, seen)

    async def main() -> None:
        store = MemoryStore()
        with anyio.move_on_after(seconds):
            async with anyio.create_task_group() as group:
                for service in services:
                    group.start_soon(service.flap, chance)
                for _ in range(PROCESSES):
                    # A store object of its own has a view of its own, as a process has.
                    group.start_soon(process, store.with_prefix(""))

    VirtualClock(1_800_000_000).run(main, backend=backend)
    let_through = sum(service.calls_while_dead for service in services)
    print(
        f"\n{backend}: {PROCESSES * SERVICES} breakers, {seconds} s, {seen[0]} calls, "
        f"{seen[1]} rejected; "
        f"{let_through} reached a dead service, at most "
        f"{sum(service.bound for service in services)} allowed"
    )
    assert seen[1] > seconds / 4
    for service in services:
        assert 0 < service.calls_while_dead <= service.bound, service
