"""What can be listed: a table of commands, one for each capability whose store lists what it has.

A new capability is one more :class:`Listing` here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import attrgetter
from typing import Any

from attrs import Factory, field, frozen

from gogoscope.cli.fields import Field, in_seconds


def _one(record: Any) -> Iterable[Any]:
    return (record,)


@frozen
class Listing:
    """What a store lists.

    :param name: the command, and the name of the list in JSON
    :param capability: the field of ``Persistence``
    :param about: what the help says
    :param fields: the parts of each one
    :param key: what its key is called
    :param method: the method of the store, if it is called otherwise
    :param unfold: returns the rows of what the store keeps under one key
    """

    name: str
    capability: str
    about: str
    fields: tuple[Field, ...]
    key: str = "key"
    method: str = field(default=Factory(lambda self: self.name, takes_self=True))
    unfold: Callable[[Any], Iterable[Any]] = _one

    def rows(self, found: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        """Return what was listed, in the order of the keys."""
        for key in sorted(found):
            for record in self.unfold(found[key]):
                yield key, record


_HOLDER = (Field("owner"), Field("host"), Field("pid", "count"))

LOCKS = Listing(
    "locks",
    "locks",
    "List the locks that are held, and by whom.",
    (
        *_HOLDER,
        Field("scope"),
        Field("since", "time"),
        Field("lease_left", "seconds"),
        Field("fencing_token", "count", detail=True),
        Field("metadata", "object", detail=True),
    ),
)

CIRCUITS = Listing(
    "circuits",
    "circuit_breakers",
    "List the circuits, and which are open.",
    (
        Field("state", "state"),
        Field("failures", "count", lambda circuit: circuit.failure_count),
        Field("since", "time", in_seconds("since_ms")),
        Field("open_until", "time", in_seconds("open_until_ms")),
        Field("last_failure", "time", in_seconds("last_failure_ms")),
        Field("last_success", "time", in_seconds("last_success_ms"), detail=True),
        Field("open_count", "count", detail=True),
        Field("probes", "count", lambda circuit: len(circuit.probes)),
    ),
    key="name",
)

RUNS = Listing(
    "runs",
    "runs",
    "List what is to be run once: what runs, what is done, and what nobody knows the outcome of.",
    (
        Field("state", "state"),
        Field("since", "time"),
        Field("until", "time"),
        *_HOLDER,
        Field("fencing_token", "count", detail=True),
    ),
)

JOBS = Listing(
    "jobs",
    "jobs",
    "List the jobs that survive their process, and how far they have come.",
    (
        Field("state", "state"),
        Field("done", "count"),
        Field("total", "count"),
        Field("saves", "count"),
        Field("version", "count", detail=True),
        Field("since", "time"),
        Field("finished_at", "time"),
        *_HOLDER,
        Field("fencing_token", "count", detail=True),
    ),
)


@frozen
class _Permit:
    """A permit of a semaphore or a read/write lock, and whether it is held or waited for."""

    state: str
    holder: Any


def _of_semaphore(semaphore: Any) -> Iterable[Any]:
    yield from (_Permit("holds", holder) for holder in semaphore.holders)
    yield from (_Permit("waits", holder) for holder in semaphore.waiting)


def _of_read_write_lock(lock: Any) -> Iterable[Any]:
    if lock.writer is not None:
        yield _Permit("writes", lock.writer)
    yield from (_Permit("reads", holder) for holder in lock.readers)
    yield from (_Permit("waits", holder) for holder in lock.waiting)


_PERMIT = (
    Field("state", "state"),
    *(
        Field(one.name, one.kind, attrgetter(f"holder.{one.name}"), one.name == "metadata")
        for one in LOCKS.fields
    ),
)

SEMAPHORES = Listing(
    "semaphores",
    "permits",
    "List who holds the permits of semaphores, and who waits for one.",
    _PERMIT,
    unfold=_of_semaphore,
)

READ_WRITE_LOCKS = Listing(
    "read-write-locks",
    "permits",
    "List who reads and who writes under read/write locks, and who waits.",
    _PERMIT,
    method="read_write_locks",
    unfold=_of_read_write_lock,
)


def _rate_state(rate: Any) -> str:
    if rate.paused_for > 0:
        return "paused"
    return "used" if rate.full_in > 0 else "idle"


RATES = Listing(
    "rates",
    "rate_limits",
    "List the rate limits, and when each will be idle again.",
    (
        Field("state", "state", _rate_state),
        Field("full_in", "seconds"),
        Field("paused_for", "seconds"),
    ),
    key="name",
    method="rate_limits",
)

SCHEDULES = Listing(
    "schedules",
    "schedules",
    "List the schedules: when each comes next, and what became of its last run.",
    (
        Field("state", "state"),
        Field("definition"),
        Field("next", "time"),
        Field("last", "time"),
        Field("outcome", "state"),
        Field("error"),
        Field("missed", "count", detail=True),
        Field("started_at", "time", detail=True),
        Field("ended_at", "time", detail=True),
        Field("paused_at", "time", detail=True),
        Field("triggered_at", "time"),
        *_HOLDER,
        Field("fencing_token", "count", detail=True),
    ),
    key="name",
)

LISTINGS = (LOCKS, SEMAPHORES, READ_WRITE_LOCKS, CIRCUITS, RATES, RUNS, JOBS, SCHEDULES)
