"""What leaves a block: noted step by step while it ends, decided once.

Any step of a block's end may raise anything: a store with an error of its own, a Ctrl-C, a resource
that cannot be closed. None of it may keep the steps that are left from being taken. So each step
hands back what it raised, and :class:`Leaving` notes it by its kind.

``exception`` is what the body or the closing of its resources raised, or a cancellation from
outside. ``interrupt`` is what is no result, a ``KeyboardInterrupt`` for example. ``errors`` are
those of the steps themselves, which are raised like unhandled errors. ``unshielded`` is a
cancellation that knew no shield, which anyio may take for one of its own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio

from gogoscope._core.cancellation import (
    is_cancellation,
    split_cancellation,
    unwrapped,
    without_echo,
)
from gogoscope._core.errors import first_of, is_a


def verdict(
    *,
    interrupt: BaseException | None = None,
    body: BaseException | None = None,
    outside: BaseException | None = None,
    fatal: Exception | None = None,
    timed_out: Exception | None = None,
    unhandled: Exception | None = None,
) -> BaseException | None:
    """Return what leaves a block: the first of these that there is.

    :param interrupt: what is no result ended a task, a ``KeyboardInterrupt`` for example
    :param body: the exception of the body, or of closing what it entered
    :param outside: a cancellation from outside of the scope
    :param fatal: the error that cancelled the scope: of ``fail_fast``, or of a lost lease
    :param timed_out: the timeout of the scope
    :param unhandled: the errors of tasks that nobody handled
    """
    return first_of(interrupt, body, outside, fatal, timed_out, unhandled)


class Leaving:
    """What has come of a block's end so far.

    :param body: what the body raised
    :param cancel: called when a cancellation from outside comes in the meantime
    """

    __slots__ = ("_cancel", "errors", "exception", "interrupt", "unshielded")

    def __init__(self, body: BaseException | None, cancel: Callable[[], object]) -> None:
        self.exception = body
        self.interrupt: BaseException | None = None
        self.errors: list[Exception] = []
        self.unshielded: BaseException | None = None
        self._cancel = cancel

    @property
    def cancelled(self) -> bool:
        """Whether what leaves is a cancellation, and nothing else."""
        return self.exception is not None and is_cancellation(self.exception)

    def note(self, raised: BaseException | None) -> None:
        """Note what a step raised, by its kind."""
        if raised is None:
            return
        cancellation, rest = split_cancellation(unwrapped(without_echo(raised)))
        self.exception = first_of(self.exception, cancellation)
        if is_a(rest, Exception):
            self.errors.append(rest)
        elif rest is not None:
            self.interrupt = first_of(self.interrupt, unwrapped(rest))

    async def take(self, step: Callable[[], Awaitable[object]]) -> None:
        """Take a step that the end needs, shielded; note whatever it raises.

        asyncio's own cancellation knows no shield, and an interrupt may come anywhere. Both come
        once: the rest of the step is then taken again.
        """
        for _ in range(2):
            try:
                with anyio.CancelScope(shield=True):
                    await step()
            except anyio.get_cancelled_exc_class() as cancelled:
                self._cancel()
                self.unshielded = cancelled
                self.note(cancelled)
            except Exception as error:  # noqa: BLE001 - raised when the block has ended
                self.note(error)
                break
            except BaseException as interrupt:  # noqa: BLE001 - likewise
                self._cancel()
                self.note(interrupt)
            else:
                break
