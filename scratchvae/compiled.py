"""An optimizer's update as one compiled loop on the host, where Numba is installed.

NumPy passes over its arrays once for every operation; a loop that does all of them to one element
after the other passes once. Nobody writes it: the update is called with names instead of arrays,
and each operation that it asks of NumPy becomes a line of the loop. They are the same operations in
the same order, each of them rounded as IEEE 754 says, so the results have the same bits
(``tests/test_compiled.py``). NumPy's warnings of an overflow are not given.

Numba comes with the extra ``fast``. Its import and its compiler take more than half a second, once
for each optimizer and number of gradients that it adds up. ``SCRATCHVAE_NUMBA=0`` in the
environment does without it.
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
Scratch = tuple[int, ...]


def problem() -> str | None:
    """Say why nothing is compiled; None where Numba is at hand."""
    if os.environ.get("SCRATCHVAE_NUMBA", "1") == "0":
        return "SCRATCHVAE_NUMBA=0 is set"
    try:
        import numba

        return "NUMBA_DISABLE_JIT is set" if numba.config.DISABLE_JIT else None
    except Exception as error:  # it may be made for another NumPy, or broken in any way
        if isinstance(error, ModuleNotFoundError) and error.name == "numba":
            return 'faster with Numba: pip install "scratchvae[fast]"'
        return (str(error).splitlines() or [type(error).__name__])[0]


def loop(
    function: Callable[..., Any], vectors: int, numbers: int, dtype: Any, scratch: Scratch = ()
) -> Loop | None:
    """Return what does ``function(numpy, *arguments)`` in one loop; None where there is none.

    The arguments of the function are so many contiguous vectors of one length, no two of which
    overlap, and behind them numbers, all of ``dtype``: float32 or float64. The loop takes the same
    without the vectors with the numbers ``scratch``, which are for intermediate results: it keeps
    these in registers.
    """
    return None if problem() else _compiled(function, vectors, numbers, dtype, scratch)


@functools.cache
def _compiled(
    function: Callable[..., Any], vectors: int, numbers: int, dtype: Any, scratch: Scratch
) -> Loop | None:
    import numba

    names: dict[str, Any] = {"np": np}
    try:
        exec(source(function, vectors, numbers, scratch), names)
    except (AttributeError, TypeError):  # it does something else than operations on elements
        return None
    element = numba.from_dtype(np.dtype(dtype))
    signature = numba.void(*[element[::1]] * (vectors - len(scratch)), *[element] * numbers)
    compiled: Loop = numba.njit(signature, error_model="numpy")(names["loop"])  # x / 0: no error
    return compiled


def source(function: Callable[..., Any], vectors: int, numbers: int, scratch: Scratch = ()) -> str:
    """Return the loop that ``function(numpy, *arguments)`` is.

    Raises TypeError or AttributeError where the function does anything else than operations of
    ``EXACT`` on its arguments, with ``out`` one of its vectors, reads of ``scratch`` what it has
    not written, or returns something.
    """
    lines: list[str] = []
    elements = [_Name(f"e{i}", lines, known=i not in scratch) for i in range(vectors)]
    constants = [_Name(f"x{i}", lines) for i in range(vectors, vectors + numbers)]
    if function(np, *elements, *constants) is not None:
        raise TypeError(f"{function.__name__} returns something")
    written = {line.split(" = ")[0] for line in lines}
    if not written <= {e.name for e in elements}:
        raise TypeError(f"{function.__name__} writes into a number")
    kept = [i for i in range(vectors) if i not in scratch]
    lines[:0] = [f"e{i} = x{i}[i]" for i in kept]
    lines += [f"x{i}[i] = e{i}" for i in kept if f"e{i}" in written]
    arguments = [*(f"x{i}" for i in kept), *(x.name for x in constants)]
    head = f"def loop({', '.join(arguments)}):\n    for i in range(len({arguments[0]})):\n"
    return head + "".join(f"        {line}\n" for line in lines)


class _Name(np.lib.mixins.NDArrayOperatorsMixin):
    """Stands for an element or a number; what is computed from it becomes a line."""

    def __init__(self, name: str, lines: list[str], known: bool = True) -> None:
        self.name, self.lines, self.known = name, lines, known

    def __bool__(self) -> bool:
        raise TypeError("what is computed depends on a value")

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> _Name:
        out, *more = options.pop("out", (None,))
        names = not more and all(isinstance(x, _Name) for x in (*inputs, out))
        if ufunc not in EXACT or method != "__call__" or options or not names:
            raise TypeError(f"numpy.{ufunc.__name__} is asked for more than elements")
        if not all(x.known for x in inputs):
            raise TypeError("what is read has not been written")
        operands = ", ".join(x.name for x in inputs)
        self.lines.append(f"{out.name} = np.{ufunc.__name__}({operands})")
        result: _Name = out
        result.known = True
        return result
