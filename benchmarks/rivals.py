"""The rivals: the same models, written the way each library's users write them.

Each `*_epoch` function returns a function that trains one epoch on the data it was given: shuffle,
gather each batch, draw the noise, forward, backward, Adam, and keep the loss. None reads a loss
before the epoch ends.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Epoch = Callable[[], None]


@dataclass(frozen=True)
class Setting:
    """What is trained: kind ("vae", "ae", "dae"), widths and batch."""

    kind: str = "vae"
    hidden: tuple[int, ...] = (400,)
    n_latent: int = 20
    batch: int = 128

    def __str__(self) -> str:
        widths = "-".join(map(str, (784, *self.hidden, self.n_latent, *self.hidden[::-1], 784)))
        return f"{self.kind} {widths}, batch {self.batch}"


def digits(images: int) -> np.ndarray:
    """Return so many images: the embedded training digits, repeated."""
    from scratchvae.datasets import load

    x = load("mnist10k").x_train
    return np.ascontiguousarray(np.resize(x, (images, x.shape[1])))


def scratchvae_epoch(setting: Setting, x: np.ndarray, workers: int = 1) -> Epoch:
    """Ours: an epoch of `fit`."""
    from scratchvae.models import build
    from scratchvae.train import Training, fit

    config = {"hidden": setting.hidden, "n_latent": setting.n_latent}
    model = build({"model": setting.kind, "n_features": x.shape[1], **config})
    training: list[Training] = []

    def epoch() -> None:
        if training:
            fit(model, x, epochs=training[0].epoch + 1, resume=training[0], workers=workers)
        else:
            first = {"batch_size": setting.batch, "callbacks": [training.append]}
            fit(model, x, epochs=1, workers=workers, **first)

    return epoch


def products_epoch(setting: Setting, x: np.ndarray) -> Epoch:
    """The matrix products of a VAE's or AE's step alone, each into an array that is there."""
    widths = (x.shape[1], *setting.hidden)
    heads = 2 if setting.kind == "vae" else 1
    encoder = [*itertools.pairwise(widths)] + [(widths[-1], setting.n_latent)] * heads
    widths = (setting.n_latent, *setting.hidden[::-1], x.shape[1])
    decoder = list(itertools.pairwise(widths))
    rng, jobs = np.random.default_rng(0), []
    for i, (n_in, n_out) in enumerate(encoder + decoder):
        a, dy, w, dw = (
            rng.standard_normal(shape, dtype=np.float32)
            for shape in (
                (setting.batch, n_in),
                (setting.batch, n_out),
                (n_in, n_out),
                (n_in, n_out),
            )
        )
        jobs += [(a, w, np.empty_like(dy)), (a.T, dy, dw)]
        if i:  # nobody wants the gradient of the images
            jobs.append((dy, w.T, np.empty_like(a)))

    def epoch() -> None:
        for _ in range(len(x) // setting.batch):
            for a, b, out in jobs:
                np.matmul(a, b, out=out)

    return epoch


# ------------------------------------------------------------------------------------- PyTorch


def torch_vae(n_features: int = 784, hidden: tuple[int, ...] = (400,), n_latent: int = 20) -> Any:
    """784-400-20-400-784 with Bernoulli pixels, like the example in PyTorch's repository."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    class TorchVAE(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Sequential(*_torch_layers((n_features, *hidden)))
            self.to_mu = nn.Linear((n_features, *hidden)[-1], n_latent)
            self.to_logvar = nn.Linear((n_features, *hidden)[-1], n_latent)
            outer = (n_latent, *hidden[::-1])
            self.decoder = nn.Sequential(*_torch_layers(outer), nn.Linear(outer[-1], n_features))

        def forward(self, x: torch.Tensor, eps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            """Return reconstruction and KL in nats an image."""
            h = self.encoder(x)
            mu, logvar = self.to_mu(h), self.to_logvar(h)
            logits = self.decoder(mu + torch.exp(logvar / 2) * eps)
            nll = F.binary_cross_entropy_with_logits(logits, x, reduction="sum") / len(x)
            kl = -0.5 * torch.sum(1 + logvar - mu**2 - logvar.exp()) / len(x)
            return nll, kl

    return TorchVAE()


def _torch_layers(widths: tuple[int, ...]) -> list[Any]:
    from torch import nn

    pairs = itertools.pairwise(widths)
    return [part for n_in, n_out in pairs for part in (nn.Linear(n_in, n_out), nn.ReLU())]


def torch_loss(setting: Setting, n_features: int) -> tuple[Any, Callable[..., Any]]:
    """Return the model and loss(x): with its noise, what is differentiated."""
    import torch
    from torch import nn

    hidden, n_latent = setting.hidden, setting.n_latent
    if setting.kind == "vae":
        vae = torch_vae(n_features, hidden, n_latent)

        def vae_loss(x: torch.Tensor) -> torch.Tensor:
            nll, kl = vae(x, torch.randn(len(x), n_latent, device=x.device))
            return nll + kl

        return vae, vae_loss
    outer = (n_latent, *hidden[::-1])
    ae = nn.Sequential(
        *_torch_layers((n_features, *hidden)),
        nn.Linear((n_features, *hidden)[-1], n_latent),
        *_torch_layers(outer),
        nn.Linear(outer[-1], n_features),
        nn.Sigmoid(),
    )

    def ae_loss(x: torch.Tensor) -> torch.Tensor:
        seen = (x + 0.5 * torch.randn_like(x)).clamp(0, 1) if setting.kind == "dae" else x
        return nn.functional.mse_loss(ae(seen), x)

    return ae, ae_loss


def torch_epoch(
    setting: Setting,
    x: np.ndarray,
    *,
    fused: bool = False,
    mode: str | None = None,
    device: str = "cpu",
) -> Epoch:
    """PyTorch: eager with the default Adam; `fused` Adam; compiled in `mode`."""
    import torch

    model, loss = torch_loss(setting, x.shape[1])
    model.to(device)
    if mode:
        loss = torch.compile(loss, mode=mode)
    adam = torch.optim.Adam(model.parameters(), lr=1e-3, fused=fused)
    images = torch.from_numpy(x).to(device)

    def epoch() -> None:
        order, kept = torch.randperm(len(images), device=device), []
        for batch in order.split(setting.batch):
            adam.zero_grad()
            value = loss(images[batch])
            value.backward()
            adam.step()
            kept.append(value.detach())
        torch.stack(kept).mean().item()

    return epoch


# ----------------------------------------------------------------------------------------- JAX


def jax_epoch(setting: Setting, x: np.ndarray) -> Epoch:
    """JAX: the whole step, Adam included, is one compiled function that reuses its arguments."""
    import jax
    import jax.numpy as jnp

    if setting.kind != "vae":
        raise ValueError("the JAX rival is a VAE")
    rng, n_latent = np.random.default_rng(0), setting.n_latent

    def dense(n_in: int, n_out: int) -> tuple[Any, Any]:
        w = rng.normal(0, n_in**-0.5, (n_in, n_out)).astype(np.float32)
        return jnp.asarray(w), jnp.zeros(n_out, jnp.float32)

    def chain(widths: tuple[int, ...]) -> list[Any]:
        return [dense(a, b) for a, b in itertools.pairwise(widths)]

    inner, outer = (x.shape[1], *setting.hidden), (n_latent, *setting.hidden[::-1])
    theta = {
        "encoder": chain(inner),
        "heads": [dense(inner[-1], n_latent), dense(inner[-1], n_latent)],
        "decoder": [*chain(outer), dense(outer[-1], x.shape[1])],
    }

    def loss(theta: Any, x: Any, eps: Any) -> Any:
        h = x
        for w, b in theta["encoder"]:
            h = jax.nn.relu(h @ w + b)
        mu, logvar = (h @ w + b for w, b in theta["heads"])
        h = mu + jnp.exp(logvar / 2) * eps
        for w, b in theta["decoder"][:-1]:
            h = jax.nn.relu(h @ w + b)
        w, b = theta["decoder"][-1]
        logits = h @ w + b
        nll = jnp.sum(jnp.logaddexp(0, logits) - x * logits)
        return (nll - 0.5 * jnp.sum(1 + logvar - mu**2 - jnp.exp(logvar))) / len(x)

    def step(theta: Any, m: Any, v: Any, t: Any, key: Any, x: Any) -> Any:
        key, use = jax.random.split(key)
        value, g = jax.value_and_grad(loss)(theta, x, jax.random.normal(use, (len(x), n_latent)))
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, g)
        v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, g)
        rate, b = 1e-3 / (1 - 0.9**t), jnp.sqrt(1 - 0.999**t)
        move = lambda p, m, v: p - rate * m / (jnp.sqrt(v) / b + 1e-8)  # noqa: E731
        return jax.tree.map(move, theta, m, v), m, v, t + 1, key, value

    step = jax.jit(step, donate_argnums=(0, 1, 2))
    zeros = jax.tree.map(jnp.zeros_like, theta)
    state = [theta, zeros, jax.tree.map(jnp.copy, zeros), jnp.float32(1), jax.random.key(0)]

    def epoch() -> None:
        order, kept = rng.permutation(len(x)), []
        for i in range(0, len(x), setting.batch):
            *new, value = step(*state, x[order[i : i + setting.batch]])
            state[:] = new
            kept.append(value)
        jnp.stack(kept).mean().block_until_ready()

    return epoch


# ------------------------------------------------------------------------------------- easyvae


def easyvae_epoch(setting: Setting, x: np.ndarray) -> Epoch:
    """The public NumPy VAE on PyPI. It takes one image at a time."""
    from easyvae.activations import LeakyReLU
    from easyvae.autoencoder import VariationalAutoencoder

    widths = [x.shape[1], *setting.hidden, setting.n_latent]
    vae = VariationalAutoencoder(widths, widths[::-1], 1e-3, LeakyReLU())

    def epoch() -> None:
        for image in x:
            vae.train(image)

    return epoch
