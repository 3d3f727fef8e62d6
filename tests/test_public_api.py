"""The public names: exactly these, each documented; what we show imports nothing else."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType

import pytest

import gogoscope
from gogoscope import exceptions, persistence, stores, testing
from tests.support.pages import PAGES, ROOT, blocks


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
    value = getattr(gogoscope, name)
    assert name in ALIASES or inspect.getdoc(value)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (gogoscope.CircuitOpenError("payments", 12.3456), "circuit 'payments' is open"),
        (gogoscope.LeaseLostError("order", "stolen"), "the lease of 'order' is lost: stolen"),
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


ALIASES = {"Result"}  # of types, which have no docstrings

PUBLIC_MODULES = {
    "gogoscope",
    "gogoscope.blocking",
    "gogoscope.events",
    "gogoscope.exceptions",
    "gogoscope.integrations.aws",
    "gogoscope.integrations.asgi",
    "gogoscope.integrations.opentelemetry",
    "gogoscope.persistence",
    "gogoscope.stores",
    "gogoscope.testing",
    "gogoscope.testing.conformance",
    "gogoscope_dynamodb",
}


def shown_programs() -> Iterator[tuple[str, str]]:
    """Return the programs of the README, of the pages and of the examples, each with a name."""
    for page in [ROOT / "README.md", *sorted(PAGES.glob("*.md"))]:
        for number, program in enumerate(blocks(page.read_text(encoding="utf-8"), "python"), 1):
            yield f"{page.stem}-{number}", program
    for path in sorted((ROOT / "examples").rglob("*.py")):
        yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")


def our_imports(program: str) -> Iterator[tuple[str, str | None]]:
    """Return what a program imports of ours: modules, and names with the module they come from."""
    ours = {"gogoscope", "gogoscope_dynamodb"}
    for node in ast.walk(ast.parse(program)):
        if isinstance(node, ast.Import):
            yield from ((a.name, None) for a in node.names if a.name.split(".")[0] in ours)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            module = node.module or ""
            if module.split(".")[0] in ours:
                yield from ((module, alias.name) for alias in node.names)


def is_public(module: str, name: str | None) -> bool:
    if module not in PUBLIC_MODULES:
        return False
    if name is None or f"{module}.{name}" in PUBLIC_MODULES:
        return True
    listed = getattr(import_module(module), "__all__", None)
    return not name.startswith("_") if listed is None else name in listed


@pytest.mark.parametrize(
    "program", [pytest.param(program, id=name) for name, program in shown_programs()]
)
def test_readme_pages_and_examples_import_from_public_places_only(program: str) -> None:
    assert [found for found in our_imports(program) if not is_public(*found)] == []


@pytest.mark.parametrize(
    ("statement", "public"),
    [
        ("from gogoscope import scope", True),
        ("from gogoscope import stores", True),
        ("import gogoscope.events", True),
        ("from gogoscope.stores import MemoryStore", True),
        ("from gogoscope.stores.memory import MemoryStore", False),
        ("from gogoscope.persistence.records.place import Records", False),
        ("import gogoscope._core.clock", False),
        ("from gogoscope import scopes", False),
    ],
)
def test_what_counts_as_a_public_place(statement: str, public: bool) -> None:
    (found,) = our_imports(statement)
    assert is_public(*found) is public
