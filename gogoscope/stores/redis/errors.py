"""What the errors of a client mean: what became of the request, and whether to send it again.

Our scripts write in their last step. So a script that the server answers with an error has written
nothing, whatever the error is. Errors are recognised by the names of their classes, since the
client is imported only where it is opened.
"""

from __future__ import annotations

import re

from attrs import frozen

from gogoscope.exceptions import (
    ConfigurationError,
    GogoscopeError,
    PersistenceError,
    StoreConnectionError,
    StoreTimeoutError,
    UnexpectedStoreError,
)


@frozen(eq=False)
class Failure:
    """What an error of a request means.

    ``maybe_applied`` says whether the request may have been carried out, ``retry`` whether to send
    it again, and ``error`` which error to raise when it is not sent again. ``other_server`` says
    that the server may be gone, or may be none to write to any more, and another one in its place.
    """

    maybe_applied: bool
    retry: bool
    error: type[GogoscopeError]
    other_server: bool = False


UNANSWERED = Failure(maybe_applied=True, retry=True, error=StoreTimeoutError)
CAME_LATE = Failure(maybe_applied=False, retry=True, error=StoreTimeoutError)
UNREACHABLE = Failure(False, True, StoreConnectionError, other_server=True)
_NO_ROOM = Failure(maybe_applied=False, retry=False, error=StoreTimeoutError)
_BROKEN = Failure(True, True, StoreConnectionError, other_server=True)
_NOT_READY = Failure(False, True, StoreConnectionError, other_server=True)
_MISCONFIGURED = Failure(maybe_applied=False, retry=False, error=ConfigurationError)
_REFUSED = Failure(maybe_applied=False, retry=False, error=PersistenceError)
_UNEXPECTED = Failure(maybe_applied=True, retry=False, error=UnexpectedStoreError)

_BY_CLASS = {
    "AuthenticationError": _MISCONFIGURED,
    "AuthorizationError": _MISCONFIGURED,
    "AuthenticationWrongNumberOfArgsError": _MISCONFIGURED,
    "NoPermissionError": _MISCONFIGURED,
    "ReadOnlyError": _NOT_READY,
    "MasterDownError": _NOT_READY,
    "ClusterDownError": _NOT_READY,
    "TryAgainError": _NOT_READY,
    "BusyLoadingError": _NOT_READY,
    "ResponseError": _REFUSED,
    "DataError": _REFUSED,
    "InvalidResponse": _BROKEN,
    "ForeignAnswerError": _BROKEN,
    "ConnectionError": _BROKEN,
    "TimeoutError": UNANSWERED,
    "OSError": _BROKEN,
    "EOFError": _BROKEN,
    "NoRoomError": _NO_ROOM,
}
_NOT_READY_CODE = re.compile(r"\b(BUSY|MISCONF|NOREPLICAS|READONLY|LOADING|MASTERDOWN)\b")
"""Servers before Redis 7 wrap the error that a command of a script has met."""
_NOT_TRUSTED = re.compile("certificate verify failed", re.IGNORECASE)


class ForeignAnswerError(Exception):
    """An answer that is not the one to the request, which shows that the connection is broken."""


def check_tag(answer: object, tag: bytes) -> None:
    """Make sure that an answer is the one to the request with a tag.

    :raises ForeignAnswerError: if it is another
    """
    if not (isinstance(answer, list) and answer[0] == tag):
        raise ForeignAnswerError("the answer is not the one to the request")


def classify(error: Exception, *, sent: bool) -> Failure:
    """Return what an error of a request means.

    :param sent: whether a part of the request may have been sent
    """
    names = [kind.__name__ for kind in type(error).__mro__]
    known = next((_BY_CLASS[name] for name in names if name in _BY_CLASS), _UNEXPECTED)
    if known is _REFUSED and _NOT_READY_CODE.search(str(error)):
        return _NOT_READY
    if not sent and _NOT_TRUSTED.search(str(error)):
        return _MISCONFIGURED
    if not sent and known in (_BROKEN, UNANSWERED):
        return UNREACHABLE
    return known


def answered_by_server(error: Exception) -> bool:
    """Return whether an error is an answer, after which the connection can be used again."""
    return is_called(error, "ResponseError")


def is_called(error: Exception, name: str) -> bool:
    """Return whether a class of an error has a name."""
    return any(kind.__name__ == name for kind in type(error).__mro__)
