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
- Nothing but this project's exceptions leaves a request, each with its cause and its effect.
- What was answered with 200, but not by DynamoDB, is a broken connection.
- Some connections of the client's pool are kept free for what is urgent: so no lease is lost
  because many values are written.

Methods of :class:`Table` that only make parameters are no coroutines: they return that of the
request, so that little stands between a method of the store and the client.
"""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from typing import Any

import anyio
from attrs import define, field

from gogoscope.exceptions import (
    ConfigurationError,
    Effect,
    GogoscopeError,
    PersistenceError,
    StoreTimeoutError,
    UnexpectedStoreError,
)
from gogoscope.persistence import (
    Life,
    Room,
    is_urgent,
    monotonic,
    pause_before_try,
    time_of_try,
    uniform,
)
from gogoscope_dynamodb.answers import Answer, Update, Values
from gogoscope_dynamodb.client import DynamoDBClient, Renewals, pool_size, region_of
from gogoscope_dynamodb.errors import (
    ACCESS_DENIED,
    CONDITION_FAILED,
    INVALID,
    INVALID_REQUEST,
    TABLE_MISSING,
    UNANSWERED,
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
MOST_COUNTED = 4_000_000
"""The bytes in flight that a try has time for: so a silent store is given up, however many wait."""
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

    # life: the process and the event loop that opened the client.
    # room: the connections for what is not urgent, which wait for them in a queue.
    # renewals: of the client's credentials.
    # bytes_in_flight: what large requests are sending.
    # _keys_checked: whether the table is known to have the right keys.

    def __init__(self, name: str, client: DynamoDBClient | None, timeout: float) -> None:
        self.name = name
        self.timeout = timeout
        self.life = Life(f"the store on table {name!r}", ready=client is not None)
        self.bytes_in_flight = 0
        self._keys_checked = False
        self.opened(client)

    def opened(self, client: DynamoDBClient | None) -> None:
        """Use this client from now on, or none."""
        self._client = client
        self.room = _room(client)
        self.renewals = Renewals(client)

    @property
    def client(self) -> DynamoDBClient:
        """The client.

        :raises PersistenceError: if it is closed, or was opened by another process or event loop
        """
        self.life.check()
        if self._client is None:
            error = PersistenceError(f"the store on table {self.name!r} is being opened or closed")
            error.effect = Effect.NOT_SENT
            raise error
        return self._client

    async def read(self, key: Item, *, consistent: bool, **more: Any) -> Item | None:
        """Return an item, or ``None`` if there is none."""
        parameters = {"TableName": self.name, "Key": key, "ConsistentRead": consistent, **more}
        answer = await _Request(self, "get_item", parameters, self.timeout).answer()
        found: Item | None = answer.response.get("Item")
        return found

    def update(
        self,
        key: Item,
        update: Update,
        values: Values,
        *,
        aliases: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> Coroutine[Any, Any, Answer]:
        """Send an UpdateItem; a refusal comes with the item that it found.

        :param values: the values of the expressions; those that are not used are left out
        :param aliases: attributes whose ``#name`` in the expressions is another than their own
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
        if timeout is None:
            timeout = self.timeout
        return _Request(self, "update_item", parameters, timeout).answer()

    def put(self, item: Item, *, size: int = 0, **condition: Any) -> Coroutine[Any, Any, Answer]:
        """Send a PutItem; a refusal comes with the item that it found.

        :param size: how many bytes it sends, about, if they are many
        :param condition: the parameters of the condition, if there is one
        """
        parameters = {"TableName": self.name, "Item": item, **condition}
        if condition:
            parameters["ReturnValuesOnConditionCheckFailure"] = "ALL_OLD"
        return _Request(self, "put_item", parameters, self.timeout, size=size).answer()

    def replace(self, found: Item, item: Item) -> Coroutine[Any, Any, Answer]:
        """Send a PutItem for an item that cannot be understood, if it is still as it was found."""
        parts = {f"#{name}": name for name in ("version", "data", "owner")}
        values = {f":{name}": found[name] for name in parts.values() if name in found}
        condition: dict[str, Any] = {"ExpressionAttributeValues": values} if values else {}
        return self.put(
            item,
            ConditionExpression=" AND ".join(
                f"{alias} = :{name}" if name in found else f"attribute_not_exists({alias})"
                for alias, name in parts.items()
            ),
            ExpressionAttributeNames=parts,
            **condition,
        )

    def delete(self, key: Item, **condition: Any) -> Coroutine[Any, Any, Answer]:
        """Send a DeleteItem; the answer comes with the item that it found.

        :param condition: the parameters of the condition
        """
        parameters = {"TableName": self.name, "Key": key, "ReturnValues": "ALL_OLD", **condition}
        parameters["ReturnValuesOnConditionCheckFailure"] = "ALL_OLD"
        return _Request(self, "delete_item", parameters, self.timeout).answer()

    def send(
        self,
        operation: str,
        parameters: Mapping[str, Any],
        *,
        timeout: float | None = None,
        refusals: frozenset[str] = _CONDITION,
    ) -> Coroutine[Any, Any, Answer]:
        """Send a request until it is answered, or until sending it again cannot help.

        Cancelling it sends nothing more; the request may have been applied.

        :param timeout: how long one try may take, in seconds; the table's if left out
        :param refusals: codes of errors to return as answers
        :raises PersistenceError: if it failed; its ``effect`` says whether it may have been applied
        :raises ConfigurationError: if the table is missing or access to it is not granted
        """
        if timeout is None:
            timeout = self.timeout
        return _Request(self, operation, parameters, timeout, refusals).answer()

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

    def missing(self) -> ConfigurationError:
        """Return the error for a table that does not exist."""
        return ConfigurationError(
            f"there is no table {self.name!r} in region {region_of(self._client)}; create it "
            f"with: await gogoscope_dynamodb.create_table(client, {self.name!r}), "
            "or open it with the option create=true in its URL"
        )

    async def wrong_keys(self) -> ConfigurationError | None:
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


@define
class _Request:
    """One request: what it is to send, what it may still take, and what its tries have done.

    ``_start`` is when its budget began, and ``_budget`` how many seconds that is. ``_tried`` counts
    the tries that were sent, ``_failed`` all that failed; ``_effect`` is what they may have done.
    """

    _table: Table
    _operation: str
    _parameters: Mapping[str, Any]
    _timeout: float
    _refusals: frozenset[str] = _CONDITION
    _size: int = field(default=0, alias="size")
    _start: float = 0.0
    _budget: float = 0.0
    _tried: int = 0
    _failed: int = 0
    _effect: Effect = Effect.NOT_SENT

    async def answer(self) -> Answer:
        """Send it until it is answered or its budget is spent."""
        table = self._table
        self._timeout = time_of_try(self._timeout)
        table.bytes_in_flight += self._size
        if self._size:
            self._timeout += min(table.bytes_in_flight, MOST_COUNTED) / SLOWEST_LINK
        self._budget = PATIENCE_IN_TIMEOUTS * self._timeout
        self._start = monotonic()
        try:
            while True:
                failure, cause = UNANSWERED, None
                try:
                    if (answer := await self._try()) is not None:
                        return answer
                except GogoscopeError as error:  # the store was closed, say
                    if self._effect is not Effect.MAYBE_APPLIED:
                        raise
                    raise await self._error(UNANSWERED, error) from error
                except Exception as error:  # noqa: BLE001 - classified, and raised as one of ours
                    if (refusal := self._refused(error)) is not None:
                        return refusal
                    failure, cause = classify(error), error
                self._note(failure.effect)
                if not failure.retry or not await self._pause():
                    break
        finally:
            table.bytes_in_flight -= self._size
        raise await self._error(failure, cause) from cause

    async def _try(self) -> Answer | None:
        """Wait for credentials and a connection, and send it once.

        :returns: the answer, or ``None`` if there was none in time
        :raises Exception: whatever the client raises, ``RenewalError`` or ``NoRoomError``
        """
        table, room = self._table, self._table.room
        table.life.check()  # before anything is shared with another event loop
        if table.renewals.due():
            self._start += await table.renewals.ready()
        urgent = is_urgent()
        if not urgent and not room.take():
            self._start += await room.wait(self._start + self._budget - monotonic())
        try:
            method = getattr(table.client, self._operation)
            self._tried += 1
            now = monotonic()
            with anyio.move_on_after(min(self._timeout, self._start + self._budget - now)):
                response = await method(**self._parameters)
                room.answered = monotonic()
                check_answer(self._operation, self._parameters, response)
                if retried(response):
                    self._note(Effect.MAYBE_APPLIED)
                return Answer(response, None, self._effect is Effect.MAYBE_APPLIED)
        finally:
            if not urgent:
                room.leave()
        return None

    def _refused(self, error: Exception) -> Answer | None:
        """Return the answer if an error is one that was asked for."""
        response, code = error_response(error), error_code(error)
        if code is None:
            return None
        self._table.room.answered = monotonic()
        if retried(response):
            self._note(Effect.MAYBE_APPLIED)
        if code not in self._refusals:
            return None
        return Answer(response, code, self._effect is Effect.MAYBE_APPLIED)

    async def _pause(self) -> bool:
        """Wait before the next try, unless it would come too late; return whether there is one."""
        self._failed += 1
        if self._tried == MOST_TRIES:
            return False
        deadline = self._start + self._budget
        return await pause_before_try(
            backoff(self._failed), timeout=self._timeout, deadline=deadline
        )

    def _note(self, effect: Effect) -> None:
        """Note what a try may have done; a read does nothing."""
        if effect is Effect.MAYBE_APPLIED and self._operation in _READS:
            effect = Effect.FAILED
        self._effect = max(self._effect, effect, key=_WORSE.index)

    async def _error(self, failure: Failure, cause: Exception | None) -> Exception:
        table, kind = self._table, failure.error
        if self._effect is Effect.MAYBE_APPLIED:
            if kind is not UnexpectedStoreError:
                kind = StoreTimeoutError
        elif error_code(cause) == TABLE_MISSING:
            return table.missing()
        elif failure is INVALID and (wrong := await table.wrong_keys()):
            return wrong
        tries = "1 try" if self._tried == 1 else f"{self._tried} tries"
        told = f"{self._operation} on table {table.name!r} failed after {tries}: {_text(cause)}"
        error = kind(told)
        if isinstance(error, PersistenceError):
            error.effect = self._effect
        return error


_WORSE = (Effect.NOT_SENT, Effect.FAILED, Effect.MAYBE_APPLIED)


def _room(client: DynamoDBClient | None) -> Room:
    """Return where requests wait that are not urgent: some connections are kept free of them."""
    connections = pool_size(client)
    if connections is None:
        return Room()
    return Room(max(1, connections - max(1, connections // CONNECTIONS_PER_URGENT_ONE)))


def _text(cause: Exception | None) -> str:
    if cause is None:
        return "no answer"
    return str(cause) if error_code(cause) is not None else f"{type(cause).__name__}: {cause}"


def backoff(failed: int) -> float:
    """Return the delay after ``failed`` tries in seconds, with full jitter."""
    longest = min(LONGEST_DELAY, FIRST_DELAY * 2 ** (failed - 1))
    return uniform(0, longest)
