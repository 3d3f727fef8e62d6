"""A fleet of workers gets orders paid by a flaky payment service, each exactly once.

Several worker processes share a file of orders and one store. The payment service fails, answers
late, loses answers, and is down for a while in the middle of the run. A lock keeps two workers from
paying the same order at the same time. Retries get past single failures. A circuit breaker that all
workers share protects the service while it is down. A cached receipt tells every worker that an
order is paid.

At the end, the ledger of the service shows whether it worked. Try ``--kill``, which kills a worker
while it holds a lock, and ``--without-lock``, to see what the lock is for.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
from attrs import frozen
from fleet_parts.display import open_display, summary
from fleet_parts.journal import JournalReader, read_facts
from fleet_parts.orders import Order, read_orders
from fleet_parts.payment_service import Weather
from fleet_parts.processes import PaymentService, WorkerProcess, payment_service
from fleet_parts.progress import Progress
from fleet_parts.store import for_one_run, sqlite_url
from fleet_parts.verdict import judge
from fleet_parts.worker import Work

from gogoscope import GogoscopeError, open_persistence, scope

DEADLINE = 240.0
OUTAGE = 5.0
LEDGER = "ledger.jsonl"
LOOK_EVERY = 0.1


@frozen
class Options:
    """What the command line asks for."""

    orders: list[Order]
    workers: int
    seed: int
    kill: bool
    without_lock: bool
    persistence: str | None


def main() -> int:
    """Run the fleet and return the exit code."""
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        return anyio.run(run, parse_options(sys.argv[1:]))
    except KeyboardInterrupt:
        print("interrupted; every process is stopped")
        return 130
    except GogoscopeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


async def run(options: Options) -> int:
    """Run the fleet on its store and return the exit code."""
    with TemporaryDirectory(prefix="fleet-") as name:
        folder = Path(name)
        url = for_one_run(options.persistence or sqlite_url(folder))
        print(f"{len(options.orders)} orders, {options.workers} workers, store {url}", flush=True)
        async with open_persistence(url) as store:
            await store.get_state("payments")  # fail early if the store does not work
            return await Fleet(options, folder, url, store).run()


class Fleet:
    """One run of the fleet."""

    def __init__(self, options: Options, folder: Path, url: str, store: Any) -> None:
        self.options = options
        self.folder = folder
        self.url = url
        self.store = store
        self.ledger = JournalReader(folder / LEDGER)
        self.progress = Progress(orders=len(options.orders), workers=options.workers)
        self.workers: list[WorkerProcess] = []
        self.killed: tuple[WorkerProcess, str] | None = None

    async def run(self) -> int:
        """Start everything, watch until the workers are done, and judge what they did."""
        weather = Weather(
            seed=self.options.seed,
            outage_after=len(self.options.orders) // 3,
            outage_seconds=OUTAGE,
        )
        with payment_service(self.folder / LEDGER, weather) as service, ExitStack() as at_the_end:
            for number in range(1, self.options.workers + 1):
                worker = WorkerProcess(self.work(f"worker-{number}", service.port))
                at_the_end.callback(worker.stop)
                self.workers.append(worker)
            with anyio.move_on_after(DEADLINE) as deadline:
                await self.watch(service)
            alive = service.alive
        self.ledger.close()
        if not alive:
            print("stopped: the payment service has died")
        elif deadline.cancelled_caught:
            print(f"stopped: the workers were not done within {DEADLINE:g} s")
        return await self.judge()

    def work(self, name: str, port: int) -> Work:
        """Return what a worker has to know."""
        return Work(
            name=name,
            persistence=self.url,
            orders=self.options.orders,
            port=port,
            journal=self.folder / f"{name}.jsonl",
            without_lock=self.options.without_lock,
        )

    async def watch(self, service: PaymentService) -> None:
        """Show the progress until the workers or the service end; kill a worker if asked to."""
        began = time.monotonic()
        with open_display() as show:
            while self.progress.workers and service.alive:
                await anyio.sleep(LOOK_EVERY)
                self.progress.workers = sum(worker.alive for worker in self.workers)
                self.read_journals()
                self.progress.learn_of_circuit(await self.store.get_state("payments"))
                self.progress.seconds = time.monotonic() - began
                show(self.progress)
                half_done = len(self.progress.charged) >= self.progress.orders / 2
                if self.options.kill and self.killed is None and half_done:
                    await self.kill_one()

    def read_journals(self) -> None:
        """Read what the service and the workers have written since the last time."""
        for fact in self.ledger.new_facts():
            self.progress.learn_from_service(fact)
        for worker in self.workers:
            for fact in worker.journal.new_facts():
                self.progress.learn_from_worker(worker.name, fact)

    async def kill_one(self) -> None:
        """Kill a worker at the worst moment: while the order whose lock it holds is executed."""
        for worker in self.workers:
            if not worker.alive:
                continue
            with worker.frozen():
                self.read_journals()
                for order in self.progress.in_hand.get(worker.name, []):
                    holder = await self.store.holder(f"order:{order}")
                    if self.progress.executing[order] and holder and holder.pid == worker.pid:
                        worker.kill()
                        self.killed = worker, order
                        return

    async def judge(self) -> int:
        """Print the summary and return the exit code."""
        orders = self.options.orders
        async with scope(persistence=self.store) as s:
            reads = await s.map(s.cache.get, [f"receipt:{order.number}" for order in orders])
        receipts = [read.unwrap() for read in reads]
        verdict = judge(orders, read_facts(self.folder / LEDGER), receipts)
        print(summary(self.progress, verdict))
        good = verdict.good
        killed = None
        if self.killed is not None:
            killed, order = self.killed
            print(f"{killed.name} was killed while it held the lock of order {order}")
        elif self.options.kill:
            print("nobody was killed: no worker held a lock at the time")
            good = False
        crashed = [w.name for w in self.workers if w.exit_code and w is not killed]
        if crashed:
            print(f"ended badly: {', '.join(crashed)}")
            good = False
        if good:
            print("every order was paid once, by one worker at a time")
        elif self.options.without_lock:
            print("that is what the lock is for")
        return 0 if good else 1


def parse_options(arguments: Sequence[str]) -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("--workers", type=int, default=4, metavar="N", help="default: 4")
    parser.add_argument("--orders", type=int, metavar="N", help="default: all of the file")
    parser.add_argument("--seed", type=int, default=1, help="seed for what goes wrong; default: 1")
    parser.add_argument("--kill", action="store_true", help="kill a worker that holds a lock")
    parser.add_argument("--without-lock", action="store_true", help="see what the lock is for")
    parser.add_argument(
        "--persistence", metavar="URL", help="the store; default: a temporary SQLite file"
    )
    given = parser.parse_args(arguments)
    orders = read_orders(Path(__file__).with_name("orders.jsonl"))
    if given.orders is None:
        given.orders = len(orders)
    if not 1 <= given.orders <= len(orders):
        parser.error(f"--orders must be between 1 and {len(orders)}, got {given.orders}")
    if not 1 <= given.workers <= 64:
        parser.error(f"--workers must be between 1 and 64, got {given.workers}")
    if given.kill and (given.workers < 2 or given.without_lock):
        parser.error("--kill needs locks, and another worker to take over: --workers 2 or more")
    if given.kill and not hasattr(signal, "SIGSTOP"):
        parser.error("--kill freezes a worker for a look at its locks, which this system cannot")
    if (given.persistence or "").lower().startswith("memory:"):
        parser.error("--persistence memory: is one process's own; the workers need a shared store")
    return Options(
        orders=orders[: given.orders],
        workers=given.workers,
        seed=given.seed,
        kill=given.kill,
        without_lock=given.without_lock,
        persistence=given.persistence,
    )


if __name__ == "__main__":
    sys.exit(main())
