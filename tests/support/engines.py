"""DynamoDB for the tests: a real endpoint, DynamoDB Local, or moto's server for wiring alone.

``GOGOSCOPE_TEST_DYNAMODB_URL`` names a real endpoint. Otherwise DynamoDB Local is started if there
are ``java`` and, in the directory ``DYNAMODB_LOCAL_HOME``, ``DynamoDBLocal.jar``. Otherwise moto's
server is used, whose conditional writes are not atomic: tests of races are skipped with it.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlencode

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from attrs import frozen

from gogoscope_dynamodb import DynamoDBAdapter, create_table
from gogoscope_dynamodb.client import DynamoDBClient, open_client
from tests.support.dynamodb_faults import FaultyClient
from tests.support.guarded import GUARD, end_guarded, free_port

START_SECONDS = 60.0

DYNAMODB = pytest.param("dynamodb", marks=pytest.mark.engine)
"""The parameter of a test that asks for a fixture of this module only when it runs."""

HOW_TO_GET_ONE = (
    "only moto's server is here, which is no faithful DynamoDB; for DynamoDB Local run "
    "'npm pack amplify-dynamodb-simulator', unpack it, and set DYNAMODB_LOCAL_HOME to its folder "
    "package/emulator (it needs java), or set GOGOSCOPE_TEST_DYNAMODB_URL to another endpoint"
)

DUMMY_CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@frozen
class Engine:
    """A running DynamoDB; ``atomic`` tells whether its conditional writes are."""

    endpoint_url: str
    kind: Literal["real", "local", "moto"]

    @property
    def atomic(self) -> bool:
        return self.kind != "moto"


@contextmanager
def running_engine(environ: Mapping[str, str] = os.environ) -> Iterator[Engine]:
    """Find or start the best engine there is, and stop it at the end if it was started."""
    home, java = environ.get("DYNAMODB_LOCAL_HOME"), shutil.which("java")
    if url := environ.get("GOGOSCOPE_TEST_DYNAMODB_URL"):
        yield Engine(url, "real")
    elif home and java and (Path(home) / "DynamoDBLocal.jar").is_file():
        with _dynamodb_local(java, home) as url:
            yield Engine(url, "local")
    elif environ.get("CI") == "true":
        pytest.fail(f"CI needs an engine with atomic writes: {HOW_TO_GET_ONE}", pytrace=False)
    else:
        with _moto_server() as url:
            yield Engine(url, "moto")


@contextmanager
def _dynamodb_local(java: str, home: str) -> Iterator[str]:
    port = free_port()
    with tempfile.TemporaryFile() as log:
        guard = subprocess.Popen(
            [
                *GUARD,
                *(
                    java,
                    "-Xmx512m",
                    "-Djava.library.path=DynamoDBLocal_lib",
                    "-jar",
                    "DynamoDBLocal.jar",
                ),
                *("-inMemory", "-port", str(port)),
            ],
            cwd=home,
            env={**os.environ, "DDB_LOCAL_TELEMETRY": "0"},
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_until_up(url, guard, log)
            yield url
        finally:
            end_guarded(guard)


@contextmanager
def _moto_server() -> Iterator[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        server_module = pytest.importorskip("moto.server", reason=HOW_TO_GET_ONE)
        server = server_module.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def new_table_name() -> str:
    """Return a name that no table has."""
    return f"gogoscope-test-{secrets.token_hex(6)}"


def _wait_until_up(url: str, server: subprocess.Popen[bytes], log: Any) -> None:
    give_up = time.monotonic() + START_SECONDS
    while server.poll() is None and time.monotonic() < give_up:
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except urllib.error.HTTPError:
            return  # It answers, if only that this is no request of DynamoDB's.
        except OSError:
            time.sleep(0.05)
        else:
            return
    log.seek(0)
    pytest.fail(f"DynamoDB Local did not start: {log.read().decode()[-2000:]}", pytrace=False)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what needs DynamoDB; leave out what no user can run, since clients need asyncio."""
    for item in items:
        if "dynamodb_engine" in getattr(item, "fixturenames", ()):
            item.add_marker("engine")
    impossible = {item for item in items if _needs_asyncio(item) and _is_on_trio(item)}
    if impossible:
        config.hook.pytest_deselected(items=list(impossible))
        items[:] = [item for item in items if item not in impossible]


def _needs_asyncio(item: pytest.Item) -> bool:
    return "on_asyncio" in getattr(item, "fixturenames", ())


def _is_on_trio(item: pytest.Item) -> bool:
    parameters: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
    return parameters.get("anyio_backend") == ("trio", {})


@pytest.fixture(scope="session")
def dynamodb_engine() -> Iterator[Engine]:
    """A running DynamoDB, with credentials for it in the environment."""
    with running_engine() as engine, pytest.MonkeyPatch.context() as patch:
        for name, value in DUMMY_CREDENTIALS.items():
            if engine.kind != "real" or name not in os.environ:
                patch.setenv(name, value)
        if engine.kind != "real":
            patch.delenv("AWS_PROFILE", raising=False)
            patch.delenv("AWS_SESSION_TOKEN", raising=False)
        yield engine


@frozen
class Tables:
    """Makes and drops tables from synchronous code, on an event loop of its own."""

    portal: BlockingPortal
    client: Any

    def create(self, name: str) -> None:
        self.portal.call(create_table, self.client, name)

    def drop(self, name: str) -> None:
        self.portal.call(lambda: self.client.delete_table(TableName=name))


@pytest.fixture(scope="session")
def dynamodb_tables(dynamodb_engine: Engine) -> Iterator[Tables]:
    """What makes and drops tables."""
    with start_blocking_portal() as portal:
        opening = open_client(endpoint_url=dynamodb_engine.endpoint_url)
        with portal.wrap_async_context_manager(opening) as client:
            yield Tables(portal, client)


@pytest.fixture
def on_asyncio(request: pytest.FixtureRequest) -> None:
    """Skip the test where the clients of the engines cannot run."""
    is_async = "anyio_backend" in request.fixturenames
    if is_async and request.getfixturevalue("anyio_backend_name") == "trio":
        pytest.skip("the clients of the engines run on asyncio only")


@pytest.fixture
def dynamodb_table(
    on_asyncio: None, dynamodb_engine: Engine, dynamodb_tables: Tables
) -> Iterator[str]:
    """A fresh table, by its name."""
    name = new_table_name()
    dynamodb_tables.create(name)
    yield name
    if dynamodb_engine.kind == "real":
        dynamodb_tables.drop(name)


@pytest.fixture
async def dynamodb_client(
    on_asyncio: None, dynamodb_engine: Engine, anyio_backend: Any
) -> AsyncIterator[DynamoDBClient]:
    """An open client."""
    async with open_client(endpoint_url=dynamodb_engine.endpoint_url) as client:
        yield client


@pytest.fixture
def faulty_client(dynamodb_client: DynamoDBClient) -> FaultyClient:
    """An open client that counts requests and to which faults can be given."""
    return FaultyClient(dynamodb_client)


@pytest.fixture
def dynamodb_store(faulty_client: FaultyClient, dynamodb_table: str) -> DynamoDBAdapter:
    """A store on a fresh table, on the client of ``faulty_client``."""
    return DynamoDBAdapter(faulty_client, dynamodb_table, request_timeout=5)


@pytest.fixture
def dynamodb_url(dynamodb_engine: Engine, dynamodb_table: str) -> str:
    """A persistence URL for a fresh table."""
    options = {"endpoint_url": dynamodb_engine.endpoint_url}
    return f"dynamodb://{dynamodb_table}?{urlencode(options)}"


@pytest.fixture
def atomic_dynamodb(dynamodb_engine: Engine) -> Engine:
    """The engine, if it is atomic and faithful; else the test is skipped."""
    if not dynamodb_engine.atomic:
        pytest.skip(HOW_TO_GET_ONE)
    return dynamodb_engine


@pytest.fixture
def atomic_dynamodb_url(atomic_dynamodb: Engine, dynamodb_url: str) -> str:
    """Like ``dynamodb_url``, on an engine whose conditional writes are atomic."""
    return dynamodb_url
