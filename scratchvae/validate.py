"""Checks of arguments: each returns the value, or raises a ValueError that names the argument."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np


def integer(name: str, value: Any, low: int = 1) -> int:
    """Return ``value`` as an int >= ``low``."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < low:
        raise ValueError(f"{name}: got {value!r}, want an integer >= {low}")
    return int(value)


def integers(name: str, value: Any) -> tuple[int, ...]:
    """Return ``value``, a sequence of integers >= 1, as a tuple; it may be empty."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise ValueError(f"{name}: got {value!r}, want a sequence of integers such as (400,)")
    return tuple(integer(name, item) for item in value)


def choice(name: str, value: Any, choices: Iterable[str]) -> str:
    """Return ``value``, one of ``choices``."""
    choices = tuple(choices)
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name}: got {value!r}, want one of {', '.join(map(repr, choices))}")
    return value


def number(
    name: str, value: Any, low: float = 0, high: float = math.inf, *, ends: str = "[]"
) -> float:
    """Return ``value`` as a finite float from ``low`` to ``high``; ``ends`` says which are in."""
    real = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    try:
        ok = real and math.isfinite(value) and low <= value <= high
    except OverflowError:  # an int too large for a float
        ok = False
    if not ok or (value == low and ends[0] == "(") or (value == high and ends[1] == ")"):
        above = f"{'>=' if ends[0] == '[' else '>'} {low}"
        below = "" if high == math.inf else f" and {'<=' if ends[1] == ']' else '<'} {high}"
        raise ValueError(f"{name}: got {value!r}, want a number {above}{below}")
    return float(value)
