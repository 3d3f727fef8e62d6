"""What a store keeps of a job, and what it answers.

A job is work that survives its process: it has a lease, as a lock has, and the state that was saved
last, from which whoever comes next goes on.
"""

from __future__ import annotations

from typing import Literal

from attrs import frozen

from gogoscope.persistence.lock_records import LockRecord


@frozen
class JobRecord:
    """A job as it is stored.

    ``version`` is that of the program whose form the state has. ``saves`` is how often a state was
    saved (or more, if a transaction that was to save one was not committed), and ``state`` the text
    of the newest one; without a save there is none. ``finished_ms`` is when a holder left its block
    without an error, ``until_ms`` when that is forgotten. ``done`` and ``total`` are the parts of
    the work, as a save told of them last.
    """

    lease: LockRecord
    version: int
    saves: int = 0
    state: str | None = None
    finished_ms: int | None = None
    until_ms: int | None = None
    done: int | None = None
    total: int | None = None

    def is_forgotten(self, now_ms: int) -> bool:
        """Return whether the job finished so long ago that it begins anew."""
        return self.until_ms is not None and self.until_ms <= now_ms

    def is_newer_than(self, version: int) -> bool:
        """Return whether a newer program has saved a state; one that saved none left no form."""
        return self.saves > 0 and self.version > version


@frozen
class JobReply:
    """The answer to a claim: whether the caller has the job, and the job as it is now.

    ``dead_in_ms`` comes with a job that somebody else has: in how many milliseconds its lease will
    be over by the store's clock with its allowance; 0 if it is over, or if that is not known.
    """

    granted: bool
    record: JobRecord
    dead_in_ms: int = 0


@frozen
class Job:
    """A job, for people.

    ``state`` is ``"running"``, ``"crashed"`` (its lease is over, and nobody has taken over yet),
    ``"waiting"`` (its holder left it unfinished) or ``"finished"``. ``since`` is when its holder
    began, ``finished_at`` when it finished, both in seconds since the Unix epoch. ``owner``,
    ``host`` and ``pid`` are of its holder, ``None`` without one. ``done`` of ``total`` parts of the
    work are done, as the newest save told, ``None`` if none did.
    """

    state: Literal["running", "crashed", "waiting", "finished"]
    saves: int
    version: int
    since: float | None
    finished_at: float | None
    owner: str | None
    host: str | None
    pid: int | None
    fencing_token: int
    done: int | None = None
    total: int | None = None
