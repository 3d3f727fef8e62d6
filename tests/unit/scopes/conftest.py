"""Every test of the rules runs with tasks inside their awaiters, and with each task on its own."""

from __future__ import annotations

import pytest

from gogoscope import scope

OTHERS = {
    "test_better_than_the_original": "measures",
    "test_memory": "measures",
    "test_misuse": "is refused before anything runs",
    "test_model": "chooses by itself",
    "test_public_names": "runs nothing",
    "test_signals": "starts programs of its own",
    "test_verdict": "runs nothing",
}
"""The modules whose tests run once, and why."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    module = metafunc.module
    if module is None or module.__name__.rpartition(".")[2] not in OTHERS:
        apart = pytest.param(False, id="apart", marks=pytest.mark.slow_elsewhere)
        inline = pytest.param(True, id="inline")
        metafunc.parametrize("inline", [inline, apart], indirect=True)


@pytest.fixture(autouse=True)
def inline(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Say how the scopes of the test run their tasks, unless they say so themselves."""
    inside = bool(getattr(request, "param", True))
    defaults = scope.__kwdefaults__
    assert defaults is not None
    assert "inline" in defaults
    monkeypatch.setitem(defaults, "inline", inside)
    return inside
