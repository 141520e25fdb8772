"""Published settings, to be run by name: `scratchvae train vae --preset burda`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

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

    def schedule(self, training: Training) -> None:
        """Set the learning rate of the epoch under way, or of the next: a callback of `fit`.

        It must come before the callback that saves, so that a resumed training has it too.
        """
        training.optimizer.learning_rate = self.rate(training.epoch)


PRESETS = {
    #: Burda, Grosse, Salakhutdinov 2016, "Importance weighted autoencoders", section 5 and
    #: appendix: the VAE with one stochastic layer and one sample, 86.76 nats on binarized MNIST.
    "burda": Preset(
        about="784-200-200-50, tanh, dynamic binarization, batch 20, 3,280 epochs (Burda et al.)",
        kind="vae",
        epochs=sum(3**i for i in range(8)),
        batch_size=20,
        binarize=True,
        data="mnist",
        rate=burda_rate,
        model={"hidden": [200, 200], "n_latent": 50, "activation": "tanh"},
        optimizer={"beta1": 0.9, "beta2": 0.999, "eps": 1e-4},
    ),
}
