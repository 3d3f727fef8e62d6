"""Which circuit a policy without a name is at work on."""

from __future__ import annotations

import runpy
from pathlib import Path

import anyio
import pytest

from gogoscope import open_persistence

SCRIPT = """
import anyio
from gogoscope import CircuitBreaker, scope

async def fetch():
    raise OSError("broken")

async def main():
    async with scope(persistence={url!r}) as s:
        await s.task(CircuitBreaker().call, fetch)

if __name__ == "__main__":
    anyio.run(main)
"""


@pytest.mark.anyio
async def test_functions_of_the_same_name_in_two_scripts_have_two_circuits(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/circuits.db"

    def run_scripts() -> None:
        for name in ("billing", "shipping"):
            script = tmp_path / f"{name}.py"
            script.write_text(SCRIPT.format(url=url))
            runpy.run_path(str(script), run_name="__main__")

    await anyio.to_thread.run_sync(run_scripts)
    async with open_persistence(url) as store:
        circuits = await store.circuits()
    assert {name: state.failure_count for name, state in circuits.items()} == {
        "billing.fetch": 1,
        "shipping.fetch": 1,
    }
