"""What a store of runs can do."""

from __future__ import annotations

from datetime import timedelta
from enum import Enum
from typing import Any, Protocol, runtime_checkable

from gogoscope.persistence.lock_records import LockClaim, LockRecord, LockReply
from gogoscope.persistence.run_records import AfterCrash, Run, RunRecord, RunReply, Verdict


class _NotSaid(Enum):
    NOT_SAID = "not said"


NOT_SAID = _NotSaid.NOT_SAID
"""Stands for a result that was not passed; ``None`` is one."""


@runtime_checkable
class RunProvider(Protocol):
    """Keeps which functions have had their effect, so that each has it once."""

    async def claim_run(
        self,
        key: str,
        claim: LockClaim,
        *,
        payload: str | None = None,
        after_crash: AfterCrash = "run",
        seen: LockRecord | None = None,
    ) -> RunReply:
        """Begin a run in one write, or learn from the refusal who runs or what came of it.

        It is granted when nobody runs and no verdict is kept. It is granted in the place of a run
        that died, as ``claim_lock`` grants a lock, unless that run or this claim wants to ask: then
        the run's outcome is unknown from now on.

        :param claim: one that was never sent; a claim whose nonce runs already is granted
        :param payload: the hash of what is to be done; while a run with another one is known, the
            claim is refused
        :param after_crash: ``"ask"`` if nobody may run again after this run has died
        :param seen: the lease of the run, watched unchanged for its whole length
        """
        ...

    async def renew_run(
        self, key: str, nonce: str, version: int, lease_ms: int, until_ms: int
    ) -> LockReply:
        """Let the lease of the run of ``nonce`` last longer, as ``renew_lock`` does."""
        ...

    def run_outcome(self, value: Any) -> str:
        """Return the text by which the value of a run is kept; makes no request.

        :raises TypeError: if the value cannot be stored faithfully
        :raises ValueError: likewise
        """
        ...

    def run_value(self, key: str, outcome: str | None) -> Any:
        """Return the value of a run that was kept as a text; makes no request.

        :param key: the run, for the error
        :raises CorruptRecordError: if the text cannot be understood
        """
        ...

    async def complete_run(
        self,
        key: str,
        nonce: str,
        state: Verdict,
        outcome: str | None,
        keep: float | timedelta | None,
    ) -> bool:
        """Keep the verdict of the run of ``nonce``; ``False`` if it was taken over, or ended.

        :param state: ``"done"`` if the run returned, ``"failed"`` if it raised an error to be kept,
            ``"unkept"`` if it returned a value that cannot be kept
        :param outcome: the value or the error as a text, ``None`` without one
        :param keep: how long the verdict is kept, in seconds; ``None`` for ever
        :raises RecordTooLargeError: if the text is too large
        """
        ...

    async def abandon_run(self, key: str, nonce: str) -> bool:
        """Let the next caller run; ``False`` if ``nonce`` does not run any more.

        If nobody runs, the claim of ``nonce`` may still be on its way: it is refused when it lands.
        """
        ...

    async def read_run(self, key: str) -> RunRecord | None:
        """Return a run as the newest completed write left it; ``None`` if there is none."""
        ...

    def run_left_ms(self, lease: LockRecord) -> int:
        """Return how long a lease still runs, in milliseconds; makes no request."""
        ...

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
        ...

    async def runs(self, pattern: str | None = None) -> dict[str, Run]:
        """Return the runs that are known, by their keys; one that is corrupt is left out.

        :param pattern: a glob over whole keys, as for ``keys``
        """
        ...
