"""What the tortured processes do, and how wrong their clocks are."""

from __future__ import annotations

PROCESSES = 8
KEYS = ("one", "two", "three")
WAITERS_PER_KEY = 2
SHORTEST_LEASE, LONGEST_LEASE = 0.3, 2.0
LARGEST_CLOCK_ERROR = 5.0
SMALLEST_STEP, LARGEST_STEP = 2.0, 3600.0
CLOCK_ERRORS = (0.0, 0.0, 5.0, -5.0, 0.0, 1.5, -2.5, 0.0)
