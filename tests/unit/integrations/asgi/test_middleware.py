"""ScopeMiddleware: the store and the scope of a service, and a scope for each request."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread

from gogoscope import Scope, ScopeClosedError, current_scope, open_persistence
from gogoscope.integrations.asgi import ScopeMiddleware, current_service, deadline_headers
from tests.support.hostile_errors import HOSTILE, hostile
from tests.unit.integrations.asgi.fake_server import Answer, Server

pytestmark = [pytest.mark.anyio, pytest.mark.slow_elsewhere]

HEADER = "x-request-timeout"


async def respond(send: Any, text: str = "fine") -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": text.encode()})


def scope_here() -> Scope:
    s = current_scope()
    assert s is not None
    return s


class App:
    """An application; ``knows_lifespans`` as Starlette, or not as Django."""

    def __init__(self, *, knows_lifespans: bool = True) -> None:
        self.knows_lifespans = knows_lifespans
        self.did: list[str] = []
        self.service: Scope | None = None

    async def __call__(self, connection: Any, receive: Any, send: Any) -> None:
        if connection["type"] != "lifespan":
            await self.serve(receive, send)
            return
        if not self.knows_lifespans:
            raise ValueError("this application handles HTTP only")
        assert (await receive())["type"] == "lifespan.startup"
        self.service = current_scope()
        self.did.append("startup")
        await send({"type": "lifespan.startup.complete"})
        assert (await receive())["type"] == "lifespan.shutdown"
        assert self.service is not None
        assert self.service.stopping.is_set()
        self.did.append("shutdown")
        await send({"type": "lifespan.shutdown.complete"})

    async def serve(self, receive: Any, send: Any) -> None:
        await respond(send, scope_here().name)


@pytest.mark.parametrize("knows_lifespans", [True, False])
async def test_the_server_is_answered_and_requests_run_in_children_of_the_service(
    knows_lifespans: bool,
) -> None:
    app = App(knows_lifespans=knows_lifespans)
    server = Server(ScopeMiddleware(app, name="shop"))
    async with server.running():
        assert (await server.ask()).text == "shop request"
    assert server.lifespan == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert app.did == (["startup", "shutdown"] if knows_lifespans else [])


async def test_the_service_is_the_scope_of_the_applications_own_lifespan() -> None:
    class Asking(App):
        async def serve(self, receive: Any, send: Any) -> None:
            assert current_service() is self.service
            current_service().task(anyio.sleep, 0)
            await respond(send)

    server = Server(ScopeMiddleware(Asking()))
    async with server.running():
        assert (await server.ask()).text == "fine"


async def test_the_store_is_the_default_one_from_before_the_startup_to_after_the_shutdown(
    tmp_path: Path,
) -> None:
    class Storing(App):
        async def serve(self, receive: Any, send: Any) -> None:
            async with scope_here().lock("order") as locked:
                await respond(send, str(locked.fencing_token))

    url = f"sqlite:///{tmp_path / 'shop.db'}"
    server = Server(ScopeMiddleware(Storing(), url))
    async with server.running():
        first, second = await server.ask(), await server.ask()
        assert int(first.text) < int(second.text)
    async with open_persistence(url, default=True):  # there is no other default store any more
        pass


async def test_the_tasks_of_a_request_have_ended_when_the_request_has() -> None:
    ended = []

    class Working(App):
        async def serve(self, receive: Any, send: Any) -> None:
            async def work() -> None:
                await anyio.sleep(0.01)
                ended.append(True)

            scope_here().task(work)
            await respond(send)

    server = Server(ScopeMiddleware(Working()))
    async with server.running():
        await server.ask()
        assert ended == [True]


async def test_an_error_of_a_request_is_the_servers_to_handle() -> None:
    class Failing(App):
        async def serve(self, receive: Any, send: Any) -> None:
            raise OSError("broken")

    server = Server(ScopeMiddleware(Failing()))
    async with server.running():
        with pytest.raises(OSError, match="broken"):
            await server.ask()
    assert server.lifespan[-1] == "lifespan.shutdown.complete"


class Slow(App):
    """Waits before it answers, or in the middle of it."""

    def __init__(self, *, begins: bool = False) -> None:
        super().__init__()
        self.begins = begins

    async def serve(self, receive: Any, send: Any) -> None:
        if self.begins:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            await anyio.sleep_forever()
        finally:
            self.did.append("cancelled")


async def test_a_request_whose_time_is_over_is_cancelled_and_answered() -> None:
    app = Slow()
    server = Server(ScopeMiddleware(app))
    async with server.running():
        answer = await server.ask({HEADER: "0.01"})
    assert (answer.status, answer.text) == (504, "the time for this request is over")
    assert "cancelled" in app.did


@pytest.mark.parametrize("left", ["0", "-1", "-inf"])
async def test_a_request_that_comes_too_late_does_not_reach_the_application(left: str) -> None:
    app = Slow()
    server = Server(ScopeMiddleware(app))
    async with server.running():
        assert (await server.ask({HEADER: left})).status == 504
    assert "cancelled" not in app.did


async def test_a_response_that_has_begun_ends_with_an_error() -> None:
    server = Server(ScopeMiddleware(Slow(begins=True)))
    async with server.running():
        with pytest.raises(TimeoutError, match="in the middle of the response"):
            await server.ask({HEADER: "0.01"})


async def test_the_shorter_of_header_and_option_counts() -> None:
    server = Server(ScopeMiddleware(Slow(), request_timeout=0.01))
    async with server.running():
        assert (await server.ask({HEADER: "1000"})).status == 504
        assert (await server.ask()).status == 504


async def test_the_applications_own_timeout_is_no_deadline() -> None:
    class Impatient(App):
        async def serve(self, receive: Any, send: Any) -> None:
            raise TimeoutError("the bank")

    server = Server(ScopeMiddleware(Impatient(), request_timeout=1000))
    async with server.running():
        with pytest.raises(TimeoutError, match="the bank"):
            await server.ask()


async def past_the_deadline() -> None:
    """Go on until the deadline has passed, as a thread does, which nothing can cancel."""
    late = anyio.current_effective_deadline() + 0.01
    with anyio.CancelScope(shield=True):
        await anyio.sleep_until(late)


async def test_a_response_that_begins_too_late_is_not_sent() -> None:
    class Late(App):
        async def serve(self, receive: Any, send: Any) -> None:
            await past_the_deadline()
            await respond(send, "late")
            self.did.append("work after the response")

    app = Late()
    server = Server(ScopeMiddleware(app))
    async with server.running():
        answer = await server.ask({HEADER: "0.05"})
    assert (answer.status, answer.text) == (504, "the time for this request is over")
    assert "work after the response" not in app.did


async def test_a_response_that_begins_too_late_in_a_shield_is_not_sent() -> None:
    class Late(App):
        async def serve(self, receive: Any, send: Any) -> None:
            await past_the_deadline()
            with anyio.CancelScope(shield=True):
                await respond(send, "late")
            self.did.append("tidied up")

    app = Late()
    server = Server(ScopeMiddleware(app))
    async with server.running():
        answer = await server.ask({HEADER: "0.05"})
    assert (answer.status, answer.text) == (504, "the time for this request is over")
    assert "tidied up" in app.did


async def test_a_response_that_is_whole_was_not_broken_off() -> None:
    class Finishing(App):
        async def serve(self, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await past_the_deadline()
            with anyio.CancelScope(shield=True):
                await send({"type": "http.response.body", "body": b"whole"})
            await anyio.sleep_forever()

    server = Server(ScopeMiddleware(Finishing()))
    async with server.running():
        answer = await server.ask({HEADER: "0.05"})
    assert (answer.status, answer.text) == (200, "whole")


@pytest.mark.parametrize("wrong", ["soon", "nan", ""])
async def test_a_header_that_is_no_number_of_seconds_is_refused(wrong: str) -> None:
    server = Server(ScopeMiddleware(App()))
    async with server.running():
        answer = await server.ask({HEADER: wrong})
    assert answer.status == 400
    assert answer.text == f"the header {HEADER} must be a number of seconds, got {wrong!r}"


async def test_the_time_left_is_told_to_others_under_the_same_name() -> None:
    class Asking(App):
        async def serve(self, receive: Any, send: Any) -> None:
            ((name, left),) = deadline_headers().items()
            with anyio.fail_after(5):
                ((_, less),) = deadline_headers().items()
            await respond(send, f"{name} {float(left) > 5 > float(less) - 0.001}")

    server = Server(ScopeMiddleware(Asking(), deadline_header="Time-Left"))
    async with server.running():
        assert (await server.ask({"time-left": "60"})).text == "Time-Left True"


async def test_the_time_left_is_told_in_a_thread_too() -> None:
    """Frameworks call functions that are not async there, as FastAPI and Django do."""

    class Asking(App):
        async def serve(self, receive: Any, send: Any) -> None:
            ((_, left),) = (await to_thread.run_sync(deadline_headers)).items()
            await respond(send, str(59 < float(left) <= 60))

    server = Server(ScopeMiddleware(Asking()))
    async with server.running():
        assert (await server.ask({HEADER: "60"})).text == "True"


@pytest.mark.parametrize("in_thread", [False, True])
async def test_without_a_deadline_nothing_is_told(in_thread: bool) -> None:
    class Asking(App):
        async def serve(self, receive: Any, send: Any) -> None:
            told = await to_thread.run_sync(deadline_headers) if in_thread else deadline_headers()
            await respond(send, str(told))

    server = Server(ScopeMiddleware(Asking(), deadline_header=None))
    async with server.running():
        assert (await server.ask({HEADER: "0.001"})).text == "{}"


class Reading(App):
    """Reads the body, and then does something."""

    async def serve(self, receive: Any, send: Any) -> None:
        body = b""
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        await self.then(body, receive, send)

    async def then(self, body: bytes, receive: Any, send: Any) -> None:
        self.did.append("read")
        await anyio.sleep_forever()


@pytest.mark.parametrize("reads", [True, False])
async def test_a_request_whose_client_disconnects_is_cancelled_if_asked(reads: bool) -> None:
    app = Reading() if reads else Slow()
    server = Server(ScopeMiddleware(app, cancel_on_disconnect=True))
    answer = Answer()
    async with server.running(), anyio.create_task_group() as group:
        group.start_soon(server.ask, None, answer)
        await anyio.wait_all_tasks_blocked()
        answer.gone.set()
    assert answer.sent == []


async def test_a_request_whose_client_disconnects_goes_on_unless_asked() -> None:
    app = Slow()
    server = Server(ScopeMiddleware(app))
    answer = Answer()
    async with server.running():
        with anyio.move_on_after(0.05) as waiting:
            answer.gone.set()
            await server.ask(None, answer)
        assert waiting.cancelled_caught


async def test_a_body_in_parts_arrives_whole_and_is_not_received_far_ahead() -> None:
    class Echo(Reading):
        async def then(self, body: bytes, receive: Any, send: Any) -> None:
            await respond(send, body.decode())

    answer = Answer(body=[b"a", b"b", b"c", b"d"])
    ahead = []

    class Late(Echo):
        async def serve(self, receive: Any, send: Any) -> None:
            await anyio.wait_all_tasks_blocked()
            ahead.append(4 - len(answer.body))
            await super().serve(receive, send)

    server = Server(ScopeMiddleware(Late(), cancel_on_disconnect=True))
    async with server.running():
        assert (await server.ask(None, answer)).text == "abcd"
    assert ahead == [1]


async def test_what_a_framework_does_after_the_response_goes_on_without_the_client() -> None:
    class Mailing(Reading):
        async def then(self, body: bytes, receive: Any, send: Any) -> None:
            await respond(send)
            answer.gone.set()
            assert (await receive())["type"] == "http.disconnect"
            assert (await receive())["type"] == "http.disconnect"
            await anyio.sleep(0.01)
            self.did.append("mailed")

    app, answer = Mailing(), Answer()
    server = Server(ScopeMiddleware(app, cancel_on_disconnect=True))
    async with server.running():
        await server.ask(None, answer)
    assert "mailed" in app.did


async def test_what_a_framework_does_after_the_response_has_no_deadline() -> None:
    class Mailing(App):
        async def serve(self, receive: Any, send: Any) -> None:
            await respond(send)
            assert anyio.current_effective_deadline() == math.inf
            assert deadline_headers() == {}
            self.did.append("mailed")

    app = Mailing()
    server = Server(ScopeMiddleware(app, request_timeout=1000))
    async with server.running():
        assert (await server.ask({HEADER: "60"})).text == "fine"
    assert "mailed" in app.did


async def test_a_websocket_has_a_scope_and_no_deadline() -> None:
    class Chat(App):
        async def serve(self, receive: Any, send: Any) -> None:
            await send({"type": "websocket.accept", "left": anyio.current_effective_deadline()})
            self.did.append(scope_here().name)

    app = Chat()
    server = Server(ScopeMiddleware(app, request_timeout=1))
    async with server.running():
        answer = await server.ask({HEADER: "1"}, kind="websocket")
    assert answer.sent[0]["left"] == math.inf
    assert "service request" in app.did


async def test_the_tasks_of_the_service_are_cancelled_after_their_grace() -> None:
    class Serving(App):
        async def serve(self, receive: Any, send: Any) -> None:
            current_service().task(anyio.sleep_forever)
            await respond(send)

    server = Server(ScopeMiddleware(Serving(), grace=0.01))
    async with server.running():
        await server.ask()
    assert server.lifespan[-1] == "lifespan.shutdown.complete"


async def test_a_store_that_cannot_be_opened_fails_the_startup() -> None:
    app = App()
    server = Server(ScopeMiddleware(app, "sqlite:////nowhere/shop.db"))
    with pytest.raises((Exception, ExceptionGroup)):
        async with server.running():
            pytest.fail("it started")
    assert server.lifespan == ["lifespan.startup.failed"]
    assert app.did == []


class Broken(App):
    """Fails as Starlette does: it tells the server, and raises."""

    def __init__(self, phase: str) -> None:
        super().__init__()
        self.phase = phase

    async def __call__(self, connection: Any, receive: Any, send: Any) -> None:
        for phase in ("startup", "shutdown"):
            await receive()
            if phase == self.phase:
                await send({"type": f"lifespan.{phase}.failed", "message": "broken"})
                raise OSError("broken")
            await send({"type": f"lifespan.{phase}.complete"})


@pytest.mark.parametrize("phase", ["startup", "shutdown"])
async def test_a_lifespan_that_fails_is_told_once(phase: str) -> None:
    server = Server(ScopeMiddleware(Broken(phase)))
    with pytest.raises((Exception, ExceptionGroup)):
        async with server.running():
            pass
    assert server.lifespan[-1] == f"lifespan.{phase}.failed"


@pytest.mark.parametrize("hostility", HOSTILE)
async def test_a_hostile_error_of_a_lifespan_is_raised_as_it_is(hostility: str) -> None:
    error = hostile(hostility)("no")
    raised: list[BaseException] = []

    async def fail(connection: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        raise error

    async def around(*arguments: Any) -> None:
        try:
            await ScopeMiddleware(fail)(*arguments)
        except BaseException as left:
            raised.append(left)

    server = Server(around)
    async with server.running():
        pass
    assert server.lifespan == ["lifespan.startup.complete", "lifespan.shutdown.failed"]
    assert [left is error for left in raised] == [True]


async def test_a_lifespan_that_says_that_it_failed_and_returns_is_told_once() -> None:
    sent: list[str] = []

    async def fail(connection: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "broken"})

    async def receive() -> Any:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    await ScopeMiddleware(fail)({"type": "lifespan"}, receive, send)
    assert sent == ["lifespan.startup.failed"]


async def test_a_lifespan_that_returns_early_leaves_the_service_open() -> None:
    class Hasty(App):
        async def __call__(self, connection: Any, receive: Any, send: Any) -> None:
            if connection["type"] == "lifespan":
                await receive()
                await send({"type": "lifespan.startup.complete"})
            else:
                await self.serve(receive, send)

    server = Server(ScopeMiddleware(Hasty()))
    async with server.running():
        assert (await server.ask()).text == "service request"
    assert server.lifespan[-1] == "lifespan.shutdown.complete"


async def test_a_request_outside_of_the_lifespan_is_an_error_that_says_what_to_do() -> None:
    server = Server(ScopeMiddleware(App()))
    with pytest.raises(ScopeClosedError, match="run the server with lifespans on"):
        await server.ask()


async def test_outside_of_a_request_there_is_no_service() -> None:
    for ask in (current_service, deadline_headers):
        with pytest.raises(ScopeClosedError, match="outside of a service"):
            ask()


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"name": 3}, TypeError, "name must be a str"),
        ({"retry": "3"}, TypeError, "retry must be"),
        ({"grace": -1}, ValueError, "grace must be"),
        ({"request_timeout": 0}, ValueError, "request_timeout must be"),
        ({"deadline_header": b"x"}, TypeError, "deadline_header must be a str"),
        ({"deadline_header": "a b"}, ValueError, "deadline_header must be the name of a header"),
        ({"cancel_on_disconnect": 1}, TypeError, "cancel_on_disconnect must be a bool"),
    ],
)
def test_a_wrong_option_is_refused_when_the_middleware_is_made(
    options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        ScopeMiddleware(App(), **options)
    with pytest.raises(TypeError, match="app must be an ASGI application"):
        ScopeMiddleware(None)  # type: ignore[arg-type]
