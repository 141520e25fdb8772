"""What every loader returns."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images as rows, split into a training and a test part.

    Attributes:
        name: the name it was loaded by, or the name of your file.
        x_train: (N, D) float32 in [0, 1].
        y_train: (N,) int64 labels; None where your own file has none.
        x_test: (M, D) float32 in [0, 1].
        y_test: (M,) int64 labels, or None.
        image_shape: (height, width) with height * width = D; None where your own file holds rows
            (N, D) that nobody said are images.
    """

    name: str
    x_train: NDArray[np.float32]
    y_train: NDArray[np.int64] | None
    x_test: NDArray[np.float32]
    y_test: NDArray[np.int64] | None
    image_shape: tuple[int, int] | None = (28, 28)


def scale(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Bytes (N, ...) to rows (N, D) of float32: image / 255, in one allocation."""
    rows = images.reshape(len(images), -1)
    return np.divide(rows, np.float32(255), dtype=np.float32, order="C")
