"""The developer's guide names files that exist, and the code that holds each rule."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
GUIDE = (ROOT / "docs" / "pages" / "developing.md").read_text(encoding="utf-8")

ROW = re.compile(
    r"^\| (?P<rule>.+?) \| `(?P<file>[\w/.]+)` \| `(?P<name>[\w.]+)` \|$", re.MULTILINE
)
RULES = [match.groups() for match in ROW.finditer(GUIDE)]


def defined_in(path: Path) -> set[str]:
    """Return the functions, classes, methods and constants that a file defines."""
    names = set()

    def visit(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            match node:
                case ast.ClassDef():
                    names.add(prefix + node.name)
                    visit(node.body, f"{prefix}{node.name}.")
                case ast.If():  # what checkers see, and what runs
                    visit([*node.body, *node.orelse], prefix)
                case ast.FunctionDef() | ast.AsyncFunctionDef():
                    names.add(prefix + node.name)
                case ast.Assign():
                    names.update(prefix + t.id for t in node.targets if isinstance(t, ast.Name))
                case ast.AnnAssign(target=ast.Name(id=name)):
                    names.add(prefix + name)

    visit(ast.parse(path.read_text(encoding="utf-8")).body, "")
    return names


def test_the_guide_has_48_rules_by_subject() -> None:
    sections = re.split(r"^### ", GUIDE, flags=re.MULTILINE)[1:]
    counts = {
        section.splitlines()[0]: len(ROW.findall(section))
        for section in sections
        if ROW.search(section)
    }
    assert counts == {
        "Scopes and tasks": 20,
        "Locks": 10,
        "Stores and cache": 10,
        "Circuit breakers": 8,
    }


def test_no_rule_is_named_twice() -> None:
    rules = [rule for rule, _, _ in RULES]
    assert len(set(rules)) == len(rules) == 48


@pytest.mark.parametrize(
    ("file", "name"), [pytest.param(file, name, id=f"{file}:{name}") for _, file, name in RULES]
)
def test_the_rule_is_where_the_guide_says(file: str, name: str) -> None:
    assert name in defined_in(ROOT / file)


def test_every_file_that_the_guide_names_exists() -> None:
    named = set(re.findall(r"`((?:[\w.]+/)*[\w.]+\.(?:py|md)|(?:[\w.]+/)+)`", GUIDE))
    assert len(named) > 40
    missing = [
        name
        for name in sorted(named)
        if not (ROOT / name).exists() and not (ROOT / "gogoscope" / name).exists()
    ]
    assert missing == []
