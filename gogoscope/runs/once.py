"""What ``once=`` of a task says, checked, and what the result of a function becomes in a store."""

from __future__ import annotations

import hashlib
import json
from datetime import timedelta
from typing import Any

from attrs import Attribute, field, frozen

from gogoscope._core.arguments import encodable, shown
from gogoscope._core.durations import seconds
from gogoscope._core.errors import arguments_of
from gogoscope.cache.local import LocalCache
from gogoscope.events.log import description, text_of
from gogoscope.exceptions import KeptError
from gogoscope.persistence.run_records import AfterCrash
from gogoscope.persistence.validation import check_key, check_lease, check_ttl
from gogoscope.persistence.values import JSONCodec, decode_json, is_storable

KeptErrors = type[Exception] | tuple[type[Exception], ...]

_JSON = JSONCodec()


def _hash(payload: Any) -> str | None:
    if payload is None:
        return None
    plain = decode_json(_JSON.dumps(payload))
    canonical = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _keep(keep: float | timedelta | None) -> float | None:
    return None if keep is None else check_ttl(keep, "keep")


def _lease(lease: float | timedelta) -> float:
    return check_lease(lease, "lease")


def _wait(wait: float | timedelta | None) -> float | None:
    return None if wait is None else seconds("wait", wait, zero=True)


def _is_key(once: object, attribute: Attribute[str], key: str) -> None:
    check_key(key)


def _after_crash(choice: AfterCrash) -> AfterCrash:
    if choice not in ("run", "ask"):
        raise ValueError(f"after_crash must be 'run' or 'ask', got {shown(choice)}")
    return choice


def _are_errors(once: object, attribute: Attribute[Any], errors: object) -> None:
    kinds = errors if isinstance(errors, tuple) else (errors,)
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            raise TypeError(f"keep_errors must be exception types, got {shown(kind)}")


def _is_local(once: object, attribute: Attribute[Any], local: object) -> None:
    if local is not None and not isinstance(local, LocalCache):
        raise TypeError(f"local must be a LocalCache, got {shown(local)}")


@frozen
class Once:
    """Has the effect of a function happen once for a key, in the whole fleet.

    ::

        receipt = await s.call(charge, order, once=Once(f"charge:{order.id}", keep=86_400))

    The first caller runs the function. Callers at the same time, in any process, wait for its
    result; later ones get the result that was kept.

    :param key: what is done once
    :param keep: how long the result is remembered: seconds, a ``timedelta``, or ``None`` for ever
    :param lease: how long a caller that died blocks the others, in seconds; at most 3,600, or a
        ``timedelta`` of at most 12 hours
    :param wait: how long to wait for somebody else's run, in seconds; ``None`` for ever
    :param payload: what is to be done, JSON-shaped; the same key with another payload is an error.
        Only its hash is stored
    :param after_crash: what follows when a caller dies while it runs: ``"run"`` lets the next one
        run again; with ``"ask"`` nobody does, until ``store.resolve_run`` says what came of it
    :param keep_errors: the types of the errors that are kept like a result, and raised as
        :class:`~gogoscope.KeptError` for later callers; after any other the next caller runs
    :param local: keeps results for a short time in the memory of this process, too, so that a
        duplicate makes no request. One may serve many keys, and many calls
    :raises TypeError: if an argument is of the wrong type
    :raises ValueError: if an argument is out of range
    """

    key: str = field(validator=_is_key)
    keep: float | None = field(converter=_keep)
    lease: float = field(default=30.0, converter=_lease, kw_only=True)
    wait: float | None = field(default=None, converter=_wait, kw_only=True)
    payload: str | None = field(default=None, converter=_hash, kw_only=True, repr=False)
    after_crash: AfterCrash = field(default="run", converter=_after_crash, kw_only=True)
    keep_errors: KeptErrors = field(default=(), validator=_are_errors, kw_only=True)
    local: LocalCache | None = field(
        default=None, validator=_is_local, kw_only=True, repr=False, eq=False
    )


def text_of_error(error: BaseException) -> str:
    """Return the text by which an error is kept: its type, its message and its arguments."""
    kind = type(error)
    arguments = [
        part if is_storable(part) else encodable(description(part)) for part in arguments_of(error)
    ]
    name = encodable(f"{kind.__module__}.{kind.__qualname__}")
    return _JSON.dumps([name, encodable(text_of(error)), arguments])


def error_of_text(key: str, text: Any) -> KeptError:
    """Return an error that was kept.

    :raises Exception: if the text is none that :func:`text_of_error` returned
    """
    name, message, arguments = decode_json(text)
    if (type(name), type(message), type(arguments)) != (str, str, list):
        raise TypeError("it must hold a type, a message and arguments")
    return KeptError(key, name, message, tuple(arguments))
