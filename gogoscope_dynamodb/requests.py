"""Requests to one table: bounded in time, sent again where that is safe, and honest about doubt.

A request can fail although the server has applied it: the answer was lost. Sending it again is
still safe, since every write of this package is conditional, replaces a whole item, or deletes
one; and each try of a request sends the same parameters. But the second try of a conditional
write may be refused because the first one has changed the item. So an answer says whether it is
``in_doubt``: whether an earlier try may have been applied. The caller then looks at the item that
came with the refusal, and recognises what it wrote itself.

Invariants:

- No try waits longer than its timeout for an answer. A request is given up, and not sent again,
  when three timeouts have passed since it began.
- A write that fails, and may have been applied, raises ``StoreTimeoutError``, unless the server
  refuses its last try for good. A read has no effect, so it is never in doubt.
- Renewals and releases of locks are ``urgent``: other requests leave some connections of the
  client's pool free for them, so that no lease is lost because many values are written.

Mutable state of a :class:`Table`: the client, which is there while the store is open; the process
and event loop that opened it (``life``); the semaphore that limits requests which
are not urgent, made with the first of them; and whether the table's keys were checked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any

import anyio
from attrs import Factory, field, frozen

from gogoscope.exceptions import ConfigurationError, PersistenceError, StoreTimeoutError
from gogoscope.persistence import Life, monotonic, uniform
from gogoscope_dynamodb.client import DynamoDBClient, pool_size, region_of
from gogoscope_dynamodb.errors import (
    ACCESS_DENIED,
    CONDITION_FAILED,
    INVALID,
    INVALID_REQUEST,
    TABLE_MISSING,
    UNANSWERED,
    Effect,
    Failure,
    classify,
    error_code,
    error_response,
    retried,
)
from gogoscope_dynamodb.schema import CACHE, SORT_KEY, Item, check_keys, text

MOST_TRIES = 6
PATIENCE_IN_TIMEOUTS = 3
FIRST_DELAY = 0.05
LONGEST_DELAY = 1.0
CONNECTIONS_PER_URGENT_ONE = 5
NO_ITEM: Item = {"pk": text(CACHE), "sk": text(SORT_KEY)}
"""The primary key of no item: a store refuses the empty key."""

Values = Mapping[str, Mapping[str, Any]]

_CONDITION = frozenset({CONDITION_FAILED})
_NO_WAIT = nullcontext()
_READS = frozenset(
    {"get_item", "batch_get_item", "scan", "describe_table", "describe_time_to_live"}
)


@frozen
class Answer:
    """What the server answered: a response, or a refusal with its ``code``.

    ``item`` is the item that came with it: as the write left it, or as the refusal found it.
    """

    response: Mapping[str, Any]
    code: str | None = None
    in_doubt: bool = False

    @property
    def granted(self) -> bool:
        """Whether the request was carried out."""
        return self.code is None

    @property
    def item(self) -> Item | None:
        """The item that came with the answer, or ``None``."""
        found: Item | None = self.response.get("Attributes" if self.code is None else "Item")
        return found or None


@frozen
class Update:
    """A kind of UpdateItem: what it writes, on which condition, and whether it returns the item.

    In both expressions ``#name`` stands for the attribute ``name`` and ``:name`` for a value.
    """

    expression: str
    condition: str
    returns: str = "ALL_NEW"
    names: dict[str, str] = field(
        init=False,
        default=Factory(lambda self: {alias: alias[1:] for alias in self._used("#")}, True),
    )
    values: tuple[str, ...] = field(
        init=False, default=Factory(lambda self: tuple(self._used(":")), True)
    )

    def _used(self, sign: str) -> set[str]:
        return set(re.findall(rf"{sign}\w+", f"{self.expression} {self.condition}"))


class Table:
    """One table, which is reached through one client.

    :param name: its name or ARN
    :param client: the client, or ``None`` as long as there is none
    :param timeout: how long one try of a request may take, in seconds
    """

    def __init__(self, name: str, client: DynamoDBClient | None, timeout: float) -> None:
        self.name = name
        self.timeout = timeout
        self._client = client
        self.life = Life(f"the store on table {name!r}", ready=client is not None)
        self._room: anyio.Semaphore | None = None
        self._keys_checked = False

    @property
    def client(self) -> DynamoDBClient:
        """The client.

        :raises PersistenceError: if it is closed, or was opened by another process or event loop
        """
        self.life.check()
        if self._client is None:
            raise PersistenceError(f"the store on table {self.name!r} is being opened or closed")
        return self._client

    def opened(self, client: DynamoDBClient | None) -> None:
        """Use this client from now on, or none."""
        self._client = client
        self._room = None

    async def read(self, key: Item, *, consistent: bool, **more: Any) -> Item | None:
        """Return an item, or ``None`` if there is none."""
        answer = await self.send(
            "get_item", {"TableName": self.name, "Key": key, "ConsistentRead": consistent, **more}
        )
        found: Item | None = answer.response.get("Item")
        return found

    async def update(
        self,
        key: Item,
        update: Update,
        values: Values,
        *,
        aliases: Mapping[str, str] | None = None,
        timeout: float | None = None,
        urgent: bool = False,
    ) -> Answer:
        """Send an UpdateItem; a refusal comes with the item that it found.

        :param values: the values of the expressions; those that are not used are left out
        :param aliases: attributes whose ``#name`` in the expressions is another than their own
        :param urgent: as in :meth:`send`
        """
        names = update.names
        if aliases:
            names = {alias: aliases.get(alias, name) for alias, name in names.items()}
        parameters = {
            "TableName": self.name,
            "Key": key,
            "UpdateExpression": update.expression,
            "ExpressionAttributeNames": names,
            "ExpressionAttributeValues": {name: values[name] for name in update.values},
            "ConditionExpression": update.condition,
            "ReturnValues": update.returns,
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
        }
        return await self.send("update_item", parameters, timeout=timeout, urgent=urgent)

    async def put(self, item: Item, **condition: Any) -> Answer:
        """Send a PutItem; a refusal comes with the item that it found.

        :param condition: the parameters of the condition, if there is one
        """
        parameters = {"TableName": self.name, "Item": item, **condition}
        if condition:
            parameters["ReturnValuesOnConditionCheckFailure"] = "ALL_OLD"
        return await self.send("put_item", parameters)

    async def replace(self, found: Item, item: Item) -> Answer:
        """Send a PutItem for an item that cannot be understood, if it is still as it was found."""
        parts = [name for name in ("version", "data", "owner") if name in found]
        gone = [name for name in ("version", "data", "owner") if name not in found]
        return await self.put(
            item,
            ConditionExpression=" AND ".join(
                [f"#{name} = :{name}" for name in parts]
                + [f"attribute_not_exists(#{name})" for name in gone]
            ),
            ExpressionAttributeNames={f"#{name}": name for name in parts + gone},
            **(
                {"ExpressionAttributeValues": {f":{name}": found[name] for name in parts}}
                if parts
                else {}
            ),
        )

    async def delete(self, key: Item, **condition: Any) -> Answer:
        """Send a DeleteItem; the answer comes with the item that it found.

        :param condition: as in :meth:`put`
        """
        parameters = {"TableName": self.name, "Key": key, "ReturnValues": "ALL_OLD", **condition}
        if condition:
            parameters["ReturnValuesOnConditionCheckFailure"] = "ALL_OLD"
        return await self.send("delete_item", parameters)

    async def send(
        self,
        operation: str,
        parameters: Mapping[str, Any],
        *,
        timeout: float | None = None,
        refusals: frozenset[str] = _CONDITION,
        urgent: bool = False,
    ) -> Answer:
        """Send a request until it is answered, or until sending it again cannot help.

        Cancelling it sends nothing more; the request may have been applied.

        :param timeout: how long one try may take, in seconds; the table's if left out
        :param refusals: codes of errors to return as answers
        :param urgent: whether it may use the connections that are kept free
        :raises PersistenceError: if it failed; ``StoreTimeoutError`` if it may have been applied
        :raises ConfigurationError: if the table is missing or access to it is not granted
        """
        method = getattr(self.client, operation)
        timeout = self.timeout if timeout is None else timeout
        last_start = monotonic() + PATIENCE_IN_TIMEOUTS * timeout
        tried, in_doubt = 0, False
        while True:
            failure, cause = UNANSWERED, None
            try:
                async with self._room_for(urgent):
                    with anyio.move_on_after(timeout):
                        response = await method(**parameters)
                        return Answer(response, in_doubt=in_doubt or retried(response))
            except Exception as error:  # noqa: BLE001 - classified, and raised as one of ours
                response, code = error_response(error), error_code(error)
                in_doubt = in_doubt or retried(response)
                if code in refusals:
                    return Answer(response, code, in_doubt)
                failure, cause = classify(error), error
            tried += 1
            in_doubt = in_doubt or failure.effect is Effect.MAYBE_APPLIED
            delay = backoff(tried)
            if not failure.retry or tried == MOST_TRIES or monotonic() + delay >= last_start:
                break
            await anyio.sleep(delay)
        if failure is INVALID:
            await self._check_keys()
        raise self._error(operation, failure, tried, in_doubt, cause) from cause

    async def found_nothing(self) -> None:
        """Make sure that the table has the right keys; called when a scan has found nothing.

        DynamoDB scans a table with other keys without an error, but refuses to read an item of
        it. One read is sent, the first time.

        :raises ConfigurationError: if it has others
        """
        if not self._keys_checked:
            key = {"TableName": self.name, "Key": NO_ITEM}
            await self.send("get_item", key, refusals=frozenset({ACCESS_DENIED}))
            self._keys_checked = True

    def _room_for(self, urgent: bool) -> AbstractAsyncContextManager[object]:
        """Return what a try enters before it is sent: it keeps connections free for the urgent."""
        if urgent:
            return _NO_WAIT
        if self._room is None:
            connections = pool_size(self._client)
            if connections is None:
                return _NO_WAIT
            kept_free = max(1, connections // CONNECTIONS_PER_URGENT_ONE)
            self._room = anyio.Semaphore(max(1, connections - kept_free), fast_acquire=True)
        return self._room

    async def _check_keys(self) -> None:
        """Raise if a request was invalid because the table has other keys."""
        answer = await self.send(
            "describe_table",
            {"TableName": self.name},
            refusals=frozenset({ACCESS_DENIED, INVALID_REQUEST, TABLE_MISSING}),
        )
        if answer.granted:
            check_keys(self.name, answer.response["Table"])

    def _error(
        self, operation: str, failure: Failure, tried: int, in_doubt: bool, cause: Exception | None
    ) -> Exception:
        if error_code(cause) == TABLE_MISSING:
            return ConfigurationError(
                f"there is no table {self.name!r} in region {region_of(self.client)}; create it "
                f"with: await gogoscope_dynamodb.create_table(client, {self.name!r}), "
                "or open it with the option create=true in its URL"
            )
        kind = failure.error
        if failure.retry and in_doubt and operation not in _READS:
            kind = StoreTimeoutError
        tries = "1 try" if tried == 1 else f"{tried} tries"
        return kind(f"{operation} on table {self.name!r} failed after {tries}: {_told(cause)}")


def _told(cause: Exception | None) -> str:
    if cause is None:
        return "no answer"
    return str(cause) if error_code(cause) is not None else f"{type(cause).__name__}: {cause}"


def backoff(tried: int) -> float:
    """Return the delay after ``tried`` tries in seconds, with full jitter."""
    longest = min(LONGEST_DELAY, FIRST_DELAY * 2 ** (tried - 1))
    return uniform(0, longest)
