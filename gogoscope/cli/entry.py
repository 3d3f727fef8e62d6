"""The door of the command line, which says what to install if a package is missing.

Loading the packages takes a good part of a second, in which Ctrl-C may come, too.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from gogoscope.cli.exits import ExitCode

run: Callable[[Sequence[str]], int] | None
try:
    from gogoscope.cli.program import run
except ModuleNotFoundError as error:
    _missing = (error.name or "").partition(".")[0]
    if _missing not in ("cyclopts", "rich"):
        raise
    run = None
except KeyboardInterrupt:
    sys.exit(ExitCode.INTERRUPTED)


def main() -> None:
    """Run the command line with the arguments of this process, and end it with its exit code."""
    if run is None:
        sys.stderr.write(
            f"gogoscope: the command line needs {_missing}; run: pip install 'gogoscope[cli]'\n"
        )
        sys.exit(ExitCode.NOT_SUPPORTED)
    sys.exit(run(sys.argv[1:]))
