"""The options of a rate limit, and what follows from them."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Literal

from attrs import Attribute, field, frozen
from attrs.validators import optional

from gogoscope._core.arguments import count, observer, shown
from gogoscope._core.callables import refuse_async
from gogoscope._core.durations import LARGEST, duration, seconds, to_seconds, to_seconds_or_none
from gogoscope.persistence.rate_records import LONGEST_WAIT_US
from gogoscope.persistence.validation import MAX_TTL, check_key

HIGHEST_RATE = 1e6
"""The highest rate, in units a second: a unit costs a microsecond at least."""
LONGEST_FILL = MAX_TTL
"""How many seconds a bucket may take to fill: the stores count its time in whole microseconds."""
AUTO_SHARE = 4
"""With ``batch="auto"`` a process takes at most the burst divided by this at once."""


def _name(instance: object, attribute: Attribute[Any], value: Any) -> None:
    check_key(value, attribute.name)


def _rate(instance: object, attribute: Attribute[Any], value: Any) -> None:
    check_units(attribute.name, value)


def _share(instance: object, attribute: Attribute[Any], value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"local_share must be a number, got {value!r} of type {_kind(value)}")
    if not 0 <= value <= 1:
        raise ValueError(f"local_share must be between 0 and 1, got {value!r}")


def _batch(instance: object, attribute: Attribute[Any], value: Any) -> None:
    if value == "auto":
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"batch must be a number of calls or 'auto', got {shown(value)}")
    if value < 1:
        raise ValueError(f"batch must be 1 or more, or 'auto', got {value!r}")


def check_units(name: str, value: float) -> None:
    """Refuse what is no number of units.

    :raises TypeError: naming the argument
    :raises ValueError: if it is not finite, or not more than 0
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, got {shown(value)} of type {_kind(value)}")
    if not 0 < value <= LARGEST:
        raise ValueError(f"{name} must be more than 0 and finite, got {shown(value)}")


def check_spent(units: float) -> float:
    """Return how many units were spent.

    :raises TypeError: if it is no number
    :raises ValueError: if it is not finite, or less than 0
    """
    if units != 0 or isinstance(units, bool):
        check_units("units", units)
    return units


def _kind(value: object) -> str:
    return type(value).__name__


@frozen(kw_only=True, eq=False)
class RatePolicy:
    """The options of a :class:`~gogoscope.RateLimit`, which explains them."""

    name: str = field(kw_only=False, validator=_name)
    rate: float = field(validator=_rate)
    per: float = field(default=1.0, converter=to_seconds, validator=duration())
    burst: int = field(default=1, validator=count())
    wait: float | None = field(
        default=None,
        converter=to_seconds_or_none,
        validator=optional(duration(zero=True, infinite=True)),
    )
    batch: int | Literal["auto"] = field(default=1, validator=_batch)
    local_share: float = field(default=0.1, validator=_share)
    retry_after: Callable[[Any], float | timedelta | None] | None = field(
        default=None, validator=observer
    )
    _unit_us: float = field(init=False, repr=False)
    _burst_us: int = field(init=False, repr=False)
    _most_at_once: int = field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        if self.rate / self.per > HIGHEST_RATE:
            raise ValueError(
                f"rate must be at most {HIGHEST_RATE:,.0f} a second, got {self.rate!r} in "
                f"{self.per:g} s"
            )
        if self.burst * self.per / self.rate > LONGEST_FILL:
            raise ValueError(
                "rate must fill the bucket within a hundred years, which one of "
                f"{shown(self.burst)} does not at {self.rate!r} in {self.per:g} s"
            )
        if self.batch != "auto" and self.batch > self.burst:
            raise ValueError(
                f"batch must be at most burst ({self.burst}), which is how many calls may go at "
                f"once, got {self.batch!r}"
            )
        object.__setattr__(self, "_unit_us", self.per * 1e6 / self.rate)
        object.__setattr__(self, "_burst_us", self._cost_us(self.burst))
        most = self.burst // AUTO_SHARE if self.batch == "auto" else self.batch
        object.__setattr__(self, "_most_at_once", max(1, most))

    @property
    def _same(self) -> tuple[object, ...]:
        """What makes two policies work on one bucket alike."""
        return self.name, self._unit_us, self._burst_us, self.batch, self.local_share

    def _cost_us(self, units: float) -> int:
        """Return what units cost, in microseconds; rounded up, so that the rate is kept."""
        return math.ceil(units * self._unit_us)

    def _spent_us(self, units: float) -> int:
        """Return what was spent, in microseconds; no more than any bucket can be behind."""
        most_us = 2 * self._burst_us + LONGEST_WAIT_US
        return self._cost_us(units) if units * self._unit_us < most_us else most_us

    def _checked_cost_us(self, cost: float) -> int:
        """Return what a call costs.

        :raises TypeError: if it is no number
        :raises ValueError: if it is not more than 0, or more than the burst
        """
        check_units("cost", cost)
        if cost > self.burst:
            raise ValueError(
                f"cost must be at most the burst of rate limit {self.name!r}, {self.burst}, since "
                f"more never fits into it, got {cost!r}"
            )
        return self._cost_us(cost)

    def _patience(self, wait: float | timedelta | None) -> float:
        """Return how long a call may wait for its place, in seconds.

        :param wait: of the call; ``None`` if it has none of its own
        """
        if wait is not None:
            return seconds("wait", wait, zero=True, infinite=True)
        return math.inf if self.wait is None else self.wait

    def _pause_after(self, outcome: object) -> float:
        """Return for how many seconds a call's value or error asks everybody to pause."""
        if self.retry_after is None:
            return 0.0
        asked = self.retry_after(outcome)
        refuse_async("retry_after", self.retry_after, asked)
        if asked is None:
            return 0.0
        return seconds("what retry_after returns", asked, zero=True)
