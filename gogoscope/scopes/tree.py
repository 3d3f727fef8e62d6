"""Drawing what runs: scopes, their tasks, and what each waits for."""

from __future__ import annotations

import inspect
import os.path
import time
from collections.abc import Callable, Coroutine, Iterator
from types import FrameType
from typing import Any, TypeAlias, cast

from gogoscope._core.arguments import printable
from gogoscope._core.context import Frame
from gogoscope.scopes.block import Block
from gogoscope.scopes.task import Task
from gogoscope.scopes.workers import Workers
from gogoscope.scopes.works import Work

_LIBRARY = os.path.dirname(os.__file__)  # noqa: PTH120
_PACKAGE = os.path.dirname(os.path.dirname(__file__))  # noqa: PTH120


def draw(scope: Block) -> str:
    """Draw a scope as text, one line for each scope and task."""
    lines: list[str] = []
    undrawn: list[tuple[int, Branch]] = [(0, _scope(scope))]
    while undrawn:
        depth, (line, inside) = undrawn.pop()
        lines.append("  " * depth + printable(line))
        undrawn += [(depth + 1, branch) for branch in reversed(inside())]
    return "\n".join(lines)


Branch: TypeAlias = "tuple[str, Callable[[], list[Branch]]]"
"""A line, and what returns the branches inside; they may be nested deeper than Python recurses."""


def _scope(scope: Block) -> Branch:
    def inside() -> list[Branch]:
        works: list[Branch] = []
        for work in sorted(scope._works, key=_beginning):
            if isinstance(work, Task):
                works.append(_task(work))
            elif isinstance(work, Workers):
                works.append(_workers(work))
        return works + _children(scope._inside)

    state = "cancelling" if scope._cancelling else "open"
    told = scope._told()
    return f"scope {scope.name} [{state}, {_age(scope._began)}{told and ', '}{told}]", inside


def _children(children: set[Frame]) -> list[Branch]:
    scopes = cast(
        "set[Block]", children.copy()
    )  # a thread may open one in an event loop of its own
    return [_scope(scope) for scope in sorted(scopes, key=lambda scope: scope._began)]


def _task(task: Task[Any]) -> Branch:
    coroutine = task._coroutine
    place = "" if coroutine is None else _waits_for(coroutine)
    age = "" if task._began is None else f", {_age(task._began)}"
    line = f"task {task.name} [{task.state}{age}]{place}"
    return line, lambda: _children(task._inside)


def _workers(workers: Workers[Any, Any]) -> Branch:
    running = workers.running
    line = f"map {workers.name} [{len(running)} running, {workers.finished} finished]"
    return line, lambda: [*_children(workers.frame._inside), *map(_task, running)]


def _waits_for(coroutine: Coroutine[Any, Any, Any]) -> str:
    """Tell what a suspended coroutine waits for: one of our own waits, or a place in a file."""
    own_wait = own_code = library_code = ""
    outer: FrameType | None = None
    for frame in _frames(coroutine):
        path = frame.f_code.co_filename
        place = f" at {frame.f_code.co_name} ({os.path.basename(path)}:{frame.f_lineno})"  # noqa: PTH119
        if path.startswith(_PACKAGE):
            known = _known_wait(frame, outer)
            own_wait = own_wait if known is None else f" waits for {known}"
        elif path.startswith((_LIBRARY, "<")) or "site-packages" in path:
            library_code = place
        else:
            own_wait, own_code = "", place
        outer = frame
    return own_wait or own_code or library_code


_WAITS: dict[str, Callable[[dict[str, Any]], str]] = {
    "Slot.hold": lambda names: "a slot",
    "Outcome.__await__": lambda names: f"task {names['self'].name}",
    "Outcome._wait": lambda names: f"task {names['self'].name}",
    "Lifecycle._end": lambda names: f"the tasks of {names['self'].name}",
    "Circuit.admit": lambda names: f"circuit {names['self'].name!r}",
    "Keeper._wait": lambda names: str(names["self"]._waits_for),
    "Bucket._sleep": lambda names: f"rate limit {names['self'].name!r}",
    "Places.turn": lambda names: f"rate limit {names['self'].name!r}",
    "Bucket._answered": lambda names: f"rate limit {names['self'].name!r}",
    "Ticker.run": lambda names: "the next tick",
    "Line.take": lambda names: f"{names['self'].kind} {names['self']._key!r}",
    "PermitLine.take": lambda names: str(names["wanted"].wish),
    "Resuming.next": lambda names: f"the next item of {names['self'].key!r}",
    "Resuming._hand_over": lambda names: "its loop",
}
"""What a function waits for, by its name, of its local variables."""


def _known_wait(frame: FrameType, outer: FrameType | None) -> str | None:
    names, function = frame.f_locals, frame.f_code.co_qualname
    if function in _WAITS:
        return _WAITS[function](names)
    if function == "acquire" and "key" in names:
        return f"lock {names['key']!r}"
    if function == "pause" and outer is not None and "attempt" in outer.f_locals:
        return f"try {outer.f_locals['attempt'] + 1} after {outer.f_locals['error']!r}"
    return None


def _frames(awaitable: Any) -> Iterator[FrameType]:
    """Follow what a coroutine awaits, from the outermost frame to the innermost."""
    while awaitable is not None:
        if inspect.iscoroutine(awaitable):
            frame, awaitable = awaitable.cr_frame, awaitable.cr_await
        elif inspect.isgenerator(awaitable):
            frame, awaitable = awaitable.gi_frame, awaitable.gi_yieldfrom
        elif inspect.isasyncgen(awaitable):
            frame, awaitable = awaitable.ag_frame, awaitable.ag_await
        else:
            return
        if frame is not None:
            yield frame


def _beginning(work: Work) -> float:
    began = work._began if isinstance(work, Task) else None
    return float("inf") if began is None else began


def _age(began: float) -> str:
    return f"{time.monotonic() - began:.1f} s"
