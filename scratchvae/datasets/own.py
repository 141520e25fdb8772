"""Your own data: NumPy files, read without pickle and checked before memory is asked for."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scratchvae.arrays import one_line, read_npy, read_npz
from scratchvae.datasets.dataset import Dataset, scale

_PARTS = ("", "_train", "_test")
_HELD_OUT_SEED = 0


def load_file(path: Path) -> Dataset:
    """Load a `.npy` or `.npz` of your own.

    A `.npy` holds x: (N, D), or (N, H, W) for images. A `.npz` holds `x` and optionally labels `y`
    (N,), or `x_train` and optionally `y_train`, `x_test`, `y_test`; other arrays are not read.
    uint8 is divided by 255; floats must lie in [0, 1]; booleans become 0 and 1; labels are
    integers. Without a test part the rows are shuffled with a fixed seed and the last 10 % (at
    least one row) are held out as the test part. Files that need pickle are refused.

    Raises:
        ValueError: the file is damaged, or its arrays are not as above. The message names the file,
            the array and what is wrong with it.
        OSError: the file cannot be opened.
    """
    arrays = read_npz(path, _known_keys) if path.suffix.lower() == ".npz" else {"x": read_npy(path)}
    part = "_train" if "x_train" in arrays else ""
    rows = arrays[f"x{part}"]
    x = _features(rows, f"{path}: x{part}", at_least=2)
    y = _labels(arrays.get(f"y{part}"), len(x), f"{path}: y{part}")
    image_shape = (rows.shape[1], rows.shape[2]) if rows.ndim == 3 else None

    if "x_test" in arrays:
        rows_test = arrays["x_test"]
        if rows_test.shape[1:] != rows.shape[1:]:
            raise ValueError(
                f"{path}: x_test has rows of shape {rows_test.shape[1:]}, "
                f"x_train of shape {rows.shape[1:]}; they must agree"
            )
        x_test = _features(rows_test, f"{path}: x_test", at_least=1)
        y_test = _labels(arrays.get("y_test"), len(x_test), f"{path}: y_test")
        return Dataset(path.name, x, y, x_test, y_test, image_shape)

    order = np.random.default_rng(_HELD_OUT_SEED).permutation(len(x))
    train, test = np.split(order, [len(x) - max(1, len(x) // 10)])
    return Dataset(
        path.name,
        x[train],
        None if y is None else y[train],
        x[test],
        None if y is None else y[test],
        image_shape,
    )


def _features(array: NDArray[Any], where: str, at_least: int) -> NDArray[np.float32]:
    """Rows (N, D) of float32 in [0, 1] from what a file held."""
    if array.ndim not in (2, 3) or 0 in array.shape[1:]:
        raise ValueError(
            f"{where}: shape {array.shape}; expected (N, D) or (N, H, W), none of them 0"
        )
    if len(array) < at_least:
        raise ValueError(f"{where}: {len(array)} rows; expected at least {at_least}")
    if array.dtype == np.uint8:
        return scale(array)
    if array.dtype.kind not in "fb":
        raise ValueError(
            f"{where}: elements of type {one_line(array.dtype)}; "
            "expected uint8 (0 to 255), floats in [0, 1] or booleans"
        )
    with np.errstate(invalid="ignore"):  # a signalling NaN would warn before it is refused
        low, high = array.min(), array.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError(f"{where}: holds NaN or infinity; remove or replace those values")
    if low < 0 or high > 1:
        raise ValueError(
            f"{where}: floats from {low} to {high}; expected [0, 1]: rescale them, "
            "or save grey levels 0 to 255 as uint8"
        )
    return array.reshape(len(array), -1).astype(np.float32, order="C", copy=False)


def _labels(array: NDArray[Any] | None, n_rows: int, where: str) -> NDArray[np.int64] | None:
    """Labels (N,) of int64 from what a file held."""
    if array is None:
        return None
    if array.dtype.kind not in "iu" or array.shape != (n_rows,):
        raise ValueError(
            f"{where}: {one_line(array.dtype)} of shape {array.shape}; "
            f"expected integers of shape ({n_rows},)"
        )
    if array.max() > np.iinfo(np.int64).max:
        raise ValueError(f"{where}: label {array.max()} is too large for int64")
    return array.astype(np.int64)


def _known_keys(found: Iterable[str]) -> list[str]:
    """Those of x, y, x_train ... that are there, if they make sense together."""
    names = set(found)
    if "x" in names and "x_train" in names:
        raise ValueError("holds both x and x_train; keep one of them")
    if "x" not in names and "x_train" not in names:
        listed = ", ".join(sorted(names)) or "no arrays"
        raise ValueError(f"holds {listed}; expected x, or x_train (with x_test, y_train, y_test)")
    if "x_test" in names and "x_train" not in names:
        raise ValueError("holds x_test but no x_train; rename x to x_train")
    for part in _PARTS:
        if f"y{part}" in names and f"x{part}" not in names:
            raise ValueError(f"holds y{part} but no x{part} that it would label")
    return [f"{kind}{part}" for part in _PARTS for kind in "xy" if f"{kind}{part}" in names]
