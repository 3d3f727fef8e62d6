"""The checker of histories accepts what could have happened, and finds what could not."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from tests.support.linearizability import (
    ABSENT,
    UNKNOWN,
    Lock,
    Operation,
    cache,
    is_linearizable,
    lock,
    violations,
)

LEASE = 10.0


def history(*lines: tuple[Any, ...]) -> list[Operation]:
    """Make a history of (began, ended, name, argument, result); one without a result is pending."""
    made = []
    for number, line in enumerate(lines):
        began, *rest = line
        ended, name, argument, result = rest if len(rest) == 4 else (math.inf, *rest, UNKNOWN)
        made.append(Operation(f"p{number}", "k", name, argument, result, began, ended))
    return made


def put(value: str, ttl: float | None = None) -> tuple[str, float | None]:
    return value, ttl


A, B, NOTHING = put("a"), put("b"), (None, None)

Lines = list[tuple[Any, ...]]

FINE_CACHES: dict[str, Lines] = {
    "in order": [(0, 1, "set", A, True), (2, 3, "get", None, A), (4, 5, "delete", None, True)],
    "a read may come before or after a write that it overlaps": [
        (0, 1, "set", A, True),
        (2, 9, "set", B, True),
        (3, 4, "get", None, A),
        (5, 6, "get", None, B),
    ],
    "writes that overlap come in either order": [
        (0, 5, "set", A, True),
        (0, 5, "set", B, True),
        (6, 7, "get", None, A),
    ],
    "what is in doubt may have happened": [(0, "set", A), (5, 6, "get", None, A)],
    "what is in doubt may happen later": [
        (0, "set", A),
        (1, 2, "get", None, NOTHING),
        (5, 6, "get", None, A),
    ],
    "what is in doubt may never happen": [(0, "set", A), (5, 6, "get", None, NOTHING)],
    "a deletion in doubt": [
        (0, 1, "set", A, True),
        (2, "delete", None),
        (3, 4, "set_if_absent", B, False),
        (5, 6, "set_if_absent", B, True),
    ],
    "a touch": [
        (0, 1, "set", put("a", 7.0), True),
        (2, 3, "touch", None, True),
        (4, 5, "get", None, A),
        (6, 7, "delete_many", None, None),
        (8, 9, "touch", 7.0, False),
    ],
}

BROKEN_CACHES: dict[str, Lines] = {
    "a stale read": [
        (0, 1, "set", A, True),
        (2, 3, "set", B, True),
        (4, 5, "get", None, A),
    ],
    "two reads that go back": [
        (0, 1, "set", A, True),
        (2, 9, "set", B, True),
        (3, 4, "get", None, B),
        (5, 6, "get", None, A),
    ],
    "a value that nobody set": [(0, 1, "set", A, True), (2, 3, "get", None, B)],
    "a lost update": [(0, 1, "set", A, True), (2, 3, "get", None, NOTHING)],
    "two that were both first": [
        (0, 5, "set_if_absent", A, True),
        (0, 5, "set_if_absent", B, True),
    ],
    "two that both deleted it": [
        (0, 1, "set", A, True),
        (2, 5, "delete", None, True),
        (2, 5, "delete", None, True),
    ],
    "a set that was refused and landed all the same": [
        (0, 1, "set", A, True),
        (2, 3, "set_if_absent", B, False),
        (4, 5, "delete", None, True),
        (6, 7, "get", None, B),
    ],
    "a set that was sent again and undid another's": [
        (0, 9, "set", A, True),
        (2, 3, "get", None, A),
        (4, 5, "set", B, True),
        (6, 7, "get", None, B),
        (10, 11, "get", None, A),
    ],
    "a set that landed twice": [
        (0, 1, "set", A, True),
        (2, 3, "delete", None, True),
        (4, 5, "get", None, A),
    ],
    "a set in doubt that happened twice": [
        (0, "set", A),
        (1, 2, "get", None, A),
        (3, 4, "set", B, True),
        (5, 6, "get", None, A),
    ],
    "a touch that undid a later one": [
        (0, 1, "set", A, True),
        (2, 3, "touch", 7.0, True),
        (4, 5, "touch", None, True),
        (6, 7, "get", None, put("a", 7.0)),
    ],
    "a batch that undid a later set": [
        (0, 1, "set_many", A, None),
        (2, 3, "set", B, True),
        (4, 5, "get", None, A),
    ],
}


@pytest.mark.parametrize("name", FINE_CACHES)
def test_a_cache_that_could_have_been_so_is_accepted(name: str) -> None:
    assert not violations(history(*FINE_CACHES[name]), ABSENT, cache)


@pytest.mark.parametrize("name", BROKEN_CACHES)
def test_a_cache_that_cannot_have_been_so_is_found(name: str) -> None:
    (found,) = violations(history(*BROKEN_CACHES[name]), ABSENT, cache)
    assert "k: not linearizable from" in found


FINE_LOCKS: dict[str, Lines] = {
    "one after the other": [
        (0, 1, "acquire", LEASE, 5),
        (2, 3, "acquire", LEASE, None),
        (4, 5, "is_valid", 5, True),
        (6, 7, "release", 5, True),
        (8, 9, "acquire", LEASE, 6),
        (10, 11, "holder", None, 6),
    ],
    "a lease that is over": [
        (0, 1, "acquire", LEASE, 5),
        (9.5, 10.5, "acquire", LEASE, 6),
        (11, 12, "renew", (5, LEASE), False),
        (13, 14, "release", 5, False),
    ],
    "a release that was told as done when the lease was over": [
        (0, 1, "acquire", LEASE, 5),
        (9, 13, "release", 5, True),
        (11, 12, "acquire", LEASE, 6),
        (14, 15, "is_valid", 6, True),
    ],
    "a renewal in doubt": [
        (0, 1, "acquire", LEASE, 5),
        (8, "renew", (5, LEASE)),
        (12, 13, "acquire", LEASE, None),
        (14, 15, "acquire", LEASE, 7),
    ],
    "a claim in doubt that was taken back": [
        (0, "acquire", LEASE),
        (1, 2, "acquire", LEASE, None),
        (3, 4, "acquire", LEASE, 7),
    ],
    "a claim in doubt that is seen": [
        (0, "acquire", LEASE),
        (1, 2, "holder", None, 5),
        (3, 4, "acquire", LEASE, None),
        (5, 6, "force_release", None, True),
        (7, 8, "acquire", LEASE, 7),
    ],
    "a claim whose answer came when its lease was over": [
        (0, 11, "acquire", LEASE, None),
        (12, 13, "acquire", LEASE, 5),
    ],
}

BROKEN_LOCKS: dict[str, Lines] = {
    "two holders": [(0, 1, "acquire", LEASE, 5), (2, 3, "acquire", LEASE, 6)],
    "two holders after a renewal": [
        (0, 1, "acquire", LEASE, 5),
        (8, 9, "renew", (5, LEASE), True),
        (12, 13, "acquire", LEASE, 6),
    ],
    "two holders, and a claim in doubt between them": [
        (0, 1, "acquire", LEASE, 5),
        (2, "acquire", LEASE),
        (3, 4, "acquire", LEASE, 7),
    ],
    "a token that was used": [
        (0, 1, "acquire", LEASE, 5),
        (2, 3, "release", 5, True),
        (4, 5, "acquire", LEASE, 5),
    ],
    "a token that went back": [
        (0, 1, "acquire", LEASE, 5),
        (2, 3, "release", 5, True),
        (4, 5, "acquire", LEASE, 4),
    ],
    "a free lock that was refused": [
        (0, 1, "acquire", LEASE, 5),
        (2, 3, "release", 5, True),
        (4, 5, "acquire", LEASE, None),
    ],
    "a refused claim that landed late": [
        (0, 1, "acquire", LEASE, 5),
        (2, 3, "acquire", LEASE, None),
        (4, 5, "release", 5, True),
        (6, 7, "holder", None, 6),
    ],
    "a holder that was told too early that it had lost the lock": [
        (0, 1, "acquire", LEASE, 5),
        (2, 3, "is_valid", 5, False),
    ],
    "a lock that was lost and renewed": [
        (0, 1, "acquire", LEASE, 5),
        (11, 12, "acquire", LEASE, 6),
        (13, 14, "renew", (5, LEASE), True),
    ],
    "a release of another's lock": [
        (0, 1, "acquire", LEASE, 5),
        (2, "release", 4),
        (3, 4, "holder", None, None),
    ],
    "a release in doubt that frees the next holder": [
        (0, 1, "acquire", LEASE, 5),
        (2, "release", 5),
        (3, 4, "acquire", LEASE, 6),
        (5, 6, "acquire", LEASE, 7),
    ],
    "a forced release that freed the next holder, too": [
        (0, 1, "acquire", LEASE, 5),
        (2, 3, "force_release", None, True),
        (4, 5, "acquire", LEASE, 6),
        (6, 7, "is_valid", 6, False),
    ],
}


@pytest.mark.parametrize("name", FINE_LOCKS)
def test_a_lock_that_could_have_been_so_is_accepted(name: str) -> None:
    assert not violations(history(*FINE_LOCKS[name]), Lock(), lock)


@pytest.mark.parametrize("name", BROKEN_LOCKS)
def test_a_lock_that_cannot_have_been_so_is_found(name: str) -> None:
    (found,) = violations(history(*BROKEN_LOCKS[name]), Lock(), lock)
    assert "k: not linearizable from" in found


def test_what_is_found_is_shown_up_to_the_first_moment_that_cannot_have_been() -> None:
    stale: Lines = [
        (0, 1, "set", A, True),
        (2, 3, "set", B, True),
        (4, 5, "get", None, A),
        (4, 8, "delete", None, True),
        (6, 7, "get", None, NOTHING),
    ]
    (found,) = violations(history(*stale), ABSENT, cache)
    assert "from 5.0000 on" in found
    told, pending = found.split("pending then")
    assert "get(" in told
    assert "delete(" in pending
    assert "7.0000" not in found


def random_history(chance: random.Random, operations: int) -> list[Operation]:
    """Return what four processes were told by a cache that does one thing at a time."""
    state: Any = ABSENT
    free = [0.0] * 4
    done = []
    moment = 0.0
    for number in range(operations):
        process = min(range(4), key=free.__getitem__)
        moment = max(moment, free[process]) + chance.uniform(0, 1)
        began, ended = (
            max(free[process], moment - chance.uniform(0, 3)),
            moment + chance.uniform(0, 3),
        )
        name = chance.choice(["get", "set", "set_if_absent", "delete", "touch"])
        argument = put(f"v{number}") if name.startswith("set") else None
        result, state = next(
            (told, after)
            for told in ([state] if name == "get" else [True, False])
            for after in cache(state, Operation("", "k", name, argument, told))
        )
        free[process] = ended
        if chance.random() < 0.03:
            result, ended = UNKNOWN, math.inf
        done.append(Operation(str(process), "k", name, argument, result, began, ended))
    return done


@pytest.mark.parametrize("seed", range(5))
def test_long_histories_of_a_store_that_is_right_are_accepted_and_a_flaw_in_one_is_found(
    seed: int,
) -> None:
    chance = random.Random(seed)
    right = random_history(chance, 150)
    assert is_linearizable(right, ABSENT, cache)
    flaw = Operation("x", "k", "get", None, ["v0", 1.0], right[-1].began, right[-1].began + 9)
    assert not is_linearizable([*right, flaw], ABSENT, cache)


def test_other_keys_are_judged_by_themselves() -> None:
    fine = history((0, 1, "set", A, True))
    elsewhere = [Operation("q", "other", "get", None, NOTHING, 2, 3)]
    assert not violations(fine + elsewhere, ABSENT, cache)
