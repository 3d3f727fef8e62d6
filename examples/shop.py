"""A shop with two workers, whose order is kept by a store that any URL names.

    python examples/shop.py --store redis://127.0.0.1/0
    curl http://127.0.0.1:8000/products/teapot
    curl -X POST -H 'Idempotency-Key: ada-1' http://127.0.0.1:8000/orders/teapot

The world around it (``shop_parts/world.py``) keeps nothing apart: its warehouse sells an item twice
if two workers ask at once, and its bank charges whoever asks. When the shop ends, by Ctrl-C, it
reads in the world's books whether anything went wrong. It needs ``fastapi`` and ``uvicorn``.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import anyio
import uvicorn
from fastapi import FastAPI, Header, HTTPException, Request
from fastapi.responses import JSONResponse
from shop_parts.world import BankDownError, World

from gogoscope import (
    CircuitBreaker,
    CircuitOpenError,
    GogoscopeError,
    Once,
    PayloadMismatchError,
    RateLimit,
    RateLimitExceededError,
    Retry,
    Scope,
    current_scope,
    exponential,
)
from gogoscope.integrations.asgi import ScopeMiddleware, current_service, deadline_headers

PRICES = {"teapot": 2900, "kettle": 3900, "cup": 700}
IN_STOCK = 20
A_DAY = 86_400
LEASE = 10
"""Seconds for which a worker that died keeps the others waiting, or a store that was away."""

world = World(Path(os.environ.get("SHOP_WORLD", "shop-world.db")))
bank = CircuitBreaker("bank", failure_threshold=5, reset_timeout=1, record=BankDownError)
carrier = RateLimit("carrier", rate=20, burst=5, wait=10)


def here() -> Scope:
    """Return the scope of the request, or of what else the service does."""
    s = current_scope()
    assert s is not None
    return s


# What the service does by itself: one of its workers fills the warehouse, every second.


async def lead(service: Scope) -> None:
    while not service.stopping.is_set():
        async with service.leader("restocking") as term:
            term.every(1, partial(restock, term.fencing_token), on_error=complain)


async def restock(token: int) -> None:
    for sku in PRICES:
        async with here().lock(f"stock:{sku}", LEASE):
            await world.query("INSERT INTO rounds VALUES (?, ?)", token, os.getpid())
            await world.restock(sku, IN_STOCK)


def complain(error: Exception) -> None:
    print("not restocked:", error, file=sys.stderr, flush=True)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    service = here()
    service.task(lead, service)
    yield


# What it answers.

api = FastAPI(title="shop", lifespan=lifespan)


@api.get("/products/{sku}")
async def product(sku: str) -> dict[str, Any]:
    """Return a page, which one worker writes when it is missing, while the others wait."""
    if sku not in PRICES:
        raise HTTPException(404, f"there is no {sku}")
    return await here().cache.get_or_set(f"page:{sku}", world.page, A_DAY, sku)


@api.post("/orders/{sku}")
async def order(sku: str, idempotency_key: Annotated[str, Header()]) -> dict[str, Any]:
    """Sell an item, once for each key, however often the customer asks."""
    if sku not in PRICES:
        raise HTTPException(404, f"there is no {sku}")
    once = Once(f"order:{idempotency_key}", keep=A_DAY, lease=LEASE, payload=sku)
    return await here().call(sell, sku, idempotency_key, once=once)


async def sell(sku: str, key: str) -> dict[str, Any]:
    async with here().lock(f"stock:{sku}", LEASE, wait=10):
        number = await world.take(sku, key)
    if number is None:
        raise HTTPException(409, f"every {sku} is sold")
    cents = await world.find_charge(key)  # a worker that died may have charged
    if cents is None:
        retry = Retry(3, delay=exponential(0.05), retry_on=BankDownError)
        cents = await here().call(world.charge, key, PRICES[sku], retry=retry, circuit_breaker=bank)
    return {"sku": sku, "number": number, "cents": cents}


@api.get("/shipping/{country}")
async def shipping(country: str) -> dict[str, Any]:
    """Ask the carrier, which allows twenty questions a second."""
    async with carrier.acquire():
        return await world.quote(country)


@api.get("/report")
async def report() -> dict[str, Any]:
    """Count the sales, slowly; nobody counts when the customer has gone, or is out of time."""
    await world.query("INSERT INTO notes VALUES ('report begun')")
    try:
        await anyio.sleep(60)
        return {"sold": len(await world.query("SELECT * FROM sales"))}
    except anyio.get_cancelled_exc_class():
        world.ask("INSERT INTO notes VALUES ('report cancelled')")
        raise


@api.get("/status")
async def status() -> dict[str, Any]:
    """Tell what this worker knows and does."""
    state = await bank.state()
    service = current_service().tree().splitlines()
    return {"worker": os.getpid(), "bank": state.state, "service": service, **deadline_headers()}


# What it says when it cannot.


@api.exception_handler(GogoscopeError)
@api.exception_handler(BankDownError)
async def refuse(request: Request, error: Exception) -> JSONResponse:
    code, after = 503, 1.0
    match error:
        case RateLimitExceededError():
            code, after = 429, error.retry_after
        case CircuitOpenError():
            after = error.retry_after
        case PayloadMismatchError():
            code = 422
    says = {"error": type(error).__name__, "detail": str(error), "worker": os.getpid()}
    return JSONResponse(says, code, {"Retry-After": f"{after:.0f}"})


app = ScopeMiddleware(
    api,
    os.environ.get("SHOP_STORE", "sqlite:///shop-store.db"),
    name="shop",
    cancel_on_disconnect=True,
)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--store", metavar="URL", help="default: sqlite:///shop-store.db")
    parser.add_argument("--port", type=int, default=8000)
    given = parser.parse_args()
    if given.store:
        os.environ["SHOP_STORE"] = given.store
    uvicorn.run("shop:app", port=given.port, workers=2)
    print(*(world.wrong() or ["nothing was sold or charged twice"]), sep="\n")
    return 1 if world.wrong() else 0


if __name__ == "__main__":
    sys.exit(main())
