"""Evaluation: what a model is worth on data that it has not seen, and honest rivals for it.

All functions take and return host arrays or floats where they do not take a model; with a model,
x (N, D) is moved to its device. B batch, D features, K samples, L latents.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from scratchvae import validate
from scratchvae.backend import Array, array_module, generator, to_device, to_host
from scratchvae.models import VAE, DenoisingAutoencoder, Model
from scratchvae.train import AT_ONCE, VALIDATION, binarized, check_unit_interval, mean_terms

COPIES = 5  # arrays as large as its output that a decoder and its likelihood hold at once


def evaluate(model: Model, x: Array, *, seed: int = 0, binarize: bool = False) -> dict[str, float]:
    """Return the model's figures on x (N, D).

    The VAE's ``loss``, ``reconstruction``, ``kl`` and ``neg_elbo`` are in nats an image, from one
    draw of eps an image (``seed``); with ``binarize`` they are those of pixels drawn as 0 or 1.
    ``mse`` (a pixel) and ``psnr`` (dB) compare x with its reconstruction through the mean of
    q(z|x). For the DAE ``mse`` and ``psnr`` compare the clean x with the reconstruction of the
    corrupted x, and ``mse_corrupted`` the corrupted x itself: the rival that does nothing. With
    the seed of a training these are the figures of its last validation, but for an AE or DAE
    trained with ``binarize``: ``mse`` is always that of the grey pixels. Raises ValueError where a
    figure would not be finite, and for values outside [0, 1] with ``binarize``.
    """
    validate.boolean("binarize", binarize)
    x = model.check(to_device(x, model.device), values=True)
    if binarize:
        check_unit_interval("x", x)
    clean = given = to_host(x)
    figures = {}
    with np.errstate(all="ignore"):  # what overflows is named below
        if isinstance(model, VAE):
            figures = mean_terms(model, x, seed=seed, binarize=binarize)
        if isinstance(model, DenoisingAutoencoder):
            given = corrupted(model, x, seed)
        figures["mse"] = mse(clean, reconstruct(model, given))
    for name, figure in figures.items():
        _check_finite(name, figure)
    figures["psnr"] = psnr(figures["mse"])
    return figures if given is clean else {**figures, "mse_corrupted": mse(clean, given)}


def _check_finite(name: str, figures: Any) -> None:
    if not np.isfinite(figures).all():
        raise ValueError(
            f"{name}: not finite, the model's parameters or the data are too large for its numbers"
        )


def corrupted(
    model: DenoisingAutoencoder, x: Array, seed: int = 0, batch_size: int = AT_ONCE
) -> np.ndarray:
    """Return x (N, D) corrupted with the noise of ``seed``, as a host array (N, D).

    Drawn in the batches of ``mean_terms``: on the GPU other batches would get other numbers.
    """
    batch_size = validate.integer("batch_size", batch_size)
    x = model.check(to_device(x, model.device), values=True)
    rng = generator(model.device, seed, VALIDATION)
    parts = (x[i : i + batch_size] for i in range(0, len(x), batch_size))
    noisy = (model.corrupt(part, model.draw_noise(rng, part)) for part in parts)
    return np.concatenate([to_host(part) for part in noisy])


def reconstruct(model: Model, x: Array, batch_size: int = 1000) -> np.ndarray:
    """Return ``model.reconstruct(x)`` for any number of rows, as a host array (N, D)."""
    batch_size = validate.integer("batch_size", batch_size)
    x = to_device(x, model.device)
    starts = range(0, max(1, len(x)), batch_size)  # no rows at all are the model's to refuse
    parts = [model.reconstruct(x[i : i + batch_size]) for i in starts]
    return np.concatenate([to_host(part) for part in parts])


def importance_weighted_bound(
    model: VAE,
    x: Array,
    n_samples: int,
    *,
    seed: int = 0,
    max_bytes: int = 2**27,
    binarize: bool = False,
) -> np.ndarray:
    """Return the importance-weighted bound on log p(x) for each row of x (N, D): (N,), in nats.

    Burda, Grosse, Salakhutdinov 2016, eq. 8: with z_k ~ q(z|x), k = 1..K,

        L_K = log 1/K sum_k w_k,    w_k = p(x|z_k) p(z_k) / q(z_k|x)

    L_1 is the ELBO, E[L_K] grows with K, and tends to log p(x). The logarithm of the sum runs over
    chunks of samples and rows that keep the decoder's arrays under about ``max_bytes``; on the CPU
    each z_k is the same whatever the chunks. ``binarize`` draws the pixels of x as 0 or 1 first.
    """
    n_samples = validate.integer("n_samples", n_samples)
    validate.boolean("binarize", binarize)
    x = model.check(to_device(x, model.device), values=True)
    xp, rng, n = model.xp, generator(model.device, seed, VALIDATION), len(x)
    if binarize:
        check_unit_interval("x", x)
        x = binarized(rng, x)
    widest = max(model.nll.output_shape(x)[1], *model.hidden, model.n_latent)
    room = max(1, max_bytes // (COPIES * widest * model.dtype.itemsize))  # decoded rows at a time
    blocks = [slice(start, start + room) for start in range(0, n, room)]
    codes = [model.encode(x[block]) for block in blocks]
    total = xp.full(n, -math.inf)
    chunk = max(1, room // n)  # samples at a time: several only where all rows fit into one block
    for done in range(0, n_samples, chunk):
        k = min(chunk, n_samples - done)
        for block, (mu, logvar) in zip(blocks, codes, strict=True):
            eps = xp.asarray(rng.standard_normal((k * len(mu), model.n_latent), dtype=x.dtype))
            tiled = [xp.tile(a, (k, 1)) for a in (x[block], mu, logvar)]
            with np.errstate(all="ignore"):  # what overflows is named below
                log_w = _log_weights(model, tiled, eps).reshape(k, len(mu)).astype(np.float64)
                total[block] = xp.logaddexp(total[block], _log_sum_exp(log_w))
    _check_finite("bound", total := to_host(total))
    return np.asarray(total) - math.log(n_samples)


def _log_sum_exp(a: Array) -> Array:
    """Return log sum_k exp(a_k) of a (K, B) without overflow, (B,)."""
    xp = array_module(a)
    peak = xp.maximum(a.max(axis=0), np.finfo(a.dtype).min)  # -inf - -inf is NaN
    return peak + xp.log(xp.exp(a - peak).sum(axis=0))


def _log_weights(model: VAE, tiled: list[Array], eps: Array) -> Array:
    """Return log p(x|z) + log p(z) - log q(z|x) at z = mu + sigma eps, (B,).

    The constants -L/2 log 2 pi of p(z) and q(z|x) cancel, and (z - mu) / sigma is eps.
    """
    x, mu, logvar = tiled
    z = model.reparameterize.apply(mu, logvar, eps)
    log_px = -model.nll.per_example(model.decoder.apply(z), x)
    return log_px + (eps * eps + logvar - z * z).sum(axis=1) / 2


def mse(x: np.ndarray, y: np.ndarray) -> float:
    """Return the mean squared error a pixel between x and y (N, D), computed in float64."""
    if x.shape != y.shape or not x.size:
        raise ValueError(f"mse: got shapes {x.shape} and {y.shape}, want equal ones, not empty")
    difference = np.subtract(x, y, dtype=np.float64)
    return float(np.mean(difference * difference))


def psnr(mse: float, peak: float = 1.0) -> float:
    """Return the peak signal-to-noise ratio 10 log10(peak^2 / MSE) in decibels; inf for MSE 0.

    Raises ValueError for a negative MSE and a peak that is not positive; of NaN it is NaN.
    """
    if mse < 0 or not 0 < peak < math.inf:
        raise ValueError(f"psnr: got mse {mse} and peak {peak}, want mse >= 0 and peak > 0, finite")
    if mse in (0, math.inf):
        return math.inf if mse == 0 else -math.inf
    return 20 * math.log10(peak) - 10 * math.log10(mse)


def roc_auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Return the area under the ROC curve: P(score of a positive > score of a negative).

    ``scores`` (N,) are floats, ``positive`` (N,) booleans; a tie counts one half (Mann, Whitney
    1947). Raises ValueError where one class is missing or a score is NaN.
    """
    scores, positive = np.asarray(scores), np.asarray(positive)
    if not np.isin(positive, (0, 1)).all():
        raise ValueError("positive: want True or False for each example, such as labels == 1")
    positive = positive.astype(bool)
    if scores.shape != positive.shape or scores.ndim != 1:
        raise ValueError(
            f"roc_auc: got shapes {scores.shape} and {positive.shape}, want (N,) twice"
        )
    if np.isnan(scores).any():
        raise ValueError("roc_auc: got NaN among the scores")
    n_positive = int(positive.sum())
    n_negative = len(positive) - n_positive
    if not n_positive or not n_negative:
        raise ValueError("roc_auc: want at least one positive and one negative example")
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    middle_rank = np.cumsum(counts) - (counts - 1) / 2  # ranks from 1, ties share their mean
    rank_sum = middle_rank[inverse][positive].sum()
    return float((rank_sum - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def _check_data(name: str, x: np.ndarray) -> None:
    if not np.isfinite(x).all():
        raise ValueError(f"{name}: got NaN or infinite values, want finite ones")


def _in_unit_interval(x: np.ndarray) -> bool:
    return bool(x.min() >= 0 and x.max() <= 1)


def _covariance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the covariance (D, E) of centred data (N, D) and (N, E)."""
    with np.errstate(all="ignore"):  # what overflows is named below
        covariance = x.T @ y / len(x)
    if not np.isfinite(covariance).all():
        raise ValueError("covariance: not finite, the data are too large")
    return np.asarray(covariance)


class PCA:
    """Principal component analysis: the best linear reconstruction through L numbers.

    Pearson 1901; Eckart, Young 1936. ``components`` is (L, D) with orthonormal rows, ``variances``
    (L,) the variance of the data along each, ``mean`` (D,).
    """

    def __init__(self, x: np.ndarray, n_components: int) -> None:
        n_components = validate.integer("n_components", n_components)
        if x.ndim != 2:
            raise ValueError(f"PCA: got data of shape {x.shape}, want (N, D)")
        _check_data("x", x)
        if n_components > min(x.shape):
            raise ValueError(
                f"n_components: got {n_components} for data {x.shape}, want at most {min(x.shape)}"
            )
        self.clip = _in_unit_interval(x)
        self.mean = x.mean(axis=0, dtype=np.float64)
        centred = x - self.mean
        values, vectors = np.linalg.eigh(_covariance(centred, centred))
        self.components = vectors[:, ::-1][:, :n_components].T
        self.variances = values[::-1][:n_components]

    def encode(self, x: np.ndarray) -> np.ndarray:
        """Return the codes (B, L) of x (B, D)."""
        return np.asarray((x - self.mean) @ self.components.T)

    def decode(self, z: np.ndarray) -> np.ndarray:
        """Return the data (B, D) of the codes z (B, L)."""
        return np.asarray(z @ self.components + self.mean)

    def reconstruct(self, x: np.ndarray) -> np.ndarray:
        """Return x projected onto the components, (B, D); cut to [0, 1] if all data lay there."""
        y = self.decode(self.encode(x))
        return np.clip(y, 0, 1) if self.clip else y


class Ridge:
    """Linear regression from x to y with an L2 penalty: the honest rival of a denoiser.

    Hoerl, Kennard 1970. Minimises sum_n |y_n - x_n W - b|^2 + penalty N |W|^2, with b unpenalised:
    W = (C_xx + penalty I)^-1 C_xy, with C the centred covariances.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray, penalty: float = 1e-3) -> None:
        self.penalty = validate.number("penalty", penalty)
        if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or not len(x):
            raise ValueError(f"Ridge: got x {x.shape} and y {y.shape}, want (N, D) and (N, E)")
        _check_data("x", x)
        _check_data("y", y)
        self.clip = _in_unit_interval(y)
        x_mean, y_mean = x.mean(axis=0, dtype=np.float64), y.mean(axis=0, dtype=np.float64)
        centred = x - x_mean
        covariance = _covariance(centred, centred)
        covariance[np.diag_indices_from(covariance)] += self.penalty
        try:
            self.W = np.linalg.solve(covariance, _covariance(centred, y - y_mean))
        except np.linalg.LinAlgError:
            raise ValueError(
                f"penalty: got {penalty}, want a larger one: the covariance of x is singular"
            ) from None
        self.b = y_mean - x_mean @ self.W

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Return x W + b, (B, E); cut to [0, 1] if all y that it was made from lay there."""
        y = np.asarray(x @ self.W + self.b)
        return np.clip(y, 0, 1) if self.clip else y
