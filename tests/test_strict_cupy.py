"""The stand-in for CuPy must refuse what CuPy refuses, count what waits, and offer nothing more."""

from __future__ import annotations

import copy
import ctypes
import inspect
import pickle
import sys
import types
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import strict_cupy
from strict_cupy import cupy_counts

UNSUPPORTED = "Unsupported type"


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    return strict_cupy.install(monkeypatch)


@pytest.fixture
def a(cupy: types.ModuleType) -> Any:
    return cupy.asarray(np.arange(6.0, dtype=np.float32).reshape(2, 3))


# --- installation -----------------------------------------------------------------------------


def drawing(cp: Any, seed: Any) -> Any:
    """A generator of CuPy's."""
    return cp.random.Generator(cp.random.Philox4x3210(seed, size=16))


def test_import_gives_the_stand_in_for_one_test(monkeypatch: pytest.MonkeyPatch) -> None:
    before = sys.modules.get("cupy")
    with monkeypatch.context() as patch:
        installed = strict_cupy.install(patch)
        import cupy
        import cupy.cuda.runtime as runtime
        from cupy.random import Generator

        assert cupy is installed
        assert runtime.getDeviceCount() == 1
        assert Generator is cupy.random.Generator
    assert sys.modules.get("cupy") is before


def test_uninstall_makes_the_import_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    strict_cupy.install(monkeypatch)
    strict_cupy.uninstall(monkeypatch)
    with pytest.raises(ModuleNotFoundError):
        import cupy.random  # noqa: F401


@pytest.mark.parametrize(
    ("status", "message"),
    [(strict_cupy.MISSING_DRIVER, "InsufficientDriver"), (strict_cupy.NO_DEVICE, "NoDevice")],
)
def test_without_a_gpu_the_import_works_and_the_device_does_not(
    monkeypatch: pytest.MonkeyPatch, status: int, message: str
) -> None:
    cupy = strict_cupy.install(monkeypatch, status=status)
    error = cupy.cuda.runtime.CUDARuntimeError
    for touch in (
        cupy.cuda.runtime.getDeviceCount,
        lambda: cupy.asarray(np.ones(3)),
        lambda: cupy.zeros(3),
        lambda: drawing(cupy, 0),
        cupy.cuda.Device,
    ):
        with pytest.raises(error, match=message) as caught:
            touch()
        assert caught.value.status == status
    assert cupy.cuda.runtime.runtimeGetVersion() == 12090


# --- what is refused ----------------------------------------------------------------------------


def test_implicit_conversion_is_refused(a: Any) -> None:
    for convert in (np.asarray, np.array, np.float64, lambda x: np.ones((2, 3)) + np.asarray(x)):
        with pytest.raises(TypeError, match="Implicit conversion to a NumPy array is not allowed"):
            convert(a)
    target = np.zeros((2, 3))
    with pytest.raises((TypeError, ValueError)):
        target[...] = a
    assert not target.any()


@pytest.mark.parametrize(
    "call",
    [
        lambda a: np.add(a, a),
        lambda a: np.maximum(a, 0),
        lambda a: np.exp(a, out=np.zeros((2, 3))),
        lambda a: np.multiply(np.float32(2), a),
        lambda a: np.ones((2, 3)).__iadd__(a),
        lambda a: np.sum(a),
        lambda a: np.concatenate([a, a]),
        lambda a: np.zeros_like(a),
        lambda a: np.where(a, 1, 2),
        lambda a: np.add.reduce(a),
        lambda a: np.save("never-written.npy", a),
    ],
)
def test_numpy_functions_are_refused(a: Any, call: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError):
        call(a)


HOST = np.ones((2, 3), dtype=np.float32)


@pytest.mark.parametrize(
    "mix",
    [
        lambda cp, a: a + HOST,
        lambda cp, a: HOST + a,
        lambda cp, a: a @ HOST.T,
        lambda cp, a: HOST.T @ a,
        lambda cp, a: a < HOST,
        lambda cp, a: HOST < a,  # noqa: SIM300
        lambda cp, a: a == HOST,
        lambda cp, a: a**HOST,
        lambda cp, a: a.__iadd__(HOST),
        lambda cp, a: a + np.array(1.0),
        lambda cp, a: cp.add(a, HOST),
        lambda cp, a: cp.add(a, a, out=HOST),
        lambda cp, a: cp.add(a, a, HOST),
        lambda cp, a: cp.exp(HOST),
        lambda cp, a: cp.exp([1.0]),
        lambda cp, a: cp.sum(HOST),
        lambda cp, a: cp.sum(a, axis=0, out=HOST[0]),
        lambda cp, a: a.sum(axis=0, out=HOST[0]),
        lambda cp, a: cp.matmul(a, a.T, out=np.zeros((2, 2), np.float32)),
        lambda cp, a: cp.dot(a, HOST.T),
        lambda cp, a: cp.einsum("ij,ij->", a, HOST),
        lambda cp, a: cp.where(HOST > 0, a, 0),
        lambda cp, a: cp.where(a > 0, a, HOST),
        lambda cp, a: cp.clip(a, 0, HOST),
        lambda cp, a: cp.copyto(a, HOST),
        lambda cp, a: cp.copyto(HOST, a),
        lambda cp, a: cp.copyto(a, a, where=HOST > 0),
        lambda cp, a: cp.concatenate([a, HOST]),
        lambda cp, a: cp.stack([HOST, HOST]),
        lambda cp, a: cp.zeros_like(HOST),
        lambda cp, a: cp.empty_like(HOST),
        lambda cp, a: cp.full((2, 3), HOST),
        lambda cp, a: cp.take(a, np.array([0])),
        lambda cp, a: cp.reshape(HOST, (3, 2)),
        lambda cp, a: cp.zeros(np.array([2, 3])),
        lambda cp, a: cp.linalg.norm(HOST),
        lambda cp, a: a[np.array([0])],
        lambda cp, a: a[0, np.array([0])],
        lambda cp, a: a[[0, 1]],
        lambda cp, a: a[HOST > 0],
        lambda cp, a: a[True],
        lambda cp, a: a.__setitem__(0, HOST[0]),
        lambda cp, a: a.__setitem__(np.array([0]), 1),
        lambda cp, a: a.__setitem__(0, [1, 2, 3]),
        lambda cp, a: a.fill(HOST),
        lambda cp, a: a.fill(a[0, 0]),
        lambda cp, a: a * [1, 2, 3],
        lambda cp, a: a + None,
        lambda cp, a: a == None,  # noqa: E711
        lambda cp, a: a + "1",
    ],
)
def test_mixing_with_host_arrays_is_refused(
    cupy: types.ModuleType, a: Any, mix: Callable[[Any, Any], Any]
) -> None:
    host, before = HOST.copy(), a.get()
    with pytest.raises(TypeError, match=UNSUPPORTED):
        mix(cupy, a)
    np.testing.assert_array_equal(HOST, host)
    np.testing.assert_array_equal(a.get(), before)


@pytest.mark.parametrize("scalar", [2, 2.0, True, np.float32(2), np.float64(2), np.int64(2)])
def test_scalars_are_welcome_on_both_sides(a: Any, scalar: Any) -> None:
    host = a.get()
    for operate in (
        lambda x: x + scalar,
        lambda x: scalar - x,
        lambda x: scalar * x,
        lambda x: x / scalar,
        lambda x: scalar < x,
        lambda x: x == scalar,
    ):
        device = operate(a)
        assert isinstance(device, strict_cupy.ndarray)
        assert device.dtype == operate(host).dtype
        np.testing.assert_array_equal(device.get(), operate(host))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda cp, a: cp.exp(a, where=a > 0),
        lambda cp, a: cp.add(a, a, where=a > 0, out=a),
        lambda cp, a: cp.add(a, a, order="K"),
        lambda cp, a: cp.add(a),
        lambda cp, a: cp.sum(a, where=a > 0),
        lambda cp, a: cp.sum(a, initial=1),
        lambda cp, a: a.max(initial=0),
        lambda cp, a: a.mean(where=a > 0),
        lambda cp, a: cp.einsum("ij->", a, out=a),
        lambda cp, a: cp.clip(a, 0, 1, dtype=a.dtype),
        lambda cp, a: cp.take(a, 0, mode="clip"),
        lambda cp, a: cp.where(a > 0),
        lambda cp, a: cp.zeros(3, like=a),
        lambda cp, a: a.astype("f4", casting="safe"),
        lambda cp, a: drawing(cp, 0).standard_normal(3, np.float32, None, 1),
        lambda cp, a: drawing(cp, np.random.default_rng(0)),
        lambda cp, a: cp.random.Generator(np.random.PCG64(0)),
    ],
)
def test_arguments_that_cupy_does_not_take_are_refused(
    cupy: types.ModuleType, a: Any, wrong: Callable[[Any, Any], Any]
) -> None:
    with pytest.raises(TypeError):
        wrong(cupy, a)


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        ("", "errstate"),
        ("", "vecdot"),
        ("", "float128"),
        ("", "erf"),
        ("", "default_rng"),
        ("random", "default_rng"),
        ("random", "permutation"),
        ("linalg", "multi_dot"),
        ("cuda", "is_available"),
    ],
)
def test_names_that_are_not_offered(cupy: types.ModuleType, owner: str, name: str) -> None:
    module = getattr(cupy, owner) if owner else cupy
    with pytest.raises(AttributeError, match=rf"no attribute '{name}'"):
        getattr(module, name)


def test_attributes_that_are_not_offered(cupy: types.ModuleType, a: Any) -> None:
    for missing in ("writeable", "behaved"):
        assert not hasattr(a.flags, missing)
    for missing in ("__index__", "__contains__", "__imatmul__", "__array_interface__", "ctypes"):
        assert not hasattr(a, missing)
    generator = drawing(cupy, 0)
    for missing in ("normal", "permutation", "shuffle", "choice", "bit_generator", "spawn"):
        assert not hasattr(generator, missing)
    with pytest.raises(TypeError, match="cannot be interpreted as an integer"):
        range(a[0, 0])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="unhashable"):
        hash(a)
    with pytest.raises(TypeError, match="use empty or zeros"):
        cupy.ndarray((2, 3))


@pytest.mark.parametrize("dtype", [object, np.longdouble, "U3", "M8[s]"])
def test_dtypes_that_cupy_does_not_have(cupy: types.ModuleType, dtype: Any) -> None:
    with pytest.raises(ValueError, match="Unsupported dtype"):
        cupy.asarray(np.zeros(3).astype(dtype))


def test_out_must_fit_and_not_overlap(cupy: types.ModuleType, a: Any) -> None:
    square = cupy.ones((3, 3), dtype=np.float32)
    with pytest.raises(ValueError, match="overlaps an input"):
        cupy.matmul(square, square, out=square)
    with pytest.raises(ValueError, match="overlaps an input"):
        cupy.cumsum(a[0], out=a[0])
    with pytest.raises(ValueError, match="overlaps an input"):
        cupy.concatenate([a[0, :1], a[0, 1:]], out=a[0])
    with pytest.raises(ValueError, match="shape"):
        a.sum(axis=0, out=cupy.zeros(2, dtype=np.float32))
    with pytest.raises(TypeError, match="dtype"):
        a.sum(axis=0, out=cupy.zeros(3, dtype=np.float64))
    with pytest.raises(ValueError, match="C-contiguous"):
        cupy.dot(a, a.T, out=cupy.zeros((2, 2), dtype=np.float32).T)
    with pytest.raises(TypeError):
        cupy.exp(a, out=cupy.zeros((2, 3), dtype=np.int64))
    with pytest.raises(ValueError, match="overlapping"):
        a[0, 1:] = a[0, :-1]
    a[0] = a[0]  # the same elements: CuPy skips it
    cupy.exp(a, out=a)  # elementwise kernels may work in place


# --- what is counted ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wait",
    [
        lambda cp, a: a.get(),
        lambda cp, a: a.get(out=np.empty((2, 3), np.float32)),
        lambda cp, a: cp.asnumpy(a),
        lambda cp, a: float(a.sum()),
        lambda cp, a: int(a.sum()),
        lambda cp, a: bool((a < 9).all()),
        lambda cp, a: 1 if a.sum() > 0 else 0,
        lambda cp, a: a.sum().item(),
        lambda cp, a: a.tolist(),
        lambda cp, a: repr(a),
        lambda cp, a: str(a),
        lambda cp, a: f"{a.sum():.3f}",
        lambda cp, a: a[a > 2],
        lambda cp, a: a.__setitem__(a > 2, 0),
        lambda cp, a: cp.nonzero(a),
        lambda cp, a: max(a[0, 0], a[0, 1]),
        lambda cp, a: 1.0 in a[0, :2],
        lambda cp, a: pickle.dumps(a),
        lambda cp, a: cp.cuda.Stream.null.synchronize(),
        lambda cp, a: cp.cuda.get_current_stream().synchronize(),
        lambda cp, a: cp.cuda.Device(0).synchronize(),
        lambda cp, a: cp.cuda.runtime.deviceSynchronize(),
    ],
)
def test_synchronisations_are_counted(
    cupy: types.ModuleType, a: Any, wait: Callable[[Any, Any], Any]
) -> None:
    with cupy_counts() as counts:
        wait(cupy, a)
    assert counts.synchronisations >= 1
    assert counts.transfers == 0
    assert all("test_strict_cupy.py:" in line for line in counts.synchronised)


def test_the_device_works_without_the_host(cupy: types.ModuleType, a: Any) -> None:
    with cupy_counts() as counts:
        loss = ((a @ a.T).sum() - 1) ** 2
        mask = (a > 1) * a
        for row in a:
            row += 1
        list(a[0])
        copy.deepcopy(a)
        cupy.where(a > 0, a, cupy.full((), 2.0, dtype=np.float32))
        cupy.copyto(a, 0, where=a > 3)
        a[0, 0], a[:, 1], a[...] = loss, 1.0, a.copy()
        a[cupy.arange(2), 0]
        a[cupy.asarray(a, dtype=np.float32).argmax(axis=1)[:1] * 0]
        drawing(cupy, 0).random((2, 3), dtype=np.float32)
        len(a), a.shape, a.dtype, a.size, a.nbytes, a.flags.c_contiguous, mask.data.ptr
        assert a is not None
    assert (counts.synchronisations, counts.transfers) == (0, 0), counts.synchronised


def test_transfers_are_counted_and_copy(cupy: types.ModuleType) -> None:
    host = np.arange(3.0)
    with cupy_counts() as counts:
        device = cupy.asarray(host)
        cupy.array([1.0, 2.0], dtype=np.float32)
        device.set(host)
        cupy.asarray(device)  # already there
    assert (counts.transfers, counts.synchronisations) == (3, 0)
    assert all("test_strict_cupy.py:" in line for line in counts.transferred)
    host[0] = 7
    got = device.get()
    got[1] = 7
    assert device.tolist() == [0.0, 1.0, 2.0]


def test_counts_nest_and_end_with_their_block(a: Any) -> None:
    with cupy_counts() as outer:
        a.get()
        with cupy_counts() as inner:
            a.get()
    a.get()
    assert (outer.synchronisations, inner.synchronisations) == (2, 1)


# --- what an array is -----------------------------------------------------------------------------


def test_reductions_and_elements_stay_on_the_device(cupy: types.ModuleType, a: Any) -> None:
    for scalar in (a.sum(), a.mean(), a.max(), a.argmax(), (a > 0).all(), a[0, 0], cupy.sqrt(2.0)):
        assert isinstance(scalar, cupy.ndarray)
        assert scalar.shape == ()
    assert a.sum().dtype == np.float32


@pytest.mark.skipif(np.__version__ < "2", reason="the stand-in promotes as its NumPy does")
def test_the_dtype_of_a_0d_array_counts(cupy: types.ModuleType, a: Any) -> None:
    assert (a * cupy.asarray(2.0)).dtype == np.float64
    assert (a * 2.0).dtype == np.float32


def test_views_share_their_memory(cupy: types.ModuleType) -> None:
    theta = cupy.zeros(10, dtype=np.float32)
    weights, bias = theta[:6].reshape(2, 3), theta[6:9]
    weights += 1
    bias[...] = 2.0
    cupy.multiply(weights, 3, out=weights)
    cupy.matmul(cupy.ones((2, 1), dtype=np.float32), bias[None, :], out=weights)
    weights.T[2, 1] = 9
    theta[9].fill(5)
    for element in bias:
        element += 1
    assert theta.tolist() == [2, 2, 2, 2, 2, 9, 3, 3, 3, 5]
    assert cupy.may_share_memory(theta, weights)
    assert not cupy.may_share_memory(theta[:6], bias)
    before = theta
    theta -= 1
    assert theta is before
    assert cupy.add(theta, 1, out=theta) is theta
    assert cupy.sum(weights, axis=1, out=bias[:2]).tolist() == [6, 13]


def test_empty_holds_nothing_useful(cupy: types.ModuleType, a: Any) -> None:
    for fresh in (cupy.empty(3), cupy.empty((2, 2), dtype=np.float32), cupy.empty_like(a)):
        assert np.isnan(fresh.get()).all()


def test_results_are_c_contiguous_and_silent(cupy: types.ModuleType, a: Any) -> None:
    assert (a.T * 2).flags.c_contiguous
    assert not (a.get().T * 2).flags.c_contiguous  # as NumPy has it
    loud = cupy.log(a - 9) + cupy.exp(a * 1e3) + a / 0
    assert not cupy.isfinite(loud).any().item()


def test_functions_give_numpys_numbers(cupy: types.ModuleType) -> None:
    host = np.random.default_rng(0).standard_normal((4, 5))
    a = cupy.asarray(host)
    pairs = [
        (cupy.sum(a, axis=0, keepdims=True), host.sum(axis=0, keepdims=True)),
        (cupy.var(a, axis=1, ddof=1), host.var(axis=1, ddof=1)),
        (cupy.concatenate((a, a), axis=1), np.concatenate((host, host), axis=1)),
        (cupy.stack([a, a]), np.stack([host, host])),
        (cupy.clip(a, -1, None), np.clip(host, -1, None)),
        (cupy.take(a, cupy.asarray([1, 0]), axis=1), host[:, [1, 0]]),
        (cupy.arange(3, stop=10, step=2), np.arange(3, 10, 2)),
        (cupy.linspace(0, 1, 5), np.linspace(0, 1, 5)),
        (cupy.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32)),
        (cupy.einsum("ij,ik->jk", a, a), host.T @ host),
        (cupy.tensordot(a, a, axes=([0], [0])), host.T @ host),
        (cupy.where(a > 0, a, 0), np.where(host > 0, host, 0)),
        (cupy.sort(a, axis=0), np.sort(host, axis=0)),
        (cupy.linalg.norm(a), np.linalg.norm(host)),
        (cupy.linalg.svd(a, full_matrices=False)[1], np.linalg.svd(host, full_matrices=False)[1]),
        (a[cupy.asarray([2, 0])], host[[2, 0]]),
        (a[:, ::2][1:, None, -1], host[:, ::2][1:, None, -1]),
    ]
    for got, want in pairs:
        assert got.dtype == want.dtype
        np.testing.assert_allclose(got.get(), want, rtol=1e-13)


# --- random numbers -------------------------------------------------------------------------------


def test_generator_is_reproducible_and_not_numpys(cupy: types.ModuleType) -> None:
    for seed in (3, [3, 4], np.random.SeedSequence(3)):
        first = drawing(cupy, seed).standard_normal((2, 2), dtype=np.float32)
        again = drawing(cupy, seed).standard_normal((2, 2), dtype=np.float32)
        assert first.tolist() == again.tolist()
    other = np.random.default_rng(3).standard_normal((2, 2), dtype=np.float32)
    assert drawing(cupy, 3).standard_normal((2, 2), np.float32).tolist() != other.tolist()
    generator = drawing(cupy, None)
    assert generator.random().shape == ()
    assert generator.random(1000).dtype == np.float64
    integers = generator.integers(5, size=1000)
    assert (integers.min().item(), integers.max().item()) == (0, 4)
    uniform = generator.uniform(-2.0, 3.0, size=1000, dtype=np.float32)
    assert uniform.dtype == np.float32
    assert -2 <= uniform.min().item() < -1.5 < 2.5 < uniform.max().item() < 3


def test_generator_checks_out(cupy: types.ModuleType) -> None:
    generator, out = drawing(cupy, 0), cupy.empty((2, 3), dtype=np.float32)
    assert generator.standard_normal(dtype=np.float32, out=out) is out
    assert generator.random((2, 3), dtype=np.float32, out=out) is out
    assert (out >= 0).all().item()
    with pytest.raises(TypeError, match="Expected float64, got float32"):
        generator.standard_normal(out=out)
    with pytest.raises(ValueError, match="size must match"):
        generator.standard_normal((3, 2), dtype=np.float32, out=out)
    with pytest.raises(ValueError, match="one number"):
        generator.random(dtype=np.float32, out=out)
    with pytest.raises(ValueError, match="not contiguous"):
        generator.standard_normal(dtype=np.float32, out=out[:, ::2])
    with pytest.raises(TypeError, match=UNSUPPORTED):
        generator.random((2, 3), dtype=np.float32, out=HOST)
    with pytest.raises(TypeError, match="size must be"):
        generator.random(np.array([2, 3]))


# --- a training step ------------------------------------------------------------------------------


def train(cp: Any, bad: str = "") -> strict_cupy.Counts:
    """Three steps of linear regression on the device, with one mistake if asked for."""
    rng = drawing(cp, 0)
    x, w = rng.standard_normal((8, 3)), cp.zeros(3)
    losses = cp.empty(3)
    with cupy_counts() as counts:
        for i in range(3):
            noise = np.ones((8, 3)) if bad == "host noise" else rng.standard_normal((8, 3))
            error = (x + noise) @ w - x[:, 0]
            if bad == "numpy":
                error = np.maximum(error, 0)
            kept = {"where": error > 0} if bad == "where" else {}
            loss = cp.sum(error * error, **kept)
            losses[i] = float(loss) if bad == "float" else loss
            if bad == "guard" and not cp.isfinite(loss):
                break
            w -= 0.01 * (x.T @ error)
    return counts


def test_a_good_training_step_passes(cupy: types.ModuleType) -> None:
    assert train(cupy).synchronisations == 0


@pytest.mark.parametrize("bad", ["host noise", "numpy", "where"])
def test_bad_training_steps_are_refused(cupy: types.ModuleType, bad: str) -> None:
    with pytest.raises(TypeError):
        train(cupy, bad)


@pytest.mark.parametrize("bad", ["float", "guard"])
def test_waiting_training_steps_are_counted(cupy: types.ModuleType, bad: str) -> None:
    assert train(cupy, bad).synchronisations == 3


# --- streams and graphs ---------------------------------------------------------------------------


def capture(cupy: Any, work: Callable[[], Any], before: Callable[[], Any] | None = None) -> Any:
    """Return stream, pool, graph and result of a capture in memory of its own."""
    stream, pool = cupy.cuda.Stream(non_blocking=True), cupy.cuda.MemoryPool()
    cupy.cuda.get_current_stream().synchronize()
    with stream, cupy.cuda.using_allocator(pool.malloc):
        if before is not None:
            before()
        stream.begin_capture()
        try:
            result = work()
        finally:
            graph = stream.end_capture()
    stream.synchronize()
    return stream, pool, graph, result


def test_a_capture_records_and_a_launch_runs(cupy: Any) -> None:
    x, out = cupy.asarray(np.arange(4.0)), cupy.zeros(4)
    index, table = cupy.zeros(1, dtype=np.int64), cupy.zeros((3, 2))

    def work() -> Any:
        y = (x * 2 + 1).reshape(2, 2).T
        cupy.add(x, 1, out=out)
        table[index] = y.sum(axis=0)
        index.__iadd__(1)
        x.__iadd__(out.take(index, axis=0))
        return y.copy(), y[:1], x.astype(np.float32)

    stream, pool, graph, (copy, view, cast) = capture(cupy, work)
    assert not stream.is_capturing()
    assert np.isnan(copy.get()).all()
    assert np.isnan(view.get()).all()
    assert np.isnan(cast.get()).all()
    assert x.tolist() == [0, 1, 2, 3]
    assert (out.tolist(), index.tolist()) == ([0] * 4, [0])
    want = np.arange(4.0)
    for step in range(2):
        graph.launch()
        y, summed = (2 * want + 1).reshape(2, 2).T, want + 1
        np.testing.assert_array_equal(copy.get(), y)
        np.testing.assert_array_equal(view.get(), y[:1])
        np.testing.assert_array_equal(table.get()[step], y.sum(axis=0))
        want = want + summed[step + 1]
        np.testing.assert_array_equal(x.get(), want)
        np.testing.assert_array_equal(cast.get(), want.astype(np.float32))
    assert index.tolist() == [2]
    del pool


@pytest.mark.parametrize(
    ("error", "match", "work"),
    [
        (RuntimeError, "is capturing, so synchronous", lambda cp, a: a.get()),
        (RuntimeError, "is capturing, so synchronous", lambda cp, a: float(a.sum())),
        (RuntimeError, "is capturing, so synchronous", lambda cp, a: bool((a > 0).all())),
        (RuntimeError, "is capturing, so synchronous", lambda cp, a: a[a > 0]),
        (RuntimeError, "is capturing, so H2D", lambda cp, a: cp.asarray(np.ones(3))),
        (RuntimeError, "is capturing, so H2D", lambda cp, a: a.set(a._host)),
        (NotImplementedError, "cuBLAS", lambda cp, a: a @ a.T),
        (NotImplementedError, "cuBLAS", lambda cp, a: cp.matmul(a, a.T)),
        (NotImplementedError, "cuBLAS", lambda cp, a: cp.einsum("ij,ij->i", a, a)),
        (NotImplementedError, "cuSOLVER", lambda cp, a: cp.linalg.svd(a)),
        (NotImplementedError, "generator", lambda cp, a: drawing(cp, 0).random(3)),
        (ValueError, "broadcast", lambda cp, a: cp.add(a, cp.zeros(7), out=a)),
    ],
)
def test_what_a_capture_refuses(cupy: Any, a: Any, error: Any, match: str, work: Any) -> None:
    with pytest.raises(error, match=match):
        capture(cupy, lambda: work(cupy, a))
    cupy.cuda.get_current_stream().synchronize()
    _, pool, graph, _ = capture(cupy, lambda: a + 1)
    graph.launch()
    del pool


@pytest.mark.parametrize("wait", ["stream", "device", "runtime"])
def test_waiting_spoils_a_capture(cupy: Any, wait: str) -> None:
    stream, cuda = cupy.cuda.Stream(non_blocking=True), cupy.cuda
    waits = {
        "stream": stream.synchronize,
        "device": cuda.Device().synchronize,
        "runtime": cuda.runtime.deviceSynchronize,
    }
    with stream:
        stream.begin_capture()
        with pytest.raises(cuda.runtime.CUDARuntimeError, match="CaptureUnsupported"):
            waits[wait]()
        with pytest.raises(cuda.runtime.CUDARuntimeError, match="CaptureInvalidated"):
            stream.end_capture()
    assert not stream.is_capturing()
    stream.synchronize()


def test_captures_begin_and_end_in_pairs_and_not_on_the_null_stream(cupy: Any) -> None:
    stream, error = cupy.cuda.Stream(non_blocking=True), cupy.cuda.runtime.CUDARuntimeError
    with pytest.raises(RuntimeError, match="legacy"):
        cupy.cuda.Stream.null.begin_capture()
    with pytest.raises(error, match="IllegalState"):
        stream.end_capture()
    stream.begin_capture()
    with pytest.raises(error, match="IllegalState"):
        stream.begin_capture()
    stream.end_capture()
    with pytest.raises(NotImplementedError):
        cupy.cuda.Graph()


def test_memory_of_a_graph_must_be_its_own_and_stay(cupy: Any, a: Any) -> None:
    stream = cupy.cuda.Stream(non_blocking=True)
    cupy.cuda.get_current_stream().synchronize()
    with stream:
        stream.begin_capture()
        with pytest.raises(RuntimeError, match="outside a private pool"):
            a * 2
        with pytest.raises(RuntimeError, match="outside a private pool"):
            cupy.empty(3)
        a += 1  # allocates nothing
        stream.end_capture()
    _, pool, graph, result = capture(cupy, lambda: a * 2)
    graph.launch()
    assert np.isfinite(result.get()).all()
    del pool
    with pytest.raises(RuntimeError, match="pool of this graph is gone"):
        graph.launch()
    assert np.isnan(result.get()).all()


def test_streams_without_order_are_refused(cupy: Any, a: Any) -> None:
    stream = cupy.cuda.Stream(non_blocking=True)
    a += 1
    with stream, pytest.raises(RuntimeError, match="two streams at once"):
        a += 1
    cupy.cuda.get_current_stream().synchronize()
    with stream:
        a += 1
    with pytest.raises(RuntimeError, match="two streams at once"):
        a += 1
    stream.synchronize()
    a += 1
    with cupy.cuda.Stream():  # one that the null stream waits for
        a += 1


GOOD = (0, 1, 2, 3, 4, 1.0, "A", 0, 2, "B", 0, 3, 0.0, "C", 0, 2, 68, -1)


def gemm(cupy: Any, changes: dict[int, Any]) -> tuple[int, Any, Any]:
    """Call cublasGemmEx for C (2, 3) = A (2, 4) B^T, B (3, 4), all column by column."""
    host = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    arrays = {
        "A": cupy.asarray(np.ascontiguousarray(host[:2].T)),  # columns of A as rows
        "B": cupy.asarray(np.ascontiguousarray(host[2:].T)),
        "C": cupy.zeros((3, 2), dtype=np.float32),
    }
    library = ctypes.CDLL("libcublas.so.12")
    handle = ctypes.c_void_p(changes.pop(-1, cupy.cuda.Device().cublas_handle))
    library.cublasSetStream_v2(handle, ctypes.c_void_p(cupy.cuda.Stream.null.ptr))
    arguments = [changes.get(i, value) for i, value in enumerate(GOOD)]
    for i in (5, 12):
        arguments[i] = ctypes.byref(ctypes.c_float(arguments[i]))
    for i in (6, 9, 13):
        arguments[i] = ctypes.c_void_p(arrays[arguments[i]].data.ptr)
    status = library.cublasGemmEx(handle, *arguments)
    return status, arrays["C"].get().T, host[:2] @ host[2:].T


def test_cublas_multiplies_column_by_column(cupy: Any) -> None:
    status, got, want = gemm(cupy, {})
    assert status == 0
    np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize(
    "changes",
    [{8: 1}, {11: 2}, {15: 1}, {5: 2.0}, {12: 1.0}, {7: 1}, {14: 1}, {16: 70}, {17: 99}, {-1: 5}],
)
def test_cublas_reports_wrong_arguments(cupy: Any, changes: dict[int, Any]) -> None:
    assert gemm(cupy, dict(changes))[0] != 0


def test_cublas_keeps_to_its_stream_and_workspace(cupy: Any) -> None:
    gemm(cupy, {})
    cupy.cuda.get_current_stream().synchronize()
    library, handle = ctypes.CDLL("libcublas.so.12"), ctypes.c_void_p(strict_cupy.HANDLE)
    one, zero = (ctypes.byref(ctypes.c_float(x)) for x in (1, 0))
    array = cupy.ones(1, dtype=np.float32)
    spot = ctypes.c_void_p(array.data.ptr)
    call = (0, 0, 1, 1, 1, one, spot, 0, 1, spot, 0, 1, zero, spot, 0, 1, 68, -1)
    cupy.cuda.get_current_stream().synchronize()
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        with pytest.raises(RuntimeError, match="another stream"):
            library.cublasGemmEx(handle, *call)
        library.cublasSetWorkspace_v2(handle, spot, ctypes.c_size_t(1))
        library.cublasSetStream_v2(handle, ctypes.c_void_p(stream.ptr))  # takes it away
        stream.begin_capture()
        with pytest.raises(RuntimeError, match="workspace"):
            library.cublasGemmEx(handle, *call)
        stream.end_capture()


# --- against the real one -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real() -> Any:
    """CuPy itself: importing it and looking at its signatures takes neither driver nor GPU."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("cupy", reason="CuPy is not installed")


def unsupported_parameters(ours: inspect.Signature, theirs: inspect.Signature) -> list[str]:
    """Say which calls that ``ours`` accepts ``theirs`` would not, or would read differently."""
    problems, positions = [], list(theirs.parameters)
    for position, (name, parameter) in enumerate(ours.parameters.items()):
        if name not in theirs.parameters:
            problems.append(f"no parameter {name}")
        elif parameter.kind is not parameter.KEYWORD_ONLY and positions[position] != name:
            problems.append(f"{name} is not parameter {position}")
        elif parameter.default not in (parameter.empty, theirs.parameters[name].default):
            problems.append(f"another default of {name}")
    return problems


def test_parameters_are_compared() -> None:
    theirs = inspect.signature(lambda a, axis=None, out=None, keepdims=False: None)
    assert not unsupported_parameters(inspect.signature(lambda a, *, out=None: None), theirs)
    for wrong, problem in (
        (lambda a, axis=None, initial=0: None, "no parameter initial"),
        (lambda a, out=None: None, "out is not parameter 1"),
        (lambda a, axis=0: None, "another default of axis"),
    ):
        assert unsupported_parameters(inspect.signature(wrong), theirs) == [problem]


@pytest.mark.parametrize("module", sorted(strict_cupy._MODULES))
def test_every_name_is_cupys(real: Any, module: str) -> None:
    theirs = real
    for part in module.split(".")[1:]:
        theirs = getattr(theirs, part)
    ours = {name for name in vars(strict_cupy._MODULES[module]) if not name.startswith("__")}
    assert not {name for name in ours if not hasattr(theirs, name)}


CLASSES = ("ndarray", "random.Generator")
CUDA_CLASSES = ("cuda.Device", "cuda.Stream", "cuda.Graph", "cuda.MemoryPool")


@pytest.mark.parametrize("name", CLASSES + CUDA_CLASSES)
def test_every_method_is_cupys(real: Any, name: str) -> None:
    ours, theirs = strict_cupy.cupy, real
    for part in name.split("."):
        ours, theirs = getattr(ours, part), getattr(theirs, part)
    offered = {method for method in vars(ours) if not method.startswith("_")}
    assert not {method for method in offered if not hasattr(theirs, method)}


def test_every_signature_is_cupys(real: Any) -> None:
    offered = {**strict_cupy._FUNCTIONS}
    del offered["matmul"]  # theirs takes *args
    for name in ("empty", "empty_like", "nonzero", "asarray", "array", "asnumpy"):
        offered[name] = getattr(strict_cupy.cupy, name)
    offered["random.Generator"] = strict_cupy.cupy.random.Generator
    offered["random.Philox4x3210"] = strict_cupy.cupy.random.Philox4x3210
    problems = {}
    for name, function in offered.items():
        theirs = real
        for part in name.split("."):
            theirs = getattr(theirs, part)
        problems[name] = unsupported_parameters(
            inspect.signature(function), inspect.signature(theirs)
        )
    assert not {name: found for name, found in problems.items() if found}


def test_ufuncs_are_cupys(real: Any) -> None:
    for name, ours in strict_cupy._UFUNCS.items():
        theirs = getattr(real, name)
        assert isinstance(theirs, real.ufunc), name
        assert (ours.nin, ours.nout) == (theirs.nin, theirs.nout), name
