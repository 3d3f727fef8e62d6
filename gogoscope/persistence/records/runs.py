"""Runs over any place for records."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from gogoscope.exceptions import RunInProgressError
from gogoscope.persistence.lock_records import LockClaim, LockRecord, LockReply, describe_holder
from gogoscope.persistence.protocols.runs import NOT_SAID
from gogoscope.persistence.records.place import RecordCapability, json_kind
from gogoscope.persistence.rules import runs as run_rules
from gogoscope.persistence.run_records import AfterCrash, Run, RunRecord, RunReply, Verdict
from gogoscope.persistence.validation import check_ttl
from gogoscope.persistence.values import decoded


def _marks(record: RunRecord) -> Mapping[str, str | int]:
    """Return what says that a run is the caller's: who runs, and which of the key's runs it is."""
    nonce = record.lease.nonce
    named = {} if nonce is None else {"nonce": nonce}
    return {**named, "status": record.state, "seq": record.lease.fencing_token}


RUNS = json_kind(
    "run",
    RunRecord,
    run_rules.purge_at_ms,
    marks=_marks,
    awaited=lambda run: run.state != "running",
)


class RecordRuns(RecordCapability):
    """A ``RunProvider``: every method is one transaction on one record."""

    async def claim_run(
        self,
        key: str,
        claim: LockClaim,
        *,
        payload: str | None = None,
        after_crash: AfterCrash = "run",
        seen: LockRecord | None = None,
    ) -> RunReply:
        """Begin a run in one write, or learn from the refusal who runs or what came of it."""
        return await self._claim_lease(
            RUNS,
            key,
            run_rules.claim,
            claim,
            payload=payload,
            after_crash=after_crash,
            seen=seen,
        )

    async def renew_run(
        self, key: str, nonce: str, version: int, lease_ms: int, until_ms: int
    ) -> LockReply:
        """Let the lease of ``nonce`` last until ``until_ms``, or ``lease_ms`` from now if later."""
        return await self._change_lease(
            RUNS, key, run_rules.renew, nonce, version, lease_ms, until_ms
        )

    def run_outcome(self, value: Any) -> str:
        """Return the text by which the value of a run is kept; makes no request."""
        return self._codec.dumps(value)

    def run_value(self, key: str, outcome: str | None) -> Any:
        """Return the value of a run that was kept as a text; makes no request."""
        return decoded(self._codec, outcome, self._key_prefix + key)

    async def complete_run(
        self,
        key: str,
        nonce: str,
        state: Verdict,
        outcome: str | None,
        keep: float | timedelta | None,
    ) -> bool:
        """Keep the verdict of the run of ``nonce``; ``False`` if it was taken over, or ended."""
        return await self._change(
            RUNS, key, run_rules.complete, nonce, state, outcome, _milliseconds(keep)
        )

    async def abandon_run(self, key: str, nonce: str) -> bool:
        """Let the next caller run; ``False`` if ``nonce`` does not run any more."""
        return await self._change(RUNS, key, run_rules.abandon, nonce)

    async def read_run(self, key: str) -> RunRecord | None:
        """Return a run as the newest completed write left it; ``None`` if there is none."""
        return await self._records.read(RUNS, self._full_key(key))

    def run_left_ms(self, lease: LockRecord) -> int:
        """Return how long a lease still runs, in milliseconds; makes no request."""
        return self._left_ms(lease)

    async def resolve_run(
        self,
        key: str,
        *,
        result: Any = NOT_SAID,
        repeat: bool = False,
        keep: float | timedelta | None = None,
    ) -> bool:
        """Say what came of a run that died: its result, or that the next caller runs again.

        :param result: what the run returned
        :param repeat: whether the next caller runs again
        :param keep: how long the result is kept, in seconds; ``None`` for ever
        :returns: ``False`` if no run of the key has died
        :raises RunInProgressError: if somebody runs
        :raises TypeError: unless exactly one of ``result`` and ``repeat`` is passed
        """
        if (result is NOT_SAID) is not repeat:
            raise TypeError("pass result=..., what the run returned, or repeat=True, and not both")
        resolved = await self._change_lease(
            RUNS,
            key,
            run_rules.resolve,
            "open" if repeat else "done",
            None if repeat else self._codec.dumps(result),
            _milliseconds(keep),
            skew_ms=self._skew_now_ms(),
        )
        if resolved is None:
            raise RunInProgressError(key, "it has not died")
        return resolved

    async def runs(self, pattern: str | None = None) -> dict[str, Run]:
        """Return the runs that are known, by their keys; one that is corrupt is left out.

        :param pattern: a case-sensitive glob over whole keys: ``*`` is any run of characters,
            ``?`` any one, every other character itself
        """
        found = await self._listed(RUNS, pattern)
        return {key: self._describe_run(record) for key, record in found.items()}

    def _describe_run(self, record: RunRecord) -> Run:
        left_ms = self.run_left_ms(record.lease)
        crashed = record.state == "running" and left_ms < -self._skew_now_ms()
        holder = describe_holder(record.lease, self.run_left_ms)
        return Run(
            state="crashed" if crashed else record.state,
            since=None if holder is None else holder.since,
            until=None if record.until_ms is None else record.until_ms / 1000,
            owner=None if holder is None else holder.owner,
            host=None if holder is None else holder.host,
            pid=None if holder is None else holder.pid,
            fencing_token=record.lease.fencing_token,
        )


def _milliseconds(keep: float | timedelta | None) -> int | None:
    return None if keep is None else math.ceil(check_ttl(keep, "keep") * 1000)
