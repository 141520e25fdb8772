"""What the oracles found, in words: English as `explain` has it, Japanese from its numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import TYPE_CHECKING, Any

from scratchvae.explain import AXES, Finding, misshapen, number
from scratchvae.practice import content
from scratchvae.practice.language import Messages

if TYPE_CHECKING:
    from scratchvae.practice.exercises import Exercise
    from scratchvae.practice.grade import Grade
    from scratchvae.practice.sandbox import Problem


#: Findings that name a mistake of the array's own, whatever came before it.
EXPLAINED = frozenset(
    {"factor", "term", "zero", "transposed", "wrong shape", "not finite", "swapped"}
)
#: Findings after which nothing can be said of an array's values.
BROKEN = frozenset({"wrong shape", "not finite", "complex", "swapped"})


@dataclass(frozen=True)
class Line:
    """One line of a report, and what it is: "good", "bad", "plain", "faint" or "code"."""

    style: str
    text: str


def report(exercise: Exercise, grade: Grade, language: str) -> list[Line]:
    """What is said about a graded answer."""
    say = Messages("exercise", language)
    lines = []
    flood = grade.problem is not None and grade.problem.kind == "flood"
    if grade.printed.strip() and not flood:
        printed = grade.printed.rstrip().splitlines()
        lines.append(Line("faint", say("printed")))
        lines += [Line("faint", f"  {text}") for text in printed[:10]]
        lines += [Line("faint", "  ...")] * (len(printed) > 10)
    if grade.problem:
        lines += problem(grade.problem, language, exercise.function)
    else:
        for name in ("gradient", "meaning"):
            verdict = getattr(grade, name)
            style = {"objects": "bad", "content": "good"}.get(verdict, "faint")
            which = f"silent_{name}" if verdict == "silent" else verdict
            lines.append(Line(style, say("oracle", oracle=say(name), verdict=say(which))))
            lines += _outputs(grade, name, say)
            if name == "meaning":
                lines += [Line("plain", f"  {text}") for text in objections(grade, language)]
    if grade.altered:
        lines.append(Line("faint", say("altered", names=say("and").join(grade.altered))))
    return lines


def _outputs(grade: Grade, oracle: str, say: Messages) -> list[Line]:
    """One line an output, in backward order; right ones that follow each other share a line."""
    lines: list[Line] = []
    mine = [judged for judged in grade.outputs if judged.oracle == oracle]
    for ok, group in groupby(mine, lambda judged: judged.ok):
        if ok:
            names = say("and").join(judged.name for judged in group)
            lines.append(Line("good", f"  {say('right', names=names)}"))
            continue
        for judged in group:
            words = [
                finding(f, judged.name, say.language, value=oracle == "meaning")
                for f in judged.findings
            ]
            lines += [Line("bad" if k == 0 else "plain", f"  {w}") for k, w in enumerate(words)]
            at = _at(grade.line, grade.source, say.language)
            if {f.kind for f in judged.findings} & BROKEN and grade.line and at not in lines:
                lines.append(at)
    wrong = [judged for judged in mine if not judged.ok]
    follow = [j.name for j in wrong[1:] if not {f.kind for f in j.findings} & EXPLAINED]
    if follow:
        key = "later_value" if oracle == "meaning" else "later"
        text = say(key, names=say("and").join(follow), before=wrong[0].name)
        lines.append(Line("faint", f"  {text}"))
    return lines


def objections(grade: Grade, language: str) -> list[str]:
    """The sentences of the meaning oracle."""
    say = Messages("exercise", language)
    return [
        say("property", text=o.text[language])
        if o.kind == "property"
        else say(o.kind, names=say("and").join(o.names))
        for o in grade.objections
    ]


def problem(found: Problem, language: str, function: str = "") -> list[Line]:
    """What stopped a program, and the line. `function` is what it was to define."""
    kind, numbers = _mismatch(found)
    if kind == "blank" and not function:
        kind = "exception"
    words = {"name": found.name, "text": found.text, "function": function, **numbers}
    text = Messages("problem", language)(kind.replace(" ", "_"), **words)
    lines = [Line("plain" if kind == "blank" else "bad", text)]
    if found.line:
        lines.append(_at(found.line, found.source, language))
    return lines


def _at(line: int | None, source: str, language: str) -> Line:
    text = Messages("problem", language)("at", line=line, source=source)
    return Line("code", f"  {text}")


#: NumPy's messages about arrays that do not fit, by what we call them.
MISMATCHES = (
    ("matmul", r"matmul: Input operand 1 .*\(size (?P<b>\d+) is different from (?P<a>\d+)\)"),
    ("matmul", r"shapes .* not aligned: (?P<a>\d+) \(dim \d\) != (?P<b>\d+) \(dim 0\)"),
    ("broadcast", r"operands could not be broadcast .* shapes (?P<shapes>\(.*\))"),
    ("assignment", r"could not broadcast .* from shape (?P<a>\(.*\)) into shape (?P<b>\(.*\))"),
    ("reshape", r"cannot reshape array of size (?P<a>\d+) into shape (?P<b>\(.*\))"),
    ("axis", r"axis (?P<a>-?\d+) is out of bounds for array of dimension (?P<b>[1-9]\d*)"),
)


def _mismatch(found: Problem) -> tuple[str, dict[str, str]]:
    """Return the kind of a problem, with its numbers if it is one of shapes that do not fit."""
    if found.kind == "exception" and found.name in ("ValueError", "AxisError"):
        for kind, pattern in MISMATCHES:
            if match := re.match(pattern, found.text):
                return kind, {k: v.replace(") (", "), (") for k, v in match.groupdict().items()}
    return found.kind, {}


# ------------------------------------------------------------------------------------ findings


def finding(found: Finding, name: str, language: str, *, value: bool = False) -> str:
    """A finding of `explain` about `name` as a sentence. `value`: it is no gradient."""
    if language == "en":
        return found.text
    return _Japanese(found, name, value).sentence()


@cache
def _say() -> Messages:
    return Messages("diagnosis", "ja")


@cache
def _terms() -> dict[str, str]:
    return dict(content.read(content.ROOT / "messages" / "diagnosis.toml")["terms"])


class _Japanese:
    """A finding in Japanese, from its kind and its numbers."""

    def __init__(self, found: Finding, name: str, value: bool) -> None:
        self.kind, self.numbers, self.name = found.kind, found.numbers, name
        self.value = value
        self.right = _say()("right_value" if value else "right_gradient")

    def say(self, key: str, **values: Any) -> str:
        return _say()(key, name=self.name, right=self.right, **values)

    def sentence(self) -> str:
        """The finding."""
        writer = getattr(self, "say_" + self.kind.replace(" ", "_"), None)
        return writer() if writer else self.say(self.kind.replace(" ", "_"))

    def say_wrong_shape(self) -> str:
        if "shape" not in self.numbers:
            return self.say("no_array")
        shape, want = tuple(self.numbers["shape"]), tuple(self.numbers["want"])
        why = misshapen(shape, want)
        said = self.say(f"shape_{why}") if why else ""
        return self.say("wrong_shape", shape=shape, want=want) + said

    def say_swapped(self) -> str:
        return self.say("swapped", other=self.numbers["other"])

    def say_not_finite(self) -> str:
        if "count" in self.numbers:
            return self.say("not_differentiable", count=self.numbers["count"])
        if not self.numbers:
            return self.say("loss_not_finite")
        counts = {"NaN": self.numbers["nan"], "inf": self.numbers["inf"]}
        what = "、".join(f"{kind}が{count}個" for kind, count in counts.items() if count)
        return self.say("not_finite", what=what)

    def say_jump(self) -> str:
        return self.say("not_differentiable", count=self.numbers.get("count", 1))

    def say_factor(self) -> str:
        factor = self.numbers["factor"]
        names = self.numbers["names"]
        why = reasons(factor, names, self.name) if names else ""
        return self.say("factor", factor=number(factor)) + why

    def say_term(self) -> str:
        if "collinear" in self.numbers:
            return self.say("collinear", terms="と".join(map(term, self.numbers["collinear"])))
        coefficients = self.numbers["coefficients"]
        formula = " + ".join(f"{number(c)} × {term(name)}" for name, c in coefficients.items())
        text = self.say("term", formula=formula.replace("+ -", "- "))
        for name, names in self.numbers["names"].items():
            text += reasons(coefficients[name], names, term(name))
        return text

    def say_along(self, axis: str) -> str:
        right, wrong = self.numbers["right"], self.numbers["wrong"]
        noun = self.say(axis)
        text = (
            self.say("some_along", axis=noun, good=_listed(right), bad=_listed(wrong))
            if right
            else self.say("all_along", axis=noun)
        )
        factors = [f for f in self.numbers["factors"] if f is not None]
        if len(factors) < len(wrong) or not factors:
            return text
        if max(factors) - min(factors) <= 1e-4 * max(map(abs, factors)) + 1e-9:
            return text + self.say("there_factor", factor=number(factors[0]))
        return text + self.say("own_factors", factors=", ".join(map(number, factors[:6])))

    def say_rows(self) -> str:
        return self.say_along("rows")

    def say_columns(self) -> str:
        return self.say_along("columns")

    def say_slices(self) -> str:
        return self.say_along("slices")

    def say_offset(self) -> str:
        return self.say("offset_rows" if self.numbers.get("axis") is not None else "offset")

    def say_elements(self) -> str:
        if "index" in self.numbers:
            return self.say("element", index=tuple(self.numbers["index"]))
        at = "、".join(str(tuple(index)) for index in self.numbers["at"])
        more = _say()("and_more", count=self.numbers["wrong"] - 3)
        return self.say("elements", at=at + more * (self.numbers["wrong"] > 3), **self.count())

    def count(self) -> dict[str, str]:
        wrong, of = self.numbers["wrong"], self.numbers["of"]
        return {"count": _say()("all_of" if wrong == of else "some_of", wrong=wrong, of=of)}

    def say_sign(self) -> str:
        return self.say("sign", **self.count())

    def say_different(self) -> str:
        cosine = self.numbers.get("cosine")
        if self.value:
            return self.say("different_value", **self.count())
        if cosine is None:
            return self.say("own_factor_each", **self.count())
        return self.say("different", cosine=f"{cosine:.3f}", **self.count())


def _listed(indices: Sequence[int]) -> str:
    more = _say()("and_more", count=len(indices) - 6) if len(indices) > 6 else ""
    return "、".join(map(str, indices[:6])) + more


def reasons(factor: float, names: Sequence[str], subject: str) -> str:
    """Why `subject` may have come out multiplied by a factor with these names."""
    say = _say()
    if list(names) == ["0"]:
        return say("missing_term", subject=subject)
    if not names:
        return say("not_one", subject=subject)
    plain = names[0] in ("-1", "2", "-2")
    known = "" if plain else say("named", number=number(factor), names=" = ".join(names))
    return known + say("or").join(dict.fromkeys(_reason(name, subject) for name in names)) + "。"


def _reason(name: str, subject: str) -> str:
    """What the name of a factor, such as -2/(B*L), says that somebody did."""
    say = _say()
    over, _, under = name.removeprefix("-").partition("/")
    parts = {"summed": over.split("*"), "averaged": under.strip("()").split("*")}
    words = [say("negative", subject=subject)] if name.startswith("-") else []
    for verb, factors in reversed(parts.items()):
        letters = [factor.partition("^")[0] for factor in factors if factor[:1].isalpha()]
        if letters:
            axes = "と".join(say(f"axis_{x}") if x in AXES else x for x in letters)
            words.append(say(verb, subject=subject, axes=axes))
    words += [say("twice", subject=subject)] if "2" in parts["summed"] else []
    words += [say("half", subject=subject)] if "2" in parts["averaged"] else []
    return say("besides").join(words)


def term(name: str) -> str:
    """A term of a loss in Japanese, where the content's name for it is in words."""
    return _terms().get(name, name)
