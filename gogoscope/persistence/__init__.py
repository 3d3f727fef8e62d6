"""What the author of a store needs: the Protocols of the capabilities, and what helps to have them.

A store that has one conditional write implements :class:`CompareAndSwap`, and gets its records from
:class:`CompareAndSwapRecords`; one that has transactions derives them from :class:`Records`. Both
get all capabilities from :class:`RecordStore`. Any other store has the methods of each Protocol
itself.
Register what opens it as an entry point of the group ``gogoscope.persistence``, and test it with
:mod:`gogoscope.testing.conformance`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gogoscope._core.faces import face

if TYPE_CHECKING:
    from gogoscope._core.arguments import check_count
    from gogoscope._core.clock import Clock, ClockSteps, check_clock, current_clock, monotonic
    from gogoscope._core.detached import Detached
    from gogoscope._core.durations import seconds
    from gogoscope._core.event_loop import EventLoop, running
    from gogoscope._core.forks import after_fork, lock_across_forks, process_name
    from gogoscope._core.jitter import jittered, uniform
    from gogoscope.persistence.asking import nothing_done
    from gogoscope.persistence.bundle import Persistence
    from gogoscope.persistence.examining import clock_finding, told_offset, told_size
    from gogoscope.persistence.in_flight import for_each, side_by_side
    from gogoscope.persistence.life import Life
    from gogoscope.persistence.lock_claims import acquire_once
    from gogoscope.persistence.lock_handle import LockHandle
    from gogoscope.persistence.lock_records import (
        LeaseStore,
        LockClaim,
        LockHolder,
        LockRecord,
        LockReply,
        Steady,
        check_lock,
        describe_holder,
        describe_holders,
    )
    from gogoscope.persistence.paging import KEYS_PER_PAGE, Pages
    from gogoscope.persistence.protocols.cache import CacheEntry, CacheProvider
    from gogoscope.persistence.protocols.circuit_breakers import (
        DEFAULT_OPEN_MS,
        CircuitBreakerState,
        CircuitBreakerStateProvider,
        CircuitState,
        FailureReport,
        ProbeReply,
    )
    from gogoscope.persistence.protocols.examination import Examinable, Finding
    from gogoscope.persistence.protocols.locks import LockProvider
    from gogoscope.persistence.protocols.store import Store
    from gogoscope.persistence.records.compare_and_swap import (
        KEEP_MS,
        CompareAndSwap,
        Entry,
        Swapped,
    )
    from gogoscope.persistence.records.place import (
        Answer,
        Change,
        Kind,
        Record,
        RecordCapability,
        Records,
        json_kind,
    )
    from gogoscope.persistence.records.store import BaseStore, RecordStore, over_records
    from gogoscope.persistence.records.swapping import NUMBERS_PER_MS, CompareAndSwapRecords
    from gogoscope.persistence.room import NoRoomError, Room
    from gogoscope.persistence.rules import circuit_breakers as circuit_rules
    from gogoscope.persistence.rules import locks as lock_rules
    from gogoscope.persistence.server_clock import ServerClock
    from gogoscope.persistence.sharing import open_persistence
    from gogoscope.persistence.stored import corrupt_record, leave_out
    from gogoscope.persistence.tries import pause_before_try
    from gogoscope.persistence.urgency import is_urgent, time_of_try, urgently
    from gogoscope.persistence.url import PersistenceURL
    from gogoscope.persistence.validation import (
        check_circuit_state,
        check_key,
        check_key_prefix,
        check_keys,
        check_lease,
        check_mapping,
        check_max_clock_skew,
        check_stale,
        check_ttl,
        glob_matcher,
        literal_start,
    )
    from gogoscope.persistence.values import Codec, JSONCodec, check_codec

__all__ = [
    "DEFAULT_OPEN_MS",
    "KEEP_MS",
    "KEYS_PER_PAGE",
    "NUMBERS_PER_MS",
    "Answer",
    "BaseStore",
    "CacheEntry",
    "CacheProvider",
    "Change",
    "CircuitBreakerState",
    "CircuitBreakerStateProvider",
    "CircuitState",
    "Clock",
    "ClockSteps",
    "Codec",
    "CompareAndSwap",
    "CompareAndSwapRecords",
    "Detached",
    "Entry",
    "EventLoop",
    "Examinable",
    "FailureReport",
    "Finding",
    "JSONCodec",
    "Kind",
    "LeaseStore",
    "Life",
    "LockClaim",
    "LockHandle",
    "LockHolder",
    "LockProvider",
    "LockRecord",
    "LockReply",
    "NoRoomError",
    "Pages",
    "Persistence",
    "PersistenceURL",
    "ProbeReply",
    "Record",
    "RecordCapability",
    "RecordStore",
    "Records",
    "Room",
    "ServerClock",
    "Steady",
    "Store",
    "Swapped",
    "acquire_once",
    "after_fork",
    "check_circuit_state",
    "check_clock",
    "check_codec",
    "check_count",
    "check_key",
    "check_key_prefix",
    "check_keys",
    "check_lease",
    "check_lock",
    "check_mapping",
    "check_max_clock_skew",
    "check_stale",
    "check_ttl",
    "circuit_rules",
    "clock_finding",
    "corrupt_record",
    "current_clock",
    "describe_holder",
    "describe_holders",
    "for_each",
    "glob_matcher",
    "is_urgent",
    "jittered",
    "json_kind",
    "leave_out",
    "literal_start",
    "lock_across_forks",
    "lock_rules",
    "monotonic",
    "nothing_done",
    "open_persistence",
    "over_records",
    "pause_before_try",
    "process_name",
    "running",
    "seconds",
    "side_by_side",
    "time_of_try",
    "told_offset",
    "told_size",
    "uniform",
    "urgently",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = face(
        __name__,
        {
            "gogoscope._core.arguments": ("check_count",),
            "gogoscope._core.clock": (
                "Clock",
                "ClockSteps",
                "check_clock",
                "current_clock",
                "monotonic",
            ),
            "gogoscope._core.detached": ("Detached",),
            "gogoscope._core.durations": ("seconds",),
            "gogoscope._core.event_loop": ("EventLoop", "running"),
            "gogoscope._core.forks": ("after_fork", "lock_across_forks", "process_name"),
            "gogoscope._core.jitter": ("jittered", "uniform"),
            "gogoscope.persistence.asking": ("nothing_done",),
            "gogoscope.persistence.bundle": ("Persistence",),
            "gogoscope.persistence.examining": ("clock_finding", "told_offset", "told_size"),
            "gogoscope.persistence.life": ("Life",),
            "gogoscope.persistence.lock_claims": ("acquire_once",),
            "gogoscope.persistence.lock_handle": ("LockHandle",),
            "gogoscope.persistence.lock_records": (
                "LeaseStore",
                "LockClaim",
                "LockHolder",
                "LockRecord",
                "LockReply",
                "Steady",
                "check_lock",
                "describe_holder",
                "describe_holders",
            ),
            "gogoscope.persistence.paging": (
                "KEYS_PER_PAGE",
                "Pages",
            ),
            "gogoscope.persistence.protocols.cache": (
                "CacheEntry",
                "CacheProvider",
            ),
            "gogoscope.persistence.protocols.circuit_breakers": (
                "DEFAULT_OPEN_MS",
                "CircuitBreakerState",
                "CircuitBreakerStateProvider",
                "CircuitState",
                "FailureReport",
                "ProbeReply",
            ),
            "gogoscope.persistence.protocols.examination": ("Examinable", "Finding"),
            "gogoscope.persistence.protocols.locks": ("LockProvider",),
            "gogoscope.persistence.records.compare_and_swap": (
                "KEEP_MS",
                "CompareAndSwap",
                "Entry",
                "Swapped",
            ),
            "gogoscope.persistence.records.place": (
                "Answer",
                "Change",
                "Kind",
                "Record",
                "RecordCapability",
                "Records",
                "json_kind",
            ),
            "gogoscope.persistence.records.store": (
                "BaseStore",
                "RecordStore",
                "over_records",
            ),
            "gogoscope.persistence.records.swapping": ("NUMBERS_PER_MS", "CompareAndSwapRecords"),
            "gogoscope.persistence.room": ("NoRoomError", "Room"),
            "gogoscope.persistence.server_clock": ("ServerClock",),
            "gogoscope.persistence.sharing": ("open_persistence",),
            "gogoscope.persistence.tries": ("pause_before_try",),
            "gogoscope.persistence.urgency": ("is_urgent", "time_of_try", "urgently"),
            "gogoscope.persistence.url": ("PersistenceURL",),
            "gogoscope.persistence.protocols.store": ("Store",),
            "gogoscope.persistence.in_flight": ("for_each", "side_by_side"),
            "gogoscope.persistence.stored": ("corrupt_record", "leave_out"),
            "gogoscope.persistence.validation": (
                "check_circuit_state",
                "check_key",
                "check_key_prefix",
                "check_keys",
                "check_lease",
                "check_mapping",
                "check_max_clock_skew",
                "check_stale",
                "check_ttl",
                "glob_matcher",
                "literal_start",
            ),
            "gogoscope.persistence.values": (
                "Codec",
                "JSONCodec",
                "check_codec",
            ),
        },
        renamed={
            "circuit_rules": "gogoscope.persistence.rules.circuit_breakers",
            "lock_rules": "gogoscope.persistence.rules.locks",
        },
    )
