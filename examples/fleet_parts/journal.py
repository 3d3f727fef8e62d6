"""Append-only files of facts, one JSON object a line; one process writes, another one reads.

Every line is flushed at once, so what a process did before it was killed is known.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Fact = dict[str, Any]


class Journal:
    """Writes facts, from any thread."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")
        self._guard = threading.Lock()

    def note(self, what: str, **details: Any) -> None:
        """Write one fact, with the current time."""
        with self._guard:
            fact = {"what": what, "at": time.monotonic(), **details}
            self._file.write(json.dumps(fact) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class JournalReader:
    """Reads the facts that were written since the last time."""

    def __init__(self, path: Path) -> None:
        path.touch()
        self._file = path.open(encoding="utf-8")
        self._begun = ""

    def new_facts(self) -> Iterator[Fact]:
        """Return each new fact whose line is complete."""
        while line := self._file.readline():
            self._begun += line
            if line.endswith("\n"):
                line, self._begun = self._begun, ""
                yield json.loads(line)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_facts(path: Path) -> list[Fact]:
    """Read a whole journal."""
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]
