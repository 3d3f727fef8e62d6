"""The commands and their arguments.

Each command returns what is to be done with the store, which is then opened for that alone. So the
help, and whatever is wrong with the arguments, needs no store and no event loop.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated, Literal

from attrs import frozen
from cyclopts import App, Group, Parameter

from gogoscope import persistence
from gogoscope.cli import changing, reading
from gogoscope.cli.doctor import examine, explain
from gogoscope.cli.exits import MEANINGS, EndedError, ExitCode
from gogoscope.cli.listings import LISTINGS, Listing
from gogoscope.cli.output import Output
from gogoscope.cli.session import Session
from gogoscope.cli.terminal import Printer

VARIABLE = "GOGOSCOPE_STORE"
WATCH_SECONDS = 2.0


@Parameter(name="*", group=Group("Store and output", sort_key=1))
@frozen
class Common:
    """What every command takes.

    :param store: URL of the store
    :param json: print one JSON document
    """

    store: Annotated[str | None, Parameter(env_var=VARIABLE, help="URL of the store")] = None
    json: Annotated[bool, Parameter(negative="", help="print one JSON document")] = False


Pattern = Annotated[
    str | None, Parameter(help="which ones, as a glob: * is any characters, and ? any one")
]
Yes = Annotated[bool, Parameter(name=("--yes", "-y"), negative="", help="do not ask")]


@frozen
class Call:
    """What a command is to do with the store.

    :param act: does it
    :param common: what every command takes
    :param agreed: whether every question is answered with yes
    :param explain: tells why the store cannot be opened as it is configured, in place of one line
    """

    act: Callable[[Session], Awaitable[None]]
    common: Common | None
    agreed: bool = False
    explain: Callable[[Output, str, Exception], None] | None = None


def _epilogue() -> str:
    codes = "\n".join(f"{code:4}  {meaning}" for code, meaning in MEANINGS.items())
    return f"Exit codes:\n{codes}"


app = App(
    name="gogoscope",
    help="Show what a store of gogoscope holds, and set it right by hand.",
    help_epilogue=_epilogue(),
    help_format="plaintext",
    version_flags=["--version"],
    console=Printer(),
)


def _check(name: str, key: str) -> str:
    try:
        return persistence.check_key(key, name)
    except ValueError as error:
        raise EndedError(ExitCode.WRONG_USE, str(error)) from error


def _check_pattern(pattern: str | None) -> None:
    if pattern:
        _check("PATTERN", pattern)


def _listing_command(listing: Listing) -> Callable[..., Call]:
    def list_all(
        pattern: Pattern = None,
        /,
        *,
        watch: Annotated[bool, Parameter(negative="", help="list again until Ctrl-C")] = False,
        every: Annotated[float, Parameter(help="seconds between two lists")] = WATCH_SECONDS,
        common: Common | None = None,
    ) -> Call:
        _check_pattern(pattern)
        if not watch:
            return Call(partial(reading.list_all, listing=listing, pattern=pattern), common)
        if not 0.1 <= every <= 86_400:
            raise EndedError(ExitCode.WRONG_USE, f"--every must be 0.1 to 86400, got {every:g}")
        return Call(partial(reading.watch, listing=listing, pattern=pattern, every=every), common)

    return list_all


for _listing in LISTINGS:
    app.command(_listing_command(_listing), name=_listing.name, help=_listing.about)


@app.command
def holder(key: str, /, *, common: Common | None = None) -> Call:
    """Show who holds a lock."""
    return Call(partial(reading.show_holder, key=_check("KEY", key)), common)


@app.command
def release(
    key: str,
    /,
    *,
    kind: Annotated[
        Literal["lock", "semaphore", "read-write-lock"], Parameter(help="what the key names")
    ] = "lock",
    token: Annotated[
        int | None, Parameter(help="the fencing token of the only permit to free; all if left out")
    ] = None,
    yes: Yes = False,
    common: Common | None = None,
) -> Call:
    """Free a lock, a semaphore or a read/write lock, whoever holds it."""
    _check("KEY", key)
    if kind == "lock":
        if token is not None:
            raise EndedError(ExitCode.WRONG_USE, "--token is for semaphores and read/write locks")
        return Call(partial(changing.release, key=key), common, yes)
    name = kind.replace("-", "_")
    act = partial(changing.release_permits, kind=name, key=key, token=token)
    return Call(act, common, yes)


def _change_command(command: str, act: Callable[..., Awaitable[None]]) -> Callable[..., Call]:
    def change(name: str, /, *, yes: Yes = False, common: Common | None = None) -> Call:
        return Call(partial(act, name=_check("NAME", name), command=command), common, yes)

    return change


for _command, (_, _about) in changing.CIRCUIT_CHANGES.items():
    app.command(_change_command(_command, changing.set_circuit), name=_command, help=_about)
for _command, (_, _about) in changing.SCHEDULE_CHANGES.items():
    app.command(_change_command(_command, changing.set_schedule), name=_command, help=_about)


@app.command
def keys(pattern: Pattern = None, /, *, common: Common | None = None) -> Call:
    """List the keys of cached values."""
    _check_pattern(pattern)
    return Call(partial(reading.list_keys, pattern=pattern), common)


@app.command
def get(key: str, /, *, common: Common | None = None) -> Call:
    """Show a cached value, as JSON."""
    return Call(partial(reading.show_value, key=_check("KEY", key)), common)


@app.command
def resolve(
    key: str,
    /,
    *,
    result: Annotated[
        str | None, Parameter(help="what the run returned, as JSON", allow_leading_hyphen=True)
    ] = None,
    repeat: Annotated[bool, Parameter(negative="", help="let the next caller run again")] = False,
    keep: Annotated[
        float | None,
        Parameter(help="seconds for which the result is kept; for ever if left out"),
    ] = None,
    yes: Yes = False,
    common: Common | None = None,
) -> Call:
    """Say what came of a run that died: its result, or that it is to be repeated."""
    if (result is not None) == repeat:
        raise EndedError(ExitCode.WRONG_USE, "pass either --result or --repeat")
    if keep is not None and not (0 < keep <= 3e9 and not repeat):
        raise EndedError(ExitCode.WRONG_USE, "--keep must be more than 0, and goes with --result")
    act = partial(changing.resolve, key=_check("KEY", key), result=result, repeat=repeat, keep=keep)
    return Call(act, common, yes)


@app.command
def doctor(*, common: Common | None = None) -> Call:
    """Look for what is wrong with the store, and say what to do; exit with 1 if anything is.

    It writes, reads and removes a value and a lock below the store's prefix.
    """
    return Call(examine, common, explain=explain)
