"""The parts of a persistence URL, and its options as Python values."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from attrs import field, frozen

from gogoscope.exceptions import InvalidURLError


def redacted(text: str) -> str:
    """Return a text with ``***`` in place of the passwords of the URLs in it.

    The values of options whose names speak of a secret are replaced, too.
    """
    return _OPTION.sub(_option_shown, _PASSWORD.sub(r"\1***@", text))


def _option_shown(option: re.Match[str]) -> str:
    name, value = option.groups()
    return f"{name}={_value_shown(name, value)}"


def _value_shown(name: str, value: str) -> str:
    return "***" if _SECRET.search(name) or _PASSWORD.search(unquote(value)) else value


# A user and a password, at the beginning or behind the two slashes of a URL.
_PASSWORD = re.compile(r"((?:^|(?<!/)//)[^/?#:@\s]*:)(?!//)[^?#\s]*@")
_OPTION = re.compile(r"(?<=[?&])([^=&?\s]*)=([^&#\s]*)")
_SECRET = re.compile(r"pass|pwd|secret|token|credential|auth", re.IGNORECASE)


@frozen(repr=False)
class PersistenceURL:
    """A persistence URL in its parts.

    ``location`` is the part between ``scheme:`` or ``scheme://`` and the options, with
    percent-escapes decoded; the case of its letters is kept. ``options`` are those after ``?``.
    """

    url: str
    scheme: str
    location: str
    options: Mapping[str, str] = field(factory=dict)

    @property
    def netloc(self) -> str:
        """The part between ``//`` and the next slash as it was written, with escapes and secrets.

        In it a ``%40`` or ``%2F`` of a password can be told from what separates it.
        """
        return urlsplit(self.url).netloc

    def __str__(self) -> str:
        """Return the URL without its secrets, for messages."""
        return redacted(self.url)

    def __repr__(self) -> str:
        return f"<PersistenceURL {str(self)!r}>"

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
            detail = "" if "@" in url else f": {error}"  # it may quote a password
            raise InvalidURLError(f"{redacted(url)!r} is malformed{detail}") from None
        if not parts.scheme:
            raise InvalidURLError(
                f"{redacted(url)!r} has no scheme; write for example 'sqlite:///app.db'"
            )
        if parts.fragment or url.endswith("#"):
            raise InvalidURLError(f"{redacted(url)!r} contains '#'; write it as %23")
        try:
            pairs = parse_qsl(
                parts.query,
                keep_blank_values=True,
                strict_parsing=bool(parts.query),
                errors="strict",
            )
        except ValueError:
            raise InvalidURLError(f"the options of {redacted(url)!r} are not name=value") from None
        options: dict[str, str] = {}
        for name, value in pairs:
            if name in options:
                raise InvalidURLError(f"{redacted(url)!r} has the option {name!r} twice")
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
                    f"unknown option {name!r} in {str(self)!r}; {self.scheme} knows: {listing}"
                )
            try:
                converted[name] = known[name](value)
            except ValueError as error:
                shown = _value_shown(name, value)
                secret = shown != value  # the error may quote it
                raise InvalidURLError(
                    f"option {name!r} in {str(self)!r} has the value {shown!r}"
                    + ("" if secret else f": {error}")
                ) from (None if secret else error)
        return converted
