"""Rate limits: reserving, returning and pausing are one UpdateItem each, which is the rule itself.

The item of a limit has in ``data`` the time ``tat`` at which its bucket will be full again, the
time ``until`` at which a pause ends (0 without one), the time ``at`` and the name ``by`` of the
last write, and the ``format``, which is 1. All times are in microseconds. ``expiresAt`` is a day
after ``tat``, or later. The rules are those of :mod:`gogoscope.persistence.rules.rate_limits`; two
of them are expressions, so that calls which come at once need not know of each other:

- The bucket is not full, ``now <= tat <= now + burst + wait - cost``: ``tat = tat + cost``. There
  must be no pause but one that the call knows, and ``tat`` must be ``burst`` beyond that.
- It is full, or there is no item, ``tat < now``: ``tat = now + cost``.

Nobody can say both in one, so a call guesses, by what it has seen last. A refusal shows the item,
which tells whether the call is refused or the guess was wrong: so that is one request, or two.
Whatever else there is to do, such as not to believe a ``tat`` that is days ahead, is done to the
item that was seen, on the condition that its ``version`` is still the same.

A request whose answer was lost is sent again. What it finds has its own name if nobody has written
since: then it was carried out, and is not carried out again. Otherwise a place may be reserved a
second time, and is lost. Nothing is returned twice, since that compares a version. So lost answers
never admit anybody.

The time is one that the fleet shares (:mod:`gogoscope_dynamodb.fleet_clock`). The first call of a
process reads the item, to learn what time it is: nothing is written by a clock that was not
compared with the server's.

Mutable state: ``_rates_seen`` is what was seen last of up to ``REMEMBERED`` limits. It may be
outdated.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from attrs import evolve, frozen

from gogoscope.exceptions import ThrottledError
from gogoscope.persistence import monotonic, process_name
from gogoscope.persistence.rate_records import (
    LONGEST_WAIT_US,
    RateLimitState,
    RateRecord,
    RateReply,
)
from gogoscope.persistence.rules import rate_limits as rate_rules
from gogoscope_dynamodb import schema
from gogoscope_dynamodb.answers import Answer, Update
from gogoscope_dynamodb.capability import Capability, Settings
from gogoscope_dynamodb.fleet_clock import FleetClock
from gogoscope_dynamodb.requests import Table
from gogoscope_dynamodb.scan import listed
from gogoscope_dynamodb.schema import ONE, RATE, ZERO, Item, decode_rate, number, text

MOST_ROUNDS = 8
REMEMBERED = 1024

_numbers = itertools.count(1)

_NEXT_VERSION = "SET #version = #version + :one, #data.#at = :now, #data.#by = :by"
_NEW = "SET #version = if_not_exists(#version, :floor) + :one, #data = :data, #expiresAt = :ttl"
_KNOWN = "#version > :zero AND #data.#format = :format AND #data.#by <> :by"

BUSY = Update(
    f"{_NEXT_VERSION}, #data.#tat = #data.#tat + :cost, #expiresAt = :ttl",
    f"{_KNOWN} AND #data.#tat >= :least AND #data.#tat <= :most AND #data.#until <= :quiet",
)
IDLE = Update(_NEW, f"attribute_not_exists(#pk) OR ({_KNOWN} AND #data.#tat < :now)")
RETURN = Update(f"{_NEXT_VERSION}, #data.#tat = #data.#tat - :cost", "#version = :seen")
PAUSE = Update(
    _NEW,
    f"attribute_not_exists(#pk) OR ({_KNOWN} AND #data.#tat < :full AND #data.#until < :end)",
)
PAUSE_BUSY = Update(
    f"{_NEXT_VERSION}, #data.#until = :end",
    f"{_KNOWN} AND #data.#tat >= :full AND #data.#tat <= :far AND #data.#until < :end",
)
REPLACE = Update(
    "SET #version = #version + :one, #data = :data, #expiresAt = :ttl", "#version = :seen"
)

NEVER_USED = RateRecord(tat_us=0)

Rule = Callable[[RateRecord | None, int], tuple[RateRecord | None, RateReply]]


@frozen
class _Seen:
    """A limit as it was seen last.

    ``others`` counts how often others used what seemed to be full by that, and less for each time
    when they did not, between 0 and 3: from 2 on they are expected to. (So do processors guess
    where a branch goes: it takes two surprises to change one's mind.)
    """

    record: RateRecord
    version: int
    others: int = 0

    def judged(self, *, busy: bool) -> _Seen:
        """Return the same after it was found out whether what seemed to be full was."""
        return evolve(self, others=min(3, self.others + 1) if busy else max(0, self.others - 1))


class RateLimits(Capability):
    """The methods of a ``RateLimitProvider``."""

    def __init__(self, table: Table, settings: Settings) -> None:
        super().__init__(table, settings)
        self._fleet_clock = FleetClock(settings.clock)
        self._rates_seen: dict[str, _Seen] = {}

    async def reserve_rate(self, name: str, cost_us: int, burst_us: int, wait_us: int) -> RateReply:
        """Reserve a place in one write, or learn from the refusal when there will be one.

        One more is sent if the bucket was full and was not thought to be, or the other way round.
        """
        ahead_us = burst_us + min(wait_us, LONGEST_WAIT_US)

        def rule(record: RateRecord | None, now_ms: int) -> tuple[RateRecord | None, RateReply]:
            return rate_rules.reserve(record, now_ms, cost_us, burst_us, wait_us)

        def fitting(record: RateRecord | None, now_us: int) -> Update:
            if record is None or record.tat_us < now_us:
                return IDLE
            believed = record.tat_us - now_us <= burst_us + LONGEST_WAIT_US
            return BUSY if believed and record.tat_us >= least_tat(record, now_us) else REPLACE

        def least_tat(record: RateRecord, now_us: int) -> int:
            return record.until_us + burst_us if _is_paused(record, now_us) else now_us

        def values(record: RateRecord | None, now_us: int) -> dict[str, Any]:
            known = NEVER_USED if record is None else record
            return {
                ":least": number(least_tat(known, now_us)),
                ":quiet": number(max(now_us, known.until_us)),
                ":cost": number(cost_us),
                ":most": number(now_us + ahead_us - cost_us),
                ":ttl": schema.purge_time((now_us + ahead_us) // 1000),
            }

        return await self._change_rate(name, IDLE, rule, fitting, values)

    async def return_rate(self, name: str, tat_us: int, cost_us: int) -> bool:
        """Return a place, or a part of it, if it is the last one, and the limit is not paused.

        One write; a read before it unless the place is the last one that this store has seen.
        """
        key, by = self._key(RATE, name), _new_name()
        await self._learn_rate_time(key, name)
        seen = self._rates_seen.get(name)
        if seen is None or seen.record.tat_us != tat_us:
            seen = await self._look_at_rate(key, name)
        for _ in range(MOST_ROUNDS):
            now_ms = self._fleet_clock.now_ms()
            record = None if seen is None else seen.record
            changed, is_returned = rate_rules.return_place(record, now_ms, tat_us, cost_us)
            if seen is None or not is_returned:
                return False
            values = _values(changed, now_ms * 1000, by, seen.version)
            answer = await self._write_rate(key, RETURN, {**values, ":cost": number(cost_us)})
            seen = None if answer.item is None else self._see_rate(name, answer.item)
            if answer.granted or _is_echo(answer, by):
                return True
            if answer.in_doubt:
                return False  # It may have been, before others wrote.
        raise _overtaken(name)

    async def pause_rate(self, name: str, pause_us: int, burst_us: int) -> RateReply:
        """Admit nobody from now on for a while; the bucket is empty then.

        One write; two if places are reserved for the time after it.
        """
        pause_us = min(pause_us, LONGEST_WAIT_US)

        def rule(record: RateRecord | None, now_ms: int) -> tuple[RateRecord | None, RateReply]:
            return rate_rules.pause(record, now_ms, pause_us, burst_us)

        def fitting(record: RateRecord | None, now_us: int) -> Update:
            if record is None:
                return PAUSE
            end_us = now_us + pause_us
            believed = record.tat_us - now_us <= burst_us + LONGEST_WAIT_US
            if not believed or record.until_us >= end_us:
                return REPLACE
            return PAUSE if record.tat_us < end_us + burst_us else PAUSE_BUSY

        def values(record: RateRecord | None, now_us: int) -> dict[str, Any]:
            end_us = now_us + pause_us
            return {
                ":end": number(end_us),
                ":full": number(end_us + burst_us),
                ":far": number(now_us + burst_us + LONGEST_WAIT_US),
                ":ttl": schema.purge_time((end_us + burst_us) // 1000),
            }

        return await self._change_rate(name, PAUSE, rule, fitting, values)

    async def read_rate(self, name: str) -> RateReply | None:
        """Return a limit as the newest completed write left it; one consistent read."""
        seen = await self._look_at_rate(self._key(RATE, name), name)
        return None if seen is None else rate_rules.show(seen.record, self._fleet_clock.now_ms())

    async def rate_limits(self, pattern: str | None = None) -> dict[str, RateLimitState]:
        """Return the limits that are known, by their names; one that is corrupt is left out.

        It reads the whole table, whatever the pattern is, and is charged for that.

        :param pattern: a case-sensitive glob over whole names: ``*`` is any run of characters,
            ``?`` any one, every other character itself
        """
        found = await listed(self._table, RATE, self._settings.key_prefix, pattern, decode_rate)
        now_ms = self._fleet_clock.now_ms()
        return {name: rate_rules.show(one, now_ms).state() for name, one in found.items()}

    async def _change_rate(
        self,
        name: str,
        usual: Update,
        rule: Rule,
        fitting: Callable[[RateRecord | None, int], Update],
        values: Callable[[RateRecord | None, int], dict[str, Any]],
    ) -> RateReply:
        """Change a limit by the expression that fits it: by a guess first, then by what is shown.

        :param usual: what fits a limit that nobody has used
        :param fitting: returns what fits a limit at a time
        :param values: returns the values of those expressions, likewise
        """
        key, by = self._key(RATE, name), _new_name()
        await self._learn_rate_time(key, name)
        known = self._rates_seen.get(name)
        record, version, is_guess, expected = None, 0, True, usual
        if known is not None:
            expected = fitting(known.record, self._fleet_clock.now_ms() * 1000)
        update = BUSY if expected is IDLE and known is not None and known.others > 1 else expected
        if update is REPLACE:
            update = usual  # Only to what is shown now is anything done that is so rare.
        for _ in range(MOST_ROUNDS):
            now_ms = self._fleet_clock.now_ms()
            now_us = now_ms * 1000
            new, reply = rule(record, now_ms)
            if new is record and not is_guess:
                return reply
            if new is record:  # Not even a bucket that is full holds so much.
                seen = await self._look_at_rate(key, name)
                answer = None
            else:
                if not is_guess:
                    update = fitting(record, now_us)
                shown = known.record if is_guess and known is not None else record
                values_now = {**_values(new, now_us, by, version), **values(shown, now_us)}
                answer = await self._write_rate(key, update, values_now)
                seen = None if answer.item is None else self._see_rate(name, answer.item)
            if answer is not None and seen is not None and (answer.granted or _is_echo(answer, by)):
                if expected is IDLE:
                    judged = self._rates_seen[name].judged(busy=update is not IDLE)
                    self._rates_seen[name] = judged
                return _granted(seen.record, now_us)
            is_guess = False
            record, version = (None, 0) if seen is None else (seen.record, seen.version)
        raise _overtaken(name)

    async def _learn_rate_time(self, key: Item, name: str) -> None:
        """Read the limit if no answer has told the time yet."""
        if not self._fleet_clock.is_known():
            await self._look_at_rate(key, name)

    async def _look_at_rate(self, key: Item, name: str) -> _Seen | None:
        parameters = {"TableName": self._table.name, "Key": key, "ConsistentRead": True}
        sent = monotonic()
        answer = await self._table.send("get_item", parameters)
        self._fleet_clock.learn(answer.response, sent)
        item: Item | None = answer.response.get("Item")
        return None if item is None else self._see_rate(name, item)

    async def _write_rate(self, key: Item, update: Update, values: dict[str, Any]) -> Answer:
        sent = monotonic()
        answer = await self._table.update(key, update, values)
        self._fleet_clock.learn(answer.response, sent)
        return answer

    def _see_rate(self, name: str, item: Item) -> _Seen:
        """Note a limit as it was found just now, and the time of whoever wrote it."""
        seen = _Seen(decode_rate(item), schema.version_of(item))
        self._fleet_clock.see(schema.rate_writer_of(item)[1] / 1000)
        before = self._rates_seen.pop(name, seen)
        newer = seen if seen.version >= before.version else before
        self._rates_seen[name] = evolve(newer, others=before.others)
        if len(self._rates_seen) > REMEMBERED:
            del self._rates_seen[next(iter(self._rates_seen))]
        return seen


def _values(new: RateRecord | None, now_us: int, by: str, version: int) -> dict[str, Any]:
    """Return the values that every write may have.

    :param version: that which was seen
    """
    return {
        ":now": number(now_us),
        ":by": text(by),
        ":format": number(schema.RATE_FORMAT),
        ":zero": ZERO,
        ":one": ONE,
        ":floor": number(now_us),
        ":seen": number(version),
        ":data": {} if new is None else schema.encode_rate(new, now_us, by),
    }


def _granted(record: RateRecord, now_us: int) -> RateReply:
    until_us = record.until_us if _is_paused(record, now_us) else 0
    return RateReply(True, record.tat_us, until_us, now_us)


def _is_paused(record: RateRecord, now_us: int) -> bool:
    return now_us < record.until_us <= now_us + LONGEST_WAIT_US


def _is_echo(answer: Answer, by: str) -> bool:
    """Return whether a refusal shows that an earlier try of the same write was carried out."""
    found = answer.item
    return answer.in_doubt and found is not None and schema.rate_writer_of(found)[0] == by


def _new_name() -> str:
    return f"{process_name()[:8]}{next(_numbers):08x}"


def _overtaken(name: str) -> ThrottledError:
    return ThrottledError(f"rate limit {name!r} changed {MOST_ROUNDS} times while it was written")
