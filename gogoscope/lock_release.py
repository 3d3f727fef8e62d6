"""Freeing a lock at the end of what it was for, whatever comes in between."""

from __future__ import annotations

import anyio

from gogoscope.exceptions import GogoscopeError
from gogoscope.observers import log_warning
from gogoscope.persistence.lock_handle import CLEAN_UP_SECONDS, LockHandle


async def release(handle: LockHandle) -> None:
    """Free a lock at its block's end, shielded and bounded; else its lease ends it."""
    try:
        await _release(handle)
    except anyio.get_cancelled_exc_class():  # asyncio's own cancellation, which knows no shield
        await _release(handle)
        raise


async def _release(handle: LockHandle) -> None:
    with anyio.move_on_after(CLEAN_UP_SECONDS, shield=True):
        try:
            await handle.release()
        except GogoscopeError as error:
            log_warning("%r could not be released; its lease will end", handle, error=error)
