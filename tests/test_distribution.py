"""What is uploaded: the wheel and the sdist hold what they should, and nothing else."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

from tests.support.pages import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NAME = f"gogoscope-{PROJECT['version']}"
PACKAGES = ("gogoscope", "gogoscope_dynamodb")
IN_THE_SDIST = (*PACKAGES, "docs", "examples", "tests")
ALONE = {".gitignore", "CHANGELOG.md", "LICENSE", "PKG-INFO", "README.md", "pyproject.toml"}
KINDS = {".css", ".js", ".json", ".jsonl", ".md", ".py", ".svg", ".toml", ".typed", ".yml", ".txt"}


def build(kind: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "build", "--no-isolation", f"--{kind}", "--outdir"]
    subprocess.run([*command, folder, ROOT], check=True, capture_output=True, timeout=120)
    (built,) = folder.iterdir()
    return built


def files_of(*folders: str) -> set[str]:
    """Return the files below folders of the repository that no tool has made."""
    return {
        path.relative_to(ROOT).as_posix()
        for folder in folders
        for path in (ROOT / folder).rglob("*")
        if path.is_file()
        and not re.search(r"/(__pycache__|\.hypothesis|\.\w+_cache|[\w.-]+\.egg-info)/", str(path))
    }


def test_what_is_in_the_folders_is_of_a_kind_that_belongs_there() -> None:
    assert {Path(file).suffix for file in files_of(*IN_THE_SDIST)} - KINDS == set()
    assert {Path(file).suffix for file in files_of(*PACKAGES)} == {".py", ".typed"}


@pytest.mark.slow
def test_the_wheel_has_the_two_packages_their_metadata_and_nothing_else(tmp_path: Path) -> None:
    with zipfile.ZipFile(build("wheel", tmp_path)) as wheel:
        names = set(wheel.namelist())
        licence = wheel.read(f"{NAME}.dist-info/licenses/LICENSE")
        metadata = Parser().parsestr(wheel.read(f"{NAME}.dist-info/METADATA").decode())
    told = ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE")
    assert names == files_of(*PACKAGES) | {f"{NAME}.dist-info/{file}" for file in told}
    assert names >= {f"{package}/py.typed" for package in PACKAGES}
    assert not [
        name for name in names if re.search(r"(^|/)(tests?|test_\w+\.py|conftest\.py)(/|$)", name)
    ]
    assert licence == (ROOT / "LICENSE").read_bytes()
    check_metadata(metadata)


def check_metadata(metadata: Message) -> None:
    assert metadata["Version"] == PROJECT["version"]
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert str(metadata.get_payload()).strip() == (ROOT / "README.md").read_text("utf-8").strip()
    assert metadata.get_all("Classifier") == PROJECT["classifiers"]


@pytest.mark.slow
def test_the_sdist_has_the_code_with_its_tests_examples_and_pages(tmp_path: Path) -> None:
    with tarfile.open(build("sdist", tmp_path)) as sdist:
        names = {member.name.removeprefix(f"{NAME}/") for member in sdist if member.isfile()}
    assert names == files_of(*IN_THE_SDIST) | ALONE


@pytest.mark.skipif(not (ROOT / ".ci").exists(), reason="the sdist has no .ci")
def test_ci_looks_at_every_python_that_the_classifiers_name() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    language = "Programming Language :: Python :: "
    named = {c.removeprefix(language) for c in PROJECT["classifiers"] if f"{language}3." in c}
    tested, resolved = re.findall(r"^for version in (3\.[\d. ]+); do$", script, re.MULTILINE)
    assert named <= {"3.11", *tested.split()}  # 3.11 has all tests
    assert named <= set(resolved.split())


def test_the_changelog_has_the_version_with_its_date_below_what_is_not_released() -> None:
    titles = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert titles[0] == "[Unreleased]"
    assert re.fullmatch(rf"\[{re.escape(PROJECT['version'])}\] - \d{{4}}-\d\d-\d\d", titles[1])
