"""What gets installed, what an import loads, and what lies at the top of the repository."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import distribution, entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def run_python(program: str) -> str:
    """Run a program in a fresh interpreter with warnings as errors, and return what it printed."""
    command = [sys.executable, "-W", "error", "-c", program]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.strip()


@pytest.fixture
def up_to_date() -> None:
    """Skip the test where pyproject.toml was changed since it was installed from."""
    files = distribution("gogoscope").files or []
    installed = next(Path(str(one.locate())) for one in files if one.name == "METADATA")
    if installed.stat().st_mtime < (ROOT / "pyproject.toml").stat().st_mtime:
        pytest.skip("pyproject.toml was changed since; run: pip install -e '.[dev]'")


def requirements(extra: str | None) -> set[str]:
    names = set()
    for requirement in distribution("gogoscope").requires or []:
        specification, _, marker = requirement.partition(";")
        wanted = re.search(r"extra == ['\"](\w+)['\"]", marker)
        if (wanted[1] if wanted else None) == extra:
            names.add(re.split(r"[^\w-]", specification.strip(), maxsplit=1)[0])
    return names


def test_the_core_depends_on_anyio_and_attrs_alone() -> None:
    assert requirements(None) == {"anyio", "attrs"}


def test_the_extra_dynamodb_brings_aioboto3() -> None:
    assert requirements("dynamodb") == {"aioboto3"}


def test_the_extra_redis_brings_redis_py(up_to_date: None) -> None:
    assert requirements("redis") == {"redis"}


def test_the_extra_postgres_brings_psycopg(
    up_to_date: None,
) -> None:
    assert requirements("postgres") == {"psycopg"}


def test_the_extra_cli_brings_cyclopts_and_rich(up_to_date: None) -> None:
    assert requirements("cli") == {"cyclopts", "rich"}


def test_the_extra_otel_brings_the_api_of_opentelemetry_alone(up_to_date: None) -> None:
    assert requirements("otel") == {"opentelemetry-api"}


def test_the_extra_schedules_brings_cronsim_and_time_zones(up_to_date: None) -> None:
    assert requirements("schedules") == {"cronsim", "tzdata"}


def test_the_extra_dev_brings_what_tests_types_lint_and_examples_need() -> None:
    wanted = {"pytest", "hypothesis", "mypy", "pyright", "ruff", "trio", "rich"}
    wanted |= {"django", "fastapi", "litestar", "starlette", "uvicorn"}
    assert wanted <= requirements("dev")


def test_the_extras_are_those_of_the_readme_the_developers_and_the_benchmarks(
    up_to_date: None,
) -> None:
    assert set(distribution("gogoscope").metadata.get_all("Provides-Extra") or []) == {
        "bench",
        "cli",
        "dynamodb",
        "dev",
        "docs",
        "otel",
        "postgres",
        "redis",
        "schedules",
    }


def test_python_3_11_is_enough() -> None:
    assert distribution("gogoscope").metadata["Requires-Python"] == ">=3.11"


def test_the_own_backends_are_registered_like_anybodys(
    up_to_date: None,
) -> None:
    registered = {
        point.name: point.value
        for point in entry_points(group="gogoscope.persistence")
        if point.dist is not None and point.dist.name == "gogoscope"
    }
    assert registered == {
        "memory": "gogoscope.stores.memory:from_url",
        "sqlite": "gogoscope.stores.sqlite.store:from_url",
        "dynamodb": "gogoscope_dynamodb:from_url",
        "redis": "gogoscope.stores.redis.store:from_url",
        "rediss": "gogoscope.stores.redis.store:from_url",
        "postgresql": "gogoscope.stores.postgres.store:from_url",
        "postgres": "gogoscope.stores.postgres.store:from_url",
    }


@pytest.mark.parametrize("package", ["gogoscope", "gogoscope_dynamodb"])
def test_both_packages_say_that_they_are_typed(package: str) -> None:
    location = run_python(f"import {package}; print({package}.__path__[0])")
    assert (Path(location) / "py.typed").is_file()


def test_import_gogoscope_loads_nothing_heavy() -> None:
    heavy = {
        "aioboto3",
        "anyio._backends._asyncio",
        "asyncio",
        "botocore",
        "gogoscope.stores.memory",
        "gogoscope.stores.sqlite",
        "gogoscope_dynamodb",
        "importlib.metadata",
        "multiprocessing",
        "random",
        "socket",
        "sqlite3",
        "trio",
    }
    loaded = set(run_python("import sys; from gogoscope import scope; print(*sys.modules)").split())
    assert not heavy & loaded


def test_import_gogoscope_dynamodb_does_not_load_the_aws_sdk() -> None:
    loaded = set(run_python("import sys, gogoscope_dynamodb; print(*sys.modules)").split())
    assert "gogoscope_dynamodb" in loaded
    assert not {"aioboto3", "aiobotocore", "boto3", "botocore"} & loaded


WITHOUT_AIOBOTO3 = """
import sys
from importlib.abc import MetaPathFinder

class Absent(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"aioboto3", "aiobotocore", "boto3", "botocore"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())

import anyio
import gogoscope

async def main():
    try:
        async with gogoscope.open_persistence("dynamodb://table"):
            print("it opened")
    except gogoscope.BackendUnavailableError as error:
        assert isinstance(error, ImportError)
        print(error)

anyio.run(main)
"""


def test_dynamodb_without_aioboto3_says_how_to_install_it() -> None:
    assert "pip install 'gogoscope[dynamodb]'" in run_python(WITHOUT_AIOBOTO3)


def test_nothing_else_lies_at_the_top_of_the_repository() -> None:
    made_by_tools = {"build", "dist"}
    visible = {path.name for path in ROOT.iterdir() if path.name[0] not in "._"} - made_by_tools
    assert visible == {
        "CHANGELOG.md",
        "LICENSE",
        "README.md",
        "docs",
        "examples",
        "gogoscope",
        "gogoscope_dynamodb",
        "pyproject.toml",
        "tests",
    }
