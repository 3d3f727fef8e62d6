"""A circuit breaker without a scope: as a decorator, by rate, by result, and set by hand.

    python examples/breaker.py

In a scope with a shared store, the whole fleet shares the same breaker; see fleet.py.
"""

from __future__ import annotations

import anyio
from attrs import frozen

from gogoscope import CircuitBreaker, CircuitOpenError, Retry, open_persistence
from gogoscope.events import CircuitStateChanged, Event, subscribe

stock = CircuitBreaker("stock", failure_threshold=3, reset_timeout=0.2)
search = CircuitBreaker("search", slow_call=0.02, slow_rate=0.5, minimum_calls=4)


@frozen
class Response:
    """The answer of a service. An overloaded service answers 503; nothing raises."""

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
    """Ask a service that always answers."""
    return Response(status)


def _show(event: Event) -> None:
    if isinstance(event, CircuitStateChanged):
        print(f"  {event.circuit}: {event.old} -> {event.new}")


async def decorated() -> None:
    """Three failures in a row open the circuit; later, a successful probe closes it."""
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
    """The circuit opens because half of the calls are slow, although none of them failed."""
    for seconds in (0, 0.03, 0, 0.03):
        await search.call(find, seconds)
    print("search:", (await search.state()).state)


async def by_result() -> None:
    """A result can count as a failure; the caller still gets it."""
    retry = Retry(3, delay=0)
    for status in (200, 503, 503):
        print("price:", (await retry.call(prices.call, price, status)).status)
    print("prices:", (await prices.state()).state)


async def by_hand() -> None:
    """Open and close circuits by hand, and look at all of them."""
    await stock.force_open()
    try:
        await in_stock("book")
    except CircuitOpenError:
        print("forced open: rejected")
    await stock.force_close()
    await prices.reset()
    async with open_persistence("memory:") as store:  # what breakers outside a scope use
        circuits = await store.circuits()
    for name, state in sorted(circuits.items()):
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
