"""Finding out whether a store can take part in the transactions of its callers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

from gogoscope.exceptions import CapabilityNotSupportedError
from gogoscope.persistence.bundle import unsupported

P = TypeVar("P")

SHARE_OF_LEASE = 1 / 3
"""The part of a lease that must be left, so that a transaction may be sent and answered."""


def joining(protocol: Callable[..., P], store: object, what: str) -> P:
    """Return what of a store takes part in transactions of callers in a certain way.

    :param protocol: how
    :param store: where the record is that is to change
    :param what: how that is called in the error
    :raises CapabilityNotSupportedError: if the store cannot do it
    """
    assert isinstance(protocol, type)
    if isinstance(store, protocol):
        return cast("P", store)
    find = getattr(store, "capability", None)
    try:
        if find is not None:
            return cast("P", find(protocol))
    except CapabilityNotSupportedError:
        pass
    raise unsupported(what, store)
