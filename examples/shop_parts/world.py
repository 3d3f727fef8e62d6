"""The world around the shop, in a file: a warehouse, a bank, a catalogue and a carrier.

Nothing in it keeps two callers apart. The warehouse looks for an item, and notes only later that it
is sold; the bank charges whoever asks, as often as asked. So what goes wrong stands in the file,
where :meth:`World.wrong` finds it.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
from anyio import to_thread

TABLES = """
PRAGMA journal_mode = WAL;
CREATE TABLE IF NOT EXISTS items (sku, number);
CREATE TABLE IF NOT EXISTS sales (sku, number, customer_key);
CREATE TABLE IF NOT EXISTS charges (customer_key, cents);
CREATE TABLE IF NOT EXISTS loads (sku);
CREATE TABLE IF NOT EXISTS calls (at);
CREATE TABLE IF NOT EXISTS rounds (token, worker);
CREATE TABLE IF NOT EXISTS notes (text);
CREATE TABLE IF NOT EXISTS weather (bank_is_down, bank_seconds);
INSERT INTO weather SELECT 0, 0.02 WHERE NOT EXISTS (SELECT * FROM weather);
"""

RULES = {
    "an item is in stock twice": "SELECT sku, number FROM items GROUP BY 1, 2 HAVING count(*) > 1",
    "an item is sold twice": "SELECT sku, number FROM sales GROUP BY 1, 2 HAVING count(*) > 1",
    "a customer has two items": "SELECT customer_key FROM sales GROUP BY 1 HAVING count(*) > 1",
    "a customer is charged twice": """
        SELECT customer_key FROM charges GROUP BY 1 HAVING count(*) > 1""",
    "a customer is charged for nothing": """
        SELECT customer_key FROM charges
        WHERE customer_key NOT IN (SELECT customer_key FROM sales)""",
    "a worker restocks that leads no more": """
        SELECT old.token, old.worker FROM rounds old JOIN rounds new
        ON old.rowid > new.rowid AND old.token < new.token""",
}
"""What must never be, and the question whose answer shows that it was."""


class BankDownError(Exception):
    """The bank does not work; nothing was charged."""


class World:
    """Everything outside of the shop.

    :param file: where it is kept; several processes may share it
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        with closing(sqlite3.connect(file, timeout=30)) as connection:
            connection.executescript(TABLES)

    def ask(self, statement: str, *values: Any) -> list[Any]:
        """Run a statement by itself; return its rows."""
        with closing(sqlite3.connect(self.file, timeout=30, isolation_level=None)) as connection:
            return connection.execute(statement, values).fetchall()

    async def query(self, statement: str, *values: Any) -> list[Any]:
        """Run a statement in a worker thread; return its rows."""
        return await to_thread.run_sync(self.ask, statement, *values)

    async def take(self, sku: str, key: str) -> int | None:
        """Take an item out of the warehouse for a customer; return which, or ``None``."""
        has = await self.query("SELECT number FROM sales WHERE customer_key = ?", key)
        if has:
            return int(has[0][0])
        ((number,),) = await self.query(
            "SELECT min(number) FROM items WHERE sku = ? AND number NOT IN "
            "(SELECT number FROM sales WHERE sales.sku = items.sku)",
            sku,
        )
        await anyio.sleep(0.01)  # somebody walks to the shelf
        if number is not None:
            await self.query("INSERT INTO sales VALUES (?, ?, ?)", sku, number, key)
        return None if number is None else int(number)

    async def restock(self, sku: str, up_to: int) -> None:
        """Make new items, so that so many are in the warehouse; each has the next number."""
        ((items, sold),) = await self.query(
            "SELECT (SELECT count(*) FROM items WHERE sku = ?1), "
            "(SELECT count(*) FROM sales WHERE sku = ?1)",
            sku,
        )
        await anyio.sleep(0.01)
        for number in range(items, sold + up_to):
            await self.query("INSERT INTO items VALUES (?, ?)", sku, number)

    async def find_charge(self, key: str) -> int | None:
        """Return what a customer was charged."""
        found = await self.query("SELECT cents FROM charges WHERE customer_key = ?", key)
        return int(found[0][0]) if found else None

    async def charge(self, key: str, cents: int) -> int:
        """Charge a customer.

        :raises BankDownError: if the bank does not work
        """
        ((is_down, seconds),) = await self.query("SELECT * FROM weather")
        if is_down:
            raise BankDownError("the bank is down")
        await anyio.sleep(seconds)
        await self.query("INSERT INTO charges VALUES (?, ?)", key, cents)
        return cents

    async def page(self, sku: str) -> dict[str, str]:
        """Write the page of a product, which takes its time."""
        await self.query("INSERT INTO loads VALUES (?)", sku)
        await anyio.sleep(0.2)
        return {"sku": sku, "text": f"The finest {sku} there is."}

    async def quote(self, country: str) -> dict[str, Any]:
        """Ask the carrier what a parcel costs."""
        await self.query("INSERT INTO calls VALUES (?)", time.time())
        return {"country": country, "cents": 490}

    def wrong(self) -> list[str]:
        """Return what went wrong, a line each."""
        return [f"{rule}: {row}" for rule, ask in RULES.items() for row in self.ask(ask)]
