"""What a caller of ``s.semaphore``, ``s.read_lock`` or ``s.write_lock`` wants, checked."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Literal

from attrs import frozen

from gogoscope._core.arguments import check_count
from gogoscope.locks.acquire import check_patience
from gogoscope.persistence.permit_records import PermitKind, Takes
from gogoscope.persistence.validation import check_key, check_lease, check_metadata

What = Literal["semaphore", "read_lock", "write_lock"]


@frozen
class Wish:
    """A permit that is wanted: of what, beside how many others, and for how long.

    ``lease`` and ``patience`` are in seconds; a patience of 0 asks once, ``math.inf`` waits for
    ever. ``metadata`` is what to tell people about the holder, besides host, pid and scope.
    """

    what: What
    key: str
    limit: int | None
    lease: float
    patience: float
    metadata: Mapping[str, str]

    def __str__(self) -> str:
        return f"{self.what.replace('_', ' ')} {self.key!r}"

    @property
    def kind(self) -> PermitKind:
        """What the permit belongs to."""
        return "semaphore" if self.what == "semaphore" else "read_write_lock"

    @property
    def takes(self) -> Takes:
        """Whether others may hold permits beside it: a writer takes all."""
        return "all" if self.what == "write_lock" else "one"

    @property
    def doing(self) -> str:
        """What its block does, for the name of its scope."""
        verbs = {
            "semaphore": "holding a permit of",
            "read_lock": "reading",
            "write_lock": "writing",
        }
        return f"{verbs[self.what]} {self.key}"


def wish(
    what: What,
    key: str,
    limit: int | None,
    ttl: float | timedelta,
    wait: float | timedelta | None,
    metadata: Mapping[str, str] | None,
) -> Wish:
    """Return what a caller wants.

    :raises TypeError: if an option is of the wrong type
    :raises ValueError: if one is out of range
    """
    return Wish(
        what=what,
        key=check_key(key),
        limit=None if limit is None else check_count("limit", limit),
        lease=check_lease(ttl),
        patience=check_patience(wait),
        metadata=check_metadata({} if metadata is None else metadata),
    )
