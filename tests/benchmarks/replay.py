"""Sends the requests of a store on DynamoDB once more, on a plain client, to compare them.

What a store sends is not written down a second time here, so it cannot be another thing than what
the store sends.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from attrs import frozen

from gogoscope_dynamodb import DynamoDBAdapter
from tests.support.dynamodb_faults import FaultyClient

Operation = Callable[[DynamoDBAdapter], Awaitable[None]]
Request = tuple[str, dict[str, Any]]


@frozen
class Replay:
    """Shows the requests of an operation, and sends them once more for another key.

    What decides whether a write is granted is the item of its key and the order of the writes. So
    all those are granted that were granted when a store sent them.
    """

    store: DynamoDBAdapter
    recorder: FaultyClient
    plain: Any

    @classmethod
    def on(cls, plain: Any, table: str) -> Replay:
        """Return one whose requests are shown by a store on a plain client."""
        recorder = FaultyClient(plain)
        return cls(DynamoDBAdapter(recorder, table, key_prefix="shown:"), recorder, plain)

    async def requests(self, operation: Operation, times: int) -> list[Request]:
        """Carry out an operation, and return its requests, for another key."""
        self.recorder.calls.clear()
        for _ in range(times):
            await operation(self.store)
        return [(name, _for_another_key(parameters)) for name, parameters in self.recorder.calls]

    async def send(self, requests: list[Request]) -> None:
        """Send requests on the plain client."""
        for name, parameters in requests:
            await getattr(self.plain, name)(**parameters)


def _for_another_key(parameters: dict[str, Any]) -> dict[str, Any]:
    part = "Item" if "Item" in parameters else "Key"
    key = {"pk": {"S": parameters[part]["pk"]["S"].replace("shown:", "raw:")}}
    return {**parameters, part: {**parameters[part], **key}}
