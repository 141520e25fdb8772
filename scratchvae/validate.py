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
    if not isinstance(value, Sequence) or isinstance(value, str | bytes | bytearray):
        raise ValueError(f"{name}: got {value!r}, want a sequence of integers such as (400,)")
    return tuple(integer(name, item) for item in value)


def boolean(name: str, value: Any) -> bool:
    """Return ``value``, True or False (or 1 or 0); "no", true to Python, is refused."""
    if not isinstance(value, bool | np.bool_ | int | np.integer) or value not in (0, 1):
        raise ValueError(f"{name}: got {value!r}, want True or False")
    return bool(value)


def dtype(value: Any) -> np.dtype[Any]:
    """Return ``value`` as the dtype of a network's parameters, float32 or float64."""
    try:
        result = np.dtype(object if value is None else value)
    except TypeError:
        result = np.dtype(object)
    if result not in (np.float32, np.float64):
        raise ValueError(f"dtype: got {value!r}, want 'float32' or 'float64'")
    return result


def floating(name: str, **arrays: Any) -> None:
    """Raise unless the arrays are floating-point (complex ones serve numerical derivatives).

    With integers a difference may wrap around, and a gradient has nowhere to be written.
    """
    for argument, array in arrays.items():
        if array.dtype.kind not in "fc":
            raise ValueError(
                f"{name}: {argument} is of dtype {array.dtype}, want floating-point values: "
                f"{argument}.astype('float32')"
            )


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
