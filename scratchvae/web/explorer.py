"""The explorer: one HTML file in which a trained model's latent space is walked through.

The file holds the weights of one run or several, and images of the test data. All else is
computed in the page, by the model's own layers (``assets/network.js``). Weights are stored in as
few bits as keep every pixel within half of ``AGREEMENT``, measured here against the model; the
whole stays under ``LIMIT``. Where it would not, the page shows fewer images, then leaves out
encoders from the last run on, and then there is no page: agreement is never given up.

Shapes by letter: N images, D features, I inputs, O outputs, L latents.
"""

from __future__ import annotations

import base64
import math
import os
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scratchvae.datasets import Dataset
from scratchvae.evaluate import evaluate
from scratchvae.files import write_text
from scratchvae.layers import Dense, Layer, ReLU, Sequential, Sigmoid, Tanh
from scratchvae.models import VAE, Model
from scratchvae.plots import class_ranks
from scratchvae.runs import Run, host_codes, open_run
from scratchvae.web.page import LANGUAGES, page

LIMIT = 2_000_000  # bytes of the file
AGREEMENT = 1e-3  # of a pixel, between the page and the model
IMAGES = (1000, 500, 250)  # of the test data: as many as fit
BITS = range(10, 25)  # of a weight: as few as agree
_NARROW = 32  # a matrix with fewer rows or columns is kept as it is: it is small, and decides much
_ACTIVATIONS = {ReLU: "relu", Tanh: "tanh", Sigmoid: "sigmoid"}


def write_explorer(
    runs: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str] | None = None,
    *,
    data: str | None = None,
    data_dir: str | None = None,
    language: str | None = None,
) -> dict[str, Any]:
    """Write the explorer of one run directory or several, of the same number of features.

    ``out`` is its name, by default ``explorer.html`` in the first run's directory.

    ``data`` (and ``data_dir``) name other data than the first run's own. ``language`` is the page's
    first one, in place of the browser's. Returns what was written: ``bytes``, the ``images`` in it,
    the largest ``pixel_error`` beside the models on the points that were measured, and
    ``without_encoder``, the runs whose encoders did not fit.

    Raises ValueError where a run is none, runs do not fit together, or their weights do not fit
    into ``LIMIT``; OSError where a file cannot be read or written.
    """
    if out is not None and Path(out).suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--out: got {Path(out).name!r}, want the name of an HTML file: FILE.html")
    if language not in (None, *LANGUAGES):
        raise ValueError(f"language: got {language!r}, want one of {', '.join(LANGUAGES)}")
    opened = [open_run(path) for path in runs]
    if not opened:
        raise ValueError("runs: got none, want at least one")
    target = opened[0].directory / "explorer.html" if out is None else Path(out)
    shown = opened[0].dataset(data, data_dir)
    for run in opened[1:]:
        if run.model.n_features != opened[0].model.n_features:
            raise ValueError(
                f"{run.directory}: its model has {run.model.n_features} features, that of "
                f"{opened[0].directory} has {opened[0].model.n_features}; explore one at a time"
            )
    opened.sort(key=_beta)
    with np.errstate(all="ignore"):  # what overflows is refused by _Weights
        codes = [host_codes(run.model, shown.x_test) for run in opened]
        ranges = _shared(
            opened, [_ranges(run.model, c) for run, c in zip(opened, codes, strict=True)]
        )
        parts = [_Weights(*each, shown) for each in zip(opened, codes, ranges, strict=True)]
    text, n_images, n_encoders = _fit(parts, shown, language)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text(target, text)
    return {
        "page": str(target),
        "bytes": len(text.encode()),
        "images": n_images,
        "pixel_error": max(part.error for part in parts),
        "without_encoder": [str(run.directory) for run in opened[n_encoders:]],
    }


def _beta(run: Run) -> float:
    return run.model.beta if isinstance(run.model, VAE) else 0.0


def _fit(parts: list[_Weights], data: Dataset, language: str | None) -> tuple[str, int, int]:
    """Return the page, how many images it shows, and how many of the runs kept their encoder."""
    choices = [(n, len(parts)) for n in IMAGES]
    choices += [(IMAGES[-1], kept) for kept in range(len(parts) - 1, -1, -1)]
    for n, kept in choices:
        x = data.x_test[:n]
        runs = [part.to_json(x, encoder=i < kept) for i, part in enumerate(parts)]
        ranks, classes = class_ranks(None if data.y_test is None else data.y_test[:n], len(x))
        content = {
            "runs": runs,
            "images": pack({"x": np.rint(x * 255).astype(np.uint8)}),
            "shape": _shape(data),
            "labels": ranks.tolist() if classes else None,
            "classes": classes,
            "name": data.name,
            "language": language,
        }
        text = page("explorer", content, scripts=("network.js",))
        size = len(text.encode())
        if size < LIMIT:
            return text, len(x), kept
    few = "give fewer runs, or " if len(parts) > 1 else ""
    hidden = max((max(part.model.hidden, default=0) for part in parts), default=0)
    narrower = int(hidden * 0.9 * LIMIT / size) // 10 * 10
    advice = f"{few}train narrower ones: --hidden {narrower}" if narrower else f"{few}smaller data"
    raise ValueError(
        f"explore: the page would have {size / 1e6:.1f} MB even without encoders, at most "
        f"{LIMIT / 1e6:.0f} MB are allowed; {advice}"
    )


def _shape(data: Dataset) -> tuple[int, int] | None:
    """Return height and width of the images; a square where nobody said so and it fits, or None."""
    n_features = data.x_test.shape[1]
    side = math.isqrt(n_features)
    return data.image_shape or ((side, side) if side * side == n_features else None)


class _Weights:
    """The parameters of one run in as few bits as agree with the model, and what the page says."""

    def __init__(self, run: Run, codes: np.ndarray, ranges: np.ndarray, data: Dataset) -> None:
        self.run, self.model, self.ranges = run, run.model, ranges
        model, x = run.model, data.x_test
        self.typical = _typical(model, x)
        self.use = codes.var(axis=0)  # how much an autoencoder uses each latent
        if isinstance(model, VAE):
            self.use = model.kl.per_latent(*model.encode(x))
        z = _everywhere(self.ranges, codes, model.dtype)
        want = model.decode(z)
        self.decoder, self.error = _fewest(
            run, _parameters(model, encoder=False), lambda: _worst(model.decode(z) - want)
        )
        binarize = run.training.binarize
        self.binarized = binarize and isinstance(model, VAE)
        figures = evaluate(model, x, binarize=binarize)  # those of `scratchvae evaluate`
        self.figures = {name: figures[name] for name in model.term_names}
        x = x[: IMAGES[0]]
        images, distributions = model.reconstruct(x), _heads(model, x)

        def difference() -> float:
            of_codes = _worst(_heads(model, x) - distributions)
            return max(_worst(model.reconstruct(x) - images), of_codes / 2)

        self.encoder, _ = _fewest(run, _parameters(model, encoder=True), difference)

    def to_json(self, x: np.ndarray, *, encoder: bool) -> dict[str, Any]:
        """Return the run for the page; without an encoder the codes of x (N, D) take its place."""
        model: Any = self.model
        content = {
            **model.config,
            "kind": model.kind,
            "name": self.run.directory.resolve().name,
            "ranges": self.ranges.tolist(),
            "use": [float(value) for value in self.use],
            "figures": self.figures,
            "binarized": self.binarized,
            "typical": self.typical,
            "decoder": {"layers": _names(model.decoder), **self.decoder},
        }
        if encoder:
            return {**content, "encoder": {"layers": _names(model.encoder), **self.encoder}}
        mu, *logvar = _split_heads(model, x)
        codes = {"mu": mu, **({"logvar": logvar[0]} if logvar else {})}
        return {**content, "codes": pack({k: v.astype("<f4") for k, v in codes.items()})}


def _split_heads(model: Model, x: np.ndarray) -> tuple[np.ndarray, ...]:
    return model.encode(x) if isinstance(model, VAE) else (model.codes(x),)


def _heads(model: Model, x: np.ndarray) -> np.ndarray:
    """Return mu and sigma, side by side (N, 2 L), or the codes (N, L)."""
    mu, *logvar = _split_heads(model, x)
    return np.concatenate([mu, *(np.exp(v / 2) for v in logvar)], axis=1)


def _typical(model: Any, x: np.ndarray) -> list[float]:
    """Return the 5, 50 and 95 % quantiles of the objective over the images x, grey as they are."""
    if isinstance(model, VAE):
        mu, logvar = model.encode(x)
        eps = model.draw_noise(np.random.default_rng(0), x)
        output = model.decoder.apply(model.reparameterize.apply(mu, logvar, eps))
        each = model.nll.per_example(output, x) + model.kl.per_example(mu, logvar)
    else:
        each = model.mse.per_example(model.reconstruct(x), x)
    return [float(q) for q in np.percentile(each, (5, 50, 95))]


def _ranges(model: Model, codes: np.ndarray) -> np.ndarray:
    """Return the values of each latent that the page walks through, (L, 2).

    For the VAE four standard deviations of the prior, and in any case all but the outermost codes.
    """
    low, high = np.percentile(codes.astype(np.float64), (0.5, 99.5), axis=0)
    margin = np.maximum(0.15 * (high - low), 1e-3 * (1 + np.abs(low)))
    low, high = low - margin, high + margin
    if isinstance(model, VAE):
        high = np.maximum(4, np.maximum(-low, high))
        low = -high
    return np.stack([low, high], axis=1)


def _shared(runs: list[Run], ranges: list[np.ndarray]) -> list[np.ndarray]:
    """Return for each run the ranges of all runs of its kind and its latents: one scale for all."""

    def alike(run: Run) -> tuple[str, int]:
        return run.model.kind, run.model.n_latent

    shared = []
    for run in runs:
        same = np.stack(
            [r for other, r in zip(runs, ranges, strict=True) if alike(other) == alike(run)]
        )
        shared.append(np.stack([same[..., 0].min(axis=0), same[..., 1].max(axis=0)], axis=1))
    return shared


def _everywhere(ranges: np.ndarray, codes: np.ndarray, dtype: Any) -> np.ndarray:
    """Return codes and 1,000 points spread over the ranges, their corners included."""
    rng = np.random.default_rng(0)
    unit = np.concatenate([rng.random((900, len(ranges))), rng.integers(0, 2, (100, len(ranges)))])
    spread = ranges[:, 0] + unit * (ranges[:, 1] - ranges[:, 0])
    return np.concatenate([codes[:1000], spread]).astype(dtype)


def _worst(difference: np.ndarray) -> float:
    return float(np.abs(difference).max())


# --------------------------------------------------------------------------------- the weights


def _parameters(model: Model, *, encoder: bool) -> dict[str, np.ndarray]:
    """Return the parameters of the decoder, or all others, as views of theta."""
    return {
        name: values
        for name, values in model.named_parameters().items()
        if name.startswith("decoder.") != encoder
    }


def _fewest(
    run: Run, parameters: dict[str, np.ndarray], error: Callable[[], float]
) -> tuple[dict[str, Any], float]:
    """Return the parameters packed in the fewest ``BITS`` with which ``error`` is small enough.

    ``error`` looks at the model, whose parameters are rounded meanwhile.
    """
    exact = {name: values.copy() for name, values in parameters.items()}
    try:
        for bits in BITS:
            arrays: dict[str, np.ndarray] = {}
            for name, values in exact.items():
                stored, parameters[name][...] = quantise(values, bits)
                arrays |= {f"{name}{suffix}": array for suffix, array in stored.items()}
            if (found := error()) <= AGREEMENT / 2:
                return pack(arrays), found
    finally:
        for name, values in exact.items():
            parameters[name][...] = values
    raise ValueError(
        f"{run.directory}: the numbers of this model are too large for a page: they would differ "
        f"by more than {AGREEMENT:g} of a pixel"
    )


def quantise(values: np.ndarray, bits: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return what is stored of parameters W (I, O) or b (O,), and the values that it stands for.

    W_ij is stored as a whole number k_ij of ``bits`` bits and a scale of its column: W_ij = k_ij
    s_j, whose rounding error is at most s_j / 2. k + 2^(8 p - 1) is written as p planes of bytes,
    the highest first: its bytes are alike, and compress. Vectors and narrow matrices stay float32.
    """
    if values.ndim == 1 or min(values.shape) < _NARROW:
        kept = values.astype("<f4")
        return {"": kept}, kept.astype(values.dtype)
    most = 2 ** (bits - 1) - 1
    scale = (np.abs(values).max(axis=0) / most).astype("<f4")
    exact = values / np.where(scale > 0, scale, 1).astype(np.float64)
    whole = np.clip(np.rint(exact), -most, most).astype(np.int64)
    n_planes = -(-bits // 8)
    shifted = whole + 2 ** (8 * n_planes - 1)
    planes = [(shifted >> 8 * (n_planes - 1 - i) & 255).astype(np.uint8) for i in range(n_planes)]
    stored = {".planes": np.stack(planes), ".scale": scale}
    return stored, (whole * scale).astype(values.dtype)


def pack(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return arrays of uint8 and float32 as JSON: one compressed block, in base64, and a table."""
    table, blocks, start = {}, [], 0
    for name, values in sorted(arrays.items(), key=lambda item: item[1].itemsize, reverse=True):
        kind = {1: "Uint8Array", 4: "Float32Array"}[values.itemsize]
        table[name] = {"kind": kind, "shape": list(values.shape), "start": start}
        blocks.append(values.tobytes())
        start += values.nbytes
    packer = zlib.compressobj(7, wbits=-15)  # without a header: the page says "deflate-raw"
    block = packer.compress(b"".join(blocks)) + packer.flush()
    return {"arrays": table, "block": base64.b64encode(block).decode()}


def _names(network: Layer) -> list[str]:
    """Return what the layers do, in order: "dense" or the name of an activation."""
    layers = network.layers if isinstance(network, Sequential) else (network,)
    return ["dense" if isinstance(layer, Dense) else _ACTIVATIONS[type(layer)] for layer in layers]
