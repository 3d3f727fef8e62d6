"""One session of the AWS SDK for each process and set of settings, made beside the event loop.

To import the SDK and to read the descriptions of its services takes up to a second, in which no
other task would run. So a worker thread does both: it makes a session, and opens and closes a first
client, after which the session has all that it needs. Later clients of the session are cheap.

``_kept`` are the last sessions that were made, each under the settings of the environment that it
was made with: whoever changes those gets a new one. A forked process makes its own.
"""

from __future__ import annotations

import asyncio
import functools
import os
import sys
from collections.abc import Callable
from typing import Any

import anyio.to_thread

from gogoscope.persistence import after_fork

MOST_KEPT = 8

_Settings = tuple[tuple[str, str], ...]

_kept: dict[_Settings, Any] = {}
after_fork(_kept.clear)


async def kept_session(new_session: Callable[[], Any], **options: Any) -> Any:
    """Return a session on whose clients the event loop need not wait long.

    :param new_session: imports the SDK and makes a session
    :param options: what the next client is opened with
    :raises Exception: what ``new_session`` or opening a client raises
    """
    settings = _settings()
    session = _kept.get(settings)
    if session is None or sys.modules.get("aioboto3") is None:
        make = functools.partial(_make, new_session, settings, options)
        session = await anyio.to_thread.run_sync(make, abandon_on_cancel=True)
    return session


def _settings() -> _Settings:
    names = sorted(name for name in os.environ if name.startswith("AWS_") or name == "HOME")
    return tuple((name, os.environ[name]) for name in names)


def _make(new_session: Callable[[], Any], settings: _Settings, options: dict[str, Any]) -> Any:
    session = new_session()

    async def read_all() -> None:
        async with session.client("dynamodb", **options):
            pass

    asyncio.run(read_all())
    for oldest in list(_kept)[: len(_kept) + 1 - MOST_KEPT]:
        _kept.pop(oldest, None)
    return _kept.setdefault(settings, session)
