"""The processes of the fleet: started, watched, and always stopped."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from .journal import JournalReader
from .payment_service import LONGEST_EXECUTION, Weather, serve
from .worker import Work, run_worker

START_SECONDS = 30.0


class PaymentService:
    """The running payment service."""

    def __init__(self, process: BaseProcess, port: int) -> None:
        self._process = process
        self.port = port

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.is_alive()


@contextmanager
def payment_service(ledger: Path, weather: Weather) -> Iterator[PaymentService]:
    """Run the payment service for the length of a block."""
    ours, theirs = multiprocessing.Pipe()
    process = start("payment-service", serve, ledger, weather, theirs)
    theirs.close()
    try:
        with ours:
            if not ours.poll(START_SECONDS):
                raise RuntimeError("the payment service did not start")
            yield PaymentService(process, ours.recv())
        process.join(10 * LONGEST_EXECUTION)
    finally:
        stop(process)


class WorkerProcess:
    """A worker, and what it has written into its journal."""

    def __init__(self, work: Work) -> None:
        self.name = work.name
        self.journal = JournalReader(work.journal)
        self._process = start(work.name, run_worker, work)

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.is_alive()

    @property
    def exit_code(self) -> int | None:
        """Its exit code: 0 for success, negative for the signal that killed it."""
        return self._process.exitcode

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Pause it for the length of a block; it takes and releases no lock meanwhile."""
        os.kill(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """Kill it with SIGKILL, as the system does when memory runs out."""
        self._process.kill()

    def stop(self) -> None:
        """Kill it if it still runs; its locks expire on their own."""
        stop(self._process)
        self.journal.close()


def start(name: str, life: Callable[..., None], *arguments: Any) -> BaseProcess:
    """Start a process that ignores Ctrl-C; the fleet stops it."""
    process = multiprocessing.get_context("spawn").Process(
        target=life, args=arguments, name=name, daemon=True
    )
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process.start()
    finally:
        signal.signal(signal.SIGINT, handler)
    return process


def stop(process: BaseProcess) -> None:
    """Kill a process if it still runs, and wait for its end."""
    process.kill()
    process.join()
