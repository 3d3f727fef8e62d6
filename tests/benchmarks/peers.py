"""Other libraries beside ours: one that is missing or breaks is named, and ends no run."""

from __future__ import annotations


def why_left_out(error: BaseException) -> str:
    """Return what a table says of a library that could not be measured, on one line."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, ModuleNotFoundError):
        return "not installed"
    said = next(iter(str(error).splitlines()), "")
    return f"failed: {type(error).__name__}: {said}"[:80].rstrip(": ")
