"""Clients that count, lose and delay, and a proxy that drops answers on the wire."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import anyio
from anyio.abc import ByteReceiveStream, ByteSendStream, SocketStream

Perform = Callable[[], Awaitable[Any]]
Fault = Callable[[Perform], Awaitable[Any]]


def _operation(name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
    async def request(self: FaultyClient, **parameters: Any) -> Any:
        self.calls.append((name, parameters))

        async def perform() -> Any:
            return await getattr(self.client, name)(**parameters)

        fault = self.constant_faults.get(name, fine)
        if self.faults:
            fault = self.faults.popleft()
        return await fault(perform)

    return request


class FaultyClient:
    """Passes requests on to a client, keeps them, and lets faults happen to them.

    The next of ``faults`` happens to the next request; that of ``constant_faults`` to every
    request of its operation.

    :param client: the client that carries out the requests; may be ``None`` if no fault does
    """

    def __init__(self, client: Any = None) -> None:
        self.client = client
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.faults: deque[Fault] = deque()
        self.constant_faults: dict[str, Fault] = {}

    @property
    def operations(self) -> list[str]:
        return [operation for operation, _ in self.calls]

    get_item = _operation("get_item")
    put_item = _operation("put_item")
    update_item = _operation("update_item")
    delete_item = _operation("delete_item")
    scan = _operation("scan")
    batch_get_item = _operation("batch_get_item")
    create_table = _operation("create_table")
    describe_table = _operation("describe_table")
    describe_time_to_live = _operation("describe_time_to_live")
    update_time_to_live = _operation("update_time_to_live")


async def fine(perform: Perform) -> Any:
    return await perform()


async def lose_response(perform: Perform) -> Any:
    await perform()
    raise ConnectionResetError("the answer was lost")


def losing(lose: Callable[[], bool]) -> Fault:
    """Return a fault that loses the answers, or refusals, for which ``lose`` says so."""

    async def fault(perform: Perform) -> Any:
        try:
            answered = await perform()
        except Exception:
            if lose():
                raise ConnectionResetError("the refusal was lost") from None
            raise
        if lose():
            raise ConnectionResetError("the answer was lost")
        return answered

    return fault


async def lose_request(perform: Perform) -> Any:
    raise ConnectionResetError("the request was lost")


async def never_answer(perform: Perform) -> Any:
    await perform()
    await anyio.sleep_forever()


async def be_silent(perform: Perform) -> Any:
    await anyio.sleep_forever()


async def be_unreachable(perform: Perform) -> Any:
    raise ConnectionRefusedError("nobody listens")


def answer(response: Any) -> Fault:
    async def fault(perform: Perform) -> Any:
        return response

    return fault


def refuse(code: str, message: str = "", status: int = 400, **more: Any) -> Fault:
    async def fault(perform: Perform) -> Any:
        raise client_error(code, message, status, **more)

    return fault


class ServerError(Exception):
    """What a client raises when the server refuses a request; the SDK's looks like this."""

    def __init__(self, response: dict[str, Any]) -> None:
        super().__init__(response["Error"]["Message"])
        self.response = response


def client_error(code: str, message: str = "", status: int = 400, **more: Any) -> ServerError:
    return ServerError(
        {
            "Error": {"Code": code, "Message": message or code},
            "ResponseMetadata": {"HTTPStatusCode": status},
            **more,
        }
    )


class LossyProxy:
    """A TCP proxy that, when told so, lets a request through and drops its answer."""

    def __init__(self, target_url: str) -> None:
        self._target = urlsplit(target_url)
        self.drops = 0
        self.url = ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        self.url = f"http://127.0.0.1:{port}"
        async with listener, anyio.create_task_group() as connections:
            connections.start_soon(listener.serve, self._connect)
            yield
            connections.cancel_scope.cancel()

    async def _connect(self, near: SocketStream) -> None:
        assert self._target.hostname
        assert self._target.port
        far = await anyio.connect_tcp(self._target.hostname, self._target.port)
        async with near, far, anyio.create_task_group() as pumps:

            async def pump(source: ByteReceiveStream, sink: ByteSendStream, answers: bool) -> None:
                try:
                    async for data in source:
                        if answers and self.drops:
                            self.drops -= 1
                            break
                        await sink.send(data)
                except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                    pass
                pumps.cancel_scope.cancel()

            pumps.start_soon(pump, near, far, False)
            pumps.start_soon(pump, far, near, True)
