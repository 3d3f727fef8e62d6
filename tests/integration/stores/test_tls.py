"""Servers are reached through TLS, and only those that a trusted authority vouches for."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import anyio
import pytest

from gogoscope import ConfigurationError, GogoscopeError, open_persistence, scope
from gogoscope.persistence import PersistenceURL
from gogoscope.stores.postgres.store import from_url as open_postgres
from gogoscope.stores.redis.store import from_url as open_redis
from tests.support.certificates import HOST, Certificates, make_certificates
from tests.support.guarded import free_port
from tests.support.postgres_server import PASSWORD, PostgresServer, hand_over, running_postgres
from tests.support.redis_server import running_redis

pytestmark = [pytest.mark.anyio, pytest.mark.engine]

PATIENCE = 60.0


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def other_authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("others")).authority


@pytest.fixture(scope="module")
def redis_port(certificates: Certificates) -> Iterator[int]:
    port = free_port()
    files = ("--tls-cert-file", certificates.server, "--tls-key-file", certificates.key)
    authority = ("--tls-ca-cert-file", certificates.authority, "--tls-auth-clients", "no")
    with running_redis("--tls-port", str(port), *map(str, (*files, *authority))):
        yield port


@pytest.fixture(scope="module")
def postgres(certificates: Certificates) -> Iterator[PostgresServer]:
    with running_postgres() as server:
        server.stop()
        folder = server.folder / "certificates"
        folder.mkdir()
        own = [Path(shutil.copy(file, folder)) for file in (certificates.server, certificates.key)]
        own[1].chmod(0o600)
        hand_over(folder, *own)
        server.settings |= {"ssl": "on", "ssl_cert_file": str(own[0]), "ssl_key_file": str(own[1])}
        server.start()
        yield server


def redis_url(port: int, host: str, authority: Path | None) -> str:
    options = "" if authority is None else f"&ca_file={quote(str(authority))}"
    return f"rediss://{host}:{port}/0?request_timeout=5{options}"


def postgres_url(server: PostgresServer, host: str, authority: Path) -> str:
    login = f"postgres:{quote(PASSWORD, safe='')}"
    options = f"sslmode=verify-full&sslrootcert={quote(str(authority))}&request_timeout=5"
    return f"postgresql://{login}@{host}:{server.port}/postgres?{options}&create=true"


async def use(url: str) -> None:
    async with open_persistence(url) as store:
        await store.set("k", "value")
        assert await store.get("k") == "value"
        async with scope(persistence=store) as s, s.lock("k", ttl=30) as lock:
            assert await lock.is_valid()


async def test_redis_is_reached_through_tls(redis_port: int, certificates: Certificates) -> None:
    url = redis_url(redis_port, HOST, certificates.authority)
    await use(url)
    parsed = PersistenceURL.parse(url)
    async with open_redis(parsed) as mine, open_redis(parsed) as theirs:
        told = anyio.Event()
        mine._watch("lock", "told", told.set)
        with anyio.fail_after(PATIENCE):
            while not told.is_set():
                handle = await theirs.acquire("told", 30)
                assert handle is not None
                await handle.release()
                await anyio.sleep(0.05)


async def test_postgresql_is_reached_through_tls(
    postgres: PostgresServer, certificates: Certificates
) -> None:
    url = postgres_url(postgres, HOST, certificates.authority)
    await use(url)
    async with open_postgres(PersistenceURL.parse(url)):
        assert postgres.execute("SELECT count(*) FROM pg_stat_ssl WHERE ssl")[0][0] >= 1


@pytest.mark.parametrize("trusts", ["the system", "another authority"])
async def test_a_redis_that_nobody_trusted_vouches_for_is_refused(
    redis_port: int, other_authority: Path, trusts: str
) -> None:
    authority = other_authority if trusts == "another authority" else None
    with pytest.raises(ConfigurationError, match=r"(?i)certificate"):
        await use(redis_url(redis_port, HOST, authority))


async def test_a_redis_with_another_name_is_refused(
    redis_port: int, certificates: Certificates
) -> None:
    with pytest.raises(ConfigurationError, match=r"(?i)certificate"):
        await use(redis_url(redis_port, "127.0.0.1", certificates.authority))


async def test_a_postgresql_that_nobody_trusted_vouches_for_is_refused(
    postgres: PostgresServer, other_authority: Path
) -> None:
    with pytest.raises(GogoscopeError, match=r"(?i)certificate"):
        await use(postgres_url(postgres, HOST, other_authority))


async def test_a_postgresql_with_another_name_is_refused(
    postgres: PostgresServer, certificates: Certificates
) -> None:
    with pytest.raises(GogoscopeError, match=r"(?i)certificate"):
        await use(postgres_url(postgres, "127.0.0.1", certificates.authority))
