"""Judges what tortured processes logged of their permits, by one clock that all of them share.

A process notes the time before each ``ensure()`` that raises nothing: so it was sure to hold its
permit at that time, and at all times since the first such note of that permit. Two such stretches
that overlap were held at the same time, whatever became of either process afterwards.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from attrs import define, field

Log = dict[int, list[dict[str, Any]]]


@define
class Verdict:
    happened: Counter[str] = field(factory=Counter)
    faults: Counter[str] = field(factory=Counter)
    most: Counter[str] = field(factory=Counter)
    longest_wait: dict[str, float] = field(factory=dict)
    problems: list[str] = field(factory=list)

    def __str__(self) -> str:
        return "\n".join(
            [
                *(f"  {name:<34}{count:>7}" for name, count in sorted(self.faults.items())),
                *(f"  {name:<34}{count:>7}" for name, count in sorted(self.happened.items())),
                *(f"  most at a time: {name:<18}{most:>7}" for name, most in self.most.items()),
                *(f"  longest wait: {name:<20}{wait:>7.2f}" for name, wait in self.waits()),
                f"problems: {len(self.problems)}",
                *(f"  {problem}" for problem in self.problems[:20]),
            ]
        )

    def waits(self) -> list[tuple[str, float]]:
        return sorted(self.longest_wait.items())


def read_log(folder: Path) -> Log:
    """Read what the processes left in a folder."""
    return {
        int(path.name.removeprefix("log-")): [
            json.loads(text) for text in path.read_text().splitlines()
        ]
        for path in folder.glob("log-*")
    }


def judge(log: Log, limit: int) -> Verdict:
    """Judge a log: the holders at each time, and the order of their tokens."""
    verdict = Verdict()
    stretches: dict[tuple[str, int], tuple[float, float]] = {}
    acquired: dict[str, list[tuple[int, float, float]]] = defaultdict(list)
    for lines in log.values():
        for line in lines:
            kind = line.get("kind", "")
            verdict.happened[f"{line['what']} {kind}".strip()] += 1
            if line["what"] == "logged" and not line["fine"]:
                verdict.problems.append(f"logged: {line['text']}")
            elif line["what"] == "acquired":
                thing = "semaphore" if kind == "semaphore" else "read/write lock"
                acquired[thing].append((line["token"], line["began"], line["at"]))
                waited = line["at"] - line["began"]
                verdict.longest_wait[kind] = max(verdict.longest_wait.get(kind, 0.0), waited)
            elif line["what"] == "held":
                name = kind, line["token"]
                first, last = stretches.get(name, (line["at"], line["at"]))
                stretches[name] = min(first, line["at"]), max(last, line["at"])
    _judge_stretches(stretches, limit, verdict)
    for thing, turns in acquired.items():
        _judge_tokens(thing, turns, verdict)
    return verdict


def _judge_stretches(
    stretches: dict[tuple[str, int], tuple[float, float]], limit: int, verdict: Verdict
) -> None:
    steps = sorted(
        step
        for (kind, _), (first, last) in stretches.items()
        for step in ((first, 0, kind), (last, 1, kind))
    )
    held: Counter[str] = Counter()
    for at, ends, kind in steps:
        if ends:
            held[kind] -= 1
            continue
        held[kind] += 1
        verdict.most[kind] = max(verdict.most[kind], held[kind])
        if held["semaphore"] > limit:
            verdict.problems.append(f"{held['semaphore']} held the semaphore at {at:.3f}")
        if held["write"] > 1 or (held["write"] and held["read"]):
            seen = f"{held['write']} wrote and {held['read']} read"
            verdict.problems.append(f"{seen} at {at:.3f}")


def _judge_tokens(thing: str, turns: list[tuple[int, float, float]], verdict: Verdict) -> None:
    """See that whoever began to acquire after another had acquired got a higher token."""
    tokens = Counter(token for token, _, _ in turns)
    verdict.problems += [
        f"{thing}: {token} was given {n} times" for token, n in tokens.items() if n > 1
    ]
    earliest = float("inf")
    for token, began, at in sorted(turns, reverse=True):
        if began > earliest:
            verdict.problems.append(f"{thing}: {token} came after a higher token")
        earliest = min(earliest, at)
