"""The store that the fleet shares: a file of its own, or whatever URL it is told to use."""

from __future__ import annotations

import secrets
from pathlib import Path
from urllib.parse import quote, urlencode

from gogoscope import PersistenceURL


def sqlite_url(folder: Path) -> str:
    """Return the URL of a new SQLite file in a folder."""
    return f"sqlite:///{quote(str(folder / 'fleet.db'))}"


def for_one_run(url: str) -> str:
    """Put what one run stores below a key prefix of its own, so that no run sees another's."""
    options = dict(PersistenceURL.parse(url).options)
    options["key_prefix"] = f"{options.get('key_prefix', '')}fleet-{secrets.token_hex(4)}:"
    return f"{url.partition('?')[0]}?{urlencode(options, safe=':/')}"
