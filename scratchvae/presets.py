"""Published settings, to be run by name: `scratchvae train vae --preset burda`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from scratchvae.backend import Array, to_device, to_host
from scratchvae.models import Model
from scratchvae.optim import Adam, Optimizer
from scratchvae.train import Training


def burda_rate(epoch: int) -> float:
    """The learning rate of epoch 0, 1, ...: 0.001 x 10^(-i/7) for 3^i epochs, i = 0 ... 7."""
    i, end = 0, 1
    while epoch >= end and i < 7:
        i += 1
        end += 3**i
    return float(0.001 * 10 ** (-i / 7))


@dataclass(frozen=True)
class Preset:
    """A model, its training, and a learning rate for each epoch."""

    about: str
    kind: str
    epochs: int
    batch_size: int
    binarize: bool
    data: str
    rate: Callable[[int], float]
    model: dict[str, Any] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)

    def make_optimizer(self) -> Optimizer:
        """Return the optimizer as it stands before the first epoch."""
        return Adam(self.rate(0), **self.optimizer)

    def start(self, model: Model, x: Array) -> None:
        """Let the output of a new model be the mean of the data x (N, D), whatever the latents."""
        mean = to_host(x).mean(axis=0, dtype=np.float64).clip(0.001, 0.999)
        bias = np.log(mean / (1 - mean)).astype(model.dtype)
        list(model.named_parameters().values())[-1][...] = to_device(bias, model.device)

    def schedule(self, training: Training) -> None:
        """Set the learning rate of the epoch under way, or of the next: a callback of `fit`.

        It must come before the callback that saves, so that a resumed training has it too.
        """
        training.optimizer.learning_rate = self.rate(training.epoch)


PRESETS = {
    #: Burda, Grosse, Salakhutdinov 2016, "Importance weighted autoencoders", section 5: the VAE
    #: with one stochastic layer and one sample, 86.76 nats on binarized MNIST. Their Adam has
    #: epsilon 1e-4 on gradients that are summed over the 20 images of a batch (so their code); on
    #: ours, the mean's, the same is 1e-4 / 20. From their code, too: the output starts at the mean
    #: of the data. It has beta1 0.99, their paper 0.9; the paper's is taken.
    "burda": Preset(
        about="784-200-200-50, tanh, dynamic binarization, batch 20, 3,280 epochs (Burda et al.)",
        kind="vae",
        epochs=sum(3**i for i in range(8)),
        batch_size=20,
        binarize=True,
        data="mnist",
        rate=burda_rate,
        model={"hidden": [200, 200], "n_latent": 50, "activation": "tanh"},
        optimizer={"beta1": 0.9, "beta2": 0.999, "eps": 1e-4 / 20},
    ),
}
