"""The writes of a circuit, each with the condition that makes it safe.

A write changes attributes inside the map ``data`` of the item, or replaces the whole map. One
that changes something inside needs an item with the attributes of this library; its condition
names one of them, so that the write is refused where there is no such item.

A write that lands late finds what was written since, and is refused:

- Failures of a process have a name that is higher than those before it, and belong to a window:
  one that was known when they were sent, or that began earlier by more than clocks differ.
- What replaces a whole state has a stamp that is higher than that of the one before it.
- All others compare a version, the nonce of a probe, or the window that was seen.
"""

from __future__ import annotations

from gogoscope_dynamodb.answers import Update
from gogoscope_dynamodb.schema import NOTHING, ONE, ZERO, text

STATES = {
    ":closed": text("closed"),
    ":open": text("open"),
    ":halfOpen": text("half-open"),
    ":forcedOpen": text("forced-open"),
    ":zero": ZERO,
    ":one": ONE,
    ":none": NOTHING,
}

_NEXT_VERSION = "SET #version = #version + :one, "
_ADD = (
    _NEXT_VERSION + "#data.#failureCount = #data.#failureCount + :n, "
    "#data.#lastFailureTime = :now, #data.#reporters.#me = :name"
)
_OPEN = (
    "#data.#state = :open, #data.#since = :now, #data.#openUntil = :openUntil, "
    "#data.#openCount = #data.#openCount + :one"
)
_IN_TIME = "(#data.#windowStart <= :settled OR #data.#windowStart = :knownWindow)"
_FIRST_TIME = "(attribute_not_exists(#data.#reporters.#me) OR #data.#reporters.#me < :name)"
_COUNTING = (
    "#data.#state = :closed AND #data.#windowStart > :windowEdge "
    f"AND #data.#windowStart <> :seenWindow AND {_IN_TIME} AND {_FIRST_TIME}"
)
_OWN_PROBE = "#data.#state = :halfOpen AND attribute_exists(#data.#probes.#me)"

COUNT = Update(_ADD + ", #expiresAt = :ttl", _COUNTING)
# An open circuit is needed for longer than its last failure, so expiresAt stays as it is.
COUNT_LATE = Update(
    _ADD,
    "attribute_exists(#data.#reporters) AND #data.#state <> :closed "
    f"AND {_IN_TIME} AND {_FIRST_TIME}",
)
COUNT_IN_NEW_WINDOW = Update(
    _NEXT_VERSION + "#data.#failureCount = :n, #data.#windowStart = :now, "
    "#data.#lastFailureTime = :now, #data.#reporters = :reporters, #expiresAt = :ttl",
    "#data.#state = :closed AND #data.#windowStart = :knownWindow",
)
COUNT_AND_TRIP = Update(
    f"{_ADD}, #expiresAt = :openTtl, {_OPEN}",
    f"{_COUNTING} AND #data.#failureCount >= :thresholdLessN "
    "AND (size(#data.#reporters) >= :quorum OR (attribute_not_exists(#data.#reporters.#me) "
    "AND size(#data.#reporters) >= :quorumLess1))",
)
TRIP = Update(
    f"{_NEXT_VERSION}{_OPEN}, #expiresAt = :openTtl",
    "#data.#state = :closed AND #data.#windowStart = :knownWindow "
    "AND #data.#failureCount >= :threshold AND size(#data.#reporters) >= :quorum",
)
HALF_OPEN = Update(
    _NEXT_VERSION + "#data.#state = :halfOpen, #data.#since = :now, #data.#probes = :probes, "
    "#data.#successCount = :zero, #expiresAt = :ttl",
    "#data.#state = :open AND (attribute_not_exists(#data.#openUntil) "
    "OR #data.#openUntil <= :now OR #data.#openUntil = :seenUntil)",
)
_LEASE = _NEXT_VERSION + "#data.#probes.#me = :probeUntil, #expiresAt = :ttl"
RENEW_PROBE = Update(
    _LEASE,
    f"{_OWN_PROBE} AND (#data.#probes.#me < :probeUntil OR #data.#probes.#me > :farAhead)",
)
NEXT_PROBE = Update(
    _LEASE,
    "#data.#state = :halfOpen AND #version = :seenVersion "
    "AND attribute_not_exists(#data.#probes.#me) AND size(#data.#probes) < :limit",
)
# The whole map is compared and replaced: an expression cannot name any number of permits.
TAKE_EXPIRED_PERMITS = Update(
    _NEXT_VERSION + "#data.#probes = :probesWithoutExpired, #expiresAt = :ttl",
    "#data.#state = :halfOpen AND #data.#probes = :seenProbes",
)
COUNT_SUCCESS = Update(
    _NEXT_VERSION + "#data.#successCount = #data.#successCount + :one, "
    "#data.#lastSuccessTime = :now REMOVE #data.#probes.#me",
    _OWN_PROBE + " AND #data.#successCount < :successThresholdLess1",
)
_CLOSED = (
    _NEXT_VERSION + "#data.#state = :closed, #data.#since = :now, #data.#failureCount = :zero, "
    "#data.#windowStart = :now, #data.#lastSuccessTime = :now, #data.#openCount = :zero, "
    "#data.#reporters = :none, #data.#probes = :none, #expiresAt = :ttl "
    "REMOVE #data.#openUntil, #data.#successCount"
)
CLOSE = Update(_CLOSED, _OWN_PROBE + " AND #data.#successCount >= :successThresholdLess1")
CLOSE_SEEN = Update(_CLOSED, "#version = :seenVersion")
REOPEN = Update(
    f"{_NEXT_VERSION}{_OPEN}, #data.#lastFailureTime = :now, #data.#probes = :none, "
    "#expiresAt = :openTtl REMOVE #data.#successCount",
    _OWN_PROBE,
)
RETURN_PROBE = Update("SET #version = #version + :one REMOVE #data.#probes.#me", _OWN_PROBE, "NONE")
RESET = Update(
    _NEXT_VERSION + "#data.#failureCount = :zero, #data.#lastSuccessTime = :now, "
    "#data.#windowStart = :now, #data.#reporters = :none",
    "#data.#state = :closed AND #data.#failureCount > :zero AND #version = :seenVersion",
)
_NEWER = "(attribute_not_exists(#stamp) OR #stamp < :stamp)"
_REPLACED = "SET #version = if_not_exists(#version, :floor) + :one, #data = :state, #stamp = :stamp"
_REPLACEABLE = f"attribute_not_exists(#pk) OR (#version > :zero AND {_NEWER})"
REPLACE = Update(f"{_REPLACED}, #expiresAt = :ttl", _REPLACEABLE)
RESET_BY_HAND = Update(
    _NEXT_VERSION + "#data = :state, #stamp = :stamp, #expiresAt = :ttl",
    f"attribute_exists(#data.#windowStart) AND #data.#state <> :forcedOpen AND {_NEWER}",
)
REPLACE_FOR_EVER = Update(f"{_REPLACED} REMOVE #expiresAt", _REPLACEABLE)
