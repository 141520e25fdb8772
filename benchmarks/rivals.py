"""The rivals in PyTorch: the same models, written the way PyTorch's users write them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


class TorchVAE(nn.Module):
    """784-400-20-400-784 with Bernoulli pixels, like the example in PyTorch's repository."""

    def __init__(self, n_features: int = 784, hidden: int = 400, n_latent: int = 20) -> None:
        super().__init__()
        self.encoder = nn.Linear(n_features, hidden)
        self.to_mu = nn.Linear(hidden, n_latent)
        self.to_logvar = nn.Linear(hidden, n_latent)
        self.decoder = nn.Sequential(
            nn.Linear(n_latent, hidden), nn.ReLU(), nn.Linear(hidden, n_features)
        )

    def forward(self, x: torch.Tensor, eps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return reconstruction and KL in nats an image."""
        h = F.relu(self.encoder(x))
        mu, logvar = self.to_mu(h), self.to_logvar(h)
        logits = self.decoder(mu + torch.exp(logvar / 2) * eps)
        reconstruction = F.binary_cross_entropy_with_logits(logits, x, reduction="sum") / len(x)
        kl = -0.5 * torch.sum(1 + logvar - mu**2 - logvar.exp()) / len(x)
        return reconstruction, kl


def torch_step(model: TorchVAE, optimizer: Any, x: torch.Tensor) -> None:
    """One eager training step, noise included."""
    optimizer.zero_grad()
    reconstruction, kl = model(x, torch.randn(len(x), model.to_mu.out_features))
    (reconstruction + kl).backward()
    optimizer.step()
