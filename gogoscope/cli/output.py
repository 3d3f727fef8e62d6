"""What is printed: one JSON document, lines for programs, or tables for people.

Nothing that comes from a store reaches a terminal as it is: what cannot be printed is escaped, and
JSON is ASCII.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TextIO

from attrs import frozen

from gogoscope._core.arguments import printable
from gogoscope.cli import terminal
from gogoscope.cli.exits import EndedError, ExitCode
from gogoscope.cli.fields import Field, for_programs
from gogoscope.cli.listings import Listing


@frozen
class Output:
    """Where and how to print.

    :param json: whether one JSON document is wanted
    :param terminal: whether people read the standard output
    """

    json: bool
    terminal: bool

    def records(self, listing: Listing, found: Mapping[str, Any]) -> None:
        """Print what was listed, in the order of the keys."""
        if self.json:
            self.document(document(listing, found))
        elif self.terminal:
            terminal.show(terminal.table(listing, found))
        else:
            for key, record in listing.rows(found):
                self.line("\t".join([printable(key), *cells(listing.fields, record)]))

    def record(self, listing: Listing, key: str, record: Any) -> None:
        """Print one record, with its key."""
        if self.json:
            self.document(described(listing, key, record))
        elif self.terminal:
            terminal.show(terminal.card(listing, key, record))
        else:
            self.line("\t".join([printable(key), *cells(listing.fields, record)]))

    def done(self, line: str, document: Mapping[str, Any]) -> None:
        """Print what was done."""
        if self.json:
            self.document(document)
        else:
            self.line(printable(line))

    def document(self, value: Any) -> None:
        """Print a JSON document: indented for people, else on one line."""
        self.line(json.dumps(value, indent=2 if self.terminal else None))

    def line(self, text: str) -> None:
        """Print a line.

        :raises BrokenPipeError: if nobody reads it any more
        :raises EndedError: if it cannot be written
        """
        with writing():
            sys.stdout.write(f"{text}\n")


@contextmanager
def writing() -> Iterator[None]:
    """Write to the standard output in a block.

    :raises BrokenPipeError: if nobody reads it any more
    :raises EndedError: if it cannot be written for another reason
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise EndedError(
            ExitCode.OUTPUT_FAILED, f"the output cannot be written: {error}"
        ) from error


def say(line: str) -> None:
    """Print one line for people on the standard error, with escapes for what cannot be printed."""
    with writing():
        sys.stdout.flush()
    _tell(line)


def _tell(line: str) -> None:
    try:
        sys.stderr.write(f"{printable(' '.join(line.splitlines()))}\n")
        sys.stderr.flush()
    except OSError:  # nobody can be told, and what was asked for is done all the same
        drop_unwritten(sys.stderr)


def drop_unwritten(stream: TextIO) -> None:
    """Let what could not be written go nowhere, which Python would try at its end once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class Notes(logging.Handler):
    """Tells each warning of the package in one line, and once, however often it is logged."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._told: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Tell it, with its error but without a traceback."""
        error = record.exc_info[1] if record.exc_info else None
        line = record.getMessage() if error is None else f"{record.getMessage()}: {error}"
        if line not in self._told:
            self._told.add(line)
            _tell(f"gogoscope: {line}")


@contextmanager
def telling_warnings() -> Iterator[None]:
    """Tell people the warnings of the package in a block."""
    logger, notes = logging.getLogger("gogoscope"), Notes()
    logger.addHandler(notes)
    try:
        yield
    finally:
        logger.removeHandler(notes)


def document(listing: Listing, found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON document of what was listed."""
    rows = [described(listing, key, record) for key, record in listing.rows(found)]
    return {listing.name.replace("-", "_"): rows}


def described(listing: Listing, key: str, record: Any) -> dict[str, Any]:
    """Return the JSON object of one record."""
    parts = {field.name: _plain(field.read(record)) for field in listing.fields}
    return {listing.key: key, **parts}


def cells(fields: Iterable[Field], record: Any) -> list[str]:
    """Return the parts of a record for programs."""
    return [for_programs(field.kind, _plain(field.read(record))) for field in fields]


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value
