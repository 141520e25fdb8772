"""Data: digits that come with the package, the full MNIST and Fashion-MNIST, your own files."""

from scratchvae.datasets.dataset import Dataset
from scratchvae.datasets.loaders import (
    available,
    check_folder,
    fashion_mnist,
    load,
    mnist,
    mnist10k,
)

__all__ = ["Dataset", "available", "check_folder", "fashion_mnist", "load", "mnist", "mnist10k"]
