"""Numerical derivatives of a scalar function, each with an estimate of its error.

f takes a dict of named arrays. Arrays are perturbed in place, because a model reads its own
parameters and ignores what it is handed, and put back bit for bit after every call of f.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Function = Callable[[Any], Any]
METHODS = ("auto", "complex", "richardson", "central")
DTYPES = (np.dtype(np.float64), np.dtype(np.float32))


@dataclass(frozen=True)
class Derivative:
    """A numerical derivative and how far to trust it.

    `error` is an estimate on the safe side, `grain` the smallest slope that the round-off of f
    leaves visible at the widest step. `kind` is "smooth", "kink" (the one-sided derivatives `left`
    and `right` differ), "jump" (f is discontinuous or has a vertical tangent) or "not finite" (f
    has no finite values around here).
    """

    value: float
    error: float
    method: str = "richardson"
    kind: str = "smooth"
    left: float = math.nan
    right: float = math.nan
    grain: float = 0.0


def evaluate(f: Function, inputs: Any) -> float:
    """f at `inputs`, a real scalar."""
    with np.errstate(all="ignore"):  # large steps may overflow; such rows are dropped
        value = np.asarray(f(inputs))
    if value.size != 1 or value.dtype.kind not in "fiu":
        raise ValueError(
            f"f returned {value.dtype} of shape {value.shape}, want a real scalar: "
            "use sum(dy * y) with a random dy (check_layer does), not a plain sum of the outputs"
        )
    return float(value.item())


class _Analytic(np.ndarray):
    """Complex numbers that refuse whatever has no complex derivative, such as |z| and max(z, 0).

    NumPy computes these, and silently loses the derivative that travels in the imaginary part.
    """

    refused: ClassVar = (
        *("absolute", "conjugate", "sign", "rint", "clip", "maximum", "minimum", "fmax", "fmin"),
        *("greater", "greater_equal", "less", "less_equal", "equal", "not_equal"),
    )
    taken: ClassVar = (np.linalg.inv, np.linalg.solve, np.linalg.det, np.linalg.matrix_power)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        if ufunc.__name__ in self.refused:
            return NotImplemented  # NumPy makes a TypeError of it
        if "out" in options:
            options["out"] = tuple(map(self.plain, options["out"]))
        result = getattr(ufunc, method)(*map(self.plain, inputs), **options)
        return np.asarray(result).view(_Analytic)

    def __array_function__(self, func: Any, *arguments: Any) -> Any:
        if func is np.vdot or (func.__module__ == "numpy.linalg" and func not in self.taken):
            return NotImplemented  # most of these conjugate, or take an absolute value
        return super().__array_function__(func, *arguments)

    def _refuse(self) -> Any:
        raise TypeError("a part of a complex number has no complex derivative")

    real = imag = property(_refuse)
    conj = conjugate = _refuse

    @staticmethod
    def plain(x: Any) -> Any:
        return x.view(np.ndarray) if isinstance(x, _Analytic) else x


class Line:
    """f along one element (`where` an index) or one direction (`where` an array) of a tensor.

    The tensor is changed in place, because a model reads its own parameters, and put back bit for
    bit after every call, also when f raises.
    """

    def __init__(self, f: Function, inputs: dict[str, Array], name: str, where: int | Array):
        self.f, self.inputs, self.name, self.where = f, inputs, name, where
        self.x = inputs[name]
        moved = self.x.flat[where] if isinstance(where, int) else self.x[where != 0]
        size = np.linalg.norm(moved)
        self.reach = max(float(size), 1.0)
        self.eps = float(np.finfo(self.x.dtype).eps)

    def __call__(self, t: float) -> tuple[float, float]:
        """The step that was really made (x + t is rounded) and f there."""
        x, where = self.x, self.where
        if isinstance(where, int):
            element = x.flat[where]
            try:
                x.flat[where] = element + t
                return float(x.flat[where]) - float(element), evaluate(self.f, self.inputs)
            finally:
                x.flat[where] = element
        saved = x.copy()
        try:
            x += t * where
            return t, evaluate(self.f, self.inputs)
        finally:
            x[...] = saved

    def imaginary(self) -> float | None:
        """Im f(x + 1e-30 i) / 1e-30, or None where f does not take complex numbers."""
        z = self.x.astype(np.complex128)
        if isinstance(self.where, int):
            z.flat[self.where] += 1e-30j
        else:
            z += 1e-30j * self.where
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("error", np.exceptions.ComplexWarning)
            try:
                value = np.asarray(self.f({**self.inputs, self.name: z.view(_Analytic)}))
            except (TypeError, ValueError, np.exceptions.ComplexWarning):
                return None
        if value.size != 1 or not np.iscomplexobj(value) or not np.isfinite(value).all():
            return None
        return float(value.imag.item()) / 1e-30


class Tableau:
    """Neville extrapolation to step 0 of estimates at h, h/4, h/16 ..., keeping the best entry.

    `factor` is by how much the leading error term shrinks from one row to the next. The error of an
    entry is its distance to the two it is made from, plus the round-off of its row (Ridders 1982).
    If `strict`, an entry counts only if that is below a tenth of it, or nothing but round-off: far
    from x, the slopes of a bounded f agree with each other by all being small.
    """

    def __init__(self, factor: float, strict: bool = False):
        self.factor, self.strict, self.row, self.last = factor, strict, list[float](), math.nan
        self.value, self.error = math.nan, math.inf

    def add(self, estimate: float, roundoff: float) -> None:
        """Add the row that starts with `estimate`, whose round-off is at most `roundoff`."""
        row, factor = [estimate], self.factor
        self.last = self.row[0] if self.row else math.nan
        for above in self.row[:6]:
            entry = row[-1] + (row[-1] - above) / (factor - 1.0)
            error = max(abs(entry - row[-1]), abs(entry - above)) + roundoff
            counts = not self.strict or error <= max(0.1 * abs(entry), 4 * roundoff)
            if counts and error < self.error:
                self.value, self.error = entry, error
            row.append(entry)
            factor *= self.factor
        self.row = row

    def distances(self) -> tuple[float, float]:
        """How far the last estimate but one, and the last, lie from the value."""
        return abs(self.last - self.value), abs(self.row[0] - self.value)


def _richardson(line: Line, f0: float, noise: float, start: float) -> Derivative:
    """Ridders' method (C. J. F. Ridders, Adv. Eng. Software 4(2), 1982), with an eye on kinks.

    Central differences (f(x+h) - f(x-h)) / 2h = f' + c h^2 + ... at h, h/4, h/16 ... are
    extrapolated to h = 0 until they agree, or until round-off (noise / h) outweighs what a smaller
    step gains. So every element gets its own step. At a kink a central difference converges too, to
    the mean of two slopes: the gap between the one-sided differences tells, since it shrinks with h
    where f is smooth.
    """
    anew = partial(Tableau, 16.0, strict=True)
    central, gap, left, right = anew(), Tableau(4.0), Tableau(4.0), Tableau(4.0)
    changes, trusted = list[float](), list[Tableau]()
    h, looked, unresolved = start * line.reach, False, 0.0
    while h > 64 * line.eps * line.reach:
        (up, f_up), (down, f_down) = line(h), line(-h)
        if math.isfinite(f_up) and math.isfinite(f_down) and up > 0 > down:
            changes.append(abs(f_up - f0) + abs(f_down - f0))
            roundoff = max(noise, line.eps * changes[-1]) / h
            best = central.value
            central.add((f_up - f_down) / (up - down), roundoff)
            right.add((f_up - f0) / up, roundoff)
            left.add((f_down - f0) / down, roundoff)
            gap.add(right.row[0] - left.row[0], 2 * roundoff)
            steady = abs(gap.row[0]) > 0.3 * abs(gap.last)  # a quarter where f is smooth
            if central.value != best:  # a kink within the step is a part of the error
                unresolved = abs(gap.row[0]) / 2 if steady else 0.0
            slope = max(abs(right.row[0]), abs(left.row[0]))
            visible = max(5 * gap.error, 1e3 * noise / h)  # and could be looked at more closely
            if not looked and abs(gap.value) > visible:
                looked = True
                trusted = _look_at_kink(line, f0, noise, abs(gap.value), central, left, right)
            if trusted:
                if all(t.error <= max(roundoff, 1e-12 * abs(t.value)) for t in trusted):
                    break
            elif steady and abs(gap.row[0]) > max(20 * roundoff, 1e-7 * slope):
                central = anew()
            else:
                before, now = central.distances()
                if now > max(before, 50 * roundoff):  # they agreed by accident
                    central = anew()
                enough = max(roundoff, 1e-12 * abs(central.value))
                settled = gap.error <= max(1e-6 * slope, 20 * roundoff) or len(central.row) > 4
                if settled and central.error <= enough:
                    break
        h /= 4
    if len(changes) < 2:  # one slope says nothing about itself
        return Derivative(math.nan, math.inf, kind="not finite")
    if len(trusted) == 2:
        error = max(left.error, right.error)
        mean = (left.value + right.value) / 2
        return Derivative(mean, error, "richardson", "kink", left.value, right.value)
    if trusted:
        return Derivative(trusted[0].value, trusted[0].error)
    shrinks = min((b / a for a, b in pairwise(changes[-3:]) if a), default=0.0)
    if shrinks > 0.4 and changes[-1] > 50 * noise:  # it is a quarter where f is smooth
        return Derivative(math.nan, math.inf, kind="jump")
    if math.isinf(central.error):  # a kink, too slight to tell whether it is at x or near
        error = abs(right.value - left.value) / 2 + max(left.error, right.error)
        return Derivative((left.value + right.value) / 2, error)
    return Derivative(central.value, central.error + unresolved)


def _look_at_kink(
    line: Line,
    f0: float,
    noise: float,
    gap: float,
    central: Tableau,
    left: Tableau,
    right: Tableau,
) -> list[Tableau]:
    """The slopes left and right of x seem to differ by `gap`. Which tableaus can we trust?

    Both sides, if they still differ next to x: the kink is at x. If not, the first that agrees with
    the slope next to x: the central one if it was a false alarm, or the side without the kink, if
    the kink is only near. None, if none agrees: there are kinks near x on both sides.
    """
    h = max(200 * noise / gap, 256 * line.eps * line.reach)
    slopes = []
    for step in (h, 4 * h):
        (up, f_up), (down, f_down) = line(step), line(-step)
        slopes.append(((f_down - f0) / down, (f_up - f0) / up))
    gaps = [abs(after - before) for before, after in slopes]  # not `gap`: other kinks are in it
    if min(gaps) > max(0.5 * max(gaps), 4 * noise / h):
        return [left, right]
    here = sum(slopes[0]) / 2
    return [t for t in (central, left, right) if abs(t.value - here) < 0.1 * gap][:1]


def _complex_step(line: Line, noise: float) -> Derivative | None:
    """Im f(x + ih) / h at h = 1e-30: no difference, so no round-off (Squire, Trapp 1998).

    Only for f analytic in x. For the ways out of the complex plane that `_Analytic` does not see,
    it has to agree with a rough central difference; where it does not, None.
    """
    slope = line.imaginary()
    if not slope:  # not complex, or real all the way
        return None
    h = line.eps ** (1 / 3) * line.reach
    (up, f_up), (down, f_down) = line(h), line(-h)
    doubt = 1e3 * line.eps ** (2 / 3) * abs(slope) + 10 * noise / h
    if not abs((f_up - f_down) / (up - down) - slope) <= doubt:
        return None
    return Derivative(slope, 1e-15 * abs(slope) + 10 * noise / line.reach, "complex")


def _central(line: Line, f0: float, noise: float) -> Derivative:
    """(f(x+h) - f(x-h)) / 2h at the step eps^(1/3) that balances truncation and round-off."""
    slopes, h = [], line.eps ** (1 / 3) * line.reach
    for step in (2 * h, h):
        (up, f_up), (down, f_down) = line(step), line(-step)
        slopes.append((f_up - f_down) / (up - down))
    roundoff = 3 * (noise + line.eps * abs(f0)) / h
    return Derivative(slopes[1], abs(slopes[1] - slopes[0]) + roundoff, "central")


def differentiate(
    f: Function,
    inputs: dict[str, Array],
    name: str,
    places: Iterable[int | Array],
    method: str,
    start: float = 0.11,
) -> list[Derivative]:
    """The derivatives of f by the elements, or along the directions, `places` of one tensor.

    `start` is the first step of `_richardson`, relative to the size of the tensor there.
    """
    f0, noise = value_and_noise(f, inputs, name)
    results = []
    complex_works = method in ("auto", "complex")
    for where in places:
        line = Line(f, inputs, name, where)
        result = None
        if complex_works:
            result = _complex_step(line, noise)
            complex_works = result is not None or line.imaginary() is not None
        if result is None:
            central = method == "central"
            result = _central(line, f0, noise) if central else _richardson(line, f0, noise, start)
        results.append(replace(result, grain=noise / line.reach))
    return results


def rounding(
    f: Function, inputs: dict[str, Array], name: str, where: int | Array
) -> tuple[float, float]:
    """What remains of slopes where f is least: of a numerical one, and of a right one.

    The first is the round-off of f at a step of |x|, of 1 for small ones; the second how far a
    slope moves with the last bits of the inputs: both a few eps |x| |f''|. The curvature is that
    of the steeper side, since f'' is 0 at an inflection; next to a minimum it is much steeper than
    there, which tells it from a slope.
    """
    line, f0 = Line(f, inputs, name, where), evaluate(f, inputs)
    h = line.eps**0.25 * line.reach  # balances truncation and round-off in a second difference
    steepest = max(abs(f_h - f0) for _, f_h in map(line, (h, -h))) / h
    bits = 16 * line.eps * steepest / h
    largest = max(float(np.abs(x).max()) for x in inputs.values())
    if not math.isfinite(bits):
        return 0.0, 0.0
    return bits * line.reach, min(bits * largest, 0.1 * steepest)


def value_and_noise(f: Function, inputs: dict[str, Array], name: str) -> tuple[float, float]:
    """f, and its round-off: how unevenly it moves when the tensor moves by its last bits.

    Second differences of f at x + k h |x| (of 1 where x is 0), on each side of x apart, so that a
    jump of f at x is not taken for noise. In float64 h is 64 eps: by less, an f that is the
    difference of two larger numbers may not move at all. An f that rounds on the way, to float32
    say, stands still there. Such a one is looked at from further away, until each step moves it, by
    fourth differences, in which its curvature does not show.
    """
    x = inputs[name]
    line = Line(f, inputs, name, np.where(x == 0, 1, x))
    with np.errstate(all="ignore"):
        dtype = np.asarray(f(inputs)).dtype
    f0 = evaluate(f, inputs)
    eps = max(line.eps, float(np.finfo(dtype).eps) if dtype.kind == "f" else 0.0)
    h = 64 * eps if eps < 1e-10 else eps

    def sides(h: float) -> Array:
        return np.array([[line(s * k * h)[1] for k in range(1, 8)] for s in (1, -1)])

    def uneven(sides: Array, order: int) -> float:
        if not np.isfinite(sides).all():
            return 0.0
        return float(np.abs(np.diff(sides, order)).max(axis=1).min()) / 2

    def moves(side: Array) -> bool:
        return bool((side[1:] != side[:-1]).all())

    near = sides(h)
    noise = max(eps * abs(f0), uneven(near, 2))
    if eps < 1e-10 and not any(map(moves, near)):
        far = min(abs(line(t)[1] - f0) for t in (1e-3, -1e-3))
        if 7 * h * far / 1e-3 > 4 * eps * abs(f0):  # it should have moved
            steps = [3 * 10.0**k for k in range(-12, -3)]  # powers of 2 could keep time with it
            moved = next((each for each in map(sides, steps) if all(map(moves, each))), near)
            noise = max(noise, uneven(moved, 4))
    return f0, noise


def check_method(method: str) -> None:
    """Raise ValueError unless `method` is one of METHODS."""
    if method not in METHODS:
        raise ValueError(f"method: got {method!r}, want one of {', '.join(METHODS)}")


def as_dict(f: Function, x: Any) -> tuple[Function, dict[str, Array], bool]:
    """f and x as f of a dict of arrays, and whether x was a single array (then named "x")."""
    single = not isinstance(x, Mapping)
    inputs = {"x": x} if single else dict(x)
    if not inputs:
        raise ValueError("inputs: got none, want at least one array")
    for name, array in inputs.items():
        if not isinstance(name, str):
            raise ValueError(f"inputs: got the name {name!r}, want a string")
        if not isinstance(array, np.ndarray) or array.dtype not in DTYPES or array.size == 0:
            got = f"{type(array).__name__} of {getattr(array, 'dtype', '?')}"
            raise ValueError(
                f"{name}: got {got}, want a NumPy array, float64 or float32, not empty"
            )
        if not array.flags.writeable:
            raise ValueError(
                f"{name}: got a read-only array; it is perturbed in place, pass a copy"
            )
    return (lambda values: f(values["x"])) if single else f, inputs, single


def numerical_gradient(f: Function, x: Any, method: str = "richardson") -> Any:
    """The gradient of f by every element of x, an array or a dict of named arrays, in float64.

    `method` is "richardson" (10 digits or more where f is smooth), "complex" (all digits, where f
    takes complex numbers; elsewhere Richardson) or "central". At a kink the result is the mean of
    the two one-sided derivatives; where f jumps or is not finite it is NaN. Costs about 10, 3 and 4
    evaluations of f an element. Arrays are perturbed in place and put back bit for bit.
    """
    check_method(method)
    function, inputs, single = as_dict(f, x)
    result = {}
    for name, array in inputs.items():
        slopes = differentiate(function, inputs, name, range(array.size), method)
        result[name] = np.array([d.value for d in slopes]).reshape(array.shape)
    return result["x"] if single else result
