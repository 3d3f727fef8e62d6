"""What the URL of a PostgreSQL store says, and what is told of it; no server is asked."""

from __future__ import annotations

import traceback
from typing import Any

import pytest

from gogoscope.exceptions import InvalidURLError, UnsupportedEventLoopError
from gogoscope.persistence import PersistenceURL, open_persistence
from gogoscope.stores.postgres.connection import parse
from gogoscope.stores.postgres.entries import end_of
from gogoscope.stores.postgres.errors import classify
from gogoscope.stores.postgres.store import PostgresStore, from_url

pytest.importorskip("psycopg")


def store_of(url: str) -> PostgresStore:
    return from_url(PersistenceURL.parse(url))


@pytest.mark.parametrize("scheme", ["postgresql", "postgres"])
@pytest.mark.parametrize(
    "password", ["hunter2", "p%40ss%2Fw%3Ard%3F%25%23", "with@raw", "100%25", ""]
)
def test_what_libpq_is_told_is_what_the_url_says(scheme: str, password: str) -> None:
    url = f"{scheme}://ann:{password}@db.example:6432/shop?sslmode=require&create=true"
    parts = parse(store_of(url)._client.conninfo)
    plain = {"p%40ss%2Fw%3Ard%3F%25%23": "p@ss/w:rd?%#", "100%25": "100%"}.get(password, password)
    assert parts == {
        "user": "ann",
        **({"password": plain} if plain else {}),
        "host": "db.example",
        "port": "6432",
        "dbname": "shop",
        "sslmode": "require",
    }


@pytest.mark.parametrize(
    "url",
    [
        "postgresql:///shop?host=/var/run/postgresql",
        "postgresql://one:5432,two:5433/shop?target_session_attrs=read-write",
        "postgresql://[::1]:5432/shop?connect_timeout=3&application_name=my%20app",
        "postgresql://",
    ],
)
def test_everything_else_is_left_to_libpq(url: str) -> None:
    assert parse(store_of(url)._client.conninfo) == parse(url)


def test_the_own_options_are_those_of_the_store() -> None:
    store = store_of(
        "postgresql://h/d?table=app.locks&key_prefix=a:&max_clock_skew=1&request_timeout=3"
        "&pool_size=7&create=true"
    )
    assert repr(store) == "<PostgresStore 'h/d' table=\"app\".\"locks\" key_prefix='a:'>"
    assert store._client.timeout == 3
    assert store._skew_ms == 1000
    assert store._create


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("ttl=1", "unknown option 'ttl' in .*; postgresql knows: create, key_prefix"),
        ("create=yes", "it must be true or false"),
        ("table=a;drop", "table must be letters, digits and '_'"),
        ("table=a.b.c", "table must be letters"),
        ("table=" + "x" * 64, "at most 63 characters"),
        ("pool_size=0", "pool_size must be 1 or more"),
        ("pool_size=many", "has the value 'many'"),
        ("request_timeout=0", "request_timeout must be"),
        ("key_prefix=app", "key_prefix must end with one of"),
        ("max_clock_skew=-1", "max_clock_skew must be"),
    ],
)
def test_a_bad_option_is_refused(options: str, message: str) -> None:
    with pytest.raises(InvalidURLError, match=message):
        store_of(f"postgresql://h/d?{options}")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ann:hunter2@h:port/d",
        "postgresql://ann:hun/ter2@h/d",
        "postgresql://ann:12/ter2@h/d",
        "postgresql://ann:hunter2@h/d?ttl=1",
        "postgresql://h/d?password=hunter2&ttl=1",
        "postgresql://ann:hunter2%ZZ@h/d?table=-",
        "postgresql://ann:hunter2@[h/d",
    ],
)
def test_a_password_stands_in_no_error(url: str) -> None:
    with pytest.raises(InvalidURLError) as caught:
        store_of(url)
    assert "ter2" not in "".join(traceback.format_exception(caught.value))


def test_a_password_stands_in_no_repr() -> None:
    assert "ter2" not in repr(store_of("postgresql://ann:hunter2@h/d"))
    assert "ter2" not in repr(PostgresStore("host=h dbname=d password=hunter2"))
    conninfo = "host=h dbname=d password=hunter2 nonsense"
    with pytest.raises(InvalidURLError) as caught:
        PostgresStore(conninfo)
    assert "ter2" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"conninfo": None}, TypeError, "conninfo must be a str, got one of type NoneType"),
        ({"create": 1}, TypeError, "create must be True or False, got 1"),
        ({"table": 7}, TypeError, "table must be a str, got 7"),
        ({"table": ""}, ValueError, "table must be letters"),
        ({"pool_size": 2.5}, TypeError, "pool_size must be an int"),
        ({"clock": "now"}, TypeError, "clock must be"),
        ({"request_timeout": 0}, ValueError, "request_timeout must be"),
    ],
)
def test_a_bad_argument_is_refused(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        PostgresStore(**{"conninfo": "postgresql://h/d", **arguments})


@pytest.mark.anyio
async def test_psycopg_needs_asyncio(anyio_backend_name: str) -> None:
    if anyio_backend_name == "asyncio":
        pytest.skip("it is opened here")
    with pytest.raises(UnsupportedEventLoopError, match="psycopg runs on asyncio only"):
        async with open_persistence("postgresql://localhost/nobody"):
            pass


@pytest.mark.parametrize("prefix", ["a", "a:", "é", "\ud7ff", "a\U0010ffff", "\U0010ffff", ""])
def test_the_end_of_a_prefix_is_above_all_that_starts_with_it(prefix: str) -> None:
    end = end_of(prefix)
    for rest in ("", "\x01", "zzz", "\U0010ffff", "\U0010ffff\U0010ffff"):
        assert end is None or (prefix + rest).encode() < end.encode()
    if end is not None:
        assert not end.startswith(prefix)


class ServerError(Exception):
    def __init__(self, sqlstate: str | None, message: str = "") -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


class OperationalError(ServerError):
    pass


class InterfaceError(ServerError):
    pass


@pytest.mark.parametrize(
    ("error", "sent", "maybe_applied", "retry", "kind"),
    [
        (OperationalError(None), True, True, True, "StoreConnectionError"),
        (OperationalError(None), False, False, True, "StoreConnectionError"),
        (
            OperationalError(None, 'FATAL: password authentication failed for user "a"'),
            *(False, False, False, "ConfigurationError"),
        ),
        (
            OperationalError(None, "FATAL: the database system is starting up"),
            *(False, False, True, "StoreConnectionError"),
        ),
        (ServerError("57P01"), True, True, True, "StoreConnectionError"),
        (ServerError("57P03"), False, False, True, "StoreConnectionError"),
        (ServerError("08P01"), True, True, True, "StoreConnectionError"),
        (ServerError("25006"), True, False, True, "StoreConnectionError"),
        (ServerError("40001"), True, False, True, "ThrottledError"),
        (ServerError("40P01"), True, False, True, "ThrottledError"),
        (ServerError("53300"), False, False, True, "ThrottledError"),
        (ServerError("57014"), True, False, True, "StoreTimeoutError"),
        (ServerError("28P01"), False, False, False, "ConfigurationError"),
        (ServerError("42P01"), True, False, False, "ConfigurationError"),
        (ServerError("42501"), True, False, False, "ConfigurationError"),
        (ServerError("54000"), True, False, False, "RecordTooLargeError"),
        (ServerError("22021"), True, False, False, "PersistenceError"),
        (InterfaceError(None), False, False, False, "UnsupportedEventLoopError"),
        (ValueError("a bug"), True, True, False, "UnexpectedStoreError"),
    ],
)
def test_what_an_error_means(
    error: Exception, sent: bool, maybe_applied: bool, retry: bool, kind: str
) -> None:
    failure = classify(error, sent=sent)
    assert (failure.maybe_applied, failure.retry, failure.error.__name__) == (
        maybe_applied,
        retry,
        kind,
    )
