"""The two oracles over a learner's answer: which one objects, and why.

The gradient oracle works in float64, at fresh random numbers and sizes. An array passes if it is
the derived gradient up to rounding and `check_gradients` finds it to be the numerical gradient of
the package's own loss; what is wrong with another, `explain` says. The meaning oracle asks for what
a gradient check cannot see: the exercise's properties, and that an answer leaves its inputs alone,
gives the same answer twice and stays in float64.

    python -m scratchvae.practice.grade content/exercises/02_relu.toml

grades the blank, the solution and every mutant of a file, for whoever writes one.
"""

from __future__ import annotations

import ast
import re
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from scratchvae.explain import Finding, explain, unusable
from scratchvae.gradcheck import check_gradients, numerical_gradient
from scratchvae.practice import child, diagnosis, effort, sandbox
from scratchvae.practice.exercises import Exercise, Output, Text, load
from scratchvae.practice.sandbox import Outcome, Problem

ROUNDS = 3
TOLERANCE = 1e-8  # of the numerical gradient
ROUGH = 1e-6  # of the terms of a wrong gradient, which are plain central differences
NEAR = 1e-7  # of the right function's value: a difference quotient or an approximation
CLOSE = 1e-5  # of the same: a small number is added in a denominator, say
EXACT = 1e-13  # of the right function's value: rounding only
LARGE = 2.0**27  # inputs so many times as large: a difference with a step of its own loses digits
#: What an answer may compute: so many times what the solution does, and for each number that it is
#: given and returns. Derivatives take one or two values of a curved function for each number, or
#: for each number given, if a loop does not keep them; difference quotients that agree to EXACT,
#: without a step so small that it is seen, take six or more.
WORK, CURVED = (10, 10), (1, 4)


@dataclass(frozen=True)
class Judged:
    """The verdict on one output: `findings` say what is wrong; none, if it is right."""

    name: str
    oracle: str
    findings: tuple[Finding, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether it is right."""
        return not self.findings


@dataclass(frozen=True)
class Objection:
    """What the meaning oracle has against an answer.

    `kind` is "property" (of the exercise: `text`), or "changed", "again" or "dtype" (`names`).
    """

    kind: str
    names: tuple[str, ...] = ()
    text: Text = field(default_factory=dict)


@dataclass(frozen=True)
class Grade:
    """What became of an answer.

    `problem` is what stopped it before the oracles were asked. `line` is where the answer returned.
    `altered` are given functions that the learner's file has changed.
    """

    problem: Problem | None = None
    outputs: tuple[Judged, ...] = ()
    objections: tuple[Objection, ...] = ()
    line: int | None = None
    source: str = ""
    printed: str = ""
    altered: tuple[str, ...] = ()
    seed: int = 0

    @property
    def ok(self) -> bool:
        """Whether the answer passes."""
        verdicts = {self.gradient, self.meaning}
        return self.problem is None and "content" in verdicts and "objects" not in verdicts

    @property
    def gradient(self) -> str:
        """ "content", "objects", or "silent" (not asked)."""
        return self._verdict("gradient", False)

    @property
    def meaning(self) -> str:
        """ "content", "objects", or "silent" (not asked)."""
        return self._verdict("meaning", bool(self.objections))

    def _verdict(self, oracle: str, objects: bool) -> str:
        mine = [judged for judged in self.outputs if judged.oracle == oracle]
        if objects or any(not judged.ok for judged in mine):
            return "objects"
        if not self.outputs or (oracle == "gradient" and not mine):
            return "silent"
        return "silent" if oracle == "meaning" and _broken(self.outputs) else "content"


def _broken(outputs: Sequence[Judged]) -> bool:
    """Whether an array is such that nothing can be said about its meaning."""
    return any(finding.kind in diagnosis.BROKEN for one in outputs for finding in one.findings)


def grade(exercise: Exercise, path: Path, *, seed: int | None = None) -> Grade:
    """Grade the learner's file `path`. `seed` draws the numbers; by default it is fresh."""
    try:
        source = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return Grade(problem=Problem("unreadable", text=error.reason))
    return grade_sources(exercise, [source], seed=seed)[0]


def grade_sources(
    exercise: Exercise,
    sources: Sequence[str],
    *,
    seed: int | None = None,
    seconds: float = sandbox.SECONDS,
) -> list[Grade]:
    """Grade several answers to one exercise, in one process and on the same numbers."""
    seed = secrets.randbits(32) if seed is None else seed
    trial = _Trial(exercise, seed)
    honest = any(output.of for output in exercise.outputs)  # else there is no gradient to nudge for
    outcomes = sandbox.call_sources(
        sources,
        exercise.function,
        [[at[name] for name in exercise.arguments] for at in trial.cases],
        seconds=seconds,
        honest=honest,
        limits=trial.limits() if honest else (),
        twice=True,
    )
    grades = []
    for source, outcome in zip(sources, outcomes, strict=True):
        judged = trial.judge(outcome)
        line = sandbox.line_text(source, judged.line)
        problem = judged.problem and replace(judged.problem, source=line)
        judged = replace(judged, problem=problem, source=line, altered=_altered(exercise, source))
        grades.append(replace(judged, seed=seed, printed=outcome.printed))
    return grades


def _altered(exercise: Exercise, source: str) -> tuple[str, ...]:
    """The given functions that are not as they were given."""

    def functions(text: str) -> dict[str, str]:
        return {
            node.name: ast.dump(ast.Module(_without_docstring(node.body), []))
            for node in sandbox.parsed(text).body
            if isinstance(node, ast.FunctionDef)
        }

    try:
        mine, theirs = functions(exercise.given), functions(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ()  # which is its problem already
    return tuple(name for name, body in mine.items() if theirs.get(name, body) != body)


def _same(a: Any, b: Any) -> bool:
    """Whether two arrays are the same but for the order in which a sum was rounded."""
    if "b" in (a.dtype.kind, b.dtype.kind):
        return bool(np.array_equal(a, b))
    finite = np.isfinite(a)
    if a.shape != b.shape or not np.array_equal(finite, np.isfinite(b)):
        return False
    largest = np.abs(a[finite]).max(initial=0)
    return bool((np.abs(a[finite] - b[finite]) <= 1e-13 * largest).all())


def _near(a: Any, b: Any, tolerance: float = EXACT) -> bool:
    """Whether a is b up to rounding, which float32 does sooner."""
    if a.shape != b.shape:
        return False
    off = np.abs(a - b).max(initial=0) / (np.abs(b).max(initial=0) or 1.0)
    return bool(off <= (tolerance if a.dtype == np.float64 else max(tolerance, 1e-5)))


def _without_docstring(body: list[Any]) -> list[Any]:
    first = body[0]
    doc = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return body[1:] if doc else body


class _Trial:
    """The numbers of one run: drawn once, used for every answer that is graded on them."""

    def __init__(self, exercise: Exercise, seed: int) -> None:
        self.exercise, self.seed = exercise, seed
        self.sizes = [exercise.sizes([seed, i]) for i in range(ROUNDS)]
        self.rounds = [exercise.drawn([seed, i], s) for i, s in enumerate(self.sizes)]
        self.properties: list[list[dict[str, Any]]] = []
        for i, prop in enumerate(exercise.properties):
            key = [seed, ROUNDS + i]
            sizes = exercise.sizes(key)
            self.properties.append([sizes, *(exercise.drawn(key, sizes, c) for c in prop.cases)])
        self.cases = self.rounds + [at for cases in self.properties for at in cases[1:]]
        self.cases.append(self.enlarged())
        self.right = [self.reference(at) for at in self.cases]

    def reference(self, at: Mapping[str, Any]) -> list[Any]:
        """The right arrays at the drawn names `at`."""
        with np.errstate(all="ignore"):
            value = self.exercise.reference(*self.arguments(at))
        values = list(value) if isinstance(value, tuple) else [value]
        if len(values) != len(self.exercise.outputs):
            raise ValueError(f"{self.exercise.stem}: the solution returns {len(values)} values")
        return [np.asarray(one) for one in values]

    def enlarged(self) -> dict[str, Any]:
        """Numbers of which those are large in which the answer is a polynomial.

        There a derivation is as exact as anywhere. A difference quotient of a polynomial, which
        elsewhere is exact with the right step, is not, unless its step grows with the numbers.
        """
        draws = self.exercise.draw
        floats = [
            name
            for name in draws
            if "rng" in draws[name] and getattr(self.rounds[0][name], "dtype", None) == np.float64
        ]
        free = [name for name in floats if self.is_polynomial(name) and self.is_steady(name)]
        return self.redrawn(dict.fromkeys(free, LARGE))

    def redrawn(self, factors: Mapping[str, float]) -> dict[str, Any]:
        """The numbers of the first round with some of them multiplied, before others follow."""
        replaced = {name: f"{name} * {factor!r}" for name, factor in factors.items()}
        return self.exercise.drawn([self.seed, 0], self.sizes[0], replaced)

    def is_polynomial(self, name: str) -> bool:
        """Whether the answer is a polynomial of degree three at most in the size of an array."""
        sized = [self.reference(self.redrawn({name: k})) for k in (1.0, 2.0, 3.0, 4.0, 5.0)]
        return all(
            np.abs(np.diff(values, 4, axis=0)).max(initial=0) <= 1e-9 * np.abs(values[-1]).max()
            for values in map(np.array, zip(*sized, strict=True))
        )

    def is_steady(self, name: str) -> bool:
        """Whether rounding is not magnified where an array is large, as it is by z - mu."""
        at, rng = self.redrawn({name: LARGE}), np.random.default_rng(self.seed)
        shaken = {
            k: v * (1 + 1e-12 * rng.uniform(-1, 1, v.shape))
            for k, v in at.items()
            if getattr(v, "dtype", None) == np.float64
        }
        values = zip(self.reference(at), self.reference({**at, **shaken}), strict=True)
        return all(_near(b, a, 1e-10) for a, b in values)

    def arguments(self, at: Mapping[str, Any]) -> list[Any]:
        """Copies of the arguments at the drawn names `at`."""
        given = (at[name] for name in self.exercise.arguments)
        return [np.copy(v) if isinstance(v, np.ndarray) else v for v in given]

    def limits(self) -> list[tuple[int, int]]:
        """How many values an answer may compute in each case, and how many of curved functions.

        There is none for the last case, where a step such as 1 is small.
        """
        work, limits = effort.Effort(), []
        source = f"{self.exercise.given}\n{self.exercise.solution}"
        names: dict[str, Any] = dict(work.names)
        exec(effort.instrumented(source, f"<{self.exercise.stem}>"), names)
        for at, right in [*zip(self.cases, self.right, strict=True)][:-1]:
            work.values = work.curved = 0
            with np.errstate(all="ignore"):
                names[self.exercise.function](*self.arguments(at))
            numbers = sum(map(np.size, [*self.arguments(at), *right]))
            largest = max(map(np.size, [*self.arguments(at), *right]))
            limits.append(
                (
                    WORK[0] * work.values + WORK[1] * numbers + 100,
                    CURVED[0] * work.curved + CURVED[1] * largest + 20,
                )
            )
        return limits

    def judge(self, outcome: Outcome) -> Grade:
        """Ask both oracles about what the learner's function returned."""
        if outcome.problem:
            return Grade(problem=outcome.problem, line=outcome.problem.line)
        if len(outcome.returned) != len(self.cases):
            return Grade(problem=Problem("died", name="0"))
        answers = []
        for value, line in zip(outcome.returned, outcome.lines, strict=True):
            answer = self.arrays(value, line)
            if isinstance(answer, Problem):
                return Grade(problem=answer, line=answer.line)
            answers.append(answer)
        line = outcome.lines[0]
        outputs: tuple[Judged, ...] = ()
        for i in range(ROUNDS):
            outputs = self.outputs(i, answers[i])
            if any(not judged.ok for judged in outputs):
                line = outcome.lines[i]
                break
        imprecise = [o.name for o in outputs if any(f.kind == "imprecise" for f in o.findings)]
        if all(judged.ok for judged in outputs):
            imprecise = self.inexact(answers[-1])
        if imprecise:
            return Grade(problem=Problem("imprecise", line, name=imprecise[0]), line=line)
        objections = [] if _broken(outputs) else self.objections(outcome, answers)
        return Grade(outputs=outputs, objections=tuple(objections), line=line)

    def inexact(self, answer: list[Any]) -> list[str]:
        """The gradients that have lost digits where the arguments are large."""
        return [
            output.name
            for output, mine, right in zip(
                self.exercise.outputs, answer, self.right[-1], strict=True
            )
            if not output.value and not _near(mine, right)
        ]

    def arrays(self, value: Any, line: int | None) -> list[Any] | Problem:
        """The arrays that were returned, or what was returned instead of them."""
        want = len(self.exercise.outputs)
        names = ", ".join(output.name for output in self.exercise.outputs)
        if value is None:
            return Problem("none", line, name=self.exercise.function, text=names)
        if want == 1 and isinstance(value, list) and len(value) != 1:  # of numbers, or of rows
            return Problem("type", line, name=names, text="list")
        values = list(value) if isinstance(value, tuple | list) else [value]
        if len(values) != want:
            return Problem("count", line, name=str(len(values)), text=names)
        for output, one in zip(self.exercise.outputs, values, strict=True):
            if one is None:
                return Problem("none of", line, name=output.name, text=names)
            if not isinstance(one, np.ndarray | float | int):
                kind = one.name if isinstance(one, child.Other) else type(one).__name__
                return Problem("type", line, name=output.name, text=kind)
        return [np.asarray(one) for one in values]

    def outputs(self, i: int, answer: list[Any]) -> tuple[Judged, ...]:
        """The verdicts on all outputs of round i, in backward order."""
        judged = []
        for output, mine, right in zip(self.exercise.outputs, answer, self.right[i], strict=True):
            look = self.value if output.value else self.gradient
            judged.append(Judged(output.name, output.oracle, look(i, output, mine, right)))
        return tuple(
            self.swapped(i, one, mine, judged) for one, mine in zip(judged, answer, strict=True)
        )

    def swapped(self, i: int, one: Judged, mine: Any, judged: Sequence[Judged]) -> Judged:
        """The verdict `one`, unless its array belongs to another output that is wrong as well."""
        for other, right in zip(judged, self.right[i], strict=True):
            if not one.ok and not other.ok and other != one and _near(mine, right, NEAR):
                text = f"{one.name} holds what belongs to {other.name}: look at the return's order"
                return replace(one, findings=(Finding("swapped", text, {"other": other.name}),))
        return one

    def value(self, i: int, output: Output, mine: Any, _: Any) -> tuple[Finding, ...]:
        """What is wrong with an output that is no gradient."""
        names = {**self.sizes[i], **self.rounds[i]}
        right = np.asarray(self.exercise.evaluate(output.value, names))
        found = explain(
            mine,
            right,
            terms={name: self.exercise.evaluate(t, names) for name, t in output.terms.items()},
            sizes=self.sizes[i],
            name=output.name,
            noun="value",
            tolerance=1e-9 if mine.dtype == np.float64 else 1e-5,
            batch_axis=None,
        )
        return tuple(found)

    def gradient(self, i: int, output: Output, mine: Any, right: Any) -> tuple[Finding, ...]:
        """What is wrong with a gradient.

        It must be the right function's value up to rounding, which no difference quotient reaches,
        and that value must be the numerical gradient of the loss.
        """
        if mine.dtype.kind == "c":
            return (Finding("complex", f"{output.name} is complex"),)
        if mine.shape != right.shape or not np.isfinite(mine).all():
            return (unusable(mine.astype(float), right.shape, output.name),)
        double = mine.dtype == np.float64  # if it is not, the meaning oracle objects to that
        exact = _near(mine, right)
        if exact and (i > 0 or not double):
            return ()  # the first round has shown that the right function's value is the gradient
        if exact:
            return self.numerical(i, output, mine)
        near = _near(mine, right, CLOSE)
        words = () if near else self.words(i, output, mine, right)
        return words or (Finding("imprecise", f"{output.name} is near the right gradient only"),)

    def numerical(self, i: int, output: Output, mine: Any) -> tuple[Finding, ...]:
        """What the numerical gradient says against a claim, by two methods: both must object."""
        findings: tuple[Finding, ...] = ()
        for method, tolerance in (("auto", TOLERANCE), ("central", 1e-5)):
            report = check_gradients(
                self.scalar(i, output, output.loss),
                {output.of: np.array(self.rounds[i][output.of], dtype=np.float64)},
                {output.of: mine},
                method=method,
                tolerance=tolerance,
                exhaustive=0,
                rng=i,
            )
            if report.ok or report.verdict == "inconclusive":
                return ()
            findings = findings or report.tensors[0].findings
        return findings

    def scalar(self, i: int, output: Output, expression: str) -> Callable[[Any], Any]:
        """A scalar expression of round i, as a function of what an output is the gradient by."""
        names = {**self.sizes[i], **self.rounds[i]}
        return lambda moved: self.exercise.evaluate(expression, {**names, **moved})

    def words(self, i: int, output: Output, mine: Any, right: Any) -> tuple[Finding, ...]:
        """How a gradient differs from the right one; the terms are costly, so they come second."""
        options: dict[str, Any] = {
            "sizes": self.sizes[i],
            "name": output.name,
            "tolerance": TOLERANCE,
        }
        found = explain(mine, right, **options)
        plain = {"zero", "factor", "transposed"}
        if output.terms and found and found[0].kind not in plain:
            terms = self.terms(i, output)
            if all(np.isfinite(term).all() for term in terms.values()):
                slack = ROUGH * max(np.abs(term).max() for term in terms.values())
                options |= {"tolerance": ROUGH, "uncertainty": slack}
                found = explain(mine, right, terms=terms, **options) or found
        return tuple(found)

    def terms(self, i: int, output: Output) -> dict[str, Any]:
        """The gradients of the terms, by plain central differences: enough for a diagnosis."""
        x = {output.of: np.array(self.rounds[i][output.of], dtype=np.float64)}
        return {
            name: numerical_gradient(self.scalar(i, output, term), x, "central")[output.of]
            for name, term in output.terms.items()
        }

    def objections(self, outcome: Outcome, answers: list[list[Any]]) -> list[Objection]:
        """What the meaning oracle has to say."""
        found = []
        names = [output.name for output in self.exercise.outputs]
        positions = sorted({i for changed in outcome.changed for i in changed})
        if positions:
            found.append(Objection("changed", tuple(self.exercise.arguments[i] for i in positions)))
        again = [self.arrays(value, None) for value in outcome.again]
        differs = {
            name
            for first, second in zip(answers, again, strict=True)
            for k, name in enumerate(names)
            if isinstance(second, Problem) or not _same(first[k], second[k])
        }
        if differs:
            found.append(Objection("again", tuple(n for n in names if n in differs)))
        other = {n for a in answers for n, x in zip(names, a, strict=True) if x.dtype != np.float64}
        if other:
            found.append(Objection("dtype", tuple(n for n in names if n in other)))
        start = ROUNDS
        for prop, cases in zip(self.exercise.properties, self.properties, strict=True):
            sizes, at = cases[0], cases[1:]
            part = range(start, start + len(at))
            start += len(at)
            out = [dict(zip(names, answers[k], strict=True)) for k in part]
            shapes = all(
                x.shape == y.shape
                for k in part
                for x, y in zip(answers[k], self.right[k], strict=True)
            )
            if not shapes or not self.holds(prop.holds, {**sizes, "out": out, "at": at}):
                found.append(Objection("property", text=prop.text))
        return found

    def holds(self, expression: str, names: Mapping[str, Any]) -> bool:
        """Whether a property holds; one that cannot be computed does not."""
        try:
            return bool(self.exercise.evaluate(expression, names))
        except (ArithmeticError, ValueError, IndexError, TypeError):
            return False


# --------------------------------------------------------------------------- for whoever writes one


def main(paths: Sequence[str]) -> int:
    """Grade the blank, the solution and the mutants of files; 1 if one is not as declared."""
    bad = 0
    for path in paths:
        exercise = load(Path(path))
        answers = [("blank", exercise.blank), ("solution", exercise.solution)]
        answers += [(mutant.kind, mutant.source) for mutant in exercise.mutants]
        sources = [exercise.text("en", body) for _, body in answers]
        grades = grade_sources(exercise, sources, seconds=60)
        print(f"== {exercise.stem}  seed {grades[0].seed}")
        for k, ((name, _), got) in enumerate(zip(answers, grades, strict=True)):
            wrong = mistakes(exercise, k, got)
            bad += bool(wrong)
            print(f"-- {name}: {'ok' if not wrong else 'NOT AS DECLARED: ' + wrong}")
            for language in ("en", "ja") if k != 1 or wrong else ():
                for line in diagnosis.report(exercise, got, language):
                    print(f"     {line.text}")
    return int(bad > 0)


def mistakes(exercise: Exercise, k: int, got: Grade) -> str:
    """How the grade of answer k (0 blank, 1 solution, then the mutants) is not as it should be."""
    if k == 0:
        return "" if got.problem and got.problem.kind == "blank" else "the blank is not blank"
    if k == 1:
        return "" if got.ok else "the solution fails"
    mutant = exercise.mutants[k - 2]
    if got.ok:
        return "it passes"
    if got.problem:
        return f"it does not run: {got.problem}"
    if getattr(got, mutant.objects) != "objects":
        return f"the {mutant.objects} oracle does not object"
    if mutant.objects == "meaning" and got.gradient == "objects":
        return "the gradient oracle objects"
    text = "\n".join(line.text for line in diagnosis.report(exercise, got, "en"))
    return "" if re.search(mutant.says, text) else f"the diagnosis does not say {mutant.says!r}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
