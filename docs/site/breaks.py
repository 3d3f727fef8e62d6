"""Lets long names in tables break where a reader would: behind a slash or dot, before a word."""

from __future__ import annotations

import re
from typing import Any

CELL = re.compile(r"<td.*?</td>", re.DOTALL)
CODE = re.compile(r"(?<=<code>)[^<&]{15,}(?=</code>)")
JOINT = re.compile(r"(?<=\w[/_])(?=\w)|(?<=::)(?=\w)|(?<=[a-z])(?=[A-Z][a-z])")
DOT = re.compile(r"(?<=\w)\.(?=\w)")
SHORT = 24  # up to here, what stands around a dot stays together


def on_page_content(html: str, **_: Any) -> str:
    """Return the page with such places in the code of its tables."""
    return CELL.sub(lambda cell: CODE.sub(_with_breaks, cell[0]), html)


def _with_breaks(code: re.Match[str]) -> str:
    text = JOINT.sub("<wbr>", code[0])
    return DOT.sub(".<wbr>", text) if len(code[0]) > SHORT else text
