"""Cancelling an operation at each of its awaits: part of the kit."""

from gogoscope.testing.conformance.cancelling import CancelledAt, cancel_everywhere

__all__ = ["CancelledAt", "cancel_everywhere"]
