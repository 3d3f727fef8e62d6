"""From a URL to an open store, through entry points."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from attrs import field, frozen

from gogoscope.exceptions import (
    AmbiguousBackendError,
    BackendUnavailableError,
    InvalidURLError,
    UnknownBackendError,
)

ENTRY_POINT_GROUP = "gogoscope.persistence"


@frozen
class PersistenceURL:
    """A persistence URL in its parts.

    ``location`` is what stands between ``scheme:`` or ``scheme://`` and the options, with
    percent-escapes decoded; the case of its letters is kept. ``options`` are those after ``?``.
    """

    url: str
    scheme: str
    location: str
    options: Mapping[str, str] = field(factory=dict)

    @classmethod
    def parse(cls, url: str) -> PersistenceURL:
        """Split a URL.

        :raises InvalidURLError: if it has no scheme, an option without value or twice, or a ``#``,
            or is no URL at all
        """
        from urllib.parse import parse_qsl, unquote, urlsplit  # noqa: PLC0415 - see test_packaging

        try:
            parts = urlsplit(url)
            location = unquote(parts.netloc + parts.path, errors="strict")
        except ValueError as error:
            raise InvalidURLError(f"{url!r} is malformed: {error}") from None
        if not parts.scheme:
            raise InvalidURLError(f"{url!r} has no scheme; write for example 'sqlite:///app.db'")
        if parts.fragment or url.endswith("#"):
            raise InvalidURLError(f"{url!r} contains '#'; write it as %23")
        try:
            pairs = parse_qsl(
                parts.query,
                keep_blank_values=True,
                strict_parsing=bool(parts.query),
                errors="strict",
            )
        except ValueError as error:
            raise InvalidURLError(f"the options of {url!r} are not name=value: {error}") from None
        options: dict[str, str] = {}
        for name, value in pairs:
            if name in options:
                raise InvalidURLError(f"{url!r} has the option {name!r} twice")
            options[name] = value
        return cls(url, parts.scheme, location, options)

    def convert_options(self, **known: Callable[[str], Any]) -> dict[str, Any]:
        """Return the options as Python values.

        :param known: each option that the backend knows, with what converts it from a ``str``
        :raises InvalidURLError: for an unknown option or a value that its converter refuses
        """
        converted: dict[str, Any] = {}
        for name, value in self.options.items():
            if name not in known:
                listing = ", ".join(sorted(known)) or "none"
                raise InvalidURLError(
                    f"unknown option {name!r} in {self.url!r}; {self.scheme} knows: {listing}"
                )
            try:
                converted[name] = known[name](value)
            except ValueError as error:
                raise InvalidURLError(
                    f"option {name!r} in {self.url!r} has the value {value!r}: {error}"
                ) from error
        return converted


Opener = Callable[[PersistenceURL], AbstractAsyncContextManager[Any]]
"""What a backend registers: it gives an async context manager of the store of a URL.

Scopes share the store, and the last one to end closes it. So it may be left in another task of the
event loop than it was entered in, and must hold nothing that belongs to one: no task group, cancel
scope or timeout around its ``yield``, and no context variable to be reset.
"""


def find_opener(url: PersistenceURL) -> Opener:
    """Load the backend that is registered for a URL's scheme, and no other.

    :raises UnknownBackendError: if none is; the message lists those that are
    :raises AmbiguousBackendError: if two distributions register it with different values
    :raises BackendUnavailableError: if the backend cannot be imported
    """
    from importlib.metadata import entry_points  # noqa: PLC0415 - slow to import

    installed = entry_points(group=ENTRY_POINT_GROUP)
    matching = {point.value: point for point in installed if point.name == url.scheme}
    if not matching:
        listing = ", ".join(sorted({point.name for point in installed})) or "none"
        raise UnknownBackendError(
            f"no backend is registered for the scheme {url.scheme!r} of {url.url!r}; "
            f"installed are: {listing}"
        )
    if len(matching) > 1:
        claims = " and ".join(
            f"{point.dist.name if point.dist else 'an unnamed distribution'} ({value})"
            for value, point in sorted(matching.items())
        )
        raise AmbiguousBackendError(f"the scheme {url.scheme!r} is registered by {claims}")
    (point,) = matching.values()
    try:
        opener: Opener = point.load()
    except ImportError as error:
        raise BackendUnavailableError(
            f"the backend {point.value!r} of scheme {url.scheme!r} cannot be imported: {error}"
        ) from error
    return opener


@asynccontextmanager
async def open_persistence(url: str) -> AsyncIterator[Any]:
    """Open the store of a URL for the length of a block; one for the life of a program will do.

    :param url: ``memory:``, ``memory://name``, ``sqlite:///relative.db``,
        ``sqlite:////absolute.db``, ``dynamodb://table?region=...``, or another installed scheme;
        every backend takes the option ``key_prefix``
    :returns: an async context manager that gives the open store
    :raises InvalidURLError: if the URL or an option is malformed or unknown
    :raises UnknownBackendError: if no installed backend has the scheme
    :raises BackendUnavailableError: if a package that the backend needs is not installed
    """
    if not isinstance(url, str):
        raise TypeError(f"url must be a str, got {url!r} of type {type(url).__name__}")
    parsed = PersistenceURL.parse(url)
    async with find_opener(parsed)(parsed) as store:
        yield store
