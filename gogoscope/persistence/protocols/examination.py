"""What a store tells of itself to people who look for what is wrong."""

from __future__ import annotations

from typing import Literal, Protocol, runtime_checkable

from attrs import frozen


@frozen
class Finding:
    """What was found out about one thing.

    :param check: what was looked at, in one or two words
    :param state: ``"fine"``, ``"wrong"`` if somebody should do something about it, or
        ``"doubtful"`` if it may be meant to be like that, or could not be found out
    :param found: what was found
    :param advice: what to do, unless it is fine
    """

    check: str
    state: Literal["fine", "doubtful", "wrong"]
    found: str
    advice: str | None = None


@runtime_checkable
class Examinable(Protocol):
    """Tells what only a store of its kind knows: its server, how that is set, its clock.

    A store may have it or not. ``gogoscope doctor`` asks for it, and tries by itself what every
    store can do.
    """

    async def examine(self) -> list[Finding]:
        """Look at the server and how it is set up; changes nothing.

        What may not be looked at, for want of a permission, is a finding that is doubtful.

        :raises PersistenceError: if the store does not answer
        """
        ...

    async def describe_scan(self) -> str:
        """Return what a method such as ``keys()`` or ``locks()`` reads, for a sentence.

        For example, ``all of about 12,000 items of table 'app', each of which is charged``.

        :raises PersistenceError: if the store does not answer
        """
        ...

    async def sample_keys(self, limit: int) -> dict[str, list[str]]:
        """Return some of the keys that the store has, whatever its prefix, by their kind.

        :param limit: how many to look at, about, of each kind
        :returns: whole keys with their prefixes, under ``"lock"``, ``"circuit"``, ``"cache"``,
            ``"run"``, and so on
        :raises PersistenceError: if the store does not answer
        """
        ...
