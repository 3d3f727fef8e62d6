"""PostgreSQL for the tests: a server that is named, or one that is started for the run.

``GOGOSCOPE_TEST_POSTGRES_URL`` names one, such as ``postgresql://me@localhost/test``. Otherwise
``initdb`` and ``postgres``, from the PATH or from where Debian keeps them, make one in an empty
folder, on a free port. PostgreSQL refuses to run as root; it is run as the user ``postgres`` then.
Its password needs escapes in a URL. Tests that stop, kill or replace a server start one of their
own with :func:`running_postgres`.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NoReturn
from urllib.parse import quote

import psutil
import pytest
from attrs import define, field, frozen

from tests.support.guarded import GUARD, end_guarded, free_port

START_SECONDS = 60.0
PASSWORD = "p@ss/w:rd? 100%#"

POSTGRES = pytest.param("postgresql", marks=pytest.mark.engine)
"""The parameter of a test that asks for a fixture of this module only when it runs."""

HOW_TO_GET_ONE = (
    "there is no PostgreSQL: install it with 'apt-get install postgresql', or set "
    "GOGOSCOPE_TEST_POSTGRES_URL to the URL of a database in which tables may be made"
)
HOW_TO_GET_PGBOUNCER = "there is no pgbouncer: install it with 'apt-get install pgbouncer'"

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "32MB",
    "log_min_messages": "fatal",
}
_CARELESS = {"fsync": "off", "full_page_writes": "off"}


@define
class PostgresServer:
    """A server of a test's own, which can be stopped, killed, and started again."""

    port: int
    folder: Path
    settings: dict[str, str]
    log: IO[bytes]
    process: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def url(self) -> str:
        return url_of(self.port)

    def make(self) -> None:
        """Make an empty cluster."""
        secret = self.folder / "password"
        secret.write_text(f"{PASSWORD}\n")
        hand_over(self.folder, secret)
        access = ("--username", "postgres", "--pwfile", str(secret), "--auth", "scram-sha-256")
        how = ("--no-sync", "--encoding", "UTF8", "--locale", "C")
        subprocess.run(
            [*_as_postgres(), _program("initdb"), "--pgdata", str(self._data), *access, *how],
            cwd=self.folder,
            check=True,
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )

    def start(self) -> None:
        """Start it, and wait until it answers."""
        settings = [word for item in self.settings.items() for word in ("-c", "=".join(item))]
        command = [_program("postgres"), "-D", str(self._data), "-p", str(self.port), *settings]
        self.process = subprocess.Popen(
            [*GUARD, *_as_postgres(), *command],
            cwd=self.folder,
            stdin=subprocess.PIPE,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        wait_until_it_answers(self.url, self.process, self.log)

    def kill(self) -> None:
        """Let it end at once, as a crash does: it recovers when it is started again."""
        self._end(signal.SIGQUIT)

    def stop(self) -> None:
        """Let it end in order, breaking every connection."""
        self._end(signal.SIGINT)

    def signal(self, number: int) -> None:
        """Send the server and all its processes a signal, such as ``SIGSTOP``."""
        server = psutil.Process(self._pid())
        for process in (server, *server.children(recursive=True)):
            process.send_signal(number)

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement on a connection of its own, and return its rows."""
        return execute(self.url, statement)

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _pid(self) -> int:
        return int((self._data / "postmaster.pid").read_text().splitlines()[0])

    def _end(self, number: int) -> None:
        assert self.process is not None
        os.kill(self._pid(), number)
        self.process.wait(START_SECONDS)
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process = None


def url_of(port: int) -> str:
    """Return the URL of the database of a started server, or of what stands before it."""
    return f"postgresql://postgres:{quote(PASSWORD, safe='')}@127.0.0.1:{port}/postgres"


def execute(url: str, statement: str) -> list[tuple[Any, ...]]:
    """Run a statement on a connection of its own, and return its rows."""
    psycopg: Any = pytest.importorskip("psycopg")
    with psycopg.connect(url, autocommit=True, prepare_threshold=None) as connection:
        cursor = connection.execute(statement)
        return list(cursor) if cursor.description else []


def wait_until_it_answers(url: str, process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
    """Wait until a server answers, or fail with what it has logged."""
    psycopg: Any = pytest.importorskip("psycopg")
    give_up = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < give_up:
        try:
            execute(url, "SELECT 1")
        except psycopg.OperationalError:
            time.sleep(0.02)
        else:
            return
    log.seek(0)
    pytest.fail(f"it did not start: {log.read().decode()[-2000:]}", pytrace=False)


@contextmanager
def running_postgres(*, careful: bool = False) -> Iterator[PostgresServer]:
    """Start a server, and end it with the block.

    :param careful: whether it waits for the disk, as servers do that are not for tests
    """
    if not _program("initdb") or not _program("postgres"):
        _do_without(HOW_TO_GET_ONE)
    settings = _SETTINGS if careful else _SETTINGS | _CARELESS
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as log:
        server = PostgresServer(free_port(), Path(folder), settings, log)
        server.make()
        server.start()
        try:
            yield server
        finally:
            if server.process is not None:
                server.stop()


@contextmanager
def running_pgbouncer(port: int) -> Iterator[str]:
    """Start a pgbouncer before a server of ours, which lends connections for one transaction.

    :param port: that of the server
    """
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if program is None:
        _do_without(HOW_TO_GET_PGBOUNCER)
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as log:
        own_port = free_port()
        users, settings = Path(folder, "users"), Path(folder, "settings")
        users.write_text(f'"postgres" "{PASSWORD}"\n')
        settings.write_text(
            f"[databases]\n* = host=127.0.0.1 port={port}\n[pgbouncer]\nunix_socket_dir =\n"
            f"listen_addr = 127.0.0.1\nlisten_port = {own_port}\npool_mode = transaction\n"
            f"auth_type = plain\nauth_file = {users}\nmax_client_conn = 500\n"
            "default_pool_size = 3\n"
        )
        hand_over(Path(folder), users, settings)
        process = subprocess.Popen(
            [*GUARD, *_as_postgres(), program, str(settings)],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            wait_until_it_answers(url_of(own_port), process, log)
            yield url_of(own_port)
        finally:
            end_guarded(process)


def _program(name: str) -> str:
    """Return where a program of PostgreSQL is, of the newest version; empty if nowhere."""
    kept = sorted(
        Path("/usr/lib/postgresql").glob(f"*/bin/{name}"),
        key=lambda path: int(path.parts[-3]) if path.parts[-3].isdecimal() else 0,
    )
    return shutil.which(name) or (str(kept[-1]) if kept else "")


def _as_postgres() -> tuple[str, ...]:
    """Return what stands before a command that must not be run as root."""
    if os.geteuid():
        return ()
    return ("setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups")


def hand_over(*paths: Path) -> None:
    """Let the server own files, if it runs as another user."""
    if not os.geteuid():
        for path in paths:
            shutil.chown(path, "postgres", "postgres")


def _do_without(reason: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI needs every engine: {reason}", pytrace=False)
    pytest.skip(reason)


@contextmanager
def postgres_for_the_run(environ: Mapping[str, str] = os.environ) -> Iterator[str]:
    """Find or start a server, and end it with the block if it was started; return its URL."""
    if url := environ.get("GOGOSCOPE_TEST_POSTGRES_URL"):
        yield url
        return
    with running_postgres() as server:
        yield server.url


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a server."""
    for item in items:
        if "postgres_engine" in getattr(item, "fixturenames", ()):
            item.add_marker("engine")


@pytest.fixture(scope="session")
def postgres_engine() -> Iterator[str]:
    """The URL of a database in which tables may be made."""
    with postgres_for_the_run() as url:
        yield url


@frozen
class PostgresTable:
    """A table in a database, which is made when it is first opened."""

    database_url: str
    name: str

    @property
    def url(self) -> str:
        mark = "&" if "?" in self.database_url else "?"
        return f"{self.database_url}{mark}table={self.name}&create=true"

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement in its database, and return its rows."""
        return execute(self.database_url, statement)

    def drop(self) -> None:
        self.execute(f"DROP TABLE IF EXISTS {self.name}")


@pytest.fixture(scope="session")
def common_postgres_table(postgres_engine: str) -> Iterator[PostgresTable]:
    """The table of this run, in which each test has a key prefix of its own."""
    table = PostgresTable(postgres_engine, new_table_name())
    yield table
    table.drop()


@pytest.fixture
def postgres_url(on_asyncio: None, common_postgres_table: PostgresTable) -> str:
    """A persistence URL with a key prefix of the test's own."""
    return f"{common_postgres_table.url}&key_prefix={secrets.token_hex(8)}:"


@pytest.fixture
def postgres_table(on_asyncio: None, postgres_engine: str) -> Iterator[PostgresTable]:
    """A table of the test's own, not made yet."""
    table = PostgresTable(postgres_engine, new_table_name())
    yield table
    table.drop()


def new_table_name() -> str:
    """Return a name that no table has."""
    return f"gogoscope_test_{secrets.token_hex(6)}"
