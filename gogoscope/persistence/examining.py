"""What the findings of several stores have in common."""

from __future__ import annotations

from gogoscope._core.clock import current_clock
from gogoscope.persistence.protocols.examination import Finding
from gogoscope.persistence.server_clock import ServerClock


def clock_finding(clock: ServerClock) -> Finding:
    """Return how far this machine's clock is from that of a server which tells the time to all."""
    behind = clock.now_ms() - current_clock.wall() * 1000
    found = f"{told_offset(behind)} the server's, give or take {clock.error_ms()} ms"
    if not clock.was_set():
        return Finding("clock", "fine", f"{found}; leases count by the server's")
    return Finding(
        "clock",
        "doubtful",
        f"{found}; the server's was set meanwhile",
        "find out what sets it: until it is steady, locks are taken over a whole lease later",
    )


def told_offset(behind_ms: float) -> str:
    """Return by how much a clock is behind another one, or ahead of it."""
    return f"{abs(behind_ms):,.0f} ms {'behind' if behind_ms > 0 else 'ahead of'}"


def told_size(size: float) -> str:
    """Return a number of bytes in a unit that people read."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"
