"""Every figure that was measured comes from a recording, and names the program that measured it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.benchmarks import bench_locks
from tests.benchmarks.figures import FIGURES, with_figures
from tests.benchmarks.plots import MEASURED, PLOTS, PLOTTED, Plot
from tests.benchmarks.record import RECORDINGS

ROOT = Path(__file__).resolve().parent.parent
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (
        ROOT / "README.md",
        ROOT / "CHANGELOG.md",
        *sorted((ROOT / "docs" / "pages").rglob("*.md")),
    )
}
RECORDED = {path.stem: path.read_text(encoding="utf-8") for path in sorted(MEASURED.glob("*.txt"))}
MODULES = {recording.name: recording.module for recording in RECORDINGS}

# What only a benchmark can tell: times of a processor, and how many times as much something takes.
A_FIGURE = re.compile(
    r"\d (?:µs|us|ns|%|microseconds|nanoseconds)(?!\w)|\d bare awaits|\d times as|"
    r"0\.\d+ of the|of the\s+(?:processor's )?time of"
)
A_PROGRAM = re.compile(r"(?:tests|examples)[/.]\w[\w/.]*|bench_\w+")


def pages_with(text: str) -> list[str]:
    return [name for name, page in PAGES.items() if text in page]


@pytest.mark.parametrize("name", RECORDED)
def test_a_recording_is_on_a_page_that_names_its_program(name: str) -> None:
    module = MODULES[re.sub(r"-3\.\d+$", "", name)]
    assert RECORDED[name].startswith(f"$ python -m tests.benchmarks.{module}")
    pages = pages_with(f'--8<-- "docs/measured/{name}.txt"')
    assert pages, f"no page shows docs/measured/{name}.txt"
    assert [page for page in pages if f"{module}.py" not in PAGES[page]] == []


@pytest.mark.parametrize("plot", PLOTTED, ids=lambda plot: plot.name)
def test_a_plot_is_drawn_from_what_was_recorded(plot: Plot) -> None:
    drawn = (PLOTS / f"{plot.name}.svg").read_text(encoding="utf-8")
    assert drawn == plot.draw(), "python -m tests.benchmarks.plots draws them again"
    pages = pages_with(f'--8<-- "docs/plots/{plot.name}.svg"')
    assert pages, f"no page shows docs/plots/{plot.name}.svg"
    for page in pages:
        for rows in plot.rows:
            assert f"{MODULES[rows.source]}.py" in PAGES[page]


def test_there_is_no_other_plot() -> None:
    drawn = {path.stem for path in PLOTS.glob("*.svg")}
    assert drawn == {plot.name for plot in PLOTTED}


@pytest.mark.parametrize("page", PAGES)
def test_a_figure_in_words_names_its_program(page: str) -> None:
    text = re.sub(r"^( *)```.*?^\1```$", "", PAGES[page], flags=re.DOTALL | re.MULTILINE)
    parts = re.split(r"\n\s*\n|\n(?=\||- |\d\. )", text)
    told = [part for part in parts if A_FIGURE.search(part) and not A_PROGRAM.search(part)]
    assert told == []


def test_the_figures_of_the_readme_are_those_that_were_measured() -> None:
    page = PAGES["README.md"]
    assert page == with_figures(page), "python -m tests.benchmarks.figures writes them again"
    for figure in FIGURES:
        if figure.source:
            assert figure.program == f"tests/benchmarks/{MODULES[figure.source]}.py"


OPERATION = r"(?:acquire \+ release|set|get) +\d+ us +"
# A page, what it says, the recording of it, its numbers there, and what they are about.
CLAIMS = [
    ("stores", "about 0.9 without", "dynamodb", rf"^{OPERATION}([\d.]+)", 0.9),
    ("stores", "about 0.6 of", "dynamodb", rf"^{OPERATION}[\d.]+.?\(0.9\) +([\d.]+)", 0.6),
    ("rate_limits", "a tenth", "rate_limits", r'^requests a call, batch="auto" +([\d.]+)', 0.1),
    ("costs", "a tenth", "rate_limits", r'^requests a call, batch="auto" +([\d.]+)', 0.1),
]


@pytest.mark.parametrize(
    ("page", "said", "name", "pattern", "about"), CLAIMS, ids=[f"{c[0]}-{c[1]}" for c in CLAIMS]
)
def test_a_recording_shows_what_is_said(
    page: str, said: str, name: str, pattern: str, about: float
) -> None:
    assert said in PAGES[f"docs/pages/{page}.md"]
    found = [float(number) for number in re.findall(pattern, RECORDED[name], re.MULTILINE)]
    assert found, f"docs/measured/{name}.txt has no such row"
    assert found == pytest.approx([about] * len(found), abs=0.1 * about + 0.01)


def test_the_limits_that_the_pages_tell_are_those_of_the_benchmarks() -> None:
    limits = f"fails above {bench_locks.MOST_REQUESTS} and {bench_locks.MOST_REQUESTS_OF_FLEET}"
    assert limits in PAGES["docs/pages/costs.md"]
