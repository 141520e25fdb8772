"""The two pieces that make an autoencoder variational: the sampled latent and its Gaussian KL.

Shapes: mu, logvar, eps, z are (B, L). ``logvar`` is log sigma^2, so sigma = exp(logvar / 2).
"""

from __future__ import annotations

from typing import Any

from scratchvae.backend import Array, array_module, fused
from scratchvae.layers import Remembered


def _check(names: str, *arrays: Array) -> None:
    """Raise a ValueError unless the arrays are floats of one shape: broadcasting would hide it."""
    for array in arrays:
        fits = array.shape == arrays[0].shape and array.ndim == 2 and array.size
        if not fits or array.dtype.kind not in "fc":  # complex: a derivative by complex step
            got = " and ".join(f"{a.shape} {a.dtype}" for a in arrays)
            raise ValueError(
                f"{names} must have one shape (B, L), got {got}; want floating-point, not empty"
            )


class Reparameterize:
    """z = mu + sigma * eps, eps ~ N(0, I): a sample of N(mu, diag sigma^2) that has derivatives.

    Kingma, Welling 2014, "Auto-encoding variational Bayes", section 2.4. A draw from q(z|x) has no
    derivative by mu or sigma; but with the randomness in eps, which depends on neither, z is an
    ordinary function of both:

        dz/dmu     = 1
        dz/dlogvar = eps dsigma/dlogvar = eps sigma / 2,    as sigma = exp(logvar / 2)

    eps is drawn once a step, by the caller, and serves forward and backward alike.
    """

    sigma_eps: Array = Remembered()

    def apply(self, mu: Array, logvar: Array, eps: Array) -> Array:
        """Return z = mu + exp(logvar / 2) * eps and remember nothing; many eps may share one mu."""
        return self._sample(array_module(mu), mu, logvar, eps)[0]

    def forward(self, mu: Array, logvar: Array, eps: Array) -> Array:
        """Return z = mu + exp(logvar / 2) * eps, all (B, L), and remember sigma * eps."""
        _check("Reparameterize: mu, logvar and eps", mu, logvar, eps)
        z, self.sigma_eps = self._sample(array_module(mu), mu, logvar, eps)
        return z

    @staticmethod
    @fused
    def _sample(xp: Any, mu: Array, logvar: Array, eps: Array) -> tuple[Array, Array]:
        sigma_eps = xp.exp(logvar / 2) * eps
        return mu + sigma_eps, sigma_eps

    def backward(self, dz: Array) -> tuple[Array, Array]:
        """Return dmu = dz and dlogvar = dz * eps * sigma / 2, each (B, L)."""
        return self._gradient(array_module(dz), dz, self.sigma_eps)

    @staticmethod
    @fused
    def _gradient(xp: Any, dz: Array, sigma_eps: Array) -> tuple[Array, Array]:
        return dz * 1, dz * sigma_eps / 2  # * 1: a copy, the caller's to keep


class GaussianKL:
    """KL(N(mu, diag exp(logvar)) || N(0, I)) in nats: sum over latents, mean over the batch.

    Kingma, Welling 2014, appendix B. For one latent,

        KL = E_q[log q(z) - log p(z)]
           = E_q[-logvar/2 - (z - mu)^2 / (2 sigma^2) + z^2 / 2]
           = (mu^2 + sigma^2 - 1 - logvar) / 2

    since E_q[(z - mu)^2] = sigma^2 and E_q[z^2] = mu^2 + sigma^2. The latents are independent under
    q and p, so their KLs add up: the sum is no convention, and a mean over latents is another
    objective. With the average over the batch,

        dmu     = mu / B
        dlogvar = (exp(logvar) - 1) / (2 B)
    """

    mu: Array = Remembered()
    logvar: Array = Remembered()

    def per_example(self, mu: Array, logvar: Array) -> Array:
        """Return the KL of each example, (B,), in nats; exactly 0 at mu = logvar = 0."""
        _check("GaussianKL: mu and logvar", mu, logvar)
        return self._kl(array_module(mu), mu, logvar).sum(axis=1)

    def per_latent(self, mu: Array, logvar: Array) -> Array:
        """Return the KL of each latent, averaged over the batch, (L,): which latents are in use."""
        _check("GaussianKL: mu and logvar", mu, logvar)
        return self._kl(array_module(mu), mu, logvar).mean(axis=0)

    @staticmethod
    @fused
    def _kl(xp: Any, mu: Array, logvar: Array) -> Array:
        return (mu * mu + xp.expm1(logvar) - logvar) / 2

    def forward(self, mu: Array, logvar: Array) -> Array:
        """Return the KL in nats, a scalar, and remember mu and logvar, both (B, L)."""
        kl = self.per_example(mu, logvar).mean()
        self.mu, self.logvar = mu, logvar
        return kl

    def backward(self) -> tuple[Array, Array]:
        """Return dmu = mu / B and dlogvar = (exp(logvar) - 1) / (2 B), each (B, L)."""
        batch = len(self.mu)
        return self._gradient(array_module(self.mu), self.mu, self.logvar, batch, 2 * batch)

    @staticmethod
    @fused
    def _gradient(xp: Any, mu: Array, logvar: Array, b: Any, b2: Any) -> tuple[Array, Array]:
        return mu / b, xp.expm1(logvar) / b2
