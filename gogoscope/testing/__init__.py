"""Aids for testing programs that use scopes: virtual time, outages, retries without delays."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gogoscope._core.faces import face

if TYPE_CHECKING:
    from gogoscope.testing.instant_retries import instant_retries
    from gogoscope.testing.unpluggable_store import UnpluggableStore
    from gogoscope.testing.virtual_clock import VirtualClock

__all__ = ["UnpluggableStore", "VirtualClock", "instant_retries"]

if not TYPE_CHECKING:
    __getattr__, __dir__ = face(
        __name__,
        {
            "gogoscope.testing.instant_retries": ("instant_retries",),
            "gogoscope.testing.unpluggable_store": ("UnpluggableStore",),
            "gogoscope.testing.virtual_clock": ("VirtualClock",),
        },
        modules=("conformance",),
    )
