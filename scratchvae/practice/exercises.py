"""The exercises, read from `content/exercises/*.toml`, and the numbers that each run draws.

`content/exercises/README.md` says what such a file holds. Its expressions and code are the
package's own, and run here; a learner's never do (see `sandbox`).
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np

from scratchvae.arrays import one_line
from scratchvae.practice import content

Text = Mapping[str, str]
PRIMES = (3, 5, 7, 11, 13)
ORACLES = ("gradient", "meaning")


@dataclass(frozen=True)
class Output:
    """One array that the function returns: the gradient of `loss` by `of`, or `value`."""

    name: str
    of: str = ""
    loss: str = ""
    terms: Mapping[str, str] = field(default_factory=dict)
    value: str = ""

    @property
    def oracle(self) -> str:
        """Which oracle judges it."""
        return "meaning" if self.value else "gradient"


@dataclass(frozen=True)
class Property:
    """What holds of the right answer and is not visible to a gradient check."""

    text: Text
    cases: tuple[Mapping[str, str], ...]
    holds: str


@dataclass(frozen=True)
class Mutant:
    """A wrong solution: which oracle objects to it, and what the diagnosis says (a pattern)."""

    kind: str
    source: str
    objects: str
    says: str


@dataclass(frozen=True)
class Exercise:
    """One exercise; `stem` is its file's name without the ending, such as 02_relu."""

    stem: str
    lesson: str
    letters: tuple[str, ...]
    title: Text
    task: Text
    hints: tuple[Text, ...]
    given: str
    blank: str
    solution: str
    derivation: Text
    function: str
    arguments: tuple[str, ...]
    draw: Mapping[str, str]
    outputs: tuple[Output, ...]
    properties: tuple[Property, ...]
    mutants: tuple[Mutant, ...]

    @property
    def number(self) -> int:
        """Its place in the order."""
        return int(self.stem.partition("_")[0])

    @cached_property
    def functions(self) -> dict[str, Any]:
        """The package's own copy of the given functions, by name."""
        return _defined(self.given, self.stem)

    @cached_property
    def given_names(self) -> frozenset[str]:
        """The names of the functions that the learner's file is given."""
        return frozenset(
            node.name for node in ast.parse(self.given).body if isinstance(node, ast.FunctionDef)
        )

    @cached_property
    def reference(self) -> Any:
        """The right function. It never leaves this process."""
        return _defined(f"{self.given}\n{self.solution}", self.stem)[self.function]

    def text(self, language: str, body: str | None = None) -> str:
        """The learner's file, with `body` in the place of the blank."""
        task = content.text(self.task, language).strip()
        docstring = f"{self.number}. {content.text(self.title, language)}\n\n{task}\n"
        quotes = 'r"""' if "\\" in docstring else '"""'
        parts = (
            f'{quotes}{docstring}"""',
            self.given.strip("\n"),
            (body or self.blank).strip("\n"),
        )
        return "\n\n".join(parts[:2]) + f"\n\n\n{parts[2]}\n"

    def evaluate(self, expression: str, names: Mapping[str, Any]) -> Any:
        """The value of one of the file's expressions."""
        code = _compiled(expression)
        with np.errstate(all="ignore"):
            return eval(code, {"np": np, "math": math, **self.functions, **names})

    def sizes(self, seed: Sequence[int]) -> dict[str, int]:
        """Pairwise different prime sizes for the letters."""
        rng = np.random.default_rng(seed)
        chosen = rng.permutation(PRIMES)[: len(self.letters)]
        return dict(zip(self.letters, chosen.tolist(), strict=True))

    def drawn(
        self, seed: Sequence[int], sizes: Mapping[str, int], replaced: Mapping[str, str] = {}
    ) -> dict[str, Any]:
        """The names of [draw] with their values, some of them replaced.

        Each name has a generator of its own, so that replacing one leaves the others as they are.
        A replacement may use the value that it replaces.
        """
        names: dict[str, Any] = dict(sizes)
        for i, (name, expression) in enumerate(self.draw.items()):
            names["rng"] = np.random.default_rng([*seed, i])
            names[name] = self.evaluate(expression, names)
            if name in replaced:
                names[name] = self.evaluate(replaced[name], names)
        return {name: names[name] for name in self.draw}


def _defined(source: str, stem: str) -> dict[str, Any]:
    namespace: dict[str, Any] = {}
    exec(compile(source, f"<{stem}>", "exec"), namespace)
    return {k: v for k, v in namespace.items() if not k.startswith("__")}


@cache
def _compiled(expression: str) -> Any:
    return compile(expression.strip(), "<content>", "eval")


# ------------------------------------------------------------------------------------ reading


def load_all() -> list[Exercise]:
    """All exercises, in order."""
    return [load(path) for path in content.files("exercises")]


def load(path: Path) -> Exercise:
    """Read one exercise; ValueError that names the file and what is wrong in it."""
    try:
        return _build(path.stem, content.read(path))
    except (KeyError, TypeError, SyntaxError, AttributeError, re.error) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{path}: {one_line(what)}") from None
    except ValueError as error:
        what = str(error).removeprefix(f"{path}: ")
        raise ValueError(f"{path}: {one_line(what)}") from None


def _build(stem: str, data: dict[str, Any]) -> Exercise:
    if not re.fullmatch(r"\d\d_[A-Za-z0-9_]+", stem):
        raise ValueError(f"the name is {stem!r}, want NN_topic")
    _only(
        data,
        "lesson letters title task hint given blank solution derivation grade draw output "
        "meaning mutant",
    )
    for key in ("lesson", "letters", "given", "blank", "solution"):
        if key not in data:
            raise ValueError(f"lacks {key!r}: it must stand above the first [table]")
    letters = tuple(data["letters"])
    grade = data["grade"]
    solution = data["solution"].strip("\n") + "\n"
    outputs = tuple(_output(o) for o in data["output"])
    exercise = Exercise(
        stem=stem,
        lesson=data["lesson"],
        letters=letters,
        title=_text(data["title"], "title"),
        task=_text(data["task"], "task"),
        hints=tuple(_text(hint, "hint") for hint in data["hint"]),
        given=data["given"].strip("\n") + "\n",
        blank=data["blank"].strip("\n") + "\n",
        solution=solution,
        derivation=_text(data["derivation"], "derivation"),
        function=grade["function"],
        arguments=tuple(grade["arguments"]),
        draw=dict(data["draw"]),
        outputs=outputs,
        properties=tuple(_property(m) for m in data.get("meaning", [])),
        mutants=tuple(_mutant(m, solution) for m in data.get("mutant", [])),
    )
    _check(exercise)
    return exercise


def _text(value: Any, where: str) -> Text:
    for language in ("en", "ja"):
        if not isinstance(value.get(language), str) or not value[language].strip():
            raise ValueError(f"{where} has no text in {language!r}")
    return {language: value[language] for language in ("en", "ja")}


def _only(table: Mapping[str, Any], keys: str) -> None:
    if unknown := set(table) - set(keys.split()):
        raise ValueError(f"unknown key {sorted(unknown)[0]!r}, want one of: {keys}")


def _output(table: Mapping[str, Any]) -> Output:
    _only(table, "name of loss terms value")
    name = table["name"]
    if "value" in table:
        return Output(name, value=table["value"], terms=dict(table.get("terms", {})))
    if not name.startswith("d") or len(name) < 2:
        raise ValueError(f"output {name!r} is a gradient: its name must be d and another name")
    return Output(name, table.get("of", name[1:]), table["loss"], dict(table.get("terms", {})))


def _property(table: Mapping[str, Any]) -> Property:
    _only(table, "en ja cases holds")
    cases = tuple(dict(case) for case in table["cases"])
    return Property(_text(table, "meaning"), cases, table["holds"])


def _mutant(table: Mapping[str, Any], solution: str) -> Mutant:
    _only(table, "kind replace objects says")
    old, new = table["replace"]
    if solution.count(old) != 1:
        raise ValueError(f"mutant {table['kind']!r}: {old!r} occurs {solution.count(old)} times")
    if table["objects"] not in ORACLES:
        raise ValueError(f"mutant {table['kind']!r}: objects is {table['objects']!r}")
    re.compile(table["says"])
    return Mutant(table["kind"], solution.replace(old, new), table["objects"], table["says"])


def _check(exercise: Exercise) -> None:
    if not set(exercise.letters) or len(set(exercise.letters)) != len(exercise.letters):
        raise ValueError("letters: want at least one, each once")
    if len(exercise.letters) > len(PRIMES):
        raise ValueError(f"letters: got {len(exercise.letters)}, there are {len(PRIMES)} sizes")
    if not exercise.outputs:
        raise ValueError("there is no [[output]]")
    if len(exercise.hints) != 3:
        raise ValueError(f"there are {len(exercise.hints)} hints, want 3")
    if len(exercise.mutants) < 3:
        raise ValueError(f"there are {len(exercise.mutants)} mutants, want at least 3")
    known = set(exercise.draw)
    _all_in(exercise.arguments, known, "argument")
    _all_in([o.of for o in exercise.outputs if o.of], known, "output of")
    for prop in exercise.properties:
        for case in prop.cases:
            _all_in(case, known, "meaning case")
    for part, source in (("blank", exercise.blank), ("solution", exercise.solution)):
        body = ast.parse(source).body
        first = body[0] if len(body) == 1 else None
        if not isinstance(first, ast.FunctionDef) or first.name != exercise.function:
            raise ValueError(f"{part}: want the one function {exercise.function}")
    for expression in [*exercise.draw.values(), *(p.holds for p in exercise.properties)]:
        _compiled(expression)
    if exercise.function in exercise.given_names:
        raise ValueError(f"given defines {exercise.function}, which the learner is to write")
    for language in ("en", "ja"):
        ast.parse(exercise.text(language))


def _all_in(names: Iterable[str], known: set[str], what: str) -> None:
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"{what} {unknown[0]!r} is not under [draw]")
