"""The store of most tests of circuits, and its clock."""

from __future__ import annotations

import pytest

from tests.unit.circuit_breakers.observed_store import Clock, ObservedStore


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def store(clock: Clock) -> ObservedStore:
    return ObservedStore(clock=clock)
