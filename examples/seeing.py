"""See what a hanging program waits for: print the tree of its tasks on a signal.

usage: seeing.py; from another terminal: kill -USR1 <pid>, and in the end: kill <pid>

The program hangs on purpose: two tasks take two locks in a different order. SIGUSR1 prints the
tree. SIGTERM asks the tasks to stop, and cancels those that have not stopped a second later.
"""

from __future__ import annotations

import os
import signal

import anyio

from gogoscope import Scope, scope


async def transfer(s: Scope, source: str, target: str) -> None:
    async with s.lock(f"account:{source}"):
        await anyio.sleep(0.1)
        async with s.lock(f"account:{target}"):
            print(f"moved from {source} to {target}")


async def heartbeat() -> None:
    print("still alive", flush=True)


async def main() -> None:
    async with scope(name="bank") as s:
        s.stop_on_signals(grace=1)
        signal.signal(signal.SIGUSR1, lambda *_: print(s.tree(), flush=True))
        print(f"process {os.getpid()}: try kill -USR1 {os.getpid()}", flush=True)
        s.task(transfer, s, "alice", "bob", name="alice to bob")
        s.task(transfer, s, "bob", "alice", name="bob to alice")
        s.every(5, heartbeat)
    print(f"stopped: {s.cancel_reason}")


if __name__ == "__main__":
    anyio.run(main)
