"""What ``dir()`` shows of a scope and of its tasks: what a user uses, and nothing else."""

from __future__ import annotations

import pytest

from gogoscope import Scope, Task, scope
from gogoscope.scopes.scope import LockedScope

pytestmark = pytest.mark.anyio

OF_A_SCOPE = [
    "acquire_lock",
    "all",
    "any",
    "as_completed",
    "cache",
    "cached",
    "call",
    "cancel",
    "cancel_reason",
    "child",
    "claim",
    "enter",
    "every",
    "job",
    "leader",
    "lock",
    "map",
    "name",
    "race",
    "read_lock",
    "resume",
    "schedule",
    "semaphore",
    "stop",
    "stop_on_signals",
    "stopping",
    "task",
    "thread",
    "tree",
    "write_lock",
]
OF_A_LOCKED_SCOPE = [
    "ensure",
    "expires_at",
    "extend",
    "fencing_token",
    "is_valid",
    "key",
    "owner",
]
OF_A_TASK = ["cancel", "done", "name", "scope", "state", "wait"]


def shown(value: object) -> list[str]:
    return [name for name in dir(value) if not name.startswith("_")]


def owned(cls: type) -> list[str]:
    """Return what a class shows, less the names that it only explains."""
    return [name for name in shown(cls) if hasattr(cls, name)]


async def nothing() -> None:
    return


async def test_a_scope_and_a_task_show_what_a_user_uses() -> None:
    async with scope() as s:
        task = s.task(nothing)
        await task
        assert shown(s) == OF_A_SCOPE
        assert shown(task) == OF_A_TASK
        assert shown(s.task(nothing, dedupe="key")) == OF_A_TASK
        async with s.lock("job") as locked:
            assert shown(locked) == sorted([*OF_A_SCOPE, *OF_A_LOCKED_SCOPE])
        async with s.semaphore("job", limit=1) as permit:
            of_a_permit = [name for name in OF_A_LOCKED_SCOPE if name != "owner"]
            assert shown(permit) == sorted([*OF_A_SCOPE, *of_a_permit])


async def test_their_classes_show_the_same() -> None:
    attributes = {"cancel_reason", "stopping"}
    assert owned(Scope) == [name for name in OF_A_SCOPE if name not in attributes]
    assert owned(Task) == OF_A_TASK
    assert set(OF_A_LOCKED_SCOPE) <= set(shown(LockedScope))
