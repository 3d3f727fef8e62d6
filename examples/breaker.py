"""A circuit breaker without a scope: as a decorator, by rates, by results, and set by hand.

    python examples/breaker.py

In a scope with a shared store the same breaker is the whole fleet's; see fleet.py.
"""

from __future__ import annotations

import anyio
from attrs import frozen

from gogoscope import CircuitBreaker, CircuitOpenError, Retry
from gogoscope.events import CircuitStateChanged, Event, subscribe
from gogoscope.stores.memory import process_store

stock = CircuitBreaker("stock", failure_threshold=3, reset_timeout=0.2)
search = CircuitBreaker("search", slow_call=0.02, slow_rate=0.5, minimum_calls=4)


@frozen
class Response:
    """What a service answers; one that is overloaded answers 503 rather than fail."""

    status: int
    body: str = ""


def _overloaded(response: Response) -> bool:
    return response.status == 503


prices = CircuitBreaker("prices", failure_threshold=2, record_result=_overloaded)


@stock
async def in_stock(item: str, *, broken: bool = False) -> int:
    """Ask a service that may be broken."""
    if broken:
        raise ConnectionError("no answer")
    return len(item)


async def find(seconds: float) -> str:
    """Ask a service that may be slow."""
    await anyio.sleep(seconds)
    return "found"


async def price(status: int) -> Response:
    """Ask a service that answers in any case."""
    return Response(status)


def _show(event: Event) -> None:
    if isinstance(event, CircuitStateChanged):
        print(f"  {event.circuit}: {event.old} -> {event.new}")


async def decorated() -> None:
    """Failures in a row open it; then a probe closes it."""
    print("in stock:", await in_stock("book"))
    for _ in range(3):
        try:
            await in_stock("book", broken=True)
        except ConnectionError as error:
            print("failed:", error)
    try:
        await in_stock("book")
    except CircuitOpenError as error:
        print("rejected uncalled:", error.name)
        await anyio.sleep(error.retry_after)
    print("in stock:", await in_stock("book"))


async def by_rate() -> None:
    """Half of the calls slow, and it opens, though each gave its value."""
    for seconds in (0, 0.03, 0, 0.03):
        await search.call(find, seconds)
    print("search:", (await search.state()).state)


async def by_result() -> None:
    """A value may be a failure; the caller gets it all the same."""
    retry = Retry(3, delay=0)
    for status in (200, 503, 503):
        print("price:", (await retry.call(prices.call, price, status)).status)
    print("prices:", (await prices.state()).state)


async def by_hand() -> None:
    """Somebody at the console opens, closes and looks."""
    await stock.force_open()
    try:
        await in_stock("book")
    except CircuitOpenError:
        print("forced open: rejected")
    await stock.force_close()
    await prices.reset()
    for name, state in sorted((await process_store().circuits()).items()):
        since = "never changed" if state.since_ms is None else "changed"
        print(f"{name:8} {state.state:12} failures {state.failure_count}, {since}")


async def main() -> None:
    unsubscribe = subscribe(_show)
    await decorated()
    await by_rate()
    await by_result()
    await by_hand()
    unsubscribe()


if __name__ == "__main__":
    anyio.run(main)
