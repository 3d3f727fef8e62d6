"""How long a loaded value is kept, and how it may be used after its time."""

from __future__ import annotations

import functools
from datetime import timedelta
from typing import Any

from attrs import Factory, field, frozen

from gogoscope._core.durations import seconds
from gogoscope.persistence.validation import MAX_TTL, check_lease, check_ttl


def _ttl(value: float | timedelta | None) -> float | None:
    return None if value is None else check_ttl(value)


def _while_revalidating(value: float | timedelta) -> float:
    return seconds("stale_while_revalidate", value, zero=True, maximum=MAX_TTL)


def _if_error(value: float | timedelta) -> float:
    return seconds("stale_if_error", value, zero=True, maximum=MAX_TTL)


def _negative(value: float | timedelta | None) -> float | None:
    return None if value is None else seconds("negative_ttl", value, zero=True)


@frozen
class CachePolicy:
    """The options of ``get_or_set``, checked; all durations are in seconds.

    A value is kept beyond its time for the longer of the two stale times, ``stale``.
    """

    ttl: float | None = field(converter=_ttl)
    stale_while_revalidate: float = field(default=0.0, converter=_while_revalidating)
    stale_if_error: float = field(default=0.0, converter=_if_error)
    negative_ttl: float | None = field(default=None, converter=_negative)
    lease: float = field(default=10.0, converter=check_lease)
    stale: float = field(init=False, default=Factory(lambda self: self._longest_stale(), True))

    def _longest_stale(self) -> float:
        return max(self.stale_while_revalidate, self.stale_if_error)

    def may_wait_for_refresh(self, left: float) -> bool:
        """Return whether a value with so many seconds left may be given while it is refreshed."""
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


# Each call of get_or_set gives its options, and mostly the same ones.
_policy_of = functools.lru_cache(maxsize=256, typed=True)(CachePolicy)
