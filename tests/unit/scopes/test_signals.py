"""Rule 13: stopping a program from outside, with signals that are shared and not taken."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from textwrap import dedent
from types import FrameType
from typing import Any

import anyio
import pytest

from gogoscope import Scope, ScopeClosedError, scope
from gogoscope.scopes import signals as scope_signals

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform == "win32", reason="os.kill does not send signals there"),
]

WATCHED = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1]


@pytest.fixture(autouse=True)
def handlers_are_put_back() -> Iterator[None]:
    before = [signal.getsignal(number) for number in WATCHED]
    fd = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(fd)
    yield
    after = [signal.getsignal(number) for number in WATCHED]
    for number, handler in zip(WATCHED, before, strict=True):
        signal.signal(number, handler)
    assert after == before
    assert not any(shared.listeners for shared in scope_signals._shared.values())
    assert signal.set_wakeup_fd(fd) == fd


def send(number: signal.Signals = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)


class Handled:
    """A signal handler of the program itself."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.numbers.append(number)


async def test_rule_13_stopping_is_set_before_the_grace_period_and_cancel_comes_after() -> None:
    events: list[str] = []

    async def polite() -> None:
        await s.stopping.wait()
        events.append("stopping")

    async def stubborn() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            events.append("cancelled")

    with anyio.fail_after(5):
        async with scope() as s:
            s.stop_on_signals(grace=0.05)
            s.task(polite)
            s.task(stubborn)
            await anyio.wait_all_tasks_blocked()
            send()
    assert events == ["stopping", "cancelled"]
    assert s.cancel_reason == "SIGTERM"


async def test_rule_13_a_signal_that_comes_at_once_is_received() -> None:
    with anyio.fail_after(5):
        async with scope() as s:
            s.stop_on_signals(grace=0)
            send()
            await anyio.sleep_forever()
    assert s.cancel_reason == "SIGTERM"


async def test_rule_13_a_second_signal_cancels_at_once() -> None:
    with anyio.fail_after(5):
        async with scope() as s:
            s.stop_on_signals(grace=60, signals=[signal.SIGINT, signal.SIGTERM])
            send(signal.SIGINT)
            await s.stopping.wait()
            send(signal.SIGTERM)
            await anyio.sleep_forever()
    assert s.cancel_reason == "SIGINT"


async def test_rule_13_a_block_that_stops_by_itself_is_not_cancelled() -> None:
    with anyio.fail_after(5):
        async with scope() as s:
            s.stop_on_signals(grace=60)
            send()
            await s.stopping.wait()
    assert s.cancel_reason is None


async def test_every_open_scope_that_asked_gets_the_signal() -> None:
    stopped: list[str] = []

    async def serve(name: str, ended: anyio.Event) -> None:
        async with scope() as s:
            s.stop_on_signals(grace=0)
            await ended.wait()
        stopped.append(f"{name} {s.cancel_reason}")

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            ends = [anyio.Event() for _ in range(3)]
            for name, ended in zip("abc", ends, strict=True):
                group.start_soon(serve, name, ended)
            await anyio.wait_all_tasks_blocked()
            ends[1].set()
            await anyio.wait_all_tasks_blocked()
            send()
    assert stopped[0] == "b None"
    assert sorted(stopped[1:]) == ["a SIGTERM", "c SIGTERM"]


async def test_the_handler_of_before_is_called_too_and_put_back() -> None:
    handled = Handled()
    before = signal.signal(signal.SIGTERM, handled)
    try:
        with anyio.fail_after(5):
            async with scope() as s:
                s.stop_on_signals(grace=0)
                send()
                await anyio.sleep_forever()
            assert s.cancel_reason == "SIGTERM"
        assert handled.numbers == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) is handled
    finally:
        signal.signal(signal.SIGTERM, before)


async def test_a_handler_that_was_installed_on_top_stays_and_may_call_the_one_of_before() -> None:
    first, on_top = Handled(), Handled()
    before = signal.signal(signal.SIGUSR1, first)
    try:
        async with scope() as s:
            s.stop_on_signals(grace=60, signals=[signal.SIGUSR1])
            ours: Any = signal.getsignal(signal.SIGUSR1)

            def call_both(number: int, frame: FrameType | None) -> None:
                on_top(number, frame)
                ours(number, frame)

            signal.signal(signal.SIGUSR1, call_both)
            async with s.child() as later:
                later.stop_on_signals(grace=60, signals=[signal.SIGUSR1])
                send(signal.SIGUSR1)
                await s.stopping.wait()
                assert (len(on_top.numbers), len(first.numbers)) == (1, 1)
        assert signal.getsignal(signal.SIGUSR1) is call_both
        send(signal.SIGUSR1)
        assert (len(on_top.numbers), len(first.numbers)) == (2, 2)
    finally:
        signal.signal(signal.SIGUSR1, before)


async def test_an_event_loop_that_sleeps_wakes_up_for_a_signal_that_does_not_interrupt_it() -> None:
    """A signal may arrive in another thread, or just before the event loop goes to sleep."""

    def send_here() -> None:
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)

    async with scope() as s:
        s.stop_on_signals(grace=60, signals=[signal.SIGUSR1])
        async with s.child() as ended:
            ended.stop_on_signals(signals=[signal.SIGUSR1])
        threading.Timer(0.2, send_here).start()
        with anyio.fail_after(5):
            await s.stopping.wait()


async def test_two_requests_of_one_scope_and_one_signal_named_twice_are_fine() -> None:
    with anyio.fail_after(5):
        async with scope() as s:
            s.stop_on_signals(grace=60, signals=[signal.SIGUSR1, signal.SIGUSR1])
            s.stop_on_signals(grace=0)
            send()
            await anyio.sleep_forever()
    assert s.cancel_reason == "SIGTERM"


async def test_what_cannot_be_handled_is_refused_before_anything_changes() -> None:
    wrong: list[tuple[Any, type[Exception], str]] = [
        ([signal.SIGUSR1, signal.SIGKILL], ValueError, "SIGKILL cannot be handled"),
        ([signal.SIGUSR1, signal.SIGSTOP], ValueError, "SIGSTOP cannot be handled"),
        ([signal.SIGUSR1, 0], ValueError, "0 is not one of signal.Signals"),
        ([signal.SIGUSR1, 1000], ValueError, "1000 is not one of signal.Signals"),
        ([signal.SIGUSR1, "SIGTERM"], ValueError, "'SIGTERM' is not one of signal.Signals"),
        ([], ValueError, "one signal or more"),
        (signal.SIGTERM, TypeError, r"a list like \[signal.SIGTERM\]"),
        ("SIGTERM", TypeError, r"a list like \[signal.SIGTERM\]"),
    ]
    async with scope() as s:
        for chosen, kind, message in wrong:
            with pytest.raises(kind, match=message):
                s.stop_on_signals(signals=chosen)
        with pytest.raises(ValueError, match="grace"):
            s.stop_on_signals(grace=-1)
        assert not s.stopping.is_set()
    with pytest.raises(ScopeClosedError):
        s.stop_on_signals()


def test_a_scope_in_another_thread_than_the_main_one_is_refused() -> None:
    refused: list[RuntimeError] = []

    async def serve() -> None:
        async with scope() as s:
            try:
                s.stop_on_signals()
            except RuntimeError as error:
                refused.append(error)

    thread = threading.Thread(target=anyio.run, args=[serve])
    thread.start()
    thread.join()
    assert "main thread" in str(refused[0])


async def test_a_handler_that_python_cannot_put_back_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with scope() as s:
        with monkeypatch.context() as patched:
            patched.setattr("signal.getsignal", lambda number: None)
            with pytest.raises(RuntimeError, match="handler that was not installed by Python"):
                s.stop_on_signals()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot fork here")
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
def test_a_forked_process_is_not_in_the_scopes_of_its_parent(anyio_backend: str) -> None:
    program = """
        import os, signal, time
        import anyio
        from gogoscope import scope

        async def main():
            async with scope() as s:
                s.stop_on_signals(grace=60)
                reading, writing = os.pipe()
                child = os.fork()
                if child == 0:
                    os.write(writing, b"ready")
                    time.sleep(60)
                os.read(reading, 5)
                os.kill(child, signal.SIGTERM)
                _, status = os.waitpid(child, 0)
                assert os.WTERMSIG(status) == signal.SIGTERM, status
                await anyio.sleep(0.05)
                assert not s.stopping.is_set()

        anyio.run(main)
    """
    subprocess.run([sys.executable, "-c", dedent(program)], check=True, timeout=20)


ENDING = """
import asyncio, os, signal, sys, threading, time
import anyio
from gogoscope import scope

def press_ctrl_c(after):
    threading.Timer(after, os.kill, (os.getpid(), signal.SIGINT)).start()

async def main():
    try:
        async with scope() as s:
            s.stop_on_signals(grace=5)
            press_ctrl_c(0.2)
            await s.stopping.wait()
            print("stopping", flush=True)
        print("ended", s.cancel_reason, flush=True)
        press_ctrl_c(0.2)
        await anyio.sleep(20)
    finally:
        print("finally", flush=True)

try:
    {run}
except KeyboardInterrupt:
    print("KeyboardInterrupt", flush=True)
"""


@pytest.mark.parametrize(
    "run",
    [
        "asyncio.run(main())",
        "asyncio.Runner().run(main())",
        "anyio.run(main, backend='asyncio', backend_options={'use_uvloop': True})",
        "import uvloop; uvloop.run(main())",
        "anyio.run(main, backend='trio')",
        "import trio; trio.run(main, restrict_keyboard_interrupt_to_checkpoints=True)",
    ],
)
def test_ctrl_c_stops_gracefully_in_the_block_and_interrupts_after_it(run: str) -> None:
    finished = subprocess.run(
        [sys.executable, "-W", "error", "-c", ENDING.replace("{run}", run)],
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    expected = ["stopping", "ended None", "finally", "KeyboardInterrupt"]
    assert finished.stdout.splitlines() == expected, finished.stderr
    assert finished.stderr == ""


async def test_a_receiver_of_the_program_itself_keeps_its_signals() -> None:
    received: list[int] = []

    async def serve(s: Scope) -> None:
        s.stop_on_signals(grace=60, signals=[signal.SIGUSR1])
        send(signal.SIGUSR1)
        await s.stopping.wait()

    with anyio.fail_after(5):
        with anyio.open_signal_receiver(signal.SIGUSR1) as arriving:
            for _ in range(2):
                async with scope() as s:
                    await serve(s)
                async for number in arriving:
                    received.append(number)
                    break
    assert received == [signal.SIGUSR1] * 2
