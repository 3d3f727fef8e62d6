"""Telling observers and the log, without being disturbed by either."""

from __future__ import annotations

from collections.abc import Callable
from types import CoroutineType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gogoscope.events import Event

subscribers: list[Callable[[Event], object]] = []


def notify(observer: Callable[..., object] | None, *arguments: object) -> bool:
    """Call an observer; its exception is logged and disturbs nobody.

    :returns: whether there is one, and it did not fail
    """
    if observer is None:
        return False
    try:
        answer = observer(*arguments)
    except Exception as error:  # noqa: BLE001 - logged; what is observed must go on
        log_error("an observer failed on %r", arguments, error=error)
        return False
    if type(answer) is CoroutineType:
        answer.close()
        log_error("an observer is called, not awaited; %r is async", observer)
        return False
    return True


def log_error(message: str, *arguments: object, error: BaseException | None = None) -> None:
    """Log what would be lost otherwise."""
    _log("ERROR", message, arguments, error)


def log_warning(message: str, *arguments: object, error: BaseException | None = None) -> None:
    """Log what goes on, but not as it should."""
    _log("WARNING", message, arguments, error)


def _log(
    level: str, message: str, arguments: tuple[object, ...], error: BaseException | None
) -> None:
    import logging  # noqa: PLC0415 - only needed when something fails; costs much of our import

    logger = logging.getLogger("gogoscope")
    logger.log(getattr(logging, level), message, *arguments, exc_info=error, stacklevel=3)
