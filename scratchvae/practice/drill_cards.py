"""Short calculations with fresh numbers: from `content/drills/*.toml` to a Card.

The key is computed by the library, each wrong option by the mistake that it names.
`content/drills/README.md` says how a drill is written.
"""

from __future__ import annotations

import math
import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from functools import cache
from itertools import combinations, starmap
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from scratchvae.arrays import one_line
from scratchvae.practice import content
from scratchvae.practice.cards import TOPICS, Card, Option, Text
from scratchvae.practice.language import LANGUAGES

if TYPE_CHECKING:
    import numpy as np

DRAWS = 200  # how often numbers are drawn before a drill counts as broken
GAP = 3  # by how many units of the last digit shown two options differ at least


@dataclass(frozen=True)
class Mistake:
    """A wrong way to the answer: its expression, and its name for whoever took it."""

    value: str
    text: Text


@dataclass(frozen=True)
class Drill:
    """One drill as its file has it. `group` is the file's name without its number and ending."""

    path: Path
    group: str
    group_title: Text
    id: str
    topic: str
    lesson: str
    title: Text
    let: Mapping[str, str]
    given: Mapping[str, float]
    question: Text
    answer: str
    hand: str | None
    digits: int
    mistakes: tuple[Mistake, ...]
    solution: Text

    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        """Draw the numbers and compute the key: every name of the drill, `answer` among them.

        Raises ValueError where an expression of the file cannot be computed.
        """
        names = {**_tools(rng), **self.given}
        for name, expression in self.let.items():
            names[name] = self._computed(name, expression, names)
        names["answer"] = self._value("answer", self.answer, names)
        return names

    def wrong(self, mistake: Mistake, names: dict[str, Any]) -> Any:
        """What `mistake` makes of the numbers in `names`."""
        return self._value("mistake", mistake.value, names)

    def by_hand(self, names: dict[str, Any]) -> Any:
        """The key as somebody computes it with the rounded constants of the question."""
        return self._value("hand", self.hand or "answer", names)

    def card(self, rng: np.random.Generator) -> Card:
        """Draw numbers until the four options are clearly different, and make the card.

        Raises ValueError where that does not happen within `DRAWS` draws.
        """
        for _ in range(DRAWS):
            names = self.draw(rng)
            key, wrong = names["answer"], self._three_wrong(rng, names)
            if wrong and self.shown(self.by_hand(names)) == self.shown(key):
                break
        else:
            raise self._broken(f"no four different options within {DRAWS} draws")
        names = {**names, "answer": self.shown(key)}
        options = [Option(self._same(key), right=True)]
        for mistake, value in wrong:
            options.append(Option(self._same(value), mistake=self._filled(mistake.text, names)))
        return Card(
            id=self.id,
            topic=self.topic,
            kind="calculation",
            lesson=self.lesson,
            text=self._filled(self.question, names),
            options=tuple(options[i] for i in rng.permutation(4)),
            why=self._filled(self.solution, names),
            drill=self.id,
        )

    def _three_wrong(
        self, rng: np.random.Generator, names: dict[str, Any]
    ) -> list[tuple[Mistake, Any]]:
        """Three mistakes and their values, or none where no three differ clearly.

        The key's place among them by size is drawn from those that the mistakes allow, so that it
        tells less than the middle, where most mistakes would leave it.
        """
        key, places = names["answer"], dict[int, list[Any]]()
        wrong = [(mistake, self.wrong(mistake, names)) for mistake in self.mistakes]
        for three in combinations(wrong, 3):
            values = [value for _, value in three]
            if all(starmap(self._apart, combinations([key, *values], 2))):
                place = sum(_numbers(value) < _numbers(key) for value in values)
                places.setdefault(place, []).append(three)
        if not places:
            return []
        threes = places[sorted(places)[rng.integers(len(places))]]
        return list(threes[rng.integers(len(threes))])

    def shown(self, value: Any) -> str:
        """`value` as an option shows it, with the drill's digits."""
        return show(value, self.digits)

    def _same(self, value: Any) -> Text:
        return dict.fromkeys(LANGUAGES, self.shown(value))

    def _apart(self, a: Any, b: Any) -> bool:
        v, w = _numbers(a), _numbers(b)
        least = GAP * 10**-self.digits if self.digits else 1
        far = len(v) != len(w) or _distance(v, w) >= least * (1 - 1e-9)
        return far and self.shown(a) != self.shown(b)

    def _value(self, what: str, expression: str, names: dict[str, Any]) -> Any:
        """What an option can show: finite numbers of Python's, alone or in lists, or a string."""
        value = _plain(self._computed(what, expression, names))
        if not all(map(math.isfinite, _numbers(value))):
            raise self._broken(f"{what}: {expression}: got {value}, want a finite value")
        return value

    def _computed(self, what: str, expression: str, names: dict[str, Any]) -> Any:
        try:
            return eval(_compiled(expression), {**names})
        except Exception as error:
            raise self._broken(f"{what}: {expression}: {error}") from None

    def _filled(self, text: Text, names: dict[str, Any]) -> Text:
        try:
            return {
                language: _Filler().vformat(content.text(text, language), (), names)
                for language in LANGUAGES
            }
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise self._broken(f"text {text['en'].strip()!r}: {error!r}") from None

    def _broken(self, what: str) -> ValueError:
        return ValueError(f"{self.path}: drill {self.id!r}: {what}")


def ids() -> list[str]:
    """The names of all drills, in the order of the files."""
    return list(drills())


def card(drill_id: str, rng: np.random.Generator) -> Card:
    """The question of drill `drill_id` with new numbers; ValueError for an unknown drill."""
    if drill_id not in drills():
        raise ValueError(f"drill: got {drill_id!r}, want one of {', '.join(drills())}")
    return drills()[drill_id].card(rng)


@cache
def drills() -> dict[str, Drill]:
    """All drills by id, in the order of the files."""
    return load(content.files("drills"))


def load(paths: Iterable[Path]) -> dict[str, Drill]:
    """Read drill files; ValueError with the file and the drill where one is incomplete."""
    found: dict[str, Drill] = {}
    for path in paths:
        table = content.read(path)
        title, entries = table.pop("title", None), table.pop("drill", None)
        if table or not (isinstance(title, dict) and _are_tables(entries)):
            raise ValueError(f"{path}: want one [title] and at least one [[drill]], nothing else")
        for number, entry in enumerate(entries, start=1):
            try:
                _both("the file's title", title)
                drill = _drill(path, title, entry)
                if drill.id in found:
                    raise ValueError(f"the id is already in {found[drill.id].path}")
            except ValueError as error:
                what = one_line(f"drill {entry.get('id', number)!r}: {error}")
                raise ValueError(f"{path}: {what}") from None
            found[drill.id] = drill
    return found


_KEYS = {
    **{"id": str, "topic": str, "lesson": str, "title": dict, "let": dict, "question": dict},
    **{"answer": str, "digits": int, "mistake": list, "solution": dict},
}
_OPTIONAL = {"given": dict, "hand": str}


def _are_tables(value: Any) -> TypeGuard[list[dict[str, Any]]]:
    return bool(isinstance(value, list) and value and all(isinstance(v, dict) for v in value))


def _drill(path: Path, group_title: Text, entry: dict[str, Any]) -> Drill:
    for key, kind in _KEYS.items():
        if not isinstance(entry.get(key), kind):
            raise ValueError(f"{key}: got {entry.get(key)!r}, want a {kind.__name__}")
    for key in entry.keys() - _KEYS.keys():
        if not isinstance(entry[key], _OPTIONAL.get(key, ())):
            raise ValueError(f"{key}: a key or a type that a drill does not have")
    for key in ("title", "question", "solution"):
        _both(key, entry[key])
    if entry["topic"] not in TOPICS:
        raise ValueError(f"topic: got {entry['topic']!r}, want one of {', '.join(TOPICS)}")
    if len(entry["mistake"]) < 3:
        raise ValueError(f"mistake: got {len(entry['mistake'])}, want at least 3")
    mistakes = []
    for mistake in entry["mistake"]:
        if not isinstance(mistake, dict) or not isinstance(mistake.get("value"), str):
            raise ValueError(f"mistake: got {mistake!r}, want a table with value, en and ja")
        _both(f"mistake {mistake['value']!r}", mistake)
        mistakes.append(Mistake(mistake["value"], {k: mistake[k] for k in LANGUAGES}))
    return Drill(
        **{key: entry[key] for key in _KEYS if key != "mistake"},
        path=path,
        group=path.stem.split("_", 1)[-1],
        group_title=group_title,
        mistakes=tuple(mistakes),
        given=entry.get("given", {}),
        hand=entry.get("hand"),
    )


def _both(key: str, text: Mapping[str, Any]) -> None:
    for language in LANGUAGES:
        if not (isinstance(text.get(language), str) and text[language].strip()):
            raise ValueError(f"{key}: the text in {language!r} is missing")


def show(value: Any, digits: int) -> str:
    """A key or a wrong value as an option shows it: floats with `digits` decimals, half up.

    A tuple is a shape, with round brackets; a list a vector or a matrix, with square ones.
    """
    if isinstance(value, tuple):
        return str(value)
    if isinstance(value, list):
        return f"[{', '.join(show(entry, digits) for entry in value)}]"
    if isinstance(value, float):
        step = Decimal(1).scaleb(-digits)
        rounded = Decimal(repr(round(value, digits + 6))).quantize(step, ROUND_HALF_UP)
        return f"{rounded + 0:f}"  # + 0 makes -0 a 0
    return str(value)


def _plain(value: Any) -> Any:
    """NumPy's numbers and arrays as Python's."""
    if isinstance(value, (list, tuple)):
        return type(value)(map(_plain, value))
    return value.tolist() if hasattr(value, "tolist") else value


def _numbers(value: Any) -> list[float]:
    if isinstance(value, (list, tuple)):
        return [number for entry in value for number in _numbers(entry)]
    return [float(value)] if isinstance(value, (int, float)) else []


def _distance(v: list[float], w: list[float]) -> float:
    return max((abs(a - b) for a, b in zip(v, w, strict=True)), default=math.inf)


@cache
def _compiled(expression: str) -> Any:
    return compile(expression.strip(), "<drill>", "eval")


def _tools(rng: np.random.Generator) -> dict[str, Any]:
    """What an expression may use besides the names of its drill."""
    import numpy as np

    import scratchvae as sv
    import scratchvae.evaluate  # so that `sv.evaluate` is there

    def pick(*values: Any) -> Any:
        return values[int(rng.integers(len(values)))]

    def row(*values: float) -> np.ndarray:
        return np.array([values], dtype=np.float64)

    def ln(v: float) -> str:
        """log v as an exam writes it: 0, ln 4, -ln 4."""
        if v == 1:
            return "0"
        return f"ln {v:g}" if v > 1 else f"-ln {1 / v:g}"

    tools = (pick, row, ln)
    return {"np": np, "math": math, "sv": sv, "rng": rng, **{tool.__name__: tool for tool in tools}}


class _Filler(string.Formatter):
    """str.format, but a float has no rounding noise, and `:p` puts a negative one in brackets."""

    def format_field(self, value: Any, format_spec: str) -> Any:
        if format_spec not in ("", "p"):
            return super().format_field(value, format_spec)
        value = _plain(value)
        if isinstance(value, list):
            return f"[{', '.join(self.format_field(entry, '') for entry in value)}]"
        plain = f"{value + 0.0:.6g}" if isinstance(value, float) else str(value)
        negative = format_spec == "p" and plain.startswith("-")
        return f"({plain})" if negative else plain
