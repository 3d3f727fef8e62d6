"""What a request to change an item says, and what its answer says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from attrs import Factory, field, frozen

from gogoscope_dynamodb.schema import Item

Values = Mapping[str, Mapping[str, Any]]


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
