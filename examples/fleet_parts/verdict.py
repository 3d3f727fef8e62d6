"""Was every order paid once, by one worker at a time? What the workers claim does not count.

What counts is the ledger of the service, whose lines are in the order of the events, and the
receipts that are in the store at the end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from attrs import field, frozen

from .journal import Fact
from .orders import Order


@frozen
class Verdict:
    """The orders that were paid, and those with a problem.

    An order is ``lost`` if it was not charged, if its receipt in the store is missing or matches no
    charge, or if its last execution never ended. It is ``overlapped`` if it had two executions at
    the same time.
    """

    paid: set[str] = field(factory=set)
    lost: set[str] = field(factory=set)
    charged_twice: set[str] = field(factory=set)
    overlapped: set[str] = field(factory=set)

    @property
    def good(self) -> bool:
        """Whether no order has a problem."""
        return not (self.lost or self.charged_twice or self.overlapped)


def judge(orders: Sequence[Order], ledger: Iterable[Fact], receipts: Sequence[Any]) -> Verdict:
    """Compare the orders with the ledger and the receipts (one for each order, or ``None``)."""
    verdict = Verdict()
    executing: Counter[str] = Counter()
    charges: dict[str, list[dict[str, Any]]] = {}
    for fact in ledger:
        match fact["what"]:
            case "started":
                if executing[fact["order"]]:
                    verdict.overlapped.add(fact["order"])
                executing[fact["order"]] += 1
            case "ended":
                executing[fact["order"]] -= 1
            case "charged":
                charge = {name: fact[name] for name in ("order", "charge", "cents")}
                charges.setdefault(fact["order"], []).append(charge)
    for order, receipt in zip(orders, receipts, strict=True):
        charged = charges.get(order.number, [])
        if len(charged) > 1:
            verdict.charged_twice.add(order.number)
        ended = not executing[order.number]
        if ended and receipt in charged and receipt["cents"] == order.cents:
            verdict.paid.add(order.number)
        else:
            verdict.lost.add(order.number)
    return verdict
