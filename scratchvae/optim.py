"""Optimizers on one parameter vector, in place.

``step(theta, grad)`` changes theta (P,) and reads grad (P,). Each optimizer keeps its memory in
vectors of the same size, allocated at the first step together with one for intermediate results;
after that no step allocates. ``state()`` and ``restore()`` serve the checkpoint.

A step is ``prepare`` (check, allocate), the count t, ``scalars`` (the numbers of the update) and
``update`` (arithmetic on the device alone). ``graphs`` records ``update`` once and gives it the
scalars of each step as arrays on the device.

Every update is element by element, so a step may be taken in pieces, and gives the same bits. On
the host it is: block after block, so that what one pass has written is still in the processor's
cache when the next one reads it. With Numba (the extra ``fast``) it is one pass: ``compiled``.
"""

from __future__ import annotations

import copy
import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Self

import numpy as np

from scratchvae import compiled, validate
from scratchvae.backend import ELEMENTWISE, Array, array_module, fused

#: Where a gradient stays zero (a pixel that is seldom lit) its memory decays until it is a
#: subnormal number, with which a processor counts many times slower, and never reaches zero. So
#: every so many steps what is subnormal is set to zero, and so is what would be before the next
#: time: 0.9^64 > 1/1024.
FLUSH_EVERY = 64
FLUSH_BELOW = 1024  # times the least normal number

#: Elements of a block: 256 KiB of each vector in float32.
BLOCK = 1 << 16

#: Parameters from which on an update is compiled: a smaller one is not worth the compiler's time.
COMPILED = 1 << 12

#: The least that is added to the root of squared gradients: float32 can hardly hold the squares of
#: smaller gradients. So with eps=0 a gradient of 0 gives a step of 0, and not 0 / 0.
EPS_MIN = 1e-19


class Optimizer(ABC):
    """The common part: checked hyperparameters, memory, the count t of steps taken."""

    slots: ClassVar[tuple[str, ...]] = ()  # names of the vectors it remembers

    def __init__(self, learning_rate: float) -> None:
        self.learning_rate = validate.number("learning_rate", learning_rate, ends="(]")
        self.t = 0
        self.memory: dict[str, Array] = {}
        self._scratch: Array = None

    def step(self, theta: Array, grad: Array) -> None:
        """Change theta (P,) in place by one step along the gradient grad (P,), which stays."""
        self.prepare(theta, grad)
        self.t += 1
        self.update(theta, grad, self.scalars(self.t))
        if array_module(theta) is np:
            self.flush()

    def prepare(self, theta: Array, grad: Array, parts: int = 0) -> None:
        """Allocate what is not there yet, or raise a ValueError where theta or grad do not fit.

        ``parts`` says that ``update`` will be given the gradients of so many parts of a batch.
        """
        if theta.shape != grad.shape or theta.dtype != grad.dtype:
            raise ValueError(
                f"step: theta {theta.shape} {theta.dtype} and grad {grad.shape} {grad.dtype} differ"
            )
        xp = array_module(theta)
        for known in (*self.memory.values(), self._scratch):
            if known is not None and array_module(known) is not xp:
                raise ValueError("step: theta has moved to another device; make a new optimizer")
            if known is not None and (known.shape != theta.shape or known.dtype != theta.dtype):
                raise ValueError(
                    f"step: this optimizer remembers {known.shape[0]} parameters of {known.dtype}, "
                    f"got {theta.shape[0]} of {theta.dtype}; make a new one for each model"
                )
        new = self._scratch is None
        if new:
            self._scratch = xp.empty_like(theta)
            for name in self.slots:
                self.memory.setdefault(name, xp.zeros_like(theta))
        if (new or parts) and xp is np and compiled.problem() is None:
            part = theta[: -(-len(theta) // (parts or 1))]  # processes forked later have its loop
            self._loop(part, [grad] * (parts or 1), _plain(self.scalars(1)), (1.0,) * parts)

    @abstractmethod
    def scalars(self, t: int) -> tuple[float, ...]:
        """Return the numbers that the update of step t >= 1 takes: of any step, at any time."""

    def update(
        self,
        theta: Array,
        grad: Array,
        scalars: tuple[Any, ...],
        first: int = 0,
        shares: tuple[float, ...] = (),
    ) -> None:
        """Change theta and the memory in place; ``scalars`` are floats or 0-d arrays of its dtype.

        theta and grad may be the elements from number ``first`` on, as many as there are. With
        ``shares`` grad holds the gradients (W, P) of W parts of a batch, whose mean, weighted by
        these numbers, is the gradient: on the host. ``prepare`` must have been called. On the
        device nothing is allocated and nobody waits.
        """
        xp, size = array_module(theta), len(theta)
        rows, shares = ([*grad] if shares else [grad]), tuple(map(float, shares))
        memory = [self.memory[name][first : first + size] for name in self.slots]
        if xp is np:
            scalars = _plain(scalars)
            if loop := self._loop(theta, rows, scalars, shares):
                loop(theta, *rows, *memory, *map(theta.dtype.type, (*scalars, *shares)))
                return
            size = BLOCK
        mean = xp.empty_like(theta[:size]) if shares else None
        for start in range(0, len(theta), size):
            block = slice(start, start + size)
            part, gradients = theta[block], [row[block] for row in rows]
            scratch, g = self._scratch[: len(part)], gradients[0]  # a scratch that stays cached
            if mean is not None:
                g = _mean(xp, mean[: len(part)], scratch, gradients, shares)
            self._update(xp, part, g, scratch, *(m[block] for m in memory), *scalars)

    def _loop(
        self,
        theta: Array,
        rows: list[Array],
        scalars: tuple[Any, ...],
        shares: tuple[float, ...],
    ) -> compiled.Loop | None:
        """Return ``update`` compiled, or None where Numba or these arguments do not allow it."""
        function = ELEMENTWISE.get(self._update)
        arrays, dtype = (theta, *rows, *self.memory.values()), theta.dtype
        plain = all(type(a) is np.ndarray and a.dtype == dtype and a.flags.carray for a in arrays)
        numbers = (*scalars, *shares)
        floats = dtype in (np.float32, np.float64) and all(type(s) is float for s in numbers)
        if function is None or not plain or not floats or len(theta) < COMPILED:
            return None
        scratch: tuple[int, ...] = (2,)
        if shares:
            function, scratch = _of_parts(function, len(shares)), (1, 2)
        loop = compiled.loop(function, len(arrays) + len(scratch), len(numbers), dtype, scratch)
        if loop is None or any(np.may_share_memory(theta, row) for row in rows):
            return None
        return loop

    def flush(self, part: slice = slice(None)) -> None:
        """Every so many steps, set the memory to zero where it would soon be subnormal."""
        if self.t % FLUSH_EVERY:
            return
        for vector in self.memory.values():
            elements, scratch = vector[part], self._scratch[part]
            np.abs(elements, out=scratch)
            elements *= scratch >= FLUSH_BELOW * np.finfo(vector.dtype).tiny

    def keeps(self, *methods: str) -> bool:
        """Whether nobody has replaced these methods, so that others may call them as they know."""
        ours = all(getattr(type(self), name) is getattr(Optimizer, name) for name in methods)
        return ours and not vars(self).keys() & methods

    def __copy__(self) -> Self:
        """Return a deep copy: of two optimizers with one memory each would spoil the other's."""
        return copy.deepcopy(self)

    @property
    def vectors(self) -> list[Array]:
        """All that ``update`` writes besides theta: the memory and the intermediate results."""
        return [*self.memory.values(), self._scratch]

    @staticmethod
    @abstractmethod
    def _update(xp: Any, theta: Array, g: Array, scratch: Array, *rest: Any) -> None:
        """Write theta and the memory in place; ``rest`` are the memory and the scalars.

        Element by element, for it is called with parts of the vectors, and of nothing else: what
        needs a norm of the whole gradient, say, has a ``step`` of its own.
        """

    def state(self) -> dict[str, Any]:
        """Return t and, after the first step, the memory vectors by name (not copies of them)."""
        return {"t": self.t, **(self.memory if self.t else {})}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what ``state()`` gave, as copies; raises ValueError where a part is missing."""
        wants = {"t", *self.slots} if state.get("t") else {"t"}
        if set(state) != wants:
            raise ValueError(
                f"state of {type(self).__name__}: got {sorted(state)}, want {sorted(wants)}"
            )
        self.t = int(state["t"])
        self.memory = {name: state[name].copy() for name in self.slots if name in wants}
        self._scratch = None

    @property
    def name(self) -> str:
        """The name under which ``make_optimizer`` knows it."""
        return type(self).__name__.lower()

    @property
    def config(self) -> dict[str, Any]:
        """The hyperparameters by name. JSON-safe."""
        hidden = ("t", "memory", "_scratch")
        values = {name: value for name, value in vars(self).items() if name not in hidden}
        return {k: v.item() if isinstance(v, np.generic) else v for k, v in values.items()}


def _plain(scalars: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return Python's floats for NumPy's: a NumPy float64 would draw float32 vectors up to it."""
    return tuple(s.item() if isinstance(s, np.generic) else s for s in scalars)


def _mean(
    xp: Any, mean: Array, scratch: Array, gradients: Sequence[Array], shares: Sequence[Any]
) -> Array:
    """Write the mean of the gradients, weighted by their shares, and return it."""
    xp.multiply(gradients[0], shares[0], out=mean)
    for gradient, share in zip(gradients[1:], shares[1:], strict=True):
        xp.multiply(gradient, share, out=scratch)
        mean += scratch
    return mean


@functools.cache
def _of_parts(update: Callable[..., None], parts: int) -> Callable[..., None]:
    """Return ``update`` of a mean: it takes the gradients behind the scratch, the shares last."""

    def of_mean(xp: Any, theta: Array, mean: Array, scratch: Array, *rest: Any) -> None:
        gradients, shares = rest[:parts], rest[-parts:]
        _mean(xp, mean, scratch, gradients, shares)
        update(xp, theta, mean, scratch, *rest[parts:-parts])

    return of_mean


class SGD(Optimizer):
    """theta <- theta - lr g. Robbins, Monro 1951."""

    def __init__(self, learning_rate: float = 0.1) -> None:
        super().__init__(learning_rate)

    def scalars(self, t: int) -> tuple[float, ...]:
        """Return lr."""
        return (self.learning_rate,)

    @staticmethod
    @fused
    def _update(xp: Any, theta: Array, g: Array, scratch: Array, *rest: Any) -> None:
        (lr,) = rest
        xp.multiply(g, lr, out=scratch)
        theta -= scratch


class Momentum(Optimizer):
    """v <- mu v - lr g, theta <- theta + v. Polyak 1964; Sutskever et al. 2013, eq. 1-2."""

    slots = ("v",)

    def __init__(self, learning_rate: float = 0.01, momentum: float = 0.9) -> None:
        super().__init__(learning_rate)
        self.momentum = validate.number("momentum", momentum, 0, 1, ends="[)")

    def scalars(self, t: int) -> tuple[float, ...]:
        """Return lr and mu."""
        return self.learning_rate, self.momentum

    @staticmethod
    @fused
    def _update(xp: Any, theta: Array, g: Array, scratch: Array, *rest: Any) -> None:
        v, lr, mu = rest
        xp.multiply(g, lr, out=scratch)
        v *= mu
        v -= scratch
        theta += v


class Nesterov(Momentum):
    """Momentum whose gradient is taken where the velocity is about to lead.

    Nesterov 1983; Sutskever et al. 2013, eq. 3-4. Written for the looked-ahead parameters
    theta + mu v, at which the model's gradient is at hand (Bengio et al. 2013, eq. 7):

        v <- mu v - lr g,    theta <- theta + mu v - lr g
    """

    @staticmethod
    @fused
    def _update(xp: Any, theta: Array, g: Array, scratch: Array, *rest: Any) -> None:
        v, lr, mu = rest
        xp.multiply(g, lr, out=scratch)
        v *= mu
        v -= scratch
        theta -= scratch
        xp.multiply(v, mu, out=scratch)
        theta += scratch


def _scaled_step(
    xp: Any, theta: Array, g: Array, scratch: Array, h: Array, lr: Any, eps: Any
) -> None:
    """theta <- theta - lr g / (sqrt(h) + eps)."""
    xp.sqrt(h, out=scratch)
    scratch += eps
    xp.divide(g, scratch, out=scratch)
    scratch *= lr
    theta -= scratch


class AdaGrad(Optimizer):
    """h <- h + g^2, theta <- theta - lr g / (sqrt(h) + eps). Duchi, Hazan, Singer 2011."""

    slots = ("h",)

    def __init__(self, learning_rate: float = 0.01, eps: float = 1e-10) -> None:
        super().__init__(learning_rate)
        self.eps = validate.number("eps", eps)

    def scalars(self, t: int) -> tuple[float, ...]:
        """Return lr and eps."""
        return self.learning_rate, max(self.eps, EPS_MIN)

    @staticmethod
    @fused
    def _update(xp: Any, theta: Array, g: Array, scratch: Array, *rest: Any) -> None:
        h, lr, eps = rest
        xp.multiply(g, g, out=scratch)
        h += scratch
        _scaled_step(xp, theta, g, scratch, h, lr, eps)


class RMSProp(AdaGrad):
    """h <- rho h + (1 - rho) g^2, theta <- theta - lr g / (sqrt(h) + eps).

    Tieleman, Hinton 2012, Coursera "Neural networks for machine learning", lecture 6.5: AdaGrad
    that forgets.
    """

    def __init__(self, learning_rate: float = 0.001, rho: float = 0.99, eps: float = 1e-8) -> None:
        super().__init__(learning_rate, eps)
        self.rho = validate.number("rho", rho, 0, 1, ends="[)")

    def scalars(self, t: int) -> tuple[float, ...]:
        """Return lr, eps, rho and 1 - rho."""
        return *super().scalars(t), self.rho, 1 - self.rho

    @staticmethod
    @fused
    def _update(xp: Any, theta: Array, g: Array, scratch: Array, *rest: Any) -> None:
        h, lr, eps, rho, one_minus_rho = rest
        xp.multiply(g, g, out=scratch)
        scratch *= one_minus_rho
        h *= rho
        h += scratch
        _scaled_step(xp, theta, g, scratch, h, lr, eps)


def _adam(xp: Any, theta: Array, g: Array, scratch: Array, *rest: Any) -> None:
    """What Adam's docstring ends with."""
    M, V, beta1, beta2, eps_over_b, rate = rest
    M *= beta1
    M += g
    V *= beta2
    xp.multiply(g, g, out=scratch)
    V += scratch
    xp.sqrt(V, out=scratch)
    scratch += eps_over_b
    xp.divide(M, scratch, out=scratch)
    scratch *= rate
    theta -= scratch


class Adam(Optimizer):
    """Adaptive moment estimation. Kingma, Ba 2015, algorithm 1.

        m <- beta1 m + (1 - beta1) g          m^ = m / (1 - beta1^t)
        v <- beta2 v + (1 - beta2) g^2        v^ = v / (1 - beta2^t)
        theta <- theta - lr m^ / (sqrt(v^) + eps)

    m and v start at zero and so are too small at first; dividing by 1 - beta^t corrects that. What
    is remembered are the sums M = m / (1 - beta1) and V = v / (1 - beta2), M <- beta1 M + g and
    V <- beta2 V + g^2: the constants meet the corrections in two scalars, m^ = a M and v^ = b^2 V,

        theta <- theta - (lr a / b) M / (sqrt(V) + eps / b)
    """

    slots = ("M", "V")
    _update = staticmethod(fused(_adam))

    def __init__(
        self,
        learning_rate: float = 0.001,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
    ) -> None:
        super().__init__(learning_rate)
        self.beta1 = validate.number("beta1", beta1, 0, 1, ends="[)")
        self.beta2 = validate.number("beta2", beta2, 0, 1, ends="[)")
        self.eps = validate.number("eps", eps)

    def scalars(self, t: int) -> tuple[float, ...]:
        """Return beta1, beta2, eps / b and lr a / b."""
        a = (1 - self.beta1) / (1 - self.beta1**t)
        b = math.sqrt((1 - self.beta2) / (1 - self.beta2**t))
        return self.beta1, self.beta2, max(self.eps, EPS_MIN) / b, self.learning_rate * a / b


class AdamW(Adam):
    """Adam with the weight decay kept out of the moments: theta <- theta - lr decay theta first.

    Loshchilov, Hutter 2019, algorithm 2 (with their schedule multiplier eta equal to lr).
    """

    def __init__(
        self,
        learning_rate: float = 0.001,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(learning_rate, beta1, beta2, eps)
        self.weight_decay = validate.number("weight_decay", weight_decay)

    def scalars(self, t: int) -> tuple[float, ...]:
        """Return Adam's numbers and 1 - lr decay."""
        return *super().scalars(t), 1 - self.learning_rate * self.weight_decay

    @staticmethod
    @fused
    def _update(xp: Any, theta: Array, g: Array, scratch: Array, *rest: Any) -> None:
        *adams, kept = rest
        theta *= kept
        _adam(xp, theta, g, scratch, *adams)


OPTIMIZERS: dict[str, type[Optimizer]] = {
    o.__name__.lower(): o for o in (SGD, Momentum, Nesterov, AdaGrad, RMSProp, Adam, AdamW)
}


def make_optimizer(name: str, learning_rate: float | None = None, **options: Any) -> Optimizer:
    """Return the optimizer called ``name``; without a learning rate, with its own default.

    Raises ValueError for an unknown name or option.
    """
    validate.choice("optimizer", name, OPTIMIZERS)
    if learning_rate is not None:
        options["learning_rate"] = learning_rate
    try:
        return OPTIMIZERS[name](**options)
    except TypeError as error:
        raise ValueError(f"optimizer {name!r}: {error}") from None
