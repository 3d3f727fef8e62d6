"""The public face of a package: its names, each loaded when it is first asked for (PEP 562)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from types import MappingProxyType
from typing import Any


def face(
    package: str,
    places: Mapping[str, Sequence[str]],
    *,
    modules: Sequence[str] = (),
    renamed: Mapping[str, str] = MappingProxyType({}),
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the ``__getattr__`` and ``__dir__`` of a package.

    :param package: its name
    :param places: the modules that define its public names, and those names
    :param modules: its own modules that are public
    :param renamed: modules that are public under a name of their own, by that name
    """
    place_of = {name: place for place, names in places.items() for name in names}
    module_of = {name: f"{package}.{name}" for name in modules} | dict(renamed)

    def __getattr__(name: str) -> Any:  # noqa: N807 - it becomes one
        if name in place_of:
            value = getattr(import_module(place_of[name]), name)
        elif name in module_of:
            value = import_module(module_of[name])
        else:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        setattr(sys.modules[package], name, value)
        return value

    def __dir__() -> list[str]:  # noqa: N807 - likewise
        return sorted([*place_of, *module_of])

    return __getattr__, __dir__
