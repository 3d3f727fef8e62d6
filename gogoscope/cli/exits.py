"""How the program ends: its exit codes, and what ends it early."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What the program tells the shell."""

    FINE = 0
    FOUND = 1
    WRONG_USE = 2
    STORE_FAILED = 3
    NOT_SUPPORTED = 4
    NOT_CONFIRMED = 5
    BUG = 70
    OUTPUT_FAILED = 74
    INTERRUPTED = 130
    PIPE_CLOSED = 141


MEANINGS = {
    ExitCode.FINE: "it was done, or was found",
    ExitCode.FOUND: "what was asked for is not there, or the doctor found something wrong",
    ExitCode.WRONG_USE: "wrong use: an unknown command or option, a malformed key, value or URL",
    ExitCode.STORE_FAILED: "the store failed: it is down, does not answer, or lets nobody in",
    ExitCode.NOT_SUPPORTED: "the store keeps no such thing, or a package is not installed",
    ExitCode.NOT_CONFIRMED: "nothing was changed: it was not confirmed, and there was no --yes",
    ExitCode.BUG: "a bug in gogoscope or in the store's client, with its traceback",
    ExitCode.OUTPUT_FAILED: "the output could not be written: the disk is full, say",
    ExitCode.INTERRUPTED: "ended by Ctrl-C",
    ExitCode.PIPE_CLOSED: "who read the output stopped reading",
}
"""What the help says of each exit code."""


class EndedError(Exception):
    """Ends the program with an exit code and one line on the standard error."""

    def __init__(self, code: ExitCode, line: str) -> None:
        super().__init__(code, line)
        self.code = code
        self.line = line
