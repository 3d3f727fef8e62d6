"""What a store keeps of a schedule, and what it answers.

A schedule has one record, whatever the number of processes. It has a lease, as a lock has, which is
that of the run in progress, and the time up to which everything is settled. What is claimed is the
tick's own time: so neither a quick function nor a wrong clock has a tick run twice.
"""

from __future__ import annotations

from typing import Literal

from attrs import frozen

from gogoscope.persistence.lock_records import LockRecord

RunKind = Literal["tick", "again", "trigger"]
"""What a run is for: a tick that is due, one whose run died, or a person who triggered it."""
TickEnd = Literal["done", "failed", "interrupted", "unbegun"]
"""How a run ended: whether it returned, raised an error, was cut short, or was never begun."""
TickState = Literal["new", "running", "done", "failed", "interrupted"]


@frozen
class ScheduleRecord:
    """A schedule as it is stored.

    ``definition`` tells people when its ticks come. ``after_ms`` is the time up to which nothing is
    to be started any more: that of the newest tick that was started, or when the schedule was new,
    changed, or continued. ``at_ms`` is the tick, or the trigger, that the newest run is for, and
    ``next_ms`` the tick after it; ``kind`` tells which of both. ``state`` is what became of that
    run, ``starts`` how often it was begun, ``missed`` how many ticks before it were left out,
    ``started_ms`` and ``ended_ms`` when, and ``error`` what it failed with, for people.
    ``paused_ms`` is since when no tick starts, and ``trigger_ms`` when a person asked for a run
    that has not started yet.
    """

    lease: LockRecord
    definition: str
    after_ms: int
    next_ms: int | None = None
    at_ms: int | None = None
    kind: Literal["tick", "trigger"] = "tick"
    state: TickState = "new"
    starts: int = 0
    missed: int = 0
    started_ms: int | None = None
    ended_ms: int | None = None
    error: str | None = None
    paused_ms: int | None = None
    trigger_ms: int | None = None

    def may_start_again(self, retries: int) -> bool:
        """Return whether the newest run, if it died, is to be started again."""
        return self.state in ("running", "interrupted") and self.starts <= retries


@frozen
class Wanted:
    """What a caller wants to start.

    :param kind: what the run is for
    :param at_ms: the time of the tick, or of the trigger
    :param after_ms: the time up to which everything was settled, as the caller has seen it
    :param missed: how many ticks before this one are left out
    :param next_ms: the next tick after this one; ``None`` if there is none
    :param retries: how often a run that died is started again
    """

    kind: RunKind
    at_ms: int
    after_ms: int
    missed: int = 0
    next_ms: int | None = None
    retries: int = 1


@frozen
class ScheduleReply:
    """The answer to a claim: whether the caller is to run, and the schedule as it is now.

    ``record`` is ``None`` if the store knows no such schedule. ``dead_in_ms`` comes with a run of
    somebody else: in how many milliseconds its lease will be over by the store's clock with its
    allowance; 0 if it is over, or if that is not known.
    """

    granted: bool
    record: ScheduleRecord | None
    dead_in_ms: int = 0


@frozen
class Schedule:
    """A schedule, for people.

    ``state`` is ``"waiting"``, ``"running"``, ``"crashed"`` (the lease of its run is over, and
    nobody has taken over yet) or ``"paused"``. ``definition`` tells when its ticks come. All times
    are in seconds since the Unix epoch: ``next`` is the next tick, ``last`` the tick of the newest
    run, which began at ``started_at`` and ended at ``ended_at`` with the outcome ``outcome``
    (``"done"``, ``"failed"`` or ``"interrupted"``) and ``error``. ``missed`` is how many ticks
    before that one were left out. ``triggered_at`` is when a person asked for a run that has not
    started yet, ``paused_at`` since when no tick starts. ``owner``, ``host`` and ``pid`` are of the
    process that runs, ``None`` without one.
    """

    state: Literal["waiting", "running", "crashed", "paused"]
    definition: str
    next: float | None
    last: float | None
    started_at: float | None
    ended_at: float | None
    outcome: Literal["done", "failed", "interrupted"] | None
    error: str | None
    missed: int
    paused_at: float | None
    triggered_at: float | None
    owner: str | None
    host: str | None
    pid: int | None
    fencing_token: int
