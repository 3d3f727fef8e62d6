"""Requests to one table: bounded in time, sent again where that is safe, and honest about doubt.

A request can fail although the server has applied it: the answer was lost. Sending it again is
still safe, since every write that may be sent again has a condition that its own effect breaks,
and each try sends the same parameters. So the second try of a write may be refused because the
first one has changed the item. An answer therefore says whether it is ``in_doubt``: whether an
earlier try may have been applied. The caller then looks at the item that came with the refusal,
and recognises what it wrote itself. A try that is slow and lands late is refused in the same way.

Invariants:

- A request has one budget: three timeouts, and the time that its bytes need on a slow link. It
  counts from the call; while the store answers others, waiting for a connection costs none of it.
  No try waits for an answer for longer than a timeout, or than the budget lasts.
- Renewing credentials is no part of a request: it comes before a try, and costs none of the budget.
- A write that may have been applied and was not answered raises ``StoreTimeoutError``, whatever
  its last try came to. A read has no effect, so it is never in doubt.
- Nothing but this project's exceptions leaves a request, each with its cause.
- What was answered with 200, but not by DynamoDB, is a broken connection.
- Renewals and releases of locks are ``urgent``: other requests leave some connections of the
  client's pool free for them, so that no lease is lost because many values are written.

Mutable state of a :class:`Table`: the client, which is there while the store is open; the process
and event loop that opened it (``life``); the room for requests that are not urgent, made with the
first of them; the bytes that are being sent; and whether the table's keys were checked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import anyio
from attrs import define

from gogoscope.exceptions import (
    ConfigurationError,
    GogoscopeError,
    PersistenceError,
    StoreTimeoutError,
    UnexpectedStoreError,
)
from gogoscope.persistence import Life, Room, monotonic, uniform
from gogoscope_dynamodb.answers import Answer, Update, Values
from gogoscope_dynamodb.client import DynamoDBClient, Renewals, pool_size, region_of
from gogoscope_dynamodb.errors import (
    ACCESS_DENIED,
    CONDITION_FAILED,
    INVALID,
    INVALID_REQUEST,
    TABLE_MISSING,
    UNANSWERED,
    Effect,
    Failure,
    check_answer,
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
SLOWEST_LINK = 1_000_000  # bytes a second
NO_ITEM: Item = {"pk": text(CACHE), "sk": text(SORT_KEY)}
"""The primary key of no item: a store refuses the empty key."""

_CONDITION = frozenset({CONDITION_FAILED})
_READS = frozenset(
    {"get_item", "batch_get_item", "scan", "describe_table", "describe_time_to_live"}
)


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
        self._room: Room | None = None
        self._urgent_room = Room()
        self._bytes = 0
        self._renewals: Renewals | None = None
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

    @property
    def renewals(self) -> Renewals:
        """What renews the client's credentials."""
        if self._renewals is None:
            self._renewals = Renewals(self._client)
        return self._renewals

    def opened(self, client: DynamoDBClient | None) -> None:
        """Use this client from now on, or none."""
        self._client = client
        self._room = self._renewals = None

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
        size: int = 0,
    ) -> Answer:
        """Send a request until it is answered, or until sending it again cannot help.

        Cancelling it sends nothing more; the request may have been applied.

        :param timeout: how long one try may take, in seconds; the table's if left out
        :param refusals: codes of errors to return as answers
        :param urgent: whether it may use the connections that are kept free
        :param size: how many bytes it sends, about, if they are many
        :raises PersistenceError: if it failed; ``StoreTimeoutError`` if it may have been applied
        :raises ConfigurationError: if the table is missing or access to it is not granted
        """
        request = _Request(self, operation, parameters, refusals)
        self._bytes += size
        try:
            seconds = self._bytes / SLOWEST_LINK if size else 0.0
            return await request.run(
                (self.timeout if timeout is None else timeout) + seconds, self._room_for(urgent)
            )
        finally:
            self._bytes -= size

    async def explain(
        self, operation: str, failure: Failure, tried: int, in_doubt: bool, cause: Exception | None
    ) -> Exception:
        """Return the error of a request that failed."""
        if failure is INVALID and not in_doubt and (wrong := await self._wrong_keys()):
            return wrong
        return self._error(operation, failure, tried, in_doubt, cause)

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

    def _room_for(self, urgent: bool) -> Room:
        """Return where a request waits: so many connections are kept free for the urgent."""
        if self._room is None:
            connections = pool_size(self._client)
            if connections is None:
                self._room = Room()
            else:
                kept_free = max(1, connections // CONNECTIONS_PER_URGENT_ONE)
                self._room = Room(max(1, connections - kept_free))
        return self._urgent_room if urgent else self._room

    async def _wrong_keys(self) -> ConfigurationError | None:
        """Return the error if a request was invalid because the table has other keys."""
        try:
            answer = await self.send(
                "describe_table",
                {"TableName": self.name},
                refusals=frozenset({ACCESS_DENIED, INVALID_REQUEST, TABLE_MISSING}),
            )
        except GogoscopeError:
            return None  # The error of the request itself is the one that counts.
        try:
            if answer.granted:
                check_keys(self.name, answer.response["Table"])
        except ConfigurationError as error:
            return error
        return None

    def _error(
        self, operation: str, failure: Failure, tried: int, in_doubt: bool, cause: Exception | None
    ) -> Exception:
        doubtful = in_doubt and operation not in _READS
        if error_code(cause) == TABLE_MISSING and not doubtful:
            return ConfigurationError(
                f"there is no table {self.name!r} in region {region_of(self._client)}; create it "
                f"with: await gogoscope_dynamodb.create_table(client, {self.name!r}), "
                "or open it with the option create=true in its URL"
            )
        kind = failure.error
        if doubtful and kind is not UnexpectedStoreError:
            kind = StoreTimeoutError
        tries = "1 try" if tried == 1 else f"{tried} tries"
        error = kind(f"{operation} on table {self.name!r} failed after {tries}: {_told(cause)}")
        if isinstance(error, PersistenceError):
            error.in_doubt = doubtful
        return error


@define
class _Request:
    """One request: what it may still take, and what its tries have done.

    ``tried`` counts its tries, and ``in_doubt`` says whether one of them may have been applied.
    """

    _table: Table
    _operation: str
    _parameters: Mapping[str, Any]
    _refusals: frozenset[str]
    _tried: int = 0
    _in_doubt: bool = False

    async def run(self, timeout: float, room: Room) -> Answer:
        """Send it until it is answered or its budget is spent.

        :param timeout: how long one try may take, in seconds
        """
        budget = PATIENCE_IN_TIMEOUTS * timeout
        called, deadline, rounds = monotonic(), math.inf, 0
        while True:
            failure, cause = UNANSWERED, None
            try:
                method = getattr(self._table.client, self._operation)
                if (renewals := self._table.renewals).due():
                    renewal = await renewals.ready()
                    called, deadline = called + renewal, deadline + renewal
                async with room.place(budget if deadline == math.inf else deadline - monotonic()):
                    now = monotonic()
                    if not self._tried:
                        deadline = (now if room.answered > called else called) + budget
                    with anyio.move_on_after(min(timeout, deadline - now)):
                        self._tried += 1
                        response = await method(**self._parameters)
                        room.answered = monotonic()
                        check_answer(self._operation, self._parameters, response)
                        self._in_doubt = self._in_doubt or retried(response)
                        return Answer(response, in_doubt=self._in_doubt)
            except GogoscopeError:
                if self._in_doubt and self._operation not in _READS:
                    failure, cause = UNANSWERED, None
                    break
                raise
            except Exception as error:  # noqa: BLE001 - classified, and raised as one of ours
                response, code = error_response(error), error_code(error)
                if code is not None:
                    room.answered = monotonic()
                self._in_doubt = self._in_doubt or retried(response)
                if code in self._refusals:
                    return Answer(response, code, self._in_doubt)
                failure, cause = classify(error), error
            self._in_doubt = self._in_doubt or failure.effect is Effect.MAYBE_APPLIED
            rounds += 1
            delay = backoff(rounds)
            end = min(deadline, called + budget) if not self._tried else deadline
            if not failure.retry or self._tried == MOST_TRIES or monotonic() + delay >= end:
                break
            await anyio.sleep(delay)
        raise await self._table.explain(
            self._operation, failure, self._tried, self._in_doubt, cause
        ) from cause


def _told(cause: Exception | None) -> str:
    if cause is None:
        return "no answer"
    return str(cause) if error_code(cause) is not None else f"{type(cause).__name__}: {cause}"


def backoff(tried: int) -> float:
    """Return the delay after ``tried`` tries in seconds, with full jitter."""
    longest = min(LONGEST_DELAY, FIRST_DELAY * 2 ** (tried - 1))
    return uniform(0, longest)
