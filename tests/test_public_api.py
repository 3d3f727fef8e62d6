"""The public names: exactly these, each documented."""

from __future__ import annotations

import inspect
from types import ModuleType

import pytest

import gogoscope
from gogoscope import exceptions, persistence, stores, testing


def test_everything_public_is_listed_and_nothing_else() -> None:
    everything: dict[str, object] = {}
    exec("from gogoscope import *", everything)
    del everything["__builtins__"]
    assert sorted(everything) == gogoscope.__all__
    modules = ["events", "exceptions", "persistence", "stores", "testing"]
    assert dir(gogoscope) == sorted([*gogoscope.__all__, *modules])


@pytest.mark.parametrize("package", [persistence, stores, testing])
def test_a_public_package_shows_what_it_lists(package: ModuleType) -> None:
    listed = package.__all__
    shown = set(dir(package)) - {"conformance"}
    assert shown == set(listed)
    for name in listed:
        assert getattr(package, name) is not None


def test_every_error_is_public_and_of_one_family() -> None:
    errors = {
        name: value
        for name, value in vars(exceptions).items()
        if isinstance(value, type) and issubclass(value, Exception)
    }
    for name, value in errors.items():
        assert getattr(gogoscope, name) is value
        assert issubclass(value, gogoscope.GogoscopeError)
        assert name in (exceptions.__doc__ or "")


@pytest.mark.parametrize("name", gogoscope.__all__)
def test_every_public_name_is_documented(name: str) -> None:
    assert inspect.getdoc(getattr(gogoscope, name))


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (gogoscope.CircuitOpenError("payments", 12.3456), "circuit 'payments' is open"),
        (gogoscope.LeaseLostError("order", "stolen"), "lock 'order' is lost: stolen"),
        (gogoscope.CapabilityNotSupportedError("cache", "FileStore"), "does not support cache"),
        (gogoscope.TaskCancelled("enough"), "enough"),
        (gogoscope.TaskCancelled(), "the task was cancelled"),
    ],
)
def test_errors_say_what_happened_and_survive_pickling(error: Exception, text: str) -> None:
    import pickle

    assert text in str(error)
    copied = pickle.loads(pickle.dumps(error))
    assert str(copied) == str(error)
    assert vars(copied) == vars(error)
