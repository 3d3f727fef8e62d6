"""What a forked process must not inherit from its parent."""

from __future__ import annotations

import os
from collections.abc import Callable


def after_fork(forget: Callable[[], object]) -> None:
    """Call ``forget`` in every process that is forked from this one, where processes can fork."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=forget)
