"""What instrumented programs export, kept in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter


class Exported:
    """What an in-memory exporter got."""

    def __init__(self) -> None:
        self._spans = InMemorySpanExporter()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self._spans))
        self._reader = InMemoryMetricReader()
        self.meters = MeterProvider([self._reader])

    @property
    def spans(self) -> list[ReadableSpan]:
        """The spans that have ended, in the order in which they began."""
        return sorted(self._spans.get_finished_spans(), key=lambda span: span.start_time or 0)

    def span(self, name: str, number: int = 0) -> Any:
        """Return the span of a name."""
        return [span for span in self.spans if span.name == name][number]

    def tree(self) -> list[str]:
        """Return the names of the spans, each indented below its parent."""
        spans = self.spans
        ids = {span.context.span_id for span in spans if span.context}

        def lines(parent: int | None, depth: int) -> Iterator[str]:
            for span in spans:
                own = span.parent.span_id if span.parent and span.parent.span_id in ids else None
                if own == parent and span.context is not None:
                    yield "  " * depth + span.name
                    yield from lines(span.context.span_id, depth + 1)

        return list(lines(None, 0))

    def metrics(self) -> dict[tuple[str, ...], float]:
        """Return each sum, and of each histogram the count, by name and attributes."""
        data = self._reader.get_metrics_data()
        found: dict[tuple[str, ...], float] = {}
        for resource in data.resource_metrics if data else ():
            for scoped in resource.scope_metrics:
                for metric in scoped.metrics:
                    points: Any = metric.data.data_points
                    for point in points:
                        values = map(str, (point.attributes or {}).values())
                        value = point.count if hasattr(point, "count") else point.value
                        found[metric.name, *values] = value
        return found

    def units(self) -> dict[str, str]:
        """Return the unit of each metric."""
        data = self._reader.get_metrics_data()
        return {
            metric.name: metric.unit or ""
            for resource in (data.resource_metrics if data else ())
            for scoped in resource.scope_metrics
            for metric in scoped.metrics
        }
