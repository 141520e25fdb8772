"""Is this gradient right, and if not, what is wrong with it?

    report = check_gradients(f, {"mu": mu, "logvar": logvar}, {"mu": dmu, "logvar": dlogvar})
    print(report)               # a table: tensor, relative error, method, verdict
    report.raise_if_wrong()

f is a scalar function of named arrays, the last argument what a backward pass claims. Every element
of a small problem, and random directions through a large one, are differentiated numerically (see
`derivatives`), and the claim is held against the result (see `verdict`). `check_layer`,
`check_loss` and `check_model` set this up for the rooms of this package. `explain` puts a
difference into words.

A gradient check compares a backward pass with its own forward pass. It cannot see that the forward
pass computes the wrong thing: a KL averaged over the latents in both differentiates perfectly.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import numpy as np

from scratchvae import validate
from scratchvae.derivatives import (
    Array,
    Function,
    as_dict,
    check_method,
    evaluate,
    numerical_gradient,
)
from scratchvae.explain import Finding, Report, TensorReport, explain
from scratchvae.verdict import Check, label_of

__all__ = [
    "MODEL_TOLERANCE",
    "TOLERANCE",
    "Finding",
    "Report",
    "TensorReport",
    "assert_gradients",
    "check_gradients",
    "check_layer",
    "check_loss",
    "check_model",
    "explain",
    "numerical_gradient",
]

#: Largest accepted relative error by dtype. In float32, f itself carries 7 digits, and a difference
#: of two values of f about 3: enough for the mistakes that people make, too few for a proof.
TOLERANCE = {np.dtype(np.float64): 1e-9, np.dtype(np.float32): 1e-2}
#: For a whole model in float64: hundreds of nats are differenced for slopes of 1e-3.
MODEL_TOLERANCE = 1e-7


def check_gradients(
    f: Function,
    inputs: Any,
    gradients: Any,
    *,
    method: str = "auto",
    tolerance: float | None = None,
    rng: np.random.Generator | int = 0,
    directions: int = 3,
    exhaustive: int = 2000,
    terms: Mapping[str, Function] | None = None,
    sizes: Mapping[str, int] | None = None,
    batch_axis: int | None = 0,
) -> Report:
    """Hold `gradients` against the numerical gradients of the scalar function f at `inputs`.

    Both are an array, or dicts of arrays under the same names; f takes what `inputs` is. If all
    tensors together have at most `exhaustive` elements, each element is checked. Else each tensor
    is checked along random `directions` and at its three largest and three random elements. The n
    entries of a direction are 0.5 to 1.5 times 1/sqrt(n), never small, so that no element can hide,
    and never alike, so that no two wrong ones cancel each other: one that is wrong by d moves each
    directional derivative by about d / sqrt(n), and the tolerance is relative to |g| / sqrt(n).

    An element is wrong if it differs by more than twice the uncertainty of the numerical derivative
    plus `tolerance` (by default TOLERANCE of the dtype) times its own size. If that uncertainty
    exceeds `tolerance` times the tensor's largest element, the verdict is "inconclusive". At a
    kink, such as ReLU at 0, a value between the derivatives on the left and on the right is right
    (the method "central" knows no kinks).

    To explain a wrong gradient, `terms` names functions whose sum is f, `sizes` letters such as
    {"B": 7, "L": 3}, and `batch_axis` the axis of the examples.

    Raises ValueError if f is no scalar or not deterministic, an input no writable float array, or
    an option makes no sense.
    """
    check_method(method)
    single = not isinstance(inputs, Mapping)
    if not single and not isinstance(gradients, Mapping):
        names = ", ".join(map(repr, inputs))
        raise ValueError(f"gradients: got a {type(gradients).__name__}, want a dict: {names}")
    claims = {"x": gradients} if single else dict(gradients)
    terms = {name: as_dict(term, inputs)[0] for name, term in (terms or {}).items()}
    f, inputs, _ = as_dict(f, inputs)
    if unknown := set(claims) - set(inputs):
        raise ValueError(f"gradients: got {sorted(unknown)}, which are not among the inputs")
    before = {name: x.copy() for name, x in inputs.items()}
    first, second = evaluate(f, inputs), evaluate(f, inputs)
    for name, x in before.items():
        if not np.array_equal(x, inputs[name], equal_nan=True):
            inputs[name][...] = x
            raise ValueError(f"f writes into its input {name}: let it work on a copy")
    if abs(first - second) > 1e-6 * max(abs(first), abs(second)):
        raise ValueError(
            f"f is not deterministic: at the same point it gave {first:.6g} and then {second:.6g}; "
            "draw noise such as eps once and pass it in"
        )
    if tolerance is None:
        tolerance = max(TOLERANCE[x.dtype] for x in inputs.values())
    tolerance = validate.number("tolerance", tolerance, high=1, ends="()")
    directions = validate.integer("directions", directions)
    exhaustive = validate.integer("exhaustive", exhaustive, low=0)
    if sum(x.size for x in inputs.values()) <= exhaustive:
        directions = 0
    check = Check(
        f,
        inputs,
        method,
        tolerance,
        np.random.default_rng(rng),
        directions,
        terms,
        dict(sizes or {}),
        batch_axis,
    )
    return Report(tuple(check.tensor(name, claims.get(name)) for name in inputs), tolerance)


def assert_gradients(f: Function, inputs: Any, gradients: Any, **options: Any) -> None:
    """Raise AssertionError, with a table and an explanation, unless `gradients` are right."""
    check_gradients(f, inputs, gradients, **options).raise_if_wrong()


# ---------------------------------------------------------------------- layers, losses, models


def check_layer(
    layer: Any, *inputs: Array, rng: np.random.Generator | int = 0, **options: Any
) -> Report:
    """Check dx (or dmu, dlogvar ...) and all parameter gradients of a layer at `inputs`.

    The scalar is L = sum(dy * y) with a random cotangent dy. Never the plain sum of the outputs: it
    is dy = 1, and what the backward pass does to a dy that is not constant goes unseen. The outputs
    of a softmax sum to 1, so under it every gradient that is off by a constant passes.

    The layer has `forward(*inputs)` and `backward(dy)`, which returns one gradient for each of the
    first inputs (a tuple where there are several), and `named_parameters()`, `named_gradients()` if
    it has parameters. It is also refused if a second `backward` gives another answer (gradients
    added up), or one with `need_dx=False`, or one after an `apply(*inputs)`, which has to give what
    `forward` gives; or if any of them writes into its inputs or into dy. Another batch goes before,
    the examples in another order, of which nothing may be left.

    Where kinks meet, as for a row of zeros under two ReLUs, the slopes on both sides need not
    enclose what the chain rule says. A tensor that is refused at kinks is therefore judged by the
    points around, a thousandth away: its gradient has to be right at one and to lie among those at
    forty. Options as in `check_gradients`.
    """
    rng, inputs = np.random.default_rng(rng), tuple(np.array(x) for x in inputs)
    y = _of_another(layer.forward, inputs)
    y = np.asarray(layer.forward(*map(np.array, inputs)) if y is None else y)
    dy = rng.standard_normal(y.shape).astype(y.dtype)
    parameters = _parameters(layer)

    def claims() -> list[Array]:
        layer.forward(*map(np.array, inputs))
        found = _several(layer.backward(dy.copy()))
        found += layer.named_gradients().values() if parameters else ()
        return [np.array(g) for g in found if g is not None]

    def judge() -> Report:
        return _check_piece(layer, inputs, [dy], rng=rng, **options)

    return _beside_kinks(judge(), [*parameters.values(), *inputs], claims, judge)


def check_loss(loss: Any, *inputs: Array, **options: Any) -> Report:
    """Check what `loss.backward()` returns for the scalar `loss.forward(*inputs)`.

    As `check_layer`, but a scalar needs no cotangent.
    """
    return _check_piece(loss, inputs, [], **options)


def _check_piece(
    piece: Any,
    inputs: Sequence[Array],
    cotangent: list[Array],
    *,
    sizes: Mapping[str, int] | None = None,
    **options: Any,
) -> Report:
    names = list(inspect.signature(piece.forward).parameters)[: len(inputs)]
    if len(names) < len(inputs):
        takes = ", ".join(names) or "nothing"
        raise ValueError(f"forward: takes {takes}, got {len(inputs)} inputs")
    values = {name: np.array(x) for name, x in zip(names, inputs, strict=True)}
    parameters = _parameters(piece)
    if both := values.keys() & parameters:
        raise ValueError(f"{min(both)}: the name of an input and of a parameter; rename one")

    def backward(given: Sequence[Array], **options: bool) -> dict[str, Any]:
        results = _several(piece.backward(*given, **options))
        if not (0 if options else 1) <= len(results) <= len(names):
            raise ValueError(f"backward: got {len(results)} gradients, want one for each input")
        found = dict(zip(names, results, strict=False))
        found |= piece.named_gradients() if parameters else {}
        return {name: None if g is None else np.array(g) for name, g in found.items()}

    def forget() -> None:
        for gradient in piece.named_gradients().values() if parameters else ():
            gradient[...] = 0  # no stale answer

    def f(perturbed: Mapping[str, Array]) -> Any:
        y = piece.forward(*(perturbed.get(name, x).copy() for name, x in values.items()))
        return np.sum(cotangent[0].astype(np.float64) * y) if cotangent else y

    _of_another(piece.forward, values.values())  # what is left of this must not count
    _of_another(piece.backward, cotangent)
    handed = [x.copy() for x in (*values.values(), *cotangent)]
    piece.forward(*handed[: len(values)])
    forget()
    once = backward(handed[len(values) :])
    touched = _overwritten((*values, "dy"), (*values.values(), *cotangent), handed)
    twice = backward([dy.copy() for dy in cotangent])
    variables = {name: values[name].copy() for name in once if name in values}
    batch = {"B": len(inputs[0])} if np.ndim(inputs[0]) else {}
    sizes = {**batch, **(sizes or {})}
    report = check_gradients(f, variables | parameters, once, sizes=sizes, **options)
    y = piece.forward(*values.values())  # so that it remembers what it was given, not a perturbed x
    for name in touched:
        text = f"{name} was overwritten: forward and backward may write only what they allocated"
        report = report.refuse(next(iter(once)), Finding("overwritten", text))
    if touched:
        return report
    report = _refuse_changes(report, once, twice)
    if "need_dx" in inspect.signature(piece.backward).parameters:
        forget()
        without = backward([dy.copy() for dy in cotangent], need_dx=False)
        without = {name: without[name] for name in parameters if name in without}
        report = _refuse_changes(report, once, without, "need_dx", WITHOUT_DX)
    if breach := _breach_of_apply(piece, values, y):
        return report.refuse(next(iter(once)), Finding("apply", breach))
    if hasattr(piece, "apply"):
        _of_another(piece.apply, values.values())
        disturbed = backward([dy.copy() for dy in cotangent])
        report = _refuse_changes(report, once, disturbed, "apply", DISTURBED)
    return report


def _breach_of_apply(piece: Any, values: Mapping[str, Array], y: Any) -> str | None:
    """Say what is wrong with `apply`, if there is one that takes what `forward` takes."""
    try:
        inspect.signature(piece.apply).bind(*values)
    except (AttributeError, TypeError):
        return None
    handed = [x.copy() for x in values.values()]
    try:
        again = np.asarray(piece.apply(*handed), dtype=np.asarray(y).dtype)
    except Exception as error:
        return f"apply raises {type(error).__name__}: {error}"
    for name in _overwritten(values, values.values(), handed):
        return f"{name} was overwritten: apply may write only what it allocated"
    largest = max(float(np.abs(a).max(initial=0)) for a in (y, *handed))
    atol = 64 * np.finfo(again.dtype).eps * largest if again.dtype.kind == "f" else 0
    same = again.shape == np.shape(y) and np.allclose(again, y, 1e-5, atol, equal_nan=True)
    return None if same else "apply gives other values than forward"


def _several(result: Any) -> list[Any]:
    """Return the gradients that `backward` returned, one or several, as a list."""
    return [*result] if isinstance(result, tuple | list) else [result]


def _overwritten(
    names: Iterable[str], before: Iterable[Array], after: Iterable[Array]
) -> list[str]:
    """Return the names of the arrays that are not what they were."""
    return [
        name
        for name, old, new in zip(names, before, after, strict=False)
        if not np.array_equal(old, new, equal_nan=old.dtype.kind == "f")
    ]


def _parameters(piece: Any) -> dict[str, Array]:
    return dict(piece.named_parameters()) if hasattr(piece, "named_parameters") else {}


def _of_another(method: Callable[..., Any], inputs: Iterable[Any]) -> Any:
    """Call a method for another batch, the examples in another order; None where it refuses it."""
    inputs = list(inputs)
    rows = [np.shape(x)[:1] if isinstance(x, np.ndarray) else None for x in inputs]
    with suppress(Exception), np.errstate(all="ignore"):
        return method(
            *(
                np.roll(x, 1, axis=0) if n and n == rows[0] else copy.copy(x)
                for x, n in zip(inputs, rows, strict=True)
            )
        )
    return None


def _beside_kinks(
    report: Report,
    arrays: Sequence[Array],
    claims: Callable[[], list[Array]],
    judge: Callable[[], Report],
) -> Report:
    """Judge the tensors that are refused at kinks by the points around, moving `arrays`."""
    refused = [t for t in report.tensors if not t.ok]
    if not refused or not all(t.kinks and t.verdict in AT_KINKS for t in refused):
        return report
    try:
        here = claims()
        lows, highs = ([np.full(claim.shape, far) for claim in here] for far in (np.inf, -np.inf))
        for seed in range(AROUND):
            with _moved(arrays, seed):
                for there, low, high in zip(claims(), lows, highs, strict=True):
                    np.minimum(there, low, out=low)
                    np.maximum(there, high, out=high)
        for claim, low, high in zip(here, lows, highs, strict=True):
            slack = 0.02 * max(-low.min(initial=0), high.max(initial=0)) + 0.25 * (high - low)
            if not ((low - slack <= claim) & (claim <= high + slack)).all():
                return report
        for seed in range(5):  # one of them may be too close to a kink to tell
            with _moved(arrays, seed):
                elsewhere = judge()
            if elsewhere.ok:
                break
    except Exception:  # the piece takes no other point
        return report
    finally:
        claims()  # what is remembered is the point itself
    kinks = {t.name: t.kinks for t in report.tensors}
    tensors = (
        replace(t, verdict="kink", kinks=kinks[t.name]) if kinks[t.name] else t
        for t in elsewhere.tensors
    )
    return replace(report, tensors=tuple(tensors)) if elsewhere.ok else report


@contextmanager
def _moved(arrays: Sequence[Array], seed: int) -> Iterator[None]:
    """Move the elements by about a thousandth of their size while the block lasts (zeros, of 1)."""
    before, rng = [x.copy() for x in arrays], np.random.default_rng(seed)
    try:
        for x in arrays:
            if x.dtype.kind == "f":
                x += 1e-3 * (np.abs(x).mean() or 1) * rng.standard_normal(x.shape)
        yield
    finally:
        for x, old in zip(arrays, before, strict=True):
            x[...] = old


AROUND = 40  # points around a kink, enough that on each side of a few kinks there is one
AT_KINKS = ("wrong", "inconclusive")
ADDED = (
    "when backward is called again after the same forward: it must be written, not added to what "
    "is there"
)
DISTURBED = "when apply is called between forward and backward: apply must remember nothing"
WITHOUT_DX = "when backward is called with need_dx=False, which may spare dx only"


def _refuse_changes(
    report: Report,
    once: Mapping[str, Any],
    again: Mapping[str, Any],
    kind: str = "accumulated",
    when: str = ADDED,
) -> Report:
    """Refuse the gradients that another backward, after the same forward, made different."""
    for name, second in again.items():
        first, second = once.get(name), np.asarray(second)
        if first is None or report[name].verdict in ("wrong shape", "not finite"):
            continue
        atol = 1e-14 * np.abs(first).max(initial=0)  # a sum in another order
        if second.shape == first.shape and np.allclose(first, second, rtol=1e-5, atol=atol):
            continue
        report = report.refuse(name, Finding(kind, f"{label_of(name)} changes {when}"))
    return report


def check_model(
    model: Any,
    x: Array,
    noise: Any = None,
    *,
    tolerance: float | None = None,
    sizes: Mapping[str, int] | None = None,
    **options: Any,
) -> Report:
    """Check the gradient of a model's loss by every named parameter, at the batch x with `noise`.

    Uses `forward(x, noise)`, `backward()`, `theta`, `grad`, `named_parameters()`,
    `named_gradients()`, `n_features` and `n_latent`. `theta` is the same bit for bit afterwards.
    A gradient that is refused at kinks is judged by the points around, as in `check_layer`. A wrong
    gradient of a VAE is explained by its reconstruction and KL terms. Build the model in float64:
    float32 decides little. `tolerance` is MODEL_TOLERANCE by default. Other options as in
    `check_gradients`.

    Raises ValueError if the named parameters do not make up theta.
    """
    parameters = model.named_parameters()
    if sum(p.size for p in parameters.values()) != model.theta.size or not all(
        np.shares_memory(p, model.theta) for p in parameters.values()
    ):
        raise ValueError("named_parameters(): got arrays that do not make up theta, want its views")

    if tolerance is None:
        tolerance = max(MODEL_TOLERANCE, TOLERANCE[model.theta.dtype])
    known = {"B": len(x), "D": model.n_features, "L": model.n_latent, **(sizes or {})}

    def claims() -> dict[str, Array]:
        model.backward()
        gradients = model.named_gradients()
        for name, gradient in gradients.items():
            if not np.shares_memory(gradient, model.grad):
                raise ValueError(
                    f"named_gradients(): {name} is no view of grad, which the optimizer reads; "
                    "want backward to write the gradient in place: layer.dW[...] ="
                )
        return {name: np.array(gradient) for name, gradient in gradients.items()}

    def term(name: str, weight: float) -> Function:
        return lambda _: weight * model.loss_terms(x, noise)[name]

    def afresh() -> list[Array]:
        model.forward(x, noise)
        return [*claims().values()]

    def judge() -> Report:
        _of_another(model.forward, [x] if noise is None else [x, noise])  # nothing may be left
        _of_another(model.backward, [])
        model.grad[...] = 0
        model.forward(x, noise)
        once, twice = claims(), claims()
        if hasattr(model, "beta") and {"reconstruction", "kl"} <= {*getattr(model, "terms", ())}:
            parts = {"reconstruction": term("reconstruction", 1.0), "KL": term("kl", model.beta)}
            options.setdefault("terms", parts)
        report = check_gradients(
            lambda _: model.forward(x, noise),
            parameters,
            once,
            tolerance=tolerance,
            sizes=known,
            batch_axis=None,
            **options,
        )
        model.forward(x, noise)  # what the layers remember is the unperturbed batch again
        return _refuse_changes(report, once, twice)

    return _beside_kinks(judge(), [model.theta], afresh, judge)
