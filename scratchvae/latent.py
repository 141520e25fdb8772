"""The two pieces that make an autoencoder variational: the sampled latent and its Gaussian KL.

Shapes: mu, logvar, eps, z are (B, L). ``logvar`` is log sigma^2, so sigma = exp(logvar / 2).
"""

from __future__ import annotations

from scratchvae.backend import Array, array_module
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
        return mu + array_module(logvar).exp(logvar / 2) * eps

    def forward(self, mu: Array, logvar: Array, eps: Array) -> Array:
        """Return z = mu + exp(logvar / 2) * eps, all (B, L), and remember sigma * eps."""
        _check("Reparameterize: mu, logvar and eps", mu, logvar, eps)
        self.sigma_eps = array_module(logvar).exp(logvar / 2) * eps
        return mu + self.sigma_eps

    def backward(self, dz: Array) -> tuple[Array, Array]:
        """Return dmu = dz and dlogvar = dz * eps * sigma / 2, each (B, L)."""
        return dz.copy(), dz * self.sigma_eps / 2


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
        return self._per_latent(mu, logvar).sum(axis=1)

    def per_latent(self, mu: Array, logvar: Array) -> Array:
        """Return the KL of each latent, averaged over the batch, (L,): which latents are in use."""
        return self._per_latent(mu, logvar).mean(axis=0)

    @staticmethod
    def _per_latent(mu: Array, logvar: Array) -> Array:
        _check("GaussianKL: mu and logvar", mu, logvar)
        return (mu * mu + array_module(logvar).expm1(logvar) - logvar) / 2

    def forward(self, mu: Array, logvar: Array) -> Array:
        """Return the KL in nats, a scalar, and remember mu and logvar, both (B, L)."""
        kl = self.per_example(mu, logvar).mean()
        self.mu, self.logvar = mu, logvar
        return kl

    def backward(self) -> tuple[Array, Array]:
        """Return dmu = mu / B and dlogvar = (exp(logvar) - 1) / (2 B), each (B, L)."""
        batch = len(self.mu)
        return self.mu / batch, array_module(self.logvar).expm1(self.logvar) / (2 * batch)
