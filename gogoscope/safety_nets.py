"""What a scope has of its store: locks, circuits and the cache, and their end with the scope."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TYPE_CHECKING

import anyio

from gogoscope.circuit_policy import CircuitPolicy
from gogoscope.durations import seconds
from gogoscope.lock_release import release
from gogoscope.persistence.bundle import Persistence, unsupported
from gogoscope.persistence.lock_handle import CLEAN_UP_SECONDS, LockHandle
from gogoscope.task import lent_to

if TYPE_CHECKING:
    from anyio import TaskHandle
    from anyio.abc import TaskGroup

    from gogoscope.cache import Cache
    from gogoscope.circuit import Circuit
    from gogoscope.lifetime import Lifetime
    from gogoscope.persistence.protocols import LockProvider, LockRecord
    from gogoscope.persistence.shared import SharedStore

SETTLE_SECONDS = 1.0
RECOVERY_SECONDS = 0.05


class SafetyNets:
    """The store of one scope, and everything that the scope must settle with it at its end.

    :param scope: names itself and sends events
    :param persistence: a URL, a store, a bundle of stores, or ``None`` for the process-wide one
    """

    def __init__(self, scope: Lifetime, persistence: object) -> None:
        self._scope = scope
        self._persistence = persistence
        self._shared: SharedStore | None = None
        self._bundle: Persistence | None = None
        self._group: TaskGroup | None = None
        self._services: dict[TaskHandle[None], bool] = {}
        self._circuits: dict[tuple[CircuitPolicy, str], Circuit] = {}
        self._handles: set[LockHandle] = set()
        self._cache: Cache | None = None
        if not isinstance(persistence, str | None):
            self._bundle = Persistence.of(persistence)

    @property
    def store(self) -> object:
        """The open store, for a scope inside this one."""
        return self._persistence if self._bundle is None else self._bundle

    @property
    def cache(self) -> Cache:
        """The cache on the store."""
        if self._cache is None:
            from gogoscope.cache import Cache  # noqa: PLC0415 - loaded when first used

            stores = self._stores()
            if stores.cache is None:
                raise unsupported("cache", self._persistence)
            cache = stores.cache if isinstance(stores.cache, Cache) else Cache(stores)
            self._cache = cache.hosted_by(self._scope, self.spawn)
        return self._cache

    @property
    def locks(self) -> LockProvider:
        """The store's locks."""
        provider = self._stores().locks
        if provider is None:
            raise unsupported("locks", self._persistence)
        return provider

    async def open(self) -> None:
        """Open the store, if it was given as a URL."""
        if isinstance(self._persistence, str):
            from gogoscope.persistence.shared import SharedStore  # noqa: PLC0415 - rarely needed

            shared = SharedStore(self._persistence)
            store = await shared.__aenter__()
            self._shared = shared
            try:
                self._bundle = Persistence.of(store)
            except TypeError:
                await self.close()
                raise

    def start(self, group: TaskGroup) -> None:
        """Name the task group that carries the work in the background."""
        self._group = group

    def circuit(self, policy: CircuitPolicy, name: str | None = None) -> Circuit:
        """Give the circuit of a policy in the scope's store.

        :param name: the circuit of a policy that has no name; the scope's name if left out
        :raises CapabilityNotSupportedError: if the store keeps no circuit breakers
        """
        name = policy.name or name or self._scope.name
        circuit = self._circuits.get((policy, name))
        if circuit is None:
            provider = self._stores().circuit_breakers
            if provider is None:
                raise unsupported("circuit_breakers", self._persistence)
            from gogoscope.circuit import Circuit  # noqa: PLC0415 - rarely needed
            from gogoscope.circuit_link import CircuitLink  # noqa: PLC0415 - likewise
            from gogoscope.circuit_snapshot import snapshot_of  # noqa: PLC0415 - likewise

            snapshot = snapshot_of(provider, name)
            link = CircuitLink(policy, name, provider, snapshot, self.spawn, self._scope)
            circuit = self._circuits[policy, name] = Circuit(link)
        return circuit

    async def acquire_lock(
        self, key: str, ttl: float | timedelta, wait: float | timedelta | None
    ) -> LockHandle | None:
        """Take a lock that is released with the scope at the latest.

        :param wait: seconds to wait for it. For the answer to one request the wait may last a
            second; with 0 as long as the store allows it.
        :raises LockError: if it would wait for a block of the same task to end
        """
        wait = None if wait is None else seconds("wait", wait, zero=True, infinite=True)
        if wait != 0:
            from gogoscope.locks import refuse_reentry  # noqa: PLC0415 - loaded when first used

            refuse_reentry(self.locks, key)
        answer = await self.claim(key, ttl, wait, {})
        if not isinstance(answer, LockHandle):
            return None
        self._handles.add(answer)
        return answer

    async def claim(
        self,
        key: str,
        ttl: float | timedelta,
        wait: float | timedelta | None,
        metadata: dict[str, str],
    ) -> LockHandle | LockRecord | None:
        """Take a lock for this scope; give its handle, or else who has it."""
        from gogoscope import locks  # noqa: PLC0415 - loaded when first used

        metadata = {"scope": self._scope.name, **metadata}
        began = time.monotonic()
        answer: LockHandle | LockRecord | None = None
        try:
            async with lent_to(None if wait == 0 else self._scope.slots):
                answer = await locks.acquire(self.locks, key, ttl, wait, metadata, self.spawn)
        except BaseException:
            if isinstance(answer, LockHandle):  # cancelled while it waited for its slot
                await release(answer)
            raise
        if isinstance(answer, LockHandle):
            answer.on_release = self._released
            if self._scope.observed:
                from gogoscope.events import LockAcquired  # noqa: PLC0415 - only if observed

                seconds = time.monotonic() - began
                self._scope.emit(LockAcquired(self._scope.name, key, answer.fencing_token, seconds))
        return answer

    def _released(self, handle: LockHandle, freed: bool) -> None:
        self._handles.discard(handle)
        if self._scope.observed:
            from gogoscope.events import LockReleased  # noqa: PLC0415 - only if observed

            self._scope.emit(LockReleased(self._scope.name, handle.key, freed))

    async def settle(self) -> None:
        """Let the store know everything, bounded, and free the locks; the tasks have ended."""
        try:
            await self._settle_circuits()
        finally:
            for service in self._services:
                service.cancel()
            self._group = None
            await self._release_all()

    async def _settle_circuits(self) -> None:
        if self._circuits or any(self._services.values()):
            healthy = [circuit for circuit in self._circuits.values() if not circuit.store_failed]
            # A store that fails is given a moment only, to tell whether it is back.
            patience = RECOVERY_SECONDS if self._circuits and not healthy else SETTLE_SECONDS
            with anyio.move_on_after(patience, shield=True):
                for service in [service for service, brief in self._services.items() if brief]:
                    await service.wait()
            async with anyio.create_task_group() as group:
                for circuit in healthy:
                    group.start_soon(circuit.finish, SETTLE_SECONDS)

    async def _release_all(self) -> None:
        """Free the locks, all at once, so that they share one bound."""
        for handle in [handle for handle in self._handles if handle.lost is not None]:
            handle.abandon()
        if self._handles:
            async with anyio.create_task_group() as group:
                for handle in self._handles:
                    group.start_soon(release, handle)

    async def close(self) -> None:
        """Close the store, if this scope opened it."""
        if self._shared is not None:
            with anyio.move_on_after(CLEAN_UP_SECONDS, shield=True):
                await self._shared.__aexit__(None, None, None)

    def _stores(self) -> Persistence:
        if self._bundle is None:
            from gogoscope.persistence.memory import process_store  # noqa: PLC0415 - rarely needed

            self._bundle = Persistence.of(process_store())
        return self._bundle

    def spawn(self, work: Callable[[], Awaitable[object]], *, brief: bool = True) -> bool:
        """Run something in the background, beside the scope's tasks.

        :param brief: whether the end of the scope gives it a moment to finish by itself
        :returns: ``False`` if the scope has ended, and nothing is run
        """
        if self._group is None:
            return False
        handle: TaskHandle[None] = self._group.create_task(
            self._serve(work), name="gogoscope background"
        )
        self._services[handle] = brief
        return True

    async def _serve(self, work: Callable[[], Awaitable[object]]) -> None:
        await work()
        self._services = {
            service: brief
            for service, brief in self._services.items()
            if service.status.name == "PENDING"
        }
