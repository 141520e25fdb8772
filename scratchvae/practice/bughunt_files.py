"""The bug hunts, read from `content/bughunts/*.toml`, and a learner's file held against one.

`content/bughunts/README.md` says what such a file holds.
"""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scratchvae.arrays import one_line
from scratchvae.practice import content
from scratchvae.practice.language import LANGUAGES

if TYPE_CHECKING:
    from scratchvae.practice.sandbox import Problem

Text = Mapping[str, str]
Change = tuple[str, str]  # a text of the right program, and what stands in its place

ORACLES = ("gradient", "meaning", "neither")  # in this order: the first that objects is the answer
CLAIMS = (*ORACLES, "none")
SECONDS = 20.0  # for all checks of one program
#: The first line of what a learner gets.
CLAIM = 'ORACLE = "?"  # "gradient", "meaning" or "neither"; "none" if nothing is wrong\n\n'

_TEXTS = ("title", "story", "explanation", "source_note")
_REQUIRED = {"lesson", "oracle", "source", "program", "bugs", "hint", "draw", "meaning", "neither"}
_OPTIONAL = {"wrong_fixes", "not_finite"}
_SOURCE = re.compile(r"https://github\.com/[\w.-]+/[\w.-]+/(issues|pull)/\d+|")
_ROOT = Path(__file__).resolve().parents[2]
_DRIVER = """import sys
sys.path.insert(0, {root!r})
from scratchvae.practice.bughunt_oracles import judge
"""


@dataclass(frozen=True)
class Property:
    """What holds of the right program, and the oracle to which it belongs."""

    oracle: str
    text: Text
    holds: str
    run: str = ""


@dataclass(frozen=True)
class Hunt:
    """One hunt: the right program, what makes it wrong, and what is said about it.

    A decoy has no `bugs`, and its oracle is "none"; `wrong_fixes` are changes that would spoil it.
    `not_finite`: the log of the wrong program shows nan or inf.
    """

    stem: str
    lesson: str
    oracle: str
    source: str
    title: Text
    story: Text
    hints: tuple[Text, ...]
    explanation: Text
    source_note: Text
    program: str
    bugs: tuple[Change, ...]
    draw: Mapping[str, str]
    properties: tuple[Property, ...]
    wrong_fixes: tuple[tuple[Change, ...], ...] = ()
    not_finite: bool = False

    @property
    def number(self) -> int:
        """The number with which its name begins."""
        return int(self.stem[:2])

    @cached_property
    def wrong(self) -> str:
        """The program as a learner gets it."""
        return changed(self.program, self.bugs)

    @property
    def text(self) -> str:
        """The file that a learner gets."""
        return CLAIM + self.wrong

    @property
    def difference(self) -> str:
        """What the fix changes, as lines that begin with - and +, and the lines beside them."""
        lines = difflib.unified_diff(self.wrong.split("\n"), self.program.split("\n"), n=1)
        return "\n".join(line for line in list(lines)[2:] if not line.startswith("@@"))


@dataclass(frozen=True)
class Said:
    """What the oracles say about a program, or what kept them from looking at it.

    `gradient` holds the tensors whose gradient is wrong, `failing` the properties that do not hold.
    `problem` is a sandbox's; `interface` says what the checks could not call.
    """

    gradient: tuple[str, ...] = ()
    failing: tuple[Property, ...] = ()
    interface: str = ""
    problem: Problem | None = None

    @property
    def objecting(self) -> tuple[str, ...]:
        """The oracles that object, in their order."""
        found = {p.oracle for p in self.failing} | ({"gradient"} if self.gradient else set())
        return tuple(oracle for oracle in ORACLES if oracle in found)


@dataclass(frozen=True)
class Verdict:
    """What came of a check.

    `kind`: "solved"; "not yet" (some oracle objects), "not none" (the same, untouched, and none was
    claimed), "wrong oracle" (all are silent, another was meant); "no claim", "bad claim" (none that
    there is), "unchanged" (an oracle is named, nothing changed); "problem", "interface". `fresh` is
    what a change has made worse.
    """

    kind: str
    claim: str | None = None
    line: int | None = None  # of ORACLE
    said: Said = field(default_factory=Said)
    fresh: Said = field(default_factory=Said)

    @property
    def judged(self) -> bool:
        """Whether the learner has committed himself, and was told right or wrong."""
        return self.kind in ("solved", "not yet", "not none", "wrong oracle")


def changed(program: str, changes: Sequence[Change]) -> str:
    """The program with each first text replaced by the second."""
    for right, wrong in changes:
        program = program.replace(right, wrong)
    return program


# -------------------------------------------------------------------------------- the content


def load_all() -> list[Hunt]:
    """All hunts, in the order of their files; ValueError naming the file if one is wrong."""
    return [load(path) for path in content.files("bughunts")]


def load(path: Path) -> Hunt:
    """Read one hunt; ValueError naming the file and what is wrong with it."""
    table = content.read(path)
    try:
        return _hunt(path.stem, table)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path}: {one_line(error)}") from None


def _hunt(stem: str, table: dict[str, Any]) -> Hunt:
    wanted = _REQUIRED | set(_TEXTS)
    if missing := wanted - set(table):
        raise ValueError(f"missing: {', '.join(sorted(missing))}")
    if unknown := set(table) - wanted - _OPTIONAL:
        raise ValueError(f"unknown: {', '.join(sorted(unknown))}")
    if not re.fullmatch(r"\d\d_\w+", stem):
        raise ValueError("a name must be two digits, _ and words")
    if table["oracle"] not in CLAIMS:
        raise ValueError(f"oracle: got {table['oracle']!r}, want one of {', '.join(CLAIMS)}")
    if bool(table["bugs"]) == (table["oracle"] == "none"):
        raise ValueError('bugs: a decoy (oracle = "none") has none, and every other hunt has some')
    if not _SOURCE.fullmatch(table["source"]):
        raise ValueError(f"source: got {table['source']!r}, want a GitHub issue or pull request")
    if len(table["hint"]) != 3:
        raise ValueError(f"hint: got {len(table['hint'])}, want 3")
    if absent := {"p", "x", "data"} - set(table["draw"]):
        raise ValueError(f"draw: missing {', '.join(sorted(absent))}")
    program = table["program"].strip("\n") + "\n"
    fixes = table.get("wrong_fixes", [])
    for right, wrong in [pair for change in (table["bugs"], *fixes) for pair in change]:
        if program.count(right) != 1 or right == wrong:
            raise ValueError(f"{right!r} occurs {program.count(right)} times in program, want 1")
    properties = [(oracle, p) for oracle in ("meaning", "neither") for p in table[oracle]]
    return Hunt(
        stem=stem,
        lesson=table["lesson"],
        oracle=table["oracle"],
        source=table["source"],
        title=_text("title", table["title"]),
        story=_text("story", table["story"]),
        explanation=_text("explanation", table["explanation"]),
        source_note=_text("source_note", table["source_note"]),
        hints=tuple(_text("hint", hint) for hint in table["hint"]),
        program=program,
        bugs=_changes(table["bugs"]),
        draw=table["draw"],
        properties=tuple(
            Property(oracle, _text(oracle, p), p["holds"], p.get("run", ""))
            for oracle, p in properties
        ),
        wrong_fixes=tuple(map(_changes, fixes)),
        not_finite=table.get("not_finite", False),
    )


def _changes(pairs: Sequence[Sequence[str]]) -> tuple[Change, ...]:
    return tuple((right, wrong) for right, wrong in pairs)


def _text(name: str, table: Mapping[str, str]) -> Text:
    for language in LANGUAGES:
        if not str(table.get(language, "")).strip():
            raise ValueError(f"{name}: has no {language}")
    return {language: table[language] for language in LANGUAGES}


# ------------------------------------------------------------------------------- the learner's file


def look(hunt: Hunt, source: str) -> Said:
    """Ask the oracles about a program, in a process of its own."""
    from scratchvae.practice import sandbox

    def located(problem: Problem) -> Problem:
        text = sandbox.line_text(source, problem.line)
        return replace(problem, line=problem.line if text else None, source=text)

    if problem := sandbox.refuse(source, allowed=(), honest=False):
        return Said(problem=located(problem))
    tables = [{"holds": p.holds, "run": p.run} for p in hunt.properties]
    outcome = sandbox.call_sources(
        [_DRIVER.format(root=str(_ROOT))],
        "judge",
        [(source, dict(hunt.draw), tables)],
        seconds=SECONDS,
        allowed=(),
    )[0]
    if outcome.problem:
        return Said(problem=located(outcome.problem))
    said = outcome.returned[0]
    if "interface" in said:
        return Said(interface=said["interface"])
    failing = tuple(hunt.properties[i] for i in said["properties"])
    return Said(gradient=tuple(said["gradient"]), failing=failing)


def assess(hunt: Hunt, source: str) -> Verdict:
    """Check a learner's file: does the program do what it should, and is ORACLE right?"""
    from scratchvae.practice import sandbox

    try:
        tree = sandbox.parsed(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return Verdict("problem", said=look(hunt, source))
    claim, line = _claim(tree)
    if claim not in CLAIMS:
        return Verdict("bad claim" if line and claim != "?" else "no claim", claim, line)
    untouched = _dump(tree) == _dump(ast.parse(hunt.text))
    if untouched and claim != "none":
        return Verdict("unchanged", claim, line)
    said = look(hunt, source)
    if said.problem or said.interface:
        return Verdict("problem" if said.problem else "interface", claim, line, said)
    if said.objecting:
        kind = "not none" if untouched else "not yet"
        return Verdict(kind, claim, line, said, Said() if untouched else _fresh(hunt, said))
    return Verdict("solved" if claim == hunt.oracle else "wrong oracle", claim, line, said)


def _fresh(hunt: Hunt, said: Said) -> Said:
    """What the oracles that were silent about the program as it was handed out say now."""
    before = look(hunt, hunt.wrong).objecting
    return Said(
        gradient=() if "gradient" in before else said.gradient,
        failing=tuple(p for p in said.failing if p.oracle not in before),
    )


def _claim(tree: ast.Module) -> tuple[str | None, int | None]:
    """What ORACLE is set to, and on which line."""
    claim, line = None, None
    for node in tree.body:
        if _sets_oracle(node):
            line = node.lineno
            value = getattr(node, "value", None)
            claim = value.value if isinstance(value, ast.Constant) else None
    return (claim.strip().lower() if isinstance(claim, str) else None), line


def _sets_oracle(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and any(
        isinstance(target, ast.Name) and target.id == "ORACLE" for target in node.targets
    )


def _dump(tree: ast.Module) -> str:
    """The program without ORACLE, comments and the way it is laid out."""
    body = [node for node in tree.body if not _sets_oracle(node)]
    return ast.dump(ast.Module(body, []))
