"""What is wrong with a gradient: verdicts, and a mistake in words, without the right gradient.

`explain` holds a claimed gradient against the right one and names the mistake: a constant factor
and what it stands for, a transpose, a missing or doubled term, some rows only. It prints ratios and
positions, never an entry of the right gradient, so that it can be used for grading.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]

AXES = {
    **{"B": "the batch", "D": "the features", "H": "the hidden units"},
    **{"L": "the latents", "K": "the samples", "C": "the classes"},
}
CONSTANTS = {
    2.0: "counts twice, or has lost a 1/2",
    0.5: "has a 1/2 too many, or counts once of two",
}


PASSING = frozenset({"ok", "kink"})
#: A tolerance from which on a table says it.
LOOSE = 1e-3


@dataclass(frozen=True)
class Finding:
    """One mistake: a `kind` for programs, a sentence, and its numbers (JSON-safe)."""

    kind: str
    text: str
    numbers: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TensorReport:
    """The verdict on one tensor.

    `norm_error` is |a - n| / max(|a|, |n|) over what was checked; `worst_error` is the largest
    relative error of one element, as far as it exceeds the uncertainty of the numerical derivative;
    `numeric_error` is that uncertainty, relative to the tensor's largest element. `verdict` is
    "ok", "kink" (right; some elements are subgradients at a kink), "wrong", "wrong shape",
    "not finite", or "inconclusive" (too uncertain to tell, which is no pass).
    """

    name: str
    shape: tuple[int, ...]
    verdict: str
    findings: tuple[Finding, ...] = ()
    norm_error: float = math.nan
    worst_error: float = math.nan
    worst_index: tuple[int, ...] | None = None
    numeric_error: float = math.nan
    method: str = "-"
    checked: str = "-"
    kinks: tuple[tuple[int, ...], ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the gradient is right."""
        return self.verdict in PASSING

    def refuse(self, verdict: str, *findings: Finding) -> TensorReport:
        """This report with another verdict, and more findings."""
        return replace(self, verdict=verdict, findings=(*self.findings, *findings))


@dataclass(frozen=True)
class Report:
    """The verdicts on all tensors, by name; `str` is a table, `to_dict` is safe for JSON."""

    tensors: tuple[TensorReport, ...]
    tolerance: float

    @property
    def ok(self) -> bool:
        """Whether every gradient is right."""
        return all(t.ok for t in self.tensors)

    @property
    def verdict(self) -> str:
        """The worst verdict: one that is no pass, else "kink", else "ok"."""
        return max((t.verdict for t in self.tensors), key=lambda v: (v not in PASSING, v != "ok"))

    @property
    def worst(self) -> float:
        """The largest relative error of any tensor, by norm or by element; NaN if unknown."""
        return float(np.max([[t.norm_error, t.worst_error] for t in self.tensors]))

    @property
    def method(self) -> str:
        """How the numerical derivatives were made."""
        return ", ".join(dict.fromkeys(t.method for t in self.tensors))

    def __getitem__(self, name: str) -> TensorReport:
        for tensor in self.tensors:
            if tensor.name == name:
                return tensor
        raise KeyError(f"report: got {name!r}, want one of {', '.join(self)}")

    def __iter__(self) -> Iterator[str]:
        return (tensor.name for tensor in self.tensors)

    def refuse(self, name: str, finding: Finding) -> Report:
        """This report with the verdict "wrong" on one tensor, and why."""
        tensors = [t.refuse("wrong", finding) if t.name == name else t for t in self.tensors]
        return replace(self, tensors=tuple(tensors))

    def __str__(self) -> str:
        rows = [("tensor", "shape", "checked", "by norm", "worst", "method", "kinks", "verdict")]
        for t in self.tensors:
            errors = (f"{t.norm_error:.1e}", f"{t.worst_error:.1e}")
            kinks = str(len(t.kinks) or "-")
            rows.append((t.name, str(t.shape), t.checked, *errors, t.method, kinks, t.verdict))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        lines += [f"  {g.text}" for t in self.tensors for g in t.findings]
        if self.tolerance >= LOOSE:
            lines.append(f"  held to {self.tolerance:.0e} only; float64 throughout decides more")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain dicts, lists, strings and numbers; NaN and infinity become None."""
        plain: dict[str, Any] = _plain(asdict(self))
        return {"ok": self.ok, "verdict": self.verdict, **plain}

    def raise_if_wrong(self) -> None:
        """Raise AssertionError with the table and the findings, unless every gradient is right."""
        if not self.ok:
            raise AssertionError(f"gradient check failed\n{self}")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


def explain(
    analytic: ArrayLike,
    numeric: ArrayLike,
    *,
    terms: Mapping[str, ArrayLike] | None = None,
    sizes: Mapping[str, int] | None = None,
    batch_axis: int | None = 0,
    name: str = "gradient",
    noun: str = "gradient",
    tolerance: float = 1e-6,
    uncertainty: ArrayLike | None = None,
) -> list[Finding]:
    """Say how `analytic` differs from `numeric`, the right gradient; [] if it does not.

    `terms` names arrays whose sum is the right gradient, such as {"reconstruction": r, "KL": k};
    `sizes` gives letters to numbers, such as {"B": 7, "L": 3}: take different primes, so that a
    factor has one name. `batch_axis` is the axis of the examples, None where there is none. `noun`
    is what the arrays are; where it is no gradient, nothing is said of angles and activations.
    Entries are equal if they differ by at most `uncertainty` (that of `numeric`; by default 1e-3
    tolerance times its largest entry) plus `tolerance` times their size. The most specific finding
    comes first. Kinds: "wrong shape", "not finite", "zero", "factor", "transposed", "term", "rows",
    "columns", "slices", "offset", "sign", "elements", "different".
    """
    a, n = np.asarray(analytic, dtype=np.float64), np.asarray(numeric, dtype=np.float64)
    if not np.isfinite(n).all():
        raise ValueError("numeric: got NaN or infinite values, want the right gradient")
    if a.shape != n.shape or not np.isfinite(a).all():
        return [unusable(a, n.shape, name)]
    largest = float(np.abs(n).max(initial=0)) or 1.0  # to which everything is relative from here on
    doubt = 1e-3 * tolerance if uncertainty is None else np.asarray(uncertainty) / largest
    slack = np.broadcast_to(doubt, n.shape)
    comparison = _Comparison(
        a / largest, n / largest, slack, tolerance, name, noun, dict(sizes or {})
    )
    if comparison.right.all():
        return []
    arrays = {term: np.asarray(t) / largest for term, t in (terms or {}).items()}
    findings = []
    for finding in comparison.mistakes(arrays, batch_axis):
        findings.append(finding)
        if "collinear" not in finding.numbers:  # that one explains nothing yet
            break
    return findings


def unusable(a: Array, shape: tuple[int, ...], name: str) -> Finding:
    """Say why the claim `a` cannot be compared with a gradient of shape `shape`."""
    if a.shape == shape:
        bad = ~np.isfinite(a)
        nan = int(np.isnan(a).sum())
        counts = {"nan": nan, "inf": int(bad.sum()) - nan}
        what = " and ".join(f"{count} {kind}" for kind, count in counts.items() if count)
        where = positions(np.flatnonzero(bad).tolist(), shape)
        return Finding("not finite", f"{name} has {what} in {a.size} elements, {where}", counts)
    why = misshapen(a.shape, shape)
    text = f"{name} has shape {a.shape}, want {shape}" + (why and f": {MISSHAPEN[why]}")
    return Finding("wrong shape", text, {"shape": list(a.shape), "want": list(shape)})


MISSHAPEN = {
    "transposed": "that of the transpose",
    "kept_axes": "an axis of length 1 too many (of keepdims=True?)",
    "reordered": "the right number of elements in another shape",
    "not_summed": "not summed over the batch",
    "other_axes": "summed over the wrong axes",
}


def misshapen(shape: tuple[int, ...], want: tuple[int, ...]) -> str:
    """Return which of ``MISSHAPEN`` explains a wrong shape; empty where none does."""
    if len(shape) == 2 and shape == want[::-1]:
        return "transposed"
    if len(shape) > len(want) and [n for n in shape if n > 1] == [n for n in want if n > 1]:
        return "kept_axes"
    if math.prod(shape) == math.prod(want):
        return "reordered"
    if len(shape) == len(want) + 1 and shape[1:] == want:
        return "not_summed"
    if len(shape) <= 1 and (len(want) == 1 or math.prod(shape) in (1, *want)):
        return "other_axes"
    return ""


@dataclass
class _Comparison:
    """A claimed gradient a beside the right one n; each method looks for one kind of mistake."""

    a: Array
    n: Array
    slack: Array
    tolerance: float
    name: str
    noun: str
    sizes: dict[str, int]

    def __post_init__(self) -> None:
        self.right = np.abs(self.a - self.n) <= self.slack + self.tolerance * np.abs(self.n)

    def mistakes(self, terms: dict[str, Array], batch_axis: int | None) -> Iterator[Finding]:
        """The mistakes that explain the difference, most specific first, looked for one by one."""
        looks = [self.zero, self.factor, self.transposed, lambda: self.terms(terms), self.offset]
        for axis in sorted(range(self.a.ndim), key=lambda axis: axis != batch_axis):
            looks.append(partial(self.along, axis, axis == batch_axis))
        yield from filter(None, (look() for look in looks))
        yield self.elements()

    def fits(self, model: Array, where: Any = ..., factor: float = 1.0) -> bool:
        """Whether `model`, which stands for a there and was scaled by `factor`, is a."""
        a, slack = self.a[where], self.slack[where] * max(1.0, abs(factor))
        return bool((np.abs(a - model) <= 4 * (slack + self.tolerance * np.abs(model))).all())

    def ratio(self, where: Any = ...) -> float | None:
        """The c of a = c n, if there is one."""
        a, n = self.a[where], self.n[where]
        c = float(np.vdot(n, a) / (np.vdot(n, n) or math.nan))
        return c if self.fits(c * n, where, c) else None

    def zero(self) -> Finding | None:
        if self.a.any():
            return None
        return Finding("zero", f"{self.name} is zero everywhere: not written, or cut off somewhere")

    def factor(self) -> Finding | None:
        c = self.ratio()
        if c is None or not self.a.any():
            return None
        reason, names = describe(c, self.sizes, self.tolerance, "it")
        text = f"{self.name} = {number(c)} x the right {self.noun}{reason if names else ''}"
        return Finding("factor", text, {"factor": c, "names": names})

    def transposed(self) -> Finding | None:
        if self.a.ndim != 2 or self.a.shape != self.n.T.shape or not self.fits(self.n.T):
            return None
        return Finding("transposed", f"{self.name} is the transpose of the right {self.noun}")

    def terms(self, terms: dict[str, Array]) -> Finding | None:
        """Least squares: a = sum of c_k term_k, where every c_k should be 1."""
        terms = {k: t for k, t in terms.items() if np.abs(t).max() > self.slack.max()}
        if not 2 <= len(terms) <= self.a.size:
            return None
        columns = np.stack([t.ravel() for t in terms.values()], axis=1)
        lengths = np.linalg.norm(columns, axis=0)
        fit, _, _, singular = np.linalg.lstsq(columns / lengths, self.a.ravel())
        if not self.fits((columns / lengths @ fit).reshape(self.a.shape)):
            return None
        if singular[-1] < 1e-5 * singular[0]:
            text = (
                f"{self.name}: {' and '.join(terms)} are proportional to each other here, so that "
                "a wrong one cannot be told: take other inputs"
            )
            return Finding("term", text, {"collinear": list(terms)})
        coefficients = dict(zip(terms, (fit / lengths).tolist(), strict=True))
        formula = " + ".join(f"{number(c)} x {term}" for term, c in coefficients.items())
        text = f"{self.name} = {formula.replace('+ -', '- ')}"
        names: dict[str, list[str]] = {}
        doubt = 10 * self.tolerance * singular[0] / singular[-1]
        for term, c in coefficients.items():
            if abs(c - 1) > doubt:
                reason, names[term] = describe(c, self.sizes, self.tolerance, f"your {term}")
                text += f";{reason[1:]}" if len(names) > 1 and reason[0] == ":" else reason
        if not names or len(names) == columns.any(axis=1).sum():  # so many fit anything
            return None
        return Finding("term", text, {"coefficients": coefficients, "names": names})

    def along(self, axis: int, is_batch: bool) -> Finding | None:
        others = tuple(k for k in range(self.a.ndim) if k != axis)
        wrong = (~self.right).mean(axis=others)
        bad, good = np.flatnonzero(wrong > 0.5), np.flatnonzero(wrong == 0)
        if not others or len(bad) == 0 or len(bad) + len(good) < len(wrong):
            return None
        kind = ("rows", "columns")[axis] if axis < 2 else "slices"
        noun = "batch rows" if is_batch and self.sizes.get("B") == len(wrong) else kind
        at = [(slice(None),) * axis + (int(i),) for i in bad]
        ratios = [self.ratio(where) for where in at]
        numbers = {"right": good.tolist(), "wrong": bad.tolist(), "factors": ratios}
        if len(good):
            rows = f"{noun[:-1]} {good[0]}" if len(good) == 1 else f"{noun} {listed(good)}"
            text = f"{self.name} is right in {rows} and wrong in {listed(bad)}"
        else:
            text = f"{self.name} is wrong in all {noun}"
        factors = [r for r in ratios if r is not None]
        if len(factors) < len(bad) or self.a.size == len(wrong):
            return Finding(kind, text, numbers) if len(good) else None
        if np.ptp(factors) <= 1e-4 * np.abs(factors).max() + 1e-9:
            text += f", where it is {number(factors[0])} x the right {self.noun}"
            text += describe(factors[0], self.sizes, self.tolerance, "it")[0]
        else:
            text += ", by a factor of its own in each: " + ", ".join(map(number, factors[:6]))
        return Finding(kind, text, numbers)

    def offset(self) -> Finding | None:
        cases: list[tuple[int | None, str]] = [(None, "to every element")]
        if self.a.ndim > 1 and self.a.shape[-1] > 2:
            cases.append((-1, "to each row: a term with the sum over the row is lost or wrong"))
        for axis, where in cases:
            constant = (self.a - self.n).mean(axis=axis, keepdims=True)
            if self.a.size > 1 and self.fits(self.n + constant):
                text = f"{self.name} is right but for a constant added {where}"
                return Finding("offset", text, {} if axis is None else {"axis": axis})
        return None

    def elements(self) -> Finding:
        """What is left to say: where, and whether at least the direction is right."""
        wrong = np.flatnonzero(~self.right)
        k, size = len(wrong), self.a.size
        text, numbers = f"{self.name} is wrong in {k} of {size} elements", {"wrong": k, "of": size}
        if self.fits(np.copysign(self.n, self.a)):
            return Finding("sign", f"{text}, by the sign only", numbers)
        if 2 * k <= size:
            text += f", {positions(wrong.tolist(), self.a.shape)}"
            return Finding("elements", text, {**numbers, "at": indices(wrong, self.a.shape)})
        if self.noun != "gradient":
            return Finding("different", text, numbers)
        if np.all(self.a.ravel()[wrong] * self.n.ravel()[wrong] > 0):
            text += (
                ", each by a positive factor of its own: a factor that depends on the element is "
                "lost or too many, such as sigma or the derivative of an activation"
            )
            return Finding("different", text, numbers)
        norms = float(np.linalg.norm(self.a) * np.linalg.norm(self.n))
        cosine = float(np.vdot(self.a, self.n)) / norms if norms else 0.0
        text += f"; the cosine of its angle with the right gradient is {cosine:.3f}"
        return Finding("different", text, numbers | {"cosine": cosine})


def describe(
    c: float, sizes: Mapping[str, int], tolerance: float, subject: str
) -> tuple[str, list[str]]:
    """Say why `subject` may come out multiplied by c, and give the names of c."""
    if abs(c) < 1e-6:
        return f": {subject} is missing", ["0"]
    found = name_factor(c, sizes, max(1e-7, min(10 * tolerance, 1e-3)))
    if not found:
        return f": {subject} should have the factor 1", []
    names = [name for name, _ in found]
    reasons = ", or ".join(dict.fromkeys(f"{subject} {reason}" for _, reason in found))
    known = "" if names[0] in ("-1", "2", "-2") else f", and {number(c)} = {' = '.join(names)}"
    return f"{known}: {reasons}", names


def name_factor(
    c: float, sizes: Mapping[str, int], tolerance: float = 1e-6
) -> list[tuple[str, str]]:
    """The simplest products of 2, 1/2, -1 and the sizes that equal c, each with what it means."""
    letters = {name: size for name, size in sizes.items() if size > 1}
    found: dict[int, list[tuple[str, str]]] = {}
    powers = itertools.product((0, -1, 1, -2, 2), repeat=len(letters))
    for exponents, constant in itertools.product(powers, (1.0, 2.0, 0.5)):
        cost = sum(map(abs, exponents)) + (constant != 1)
        value = constant * math.prod(map(pow, letters.values(), exponents))
        if cost <= 3 and math.isclose(abs(c), value, rel_tol=tolerance):
            found.setdefault(cost, []).append(
                _spell(dict(zip(letters, exponents, strict=True)), constant, c < 0)
            )
    best = sorted(found[min(found)]) if found else []
    return [] if best and best[0][0] == "1" else best


def _spell(exponents: dict[str, int], constant: float, negative: bool) -> tuple[str, str]:
    """The name of a factor, such as 2/(B*L), and what whoever has it has done."""
    over = [k for k, e in exponents.items() if e > 0]
    under = [k for k, e in exponents.items() if e < 0]
    powers = {k: k if abs(e) == 1 else f"{k}^{abs(e)}" for k, e in exponents.items()}
    above = [powers[k] for k in over] + ["2"] * (constant == 2)
    below = [powers[k] for k in under] + ["2"] * (constant == 0.5)
    name = "*".join(above) or "1"
    if below:
        name += f"/{below[0]}" if len(below) == 1 else f"/({'*'.join(below)})"
    reasons = ["has the wrong sign"] if negative else []
    if under:
        axes = " and ".join(AXES.get(k, k) for k in under)
        reasons.append(f"is averaged over {axes} once too often")
    if over:
        axes = " and ".join(AXES.get(k, k) for k in over)
        reasons.append(f"is summed over {axes}, it should be averaged")
    if constant in CONSTANTS:
        reasons.append(CONSTANTS[constant])
    return ("-" if negative else "") + name, "; ".join(reasons)


def number(c: float) -> str:
    """c with three decimals, or more where these would hide something."""
    if abs(c) < 1e-9:
        return "0.000"
    rounded = f"{c:.3f}"
    hides = abs(float(rounded) - c) > 2e-3 * abs(c) or (rounded == "1.000" and abs(c - 1) > 1e-7)
    return f"{c:.3g}" if hides and abs(c) < 0.5 else f"{c:.10g}" if hides else rounded


def positions(flat: Sequence[int], shape: tuple[int, ...]) -> str:
    """Where the indices `flat` lie in an array of `shape`: the first three."""
    more = f" and {len(flat) - 3} more" if len(flat) > 3 else ""
    return "at " + ", ".join(str(tuple(index)) for index in indices(flat, shape)) + more


def indices(flat: Sequence[int] | Array, shape: tuple[int, ...]) -> list[list[int]]:
    """The indices by axis of the first three of `flat`."""
    return [[int(k) for k in np.unravel_index(i, shape)] for i in flat[:3]]


def listed(indices: Array) -> str:
    """The first six of some row numbers."""
    more = f" and {len(indices) - 6} more" if len(indices) > 6 else ""
    return ", ".join(map(str, indices[:6])) + more
