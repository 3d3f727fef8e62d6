"""What a persistence URL says, part by part."""

from __future__ import annotations

import traceback

import pytest

from gogoscope.exceptions import InvalidURLError
from gogoscope.persistence import PersistenceURL, open_persistence


def test_a_url_is_split_into_scheme_location_and_options() -> None:
    url = "dynamodb://My-Table?region=eu-west-1&key_prefix=app%3A"
    assert PersistenceURL.parse(url) == PersistenceURL(
        url, "dynamodb", "My-Table", {"region": "eu-west-1", "key_prefix": "app:"}
    )


@pytest.mark.parametrize(
    ("url", "scheme", "location"),
    [
        ("memory:", "memory", ""),
        ("memory://", "memory", ""),
        ("memory://Orders", "memory", "Orders"),
        ("sqlite:///a/b.db", "sqlite", "/a/b.db"),
        ("sqlite:////a/b.db", "sqlite", "//a/b.db"),
        ("sqlite:///with%20space%3F.db", "sqlite", "/with space?.db"),
        (
            "dynamodb://arn:aws:dynamodb:us-east-1:123456789012:table/T",
            "dynamodb",
            "arn:aws:dynamodb:us-east-1:123456789012:table/T",
        ),
    ],
)
def test_a_location_keeps_its_case_and_its_slashes(url: str, scheme: str, location: str) -> None:
    parsed = PersistenceURL.parse(url)
    assert (parsed.scheme, parsed.location, parsed.options) == (scheme, location, {})


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "has no scheme"),
        ("app.db", "has no scheme"),
        ("//table", "has no scheme"),
        ("memory:?key_prefix", "not name=value"),
        ("memory:?a=1&&b=2", "not name=value"),
        ("memory:?a=1&a=2", "the option 'a' twice"),
        ("memory:#part", "write it as %23"),
        ("memory:#", "write it as %23"),
        ("memory:?key_prefix=a#", "write it as %23"),
        ("memory://[half", "is malformed"),
        ("sqlite:///%ff.db", "is malformed"),
        ("memory:?key_prefix=%ff:", "not name=value"),
    ],
)
def test_a_malformed_url_is_refused_with_the_reason(url: str, reason: str) -> None:
    with pytest.raises(InvalidURLError, match=reason) as caught:
        PersistenceURL.parse(url)
    assert repr(url) in str(caught.value)


def test_options_are_converted_by_those_that_the_backend_knows() -> None:
    url = PersistenceURL.parse("x:?timeout=1.5&name=a")
    assert url.convert_options(timeout=float, name=str, other=int) == {"timeout": 1.5, "name": "a"}


def test_an_unknown_option_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(InvalidURLError, match=r"unknown option 'ttl' in .*x knows: a, b"):
        PersistenceURL.parse("x:?ttl=1").convert_options(b=str, a=str)
    with pytest.raises(InvalidURLError, match="x knows: none"):
        PersistenceURL.parse("x:?ttl=1").convert_options()


def test_the_netloc_is_kept_as_it_was_written() -> None:
    url = PersistenceURL.parse("redis://ann:p%40ss%2Fword@Host:6379/0?key_prefix=a:")
    assert url.netloc == "ann:p%40ss%2Fword@Host:6379"
    assert PersistenceURL.parse("memory:").netloc == ""


def test_a_bad_value_of_an_option_is_refused_with_the_reason() -> None:
    with pytest.raises(InvalidURLError, match=r"option 'timeout' in .* has the value 'soon'"):
        PersistenceURL.parse("x:?timeout=soon").convert_options(timeout=float)


SECRETS = [
    ("redis://ann:hunter2@host/0", "redis://ann:***@host/0"),
    ("redis://:hunter2@host", "redis://:***@host"),
    ("redis://ann:hun/ter2@ter2@host", "redis://ann:***@host"),
    ("ann:hunter2@host/db", "ann:***@host/db"),
    ("redis://ann:hunter2@[half", "redis://ann:***@[half"),
    ("redis://ann:hunter2@host?ttl", "redis://ann:***@host?ttl"),
    ("redis://ann:hunter2@host#x", "redis://ann:***@host#x"),
    ("redis://host?password=hunter2&db=1", "redis://host?password=***&db=1"),
    ("redis://host?auth_token=hunter2", "redis://host?auth_token=***"),
    ("dynamodb://table?endpoint_url=http://a:hunter2@h", "dynamodb://table?endpoint_url=***"),
    ("dynamodb://table?endpoint_url=http%3A%2F%2Fa%3Ahunter2%40h", "endpoint_url=***"),
]


@pytest.mark.parametrize(("url", "shown"), SECRETS)
@pytest.mark.anyio
async def test_a_password_stands_in_no_error_and_in_no_repr(url: str, shown: str) -> None:
    with pytest.raises(Exception) as caught:
        async with open_persistence(f"{url}&ttl=1" if "?p" in url else url):
            pass
    texts = "".join(traceback.format_exception(caught.value))
    try:
        parsed = PersistenceURL.parse(url)
        assert shown in str(parsed)
        texts += repr(parsed)
        parsed.convert_options(password=int, auth_token=int, endpoint_url=int)
    except InvalidURLError as error:
        texts += "".join(traceback.format_exception(error))
    assert "ter2" not in texts


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///a:b@c.db",
        "sqlite:////srv/a@b.db",
        "dynamodb://arn:aws:dynamodb:us-east-1:1:table/T",
    ],
)
def test_what_is_no_password_is_shown(url: str) -> None:
    assert str(PersistenceURL.parse(url)) == url
