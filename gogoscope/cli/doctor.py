"""``gogoscope doctor``: looks for what is wrong with a store, and says what to do.

What every store can do is tried here, through its capabilities, under a key that nobody else has.
What only a store knows of itself, it tells as an ``Examinable``.
"""

from __future__ import annotations

import secrets
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from functools import partial
from importlib.metadata import version
from typing import Any

from attrs import asdict

import gogoscope
from gogoscope import persistence
from gogoscope._core.arguments import printable
from gogoscope.cli import terminal
from gogoscope.cli.exits import EndedError, ExitCode
from gogoscope.cli.output import Output, say
from gogoscope.cli.session import Session
from gogoscope.persistence import Finding

REQUESTS = 20
SLOW_SECONDS = 0.5
SAMPLED = 1000
MOST_PREFIXES = 10
TRIAL_SECONDS = 60
TRIAL = "gogoscope-doctor-"
SEPARATORS = ":/.|#"

CANNOT_OPEN = (
    "see whether the URL names the right user, password and place, and whether that user has what "
    "the guide to the stores lists"
)
HEADINGS = ("check", "state", "found", "what to do")


async def examine(session: Session) -> None:
    """Print what was found out about a store.

    :raises EndedError: if anything is wrong
    """
    say(
        f"examining {session.url}: {2 * REQUESTS} small requests, one value and one lock that are "
        f"removed again, and the names of at most {SAMPLED:,} keys of each kind"
    )
    _tell(session.output, session.url, [finding async for finding in _findings(session)])


def explain(output: Output, url: str, error: Exception) -> None:
    """Print why a store cannot be used as it is configured.

    :raises EndedError: since that is wrong
    """
    told = " ".join(str(error).split())
    _tell(output, url, [Finding("opening", "wrong", told, CANNOT_OPEN)])


def _tell(output: Output, url: str, findings: Sequence[Finding]) -> None:
    wrong = [finding.check for finding in findings if finding.state == "wrong"]
    if output.json:
        described = [asdict(finding) for finding in findings]
        output.document({"store": url, "healthy": not wrong, "findings": described})
    else:
        rows = [(one.check, one.state, one.found, one.advice or "") for one in findings]
        if output.terminal:
            terminal.show(terminal.rows(HEADINGS, rows))
        else:
            for row in rows:
                output.line("\t".join(map(printable, row)))
    if wrong:
        raise EndedError(ExitCode.FOUND, f"something is wrong with {', '.join(wrong)}")


async def _findings(session: Session) -> AsyncIterator[Finding]:
    python = ".".join(map(str, sys.version_info[:3]))
    yield Finding("version", "fine", f"gogoscope {version('gogoscope')} on Python {python}")
    yield await _timed("reads", session.store.ping)
    bundle = persistence.Persistence.of(session.store)
    key = f"{TRIAL}{secrets.token_hex(8)}"
    if bundle.cache is not None:
        cache = bundle.cache
        yield await _tried("values", "may be written, read and removed", _use_value, cache, key)
        yield await _tried("writes", "", _time_writes, cache, key)
        yield await _tried("lists", "keys may be listed", _list_keys, cache, key)
    if bundle.locks is not None:
        yield await _tried("locks", "may be taken and released", _use_lock, bundle.locks, key)
    for name, read in _readers(bundle):
        yield await _tried(name, "may be read", read, key)
    try:
        examined: Any = session.store.capability(persistence.Examinable)
    except gogoscope.CapabilityNotSupportedError:
        yield Finding("server", "doubtful", "this store tells nothing of it", "ask its makers")
        return
    try:
        for finding in await examined.examine():
            yield finding
        yield _prefixes(session.prefix, await examined.sample_keys(SAMPLED))
    except gogoscope.GogoscopeError as error:
        yield _failed("server", error)


def _readers(bundle: Any) -> Iterable[tuple[str, Callable[[str], Awaitable[object]]]]:
    """Return what else can be read of a key that is not there, without a trace."""
    if bundle.circuit_breakers is not None:
        yield "circuits", bundle.circuit_breakers.get_state
    if bundle.runs is not None:
        yield "runs", bundle.runs.read_run
    if bundle.jobs is not None:
        yield "jobs", bundle.jobs.read_job
    if bundle.permits is not None:
        yield "permits", partial(bundle.permits.read_permits, "semaphore")
    if bundle.rate_limits is not None:
        yield "rates", bundle.rate_limits.read_rate
    if bundle.schedules is not None:
        yield "schedules", bundle.schedules.read_schedule


async def _tried(
    check: str, success: str, trial: Callable[..., Awaitable[object]], *args: object
) -> Finding:
    """Return what came of a trial: what it returned, if that is a finding."""
    try:
        came = await trial(*args)
    except gogoscope.GogoscopeError as error:
        return _failed(check, error)
    return came if isinstance(came, Finding) else Finding(check, "fine", success)


def _failed(check: str, error: Exception) -> Finding:
    advice = (
        "grant it what the guide to the stores lists"
        if isinstance(error, gogoscope.ConfigurationError)
        else "see what the server and its log say"
    )
    return Finding(check, "wrong", " ".join(str(error).split()), advice)


async def _use_value(cache: Any, key: str) -> Finding | None:
    written = {"by": "gogoscope doctor"}
    await cache.set(key, written, TRIAL_SECONDS)
    entry = await cache.get_entry(key, latest=True)
    await cache.delete(key)
    if entry is None or entry.value != written:
        found = "a value was not there when it was read again"
        return Finding("values", "wrong", found, "look who else writes to this store")
    return None


async def _use_lock(locks: Any, key: str) -> Finding | None:
    handle = await locks.acquire(key, TRIAL_SECONDS)
    if handle is None:
        found = "a lock that nobody holds was refused"
        return Finding("locks", "wrong", found, "look who else writes to this store")
    await handle.release()
    return None


async def _list_keys(cache: Any, key: str) -> None:
    # Of those that begin like this one there are none, and one page tells as much.
    async for _ in cache.iterate_keys(f"{key}*"):
        return


async def _time_writes(cache: Any, key: str) -> Finding:
    async def write() -> None:
        await cache.set(key, 1, TRIAL_SECONDS)

    try:
        return await _timed("writes", write)
    finally:
        await cache.delete(key)


async def _timed(check: str, request: Callable[[], Awaitable[object]]) -> Finding:
    took = []
    for _ in range(REQUESTS):
        began = time.perf_counter()
        await request()
        took.append(time.perf_counter() - began)
    took.sort()
    median, high, longest = (took[int(part * (REQUESTS - 1))] for part in (0.5, 0.95, 1))
    found = (
        f"{median * 1000:.1f} ms at the median, {high * 1000:.1f} ms at 95 %, "
        f"{longest * 1000:.1f} ms at most, of {REQUESTS}"
    )
    if high < SLOW_SECONDS:
        return Finding(check, "fine", found)
    advice = "look at the network and at the load of the server: leases have to be renewed in time"
    return Finding(check, "wrong", found, advice)


def _prefixes(own: str, sampled: dict[str, list[str]]) -> Finding:
    """Return which prefixes are in use, as far as was looked, and whether the store's own is."""
    found_by_kind = {
        kind: [key for key in found if TRIAL not in key] for kind, found in sampled.items()
    }
    keys = [key for found in found_by_kind.values() for key in found]
    counted = Counter(_prefix_of(key) for key in keys).most_common(MOST_PREFIXES)
    listing = ", ".join(f"{prefix} ({count:,})" for prefix, count in counted) or "no keys"
    kinds = ", ".join(f"{len(found):,} of {kind}" for kind, found in found_by_kind.items() if found)
    found = f"{listing}; among {kinds}" if kinds else listing
    if keys and own and not any(key.startswith(own) for key in keys):
        advice = f"make sure that key_prefix={own} is the one that the programs use"
        return Finding("prefixes", "doubtful", f"none of them {own}: {found}", advice)
    return Finding("prefixes", "fine", found)


def _prefix_of(key: str) -> str:
    ends = [place for separator in SEPARATORS if (place := key.find(separator)) > 0]
    return key[: min(ends) + 1] if ends else "without a prefix"
