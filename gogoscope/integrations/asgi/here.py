"""What surrounds the running code: the service, and the request."""

from __future__ import annotations

import math
from contextvars import ContextVar

import anyio
from attrs import frozen

from gogoscope import Scope
from gogoscope._core.context import Frame, current
from gogoscope.exceptions import ScopeClosedError


@frozen
class Here:
    """What surrounds the running code, and what it has started elsewhere.

    :param service: the scope of the service
    :param deadline_header: the name of the header that tells how long a caller waits
    :param request: the scope of the request; ``None`` in the lifespan
    :param limit: has the deadline of the request
    """

    service: Scope
    deadline_header: str
    request: Scope | None = None
    limit: anyio.CancelScope | None = None


here: ContextVar[Here] = ContextVar("gogoscope.asgi")


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
    nearest deadline around the caller; without one, this is empty. A task of the service has not
    the deadline of the request that started it.

    :raises ScopeClosedError: outside of a service
    """
    around = _here()
    deadline = anyio.current_effective_deadline()
    # Some frameworks answer in a task of their own, which stands in no cancel scope of the request.
    if around.limit is not None and _runs_in(around.request):
        deadline = min(deadline, around.limit.deadline)
    if deadline == math.inf:
        return {}
    return {around.deadline_header: f"{max(deadline - anyio.current_time(), 0.0):.3f}"}


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
