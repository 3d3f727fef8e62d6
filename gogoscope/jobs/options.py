"""The options of ``s.job``, checked."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from inspect import iscoroutinefunction
from typing import Any

from attrs import frozen

from gogoscope._core.arguments import check_count, check_flag, shown
from gogoscope.locks.acquire import check_patience
from gogoscope.persistence.validation import check_key, check_lease, check_ttl

Migrate = Callable[[Any, int], Any]
"""Returns a state in the form of this version, of the state and the version that saved it."""


@frozen(eq=False)
class JobOptions:
    """The options of ``s.job``, which explains them, checked."""

    key: str
    state: Any
    version: int
    lease: float
    patience: float
    restart: bool
    keep: float | None
    migrate: Migrate | None


def job_options(
    key: str,
    state: Any,
    version: int,
    lease: float | timedelta,
    wait: float | timedelta | None,
    restart: bool,
    keep: float | timedelta | None,
    migrate: Migrate | None,
) -> JobOptions:
    """Return the options of a job.

    :raises TypeError: if one is of the wrong type
    :raises ValueError: if one is out of range
    """
    check_flag("restart", restart)
    if migrate is not None and (not callable(migrate) or iscoroutinefunction(migrate)):
        raise TypeError(
            "migrate must be a function of a state and a version that is not async, got "
            f"{shown(migrate)}"
        )
    return JobOptions(
        key=check_key(key),
        state=state,
        version=check_count("version", version),
        lease=check_lease(lease, "lease"),
        patience=check_patience(wait),
        restart=restart,
        keep=None if keep is None else check_ttl(keep, "keep"),
        migrate=migrate,
    )
