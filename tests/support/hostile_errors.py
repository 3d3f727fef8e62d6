"""Errors that run code which raises when they are touched, or that refuse to be changed."""

from __future__ import annotations

import dataclasses
from typing import Any, NoReturn


class HostileExit(BaseException):
    """What must never come out of touching an error."""


def refuse(*arguments: object) -> NoReturn:
    raise HostileExit


HOSTILE: dict[str, dict[str, Any]] = {
    "every attribute": {"__getattribute__": refuse},
    "other attributes": {"__getattr__": refuse},
    "setting": {"__setattr__": refuse},
    "text": {"__repr__": refuse, "__str__": refuse, "__format__": refuse},
    "comparing": {"__eq__": refuse, "__hash__": refuse},
    "truth": {"__bool__": refuse},
    "length": {"__len__": refuse},
    "properties": {
        name: property(refuse, refuse)
        for name in (
            *("__class__", "__dict__", "__notes__", "__traceback__", "__cause__", "__context__"),
            *("__suppress_context__", "args", "add_note", "with_traceback", "reason", "retryable"),
        )
    },
    "false": {"__bool__": lambda error: False},
    "empty": {"__len__": lambda error: 0},
}


def hostile(hostility: str) -> type[Exception]:
    """Return a kind of errors that are hostile in some way."""
    return type("HostileError", (Exception,), HOSTILE[hostility])


@dataclasses.dataclass(frozen=True)
class FrozenError(Exception):
    code: int


def kinds(raised: BaseException) -> set[type[BaseException]]:
    """Return the kinds of the errors in an exception, without touching them."""
    if issubclass(type(raised), BaseExceptionGroup):
        members = vars(BaseExceptionGroup)["exceptions"].__get__(raised)
        return set().union(*map(kinds, members))
    return {type(raised)}
