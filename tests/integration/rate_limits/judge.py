"""The judge of rate limits: it has a clock of its own, and looks at every window.

A call that began at ``at`` had its place between ``at - delay`` and ``at``: the worker measures
what lies between them, which is the time of its request and how late it woke up. The bound says of
the places, by one clock, that in any ``t`` seconds there are at most ``rate * t + burst`` of them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from attrs import define, field, frozen

LONGEST_WINDOW = 5.0
"""Windows up to this long are judged with the delays of their own calls; longer ones with the
longest of all."""


@frozen
class Call:
    """A call: when it began by the judge's clock, how late, at what cost, and in which process."""

    at: float
    delay: float
    cost: float
    slot: int


@define
class Verdict:
    """What was found; ``problems`` is empty if all is well."""

    calls: int = 0
    reached: float = 0.0
    shares: dict[int, float] = field(factory=dict)
    most_above: float = 0.0
    longest_delay: float = 0.0
    faults: Counter[str] = field(factory=Counter)
    problems: list[str] = field(factory=list)

    def __str__(self) -> str:
        fewest, most = min(self.shares.values()), max(self.shares.values())
        faults = ", ".join(f"{count} {name}" for name, count in sorted(self.faults.items()))
        lines = [
            f"{self.calls} calls, {self.reached:.3f} of what is allowed",
            f"shares {fewest:.2f} to {most:.2f} of the even one",
            f"at most {self.most_above:.1f} calls above rate * t + burst in a window",
            f"longest delay {self.longest_delay:.3f} s",
            faults,
            *self.problems,
        ]
        return "\n".join(lines)


def read_calls(folder: Path) -> list[Call]:
    """Return the calls that all processes have logged, in their order."""
    calls = [
        Call(**json.loads(line))
        for path in folder.glob("calls-*")
        for line in path.read_text().splitlines()
    ]
    return sorted(calls, key=lambda call: call.at)


def most_above(calls: Iterable[Call], rate: float) -> float:
    """Return by how much a window has more than ``rate * t``, at most, over all windows."""
    most = above = 0.0
    before: Call | None = None
    for call in calls:
        gap = 0.0 if before is None else call.at - before.at
        above = max(0.0, above - gap * rate) + call.cost
        most = max(most, above)
        before = call
    return most


def crowded(
    calls: list[Call], rate: float, burst: float, spread: float, held: float
) -> list[tuple[float, float, float]]:
    """Return windows of places with more than the bound: their begin, their length, the excess."""
    found = []
    by_place = sorted(calls, key=lambda call: call.at - call.delay)
    first = 0
    for opening in by_place:
        begin = opening.at - opening.delay
        while calls[first].at < begin:
            first += 1
        costs = 0.0
        for call in calls[first:]:
            length = call.at - begin
            if length > LONGEST_WINDOW:
                break
            if call.at - call.delay >= begin:
                costs += call.cost
                excess = costs - (rate * (length + spread) + burst + held)
                if excess > 1e-6:
                    found.append((begin, length, excess))
    return found


def judge(
    calls: list[Call],
    *,
    rate: float,
    burst: float,
    spread: float,
    held: float = 0.0,
    slots: int,
    begin: float,
    end: float,
) -> Verdict:
    """Judge what all processes have done between two times.

    :param spread: how far apart two clocks are that the store counts by
    :param held: what the batches of all processes hold
    """
    verdict = Verdict(calls=len(calls))
    verdict.longest_delay = max((call.delay for call in calls), default=0.0)
    verdict.most_above = max(0.0, most_above(calls, rate) - burst)
    bound = rate * (verdict.longest_delay + spread) + held
    if verdict.most_above > bound + 1e-6:
        verdict.problems.append(
            f"a window has {verdict.most_above:.1f} calls above rate * t + burst, and {bound:.1f} "
            "are allowed"
        )
    windows = crowded(calls, rate, burst, spread, held)
    if windows:
        at, length, excess = max(windows, key=lambda window: window[2])
        verdict.problems.append(
            f"{len(windows)} windows are too full: one of {length:.3f} s by {excess:.1f} calls, "
            f"{at - begin:.3f} s after the beginning"
        )
    within = [call for call in calls if begin <= call.at <= end]
    spent = sum(call.cost for call in within)
    verdict.reached = spent / (rate * (end - begin))
    for slot in range(slots):
        own = sum(call.cost for call in within if call.slot == slot)
        verdict.shares[slot] = own * slots / spent if spent else 0.0
    return verdict
