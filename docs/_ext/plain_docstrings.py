"""Docstrings are plain text: read as such, and not as markup.

An indented paragraph (a formula, an example) is kept as it stands; `code` in one pair of backticks
or two is code; lists are lists; every other sign stands for itself.
"""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx


def plain(lines: list[str]) -> list[str]:
    """Return the lines of a docstring as reStructuredText."""
    out: list[str] = []
    literal, blank = False, True
    for line in lines:
        indented = line.startswith("   ")
        if line.strip() and not indented:
            literal = False
        elif indented and blank and not literal:
            literal = True
            out += ["::", ""]
        out.append(line if literal else _escape(line))
        blank = not line.strip()
    return out


def _escape(line: str) -> str:
    """Return a line of text with its code marked and its other signs escaped."""
    pieces = re.split(r"``?([^`]+)``?", line)
    pieces[::2] = (re.sub(r"([\\*|]|_\b|\b_)", r"\\\1", text) for text in pieces[::2])
    for i in range(1, len(pieces), 2):  # "\\ " is nothing, and lets markup touch other signs
        before = "\\ " if pieces[i - 1].strip(" ") and pieces[i - 1][-1] != " " else ""
        after = "\\ " if pieces[i + 1] and pieces[i + 1][0] != " " else ""
        pieces[i] = f"{before}``{pieces[i]}``{after}"
    return "".join(pieces)


def process(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Sphinx's hook: change the lines in place."""
    lines[:] = plain(lines)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("autodoc-process-docstring", process, priority=600)  # after napoleon
    return {"parallel_read_safe": True}
