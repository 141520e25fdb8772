"""Losses of an output against the data x, both (B, D).

``per_example`` gives (B,) and remembers nothing, ``forward`` gives the batch's scalar, ``backward``
the gradient of that scalar by the output. The two negative log-likelihoods sum over the features
and average over the batch, so that they are in nats an image and can be added to a KL. The mean
squared error averages over both.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from scratchvae import validate
from scratchvae.backend import Array, array_module, device_of, fused
from scratchvae.layers import Remembered, sigmoid

LOG_2PI = math.log(2 * math.pi)
CACHED = 1 << 17  # bytes of an array; beside it some five others of the same size


class Loss(ABC):
    """A scalar of output and data, averaged over the batch.

    Raises ValueError where the shapes do not fit, which broadcasting would hide, and for integers.
    """

    output: Array = Remembered()
    x: Array = Remembered()

    @abstractmethod
    def per_example(self, output: Array, x: Array) -> Array:
        """Return the loss of each example, (B,), and remember nothing."""

    @abstractmethod
    def backward(self) -> Array:
        """Return the gradient of ``forward``'s scalar by ``output``, in its shape."""

    def forward(self, output: Array, x: Array) -> Array:
        """Return the mean of ``per_example`` as a scalar; leave both arrays as they are until
        ``backward``, which reads them again.
        """
        loss = self.per_example(output, x).mean()
        self.output, self.x = output, x
        return loss

    def _check(self, output: Array, x: Array) -> None:
        validate.floating(type(self).__name__, output=output, x=x)
        if x.ndim != 2 or not x.size:
            raise ValueError(f"{type(self).__name__}: got x of shape {x.shape}, want (B, D)")
        want = self.output_shape(x)
        if output.shape != want:
            raise ValueError(
                f"{type(self).__name__}: for x of shape {x.shape} the output must have shape "
                f"{want}, got {output.shape}"
            )

    def output_shape(self, x: Array) -> tuple[int, ...]:
        """Return the shape that the output must have for data x (B, D)."""
        return tuple(x.shape)

    def mean(self, output: Array) -> Array:
        """Return what the output says the data looks like, (B, D): the mean of p(x|output)."""
        return output


class MeanSquaredError(Loss):
    """L = 1/(B D) sum_nd (y_nd - x_nd)^2, the average over examples and features.

    dL/dy_nd = 2 (y_nd - x_nd) / (B D).
    """

    def per_example(self, output: Array, x: Array) -> Array:
        """Return the mean over the features of (y - x)^2, (B,)."""
        self._check(output, x)
        difference = output - x
        return (difference * difference).mean(axis=1)

    def backward(self) -> Array:
        """Return dy = 2 (y - x) / (B D)."""
        dy = self.output - self.x
        dy *= 2 / dy.size
        return dy


def _blocks(rows: Array) -> Iterator[slice]:
    """Yield slices of rows whose arrays a processor's cache can hold; on the GPU all rows."""
    parts = math.ceil(rows.nbytes / CACHED) if device_of(rows) == "cpu" else 1
    step = math.ceil(len(rows) / parts)
    return (slice(start, start + step) for start in range(0, len(rows), step))


class BernoulliNLL(Loss):
    """-log p(x|l) for pixels x in [0, 1] and logits l, summed over pixels, in nats.

    With y = sigmoid(l), -x log y - (1 - x) log(1 - y). Written with logits the logarithms cancel
    against the sigmoid's exponential, as log y = l - log(1 + e^l) and log(1 - y) = -log(1 + e^l):

        L_nd = log(1 + e^l) - x l = (p - x) l + log(1 + t),    t = e^-|l|, p = 1 if l >= 0 else 0

    whose exponent is never positive: nothing overflows, no term is negative, and a pixel that is
    confidently wrong keeps its full gradient, which clipped probabilities take from it. With the
    average over the batch, dl = (sigmoid(l) - x) / B, and as sigmoid(l) is 1 / (1 + t) for l >= 0
    and t / (1 + t) below,

        dl = (p - x - t (p + x - 1)) / (1 + t) / B

    on both sides, without the cancellation of sigmoid(l) - x where the output is almost right.
    Grey pixels, 0 < x < 1, are allowed; L is then the cross-entropy, bounded below by the entropy
    of x. Kingma, Welling 2014, appendix C.1.
    """

    slope: Array = Remembered()  # (p - x - t (p + x - 1)) / (1 + t)

    def per_example(self, output: Array, x: Array) -> Array:
        """Return the NLL of each example, (B,), in nats."""
        self._check(output, x)
        return self._pieces(array_module(output), output, x)[0].sum(axis=1)

    def forward(self, output: Array, x: Array) -> Array:
        """Return the NLL in nats, a scalar; its exponential t = e^-|l| serves the gradient too."""
        self._check(output, x)
        xp = array_module(output)
        dtype = xp.result_type(output, x)
        nll, slope = xp.empty(len(x), dtype), xp.empty(x.shape, dtype)
        for rows in _blocks(output):
            of_pixels = self._nll_and_slope(xp, output[rows], x[rows], slope[rows])
            of_pixels.sum(axis=1, out=nll[rows])
        self.slope = slope
        return nll.mean()

    @staticmethod
    def _pieces(xp: Any, logits: Array, x: Array) -> tuple[Array, Array, Array]:
        """Return the NLL of each pixel, p - x, and t."""
        t = xp.abs(logits)
        xp.negative(t, out=t)
        xp.exp(t, out=t)
        p_minus_x = (logits >= 0) - x
        nll = p_minus_x * logits
        nll += xp.log1p(t)
        return nll, p_minus_x, t

    @staticmethod
    @fused
    def _nll_and_slope(xp: Any, logits: Array, x: Array, slope: Array) -> Array:
        """Return the NLL of each pixel and write its derivative by the logit into ``slope``."""
        nll, p_minus_x, t = BernoulliNLL._pieces(xp, logits, x)
        xp.subtract(x, logits < 0, out=slope)  # p + x - 1
        slope *= t
        xp.subtract(p_minus_x, slope, out=slope)
        slope /= 1 + t
        return nll

    def backward(self) -> Array:
        """Return dl = (p - x - t (p + x - 1)) / (1 + t) / B = (sigmoid(l) - x) / B."""
        return self.slope * (1 / len(self.slope))

    def mean(self, output: Array) -> Array:
        """Return the pixels' probabilities sigmoid(l), (B, D)."""
        return sigmoid(output)


class GaussianNLL(Loss):
    """-log N(x; mean, sigma^2) summed over features, in nats. Kingma, Welling 2014, appendix C.2.

    With v = log sigma^2 and r = (mean - x) / sigma, 1 / sigma = e^(-v/2), the negative log-density
    of one feature is

        L_nd = (r^2 + v + log 2 pi) / 2

    and, as dr/dmean = 1 / sigma and dr/dv = -r / 2, with the average over the batch,

        dmean = r / sigma / B
        dv    = (1 - r^2) / (2 B)

    r is squared last: sigma^2 would overflow, or be 0, long before sigma.

    ``sigma`` is a number from 1e-18 to 1e18, and the output (B, D) is the mean; or ``"learned"``,
    and the output (B, 2 D) is the mean and, behind it, v. The learned likelihood has no upper bound
    where a feature can be predicted exactly (MNIST's black border): add noise to such data or fix
    sigma.
    """

    def __init__(self, sigma: float | str = 1.0) -> None:
        self.sigma = sigma

    @property
    def sigma(self) -> float | str:
        """The standard deviation, or "learned"; may be changed."""
        return self._sigma

    @sigma.setter
    def sigma(self, sigma: float | str) -> None:
        if not (isinstance(sigma, str) and sigma == "learned"):
            try:
                sigma = validate.number("sigma", sigma, 1e-18, 1e18)
            except ValueError as error:
                raise ValueError(f"{error} or 'learned'") from None
        self._sigma = sigma

    @property
    def learned(self) -> bool:
        """Whether the output carries the log-variance behind the mean."""
        return self.sigma == "learned"

    def output_shape(self, x: Array) -> tuple[int, ...]:
        """Return (B, 2 D) with a learned variance, else (B, D)."""
        batch, features = x.shape
        return (batch, 2 * features if self.learned else features)

    def _split(self, output: Array) -> tuple[Array, Array]:
        """Return the mean (B, D) and v = log sigma^2, (B, D) or a number."""
        if not self.learned:
            return output, 2 * math.log(self.sigma)  # type: ignore[arg-type]
        features = output.shape[1] // 2
        return output[:, :features], output[:, features:]

    def _inverse_sigma(self, v: Array) -> Array:
        return array_module(v).exp(v / -2) if self.learned else 1 / self.sigma  # type: ignore[operator]

    def per_example(self, output: Array, x: Array) -> Array:
        """Return the NLL of each example, (B,), in nats."""
        self._check(output, x)
        mean, v = self._split(output)
        r = (mean - x) * self._inverse_sigma(v)
        return (r * r + (v + LOG_2PI)).sum(axis=1) / 2

    def backward(self) -> Array:
        """Return dmean (B, D); with a learned variance [dmean | dv], (B, 2 D)."""
        mean, v = self._split(self.output)
        inverse_sigma, batch = self._inverse_sigma(v), len(mean)
        r = (mean - self.x) * inverse_sigma
        dmean = r * (inverse_sigma / batch)
        if not self.learned:
            return dmean
        dv = (1 - r * r) / (2 * batch)
        return array_module(dv).concatenate((dmean, dv), axis=1)

    def mean(self, output: Array) -> Array:
        """Return the mean, (B, D), without the log-variance."""
        return self._split(output)[0]
