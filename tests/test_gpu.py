"""The tests of test_backend_strict.py and test_graphs.py on real CuPy, and what only that can show.

Everything here needs an NVIDIA GPU and skips, saying why, where there is none.
"""

from __future__ import annotations

import importlib
import types
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pytest
import strict_cupy
import test_backend_strict
from test_backend_strict import *  # noqa: F403  (the shared tests; they take the fixture ``gpu``)
from test_graphs import *  # noqa: F403

from scratchvae.backend import allow_tf32, generator, gpu_problem, to_device, to_host
from scratchvae.models import VAE
from scratchvae.optim import Adam
from scratchvae.train import fit

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    problem = gpu_problem()
if problem is not None:
    pytest.skip(problem, allow_module_level=True)

pytestmark = pytest.mark.gpu

HOST = np.ones((2, 3), dtype=np.float32)


@pytest.fixture
def cupy() -> types.ModuleType:
    return importlib.import_module("cupy")


@pytest.fixture
def counting(
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[], AbstractContextManager[strict_cupy.Counts]]:
    """A ``cupy_counts`` for real CuPy: whatever brings a number to the host declares it here."""

    def declare() -> None:
        strict_cupy._synchronise("CuPy")

    detector = importlib.import_module("cupy._core.syncdetect")
    monkeypatch.setattr(detector, "_declare_synchronize", declare)
    return strict_cupy.cupy_counts


@pytest.fixture
def gpu(cupy: types.ModuleType, counting: Any) -> test_backend_strict.Gpu:
    """Sums go another way on the GPU: its round-off is some hundred times what is asked at home."""
    return test_backend_strict.Gpu(cupy, counting, 100)


@pytest.mark.parametrize(
    "mix",
    [
        lambda cp, a: np.asarray(a),
        lambda cp, a: a + HOST,
        lambda cp, a: HOST + a,
        lambda cp, a: a.__iadd__(HOST),
        lambda cp, a: a @ HOST.T,
        lambda cp, a: cp.maximum(a, HOST),
        lambda cp, a: cp.exp(a, out=HOST),
        lambda cp, a: a.sum(axis=0, out=HOST[0]),
        lambda cp, a: cp.concatenate([a, HOST]),
        lambda cp, a: a.__setitem__(0, HOST[0]),
        lambda cp, a: cp.exp(a, where=a > 0),
        lambda cp, a: cp.sum(a, where=a > 0),
        lambda cp, a: cp.dot(a, a.T, out=cp.zeros((2, 2), np.float64)),
    ],
)
def test_cupy_refuses_what_the_stand_in_refuses(
    cupy: Any, mix: Callable[[Any, Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises((TypeError, ValueError)):
        mix(cupy, cupy.asarray(HOST))
    standin = strict_cupy.install(monkeypatch)
    with pytest.raises((TypeError, ValueError)):
        mix(standin, standin.asarray(HOST))


@pytest.mark.parametrize(
    ("wait", "times"),
    [
        (lambda cp, a: a.get(), 1),
        (lambda cp, a: cp.asnumpy(a), 1),
        (lambda cp, a: float(a.sum()), 1),
        (lambda cp, a: bool((a > 0).all()), 1),
        (lambda cp, a: f"{a.sum():.3f}", 1),
        (lambda cp, a: a[a > 0], 1),
        (lambda cp, a: (a @ a.T).sum() * a.mean(), 0),
        (lambda cp, a: [row.sum() for row in a], 0),
        (lambda cp, a: a[cp.arange(2), 0], 0),
        (lambda cp, a: cp.copyto(a, 0, where=a > 3), 0),
        (lambda cp, a: cp.stack([a.sum(), a.mean()]), 0),
        (lambda cp, a: cp.asarray(HOST), 0),
    ],
)
def test_cupy_waits_where_the_stand_in_says_so(
    cupy: Any, counting: Any, wait: Callable[[Any, Any], Any], times: int
) -> None:
    real, standin = cupy.asarray(HOST), strict_cupy.cupy.asarray(HOST)
    with counting() as counts:
        wait(cupy, real)
    assert counts.synchronisations == times
    with strict_cupy.cupy_counts() as counts:
        wait(strict_cupy.cupy, standin)
    assert counts.synchronisations == times


def test_reductions_and_elements_stay_on_the_device(cupy: Any) -> None:
    a = cupy.asarray(HOST)
    for scalar in (a.sum(), a.mean(), a.max(), (a > 0).all(), a[0, 0], cupy.sqrt(2.0)):
        assert isinstance(scalar, cupy.ndarray)
        assert scalar.shape == ()
    element = a[0, 0]
    element += 4
    assert float(a[0, 0]) == 5
    assert a.mean().dtype == (a * 2.0).dtype == np.float32


def test_noise_has_the_right_moments_and_dtype() -> None:
    rng = generator("gpu", 0, 1)
    normal = to_host(rng.standard_normal((500, 400), dtype=np.dtype("float32")))
    uniform = to_host(rng.random((500, 400), dtype=np.dtype("float32")))
    assert normal.dtype == uniform.dtype == np.float32
    error = 1 / np.sqrt(normal.size)
    assert abs(normal.mean()) < 5 * error
    assert abs(normal.var() - 1) < 5 * np.sqrt(2) * error
    assert abs(uniform.mean() - 1 / 2) < 5 * error / np.sqrt(12)
    assert 0 <= uniform.min() < 1e-3 < 0.999 < uniform.max() <= 1
    again = to_host(generator("gpu", 0, 1).standard_normal((500, 400), dtype=np.dtype("float32")))
    np.testing.assert_array_equal(again, normal)


def test_the_whole_vae_agrees_with_the_cpu() -> None:
    models = [VAE(784, device=device) for device in ("cpu", "gpu")]
    optimizers = [Adam(), Adam()]
    rng = np.random.default_rng(0)
    for _ in range(5):
        x = rng.random((128, 784), dtype=np.float32)
        eps = rng.standard_normal((128, 20), dtype=np.float32)
        losses = []
        for model, optimizer in zip(models, optimizers, strict=True):
            losses.append(model.forward(to_device(x, model.device), to_device(eps, model.device)))
            model.backward()
            optimizer.step(model.theta, model.grad)
        np.testing.assert_allclose(float(losses[1]), float(losses[0]), rtol=1e-4)
    host, device = to_host(models[0].grad), to_host(models[1].grad)
    assert np.linalg.norm(device - host) < 1e-3 * np.linalg.norm(host)


def test_cupy_itself_still_refuses_products_in_a_capture(cupy: Any) -> None:
    """The reason for graphs._Cublas: where this fails, CuPy's own products may do."""
    a, stream = cupy.asarray(HOST), cupy.cuda.Stream(non_blocking=True)
    a @ a.T
    cupy.cuda.get_current_stream().synchronize()
    with stream:
        stream.begin_capture()
        with pytest.raises(NotImplementedError, match="cuBLAS"):
            a @ a.T
        stream.end_capture()


def test_a_graph_at_the_size_of_the_lessons() -> None:
    """784-400-20-400-784: with a graph, without one, and on the CPU with the same noise."""
    x = np.random.default_rng(0).random((1000, 784), dtype=np.float32)
    thetas = []
    for graph in "10":
        model = VAE(784, device="gpu")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SCRATCHVAE_GRAPH", graph)
            fit(model, x, epochs=2, batch_size=128)
        thetas.append(to_host(model.theta))
    assert np.linalg.norm(thetas[0] - thetas[1]) < 1e-4 * np.linalg.norm(thetas[1])


def test_tf32_is_visible_in_the_products(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if int(cupy.cuda.Device().compute_capability) < 80:
        pytest.skip("TF32 needs compute capability 8.0")
    monkeypatch.setenv("CUPY_TF32", "0")
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((512, 512)).astype(np.float32) for _ in range(2))
    exact, errors = a.astype(np.float64) @ b, []
    for allowed in (False, True, False):
        allow_tf32(allowed)
        product = to_host(to_device(a, "gpu") @ to_device(b, "gpu"))
        errors.append(float(np.abs(product - exact).max()))
    assert errors[0] < 1e-3 < errors[1]
    assert errors[2] == errors[0]
