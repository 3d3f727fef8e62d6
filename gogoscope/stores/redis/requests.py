"""Requests: bounded in time, sent again where that is safe, and honest about doubt.

A request can fail although the server has carried it out: the answer was lost. Sending it again is
safe, since each script has a condition that its own effect breaks. So the second try of a script
may be refused because the first one was carried out; then the answer is in doubt. Invariants:

- A request has one budget: three timeouts, and the time that its bytes need on a slow link. It
  counts from the call; while the server answers others, waiting for a connection costs none of it.
  No try takes longer than a timeout.
- A write that may have been carried out and was not answered raises ``StoreTimeoutError``, whatever
  its last try came to. A read is never in doubt.
- Nothing but this project's exceptions leaves a request, each with its cause.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import anyio
from attrs import define, field, frozen

from gogoscope.exceptions import (
    Effect,
    GogoscopeError,
    PersistenceError,
    StoreTimeoutError,
    UnexpectedStoreError,
)
from gogoscope.persistence import (
    is_urgent,
    jittered,
    monotonic,
    pause_before_try,
    time_of_try,
)
from gogoscope.stores.redis.connections import Argument, Lane
from gogoscope.stores.redis.errors import (
    CAME_LATE,
    UNANSWERED,
    UNREACHABLE,
    Failure,
    answered_by_server,
    classify,
    is_called,
)
from gogoscope.stores.redis.scripts import LATE, Script
from gogoscope.stores.redis.server import Server

MOST_TRIES = 6
PATIENCE_IN_TIMEOUTS = 3
FIRST_DELAY = 0.02
LONGEST_DELAY = 0.5
MOST_REDIRECTIONS = 8
SLOWEST_LINK = 1_000_000  # bytes a second


@frozen(eq=False)
class Reply:
    """What a script answered, and whether an earlier try of it may have been carried out."""

    status: bytes
    parts: Sequence[Any]
    in_doubt: bool


@define(eq=False)
class Request:
    """A script to run, and what its tries have done.

    ``in_doubt`` says whether an earlier try may have been carried out, and ``sent`` whether a part
    of this one may have been sent.

    :param server: where
    :param script: which
    :param arguments: makes what it takes besides the tag, for each try
    :param key: the key that it is about
    :param place: the server of a cluster that runs it, if it is about no key
    :param writes: whether it may change anything
    :param size: how many bytes it sends, about, if they are many
    """

    server: Server
    script: Script
    arguments: Callable[[Request], Sequence[Argument]]
    key: bytes | None = None
    place: str | None = None
    writes: bool = False
    size: int = 0
    in_doubt: bool = field(default=False, init=False)
    sent: bool = field(default=False, init=False)
    _timeout: float = field(default=0.0, init=False)
    _patience: float = field(default=0.0, init=False)
    _tried: int = field(default=0, init=False)
    _redirections: int = field(default=0, init=False)
    _asking: str | None = field(default=None, init=False)

    async def run(self) -> Reply:
        """Send it until it is answered or its budget is spent.

        :raises PersistenceError: if it failed
        :raises ConfigurationError: if the server does not let this user do it
        """
        self._timeout = time_of_try(self.server.timeout) + self.size / SLOWEST_LINK
        now = monotonic()
        pause, deadline = FIRST_DELAY, now + PATIENCE_IN_TIMEOUTS * self._timeout
        while True:
            place = self._asking or self.place or self.server.place_of(self.key)
            lane = self._lane(place)
            cause: Exception | None = None
            try:
                if not lane.room.take():
                    deadline += await lane.room.wait(max(0.0, deadline - now))
                try:
                    now = monotonic()
                    outcome = await self._attempt(lane, now, deadline - now)
                finally:
                    lane.room.leave()
            except GogoscopeError as error:  # the time is not known yet, say
                self._raise_if_in_doubt(error)
                raise
            except Exception as error:  # noqa: BLE001 - classified, and raised as one of ours
                if answered_by_server(error):
                    lane.room.answered = monotonic()
                if self._redirected(error):
                    continue
                outcome, cause = classify(error, sent=self.sent), error
            if isinstance(outcome, Reply):
                return outcome
            self.in_doubt = self.in_doubt or outcome.maybe_applied
            if outcome.other_server:
                await lane.drop_idle()
                self.server.unreachable(place)
            if (
                not outcome.retry
                or self._tried == MOST_TRIES
                or not await pause_before_try(
                    jittered(pause), timeout=self._timeout, deadline=deadline
                )
            ):
                raise self._error(outcome, cause) from cause
            now = monotonic()
            pause = min(2 * pause, LONGEST_DELAY)

    def latest_ms(self) -> int:
        """Return the server's time after which this try is given up, in milliseconds."""
        clock = self.server.clock
        return clock.now_ms() + clock.error_ms() + math.ceil(self._patience * 1000)

    def _lane(self, place: str) -> Lane:
        try:
            return self.server.lane(place, urgent=is_urgent())
        except GogoscopeError as error:  # the store was closed meanwhile, say
            self._raise_if_in_doubt(error)
            raise

    def _raise_if_in_doubt(self, cause: GogoscopeError) -> None:
        if self.in_doubt and self.writes:
            raise self._error(UNANSWERED, cause) from cause

    async def _attempt(self, lane: Lane, now: float, left: float) -> Reply | Failure:
        self._tried += 1
        self.sent = False
        self._patience = min(self._timeout, left)
        tag = self.server.next_tag()
        keys = (0,) if self.key is None else (1, self.key)
        rest = (*keys, tag, *self.arguments(self))
        first = () if self._asking is None else (("ASKING",),)
        with anyio.move_on_after(self._patience):
            try:
                answer = await lane.ask((*first, ("EVALSHA", self.script.sha, *rest)), self, tag)
            except Exception as error:
                if not is_called(error, "NoScriptError"):
                    raise
                answer = await lane.ask((*first, ("EVAL", self.script.text, *rest)), self, tag)
            lane.room.answered = received = monotonic()
            self.server.clock.learn(int(answer[1]) * 1000 + int(answer[2]) // 1000, now, received)
            return CAME_LATE if answer[3] == LATE else Reply(answer[3], answer[4:], self.in_doubt)
        return UNANSWERED if self.sent else UNREACHABLE

    def _redirected(self, error: Any) -> bool:
        """Go where a server of a cluster says that the key is."""
        self._asking = None
        if not is_called(error, "AskError") or self._redirections == MOST_REDIRECTIONS:
            return False
        self._redirections += 1
        self._tried -= 1
        if is_called(error, "MovedError"):
            self.server.named(error.slot_id, error.host, error.port)
        else:
            self._asking = self.server.address.at(f"{error.host}:{error.port}").place
        return True

    def _error(self, failure: Failure, cause: Exception | None) -> Exception:
        kind = failure.error
        if self.in_doubt and self.writes and kind is not UnexpectedStoreError:
            kind = StoreTimeoutError
        tries = "1 try" if self._tried == 1 else f"{self._tried} tries"
        told = "no answer" if cause is None else f"{type(cause).__name__}: {cause}"
        error = kind(f"{self.server.address} failed after {tries}: {told}")
        if isinstance(error, PersistenceError):
            doubtful = self.in_doubt and self.writes
            error.effect = Effect.MAYBE_APPLIED if doubtful else Effect.FAILED
        return error
