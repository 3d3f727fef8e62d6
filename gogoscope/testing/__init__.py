"""Aids for testing programs that use scopes: time that passes by itself, retries without delays."""

from gogoscope.testing.instant_retries import instant_retries
from gogoscope.testing.virtual_clock import VirtualClock

__all__ = ["VirtualClock", "instant_retries"]
