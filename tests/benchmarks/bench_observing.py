"""What observing costs a task: events, OpenTelemetry, a recorded trace.

All sides take turns, each in an event loop of its own; the table shows the least process time of a
task, and what that is to a task that nobody observes. Run it from the repository:

    python -m tests.benchmarks.bench_observing [--rounds 15]
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from gogoscope import scope
from gogoscope.events import record_trace, subscribe
from gogoscope.integrations.opentelemetry import instrument

TASKS = 3_000

Side = Callable[[], AbstractContextManager[object]]


async def no_op() -> None:
    """Do nothing."""


async def in_turn() -> float:
    """Return the process time of a task that is awaited at once."""
    async with scope() as s:
        began = time.process_time()
        for _ in range(TASKS):
            await s.task(no_op)
        return (time.process_time() - began) / TASKS


async def by_hand(tracer: Any) -> float:
    """Return the process time of a span made by hand around a task."""
    async with scope() as s:
        began = time.process_time()
        for _ in range(TASKS):
            with tracer.start_as_current_span("task"):
                await s.task(no_op)
        return (time.process_time() - began) / TASKS


@contextmanager
def subscribed() -> Any:
    """Listen to all events, and do nothing with them."""
    end = subscribe(lambda event: None)
    yield
    end()


def tracers(sampler: Any = None) -> TracerProvider:
    """Return a provider whose spans go to memory, in batches."""
    provider = TracerProvider(sampler=sampler)
    provider.add_span_processor(
        BatchSpanProcessor(InMemorySpanExporter(), max_queue_size=10 * TASKS)
    )
    return provider


@contextmanager
def instrumented(tracer_provider: TracerProvider | None = None, *, metrics: bool = False) -> Any:
    """Instrument the process; without providers, with the API alone."""
    meters = MeterProvider([InMemoryMetricReader()]) if metrics else None
    handle = instrument(tracer_provider=tracer_provider, meter_provider=meters)
    yield
    handle.uninstrument()
    if tracer_provider is not None:
        tracer_provider.shutdown()


SIDES: dict[str, Side] = {
    "nobody observes": nullcontext,
    "a subscriber that does nothing": subscribed,
    "OpenTelemetry, API without an SDK": instrumented,
    "OpenTelemetry, no span sampled": lambda: instrumented(tracers(ALWAYS_OFF), metrics=True),
    "OpenTelemetry, spans and metrics": lambda: instrumented(tracers(), metrics=True),
    "record_trace": lambda: record_trace(os.devnull),
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    by_hand_too = "a span by hand around each task"
    least = dict.fromkeys([*SIDES, by_hand_too], float("inf"))
    for _ in range(rounds):
        for name, side in SIDES.items():
            with side():
                least[name] = min(least[name], measured(in_turn))
        provider = tracers()
        by_hand_here = partial(by_hand, provider.get_tracer("by hand"))
        least[by_hand_too] = min(least[by_hand_too], measured(by_hand_here))
        provider.shutdown()
    print("microseconds of process time for a task that does nothing, and to an unobserved one")
    for name, seconds in least.items():
        print(f"  {name:35} {seconds * 1e6:8.2f} {seconds / least['nobody observes']:6.2f}")


def measured(run: Callable[[], Any]) -> float:
    """Run something in an event loop without garbage collections."""
    gc.collect()
    gc.disable()
    try:
        taken: float = asyncio.run(run())
    finally:
        gc.enable()
    return taken


if __name__ == "__main__":
    main()
