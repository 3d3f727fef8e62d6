"""A worker that gets every order charged, once: what the whole example is about.

Each worker is asked for each order, as a queue that delivers more than once does.
"""

from __future__ import annotations

import multiprocessing
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import anyio
from attrs import frozen
from fleet_parts.journal import Journal
from fleet_parts.orders import Order

from gogoscope import LeaseLostError, OutcomeUnknownError, PersistenceError, Scope, scope

from .bank import LONGEST_CHARGE, Receipt, charge, look_up

LEASE = 6 * LONGEST_CHARGE
"""How long an order stays with a worker that died.

It is renewed after a third. So nobody has the order before another 4 * LONGEST_CHARGE are over, and
by then the service knows what the dead worker asked for.
"""

ORDERS_AT_A_TIME = 4
PAUSE = 0.2
KEEP = 3600


@frozen
class Work:
    """What a worker has to know."""

    store: str
    orders: list[Order]
    port: int
    journal: Path
    ask: bool
    without_once: bool


def run_worker(work: Work) -> None:
    """Run a worker process until it has the receipt of every order."""
    journal = Journal(work.journal)
    anyio.run(Worker(work, journal).run)
    journal.close()


class Worker:
    """Gets orders charged."""

    def __init__(self, work: Work, journal: Journal) -> None:
        self.work = work
        self.journal = journal

    async def run(self) -> None:
        """Ask for each order until there is a receipt, or the program around has died."""
        left = random.sample(self.work.orders, len(self.work.orders))
        async with scope(persistence=self.work.store) as s:
            while left:
                again = []
                paid = s.as_completed(partial(self.pay, s), left, limit=ORDERS_AT_A_TIME)
                async for order, result in paid:
                    match result.error:
                        case None:
                            self.journal.note("receipt", receipt=result.unwrap())
                        case OutcomeUnknownError() | LeaseLostError() | PersistenceError():
                            again.append(order)
                        case error:
                            raise error
                    if not parent_lives():
                        return
                left = again
                await anyio.sleep(PAUSE if left else 0)

    async def pay(self, s: Scope, order: Order) -> Receipt:
        """Charge an order, unless anybody has."""
        if self.work.without_once:
            return await charge(self.work.port, order.number, order.cents)
        async with s.claim(
            f"charge:{order.number}",
            keep=KEEP,
            lease=LEASE,
            payload=order.cents,
            after_crash="ask" if self.work.ask else "run",
        ) as run:
            if not run.done:
                run.complete(await self.charge(order, run.ensure))
        receipt: Receipt = run.result
        return receipt

    async def charge(self, order: Order, ensure: Callable[[], None]) -> Receipt:
        """Charge an order; after a crash only if the books say that it was not."""
        if (
            not self.work.ask
        ):  # with --ask, a run that died is never repeated unless somebody says so
            receipts = await look_up(self.work.port, order.number)
            if receipts:
                return receipts[0]
        ensure()  # whoever was stopped for longer than the lease must not ask any more
        return await charge(self.work.port, order.number, order.cents)


def parent_lives() -> bool:
    """Return whether the process that started this one still runs."""
    parent = multiprocessing.parent_process()
    return parent is not None and parent.is_alive()
