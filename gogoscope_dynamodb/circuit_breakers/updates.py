"""The writes of a circuit, each with the condition that makes it safe.

A write changes attributes inside the map ``data`` of the item, or replaces the whole map. One
that changes something inside needs an item with the attributes of this library; its condition
names one of them, so that the write is refused where there is no such item.
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
_WINDOW_IS_OVER = (
    "(#data.#windowStart <= :windowEdge OR #data.#windowStart >= :windowEnd "
    "OR #data.#windowStart = :seenWindow)"
)
# The opposite, for an item of this library only: it needs the attribute.
_IN_WINDOW = (
    "#data.#windowStart > :windowEdge AND #data.#windowStart < :windowEnd "
    "AND #data.#windowStart <> :seenWindow"
)
_COUNTING = f"#data.#state = :closed AND {_IN_WINDOW} AND #data.#reporters.#me <> :name"
_OWN_PROBE = "#data.#state = :halfOpen AND attribute_exists(#data.#probes.#me)"

COUNT = Update(_ADD + ", #expiresAt = :ttl", _COUNTING)
# An open circuit is needed for longer than its last failure, so expiresAt stays as it is.
COUNT_LATE = Update(
    _ADD,
    "attribute_exists(#data.#reporters) AND #data.#state <> :closed "
    "AND #data.#reporters.#me <> :name",
)
COUNT_IN_NEW_WINDOW = Update(
    _NEXT_VERSION + "#data.#failureCount = :n, #data.#windowStart = :now, "
    "#data.#lastFailureTime = :now, #data.#reporters = :reporters, #expiresAt = :ttl",
    f"#data.#state = :closed AND {_WINDOW_IS_OVER}",
)
COUNT_AND_TRIP = Update(
    f"{_ADD}, #expiresAt = :openTtl, {_OPEN}",
    f"{_COUNTING} AND #data.#failureCount >= :thresholdLessN "
    "AND (size(#data.#reporters) >= :quorum OR (attribute_not_exists(#data.#reporters.#me) "
    "AND size(#data.#reporters) >= :quorumLess1))",
)
TRIP = Update(
    f"{_NEXT_VERSION}{_OPEN}, #expiresAt = :openTtl",
    "#data.#state = :closed AND #data.#windowStart > :windowEdge "
    "AND #data.#failureCount >= :threshold AND size(#data.#reporters) >= :quorum",
)
HALF_OPEN = Update(
    _NEXT_VERSION + "#data.#state = :halfOpen, #data.#since = :now, #data.#probes = :probes, "
    "#data.#successCount = :zero, #expiresAt = :ttl",
    "#data.#state = :open AND (attribute_not_exists(#data.#openUntil) "
    "OR #data.#openUntil <= :now OR #data.#openUntil = :seenUntil)",
)
_LEASE = _NEXT_VERSION + "#data.#probes.#me = :probeUntil, #expiresAt = :ttl"
RENEW_PROBE = Update(_LEASE, _OWN_PROBE)
NEXT_PROBE = Update(
    _LEASE,
    "#data.#state = :halfOpen AND attribute_not_exists(#data.#probes.#me) "
    "AND size(#data.#probes) < :limit",
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
_COUNTED_OR_ABSENT = "attribute_not_exists(#pk) OR #version > :zero"
REPLACE = Update(
    "SET #version = if_not_exists(#version, :floor) + :one, #data = :state, #expiresAt = :ttl",
    _COUNTED_OR_ABSENT,
)
RESET_BY_HAND = Update(
    _NEXT_VERSION + "#data = :state, #expiresAt = :ttl",
    "attribute_exists(#data.#windowStart) AND #data.#state <> :forcedOpen",
)
REPLACE_FOR_EVER = Update(
    "SET #version = if_not_exists(#version, :floor) + :one, #data = :state REMOVE #expiresAt",
    _COUNTED_OR_ABSENT,
)
