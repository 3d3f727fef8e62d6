"""What is known during a run, from the journals of the service and the workers."""

from __future__ import annotations

from collections import Counter

from attrs import field, mutable

from gogoscope.persistence import CircuitBreakerState

from .journal import Fact


@mutable
class Progress:
    """The state of a run, for people to watch; the verdict at the end does not depend on it."""

    orders: int
    workers: int
    seconds: float = 0.0
    charged: set[str] = field(factory=set)
    executing: Counter[str] = field(factory=Counter)
    failures: Counter[str] = field(factory=Counter)
    spared: int = 0
    in_hand: dict[str, list[str]] = field(factory=dict)
    circuit: str = "closed"
    openings: set[int] = field(factory=set)

    def learn_from_service(self, fact: Fact) -> None:
        """Note a fact from the payment service."""
        match fact["what"]:
            case "started":
                self.executing[fact["order"]] += 1
            case "ended":
                self.executing[fact["order"]] -= 1
            case "charged":
                self.charged.add(fact["order"])

    def learn_from_worker(self, worker: str, fact: Fact) -> None:
        """Note a fact from a worker."""
        match fact["what"]:
            case "took":
                self.in_hand.setdefault(worker, []).append(fact["order"])
            case "left":
                self.in_hand[worker].remove(fact["order"])
            case "failed":
                self.failures[fact["kind"]] += 1
            case "spared":
                self.spared += 1

    def learn_of_circuit(self, state: CircuitBreakerState | None) -> None:
        """Note the state of the circuit; every opening has a different end."""
        if state is not None:
            self.circuit = state.state
            if state.state == "open" and state.open_until_ms is not None:
                self.openings.add(state.open_until_ms)
