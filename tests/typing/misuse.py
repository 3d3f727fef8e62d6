"""Wrong uses of the public API: checkers must find an error in each line marked so. Never run."""

from __future__ import annotations

from gogoscope import CircuitBreaker, Retry, open_persistence, scope


async def load(number: int) -> float:
    return number / 2


def plain() -> int:
    return 1


async def misuse() -> None:
    async with scope() as s:
        s.task(load, "1")  # error
        s.task(load)  # error
        s.task(load, 1, 2)  # error
        s.task(load(1))  # error
        s.task(plain)  # error
        s.task(load, 1, retries=3)  # error
        s.thread(plain, 1)  # error
        err, value = await s.task(load, 1)
        if err is None:
            value.no_such_attribute()  # error
        result = await s.task(load, 1)
        result.value.is_integer().no_such_attribute()  # error
        if result.error is None:
            result.value.append(1)  # error
        result.unwrap_or(None).is_integer()  # error
        await s.map(load, ["1"])  # error
        s.all(load)  # error
        await s.race([plain])  # error
        await s.acquire_lock(3, 5)  # error
        async with s.lock("key") as locked:
            locked.fencing_token.append(1)  # error
        await s.cache.get_or_set("key", load, 60, "1")  # error
        await s.cache.get_or_set("key", plain, 60, 1)  # error
        (await s.cache.get_or_set("key", load, 60, 1)).append(1)  # error
        s.cached("60")  # error
        s.cached(60)(plain)  # error
    async with open_persistence("memory:") as store:
        await store.acquire("key", "5")  # error
        store.no_such_capability("key")  # error
    scope(timeout="5")  # error
    scope(on_exit="stop")  # error
    scope(circuit_breaker=True)  # error
    Retry(attempts="3")  # error
    Retry(max_elapsed="3")  # error
    Retry(delay="3")  # error
    CircuitBreaker(failure_threshold="5")  # error
    CircuitBreaker(treshold=5)  # error
    CircuitBreaker(reset_timeout="5")  # error
    CircuitBreaker(window="5")  # error
