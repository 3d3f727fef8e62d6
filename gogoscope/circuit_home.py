"""The circuits that code outside of any scope uses: one for each policy and thread.

Finding out which event loop runs costs as much as a whole call, so it is the thread that has them.
They are in the memory store, which never suspends: an event loop finds those of an earlier one of
its thread as good as its own.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gogoscope.circuit import Circuit
    from gogoscope.circuit_policy import CircuitPolicy


class Here(threading.local):
    """What the current thread has.

    A policy without a name has its circuits under itself and the name of the function.
    """

    def __init__(self) -> None:
        self.circuits: dict[CircuitPolicy | tuple[CircuitPolicy, str], Circuit] = {}


here = Here()
