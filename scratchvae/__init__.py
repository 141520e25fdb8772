"""The autoencoder family from scratch: hand-written layers, every gradient proved."""

from scratchvae.backend import GpuUnavailableError, array_module, to_device, to_host
from scratchvae.datasets import mnist10k
from scratchvae.gradcheck import check_gradients, check_model
from scratchvae.latent import GaussianKL, Reparameterize
from scratchvae.layers import Dense, Layer, ReLU, Sequential, Sigmoid, Tanh
from scratchvae.losses import BernoulliNLL, GaussianNLL, MeanSquaredError
from scratchvae.models import VAE, Autoencoder, DenoisingAutoencoder
from scratchvae.optim import SGD, AdaGrad, Adam, AdamW, Momentum, Nesterov, RMSProp
from scratchvae.train import History, fit

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
    "History",
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
    "check_gradients",
    "check_model",
    "fit",
    "mnist10k",
    "to_device",
    "to_host",
]
