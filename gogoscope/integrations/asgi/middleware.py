"""The middleware: what the service has, and what each of its requests gets."""

from __future__ import annotations

import math
from datetime import timedelta

import anyio

from gogoscope import Scope, open_persistence, scope
from gogoscope._core.arguments import check_flag, check_name
from gogoscope._core.durations import seconds
from gogoscope.events import OnError, OnEvent
from gogoscope.exceptions import ScopeClosedError
from gogoscope.integrations.asgi.here import Here, entered
from gogoscope.integrations.asgi.lifespan import LiveIn, live
from gogoscope.integrations.asgi.protocol import (
    Application,
    Connection,
    Receive,
    Send,
    answer,
    check_header_name,
)
from gogoscope.integrations.asgi.receiving import GONE, Listening, Receiving
from gogoscope.integrations.asgi.requests import Reply, Response, Socket, seconds_left
from gogoscope.integrations.asgi.service import STOPPING, Service
from gogoscope.scopes.options import CircuitOption, RetryOption

DEADLINE_HEADER = "x-request-timeout"
TOO_LATE = "the time for this request is over"
CANCELLED = "the request was cancelled"
NO_LIFESPAN = (
    "a request came outside of the lifespan; run the server with lifespans on, and put "
    "ScopeMiddleware around the outermost application, as those that are mounted in it, and the "
    "middlewares of some frameworks, do not see them"
)


class ScopeMiddleware:
    """An ASGI application around another one, with a store and scopes.

    While the server runs, the store is the default one of the process, and the service has a scope:
    the application's own lifespan runs in its block, where :func:`gogoscope.current_scope` returns
    it. If the application knows no lifespans, as Django's, the server is answered all the same.
    The end of the service begins when SIGTERM or SIGINT reaches the server, if it handles them in
    this process, or when it shuts the lifespan down: the scope's ``stopping`` is set. The requests
    end, the application's lifespan ends, then the tasks. What still runs ``grace`` seconds after
    the beginning is cancelled: a request is answered with 503, a WebSocket is closed with 1012.
    Last, the store is closed.

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
    :param grace: how many seconds requests and tasks have to end from the beginning of the end;
        ``math.inf`` for no limit
    :param request_timeout: seconds for each request; no limit if left out
    :param deadline_header: the header in which callers say how many seconds they wait; ``None``
        reads none
    :param cancel_on_disconnect: whether a request or a WebSocket is cancelled when its client
        disconnects before it has the whole response; what the framework does after it goes on
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
        self._service: Service | None = None

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
            await live(self._app, connection, receive, send, self._serve_all)
        elif kind == "http":
            await self._serve(connection, receive, send)
        else:
            await self._run(connection, receive, Socket(send), anyio.CancelScope())

    async def _serve_all(self, live_in: LiveIn) -> None:
        """Open the store, and what the service has in it, for the lifespan of the application."""
        if self._service is not None:
            raise RuntimeError(
                f"{self!r} runs in another lifespan, which has not ended; make a second one for it"
            )
        if isinstance(self._persistence, str):
            async with open_persistence(self._persistence, default=True) as store:
                await self._serve_with(store, live_in)
        else:
            await self._serve_with(self._persistence, live_in)

    async def _serve_with(self, store: object, live_in: LiveIn) -> None:
        """Open the service's scope for the lifespan of the application, and end the service."""
        async with self._open_scope(store) as opened:
            service = self._service = Service(opened, self._grace)
            try:
                service.watch()
                with entered(Here(opened, self._header or DEADLINE_HEADER)):
                    await live_in(service)
                await service.end()
            finally:
                self._service = None

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
            if response.ended or not (limit.cancelled_caught or response.is_late):
                return
        if response.started:
            raise TimeoutError(f"{TOO_LATE}, in the middle of the response")
        await answer(send, 504, TOO_LATE)

    async def _run(
        self, connection: Connection, receive: Receive, reply: Reply, limit: anyio.CancelScope
    ) -> None:
        """Run the application for one connection, in a scope."""
        service = self._service
        if service is None:
            raise ScopeClosedError(NO_LIFESPAN)
        child = service.scope.child(name=f"{self._name} request")
        returned = False
        header = self._header or DEADLINE_HEADER
        around = Here(service.scope, header, child, reply, limit.deadline)
        with entered(around):
            async with child as s:
                with service.in_flight(s):
                    await self._call(connection, Receiving(receive, reply, limit), reply, s)
                returned = True
        if not (returned or reply.ended or child.cancel_reason == GONE):
            await reply.break_off(STOPPING if service.is_over else CANCELLED)

    async def _call(
        self,
        connection: Connection,
        receiving: Receiving,
        reply: Reply,
        s: Scope,
    ) -> None:
        if not self._cancel_on_disconnect:
            await self._app(connection, receiving.receive, reply.send)
            return
        listening = Listening(receiving, reply, lambda: s.cancel(GONE))
        task = s.task(listening.listen, retry=False, circuit_breaker=False)
        try:
            await self._app(connection, receiving.receive, reply.send)
        finally:
            task.cancel()
