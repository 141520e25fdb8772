"""Chains of element-wise operations as one compiled loop on the host, where Numba is installed.

NumPy passes over its arrays once for every operation; a loop that does all of them to one element
after the other passes once. Nobody writes it: the function is called with names instead of arrays,
and each operation that it asks of NumPy becomes a line of the loop. They are the same operations in
the same order, so the results have the same bits (``tests/test_compiled.py``).

Only functions that write into their arguments become loops: the optimizers' updates. Numba has no
vector instructions for the exponential of the others, and is slower at it than NumPy.

Numba comes with the extra ``fast``; its import and its compiler take half a second, once a process.
``SCRATCHVAE_NUMBA=0`` in the environment does without it.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np

#: Elements from which on a loop is used: what is smaller is not worth the compiler's time.
LEAST = 1 << 12

#: Functions that are no loops, or for which there is no Numba.
_AS_THEY_STAND: set[Callable[..., Any]] = set()


def problem() -> str | None:
    """Say why nothing is compiled; None where Numba is at hand."""
    if os.environ.get("SCRATCHVAE_NUMBA", "1") == "0":
        return "SCRATCHVAE_NUMBA=0 is set"
    try:
        import numba  # noqa: F401
    except ModuleNotFoundError:
        return "faster with Numba: pip install 'scratchvae[fast]'"
    except ImportError as error:  # made for other versions of NumPy, say
        return str(error).splitlines()[0]
    return None


def call(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return ``function(numpy, *arguments)``, which a compiled loop computes if there is one."""
    first = arguments[0]
    if first.ndim == 1 and len(first) >= LEAST and function not in _AS_THEY_STAND:
        vectors = tuple(isinstance(a, np.ndarray) and a.ndim > 0 for a in arguments)
        shapes = {a.shape for a, vector in zip(arguments, vectors, strict=True) if vector}
        if shapes == {first.shape} and (loop := _loop(function, vectors)) is not None:
            number = first.dtype.type
            return loop(*(a if v else number(a) for a, v in zip(arguments, vectors, strict=True)))
    return function(np, *arguments)


@functools.cache
def _loop(function: Callable[..., Any], vectors: tuple[bool, ...]) -> Any:
    text = None
    with suppress(AttributeError, TypeError):
        text = source(function, vectors)
    if text is None or problem() is not None:
        _AS_THEY_STAND.add(function)
        return None
    import numba

    names: dict[str, Any] = {"np": np}
    exec(text, names)
    return numba.njit(error_model="numpy")(names["loop"])  # x / 0 is infinite, and no error


def source(function: Callable[..., Any], vectors: tuple[bool, ...]) -> str:
    """Return the loop that ``function(numpy, *arguments)`` is.

    ``vectors`` says which arguments are vectors, all of one length; the others are numbers. Raises
    TypeError, or AttributeError, where the function returns something or does anything else than
    operations of NumPy on its arguments, element by element.
    """
    lines: list[str] = []
    arguments = [f"x{i}" for i in range(len(vectors))]
    places = {f"e{i}": f"{x}[i]" for i, x in enumerate(arguments) if vectors[i]}
    names = [f"e{i}" if vectors[i] else x for i, x in enumerate(arguments)]
    if function(np, *(_Name(name, lines) for name in names)) is not None:
        raise TypeError(f"{function.__name__} returns something")
    written = {line.split(" = ")[0] for line in lines}
    if not written <= places.keys():
        raise TypeError(f"{function.__name__} writes into a number")
    lines[:0] = [f"{element} = {place}" for element, place in places.items()]
    lines += [f"{place} = {element}" for element, place in places.items() if element in written]
    head = f"def loop({', '.join(arguments)}):\n    for i in range(len(x0)):\n"
    return head + "".join(f"        {line}\n" for line in lines)


class _Name(np.lib.mixins.NDArrayOperatorsMixin):
    """Stands for an element or a number; what is computed from it becomes a line."""

    def __init__(self, name: str, lines: list[str]) -> None:
        self.name, self.lines = name, lines

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> _Name:
        out: _Name
        (out,) = options.pop("out", (None,))
        if method != "__call__" or options or not all(isinstance(x, _Name) for x in (*inputs, out)):
            raise TypeError(f"numpy.{ufunc.__name__} is asked for more than elements")
        operands = ", ".join(x.name for x in inputs)
        self.lines.append(f"{out.name} = np.{ufunc.__name__}({operands})")
        return out
