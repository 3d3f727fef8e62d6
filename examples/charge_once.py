"""Workers get orders charged, once, by a service that charges twice if it is asked twice.

    python examples/charge_once.py [--orders 60] [--workers 4] [--kills 3] [--ask] [--store URL]

Every worker is asked for every order, and some are killed with SIGKILL while they wait for the
service, which charges the order all the same. ``s.claim`` has one of them charge the order, and the
others get its receipt. What if the worker dies that was to charge it? There are two ways:

- Another worker takes over when the lease of the dead one is over. It looks in the books of the
  service, and charges the order only if they do not have it.
- With ``--ask``, for services that have no books, nobody takes over: every worker is told that the
  outcome is unknown, until somebody decides. Here this program is the somebody.

At the end, the books of the service show whether it worked. Try ``--without-once``, to see what it
is for.
"""

from __future__ import annotations

import argparse
import multiprocessing
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
from attrs import frozen
from charge_parts.bank import KILL, Receipt, look_up, serve
from charge_parts.worker import Work, run_worker
from fleet_parts.journal import JournalReader
from fleet_parts.orders import Order, read_orders
from fleet_parts.processes import START_SECONDS, start, stop
from fleet_parts.store import for_one_run, sqlite_url

from gogoscope import GogoscopeError, open_persistence

DEADLINE = 240.0
LOOK_EVERY = 0.05
KEEP = 3600


@frozen
class Options:
    """What the command line asks for."""

    orders: list[Order]
    workers: int
    kills: int
    ask: bool
    without_once: bool


class Shop:
    """One run: the workers, those who were killed, and what was decided by hand."""

    def __init__(self, options: Options, folder: Path, url: str, store: Any, port: int) -> None:
        self.options = options
        self.folder = folder
        self.url = url
        self.store = store
        self.port = port
        self.workers: dict[BaseProcess, JournalReader] = {}
        self.journals = ExitStack()
        self.receipts: list[Receipt] = []
        self.killed: set[BaseProcess] = set()
        self.decided = 0

    async def run(self) -> int:
        """Start the workers, replace those that are killed, and judge what they did."""
        began = time.monotonic()
        with ExitStack() as at_the_end:
            for _ in range(self.options.workers):
                self.start_worker(at_the_end)
            with anyio.move_on_after(DEADLINE) as deadline:
                while self.replace_the_dead(at_the_end):
                    await anyio.sleep(LOOK_EVERY)
                    self.read_journals()
                    if self.options.ask:
                        await self.decide()
            failed = sum(worker.exitcode != 0 for worker in self.workers) - len(self.killed)
        self.read_journals()
        self.journals.close()
        if deadline.cancelled_caught or failed:
            print(f"stopped: the workers failed, or took longer than {DEADLINE:g} s")
            return 1
        return await self.judge(time.monotonic() - began)

    def start_worker(self, at_the_end: ExitStack) -> None:
        """Start a worker, which is stopped at the end."""
        journal = self.folder / f"worker-{len(self.workers)}.jsonl"
        options = self.options
        work = Work(self.url, options.orders, self.port, journal, options.ask, options.without_once)
        reader = JournalReader(journal)
        worker = start(journal.stem, run_worker, work)
        self.workers[worker] = reader
        at_the_end.callback(stop, worker)
        self.journals.callback(reader.close)

    def read_journals(self) -> None:
        """Note the receipts that the workers have got."""
        for journal in self.workers.values():
            self.receipts += [fact["receipt"] for fact in journal.new_facts()]

    def replace_the_dead(self, at_the_end: ExitStack) -> bool:
        """Start a worker in the place of each that was killed; return whether any work."""
        exit_codes = {worker: worker.exitcode for worker in self.workers}
        killed = {worker for worker, code in exit_codes.items() if code in (-KILL, KILL)}
        for worker in killed - self.killed:
            self.killed.add(worker)
            print(f"{worker.name} was killed while it had an order charged", flush=True)
            self.start_worker(at_the_end)
        return len(self.workers) > len(exit_codes) or None in exit_codes.values()

    async def decide(self) -> None:
        """Look in the books for each order whose outcome nobody knows, and say what came of it."""
        for key, run in (await self.store.runs("charge:*")).items():
            if run.state in ("unknown", "crashed"):
                receipts = await look_up(self.port, key.partition(":")[2])
                if receipts:
                    await self.store.resolve_run(key, result=receipts[0], keep=KEEP)
                else:
                    await self.store.resolve_run(key, repeat=True)
                self.decided += 1

    async def judge(self, seconds: float) -> int:
        """Compare the books with what the workers were told; print it and return the exit code."""
        books = {
            order.number: await look_up(self.port, order.number) for order in self.options.orders
        }
        once = {number for number, receipts in books.items() if len(receipts) == 1}
        twice = [number for number, receipts in books.items() if len(receipts) > 1]
        wrong = [receipt for receipt in self.receipts if receipt not in books[receipt["order"]]]
        print(f"charged once        {len(once)} of {len(books)}")
        print(f"charged twice       {len(twice)}")
        print(f"receipts returned   {len(self.receipts)}")
        print(f"of these, wrong     {len(wrong)}")
        print(f"workers killed      {len(self.killed)}")
        print(f"decided by hand     {self.decided}")
        print(f"seconds             {seconds:.1f}")
        if len(once) == len(books) and not wrong and len(self.killed) == self.options.kills:
            print("every order was charged once")
            return 0
        if self.options.without_once:
            print("that is what once= is for")
        return 1


@contextmanager
def bank(options: Options) -> Iterator[int]:
    """Run the payment service for the length of a block; return its port."""
    orders, kills = len(options.orders), options.kills
    deadly = [1 + kill * orders // (kills + 1) for kill in range(1, kills + 1)]
    ours, theirs = multiprocessing.Pipe()
    process = start("bank", serve, theirs, deadly)
    theirs.close()
    try:
        with ours:
            if not ours.poll(START_SECONDS):
                raise RuntimeError("the payment service did not start")
            yield ours.recv()
    finally:
        stop(process)


async def run(options: Options, store_url: str | None) -> int:
    """Run it on its store and return the exit code."""
    with TemporaryDirectory(prefix="charge-") as name, bank(options) as port:
        url = for_one_run(store_url or sqlite_url(Path(name)))
        print(f"{len(options.orders)} orders, {options.workers} workers, store {url}", flush=True)
        async with open_persistence(url) as opened:
            store: Any = opened  # not every store has runs
            await store.runs()  # fail early if this one does not work
            return await Shop(options, Path(name), url, store, port).run()


def main() -> int:
    """Read the command line, run, and return the exit code."""
    orders = read_orders(Path(__file__).with_name("orders.jsonl"))
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("--orders", type=int, default=60, metavar="N", help="default: 60")
    parser.add_argument("--workers", type=int, default=4, metavar="N", help="default: 4")
    parser.add_argument("--kills", type=int, default=3, metavar="N", help="default: 3")
    parser.add_argument("--ask", action="store_true", help="repeat nothing, and ask instead")
    parser.add_argument("--without-once", action="store_true", help="see what it is for")
    parser.add_argument("--store", metavar="URL", help="default: a temporary SQLite file")
    given = parser.parse_args()
    if not 1 <= given.orders <= len(orders):
        parser.error(f"--orders must be between 1 and {len(orders)}, got {given.orders}")
    if not 1 <= given.workers <= 64:
        parser.error(f"--workers must be between 1 and 64, got {given.workers}")
    if not 0 <= given.kills < given.orders:
        parser.error(f"--kills must be 0 or more, and less than the orders, got {given.kills}")
    if (given.store or "").lower().startswith("memory:"):
        parser.error("--store memory: is one process's own; the workers need a shared store")
    kills = 0 if given.without_once else given.kills
    options = Options(orders[: given.orders], given.workers, kills, given.ask, given.without_once)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        return anyio.run(run, options, given.store)
    except KeyboardInterrupt:
        print("interrupted; every process is stopped")
        return 130
    except GogoscopeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
