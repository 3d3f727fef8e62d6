"""What every part of the kit builds on: opening a store, its clock, and what it can do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from collections.abc import Set as AbstractSet
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar, Protocol, runtime_checkable

import anyio
import anyio.to_thread
import pytest

from gogoscope import Scope, scope
from gogoscope._core.clock import Clock, current_clock
from gogoscope.exceptions import CapabilityNotSupportedError, PersistenceError
from gogoscope.persistence.bundle import Persistence, capabilities
from gogoscope.persistence.sharing import open_persistence
from gogoscope.testing.conformance.cancelling import CancelledAt, cancel_everywhere

KIT: dict[str, type[Conformance]] = {}
"""The kit's class of each capability by its name."""
CLOSING_SECONDS = 30.0


class ManualClock:
    """A clock that stands still until a test moves it: adding to ``now`` lets time pass."""

    simulated = True

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now
        self._begin = now

    def __repr__(self) -> str:
        return f"<ManualClock {self.now:.3f}, {self.elapsed():g} s elapsed>"

    def wall(self) -> float:
        """Return the seconds since the Unix epoch."""
        return self.now

    def elapsed(self) -> float:
        """Return the seconds that a test let pass."""
        return self.now - self._begin

    def set_wall(self, now: float) -> None:
        """Set the wall clock, forward or back, while no time passes."""
        self._begin += now - self.now
        self.now = now


class OpenStore(Protocol):
    """Opens one more store on the data of the running test."""

    def __call__(
        self, key_prefix: str = "", clock: Clock = current_clock
    ) -> AbstractAsyncContextManager[Any]:
        """Return an async context manager of the open store."""
        ...


class OnOpenStore:
    """The fixtures of tests that use an open store, on a clock that stands still."""

    @pytest.fixture
    def open_store(self) -> OpenStore:
        """Return what opens a store on data of the test's own; override it."""
        pytest.fail("override the fixture open_store: it returns what opens a store", pytrace=False)

    @pytest.fixture
    def clock(self) -> ManualClock:
        """Return the clock of ``store``, which stands still."""
        return ManualClock()

    @pytest.fixture
    async def store(self, open_store: OpenStore, clock: ManualClock) -> AsyncIterator[Any]:
        """Return an open store on the test's clock."""
        async with open_store(clock=clock) as opened:
            yield opened


@pytest.mark.anyio
class Conformance(OnOpenStore):
    """The base of the kit's classes.

    A backend derives a test class from the kit's class of each capability that it has, names the
    same ones in ``capabilities``, and overrides the fixture ``open_store``. With ``"processes"``
    among them, which is for a store that several processes share, it also overrides ``url``.
    """

    capabilities: ClassVar[AbstractSet[str]]
    capability: ClassVar[str]
    """The capability of one of the kit's own classes."""
    works_after_close: ClassVar[bool] = False
    """Whether a store has nothing to close, so that it goes on working, in every event loop."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if _has_own(cls):
            KIT[cls.capability] = cls

    @staticmethod
    async def look(store: Any) -> object:
        """Read something of the capability that was never written."""
        raise NotImplementedError

    @staticmethod
    async def use(s: Scope) -> None:
        """Use the capability through a scope."""
        raise NotImplementedError

    @pytest.fixture
    def url(self) -> str | None:
        """Return the URL by which other processes open the data of ``open_store``."""
        return None

    @pytest.fixture
    def atomic(self) -> None:
        """Stand before every test of a race; override it where an engine is not always atomic."""

    @pytest.fixture
    def shared_url(self, url: str | None) -> str:
        """Return the URL of a store that several processes share."""
        if "processes" not in self.capabilities:
            pytest.skip("no other process can open this store: it does not declare 'processes'")
        assert url is not None, "a store that declares 'processes' must override the fixture url"
        return url

    def test_the_declared_capabilities_are_those_that_the_kit_tests(self) -> None:
        declared = self.capabilities - {"processes"}
        tested = {vars(part)["capability"] for part in type(self).__mro__ if _has_own(part)}
        assert declared == tested, (
            f"{type(self).__name__} declares {sorted(declared)} but derives from the kit's classes "
            f"of {sorted(tested)}"
        )

    async def test_a_store_has_the_methods_of_what_it_declares_and_of_nothing_else(
        self, store: Any
    ) -> None:
        for name in KIT:
            protocol = capabilities()[name]
            lacking = [method for method in _methods(protocol) if not hasattr(store, method)]
            if name in self.capabilities:
                assert not lacking, f"{store!r} declares {name!r} but lacks {lacking}"
            else:
                assert lacking, f"{store!r} has all methods of {name!r} but does not declare it"

    async def test_a_scope_refuses_what_the_store_lacks(self, store: Any) -> None:
        async with scope(persistence=store) as s:
            for name, part in KIT.items():
                if name in self.capabilities:
                    await part.use(s)
                    continue
                with pytest.raises(CapabilityNotSupportedError, match=name):
                    await part.use(s)

    async def test_a_store_says_that_it_answers(self, store: Any) -> None:
        assert await store.ping() is None

    async def test_a_store_is_found_by_what_it_can_do(self, store: Any) -> None:
        @runtime_checkable
        class Unknown(Protocol):
            def never_heard_of(self) -> None: ...

        for name in self.capabilities & capabilities().keys():
            assert store.capability(capabilities()[name]) is store
        for bundle in (store, Persistence.of(store)):
            with pytest.raises(CapabilityNotSupportedError, match="does not support Unknown"):
                bundle.capability(Unknown)

    @pytest.mark.parametrize("prefix", ["app", "a:b", " "])
    async def test_a_prefix_must_end_with_a_separator(
        self, open_store: OpenStore, prefix: str
    ) -> None:
        with pytest.raises(ValueError, match=r"key_prefix must end with one of : / \. \| #"):
            async with open_store(prefix):
                pytest.fail(f"a store opened with the key prefix {prefix!r}")

    @pytest.mark.parametrize("separator", list(":/.|#"))
    async def test_a_prefix_may_end_with_any_separator(
        self, open_store: OpenStore, separator: str
    ) -> None:
        async with open_store(f"app{separator}") as store:
            assert await self._read(store) is None

    async def test_opening_may_be_cancelled_at_any_await(self, open_store: OpenStore) -> None:
        async def open_and_use() -> object:
            async with open_store() as store:
                return await self._read(store)

        async def attempt_at(n: int) -> CancelledAt:
            attempt = CancelledAt(open_and_use(), n)
            await attempt.run()
            async with open_store() as store:
                assert await self._read(store) is None
            return attempt

        await cancel_everywhere(attempt_at)

    async def test_a_store_may_be_closed_by_another_task_than_opened_it(
        self, open_store: OpenStore, url: str | None
    ) -> None:
        for opener in [open_store(), *([] if url is None else [open_persistence(url)])]:

            async def close(opener: AbstractAsyncContextManager[Any] = opener) -> None:
                await opener.__aexit__(None, None, None)

            for step in (opener.__aenter__, close):
                async with anyio.create_task_group() as group:
                    group.start_soon(step)

    async def test_a_closed_store_says_so_and_never_hangs(self, open_store: OpenStore) -> None:
        async with open_store() as store:
            await self._read(store)
        with anyio.fail_after(CLOSING_SECONDS):
            for name in sorted(self.capabilities - {"processes"}):
                if self.works_after_close:
                    await KIT[name].look(store)
                    continue
                with pytest.raises(PersistenceError):
                    await KIT[name].look(store)
            if not self.works_after_close:
                with pytest.raises(PersistenceError):
                    await store.ping()

    async def test_a_closed_store_can_be_opened_again(self, open_store: OpenStore) -> None:
        async with open_store() as store:
            if self.works_after_close:
                return
            await store.aclose()
            await store.aclose()
            with pytest.raises(PersistenceError):
                await self._read(store)
            for _ in range(2):
                async with store:
                    assert await self._read(store) is None

    async def test_another_event_loop_is_told_to_which_one_a_store_belongs(
        self, open_store: OpenStore
    ) -> None:
        async with open_store() as store:
            await self._read(store)

            async def read() -> None:
                if self.works_after_close:
                    await self._read(store)
                    return
                with pytest.raises(PersistenceError, match="event loop"):
                    await self._read(store)

            with anyio.fail_after(CLOSING_SECONDS):
                await anyio.to_thread.run_sync(anyio.run, read)
            assert await self._read(store) is None

    async def test_closing_one_store_leaves_another_on_the_same_data_open(
        self, open_store: OpenStore
    ) -> None:
        async with open_store() as first:
            async with open_store() as second:
                await self._read(second)
            assert await self._read(first) is None

    @pytest.fixture
    async def beside(
        self, open_store: OpenStore, clock: ManualClock
    ) -> AsyncIterator[tuple[Any, list[tuple[Any, str]]]]:
        """Return a store whose key ``k`` is to be changed, and stores with keys that are not.

        Those keys are what a store touches that forgets its prefix, or where a key ends.
        """
        async with (
            open_store("", clock) as above,
            open_store("a:", clock) as store,
            open_store("b:", clock) as other,
            open_store("a:k:", clock) as below,
        ):
            near = [(store, key) for key in ("kk", "k:x", "k#k", "K")]
            yield store, [(above, "k"), (other, "k"), (below, "k"), *near]

    async def _read(self, store: Any) -> object:
        return await KIT[min(self.capabilities - {"processes"})].look(store)


def _has_own(part: type) -> bool:
    return "capability" in vars(part)


def _methods(protocol: type) -> list[str]:
    return [name for name, value in vars(protocol).items() if name[0] != "_" and callable(value)]
