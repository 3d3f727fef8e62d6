"""The writes of a lock, each with the condition that makes it safe to send twice, and to land late.

Once a write was granted, or its refusal was told, its condition is never met again: it compares a
nonce, a version that only grows, or its own stamp with that of the lock, which is as high by then.
"""

from __future__ import annotations

from gogoscope_dynamodb.answers import Update

_TAKE = "SET #owner = :owner, #data = :lease, #stamp = :stamp, #expiresAt = :ttl, "
_NEXT_VERSION = "#version = if_not_exists(#version, :floor) + :one"
_ANOTHER_RENEWAL = (
    "SET #version = #version + :one, "
    "#data.#renewals = if_not_exists(#data.#renewals, :zero) + :one, "
    "#data.#leaseUntil = :until, #data.#leaseMs = :leaseMs, #expiresAt = :ttl"
)

_FREE = (
    "attribute_not_exists(#owner) AND "
    "(attribute_not_exists(#data.#releasedBy) OR #data.#releasedBy <> :nonce)"
)
_IN_TURN = "(attribute_not_exists(#data.#next) OR #data.#next = :turn OR #data.#nextUntil < :now)"
_NEWER = "(attribute_not_exists(#stamp) OR #stamp < :stamp)"

ACQUIRE = Update(
    _TAKE + _NEXT_VERSION,
    f"(({_FREE}) OR #data.#leaseUntil < :dead) AND {_IN_TURN} AND {_NEWER}",
)
ACQUIRE_OUT_OF_TURN = Update(
    _TAKE + _NEXT_VERSION,
    f"{_FREE} AND #data.#next = :seenNext AND #data.#nextUntil = :seenNextUntil AND {_NEWER}",
)
TAKE_OVER = Update(
    _TAKE + _NEXT_VERSION,
    f"#data.#nonce = :seenNonce AND #version = :seenVersion AND {_NEWER}",
)
RENEW = Update(_ANOTHER_RENEWAL, "#data.#nonce = :nonce AND #version = :seenVersion")
EXTEND = Update(
    _ANOTHER_RENEWAL,
    "#owner = :owner AND #data.#leaseUntil > :now AND #data.#leaseUntil < :until "
    "AND #stamp <= :stamp",
    "NONE",
)
HAND_OVER = Update(
    _TAKE + "#version = #version + :one",
    f"#data.#nonce = :oldNonce AND {_IN_TURN} AND {_NEWER}",
)
RESERVE = Update(
    "SET #data.#next = :turn, #data.#nextUntil = :nextUntil",
    f"attribute_exists(#data.#nonce) AND {_IN_TURN}",
)
CANCEL_TURN = Update("REMOVE #data.#next, #data.#nextUntil", "#data.#next = :turn")
RELEASE = Update(
    "SET #data.#releasedBy = :nonce, #expiresAt = :ttl REMOVE #owner, "
    "#data.#nonce, #data.#leaseMs, #data.#leaseUntil, #data.#acquiredAt, #data.#meta",
    "#data.#nonce = :nonce",
    "NONE",
)
BAR = Update("SET #stamp = :stamp", f"attribute_exists(#owner) AND {_NEWER}")
BAR_FREE = Update(
    "SET #stamp = :stamp, #data = :tomb, #version = if_not_exists(#version, :floor), "
    "#expiresAt = :ttl",
    f"attribute_not_exists(#owner) AND {_NEWER}",
)
_FREE_BY_FORCE = "SET #stamp = :stamp, #data = :tomb, #expiresAt = :ttl REMOVE #owner"
FORCE = Update(
    _FREE_BY_FORCE,
    "attribute_exists(#data.#nonce) AND #stamp <= :stamp AND #version > :zero",
    "NONE",
)
FORCE_SEEN = Update(_FREE_BY_FORCE, "#data.#nonce = :nonce", "NONE")
