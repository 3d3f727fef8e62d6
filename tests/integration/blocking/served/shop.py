"""What workers do in the tests, whichever server has them: Flask, Django and Celery call it.

The store is used before the workers are forked, as a module may that is loaded first.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from gogoscope import LockTimeoutError, RateLimit, RateLimitExceededError
from gogoscope.blocking import Lock, connect

FOLDER = Path(os.environ["SHOP_FOLDER"])
LEASES = {"long": 3600.0, "short": 2.0}

db = connect(os.environ["SHOP_STORE"])
db.cache.set("warm", os.getpid())
mails = RateLimit("mails", rate=1, per=3600, burst=3)
kept: list[Lock] = []


def hold(key: str) -> str:
    """Hold a lock until a file says that it is enough; the key tells the lease."""
    with db.lock(key, ttl=LEASES[key.partition("-")[0]], wait=60) as lock:
        (FOLDER / f"{key}.written").write_text(str(os.getpid()))
        (FOLDER / f"{key}.written").rename(FOLDER / f"{key}.held")
        while not (FOLDER / f"{key}.enough").exists():
            time.sleep(0.01)
        lock.ensure()
    return "held"


def enter(key: str) -> str:
    """Enter a lock if nobody has it."""
    try:
        with db.lock(key, wait=0):
            return "entered"
    except LockTimeoutError:
        return "taken"


def keep(key: str) -> str:
    """Take a lock with a long lease, for as long as this process lives."""
    kept.append(db.lock(key, ttl=3600, wait=0).acquire())
    return "kept"


@db.once(lambda order: f"charge:{order}", keep=600)
def charge(order: str) -> str:
    """Write down an order, once."""
    with (FOLDER / "charged").open("a") as charged:
        charged.write(f"{order}\n")
    time.sleep(0.2)
    return str(os.getpid())


def mail(_: str) -> str:
    """Send a mail if that is not too often."""
    try:
        with db.acquire(mails, wait=0):
            return "sent"
    except RateLimitExceededError:
        return "later"


ACTS = {act.__name__: act for act in (hold, enter, keep, charge, mail)}
