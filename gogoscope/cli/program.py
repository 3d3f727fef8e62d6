"""One run of the program: it understands its arguments, asks the store, and ends with a code.

Whatever goes wrong is told in one line on the standard error, except for bugs.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
from cyclopts import CycloptsError

import gogoscope
from gogoscope import persistence
from gogoscope.cli.commands import VARIABLE, Call, Common, app
from gogoscope.cli.exits import EndedError, ExitCode
from gogoscope.cli.output import Output, drop_unwritten, say, telling_warnings, writing
from gogoscope.cli.session import Session

WRONG_URL = (
    gogoscope.InvalidURLError,
    gogoscope.UnknownBackendError,
    gogoscope.AmbiguousBackendError,
)
LACKING = (gogoscope.CapabilityNotSupportedError, gogoscope.BackendUnavailableError)


def run(arguments: Sequence[str]) -> int:
    """Run the command line, and return the exit code.

    :param arguments: those after the name of the program
    """
    _prepare_streams()
    try:
        code = _ended(arguments)
        with writing():
            sys.stdout.flush()
    except BrokenPipeError:
        drop_unwritten(sys.stdout)
        return ExitCode.PIPE_CLOSED
    except EndedError as ended:
        drop_unwritten(sys.stdout)
        say(f"gogoscope: {ended.line}")
        return ended.code
    return code


def _ended(arguments: Sequence[str]) -> ExitCode:
    """Run the command line but for what concerns the standard output."""
    try:
        call = _understood(arguments)
        if call is not None:
            with telling_warnings():
                anyio.run(_use_store, call)
    except EndedError as ended:
        if ended.code is ExitCode.OUTPUT_FAILED:
            raise
        say(f"gogoscope: {ended.line}")
        return ended.code
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        raise
    except gogoscope.GogoscopeError as error:
        say(f"gogoscope: {error}")
        if isinstance(error, WRONG_URL):
            return ExitCode.WRONG_USE
        return ExitCode.NOT_SUPPORTED if isinstance(error, LACKING) else ExitCode.STORE_FAILED
    except Exception:  # noqa: BLE001 - shown whole, since it is a bug
        for line in traceback.format_exc().splitlines():
            say(line)
        return ExitCode.BUG
    return ExitCode.FINE


def _understood(arguments: Sequence[str]) -> Call | None:
    """Return what is to be done with the store, ``None`` if it was done without one.

    :raises EndedError: if the arguments are wrong
    """
    try:
        command, bound, _ = app.parse_args(
            _command_first(arguments), print_error=False, exit_on_error=False
        )
        with writing():  # the help, or the version
            call = command(*bound.args, **bound.kwargs)
    except CycloptsError as error:
        told = str(error)
        if not told.endswith("..."):
            told = told.removesuffix(".")
        raise EndedError(ExitCode.WRONG_USE, f"{told}; see gogoscope --help") from error
    return call if isinstance(call, Call) else None


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


def _check_file(url: persistence.PersistenceURL) -> None:
    """Make sure that a file is there: opening it would make it, and find nothing."""
    if not url.url.startswith("sqlite:///"):
        return
    name = url.location[1:]
    try:
        found = Path(name).exists()
    except OSError as error:
        told = f"the file {name!r} cannot be looked at: {error.strerror}"
        raise EndedError(ExitCode.STORE_FAILED, told) from error
    if not found:
        raise EndedError(ExitCode.STORE_FAILED, f"there is no file {name!r}")


def _prepare_streams() -> None:
    """Let every text be read and written, and have streams where the shell has closed them."""
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - for the rest of the program
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 - likewise
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
