"""A worker: tries to pay every order that no other worker is paying, until all are paid.

The orders are not divided among the workers. Every worker sees every order, and the store decides.
A receipt in the cache means that the order is paid, a lock that another worker is paying it, and an
open circuit that the payment service is down.
"""

from __future__ import annotations

import functools
import multiprocessing
import time
from pathlib import Path

import anyio
from attrs import frozen

from gogoscope import (
    CircuitBreaker,
    CircuitOpenError,
    LeaseLostError,
    LockTimeoutError,
    PersistenceError,
    Retry,
    Scope,
    exponential,
    open_persistence,
    scope,
)

from .journal import Journal
from .orders import Order
from .payment_client import PaymentError, PaymentRefusedError, request_payment
from .payment_service import LONGEST_EXECUTION

ORDERS_AT_A_TIME = 4
PAUSE = 0.2
PATIENCE = LONGEST_EXECUTION / 2
"""How long an attempt may take. A slow execution takes longer; a retry then joins it."""

LEASE = 4.5 * LONGEST_EXECUTION
"""How long an order stays locked when its worker dies.

The lease is renewed after a third of its length. So if a worker dies, its lock lasts for at least
another 3 * LONGEST_EXECUTION: nobody else takes the order while the service may still execute it.
"""

PAYMENTS = CircuitBreaker(name="payments", failure_threshold=10, reset_timeout=1)


@frozen
class Work:
    """What a worker has to know."""

    name: str
    persistence: str
    orders: list[Order]
    port: int
    journal: Path
    without_lock: bool


def run_worker(work: Work) -> None:
    """Run a worker process until every order is paid."""
    journal = Journal(work.journal)
    anyio.run(Worker(work, journal).run)
    journal.close()


class Worker:
    """Pays orders."""

    def __init__(self, work: Work, journal: Journal) -> None:
        self.work = work
        self.journal = journal
        self.paid: set[str] = set()
        self.retry = Retry(
            attempts=12,
            delay=exponential(0.1, maximum=1.0),
            retry_on=when_to_retry,
            on_retry=lambda attempt, error, delay: self.note_failure(error),
            attempt_timeout=PATIENCE,
        )

    async def run(self) -> None:
        """Go through the orders again and again until all are paid, or the fleet has died."""
        async with open_persistence(self.work.persistence) as store:
            while unpaid := self.unpaid():
                async with scope(persistence=store) as s:
                    settle = functools.partial(self.settle, s)
                    settled = s.as_completed(settle, unpaid, limit=ORDERS_AT_A_TIME)
                    async for order, result in settled:
                        if result.unwrap():
                            self.paid.add(order.number)
                        if not fleet_lives():
                            return
                await anyio.sleep(PAUSE)

    def unpaid(self) -> list[Order]:
        """Return the orders that are not known to be paid."""
        return [order for order in self.work.orders if order.number not in self.paid]

    async def settle(self, s: Scope, order: Order) -> bool:
        """Try to pay an order; return whether it is paid."""
        try:
            if await s.cache.has(f"receipt:{order.number}"):
                return True
            if self.work.without_lock:
                return await self.pay(s, order, time.time_ns())
            async with s.lock(f"order:{order.number}", ttl=LEASE, wait=0) as locked:
                return await self.pay(locked, order, locked.fencing_token)
        except LockTimeoutError:
            return False
        except (LeaseLostError, PersistenceError) as error:
            self.note_failure(error)
            return False

    async def pay(self, s: Scope, order: Order, fencing_token: int) -> bool:
        """Pay an order whose lock is ours, unless it was paid in the meantime."""
        if await s.cache.has(f"receipt:{order.number}"):
            return True
        self.journal.note("took", order=order.number)
        try:
            error, receipt = await s.task(
                request_payment,
                self.work.port,
                order,
                fencing_token,
                circuit_breaker=PAYMENTS,
                retry=self.retry,
            )
            if error is not None:
                self.note_failure(error)
                await anyio.sleep(LONGEST_EXECUTION)  # keep the lock: it may still be executed
                return False
            await s.cache.set(f"receipt:{order.number}", receipt, ttl=3600)
            return True
        finally:
            self.journal.note("left", order=order.number)

    def note_failure(self, error: Exception) -> None:
        """Note that an attempt failed, or that the open circuit prevented one."""
        if isinstance(error, CircuitOpenError):
            self.journal.note("spared")
        else:
            self.journal.note("failed", kind=kind_of(error))


def when_to_retry(error: Exception) -> bool | float:
    """Return whether to retry after an error, or in how many seconds."""
    if isinstance(error, CircuitOpenError):
        return error.retry_after
    return isinstance(error, PaymentError | TimeoutError)


def fleet_lives() -> bool:
    """Return whether the process that started this one still runs."""
    fleet = multiprocessing.parent_process()
    return fleet is not None and fleet.is_alive()


def kind_of(error: Exception) -> str:
    """Return the name of an error in the summary."""
    if isinstance(error, TimeoutError):
        return "timeouts"
    if isinstance(error, PaymentError | PaymentRefusedError):
        return "payment errors"
    return "store errors"
