"""How long a loaded value is kept, and how it may be used after its time."""

from __future__ import annotations

import functools
from typing import Any

from attrs import field, frozen
from attrs.validators import optional

from gogoscope._core.durations import duration, to_seconds, to_seconds_or_none
from gogoscope.persistence.validation import MAX_TTL, check_lease


@frozen
class CachePolicy:
    """The options of ``get_or_set``, checked; all durations are in seconds.

    A value is kept beyond its time for the longer of the two stale times.
    """

    ttl: float | None = field(
        converter=to_seconds_or_none, validator=optional(duration(maximum=MAX_TTL))
    )
    stale_while_revalidate: float = field(
        default=0.0, converter=to_seconds, validator=duration(zero=True, maximum=MAX_TTL)
    )
    stale_if_error: float = field(
        default=0.0, converter=to_seconds, validator=duration(zero=True, maximum=MAX_TTL)
    )
    negative_ttl: float | None = field(
        default=None, converter=to_seconds_or_none, validator=optional(duration(zero=True))
    )
    lease: float = field(default=10.0, converter=check_lease)

    @property
    def stale(self) -> float:
        """Seconds that a value is kept beyond its time."""
        return max(self.stale_while_revalidate, self.stale_if_error)

    def may_wait_for_refresh(self, left: float) -> bool:
        """Return whether a value with so many seconds left may be used while it is refreshed."""
        return left > -self.stale_while_revalidate

    def stores(self, value: Any) -> bool:
        """Return whether a loaded value is to be stored at all."""
        return value is not None or self.negative_ttl != 0

    def time_to_live(self, value: Any) -> float | None:
        """Return how long a loaded value is fresh, ``None`` for ever."""
        return self.negative_ttl if value is None and self.negative_ttl is not None else self.ttl


def policy_of(*options: Any) -> CachePolicy:
    """Return the policy of these options, checked when they are first used.

    :raises TypeError: if one is of the wrong type
    :raises ValueError: if one is out of range
    """
    try:
        return _policy_of(*options)
    except TypeError:  # what cannot be hashed is no duration either, which this says better
        return CachePolicy(*options)


# Every call of get_or_set passes its options, and most pass the same ones.
_policy_of = functools.lru_cache(maxsize=256, typed=True)(CachePolicy)
