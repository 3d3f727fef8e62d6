"""The bucket of a rate limit, as one event loop knows it: who waits for a place, and until when.

A call gets a place by one request, and goes when its time has come: nobody asks twice. Those that
come while a request is under way wait in a line, and the next request reserves places for all of
them, one after the other. So many calls at once make few requests. The calls of a process go in the
order in which they came (:mod:`gogoscope.rate_limits.places`).

A refusal shows when there will be a place. For a short time, it also refuses those who come next
and cannot wait for that, without a request.

A pause moves all places that are reserved later. Those that were reserved before are void if their
time is in the pause. Whoever goes when no answer has come for a second looks once more whether that
is so; then it reserves anew.

Invariants:

- A call goes only at a place: at its time or later, and after every pause that this process knows.
- Each place is for one call. One that nobody needs any more is returned if nothing was reserved
  after it; otherwise it is for the next call of this process, and lost when its time has passed.
- While the store fails, no call waits for it but the one that finds out whether it still does.

Mutable state: ``_line`` are those who wait for an answer, in their order, and ``_asking`` is true
while one of them asks for all. ``_most`` of them, and ``_most_more`` places beyond, are asked for
at once, after a request for more was refused. ``_places`` are those that were reserved, by cost;
with ``_most_costs`` of them, it is time to forget those that nobody uses.
"""

from __future__ import annotations

import math
from functools import partial
from itertools import islice

import anyio

from gogoscope._core.background import Home
from gogoscope._core.cancellation import finish
from gogoscope._core.clock import monotonic
from gogoscope.events import RateLimitExceeded, RateLimitPaused, RateLimitWaited
from gogoscope.exceptions import GogoscopeError, RateLimitExceededError
from gogoscope.persistence.protocols.rate_limits import RateLimitProvider
from gogoscope.persistence.rate_records import RateReply
from gogoscope.rate_limits.batches import Batches
from gogoscope.rate_limits.contact import STORE_SECONDS, Contact
from gogoscope.rate_limits.outage import microseconds
from gogoscope.rate_limits.places import Place, Places, Want
from gogoscope.rate_limits.policy import RatePolicy

MOST_COSTS = 256
"""How many different costs are remembered at least, before what nobody uses is forgotten."""
RETURN_SECONDS = 1.0
"""How long a cancelled call returns its place, at most."""


class Bucket:
    """One rate limit in one store, for one event loop.

    :param policy: the limit
    :param provider: keeps it
    """

    def __init__(self, policy: RatePolicy, provider: RateLimitProvider) -> None:
        self.name = policy.name
        self._cost_us = policy._cost_us
        self._unit_us = policy._cost_us(1)
        self._burst_us = policy._burst_us
        self._share = policy.local_share
        self._batches = Batches(policy._most_at_once, policy.batch == "auto")
        # Without a share of its own, a process has nothing better to do than to wait for the store.
        patience = STORE_SECONDS if self._share else math.inf
        self.contact = Contact(self.name, self._burst_us, provider, patience)
        self._outage = self.contact.outage
        self._line: dict[Want, None] = {}
        self._asking = False
        self._most: int | None = None
        self._most_more: int | None = None
        self._places: dict[int, Places] = {}
        self._most_costs = MOST_COSTS

    async def take(self, home: Home, cost_us: int, wait: float) -> Place:
        """Wait until a call may go.

        :param home: the scope that it is in
        :param cost_us: what it costs
        :param wait: how long it may wait, in seconds
        :raises RateLimitExceededError: if it would have to wait for longer
        :raises PersistenceError: if the store fails, and the process has no share of its own
        """
        began = monotonic()
        try:
            while (place := await self._place(home, cost_us, began + wait)) is None:
                pass  # it was paused
        except RateLimitExceededError as error:
            if home.observed:
                home.emit(RateLimitExceeded(home.name, self.name, error.retry_after))
            raise
        if home.observed and place.go_at > began:
            home.emit(RateLimitWaited(home.name, self.name, monotonic() - began))
        return place

    def take_ready(self) -> int:
        """Take the places of a batch whose time has come; return how many there are."""
        places = self._places.get(self._unit_us)
        count = 0 if places is None else places.take_ready()
        self._batches.used += count
        return count

    async def give_back(self, home: Home, place: Place, cost_us: int) -> None:
        """Return a part of a place that was used, if nothing was reserved after it."""
        if self._is_last(place):
            work = partial(self.contact.give_back, place.tat_us, cost_us)
            await self.contact.quietly(home, work)

    async def charge(self, home: Home, place: Place, cost_us: int) -> None:
        """Take more for a call that has cost more than was reserved for it."""
        if not place.local:
            await self.contact.quietly(home, partial(self.contact.charge, cost_us))

    async def pause(self, home: Home, seconds: float) -> None:
        """Admit nobody for a while.

        :raises PersistenceError: if the store fails; this process pauses all the same
        """
        if home.observed:
            home.emit(RateLimitPaused(home.name, self.name, seconds))
        for places in self._places.values():
            places.drop_spare()
        await self.contact.pause(seconds)

    async def _place(self, home: Home, cost_us: int, ends: float) -> Place | None:
        """Return a place whose time has come; ``None`` if it is void, since there was a pause."""
        if self._share and self._outage.failed and (self._asking or self._outage.lasts()):
            return await self._place_here(cost_us, ends)
        places = self._places_for(cost_us)
        want = Want(cost_us, ends)
        places.users += 1
        try:
            if places.has_spare(ends):
                places.join(want)
            else:
                await self._answered(home, want)
            if want.is_local:
                return await self._place_here(cost_us, ends)
            place = await places.turn(want)
            try:
                await self.contact.quietly(home, self.contact.look)
            except BaseException:
                places.put_back(place)
                raise
        except BaseException:
            places.leave(want)
            if places:
                work = partial(self.contact.quietly, home, partial(self._return_spare, places))
                await finish(work, RETURN_SECONDS)
            raise
        finally:
            places.users -= 1
        if cost_us == self._unit_us:
            self._batches.used += 1
        return place if place.at_us >= self.contact.until_us else None

    def _places_for(self, cost_us: int) -> Places:
        places = self._places.get(cost_us)
        if places is None:
            if len(self._places) >= self._most_costs:
                self._places = {c: used for c, used in self._places.items() if used.is_in_use()}
                self._most_costs = max(MOST_COSTS, 2 * len(self._places))
            held = self._batches.most - 1 if cost_us == self._unit_us else 0
            places = self._places[cost_us] = Places(self.name, held)
        return places

    async def _place_here(self, cost_us: int, ends: float) -> Place | None:
        """Return a place in the bucket of this process alone, since the store fails."""
        wait = max(0.0, ends - monotonic())
        self._outage.pause(self.contact.paused_for(), self._burst_us)
        place, delay = self._outage.reserve(cost_us, self._burst_us, wait, self._share)
        if place is None:
            raise RateLimitExceededError(self.name, delay)
        await self._sleep(delay)
        self._outage.pause(self.contact.paused_for(), self._burst_us)
        return None if self._outage.is_paused(place) else place

    async def _sleep(self, seconds: float) -> None:
        if seconds > 0:
            await anyio.sleep(seconds)

    async def _answered(self, home: Home, want: Want) -> None:
        """Wait in the line until a call has a place, or is to take one of this process alone.

        :raises RateLimitExceededError: if it would have to wait for too long
        :raises PersistenceError: if the store fails, and the process has no share of its own
        """
        free_us, ends_us = self.contact.free_us(want.cost_us), microseconds(want.ends - monotonic())
        if free_us is not None and free_us - self.contact.time_us() > ends_us:
            raise self.contact.exceeded(free_us)
        self._line[want] = None
        try:
            while not want.answered:
                if self._asking:
                    await want.wait()
                else:
                    await self._ask_for_all(home)
        finally:
            self._line.pop(want, None)
            if not self._asking and self._line:
                next(iter(self._line)).wake()
        if want.error is not None:
            raise want.error

    async def _ask_for_all(self, home: Home) -> None:
        """Ask once for those who are in the line, and settle those whom the answer settles."""
        self._asking = True
        try:
            group = list(islice(self._line, self._most))
            more = self._more(group)
            total = sum(want.cost_us for want in group) + self._cost_us(more)
            try:
                reply = await self.contact.reserve(total, self._wait_us(group, total, more))
            except GogoscopeError as error:
                self.contact.failed(home, error)
                self._leave_alone(error)
                return
            self.contact.answered(home)
            if reply.granted:
                self._settle(group, more, total, reply)
            else:
                self._refuse(group, more, reply)
        finally:
            self._asking = False

    def _more(self, group: list[Want]) -> int:
        """Return how many places to reserve beyond those of a group."""
        units = sum(want.cost_us == self._unit_us for want in group)
        more = self._batches.more(units) if units else 0
        return more if self._most_more is None else min(more, self._most_more)

    def _wait_us(self, group: list[Want], total: int, more: int) -> int:
        """Return how long the last place may be away, so that nobody waits for too long."""
        now = monotonic()
        reserved, waits = 0, []
        for want in group:
            reserved += want.cost_us
            waits.append(microseconds(want.ends - now) + total - reserved)
        if more:
            waits.append(microseconds(group[-1].ends - now))
        return min(waits)

    def _settle(self, group: list[Want], more: int, total: int, reply: RateReply) -> None:
        """Hand out the places that were reserved, one after the other."""
        self._most = self._most_more = None
        reserved, begun = 0, reply.tat_us - total
        for want in [*group, *[None] * more]:
            cost = self._unit_us if want is None else want.cost_us
            reserved = min(total, reserved + cost)
            at_us = max(begun + reserved - self._burst_us, reply.now_us)
            go_at = self.contact.told_at + (at_us - reply.now_us) / 1e6
            places = self._places_for(cost)
            places.add(Place(cost, begun + reserved, at_us, go_at))
            if want in self._line:  # otherwise it was cancelled, and the place is spare
                places.join(want)
                self._answer(want)

    def _refuse(self, group: list[Want], more: int, reply: RateReply) -> None:
        """Refuse those who cannot wait for their places; the others are to ask again."""
        now = monotonic()
        free_us = max(reply.tat_us, reply.now_us) - reply.now_us - self._burst_us
        reserved = room_us = 0
        for want in group:
            wait_us = free_us + reserved + want.cost_us
            patience_us = microseconds(want.ends - now)
            if wait_us <= patience_us and (more or len(group) > 1):
                reserved += want.cost_us
                room_us = patience_us - wait_us
            elif want in self._line:
                want.error = self.contact.exceeded(reply.now_us + wait_us)
                self._answer(want)
        self._most_more = room_us // self._unit_us
        if not more and all(want in self._line for want in group):
            self._most = len(group) // 2

    def _leave_alone(self, error: GogoscopeError) -> None:
        """Leave those in the line to themselves, since the store fails."""
        for want in list(self._line):
            if self._share:
                want.is_local = True
            else:
                want.error = error
            self._answer(want)

    def _answer(self, want: Want) -> None:
        self._line.pop(want, None)
        want.wake()

    def _is_last(self, place: Place) -> bool:
        known = not (place.local or self._outage.failed)
        return known and place.tat_us == self.contact.tat_us

    async def _return_spare(self, places: Places) -> None:
        """Return the last places, as far as nobody needs them, and nothing was reserved after."""
        while taken := places.take_last(self.contact.tat_us):
            cost_us = sum(place.cost_us for place in taken)
            if not await self.contact.give_back(taken[0].tat_us, cost_us):
                for place in reversed(taken):
                    places.add(place)
                return
