"""``train --live``: one HTML file beside the run that shows the training, epoch by epoch.

The page keeps a frame of every epoch: the same test images reconstructed, samples from the same
noise, the codes of the same test images, and what the latent space holds. It is its own store: a
resumed training reads the frames back, as data that anybody may have written, and goes on.

Pictures have 16 grey levels and sides of at most 32 pixels (larger ones are averaged down). Above
``MOST`` characters every second frame goes, so the page stays below 3 MB however long the training;
the curves keep at most ``POINTS`` epochs.
"""

from __future__ import annotations

import base64
import json
import math
import os
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from scratchvae import datasets, evaluate, plots, runs
from scratchvae.backend import to_device, to_host
from scratchvae.files import free_name, write_text
from scratchvae.models import VAE, DenoisingAutoencoder, Model
from scratchvae.team import WorkerError
from scratchvae.train import DivergedError, Training
from scratchvae.web import page
from scratchvae.web.png import png

SHOWN, SAMPLES, CODES, BARS, POINTS = 10, 30, 600, 100, 1000
SIDE = 9  # of the decoded plane, in images
COLUMNS, PIXELS, LEVELS = 10, 32, 16
MOST = 2_800_000  # characters that all frames together may take
_MOST_READ = 8_000_000
_FAR = 1e40  # beyond what ``_bounded`` codes can give, and its square is a number
_DATA = re.compile(r'<script type="application/json" id="data">(.*?)</script>', re.DOTALL)
_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")

Frame = dict[str, Any]
Floats = npt.NDArray[np.float64]


class Live:
    """The page of one training: a context around ``fit``, and a callback of it.

    It writes the page before the first epoch, after each, and, on leaving the context, once more
    with how the training ended. ``notice`` is a line for the user, or empty: a file at ``path``
    that this training did not write is set aside.

    Raises OSError where the page cannot be written.
    """

    def __init__(
        self,
        path: Path,
        model: Model,
        training: Training,
        data: datasets.Dataset,
        epochs: int,
    ) -> None:
        self.path, self.model, self.training, self.data = path, model, training, data
        self.epochs = epochs
        self.notice = ""
        self.run = {
            **model.config,
            "optimizer": training.optimizer.name,
            "training_seed": training.seed,
            "batch_size": training.batch_size,
            "binarize": training.binarize,
            "data": data.name,
        }
        self.given = data.x_test[runs.one_of_each(data.y_test, len(data.x_test))[:SHOWN]]
        self.inputs = [self._sheet(self.given)]
        if isinstance(model, DenoisingAutoencoder):
            self.given = evaluate.corrupted(model, self.given)
            self.inputs.append(self._sheet(self.given))
        self.noise = np.random.default_rng(0).standard_normal((SAMPLES, model.n_latent))
        ranks, self.classes = plots.class_ranks(data.y_test, len(data.x_test))
        self.ranks = ranks[:CODES].tolist()
        self.points: Floats | None = None  # of the last frame
        self.frames: list[Frame] = []
        self.stride = 1
        self.seconds: float | None = None  # that the last epoch took
        self.since = time.monotonic()

    def __enter__(self) -> Live:
        fresh = self._frame()
        if os.path.lexists(self.path):
            try:
                self.frames = self._earlier(fresh)
            except (OSError, ValueError, RecursionError) as error:
                aside = self.path.rename(free_name(self.path, "broken"))
                self.notice = f"{self.path}: {_reason(error)}; set aside as {aside}"
        if self.frames:
            self.points = _unpacked(self.frames[-1])
        if not self.training.step:  # else the model stands between two epochs
            self._add()
        self._write("training")
        self.since = time.monotonic()
        return self

    def __call__(self, training: Training) -> None:
        """Add a frame after an epoch, and write the page: what ``fit`` calls."""
        if training.step:
            return  # the training stops in the middle of an epoch, and the context says so
        now = time.monotonic()
        self.seconds, self.since = now - self.since, now
        self._add()
        self._write("training")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._write("finished")
            return
        with suppress(OSError):  # how the training ended is what the user must read
            if issubclass(kind, DivergedError | KeyboardInterrupt | WorkerError):
                self._write("diverged" if issubclass(kind, DivergedError) else "stopped")

    # ------------------------------------------------------------------------------- the page

    def _write(self, state: str) -> None:
        write_text(self.path, page.page("live", self._content(state)))

    def _content(self, state: str) -> dict[str, Any]:
        columns, length = self.training.history.columns, len(self.training.history)
        rows = np.unique(np.linspace(0, length - 1, min(length, POINTS)).astype(int)).tolist()
        height, width = _tile_shape(self.model.n_features, self.data.image_shape)
        return {
            "run": self.run,
            "state": state,
            "epoch": self.training.epoch,
            "epochs": self.epochs,
            "written": round(time.time() * 1000),
            "seconds": self.seconds,
            "tile": [height, width],
            "counts": {"shown": len(self.given), "samples": SAMPLES, "side": SIDE},
            "inputs": self.inputs,
            "ranks": self.ranks,
            "classes": self.classes,
            "rows": [row + 1 for row in rows],
            "terms": {
                name: [_short(values[row]) for row in rows]
                for name, values in columns.items()
                if name.removeprefix("val_") != "loss" or self._weighted(columns)
            },
            "frames": self.frames,
        }

    @staticmethod
    def _weighted(columns: dict[str, list[float]]) -> bool:
        """Whether the loss is no other column's twin (a VAE with beta other than 1)."""
        return "neg_elbo" in columns and not np.allclose(
            columns["loss"], columns["neg_elbo"], rtol=1e-5
        )

    def _sheet(self, images: npt.NDArray[Any]) -> str:
        """Return images (N, D) as one PNG, ``COLUMNS`` a row, in base64."""
        tiles = _tiles(images, self.data.image_shape)
        blank = np.zeros((-len(tiles) % COLUMNS, *tiles.shape[1:]), np.uint8)
        n, height, width = (tiles := np.concatenate([tiles, blank])).shape
        rows = tiles.reshape(n // COLUMNS, COLUMNS, height, width).transpose(0, 2, 1, 3)
        return base64.b64encode(png(rows.reshape(-1, COLUMNS * width))).decode()

    # ------------------------------------------------------------------------------ the frames

    def _add(self) -> None:
        """Add the frame of the epoch that has ended, and thin the others out above ``MOST``."""
        epoch = self.training.epoch
        if self.frames and (
            self.frames[-1]["epoch"] == epoch or self.frames[-1]["epoch"] % self.stride
        ):
            self.frames.pop()  # the same epoch again, or one that was kept as the newest
        self.frames.append(self._frame())
        while len(self.frames) > 2 and sum(map(_length, self.frames)) > MOST:
            self.stride *= 2
            kept = [frame for frame in self.frames[:-1] if frame["epoch"] % self.stride == 0]
            self.frames = [*kept, self.frames[-1]]

    @np.errstate(all="ignore")  # what overflows is not the page's to report
    def _frame(self) -> Frame:
        """Return what the model makes of the test images and of the noise as it stands."""
        model, x = self.model, self.data.x_test[:CODES]
        if isinstance(model, VAE):
            mu, logvar = model.encode(to_device(x, model.device))
            codes = _bounded(to_host(mu))
            spread = to_host(model.kl.per_latent(mu, logvar))
            z = self.noise
        else:
            codes = _bounded(runs.host_codes(model, x))
            spread = codes.var(axis=0)
            z = _like(codes, self.noise)
        given = _bounded(runs.host_codes(model, self.given))
        images = [self._decoded(given), self._decoded(z)]
        plane = None
        if model.n_latent == 2:
            corners = runs.plane_corners(model, codes)
            z1, z2 = np.linspace(*corners, SIDE).T
            downwards = np.stack(np.meshgrid(z1, z2[::-1]), axis=-1).reshape(-1, 2)
            images.append(self._decoded(downwards))
            plane = [corner.tolist() for corner in corners]
        points, shares = self._points(codes)
        low, high = points.min(axis=0), points.max(axis=0)
        scaled = (points - low) / np.where(high > low, high - low, 1) * 65535
        self.points = points
        return {
            "epoch": self.training.epoch,
            "tiles": self._sheet(np.concatenate(images)),
            "points": page.array(np.rint(scaled), "Uint16Array"),
            "low": [_short(v) for v in low],
            "high": [_short(v) for v in high],
            "shares": shares,
            "plane": plane,
            "spread": [_short(v) for v in np.sort(spread)[::-1][:BARS]],
            "active": int((spread > plots.ACTIVE_NATS).sum()),
        }

    def _decoded(self, z: npt.NDArray[Any]) -> npt.NDArray[Any]:
        z = to_device(z.astype(self.model.dtype), self.model.device)
        return np.asarray(to_host(self.model.decode(z)))

    def _points(self, codes: Floats) -> tuple[Floats, list[float]]:
        """Return the codes (N, L) as points of a plane, and the shares of variance if projected.

        One latent gets a row for each class. More than two are projected onto their first two
        principal components, turned so that they lie as near as can be to the frame before
        (Schoenemann 1966, "A generalized solution of the orthogonal Procrustes problem").
        """
        if codes.shape[1] == 1:
            jitter = np.random.default_rng(0).uniform(-0.35, 0.35, len(codes))
            return np.column_stack([codes[:, 0], np.asarray(self.ranks) + jitter]), []
        if codes.shape[1] == 2:
            return codes, []
        points, shares = plots.principal(codes)
        if self.points is not None:
            before = self.points - self.points.mean(axis=0)
            left, _, right = np.linalg.svd(points.T @ before)
            points = points @ left @ right
        return points, [_short(share) for share in shares]

    def _earlier(self, fresh: Frame) -> list[Frame]:
        """Return the frames of the page at ``path`` up to where the training stands.

        Raises ValueError, OSError or RecursionError where it holds anything but this run's frames.
        """
        if not self.path.is_file() or self.path.stat().st_size > _MOST_READ:
            raise ValueError("is no page of a training")
        found, content = _DATA.search(self.path.read_text(encoding="utf-8")), None
        with suppress(ValueError):
            content = json.loads(found[1]) if found else None
        if not isinstance(content, dict) or not isinstance(content.get("frames"), list):
            raise ValueError("is no page of a training")
        if content.get("run") != self.run:
            raise ValueError("belongs to another run")
        frames = content["frames"]
        if not all(_alike(fresh, frame) and _fits(fresh, frame) for frame in frames):
            raise ValueError("holds damaged data")
        epochs = [frame["epoch"] for frame in frames]
        if any(later <= epoch for epoch, later in zip([-1, *epochs], epochs, strict=False)):
            raise ValueError("holds damaged data")
        return [frame for frame in frames if frame["epoch"] <= self.training.epoch]


def _length(frame: Frame) -> int:
    """Return about how many characters a frame takes; its numbers take ten each."""
    numbers = 10 * (len(frame["spread"]) + 12)
    return len(frame["tiles"]) + len(frame["points"]["base64"]) + numbers


def _alike(known: Any, value: Any) -> bool:
    """Whether ``value`` has the form of ``known``: keys, lengths, base64, finite numbers."""
    if isinstance(known, dict):
        return (
            isinstance(value, dict)
            and set(value) == set(known)
            and all(_alike(known[key], value[key]) for key in known)
        )
    if isinstance(known, list):
        return (
            isinstance(value, list) and len(value) == len(known) and all(map(_alike, known, value))
        )
    if isinstance(known, str):
        return isinstance(value, str) and _BASE64.fullmatch(value) is not None
    if isinstance(known, int):
        return type(value) is int
    if isinstance(known, float):
        return type(value) is float and math.isfinite(value)
    return value is None


def _fits(known: Frame, value: Frame) -> bool:
    """Whether the picture and the points of a frame have the sizes of those of ``known``."""
    header = 32  # of base64: the 24 bytes of a PNG that end with its width and height
    points, wanted = value["points"], known["points"]
    same = all(points[key] == wanted[key] for key in ("kind", "shape"))
    text, its = points["base64"], wanted["base64"]
    same &= len(text) == len(its) and text.count("=") == its.count("=")
    same &= all(abs(number) < _FAR for number in (*value["low"], *value["high"]))
    return same and bool(value["tiles"][:header] == known["tiles"][:header])


def _unpacked(frame: Frame) -> Floats:
    """Return the points (N, 2) of a frame."""
    packed = frame["points"]
    scaled = np.frombuffer(base64.b64decode(packed["base64"]), "<u2").reshape(packed["shape"])
    low, high = np.asarray(frame["low"], float), np.asarray(frame["high"], float)
    return np.asarray(low + scaled / 65535 * (high - low))


def _bounded(codes: npt.NDArray[Any]) -> Floats:
    """Return codes in float64; an encoder may overflow where its saturated decoder hides it."""
    return codes.astype(np.float64).clip(-1e30, 1e30)


def _like(codes: Floats, noise: Floats) -> Floats:
    """Return standard normal noise (n, L) made a sample of the Gaussian fitted to codes (N, L).

    By the symmetric root of their covariance, so that a sample moves little from epoch to epoch.
    """
    covariance = np.atleast_2d(np.cov(codes.T, bias=True))
    variances, directions = np.linalg.eigh(covariance)
    root = directions * np.sqrt(variances.clip(0)) @ directions.T
    return np.asarray(codes.mean(axis=0) + noise @ root)


def _tile_shape(n_features: int, image_shape: tuple[int, int] | None) -> tuple[int, int]:
    height, width = image_shape or plots.near_square(n_features)
    factor = math.ceil(max(height, width) / PIXELS)
    return math.ceil(height / factor), math.ceil(width / factor)


def _tiles(images: npt.NDArray[Any], image_shape: tuple[int, int] | None) -> npt.NDArray[np.uint8]:
    """Return images (N, D) as bytes (N, height, width) of ``LEVELS`` levels, averaged down."""
    n, n_features = images.shape
    height, width = image_shape or plots.near_square(n_features)
    factor = math.ceil(max(height, width) / PIXELS)
    flat = np.pad(images, ((0, 0), (0, height * width - n_features)))
    margins = ((0, 0), (0, -height % factor), (0, -width % factor))
    padded = np.pad(flat.reshape(n, height, width), margins, mode="edge")
    rows, columns = _tile_shape(n_features, image_shape)
    small = padded.reshape(n, rows, factor, columns, factor).mean(axis=(2, 4))
    steps = np.rint(small.clip(0, 1) * (LEVELS - 1))
    return np.asarray(steps * (255 // (LEVELS - 1)), np.uint8)


def _short(value: float) -> float:
    return float(f"{value:.5g}")


def _reason(error: Exception) -> str:
    own = type(error) is ValueError
    return str(error) if own else "is no page of a training"
