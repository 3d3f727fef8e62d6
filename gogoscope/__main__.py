"""``python -m gogoscope``: the command line."""

from __future__ import annotations

from gogoscope.cli.entry import main

if __name__ == "__main__":
    main()
