"""NumPy or CuPy: the array decides. The only file that knows that CuPy exists.

A function asks its inputs where they live (``xp = array_module(x)``) and computes there. Nothing is
chosen globally and nothing has to be set before an import.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

Array = Any  # numpy.ndarray or cupy.ndarray: no static type covers both
T = TypeVar("T")

DEVICES = ("cpu", "gpu", "auto")
MASKED = "got a masked array, whose mask would be lost: fill it first, with .filled(0)"

#: Threads that draw on the GPU, each with a state of its own: by default as many as the card can
#: hold, and another card gives other numbers.
STREAMS = 1 << 15

_HOW_TO_INSTALL = (
    'pip install "scratchvae[cuda12]" for a CUDA 12 driver or "scratchvae[cuda13]" for CUDA 13 '
    "(nvidia-smi shows which); or use device='cpu'"
)


class GpuUnavailableError(RuntimeError):
    """The GPU was asked for, and CuPy or the driver is missing; the message says which."""


def array_module(x: Array) -> Any:
    """Return the module that computes on ``x``: ``numpy`` or ``cupy``.

    Raises TypeError for anything that is not an array.
    """
    if isinstance(x, np.ndarray | np.generic):
        return np
    cupy = sys.modules.get("cupy")  # who holds a CuPy array has imported cupy
    if cupy is not None and isinstance(x, cupy.ndarray):
        return cupy
    raise TypeError(f"expected a NumPy or CuPy array, got {type(x).__name__}")


def device_of(x: Array) -> str:
    """Return ``"cpu"`` or ``"gpu"``: where the array ``x`` lives."""
    return "cpu" if array_module(x) is np else "gpu"


def resolve_device(device: str) -> str:
    """Turn ``"cpu"``, ``"gpu"`` or ``"auto"`` into ``"cpu"`` or ``"gpu"``.

    ``"auto"`` takes the GPU where one can be used. Raises ValueError for another name, and
    GpuUnavailableError, saying what is missing, where ``"gpu"`` cannot be had.
    """
    if device not in DEVICES:
        raise ValueError(f"device: got {device!r}, want one of {', '.join(DEVICES)}")
    if device == "auto":
        return "gpu" if gpu_problem() is None else "cpu"
    if device == "gpu" and (problem := gpu_problem()) is not None:
        raise GpuUnavailableError(problem)
    return device


def gpu_problem() -> str | None:
    """Say why the GPU cannot be used, and what to do; None where it can."""
    try:
        import cupy
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "cupy":
            return f"device='gpu': CuPy is not installed. {_HOW_TO_INSTALL}"
        return f"device='gpu': CuPy is installed but cannot be loaded ({error}). {_HOW_TO_INSTALL}"
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        if "cudaErrorNoDevice" not in str(error):
            return (
                "device='gpu': CuPy is installed but the NVIDIA driver is missing or too old "
                f"({error}). Install the driver that fits your CuPy: {_HOW_TO_INSTALL}"
            )
        count = 0
    if count == 0:
        return "device='gpu': CuPy and the driver are there but no NVIDIA GPU; use device='cpu'"
    return None


def module_for(device: str) -> Any:
    """Return the array module of ``device`` (``"cpu"``, ``"gpu"`` or ``"auto"``)."""
    if resolve_device(device) == "cpu":
        return np
    import cupy

    return cupy


def to_device(x: Array, device: str) -> Array:
    """Return ``x`` as an array on ``device``; ``x`` itself where it already lives there."""
    if resolve_device(device) == "cpu" or isinstance(x, np.ma.MaskedArray):
        return to_host(x)  # which refuses a mask
    return module_for("gpu").asarray(x)


def to_host(x: Array) -> Any:
    """Return ``x`` as a NumPy array; for a CuPy array this waits for the GPU."""
    if isinstance(x, np.ma.MaskedArray):
        raise ValueError(MASKED)
    if isinstance(x, np.ndarray | np.generic):
        return np.asarray(x)
    return array_module(x).asnumpy(x)


#: What ``fused`` has made, and of what: ``__wrapped__`` any decorator leaves, who may do more.
ELEMENTWISE: dict[Callable[..., Any], Callable[..., Any]] = {}


def fused(function: Callable[..., T]) -> Callable[..., T]:
    """Let the GPU compute ``function(xp, *arguments)`` in one kernel; NumPy calls it as it stands.

    The function computes element by element, from arrays and numbers alone: it knows neither shapes
    nor values, and its results are new arrays or stand in those that it was given. Numbers reach it
    in the dtype of its first array and its own are integers: where ``cupy.fuse`` meets Python's
    floats, CuPy 13.6 on NumPy 2 computes in float64.
    """

    @functools.wraps(function)
    def call(xp: Any, *arguments: Any) -> T:
        if xp is np:
            return function(np, *arguments)
        number = next(a.dtype.type for a in arguments if isinstance(a, xp.ndarray))
        given = (number(a) if isinstance(a, int | float) else a for a in arguments)
        result: T = _kernel(xp, function)(*given)
        return result

    ELEMENTWISE[call] = function
    return call


@functools.cache
def _kernel(xp: Any, function: Callable[..., Any]) -> Any:
    return xp.fuse(kernel_name=function.__name__)(functools.partial(function, xp))


def generator(device: str, *entropy: int) -> Any:
    """Return a random generator on ``device``, made from the integers ``entropy``.

    Equal integers give the same numbers again on one kind of device; the two kinds differ.
    """
    host = np.random.default_rng(entropy)
    if resolve_device(device) == "cpu":
        return host
    random = module_for("gpu").random
    return random.Generator(random.Philox4x3210(int(host.integers(2**31)), size=STREAMS))


def allow_tf32(allowed: bool) -> None:
    """Say whether CuPy may round the factors of float32 products to TF32 (10 bits of mantissa).

    By default it may not: CuPy asks cuBLAS for CUBLAS_COMPUTE_32F, unless the environment variable
    CUPY_TF32 is 1; then for CUBLAS_COMPUTE_32F_FAST_TF32, on compute capability 8.0 or higher. It
    reads the variable at its first float32 product. This sets the variable and makes CuPy forget
    what it has read. The products are then several times faster and right to about three digits.
    """
    os.environ["CUPY_TF32"] = "1" if allowed else "0"
    set_compute_type = getattr(module_for("gpu")._core, "set_compute_type", None)
    if set_compute_type is not None:
        set_compute_type(np.float32, 0)  # COMPUTE_TYPE_TBD: to be read again


def tf32_allowed() -> bool:
    """Whether CuPy's float32 products are in TF32; False where nobody has asked for it."""
    return int(os.environ.get("CUPY_TF32", "0")) > 0
