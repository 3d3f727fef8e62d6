"""The scope that works for one client, in the loop: opened with the first call, closed with it."""

from __future__ import annotations

import weakref
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

import anyio
from attrs import define, frozen

from gogoscope._core.background import Home
from gogoscope._core.errors import forget_traceback
from gogoscope._core.forks import lock_across_forks
from gogoscope.blocking.calls import Call, without_caller
from gogoscope.blocking.loop_thread import LoopThread, loop_thread
from gogoscope.blocking.refusals import refuse_event_loop
from gogoscope.cache.cache import HomeCache
from gogoscope.events import OnEvent
from gogoscope.exceptions import ScopeClosedError, TaskCancelled
from gogoscope.scopes.scope import Scope, scope

T = TypeVar("T")


@frozen
class Options:
    """What a client was made with.

    :param url: the store
    :param name: names it in events and errors
    :param on_event: is called with its events
    """

    url: str
    name: str
    on_event: OnEvent | None


@define(eq=False)
class Host:
    """The scope of a client in this process.

    ``_opening`` is set while it is being opened, and ``_failure`` is why that failed, for those who
    waited; the next caller tries again. ``closed`` is final.

    :param options: what the client was made with
    :param thread: the loop
    """

    options: Options
    thread: LoopThread
    closed: bool = False
    _scope: Scope | None = None
    _opening: anyio.Event | None = None
    _failure: BaseException | None = None
    _closing: anyio.Event | None = None
    _ended: anyio.Event | None = None

    async def run(
        self,
        work: Callable[[Scope], Awaitable[T]],
        options: dict[str, Any],
        patience: float | None,
    ) -> T:
        """Do something in the scope, as a task.

        :param options: those of :meth:`gogoscope.Scope.call`
        :param patience: seconds to wait for the store to be opened; no limit if ``None``
        :raises ScopeClosedError: if the client was closed
        :raises TimeoutError: if the store is still being opened then, which goes on
        """
        if (working := self._scope) is None:
            with anyio.move_on_after(patience):
                working = await self._open()
            if working is None:
                raise TimeoutError(f"the store was not open within {patience:.3g} s")
        task = working.task(partial(work, working), **options)
        try:
            result = await task
        except BaseException:
            with anyio.CancelScope(shield=True):
                _, _ = await task  # what it holds is released then
            raise
        try:
            return result.unwrap()
        except TaskCancelled as cancelled:
            if self.closed:
                raise ScopeClosedError("the blocking client was closed meanwhile") from cancelled
            raise

    async def _open(self) -> Scope:
        while self._scope is None:
            self._check_open()
            opening = self._opening
            if opening is None:
                opening = self._opening = anyio.Event()
                self._failure = None
                hold_open = partial(self._hold_open, opening)
                self.thread.spawn(hold_open)
            await opening.wait()
            if self._failure is not None:
                failure = self._failure
                forget_traceback(failure)
                try:
                    raise failure
                finally:
                    del failure
        self._check_open()
        return self._scope

    async def _hold_open(self, opening: anyio.Event) -> None:
        """Open the scope, and keep it open until the client is closed; raises nothing."""
        options = self.options
        self._closing, self._ended = anyio.Event(), anyio.Event()
        self.thread.at_end.add(self.close)
        try:
            async with scope(
                name=options.name,
                persistence=options.url,
                on_exit="cancel",
                on_event=options.on_event,
            ) as opened:
                opened._home.attach(HomeCache, _cache_without_caller)
                self._scope, self._opening = opened, None
                opening.set()
                await self._closing.wait()
        except BaseException as error:  # noqa: BLE001 - raised by those who wait
            self._failure = error
        finally:
            self._scope = self._opening = None
            self.thread.at_end.discard(self.close)
            opening.set()
            self._ended.set()

    async def end(self) -> None:
        """Close the scope: what it holds is released, and calls in progress are cancelled."""
        self.close()
        if self._ended is not None:
            with anyio.CancelScope(shield=True):
                await self._ended.wait()

    def close(self) -> None:
        """Begin to close; in the loop."""
        self.closed = True
        if self._closing is not None:
            self._closing.set()

    def _check_open(self) -> None:
        if self.closed:
            raise ScopeClosedError(
                f"the blocking client {self.options.name!r} is closed; nothing can start in it"
            )


def _cache_without_caller(home: Home) -> HomeCache:
    """Return the cache of a scope; its refreshes, for which nobody waits, use worker threads."""

    def spawn(work: Callable[[], Awaitable[object]], *, brief: bool = True) -> bool:
        return home.spawn(partial(without_caller, work), brief=brief)

    return HomeCache(home, spawn)


class Hosts:
    """The host of a client, one in each process that uses it.

    The client has it, and all that comes from the client and goes on without it: blocks, handles,
    caches and decorated functions. When nobody refers to any of them any more, the host is closed.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self._guard = lock_across_forks()
        self._closed = False
        self._host: Host | None = None

    def call(
        self,
        work: Callable[[Scope], Awaitable[T]],
        *,
        patience: float | None = None,
        **options: Any,
    ) -> Call[T]:
        """Return a call that does something in the scope; not begun.

        :param patience: seconds to wait for the store to be opened; no limit if left out
        :param options: those of :meth:`gogoscope.Scope.call`
        :raises UnsupportedEventLoopError: if threads are green ones here
        :raises ScopeClosedError: if the client was closed
        """
        host, thread = self._host, loop_thread()
        if host is None or host.thread is not thread:
            with self._guard:
                if self._host is None or self._host.thread is not thread:
                    self._host = Host(self.options, thread, closed=self._closed)
                    unused = weakref.finalize(self, thread.call_soon, self._host.close)
                    unused.atexit = False
                host = self._host
        return Call(thread, partial(host.run, work, options, patience))

    def close(self) -> None:
        """Close it; waits for the end of what runs in it in this process."""
        with self._guard:
            self._closed = True
            host = self._host
        if host is not None and host.thread.is_here():
            Call(host.thread, host.end).value()


def ask(hosts: Hosts, work: Callable[[Scope], Awaitable[T]], usage: str, instead: str = "") -> T:
    """Do something in the scope of a client, and wait for it.

    :param usage: what was called
    :param instead: its async form
    :raises RuntimeError: if an event loop runs the calling code
    """
    refuse_event_loop(usage, instead or f"await {usage.replace('db.', 's.')}")
    return hosts.call(work, name=usage).value()


def ask_of_held(
    hosts: Hosts, taken_in: Scope, work: Callable[[], Awaitable[object]], usage: str
) -> bool:
    """Ask something of what a client holds; ``False`` if the scope that held it has ended.

    That has released it. The client may have been closed since then, or have another scope, in
    another event loop than one that has ended.

    :param taken_in: the scope that worked for the client when it was taken
    :param usage: what was called
    """

    async def answer(working: Scope) -> bool:
        return working is taken_in and bool(await work())

    try:
        return ask(hosts, answer, usage)
    except ScopeClosedError:
        return False
