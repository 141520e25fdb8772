"""The GPU path on the strict stand-in for CuPy; test_gpu.py runs the same tests on a real GPU.

For the same noise the GPU gives the CPU's numbers, and a training step never makes the host wait
for the device.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import strict_cupy

from scratchvae import checkpoint, cli, evaluate, train
from scratchvae.backend import (
    GpuUnavailableError,
    array_module,
    device_of,
    generator,
    resolve_device,
    to_device,
    to_host,
)
from scratchvae.latent import GaussianKL, Reparameterize
from scratchvae.layers import Dense, ReLU, Sequential, Sigmoid, Tanh, pack
from scratchvae.losses import BernoulliNLL, GaussianNLL, MeanSquaredError
from scratchvae.models import VAE, Autoencoder, DenoisingAutoencoder, Model
from scratchvae.optim import OPTIMIZERS, Adam
from scratchvae.train import DivergedError, Training, fit

B, D, L = 6, 8, 3


@dataclass(frozen=True)
class Gpu:
    """What the tests need of either CuPy: its module, its counts, and its round-off."""

    cupy: Any
    counts: Callable[[], AbstractContextManager[strict_cupy.Counts]]
    digits: float  # 1 for the stand-in, which computes with NumPy; more where sums go otherwise

    def check(self, got: Any, want: Any) -> None:
        """Compare an array on the GPU with the CPU's, relative to the largest element."""
        assert isinstance(got, self.cupy.ndarray)
        assert got.dtype == want.dtype
        assert got.shape == want.shape
        scale = np.abs(want).max() if want.size else 0
        eps = 1e-12 if want.dtype == np.float64 else 1e-6
        np.testing.assert_allclose(to_host(got), want, rtol=0, atol=eps * self.digits * scale)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    return Gpu(strict_cupy.install(monkeypatch), strict_cupy.cupy_counts, 1)


def data(*shape: int, dtype: str = "float64", seed: int = 1) -> np.ndarray:
    """Return numbers in (0, 1), which every loss accepts."""
    return np.random.default_rng(seed).random(shape).astype(dtype)


def normal(*shape: int, seed: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


# --- layers, latent pieces, losses ----------------------------------------------------------------

LAYERS = {
    "dense": lambda: Dense(D, L, rng=3, dtype="float64"),
    "dense he": lambda: Dense(D, L, init="he", rng=3, dtype="float64"),
    "relu": ReLU,
    "tanh": Tanh,
    "sigmoid": Sigmoid,
    "sequential": lambda: Sequential(
        Dense(D, 5, rng=3, dtype="float64"), Tanh(), Dense(5, L, rng=4, dtype="float64"), Sigmoid()
    ),
    "identity": Sequential,
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_give_the_cpus_numbers(gpu: Gpu, name: str) -> None:
    host, device = LAYERS[name](), LAYERS[name]()
    if host.named_parameters():
        pack({"": device}, "gpu")
    x = normal(B, D)
    x_gpu = to_device(x, "gpu")
    dy = normal(*host.apply(x).shape, seed=5)
    dy_gpu = to_device(dy, "gpu")
    with gpu.counts() as counts:
        applied, y, dx = device.apply(x_gpu), device.forward(x_gpu), device.backward(dy_gpu)
    assert counts.synchronisations == 0, counts.synchronised
    gpu.check(applied, host.apply(x))
    gpu.check(y, host.forward(x))
    gpu.check(dx, host.backward(dy))
    gradients = device.named_gradients()
    assert gradients.keys() == host.named_gradients().keys()
    for path, gradient in host.named_gradients().items():
        gpu.check(gradients[path], gradient)
    gpu.check(x_gpu, x)
    gpu.check(dy_gpu, dy)


def test_parameters_on_the_gpu_are_views_of_one_vector(gpu: Gpu) -> None:
    layer = LAYERS["sequential"]()
    theta, grad = pack({"": layer}, "gpu")
    assert device_of(theta) == device_of(grad) == "gpu"
    theta[...] = 2.0
    grad += 3.0
    for parameter in layer.named_parameters().values():
        gpu.check(parameter, np.full(parameter.shape, 2.0))
    for gradient in layer.named_gradients().values():
        gpu.check(gradient, np.full(gradient.shape, 3.0))


def test_reparameterize_gives_the_cpus_numbers(gpu: Gpu) -> None:
    host, device = Reparameterize(), Reparameterize()
    arrays = [normal(B, L, seed=seed) for seed in (1, 2, 3, 4)]
    *inputs, dz = [to_device(array, "gpu") for array in arrays]
    with gpu.counts() as counts:
        applied, z, gradients = device.apply(*inputs), device.forward(*inputs), device.backward(dz)
    assert counts.synchronisations == 0, counts.synchronised
    gpu.check(applied, host.apply(*arrays[:3]))
    gpu.check(z, host.forward(*arrays[:3]))
    for got, want in zip(gradients, host.backward(arrays[3]), strict=True):
        gpu.check(got, want)


def test_gaussian_kl_gives_the_cpus_numbers(gpu: Gpu) -> None:
    host, device = GaussianKL(), GaussianKL()
    arrays = [normal(B, L, seed=seed) for seed in (1, 2)]
    inputs = [to_device(array, "gpu") for array in arrays]
    with gpu.counts() as counts:
        kl, gradients = device.forward(*inputs), device.backward()
        parts = device.per_example(*inputs), device.per_latent(*inputs)
    assert counts.synchronisations == 0, counts.synchronised
    gpu.check(kl, host.forward(*arrays))
    for got, want in zip(gradients, host.backward(), strict=True):
        gpu.check(got, want)
    gpu.check(parts[0], host.per_example(*arrays))
    gpu.check(parts[1], host.per_latent(*arrays))


LOSSES = {
    "mse": MeanSquaredError,
    "bernoulli": BernoulliNLL,
    "gaussian": lambda: GaussianNLL(0.7),
    "gaussian learned": lambda: GaussianNLL("learned"),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_give_the_cpus_numbers(gpu: Gpu, name: str) -> None:
    host, device = LOSSES[name](), LOSSES[name]()
    x = data(B, D)
    output = 4 * normal(*host.output_shape(x))
    output_gpu, x_gpu = to_device(output, "gpu"), to_device(x, "gpu")
    with gpu.counts() as counts:
        loss, gradient = device.forward(output_gpu, x_gpu), device.backward()
        parts, mean = device.per_example(output_gpu, x_gpu), device.mean(output_gpu)
    assert counts.synchronisations == 0, counts.synchronised
    gpu.check(loss, host.forward(output, x))
    gpu.check(gradient, host.backward())
    gpu.check(parts, host.per_example(output, x))
    gpu.check(mean, host.mean(output))


# --- models ---------------------------------------------------------------------------------------

MODELS: dict[str, Callable[..., Model]] = {
    "ae": lambda **kw: Autoencoder(D, (5,), L, **kw),
    "ae linear": lambda **kw: Autoencoder(D, (), L, output="linear", **kw),
    "ae deep tanh": lambda **kw: Autoencoder(D, (7, 5), L, "tanh", **kw),
    "dae gaussian": lambda **kw: DenoisingAutoencoder(D, (5,), L, **kw),
    "dae gaussian unclipped": lambda **kw: DenoisingAutoencoder(D, (5,), L, clip=False, **kw),
    "dae masking": lambda **kw: DenoisingAutoencoder(D, (5,), L, corruption="masking", **kw),
    "dae salt and pepper": lambda **kw: DenoisingAutoencoder(
        D, (5,), L, corruption="salt_and_pepper", **kw
    ),
    "vae bernoulli": lambda **kw: VAE(D, (5,), L, **kw),
    "vae gaussian": lambda **kw: VAE(D, (7, 5), L, likelihood="gaussian", sigma=0.5, **kw),
    "vae learned": lambda **kw: VAE(D, (5,), L, likelihood="gaussian", sigma="learned", **kw),
    "vae beta, no hidden": lambda **kw: VAE(D, (), L, "sigmoid", beta=4.0, **kw),
}


def on_gpu(array: np.ndarray | None) -> Any:
    return None if array is None else to_device(array, "gpu")


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", MODELS)
def test_models_give_the_cpus_numbers(gpu: Gpu, name: str, dtype: str) -> None:
    host, device = (MODELS[name](seed=4, dtype=dtype, device=d) for d in ("cpu", "gpu"))
    assert device.xp is gpu.cupy
    gpu.check(device.theta, host.theta)
    x = data(B, D, dtype=dtype)
    noise = host.draw_noise(np.random.default_rng(5), x)

    loss, want = device.forward(on_gpu(x), on_gpu(noise)), host.forward(x, noise)
    gpu.check(loss, want)
    for _ in range(2):  # backward twice gives the same gradient twice
        device.backward()
        host.backward()
        gpu.check(device.grad, host.grad)
    for path, gradient in device.named_gradients().items():
        gpu.check(gradient, host.named_gradients()[path])
    terms = device.loss_terms(on_gpu(x), on_gpu(noise))
    for term, value in host.loss_terms(x, noise).items():
        gpu.check(terms[term], value)
        gpu.check(device.terms[term], host.terms[term])

    codes = host.codes(x)
    gpu.check(device.codes(on_gpu(x)), codes)
    gpu.check(device.decode(on_gpu(codes)), host.decode(codes))
    gpu.check(device.reconstruct(on_gpu(x)), host.reconstruct(x))
    if isinstance(host, VAE):
        gpu.check(device.sample(4, 6), host.sample(4, 6))  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["ae", "dae masking", "vae bernoulli"])
def test_models_move_to_the_gpu_and_back(gpu: Gpu, name: str) -> None:
    model = MODELS[name](seed=4)
    theta = model.theta.copy()
    model.to("gpu")
    gpu.check(model.theta, theta)
    assert model.device == device_of(model.theta) == "gpu"
    model.theta += 1
    for parameter in model.named_parameters().values():
        assert device_of(parameter) == "gpu"
    model.to("cpu")
    assert model.device == "cpu"
    np.testing.assert_array_equal(model.theta, theta + 1)
    assert model.forward(data(B, D, dtype="float32"), noise_for(model)).dtype == np.float32


def noise_for(model: Model) -> Any:
    return model.draw_noise(generator(model.device, 0), to_device(data(B, D), model.device))


@pytest.mark.parametrize("name", ["ae", "dae masking", "vae bernoulli"])
def test_a_model_on_the_gpu_refuses_host_arrays(gpu: Gpu, name: str) -> None:
    model = MODELS[name](device="gpu")
    x = data(B, D, dtype="float32")
    with pytest.raises(ValueError, match="x: got an array on the cpu, the model is on the gpu"):
        model.forward(x, noise_for(model))
    if name != "ae":
        shape = (B, L) if isinstance(model, VAE) else (B, D)
        with pytest.raises(ValueError, match="noise: got an array on the cpu"):
            model.forward(on_gpu(x), normal(*shape).astype("float32"))
    with pytest.raises(ValueError, match="z: got an array on the cpu"):
        model.decode(normal(B, L))


# --- optimizers and the training step -------------------------------------------------------------


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_give_the_cpus_numbers(gpu: Gpu, name: str) -> None:
    host, device = OPTIMIZERS[name](), OPTIMIZERS[name]()
    theta, gradients = normal(20), normal(5, 20, seed=3)
    theta_gpu, gradients_gpu = on_gpu(theta), on_gpu(gradients)
    view = theta_gpu[:5]
    with gpu.counts() as counts:
        for gradient in gradients_gpu:
            device.step(theta_gpu, gradient)
    assert (counts.synchronisations, counts.transfers) == (0, 0), counts
    for gradient in gradients:
        host.step(theta, gradient)
    gpu.check(theta_gpu, theta)
    gpu.check(view, theta[:5])
    gpu.check(gradients_gpu, gradients)

    state = device.state()
    assert state.keys() == host.state().keys()
    resumed, again = OPTIMIZERS[name](), theta_gpu.copy()
    resumed.restore(state)
    device.step(theta_gpu, gradients_gpu[0])
    resumed.step(again, gradients_gpu[0])
    gpu.check(again, to_host(theta_gpu))


def step(model: Model, optimizer: Any, rng: Any, x: Any) -> None:
    model.forward(x, model.draw_noise(rng, x))
    model.backward()
    optimizer.step(model.theta, model.grad)


@pytest.mark.parametrize("name", MODELS)
def test_a_training_step_never_waits(gpu: Gpu, name: str) -> None:
    model, optimizer = MODELS[name](device="gpu"), OPTIMIZERS["adam"]()
    rng, x = generator("gpu", 0), on_gpu(data(B, D, dtype="float32"))
    before = to_host(model.theta)
    with gpu.counts() as counts:
        for _ in range(3):
            step(model, optimizer, rng, x)
    assert (counts.synchronisations, counts.transfers) == (0, 0), counts
    assert np.isfinite(to_host(model.theta)).all()
    assert (to_host(model.theta) != before).any()


def test_a_step_that_reads_its_loss_is_caught(gpu: Gpu) -> None:
    model, optimizer = MODELS["vae bernoulli"](device="gpu"), OPTIMIZERS["adam"]()
    rng, x = generator("gpu", 0), on_gpu(data(B, D, dtype="float32"))
    with gpu.counts() as counts:
        for _ in range(3):
            step(model, optimizer, rng, x)
            float(model.terms["loss"])
    assert counts.synchronisations == 3


# --- a whole training -----------------------------------------------------------------------------


class HostNoise:
    """NumPy's generator, its numbers moved to the GPU: so that both devices see the same noise."""

    def __init__(self, *entropy: int) -> None:
        self.host = generator("cpu", *entropy)

    def random(self, size: Any, dtype: Any) -> Any:
        return to_device(self.host.random(size, dtype=dtype), "gpu")

    def standard_normal(self, size: Any, dtype: Any) -> Any:
        return to_device(self.host.standard_normal(size, dtype=dtype), "gpu")


@pytest.fixture
def same_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(device: str, *entropy: int) -> Any:
        return HostNoise(*entropy) if device == "gpu" else generator("cpu", *entropy)

    for module in (train, evaluate):
        monkeypatch.setattr(module, "generator", make)


@pytest.mark.usefixtures("same_noise")
@pytest.mark.parametrize("binarize", [False, True], ids=["grey", "binarized"])
@pytest.mark.parametrize("name", MODELS)
def test_a_training_gives_the_cpus_numbers(gpu: Gpu, name: str, binarize: bool) -> None:
    models = [MODELS[name](seed=4, dtype="float64", device=d) for d in ("cpu", "gpu")]
    host, device = models
    x, validation = data(20, D), data(10, D, seed=7)
    want, got = (
        fit(m, x, validation=validation, epochs=2, batch_size=8, seed=3, binarize=binarize)
        for m in models
    )
    gpu.check(device.theta, host.theta)
    assert got.columns.keys() == want.columns.keys()
    for term, values in want.columns.items():
        np.testing.assert_allclose(got[term], values, rtol=1e-12 * gpu.digits)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_each_optimizer_trains_on_the_gpu(gpu: Gpu, optimizer: str) -> None:
    models = [MODELS["ae"](dtype="float64", device=d) for d in ("cpu", "gpu")]
    for model in models:
        fit(model, data(20, D), epochs=2, batch_size=8, optimizer=optimizer)
    gpu.check(models[1].theta, models[0].theta)


@pytest.mark.parametrize("name", ["ae", "dae salt and pepper", "vae bernoulli", "vae learned"])
@pytest.mark.parametrize("validation", [False, True], ids=["", "validated"])
def test_a_training_waits_at_the_ends_of_epochs_only(gpu: Gpu, name: str, validation: bool) -> None:
    def count(steps: int, epochs: int) -> strict_cupy.Counts:
        model = MODELS[name](device="gpu")
        x = data(4 * steps, D, dtype="float32")
        held_out = data(10, D, dtype="float32") if validation else None
        with gpu.counts() as counts:
            fit(model, x, validation=held_out, epochs=epochs, batch_size=4, binarize="vae" in name)
        return counts

    short, long, longer = count(3, 1), count(30, 1), count(30, 3)
    assert long.synchronisations == short.synchronisations, long.synchronised
    assert long.transfers == short.transfers, long.transferred
    each_epoch = (longer.synchronisations - long.synchronisations) / 2
    assert each_epoch == (2 if validation else 1)


def test_an_optimizer_does_not_move_to_the_gpu(gpu: Gpu) -> None:
    model, optimizer = MODELS["ae"](device="cpu"), Adam()
    optimizer.step(model.theta, model.grad)
    model.to("gpu")
    with pytest.raises(
        ValueError, match=r"^step: theta has moved to another device; make a new optimizer$"
    ):
        optimizer.step(model.theta, model.grad)


@pytest.mark.parametrize("what", ["a copy", "on the host", "a part", "nothing"])
def test_what_the_optimizer_would_not_train_is_refused_on_the_gpu(gpu: Gpu, what: str) -> None:
    model = MODELS["vae bernoulli"](device="gpu")
    b = model.to_mu.b
    made = {"a copy": b.copy(), "on the host": to_host(b), "a part": b[:0], "nothing": None}
    model.to_mu.b = made[what]
    with pytest.raises(ValueError, match=r"^to_mu\.b: not what the model was made with"):
        fit(model, data(20, D, dtype="float32"), epochs=1, batch_size=8)


def test_a_single_number_is_a_parameter_on_the_gpu_too(gpu: Gpu) -> None:
    model = VAE(D, (3,), 1, device="gpu")
    before = to_host(model.to_mu.b)
    fit(model, data(20, D, dtype="float32"), epochs=1, batch_size=8)
    assert (to_host(model.to_mu.b) != before).all()


def test_a_training_on_the_gpu_repeats_itself(gpu: Gpu) -> None:
    thetas = []
    for seed in (0, 0, 1):
        model = MODELS["vae bernoulli"](device="gpu")
        fit(model, data(20, D, dtype="float32"), epochs=2, batch_size=8, seed=seed, binarize=True)
        thetas.append(to_host(model.theta))
    np.testing.assert_array_equal(thetas[0], thetas[1])
    assert (thetas[0] != thetas[2]).any()


@pytest.mark.parametrize("name", ["dae masking", "vae bernoulli"])
def test_a_training_resumes_in_the_middle_of_an_epoch(
    gpu: Gpu, name: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, settings = data(20, D, dtype="float32"), {"batch_size": 4, "binarize": name != "dae masking"}
    whole = MODELS[name](device="gpu")
    want = fit(whole, x, epochs=3, **settings)

    model, path = MODELS[name](device="gpu"), tmp_path / "model.npz"
    training = Training(Adam(), n_examples=20, **settings)

    def interrupted_draw(rng: Any, batch: Any) -> Any:
        if (training.epoch, training.step) == (1, 1):  # the second step of the second epoch
            signal.raise_signal(signal.SIGINT)
        return type(model).draw_noise(model, rng, batch)

    def save(training: Training) -> None:
        checkpoint.save(path, model, training)

    monkeypatch.setattr(model, "draw_noise", interrupted_draw)
    with pytest.raises(KeyboardInterrupt):
        fit(model, x, epochs=3, callbacks=[save], resume=training)

    loaded = checkpoint.load(path, "gpu")
    assert (loaded.training.epoch, loaded.training.step) == (1, 2)
    assert loaded.model.device == device_of(loaded.model.theta) == "gpu"
    got = fit(loaded.model, x, epochs=3, resume=loaded.training)
    np.testing.assert_array_equal(to_host(loaded.model.theta), to_host(whole.theta))
    assert got.columns == want.columns


def test_checkpoints_cross_devices(gpu: Gpu, tmp_path: Any) -> None:
    model = MODELS["ae"](device="gpu")
    x = data(20, D, dtype="float32")
    fit(model, x, epochs=1, callbacks=[lambda t: checkpoint.save(tmp_path / "a.npz", model, t)])
    loaded = checkpoint.load(tmp_path / "a.npz", "cpu")
    np.testing.assert_array_equal(loaded.model.theta, to_host(model.theta))
    fit(loaded.model, x, epochs=2, resume=loaded.training)
    checkpoint.save(tmp_path / "b.npz", loaded.model, loaded.training)
    back = checkpoint.load(tmp_path / "b.npz", "gpu")
    fit(back.model, x, epochs=3, resume=back.training)
    assert device_of(back.model.theta) == "gpu"


def test_divergence_on_the_gpu_restores_the_last_good_epoch(gpu: Gpu) -> None:
    model = MODELS["vae gaussian"](device="gpu")
    good: list[np.ndarray] = []

    def keep(training: Training) -> None:
        good.append(to_host(model.theta))
        training.optimizer.learning_rate = 1e30

    with pytest.raises(DivergedError, match=r"epoch 2, step \d of 5"):
        fit(model, data(20, D, dtype="float32"), epochs=4, batch_size=4, callbacks=[keep])
    np.testing.assert_array_equal(to_host(model.theta), good[-1])


def test_bad_data_are_refused_on_the_gpu(gpu: Gpu) -> None:
    x = data(20, D, dtype="float32")
    x[3, 2] = np.nan
    with pytest.raises(ValueError, match="x: got NaN"):
        fit(MODELS["vae bernoulli"](device="gpu"), x, epochs=1)
    with pytest.raises(ValueError, match=r"x: got values from .*, want \[0, 1\]"):
        fit(MODELS["ae"](device="gpu"), 2 * data(20, D), epochs=1)


# --- evaluation and the command line --------------------------------------------------------------


@pytest.mark.usefixtures("same_noise")
@pytest.mark.parametrize("name", ["ae", "dae gaussian", "vae bernoulli", "vae learned"])
def test_evaluation_gives_the_cpus_numbers(gpu: Gpu, name: str) -> None:
    host, device = (MODELS[name](seed=4, dtype="float64", device=d) for d in ("cpu", "gpu"))
    x = data(20, D)
    got, want = (evaluate.evaluate(model, x, seed=2) for model in (device, host))
    assert got == pytest.approx(want, rel=1e-12 * gpu.digits)
    if isinstance(host, VAE):
        bounds = [
            evaluate.importance_weighted_bound(m, x, 7, seed=2, max_bytes=2000)  # type: ignore[arg-type]
            for m in (device, host)
        ]
        np.testing.assert_allclose(*bounds, rtol=1e-12 * gpu.digits)


def test_the_command_line_trains_on_the_gpu(
    gpu: Gpu, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "tiny.npz", x_train=data(30, 16), x_test=data(20, 16, seed=2))
    monkeypatch.chdir(tmp_path)
    common = ["--device", "gpu"]
    run = ["train", "vae", "--data", "tiny.npz", "--epochs", "1", "--out", "run", "--quiet"]
    assert cli.main([*run, *common]) == 0, capsys.readouterr().err
    for command in ("evaluate", "sample", "reconstruct", "interpolate", "latent"):
        assert cli.main([command, "run", *common]) == 0, (command, capsys.readouterr().err)
    assert (tmp_path / "run" / "samples.png").exists()


# --- without a GPU --------------------------------------------------------------------------------

INSTALL = r'pip install "scratchvae\[cuda12\]".*\[cuda13\]'
ABSENCES = {
    "CuPy is not installed": strict_cupy.uninstall,
    "NVIDIA driver is missing": lambda monkeypatch: strict_cupy.install(
        monkeypatch, status=strict_cupy.MISSING_DRIVER
    ),
}


@pytest.mark.parametrize("missing", ABSENCES)
def test_what_is_missing_is_named(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ABSENCES[missing](monkeypatch)
    others = [text for text in ABSENCES if text != missing]
    for ask in (
        lambda: resolve_device("gpu"),
        lambda: to_device(np.zeros(3), "gpu"),
        lambda: VAE(D, device="gpu"),
        lambda: MODELS["ae"]().to("gpu"),
    ):
        with pytest.raises(GpuUnavailableError, match=rf"{missing}.*{INSTALL}") as caught:
            ask()
        assert not any(other in str(caught.value) for other in others)


@pytest.mark.parametrize("missing", ABSENCES)
def test_auto_falls_back_silently(
    missing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ABSENCES[missing](monkeypatch)
    assert resolve_device("auto") == "cpu"
    model = VAE(D, (5,), L, device="auto")
    assert model.device == "cpu"
    assert array_module(model.theta) is np
    assert capsys.readouterr() == ("", "")


def test_auto_takes_the_gpu(gpu: Gpu) -> None:
    assert VAE(D, (5,), L, device="auto").xp is gpu.cupy
