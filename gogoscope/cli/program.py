"""The commands, their arguments, and how the program ends.

Each command returns what is to be done with the store, which is then opened for that alone. So the
help, and whatever is wrong with the arguments, needs no store and no event loop.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import anyio
from attrs import frozen
from cyclopts import App, CycloptsError, Group, Parameter

import gogoscope
from gogoscope import persistence
from gogoscope.cli import changing, reading
from gogoscope.cli.doctor import examine, explain
from gogoscope.cli.exits import MEANINGS, EndedError, ExitCode
from gogoscope.cli.listings import LISTINGS, Listing
from gogoscope.cli.output import Output, say
from gogoscope.cli.session import Session

VARIABLE = "GOGOSCOPE_STORE"
WATCH_SECONDS = 2.0
WRONG_URL = (
    gogoscope.InvalidURLError,
    gogoscope.UnknownBackendError,
    gogoscope.AmbiguousBackendError,
)


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
)


def _check(name: str, key: str) -> str:
    try:
        return persistence.check_key(key, name)
    except ValueError as error:
        raise EndedError(ExitCode.WRONG_USE, str(error)) from error


def _listing_command(listing: Listing) -> Callable[..., Call]:
    def list_all(
        pattern: Pattern = None,
        /,
        *,
        watch: Annotated[bool, Parameter(negative="", help="list again until Ctrl-C")] = False,
        every: Annotated[float, Parameter(help="seconds between two lists")] = WATCH_SECONDS,
        common: Common | None = None,
    ) -> Call:
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


def _circuit_command(command: str) -> Callable[..., Call]:
    def change(name: str, /, *, yes: Yes = False, common: Common | None = None) -> Call:
        act = partial(changing.set_circuit, name=_check("NAME", name), command=command)
        return Call(act, common, yes)

    return change


for _command, (_, _about) in changing.CIRCUIT_CHANGES.items():
    app.command(_circuit_command(_command), name=_command, help=_about)


@app.command
def keys(pattern: Pattern = None, /, *, common: Common | None = None) -> Call:
    """List the keys of cached values."""
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


def run(arguments: Sequence[str]) -> int:
    """Run the command line; print what goes wrong in one line; return the exit code.

    :param arguments: those after the name of the program
    """
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
    try:
        try:
            code = _run(arguments)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # What is still to be written at the end of the program goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.PIPE_CLOSED
    return code


def _run(arguments: Sequence[str]) -> int:
    try:
        try:
            command, bound, _ = app.parse_args(
                _command_first(arguments), print_error=False, exit_on_error=False
            )
            call = command(*bound.args, **bound.kwargs)
        except CycloptsError as error:
            told = str(error).rstrip(".")
            raise EndedError(ExitCode.WRONG_USE, f"{told}; see gogoscope --help") from error
        if isinstance(call, Call):
            anyio.run(_use_store, call)
    except EndedError as ended:
        say(f"gogoscope: {ended.line}")
        return ended.code
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        raise
    except gogoscope.GogoscopeError as error:
        say(f"gogoscope: {error}")
        return _code_of(error)
    except Exception:  # noqa: BLE001 - shown whole, since it is a bug
        for line in traceback.format_exc().splitlines():
            say(line)
        return ExitCode.BUG
    return ExitCode.FINE


def _command_first(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with what every command takes behind the command, not before it."""
    rest, moved = list(arguments), list[str]()
    while rest and rest[0].partition("=")[0] in ("--store", "--json"):
        width = 2 if rest[0] == "--store" else 1
        moved += rest[:width]
        del rest[:width]
    return [*rest[:1], *moved, *rest[1:]]


async def _use_store(call: Call) -> None:
    common = call.common or Common()
    if not common.store:
        raise EndedError(ExitCode.WRONG_USE, f"name the store: pass --store URL, or set {VARIABLE}")
    url = persistence.PersistenceURL.parse(common.store)
    _check_file(url)
    output = Output(json=common.json, terminal=sys.stdout.isatty())
    async with AsyncExitStack() as stack:
        try:
            store = await stack.enter_async_context(gogoscope.open_persistence(common.store))
            await store.ping()
        except gogoscope.ConfigurationError as error:
            if call.explain is None or isinstance(error, WRONG_URL):
                raise
            call.explain(output, str(url), error)
        else:
            prefix = url.options.get("key_prefix", "")
            await call.act(Session(store, str(url), prefix, output, call.agreed))


def _check_file(url: Any) -> None:
    """Make sure that a file is there: opening it would make it, and find nothing."""
    is_file = url.url.startswith("sqlite:///")
    if is_file and not Path(url.location[1:]).exists():
        raise EndedError(ExitCode.STORE_FAILED, f"there is no file {url.location[1:]!r}")


def _code_of(error: gogoscope.GogoscopeError) -> ExitCode:
    if isinstance(error, WRONG_URL):
        return ExitCode.WRONG_USE
    lacking = (gogoscope.CapabilityNotSupportedError, gogoscope.BackendUnavailableError)
    return ExitCode.NOT_SUPPORTED if isinstance(error, lacking) else ExitCode.STORE_FAILED
