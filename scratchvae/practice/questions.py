"""The questions of quiz and exam: reading and checking `content/quiz/*.toml`.

`python -m scratchvae.practice.questions [FILE.toml ...]` checks the files (all of them) as the
tests do: the form of each question, and by its `verify` that exactly one option is right.
The format is described in `content/quiz/README.md`.
"""

from __future__ import annotations

import importlib.util
import re
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scratchvae.arrays import one_line
from scratchvae.practice import content, drill_cards
from scratchvae.practice.cards import TOPICS, Card, Option, Text
from scratchvae.practice.language import LANGUAGES

KINDS = ("concept", "code", "blank", "calculation", "linked")
N_OPTIONS = 4

_REQUIRED = {"id", "topic", "kind", "lesson", "text", "option", "why"}
_OPTIONAL = {"passage", "code", "drill", "verify", "requires"}
_JAPANESE = re.compile(r"[ぁ-ゖァ-ヺー一-鿿]")
_HALF_WIDTH = re.compile(r"[ぁ-ゖァ-ヺー一-鿿][,.;!?]")


@dataclass(frozen=True)
class Question:
    """A card with what proves it: the `verify` code and its `value` for each option."""

    card: Card
    path: Path
    verify: str = ""
    values: tuple[Any, ...] = ()
    requires: str | None = None


def lessons() -> Mapping[str, Text]:
    """The title of each lesson by its stem, such as 11_elbo."""
    return content.read(content.ROOT / "messages" / "lessons.toml")


def load(paths: Iterable[Path] | None = None) -> list[Card]:
    """The cards of `paths` (of all quiz files); ValueError naming file and id if one is wrong."""
    questions, problems = read(paths)
    if problems:
        raise ValueError(one_line(problems[0]))
    return [question.card for question in questions]


def read(paths: Iterable[Path] | None = None) -> tuple[list[Question], list[str]]:
    """The well-formed questions of `paths` (of all quiz files), and what is wrong with the rest."""
    questions: list[Question] = []
    problems: list[str] = []
    titles = lessons()
    seen: dict[str, Path] = {}
    for path in content.files("quiz") if paths is None else paths:
        try:
            table = content.read(path)
        except ValueError as error:
            problems.append(str(error))
            continue
        if unknown := set(table) - {"passage", "question"}:
            problems.append(f"{path}: unknown {_list(unknown)}, want [[passage]] and [[question]]")
        passages = {}
        for passage in _tables(table.get("passage", [])):
            name = str(passage.get("id", ""))
            found = [*_text(passage, "the passage", ignore={"id"})]
            if not name or name in passages:
                found.append(f"the passage's id {name!r} is missing or given twice")
            problems.extend(f"{path}: passage {name}: {problem}" for problem in found)
            passages[name] = passage
        here = _tables(table.get("question", []))
        for number, question in enumerate(here, start=1):
            name = str(question.get("id", f"number {number}"))
            found = list(_problems(question, passages, titles))
            if name in seen:
                found.append(f"the id is used twice (also in {seen[name].name})")
            seen[name] = path
            problems.extend(f"{path}: {name}: {problem}" for problem in found)
            if not found:
                questions.append(_question(question, passages, path))
        counts = Counter(str(question.get("passage")) for question in here)
        for name in passages:
            if not 3 <= counts[name] <= 4:
                problems.append(
                    f"{path}: passage {name}: has {counts[name]} questions, want 3 or 4"
                )
    return questions, problems


def _tables(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def _problems(
    question: Mapping[str, Any], passages: Mapping[str, Any], titles: Mapping[str, Any]
) -> Iterator[str]:
    if missing := _REQUIRED - set(question):
        yield f"{_list(missing)} is missing"
    if unknown := set(question) - _REQUIRED - _OPTIONAL:
        yield f"unknown key {_list(unknown)}"
    for key in _REQUIRED | _OPTIONAL:
        if key not in ("text", "option", "why") and not isinstance(question.get(key, ""), str):
            yield f"{key} is no string"
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", str(question.get("id", ""))):
        yield "the id is not in kebab-case (a-z, 0-9 and single hyphens)"
    for key, known in (("topic", TOPICS), ("kind", KINDS), ("lesson", tuple(titles))):
        if question.get(key) not in known:
            yield f"unknown {key} {question.get(key)!r}, want one of {', '.join(known)}"
    linked = question.get("kind") == "linked"
    if linked and question.get("passage") not in passages:
        yield f"unknown passage {question.get('passage')!r}"
    if not linked and "passage" in question:
        yield "has a passage, but is not of kind linked"
    if "drill" in question and question.get("kind") != "calculation":
        yield "has a drill, but is not of kind calculation"
    yield from _text(question.get("text"), "text")
    yield from _text(question.get("why"), "why")
    yield from _option_problems(question.get("option"), "verify" in question)
    if question.get("requires", "torch") != "torch":
        yield f"requires {question['requires']!r}, want torch or nothing"


def _option_problems(options: Any, verified: bool) -> Iterator[str]:
    tables = _tables(options)
    if len(tables) != N_OPTIONS or len(options) != N_OPTIONS:
        yield f"has {len(tables)} options, want {N_OPTIONS}"
        return
    rights = sum(option.get("right") is True for option in tables)
    if rights != 1:
        yield f"has {rights} options with right = true, want one"
    for number, option in enumerate(tables, start=1):
        name = f"option {number}"
        if unknown := set(option) - {"en", "ja", "same", "right", "value"}:
            yield f"{name}: unknown key {_list(unknown)}"
        if "same" in option:
            if {"en", "ja"} & set(option) or not str(option["same"]).strip():
                yield f"{name}: want either same, or en and ja"
        else:
            yield from _text(option, name, ignore={"right", "value", "same"}, prose=False)
        if ("value" in option) != verified:
            yield f"{name}: {'no value' if verified else 'a value, but no'} for verify"
    for language in LANGUAGES:
        texts = [" ".join(_both(option).get(language, "").split()) for option in tables]
        if len(set(texts)) < len(texts):
            yield f"two options are the same in {language}"


def _text(both: Any, name: str, ignore: Iterable[str] = (), prose: bool = True) -> Iterator[str]:
    """What is wrong with a text. `prose` in Japanese has at least one Japanese character."""
    if not isinstance(both, dict):
        yield f"{name}: want a table with en and ja"
        return
    if unknown := set(both) - set(LANGUAGES) - set(ignore):
        yield f"{name}: unknown key {_list(unknown)}"
    for language in LANGUAGES:
        if not isinstance(both.get(language), str) or not both[language].strip():
            yield f"{name}: {language} is missing"
            return
    if _JAPANESE.search(both["en"]):
        yield f"{name}: the English has Japanese characters"
    if prose and not _JAPANESE.search(both["ja"]):
        yield f"{name}: the Japanese has no Japanese characters"
    if found := _HALF_WIDTH.search(both["ja"]):
        yield f"{name}: half-width punctuation in the Japanese: {found.group()!r}"


def _both(option: Mapping[str, Any]) -> dict[str, str]:
    return {language: str(option.get("same", option.get(language, ""))) for language in LANGUAGES}


def _question(question: Mapping[str, Any], passages: Mapping[str, Any], path: Path) -> Question:
    passage = passages.get(question.get("passage", ""))
    options = question["option"]
    card = Card(
        id=question["id"],
        topic=question["topic"],
        kind=question["kind"],
        lesson=question["lesson"],
        text=question["text"],
        options=tuple(Option(_both(option), option.get("right", False)) for option in options),
        why=question["why"],
        code=question.get("code", "").strip("\n"),
        passage=passage and {language: passage[language] for language in LANGUAGES},
        passage_id=passage and f"{path.stem}/{passage['id']}",
        drill=question.get("drill"),
    )
    values = tuple(option.get("value") for option in options)
    return Question(card, path, question.get("verify", ""), values, question.get("requires"))


# ---------------------------------------------------------------------------------------- proof


def missing(question: Question) -> bool:
    """Whether the question's proof needs a package that is not installed."""
    return bool(question.requires) and importlib.util.find_spec(str(question.requires)) is None


def prove(question: Question) -> list[str]:
    """Run `verify` for each option; what is wrong: nothing, if only the right one verifies."""
    if not question.verify:
        return []
    where = f"{question.path}: {question.card.id}"
    problems = []
    for number, (option, value) in enumerate(
        zip(question.card.options, question.values, strict=True), start=1
    ):
        try:
            verdict = _run(question.verify, value, where)
        except Exception as error:  # whatever an author's code may raise
            problems.append(
                f"{where}: option {number}: verify raised {type(error).__name__}: {error}"
            )
            continue
        if verdict != option.right:
            says = "is right, but verify says False" if option.right else "is wrong, but verifies"
            problems.append(f"{where}: option {number} ({value!r}) {says}")
    return problems


def _run(code: str, value: Any, where: str) -> bool:
    import math

    import numpy as np

    import scratchvae

    names: dict[str, Any] = {"np": np, "math": math, "sv": scratchvae, "value": value}
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        exec(compile(code, where, "exec"), names)
    verdict = names.get("ok")
    if not isinstance(verdict, bool | np.bool_):
        raise TypeError(f"ok is {verdict!r}, want True or False")
    return bool(verdict)


def drill_problems(questions: Iterable[Question]) -> list[str]:
    """The questions that name a drill which does not exist."""
    known = set(drill_cards.ids())
    return [
        f"{question.path}: {question.card.id}: unknown drill {question.card.drill!r}"
        for question in questions
        if question.card.drill is not None and question.card.drill not in known
    ]


def longest(card: Card, language: str) -> float:
    """How often choosing the longest option is right: 1, 0, or in between where several are."""
    lengths = [len(option.text[language].strip()) for option in card.options]
    chosen = [
        option.right
        for option, length in zip(card.options, lengths, strict=True)
        if length == max(lengths)
    ]
    return sum(chosen) / len(chosen)


def main(arguments: Sequence[str]) -> int:
    """Check the files named; print a line for each problem, and a summary. Return 1 if any."""
    paths = [Path(name) for name in arguments] or content.files("quiz")
    questions, problems = read(paths)
    skipped = [question for question in questions if missing(question)]
    for question in questions:
        if question not in skipped:
            problems += prove(question)
    problems += drill_problems(questions)
    for problem in problems:
        print(problem)
    cards = [question.card for question in questions]
    print(f"{len(cards)} questions, {len(problems)} problems; ", end="")
    print(f"{sum(bool(question.verify) for question in questions)} have a verify", end="")
    print(f" ({len(skipped)} not run, for want of torch)" if skipped else "")
    if cards:
        counts = Counter(card.topic for card in cards)
        print("topics:", ", ".join(f"{topic} {counts[topic]}" for topic in TOPICS))
        kinds = Counter(card.kind for card in cards)
        print("kinds:", ", ".join(f"{kind} {kinds[kind]}" for kind in KINDS))
        places = Counter([option.right for option in card.options].index(True) for card in cards)
        print("right option at:", ", ".join(f"{n + 1}: {places[n]}" for n in range(N_OPTIONS)))
        for language in LANGUAGES:
            rate = sum(longest(card, language) for card in cards) / len(cards)
            print(f"always the longest option ({language}): right in {rate:.0%}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
