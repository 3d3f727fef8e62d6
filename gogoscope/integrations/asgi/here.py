"""What surrounds the running code: the service, and the request.

A server may begin a request in the context of the one before it on the connection. It is not inside
of that one, whose response has ended by then; a request that another one makes itself, or one of a
mounted application, is inside of it.
"""

from __future__ import annotations

import math
from contextvars import ContextVar
from time import monotonic

import anyio
from attrs import Factory, frozen

from gogoscope import Scope
from gogoscope._core.context import Frame, current
from gogoscope._core.event_loop import runs_here
from gogoscope.exceptions import ScopeClosedError
from gogoscope.integrations.asgi.requests import Reply


@frozen
class Here:
    """What surrounds the running code, and what it has started elsewhere.

    :param service: the scope of the service
    :param deadline_header: the name of the header that tells how long a caller waits
    :param request: the scope of the request; ``None`` in the lifespan
    :param reply: what the request is answered with
    :param deadline: of the request, until the client has the whole reply
    :param zero: what the monotonic clock shows when that of the event loop shows 0, for threads
    """

    service: Scope
    deadline_header: str
    request: Scope | None = None
    reply: Reply | None = None
    deadline: float = math.inf
    zero: float = Factory(lambda: monotonic() - anyio.current_time())


here: ContextVar[Here] = ContextVar("gogoscope.asgi")


class entered:  # noqa: N801 - it is used as a function
    """Surround a block with something; afterwards, it is as it was before."""

    __slots__ = ("_frame", "_inner", "_token")

    def __init__(self, inner: Here) -> None:
        self._inner = inner

    def __enter__(self) -> None:
        outer, self._frame = here.get(None), current.get()
        if outer is not None and outer.reply is not None and outer.reply.ended:
            current.set(None)
        self._token = here.set(self._inner)

    def __exit__(self, *left: object) -> None:
        here.reset(self._token)
        current.set(self._frame)


def current_service() -> Scope:
    """Return the scope of the service that the running code belongs to.

    What is started in it outlives the request. The scope of the request itself is
    :func:`gogoscope.current_scope`.

    :raises ScopeClosedError: outside of a service
    """
    return _here().service


def deadline_headers() -> dict[str, str]:
    """Return the header that tells another service how many seconds the caller still waits.

    Add it to the headers of a request that is made for the current one. The time is that until the
    nearest deadline around the caller, or in a thread until that of the request; without one, this
    is empty. A task of the service has not the deadline of the request that started it.

    :raises ScopeClosedError: outside of a service
    """
    around = _here()
    if runs_here():
        now, deadline = anyio.current_time(), anyio.current_effective_deadline()
    else:
        now, deadline = monotonic() - around.zero, math.inf
    # Some frameworks answer in a task of their own, which stands in no cancel scope of the request.
    if around.reply is not None and not around.reply.ended and _runs_in(around.request):
        deadline = min(deadline, around.deadline)
    if deadline == math.inf:
        return {}
    return {around.deadline_header: f"{max(deadline - now, 0.0):.3f}"}


def _here() -> Here:
    try:
        return here.get()
    except LookupError:
        raise ScopeClosedError("this is called outside of a service of ScopeMiddleware") from None


def _runs_in(scope: Scope | None) -> bool:
    frame: Frame | None = current.get()
    while frame is not None and frame is not scope:
        frame = frame._outer
    return frame is not None
