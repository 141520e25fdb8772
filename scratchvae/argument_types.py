"""Types of command line arguments: each turns a word into a value, or says what it wants."""

from __future__ import annotations

import math
from argparse import ArgumentTypeError
from collections.abc import Callable

MOST = 10**9  # of epochs, units ...: more is a slip of the finger


def whole(low: int, high: int | None = MOST) -> Callable[[str], int]:
    """The type of whole numbers from `low` to `high` (None: without end)."""

    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if value < low or (high is not None and value > high):
            want = f">= {low}" if high is None or value < low else f"from {low} to {high}"
            raise ArgumentTypeError(f"got {_shown(text)}, want a whole number {want}")
        return value

    return convert


count = whole(1)
index = whole(0)
seed = whole(0, None)


def widths(text: str) -> list[int]:
    """Whole numbers >= 1 with commas between them, or 'none'."""
    return [] if text == "none" else [count(part) for part in text.split(",")]


def real(text: str, want: str = "a number") -> float:
    """A finite number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ArgumentTypeError(f"got {_shown(text)}, want {want}")
    return value


def sigma(text: str) -> float | str:
    """A finite number or 'learned'."""
    return text if text == "learned" else real(text, "a number or 'learned'")


def path(text: str) -> str:
    """The name of a file or folder: not empty, as an unset shell variable would be."""
    if not text.strip():
        raise ArgumentTypeError(f"got {text!r}, want a path")
    return text


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")
