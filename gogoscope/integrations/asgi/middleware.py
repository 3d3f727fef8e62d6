"""The middleware: what the service has, and what each of its requests gets."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import ContextVar
from datetime import timedelta

import anyio
from attrs import frozen

from gogoscope import Scope, open_persistence, scope
from gogoscope._core.arguments import check_flag, check_name
from gogoscope._core.durations import seconds
from gogoscope.events import OnError, OnEvent
from gogoscope.exceptions import ScopeClosedError
from gogoscope.integrations.asgi.lifespan import live
from gogoscope.integrations.asgi.protocol import (
    Application,
    Connection,
    Receive,
    Send,
    answer,
    check_header_name,
)
from gogoscope.integrations.asgi.requests import GONE, Listening, Response, seconds_left
from gogoscope.scopes.options import CircuitOption, RetryOption

DEADLINE_HEADER = "x-request-timeout"
TOO_LATE = "the time for this request is over"


@frozen
class _Around:
    """What surrounds the current request; ``limit`` has its deadline."""

    service: Scope
    deadline_header: str
    limit: anyio.CancelScope


_around: ContextVar[_Around] = ContextVar("gogoscope.asgi")


def current_service() -> Scope:
    """Return the scope of the service that the current request belongs to.

    What is started in it outlives the request. The scope of the request itself is
    :func:`gogoscope.current_scope`.

    :raises ScopeClosedError: outside of requests
    """
    return _here().service


def deadline_headers() -> dict[str, str]:
    """Return the header that tells another service how many seconds the caller still waits.

    Add it to the headers of a request that is made for the current one. The time is that until the
    nearest deadline around the caller; without one, this is empty.

    :raises ScopeClosedError: outside of requests
    """
    here = _here()
    # Some frameworks answer in a task of their own, which stands in no cancel scope of the request.
    deadline = min(anyio.current_effective_deadline(), here.limit.deadline)
    if deadline == math.inf:
        return {}
    return {here.deadline_header: f"{max(deadline - anyio.current_time(), 0.0):.3f}"}


def _here() -> _Around:
    try:
        return _around.get()
    except LookupError:
        raise ScopeClosedError("this is called outside of a request of ScopeMiddleware") from None


class ScopeMiddleware:
    """An ASGI application around another one, with a store and scopes.

    While the server runs, the store is the default one of the process, and the service has a scope:
    the application's own lifespan runs in its block, where :func:`gogoscope.current_scope` returns
    it. If the application knows no lifespans, as Django's, the server is answered all the same.
    When the server shuts down, the scope's ``stopping`` is set, the application's lifespan ends,
    the tasks have ``grace`` seconds to end, and the store is closed.

    Each request runs in a child of that scope, which :func:`gogoscope.current_scope` returns: its
    tasks have ended when the request has. So does each WebSocket, without a deadline.

    A caller that waits no longer than some seconds can say so in a header. If they are over before
    the response has begun, it is a 504; a header that is no number is answered with a 400. What the
    framework does after the response has no deadline.

    :param app: the application
    :param persistence: a URL, which opens a store for the service, or what :func:`gogoscope.scope`
        takes
    :param name: names the service's scope; those of its requests are named ``"NAME request"``
    :param retry: what tasks inherit, as are the following three
    :param grace: how many seconds the tasks of the service have to end at the shutdown
    :param request_timeout: seconds for each request; no limit if left out
    :param deadline_header: the header in which callers say how many seconds they wait; ``None``
        reads none
    :param cancel_on_disconnect: whether a request is cancelled when its client disconnects before
        it has the whole response; what the framework does after the response goes on
    :raises TypeError: if an option is of the wrong type
    :raises ValueError: if an option is out of range
    """

    def __init__(
        self,
        app: Application,
        persistence: object = None,
        *,
        name: str = "service",
        retry: RetryOption = None,
        circuit_breaker: CircuitOption = None,
        on_error: OnError | None = None,
        on_event: OnEvent | None = None,
        grace: float | timedelta = 10,
        request_timeout: float | timedelta | None = None,
        deadline_header: str | None = DEADLINE_HEADER,
        cancel_on_disconnect: bool = False,
    ) -> None:
        if not callable(app):
            raise TypeError(f"app must be an ASGI application, got {app!r}")
        check_name(name)
        if deadline_header is not None:
            check_header_name("deadline_header", deadline_header)
        check_flag("cancel_on_disconnect", cancel_on_disconnect)
        self._app = app
        self._persistence = persistence
        self._name = name
        self._grace = seconds("grace", grace, zero=True, infinite=True)
        self._longest = math.inf
        if request_timeout is not None:
            self._longest = seconds("request_timeout", request_timeout, infinite=True)
        self._header = deadline_header
        self._cancel_on_disconnect = cancel_on_disconnect
        self._service: Scope | None = None

        def open_scope(store: object) -> Scope:
            return scope(
                name=name,
                persistence=store,
                retry=retry,
                circuit_breaker=circuit_breaker,
                on_error=on_error,
                on_event=on_event,
            )

        open_scope(None)  # tells what is wrong with the options
        self._open_scope = open_scope

    def __repr__(self) -> str:
        return f"<ScopeMiddleware {self._name!r} around {self._app!r}>"

    async def __call__(self, connection: Connection, receive: Receive, send: Send) -> None:
        """Serve a request or a WebSocket, or live with the server."""
        kind = connection["type"]
        if kind == "lifespan":
            await live(self._app, connection, receive, send, self._serving())
        elif kind == "http":
            await self._serve(connection, receive, send)
        else:
            async with self._child(anyio.CancelScope()):
                await self._app(connection, receive, send)

    @asynccontextmanager
    async def _serving(self) -> AsyncGenerator[Callable[[], object]]:
        """Open the store and the service's scope; yield what is to be called at the shutdown."""
        async with AsyncExitStack() as stack:
            store = self._persistence
            if isinstance(store, str):
                store = await stack.enter_async_context(open_persistence(store, default=True))
            service = await stack.enter_async_context(self._open_scope(store))
            self._service = service
            try:
                yield service.stopping.set
                await service.stop(self._grace)
            finally:
                self._service = None

    def _child(self, limit: anyio.CancelScope) -> Scope:
        service = self._service
        if service is None:
            raise ScopeClosedError(
                "a request came outside of the lifespan; run the server with lifespans on, and put "
                "ScopeMiddleware around the application if its middlewares do not see them"
            )
        _around.set(_Around(service, self._header or DEADLINE_HEADER, limit))
        return service.child(name=f"{self._name} request")

    async def _serve(self, connection: Connection, receive: Receive, send: Send) -> None:
        """Serve a request, within its time."""
        left = self._longest
        if self._header is not None:
            try:
                left = min(left, seconds_left(connection, self._header.lower().encode()))
            except ValueError as error:
                await answer(send, 400, str(error))
                return
        limit = anyio.CancelScope(deadline=anyio.current_time() + left)
        response = Response(send, limit)
        if left > 0:
            with limit:
                await self._run(connection, receive, response, limit)
            if not limit.cancelled_caught:
                return
        if response.started:
            raise TimeoutError(f"{TOO_LATE}, in the middle of the response")
        await answer(send, 504, TOO_LATE)

    async def _run(
        self, connection: Connection, receive: Receive, response: Response, limit: anyio.CancelScope
    ) -> None:
        async with self._child(limit) as s:
            if not self._cancel_on_disconnect:
                await self._app(connection, receive, response.send)
                return
            listening = Listening(receive, response, lambda: s.cancel(GONE))
            task = s.task(listening.listen, retry=False, circuit_breaker=False)
            try:
                await self._app(connection, listening.receive, response.send)
            finally:
                task.cancel()
