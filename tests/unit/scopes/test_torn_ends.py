"""Whatever a store raises while a block ends, at whichever of its awaits, the block ends whole.

Each program is run again and again, and the store raises at the first, second, third ... time that
the end of the block awaits it, until it is not asked so often.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Self

import anyio
import anyio.lowlevel
import pytest
from attrs import define

from gogoscope import CircuitBreaker, Scope, current_scope, scope
from gogoscope.scopes import doors
from gogoscope.stores.memory import MemoryStore
from tests.conftest import EVENT_LOOPS

MOST_AWAITS = 60


class ForeignError(Exception):
    """An error that is no store's own."""


class BodyError(Exception):
    """What the body raises."""


class ExitSignal(BaseException):
    """What is no result, and not the event loop's business either."""


class TornStore(MemoryStore):
    """A store that raises once, at one of the times that it is awaited."""

    def __init__(self) -> None:
        super().__init__()
        self.awaits = 0
        self.armed: BaseException | None = None
        self.torn_at = 0
        self.torn = False
        self.opened = False

    def __getattribute__(self, name: str) -> Any:
        method = super().__getattribute__(name)
        code = getattr(getattr(method, "__func__", None), "__code__", None)
        if name.startswith("_") or code is None or not code.co_flags & 0x80:
            return method

        async def torn(*arguments: Any, **options: Any) -> Any:
            await self._await()
            result = await method(*arguments, **options)
            await self._await()
            return result

        return torn

    async def _await(self) -> None:
        await anyio.lowlevel.checkpoint()
        if self.armed is not None:
            self.awaits += 1
            if self.awaits == self.torn_at:
                self.torn = True
                raise self.armed

    async def __aenter__(self) -> Self:
        self.opened = True
        return self

    async def __aexit__(self, *raised: object) -> None:
        self.opened = False
        await self._await()


@define
class Witness:
    """What became of a run."""

    running: int = 0
    resources: int = 0
    raised: bool = False
    left: BaseException | None = None
    ended: bool = False
    scope: Scope | None = None

    async def linger(self, rounds: int) -> None:
        self.running += 1
        try:
            for _ in range(rounds):
                await anyio.lowlevel.checkpoint()
        finally:
            with anyio.CancelScope(shield=True):
                try:
                    await anyio.lowlevel.checkpoint()
                finally:
                    self.running -= 1

    @asynccontextmanager
    async def resource(self) -> AsyncIterator[None]:
        self.resources += 1
        try:
            yield
        finally:
            self.resources -= 1


FAILS = CircuitBreaker("torn", failure_threshold=9, refresh_interval=60)


async def fail() -> None:
    raise LookupError


async def uses_everything(witness: Witness, s: Scope, arm: Callable[[], None]) -> None:
    await s.enter(witness.resource())
    assert await s.acquire_lock("handle", 30) is not None
    assert (await s.task(fail, circuit_breaker=FAILS)).error is not None
    s.task(witness.linger, 5)
    async with s.child() as child, s.lock("block", ttl=30) as locked:
        child.task(witness.linger, 3)
        await locked.enter(witness.resource())
        locked.task(witness.linger, 3)
        await anyio.lowlevel.checkpoint()
        arm()


async def raises_at_its_end(witness: Witness, s: Scope, arm: Callable[[], None]) -> None:
    await uses_everything(witness, s, arm)
    witness.raised = True
    raise BodyError


async def raises_inside(witness: Witness, s: Scope, arm: Callable[[], None]) -> None:
    def arm_and_raise() -> None:
        arm()
        witness.raised = True
        raise BodyError

    await uses_everything(witness, s, arm_and_raise)


async def cancels_itself(witness: Witness, s: Scope, arm: Callable[[], None]) -> None:
    await uses_everything(witness, s, arm)
    s.cancel("enough")
    await anyio.sleep_forever()


BODIES = [uses_everything, raises_at_its_end, raises_inside, cancels_itself]
Body = Callable[[Witness, Scope, Callable[[], None]], Awaitable[None]]


async def execute(body: Body, store: TornStore, error: BaseException, witness: Witness) -> None:
    def arm() -> None:
        store.armed = error

    try:
        async with scope(persistence="torn://", name="torn") as s:
            witness.scope = s
            await body(witness, s, arm)
    except BaseException as left:
        witness.left = left
        raise
    finally:
        witness.ended = True
        assert current_scope() is None


def leads_to(error: BaseException | None, kind: type[BaseException]) -> bool:
    seen: list[BaseException] = []
    unread = [error]
    while unread:
        found = unread.pop()
        if found is None or any(found is other for other in seen):
            continue
        if isinstance(found, kind):
            return True
        seen.append(found)
        unread += [found.__cause__, found.__context__]
        if isinstance(found, BaseExceptionGroup):
            unread += found.exceptions
    return False


@pytest.mark.parametrize("event_loop", EVENT_LOOPS)
@pytest.mark.parametrize("error", [ForeignError, ExitSignal, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("body", BODIES)
def test_what_a_store_raises_while_a_block_ends_tears_nothing(
    body: Body,
    error: type[BaseException],
    event_loop: tuple[str, dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backend, options = event_loop
    for torn_at in itertools.count(1):
        assert torn_at < MOST_AWAITS
        store, witness = TornStore(), Witness()
        store.torn_at = torn_at
        monkeypatch.setattr(doors, "shared_store", lambda url, store=store: store)
        came_out: BaseException | None = None
        try:
            anyio.run(
                execute, body, store, error(), witness, backend=backend, backend_options=options
            )
        except BaseException as raised:
            came_out = raised
        where = f"at await {torn_at}: {witness}, {came_out!r}"
        s = witness.scope
        assert s is not None
        assert witness.ended, where
        assert (witness.running, witness.resources) == (0, 0), where
        assert not [*s._works, *s._works._offers, *s._inside], where
        assert not store.opened, where
        if not store.torn:
            assert torn_at > 4
            return
        if issubclass(error, ExitSignal | KeyboardInterrupt | SystemExit):
            assert isinstance(came_out, error), where
            assert not witness.raised or leads_to(witness.left, BodyError), where
        elif witness.raised:
            assert isinstance(came_out, BodyError), where
        else:
            assert came_out is None or leads_to(came_out, error), where
        assert "corrupted" not in repr(came_out)
