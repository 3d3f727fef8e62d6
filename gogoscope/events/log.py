"""Logging what would be lost otherwise, and describing whatever a user may have made."""

from __future__ import annotations

import logging
import traceback

_raw_traceback = vars(BaseException)["__traceback__"]
_raw_members = vars(BaseExceptionGroup)["exceptions"]


def description(value: object) -> str:
    """Return the ``repr`` of a value of the user, or a substitute if that fails."""
    try:
        return repr(value)
    except BaseException:  # noqa: BLE001 - it is not what the code around is about
        kind = type(value)
        if not issubclass(kind, BaseExceptionGroup):
            return f"<{kind.__name__}, whose repr fails>"
        parts = map(description, _raw_members.__get__(value))
        return f"<{kind.__name__} of {', '.join(parts)}, whose repr fails>"


def text_of(error: BaseException) -> str:
    """Return the text of an error of the user, or a substitute if that fails."""
    try:
        return str(error)
    except BaseException:  # noqa: BLE001 - likewise
        return description(error)


def log_error(message: str, *arguments: object, error: BaseException | None = None) -> None:
    """Log an error that nobody would see otherwise."""
    _log(logging.ERROR, message, arguments, error)


def log_warning(message: str, *arguments: object, error: BaseException | None = None) -> None:
    """Log a problem that stops nothing."""
    _log(logging.WARNING, message, arguments, error)


def log_info(message: str, *arguments: object) -> None:
    """Log something that is worth knowing, and no problem."""
    _log(logging.INFO, message, arguments, None)


def _log(
    level: int, message: str, arguments: tuple[object, ...], error: BaseException | None
) -> None:
    logger = logging.getLogger("gogoscope")
    if error is None or not logger.isEnabledFor(level):
        logger.log(level, message, *arguments, stacklevel=3)
        return
    frames = _raw_traceback.__get__(error)
    try:
        "".join(traceback.format_exception(type(error), error, frames))
    except BaseException:  # noqa: BLE001 - an error that cannot be formatted is logged all the same
        text = "".join(traceback.format_tb(frames)) + description(error)
        logger.log(level, f"{message}\n%s", *arguments, text, stacklevel=3)
    else:  # a tuple, since an error may be falsy
        logger.log(level, message, *arguments, exc_info=(type(error), error, frames), stacklevel=3)
