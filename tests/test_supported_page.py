"""The page of what is supported names the Pythons and the extras that the package has."""

from __future__ import annotations

import re
import tomllib

from tests.support.pages import ROOT, read_page

PAGE = read_page("supported")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
FOR_DEVELOPERS = {"bench", "dev", "docs"}


def test_the_pythons_are_those_of_the_package() -> None:
    (supported,) = re.findall(r"^\| Python \| ([\d., ]+);", PAGE, re.MULTILINE)
    named = re.findall(r"Python :: (3\.\d+)", " ".join(PROJECT["classifiers"]))
    assert supported.split(", ") == named
    assert PROJECT["requires-python"] == f">={named[0]}"


def test_each_extra_brings_what_the_page_says() -> None:
    rows = dict(re.findall(r"^\| `?(\w+)`? \| ((?:`[\w-]+` ?)+) \|", PAGE, re.MULTILINE))
    extras = PROJECT["optional-dependencies"]
    brought = {name: extras[name] for name in extras if name not in FOR_DEVELOPERS}
    brought["none"] = PROJECT["dependencies"]
    packages = {
        name: [re.split(r"[\[<>=]", requirement)[0] for requirement in requirements]
        for name, requirements in brought.items()
    }
    assert {name: re.findall(r"[\w-]+", row) for name, row in rows.items()} == packages
