"""Makes Markdown of what the docstrings say in reStructuredText: roles, and ``::`` before code."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

ROLE = re.compile(r":(?:attr|class|exc|func|meth|mod):`~?([^`]+)`")
DOUBLE = re.compile(r"``([^`]+)``")
BEFORE_CODE = re.compile(r"(?P<text>\S?)::$", re.MULTILINE)


class Roles(Extension):
    """Rewrites each docstring before it is parsed."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Rewrite the docstring of a module, class, function or attribute."""
        if obj.docstring is None:
            return
        text = ROLE.sub(lambda role: f"`{role[1]}`", obj.docstring.value)
        text = DOUBLE.sub(r"`\1`", text)
        obj.docstring.value = BEFORE_CODE.sub(
            lambda found: f"{found['text']}:" if found["text"] else "", text
        )
