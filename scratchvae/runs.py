"""The run directory: what a training leaves behind, and how it is opened again.

``model.npz`` is the checkpoint and enough for everything else; ``config.json`` and ``history.csv``
say the same to people and spreadsheets; the four pictures are ``PICTURES``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scratchvae import checkpoint, datasets, evaluate, plots
from scratchvae.backend import to_device, to_host
from scratchvae.files import clear_parts, locked, write_text
from scratchvae.models import VAE, DenoisingAutoencoder, Model
from scratchvae.train import History, Training

FILES = ("model.npz", "history.csv", "config.json")
PICTURES = ("curves.png", "reconstructions.png", "samples.png", "latent.png")
LIVE = "live.html"  # of `train --live`
SHOWN, SAMPLES = 10, 100


@dataclass
class Run:
    """A run that was opened: its place, its checkpoint, and the name of its data."""

    directory: Path
    model: Model
    training: Training
    notes: dict[str, Any]

    def dataset(self, name: str | None = None, data_dir: str | None = None) -> datasets.Dataset:
        """Load the run's data, or other data of the same number of features."""
        chosen = self.notes["data"] if name is None else name
        datasets.check_folder(chosen, data_dir)
        if name is None:
            data_dir = data_dir or self.notes.get("data_dir")
        data = datasets.load(chosen, data_dir)
        if data.x_test.shape[1] != self.model.n_features:
            raise ValueError(
                f"{data.name}: has {data.x_test.shape[1]} features, "
                f"the model of {self.directory} wants {self.model.n_features}"
            )
        return data


def new_directory(kind: str, out: str | None) -> Path:
    """Make and return the directory of a new run: ``out``, or the first free runs/KIND[-N].

    Raises ValueError where ``out`` holds a run already, or files that the run would overwrite.
    """
    if out is not None:
        directory = Path(out)
        if (directory / "model.npz").exists():
            raise ValueError(
                f"--out: {directory} holds a run already; "
                f"go on with it by --resume {directory}, or choose another directory"
            )
        found = [name for name in FILES + PICTURES if (directory / name).exists()]
        if found:
            raise ValueError(
                f"--out: the run would overwrite {', '.join(found)} in {directory}; "
                "choose another directory"
            )
        directory.mkdir(parents=True, exist_ok=True)
        return directory
    Path("runs").mkdir(exist_ok=True)
    directory, number = Path("runs") / kind, 1
    while True:
        try:
            directory.mkdir()
        except FileExistsError:
            number += 1
            directory = directory.with_name(f"{kind}-{number}")
        else:
            return directory


@contextmanager
def training_in(directory: Path) -> Iterator[None]:
    """Keep other trainings out of a run directory, and clear what a killed one left half-written.

    Raises ValueError where another training is in it, OSError where nothing can be written.
    """
    with ExitStack() as held:
        try:
            held.enter_context(locked(directory / ".lock"))
        except BlockingIOError:
            raise ValueError(
                f"{directory}: another training is writing there; "
                "wait for its end, or choose another directory: --out"
            ) from None
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(directory)) from None
        for name in (*FILES, *PICTURES, LIVE):
            clear_parts(directory / name)
        yield


def file_of(path: str | os.PathLike[str]) -> Path:
    """Return the checkpoint of a run directory, or of its ``model.npz``; ValueError for neither."""
    path = Path(path)
    file = path / "model.npz" if path.is_dir() else path
    if not file.is_file():
        raise ValueError(f"{path}: no run here: want a directory with model.npz, or that file")
    return file


def open_run(path: str | os.PathLike[str], device: str = "cpu") -> Run:
    """Open a run directory, or its ``model.npz``; raises ValueError where it is none."""
    file = file_of(path)
    loaded = checkpoint.load(file, device)
    notes = loaded.notes
    texts = [notes.get("data"), notes.get("data_dir", ""), notes.get("preset", "")]
    named = all(isinstance(text, str) for text in texts)
    if not named or not isinstance(notes.get("epochs"), int) or notes["epochs"] < 1:
        raise ValueError(f"{file}: was not written by 'scratchvae train': load it in Python")
    return Run(file.parent, loaded.model, loaded.training, notes)


def save_run(directory: Path, model: Model, training: Training, notes: dict[str, Any]) -> None:
    """Write ``model.npz``, ``history.csv`` and ``config.json``, each atomically."""
    checkpoint.save(directory / "model.npz", model, training, notes)
    write_text(directory / "history.csv", training.history.to_csv())
    config = {
        **model.config,
        "optimizer": {"name": training.optimizer.name, **training.optimizer.config},
        "training_seed": training.seed,
        "batch_size": training.batch_size,
        "binarize": training.binarize,
        **notes,
    }
    write_text(directory / "config.json", json.dumps(config, indent=2) + "\n")


def draw_pictures(directory: Path, model: Model, history: History, data: datasets.Dataset) -> None:
    """Draw the four ``PICTURES`` of a run from its model, its history and its data."""
    name = _title(model)
    plots.save(plots.curves(history.columns, title=name), directory / "curves.png")
    draw_reconstructions(directory / "reconstructions.png", model, data)
    draw_samples(directory / "samples.png", model, data)
    draw_latent(directory / "latent.png", model, data)


def _title(model: Model) -> str:
    names = {"ae": "Autoencoder", "dae": "Denoising autoencoder", "vae": "VAE"}
    return f"{names[model.kind]}, {model.n_latent} latent{'s' if model.n_latent > 1 else ''}"


def draw_reconstructions(
    path: Path, model: Model, data: datasets.Dataset, n: int = SHOWN, seed: int = 0
) -> float:
    """Draw ``n`` test images and their reconstructions; return their MSE a pixel.

    One image of each class first, then the others in order. The DAE is given corrupted images.
    """
    x = data.x_test[one_of_each(data.y_test, len(data.x_test))[:n]]
    given, noisy = x, None
    if isinstance(model, DenoisingAutoencoder):
        given = noisy = evaluate.corrupted(model, x, seed)
    y = evaluate.reconstruct(model, given)
    figure = plots.reconstructions(
        x,
        y,
        noisy=noisy,
        errors=np.square(x - y).mean(axis=1),
        image_shape=data.image_shape,
        title=f"{_title(model)}: test images reconstructed",
    )
    plots.save(figure, path)
    return evaluate.mse(x, y)


def one_of_each(labels: np.ndarray | None, n: int) -> np.ndarray:
    """Return the numbers of all n images: the first of each class, then the others in order."""
    if labels is None:
        return np.arange(n)
    first = np.unique(labels, return_index=True)[1]
    return np.concatenate([first, np.setdiff1d(np.arange(n), first)])


def draw_samples(
    path: Path, model: Model, data: datasets.Dataset, n: int = SAMPLES, seed: int = 0
) -> None:
    """Draw ``n`` generated images: the VAE's from its prior N(0, I).

    An autoencoder has no prior; its codes are drawn from a Gaussian fitted to those of the training
    data, and the title says so.
    """
    if isinstance(model, VAE):
        images, source = to_host(model.sample(n, seed)), "z drawn from the prior N(0, I)"
    else:
        codes = host_codes(model, data.x_train)
        covariance = np.atleast_2d(np.cov(codes.T, bias=True))
        rng = np.random.default_rng(seed)
        z = rng.multivariate_normal(codes.mean(axis=0), covariance, n).astype(model.dtype)
        images = to_host(model.decode(to_device(z, model.device)))
        source = "z drawn from a Gaussian fitted to the training codes (no prior)"
    title = f"{_title(model)}: {source}"
    plots.save(plots.image_grid(images, image_shape=data.image_shape, title=title), path)


def host_codes(model: Model, x: np.ndarray, batch_size: int = 1000) -> np.ndarray:
    """Return ``model.codes(x)`` for any number of rows, as a host array (N, L)."""
    parts = (x[i : i + batch_size] for i in range(0, len(x), batch_size))
    return np.concatenate([to_host(model.codes(to_device(part, model.device))) for part in parts])


def draw_latent(path: Path, model: Model, data: datasets.Dataset, side: int = 20) -> None:
    """Draw the codes of the test images by class, and what the latent space holds.

    With two latents that is the decoded plane: for the VAE from -3 to 3, three standard deviations
    of the prior; for an autoencoder over the middle 96 % of the codes. Otherwise it is each
    latent's KL or, for an autoencoder, its variance.
    """
    codes, kl, decoded = host_codes(model, data.x_test), None, None
    if isinstance(model, VAE):
        mu, logvar = model.encode(to_device(data.x_test, model.device))
        kl = to_host(model.kl.per_latent(mu, logvar))
    if model.n_latent == 2:
        z1, z2 = np.linspace(*plane_corners(model, codes), side, dtype=model.dtype).T
        grid = np.stack(np.meshgrid(z1, z2), axis=-1).reshape(-1, 2)
        decoded = (to_host(model.decode(to_device(grid, model.device))), z1, z2)
    figure = plots.latent(
        codes,
        data.y_test,
        kl=kl,
        decoded=decoded,
        image_shape=data.image_shape,
        label_name="digit" if data.name in ("mnist10k", "mnist") else "class",
        title=f"{_title(model)}: latent space, {len(codes):,} test images",
    )
    plots.save(figure, path)


def plane_corners(model: Model, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the corners of the part of a 2-D latent space that is shown decoded.

    For the VAE -3 to 3, three standard deviations of the prior; for an autoencoder the middle 96 %
    of the codes (N, 2).
    """
    if isinstance(model, VAE):
        return np.array([-3.0, -3.0]), np.array([3.0, 3.0])
    low, high = np.percentile(codes, (2, 98), axis=0)
    least = 1e-3 * (1 + np.abs(low))  # where all codes are one, the plane still is one
    return low, np.maximum(high, low + least)


def draw_interpolation(
    path: Path, model: Model, data: datasets.Dataset, pairs: list[tuple[int, int]], steps: int
) -> None:
    """Draw the straight line in the latent space between the codes of pairs of test images."""
    z = host_codes(model, data.x_test[np.asarray(pairs).ravel()])
    start, stop = z[0::2], z[1::2]
    t = np.linspace(0, 1, steps, dtype=model.dtype)[None, :, None]
    line = start[:, None] * (1 - t) + stop[:, None] * t
    images = to_host(model.decode(to_device(line.reshape(-1, model.n_latent), model.device)))
    ends = None
    if data.y_test is not None:
        ends = [(data.y_test[a], data.y_test[b]) for a, b in pairs]
    figure = plots.interpolation(
        images.reshape(len(pairs), steps, -1),
        ends=ends,
        image_shape=data.image_shape,
        title=f"{_title(model)}: straight lines between the codes of test images",
    )
    plots.save(figure, path)
