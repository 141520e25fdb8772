"""Data: digits that come with the package, the full MNIST and Fashion-MNIST, your own files."""

from scratchvae.datasets.dataset import Dataset
from scratchvae.datasets.loaders import (
    available,
    fashion_mnist,
    load,
    mnist,
    mnist10k,
    uses_folder,
)

__all__ = ["Dataset", "available", "fashion_mnist", "load", "mnist", "mnist10k", "uses_folder"]
