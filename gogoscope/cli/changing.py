"""Commands that change something; each shows what there is, and asks.

What cannot be understood is shown, too, by the error that says why, and those commands that set
something free or back remove it.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

import gogoscope
from gogoscope.cli.exits import EndedError, ExitCode
from gogoscope.cli.fields import for_people
from gogoscope.cli.listings import CIRCUITS
from gogoscope.cli.output import described
from gogoscope.cli.session import Session

Record = TypeVar("Record")

CIRCUIT_CHANGES = {
    "open": ("force_open", "Open a circuit by hand: every call is rejected until it is closed."),
    "close": ("force_close", "Close a circuit by hand: calls go through, and the count is 0."),
    "reset": ("reset_circuit", "Forget what happened to a circuit, unless it was opened by hand."),
}
"""The method of the store for each command, and what the help says."""


SCHEDULE_CHANGES = {
    "pause": ("pause_schedule", "Let no tick of a schedule start, until it is continued."),
    "continue": ("continue_schedule", "Let a paused schedule go on with its next tick from now."),
    "trigger": ("trigger_schedule", "Have a schedule run once more, besides its ticks."),
    "forget": ("forget_schedule", "Forget a schedule that no process has any more."),
}
"""Likewise for schedules."""


async def release(session: Session, key: str) -> None:
    """Free a lock, whoever holds it."""
    locks = session.part("locks")
    holder = await _read(locks.holder(key))
    if isinstance(holder, gogoscope.CorruptRecordError):
        risk = "If somebody holds it, two may work at once"
        await _remove(session, key, f"{holder}. {risk}", locks.force_release)
        return
    if holder is None:
        raise EndedError(ExitCode.FOUND, f"nobody holds {key!r}")
    place = f" on {holder.host} (pid {holder.pid})" if holder.host else ""
    since = for_people("time", holder.since)
    await session.confirm(
        f"{key!r} is held by {holder.owner}{place} since {since}. If that process still runs, two "
        "may work at once. Release it?"
    )
    if not await locks.force_release(key):
        raise EndedError(ExitCode.FOUND, f"nobody holds {key!r} any more")
    session.output.done(f"released {key!r}", {"key": key, "released": 1})


async def release_permits(session: Session, kind: str, key: str, token: int | None) -> None:
    """Free the permits of a semaphore or a read/write lock, whoever holds them.

    :param kind: ``"semaphore"`` or ``"read_write_lock"``
    :param token: the fencing token of the only permit to free; ``None`` for all
    """
    permits = session.part("permits")
    record = await _read(permits.read_permits(kind, key))
    if isinstance(record, gogoscope.CorruptRecordError):
        if token is not None:
            raise record  # Nobody can free one of them, and nobody has asked to free the others.
        risk = "If anybody holds permits, more may work at once than should"
        free = partial(permits.force_release_permits, kind)
        await _remove(session, key, f"{record}. {risk}", free)
        return
    leases = [permit.lease for permit in record.holders.values()] if record is not None else []
    held = [lease for lease in leases if token in (None, lease.fencing_token)]
    if not held:
        raise EndedError(ExitCode.FOUND, f"nobody holds {key!r}" + _with_token(token))
    owners = ", ".join(str(lease.owner) for lease in held)
    await session.confirm(
        f"{key!r} is held by {owners}. If they still run, more may work at once than should. "
        f"Release {len(held)} of {len(leases)} permits?"
    )
    count = await permits.force_release_permits(kind, key, token)
    if not count:
        raise EndedError(ExitCode.FOUND, f"nobody holds {key!r} any more")
    line = f"released {count} of the permits of {key!r}"
    session.output.done(line, {"key": key, "released": count})


async def _read(reading: Awaitable[Record]) -> Record | gogoscope.CorruptRecordError:
    """Return what is read, or the error that says why it cannot be understood."""
    try:
        return await reading
    except gogoscope.CorruptRecordError as error:
        return error


async def _remove(
    session: Session, key: str, told: str, remove: Callable[[str], Awaitable[object]]
) -> None:
    """Remove a record that cannot be understood.

    :param told: what is wrong with it, and what may come of it
    :param remove: does it
    """
    await session.confirm(f"{told}. Remove it?")
    await remove(key)
    session.output.done(f"removed the corrupt record {key!r}", {"key": key, "released": None})


def _with_token(token: int | None) -> str:
    return "" if token is None else f" with the fencing token {token}"


async def set_circuit(session: Session, name: str, command: str) -> None:
    """Open, close or reset a circuit."""
    circuits = session.part("circuit_breakers")
    state = await _read(circuits.get_state(name))
    if isinstance(state, gogoscope.CorruptRecordError):
        told = f"{state}."
    elif state is None:
        told = f"Nothing was ever recorded of a circuit {name!r}."
    else:
        told = f"Circuit {name!r} is {state.state}, with {state.failure_count} failures."
    await session.confirm(f"{told} {command.capitalize()} it?")
    method, _ = CIRCUIT_CHANGES[command]
    after = await getattr(circuits, method)(name)
    session.output.done(f"circuit {name!r} is {after.state}", described(CIRCUITS, name, after))


async def set_schedule(session: Session, name: str, command: str) -> None:
    """Pause, continue, trigger or forget a schedule."""
    schedules = session.part("schedules")
    record = await _read(schedules.read_schedule(name))
    if record is None:
        raise EndedError(ExitCode.FOUND, f"there is no schedule {name!r}")
    if isinstance(record, gogoscope.CorruptRecordError):
        if command != "forget":
            raise record
        told = f"{record}."
    else:
        paused = "is paused" if record.paused_ms is not None else "is not paused"
        told = f"Schedule {name!r} ({record.definition}) {paused}."
    await session.confirm(f"{told} {command.capitalize()} it?")
    method, _ = SCHEDULE_CHANGES[command]
    if not await getattr(schedules, method)(name):
        raise EndedError(ExitCode.FOUND, f"there is no schedule {name!r} any more")
    session.output.done(f"{command}: done for schedule {name!r}", {"name": name, "done": command})


async def resolve(
    session: Session, key: str, result: str | None, *, repeat: bool, keep: float | None
) -> None:
    """Say what came of a run that died.

    :param result: the JSON text of what it returned
    :param repeat: whether the next caller runs again
    :param keep: how long the result is kept, in seconds
    """
    runs = session.part("runs")
    answer: dict[str, Any] = {"repeat": True}
    if not repeat:
        value = _value(result or "")
        try:
            runs.run_outcome(value)
        except (TypeError, ValueError) as error:
            raise EndedError(ExitCode.WRONG_USE, f"--result cannot be kept: {error}") from error
        answer = {"result": value, "keep": keep}
    record = await runs.read_run(key)
    if record is None:
        raise EndedError(ExitCode.FOUND, f"there is no run {key!r}")
    lease, what = record.lease, "is to be repeated" if repeat else f"returned {result}"
    began = for_people("time", lease.acquired_at_ms / 1000)
    await session.confirm(
        f"The outcome of run {key!r} is {record.state!r}; {lease.owner} began it {began}. Say that "
        f"it {what}?"
    )
    try:
        found = await runs.resolve_run(key, **answer)
    except gogoscope.RunInProgressError as error:
        raise EndedError(ExitCode.FOUND, str(error)) from error
    if not found:
        raise EndedError(ExitCode.FOUND, f"no run of {key!r} has died")
    session.output.done(
        f"run {key!r} is to be repeated" if repeat else f"run {key!r} is done",
        {"key": key, "resolved": "repeat" if repeat else "done"},
    )


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise EndedError(
            ExitCode.WRONG_USE, f"--result must be JSON, got {text!r}: {error}"
        ) from error
