"""Imports go down only, from room to room and from module to module, and never in a circle.

Every import counts: those that only type checkers see and those inside functions as well.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import frozen

ROOT = Path(__file__).parent.parent

# A room may import itself and the rooms above its line here; those in one line do not know
# each other.
ROOMS = (
    ("gogoscope.exceptions",),
    ("gogoscope.events",),
    ("gogoscope._core",),
    ("gogoscope.persistence",),
    ("gogoscope.stores",),
    ("gogoscope.retry",),
    ("gogoscope.cache", "gogoscope.locks", "gogoscope.circuit_breakers", "gogoscope.rate_limits"),
    ("gogoscope.jobs", "gogoscope.permits", "gogoscope.runs", "gogoscope.schedules"),
    ("gogoscope.scopes",),
    ("gogoscope",),
    ("gogoscope.blocking",),
    ("gogoscope.testing", "gogoscope.cli", "gogoscope.integrations"),
    ("gogoscope.__main__",),
)
FLOORS = {room: floor for floor, line in enumerate(ROOMS) for room in line}

BACKENDS = ("gogoscope.stores", "gogoscope_dynamodb")
OPEN_TO_BACKENDS = ("gogoscope.persistence", "gogoscope.exceptions")

# What holds one idea in more lines: the scope is signatures and docstrings.
LONG = ("gogoscope.scopes.scope",)

# Where an import at the top would be paid for by everybody who uses something else.
# No errors of users leave their blocks, or only those that end the program.
NO_ERRORS_OF_USERS = (
    "gogoscope.stores",
    "gogoscope.cli",
    "gogoscope.testing",
    "gogoscope.persistence.in_flight",
    "gogoscope.circuit_breakers.contact",
    "gogoscope.scopes.stopping",
    "gogoscope.scopes.works",
)
DOORS = ("gogoscope.scopes.doors", "gogoscope.testing.pytest_plugin")


@frozen
class Import:
    target: str
    inside_function: bool


def paths() -> dict[str, Path]:
    """Return the file of each module, a package's under the name of the package."""
    found = {}
    for package in ("gogoscope", "gogoscope_dynamodb"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


PATHS = paths()


def imports(name: str) -> Iterator[Import]:
    """Find everything that a module imports, wherever it does so."""
    tree = ast.parse(PATHS[name].read_text())
    functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
    inside = {
        node
        for function in ast.walk(tree)
        if isinstance(function, functions)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node in inside)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield Import(full if full in PATHS else node.module, node in inside)


IMPORTS = {name: frozenset(imports(name)) for name in PATHS}
OURS = {
    name: {one.target for one in found if one.target in PATHS and one.target != name}
    for name, found in IMPORTS.items()
}


def is_in(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def room_of(name: str) -> str:
    return max((room for room in FLOORS if is_in(name, room)), key=len)


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Return the sets of modules each of which reaches all others of its set."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            new = graph[waiting.pop()] - seen
            seen |= new
            waiting += new
        return seen

    below = {name: reached(name) for name in graph}
    found = [{b for b in below[a] if a in below[b]} for a in graph]
    return [circle for n, circle in enumerate(found) if circle and circle not in found[:n]]


CORE = [name for name in PATHS if is_in(name, "gogoscope")]
ADAPTERS = [name for name in PATHS if is_in(name, *BACKENDS)]


@pytest.mark.parametrize("name", CORE)
def test_rooms_import_only_rooms_below(name: str) -> None:
    room = room_of(name)
    for target in OURS[name]:
        assert is_in(target, "gogoscope"), f"{name} imports {target}"
        is_below = room_of(target) == room or FLOORS[room_of(target)] < FLOORS[room]
        assert is_below, f"{name} imports {target}"


def test_no_imports_go_in_a_circle() -> None:
    assert circles(OURS) == []


def test_circles_are_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": {"e"}, "e": {"d"}, "f": {"a"}}
    assert circles(graph) == [{"b", "c"}, {"d", "e"}]


@pytest.mark.parametrize("name", PATHS)
def test_functions_import_only_at_the_doors(name: str) -> None:
    inside = {one.target for one in IMPORTS[name] if one.inside_function}
    for target in inside & PATHS.keys():
        assert name in DOORS, f"a function of {name} imports {target}"


@pytest.mark.parametrize("name", ADAPTERS)
def test_stores_import_only_what_is_open_to_them(name: str) -> None:
    package = next(package for package in BACKENDS if is_in(name, package))
    for target in OURS[name]:
        is_face = PATHS[name].name == "__init__.py" and target == "gogoscope._core.faces"
        assert is_face or is_in(target, package, *OPEN_TO_BACKENDS), f"{name} imports {target}"


@pytest.mark.parametrize("name", [name for name in CORE if not is_in(name, *NO_ERRORS_OF_USERS)])
def test_errors_of_users_pass_untouched(name: str) -> None:
    """What contextlib makes of generators, and its stacks, change what leaves a block."""
    source = PATHS[name].read_text(encoding="utf-8")
    assert "contextmanager\n" not in source
    assert "ExitStack(" not in source


@pytest.mark.parametrize("name", [name for name in CORE if not is_in(name, "gogoscope.testing")])
def test_core_imports_no_event_loop(name: str) -> None:
    for one in IMPORTS[name]:
        assert not is_in(one.target, "asyncio", "trio", "uvloop"), f"{name} imports {one.target}"


@pytest.mark.parametrize("name", [name for name in PATHS if is_in(name, "gogoscope_dynamodb")])
def test_only_what_sets_up_own_clients_names_the_aws_libraries(name: str) -> None:
    if name not in ("gogoscope_dynamodb.sessions", "gogoscope_dynamodb.short_cut"):
        libraries = {one.target.split(".")[0] for one in IMPORTS[name]}
        assert not libraries & {"aioboto3", "aiobotocore", "boto3", "botocore"}


@pytest.mark.parametrize("name", PATHS)
def test_modules_stay_short(name: str) -> None:
    if name in LONG:
        return
    assert len(PATHS[name].read_text().splitlines()) <= 420, f"{name} holds more than one idea"
