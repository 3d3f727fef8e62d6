"""What the processes that share a rate limit do, and how wrong their clocks are."""

PROCESSES = 8
RATE = 60.0
BURST = 12
WAITERS = 3
CLOCK_ERROR = 0.75
"""Clocks are wrong by up to this many seconds, so that two of them are 1.5 s apart."""
