"""What the errors of a client mean: what became of the statement, and whether to send it again.

A statement is a transaction of its own. If the server answers it with an error, nothing was
written, unless the error is about the connection: those may come after the commit.
"""

from __future__ import annotations

import re

from attrs import frozen

from gogoscope.exceptions import (
    ConfigurationError,
    GogoscopeError,
    PersistenceError,
    RecordTooLargeError,
    StoreConnectionError,
    StoreTimeoutError,
    ThrottledError,
    UnexpectedStoreError,
    UnsupportedEventLoopError,
)
from gogoscope.persistence import NoRoomError


@frozen(eq=False)
class Failure:
    """What an error of a statement means.

    ``maybe_applied`` says whether the statement may have been carried out, ``retry`` whether to
    send it again, and ``error`` which error to raise when it is not sent again.
    """

    maybe_applied: bool
    retry: bool
    error: type[GogoscopeError]


UNANSWERED = Failure(maybe_applied=True, retry=True, error=StoreTimeoutError)
NOT_SENT = Failure(maybe_applied=False, retry=True, error=StoreTimeoutError)
_BROKEN = Failure(maybe_applied=True, retry=True, error=StoreConnectionError)
_UNREACHABLE = Failure(maybe_applied=False, retry=True, error=StoreConnectionError)
_TOO_SLOW = Failure(maybe_applied=False, retry=True, error=StoreTimeoutError)
_BUSY = Failure(maybe_applied=False, retry=True, error=ThrottledError)
_MISCONFIGURED = Failure(maybe_applied=False, retry=False, error=ConfigurationError)
_NO_LOOP = Failure(maybe_applied=False, retry=False, error=UnsupportedEventLoopError)
_TOO_LARGE = Failure(maybe_applied=False, retry=False, error=RecordTooLargeError)
_REFUSED = Failure(maybe_applied=False, retry=False, error=PersistenceError)
_UNEXPECTED = Failure(maybe_applied=True, retry=False, error=UnexpectedStoreError)

_BY_STATE = {
    "25006": _UNREACHABLE,  # a server that only reads: a standby, or one that was replaced
    "40001": _BUSY,
    "40P01": _BUSY,
    "53200": _BUSY,
    "53300": _BUSY,
    "53400": _BUSY,
    "54000": _TOO_LARGE,
    "55P03": _BUSY,
    "57014": _TOO_SLOW,
}
_BY_CLASS_OF_STATE = {
    "08": _BROKEN,
    "28": _MISCONFIGURED,
    "3D": _MISCONFIGURED,
    "3F": _MISCONFIGURED,
    "42": _MISCONFIGURED,
    "57": _BROKEN,  # the server is being shut down, or has crashed
    "58": _BROKEN,
}

_MISCONFIGURED_IN_WORDS = re.compile(
    "authentication failed|does not exist|no pg_hba.conf entry|no password supplied|"
    "permission denied|no such (user|database)|does not support SSL|certificate verify failed"
)
"""What a server, or a pooler, says that lets nobody in; the client gets no code for that."""


def classify(error: Exception, *, sent: bool) -> Failure:
    """Return what an error of a statement means.

    :param sent: whether a part of the statement may have been sent
    """
    if isinstance(error, NoRoomError):
        return NOT_SENT
    state = getattr(error, "sqlstate", None)
    if isinstance(state, str) and state:
        known = _BY_STATE.get(state) or _BY_CLASS_OF_STATE.get(state[:2], _REFUSED)
    else:
        names = {kind.__name__ for kind in type(error).__mro__}
        if "InterfaceError" in names and not sent:
            known = _NO_LOOP
        elif not sent and _MISCONFIGURED_IN_WORDS.search(str(error)):
            known = _MISCONFIGURED
        elif names & {"OperationalError", "InterfaceError", "ForeignAnswerError", "OSError"}:
            known = _BROKEN
        else:
            known = _UNEXPECTED
    return _UNREACHABLE if known is _BROKEN and not sent else known
