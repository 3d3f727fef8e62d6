"""Which circuit a policy without a name is at work on."""

from __future__ import annotations

import runpy
from pathlib import Path

import anyio
import pytest

from gogoscope import CircuitBreaker, open_persistence, scope
from gogoscope.exceptions import StoreConnectionError
from gogoscope.persistence import CircuitBreakerState, FailureReport
from gogoscope.stores import MemoryStore

SCRIPT = """
import anyio
from gogoscope import CircuitBreaker, scope

async def fetch():
    raise OSError("broken")

async def main():
    async with scope(persistence={url!r}) as s:
        _ = (await s.task(CircuitBreaker().call, fetch)).error

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


class StoreThatFailsOnce(MemoryStore):
    """A store that fails while a scope waits for its background work, and then works again."""

    failed = False

    async def count_failures(self, key: str, report: FailureReport) -> CircuitBreakerState:
        if not self.failed:
            self.failed = True
            await anyio.sleep(0.05)
            raise StoreConnectionError("one broken connection")
        return await super().count_failures(key, report)


@pytest.mark.anyio
async def test_a_store_that_fails_once_while_the_scope_ends_is_told_all_the_same() -> None:
    async def fail() -> None:
        raise ValueError("planned")

    store = StoreThatFailsOnce()
    breaker = CircuitBreaker("payments", failure_threshold=2)
    async with scope(persistence=store):
        for _ in range(2):
            with pytest.raises(ValueError, match="planned"):
                await breaker.call(fail)
    state = await store.get_state("payments")
    assert state is not None
    assert (state.state, state.failure_count) == ("open", 2)
