"""A payment service as flaky as real ones: an HTTP server on loopback, in a process of its own.

``POST /payments`` charges an order. The header ``Idempotency-Key`` is the number of the order. Once
the order is charged, every later request gets the same receipt, and nothing is charged again.
``Fencing-Token`` is the token of the lock that the sender holds. A retry with the same token joins
the execution that its earlier attempt started. A token lower than the highest one seen is refused.

Like many real services, this one looks up the key first and charges later. So the key protects
against later requests, but not against a request of another sender at the same time: both would be
executed, and both would charge. The lock prevents that, and the ledger shows whether it did.

If the sender hangs up, its execution still runs to the end. No execution takes longer than
``LONGEST_EXECUTION``.
"""

from __future__ import annotations

import contextlib
import json
import random
import threading
import time
from collections import defaultdict
from concurrent.futures import Future, ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

from attrs import field, frozen, mutable

from .journal import Journal

LONGEST_EXECUTION = 2.0

Fate = Literal["fine", "slow", "refused", "failed", "unanswered"]
FATES: dict[Fate, int] = {"fine": 86, "slow": 3, "refused": 4, "failed": 4, "unanswered": 3}


@frozen
class Weather:
    """What goes wrong, and when: the same for the same seed.

    ``outage_after`` is the number of charges after which every request is refused for
    ``outage_seconds``.
    """

    seed: int
    outage_after: int
    outage_seconds: float

    def fate(self, order: str, request: int) -> Fate:
        """Return what happens to the n-th request for an order."""
        dice = self._dice(order, request)
        return dice.choices(list(FATES), weights=list(FATES.values()))[0]

    def seconds(self, order: str, request: int, fate: Fate) -> float:
        """Return how long an execution takes."""
        dice = self._dice(order, request)
        if fate == "slow":
            return dice.uniform(0.75, 0.95) * LONGEST_EXECUTION
        return dice.uniform(0.1, 0.4)

    def _dice(self, order: str, request: int) -> random.Random:
        return random.Random(f"{self.seed} {order} {request}")


@frozen
class Answer:
    """An HTTP answer; ``None`` instead of one means that the connection just closes."""

    status: int
    content: dict[str, Any]


Execution = Future[Answer | None]


@mutable
class Account:
    """What the service knows about an order; ``executions`` are those in flight, by token."""

    requests: int = 0
    highest_token: int = 0
    receipt: dict[str, Any] | None = None
    executions: dict[int, Execution] = field(factory=dict)


class PaymentService:
    """Charges orders, and writes start, charge and end of every execution to the ledger."""

    def __init__(self, ledger: Journal, weather: Weather) -> None:
        self._ledger = ledger
        self._weather = weather
        self._guard = threading.Lock()
        self._threads = ThreadPoolExecutor(max_workers=64)
        self._accounts: defaultdict[str, Account] = defaultdict(Account)
        self._executions = 0
        self._charges = 0
        self._outage_ends: float | None = None

    def pay(self, order: str, token: int, cents: int) -> Answer | None:
        """Handle one request and return its answer when the work is done."""
        with self._guard:
            reply = self._admit(order, token, cents)
        return reply if isinstance(reply, Answer) else reply.result()

    def close(self) -> None:
        """Wait for the executions in flight."""
        self._threads.shutdown()

    def _admit(self, order: str, token: int, cents: int) -> Answer | Execution:
        account = self._accounts[order]
        account.requests += 1
        if self._is_down():
            return self._refuse(order, 503, "out of service")
        if token < account.highest_token:
            return self._refuse(order, 409, "a later holder of the lock was here")
        account.highest_token = token
        if account.receipt is not None:
            self._ledger.note("repeated", order=order)
            return Answer(200, account.receipt)
        if token in account.executions:
            self._ledger.note("joined", order=order)
            return account.executions[token]
        fate = self._weather.fate(order, account.requests)
        if fate == "refused":
            return self._refuse(order, 503, "too busy")
        self._executions += 1
        self._ledger.note("started", order=order, execution=self._executions, token=token)
        seconds = self._weather.seconds(order, account.requests, fate)
        execution = self._threads.submit(
            self._execute, self._executions, order, token, cents, fate, seconds
        )
        account.executions[token] = execution
        return execution

    def _execute(
        self, number: int, order: str, token: int, cents: int, fate: Fate, seconds: float
    ) -> Answer | None:
        time.sleep(seconds)
        with self._guard:
            account = self._accounts[order]
            del account.executions[token]
            if fate == "failed":
                self._ledger.note("ended", order=order, execution=number)
                return Answer(500, {"error": "internal error"})
            self._charges += 1
            account.receipt = {"order": order, "charge": f"ch-{number}", "cents": cents}
            self._ledger.note("charged", execution=number, **account.receipt)
            self._ledger.note("ended", order=order, execution=number)
            return None if fate == "unanswered" else Answer(200, account.receipt)

    def _is_down(self) -> bool:
        if self._outage_ends is None and self._charges >= self._weather.outage_after:
            self._outage_ends = time.monotonic() + self._weather.outage_seconds
            self._ledger.note("outage", seconds=self._weather.outage_seconds)
        return self._outage_ends is not None and time.monotonic() < self._outage_ends

    def _refuse(self, order: str, status: int, why: str) -> Answer:
        self._ledger.note("refused", order=order, why=why)
        return Answer(status, {"error": why})


class Server(ThreadingHTTPServer):
    """One thread for each connection."""

    request_queue_size = 128
    daemon_threads = False

    def __init__(self, service: PaymentService) -> None:
        self.service = service
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(BaseHTTPRequestHandler):
    """Speaks HTTP."""

    timeout = 30

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # the sender hung up
            super().handle()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert isinstance(self.server, Server)
        answer = self.server.service.pay(
            self.headers["Idempotency-Key"], int(self.headers["Fencing-Token"]), body["cents"]
        )
        if answer is None:
            return
        content = json.dumps(answer.content).encode()
        self.send_response(answer.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
        """Log nothing: the ledger has it all."""


def serve(ledger: Path, weather: Weather, fleet: Connection) -> None:
    """Run the service; tell the fleet its port; stop when the fleet closes its end, or dies.

    Executions in flight are finished first, so that the ledger is complete.
    """
    journal = Journal(ledger)
    service = PaymentService(journal, weather)
    with Server(service) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}).start()
        fleet.send(server.server_port)
        with contextlib.suppress(EOFError):
            fleet.recv()
        server.shutdown()
    service.close()
    journal.close()
