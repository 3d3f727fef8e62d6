"""Recording what happens in a process as a file that trace viewers open.

The file has the Trace Event Format in its array form, which Chrome, Perfetto and speedscope read.
Each event is a line that is written at once, and comes with the comma before it: so a file whose
process was killed lacks the closing bracket alone, which viewers do without.

What lasts is a slice, from a line at its beginning to one at its end. Neither has arguments, since
some viewers count slices as the same only if all of that is equal; what an event tells is in a mark
beside it. Slices of one lane (a thread, in the words of the format) must be nested, while tasks are
not: they begin and end in any order. So a slice gets into the lane of what it is inside of only if
that is the innermost open slice there, and into a lane of its own otherwise; lanes are used again.
If a slice ends before one that stands inside of it in its lane, the inner one goes on in another.

``_open`` are the slices that have not ended, by the ``id`` of their events; nothing else is kept.
``_free`` are the lanes without any, ``_lanes`` is how many there are.
"""

from __future__ import annotations

import heapq
import json
import os
import threading
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from time import perf_counter_ns
from types import TracebackType
from typing import Any, Self

from gogoscope.events import kinds, schedules
from gogoscope.events.event import NUMBERS, Event
from gogoscope.events.log import description, log_error
from gogoscope.events.subscribing import subscribe

_BEGINS: dict[type[Event], Callable[[Any], str]] = {
    kinds.ScopeStarted: lambda e: f"scope {e.scope}",
    kinds.TaskQueued: lambda e: f"{e.task} waits for a slot",
    kinds.TaskStarted: lambda e: f"{e.task}",
    kinds.LockWaiting: lambda e: f"wait for lock {e.key}",
    kinds.LockAcquired: lambda e: f"lock {e.key}",
    kinds.PermitAcquired: lambda e: f"{e.what} {e.key}",
    schedules.TickStarted: lambda e: f"tick {e.schedule}",
    kinds.RunStarted: lambda e: f"run {e.key}",
    kinds.JobStarted: lambda e: f"job {e.key}",
    kinds.CacheLoadStarted: lambda e: f"load {e.key}",
    kinds.CircuitProbeStarted: lambda e: f"probe {e.circuit}",
}
"""What begins a slice, and its name. What has begun with the same ``id`` ends there."""

_ENDS: tuple[type[Event], ...] = (
    kinds.ScopeEnded,
    kinds.TaskSucceeded,
    kinds.TaskFailed,
    kinds.TaskStopped,
    kinds.LockTimedOut,
    kinds.LockWaitStopped,
    kinds.LockReleased,
    kinds.PermitReleased,
    schedules.TickEnded,
    schedules.TickFailed,
    schedules.TickStopped,
    kinds.RunCompleted,
    kinds.RunAbandoned,
    kinds.JobEnded,
    kinds.CacheLoaded,
    kinds.CacheLoadFailed,
    kinds.CircuitProbeEnded,
)


class _Lane:
    """Slices that are nested, the outermost first."""

    __slots__ = ("number", "slices")

    def __init__(self, number: int) -> None:
        self.number = number
        self.slices: list[_Slice] = []


class _Slice:
    """Something that has begun; ``until`` is when it ends by itself, if it is a pause."""

    __slots__ = ("id", "lane", "name", "until")

    def __init__(self, name: str, lane: _Lane, number: int, until: float | None = None) -> None:
        self.name = name
        self.lane = lane
        self.id = number
        self.until = until


class record_trace:  # noqa: N801 - it is used as a function
    """Record what all scopes of the process do while the block is open, for a trace viewer.

    ::

        with record_trace("trace.json"):
            anyio.run(main)

    Tasks, scopes, waits for locks and slots, pauses before retries, loads and probes are slices;
    what each event tells is a mark. Open the file in Perfetto (ui.perfetto.dev) or in
    speedscope (speedscope.app). It is written line by line, so it can be opened after a crash, too,
    and no more is kept in memory than what is going on.

    :param path: the file; one that exists is replaced
    :raises OSError: on entering, if it cannot be written
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._guard = threading.Lock()
        self._file: FileIO | None = None
        self._open: dict[int, _Slice] = {}
        self._free: list[int] = []
        self._lanes = 0
        self._process = 0
        self._began = 0

    def __enter__(self) -> Self:
        if self._file is not None:
            raise RuntimeError(f"{self._path} is being recorded already")
        # Without a buffer: what was written stays if the process is killed.
        self._file = self._path.open("wb", buffering=0)
        self._process = os.getpid()
        self._began = perf_counter_ns()
        try:
            self._file.write(b"[\n" + self._line("M", "process_name", 0, 0, {"name": "gogoscope"}))
        except OSError:
            self._close()
            raise
        self._unsubscribe = subscribe(self._record)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._unsubscribe()
        with self._guard:
            if self._file is not None:
                try:
                    while self._open:
                        self._end(next(iter(self._open.values())))
                    self._file.write(b"\n]\n")
                except OSError as error:
                    log_error("the trace in %s is not whole", str(self._path), error=error)
            self._close()

    def _record(self, event: Event) -> None:
        if os.getpid() != self._process:
            return  # the file is that of the process which was forked
        with self._guard:
            if self._file is None:
                return
            try:
                self._write_event(event)
            except OSError as error:
                log_error("the trace in %s ends here", str(self._path), error=error)
                self._close()

    def _close(self) -> None:
        file, self._file = self._file, None
        self._open.clear()
        if file is not None:
            file.close()

    def _write_event(self, event: Event) -> None:
        present = self._open.get(event.id) if event.id else None
        around = self._open.get(event.parent)
        name = _BEGINS.get(type(event))
        if name is not None:
            if present is not None:
                self._end(present)
            self._begin(name(event), around, event.id)
            return
        inside = present or around
        lane = 0 if inside is None else inside.lane.number
        self._write("i", type(event).__name__, lane, shown=_arguments(event))
        if present is not None and isinstance(event, _ENDS):
            self._end(present)
        elif present is not None and isinstance(event, kinds.RetryScheduled):
            until = self._now() + event.delay * 1e6
            self._begin(f"pause before attempt {event.attempt + 1}", present, 0, until)

    def _begin(
        self,
        name: str,
        around: _Slice | None,
        number: int,
        until: float | None = None,
    ) -> None:
        if around is not None:
            self._end_pauses(around.lane)
        if around is None or around.lane.slices[-1] is not around:
            lane = self._new_lane()
        else:
            lane = around.lane
        new = _Slice(name, lane, number, until)
        lane.slices.append(new)
        if number:
            self._open[number] = new
        self._write("B", name, lane.number)

    def _end(self, ended: _Slice) -> None:
        lane = ended.lane
        self._end_pauses(lane)
        moved = []
        while (last := lane.slices.pop()) is not ended:
            self._write("E", last.name, lane.number)
            moved.append(last)
        self._write("E", ended.name, lane.number)
        self._open.pop(ended.id, None)
        if not lane.slices:
            heapq.heappush(self._free, lane.number)
        if moved:
            lane = self._new_lane()
        for inner in reversed(moved):
            inner.lane = lane
            lane.slices.append(inner)
            self._write("B", inner.name, lane.number)

    def _end_pauses(self, lane: _Lane) -> None:
        while lane.slices and (until := lane.slices[-1].until) is not None:
            pause = lane.slices.pop()
            self._write("E", pause.name, lane.number, min(until, self._now()))

    def _new_lane(self) -> _Lane:
        if self._free:
            return _Lane(heapq.heappop(self._free))
        self._lanes += 1
        self._write("M", "thread_name", self._lanes, shown={"name": f"lane {self._lanes}"})
        return _Lane(self._lanes)

    def _now(self) -> float:
        """Return the microseconds since the beginning."""
        return (perf_counter_ns() - self._began) / 1000

    def _write(
        self,
        phase: str,
        name: str,
        lane: int,
        now: float | None = None,
        shown: dict[str, Any] | None = None,
    ) -> None:
        if self._file is not None:
            self._file.write(b",\n" + self._line(phase, name, lane, now, shown))

    def _line(
        self, phase: str, name: str, lane: int, now: float | None, shown: dict[str, Any] | None
    ) -> bytes:
        line: dict[str, Any] = {
            "ph": phase,
            "name": name,
            "cat": "gogoscope",
            "ts": round(self._now() if now is None else now, 3),
            "pid": self._process,
            "tid": lane,
        }
        if shown:
            line["args"] = shown
        if phase == "i":
            line["s"] = "t"  # it concerns its lane alone
        return json.dumps(line).encode("ascii")


def _arguments(event: Event) -> dict[str, Any]:
    """Return the fields and numbers of an event, as JSON can hold them."""
    found: dict[str, Any] = {}
    for name in (*event.__match_args__, *NUMBERS):
        value = getattr(event, name)
        if value is None or type(value) in (bool, int, str):
            found[name] = value
        elif type(value) is float and abs(value) != float("inf") and value == value:
            found[name] = round(value, 6)
        else:
            found[name] = description(value)
    return found
