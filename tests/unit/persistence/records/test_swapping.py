"""Records over a place for entries: the guess, lost answers, cancelling, and what is remembered."""

from __future__ import annotations

import random
from collections.abc import Callable

import anyio
import pytest
from attrs import evolve, frozen

from gogoscope.exceptions import CorruptRecordError, StoreTimeoutError
from gogoscope.persistence import (
    CompareAndSwap,
    CompareAndSwapRecords,
    Entry,
    RecordStore,
    Swapped,
)
from gogoscope.persistence.records import swapping
from gogoscope.persistence.records.place import json_kind
from tests.support.clocks import MillisecondClock
from tests.support.entries import DictPlace, LossyPlace

pytestmark = pytest.mark.anyio


@frozen
class Count:
    n: int = 0
    purge_at_ms: int | None = None


COUNT = json_kind("count", Count, lambda count, now_ms: count.purge_at_ms)
LATER_MS = 7_200_000


def add(count: Count | None, now_ms: int) -> tuple[Count, int]:
    n = (count or Count()).n + 1
    return Count(n), n


def remove(count: Count | None, now_ms: int) -> tuple[None, bool]:
    return None, count is not None


def look(count: Count | None, now_ms: int) -> tuple[Count | None, Count | None]:
    return count, count


@pytest.fixture
def place() -> DictPlace:
    return DictPlace()


@pytest.fixture
def records(place: DictPlace) -> CompareAndSwapRecords:
    return CompareAndSwapRecords(place)


async def test_a_change_that_nobody_disputes_is_one_request(
    place: DictPlace, records: CompareAndSwapRecords
) -> None:
    for n in range(1, 6):
        assert await records.transact(COUNT, "k", add) == n
        assert place.requests == n


async def test_what_was_read_is_the_next_guess(place: DictPlace) -> None:
    await CompareAndSwapRecords(place).transact(COUNT, "k", add)
    records = CompareAndSwapRecords(place)
    assert await records.read(COUNT, "k") == Count(1)
    place.requests = 0
    assert await records.transact(COUNT, "k", add) == 2
    assert place.requests == 1


async def test_a_wrong_guess_costs_one_request_more(place: DictPlace) -> None:
    first, second = CompareAndSwapRecords(place), CompareAndSwapRecords(place)
    await first.transact(COUNT, "k", add)
    assert await second.transact(COUNT, "k", add) == 2
    assert place.requests == 3
    assert await first.transact(COUNT, "k", add) == 3
    assert place.requests == 5


async def test_a_change_that_writes_nothing_is_applied_to_what_is_there_now(
    place: DictPlace,
) -> None:
    first, second = CompareAndSwapRecords(place), CompareAndSwapRecords(place)
    await first.transact(COUNT, "k", add)
    await second.transact(COUNT, "k", add)
    place.requests = 0
    assert await first.transact(COUNT, "k", look) == Count(2)
    assert place.requests == 1
    assert await first.transact(COUNT, "other", look) is None


async def test_what_a_change_raises_of_an_old_record_is_not_raised(place: DictPlace) -> None:
    def at_most_one(count: Count | None, now_ms: int) -> tuple[Count, int]:
        if count is not None and count.n >= 1:
            raise ValueError("too many")
        return add(count, now_ms)

    first, second = CompareAndSwapRecords(place), CompareAndSwapRecords(place)
    await first.transact(COUNT, "k", add)
    assert await second.transact(COUNT, "k", remove)
    assert await first.transact(COUNT, "k", at_most_one) == 1
    with pytest.raises(ValueError, match="too many"):
        await second.transact(COUNT, "k", at_most_one)


async def test_a_removed_record_is_gone_and_may_be_made_again(
    place: DictPlace, records: CompareAndSwapRecords
) -> None:
    await records.transact(COUNT, "k", add)
    number = place.entries["count", "k"].number
    assert await records.transact(COUNT, "k", remove) is True
    assert await records.transact(COUNT, "k", remove) is False
    assert await records.read(COUNT, "k") is None
    assert await records.keys(COUNT, "") == []
    assert await records.transact(COUNT, "k", add) == 1
    assert place.entries["count", "k"].number > number


async def test_a_record_is_gone_from_its_purge_time_on() -> None:
    clock = MillisecondClock()
    place = DictPlace(clock)
    records = CompareAndSwapRecords(place)
    ends = records.now_ms() + 1000
    await records.write(COUNT, "k", lambda now_ms: Count(5, ends))
    clock.advance(999)
    assert await records.read(COUNT, "k") == Count(5, ends)
    clock.advance(1)
    assert await records.read(COUNT, "k") is None
    assert await records.transact(COUNT, "k", add) == 1
    clock.advance(LATER_MS)
    place.purge()
    assert await records.transact(COUNT, "k", add) == 2


@pytest.mark.parametrize("ahead_ms", [-60_000, -1, 1, 60_000])
async def test_what_one_process_removes_is_gone_for_one_whose_clock_differs(ahead_ms: int) -> None:
    place, clock = DictPlace(MillisecondClock()), MillisecondClock()
    clock.advance(ahead_ms)
    other = DictPlace(clock)
    other.entries = place.entries
    here, there = CompareAndSwapRecords(place), CompareAndSwapRecords(other)
    await here.transact(COUNT, "k", add)
    assert await there.transact(COUNT, "k", remove) is True
    for records in (here, there):
        assert await records.read(COUNT, "k") is None
        assert await records.keys(COUNT, "") == []
    place.purge()
    other.purge()
    assert place.entries
    assert await here.transact(COUNT, "k", add) == 1


async def test_what_was_purged_meanwhile_is_made_anew() -> None:
    clock = MillisecondClock()
    place = DictPlace(clock)
    records = CompareAndSwapRecords(place)
    ends = records.now_ms() + 1000
    await records.write(COUNT, "k", lambda now_ms: Count(5, ends))
    number = place.entries["count", "k"].number
    clock.advance(LATER_MS)
    place.purge()
    assert not place.entries
    assert await records.transact(COUNT, "k", add) == 1
    assert place.entries["count", "k"].number > number


async def test_write_replaces_whatever_is_there_in_one_request(
    place: DictPlace, records: CompareAndSwapRecords
) -> None:
    place.entries["count", "k"] = Entry("no JSON", None, 1, ("x",))
    with pytest.raises(CorruptRecordError, match="'k'"):
        await records.read(COUNT, "k")
    with pytest.raises(CorruptRecordError, match="'k'"):
        await records.transact(COUNT, "k", add)
    place.requests = 0
    await records.write(COUNT, "k", lambda now_ms: Count(7))
    assert place.requests == 1
    assert await records.transact(COUNT, "k", add) == 8


async def test_many_are_written_and_removed(
    place: DictPlace, records: CompareAndSwapRecords
) -> None:
    def make(key: str, now_ms: int) -> Count | None:
        return None if key == "b" else Count(len(key))

    await records.write(COUNT, "b", lambda now_ms: Count(1))
    await records.write_many(COUNT, ["a", "b", "cc"], make)
    assert await records.read_many(COUNT, ["a", "b", "cc", "d"]) == {"a": Count(1), "cc": Count(2)}


class Together(DictPlace):
    """Counts how many requests are in flight at once."""

    def __init__(self) -> None:
        super().__init__()
        self.in_flight = self.most = 0

    async def _request(self) -> None:
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        await anyio.wait_all_tasks_blocked()
        await super()._request()
        self.in_flight -= 1


async def test_many_are_read_and_written_side_by_side_and_not_all_at_once() -> None:
    place = Together()
    records = CompareAndSwapRecords(place)
    keys = [f"k{n}" for n in range(40)]
    for many in (
        lambda: records.write_many(COUNT, keys, lambda key, now_ms: Count(int(key[1:]))),
        lambda: records.read_many(COUNT, keys),
    ):
        place.most = 0
        await many()
        assert 4 <= place.most <= 16
    assert await records.read_many(COUNT, keys) == {key: Count(int(key[1:])) for key in keys}
    assert await records.read_many(COUNT, []) == {}


async def test_the_first_error_of_many_is_raised_as_it_is() -> None:
    place = DictPlace()
    records = CompareAndSwapRecords(place)
    await records.write_many(COUNT, ["a", "b", "c"], lambda key, now_ms: Count(1))
    place.entries["count", "b"] = Entry("no JSON", None, 1, ("x",))
    with pytest.raises(CorruptRecordError, match="'b'"):
        await records.read_many(COUNT, ["a", "b", "c"])


async def test_keys_are_listed_once_and_page_by_page() -> None:
    place = DictPlace(page=3)
    records = CompareAndSwapRecords(place)
    keys = [f"a:{n}" for n in range(10)]
    await records.write_many(COUNT, [*keys, "b:1"], lambda key, now_ms: Count(1))
    assert await records.keys(COUNT, "a:") == keys
    page, after = await records.keys_after(COUNT, "a:", None)
    assert page == keys[:3]
    page, _ = await records.keys_after(COUNT, "a:", after)
    assert page == keys[3:6]
    await records.clear(COUNT, "a:")
    assert await records.keys(COUNT, "") == ["b:1"]


async def test_what_was_cleared_is_one_request_to_make_again(
    place: DictPlace, records: CompareAndSwapRecords
) -> None:
    await records.transact(COUNT, "k", add)
    await records.clear(COUNT, "")
    place.requests = 0
    assert await records.transact(COUNT, "k", add) == 1
    assert place.requests == 1


async def test_what_is_remembered_is_bounded_in_entries_and_characters(
    place: DictPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(swapping, "MOST_SEEN", 3)
    monkeypatch.setattr(swapping, "MOST_CHARACTERS_SEEN", 40)
    records = CompareAndSwapRecords(place)
    for n in range(10):
        await records.transact(COUNT, f"k{n}", add)
        assert len(records._seen._entries) <= 3
    place.requests = 0
    await records.transact(COUNT, "k9", add)
    assert place.requests == 1
    await records.transact(COUNT, "k0", add)
    assert place.requests == 3
    for n in range(10):
        await records.write(COUNT, f"k{n}", lambda now_ms: Count(10**11))
        assert records._seen._characters <= 40
    await records.write(COUNT, "long", lambda now_ms: Count(10**60))
    assert len(records._seen._entries) == 0
    assert records._seen._characters == 0


class Scripted(DictPlace):
    """Does before and after the next swap what a test says."""

    def __init__(self) -> None:
        super().__init__()
        self.after: list[Callable[[Swapped], Swapped]] = []

    async def swap(self, kind: str, key: str, seen: Entry | None, new: Entry) -> Swapped:
        answer = await super().swap(kind, key, seen, new)
        return self.after.pop()(answer) if self.after else answer


def lost(place: DictPlace, then: Callable[[], None] = lambda: None) -> Callable[[Swapped], Swapped]:
    """Lose the answer, let ``then`` happen, and answer the second try."""

    def answer(first: Swapped) -> Swapped:
        then()
        return Swapped(False, place.entries.get(("count", "k")), in_doubt=True)

    return answer


def others(place: DictPlace, times: int) -> Callable[[], None]:
    def write() -> None:
        for n in range(times):
            before = place.entries["count", "k"]
            count = COUNT.load(before.text, None).n
            place.entries["count", "k"] = evolve(
                before,
                text=COUNT.dump(Count(count + 1)),
                writers=(*before.writers, f"other{n}")[-swapping.MOST_WRITERS :],
            )

    return write


@pytest.mark.parametrize("before", [0, 1, 40])
@pytest.mark.parametrize("after", [0, 1, swapping.MOST_WRITERS - 1])
async def test_a_change_whose_answer_was_lost_is_recognised_after_others_have_written(
    before: int, after: int
) -> None:
    place = Scripted()
    records = CompareAndSwapRecords(place)
    for _ in range(before):
        await records.transact(COUNT, "k", add)
    place.after = [lost(place, others(place, after))]
    assert await records.transact(COUNT, "k", add) == before + 1
    assert await records.read(COUNT, "k") == Count(before + 1 + after)


async def test_a_removal_whose_answer_was_lost_is_recognised() -> None:
    place = Scripted()
    records = CompareAndSwapRecords(place)
    await records.transact(COUNT, "k", add)
    place.after = [lost(place)]
    assert await records.transact(COUNT, "k", remove) is True


async def test_a_change_that_was_certainly_refused_is_made_again() -> None:
    place = Scripted()
    records = CompareAndSwapRecords(place)
    await records.transact(COUNT, "k", add)
    await CompareAndSwapRecords(place).transact(COUNT, "k", add)
    place.after = [lost(place)]
    assert await records.transact(COUNT, "k", add) == 3
    assert await records.read(COUNT, "k") == Count(3)


@pytest.mark.parametrize("before", [0, 1])
@pytest.mark.parametrize("then", ["too many write", "it is replaced", "it is cleared"])
async def test_a_change_of_which_nobody_knows_says_so_and_names_the_key(
    before: int, then: str
) -> None:
    place = Scripted()
    records = CompareAndSwapRecords(place)
    for _ in range(before):
        await records.transact(COUNT, "k", add)

    def happens() -> None:
        if then == "too many write":
            others(place, swapping.MOST_WRITERS)()
        elif then == "it is replaced":
            place.entries["count", "k"] = Entry(COUNT.dump(Count(70)), None, 1, ("replaced",))
        else:
            place.entries.clear()

    place.after = [lost(place, happens)]
    with pytest.raises(StoreTimeoutError, match="count 'k' may have been applied"):
        await records.transact(COUNT, "k", add)
    there = await records.read(COUNT, "k")
    assert await records.transact(COUNT, "k", add) == (there or Count()).n + 1


@pytest.mark.parametrize("pause", [0.0, 0.01])
async def test_counters_are_exact_though_answers_are_lost(pause: float) -> None:
    choose = random.Random(7)
    place = LossyPlace(lambda: choose.random() < 0.3, pause)
    confirmed = doubtful = 0

    async def count() -> None:
        nonlocal confirmed, doubtful
        records = CompareAndSwapRecords(place)
        for _ in range(40):
            try:
                await records.transact(COUNT, "k", add)
                confirmed += 1
            except StoreTimeoutError:
                doubtful += 1

    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(count)
    total = await CompareAndSwapRecords(place).read(COUNT, "k")
    assert total is not None
    assert confirmed + doubtful == 320
    assert confirmed <= total.n <= confirmed + doubtful
    assert place.lost > 50
    assert doubtful <= 32


class Slow(CompareAndSwap):
    """Hangs before or after each request, as a test says."""

    def __init__(self, place: DictPlace, *, applied: bool) -> None:
        self._place = place
        self._applied = applied
        self.hangs = True

    def now_ms(self) -> int:
        return self._place.now_ms()

    async def load(self, kind: str, key: str) -> Entry | None:
        return await self._place.load(kind, key)

    async def swap(self, kind: str, key: str, seen: Entry | None, new: Entry) -> Swapped:
        if not self.hangs:
            return await self._place.swap(kind, key, seen, new)
        if self._applied:
            await self._place.swap(kind, key, seen, new)
        await anyio.sleep_forever()
        raise AssertionError

    async def put(self, kind: str, key: str, new: Entry) -> None:
        if self._applied or not self.hangs:
            await self._place.put(kind, key, new)
        if self.hangs:
            await anyio.sleep_forever()

    async def keys(self, kind: str, prefix: str, after: str | None) -> tuple[list[str], str | None]:
        raise NotImplementedError

    async def clear(self, kind: str, prefix: str) -> None:
        raise NotImplementedError


@pytest.mark.parametrize("applied", [False, True])
@pytest.mark.parametrize("writes", [False, True])
async def test_after_a_cancelled_change_the_next_one_is_right(applied: bool, writes: bool) -> None:
    place = DictPlace()
    slow = Slow(place, applied=applied)
    records = CompareAndSwapRecords(slow)
    await CompareAndSwapRecords(place).transact(COUNT, "k", add)
    assert await records.read(COUNT, "k") == Count(1)
    with anyio.move_on_after(0.01) as cancelled:
        if writes:
            await records.write(COUNT, "k", lambda now_ms: Count(2))
        else:
            await records.transact(COUNT, "k", add)
    assert cancelled.cancelled_caught
    slow.hangs = False
    assert await records.transact(COUNT, "k", add) == (3 if applied else 2)


class SlowPlace(DictPlace):
    """Carries the next swap out when ``land`` is called, though nobody waits for it any more."""

    def __init__(self) -> None:
        super().__init__()
        self.holds = False
        self._under_way: tuple[str, str, Entry | None, Entry] | None = None

    async def swap(self, kind: str, key: str, seen: Entry | None, new: Entry) -> Swapped:
        if not self.holds:
            return await super().swap(kind, key, seen, new)
        self.holds, self._under_way = False, (kind, key, seen, new)
        await anyio.sleep_forever()
        raise AssertionError

    async def land(self) -> Swapped:
        assert self._under_way is not None
        return await super().swap(*self._under_way)


@pytest.mark.parametrize("before", [0, 1])
async def test_what_was_found_out_after_a_cancelled_write_stays_true_when_that_lands(
    before: int,
) -> None:
    place = SlowPlace()
    records = CompareAndSwapRecords(place)
    for _ in range(before):
        await records.transact(COUNT, "k", add)
    place.holds = True
    with anyio.move_on_after(0.01):
        await records.transact(COUNT, "k", add)
    found = await records.transact(COUNT, "k", look)
    assert found == (Count(before) if before else None)
    assert not (await place.land()).swapped
    assert await CompareAndSwapRecords(place).read(COUNT, "k") == found
    place.requests = 0
    await records.transact(COUNT, "k", look)
    assert place.requests == 1


async def test_a_lock_whose_claim_was_cancelled_is_not_held_when_the_claim_lands() -> None:
    place = SlowPlace()
    store = RecordStore(CompareAndSwapRecords(place))
    place.holds = True
    with anyio.move_on_after(0.01):
        await store.acquire("k", 30)
    assert not (await place.land()).swapped
    assert await store.holder("k") is None


async def test_what_was_removed_is_gone_by_a_clock_that_is_behind() -> None:
    ahead, behind = MillisecondClock(), MillisecondClock()
    ahead.advance(5_000)
    place, other = DictPlace(ahead), DictPlace(behind)
    other.entries = place.entries
    records = CompareAndSwapRecords(place)
    await records.transact(COUNT, "k", add)
    await records.transact(COUNT, "k", remove)
    assert await CompareAndSwapRecords(other).read(COUNT, "k") is None


async def test_what_was_removed_stays_removed_though_the_clock_is_set_back() -> None:
    clock = MillisecondClock()
    store = RecordStore(CompareAndSwapRecords(DictPlace(clock)))
    await store.set("k", 1)
    assert await store.delete("k")
    clock.advance(-LATER_MS)
    assert await store.get("k") is None
    assert not await store.has("k")
    assert not await store.delete("k")
    assert await store.set("k", 2, if_absent=True)
    assert await store.get("k") == 2


async def test_a_value_of_which_a_codec_makes_an_empty_text_is_there() -> None:
    class Plain:
        def dumps(self, value: str) -> str:
            return value

        def loads(self, text: str) -> str:
            return text

    records = CompareAndSwapRecords(DictPlace())
    await RecordStore(records, codec=Plain()).set("k", "", 60)
    for store in (RecordStore(records, codec=Plain()), RecordStore(records, codec=Plain())):
        assert await store.get("k") == ""
        assert not await store.set("k", "x", if_absent=True)
