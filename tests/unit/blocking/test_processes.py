"""The loop of a process: it starts with the first call, is not inherited, and ends with it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # each starts a process

forks = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")


def run(program: str, folder: Path, *, code: int = 0) -> list[str]:
    """Run a program in a process of its own; return what it prints."""
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == code, ran.stderr
    assert code or not ran.stderr, ran.stderr
    return ran.stdout.splitlines()


START = """
import os, threading
from gogoscope.blocking import connect
from gogoscope import LeaseLostError, LockTimeoutError, ScopeClosedError

db = connect("sqlite:///store.db")
threads = [thread.name for thread in threading.enumerate()]
assert "gogoscope" not in threads, threads
"""

FORKED = """
def in_child(work):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            import sys
            sys.stdout.flush()
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
"""


def test_the_thread_starts_with_the_first_call(tmp_path: Path) -> None:
    program = (
        START
        + """
db.cache.set("k", 1)
print([thread.name for thread in threading.enumerate() if thread.name == "gogoscope"])
"""
    )
    assert run(program, tmp_path) == ["['gogoscope']"]


def test_a_program_ends_and_releases_what_it_holds(tmp_path: Path) -> None:
    program = (
        START
        + """
handle = db.acquire_lock("a", 600)
lock = db.lock("b", ttl=600).acquire()
def wait():
    try:
        db.lock("a").acquire()
    except ScopeClosedError:
        pass  # the program has ended
waiting = threading.Thread(target=wait, daemon=True)
waiting.start()
print("end")
"""
    )
    assert run(program, tmp_path) == ["end"]
    program = (
        START
        + """
with db.lock("a", wait=0), db.lock("b", wait=0):
    print("free")
"""
    )
    assert run(program, tmp_path) == ["free"]


def test_a_client_that_cannot_start_its_thread_says_so(tmp_path: Path) -> None:
    """Python 3.12 starts no thread when the interpreter ends."""
    program = (
        START
        + """
def start(thread):
    raise RuntimeError("can't create new thread at interpreter shutdown")

threading.Thread.start = start
try:
    db.cache.get("k")
except ScopeClosedError as error:
    print(error)
"""
    )
    (told,) = run(program, tmp_path)
    assert "cannot start: can't create new thread" in told


@pytest.mark.parametrize("before", ["pass", 'db.cache.get("k")'])
def test_what_python_deletes_at_its_end_does_not_wait_for_a_thread(
    tmp_path: Path, before: str
) -> None:
    program = (
        START
        + f"""
{before}

class Last:
    def __del__(self):
        try:
            db.cache.get("k")
        except ScopeClosedError as error:
            print(error, flush=True)

import builtins
builtins.last = Last()  # outlives all modules
"""
    )
    assert run(program, tmp_path) == [
        "the event loop of gogoscope.blocking cannot start: Python ends"
    ]


def test_a_program_ends_after_an_error_in_a_block(tmp_path: Path) -> None:
    program = (
        START
        + """
with db.lock("a"):
    raise SystemExit(3)
"""
    )
    run(program, tmp_path, code=3)
    assert run(START + "print(db.lock('a', wait=0).acquire().key)", tmp_path) == ["a"]


@pytest.mark.parametrize("how", ["fork", "spawn"])
def test_a_process_of_multiprocessing_releases_what_it_holds(tmp_path: Path, how: str) -> None:
    if sys.platform == "win32" and how == "fork":
        pytest.skip("Windows has no fork")
    program = """
import multiprocessing, sys
from gogoscope.blocking import connect

db = connect("sqlite:///store.db")

def work():
    db.acquire_lock("a", 600)
    kept.append(db.lock("b", ttl=600).acquire())
    print("held", flush=True)

kept = []
if __name__ == "__main__":
    process = multiprocessing.get_context(sys.argv[1]).Process(target=work)
    process.start()
    process.join()
    with db.lock("a", wait=0), db.lock("b", wait=0):
        print("free")
"""
    (tmp_path / "program.py").write_text(program)
    ran = subprocess.run(
        [sys.executable, "program.py", how],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.stdout == "held\nfree\n", ran.stderr


@forks
def test_a_forked_process_has_a_loop_of_its_own(tmp_path: Path) -> None:
    program = (
        START
        + FORKED
        + """
db.cache.set("k", "parent")
def work():
    assert db.cache.get("k") == "parent"
    db.cache.set("k", "child")
    with db.lock("child"):
        in_child(lambda: print(db.cache.get("k")))
    db.close()
in_child(work)
print(db.cache.get("k"))
with db.lock("child", wait=0):
    print("free")
"""
    )
    assert run(program, tmp_path) == ["child", "child", "free"]


@forks
def test_a_client_that_was_not_used_before_the_fork_works_after_it(tmp_path: Path) -> None:
    program = (
        START
        + FORKED
        + """
in_child(lambda: db.cache.set("k", 5))
print(db.cache.get("k"))
"""
    )
    assert run(program, tmp_path) == ["5"]


@forks
def test_what_the_parent_holds_is_the_parents(tmp_path: Path) -> None:
    program = (
        START
        + FORKED
        + """
handle = db.acquire_lock("b", 600)
lock = db.lock("a")
def work():
    for held in (lock, handle):
        try:
            held.ensure()
        except LeaseLostError as error:
            print(error)
        held.release()
    lock.__exit__(None, None, None)
    for key in "ab":
        try:
            db.lock(key, wait=0).acquire()
        except LockTimeoutError:
            print("held")
with lock:
    in_child(work)
    lock.ensure()
    assert lock.is_valid()
    handle.ensure()
    assert handle.is_valid()
"""
    )
    held = "is lost: the process that this one was forked from holds it"
    assert run(program, tmp_path) == [
        f"the lease of 'a' {held}",
        f"the lease of 'b' {held}",
        "held",
        "held",
    ]


FORKS = int(os.environ.get("GOGOSCOPE_TEST_FORKS", "15"))

BUSY = """
over = threading.Event()
def call():
    db.cache.set("k", 1)
def lock():
    with db.lock("busy", wait=60):
        pass
def open_and_close():
    with connect(url + str(threading.get_ident())) as other:
        other.cache.set("k", 1)
def busy(work):
    while not over.is_set():
        work()
threads = [threading.Thread(target=busy, args=(work,)) for work in works]
for thread in threads:
    thread.start()
def work():
    faulthandler.dump_traceback_later(30, exit=True)
    db.cache.set("forked", 1)
    with db.lock("forked", wait=60):
        pass
try:
    for number in range(times):
        in_child(work)
finally:
    over.set()
for thread in threads:
    thread.join()
print("done")
"""


@forks
@pytest.mark.parametrize("works", ["call, call, call", "lock, lock", "open_and_close, call"])
@pytest.mark.parametrize("url", ["sqlite:///store.db", "memory:"])
def test_a_process_that_is_forked_while_threads_call_has_a_loop_too(
    tmp_path: Path, url: str, works: str
) -> None:
    # The first fork comes while the loop imports what locks need.
    program = (
        START.replace("sqlite:///store.db", url)
        + "import faulthandler\n"
        + f"url, times = {url.replace('memory:', 'memory://')!r}, {FORKS}\n"
        + FORKED
        + BUSY.replace("in works]", f"in [{works}]]")
    )
    ran = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=max(120, 2 * FORKS),
        check=False,
    )
    assert (ran.stdout, ran.returncode) == ("done\n", 0), ran.stderr


@forks
@pytest.mark.parametrize("end", ["db.close()", "os.kill(os.getpid(), 9)"])
def test_a_forked_process_goes_on_when_all_others_have_closed_the_file(
    tmp_path: Path, end: str
) -> None:
    program = (
        START
        + f"""
import subprocess, sys
other = '''
from gogoscope.blocking import connect
with connect("sqlite:///store.db") as db:
    print(db.cache.get("forked"), db.acquire_lock("a", 5), flush=True)
'''
ended, end = os.pipe()
begun, begin = os.pipe()
db.cache.set("k", "parent")
if (pid := os.fork()) == 0:
    os.close(end)
    db.cache.set("forked", "child")
    with db.lock("a") as lock:
        os.write(begin, b"+")
        os.read(ended, 1)  # until the parent has ended, or closed
        assert subprocess.run([sys.executable, "-c", other]).returncode == 0
        db.cache.set("forked", "still")
        assert lock.is_valid()
    print(db.cache.get("forked"), db.cache.get("k"), flush=True)
    os._exit(0)
os.read(begun, 1)
{end}
os.close(end)
os.waitpid(pid, 0)
"""
    )
    assert run(program, tmp_path, code=-9 if "kill" in end else 0) == ["child None", "still parent"]


@pytest.mark.parametrize(
    ("library", "patch"),
    [
        ("gevent", "from gevent import monkey; monkey.patch_all()"),
        ("eventlet", "import eventlet; eventlet.monkey_patch()"),
    ],
)
def test_green_threads_are_refused_by_name(tmp_path: Path, library: str, patch: str) -> None:
    pytest.importorskip(library)
    program = (
        patch
        + """
from gogoscope import UnsupportedEventLoopError
from gogoscope.blocking import connect
try:
    connect("memory:")
except UnsupportedEventLoopError as error:
    print(error)
"""
    )
    ran = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.stdout.startswith(f"{library} has patched the standard library of this process")
    assert "gunicorn -k gthread" in ran.stdout


def test_a_library_that_imitates_eventlet_is_refused_by_name(tmp_path: Path) -> None:
    program = """
import sys, types
sys.modules["eventlet"] = types.ModuleType("eventlet")
patcher = sys.modules["eventlet.patcher"] = types.ModuleType("eventlet.patcher")
patcher.is_monkey_patched = lambda name: name == "thread"
from gogoscope import UnsupportedEventLoopError
from gogoscope.blocking import connect
try:
    connect("memory:")
except UnsupportedEventLoopError as error:
    print(str(error).split()[0])
"""
    assert run(program, tmp_path) == ["eventlet"]


def test_gevent_without_monkey_patching_is_no_hindrance(tmp_path: Path) -> None:
    pytest.importorskip("gevent")
    program = """
import gevent.monkey
from gogoscope.blocking import connect
print(connect("memory:").cache.get("k", 4))
"""
    ran = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.stdout == "4\n", ran.stderr
