"""Where locks, circuits and cached values live, swapped by a URL or an object."""

from __future__ import annotations

from gogoscope.persistence.bundle import Persistence
from gogoscope.persistence.registry import PersistenceURL, open_persistence

__all__ = ["Persistence", "PersistenceURL", "open_persistence"]
