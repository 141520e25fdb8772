"""The verdict on the gradient that is claimed for one tensor: `gradcheck` asks for one a tensor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from scratchvae.derivatives import (
    METHODS,
    Array,
    Derivative,
    Function,
    differentiate,
    evaluate,
    rounding,
)
from scratchvae.explain import Finding, TensorReport, explain, indices, positions, unusable

#: What round-off in float32 makes of a float64 gradient is smaller.
FLOAT32 = 5e-7
#: What keeps a derivative from existing, by `Derivative.kind`.
ROUGH = {
    "jump": "f jumps or has a vertical tangent",
    "not finite": "f is not finite on both sides",
}


class Group:
    """Numerical derivatives of one tensor at some places, beside what is claimed there.

    `scale` is how large a claim is there at most (elements) or typically (directions).
    """

    def __init__(
        self, slopes: list[Derivative], claims: Array, scale: float, eps: float, tolerance: float
    ):
        self.slopes = slopes
        self.kinked = np.array([s.kind == "kink" for s in slopes], dtype=bool)
        value = np.array([s.value for s in slopes])
        sides = np.array([(s.left, s.right) for s in slopes]).reshape(-1, 2)
        inside = np.clip(claims, sides.min(axis=1), sides.max(axis=1))
        self.numeric = np.where(self.kinked, inside, value)
        self.uncertainty = np.array([s.error for s in slopes])
        grain = np.array([s.grain for s in slopes])
        size = np.maximum(np.abs(claims), np.abs(self.numeric))
        steepest = np.where(self.kinked, np.abs(sides).max(axis=1), size)
        scale = max(scale, float(np.nanmax(steepest, initial=0)))
        error = np.abs(claims - self.numeric)
        zero = (np.abs(claims) <= 30 * grain) & (np.abs(self.numeric) <= self.uncertainty)
        zero &= self.uncertainty <= 100 * eps**-0.25 * grain  # f is flat over a step that counts
        excess = np.where(zero, 0, error - 2 * self.uncertainty - 64 * eps * scale).clip(0)
        self.wrong = excess > tolerance * size
        self.unclear = ~zero & (self.uncertainty > tolerance * scale)
        self.worst = np.divide(excess, size, out=np.zeros_like(size), where=excess > 0)
        self.doubt = float(np.where(zero, 0, self.uncertainty).max(initial=0)) / (scale or 1.0)
        largest = size.max(initial=0) or 1.0  # squares of 1e300 would overflow
        norms = np.linalg.norm([claims / largest, self.numeric / largest], axis=1).max(initial=0)
        error = np.linalg.norm(error / largest) / (norms or 1.0)
        self.norm_error = 0.0 if zero.all() else float(error)


@dataclass
class Check:
    """What `check_gradients` was asked to do; `tensor` does it for one tensor."""

    f: Function
    inputs: dict[str, Array]
    method: str
    tolerance: float
    rng: np.random.Generator
    directions: int
    terms: dict[str, Function]
    sizes: dict[str, int]
    batch_axis: int | None

    def tensor(self, name: str, claim: Any) -> TensorReport:
        """The verdict on the gradient that is claimed for one tensor."""
        x, label = self.inputs[name], label_of(name)
        blank = TensorReport(name, x.shape, "wrong")
        if claim is None:
            return blank.refuse("wrong", Finding("missing", f"{label}: there is no gradient"))
        try:
            given = np.asarray(claim)
            if given.dtype.kind not in "fiu":
                raise ValueError
            a = given.astype(np.float64)
        except (TypeError, ValueError):  # its rows differ in length, or it is on the device
            what = f"a {type(claim).__name__}"
            if isinstance(claim, np.ndarray):
                what = f"of dtype {claim.dtype}"
            text = f"{label} is {what}, want an array of shape {x.shape}"
            return blank.refuse("wrong shape", Finding("wrong shape", text))
        if a.shape != x.shape or not np.isfinite(a).all():
            finding = unusable(a, x.shape, label)
            return blank.refuse(finding.kind, finding)
        if not math.isfinite(evaluate(self.f, self.inputs)):
            return blank.refuse("not finite", Finding("not finite", "f itself is not finite here"))

        places = self.places(a)
        elements = self.group(name, a, places)
        directions, along = self.along(name, a)
        at = [_index(i, a.shape) for i in places]
        methods = {slope.method for slope in elements.slopes + along.slopes}
        count = f"{len(places)} of {a.size}"
        report = replace(
            blank,
            norm_error=max(elements.norm_error, along.norm_error),
            worst_error=float(max(elements.worst.max(), along.worst.max(initial=0))),
            worst_index=at[int(elements.worst.argmax())],
            numeric_error=max(elements.doubt, along.doubt),
            method="+".join(m for m in METHODS if m in methods),
            checked=f"{len(directions)} directions, {count}" if directions else count,
            kinks=tuple(i for i, kinked in zip(at, elements.kinked, strict=True) if kinked),
        )
        for kind, what in ROUGH.items():
            where = [i for i, s in zip(places, elements.slopes, strict=True) if s.kind == kind]
            if where:
                text = f"{label} cannot be checked: {what}, {positions(where, a.shape)}"
                return report.refuse("not finite", Finding(kind, text, {"count": len(where)}))
        if elements.wrong.any() or along.wrong.any():
            return report.refuse("wrong", *self.findings(name, a, places, directions))
        if elements.unclear.any() or along.unclear.any():
            text = (
                f"{label}: the numerical derivative is uncertain by {report.numeric_error:.1e}, "
                f"too much for a tolerance of {self.tolerance:.0e}; take float64 or other inputs"
            )
            return report.refuse("inconclusive", Finding("inconclusive", text))
        return replace(report, verdict="kink" if report.kinks else "ok")

    def places(self, a: Array) -> list[int]:
        """The elements at which to look at a tensor with the gradient a."""
        if not self.directions:
            return list(range(a.size))
        largest, some = np.abs(a).ravel().argsort()[-3:], self.rng.integers(a.size, size=3)
        return list(dict.fromkeys([*largest.tolist(), *some.tolist()]))

    def along(self, name: str, a: Array) -> tuple[list[Array], Group]:
        """Random directions, and what is found along them.

        Where kinks lie too close on both sides to tell, other directions are drawn, three times.
        """
        directions = [self.direction(a) for _ in range(self.directions)]
        slopes = self.slopes(name, directions)
        for attempt in range(4):
            group = self.group(name, a, directions, slopes)
            group.unclear |= group.wrong & group.kinked  # several kinks: between proves nothing
            group.wrong &= ~group.kinked
            for i in np.flatnonzero(group.unclear) if attempt < 3 else ():
                directions[i] = self.direction(a)
                slopes[i] = self.slopes(name, [directions[i]])[0]
        return directions, group

    def direction(self, a: Array) -> Array:
        """A random direction of length 1, none of whose entries is small or like another."""
        signs = self.rng.integers(2, size=a.shape) * 2.0 - 1
        entries = signs * self.rng.uniform(0.5, 1.5, size=a.shape)
        return np.asarray(entries / np.linalg.norm(entries))

    def slopes(
        self, name: str, places: Sequence[int | Array], start: float = 0.11
    ) -> list[Derivative]:
        """The numerical derivatives at `places`, elements or directions."""
        return differentiate(self.f, self.inputs, name, places, self.method, start)

    def group(
        self,
        name: str,
        a: Array,
        places: Sequence[int | Array],
        slopes: list[Derivative] | None = None,
    ) -> Group:
        """The numerical derivatives at `places`, and the claims a about them."""
        slopes = self.slopes(name, places) if slopes is None else slopes
        claims = np.array([a.flat[p] if isinstance(p, int) else np.vdot(p, a) for p in places])
        along = any(not isinstance(p, int) for p in places)
        scale = float(np.linalg.norm(a)) / math.sqrt(a.size) if along else np.abs(a).max()
        eps = float(np.finfo(self.inputs[name].dtype).eps)
        group = Group(slopes, claims, scale, eps, self.tolerance)
        refused = (group.wrong | group.unclear).any()
        if refused and self.vanishes(name, places, group, claims):
            group.wrong[:] = group.unclear[:] = False
            group.worst[:] = group.doubt = group.norm_error = 0.0
        if not group.wrong.any():
            return group
        accused = np.flatnonzero(group.wrong).tolist()
        again = self.slopes(name, [places[i] for i in accused], start=0.037)
        for i, second in zip(accused, again, strict=True):  # a second opinion, from other steps
            doubt = max(second.error, abs(second.value - slopes[i].value))
            if doubt > slopes[i].error and slopes[i].kind == second.kind == "smooth":
                slopes[i] = replace(slopes[i], error=doubt)
        return Group(slopes, claims, scale, eps, self.tolerance)

    def vanishes(
        self, name: str, places: Sequence[int | Array], group: Group, claims: Array
    ) -> bool:
        """Whether f is at a minimum, and nothing but round-off is left of all slopes."""
        slopes = np.abs([claims, group.numeric, group.uncertainty]).T
        for place, (claim, numeric, uncertainty) in zip(places, slopes, strict=True):
            of_numeric, of_claim = rounding(self.f, self.inputs, name, place)
            known = uncertainty <= of_numeric and numeric <= max(uncertainty, of_claim)
            if not known or claim > of_claim:
                return False
        return True

    def findings(
        self, name: str, a: Array, places: list[int], directions: list[Array]
    ) -> list[Finding]:
        """Why the claim a is wrong, judged by all elements of a small tensor, some of a large."""
        if directions:
            places = list(dict.fromkeys([*places, *self.rng.integers(a.size, size=16).tolist()]))
        shape = (len(places),) if directions else a.shape  # a sample has no rows
        group = self.group(name, a, places)
        if directions and not group.wrong.any():
            where = self.locate(name, a, directions[0])
            at = positions([where], a.shape)
            text = f"{label_of(name)} is wrong {at}; the elements sampled are right"
            return [Finding("elements", text, {"index": list(_index(where, a.shape))})]
        single = self.inputs[name].dtype != np.float64
        if not single and group.worst.max() < FLOAT32 and group.wrong.sum() > 1:
            digits = math.floor(-math.log10(group.worst.max()))
            text = f"{label_of(name)} is right to {digits} digits only: is a part of it in float32?"
            return [Finding("digits", text, {"digits": digits})]
        claims = a.ravel()[places]
        known = np.isfinite(group.numeric)  # what could not be measured is not held against a
        terms = {}
        for term, f in self.terms.items():
            slopes = differentiate(f, self.inputs, name, places, self.method)
            terms[term] = np.array([s.value for s in slopes])
        found = explain(
            claims.reshape(shape),
            np.where(known, group.numeric, claims).reshape(shape),
            terms=terms if all(np.isfinite(t).all() for t in terms.values()) else None,
            sizes=self.sizes,
            batch_axis=self.batch_axis,
            name=label_of(name),
            tolerance=self.tolerance,
            uncertainty=group.uncertainty.reshape(shape),
        )
        if directions and found[0].kind == "elements":  # its positions are those of the sample
            wrong = [p for p, bad in zip(places, group.wrong, strict=True) if bad]
            text = f"{label_of(name)} is wrong in {len(wrong)} of {len(places)} elements sampled, "
            numbers = {**found[0].numbers, "at": indices(wrong, a.shape)}
            return [replace(found[0], text=text + positions(wrong, a.shape), numbers=numbers)]
        return found

    def locate(self, name: str, a: Array, direction: Array) -> int:
        """Find a wrong element by halving a direction that shows an error."""
        low, high = 0, a.size
        while high - low > 1:
            middle = (low + high) // 2
            half = np.zeros(a.size)
            half[low:middle] = direction.ravel()[low:middle]
            half /= np.linalg.norm(half)
            if self.group(name, a, [half.reshape(a.shape)]).wrong.any():
                high = middle
            else:
                low = middle
        return low


def label_of(name: str) -> str:
    """The gradient's name: dx for x, encoder.0.dW for encoder.0.W."""
    owner, dot, last = name.rpartition(".")
    return f"{owner}{dot}d{last}"


def _index(i: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(k) for k in np.unravel_index(i, shape))
