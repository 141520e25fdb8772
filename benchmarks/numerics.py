"""How exact the formulas are: the worst error of each, in units in the last place.

    python -m benchmarks.numerics              # 50,000 inputs a formula: a minute
    python -m benchmarks.numerics --write      # and into benchmarks/NUMERICS.md, with its bounds

The inputs are float32 numbers: half of them drawn uniformly over the bit patterns (both signs, all
exponents, subnormal ones), half where the formula has its curve, and the extremes. float64 gets the
same numbers. The true values come from mpmath with 50 digits.
"""

from __future__ import annotations

import argparse
import math
import platform
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import mpmath
import numpy as np
from mpmath import mpf

import scratchvae.evaluate as ev
from scratchvae import VAE, Adam, BernoulliNLL, GaussianKL, GaussianNLL, Reparameterize
from scratchvae.layers import Sigmoid, Tanh, sigmoid

TABLE = Path(__file__).with_name("NUMERICS.md")
BATCH = 100  # the gradients are those of a mean over it
SIGMA = 0.1
K = 5  # importance samples
BETA1, BETA2, EPS, RATE = 0.9, 0.999, 1e-8, 1e-3
EXTREMES = [0, 2**-149, 2**-126 - 2**-149, 2**-126, 1, 1 + 2**-23, 2**128 - 2**104]

mpmath.mp.dps = 50
Truth = tuple[mpf, mpf]  # the true value, and the largest of its terms


@dataclass(frozen=True)
class Piece:
    """A formula: ours on arrays (N,), the truth on numbers, and where ours must be right."""

    name: str
    draws: Sequence[Callable[[np.random.Generator, int], np.ndarray]]  # of each input, (N,) float32
    ours: Callable[..., np.ndarray]
    truth: Callable[..., Truth]
    condition: str = ""
    holds: Callable[..., Any] = lambda info, *inputs: True  # on float64 inputs, for an np.finfo
    dtypes: Sequence[str] = ("float32", "float64")


@dataclass(frozen=True)
class Measured:
    """The worst error of a piece in one dtype, in ulp, and the inputs that give it."""

    piece: Piece
    dtype: str
    error: float
    inputs: tuple[float, ...]

    @property
    def bound(self) -> float:
        """The error with a quarter of it as a margin, to one decimal."""
        return math.ceil(12.5 * self.error) / 10 if math.isfinite(self.error) else math.inf


def bits(rng: np.random.Generator, n: int) -> np.ndarray:
    """Draw n finite float32 numbers uniformly over the bit patterns, the extremes among them."""
    values = rng.integers(2**32, size=n, dtype=np.uint32).view(np.float32)
    values[~np.isfinite(values)] = 0
    values[: 2 * len(EXTREMES)] = [*EXTREMES, *(-e for e in EXTREMES)]
    values[len(EXTREMES)] = -0.0
    return rng.permutation(values)


def curve(width: float) -> Callable[[np.random.Generator, int], np.ndarray]:
    """Return what draws half of the numbers by ``bits``, half between -width and width."""

    def draw(rng: np.random.Generator, n: int) -> np.ndarray:
        near = rng.uniform(-width, width, n // 2).astype(np.float32)
        return rng.permutation(np.concatenate([bits(rng, n - n // 2), near]))

    return draw


def binary(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.integers(2, size=n).astype(np.float32)


def grey(rng: np.random.Generator, n: int) -> np.ndarray:
    """Draw numbers from [0, 1]: bytes / 255, small ones of every size, and those close to 1."""
    small = np.minimum(np.abs(bits(rng, n)), np.float32(1))
    levels = (rng.integers(256, size=n) / 255).astype(np.float32)
    return np.choose(rng.integers(3, size=n), [levels, small, 1 - small])


# --- ours: a pixel or latent an example for values, so that no sum hides an error ---


def values(per_example: Callable[..., Any]) -> Callable[..., np.ndarray]:
    return lambda *inputs: per_example(*(a[:, None] for a in inputs))


def gradient(loss: Any, *inputs: np.ndarray) -> Any:
    loss.forward(*(a.reshape(BATCH, -1) for a in inputs))
    return loss.backward()


def learned_values(mean: np.ndarray, v: np.ndarray, x: np.ndarray) -> np.ndarray:
    return GaussianNLL("learned").per_example(np.stack([mean, v], axis=1), x[:, None])


def learned_gradient(mean: np.ndarray, v: np.ndarray, x: np.ndarray) -> list[np.ndarray]:
    loss = GaussianNLL("learned")
    both = [a.reshape(BATCH, -1) for a in (mean, v)]
    loss.forward(np.concatenate(both, axis=1), x.reshape(BATCH, -1))
    return np.split(loss.backward(), 2, axis=1)


def dlogvar_of_z(logvar: np.ndarray, eps: np.ndarray, dz: np.ndarray) -> np.ndarray:
    layer = Reparameterize()
    layer.forward(0 * logvar[:, None], logvar[:, None], eps[:, None])
    return layer.backward(dz[:, None])[1]


def slope(layer: Any) -> Callable[[np.ndarray], np.ndarray]:
    def ours(x: np.ndarray) -> np.ndarray:
        layer.forward(x)
        return layer.backward(np.ones_like(x))

    return ours


def bound(samples: int) -> Callable[..., np.ndarray]:
    """Return what makes the bound of K given log weights, ``samples`` of them at a time."""

    def ours(*log_w: np.ndarray) -> np.ndarray:
        n, vae = len(log_w[0]), VAE(1, (), 1, dtype="float64")
        chunks = iter([np.concatenate(log_w[i : i + samples]) for i in range(0, K, samples)])
        with patch.object(ev, "_log_weights", lambda *_: next(chunks)):
            room = ev.COPIES * vae.dtype.itemsize * n * samples
            return ev.importance_weighted_bound(vae, np.zeros((n, 1)), K, max_bytes=room)

    return ours


def adam(steps: int) -> Callable[..., np.ndarray]:
    """Return what makes the last of ``steps`` updates, over the gradients again and again."""

    def ours(*grads: np.ndarray) -> np.ndarray:
        optimizer, theta = Adam(RATE, BETA1, BETA2, EPS), np.zeros_like(grads[0])
        for t in range(steps):
            theta[...] = 0
            optimizer.step(theta, grads[t % len(grads)])
        return theta

    return ours


# --- the truth ---


def plain(value: mpf) -> Truth:
    return value, abs(value)


def true_sigmoid(x: mpf) -> mpf:
    return 1 / (1 + mpmath.exp(-x)) if x >= 0 else mpmath.exp(x) / (1 + mpmath.exp(x))


def true_bernoulli(logit: mpf, x: mpf) -> Truth:
    log_1p_t = mpmath.log1p(mpmath.exp(-abs(logit)))
    return plain((1 - x if logit >= 0 else -x) * logit + log_1p_t)


def true_bernoulli_gradient(logit: mpf, x: mpf) -> Truth:
    up, down = true_sigmoid(logit) * (1 - x), true_sigmoid(-logit) * x
    return (up - down) / BATCH, max(up, down) / BATCH


def true_gaussian(mean: mpf, v: mpf, x: mpf) -> Truth:
    terms = (x - mean) ** 2 * mpmath.exp(-v), v, mpmath.log(2 * mpmath.pi)
    return sum(terms) / 2, max(map(abs, terms)) / 2


def true_dv(mean: mpf, v: mpf, x: mpf) -> Truth:
    square = (x - mean) ** 2 * mpmath.exp(-v)
    return (1 - square) / (2 * BATCH), max(mpf(1), square) / (2 * BATCH)


def true_kl(mu: mpf, logvar: mpf) -> Truth:
    terms = mu * mu, mpmath.expm1(logvar), -logvar
    return sum(terms) / 2, max(map(abs, terms)) / 2


def true_z(mu: mpf, logvar: mpf, eps: mpf) -> Truth:
    noise = mpmath.exp(logvar / 2) * eps
    return mu + noise, max(abs(mu), abs(noise))


def true_log_sum_exp(*a: mpf) -> Truth:
    peak = max(a)
    value = peak + mpmath.log(sum(mpmath.exp(each - peak) for each in a))
    return value, max(abs(peak), mpmath.log(len(a)))


def true_bound(*log_w: mpf) -> Truth:
    value, largest = true_log_sum_exp(*log_w)
    return value - mpmath.log(K), largest


@cache
def moment_weights(beta: float, steps: int, n: int) -> list[mpf]:
    """Return what each of n gradients, taken in turns, weighs in a moment, bias-corrected."""
    beta, weights = mpf(beta), [mpf(0)] * n
    for t in range(steps):
        weights[t % n] += (1 - beta) * beta ** (steps - 1 - t) / (1 - beta**steps)
    return weights


def true_adam(steps: int) -> Callable[..., Truth]:
    def truth(*grads: mpf) -> Truth:
        weights = (moment_weights(beta, steps, len(grads)) for beta in (BETA1, BETA2))
        first, second = (zip(each, grads, strict=True) for each in weights)
        firsts, seconds = [w * g for w, g in first], [w * g * g for w, g in second]
        scale = RATE / (mpmath.sqrt(sum(seconds)) + EPS)
        return -scale * sum(firsts), scale * max(map(abs, firsts))

    return truth


# --- where ours must be right ---


def normal_sigma(info: Any, logvar: np.ndarray) -> Any:
    return np.abs(logvar) < -2 * np.log(float(info.tiny))


def normal_noise(info: Any, logvar: np.ndarray, eps: np.ndarray, dz: np.ndarray) -> Any:
    noise = np.abs(np.exp(np.clip(logvar, -1400, 1400) / 2) * eps)
    return normal_sigma(info, logvar) & (info.tiny <= noise) & (noise <= info.max)


def squares_fit(info: Any, *grads: np.ndarray) -> Any:
    return 1000 * np.sum(np.square(grads), axis=0) < info.max


SIGMA_NORMAL = "sigma a normal number: abs(logvar) < 174 in float32, 1416 in float64"
LEARNED = (curve(3), curve(150), curve(3))
PIECES = (
    Piece("sigmoid", [curve(120)], sigmoid, lambda x: plain(true_sigmoid(x))),
    Piece(
        "Sigmoid, its slope",
        [curve(120)],
        slope(Sigmoid()),
        lambda x: plain(true_sigmoid(x) * true_sigmoid(-x)),
    ),
    Piece(
        "Tanh, its slope 1 - y^2",
        [curve(10)],
        slope(Tanh()),
        lambda x: (mpmath.sech(x) ** 2, mpf(1)),
    ),
    Piece(
        "BernoulliNLL (logit, x)",
        [curve(120), grey],
        values(BernoulliNLL().per_example),
        true_bernoulli,
    ),
    Piece(
        "BernoulliNLL, dlogit; x = 0 or 1",
        [curve(120), binary],
        lambda *inputs: gradient(BernoulliNLL(), *inputs),
        lambda *inputs: plain(true_bernoulli_gradient(*inputs)[0]),
    ),
    Piece(
        "BernoulliNLL, dlogit; x grey",
        [curve(120), grey],
        lambda *inputs: gradient(BernoulliNLL(), *inputs),
        true_bernoulli_gradient,
    ),
    Piece(
        f"GaussianNLL({SIGMA}) (mean, x)",
        [curve(3), curve(3)],
        values(GaussianNLL(SIGMA).per_example),
        lambda mean, x: true_gaussian(mean, 2 * mpmath.log(mpf(SIGMA)), x),
    ),
    Piece(
        f"GaussianNLL({SIGMA}), dmean",
        [curve(3), curve(3)],
        lambda *inputs: gradient(GaussianNLL(SIGMA), *inputs),
        lambda mean, x: plain((mean - x) / mpf(SIGMA) ** 2 / BATCH),
    ),
    Piece(
        "GaussianNLL, learned (mean, logvar, x)",
        LEARNED,
        learned_values,
        true_gaussian,
        SIGMA_NORMAL,
        lambda info, mean, v, x: normal_sigma(info, v),
    ),
    Piece(
        "GaussianNLL, learned, dmean",
        LEARNED,
        lambda *inputs: learned_gradient(*inputs)[0],
        lambda mean, v, x: plain((mean - x) * mpmath.exp(-v) / BATCH),
        SIGMA_NORMAL,
        lambda info, mean, v, x: normal_sigma(info, v),
    ),
    Piece(
        "GaussianNLL, learned, dlogvar",
        LEARNED,
        lambda *inputs: learned_gradient(*inputs)[1],
        true_dv,
        SIGMA_NORMAL,
        lambda info, mean, v, x: normal_sigma(info, v),
    ),
    Piece(
        "GaussianKL (mu, logvar)",
        [curve(10), curve(90)],
        values(GaussianKL().per_example),
        true_kl,
    ),
    Piece(
        "GaussianKL, dmu",
        [curve(10)],
        lambda mu: gradient(GaussianKL(), mu, 0 * mu)[0],
        lambda mu: plain(mu / BATCH),
    ),
    Piece(
        "GaussianKL, dlogvar",
        [curve(90)],
        lambda logvar: gradient(GaussianKL(), 0 * logvar, logvar)[1],
        lambda logvar: plain(mpmath.expm1(logvar) / (2 * BATCH)),
        "exp(logvar) below the largest number: logvar < 88.7 in float32, 709 in float64",
        lambda info, logvar: logvar < np.log(float(info.max)),
    ),
    Piece(
        "Reparameterize (mu, logvar, eps)",
        [curve(10), curve(150), curve(5)],
        values(Reparameterize().apply),
        true_z,
        SIGMA_NORMAL,
        lambda info, mu, logvar, eps: normal_sigma(info, logvar),
    ),
    Piece(
        "Reparameterize, dlogvar (logvar, eps, dz)",
        [curve(150), curve(5), curve(5)],
        dlogvar_of_z,
        lambda logvar, eps, dz: plain(dz * eps * mpmath.exp(logvar / 2) / 2),
        "sigma and sigma eps normal numbers",
        normal_noise,
    ),
    Piece(
        f"log-sum-exp of {K}",
        [curve(200)] * K,
        lambda *a: ev._log_sum_exp(np.stack(a)),
        true_log_sum_exp,
    ),
    Piece(
        f"importance-weighted bound, K = {K}",
        [curve(200)] * K,
        bound(K),
        true_bound,
        "always computed in float64",
        dtypes=["float64"],
    ),
    Piece(
        f"the same, {K} times one sample",
        [curve(200)] * K,
        bound(1),
        true_bound,
        "always computed in float64",
        dtypes=["float64"],
    ),
    *(
        Piece(
            f"Adam, step {steps}",
            [curve(1)] * min(steps, 10),
            adam(steps),
            true_adam(steps),
            "the sum of squared gradients below the largest number: abs(g) < 5e17 in float32",
            squares_fit,
        )
        for steps in (1, 10, 1000)
    ),
)


# --- the comparison ---


def ulp(magnitude: mpf, info: Any) -> mpf:
    """Return the distance between floating-point numbers at ``magnitude``."""
    exponent = int(mpmath.frexp(magnitude)[1]) - 1 if magnitude else info.minexp
    return mpmath.ldexp(mpf(1), max(exponent, info.minexp) - info.nmant)


def error_in_ulp(ours: float, truth: Truth, info: Any) -> float:
    """Return |ours - true| in ulp; what is halved or averaged last may overflow before."""
    value, largest = truth
    if math.isnan(ours):
        return math.inf
    if math.isinf(ours):
        return 0 if ours * value > 0 and abs(value) > float(info.max) / (2 * BATCH) else math.inf
    return float(abs(mpf(ours) - value) / ulp(largest, info))


def measure(piece: Piece, n: int, seed: int = 0) -> Iterator[Measured]:
    """Yield the worst error of ``piece`` over n inputs for each of its dtypes."""
    rng = np.random.default_rng(seed)
    inputs = [draw(rng, n) for draw in piece.draws]
    wide = [a.astype(np.float64) for a in inputs]
    numbers = list(zip(*(a.tolist() for a in wide), strict=True))
    truths: dict[int, Truth] = {}
    for dtype in piece.dtypes:
        info = np.finfo(dtype)
        with np.errstate(all="ignore"):
            ours = np.ravel(piece.ours(*(a.astype(dtype) for a in inputs))).tolist()
            held = np.flatnonzero(np.broadcast_to(piece.holds(info, *wide), n))
        errors = {}
        for i in held.tolist():
            if i not in truths:
                truths[i] = piece.truth(*map(mpf, numbers[i]))
            errors[i] = error_in_ulp(ours[i], truths[i], info)
        worst = max(errors, key=errors.__getitem__)
        yield Measured(piece, dtype, errors[worst], numbers[worst])


INTRODUCTION = """# How exact the formulas are

`python -m benchmarks.numerics --write` makes this page; `tests/test_numerics.py` measures a part of
it again and fails where a bound is exceeded, or four times too wide.

Errors are in units in the last place (ulp): the distance between floating-point numbers of that
type at the true value. Where terms of different sign can cancel, it is the distance at the largest
of them (see below): an output that is a small difference of large terms cannot be better than the
terms. True values: mpmath, 50 digits. Inputs: {n:,} a formula, float32 numbers of both signs and
every exponent, subnormal ones, zeros and the largest, half of them drawn where the formula has its
curve; pixels 0, 1, n / 255, and close to both ends. float64 computes with the same numbers.
Gradients are those of a batch of {batch}. The bound is the worst error and a quarter of it.

Measured with NumPy {numpy} on {machine}.

| formula | type | bound, ulp | worst, ulp | at |
|---|---|---|---|---|
"""

NOTES = """
## Conditions

{conditions}
- A value above half of the type's largest number, or for a gradient above 1 / (2 B) of it, may come
  out infinite: the sum is halved, and divided by B, last.
- The unit is taken at the largest term for: the Bernoulli gradient of a grey x (sigmoid(l) (1 - x)
  and (1 - sigmoid(l)) x, which cancel where the output is right), the Gaussian NLL (r^2, logvar and
  log 2 pi cancel where the density is about 1) and its dlogvar (1 and r^2), the KL (mu^2,
  exp(logvar) - 1 and logvar), z (mu and sigma eps), the logarithms of sums (the largest exponent,
  and log K), Adam's numerator (the terms of the moment), and the slope of tanh (1).
- Two of them could do better at a price. Close to the prior the KL is about logvar^2 / 4 and the
  error an ulp of logvar: at logvar = 0.001 three digits are right in float32; and there 1 - tanh^2
  has no digit left for abs(x) > 9. Both errors vanish beside the terms that they are added to.
- Adam's error grows with the steps, as each rounds the memory anew; in float32 0.999 is moreover
  0.99900001, whose powers drift from those in the bias correction. In float64 1 - 0.999^t loses two
  digits for small t.
"""


def table(rows: Sequence[Measured], n: int) -> str:
    """Return the page."""
    machine = f"{platform.machine()}, Python {platform.python_version()}"
    text = INTRODUCTION.format(n=n, batch=BATCH, numpy=np.__version__, machine=machine)
    for row in rows:
        at = ", ".join(f"{value:.9g}" for value in row.inputs)
        at = at if len(row.inputs) <= K else f"{len(row.inputs)} gradients"
        text += f"| {row.piece.name} | {row.dtype} | {row.bound:.1f} | {row.error:.2f} | {at} |\n"
    conditions: dict[str, list[str]] = {}
    for piece in PIECES:
        if piece.condition:
            conditions.setdefault(piece.condition, []).append(piece.name)
    lines = (f"- {'; '.join(names)}: {condition}." for condition, names in conditions.items())
    return text + NOTES.format(conditions="\n".join(lines))


def stated(text: str) -> dict[tuple[str, str], float]:
    """Return the bounds that the page states, by formula and dtype."""
    rows = re.findall(r"^\| (.*?) \| (float\d\d) \| ([\d.]+) \|", text, re.MULTILINE)
    return {(name, dtype): float(bound) for name, dtype, bound in rows}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.numerics",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--inputs", type=int, default=50_000, help="a formula (50000)")
    parser.add_argument("--write", action="store_true", help=f"write {TABLE.name}")
    arguments = parser.parse_args()
    n = -(-arguments.inputs // BATCH) * BATCH
    page = table([row for piece in PIECES for row in measure(piece, n)], n)
    if arguments.write:
        TABLE.write_text(page, encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
