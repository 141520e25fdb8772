"""The gradient of every layer, loss, latent piece and model, held against numerical derivatives.

`scratchvae check` prints what `run_all` returns. All of it is in float64, at random points, with
pairwise different sizes, so that a transposed or wrongly summed gradient does not fit by accident.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from scratchvae.gradcheck import Report, check_layer, check_loss, check_model
from scratchvae.latent import GaussianKL, Reparameterize
from scratchvae.layers import Dense, ReLU, Sequential, Sigmoid, Tanh
from scratchvae.losses import BernoulliNLL, GaussianNLL, MeanSquaredError
from scratchvae.models import VAE, Autoencoder, DenoisingAutoencoder, Model

B, D, H, L = 7, 5, 4, 3  # batch, features, hidden units, latents


@dataclass(frozen=True)
class Row:
    """The proof of one piece: how many tensors, the worst relative error, how, the verdict."""

    piece: str
    report: Report

    @property
    def ok(self) -> bool:
        """Whether all gradients of the piece are right."""
        return self.report.ok

    @property
    def tensors(self) -> int:
        """How many gradients were checked."""
        return len(self.report.tensors)

    @property
    def error(self) -> float:
        """The worst relative error of a tensor, by norm or by element."""
        return self.report.worst

    @property
    def method(self) -> str:
        """How the numerical derivatives were made."""
        return self.report.method

    @property
    def verdict(self) -> str:
        """The worst verdict; "kink": right, and some elements are subgradients at a kink."""
        return self.report.verdict

    def to_dict(self) -> dict[str, Any]:
        """The row and its report, safe for JSON."""
        return {"piece": self.piece, **self.report.to_dict()}


def run_all(seed: int | np.random.Generator = 0) -> list[Row]:
    """Check every piece at points drawn from `seed`; under five seconds on two cores."""
    rng = np.random.default_rng(seed)
    return [Row(piece, report) for piece, report in (*_pieces(rng), *_models(rng))]


def _pieces(rng: np.random.Generator) -> Iterator[tuple[str, Report]]:
    """Layers, latent pieces and losses; to 1e-9."""
    x, mu, logvar, eps = (rng.standard_normal((B, n)) for n in (D, L, L, L))
    at_zero = np.where(rng.random((B, D)) < 0.3, 0.0, x)
    dense = Dense(D, H, rng=rng, dtype="float64")
    dense.b += rng.standard_normal(H)
    stack = Sequential(dense, Tanh(), Dense(H, L, rng=rng, dtype="float64"), Sigmoid())
    yield "Dense", check_layer(dense, x, rng=rng)
    yield "ReLU", check_layer(ReLU(), x, rng=rng)
    yield "ReLU, some inputs 0", check_layer(ReLU(), at_zero, rng=rng)
    yield "Tanh", check_layer(Tanh(), x, rng=rng)
    yield "Sigmoid", check_layer(Sigmoid(), x, rng=rng)
    yield "Sequential", check_layer(stack, x, rng=rng)
    yield "Reparameterize", check_layer(Reparameterize(), mu, logvar, eps, rng=rng)
    yield "GaussianKL", check_loss(GaussianKL(), mu, logvar, sizes={"L": L})

    grey, binary = rng.random((B, D)), rng.integers(2, size=(B, D)).astype(np.float64)
    both = rng.standard_normal((B, 2 * D))
    for name, loss, output, target in (
        ("MeanSquaredError", MeanSquaredError(), x, grey),
        ("BernoulliNLL", BernoulliNLL(), x, binary),
        ("BernoulliNLL, grey pixels", BernoulliNLL(), x, grey),
        ("BernoulliNLL, logits 20 times as large", BernoulliNLL(), 20 * x, grey),
        ("GaussianNLL", GaussianNLL(0.3), x, grey),
        ("GaussianNLL, learned variance", GaussianNLL("learned"), both, grey),
    ):
        yield name, check_loss(loss, output, target, sizes={"D": D})


def _models(rng: np.random.Generator) -> Iterator[tuple[str, Report]]:
    """Whole models, all parameters; to 1e-7."""
    for name, model in _small_models().items():
        model.theta += 0.1 * rng.standard_normal(model.theta.size)  # biases start at 0
        x = rng.random((B, model.n_features))
        yield name, check_model(model, x, model.draw_noise(rng, x), rng=rng)
    vae = VAE(784, (400,), 20, dtype="float64")
    x = rng.random((4, 784))
    yield "VAE 784-400-20-400-784", check_model(vae, x, vae.draw_noise(rng, x), rng=rng)


def _small_models() -> dict[str, Model]:
    f64: dict[str, Any] = {"dtype": "float64"}
    dae, gaussian = DenoisingAutoencoder, {"likelihood": "gaussian", **f64}
    return {
        "Autoencoder, ReLU": Autoencoder(D, (H,), L, **f64),
        "Autoencoder, tanh, two hidden": Autoencoder(D, (H, 3), 2, "tanh", **f64),
        "Autoencoder, linear": Autoencoder(D, (), L, output="linear", **f64),
        "DenoisingAutoencoder, gaussian": dae(D, (H,), L, corruption="gaussian", **f64),
        "DenoisingAutoencoder, masking": dae(D, (H,), L, corruption="masking", **f64),
        "DenoisingAutoencoder, salt and pepper": dae(
            D, (H,), L, "tanh", corruption="salt_and_pepper", **f64
        ),
        "VAE, ReLU": VAE(D, (H,), L, **f64),
        "VAE, tanh": VAE(D, (H,), L, "tanh", **f64),
        "VAE, sigmoid, beta 4": VAE(D, (H,), L, "sigmoid", beta=4.0, **f64),
        "VAE, tanh, three hidden": VAE(D, (H, 3, 2), L, "tanh", **f64),
        "VAE, no hidden": VAE(D, (), L, **f64),
        "VAE, one latent": VAE(D, (H,), 1, **f64),
        "VAE, gaussian": VAE(D, (H,), L, "tanh", sigma=0.5, **gaussian),
        "VAE, gaussian, beta 0.5": VAE(D, (H,), L, beta=0.5, **gaussian),
        "VAE, gaussian, learned variance": VAE(D, (H,), L, "tanh", sigma="learned", **gaussian),
    }
