"""`scratchvae bughunt`: a short program that trains, and is wrong. Or is it?"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scratchvae.files import free_name
from scratchvae.practice import content, desk, diagnosis
from scratchvae.practice.desk import GO, Actions
from scratchvae.practice.language import LANGUAGES
from scratchvae.practice.state import add_option

if TYPE_CHECKING:
    from scratchvae.practice.bughunt_files import Hunt, Said, Verdict
    from scratchvae.practice.state import Answer, State

ACTIONS = {
    GO: "jump to hunt number N: write its program and show what it is about",
    "list": "all hunts and how far you are",
    "run": "check one hunt; exit code 0 if it is solved, 1 if not",
    "hint": "the next of three hints",
    "solution": "what was wrong, after solving (or with --give-up)",
    "reset": "begin one anew; what you wrote is kept as NAME.py.bak-1, -2 ...",
    "skip": "leave one out and go on with the next",
}
FOLDER = "bughunts"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `scratchvae bughunt`."""
    add_option(parser)
    actions: Any = parser.add_subparsers(dest="action", metavar="ACTION", title="actions")
    actions.choices = actions._name_parser_map = Actions()
    for name, text in ACTIONS.items():
        action = actions.add_parser(name, help=text, description=text)
        action.add_argument("--lang", choices=LANGUAGES, default=argparse.SUPPRESS)
        action.add_argument("--json", action="store_true", default=argparse.SUPPRESS)
        action.add_argument("--state", metavar="FILE", default=argparse.SUPPRESS)
        if name not in (GO, "list"):
            action.add_argument(
                "name", nargs="?", metavar="NAME", help="number or part of the name (the current)"
            )
        if name == "solution":
            action.add_argument("--give-up", action="store_true", help="see it without solving")


def run(arguments: argparse.Namespace) -> None:
    """Carry out `scratchvae bughunt`."""
    from scratchvae.practice.state import State

    with State(arguments.state) as state:
        Desk(arguments, state).act(arguments.action)


def folder() -> Path:
    """Where the programs are: `bughunts` in the current folder, or this folder if it is that."""
    here = Path()
    inside = here.resolve().name == FOLDER and any(here.glob("[0-9][0-9]_*.py"))
    return here if inside else here / FOLDER


class Desk(desk.Desk):
    """One run of the command, with what the learner has done."""

    def __init__(self, arguments: argparse.Namespace, state: State) -> None:
        from scratchvae.practice.bughunt_files import load_all

        super().__init__(arguments, "bughunt")
        self.state = state
        self.hunts = load_all()

    # ------------------------------------------------------------------------------- the actions

    def jump(self) -> None:
        """Write the program that was named, whatever its state, and show what it is about."""
        self.go_on(self.chosen())

    def go_on(self, hunt: Hunt | None = None) -> None:
        """Write a program (the current one), and show what it is about."""
        hunt = hunt or self.current()
        if hunt is None:
            self.all_done()
            return self.report({"name": None})
        path = self.file(hunt)
        there = path.exists()
        if not there:
            self.write(hunt)
        story = content.text(hunt.story, self.language)
        task = self.say("task", path=path, name=hunt.number)
        if not any(answer.right for answer in self.answers()):
            self.screen.panel(self.say("first_title"), self.wrapped(self.say("first")))
        self.screen.panel(self.titled(hunt), self.wrapped(f"{story}\n\n{task}"))
        self.line("file_there" if there else "file_written", path=path, style="bold")
        self.screen.line(self.screen.lesson(hunt.lesson), "dim")
        return self.report(
            {"name": hunt.stem, "file": str(path), "written": not there, "lesson": hunt.lesson}
        )

    def list(self) -> None:
        """Show all hunts."""
        current = self.current()
        rows = [
            {
                "number": hunt.number,
                "name": hunt.stem,
                "title": content.text(hunt.title, self.language),
                "lesson": hunt.lesson,
                "state": self.standing(hunt),
                "current": hunt is current,
                "hints": self.hints(hunt),
                "gave_up": self.did(hunt, "gave up"),
                "wrong_claims": sum(a.detail.get("event") == "claim" for a in self.answers(hunt)),
            }
            for hunt in self.hunts
        ]
        marks = {"solved": "x", "skipped": "-", "open": " "}
        styles = {"solved": "green", "skipped": "dim"}
        for row in rows:
            mark = ">" if row["current"] else " "
            note = self.say("gave_up_note") if row["gave_up"] else ""
            note = self.say("skipped_note") if row["state"] == "skipped" else note
            lead = f"{mark} [{marks[str(row['state'])]}] {row['number']:2d}  "
            style = "bold" if row["current"] else styles.get(str(row["state"]), "")
            self.hang(lead, f"{row['title']}{note}", style)
        solved = sum(row["state"] == "solved" for row in rows)
        self.line("count", done=solved, all=len(rows))
        self.report({"bughunts": rows, "solved": solved})

    def run(self) -> None:
        """Check one hunt."""
        from scratchvae.practice.bughunt_files import Verdict, assess

        hunt = self.chosen()
        path = self.file(hunt)
        if not path.exists():
            raise ValueError(self.say("no_file", path=path, name=hunt.number))
        try:
            verdict = assess(hunt, path.read_bytes().decode("utf-8-sig"))
        except UnicodeDecodeError:
            verdict = Verdict("unreadable")
        if verdict.judged and not self.solved(hunt):
            detail = {"event": "claim", "oracle": verdict.claim, "verdict": verdict.kind}
            self.record(hunt, verdict.kind == "solved", **detail)
        self.show(hunt, verdict)
        said = verdict.said
        self.report(
            {
                "name": hunt.stem,
                "file": str(path),
                "solved": verdict.kind == "solved",
                "verdict": verdict.kind,
                "claim": verdict.claim,
                "problem": asdict(said.problem) if said.problem else None,
                "interface": said.interface or None,
                "made_worse": list(verdict.fresh.objecting),
            }
        )
        if verdict.kind != "solved":
            raise SystemExit(1)

    def hint(self) -> None:
        """Show the next hint."""
        hunt = self.chosen()
        level = min(self.hints(hunt) + 1, len(hunt.hints))
        if level > self.hints(hunt):
            self.record(hunt, False, event="hint", level=level)
        text = content.text(hunt.hints[level - 1], self.language)
        self.screen.panel(
            self.say("hint_title", level=level, number=hunt.number), self.wrapped(text)
        )
        more = "more_hints" if level < len(hunt.hints) else "last_hint"
        self.line(more, name=hunt.number, style="dim")
        self.report({"name": hunt.stem, "level": level, "hint": text})

    def solution(self) -> None:
        """Show what was wrong, if it was earned or given up."""
        hunt = self.chosen()
        solved = self.solved(hunt)
        if not solved and not self.did(hunt, "gave up"):
            if not self.gives_up:
                raise ValueError(self.say("not_yet_solved", name=hunt.number))
            self.record(hunt, False, event="gave up")
        self.explain(hunt)
        if not solved:
            self.line("gave_up", style="dim")
        self.report(
            {
                "name": hunt.stem,
                "oracle": hunt.oracle,
                "explanation": content.text(hunt.explanation, self.language),
                "difference": hunt.difference,
                "source": hunt.source or None,
                "source_note": content.text(hunt.source_note, self.language),
                "lesson": hunt.lesson,
                "solved": solved,
            }
        )

    def reset(self) -> None:
        """Begin a hunt anew."""
        hunt = self.chosen()
        path, kept = self.file(hunt), None
        if path.exists() and path.read_bytes() != hunt.text.encode():
            kept = path.rename(free_name(path, "bak"))
        self.write(hunt)
        if not self.solved(hunt):
            self.record(hunt, False, event="reset")
        self.line("reset_kept" if kept else "reset", path=path, kept=kept)
        self.report({"name": hunt.stem, "kept": str(kept) if kept else None})

    def skip(self) -> None:
        """Leave a hunt out."""
        hunt = self.chosen()
        if self.solved(hunt):
            raise ValueError(self.say("skip_solved", name=hunt.number))
        self.record(hunt, False, event="skip")
        following = self.current(after=hunt)
        self.line("skipped", title=content.text(hunt.title, self.language))
        if following:
            self.line("next_is", title=self.titled(following), number=following.number)
        self.report({"name": hunt.stem, "next": following and following.stem})

    # ------------------------------------------------------------------------ what has been done

    def answers(self, hunt: Hunt | None = None) -> Sequence[Answer]:
        """What is recorded about a hunt (about all), in order."""
        return self.state.answers("bughunt", id=hunt.stem if hunt else None)

    def record(self, hunt: Hunt, right: bool, **detail: Any) -> None:
        """Record what has happened."""
        self.state.record("bughunt", hunt.stem, right, detail)

    def solved(self, hunt: Hunt) -> bool:
        """Whether a hunt is solved."""
        return any(answer.right for answer in self.answers(hunt))

    def did(self, hunt: Hunt, event: str) -> bool:
        """Whether this has ever happened."""
        return any(answer.detail.get("event") == event for answer in self.answers(hunt))

    def hints(self, hunt: Hunt) -> int:
        """How many hints were shown since the hunt was begun anew."""
        level = 0
        for answer in self.answers(hunt):
            event = answer.detail.get("event")
            level = {"hint": level + 1, "reset": 0}.get(str(event), level)
        return level

    def standing(self, hunt: Hunt) -> str:
        """ "solved", "skipped" or "open"; beginning anew takes a skipped one up again."""
        if self.solved(hunt):
            return "solved"
        events = [a.detail.get("event") for a in self.answers(hunt)]
        turns = [event for event in events if event in ("skip", "reset")]
        return "skipped" if turns[-1:] == ["skip"] else "open"

    def current(self, after: Hunt | None = None) -> Hunt | None:
        """The first open hunt (after a certain one, if there is one there)."""
        todo = [hunt for hunt in self.hunts if self.standing(hunt) == "open"]
        later = [hunt for hunt in todo if after is None or hunt.number > after.number]
        return next(iter(later or todo), None)

    def file(self, hunt: Hunt) -> Path:
        """The learner's file."""
        return folder() / f"{hunt.stem}.py"

    def write(self, hunt: Hunt) -> None:
        """Write the program for the learner."""
        from scratchvae.files import write_text

        path = self.file(hunt)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, hunt.text)

    def chosen(self) -> Hunt:
        """The hunt that NAME stands for, or the current one."""
        return self.pick(self.hunts, self.current)

    # -------------------------------------------------------------------------------- the words

    def show(self, hunt: Hunt, verdict: Verdict) -> None:
        """Say what came of a check, and nothing that would spoil the hunt."""
        said, kind = verdict.said, verdict.kind
        if kind == "solved":
            self.line("solved", title=self.titled(hunt), style="bold green")
            self.explain(hunt)
            if following := self.current(after=hunt):
                self.line("next_is", title=self.titled(following), number=following.number)
            else:
                self.all_done()
            return
        self.line("unsolved", title=self.titled(hunt), style="bold")
        if problem := said.problem:
            first, *rest = diagnosis.problem(problem, self.language)
            self.screen.line(first.text, style="bold red")
            for line in rest:
                self.screen.line(line.text)
            return
        key = f"verdict_{kind.replace(' ', '_')}"
        self.line(key, claim=verdict.claim, line=verdict.line or 1, text=said.interface)
        for oracle in verdict.fresh.objecting:
            self.screen.line()
            self.line("made_worse", oracle=self.say(oracle), style="bold red")
            self.objection(verdict.fresh, oracle)

    def explain(self, hunt: Hunt) -> None:
        """Show the answer, what the oracles say about the program as it was, and why."""
        from scratchvae.practice.bughunt_files import ORACLES, look
        from scratchvae.practice.screen import styled, wrap_code

        said = look(hunt, hunt.wrong)
        self.line("answer", oracle=hunt.oracle, style="bold")
        for oracle in ORACLES:
            verdict = self.say("objects" if oracle in said.objecting else "silent")
            self.line("oracle", oracle=self.say(oracle), verdict=verdict)
            self.objection(said, oracle)
        self.screen.line()
        lines = self.wrapped(content.text(hunt.explanation, self.language))
        self.screen.panel(self.say("explanation_title", number=hunt.number), lines)
        if hunt.bugs:  # outside the panel: the lines of a program are as wide as a terminal
            self.screen.lines(styled(wrap_code(hunt.difference, self.screen.console.width)))
            self.screen.line()
        self.line("source" if hunt.bugs else "source_decoy", source=hunt.source or "-")
        self.screen.line(content.text(hunt.source_note, self.language))
        self.screen.line(self.screen.lesson(hunt.lesson), "bold")

    def objection(self, said: Said, oracle: str) -> None:
        """Show what an oracle objects to."""
        if oracle == "gradient" and said.gradient:
            names = self.say("and").join(said.gradient)
            self.hang("  - ", self.say("wrong_gradients", names=names))
        for found in said.failing:
            if found.oracle == oracle:
                text = content.text(found.text, self.language)
                self.hang("  - ", self.say("does_not_hold", text=text))

    def all_done(self) -> None:
        """Say that no hunt is open."""
        self.line("all_done", style="bold green")
        if skipped := [hunt for hunt in self.hunts if self.standing(hunt) == "skipped"]:
            numbers = self.say("and").join(str(hunt.number) for hunt in skipped)
            self.line("still_skipped", numbers=numbers, first=skipped[0].number)
