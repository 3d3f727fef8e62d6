"""Fixtures for programs that use scopes; what they need is imported when one of them is used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from gogoscope.testing import VirtualClock


@pytest.fixture
def virtual_clock() -> VirtualClock:
    """Run programs in virtual time: ``virtual_clock.run(main, backend="trio")``."""
    from gogoscope.testing.virtual_clock import VirtualClock  # noqa: PLC0415 - only when used

    return VirtualClock()


@pytest.fixture
def instant_retries() -> Iterator[None]:
    """Make every delay between attempts zero during the test."""
    from gogoscope.testing.instant_retries import (  # noqa: PLC0415 - only when used
        instant_retries,
    )

    with instant_retries():
        yield
