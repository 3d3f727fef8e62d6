"""Copies of values, so that nobody changes what others see."""

from __future__ import annotations

from typing import Any


def copied(value: Any) -> Any:
    """Copy the lists and dicts that a value is made of; what cannot change is shared."""
    kind = type(value)
    if kind is dict:
        return {
            key: copied(part) if type(part) in _CONTAINERS else part for key, part in value.items()
        }
    if kind is list:
        return [copied(part) if type(part) in _CONTAINERS else part for part in value]
    return value


_CONTAINERS = (dict, list)
