"""What the URL of a store in Redis says, and what it never shows."""

from __future__ import annotations

import pytest

from gogoscope.exceptions import InvalidURLError
from gogoscope.persistence import PersistenceURL
from gogoscope.stores.redis.address import Address, address_of
from gogoscope.stores.redis.store import RedisStore, from_url


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://host", Address("host")),
        ("redis://host/", Address("host")),
        ("redis://host:7000/3", Address("host", 7000, 3)),
        ("rediss://host", Address("host", tls=True)),
        ("redis://:pw@host", Address("host", password="pw")),
        ("redis://ann@host", Address("host", username="ann")),
        ("redis://ann:pw@host:1/2?key_prefix=a:", Address("host", 1, 2, "ann", "pw")),
        ("redis://ann:p%40%2Fw%3A@host", Address("host", username="ann", password="p@/w:")),
        ("redis://ann:p@/w:@host/1", Address("host", 6379, 1, "ann", "p@/w:")),
        ("redis://[::1]:7000", Address("::1", 7000)),
    ],
)
def test_a_url_names_a_server_a_database_and_a_user(url: str, address: Address) -> None:
    assert address_of(PersistenceURL.parse(url)) == address


@pytest.mark.parametrize(
    "url",
    [
        *("redis:", "redis://", "redis:///0", "redis://:6379", "redis://hunter2@", "other://host"),
        *("redis://host:port", "redis://host:99999", "redis://host/name", "redis://host/0/1"),
        *("redis://host/-1", "redis://ann:hunter2@:1"),
    ],
)
def test_a_url_that_names_none_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(InvalidURLError) as caught:
        from_url(PersistenceURL.parse(url))
    assert "is not like redis://user:password@host:6379/0" in str(caught.value)
    assert "ann:hunter2" not in str(caught.value)


def test_a_password_is_shown_nowhere() -> None:
    store = RedisStore("redis://ann:hunter2@host/0", key_prefix="app:")
    assert repr(store) == "<RedisStore 'redis://host:6379/0' key_prefix='app:'>"
    assert "hunter2" not in repr(address_of(PersistenceURL.parse("redis://:hunter2@host")))


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        ("key_prefix=app", "key_prefix must end with one of"),
        ("max_clock_skew=-1", "max_clock_skew"),
        ("request_timeout=0", "request_timeout"),
        ("request_timeout=soon", "request_timeout"),
        ("ttl=1", "unknown option 'ttl'"),
        ("db=1", "unknown option 'db'"),
    ],
)
def test_a_malformed_or_unknown_option_is_refused(option: str, complaint: str) -> None:
    with pytest.raises(InvalidURLError, match=complaint):
        from_url(PersistenceURL.parse(f"redis://host?{option}"))


def test_another_server_of_a_cluster_has_the_same_user() -> None:
    address = Address("host", 7000, 0, "ann", "pw", tls=True)
    assert address.at("10.0.0.7:7001") == Address("10.0.0.7", 7001, 0, "ann", "pw", tls=True)
    assert address.at(":7001") == Address("host", 7001, 0, "ann", "pw", tls=True)
