"""The three models: Autoencoder, DenoisingAutoencoder and VAE.

Each has ``forward(x, noise)``, which returns the loss, and ``backward()``, which is the same lines
read upwards and fills ``grad``. Noise is an argument: ``draw_noise`` makes it, so that forward is a
deterministic function and its gradient can be checked. Shapes by letter: B batch, D features,
H hidden, L latents.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np

from scratchvae import validate
from scratchvae.backend import MASKED, Array, array_module, device_of, fused, resolve_device
from scratchvae.latent import GaussianKL, Reparameterize
from scratchvae.layers import (
    ACTIVATIONS,
    Dense,
    Layer,
    Sequential,
    Sigmoid,
    astray,
    gradients_of,
    mlp,
    pack,
    parameters_of,
    view,
)
from scratchvae.losses import BernoulliNLL, GaussianNLL, Loss, MeanSquaredError

Terms = dict[str, Array]


class Model(ABC):
    """What the three share: one parameter vector, one gradient vector, checked input.

    ``theta`` and ``grad`` are contiguous vectors (P,); the layers' weights and gradients are views
    of them. ``terms`` holds the loss terms of the last ``forward``, on the model's device: scalars,
    averaged over the batch, under ``term_names``; ``objective`` is one of these.

    A model of one's own makes its layers in ``__init__`` and calls ``pack``. ``fit`` trains it,
    ``check_model`` proves it; a checkpoint holds the three only.
    """

    kind: ClassVar[str]
    term_names: ClassVar[tuple[str, ...]]
    objective: ClassVar[str]  # the term that says how good the model is; smaller is better

    def __init__(
        self,
        n_features: int,
        hidden: Sequence[int],
        n_latent: int,
        activation: str,
        seed: int,
        dtype: Any,
        device: str,
    ) -> None:
        self.n_features = validate.integer("n_features", n_features)
        self.hidden = validate.integers("hidden", hidden)
        self.n_latent = validate.integer("n_latent", n_latent)
        self.activation = validate.choice("activation", activation, ACTIVATIONS)
        self.seed = validate.integer("seed", seed, low=0)
        self.dtype = validate.dtype(dtype)
        self.device = resolve_device(device)
        self.terms: Terms = {}

    def _network(
        self, widths: tuple[int, ...], n_outputs: int, rng: np.random.Generator, *final: Layer
    ) -> Sequential:
        """Return hidden layers through ``widths``, a linear one on top of them, and ``final``."""
        hidden = mlp(widths, self.activation, rng, self.dtype).layers
        return Sequential(*hidden, Dense(widths[-1], n_outputs, rng=rng, dtype=self.dtype), *final)

    def pack(self, layers: dict[str, Layer]) -> None:
        """Make theta and grad of the layers, by name; the last line of a model's ``__init__``."""
        wrong = {str(p.dtype) for p in parameters_of(layers).values()} - {self.dtype.name}
        if wrong:
            raise ValueError(f"parameters of {min(wrong)} in a model of {self.dtype}")
        self.theta, self.grad = pack(layers, self.device)
        self._layers = layers

    def check_layout(self) -> None:
        """Raise ValueError unless all parameters and gradients are where ``pack`` has put them.

        They are not where somebody has assigned to ``layer.W`` or ``theta``, or put in another
        layer that has parameters: what the optimizer steps and a checkpoint saves is then not what
        ``forward`` uses.
        """
        if (name := astray(self._parts(), self.theta, self.grad)) is not None:
            raise ValueError(
                f"{name}: not what the model was made with; write into the arrays, as in "
                "layer.W[...] = W, layer.dW[...] = dW or theta[...] = theta, and keep the layers"
            )

    def _parts(self) -> dict[str, Layer]:
        """Return the layers that ``forward`` uses, which need not be those that were packed."""
        return {name: getattr(self, name, layer) for name, layer in self._layers.items()}

    def to(self, device: str) -> None:
        """Move the parameters to ``device``; theta and grad are new arrays afterwards."""
        self.device = resolve_device(device)
        self.theta, self.grad = pack(self._layers, self.device)

    def move(self, theta: Array, grad: Array) -> None:
        """Move the parameters, and the gradient's place, into these vectors of the same size."""
        theta[...] = self.theta
        self.theta, self.grad = theta, grad
        view(self._layers, theta, grad)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make a deep copy, or what another process was sent, one vector again.

        It holds what ``forward`` has left for ``backward``, too.
        """
        self.__dict__.update(state)
        view(self._layers, self.theta, self.grad)

    def __copy__(self) -> Self:
        """Return a deep copy: of two models with the same layers only one could move them."""
        return copy.deepcopy(self)

    @property
    def xp(self) -> Any:
        """The array module that holds the model: ``numpy`` or ``cupy``."""
        return array_module(self.theta)

    def leaves(self) -> Iterator[Layer]:
        """Yield the layers that own the parameters, in their order, and those between them."""
        for layer in self._parts().values():
            for _, leaf in layer.leaves():
                yield leaf

    def named_parameters(self) -> dict[str, Array]:
        """Return the parameters by name, in the order of ``theta``, as views of it."""
        return parameters_of(self._layers)

    def named_gradients(self) -> dict[str, Array]:
        """Return the gradients under their parameters' names, as views of ``grad``."""
        return gradients_of(self._layers)

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that build a model of the same form; ``build(config)`` does. JSON-safe."""
        return {
            "model": self.kind,
            "n_features": self.n_features,
            "hidden": list(self.hidden),
            "n_latent": self.n_latent,
            "activation": self.activation,
            "seed": self.seed,
            "dtype": self.dtype.name,
        }

    @property
    @abstractmethod
    def unit_interval(self) -> bool:
        """Whether the data must lie in [0, 1]."""

    @property
    def _hint(self) -> str:
        """What to do about data outside [0, 1], besides the obvious."""
        return ""

    def check(self, x: Array, values: bool | None = None, name: str = "x") -> Array:
        """Return ``x`` in the model's dtype, or raise a ValueError that says what is wrong with it.

        ``x`` must be floating-point, (B, D) with B >= 1, finite, and in [0, 1] where the output or
        the likelihood can only give that. Its values are looked at (``values``) by default on the
        host only: on the GPU every look waits for the device, so ``fit`` looks once instead.
        """
        x = self._check_array(name, x, (None, self.n_features))
        if self.device == "cpu" if values is None else values:
            low, high = _finite_range(name, x)
            if self.unit_interval and (low < 0 or high > 1):
                hint = self._hint
                if high > 2 and low >= 0:
                    hint = ": divide images in 0..255 by 255"
                raise ValueError(
                    f"{name}: got values from {low:.10g} to {high:.10g}, want [0, 1]{hint}"
                )
        return x

    def _check_array(self, name: str, x: Array, shape: tuple[int | None, int]) -> Array:
        """Check array type, dtype, device and shape; (None, n) accepts any number of rows."""
        try:
            device = device_of(x)
        except TypeError:
            raise ValueError(
                f"{name}: got {type(x).__name__}, want an array of shape {_shape_text(shape)}"
            ) from None
        if isinstance(x, np.ma.MaskedArray):
            raise ValueError(f"{name}: {MASKED}")
        if isinstance(x, np.matrix):  # whose * is a product of matrices
            raise ValueError(f"{name}: got a matrix, want an array: numpy.asarray({name})")
        if x.dtype.kind != "f":
            what = "integers" if x.dtype.kind in "iu" else "an array"
            cast = f"for images in 0..255: ({name} / 255).astype('{self.dtype}')"
            if x.dtype.kind == "b":
                cast = f"{name}.astype('{self.dtype}')"
            raise ValueError(
                f"{name}: got {what} of dtype {x.dtype}, want floating-point values; {cast}"
            )
        if device != self.device:
            raise ValueError(
                f"{name}: got an array on the {device}, the model is on the {self.device}; "
                f"move it with scratchvae.to_device({name}, '{self.device}')"
            )
        rows, columns = shape
        rows_fit = x.ndim == 2 and (len(x) == rows if rows else len(x) >= 1)
        if not rows_fit or x.shape[1] != columns:
            raise ValueError(f"{name}: got shape {x.shape}, want {_shape_text(shape)}")
        with np.errstate(over="ignore"):  # what overflows is infinite, and refused as such
            return x.astype(self.dtype, copy=False)

    def _check_noise(self, noise: Array, shape: tuple[int, int]) -> Array:
        """Check as ``check`` does: on the GPU without a look at the values."""
        noise = self._check_array("noise", noise, shape)
        if self.device == "cpu":
            _finite_range("noise", noise)
        return noise

    def _check_finite(self, name: str, x: Array, width: int) -> Array:
        x = self._check_array(name, x, (None, width))
        _finite_range(name, x)
        return x

    @abstractmethod
    def draw_noise(self, rng: Any, x: Array) -> Array:
        """Draw what ``forward(x, noise)`` takes for this batch from the generator ``rng``.

        Row after row: drawn in parts, one after the other, the batch gets the same numbers.
        """

    @abstractmethod
    def forward(self, x: Array, noise: Array | None = None) -> Array:
        """Return the loss of the batch x (B, D), a scalar on the model's device."""

    @abstractmethod
    def backward(self) -> None:
        """Fill ``grad`` with the gradient of the last ``forward``'s loss."""

    @abstractmethod
    def loss_terms(self, x: Array, noise: Array | None = None) -> Terms:
        """Return the terms of ``forward(x, noise)`` by name, and remember nothing."""

    @abstractmethod
    def codes(self, x: Array) -> Array:
        """Return one point of the latent space for each x, (B, L)."""

    @abstractmethod
    def decode(self, z: Array) -> Array:
        """Return the data, (B, D), that the latents z (B, L) stand for."""

    def reconstruct(self, x: Array) -> Array:
        """Return x (B, D) as it comes out again, (B, D), without noise."""
        return self.decode(self.codes(x))


class Autoencoder(Model):
    """x -> encoder -> z -> decoder -> y, trained to give y = x through L < D numbers; MSE.

    Hinton, Salakhutdinov 2006, "Reducing the dimensionality of data with neural networks". The code
    z is linear in the last hidden layer. ``output="linear"`` with ``hidden=()`` is the linear
    autoencoder, whose optimum spans the PCA subspace (Baldi, Hornik 1989); ``output="sigmoid"``
    keeps y in (0, 1), and x must lie in [0, 1].
    """

    kind = "ae"
    term_names = ("mse",)
    objective = "mse"

    def __init__(
        self,
        n_features: int,
        hidden: Sequence[int] = (400,),
        n_latent: int = 20,
        activation: str = "relu",
        output: str = "sigmoid",
        *,
        seed: int = 0,
        dtype: Any = "float32",
        device: str = "cpu",
    ) -> None:
        super().__init__(n_features, hidden, n_latent, activation, seed, dtype, device)
        self.output = validate.choice("output", output, ("sigmoid", "linear"))
        rng = np.random.default_rng(seed)
        self.encoder = self._network((self.n_features, *self.hidden), self.n_latent, rng)
        final = (Sigmoid(),) if output == "sigmoid" else ()
        widths = (self.n_latent, *self.hidden[::-1])
        self.decoder = self._network(widths, self.n_features, rng, *final)
        self.mse = MeanSquaredError()
        self.pack({"encoder": self.encoder, "decoder": self.decoder})

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that build a model of the same form."""
        return {**super().config, "output": self.output}

    @property
    def unit_interval(self) -> bool:
        """Whether the data must lie in [0, 1]: a sigmoid output cannot give anything else."""
        return self.output == "sigmoid"

    def draw_noise(self, rng: Any, x: Array) -> None:
        """Return None: an autoencoder is deterministic."""

    def forward(self, x: Array, noise: None = None) -> Array:
        """Return the MSE a pixel between x (B, D) and its reconstruction, a scalar."""
        x = self.check(x)
        z = self.encoder.forward(x)  # (B, L)
        y = self.decoder.forward(z)  # (B, D)
        self.terms = {"mse": self.mse.forward(y, x)}
        return self.terms["mse"]

    def backward(self) -> None:
        """Fill ``grad``: dL/dy through the decoder to dL/dz, through the encoder to the weights."""
        dy = self.mse.backward()
        dz = self.decoder.backward(dy)
        self.encoder.backward(dz, need_dx=False)

    def loss_terms(self, x: Array, noise: None = None) -> Terms:
        """Return {"mse": MSE a pixel}."""
        x = self.check(x)
        return {"mse": self.mse.per_example(self.decoder.apply(self.encoder.apply(x)), x).mean()}

    def encode(self, x: Array) -> Array:
        """Return the code z (B, L) of x (B, D)."""
        return self.encoder.apply(self.check(x, values=True))

    def codes(self, x: Array) -> Array:
        """Return ``encode(x)``."""
        return self.encode(x)

    def decode(self, z: Array) -> Array:
        """Return the reconstruction y (B, D) of the codes z (B, L)."""
        return self.decoder.apply(self._check_finite("z", z, self.n_latent))


CORRUPTIONS = ("gaussian", "masking", "salt_and_pepper")


class DenoisingAutoencoder(Autoencoder):
    """x~ -> encoder -> z -> decoder -> y, trained to give the *clean* x from a corrupted x~; MSE.

    Vincent, Larochelle, Lajoie, Bengio, Manzagol 2010, "Stacked denoising autoencoders", section 3.
    ``corruption`` is one of

    - ``"gaussian"``: x~ = x + sigma n, n ~ N(0, 1), then cut to [0, 1] if ``clip``;
    - ``"masking"``: a ``fraction`` of the pixels set to 0;
    - ``"salt_and_pepper"``: a ``fraction`` of the pixels set to 0 or 1, each with probability 1/2.

    ``noise`` is what the corruption is made of: n (B, D) for ``"gaussian"``, else u ~ U[0, 1)
    (B, D). ``corrupt(x, noise)`` is deterministic.
    """

    kind = "dae"

    def __init__(
        self,
        n_features: int,
        hidden: Sequence[int] = (400,),
        n_latent: int = 20,
        activation: str = "relu",
        output: str = "sigmoid",
        *,
        corruption: str = "gaussian",
        sigma: float = 0.5,
        clip: bool = True,
        fraction: float = 0.3,
        seed: int = 0,
        dtype: Any = "float32",
        device: str = "cpu",
    ) -> None:
        super().__init__(
            n_features, hidden, n_latent, activation, output, seed=seed, dtype=dtype, device=device
        )
        self.corruption = validate.choice("corruption", corruption, CORRUPTIONS)
        self.sigma = sigma
        self.clip = validate.boolean("clip", clip)
        self.fraction = fraction

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that build a model of the same form."""
        return {
            **super().config,
            "corruption": self.corruption,
            "sigma": self.sigma,
            "clip": self.clip,
            "fraction": self.fraction,
        }

    @property
    def sigma(self) -> float:
        """The standard deviation of the Gaussian corruption; may be changed."""
        return self._sigma

    @sigma.setter
    def sigma(self, sigma: float) -> None:
        self._sigma = validate.number("sigma", sigma)

    @property
    def fraction(self) -> float:
        """The share of the features that masking and salt and pepper hit; may be changed."""
        return self._fraction

    @fraction.setter
    def fraction(self, fraction: float) -> None:
        self._fraction = validate.number("fraction", fraction, 0, 1)

    @property
    def unit_interval(self) -> bool:
        """Whether the data must lie in [0, 1]: as in an autoencoder, or since x~ is clipped."""
        return super().unit_interval or (self.corruption == "gaussian" and self.clip)

    @property
    def _hint(self) -> str:
        return "" if super().unit_interval else ", to which noisy data are clipped; or clip=False"

    def draw_noise(self, rng: Any, x: Array) -> Array:
        """Draw n ~ N(0, 1) for ``"gaussian"``, else u ~ U[0, 1), of x's shape (B, D)."""
        draw = rng.standard_normal if self.corruption == "gaussian" else rng.random
        return self.xp.asarray(draw(x.shape, dtype=self.dtype))

    def corrupt(self, x: Array, noise: Array | None) -> Array:
        """Return the corrupted x~ (B, D); x itself stays clean."""
        x = self._check_array("x", x, (None, self.n_features))
        if noise is None:
            raise ValueError("noise: got None, want the corruption: model.draw_noise(rng, x)")
        noise = self._check_noise(noise, (len(x), self.n_features))
        if self.corruption == "gaussian":
            x_tilde = x + self.sigma * noise
            return self.xp.clip(x_tilde, 0, 1) if self.clip else x_tilde
        x_tilde = x * (noise >= self.fraction)
        if self.corruption == "salt_and_pepper":
            x_tilde += noise < self.fraction / 2  # the hit pixels are 0 now; half of them become 1
        return x_tilde

    def forward(self, x: Array, noise: Array | None = None) -> Array:
        """Return the MSE a pixel between the clean x and the reconstruction of the corrupted x."""
        x = self.check(x)
        z = self.encoder.forward(self.corrupt(x, noise))
        y = self.decoder.forward(z)
        self.terms = {"mse": self.mse.forward(y, x)}
        return self.terms["mse"]

    def loss_terms(self, x: Array, noise: Array | None = None) -> Terms:
        """Return {"mse": MSE a pixel against the clean x}."""
        x = self.check(x)
        y = self.decoder.apply(self.encoder.apply(self.corrupt(x, noise)))
        return {"mse": self.mse.per_example(y, x).mean()}

    def encode(self, x: Array) -> Array:
        """Return the code z (B, L) of x (B, D), clean or corrupted (then [0, 1] is not asked)."""
        if self.corruption == "gaussian" and not self.clip:
            return self.encoder.apply(self._check_finite("x", x, self.n_features))
        return self.encoder.apply(self.check(x, values=True))


class VAE(Model):
    """The variational autoencoder: q(z|x) = N(mu, diag sigma^2), p(z) = N(0, I), decoder p(x|z).

    Kingma, Welling 2014. The loss is -ELBO in nats an image, with one draw of z a step and, for
    ``beta`` != 1, the KL weighted (Higgins et al. 2017):

        L = E_q[-log p(x|z)] + beta KL(q(z|x) || N(0, I))

    ``likelihood`` is ``"bernoulli"`` (logits; x in [0, 1]) or ``"gaussian"`` with the fixed
    standard deviation ``sigma``, or ``sigma="learned"``: a log-variance for each pixel beside its
    mean. A mean squared error averaged over pixels is no likelihood: against a KL summed over
    latents it is D/2 times too weak, and the latents collapse onto the prior; say
    ``likelihood="gaussian"``. ``noise`` is eps ~ N(0, I), (B, L).
    """

    kind = "vae"
    term_names = ("loss", "reconstruction", "kl", "neg_elbo")
    objective = "neg_elbo"

    def __init__(
        self,
        n_features: int,
        hidden: Sequence[int] = (400,),
        n_latent: int = 20,
        activation: str = "relu",
        *,
        likelihood: str = "bernoulli",
        sigma: float | str = 1.0,
        beta: float = 1.0,
        seed: int = 0,
        dtype: Any = "float32",
        device: str = "cpu",
    ) -> None:
        super().__init__(n_features, hidden, n_latent, activation, seed, dtype, device)
        if likelihood in ("mse", "mean_squared_error"):
            raise ValueError(
                f"likelihood: got {likelihood!r}, which averages over pixels and is no "
                "log-likelihood; want 'gaussian' (a squared error in nats) or 'bernoulli'"
            )
        self.likelihood = validate.choice("likelihood", likelihood, ("bernoulli", "gaussian"))
        self._gaussian = GaussianNLL(sigma)
        self.beta = beta
        self.nll: Loss = BernoulliNLL() if likelihood == "bernoulli" else self._gaussian
        n_outputs = (
            2 * self.n_features
            if likelihood == "gaussian" and sigma == "learned"
            else self.n_features
        )
        rng = np.random.default_rng(seed)
        widths = (self.n_features, *self.hidden)
        self.encoder = mlp(widths, activation, rng, self.dtype)
        self.to_mu = Dense(widths[-1], self.n_latent, rng=rng, dtype=self.dtype)
        self.to_logvar = Dense(widths[-1], self.n_latent, rng=rng, dtype=self.dtype)
        widths = (self.n_latent, *self.hidden[::-1])
        self.decoder = self._network(widths, n_outputs, rng)
        self.reparameterize = Reparameterize()
        self.kl = GaussianKL()
        self.pack(
            {
                "encoder": self.encoder,
                "to_mu": self.to_mu,
                "to_logvar": self.to_logvar,
                "decoder": self.decoder,
            }
        )

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that build a model of the same form."""
        return {
            **super().config,
            "likelihood": self.likelihood,
            "sigma": self.sigma,
            "beta": self.beta,
        }

    @property
    def unit_interval(self) -> bool:
        """Whether the data must lie in [0, 1]: the Bernoulli likelihood is defined there only."""
        return self.likelihood == "bernoulli"

    @property
    def beta(self) -> float:
        """The weight of the KL in the loss; may be changed."""
        return self._beta

    @beta.setter
    def beta(self, beta: float) -> None:
        self._beta = validate.number("beta", beta)

    @property
    def sigma(self) -> float | str:
        """The standard deviation of the Gaussian likelihood, or "learned"; may be changed."""
        return self._gaussian.sigma

    @sigma.setter
    def sigma(self, sigma: float | str) -> None:
        new = GaussianNLL(sigma)
        if self.likelihood == "gaussian" and new.learned != self._gaussian.learned:
            raise ValueError(f"sigma: got {sigma!r}, which takes another decoder: make a new VAE")
        self._gaussian.sigma = new.sigma

    def draw_noise(self, rng: Any, x: Array) -> Array:
        """Draw eps ~ N(0, I), (B, L)."""
        return self.xp.asarray(rng.standard_normal((len(x), self.n_latent), dtype=self.dtype))

    def _check_eps(self, x: Array, noise: Array | None) -> Array:
        if noise is None:
            raise ValueError("noise: got None, want eps of shape (B, L): model.draw_noise(rng, x)")
        return self._check_noise(noise, (len(x), self.n_latent))

    def forward(self, x: Array, noise: Array | None = None) -> Array:
        """Return reconstruction + beta KL of x (B, D) with eps (B, L): a scalar, nats an image."""
        x, eps = self.check(x), self._check_eps(x, noise)
        h = self.encoder.forward(x)  # (B, H)
        mu, logvar = self.to_mu.forward(h), self.to_logvar.forward(h)  # (B, L) each
        z = self.reparameterize.forward(mu, logvar, eps)  # (B, L)
        output = self.decoder.forward(z)  # (B, D): logits, or means
        reconstruction = self.nll.forward(output, x)
        kl = self.kl.forward(mu, logvar)
        self.terms = self._terms(reconstruction, kl)
        return self.terms["loss"]

    def backward(self) -> None:
        """Fill ``grad``; dz splits into the path of mu and that of logvar, and the KL adds to both.

        dmu = dz + beta mu / B and dlogvar = dz eps sigma / 2 + beta (sigma^2 - 1) / (2 B); h feeds
        both heads, so its gradient is the sum of theirs.
        """
        doutput = self.nll.backward()
        dz = self.decoder.backward(doutput)
        dmu, dlogvar = self.reparameterize.backward(dz)
        dmu_kl, dlogvar_kl = self.kl.backward()
        dmu, dlogvar = self._sums(self.xp, dmu, dlogvar, dmu_kl, dlogvar_kl, self.beta)
        below = bool(self.hidden)  # without hidden layers the heads stand on x itself
        dh_mu = self.to_mu.backward(dmu, need_dx=below)
        dh_logvar = self.to_logvar.backward(dlogvar, need_dx=below)
        if below:
            self.encoder.backward(dh_mu + dh_logvar, need_dx=False)

    @staticmethod
    @fused
    def _sums(
        xp: Any, dmu: Array, dlogvar: Array, dmu_kl: Array, dlogvar_kl: Array, beta: Any
    ) -> tuple[Array, Array]:
        return dmu + beta * dmu_kl, dlogvar + beta * dlogvar_kl

    def _terms(self, reconstruction: Array, kl: Array) -> Terms:
        loss, neg_elbo = self._totals(self.xp, reconstruction, kl, self.beta)
        return {"loss": loss, "reconstruction": reconstruction, "kl": kl, "neg_elbo": neg_elbo}

    @staticmethod
    @fused
    def _totals(xp: Any, reconstruction: Array, kl: Array, beta: Any) -> tuple[Array, Array]:
        return reconstruction + beta * kl, reconstruction + kl

    def loss_terms(self, x: Array, noise: Array | None = None) -> Terms:
        """Return loss, reconstruction, kl and neg_elbo = reconstruction + kl, in nats an image."""
        x, eps = self.check(x), self._check_eps(x, noise)
        mu, logvar = self._encode(x)
        output = self.decoder.apply(self.reparameterize.apply(mu, logvar, eps))
        reconstruction = self.nll.per_example(output, x).mean()
        return self._terms(reconstruction, self.kl.per_example(mu, logvar).mean())

    def _encode(self, x: Array) -> tuple[Array, Array]:
        h = self.encoder.apply(x)
        return self.to_mu.apply(h), self.to_logvar.apply(h)

    def encode(self, x: Array) -> tuple[Array, Array]:
        """Return mu and logvar, (B, L) each, of q(z|x) for x (B, D)."""
        return self._encode(self.check(x, values=True))

    def codes(self, x: Array) -> Array:
        """Return mu, the mean of q(z|x), (B, L)."""
        return self.encode(x)[0]

    def decode(self, z: Array) -> Array:
        """Return the mean of p(x|z), (B, D), for z (B, L): for Bernoulli the probabilities."""
        return self.nll.mean(self.decoder.apply(self._check_finite("z", z, self.n_latent)))

    def sample(self, n: int, rng: np.random.Generator | int) -> Array:
        """Draw z ~ N(0, I), n times, and return the means of p(x|z), (n, D).

        ``rng`` is a generator or a seed.
        """
        n = validate.integer("n", n)
        z = np.random.default_rng(rng).standard_normal((n, self.n_latent), dtype=self.dtype)
        return self.decode(self.xp.asarray(z))


MODELS: dict[str, type[Model]] = {m.kind: m for m in (Autoencoder, DenoisingAutoencoder, VAE)}


def build(config: dict[str, Any], device: str = "cpu") -> Model:
    """Build the model that a ``Model.config`` describes, with its initial parameters.

    Raises ValueError where the configuration is not one.
    """
    if not isinstance(config, Mapping):
        raise ValueError(f"configuration: got {config!r}, want a dict such as Model.config")
    arguments = dict(config)
    kind = arguments.pop("model", None)
    validate.choice("model", kind, MODELS)
    try:
        return MODELS[kind](**arguments, device=device)
    except TypeError as error:
        raise ValueError(f"configuration of a {kind!r}: {error}") from None


def _finite_range(name: str, x: Array) -> tuple[float, float]:
    """Return the smallest and the largest value, both finite."""
    low, high = float(x.min()), float(x.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"{name}: got NaN or infinite values, want finite ones")
    return low, high


def _shape_text(shape: tuple[int | None, int]) -> str:
    return f"({'B' if shape[0] is None else shape[0]}, {shape[1]})"
