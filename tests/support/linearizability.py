"""Whether a history is linearizable: as if its operations had happened one at a time.

A history is what several processes asked of a store, and what they were told. It is linearizable if
each operation can be given a moment between its call and its return, so that the operations in the
order of these moments are what a store of one process could have answered. An operation whose
outcome nobody knows (it raised, or its process died) stays pending to the end: it may have taken
effect at any moment after its call, or never.

The algorithm is that of Wing and Gong ("Testing and Verifying Concurrent Objects", Journal of
Parallel and Distributed Computing 17, 1993): of the operations that may be next, since none other
returned before they were called, try each on a model, and go back when there is none. It does not
try again from a point where it has been: the same operations done, and the same state of the model.
That is Lowe's cache ("Testing for Linearizability", Concurrency and Computation 29, 2017). The
operations of each key are judged by themselves, since a history is linearizable if and only if that
of each object is (Herlihy and Wing, ACM TOPLAS 12, 1990).

A model is a function of a state and an operation. It returns the states in which the operation may
leave the store, given what it was told; none if it cannot have been told that in this state.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, Final

from attrs import evolve, frozen


class _Unknown:
    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN: Final = _Unknown()
"""The result of an operation that raised, or never returned."""

SHOWN = 24
MOST_POINTS = 500_000


@frozen
class Operation:
    """What a process asked of a store.

    :param result: what it was told; ``UNKNOWN`` if it was told nothing
    :param began: when it was called, on the clock that all processes of a machine share
    :param ended: when it returned; ``math.inf`` if its outcome is unknown
    """

    process: str
    key: str
    name: str
    argument: Any = None
    result: Any = UNKNOWN
    began: float = 0.0
    ended: float = math.inf

    def __str__(self) -> str:
        asked = "" if self.argument is None else repr(self.argument)
        return (
            f"{self.began:12.4f} to {self.ended:12.4f}  {self.process:>6}: "
            f"{self.name}({asked}) -> {self.result!r}"
        )


Model = Callable[[Any, Operation], Iterable[Hashable]]


def violations(history: Iterable[Operation], initial: Hashable, model: Model) -> list[str]:
    """Judge a history key by key; return what shows that a key's is not linearizable."""
    by_key = defaultdict(list)
    for operation in history:
        by_key[operation.key].append(operation)
    return [
        _explain(key, operations, initial, model)
        for key, operations in sorted(by_key.items())
        if not is_linearizable(operations, initial, model)
    ]


def is_linearizable(operations: Sequence[Operation], initial: Hashable, model: Model) -> bool:
    """Return whether the operations on one key are linearizable.

    It returns true, too, if that is too hard to tell, since too much is in doubt.
    """
    by_call = sorted(operations, key=lambda operation: operation.began)
    completed = [operation for operation in by_call if operation.result is not UNKNOWN]
    pending = [operation for operation in by_call if operation.result is UNKNOWN]
    everything = (1 << len(completed)) - 1
    # A point of the search: which completed and which pending operations are done, and the state.
    start = (0, 0, initial)
    seen, waiting = {start}, [start]
    while waiting:
        done, tried, state = waiting.pop()
        if done == everything:
            return True
        following = []
        latest = math.inf  # whatever is next was called before any other returned
        for number in range(_first_missing(done), len(completed)):
            operation = completed[number]
            if operation.began > latest:
                break
            if not done >> number & 1:
                latest = min(latest, operation.ended)
                after = done | 1 << number
                following += [(after, tried, state) for state in model(state, operation)]
        for number, operation in enumerate(pending):
            if operation.began > latest:
                break
            if not tried >> number & 1:
                after = tried | 1 << number
                following += [(done, after, new) for new in model(state, operation) if new != state]
        if len(seen) > MOST_POINTS:
            return True
        fresh = [point for point in reversed(following) if point not in seen]
        seen.update(fresh)
        waiting += fresh
    return False


def _first_missing(done: int) -> int:
    """Return the number of the lowest bit that is not set."""
    return (~done & (done + 1)).bit_length() - 1


def _explain(key: str, operations: Sequence[Operation], initial: Hashable, model: Model) -> str:
    """Show the last operations of the shortest beginning of a history that is not linearizable."""
    operations = sorted(operations, key=lambda operation: operation.began)
    ends = sorted({operation.ended for operation in operations})
    few, many = 0, len(ends) - 1
    while few < many:
        middle = (few + many) // 2
        if is_linearizable(_until(operations, ends[middle]), initial, model):
            few = middle + 1
        else:
            many = middle
    shown = [operation for operation in operations if operation.began <= ends[few]]
    told = [operation for operation in shown if operation.ended <= ends[few]][-SHOWN:]
    pending = [operation for operation in shown if operation.ended > ends[few]][-SHOWN:]
    lines = ["  told", *map(str, told), "  pending then", *map(str, pending)]
    return "\n".join([f"{key}: not linearizable from {ends[few]:.4f} on", *lines])


def _until(operations: Iterable[Operation], end: float) -> list[Operation]:
    """Return a history as it was at some moment."""
    return [
        operation if operation.ended <= end else evolve(operation, result=UNKNOWN, ended=math.inf)
        for operation in operations
        if operation.began <= end
    ]


ABSENT: Final = (None, None)
"""The state of a key of a cache that has no value."""


def cache(state: tuple[str | None, float | None], operation: Operation) -> list[Hashable]:
    """Model one key of a cache: its value, and its time to live as it was given last.

    A ``set`` and a ``set_if_absent`` have the value and the time to live as their argument, a
    ``touch`` the time to live. A ``get`` returns both. No time to live ends during a history.
    """
    argument, result = operation.argument, operation.result
    here = state != ABSENT
    match operation.name:
        case "get":
            return [state] if result is UNKNOWN or tuple(result) == state else []
        case "set" | "set_many":
            return [tuple(argument)]
        case "delete_many":
            return [ABSENT]
        case "set_if_absent":
            told, after = not here, state if here else tuple(argument)
        case "delete":
            told, after = here, ABSENT
        case "touch":
            told, after = here, (state[0], argument) if here else ABSENT
        case _:
            raise ValueError(operation.name)
    return [after] if result is UNKNOWN or result == told else []


NOBODY: Final = -1
SOMEBODY: Final = -2


@frozen
class Lock:
    """The state of a lock.

    :param holder: the fencing token of its holder; ``NOBODY``, or ``SOMEBODY`` if a claim took it
        of which nobody knows whether it did
    :param highest: the highest token that anybody was told
    :param until: the earliest moment at which a lease that was granted can be over; until then
        nobody else may get the lock
    """

    holder: int = NOBODY
    highest: int = 0
    until: float = -math.inf


def lock(state: Lock, operation: Operation) -> list[Hashable]:
    """Model a lock of one key: one holder at a time, whose tokens only grow.

    An ``acquire`` and a ``renew`` have the lease in seconds as their argument, the latter after the
    token; a ``release`` and an ``is_valid`` have the token. An ``acquire`` returns a token or
    ``None``, a ``holder`` too.

    A lease begins when its claim was called, at the earliest. Once it may be over, its holder may
    be told so or not, and so may everybody else; a lock that is free must be granted.
    """
    match operation.name:
        case "acquire":
            return _acquired(state, operation)
        case "renew":
            token, lease = operation.argument
            renewed = evolve(state, until=operation.began + lease)
            return _by_holder(state, renewed, token, operation)
        case "is_valid":
            return _by_holder(state, state, operation.argument, operation)
        case "release":
            free = evolve(state, holder=NOBODY, until=-math.inf)
            over = operation.ended >= state.until
            found = _by_holder(state, free, operation.argument, operation)
            # In doubt whether an earlier try freed it, it is told that it did.
            return found or ([state] if operation.result is True and over else [])
        case "holder":
            return _shown(state, operation)
        case "force_release":
            free = evolve(state, holder=NOBODY, until=-math.inf)
            held = state.holder != NOBODY
            if operation.result in (UNKNOWN, held) or state.holder == SOMEBODY:
                return [free if held else state]
            return []
        case _:
            raise ValueError(operation.name)


def _acquired(state: Lock, operation: Operation) -> list[Hashable]:
    taken = evolve(state, holder=SOMEBODY)
    if operation.result is UNKNOWN:
        return [taken]
    if operation.result is None:
        if operation.ended - operation.began >= operation.argument:
            return [state, taken]  # It was granted, maybe, and the answer came too late.
        return [] if state.holder == NOBODY else [state]
    free = state.holder in (NOBODY, SOMEBODY) and state.until == -math.inf
    if operation.result <= state.highest or not (free or operation.ended >= state.until):
        return []
    token = operation.result
    return [Lock(token, token, operation.began + operation.argument)]


def _by_holder(state: Lock, after: Lock, token: int, operation: Operation) -> list[Hashable]:
    """Let the holder of a token do something, which is told ``False`` once its lease is over."""
    holds = state.holder == token
    if operation.result is UNKNOWN:
        return [after if holds else state]
    if operation.result:
        return [after] if holds else []
    return [state] if not holds or operation.ended >= state.until else []


def _shown(state: Lock, operation: Operation) -> list[Hashable]:
    token = operation.result
    if token is UNKNOWN or token == state.holder:
        return [state]
    if token is None:
        over = operation.ended >= state.until
        return [state] if over or state.holder in (NOBODY, SOMEBODY) else []
    if state.holder == SOMEBODY and token > state.highest:
        return [evolve(state, holder=token, highest=token)]
    return []
