"""The store that the fleet shares: a temporary SQLite file, or the URL from the command line."""

from __future__ import annotations

import secrets
from pathlib import Path
from urllib.parse import quote, urlencode

from gogoscope import PersistenceURL


def sqlite_url(folder: Path) -> str:
    """Return the URL of a new SQLite file in a folder."""
    return f"sqlite:///{quote(str(folder / 'fleet.db'))}"


def for_one_run(url: str) -> str:
    """Give a run its own key prefix, so that it does not see what other runs stored."""
    options = dict(PersistenceURL.parse(url).options)
    options["key_prefix"] = f"{options.get('key_prefix', '')}fleet-{secrets.token_hex(4)}:"
    return f"{url.partition('?')[0]}?{urlencode(options, safe=':/')}"
