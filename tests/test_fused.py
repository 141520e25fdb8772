"""``backend.fused``: one kernel on the GPU, with the numbers that NumPy gets.

The last test asks CuPy itself: what it makes of each fused function takes no GPU to look at, and
its body is C++ that any compiler takes.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import strict_cupy
from test_backend_strict import MODELS, B, D, data

from scratchvae import graphs
from scratchvae.backend import fused, generator, to_device, to_host
from scratchvae.models import VAE, Model
from scratchvae.optim import OPTIMIZERS, Adam, make_optimizer

X = np.array([[-2.0, -1.0, 0.5], [1.0, 2.0, 3.0]], dtype=np.float32)


@fused
def line_and_square(xp: Any, x: Any, out: Any, slope: Any) -> Any:
    """Write slope x into out, and return (slope x + 1)^2 and whether x > 0."""
    xp.multiply(x, slope, out=out)
    y = out + 1
    y *= y
    return y, x > 0


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> Any:
    return strict_cupy.install(monkeypatch)


def test_numpy_calls_the_function_as_it_stands() -> None:
    out = np.zeros_like(X)
    y, positive = line_and_square(np, X, out, 0.1)
    np.testing.assert_array_equal(out, X * np.float32(0.1))
    np.testing.assert_array_equal(y, (out + 1) ** 2)
    np.testing.assert_array_equal(positive, X > 0)
    assert line_and_square.__name__ == "line_and_square"


@pytest.mark.parametrize("slope", [0.1, 3, True, "array"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_gpu_gets_numpys_numbers_in_one_kernel(
    cupy: Any, monkeypatch: pytest.MonkeyPatch, dtype: str, slope: Any
) -> None:
    x = X.astype(dtype)
    number = np.asarray(0.7, dtype) if slope == "array" else slope
    wanted_out = np.zeros_like(x)
    wanted = line_and_square(np, x, wanted_out, number)
    device, out = cupy.asarray(x), cupy.zeros(x.shape, dtype=dtype)
    if slope == "array":
        number = cupy.asarray(number)
    launched, launch = [], strict_cupy._launch
    monkeypatch.setattr(strict_cupy, "_launch", lambda k: (launched.append(k), launch(k)))
    found = line_and_square(cupy, device, out, number)
    assert len(launched) == 1
    for got, want in zip((*found, out), (*wanted, wanted_out), strict=True):
        np.testing.assert_array_equal(to_host(got), want)
        assert got.dtype == want.dtype
    np.testing.assert_array_equal(to_host(device), x)


def test_a_step_of_the_lessons_is_forty_eight_kernels(cupy: Any) -> None:
    """Nineteen are products. Unfused they would be 92."""
    model, optimizer = VAE(784, device="gpu"), Adam()
    optimizer.prepare(model.theta, model.grad)
    x = to_device(np.zeros((4, 784), dtype=np.float32), "gpu")
    assert len(graphs.StepGraph(model, optimizer, x, 4, False).graph._kernels) == 48


# --- what the stand-in refuses --------------------------------------------------------------------


def closing_over(y: Any) -> Callable[..., Any]:
    return lambda xp, x: x * y


REFUSED = {
    "a Python float": (lambda xp, x: x * 0.5, "float64"),
    "numbers alone": (lambda xp, x, n: x * (2 * n), "numbers alone"),
    "its shape": (lambda xp, x: x * x.shape[0], "shape"),
    "its length": (lambda xp, x: x * len(x), "len"),
    "an element": (lambda xp, x: x[0], "subscriptable"),
    "a reduction": (lambda xp, x: xp.sum(x), "Unsupported type"),
    "a method": (lambda xp, x: x.copy(), "copy"),
    "a choice": (lambda xp, x: x if x > 0 else -x, "bool"),
    "abs()": (lambda xp, x: abs(x), "abs"),
    "a dtype": (lambda xp, x: xp.exp(x, dtype=np.float64), "dtype"),
    "a number returned": (lambda xp, x: 3, "can't return"),
    "a variable around it": (closing_over(3), "closes over"),
    "an array around it": (lambda xp, x: x + AROUND[0], "Unsupported type"),
}
AROUND: list[Any] = []


@pytest.mark.parametrize("what", REFUSED)
def test_what_a_fused_function_must_not_do(cupy: Any, what: str) -> None:
    function, why = REFUSED[what]
    AROUND[:] = [cupy.asarray(X)]
    numbers = (3,) if what == "numbers alone" else ()
    with pytest.raises((TypeError, AttributeError), match=why):
        fused(function)(cupy, cupy.asarray(X), *numbers)


def add_into(xp: Any, out: Any, x: Any) -> None:
    out += x


def double_and_square(xp: Any, out: Any, x: Any) -> Any:
    out *= 2
    return x * x


def test_what_a_fused_function_writes_is_its_own(cupy: Any) -> None:
    x = cupy.asarray(X)
    with pytest.raises(ValueError, match="many threads"):
        fused(double_and_square)(cupy, x[:1], x)
    with pytest.raises(ValueError, match="overlaps"):
        fused(add_into)(cupy, x[:, 1:], x[:, :-1])
    fused(add_into)(cupy, x, x)
    np.testing.assert_array_equal(to_host(x), 2 * X)
    with pytest.raises(TypeError, match="Invalid argument"):
        cupy.fuse()(lambda x, y: x * y)(x, 0.5)


# --- CuPy's own kernels ---------------------------------------------------------------------------

C_TYPES = {"float32": "float", "float64": "double", "bool": "bool"}


def calls_of_a_step() -> list[tuple[Any, ...]]:
    """Every call of a fused function in steps of all models and optimizers, on the stand-in.

    Function, arguments before and after, results.
    """
    calls: list[tuple[Any, ...]] = []
    call = strict_cupy._Fusion.__call__

    def recorded(self: Any, *args: Any) -> Any:
        before = [a if isinstance(a, np.generic) else to_host(a).copy() for a in args]
        result = call(self, *args)
        results = result if isinstance(result, tuple) else () if result is None else (result,)
        after = [to_host(a).copy() for a in args]
        calls.append((self.function.func, before, after, [to_host(r) for r in results]))
        return result

    def step(model: Model, x: Any, name: str) -> None:
        optimizer = make_optimizer(name, 1e-4)
        for _ in range(2):
            model.forward(x, model.draw_noise(generator("gpu", 1), x))
            model.backward()
            optimizer.step(model.theta, model.grad)
        terms = [*model.terms.values()]
        graphs._copy(model.xp, *(model.xp.empty_like(term) for term in terms), *terms)
        scalars = np.asarray(optimizer.scalars(3), dtype=model.dtype)
        optimizer.update(model.theta, model.grad, tuple(to_device(scalars, "gpu")))

    with pytest.MonkeyPatch.context() as patch:
        strict_cupy.install(patch)
        patch.setattr(strict_cupy._Fusion, "__call__", recorded)
        for dtype in ("float32", "float64"):
            x = to_device(data(B, D, dtype=dtype), "gpu")
            for model in MODELS.values():
                for name in OPTIMIZERS:
                    step(model(seed=4, dtype=dtype, device="gpu"), x, name)
    return calls


def kernel_of(cupy: Any, function: Callable[..., Any], arguments: list[Any]) -> Any:
    """What CuPy would launch for arguments on a GPU."""
    from cupy._core import _fusion_thread_local, fusion

    def on_the_device(a: Any) -> Any:
        if isinstance(a, np.generic):
            return a
        memory = cupy.cuda.UnownedMemory(a.ctypes.data, max(a.nbytes, 1), a, device_id=0)
        return cupy.ndarray(a.shape, a.dtype, memptr=cupy.cuda.MemoryPointer(memory, 0))

    history, local = fusion._FusionHistory(), _fusion_thread_local.thread_local
    local.history, local.is_old_fusing = history, True
    try:
        kernel, _ = history.get_fusion(
            lambda *a: function(cupy, *a), [on_the_device(a) for a in arguments], "kernel"
        )
    finally:
        local.history, local.is_old_fusing = None, False
    return kernel


def on_the_host(kernel: Any, folder: Path, compiler: str) -> Callable[..., None]:
    """Compile the body of CuPy's kernel for this processor."""
    includes = "#include <cmath>\n#include <algorithm>\nusing namespace std;\n#define __device__\n"
    preamble = [line for line in kernel.preamble.splitlines() if "#include" not in line]
    parameters = [*kernel.in_params, *kernel.out_params]
    names = [C_TYPES[np.dtype(p.dtype).name] for p in parameters]
    lines = [
        f"{'const ' * p.is_const}{name} &{p.name} = (({name} *)at[{i}])[n * step[{i}]];"
        for i, (p, name) in enumerate(zip(parameters, names, strict=True))
    ]
    body = "\n".join((*lines, kernel.operation))
    loop = f"for (long n = 0; n < size; n++) {{\n{body};\n}}"
    main = f'extern "C" void run(long size, void **at, long *step) {{\n{loop}\n}}\n'
    source, library = folder / "kernel.cpp", folder / "kernel.so"
    source.write_text("\n".join((includes, *preamble, main)), encoding="utf-8")
    flags = ("-O1", "-ffp-contract=off", "-shared", "-fPIC")
    subprocess.run([compiler, *flags, "-o", library, source], check=True)
    run = ctypes.CDLL(str(library)).run

    def call(arrays: list[np.ndarray], size: int) -> None:
        n = len(arrays)
        at = (ctypes.c_void_p * n)(*(a.ctypes.data for a in arrays))
        step = (ctypes.c_long * n)(*(int(a.size == size) for a in arrays))
        run(ctypes.c_long(size), at, step)

    return call


def test_cupys_kernels_compute_what_numpy_computes(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    compiled: dict[Any, Callable[..., None]] = {}
    for function, before, after, results in calls_of_a_step():
        kernel = kernel_of(cupy, function, before)
        assert isinstance(kernel, cupy.ElementwiseKernel)
        assert [np.dtype(p.dtype) for p in kernel.out_params] == [r.dtype for r in results]
        if all(a.dtype == np.float32 for a in before):
            assert "double" not in kernel.operation
        shape = np.broadcast_shapes(*(a.shape for a in before))
        assert all(a.shape in (shape, ()) for a in before)
        key = (function, kernel.operation)
        if key not in compiled:
            folder = tmp_path / str(len(compiled))
            folder.mkdir()
            compiled[key] = on_the_host(kernel, folder, compiler)
        got = [*map(np.array, before), *(np.empty(shape, r.dtype) for r in results)]
        compiled[key](got, int(np.prod(shape)))
        for found, want in zip(got, (*after, *results), strict=True):
            atol = 8 * np.finfo(want.dtype).eps * np.abs(want).max() if want.dtype != bool else 0
            np.testing.assert_allclose(found, want, rtol=0, atol=atol)
    assert len(compiled) > 20
