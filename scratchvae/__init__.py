"""The autoencoder family from scratch: hand-written layers, every gradient proved."""

from scratchvae.backend import GpuUnavailableError, array_module, to_device, to_host
from scratchvae.latent import GaussianKL, Reparameterize
from scratchvae.layers import Dense, Layer, ReLU, Sequential, Sigmoid, Tanh
from scratchvae.losses import BernoulliNLL, GaussianNLL, MeanSquaredError
from scratchvae.models import VAE, Autoencoder, DenoisingAutoencoder
from scratchvae.optim import SGD, AdaGrad, Adam, AdamW, Momentum, Nesterov, RMSProp

__version__ = "0.1.0"

__all__ = [
    "SGD",
    "VAE",
    "AdaGrad",
    "Adam",
    "AdamW",
    "Autoencoder",
    "BernoulliNLL",
    "DenoisingAutoencoder",
    "Dense",
    "GaussianKL",
    "GaussianNLL",
    "GpuUnavailableError",
    "Layer",
    "MeanSquaredError",
    "Momentum",
    "Nesterov",
    "RMSProp",
    "ReLU",
    "Reparameterize",
    "Sequential",
    "Sigmoid",
    "Tanh",
    "array_module",
    "to_device",
    "to_host",
]
