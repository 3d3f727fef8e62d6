"""A process that is instrumented for the length of a test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("opentelemetry.sdk")

from gogoscope.integrations.opentelemetry import instrument, uninstrument
from tests.support.exported import Exported


@pytest.fixture
def exported() -> Iterator[Exported]:
    got = Exported()
    instrument(tracer_provider=got.tracers, meter_provider=got.meters)
    yield got
    uninstrument()
