"""The data sets by name, where their files are looked for, and `load`."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scratchvae.datasets.dataset import Dataset, scale
from scratchvae.datasets.idx import read_idx
from scratchvae.datasets.own import load_file
from scratchvae.datasets.sources import (
    FASHION_MNIST,
    MNIST,
    MNIST10K_IMAGES,
    MNIST10K_LABELS,
    IdxFile,
    Source,
)
from scratchvae.places import cache_dir

DATA_DIR_VARIABLE = "SCRATCHVAE_DATA"
_EMBEDDED = Path(__file__).parent / "data"


def mnist10k() -> Dataset:
    """The first 10,000 MNIST training digits, which come with the package: 9,000 and 1,000.

    The 1,000 are the last of the 10,000. They are harder than the official test digits: a VAE's
    negative ELBO is 2 to 4 nats an image higher on them. Compare models on either, never across.

    Source: Y. LeCun, C. Cortes, C. J. C. Burges; CC BY-SA 3.0; see `data/README.md`.
    """
    images, labels = (
        read_idx(_EMBEDDED / f"{file.name}.gz", file.shape, file.sha256)
        for file in (MNIST10K_IMAGES, MNIST10K_LABELS)
    )
    x, y = scale(images), labels.astype(np.int64)
    return Dataset("mnist10k", x[:9000], y[:9000], x[9000:], y[9000:])


def mnist(data_dir: str | Path | None = None, progress: bool = True) -> Dataset:
    """MNIST: 60,000 training and 10,000 test digits (Y. LeCun, C. Cortes, C. J. C. Burges).

    The four IDX files are taken from data_dir; else from the folder that the environment variable
    SCRATCHVAE_DATA names; else from the user's cache; else they are downloaded to the cache. A
    folder that was named is never filled by a download. In it or in its subfolder `mnist`, each
    file may be gzipped or not and may have a dot for the last hyphen of its first part
    (`train-images.idx3-ubyte`). Wherever they come from, the SHA-256 of their contents is checked.

    Args:
        data_dir: folder with the IDX files.
        progress: show a bar on stderr while downloading, where that is a terminal.

    Raises:
        FileNotFoundError: a folder was named and files are missing from it.
        ValueError: a file is not what its name says.
        scratchvae.datasets.download.DownloadError: (an OSError) every mirror failed.
    """
    return load_source(MNIST, data_dir, progress)


def fashion_mnist(data_dir: str | Path | None = None, progress: bool = True) -> Dataset:
    """Fashion-MNIST: 60,000 training and 10,000 test images of clothes.

    Arguments, places and errors as in `mnist`; the subfolder is `fashion-mnist`.

    Source: H. Xiao, K. Rasul, R. Vollgraf, 2017, https://arxiv.org/abs/1708.07747; MIT licence.
    """
    return load_source(FASHION_MNIST, data_dir, progress)


def load(
    name: str | Path = "mnist10k", data_dir: str | Path | None = None, progress: bool = True
) -> Dataset:
    """Load a data set by name, or your own from a file.

    Args:
        name: "mnist10k", "mnist", "fashion-mnist", or the path of a `.npy` or `.npz` file (see
            `scratchvae.datasets.own.load_file` for what it may hold).
        data_dir, progress: as in `mnist`; not used for "mnist10k" and your own file.

    Raises:
        ValueError: the name is unknown, or a file is not as it should be.
        OSError: files are missing or cannot be read or downloaded.
    """
    if name == "mnist10k":
        return mnist10k()
    for source in (MNIST, FASHION_MNIST):
        if name == source.name:
            return load_source(source, data_dir, progress)
    path = expanded(name)
    if path.suffix.lower() not in (".npy", ".npz"):
        raise ValueError(
            f"unknown data set {str(name)!r}; expected mnist10k, mnist, fashion-mnist, "
            "or a file that ends in .npy or .npz"
        )
    return load_file(path)


def check_folder(name: str, data_dir: str | None) -> None:
    """Raise ValueError where ``--data-dir`` names a folder for data that come from none."""
    if data_dir and name not in (MNIST.name, FASHION_MNIST.name):
        raise ValueError(f"--data-dir: has no effect on the data {name}; add --data mnist")


def available(data_dir: str | Path | None = None) -> dict[str, str]:
    """For each data set the folder where its files are, or "not found: " and what to do.

    Looks at names only: nothing is read, verified or downloaded.
    """
    found = {"mnist10k": str(_EMBEDDED)}
    for source in (MNIST, FASHION_MNIST):
        try:
            folder = _named_folder(data_dir)
            if folder is not None:
                found[source.name] = str(_find(source, folder)[0].parent)
                continue
            folder = cache_dir() / source.name
            if all(any(_candidates(folder, file)) for file in source.files):
                found[source.name] = str(folder)
            else:
                found[source.name] = f"not found: downloaded to {folder} when first used"
        except OSError as error:
            found[source.name] = f"not found: {error}"
    return found


def load_source(
    source: Source, data_dir: str | Path | None = None, progress: bool = True
) -> Dataset:
    """Load any source as `mnist` does its own."""
    folder = _named_folder(data_dir)
    if folder is None:
        arrays = _read_cached(source, cache_dir() / source.name, progress)
    else:
        paths = _find(source, folder)
        arrays = [
            read_idx(path, file.shape, file.sha256)
            for path, file in zip(paths, source.files, strict=True)
        ]
    train_images, train_labels, test_images, test_labels = arrays
    _, height, width = source.train_images.shape
    return Dataset(
        source.name,
        scale(train_images),
        train_labels.astype(np.int64),
        scale(test_images),
        test_labels.astype(np.int64),
        (height, width),
    )


def expanded(path: str | Path) -> Path:
    """Return the path with ~ and ~user in full; ValueError for a user that is not there."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ValueError(f"{path}: there is no such user here") from None


def _named_folder(data_dir: str | Path | None) -> Path | None:
    """The folder that the caller or else the environment names."""
    named = data_dir or os.environ.get(DATA_DIR_VARIABLE)
    if not named:
        return None
    folder = expanded(named)
    if not folder.is_dir():
        origin = "data_dir (--data-dir)" if data_dir else DATA_DIR_VARIABLE
        raise FileNotFoundError(f"{origin} names {folder}, which is not a folder")
    return folder


def _candidates(folder: Path, file: IdxFile) -> Iterator[Path]:
    """The files in folder that go by the name of an IDX file."""
    stem, _, kind = file.name.rpartition("-idx")
    for name in (file.name, f"{stem}.idx{kind}"):
        for path in (folder / f"{name}.gz", folder / name):
            if path.is_file():
                yield path


def _find(source: Source, folder: Path) -> list[Path]:
    """The four files of a source in its subfolder of folder, or in folder itself."""
    lacking = []
    for place in (folder / source.name, folder):
        paths = {file.name: next(_candidates(place, file), None) for file in source.files}
        missing = [name for name, path in paths.items() if path is None]
        if not missing:
            return [path for path in paths.values() if path is not None]
        lacking.append(f"{place} lacks {', '.join(missing)}")
    raise FileNotFoundError(
        f"{source.name}: {'; '.join(lacking)}. Put the IDX files there (gzipped or not), or name "
        f"no folder (neither --data-dir nor {DATA_DIR_VARIABLE}) to have them downloaded"
    )


def _read_cached(source: Source, folder: Path, progress: bool) -> list[NDArray[np.uint8]]:
    """The four arrays from the cache; files that are absent or damaged are downloaded again."""
    arrays = {file: _read_if_right(folder, file) for file in source.files}
    missing = [file for file, array in arrays.items() if array is None]
    if missing:
        # Imported here: urllib brings ssl, http and email, which reading local files does not need.
        from scratchvae.datasets.download import download

        download(source, missing, folder, progress)
    return [
        array
        if array is not None
        else read_idx(folder / f"{file.name}.gz", file.shape, file.sha256)
        for file, array in arrays.items()
    ]


def _read_if_right(folder: Path, file: IdxFile) -> NDArray[np.uint8] | None:
    for path in _candidates(folder, file):
        try:
            return read_idx(path, file.shape, file.sha256)
        except ValueError:
            continue
    return None
