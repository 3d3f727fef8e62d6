"""Random pauses, so that waiting processes do not all send requests at the same time."""

from __future__ import annotations

import os

_BYTES = 7


def uniform(low: float, high: float) -> float:
    """Return a random number between ``low`` and ``high``.

    It comes from the operating system, so it differs between forked processes, too.
    """
    return low + (high - low) * int.from_bytes(os.urandom(_BYTES), "big") / (1 << 8 * _BYTES)


def jittered(pause: float) -> float:
    """Return between half of a pause and all of it, in seconds."""
    return uniform(pause / 2, pause)
