"""What a Redis server tells of itself: whether it keeps what it is given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from gogoscope.persistence import Finding, clock_finding, told_size
from gogoscope.stores.redis.server import Server

NEARLY_FULL = 0.9


async def info(server: Server) -> dict[str, str]:
    """Return what a server tells of itself, empty if this user may not ask."""
    answer = await server.look("INFO")
    lines = answer.decode(errors="replace").splitlines() if isinstance(answer, bytes) else []
    return dict(line.split(":", 1) for line in lines if ":" in line)


async def examine(server: Server) -> list[Finding]:
    """Look at a server and how it is set up."""
    told = await info(server)
    if not told:
        asked = "this user may not run INFO"
        return [
            Finding("server", "doubtful", asked, "grant the command 'info' to see the rest"),
            clock_finding(server.clock),
        ]
    return [*_findings(told), clock_finding(server.clock)]


async def describe_scan(server: Server) -> str:
    """Return what a scan reads."""
    keys = await server.look("DBSIZE")
    all_keys = f"all {keys:,} keys" if isinstance(keys, int) else "every key"
    return f"the name of {all_keys} of the database, by SCAN, and then what it shows"


def _findings(told: Mapping[str, str]) -> Iterator[Finding]:
    is_cluster = told.get("cluster_enabled") == "1"
    version = f"{told.get('server_name', 'redis')} {told.get('redis_version', 'unknown')}"
    yield Finding("server", "fine", f"{version}, {'of a cluster' if is_cluster else 'no cluster'}")
    yield _role(told)
    yield _eviction(told)
    yield _memory(told)
    yield _durability(told)


def _role(told: Mapping[str, str]) -> Finding:
    role = told.get("role", "unknown")
    if role == "slave":
        advice = "name the primary in the URL: a replica takes no writes"
        return Finding("role", "wrong", "a replica", advice)
    replicas = told.get("connected_slaves", "0")
    return Finding("role", "fine", f"a primary with {replicas} replicas")


def _eviction(told: Mapping[str, str]) -> Finding:
    policy = told.get("maxmemory_policy", "unknown")
    if policy == "noeviction":
        return Finding("eviction policy", "fine", policy)
    return Finding(
        "eviction policy",
        "wrong",
        f"{policy}, {told.get('evicted_keys', '0')} keys evicted",
        "set maxmemory-policy to noeviction: otherwise a full server removes locks that are held",
    )


def _memory(told: Mapping[str, str]) -> Finding:
    used, limit = int(told.get("used_memory", 0)), int(told.get("maxmemory", 0))
    if not limit:
        return Finding("memory", "fine", f"{told_size(used)} used, no limit")
    found = f"{told_size(used)} of {told_size(limit)} used"
    if used < NEARLY_FULL * limit:
        return Finding("memory", "fine", found)
    return Finding("memory", "wrong", found, "raise maxmemory, or keep less: a full server fails")


def _durability(told: Mapping[str, str]) -> Finding:
    if told.get("aof_enabled") == "1":
        return Finding("durability", "fine", "appendonly yes")
    return Finding(
        "durability",
        "doubtful",
        "appendonly no: a restart brings back an older snapshot, or nothing",
        "set appendonly to yes, unless locks and runs may be forgotten",
    )
