"""The shop: two workers of uvicorn on each store, by its URL alone, and what must never be."""

from __future__ import annotations

import importlib
import random
import socket
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen

from tests.integration.asgi.conftest import Stoppable
from tests.support.shared_stores import SHARED_STORES, shared_store_url
from tests.support.uvicorn_server import PATIENCE, WORKERS, UvicornServer, running_uvicorn

pytest.importorskip("uvicorn")
pytest.importorskip("fastapi")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM"),
]

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
CLIENTS = 8
SKUS = ("teapot", "kettle", "cup")
CARRIER_RATE, CARRIER_BURST = 20, 5
CALM = (200, 409)
"""An order is answered with an item, or with the news that all are sold."""


@frozen
class Shop:
    """The running shop, and the world around it."""

    server: UvicornServer
    world: Any

    def buy(self, sku: str, key: str) -> tuple[int, Any]:
        return self.server.ask(f"/orders/{sku}", method="POST", idempotency_key=key)

    def insist(self, sku: str, key: str) -> dict[str, Any]:
        """Repeat an order until it is answered with an item."""

        def bought() -> Any:
            status, said = self.buy(sku, key)
            return said if status == 200 else None

        item: dict[str, Any] = until(bought)
        return item

    def leave(self, method: str, path: str, *headers: str, after: Callable[[], Any]) -> None:
        """Send a request, and disconnect without an answer after something has happened."""
        lines = [f"{method} {path} HTTP/1.1", "Host: shop", *headers, "Content-Length: 0", "", ""]
        with socket.create_connection(("127.0.0.1", self.server.port)) as client:
            client.sendall("\r\n".join(lines).encode())
            after()

    def count(self, table: str, where: str = "1") -> int:
        ((number,),) = self.world.ask(f"SELECT count(*) FROM {table} WHERE {where}")
        return int(number)

    def wait_for(self, table: str, where: str) -> None:
        until(lambda: self.count(table, where))

    def wait_for_cups(self, number: int) -> None:
        of_cups = "sku = 'cup'"
        until(lambda: self.count("items", of_cups) - self.count("sales", of_cups) >= number)

    def set_bank(self, *, is_down: bool, seconds: float = 0.02) -> None:
        self.world.ask("UPDATE weather SET bank_is_down = ?, bank_seconds = ?", is_down, seconds)

    def end(self, *, told: str = "") -> None:
        """End it by SIGTERM, and read the books.

        :param told: what the workers may have logged with a traceback
        """
        printed, _ = self.server.end()
        assert printed.count("Application shutdown complete") == WORKERS, printed
        assert bool(told) or "Traceback" not in printed, printed
        assert "ERROR" not in printed, printed
        assert self.world.wrong() == []


def until(found: Callable[[], Any]) -> Any:
    """Ask again and again, until what is asked for is there; return it."""
    give_up = time.monotonic() + PATIENCE
    while not (value := found()):
        assert time.monotonic() < give_up
        time.sleep(0.02)
    return value


@pytest.fixture
def open_shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what runs the shop on a store."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    parts = importlib.import_module("shop_parts.world")

    @contextmanager
    def running(store: str) -> Iterator[Shop]:
        file = tmp_path / "world.db"
        environ = {"SHOP_STORE": store, "SHOP_WORLD": str(file)}
        world = parts.World(file)
        with running_uvicorn("shop:app", "--app-dir", str(EXAMPLES), environ=environ) as server:
            shop = Shop(server, world)
            until(lambda: shop.count("items") == 20 * len(SKUS))
            yield shop

    return running


@pytest.fixture(params=SHARED_STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a store that processes share."""
    return shared_store_url(request, tmp_path)


def test_nothing_happens_twice_whoever_asks_and_whatever_fails(open_shop: Any, store: str) -> None:
    with open_shop(store) as shop:
        load_it(shop)
        take_its_bank_away(shop)
        disconnect(shop)
        end_it_while_it_works(shop)


def load_it(shop: Shop) -> None:
    """Nothing is sold, charged or written twice, and the carrier is asked in measure."""
    keys = [f"customer-{number}" for number in range(40)]
    orders = [(random.choice(SKUS), key) for key in keys]
    with ThreadPoolExecutor(CLIENTS) as clients:
        pages = [clients.submit(shop.server.ask, f"/products/{sku}") for sku in SKUS * 8]
        # Everybody asks three times, at the same time and later.
        bought = [clients.submit(shop.buy, *order) for order in orders for _ in range(2)]
        bought += [clients.submit(shop.buy, *order) for order in random.sample(orders, len(orders))]
        quoted = [clients.submit(shop.server.ask, "/shipping/de") for _ in range(60)]
    assert {page.result()[0] for page in pages} == {200}
    answers = [order.result() for order in bought]
    assert {status for status, _ in answers} <= {*CALM}, answers
    assert {quote.result()[0] for quote in quoted} == {200}
    sold = {(said["sku"], said["number"]) for status, said in answers if status == 200}
    assert len(sold) == shop.count("sales") == shop.count("charges") > 0
    assert shop.count("loads") == len(SKUS)
    ((calls, took),) = shop.world.ask("SELECT count(*), max(at) - min(at) FROM calls")
    assert calls == 60
    assert took >= (calls - CARRIER_BURST) / CARRIER_RATE / 2
    sku, key = orders[0]
    assert shop.buy(next(other for other in SKUS if other != sku), key)[0] == 422


def take_its_bank_away(shop: Shop) -> None:
    """The circuit opens in both workers; when the bank works again, every order is paid."""
    charged = shop.count("charges")
    shop.set_bank(is_down=True)
    shop.wait_for_cups(5)
    refused: set[int] = set()
    with ThreadPoolExecutor(5) as clients:

        def both_refuse() -> bool:
            for status, said in clients.map(shop.buy, ["cup"] * 5, map("poor-{}".format, range(5))):
                assert status == 503, said
                if said["error"] == "CircuitOpenError":
                    refused.add(said["worker"])
            return len(refused) == WORKERS

        until(both_refuse)
    assert shop.count("charges") == charged
    shop.set_bank(is_down=False)
    for number in range(5):
        shop.insist("cup", f"poor-{number}")


def disconnect(shop: Shop) -> None:
    """Nobody works on for a client that has gone; who comes back gets one item, and pays once."""
    shop.leave("GET", "/report", after=partial(shop.wait_for, "notes", "text = 'report begun'"))
    shop.wait_for("notes", "text = 'report cancelled'")
    shop.set_bank(is_down=False, seconds=0.2)
    for number in range(4):
        key = f"hasty-{number}"
        taken = partial(shop.wait_for, "sales", f"customer_key = '{key}'")
        shop.leave("POST", "/orders/cup", f"Idempotency-Key: {key}", after=taken)
        shop.insist("cup", key)
        assert shop.count("charges", f"customer_key = '{key}'") == 1


def end_it_while_it_works(shop: Shop) -> None:
    """SIGTERM lets the requests in flight end."""
    shop.set_bank(is_down=False, seconds=1.5)
    shop.wait_for_cups(6)
    sold = shop.count("sales")
    with ThreadPoolExecutor(6) as clients:
        bought = [clients.submit(shop.buy, "cup", f"late-{number}") for number in range(6)]
        until(lambda: shop.count("sales") == sold + 6)
        shop.end()
    assert [order.result()[0] for order in bought] == [200] * 6
    assert shop.count("sales") == shop.count("charges") == sold + 6


def test_a_store_that_stops_and_goes_on(open_shop: Any, stoppable: Stoppable) -> None:
    with open_shop(stoppable.url) as shop, ThreadPoolExecutor(12) as clients:
        assert shop.server.ask("/products/cup")[0] == 200
        assert shop.buy("cup", "early")[0] == 200
        orders = [("cup", f"patient-{number}") for number in range(12)]
        with stoppable.halted():
            began = time.monotonic()
            answers = [clients.submit(shop.buy, *order) for order in orders]
            page = clients.submit(shop.server.ask, "/products/cup")
            # What is left of the time, a loaded machine may take.
            seen = [answer.result() for answer in answers]
            assert page.result()[0] == 200
            assert time.monotonic() - began < PATIENCE
        assert {status for status, _ in seen} == {503}, seen
        assert {said["error"] for _, said in seen} <= {
            "StoreTimeoutError",
            "StoreConnectionError",
            "ThrottledError",
        }, seen
        bought = [clients.submit(shop.insist, *order) for order in orders]
        assert len({order.result()["number"] for order in bought}) == len(orders)
        assert shop.count("charges") == shop.count("sales") == len(orders) + 1
        shop.end(told="what failed in the background while the store was away")
