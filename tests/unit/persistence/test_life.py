"""The life of a store says where it may be opened and used."""

from __future__ import annotations

import pytest

from gogoscope.exceptions import UnsupportedEventLoopError
from gogoscope.persistence import Life

pytestmark = pytest.mark.anyio


async def test_a_store_whose_library_needs_asyncio_is_opened_on_no_other_event_loop(
    anyio_backend_name: str,
) -> None:
    life = Life("the store", asyncio_for="its library")
    if anyio_backend_name == "asyncio":
        life.begin()
        life.check()
        return
    with pytest.raises(UnsupportedEventLoopError, match="its library runs on asyncio only"):
        life.begin()
    assert not life.open


async def test_who_closes_a_store_ends_no_opening_but_its_own() -> None:
    life = Life("the store")
    life.begin()
    first = life.opening
    life.end(first)
    life.begin()
    life.end(first)
    assert life.open
    life.end(life.opening)
    assert not life.open
