"""What a store keeps of a run, and what it answers.

A run is what one key stands for: a function that is to have its effect once. While it runs, it has
a lease, as a lock has; the lease is a :class:`~gogoscope.persistence.lock_records.LockRecord`.
"""

from __future__ import annotations

from typing import Literal

from attrs import frozen

from gogoscope.persistence.lock_records import LockRecord

Verdict = Literal["done", "failed", "unkept"]
RunState = Literal["running", "open", "unknown", "done", "failed", "unkept"]
VERDICTS = ("done", "failed", "unkept")
AfterCrash = Literal["run", "ask"]


@frozen
class RunRecord:
    """A run as it is stored.

    ``state`` says what is known of it:

    - ``running``: somebody has the lease, or died with it;
    - ``open``: the last run ended without an effect that counts, so the next caller runs;
    - ``unknown``: the last run died, and somebody is to say whether it had its effect;
    - ``done``: it returned; ``outcome`` is the text of its value;
    - ``unkept``: it returned a value that could not be kept;
    - ``failed``: it raised an error that is kept; ``outcome`` is the text of that.

    ``payload`` is the hash of what the run was asked to do. ``until_ms`` is when a verdict is
    forgotten, ``None`` for never.
    """

    lease: LockRecord
    state: RunState
    payload: str | None = None
    after_crash: AfterCrash = "run"
    outcome: str | None = None
    until_ms: int | None = None

    def has_verdict(self, now_ms: int) -> bool:
        """Return whether the outcome is known, and not forgotten yet."""
        live = self.until_ms is None or self.until_ms > now_ms
        return self.state in VERDICTS and live

    def is_for_another(self, payload: str | None) -> bool:
        """Return whether the run was asked to do something else, as far as both are known."""
        return None not in (self.payload, payload) and self.payload != payload


@frozen
class RunReply:
    """The answer to a claim: whether the caller is to run, and the run as it is now.

    ``dead_in_ms`` comes with a run that somebody else has: in how many milliseconds its lease will
    be over by the store's clock with its allowance; 0 if it is over, or if that is not known.
    ``kept_ms`` comes with a verdict: for how many milliseconds it is still kept, ``None`` for ever.
    """

    granted: bool
    record: RunRecord
    dead_in_ms: int = 0
    kept_ms: int | None = None


@frozen
class Run:
    """A run, for people.

    ``state`` is ``"running"``, ``"crashed"`` (its lease is over, and nobody has taken over yet),
    ``"open"``, ``"unknown"``, ``"done"``, ``"failed"`` or ``"unkept"``. ``since`` is when the last
    run began, ``until`` when its verdict is forgotten, both in seconds since the Unix epoch.
    ``since``, ``owner``, ``host`` and ``pid`` are ``None`` once a run has ended by itself.
    """

    state: RunState | Literal["crashed"]
    since: float | None
    until: float | None
    owner: str | None
    host: str | None
    pid: int | None
    fencing_token: int
