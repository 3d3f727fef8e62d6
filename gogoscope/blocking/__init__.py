"""Locks, runs, limits, circuit breakers and a cache for code without an event loop.

::

    from gogoscope.blocking import connect

    db = connect("redis://127.0.0.1/0")

    with db.lock("invoice:42") as lock:
        ...
"""

from __future__ import annotations

from gogoscope.blocking.blocks import Acquiring, Lock, Run, SharedLock
from gogoscope.blocking.cache import BlockingCache
from gogoscope.blocking.client import Client, connect
from gogoscope.blocking.handles import LockHandle

__all__ = [
    "Acquiring",
    "BlockingCache",
    "Client",
    "Lock",
    "LockHandle",
    "Run",
    "SharedLock",
    "connect",
]
