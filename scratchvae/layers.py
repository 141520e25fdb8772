"""Layers with hand-written backward passes.

The protocol is three methods. ``apply(x)`` computes y = f(x) and remembers nothing; ``forward(x)``
computes the same and remembers what the derivative needs; ``backward(dy)`` takes dy = dL/dy, writes
dL/dW and dL/db in place, and returns dx = dL/dx. L is any scalar loss. Shapes by letter: B batch,
I inputs, O outputs.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np

from scratchvae import validate
from scratchvae.backend import Array, array_module, fused, module_for, to_device

FEW_ROWS, LARGE = 64, 200  # of `_times_transposed`: measured on a Zen 5


class Remembered:
    """What ``forward`` leaves for ``backward``: until then, reading it says to call ``forward``.

    An instance's own attribute hides it, so that it costs nothing afterwards.
    """

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return self
        raise ValueError(f"{owner.__name__}: backward needs a forward before it")


class Layer(ABC):
    """A differentiable function, with or without parameters.

    The gradient of a parameter ``W`` stands in the attribute ``dW``, and has its shape. A model
    lays all of them out in two vectors and replaces these attributes by views: write into them,
    ``layer.W[...] = W``, and let a layer that uses another's W hold that layer, not the array.
    """

    parameter_names: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def apply(self, x: Array) -> Array:
        """Return y = f(x) and remember nothing, so that a pending ``backward`` stays valid."""

    @abstractmethod
    def forward(self, x: Array) -> Array:
        """Return y = f(x) and remember what ``backward`` needs; leave x as it is until then."""

    @abstractmethod
    def backward(self, dy: Array, need_dx: bool = True) -> Array:
        """Write the parameters' gradients in place and return dx, or None if not ``need_dx``."""

    def leaves(self) -> Iterator[tuple[str, Layer]]:
        """Yield (name, layer) for each layer that may own parameters; its own name is empty."""
        yield "", self

    def named_parameters(self) -> dict[str, Array]:
        """Return the parameters by name: the arrays themselves, not copies."""
        return parameters_of({"": self})

    def named_gradients(self) -> dict[str, Array]:
        """Return the gradients under the names of their parameters, not copies either."""
        return gradients_of({"": self})


def _slots(layers: Mapping[str, Layer]) -> Iterator[tuple[str, Layer, str]]:
    """Yield (dotted name, layer, attribute) for each parameter."""
    for prefix, layer in layers.items():
        for path, leaf in layer.leaves():
            for attribute in leaf.parameter_names:
                yield ".".join(filter(None, (prefix, path, attribute))), leaf, attribute


def parameters_of(layers: Mapping[str, Layer]) -> dict[str, Array]:
    """Return the parameters of named layers under dotted names such as ``encoder.0.W``."""
    return {name: getattr(leaf, attribute) for name, leaf, attribute in _slots(layers)}


def gradients_of(layers: Mapping[str, Layer]) -> dict[str, Array]:
    """Return their gradients under the same names."""
    return {name: getattr(leaf, "d" + attribute) for name, leaf, attribute in _slots(layers)}


def pack(layers: Mapping[str, Layer], device: str) -> tuple[Array, Array]:
    """Lay all parameters of ``layers`` one after another in one vector on ``device``.

    Returns theta and g, both (P,), of which each layer's ``W, b, dW, db`` are views from then on:
    who writes theta writes the layers. Raises ValueError for parameters of two dtypes, and for two
    that share memory, which would become two: tied weights belong into one layer.
    """
    xp = module_for(device)
    parameters = parameters_of(layers)
    on_host = [(n, a) for n, a in parameters.items() if isinstance(a, np.ndarray)]
    on_host.sort(key=lambda named: np.lib.array_utils.byte_bounds(named[1]))
    for (name, array), (other, following) in pairwise(on_host):
        if np.may_share_memory(array, following):
            raise ValueError(f"{name} and {other} share memory; want one layer that owns it")
    if len(dtypes := {str(array.dtype) for array in parameters.values()}) > 1:
        raise ValueError(f"parameters of {' and '.join(sorted(dtypes))}: want one dtype for all")
    theta = xp.concatenate([to_device(array.ravel(), device) for array in parameters.values()])
    grad = xp.zeros_like(theta)
    view(layers, theta, grad)
    return theta, grad


def view(layers: Mapping[str, Layer], theta: Array, grad: Array) -> None:
    """Make the parameters and gradients of ``layers`` views of theta and grad, both (P,)."""
    start = 0
    for _, leaf, attribute in _slots(layers):
        shape = getattr(leaf, attribute).shape
        span = slice(start, start + math.prod(shape))
        setattr(leaf, attribute, theta[span].reshape(shape))
        setattr(leaf, "d" + attribute, grad[span].reshape(shape))
        start = span.stop


def astray(layers: Mapping[str, Layer], theta: Array, grad: Array) -> str | None:
    """Name a parameter that is not its part of theta, or a gradient of grad; None where all are.

    Parts are those that ``view`` makes; theta itself is named where it has more.
    """
    for name, whole in (("theta", theta), ("grad", grad)):
        if not hasattr(whole, "dtype"):
            return name
    start = 0
    for name, leaf, attribute in _slots(layers):
        for prefix, vector in (("", theta), ("d", grad)):
            array = getattr(leaf, prefix + attribute, None)
            span = vector[start : start + getattr(array, "size", 0)]
            if not _same_memory(array, span):
                return name.removesuffix(attribute) + prefix + attribute
        start += span.size
    return None if start == theta.size else "theta"


def _same_memory(array: Any, span: Array) -> bool:
    """Whether an array's elements, in their order, are those of the vector ``span``."""
    if not isinstance(span, np.ndarray):  # on the device
        same = type(array) is type(span) and array.size == span.size > 0
        return same and bool(array_module(span).may_share_memory(array, span))
    if not isinstance(array, np.ndarray) or not array.flags.c_contiguous:
        return False
    same = array.size == span.size > 0 and array.dtype == span.dtype
    return same and array.ctypes.data == span.ctypes.data


def he_normal(rng: np.random.Generator, n_in: int, n_out: int) -> np.ndarray:
    """Return W (I, O) with entries from N(0, 2/I), which keeps the variance through a ReLU.

    He, Zhang, Ren, Sun 2015, "Delving deep into rectifiers", eq. 10.
    """
    return rng.normal(0, math.sqrt(2 / n_in), (n_in, n_out))


def glorot_uniform(rng: np.random.Generator, n_in: int, n_out: int) -> np.ndarray:
    """Return W (I, O) with entries from U(-a, a), a = sqrt(6 / (I + O)).

    Glorot, Bengio 2010, "Understanding the difficulty of training deep feedforward neural
    networks", eq. 16: a compromise between keeping the variance forwards and backwards.
    """
    bound = math.sqrt(6 / (n_in + n_out))
    return rng.uniform(-bound, bound, (n_in, n_out))


INITIALISERS = {"he": he_normal, "glorot": glorot_uniform}


class Dense(Layer):
    r"""The affine map y = x W + b, with x (B, I), W (I, O), b (O,), y (B, O).

    By index, y_nj = sum_i x_ni W_ij + b_j, hence dy_nj/dW_ij = x_ni, dy_nj/db_j = 1 and
    dy_nj/dx_ni = W_ij. By the chain rule, summing over all y that a variable reaches:

        dW_ij = sum_n x_ni dy_nj     dW = x^T dy     (I, O) = (I, B) (B, O)
        db_j  = sum_n dy_nj          db = 1^T dy     (O,)
        dx_ni = sum_j dy_nj W_ij     dx = dy W^T     (B, I) = (B, O) (O, I)

    Nothing is divided by B here: the loss that averages over the batch has put 1/B into dy.

    ``init`` is ``"glorot"`` or ``"he"``; b starts at zero. The numbers are drawn in float64 on the
    host and then cast, so that a seed gives the same layer in every dtype and on every device.
    """

    parameter_names = ("W", "b")
    x: Array = Remembered()
    ones: Array = np.ones((1, 0))

    def __init__(
        self,
        n_in: int,
        n_out: int,
        *,
        init: str = "glorot",
        rng: np.random.Generator | int = 0,
        dtype: Any = np.float32,
    ) -> None:
        validate.integer("n_in", n_in)
        validate.integer("n_out", n_out)
        validate.choice("init", init, INITIALISERS)
        dtype = validate.dtype(dtype)
        self.W: Array = INITIALISERS[init](np.random.default_rng(rng), n_in, n_out).astype(dtype)
        self.b: Array = np.zeros(n_out, dtype=dtype)
        self.dW: Array = np.zeros_like(self.W)
        self.db: Array = np.zeros_like(self.b)

    def apply(self, x: Array) -> Array:
        """Return y = x W + b; raises ValueError unless x is (B, I)."""
        if x.ndim != 2 or x.shape[1] != len(self.W):
            raise ValueError(f"Dense: got x of shape {x.shape}, want (B, {len(self.W)})")
        y = x @ self.W
        y += self.b
        return y

    def forward(self, x: Array) -> Array:
        """Return y = x W + b and remember x."""
        y = self.apply(x)
        self.x = x  # not before: an x that is refused must not stand in a pending backward
        return y

    def backward(self, dy: Array, need_dx: bool = True) -> Array:
        """Write dW = x^T dy and db = 1^T dy; return dx = dy W^T.

        The first layer of a network has nobody to hand dx to: ``need_dx=False`` saves its product.
        """
        xp = array_module(dy)
        xp.matmul(self.x.T, dy, out=self.dW)
        xp.matmul(self._ones(dy), dy, out=self.db[None])  # half the time of dy.sum(axis=0)
        return _times_transposed(dy, self.W) if need_dx else None

    def _ones(self, dy: Array) -> Array:
        """Return 1^T (1, B), a part of what was made for the largest batch so far."""
        xp, batch = array_module(dy), len(dy)
        if array_module(self.ones) is not xp or self.ones.shape[1] < batch:
            self.ones = xp.ones((1, batch), dtype=self.db.dtype)
        return self.ones[:, :batch]


def _times_transposed(dy: Array, W: Array) -> Array:
    """Return dy W^T, (B, I).

    Of few rows and a large W as (W dy^T)^T: OpenBLAS's float32 kernels for AVX-512 then lay out dy
    anew instead of W, which for few rows takes as long as the product.
    """
    on_host = array_module(dy) is np and dy.dtype == W.dtype == np.float32
    if on_host and len(dy) <= FEW_ROWS and min(W.shape) >= LARGE:
        return np.ascontiguousarray((W @ dy.T).T)
    return dy @ W.T


class ReLU(Layer):
    """y = max(x, 0), element by element.

    dy/dx = 1 for x > 0 and 0 for x < 0. At x = 0 there is a kink; any value in [0, 1] is a
    subgradient, and like everybody else we take 0.
    """

    positive: Array = Remembered()

    def apply(self, x: Array) -> Array:
        """Return max(x, 0)."""
        return array_module(x).maximum(x, 0)

    def forward(self, x: Array) -> Array:
        """Return max(x, 0) and remember where x > 0."""
        y, self.positive = self._value_and_positive(array_module(x), x)
        return y

    @staticmethod
    @fused
    def _value_and_positive(xp: Any, x: Array) -> tuple[Array, Array]:
        positive = x > 0
        return x * positive, positive  # half the time of maximum(x, 0); of -inf, no x, NaN

    def backward(self, dy: Array, need_dx: bool = True) -> Array:
        """Return dx = dy where x > 0, else 0."""
        return dy * self.positive if need_dx else None


class Tanh(Layer):
    """y = tanh(x), element by element; dy/dx = 1 - tanh(x)^2 = 1 - y^2."""

    slope: Array = Remembered()

    def apply(self, x: Array) -> Array:
        """Return tanh(x)."""
        return array_module(x).tanh(x)

    def forward(self, x: Array) -> Array:
        """Return y = tanh(x) and remember the slope 1 - y^2."""
        y = self.apply(x)
        self.slope = 1 - y * y
        return y

    def backward(self, dy: Array, need_dx: bool = True) -> Array:
        """Return dx = dy (1 - y^2)."""
        return dy * self.slope if need_dx else None


def sigmoid(x: Array) -> Array:
    """Return 1 / (1 + exp(-x)) without overflow and without losing small values.

    With t = exp(-|x|) <= 1 it is 1 / (1 + t) for x >= 0 and t / (1 + t) for x < 0.
    """
    xp = array_module(x)
    t = xp.exp(-1.0 * xp.abs(x))  # -1.0: minus a byte would wrap around
    return xp.maximum(t, x >= 0) / (1 + t)


class Sigmoid(Layer):
    """y = 1 / (1 + exp(-x)), element by element; dy/dx = y (1 - y).

    With t = exp(-|x|) the slope is t / (1 + t)^2 on both sides of 0: y (1 - y) without the
    cancellation that 1 - y suffers where y is close to 1.
    """

    slope: Array = Remembered()

    def apply(self, x: Array) -> Array:
        """Return sigmoid(x)."""
        return sigmoid(x)

    def forward(self, x: Array) -> Array:
        """Return y = sigmoid(x) and remember the slope y (1 - y)."""
        xp = array_module(x)
        y, self.slope = self._value_and_slope(xp, x, xp.exp(-1.0 * xp.abs(x)))
        return y

    @staticmethod
    @fused
    def _value_and_slope(xp: Any, x: Array, t: Array) -> tuple[Array, Array]:
        below = 1 + t
        y = xp.maximum(t, x >= 0) / below
        below *= below
        return y, t / below

    def backward(self, dy: Array, need_dx: bool = True) -> Array:
        """Return dx = dy y (1 - y)."""
        return dy * self.slope if need_dx else None


ACTIVATIONS: dict[str, type[Layer]] = {"relu": ReLU, "tanh": Tanh, "sigmoid": Sigmoid}


class Sequential(Layer):
    """Layers one after another, y = f_n(... f_1(x)); with no layer at all, the identity.

    The chain rule read backwards: dx = J_1^T ... J_n^T dy, so ``backward`` walks from the last
    layer to the first.
    """

    def __init__(self, *layers: Layer) -> None:
        for layer in layers:
            if not isinstance(layer, Layer):
                raise ValueError(
                    f"Sequential: got {layer!r}, want layers such as Dense(5, 3), ReLU()"
                )
        self.layers = layers
        leaves = [leaf for _, leaf in self.leaves()]
        if len({id(leaf) for leaf in leaves}) < len(leaves):
            raise ValueError("Sequential: got a layer twice, which would remember one input only")

    def leaves(self) -> Iterator[tuple[str, Layer]]:
        """Yield the layers under their positions: "0", "1", ..."""
        for i, layer in enumerate(self.layers):
            for path, leaf in layer.leaves():
                yield ".".join(filter(None, (str(i), path))), leaf

    def apply(self, x: Array) -> Array:
        """Return f_n(... f_1(x)) and remember nothing."""
        for layer in self.layers:
            x = layer.apply(x)
        return x

    def forward(self, x: Array) -> Array:
        """Return f_n(... f_1(x)); each layer remembers its own part."""
        for layer in self.layers:
            x = layer.forward(x)
        return x

    def backward(self, dy: Array, need_dx: bool = True) -> Array:
        """Run the layers' ``backward`` from last to first; return dx."""
        for i, layer in reversed(list(enumerate(self.layers))):
            dy = layer.backward(dy, need_dx or i > 0)
        return dy


def mlp(
    sizes: tuple[int, ...], activation: str, rng: np.random.Generator, dtype: Any
) -> Sequential:
    """Return Dense and activation, alternating, from ``sizes[0]`` features to ``sizes[-1]``.

    ReLU layers start with He's initialisation, the others with Glorot's.
    """
    init = "he" if activation == "relu" else "glorot"
    layers: list[Layer] = []
    for n_in, n_out in pairwise(sizes):
        layers += [Dense(n_in, n_out, init=init, rng=rng, dtype=dtype), ACTIVATIONS[activation]()]
    return Sequential(*layers)
