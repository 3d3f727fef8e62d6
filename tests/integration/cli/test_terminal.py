"""The command line as people use it: in a terminal, with questions, colours and Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.cli.in_terminal import PATIENCE, PROGRAM, environment, piped, terminal
from tests.support.operated import ODD_KEYS, ask, fill

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals"),
]

CTRL_C = "\x03"
DRAWING = "\x1b["


@pytest.fixture
def url(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path / 'app.db'}"
    fill(url)
    return url


def test_people_see_a_table_in_colours(url: str) -> None:
    with terminal("circuits", "--store", url) as shown:
        assert shown.end() == 0
    assert "\x1b[1;31mopen" in shown.shown
    assert "payments" in shown.shown
    assert " ago" in shown.shown


def test_people_who_want_no_colours_get_none(url: str) -> None:
    with terminal("circuits", "--store", url, env={"NO_COLOR": "1"}) as shown:
        assert shown.end() == 0
    assert "31m" not in shown.shown


@pytest.mark.parametrize("command", [("keys",), ("get", "--", ODD_KEYS[0]), ("get", "nothing")])
def test_nothing_that_is_stored_controls_the_terminal(url: str, command: tuple[str, ...]) -> None:
    with terminal(command[0], "--store", url, *command[1:]) as shown:
        assert shown.end() == 0
    assert "\x1b" not in shown.shown


def test_odd_names_of_circuits_do_not_control_the_terminal_either(url: str) -> None:
    for name in ODD_KEYS:
        ask(url, "record_failure", name, 1)
    with terminal("circuits", "--store", url) as shown:
        assert shown.end() == 0
    assert "\x1b[2J" not in shown.shown
    assert r"\x1b[2Jcleared" in shown.shown
    assert "[red]markup" in shown.shown
    assert shown.shown.count("k") >= 900  # nothing is cut


def test_a_change_is_made_if_the_answer_is_yes(url: str) -> None:
    with terminal("release", "order:1", "--store", url) as shown:
        shown.wait_for("[y/N] ")
        assert "held by alice on web-1 (pid 42)" in shown.shown
        assert ask(url, "holder", "order:1") is not None
        shown.type("y\n")
        assert shown.end() == 0
    assert ask(url, "holder", "order:1") is None


@pytest.mark.parametrize("answer", ["n\n", "\n", "yikes\n", "\x04"])
def test_no_change_is_made_if_the_answer_is_another(url: str, answer: str) -> None:
    with terminal("release", "order:1", "--store", url) as shown:
        shown.wait_for("[y/N] ")
        shown.type(answer)
        assert shown.end() == 5
    assert ask(url, "holder", "order:1") is not None


def test_ctrl_c_ends_a_question(url: str) -> None:
    with terminal("release", "order:1", "--store", url) as shown:
        shown.wait_for("[y/N] ")
        shown.type(CTRL_C)
        assert shown.end() == 130
    assert "Traceback" not in shown.shown
    assert ask(url, "holder", "order:1") is not None


@pytest.mark.parametrize("command", ["locks", "circuits"])
def test_a_watched_list_is_drawn_again_until_ctrl_c(url: str, command: str) -> None:
    with terminal(command, "--watch", "--every", "0.1", "--store", url) as shown:
        shown.wait_for({"locks": "order:1", "circuits": "payments"}[command])
        if command == "locks":
            ask(url, "acquire", "order:3", 60)
            shown.wait_for("order:3")
        else:
            ask(url, "force_open", "search")
            shown.wait_for("forced-open")
        shown.type(CTRL_C)
        assert shown.end() == 130
    assert "Traceback" not in shown.shown


def test_a_watched_list_hides_no_cursor_which_a_signal_would_leave_hidden(url: str) -> None:
    with terminal("locks", "--watch", "--every", "0.1", "--store", url) as shown:
        shown.wait_for("order:1")
        shown.wait_for("order:1", behind=len(shown.shown))
        shown.process.terminate()
        assert shown.end() == -signal.SIGTERM
    assert "\x1b[?25l" not in shown.shown


def test_a_watched_list_is_printed_again_in_a_dumb_terminal(url: str) -> None:
    arguments = ("locks", "--watch", "--every", "0.1", "--store", url)
    with terminal(*arguments, env={"TERM": "dumb"}) as shown:
        shown.wait_for("order:1")
        shown.wait_for("order:1", behind=len(shown.shown))
        shown.type(CTRL_C)
        assert shown.end() == 130
    assert DRAWING not in shown.shown


def test_a_watched_list_in_a_pipe_is_a_document_a_line(url: str) -> None:
    command = [*PROGRAM, "locks", "--watch", "--every", "0.1", "--json", "--store", url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment()) as watch:
        assert watch.stdout is not None
        try:
            for _ in range(3):
                document = json.loads(watch.stdout.readline())
                assert [lock["key"] for lock in document["locks"]] == ["order:1", "order:2"]
            watch.send_signal(2)
            watch.stdout.read()
            assert watch.wait(60) == 130
        finally:
            watch.kill()


@pytest.mark.parametrize("listing", ["locks", "circuits", "runs", "jobs", "keys"])
def test_what_is_piped_has_no_escapes(url: str, listing: str) -> None:
    finished = piped(listing, "--store", url, FORCE_COLOR="1")
    assert finished.returncode == 0
    assert "\x1b" not in finished.stdout + finished.stderr
    assert all(line.replace("\t", "").isprintable() for line in finished.stdout.splitlines())


def test_the_help_is_piped_without_escapes() -> None:
    finished = piped("--help")
    assert finished.returncode == 0
    assert "\x1b" not in finished.stdout
    assert "Exit codes" in finished.stdout


def test_a_reader_that_stops_reading_is_no_error(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'app.db'}"
    ask(url, "set_many", {f"key:{n}": n for n in range(20_000)})
    reader = subprocess.Popen(["head", "-1"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert reader.stdin is not None
    writer = subprocess.Popen(
        [*PROGRAM, "keys", "--store", url],
        stdout=reader.stdin,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    reader.stdin.close()
    told = writer.communicate(timeout=60)[1].decode()
    reader.wait(60)
    assert reader.stdout is not None
    with reader.stdout as first:
        assert first.read().startswith(b"key:")
    assert writer.returncode == 141
    assert told.startswith("looking for keys")
    assert len(told.splitlines()) == 1


full = pytest.mark.skipif(
    not Path("/dev/full").exists(), reason="there is no disk that is always full"
)


def in_shell(redirected: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the program with its streams as a shell redirects them."""
    return subprocess.run(
        ["sh", "-c", f'"$@" {redirected}', "sh", *PROGRAM, *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env=environment(),
    )


@full
def test_an_output_that_cannot_be_written_is_an_error(url: str) -> None:
    finished = in_shell(">/dev/full", "locks", "--store", url)
    assert finished.returncode == 74
    assert finished.stderr.splitlines()[1].startswith("gogoscope: the output cannot be written")
    assert len(finished.stderr.splitlines()) == 2


@full
@pytest.mark.parametrize("option", ["--help", "--version"])
def test_a_help_that_cannot_be_written_is_an_error(option: str) -> None:
    finished = in_shell(">/dev/full", option)
    assert finished.returncode == 74
    assert finished.stderr.startswith("gogoscope: the output cannot be written")
    assert len(finished.stderr.splitlines()) == 1


def test_a_reader_of_the_help_may_stop_reading() -> None:
    reads, writes = os.pipe()
    os.close(reads)
    try:
        finished = subprocess.run(
            [*PROGRAM, "--help"],
            stdout=writes,
            stderr=subprocess.PIPE,
            timeout=PATIENCE,
            check=False,
            env=environment(),
        )
    finally:
        os.close(writes)
    assert (finished.returncode, finished.stderr) == (141, b"")


@full
@pytest.mark.parametrize(
    ("arguments", "code"), [(("locks",), 0), (("holder", "nobody's"), 1), (("lokcs",), 2)]
)
def test_what_was_asked_for_is_done_though_nothing_else_can_be_told(
    url: str, arguments: tuple[str, ...], code: int
) -> None:
    finished = in_shell("2>/dev/full", *arguments, "--store", url)
    assert finished.returncode == code
    assert ("order:1" in finished.stdout) == (code == 0)


def test_an_answer_that_is_no_text_is_not_a_yes(url: str) -> None:
    strict = {"PYTHONIOENCODING": "utf-8:strict"}
    with terminal("release", "order:1", "--store", url, env=strict) as shown:
        shown.wait_for("[y/N]")
        os.write(shown.fd, b"\xff\n")
        assert shown.end() == 5
    assert "nothing was changed" in shown.shown


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-"])
def test_streams_may_be_closed(url: str, closed: str) -> None:
    finished = in_shell(closed, "locks", "--store", url)
    assert finished.returncode == 0
    assert "Traceback" not in finished.stderr
    assert ("order:1" in finished.stdout) == (closed != ">&-")


def test_the_help_loads_no_client_and_no_store() -> None:
    program = (
        "import sys; from gogoscope.cli.program import run; run(['locks', '--help']);"
        "print(*sys.modules)"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    heavy = {"aioboto3", "botocore", "redis", "psycopg", "sqlite3", "trio", "gogoscope.scopes"}
    heavy |= {"gogoscope.stores", "gogoscope_dynamodb", "gogoscope.persistence.records.place"}
    assert not heavy & set(finished.stdout.splitlines()[-1].split())


def test_no_key_is_too_odd_for_an_ascii_terminal(url: str) -> None:
    finished = piped("keys", "--store", url, PYTHONIOENCODING="ascii")
    assert finished.returncode == 0
    assert r"\U0001f389 party" in finished.stdout


def test_an_argument_that_is_no_text_is_wrong_use(url: str) -> None:
    finished = subprocess.run(
        [*map(os.fsencode, PROGRAM), b"holder", b"--store", url.encode(), b"\xff\xfe"],
        capture_output=True,
        check=False,
        env=environment(),
    )
    assert finished.returncode == 2
    assert b"UTF-8" in finished.stderr


FAILING = """
import sys
from importlib.abc import MetaPathFinder

package, error = sys.argv[1:]

class Failing(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == package:
            if error == "KeyboardInterrupt":
                raise KeyboardInterrupt
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Failing())

import runpy
sys.argv[1:] = ["locks", "--store", "memory:"]
runpy.run_module("gogoscope", run_name="__main__")
"""


def failing_to_load(package: str, error: str) -> subprocess.CompletedProcess[str]:
    """Run the program where an error comes while a package is loaded."""
    return subprocess.run(
        [sys.executable, "-c", FAILING, package, error],
        capture_output=True,
        text=True,
        check=False,
    )


def test_ctrl_c_while_the_packages_are_loaded_ends_it_quietly() -> None:
    finished = failing_to_load("rich", "KeyboardInterrupt")
    assert (finished.returncode, finished.stdout, finished.stderr) == (130, "", "")


@pytest.mark.parametrize("package", ["cyclopts", "rich"])
def test_without_the_extra_it_says_what_to_install(package: str) -> None:
    finished = failing_to_load(package, "ModuleNotFoundError")
    assert finished.returncode == 4
    assert finished.stderr == (
        f"gogoscope: the command line needs {package}; run: pip install 'gogoscope[cli]'\n"
    )
