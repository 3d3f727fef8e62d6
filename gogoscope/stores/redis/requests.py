"""Requests: bounded in time, sent again where that is safe, and honest about doubt.

A request can fail although the server has carried it out: the answer was lost. Sending it again is
safe, since each script has a condition that its own effect breaks. So the second try of a script
may be refused because the first one was carried out; then the answer is in doubt. Invariants:

- A request has one budget of three timeouts. It counts from the call; while the server answers
  others, waiting for a connection costs none of it. No try takes longer than a timeout.
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

from gogoscope.exceptions import Effect, PersistenceError, StoreTimeoutError, UnexpectedStoreError
from gogoscope.persistence import ServerClock, jittered, monotonic
from gogoscope.stores.redis.connections import Argument, Lane, Progress
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


@frozen(eq=False)
class Reply:
    """What a script answered, and whether an earlier try of it may have been carried out."""

    status: bytes
    parts: Sequence[Any]
    in_doubt: bool


@frozen(eq=False)
class Try:
    """What a script may want to know of a try.

    ``in_doubt`` says whether an earlier try may have been carried out, and ``patience`` after how
    many seconds this one is given up.
    """

    in_doubt: bool
    patience: float
    _clock: ServerClock

    def latest_ms(self) -> int:
        """Return the server's time after which this try is given up, in milliseconds."""
        return self._clock.now_ms() + self._clock.error_ms() + math.ceil(self.patience * 1000)


@define(eq=False)
class Request:
    """A script to run, and what its tries have done.

    :param server: where
    :param script: which
    :param arguments: makes what it takes besides the tag, for each try
    :param key: the key that it is about
    :param place: the server of a cluster that runs it, if it is about no key
    :param urgent: whether it goes by the connections that are kept free for locks
    :param writes: whether it may change anything
    """

    server: Server
    script: Script
    arguments: Callable[[Try], Sequence[Argument]]
    key: bytes | None = None
    place: str | None = None
    urgent: bool = False
    writes: bool = False
    _tried: int = 0
    _in_doubt: bool = False
    _redirections: int = 0
    _asking: str | None = None
    _progress: Progress = field(factory=Progress)

    async def run(self) -> Reply:
        """Send it until it is answered or its budget is spent.

        :raises PersistenceError: if it failed
        :raises ConfigurationError: if the server does not let this user do it
        """
        called = monotonic()
        pause, deadline = FIRST_DELAY, called + PATIENCE_IN_TIMEOUTS * self.server.timeout
        while True:
            place = self._asking or self.place or self.server.place_of(self.key)
            lane = self.server.lane(place, urgent=self.urgent)
            cause: Exception | None = None
            try:
                async with lane.room.place(max(0.0, deadline - monotonic())):
                    if not self._tried and lane.room.answered > called:
                        deadline = monotonic() + PATIENCE_IN_TIMEOUTS * self.server.timeout
                    outcome = await self._attempt(lane, deadline - monotonic())
            except Exception as error:  # noqa: BLE001 - classified, and raised as one of ours
                if answered_by_server(error):
                    lane.room.answered = monotonic()
                if self._redirected(error):
                    continue
                outcome, cause = classify(error, sent=self._progress.sent), error
            if isinstance(outcome, Reply):
                return outcome
            self._in_doubt = self._in_doubt or outcome.maybe_applied
            if outcome.retry and self._tried < MOST_TRIES and monotonic() + pause < deadline:
                if outcome.other_server:
                    await lane.drop_idle()
                    self.server.unreachable(place)
                await anyio.sleep(jittered(pause))
                pause = min(2 * pause, LONGEST_DELAY)
            else:
                raise self._error(outcome, cause) from cause

    async def _attempt(self, lane: Lane, left: float) -> Reply | Failure:
        self._tried += 1
        self._progress = Progress()
        patience = min(self.server.timeout, left)
        with anyio.move_on_after(patience):
            reply = await self._ask(lane, Try(self._in_doubt, patience, self.server.clock))
            return CAME_LATE if reply.status == LATE else reply
        return UNANSWERED if self._progress.sent else UNREACHABLE

    async def _ask(self, lane: Lane, attempt: Try) -> Reply:
        tag = self.server.next_tag()
        keys = () if self.key is None else (self.key,)
        rest = (len(keys), *keys, tag, *self.arguments(attempt))
        first = [] if self._asking is None else [("ASKING",)]
        progress, begun = self._progress, monotonic()
        try:
            answer = await lane.ask([*first, ("EVALSHA", self.script.sha, *rest)], progress, tag)
        except Exception as error:
            if not is_called(error, "NoScriptError"):
                raise
            begun = monotonic()
            answer = await lane.ask([*first, ("EVAL", self.script.text, *rest)], progress, tag)
        lane.room.answered = received = monotonic()
        self.server.clock.learn(int(answer[1]) * 1000 + int(answer[2]) // 1000, begun, received)
        return Reply(answer[3], answer[4:], self._in_doubt)

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
        if self._in_doubt and self.writes and kind is not UnexpectedStoreError:
            kind = StoreTimeoutError
        tries = "1 try" if self._tried == 1 else f"{self._tried} tries"
        told = "no answer" if cause is None else f"{type(cause).__name__}: {cause}"
        error = kind(f"{self.server.address} failed after {tries}: {told}")
        if isinstance(error, PersistenceError):
            doubtful = self._in_doubt and self.writes
            error.effect = Effect.MAYBE_APPLIED if doubtful else Effect.FAILED
        return error
