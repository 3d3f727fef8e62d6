"""The parts of a persistence URL, and its options as Python values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from attrs import field, frozen

from gogoscope.exceptions import InvalidURLError


@frozen
class PersistenceURL:
    """A persistence URL in its parts.

    ``location`` is the part between ``scheme:`` or ``scheme://`` and the options, with
    percent-escapes decoded; the case of its letters is kept. ``options`` are those after ``?``.
    """

    url: str
    scheme: str
    location: str
    options: Mapping[str, str] = field(factory=dict)

    @classmethod
    def parse(cls, url: str) -> PersistenceURL:
        """Split a URL into its parts.

        :raises InvalidURLError: if it has no scheme, an option without value or twice, or a ``#``,
            or is no URL at all
        """
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

        :param known: for each option that the backend has, the function that converts its text
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
