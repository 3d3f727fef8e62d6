"""The door of the command line, which says what to install if a package is missing."""

from __future__ import annotations

import sys

from gogoscope.cli.exits import ExitCode

try:
    from gogoscope.cli.program import run
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] not in ("cyclopts", "rich"):
        raise
    _missing: str | None = error.name
else:
    _missing = None


def main() -> None:
    """Run the command line with the arguments of this process, and end it with its exit code."""
    if _missing is not None:
        sys.stderr.write(
            f"gogoscope: the command line needs {_missing}; run: pip install 'gogoscope[cli]'\n"
        )
        sys.exit(ExitCode.NOT_SUPPORTED)
    sys.exit(run(sys.argv[1:]))
