"""What a forked process must not inherit from its parent, and how it is told from all others."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable


def after_fork(forget: Callable[[], object]) -> None:
    """Call ``forget`` in every process that is forked from this one, where processes can fork."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=forget)


@functools.cache
def process_name() -> str:
    """Return the name of this process: random, and another one in each process that is forked."""
    return os.urandom(8).hex()


after_fork(process_name.cache_clear)
