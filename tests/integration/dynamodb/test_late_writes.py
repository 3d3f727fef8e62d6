"""A try of a write that lands late, after another try was answered, changes nothing.

The network keeps the first request of a call; the store sends it again and gets its answer. Others
write, and then the first try arrives. What the table holds must be the same as before.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from attrs import define, field

from gogoscope.persistence import CircuitBreakerState, FailureReport, LockClaim
from gogoscope_dynamodb import DynamoDBAdapter
from tests.support.clocks import MillisecondClock
from tests.support.dynamodb_faults import FaultyClient, Perform

pytestmark = pytest.mark.anyio

REPORT = FailureReport("process", 1, 100, 1000)


@define
class World:
    """A store whose requests are slow, a store of another process, and the clock of both."""

    slow: DynamoDBAdapter
    other: DynamoDBAdapter
    clock: MillisecondClock
    client: FaultyClient
    kept: list[Perform] = field(factory=list)
    holder: Any = None

    async def items(self) -> dict[str, Any]:
        """Return everything that the table holds."""
        found = await self.client.client.scan(TableName=self.slow._table.name, ConsistentRead=True)
        return {item["pk"]["S"]: item for item in found["Items"]}

    async def keep_first(self, perform: Perform) -> Any:
        """Keep the first request on its way, without an answer; carry out the others."""
        if self.kept:
            return await perform()
        self.kept.append(perform)
        raise ConnectionResetError("no answer")

    async def land(self) -> None:
        """Deliver what was kept."""
        for perform in self.kept:
            try:
                await perform()
            except Exception as error:
                if "conditional" not in str(error):
                    raise


class Ahead:
    """A clock that is some milliseconds ahead of another."""

    simulated = True

    def __init__(self, clock: MillisecondClock, ms: int) -> None:
        self._ahead = ms / 1000
        self._clock = clock

    def wall(self) -> float:
        return self._clock.wall() + self._ahead

    def elapsed(self) -> float:
        return self._clock.elapsed()


@pytest.fixture
async def world(
    faulty_client: FaultyClient, dynamodb_table: str, clock: MillisecondClock, ahead_ms: int
) -> World:
    client: Any = faulty_client.client
    return World(
        DynamoDBAdapter(faulty_client, dynamodb_table, clock=clock, request_timeout=5),
        DynamoDBAdapter(client, dynamodb_table, clock=Ahead(clock, ahead_ms), request_timeout=5),
        clock,
        faulty_client,
    )


Step = Callable[[World], Awaitable[Any]]


async def nothing(w: World) -> None:
    return


def claim(nonce: str) -> LockClaim:
    return LockClaim(nonce=nonce, owner=nonce, lease_ms=5000)


async def hold(w: World) -> None:
    w.holder = await w.other.acquire("k", 5, "other")


async def let_go(w: World) -> None:
    await w.holder.release()


async def be_held(w: World) -> None:
    w.holder = await w.slow.acquire("k", 5, "me")


async def pass_on(w: World) -> None:
    """Release what the slow store holds; then another holds the lock and releases it."""
    await w.slow.force_release("k")
    await hold(w)
    await let_go(w)


async def hold_next(w: World) -> None:
    await w.other.force_release("k")
    await hold(w)


async def lease_is_over(w: World) -> None:
    await hold(w)
    w.clock.advance(5_100)


async def reuse_the_owners_name(w: World) -> None:
    await w.slow.force_release("k")
    w.clock.advance(1)
    await w.other.acquire("k", 1, "me")


def call(method: str, *args: Any, **options: Any) -> Step:
    async def step(w: World) -> None:
        await getattr(w.slow, method)(*args, **options)

    return step


def others(method: str, *args: Any, **options: Any) -> Step:
    async def step(w: World) -> None:
        w.clock.advance(1)
        await getattr(w.other, method)(*args, **options)

    return step


def in_turn(*steps: Step) -> Step:
    async def step(w: World) -> None:
        for part in steps:
            await part(w)

    return step


async def renew(w: World) -> None:
    w.clock.advance(100)
    assert await w.holder.extend()


async def renew_again(w: World) -> None:
    w.clock.advance(100)
    assert await w.holder.extend()


LOCKS: dict[str, tuple[Step, Step, Step]] = {
    "a claim that was granted": (nothing, call("acquire", "k", 5), pass_on),
    "a claim that was refused": (hold, call("acquire", "k", 20), let_go),
    "a claim of a lease that was over": (lease_is_over, call("acquire", "k", 5), pass_on),
    "a handover": (
        call("claim_lock", "k", claim("a")),
        call("hand_over_lock", "k", "a", claim("b")),
        pass_on,
    ),
    "a forced release": (hold, call("force_release", "k"), hold_next),
    "a forced release of nothing": (nothing, call("force_release", "k"), hold),
    "a release": (be_held, let_go, hold),
    "a renewal": (be_held, renew, renew_again),
    "an extension": (be_held, call("extend", "k", 60, "me"), reuse_the_owners_name),
}

COUNTED = in_turn(call("count_failures", "k", REPORT), others("count_failures", "k", REPORT))
HALF_OPEN = in_turn(
    call("set_state", "k", CircuitBreakerState(state="open", open_until_ms=1, window_start_ms=1)),
)

CIRCUITS: dict[str, tuple[Step, Step, Step]] = {
    "a failure, before another one": (
        COUNTED,
        call("count_failures", "k", REPORT),
        call("count_failures", "k", REPORT),
    ),
    "a failure, before one of another store of the process": (
        COUNTED,
        call("count_failures", "k", REPORT),
        others("count_failures", "k", REPORT),
    ),
    "a failure, before a reset": (
        COUNTED,
        call("count_failures", "k", REPORT),
        others("reset_circuit", "k"),
    ),
    "a failure, before a reset and one more": (
        COUNTED,
        call("count_failures", "k", REPORT),
        in_turn(others("force_close", "k"), others("count_failures", "k", REPORT)),
    ),
    "a recorded failure, before the circuit opened and closed": (
        COUNTED,
        call("record_failure", "k", 3),
        in_turn(others("force_close", "k"), others("record_failure", "k", 1)),
    ),
    "a success": (COUNTED, call("record_success", "k"), others("count_failures", "k", REPORT)),
    "a state that is set": (
        COUNTED,
        call("set_state", "k", CircuitBreakerState(failure_count=5, window_start_ms=1)),
        others("count_failures", "k", REPORT),
    ),
    "opening by hand": (nothing, call("force_open", "k"), others("force_close", "k")),
    "closing by hand": (nothing, call("force_close", "k"), others("force_open", "k")),
    "a reset": (COUNTED, call("reset_circuit", "k"), others("count_failures", "k", REPORT)),
    "a reset, before another state": (
        COUNTED,
        call("reset_circuit", "k"),
        others("force_open", "k"),
    ),
    "the first probe": (
        HALF_OPEN,
        call("claim_probe", "k", "me", 1000, 1),
        call("settle_probe", "k", "me", succeeded=True, success_threshold=1, open_ms=1000),
    ),
    "one more probe": (
        in_turn(HALF_OPEN, others("claim_probe", "k", "they", 9000, 5)),
        call("claim_probe", "k", "me", 1000, 5),
        call("settle_probe", "k", "me", succeeded=True, success_threshold=3, open_ms=1000),
    ),
    "renewing a probe": (
        in_turn(HALF_OPEN, call("claim_probe", "k", "me", 1000, 1)),
        in_turn(others("get_state", "k"), call("claim_probe", "k", "me", 1000, 1)),
        in_turn(others("get_state", "k"), call("claim_probe", "k", "me", 1000, 1)),
    ),
    "a verdict": (
        in_turn(HALF_OPEN, call("claim_probe", "k", "me", 1000, 1)),
        call("settle_probe", "k", "me", succeeded=False, success_threshold=1, open_ms=1000),
        others("force_close", "k"),
    ),
}

VALUE = others("set", "k", "old", 60)
WRITES: dict[str, Step] = {
    "set": call("set", "k", "mine", 60),
    "if_absent": call("set", "k", "mine", if_absent=True),
    "set_many": call("set_many", {"k": "mine", "l": "mine"}),
    "delete": call("delete", "k"),
    "delete_many": call("delete_many", ["k", "l"]),
    "clear": call("clear"),
    "touch": call("touch", "k", 600),
    "touch for ever": call("touch", "k"),
}
SINCE: dict[str, Step] = {
    "nothing": nothing,
    "a set": others("set", "k", "theirs", 30),
    "a delete": others("delete", "k"),
    "a touch": others("touch", "k", 30),
    "many": others("set_many", {"k": "theirs"}),
    "a delete and a set": in_turn(others("delete", "k"), others("set", "k", "theirs", 30)),
    "a set of its own": in_turn(others("get", "k"), call("set", "k", "again", 30)),
}
VALUES = {
    f"{write}, before {since}": (nothing if write == "if_absent" else VALUE, step, after)
    for write, step in WRITES.items()
    for since, after in SINCE.items()
}


async def set_the_clock_back(w: World) -> None:
    w.clock.advance(-5_000)


BEHIND: dict[str, tuple[Step, Step, Step]] = {
    "an if_absent that was refused, before a delete": (
        VALUE,
        call("set", "k", "mine", if_absent=True),
        in_turn(set_the_clock_back, others("delete", "k")),
    ),
    "a delete of nothing, before a set": (
        nothing,
        call("delete", "k"),
        in_turn(set_the_clock_back, others("set", "k", "theirs")),
    ),
    "a delete of what was deleted, before a set": (
        in_turn(VALUE, others("delete", "k")),
        call("delete", "k"),
        in_turn(set_the_clock_back, others("set", "k", "theirs")),
    ),
    "a touch of nothing, before a set": (
        nothing,
        call("touch", "k", 60),
        in_turn(set_the_clock_back, others("set", "k", "theirs")),
    ),
    "a touch of what was deleted, before a set": (
        in_turn(VALUE, others("delete", "k")),
        call("touch", "k", 60),
        in_turn(set_the_clock_back, others("set", "k", "theirs")),
    ),
}
"""What a process with a clock that is behind writes has a lower version than the late write."""


@pytest.mark.parametrize(
    ("name", "ahead_ms"),
    [(name, 0) for name in [*LOCKS, *CIRCUITS, *VALUES, *BEHIND]]
    + [(name, ahead_ms) for name in [*LOCKS, *CIRCUITS] for ahead_ms in (-40, 40)],
)
async def test_a_try_that_lands_late_changes_nothing(world: World, name: str) -> None:
    before, write, since = (LOCKS | CIRCUITS | VALUES | BEHIND)[name]
    await before(world)
    world.clock.advance(100)
    for operation in ("update_item", "put_item", "delete_item", "batch_write_item"):
        world.client.constant_faults[operation] = world.keep_first
    await write(world)
    world.clock.advance(100)
    await since(world)
    expected = await world.items()
    world.clock.advance(100)
    assert world.kept
    await world.land()
    assert await world.items() == expected
