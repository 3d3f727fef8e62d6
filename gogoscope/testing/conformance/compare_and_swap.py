"""What a place for entries must guarantee: one atomic swap, and honesty about lost answers.

Derive a class, and override ``open_place``. If the client of the server sends requests again, also
override ``open_lossy_place``::

    class TestMyPlace(CompareAndSwapConformance):
        @pytest.fixture
        def open_place(self, url):
            return lambda: my_place(url)
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import ClassVar

import anyio
import anyio.lowlevel
import pytest
from attrs import evolve

from gogoscope.exceptions import PersistenceError, StoreTimeoutError
from gogoscope.persistence import CompareAndSwap, CompareAndSwapRecords, Entry, Swapped
from gogoscope.testing.conformance.cancelling import CancelledAt, cancel_everywhere
from gogoscope.testing.conformance.entries import (
    COUNT,
    after,
    all_keys,
    an_entry,
    increment,
    is_put,
)
from gogoscope.testing.conformance.samples import ODD_KEYS

OpenPlace = Callable[[], AbstractAsyncContextManager[CompareAndSwap]]
"""Opens one more place on the data of the running test, as another process would."""
OpenLossyPlace = Callable[[Callable[[], bool]], AbstractAsyncContextManager[CompareAndSwap]]
"""Likewise; what it is given is asked for each answer to a swap whether that answer is lost."""

KIND = "run"
PLACES = 3
SWAPS = 20
MANY_KEYS = 1100
PATIENCE = 60.0
MOST_CLOCK_ERROR_MS = 60_000
DAY_MS = 86_400_000
TEXTS = [
    "{}",
    "",
    "a,b;c|d=e",
    '{"quotes": "\\"", "nul": "\\u0000", "lines": "\\r\\n"}',
    "Ünïcødé ✓ 🎉 \U0010ffff",
    "x" * 100_000,
]


@pytest.mark.anyio
class CompareAndSwapConformance:
    """What a ``CompareAndSwap`` guarantees."""

    works_after_close: ClassVar[bool] = False
    """Whether a place has nothing to close, so that it goes on working."""

    tells: ClassVar[bool] = False
    """Whether ``watch`` tells of changes, so that it is none that is inherited."""

    @pytest.fixture
    def open_place(self) -> OpenPlace:
        """Return what opens a place on data of the test's own; override it."""
        pytest.fail("override the fixture open_place: it returns what opens a place", pytrace=False)

    @pytest.fixture
    def open_lossy_place(self) -> OpenLossyPlace:
        """Return what opens a place whose answers a test loses; override it where that can be."""
        pytest.skip("no answers can be lost here: the fixture open_lossy_place is not overridden")

    @pytest.fixture
    async def place(self, open_place: OpenPlace) -> AsyncIterator[CompareAndSwap]:
        """Return an open place."""
        async with open_place() as opened:
            yield opened

    @pytest.fixture
    async def other(self, open_place: OpenPlace) -> AsyncIterator[CompareAndSwap]:
        """Return another place on the same data."""
        async with open_place() as opened:
            yield opened

    @pytest.mark.parametrize("text", TEXTS, ids=lambda text: repr(text[:12]))
    @pytest.mark.parametrize("purges", [False, True])
    async def test_an_entry_comes_back_as_it_was_written(
        self, place: CompareAndSwap, other: CompareAndSwap, text: str, purges: bool
    ) -> None:
        written = an_entry(
            text,
            place.now_ms() + DAY_MS if purges else None,
            number=place.now_ms() * 1000,
            writers=["-", *(f"{n:x}" * 12 for n in range(16)), *(f"w{n}" for n in range(15))],
        )
        await place.put(KIND, "put", written)
        assert (await place.swap(KIND, "swapped", None, written)).swapped
        following = after(written, text, written.purge_at_ms)
        assert (await place.swap(KIND, "again", None, written)).swapped
        assert (await place.swap(KIND, "again", written, following)).swapped
        for one in (place, other):
            assert await one.load(KIND, "put") == written
            assert await one.load(KIND, "swapped") == written
            assert await one.load(KIND, "again") == following

    async def test_what_was_never_written_is_absent(self, place: CompareAndSwap) -> None:
        assert await place.load(KIND, "k") is None
        assert await all_keys(place, KIND, "") == []
        answer = await place.swap(KIND, "k", an_entry(), an_entry())
        assert answer == Swapped(swapped=False, found=None)
        assert await place.load(KIND, "k") is None

    async def test_a_swap_writes_only_if_nobody_has_written_since(
        self, place: CompareAndSwap, other: CompareAndSwap
    ) -> None:
        first = an_entry("1")
        assert (await place.swap(KIND, "k", None, first)).swapped
        second = after(first, "2")
        assert (await other.swap(KIND, "k", first, second)).swapped
        for seen in (None, first, an_entry("2")):
            assert not (await place.swap(KIND, "k", seen, an_entry("3"))).swapped
        assert await place.load(KIND, "k") == second
        assert (await place.swap(KIND, "k", second, after(second, "3"))).swapped

    async def test_a_refusal_shows_the_newest_entry(
        self, place: CompareAndSwap, other: CompareAndSwap
    ) -> None:
        first = an_entry("1", place.now_ms() + DAY_MS)
        await place.put(KIND, "k", first)
        assert await place.load(KIND, "k") == first
        newest = after(first, "2")
        assert (await other.swap(KIND, "k", first, newest)).swapped
        for seen in (None, first):
            answer = await place.swap(KIND, "k", seen, an_entry("3"))
            assert answer == Swapped(swapped=False, found=newest)

    async def test_the_id_of_the_last_writer_is_compared_and_not_the_content(
        self, place: CompareAndSwap
    ) -> None:
        there = an_entry("1", number=5, writers=["a", "b"])
        await place.put(KIND, "k", there)
        for seen in (evolve(there, writers=("a", "c")), evolve(there, writers=("b", "a"))):
            answer = await place.swap(KIND, "k", seen, an_entry("2"))
            assert answer == Swapped(swapped=False, found=there)
        seen = Entry("of old", place.now_ms(), 5, ("x", "b"))
        assert (await place.swap(KIND, "k", seen, an_entry("2"))).swapped

    async def test_what_is_loaded_is_what_was_written_last(
        self, place: CompareAndSwap, other: CompareAndSwap
    ) -> None:
        entry = an_entry()
        await place.put(KIND, "k", entry)
        for n in range(5):
            assert await other.load(KIND, "k") == entry
            entry = after(entry, str(n))
            assert (await place.swap(KIND, "k", await other.load(KIND, "k"), entry)).swapped
        await other.put(KIND, "k", put := an_entry("put"))
        assert is_put(await place.load(KIND, "k"), put)

    async def test_a_put_replaces_all_of_what_is_there(self, place: CompareAndSwap) -> None:
        await place.put(KIND, "k", an_entry("1", place.now_ms() + DAY_MS, 9, ["a", "b", "c"]))
        await place.put(KIND, "k", put := an_entry("2", None, 3, ["d"]))
        assert is_put(await place.load(KIND, "k"), put)
        swapped = Entry("3", place.now_ms() + DAY_MS, 4, ("d", "e"))
        assert (await place.swap(KIND, "k", put, swapped)).swapped
        last = Entry("4", None, 5, ("e", "f"))
        assert (await place.swap(KIND, "k", swapped, last)).swapped
        assert await place.load(KIND, "k") == last

    async def test_an_entry_stays_when_its_purge_time_is_over(self, place: CompareAndSwap) -> None:
        gone = an_entry("", place.now_ms() - 1000, writers=["-", "a"])
        await place.put(KIND, "put", gone)
        assert (await place.swap(KIND, "swapped", None, gone)).swapped
        for key in ("put", "swapped"):
            assert await place.load(KIND, key) == gone
            answer = await place.swap(KIND, key, None, an_entry())
            assert answer == Swapped(swapped=False, found=gone)
            assert (await place.swap(KIND, key, gone, an_entry("new"))).swapped

    async def test_one_of_many_swaps_writes(self, open_place: OpenPlace) -> None:
        async with AsyncExitStack() as opened:
            places = [await opened.enter_async_context(open_place()) for _ in range(PLACES)]
            there: Entry | None = None
            for _ in range(3):
                attempts = [an_entry(str(n)) for n in range(SWAPS)]
                written: list[Entry] = []
                found: list[Entry | None] = []

                async def swap(n: int, seen: Entry | None, attempts: list[Entry]) -> None:
                    place = places[n % PLACES]
                    answer = await place.swap(KIND, "k", seen, attempts[n])
                    if answer.swapped:
                        written.append(attempts[n])  # noqa: B023 - used before the next round
                    else:
                        found.append(answer.found)  # noqa: B023

                async with anyio.create_task_group() as group:
                    for n in range(SWAPS):
                        group.start_soon(swap, n, there, attempts)
                assert len(written) == 1
                assert found == written * (SWAPS - 1)
                there = written[0]
                assert await places[0].load(KIND, "k") == there

    async def test_no_change_is_lost(self, open_place: OpenPlace) -> None:
        counts: list[int] = []

        async def add(records: CompareAndSwapRecords) -> None:
            counts.extend([await records.transact(COUNT, "k", increment) for _ in range(10)])

        async with AsyncExitStack() as opened:
            places = [await opened.enter_async_context(open_place()) for _ in range(PLACES)]
            with anyio.fail_after(PATIENCE):
                async with anyio.create_task_group() as group:
                    for place in places:
                        group.start_soon(add, CompareAndSwapRecords(place))
        assert sorted(counts) == list(range(1, 10 * PLACES + 1))

    async def test_any_key_is_a_key(self, place: CompareAndSwap) -> None:
        for n, key in enumerate(ODD_KEYS):
            assert (await place.swap(KIND, key, None, an_entry(str(n)))).swapped
        for n, key in enumerate(ODD_KEYS):
            entry = await place.load(KIND, key)
            assert entry is not None
            assert entry.text == str(n)
            assert key in await all_keys(place, KIND, key)
        assert await all_keys(place, KIND, "") == sorted(ODD_KEYS)

    async def test_a_prefix_is_text_and_no_pattern(self, place: CompareAndSwap) -> None:
        keys = ["a*:1", "ab:1", "a%:1", "a_:1", "a?:1", "a[b]:1", "a\\:1", "A*:1", "a*", "ba*:1"]
        for key in keys:
            await place.put(KIND, key, an_entry())
        for key in keys:
            expected = sorted(other for other in keys if other.startswith(key))
            assert await all_keys(place, KIND, key) == expected
        await place.clear(KIND, "a*:")
        await place.clear(KIND, "a_:")
        await place.clear(KIND, "a%:")
        left = [key for key in keys if not key.startswith(("a*:", "a_:", "a%:"))]
        assert await all_keys(place, KIND, "") == sorted(left)

    async def test_kinds_are_apart(self, place: CompareAndSwap) -> None:
        entry = an_entry("of runs")
        await place.put("run", "k", entry)
        for kind in ("ru", "run-once", "job"):
            assert await place.load(kind, "k") is None
            assert (await place.swap(kind, "k", None, an_entry(kind))).swapped
        await place.clear("run-once", "")
        await place.clear("ru", "")
        assert await place.load("run", "k") == entry
        assert await all_keys(place, "run", "") == ["k"]
        assert await all_keys(place, "ru", "") == []

    async def test_keys_past_their_purge_time_are_not_listed(self, place: CompareAndSwap) -> None:
        now_ms = place.now_ms()
        await place.put(KIND, "gone", an_entry("1", now_ms - 1000))
        await place.put(KIND, "there", an_entry("1", now_ms + DAY_MS))
        await place.put(KIND, "for ever", an_entry("1"))
        assert (await place.swap(KIND, "removed", None, an_entry("", now_ms - 1000))).swapped
        assert await all_keys(place, KIND, "") == ["for ever", "there"]

    async def test_many_keys_are_listed_and_cleared(self, place: CompareAndSwap) -> None:
        keys = sorted(f"many:{n}" for n in range(MANY_KEYS))
        limiter = anyio.Semaphore(32)

        async def put(key: str) -> None:
            async with limiter:
                await place.put(KIND, key, an_entry())

        async with anyio.create_task_group() as group:
            for key in keys:
                group.start_soon(put, key)
        await place.put(KIND, "other", an_entry())
        assert await all_keys(place, KIND, "many:") == keys
        await place.clear(KIND, "many:")
        assert await all_keys(place, KIND, "") == ["other"]
        assert await place.load(KIND, keys[0]) is None

    async def test_the_clock_tells_the_time(self, place: CompareAndSwap) -> None:
        before = place.now_ms()
        assert type(before) is int
        assert abs(before - time.time() * 1000) < MOST_CLOCK_ERROR_MS
        await anyio.sleep(0.02)
        assert before < place.now_ms() < before + MOST_CLOCK_ERROR_MS

    async def test_whoever_watches_a_key_is_told_until_it_stops(
        self, place: CompareAndSwap, other: CompareAndSwap
    ) -> None:
        told, changed = anyio.Event(), 0

        def count() -> None:
            nonlocal changed
            changed += 1
            told.set()

        stop = place.watch(KIND, "k", count)
        entry = an_entry()
        await other.put(KIND, "k", entry)
        with anyio.fail_after(PATIENCE):
            while self.tells and not told.is_set():
                following = evolve(after(entry, "free"), tell=True)
                assert (await other.swap(KIND, "k", entry, following)).swapped
                entry = following
                with anyio.move_on_after(0.5):
                    await told.wait()
        stop()
        stop()
        before = changed
        for one in (place, other):
            following = evolve(after(entry, "free"), tell=True)
            assert (await one.swap(KIND, "k", entry, following)).swapped
            entry = following
        await anyio.sleep(0.05)
        assert changed == before

    @pytest.mark.parametrize("put", [False, True])
    async def test_a_cancelled_write_is_whole_or_not_there(
        self, open_place: OpenPlace, put: bool
    ) -> None:
        async with open_place() as place, open_place() as other:

            async def attempt_at(n: int) -> CancelledAt:
                key = f"k{n}"  # of its own: what was cancelled in flight may arrive late
                await other.put(KIND, key, an_entry("before"))
                seen = await other.load(KIND, key)
                assert seen is not None
                new = after(seen, str(n), place.now_ms() + DAY_MS)
                write = place.put(KIND, key, new) if put else place.swap(KIND, key, seen, new)
                attempt = CancelledAt(write, n)
                await attempt.run()
                there = await place.load(KIND, key)
                assert there == new or (not attempt.ended and there == seen)
                return attempt

            await cancel_everywhere(attempt_at)

    async def test_a_closed_place_says_so_and_never_hangs(self, open_place: OpenPlace) -> None:
        async with open_place() as place:
            await place.load(KIND, "k")
        with anyio.fail_after(PATIENCE):
            if self.works_after_close:
                await place.load(KIND, "k")
                return
            with pytest.raises(PersistenceError):
                await place.load(KIND, "k")

    async def test_a_swap_whose_answer_was_lost_says_that_it_is_in_doubt(
        self, open_lossy_place: OpenLossyPlace, place: CompareAndSwap
    ) -> None:
        losses = [True]

        def lose() -> bool:
            return losses.pop() if losses else False

        async with open_lossy_place(lose) as lossy:
            try:
                answer = await lossy.swap(KIND, "k", None, new := an_entry())
            except StoreTimeoutError:
                return
            finally:
                assert not losses, "the answer was not lost: open_lossy_place asks nobody"
            assert answer in (
                Swapped(swapped=True),
                Swapped(swapped=False, found=new, in_doubt=True),
            )
        assert await place.load(KIND, "k") == new

    async def test_counters_are_exact_though_answers_are_lost(
        self, open_lossy_place: OpenLossyPlace, place: CompareAndSwap
    ) -> None:
        answers = lost = confirmed = doubtful = 0

        def lose() -> bool:
            nonlocal answers, lost
            answers += 1
            lost += answers % 3 == 0
            return answers % 3 == 0

        async def add() -> None:
            nonlocal confirmed, doubtful
            async with open_lossy_place(lose) as lossy:
                records = CompareAndSwapRecords(lossy)
                for _ in range(10):
                    try:
                        await records.transact(COUNT, "k", increment)
                        confirmed += 1
                    except StoreTimeoutError:
                        doubtful += 1

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                for _ in range(4):
                    group.start_soon(add)
        counted = await CompareAndSwapRecords(place).read(COUNT, "k")
        assert counted is not None
        assert lost >= confirmed // 3
        assert confirmed <= counted.n <= confirmed + doubtful
