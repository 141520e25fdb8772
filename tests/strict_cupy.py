"""A strict stand-in for CuPy, so that machines without a GPU can test the GPU path.

Its arrays wrap NumPy arrays, hence give NumPy's numbers, and behave as CuPy's do where the two
differ: they refuse to become NumPy arrays or to mix with them, reductions and single elements stay
0-d arrays on the device, no floating-point warnings are raised, and only names and arguments that
CuPy has are offered. Host synchronisations and host-to-device transfers are counted::

    cupy = strict_cupy.install(monkeypatch)
    with cupy_counts() as counts:
        step()
    assert counts.synchronisations == 0, counts.synchronised

What is offered is common to CuPy 13.0 and 14.2: ``test_strict_cupy.py`` compares every name and
signature with the real CuPy where that is installed, which takes no GPU. Where CuPy accepts
something that is slow, silent or undefined, the stand-in refuses it: a NumPy function called on a
device array, host arrays or lists as indices, an ``out`` that overlaps an input, a NumPy array
where an array is expected. ``empty`` is filled with NaN.

Stream capture is as strict (after CuPy's tests/cupy_tests/cuda_tests/test_graph.py): what runs on a
capturing stream is recorded and not executed, its results hold NaN until the graph is launched;
reading a number, sending an array and calling cuBLAS through CuPy are refused; waiting spoils the
capture. Memory must come from a pool of its own, which must outlive the graph; its arrays hold NaN
once the pool is gone. A kernel on one stream while another has unfinished work is refused where
only luck would order the two. The C interface of cuBLAS is there too: see ``_Cublas``.
"""

from __future__ import annotations

import contextlib
import ctypes
import inspect
import itertools
import operator
import sys
import types
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

# ---------------------------------------------------------------------------------------------
# Counting


@dataclass(eq=False)
class Counts:
    """What happened within ``with cupy_counts() as counts``, and where."""

    synchronised: list[str] = field(default_factory=list)
    transferred: list[str] = field(default_factory=list)

    @property
    def synchronisations(self) -> int:
        """How often the host waited for the device."""
        return len(self.synchronised)

    @property
    def transfers(self) -> int:
        """How often an array went from the host to the device."""
        return len(self.transferred)


_counting: list[Counts] = []


@contextmanager
def cupy_counts() -> Iterator[Counts]:
    """Count synchronisations and transfers; nested counts count the same events."""
    counts = Counts()
    _counting.append(counts)
    try:
        yield counts
    finally:
        _counting.remove(counts)


def _where(what: str) -> str:
    frame = sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    return f"{what} at {Path(frame.f_code.co_filename).name}:{frame.f_lineno}"


def _synchronise(what: str) -> None:
    _refuse_in_capture("synchronous API calls")
    for counts in _counting:
        counts.synchronised.append(_where(what))


def _transfer(what: str) -> None:
    _refuse_in_capture("H2D transfers")
    for counts in _counting:
        counts.transferred.append(_where(what))


# ---------------------------------------------------------------------------------------------
# Kernels: run, or recorded


def _capturing() -> bool:
    return _machine.stream._recording is not None


def _refuse_in_capture(what: str) -> None:
    if _capturing():
        raise RuntimeError(f"the current stream is capturing, so {what} are disallowed")


def _garbage(array: np.ndarray) -> None:
    """Fill as memory is that nobody has written yet; indices stay valid, so that shapes follow."""
    array.fill(np.nan if array.dtype.kind in "fc" else 0)


def _launch(kernel: Callable[[], Any]) -> None:
    """Run a kernel that writes into arrays which are there, or record it."""
    stream = _machine.stream
    for other in _machine.busy:
        if other is not stream and (other._non_blocking or stream._non_blocking):
            raise RuntimeError("two streams at once: synchronize the other one first")
    if stream._recording is not None:
        stream._recording.append(kernel)
        return
    _machine.busy.add(stream)
    kernel()


def _compute(function: Callable[[], Any], *inputs: Any) -> Any:
    """Return what ``function`` computes, as new arrays; a view of one of the inputs stays one."""
    with np.errstate(all="ignore"):
        result = function()
    if isinstance(result, tuple):
        hosts = tuple(np.asarray(part) for part in result)
    else:
        hosts = (np.asarray(result),)
    arrays = [x for x in inputs if isinstance(x, np.ndarray)]
    if any(np.may_share_memory(host, x) for host in hosts for x in arrays):
        return _device(result)  # no kernel
    hosts = tuple(_allocated(host) for host in hosts)
    if _capturing():
        for host in hosts:
            _garbage(host)

        def kernel() -> None:
            with np.errstate(all="ignore"):
                again = function()
            parts = again if isinstance(again, tuple) else (again,)
            for host, part in zip(hosts, parts, strict=True):
                host[...] = part

        _launch(kernel)
    else:
        _launch(lambda: None)
    return _device(hosts if isinstance(result, tuple) else hosts[0])


def _allocated(host: np.ndarray) -> np.ndarray:
    """Account for new memory, which while capturing must come from a pool that the graph keeps."""
    pool = _machine.pool
    if pool is not None:
        pool._arrays.append(weakref.ref(host))
        if _capturing():
            pool._reserved.append(host)  # a graph's addresses stay its own
    elif _capturing():
        raise RuntimeError(_where("memory outside a private pool while capturing"))
    return host


# ---------------------------------------------------------------------------------------------
# Arguments

_SCALARS = (bool, int, float, complex, np.generic)


def _host(x: Any) -> Any:
    """Return what NumPy computes on for an operand: a device array or a scalar, nothing else."""
    if isinstance(x, ndarray):
        return x._host
    if isinstance(x, _SCALARS):
        return x
    raise TypeError(f"Unsupported type {type(x)}")


def _host_array(x: Any) -> np.ndarray:
    if not isinstance(x, ndarray):
        raise TypeError(f"Unsupported type {type(x)}")
    return x._host


def _device(result: Any) -> Any:
    if isinstance(result, tuple):
        return tuple(_device(part) for part in result)
    return ndarray(np.asarray(result))


def _overlap(a: np.ndarray, b: np.ndarray) -> bool:
    same = a.ctypes.data == b.ctypes.data and a.shape == b.shape and a.strides == b.strides
    return not same and np.shares_memory(a, b)


# ---------------------------------------------------------------------------------------------
# The array


class ndarray:
    """An array "on the device"; ``_host`` is the NumPy array that plays its memory."""

    __slots__ = ("__weakref__", "_host")
    __hash__ = None  # type: ignore[assignment]
    # NumPy's operators then leave the work to ours, and NumPy's ufuncs refuse the array.
    __array_ufunc__ = None

    def __init__(self, host: np.ndarray) -> None:
        if not isinstance(host, np.ndarray):
            raise TypeError("the stand-in does not offer ndarray(shape): use empty or zeros")
        if host.dtype.char not in "?bBhHiIlLqQefdFD":
            raise ValueError(f"Unsupported dtype {host.dtype}")
        _check_driver()
        self._host = host

    # NumPy's protocols

    def __array__(self, *args: Any, **kwargs: Any) -> None:
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. "
            "Please use `.get()` to construct a NumPy array explicitly."
        )

    def __array_function__(self, func: Any, *args: Any) -> None:
        raise TypeError(
            f"np.{func.__name__} was called on a device array; "
            f"call {func.__name__} of the array's own module"
        )

    # What waits for the device

    def get(self, *, out: np.ndarray | None = None) -> np.ndarray:
        _synchronise("get")
        if out is None:
            return self._host.copy()
        if not isinstance(out, np.ndarray) or out.dtype != self.dtype:
            raise TypeError("Only numpy.ndarray of the same dtype can be obtained")
        if out.shape != self.shape:
            raise ValueError(f"Shape mismatch. Expected shape: {self.shape}, actual: {out.shape}")
        out[...] = self._host
        return out

    def item(self) -> Any:
        if self.size != 1:
            raise ValueError("can only convert an array of size 1 to a Python scalar")
        return self.get().item()

    def tolist(self) -> Any:
        return self.get().tolist()

    def __bool__(self) -> bool:
        if self.size != 1:
            raise ValueError("The truth value of an array with more than one element is ambiguous")
        return bool(self.get())

    def __int__(self) -> int:
        return int(self.get())

    def __float__(self) -> float:
        return float(self.get())

    def __repr__(self) -> str:
        return repr(self.get())

    def __str__(self) -> str:
        return str(self.get())

    def __format__(self, spec: str) -> str:
        return format(self.get(), spec)

    def __reduce__(self) -> Any:
        return _asarray, (self.get(),)

    # What does not

    @property
    def shape(self) -> tuple[int, ...]:
        return self._host.shape

    @property
    def dtype(self) -> np.dtype:
        return self._host.dtype

    @property
    def ndim(self) -> int:
        return self._host.ndim

    @property
    def size(self) -> int:
        return self._host.size

    @property
    def itemsize(self) -> int:
        return self._host.itemsize

    @property
    def nbytes(self) -> int:
        return self._host.nbytes

    @property
    def strides(self) -> tuple[int, ...]:
        return self._host.strides

    @property
    def flags(self) -> types.SimpleNamespace:
        """Layout only: as in CuPy, there is no ``writeable``."""
        flags = self._host.flags
        names = ("c_contiguous", "f_contiguous", "owndata")
        return types.SimpleNamespace(**{name: getattr(flags, name) for name in names})

    @property
    def data(self) -> types.SimpleNamespace:
        return types.SimpleNamespace(ptr=self._host.ctypes.data)

    @property
    def T(self) -> ndarray:
        return ndarray(self._host.T)

    def __len__(self) -> int:
        if self.ndim == 0:
            raise TypeError("len() of unsized object")
        return self.shape[0]

    def __iter__(self) -> Iterator[ndarray]:
        if self.ndim == 0:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(self.shape[0]))

    def set(self, arr: np.ndarray) -> None:
        if not isinstance(arr, np.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        if self.dtype != arr.dtype:
            raise TypeError(f"{arr.dtype} array cannot be set to {self.dtype} array")
        if self.shape != arr.shape:
            raise ValueError(f"Shape mismatch. Old shape: {self.shape}, new shape: {arr.shape}")
        if not (self.flags.c_contiguous or self.flags.f_contiguous):
            raise RuntimeError("Cannot set to non-contiguous array")
        _transfer("set")
        self._host[...] = arr

    def fill(self, value: Any) -> None:
        if not isinstance(value, _SCALARS):
            raise TypeError(f"Unsupported type {type(value)}")
        _launch(lambda: self._host.fill(value))

    def copy(self) -> ndarray:
        return _compute(self._host.copy)

    def __copy__(self) -> ndarray:
        return self.copy()

    def __deepcopy__(self, memo: Any) -> ndarray:
        return self.copy()

    def astype(self, dtype: Any, *, copy: bool = True) -> ndarray:
        if not copy and self.dtype == np.dtype(dtype):
            return self
        return _compute(lambda: self._host.astype(dtype))

    def reshape(self, *shape: Any) -> ndarray:
        return _compute(lambda: self._host.reshape(*shape), self._host)

    def transpose(self, *axes: Any) -> ndarray:
        return ndarray(self._host.transpose(*axes))

    def _index(self, key: Any) -> Any:
        """Check an index and return NumPy's; an integer alone gives a view, as in CuPy."""
        parts = key if isinstance(key, tuple) else (key,)
        for part in parts:
            if isinstance(part, ndarray):
                if part.dtype.kind not in "biu":
                    raise IndexError("arrays used as indices must be of integer or boolean type")
                if part.dtype.kind == "b":  # the number of hits decides the shape
                    _synchronise("boolean mask")
            elif not (
                part is None
                or part is Ellipsis
                or isinstance(part, slice)
                or (isinstance(part, int | np.integer) and not isinstance(part, bool))
            ):
                raise TypeError(f"Unsupported type {type(part)} in an index of a device array")
        hosts = tuple(p._host if isinstance(p, ndarray) else p for p in parts)
        ellipsis = () if any(p is Ellipsis for p in parts) else (Ellipsis,)
        return (*hosts, *ellipsis)

    def __getitem__(self, key: Any) -> ndarray:
        key = self._index(key)
        return _compute(lambda: self._host[key], self._host)

    def __setitem__(self, key: Any, value: Any) -> None:
        key, value = self._index(key), _host(value)
        if isinstance(value, np.ndarray) and _overlap(self._host[key], value):
            raise ValueError("assignment between overlapping arrays: undefined in CuPy, copy first")

        def kernel() -> None:
            with np.errstate(all="ignore"):
                self._host[key] = value

        _launch(kernel)

    def __matmul__(self, other: Any) -> ndarray:
        return _FUNCTIONS["matmul"](self, other)

    def __rmatmul__(self, other: Any) -> ndarray:
        return _FUNCTIONS["matmul"](other, self)


ndarray.__module__ = "cupy"


# ---------------------------------------------------------------------------------------------
# Universal functions


class ufunc:
    """``f(x[, y][, out], *, out=, dtype=, casting=)`` on device arrays and scalars; no ``where``.

    As in CuPy, the result is C-contiguous whatever the layout of the inputs.
    """

    def __init__(self, name: str) -> None:
        self.__name__ = name
        self._numpy: np.ufunc = getattr(np, name)
        self.nin, self.nout = self._numpy.nin, self._numpy.nout

    def __call__(
        self,
        *args: Any,
        out: Any = None,
        dtype: Any = None,
        casting: Any = "same_kind",
        **wrong: Any,
    ) -> ndarray:
        if wrong:
            raise TypeError(f"Wrong arguments {sorted(wrong)}")
        if not self.nin <= len(args) <= self.nin + 1:
            raise TypeError(f"Wrong number of arguments for {self.__name__!r}: {len(args)}")
        inputs, outputs = args[: self.nin], args[self.nin :]
        if out is not None:
            if outputs:
                raise ValueError("Cannot specify 'out' as both a positional and keyword argument")
            outputs = out if isinstance(out, tuple) else (out,)
        if any(isinstance(x, _Fusing) for x in (*inputs, *outputs)):
            if dtype is not None or casting != "same_kind":
                raise TypeError(
                    "Wrong arguments: in a fused function there are no dtype and casting"
                )
            return _fused_operation(self._numpy, inputs, outputs)
        hosts = [_host(x) for x in inputs]

        def run(out: Any) -> Any:
            with np.errstate(all="ignore"):
                return self._numpy(*hosts, out=out, dtype=dtype, casting=casting, order="C")

        if not outputs:
            return _compute(lambda: run(None))
        targets = tuple(_host_array(x) for x in outputs)
        if _capturing():
            run(tuple(target.copy() for target in targets))  # what is wrong shows at once
        _launch(lambda: run(targets))
        return outputs[0]

    def __repr__(self) -> str:
        return f"<ufunc 'cupy_{self.__name__}'>"


_UFUNC_NAMES = """
    add subtract multiply divide true_divide floor_divide remainder power negative abs absolute sign
    square sqrt reciprocal exp exp2 expm1 log log2 log10 log1p logaddexp sin cos tanh sinh cosh
    maximum minimum fmax fmin heaviside floor ceil rint isfinite isnan isinf signbit
    greater greater_equal less less_equal equal not_equal
    logical_and logical_or logical_xor logical_not bitwise_and bitwise_or bitwise_xor invert
"""
_UFUNCS = {name: ufunc(name) for name in _UFUNC_NAMES.split()}


def _give_operators(to: type) -> None:
    """Give the arrays their operators: a + b, 1 + b, a += b, a < b, -a."""

    def forward(function: ufunc) -> Callable[..., ndarray]:
        return lambda self, other: function(self, other)

    def reflected(function: ufunc) -> Callable[..., ndarray]:
        return lambda self, other: function(other, self)

    def in_place(function: ufunc) -> Callable[..., ndarray]:
        return lambda self, other: function(self, other, out=self)

    def unary(function: ufunc) -> Callable[..., ndarray]:
        return lambda self: function(self)

    arithmetic = {
        "add": "add",
        "sub": "subtract",
        "mul": "multiply",
        "truediv": "true_divide",
        "floordiv": "floor_divide",
        "mod": "remainder",
        "pow": "power",
        "and": "bitwise_and",
        "or": "bitwise_or",
        "xor": "bitwise_xor",
    }
    for short, name in arithmetic.items():
        for prefix, make in (("", forward), ("r", reflected), ("i", in_place)):
            setattr(to, f"__{prefix}{short}__", make(_UFUNCS[name]))
    comparisons = {
        "lt": "less",
        "le": "less_equal",
        "gt": "greater",
        "ge": "greater_equal",
        "eq": "equal",
        "ne": "not_equal",
    }
    for short, name in comparisons.items():
        setattr(to, f"__{short}__", forward(_UFUNCS[name]))
    for short, name in {"neg": "negative", "abs": "absolute", "invert": "invert"}.items():
        setattr(to, f"__{short}__", unary(_UFUNCS[name]))


_give_operators(ndarray)


# ---------------------------------------------------------------------------------------------
# Fused functions, after CuPy's _core/fusion.pyx


class _Fusing:
    """What a fused function gets in place of an array or a number: a dtype, ndim, and ufuncs.

    It has no shape, no elements and no value to look at.
    """

    __slots__ = ("_host", "_is_array", "_written")
    __hash__ = None  # type: ignore[assignment]
    __array_ufunc__ = None

    def __init__(self, host: np.ndarray, is_array: bool = True) -> None:
        self._host, self._is_array, self._written = host, is_array, False

    @property
    def dtype(self) -> np.dtype:
        return self._host.dtype

    @property
    def ndim(self) -> int:
        return self._host.ndim

    def __bool__(self) -> bool:
        raise TypeError("Can't cast to bool")


_give_operators(_Fusing)
del _Fusing.__abs__  # type: ignore[attr-defined]  # CuPy's has none: write xp.abs


def _fused_operation(function: np.ufunc, inputs: Any, outputs: Any) -> _Fusing:
    hosts = []
    if not any(isinstance(x, _Fusing) and x._is_array for x in inputs):
        raise TypeError("numbers alone: CuPy 13.6 on NumPy 2 would compute in float64")
    for x in inputs:
        if isinstance(x, float):
            raise TypeError(f"{x}: CuPy 13.6 on NumPy 2 would compute in float64; hand it over")
        if not isinstance(x, _Fusing | int | np.generic):
            raise TypeError(f"Unsupported type {type(x)}")
        hosts.append(x._host if isinstance(x, _Fusing) else x)
    with np.errstate(all="ignore"):
        if not outputs:
            return _Fusing(np.asarray(function(*hosts)))
        (out,) = outputs
        function(*hosts, out=out._host)
    out._written = True
    return out


class _Fusion:
    """A fused function, compiled for each dtype and number of dimensions of its arguments.

    Hence what it closes over would be read once: refused here.
    """

    def __init__(self, function: Callable[..., Any], name: str | None) -> None:
        inner = getattr(function, "func", function)  # of a functools.partial
        if getattr(inner, "__closure__", None):
            raise TypeError(f"{inner.__name__} closes over variables, which CuPy would read once")
        self.function, self.name = function, name

    def __call__(self, *args: Any) -> Any:
        for x in args:
            if not isinstance(x, ndarray | np.generic | int | None):
                raise TypeError(f"Invalid argument type for {self.name!r}: {type(x)}")
        arrays = [isinstance(x, ndarray) for x in args]
        hosts = [x._host if isinstance(x, ndarray) else np.asarray(x) for x in args]
        shape = np.broadcast_shapes(*(host.shape for host in hosts))
        copies = [_Fusing(host.copy(), array) for host, array in zip(hosts, arrays, strict=True)]
        dry = self._parts(self.function(*copies))
        for host, copy in zip(hosts, copies, strict=True):
            if copy._written and host.shape != shape:
                raise ValueError(
                    f"{self.name}: many threads would write one element of {host.shape}"
                )
            if copy._written and any(_overlap(host, other) for other in hosts):
                raise ValueError(f"{self.name}: what it writes overlaps what it reads")
        new = [_allocated(np.empty(shape, part.dtype)) for part in dry]
        for host in new:
            _garbage(host)

        def kernel() -> None:
            parts = self._parts(self.function(*map(_Fusing, hosts, arrays)))
            for host, part in zip(new, parts, strict=True):
                host[...] = part._host

        _launch(kernel)
        if not new:
            return None
        return _device(new[0] if len(new) == 1 else tuple(new))

    @staticmethod
    def _parts(result: Any) -> tuple[_Fusing, ...]:
        parts = result if isinstance(result, tuple) else () if result is None else (result,)
        if not all(isinstance(part, _Fusing) for part in parts):
            raise TypeError(f"Fusion function can't return {type(result)}")
        return parts


def _fuse(kernel_name: str | None = None) -> Callable[..., _Fusion]:
    return lambda function: _Fusion(function, kernel_name)


# ---------------------------------------------------------------------------------------------
# Functions with CuPy's signatures. Kinds of parameters, by name; any other takes a host value.

_ARRAYS = {"a", "A", "b", "v", "array", "dst", "prototype"}
_OPERANDS = {"condition", "x", "y", "a_min", "a_max", "src", "where", "indices", "fill_value"}

_SIGNATURES = {
    # creation
    "zeros": "shape, dtype=float",
    "ones": "shape, dtype=float",
    "full": "shape, fill_value, dtype=None",
    "zeros_like": "a, dtype=None",
    "ones_like": "a, dtype=None",
    "full_like": "a, fill_value, dtype=None",
    "arange": "start, stop=None, step=1, dtype=None",
    "linspace": "start, stop, num=50, endpoint=True, *, dtype=None",
    "eye": "N, M=None, k=0, dtype=float",
    "ascontiguousarray": "a, dtype=None",
    "diag": "v, k=0",
    # shape
    "reshape": "a, newshape",
    "ravel": "a",
    "transpose": "a, axes=None",
    "swapaxes": "a, axis1, axis2",
    "moveaxis": "a, source, destination",
    "squeeze": "a, axis=None",
    "expand_dims": "a, axis",
    "broadcast_to": "array, shape",
    "concatenate": "tup, axis=0, out=None",
    "stack": "tup, axis=0, out=None",
    "repeat": "a, repeats, axis=None",
    "tile": "A, reps",
    "flip": "a, axis=None",
    # selection
    "take": "a, indices, axis=None, out=None",
    "where": "condition, x, y",
    "clip": "a, a_min, a_max, out=None",
    "copyto": "dst, src, casting='same_kind', where=None",
    "sort": "a, axis=-1",
    "argsort": "a, axis=-1",
    # reductions
    "sum": "a, axis=None, dtype=None, out=None, keepdims=False",
    "prod": "a, axis=None, dtype=None, out=None, keepdims=False",
    "mean": "a, axis=None, dtype=None, out=None, keepdims=False",
    "var": "a, axis=None, dtype=None, out=None, ddof=0, keepdims=False",
    "std": "a, axis=None, dtype=None, out=None, ddof=0, keepdims=False",
    "max": "a, axis=None, out=None, keepdims=False",
    "min": "a, axis=None, out=None, keepdims=False",
    "amax": "a, axis=None, out=None, keepdims=False",
    "amin": "a, axis=None, out=None, keepdims=False",
    "argmax": "a, axis=None, *, out=None, keepdims=False",
    "argmin": "a, axis=None, *, out=None, keepdims=False",
    "all": "a, axis=None, out=None, keepdims=False",
    "any": "a, axis=None, out=None, keepdims=False",
    "count_nonzero": "a, axis=None",
    "cumsum": "a, axis=None, dtype=None, out=None",
    # linear algebra
    "matmul": "a, b, /, out=None",
    "dot": "a, b, out=None",
    "outer": "a, b, out=None",
    "tensordot": "a, b, axes=2",
    "trace": "a",
    "linalg.norm": "x, ord=None, axis=None, keepdims=False",
    "linalg.svd": "a, full_matrices=True, compute_uv=True",
    "linalg.eigh": "a, UPLO='L'",
    "linalg.qr": "a, mode='reduced'",
    "linalg.solve": "a, b",
}

_METHOD_NAMES = """
    ravel swapaxes squeeze repeat take clip argsort sum prod mean var std max min argmax argmin all
    any cumsum dot trace
"""


def _argument(name: str, value: Any) -> Any:
    """Check one argument and return what NumPy gets for it."""
    if name in _ARRAYS:
        return _host_array(value)
    if name in _OPERANDS:
        return None if value is None and name in ("a_min", "a_max") else _host(value)
    if name == "tup":
        return [_host_array(x) for x in value]
    if isinstance(value, ndarray | np.ndarray):
        raise TypeError(f"Unsupported type {type(value)} for {name}")
    return value


def _function(name: str, text: str) -> Callable[..., Any]:
    """Make the device function with the signature ``text``."""
    signature = inspect.signature(eval(f"lambda {text}: None"))
    numpy_function = operator.attrgetter(name)(np)

    def function(*args: Any, **kwargs: Any) -> Any:
        library = "cuSOLVER" if name.startswith("linalg.") else _LIBRARIES.get(name)
        if library and _capturing():
            raise NotImplementedError(
                f"calling {library} API during stream capture is currently unsupported"
            )
        given = signature.bind(*args, **kwargs).arguments
        out = given.pop("out", None)
        arguments = {
            key: _argument(key, value)
            for key, value in given.items()
            if value is not None or signature.parameters[key].default is not None
        }
        required = [
            arguments.pop(key)
            for key, parameter in signature.parameters.items()
            if parameter.default is parameter.empty
        ]

        def run() -> Any:
            with np.errstate(all="ignore"):
                return numpy_function(*required, **arguments)

        if name == "copyto":
            return _launch(run)
        return _compute(run, *required) if out is None else _write(name, run, out, required)

    function.__name__ = name
    function.__signature__ = signature  # type: ignore[attr-defined]
    return function


_LIBRARIES = dict.fromkeys(("matmul", "dot", "tensordot", "einsum"), "cuBLAS")


def _write(name: str, run: Callable[[], Any], out: Any, inputs: list[Any]) -> ndarray:
    """Put a function's result into ``out``, under the strictest of CuPy's rules."""
    target, result = _host_array(out), np.asarray(run())
    if target.shape != result.shape:
        raise ValueError(f"{name}: out has shape {target.shape}, the result {result.shape}")
    if target.dtype != result.dtype:
        raise TypeError(f"{name}: out has dtype {target.dtype}, the result {result.dtype}")
    if name == "dot" and not target.flags.c_contiguous:
        raise ValueError("Output array must be C-contiguous")
    parts = itertools.chain.from_iterable(x if isinstance(x, list) else [x] for x in inputs)
    if any(isinstance(x, np.ndarray) and np.shares_memory(x, target) for x in parts):
        raise ValueError(f"{name}: out overlaps an input, which CuPy does not allow for")
    if _capturing():
        _launch(lambda: operator.setitem(target, ..., run()))
    else:
        _launch(lambda: operator.setitem(target, ..., result))
    return out


_FUNCTIONS = {name: _function(name, text) for name, text in _SIGNATURES.items()}


def _give_methods() -> None:
    """Give ndarray the functions that are also methods."""

    def method(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda self, *args, **kwargs: function(self, *args, **kwargs)

    for name in _METHOD_NAMES.split():
        setattr(ndarray, name, method(_FUNCTIONS[name]))


_give_methods()


def _empty(shape: Any, dtype: Any = float) -> ndarray:
    host = np.empty(shape, dtype)
    host.fill(np.nan if host.dtype.kind in "fc" else 1)
    return ndarray(_allocated(host))


def _empty_like(prototype: Any, dtype: Any = None) -> ndarray:
    return _empty(_host_array(prototype).shape, dtype or prototype.dtype)


def _nonzero(a: Any) -> tuple[ndarray, ...]:
    _synchronise("nonzero")
    return _device(_host_array(a).nonzero())


def _einsum(subscripts: str, *operands: Any, dtype: Any = None, optimize: Any = False) -> ndarray:
    if _capturing():
        raise NotImplementedError("calling cuBLAS API during stream capture is unsupported")
    hosts = [_host_array(x) for x in operands]
    return _device(np.einsum(subscripts, *hosts, dtype=dtype, optimize=optimize))


def _asarray(a: Any, dtype: Any = None, *, blocking: bool = False) -> ndarray:
    if isinstance(a, ndarray):
        return a if dtype is None else a.astype(dtype, copy=False)
    _transfer("asarray")
    return ndarray(_allocated(np.array(a, dtype, order="C")))


def _array(obj: Any, dtype: Any = None, *, blocking: bool = False) -> ndarray:
    return _asarray(obj, dtype).copy()


def _asnumpy(a: Any, *, out: np.ndarray | None = None) -> np.ndarray:
    if isinstance(a, ndarray):
        return a.get(out=out)
    return np.asarray(a)


def _get_array_module(*args: Any) -> types.ModuleType:
    return cupy if any(isinstance(x, ndarray) for x in args) else np


def _may_share_memory(a: Any, b: Any) -> bool:
    return np.may_share_memory(_host_array(a), _host_array(b))


def _result_type(*arrays_and_dtypes: Any) -> np.dtype:
    return np.result_type(*(x.dtype if isinstance(x, ndarray) else x for x in arrays_and_dtypes))


# ---------------------------------------------------------------------------------------------
# Random numbers


class Philox4x3210:
    """A bit generator of ``size`` states, one a thread. Without it the card decides how many."""

    def __init__(self, seed: Any = None, *, size: int = -1) -> None:
        if isinstance(seed, np.random.Generator | np.random.BitGenerator):
            raise TypeError("a NumPy generator cannot seed a CuPy generator")
        if size <= 0:
            raise ValueError("size: another card would draw other numbers")
        _check_driver()
        self._seed = seed


class Generator:
    """The part of ``cupy.random.Generator`` that NumPy's has as well.

    CuPy's has no normal, permutation, shuffle or choice, and its bit generator no state that could
    be read or restored. Its numbers are not NumPy's for the same seed; neither are these.
    """

    def __init__(self, bit_generator: Philox4x3210) -> None:
        if not isinstance(bit_generator, Philox4x3210):
            raise TypeError(f"want a bit generator of CuPy's, got {type(bit_generator)}")
        self._rng = np.random.Generator(np.random.Philox(bit_generator._seed))

    @staticmethod
    def _check_out(out: Any, size: Any, dtype: Any) -> None:
        host = _host_array(out)
        if host.dtype != np.dtype(dtype):
            raise TypeError(
                "Supplied output array has the wrong type. "
                f"Expected {np.dtype(dtype).name}, got {host.dtype.name}"
            )
        if not (host.flags.c_contiguous or host.flags.f_contiguous):
            raise ValueError("Supplied output array is not contiguous, writable or aligned.")
        if size is not None and (size if isinstance(size, tuple) else (size,)) != host.shape:
            raise ValueError("size must match out.shape when used together")

    def random(self, size: Any = None, dtype: Any = np.float64, out: Any = None) -> ndarray:
        if out is not None:
            self._check_out(out, size, dtype)
            if size is None and out.shape:
                raise ValueError("CuPy would fill out with one number: pass size=out.shape as well")
        return self._give(self._rng.random(_size(size), dtype=dtype), out)

    def standard_normal(
        self, size: Any = None, dtype: Any = np.float64, out: Any = None
    ) -> ndarray:
        if out is not None:
            self._check_out(out, size, dtype)
            size = out.shape
        return self._give(self._rng.standard_normal(_size(size), dtype=dtype), out)

    def uniform(
        self, low: float = 0.0, high: float = 1.0, size: Any = None, dtype: Any = np.float64
    ) -> ndarray:
        u = self._rng.random(_size(size), dtype=dtype)
        return self._give(_plain(low) + (_plain(high) - _plain(low)) * u, None).astype(dtype)

    def integers(
        self,
        low: int,
        high: int | None = None,
        size: Any = None,
        dtype: Any = np.int64,
        endpoint: bool = False,
    ) -> ndarray:
        low, high = _plain(low), None if high is None else _plain(high)
        return self._give(self._rng.integers(low, high, _size(size), dtype, endpoint), None)

    @staticmethod
    def _give(drawn: Any, out: ndarray | None) -> ndarray:
        if _capturing():
            raise NotImplementedError(
                "the graph would go on with this generator's numbers, whatever its seed: draw "
                "before the launch"
            )
        if out is None:
            return _device(drawn)
        out._host[...] = drawn
        return out


def _plain(value: Any) -> Any:
    if not isinstance(value, _SCALARS):
        raise TypeError(f"Unsupported type {type(value)}")
    return value


def _size(size: Any) -> Any:
    parts = size if isinstance(size, tuple) else (size,)
    if size is not None and not all(isinstance(n, int | np.integer) for n in parts):
        raise TypeError(f"size must be None, an int or a tuple of ints, got {type(size)}")
    return size


# ---------------------------------------------------------------------------------------------
# CUDA

_CUDA_ERRORS = {
    35: "cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime version",
    100: "cudaErrorNoDevice: no CUDA-capable device is detected",
}
MISSING_DRIVER, NO_DEVICE = _CUDA_ERRORS


class CUDARuntimeError(RuntimeError):
    """What CuPy raises where there is no usable driver (35) or no GPU (100)."""

    def __init__(self, status: int) -> None:
        super().__init__(_CUDA_ERRORS[status])
        self.status = status

    @classmethod
    def named(cls, name: str) -> CUDARuntimeError:
        """The error of that name, as ``str`` shows it."""
        error = cls.__new__(cls)
        RuntimeError.__init__(error, name)
        return error


def _check_driver() -> None:
    if _machine.status:
        raise CUDARuntimeError(_machine.status)


def _get_device_count() -> int:
    _check_driver()
    return 1


def _get_device_properties(device: int) -> dict[str, Any]:
    _check_driver()
    return {"name": b"strict stand-in for CuPy", "totalGlobalMem": 1 << 34, "major": 9, "minor": 0}


HANDLE = 0xB1A5


class Device:
    """The one device."""

    def __init__(self, device: int = 0) -> None:
        _check_driver()
        self.id = device

    def synchronize(self) -> None:
        _wait("Device.synchronize", *_machine.busy)

    @property
    def cublas_handle(self) -> int:
        return HANDLE


def _wait(what: str, *streams: Stream) -> None:
    """Wait for streams; in a capture that is an error which spoils it."""
    if _capturing():
        _machine.stream._spoilt = True
        raise CUDARuntimeError.named("cudaErrorStreamCaptureUnsupported: operation not permitted")
    _synchronise(what)
    _machine.busy.difference_update(streams)


class Stream:
    """A stream; what is launched on it runs at once, or is recorded while it captures."""

    null: Stream
    _recording: list[Callable[[], Any]] | None = None
    _spoilt = False

    def __init__(self, null: bool = False, non_blocking: bool = False) -> None:
        self._non_blocking = non_blocking
        self.ptr = 0 if null else id(self)
        self._before: list[Stream] = []

    def __enter__(self) -> Stream:
        self._before.append(_machine.stream)
        _machine.stream = self
        return self

    def __exit__(self, *exception: object) -> None:
        _machine.stream = self._before.pop()

    def synchronize(self) -> None:
        _wait("Stream.synchronize", self)

    def is_capturing(self) -> bool:
        return self._recording is not None

    def begin_capture(self, mode: int | None = None) -> None:
        if self.ptr == 0:
            raise RuntimeError("cannot capture on the default (legacy) stream")
        if self._recording is not None:
            raise CUDARuntimeError.named("cudaErrorIllegalState: already capturing")
        self._recording, self._spoilt = [], False

    def end_capture(self) -> Graph:
        if self._recording is None:
            raise CUDARuntimeError.named("cudaErrorIllegalState: not capturing")
        kernels, self._recording = self._recording, None
        if self._spoilt:
            raise CUDARuntimeError.named("cudaErrorStreamCaptureInvalidated: failed earlier")
        graph = object.__new__(Graph)
        pool = _machine.pool
        graph._kernels, graph._pool = kernels, None if pool is None else weakref.ref(pool)
        return graph


class Graph:
    """What a stream has recorded; made by ``Stream.end_capture`` alone."""

    _kernels: list[Callable[[], Any]]
    _pool: weakref.ref[MemoryPool] | None

    def __init__(self) -> None:
        raise NotImplementedError("must be created via stream capture")

    def launch(self, stream: Stream | None = None) -> None:
        if self._pool is not None and self._pool() is None:
            raise RuntimeError("the memory pool of this graph is gone")
        with contextlib.nullcontext() if stream is None else stream:
            for kernel in self._kernels:
                _launch(kernel)


class MemoryPool:
    """A pool; with it goes the memory of all its arrays."""

    def __init__(self) -> None:
        self._arrays: list[weakref.ref[np.ndarray]] = []
        self._reserved: list[np.ndarray] = []
        weakref.finalize(self, MemoryPool._free, self._arrays)

    @staticmethod
    def _free(arrays: list[weakref.ref[np.ndarray]]) -> None:
        for reference in arrays:
            if (array := reference()) is not None:
                _garbage(array)

    def malloc(self, size: int) -> None:
        raise NotImplementedError("the stand-in only takes it for using_allocator")

    def free_all_blocks(self) -> None:
        """Give back the memory of arrays that are gone."""
        self._arrays[:] = [reference for reference in self._arrays if reference() is not None]


@contextmanager
def _using_allocator(allocator: Any = None) -> Iterator[None]:
    before = _machine.pool
    _machine.pool = None if allocator is None else allocator.__self__
    try:
        yield
    finally:
        _machine.pool = before


Stream.null = Stream(null=True)
_machine = types.SimpleNamespace(status=0, stream=Stream.null, pool=None, busy=set())


class _Cublas:
    """The C interface of cuBLAS, as far as a product of matrices needs it.

    Written from cuBLAS's documentation: matrices lie column by column, a leading dimension is the
    distance of two columns, op is 0 for N and 1 for T. On the pointers' memory NumPy computes.
    """

    def __init__(self) -> None:
        self.stream: int | None = None
        self.workspace = 0

    def _known(self, handle: Any) -> int:
        return 0 if handle.value == HANDLE else 1  # CUBLAS_STATUS_NOT_INITIALIZED

    def cublasSetStream_v2(self, handle: Any, stream: Any) -> int:
        self.stream, self.workspace = stream.value or 0, 0
        return self._known(handle)

    def cublasSetWorkspace_v2(self, handle: Any, workspace: Any, size: Any) -> int:
        self.workspace = size.value if workspace.value else 0
        return self._known(handle)

    def cublasGemmEx(self, handle: Any, *arguments: Any) -> int:
        """Compute C = alpha op(A) op(B) + beta C, with op(A) (m, k) and op(B) (k, n)."""
        opa, opb, m, n, k, alpha, a, type_a, lda, b, type_b, ldb, beta, c, type_c, ldc = arguments[
            :16
        ]
        compute, algorithm = arguments[16:]
        dtype = {(0, 68): np.float32, (0, 77): np.float32, (1, 70): np.float64}.get(
            (type_a, compute)
        )
        tall = (m if opa == 0 else k, k if opb == 0 else n, m)
        wrong = type_b != type_a or type_c != type_a or algorithm != -1 or dtype is None
        wrong = wrong or any(ld < rows for ld, rows in zip((lda, ldb, ldc), tall, strict=True))
        wrong = wrong or (alpha._obj.value, beta._obj.value) != (1, 0)
        if wrong:
            return 7  # CUBLAS_STATUS_INVALID_VALUE
        if self.stream != _machine.stream.ptr:
            raise RuntimeError("cuBLAS works on another stream than the current one")
        if _capturing() and not self.workspace:
            raise RuntimeError("cuBLAS would allocate a workspace of its own in the graph")

        def matrix(pointer: Any, rows: int, columns: int, ld: int) -> np.ndarray:
            """A matrix that lies column by column, seen by rows: its transpose."""
            size = np.dtype(dtype).itemsize
            memory = (ctypes.c_char * (((columns - 1) * ld + rows) * size)).from_address(
                pointer.value
            )
            flat = np.frombuffer(memory, dtype=dtype)
            return np.lib.stride_tricks.as_strided(
                flat, (columns, rows), (ld * size, size), writeable=True
            )

        right = matrix(a, m, k, lda) if opa == 0 else matrix(a, k, m, lda).T  # op(A)^T, (k, m)
        left = matrix(b, k, n, ldb) if opb == 0 else matrix(b, n, k, ldb).T  # op(B)^T, (n, k)
        target = matrix(c, m, n, ldc)

        def kernel() -> None:
            with np.errstate(all="ignore"):
                target[...] = left @ right

        _launch(kernel)
        return self._known(handle)


# ---------------------------------------------------------------------------------------------
# The module


class _Module(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"module {self.__name__!r} has no attribute {name!r} (the strict stand-in offers only "
            "what tests/strict_cupy.py lists)"
        )


def _module(name: str, **members: Any) -> types.ModuleType:
    module = _Module(name, __doc__)
    vars(module).update(members)
    return module


_NUMPY_NAMES = """
    bool_ int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64 complex64
    complex128 intp generic number integer inexact floating dtype issubdtype finfo iinfo
    promote_types newaxis pi e inf nan
"""  # CuPy takes these from NumPy

_MODULES = {
    "cupy.cuda.runtime": _module(
        "cupy.cuda.runtime",
        CUDARuntimeError=CUDARuntimeError,
        getDeviceCount=_get_device_count,
        getDeviceProperties=_get_device_properties,
        getDevice=lambda: 0,
        runtimeGetVersion=lambda: 12090,
        driverGetVersion=lambda: 0 if _machine.status == MISSING_DRIVER else 12090,
        deviceSynchronize=lambda: _wait("deviceSynchronize", *_machine.busy),
    ),
    "cupy.random": _module("cupy.random", Philox4x3210=Philox4x3210, Generator=Generator),
    "cupy.linalg": _module(
        "cupy.linalg",
        **{n.partition(".")[2]: f for n, f in _FUNCTIONS.items() if n.startswith("linalg.")},
    ),
}
_MODULES["cupy.cuda"] = _module(
    "cupy.cuda",
    runtime=_MODULES["cupy.cuda.runtime"],
    Device=Device,
    Stream=Stream,
    Graph=Graph,
    MemoryPool=MemoryPool,
    using_allocator=_using_allocator,
    get_current_stream=lambda: _machine.stream,
)
_MODULES["cupy._core"] = _module(
    "cupy._core", set_compute_type=lambda dtype, compute_type: np.dtype(dtype)
)
_MODULES["cupy"] = cupy = _module(
    "cupy",
    __version__="14.2.0",
    cuda=_MODULES["cupy.cuda"],
    _core=_MODULES["cupy._core"],
    random=_MODULES["cupy.random"],
    linalg=_MODULES["cupy.linalg"],
    ndarray=ndarray,
    ufunc=ufunc,
    fuse=_fuse,
    empty=_empty,
    empty_like=_empty_like,
    nonzero=_nonzero,
    einsum=_einsum,
    asarray=_asarray,
    array=_array,
    asnumpy=_asnumpy,
    get_array_module=_get_array_module,
    may_share_memory=_may_share_memory,
    result_type=_result_type,
    **_UFUNCS,
    **{name: f for name, f in _FUNCTIONS.items() if "." not in name},
    **{name: getattr(np, name) for name in _NUMPY_NAMES.split()},
)


def install(monkeypatch: pytest.MonkeyPatch, *, status: int = 0) -> types.ModuleType:
    """Make ``import cupy`` give the stand-in until the test ends, and return it.

    With ``status=MISSING_DRIVER`` or ``NO_DEVICE`` the machine has CuPy but no usable GPU: as in
    CuPy the import works, and whatever touches the device raises ``CUDARuntimeError``.
    """
    for name, module in _MODULES.items():
        monkeypatch.setitem(sys.modules, name, module)
    for name, value in (("status", status), ("stream", Stream.null), ("pool", None)):
        monkeypatch.setattr(_machine, name, value)
    monkeypatch.setattr(_machine, "busy", set())
    real, cublas = ctypes.CDLL, _Cublas()

    def load(name: Any, *args: Any, **kwargs: Any) -> Any:
        ours = ("libcublas.so.12", "cublas64_12.dll")
        return cublas if name in ours else real(name, *args, **kwargs)

    monkeypatch.setattr(ctypes, "CDLL", load)
    return cupy


def uninstall(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make ``import cupy`` fail until the test ends, as where CuPy is not installed."""
    for name in list(sys.modules):
        if name == "cupy" or name.startswith("cupy."):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cupy", None)
