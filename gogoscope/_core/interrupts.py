"""Where a Ctrl-C may not come in the middle.

trio raises ``KeyboardInterrupt`` between any two steps of its main task, which would leave a waiter
in a queue, or a load that never ends. In a function that is marked here, and in what it calls, it
comes at the next checkpoint instead; what users wrote inside is interrupted as ever. asyncio itself
turns a Ctrl-C into a cancellation of its main task.

Only trio can mark a function, and it may never be loaded: so they are ``noted`` until a scope or a
store is opened on it.
"""

from __future__ import annotations

import types
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C", bound=type)

noted: list[tuple[Callable[..., Any], bool]] = []
"""Functions, and whether a Ctrl-C has to wait for their next checkpoint."""


def uninterrupted(function: F) -> F:
    """Let no Ctrl-C come in the middle of a function."""
    noted.append((function, True))
    return function


def uninterrupted_methods(kind: C) -> C:
    """Let no Ctrl-C come in the middle of the public methods of a class, and of its blocks."""
    for name, method in vars(kind).items():
        public = not name.startswith("_") or name in ("__aenter__", "__aexit__")
        if public and isinstance(method, types.FunctionType):
            uninterrupted(method)
    return kind


async def interruptible(awaitable: Awaitable[T]) -> T:
    """Await what a user wrote, in which a Ctrl-C may come at any time."""
    return await awaitable


noted.append((interruptible, False))
