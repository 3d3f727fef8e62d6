"""Imports go down only, as the design draws them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# A module may import those that stand before its own line, and those that stand in it.
LAYERS = [
    {"gogoscope.exceptions"},
    {"gogoscope.durations", "gogoscope.clock", "gogoscope.persistence.circuit_protocol"},
    {
        "gogoscope.persistence.protocols",
        "gogoscope.persistence.validation",
        "gogoscope.persistence.paging",
        "gogoscope.persistence.copies",
    },
    {
        "gogoscope.persistence.values",
        "gogoscope.persistence.lock_rules",
        "gogoscope.persistence.circuit_rules",
        "gogoscope.persistence.lock_handle",
        "gogoscope.persistence.bundle",
    },
    {"gogoscope.persistence.registry"},
    {"gogoscope.persistence", "gogoscope.persistence.shared"},
    {
        "gogoscope.events",
        "gogoscope.delays",
        "gogoscope.error_details",
        "gogoscope.observers",
        "gogoscope.cancellation",
        "gogoscope.results",
        "gogoscope.slots",
    },
    {"gogoscope.task"},
    {"gogoscope.functions"},
    {"gogoscope.single_flight", "gogoscope.local_cache", "gogoscope.cache_policy"},
    {"gogoscope.lock_release"},
    {"gogoscope.cache_store", "gogoscope.cache_types"},
    {"gogoscope.cache", "gogoscope.cache_loading"},
    {"gogoscope.cache_decorator"},
    {"gogoscope.unseen", "gogoscope.retry", "gogoscope.lock_polling"},
    {"gogoscope.lock_queue"},
    {"gogoscope.locks"},
    {"gogoscope.circuit_policy", "gogoscope.circuit_rates"},
    {"gogoscope.circuit_snapshot"},
    {"gogoscope.circuit_view"},
    {"gogoscope.circuit_link"},
    {"gogoscope.circuit_probes"},
    {"gogoscope.circuit"},
    {"gogoscope.circuit_making", "gogoscope.circuit_home"},
    {"gogoscope.circuit_breaker"},
    {"gogoscope.options"},
    {"gogoscope.pipeline", "gogoscope.safety_nets"},
    {"gogoscope.lifetime", "gogoscope.stream", "gogoscope.mapped"},
    {"gogoscope.starting"},
    {"gogoscope.combinators"},
    {"gogoscope.scope", "gogoscope.tree", "gogoscope.shutdown"},
    {"gogoscope.locked_scope"},
    {"gogoscope.leadership"},
    {"gogoscope", "gogoscope.pytest_plugin"},
]
BACKENDS = ("gogoscope.persistence.memory", "gogoscope.persistence.sqlite")
FOR_BACKENDS = {
    "gogoscope.exceptions",
    "gogoscope.durations",
    "gogoscope.clock",
    "gogoscope.persistence.protocols",
    "gogoscope.persistence.validation",
    "gogoscope.persistence.paging",
    "gogoscope.persistence.copies",
    "gogoscope.persistence.values",
    "gogoscope.persistence.circuit_rules",
    "gogoscope.persistence.lock_rules",
    "gogoscope.persistence.lock_handle",
    "gogoscope.persistence.registry",
}
# Needed where two modules know each other, or where an import would be paid for by everybody.
LATER = {
    ("gogoscope.scope", "gogoscope.locked_scope"),
    ("gogoscope.scope", "gogoscope.leadership"),
    ("gogoscope.safety_nets", "gogoscope.persistence.memory"),
    ("gogoscope.circuit_making", "gogoscope.persistence.memory"),
    ("gogoscope.safety_nets", "gogoscope.persistence.shared"),
    ("gogoscope.pytest_plugin", "gogoscope.testing.instant_retries"),
    ("gogoscope.pytest_plugin", "gogoscope.testing.virtual_clock"),
}


def modules(package: str) -> list[tuple[str, Path]]:
    found = []
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found.append((name, path))
    return found


def imported(path: Path) -> set[str]:
    """Return what a module imports when it runs: not what only type checkers see."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = []
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            known = {name for name, _ in modules("gogoscope")}
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= (full & known) or {node.module}
    return names


def ours(names: set[str]) -> set[str]:
    return {name for name in names if name.split(".")[0].startswith("gogoscope")}


def is_backend(name: str) -> bool:
    return name.startswith((*BACKENDS, "gogoscope.persistence.record"))


CORE = [
    (name, path)
    for name, path in modules("gogoscope")
    if not is_backend(name) and not name.startswith("gogoscope.testing")
]


@pytest.mark.parametrize(("name", "path"), CORE, ids=[name for name, _ in CORE])
def test_core_imports_only_what_stands_below(name: str, path: Path) -> None:
    depth = {module: level for level, layer in enumerate(LAYERS) for module in layer}
    assert name in depth, f"{name} has no place in LAYERS"
    for target in ours(imported(path)):
        if (name, target) not in LATER:
            assert depth.get(target, len(LAYERS)) <= depth[name], f"{name} imports {target}"


BACKEND_MODULES = [
    *[(name, path) for name, path in modules("gogoscope") if is_backend(name)],
    *modules("gogoscope_dynamodb"),
]


@pytest.mark.parametrize(
    ("name", "path"), BACKEND_MODULES, ids=[name for name, _ in BACKEND_MODULES]
)
def test_backends_import_only_the_seams_of_persistence(name: str, path: Path) -> None:
    for target in ours(imported(path)):
        assert target in FOR_BACKENDS or target.startswith(
            ("gogoscope_dynamodb", "gogoscope.persistence.record", "gogoscope.persistence.sqlite")
        ), f"{name} imports {target}"


@pytest.mark.parametrize(("name", "path"), CORE, ids=[name for name, _ in CORE])
def test_core_imports_no_event_loop_and_no_backend(name: str, path: Path) -> None:
    forbidden = ("asyncio", "trio", "uvloop", "gogoscope_dynamodb", "gogoscope.testing", *BACKENDS)
    for target in imported(path):
        if (name, target) not in LATER:
            assert not target.startswith(forbidden), f"{name} imports {target}"


@pytest.mark.parametrize(
    ("name", "path"),
    modules("gogoscope_dynamodb"),
    ids=[n for n, _ in modules("gogoscope_dynamodb")],
)
def test_only_the_client_module_names_the_aws_libraries(name: str, path: Path) -> None:
    libraries = {target.split(".")[0] for target in imported(path)}
    if name != "gogoscope_dynamodb.client":
        assert not libraries & {"aioboto3", "aiobotocore", "boto3", "botocore"}


@pytest.mark.parametrize("package", ["gogoscope", "gogoscope_dynamodb"])
def test_modules_stay_short(package: str) -> None:
    for name, path in modules(package):
        assert len(path.read_text().splitlines()) <= 420, f"{name} holds more than one idea"
