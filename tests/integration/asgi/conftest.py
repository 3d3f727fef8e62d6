"""Servers of stores for the tests of the shop, each of which can be halted for a while."""

from __future__ import annotations

import secrets
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from urllib.parse import urlencode

import psutil
import pytest
from attrs import frozen

from tests.support.engines import DUMMY_CREDENTIALS, HOW_TO_GET_ONE, running_engine
from tests.support.guarded import GUARD
from tests.support.postgres_server import running_postgres
from tests.support.redis_server import running_redis

QUICK = 1.0
"""How many seconds the shop's requests to its store may take."""


@frozen
class Stoppable:
    """A store of a test's own; ``halted`` is a block in which it answers nothing."""

    url: str
    halted: Callable[[], AbstractContextManager[None]]


@contextmanager
def _sqlite(folder: Path) -> Iterator[Stoppable]:
    file = folder / "store.db"

    @contextmanager
    def halted() -> Iterator[None]:
        with closing(sqlite3.connect(file, timeout=30, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield
            connection.execute("ROLLBACK")

    yield Stoppable(f"sqlite:///{file}?busy_timeout={QUICK}", halted)


@contextmanager
def _redis(folder: Path) -> Iterator[Stoppable]:
    with running_redis() as server:

        @contextmanager
        def halted() -> Iterator[None]:
            pid = server.pid
            server.signal(signal.SIGSTOP)
            try:
                yield
            finally:
                server.resume(pid)

        yield Stoppable(f"{server.url}?request_timeout={QUICK}", halted)


@contextmanager
def _postgres(folder: Path) -> Iterator[Stoppable]:
    with running_postgres() as server:

        @contextmanager
        def halted() -> Iterator[None]:
            server.signal(signal.SIGSTOP)
            try:
                yield
            finally:
                server.signal(signal.SIGCONT)

        options = {"table": "shop", "create": "true", "request_timeout": QUICK}
        yield Stoppable(f"{server.url}?{urlencode(options)}", halted)


@contextmanager
def _dynamodb(folder: Path) -> Iterator[Stoppable]:
    with running_engine() as engine, pytest.MonkeyPatch.context() as patch:
        if engine.kind != "local":
            pytest.skip(f"only DynamoDB Local can be stopped; {HOW_TO_GET_ONE}")
        for name, value in DUMMY_CREDENTIALS.items():
            patch.setenv(name, value)
        port = engine.endpoint_url.rpartition(":")[2]
        guards = [p for p in psutil.Process().children() if p.cmdline()[:3] == [*GUARD]]
        (guard,) = (p for p in guards if port in p.cmdline())
        (java,) = guard.children()

        @contextmanager
        def halted() -> Iterator[None]:
            java.suspend()
            try:
                yield
            finally:
                java.resume()

        options = {"endpoint_url": engine.endpoint_url, "create": "true", "request_timeout": QUICK}
        yield Stoppable(f"dynamodb://shop-{secrets.token_hex(4)}?{urlencode(options)}", halted)


_STORES = {"sqlite": _sqlite, "redis": _redis, "postgresql": _postgres, "dynamodb": _dynamodb}


@pytest.fixture(
    params=["sqlite", *(pytest.param(name, marks=pytest.mark.engine) for name in [*_STORES][1:])]
)
def stoppable(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stoppable]:
    """A store of the test's own."""
    with _STORES[request.param](tmp_path) as store:
        yield store
