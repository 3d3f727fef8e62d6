"""Pauses of different lengths, so that processes which wait do not all ask at the same time."""

from __future__ import annotations

import os

_BYTES = 7


def uniform(low: float, high: float) -> float:
    """Return a number between ``low`` and ``high``, each as likely as any other.

    The system's randomness differs between processes that were forked from one, too.
    """
    return low + (high - low) * int.from_bytes(os.urandom(_BYTES), "big") / (1 << 8 * _BYTES)


def jittered(pause: float) -> float:
    """Return between half of a pause and all of it, in seconds."""
    return uniform(pause / 2, pause)
