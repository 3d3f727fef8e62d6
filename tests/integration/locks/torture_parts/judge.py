"""Judging a torture: what must never happen to a lock, read off the logs of all processes."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from attrs import define, field, frozen

from tests.integration.locks.torture_parts.plan import KEYS, LONGEST_LEASE

POLL = 0.5
SLOWEST_STEP = 1.0  # of a loaded machine
SLOWEST_REQUEST = 0.5  # one that is not answered, for the longest lease


@frozen
class Log:
    """``lines`` by process and order, ``writes`` by the resource's order."""

    lines: dict[int, list[dict[str, Any]]]
    writes: list[tuple[str, int, int, bool]]


@define
class Verdict:
    """Counts of what was done and what happened, and what should never have happened."""

    faults: Counter[str] = field(factory=Counter)
    happened: Counter[str] = field(factory=Counter)
    longest_gap: float = 0.0
    limit: float = 0.0
    problems: list[str] = field(factory=list)

    def __str__(self) -> str:
        return "\n".join(
            [
                "faults injected",
                *(f"  {name:<34}{count:>7}" for name, count in sorted(self.faults.items())),
                "what happened",
                *(f"  {name:<34}{count:>7}" for name, count in sorted(self.happened.items())),
                f"longest that a lock waited for had no live holder   {self.longest_gap:.2f} s",
                f"  at most                                           {self.limit:.2f} s",
                f"problems: {len(self.problems)}",
                *(f"  {problem}" for problem in self.problems[:20]),
            ]
        )


def read_log(folder: Path) -> Log:
    """Read what the processes of a torture left in a folder."""
    lines = {}
    for path in folder.glob("log-*"):
        texts = path.read_text().splitlines()
        lines[int(path.name.removeprefix("log-"))] = [json.loads(text) for text in texts]
    connection = sqlite3.connect(folder / "resource.db")
    writes = connection.execute(
        "SELECT key, token, process, accepted FROM writes ORDER BY number"
    ).fetchall()
    connection.close()
    return Log(lines, writes)


def judge(log: Log, ends: list[tuple[float, int]], slow_store: bool, down: float = 0.0) -> Verdict:
    """Judge a log.

    :param ends: when which process was killed or stopped
    :param slow_store: whether a request may take several tries
    :param down: for how long the store was down, in seconds
    """
    step = SLOWEST_STEP + (SLOWEST_REQUEST if slow_store else 0)
    verdict = Verdict(limit=LONGEST_LEASE + 2 * (POLL + step) + down)
    for lines in log.lines.values():
        for line in lines:
            injected = line["what"].startswith("clock set")
            (verdict.faults if injected else verdict.happened)[_kind(line)] += 1
            if line["what"] == "logged" and not line["fine"]:
                verdict.problems.append(f"logged: {line['text']}")
    for key in KEYS:
        _judge_writes(key, log, verdict)
        _judge_tokens(key, log, verdict)
        _judge_waits(key, log, ends, verdict)
    return verdict


def _kind(line: dict[str, Any]) -> str:
    if line["what"] == "lost":
        how = next((how for how in ("taken over", "not renewed") if how in line["reason"]), "freed")
        return f"lost: {how}"
    if line["what"] == "logged":
        return f"logged: {line['error']}"
    if line["what"] == "failed":
        return f"failed: {line['error'].split('(')[0]}"
    return str(line["what"])


def _judge_writes(key: str, log: Log, verdict: Verdict) -> None:
    highest = 0
    owners: dict[int, int] = {}
    for written, token, process, accepted in log.writes:
        if written != key:
            continue
        verdict.happened["writes accepted" if accepted else "writes refused by their token"] += 1
        if accepted and token < highest:
            verdict.problems.append(f"{key}: {token} was accepted after {highest}")
        highest = max(highest, token)
        if owners.setdefault(token, process) != process:
            verdict.problems.append(f"{key}: two processes wrote with {token}")


def _judge_tokens(key: str, log: Log, verdict: Verdict) -> None:
    """See that whoever began to acquire after another had acquired got a higher token."""
    acquired = [
        (line["token"], line["began"], line["at"])
        for lines in log.lines.values()
        for line in lines
        if line["what"] == "acquired" and line["key"] == key
    ]
    tokens = Counter(token for token, _, _ in acquired)
    verdict.problems += [
        f"{key}: {token} was given {n} times" for token, n in tokens.items() if n > 1
    ]
    earliest = float("inf")
    for token, began, at in sorted(acquired, reverse=True):
        if began > earliest:
            verdict.problems.append(f"{key}: {token} came after a higher token")
        earliest = min(earliest, at)


def _judge_waits(key: str, log: Log, ends: list[tuple[float, int]], verdict: Verdict) -> None:
    """See that a lock somebody waits for is not without a live holder for too long.

    Whoever is killed or stopped while it waits may have got the lock just then, so its end counts
    like that of a holder.
    """
    ends_of = defaultdict(list)
    for at, process in ends:
        ends_of[process].append(at)
    held: list[tuple[float, float]] = []
    waits: list[tuple[float, float]] = []
    for process, lines in log.lines.items():
        about_key = [line for line in lines if line.get("key") == key]
        _read_waits(about_key, sorted(ends_of[process]), held, waits)
    held.sort()
    for began, ended in waits:
        free_since = began
        for start, stop in held:
            if free_since < stop and start < ended:
                verdict.longest_gap = max(verdict.longest_gap, start - free_since)
                free_since = stop
        verdict.longest_gap = max(verdict.longest_gap, ended - free_since)
    if verdict.longest_gap > verdict.limit:
        verdict.problems.append(f"{key}: nobody had the lock for {verdict.longest_gap:.2f} s")


def _read_waits(
    lines: list[dict[str, Any]],
    stops: list[float],
    held: list[tuple[float, float]],
    waits: list[tuple[float, float]],
) -> None:
    since: dict[int, tuple[str, float]] = {}
    for line in lines:
        waiter, at = line["waiter"], line["at"]
        if waiter in since:
            _close(since.pop(waiter), at, stops, held, waits)
        if line["what"] in ("waiting", "acquired"):
            since[waiter] = (line["what"], at)
    for what, at in since.values():
        _close((what, at), max([at, *stops]), stops, held, waits)


def _close(
    state: tuple[str, float],
    at: float,
    stops: list[float],
    held: list[tuple[float, float]],
    waits: list[tuple[float, float]],
) -> None:
    """Note a wait or a holding that lasted until ``at``, or until its process was struck."""
    what, since = state
    struck = next((stop for stop in stops if since <= stop <= at), None)
    end = at if struck is None else struck
    if what == "acquired":
        held.append((since, end))
        return
    waits.append((since, end))
    if struck is not None:
        held.append((struck, struck))
