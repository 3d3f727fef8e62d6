"""Four processes call a service that allows 40 calls a second, and never call it too often.

    python examples/rate_limit.py [--persistence sqlite:////tmp/rates.db]

This program serves HTTP, and answers 429 to every call beyond the bound that gogoscope states. It
starts the processes, which call as often as they may. After some seconds it answers one call with
429 and ``Retry-After: 2``: that one answer makes the whole fleet pause. It draws the calls of each
quarter of a second.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
from anyio.abc import SocketAttribute, SocketStream
from attrs import define, field

from gogoscope import RateLimit, open_persistence, scope

PROCESSES, WORKERS = 4, 4
RATE, BURST = 40, 10
CALM_SECONDS, PAUSE_SECONDS, LATER_SECONDS = 3.0, 2.0, 3.0
# Each worker has one call at a time, so no more than this many can come late, however late.
MOST_LATE = PROCESSES * WORKERS
BAR = 0.25


def pause_of(answer: object) -> float | None:
    """Return for how long a service asks us to leave it alone."""
    return answer.retry_after if isinstance(answer, Answer) and answer.status == 429 else None


limit = RateLimit("service", rate=RATE, burst=BURST, retry_after=pause_of)


@define
class Answer:
    """What the service has answered."""

    status: int
    retry_after: float


async def call(port: int) -> Answer:
    """Call the service."""
    async with await anyio.connect_tcp("127.0.0.1", port) as stream:
        await stream.send(b"GET / HTTP/1.1\r\nHost: service\r\n\r\n")
        head = (await stream.receive()).decode().split("\r\n")
    status, retry_after = int(head[0].split()[1]), float(head[1].partition(": ")[2])
    return Answer(status, retry_after)


async def work(persistence: str, port: int) -> None:
    """Call the service as often as we may, until it is gone."""

    async def call_on() -> None:
        try:
            while True:
                await s.call(call, port, rate_limit=limit)
        except OSError:
            return

    async with scope(persistence=persistence) as s:
        for _ in range(WORKERS):
            s.task(call_on)


@define
class Service:
    """A service that counts its calls, and refuses what is beyond its limit."""

    called: list[float] = field(factory=list)
    began: anyio.Event = field(factory=anyio.Event)
    refused: int = 0
    full_at: float = 0.0
    asks_to_pause: bool = False
    paused_at: float | None = None

    def answer(self) -> tuple[str, float]:
        now = time.monotonic()
        self.called.append(now)
        self.began.set()
        if self.asks_to_pause:
            self.asks_to_pause, self.paused_at = False, now
            return "429 Too Many Requests", PAUSE_SECONDS
        # The bucket of the stated bound, with room for the calls that may come late.
        full_at = max(self.full_at, now) + 1 / RATE
        if full_at > now + (BURST + MOST_LATE) / RATE:
            self.refused += 1
            return "429 Too Many Requests", 1
        self.full_at = full_at
        return "200 OK", 0

    async def serve(self, stream: SocketStream) -> None:
        async with stream:
            await stream.receive()
            status, retry_after = self.answer()
            await stream.send(f"HTTP/1.1 {status}\r\nRetry-After: {retry_after:g}\r\n\r\n".encode())


def start(command: list[str]) -> subprocess.Popen[bytes]:
    """Start a process of the fleet."""
    return subprocess.Popen(command)


async def main(persistence: str) -> None:
    """Serve, let the processes call, and draw when they did."""
    service = Service()
    async with (
        open_persistence(persistence),  # so that it is there when they all begin
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as group,
    ):
        group.start_soon(listener.serve, service.serve)
        port = listener.extra(SocketAttribute.local_port)
        command = [sys.executable, __file__, "--persistence", persistence, "--port", str(port)]
        fleet = [start(command) for _ in range(PROCESSES)]
        try:
            with anyio.fail_after(60):
                await service.began.wait()
            await anyio.sleep(CALM_SECONDS)
            service.asks_to_pause = True
            await anyio.sleep(PAUSE_SECONDS + LATER_SECONDS)
        finally:
            for process in fleet:
                process.kill()
                process.wait()
        group.cancel_scope.cancel()
    draw(service)


def draw(service: Service) -> None:
    """Draw the calls of each quarter of a second, and say what there is to see."""
    begin = service.called[0]
    bars = Counter(int((at - begin) / BAR) for at in service.called)
    paused = -1 if service.paused_at is None else int((service.paused_at - begin) / BAR)
    for bar in range(max(bars) + 1):
        note = "  <- one answer was 429, Retry-After: 2" if bar == paused else ""
        print(f"{bar * BAR:5.2f} s {'#' * bars[bar]}{note}")
    print(f"{len(service.called)} calls, {service.refused} of them too many")
    if service.paused_at is None:
        raise RuntimeError("nobody called after the service asked for a pause")
    second = [at for at in service.called if 1 <= at - service.paused_at < PAUSE_SECONDS]
    later = [at for at in service.called if at - service.paused_at >= PAUSE_SECONDS]
    print(f"{len(second)} calls in the second second of the pause, {len(later)} after it")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--persistence", help="a URL; a SQLite file of its own if left out")
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if (options.persistence or "").lower().startswith("memory:"):
        parser.error("--persistence memory: is one process's own; the fleet needs a shared store")
    if options.port:
        anyio.run(work, options.persistence, options.port)
    elif options.persistence:
        anyio.run(main, options.persistence)
    else:
        with TemporaryDirectory() as folder:
            anyio.run(main, f"sqlite:///{Path(folder) / 'rates.db'}")
