"""A payment service that charges twice if it is asked twice: an HTTP server in its own process.

``POST /charges`` charges an order, which takes up to ``LONGEST_CHARGE`` seconds. It knows no
idempotency keys. If the sender dies meanwhile, the order is charged all the same. It may even kill
the sender, at the worst moment.
``GET /charges/<order>`` looks in the books: it returns the receipts of an order, as soon as nothing
is charged for it any more.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from math import inf
from multiprocessing.connection import Connection
from typing import Any

import anyio

LONGEST_CHARGE = 0.3

Receipt = dict[str, Any]


KILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # Windows has no other signal that kills


class Books:
    """What was charged.

    :param deadly: by number, the requests whose sender is killed meanwhile, or the next one's
    """

    def __init__(self, deadly: Sequence[int]) -> None:
        self._deadly = list(deadly)
        self._killed: set[int] = set()
        self._asked = 0
        self._guard = threading.Condition()
        self._receipts: dict[str, list[Receipt]] = {}
        self._charging: Counter[str] = Counter()
        self._charges = 0

    def charge(self, order: str, cents: int, pid: int) -> Receipt:
        """Charge an order for a process, whoever asks, and however often."""
        with self._guard:
            self._charging[order] += 1
            self._asked += 1
            is_deadly = self._asked >= min(self._deadly, default=inf) and pid not in self._killed
            if is_deadly:
                self._killed.add(pid)
                self._deadly.remove(min(self._deadly))
        time.sleep(random.uniform(0.1, 0.5) * LONGEST_CHARGE)
        if is_deadly:
            os.kill(pid, KILL)
        time.sleep(random.uniform(0.1, 0.5) * LONGEST_CHARGE)
        with self._guard:
            self._charging[order] -= 1
            self._guard.notify_all()
            self._charges += 1
            receipt = {"order": order, "charge": f"ch-{self._charges}", "cents": cents}
            self._receipts.setdefault(order, []).append(receipt)
            return receipt

    def receipts(self, order: str) -> list[Receipt]:
        """Return the receipts of an order."""
        with self._guard:
            self._guard.wait_for(lambda: not self._charging[order])
            return list(self._receipts.get(order, []))


class Handler(BaseHTTPRequestHandler):
    """Speaks HTTP."""

    timeout = 30
    books: Books

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # the sender died
            super().handle()

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._answer(self.books.charge(**asked))

    def do_GET(self) -> None:
        self._answer(self.books.receipts(self.path.rpartition("/")[2]))

    def _answer(self, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
        """Log nothing: the books have it all."""


class Server(ThreadingHTTPServer):
    """One thread for each connection."""

    request_queue_size = 128


def serve(parent: Connection, deadly: Sequence[int]) -> None:
    """Run the service; tell the parent its port; stop when the parent closes its end, or dies."""
    Handler.books = Books(deadly)
    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}).start()
        parent.send(server.server_port)
        with contextlib.suppress(EOFError):
            parent.recv()
        server.shutdown()


async def charge(port: int, order: str, cents: int) -> Receipt:
    """Ask the service to charge an order."""
    asked = {"order": order, "cents": cents, "pid": os.getpid()}
    receipt: Receipt = await _request(port, "POST /charges", asked)
    return receipt


async def look_up(port: int, order: str) -> list[Receipt]:
    """Return the receipts of an order."""
    receipts: list[Receipt] = await _request(port, f"GET /charges/{order}")
    return receipts


async def _request(port: int, what: str, content: object = None) -> Any:
    body = b"" if content is None else json.dumps(content).encode()
    head = f"{what} HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n"
    async with await anyio.connect_tcp("127.0.0.1", port) as stream:
        await stream.send(head.encode() + body)
        answer = b"".join([chunk async for chunk in stream])
    return json.loads(answer.partition(b"\r\n\r\n")[2])
