"""Those who wait are told as long as the server tells; nothing is left of a wait that ended."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import anyio
import pytest
from attrs import define, field

from gogoscope.persistence import watching
from gogoscope.persistence.watching import Ear, Listener, Stop, Watchers

pytestmark = pytest.mark.anyio

PATIENCE = 20.0


@define
class Server:
    """Opens ears, which tell of what is sent to them; ``fails`` is how many times it does not."""

    fails: int = 0
    opened: int = 0
    closed: int = 0
    adds: int = 0
    names: set[str] = field(factory=set)
    told: list[str] = field(factory=list)
    news: anyio.Event = field(factory=anyio.Event)

    async def open(self) -> Ear | None:
        await anyio.lowlevel.checkpoint()
        self.opened += 1
        if self.opened <= self.fails:
            raise OSError
        return FakeEar(self)

    def send(self, name: str) -> None:
        if name in self.names:
            self.told.append(name)
            self.news.set()


@define
class FakeEar:
    server: Server

    async def add(self, names: Iterable[str]) -> None:
        await anyio.lowlevel.checkpoint()
        self.server.adds += 1
        self.server.names |= set(names)

    async def drop(self, names: Iterable[str]) -> None:
        await anyio.lowlevel.checkpoint()
        self.server.names -= set(names)

    async def hear(self) -> Iterable[str]:
        while not self.server.told:
            self.server.news = anyio.Event()
            await self.server.news.wait()
        heard, self.server.told = self.server.told, []
        return heard

    async def close(self) -> None:
        self.server.closed += 1
        self.server.names = set()


async def until(condition: object) -> None:
    with anyio.fail_after(PATIENCE):
        while not condition():  # type: ignore[operator]
            await anyio.sleep(0.001)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "FIRST_PAUSE", 0.001)


async def test_all_who_watch_are_told_over_one_connection() -> None:
    server, told = Server(), list[str]()
    listener = Listener(server.open)
    for n in range(50):
        listener.add("a", lambda n=n: told.append(f"a{n}"))  # type: ignore[misc]
    listener.add("b", lambda: told.append("b"))
    await until(lambda: server.names == {"a", "b"})
    stop = listener.add("c", lambda: told.append("c"))
    await until(lambda: "c" in server.names)
    for name in ("a", "c", "other"):
        server.send(name)
    await until(lambda: len(told) == 51)
    stop()
    server.send("c")
    server.send("b")
    await until(lambda: "b" in told)
    assert told.count("c") == 1
    assert (server.opened, server.adds) == (1, 2)
    await listener.close()
    assert server.closed == 1


async def test_the_connection_is_closed_when_nobody_has_waited_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watching, "LINGER_SECONDS", 0.02)
    server = Server()
    listener = Listener(server.open)
    stop = listener.add("a", lambda: None)
    await until(lambda: server.names == {"a"})
    stop()
    await until(lambda: server.closed == 1)
    stop = listener.add("a", lambda: None)
    await until(lambda: server.names == {"a"})
    assert server.opened == 2
    stop()
    await listener.close()


async def test_those_who_have_stopped_leave_nothing_behind() -> None:
    listener = Listener(Server().open)
    for _ in range(100):
        stop = listener.add("a", lambda: None)
        stop()
        stop()
    assert not listener
    await listener.close()


async def test_a_broken_connection_is_made_again_while_anybody_waits() -> None:
    server, told = Server(fails=5), list[str]()
    listener = Listener(server.open)
    listener.add("a", lambda: told.append("a"))
    await until(lambda: server.names == {"a"})
    server.send("a")
    await until(lambda: told)
    await listener.close()


async def test_a_server_that_cannot_tell_is_not_asked_again() -> None:
    asked = 0

    async def open_none() -> Ear | None:
        nonlocal asked
        asked += 1
        return None

    listener = Listener(open_none)
    for _ in range(5):
        listener.add("a", lambda: None)
        await anyio.wait_all_tasks_blocked()
    assert asked == 1
    await listener.close()


async def test_a_listener_goes_on_after_it_was_closed() -> None:
    server, told = Server(), list[str]()
    listener = Listener(server.open)
    for n in range(1, 3):
        stop = listener.add("a", lambda: told.append("a"))
        await until(lambda: server.names == {"a"})
        server.send("a")
        await until(lambda n=n: len(told) == n)
        stop()
        await listener.close()
    assert server.closed == 2


async def test_whoever_stops_while_all_are_told_stops_nobody_else() -> None:
    watchers, told, stops = Watchers(), list[int](), list[Stop]()

    def tell_and_stop(n: int) -> None:
        told.append(n)
        stops[n]()

    stops += [watchers.add("a", partial(tell_and_stop, n)) for n in range(3)]
    watchers.tell("a")
    watchers.tell("a")
    assert told == [0, 1, 2]
    assert not watchers
