"""Where blocking calls are refused, since they would block more than their thread."""

from __future__ import annotations

import sys
from typing import Any

from gogoscope._core.event_loop import runs_here
from gogoscope.exceptions import UnsupportedEventLoopError


def refuse_green_threads() -> None:
    """Refuse a process whose threads are green ones.

    :raises UnsupportedEventLoopError: if gevent or eventlet has patched the standard library
    """
    for name, is_patched in (("gevent", _patched_by_gevent), ("eventlet", _patched_by_eventlet)):
        if is_patched():
            raise UnsupportedEventLoopError(
                f"{name} has patched the standard library of this process, so that its threads are "
                "green ones; gogoscope.blocking needs real threads. Run the process with workers "
                "that are threads or processes (gunicorn -k gthread, celery -P prefork or -P "
                f"threads), or without the monkey patching of {name}"
            )


def _patched_by_gevent() -> bool:
    monkey: Any = sys.modules.get("gevent.monkey")
    return monkey is not None and any(map(monkey.is_module_patched, _PATCHED))


def _patched_by_eventlet() -> bool:
    patcher: Any = sys.modules.get("eventlet.patcher")
    return patcher is not None and any(map(patcher.is_monkey_patched, _PATCHED))


_PATCHED = ("thread", "socket", "select", "time")


def refuse_event_loop(usage: str, instead: str) -> None:
    """Refuse to block an event loop.

    :param usage: what was called
    :param instead: its async form
    :raises RuntimeError: if an event loop runs the calling code
    """
    if runs_here():
        raise RuntimeError(
            f"{usage} would block the event loop that runs this code; use the async form: {instead}"
        )
