"""A process that enters a critical section again and again: with Flask, plainly, or async.

``python worker.py KIND URL FILE TIMES``: in the section it makes a file that must not be there.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import anyio

import gogoscope
from gogoscope.blocking import connect

KIND, URL, FILE, TIMES = sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])


def section() -> None:
    """Be alone for a moment."""
    try:
        os.close(os.open(FILE, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        print("two are inside", flush=True)
        os._exit(1)
    time.sleep(0.002)
    FILE.unlink()
    print(KIND, flush=True)


def plain() -> None:
    """Enter it from a script."""
    db = connect(URL)
    for _ in range(TIMES):
        with db.lock("section", ttl=2, wait=120) as lock:
            lock.ensure()
            section()


def flask() -> None:
    """Enter it from requests that a Flask app serves in threads."""
    from concurrent.futures import ThreadPoolExecutor

    from flask import Flask

    app = Flask(__name__)
    db = connect(URL)

    @app.post("/")
    def enter() -> str:
        with db.lock("section", ttl=2, wait=120) as lock:
            lock.ensure()
            section()
        return "done"

    def post(_: int) -> int:
        return app.test_client().post("/").status_code

    with ThreadPoolExecutor(3) as threads:
        assert set(threads.map(post, range(TIMES))) == {200}


async def loop() -> None:
    """Enter it from an event loop."""
    async with gogoscope.scope(persistence=URL) as s:
        for _ in range(TIMES):
            async with s.lock("section", ttl=2, wait=120) as lock:
                lock.ensure()
                section()


def dying() -> None:
    """Enter it, and stay until killed."""
    db = connect(URL)
    with db.lock("section", ttl=2, wait=120):
        print("held", flush=True)
        time.sleep(600)


if KIND == "loop":
    anyio.run(loop)
else:
    {"plain": plain, "flask": flask, "dying": dying}[KIND]()
