"""What can be listed: a table of commands, one for each capability whose store lists what it has.

A new capability is one more :class:`Listing` here.
"""

from __future__ import annotations

from attrs import frozen

from gogoscope.cli.fields import Field, in_seconds


@frozen
class Listing:
    """What a store lists.

    :param name: the command, the name of the list in JSON, and the method of the store
    :param capability: the field of ``Persistence``
    :param about: what the help says
    :param fields: the parts of each one
    :param key: what its key is called
    :param watch: whether it can be watched
    """

    name: str
    capability: str
    about: str
    fields: tuple[Field, ...]
    key: str = "key"
    watch: bool = False


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
        Field("fencing_token", "count"),
        Field("metadata", "object"),
    ),
    watch=True,
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
        Field("last_success", "time", in_seconds("last_success_ms")),
        Field("open_count", "count"),
        Field("probes", "count", lambda circuit: len(circuit.probes)),
    ),
    key="name",
    watch=True,
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
        Field("fencing_token", "count"),
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
        Field("version", "count"),
        Field("since", "time"),
        Field("finished_at", "time"),
        *_HOLDER,
        Field("fencing_token", "count"),
    ),
)

LISTINGS = (LOCKS, CIRCUITS, RUNS, JOBS)
