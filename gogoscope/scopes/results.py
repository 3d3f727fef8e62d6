"""The results of tasks."""

from __future__ import annotations

from typing import Any, Generic, NamedTuple, NoReturn, TypeVar

T = TypeVar("T")


class Ok(NamedTuple, Generic[T]):
    """The result of a task that succeeded: ``(None, value)``."""

    error: None
    value: T

    def unwrap(self) -> T:
        """Return the value."""
        return self.value


class Err(NamedTuple):
    """The result of a task that failed: ``(error, None)``."""

    error: Exception
    value: Any

    def unwrap(self) -> NoReturn:
        """Raise the error."""
        raise self.error
