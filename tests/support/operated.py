"""The command line in this process, and a store as somebody finds it who looks into it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from attrs import frozen

from gogoscope import open_persistence
from gogoscope.cli.program import run
from gogoscope.persistence import LockClaim
from gogoscope.persistence.permit_records import PermitClaim

ODD_KEYS = ("\x1b[2Jcleared", "tab\tand\nbreak", "🎉 party", "-rf", "[red]markup", "k" * 900)
"""Keys that would control a terminal, look like options, or are long."""


@frozen
class Finished:
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)

    @property
    def rows(self) -> list[list[str]]:
        return [line.split("\t") for line in self.out.splitlines()]


Command = Callable[..., Finished]


def commands(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Return what runs a command, as in a pipe."""
    monkeypatch.delenv("GOGOSCOPE_STORE", raising=False)

    def run_command(*arguments: str) -> Finished:
        capsys.readouterr()
        code = run(arguments)
        printed = capsys.readouterr()
        return Finished(int(code), printed.out, printed.err)

    return run_command


async def _fill(url: str) -> None:
    async with open_persistence(url) as opened:
        store: Any = opened
        claim = LockClaim(
            "n1", "alice", 3_600_000, {"host": "web-1", "pid": "42", "scope": "orders", "why": "x"}
        )
        assert (await store.claim_lock("order:1", claim)).granted
        assert await store.acquire("order:2", 3600, "bob") is not None
        await store.record_failure("payments", 1)
        await store.record_failure("search", 9)
        await store.record_success("search")
        await store.set("greeting", {"text": "hello", "n": [1, None]})
        await store.set("nothing", None, 3600)
        for key in ODD_KEYS:
            await store.set(key, key, 3600)
        await _permits(store, claim)
        await store.reserve_rate("openai", 3_600_000_000, 3_600_000_000, 0)
        await store.pause_rate("stripe", 3_600_000_000, 1_000_000)
        await store.open_schedule("nightly", "0 3 * * *", 4_000_000_000_000)
        await _runs(store)
        assert (await store.claim_job("reindex", claim, 2)).granted
        text = store.job_text({"after": 7})
        record = (await store.read_job("reindex")).lease
        assert (
            await store.save_job("reindex", "n1", record.version, 3_600_000, 0, text, 2)
        ).granted


async def _permits(store: Any, claim: LockClaim) -> None:
    for number, owner in enumerate(("gina", "hugo")):
        lease = LockClaim(f"p{number}", owner, 3_600_000)
        assert (await store.claim_permit("semaphore", "licences", PermitClaim(lease, 2))).granted
    waiting = PermitClaim(LockClaim("p3", "ivan", 3_600_000, turn="t3"), 2, turn_ms=3_600_000)
    assert not (await store.claim_permit("semaphore", "licences", waiting)).granted
    assert (await store.claim_permit("read_write_lock", "config", PermitClaim(claim))).granted
    writing = PermitClaim(LockClaim("p5", "jane", 3_600_000), takes="all")
    assert (await store.claim_permit("read_write_lock", "prices", writing)).granted


async def _runs(store: Any) -> None:
    running = LockClaim("n2", "carol", 3_600_000)
    assert (await store.claim_run("charge:running", running)).granted
    assert (await store.claim_run("charge:done", LockClaim("n3", "dave", 60_000))).granted
    assert await store.complete_run("charge:done", "n3", "done", store.run_outcome(5), None)
    for number, key in enumerate(("charge:died", "charge:dead")):
        first = LockClaim(f"f{number}", "erin", 1)
        assert (await store.claim_run(key, first, after_crash="ask")).granted
        # Until its lease is over, which somebody who comes finds out.
        with anyio.fail_after(30):
            while (await store.read_run(key)).state != "unknown":
                await store.claim_run(key, LockClaim(f"s{number}", "frank", 1), after_crash="ask")
                await anyio.sleep(0.01)


def fill(url: str) -> None:
    """Put one of everything into a store."""
    anyio.run(_fill, url)


def ask(url: str, method: str, *args: Any, **options: Any) -> Any:
    """Call a method of a store."""

    async def call() -> Any:
        async with open_persistence(url) as store:
            return await getattr(store, method)(*args, **options)

    return anyio.run(call)
