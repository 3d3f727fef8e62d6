"""Servers that end with the process that started them, however that ends."""

from __future__ import annotations

import secrets
import socket
import subprocess
import sys
from contextlib import suppress

# The guard's standard input is closed when the process that started it ends.
_GUARD = """
import subprocess, sys, threading
server = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
threading.Thread(target=lambda: (sys.stdin.read(), server.kill()), daemon=True).start()
sys.exit(server.wait())
"""
GUARD = (sys.executable, "-c", _GUARD)
"""Stands before the command of a server, which is started with a pipe as its standard input."""


def end_guarded(guard: subprocess.Popen[bytes]) -> None:
    """End a server through its guard, and wait for it."""
    assert guard.stdin is not None
    guard.stdin.close()
    try:
        guard.wait(10)
    except subprocess.TimeoutExpired:
        guard.kill()
        guard.wait()


PORTS = range(10_000, 20_000)
"""Below those that systems give to connections, so that none has the port before the server."""


def free_port() -> int:
    """Return a port on which nobody listens."""
    while True:
        port = secrets.choice(PORTS)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
