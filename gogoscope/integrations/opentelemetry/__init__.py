"""OpenTelemetry: spans and metrics of all scopes of the process.

::

    from gogoscope.integrations.opentelemetry import instrument

    instrument()

It needs the package of the API only (``pip install 'gogoscope[otel]'``); where spans and metrics
go is set up with an SDK, as for any other library.
"""

from __future__ import annotations

from gogoscope.exceptions import BackendUnavailableError

try:
    from opentelemetry.metrics import MeterProvider, get_meter
    from opentelemetry.trace import TracerProvider, get_tracer
except ImportError as missing:
    raise BackendUnavailableError(
        "gogoscope.integrations.opentelemetry needs the OpenTelemetry API; install it with: "
        "pip install 'gogoscope[otel]'"
    ) from missing

from importlib.metadata import PackageNotFoundError, version

from gogoscope._core.forks import after_fork
from gogoscope.events import subscribe, tell_of_holders
from gogoscope.integrations.opentelemetry.metrics import Metrics
from gogoscope.integrations.opentelemetry.spans import Spans, trace_here

__all__ = ["Instrumentation", "instrument", "uninstrument"]


class Instrumentation:
    """What :func:`instrument` has begun, until :meth:`uninstrument`."""

    def __init__(
        self, tracer_provider: TracerProvider | None, meter_provider: MeterProvider | None
    ) -> None:
        try:
            own_version = version("gogoscope")
        except PackageNotFoundError:
            own_version = ""
        self._providers = tracer_provider, meter_provider
        self._spans = Spans(get_tracer("gogoscope", own_version, tracer_provider))
        self._metrics = Metrics(get_meter("gogoscope", own_version, meter_provider))
        self._ends = [
            subscribe(self._spans),
            subscribe(self._metrics),
            tell_of_holders(trace_here),
        ]

    def uninstrument(self) -> None:
        """End it: nothing is observed any more, and spans that are open end now.

        Does nothing if it has ended.
        """
        while self._ends:
            self._ends.pop()()
        self._spans.close()
        if self in _present:
            _present.remove(self)

    def _leave_to_parent(self) -> None:
        self._spans.forget()
        self._metrics.forget()


_present: list[Instrumentation] = []


def _leave_to_parent() -> None:
    """Forget, in a process that was forked, what runs in its parent alone."""
    for instrumentation in _present:
        instrumentation._leave_to_parent()


after_fork(_leave_to_parent)


def instrument(
    *,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
) -> Instrumentation:
    """Make spans and metrics of all scopes of the process, until ``uninstrument()``.

    Called again, it does nothing and returns what it returned before. Scopes and tasks that run
    already have no spans; their inner ones do.

    :param tracer_provider: makes the spans; the global one if left out
    :param meter_provider: makes the metrics; the global one if left out
    :returns: what ends it, as :func:`uninstrument` does
    :raises RuntimeError: if the process is instrumented with other providers
    """
    if not _present:
        _present.append(Instrumentation(tracer_provider, meter_provider))
    elif (tracer_provider, meter_provider) not in ((None, None), _present[0]._providers):
        raise RuntimeError(
            "this process is instrumented with other providers; call uninstrument() first"
        )
    return _present[0]


def uninstrument() -> None:
    """End what :func:`instrument` has begun, if anything."""
    for instrumentation in _present:
        instrumentation.uninstrument()
