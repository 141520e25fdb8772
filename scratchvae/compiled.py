"""An optimizer's update as one compiled loop on the host, where Numba is installed.

NumPy passes over its arrays once for every operation; a loop that does all of them to one element
after the other passes once. Nobody writes it: the update is called with names instead of arrays,
and each operation that it asks of NumPy becomes a line of the loop. They are the same operations in
the same order, each of them rounded as IEEE 754 says, so the results have the same bits
(``tests/test_compiled.py``). NumPy's warnings of an overflow are not given.

Numba comes with the extra ``fast``. Its import and its compiler take more than half a second, once
a process for each optimizer. ``SCRATCHVAE_NUMBA=0`` in the environment does without it.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import numpy as np

#: What has one right result: others, as the exponential, have other last bits in Numba.
EXACT = frozenset({np.add, np.subtract, np.multiply, np.divide, np.sqrt, np.square, np.negative})

Loop = Callable[..., None]


def problem() -> str | None:
    """Say why nothing is compiled; None where Numba is at hand."""
    if os.environ.get("SCRATCHVAE_NUMBA", "1") == "0":
        return "SCRATCHVAE_NUMBA=0 is set"
    try:
        import numba

        return "NUMBA_DISABLE_JIT is set" if numba.config.DISABLE_JIT else None
    except Exception as error:  # it may be made for another NumPy, or broken in any way
        if isinstance(error, ModuleNotFoundError) and error.name == "numba":
            return "faster with Numba: pip install 'scratchvae[fast]'"
        return (str(error).splitlines() or [type(error).__name__])[0]


def loop(function: Callable[..., Any], vectors: int, numbers: int, dtype: Any) -> Loop | None:
    """Return what does ``function(numpy, *arguments)`` in one loop; None where there is none.

    The arguments of the function and of the loop are so many contiguous vectors of one length, no
    two of which overlap, and behind them numbers, all of ``dtype``: float32 or float64.
    """
    return None if problem() else _compiled(function, vectors, numbers, dtype)


@functools.cache
def _compiled(function: Callable[..., Any], vectors: int, numbers: int, dtype: Any) -> Loop | None:
    import numba

    names: dict[str, Any] = {"np": np}
    try:
        exec(source(function, vectors, numbers), names)
    except (AttributeError, TypeError):  # it does something else than operations on elements
        return None
    element = numba.from_dtype(np.dtype(dtype))
    signature = numba.void(*[element[::1]] * vectors, *[element] * numbers)
    compiled: Loop = numba.njit(signature, error_model="numpy")(names["loop"])  # x / 0: no error
    return compiled


def source(function: Callable[..., Any], vectors: int, numbers: int) -> str:
    """Return the loop that ``function(numpy, *arguments)`` is.

    Raises TypeError or AttributeError where the function does anything else than operations of
    ``EXACT`` on its arguments, with ``out`` one of its vectors, or returns something.
    """
    lines: list[str] = []
    arguments = [f"x{i}" for i in range(vectors + numbers)]
    elements = {f"e{i}": f"{x}[i]" for i, x in enumerate(arguments[:vectors])}
    names = [*elements, *arguments[vectors:]]
    if function(np, *(_Name(name, lines) for name in names)) is not None:
        raise TypeError(f"{function.__name__} returns something")
    written = {line.split(" = ")[0] for line in lines}
    if not written <= elements.keys():
        raise TypeError(f"{function.__name__} writes into a number")
    lines[:0] = [f"{element} = {place}" for element, place in elements.items()]
    lines += [f"{place} = {element}" for element, place in elements.items() if element in written]
    head = f"def loop({', '.join(arguments)}):\n    for i in range(len(x0)):\n"
    return head + "".join(f"        {line}\n" for line in lines)


class _Name(np.lib.mixins.NDArrayOperatorsMixin):
    """Stands for an element or a number; what is computed from it becomes a line."""

    def __init__(self, name: str, lines: list[str]) -> None:
        self.name, self.lines = name, lines

    def __bool__(self) -> bool:
        raise TypeError("what is computed depends on a value")

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> _Name:
        out, *more = options.pop("out", (None,))
        names = not more and all(isinstance(x, _Name) for x in (*inputs, out))
        if ufunc not in EXACT or method != "__call__" or options or not names:
            raise TypeError(f"numpy.{ufunc.__name__} is asked for more than elements")
        operands = ", ".join(x.name for x in inputs)
        self.lines.append(f"{out.name} = np.{ufunc.__name__}({operands})")
        result: _Name = out
        return result
