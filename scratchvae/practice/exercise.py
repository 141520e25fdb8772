"""`scratchvae exercise`: write a backward pass, save, and hear within a second what is wrong."""

from __future__ import annotations

import argparse
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scratchvae.argument_types import seed
from scratchvae.practice import content, desk
from scratchvae.practice.desk import GO, Actions
from scratchvae.practice.language import LANGUAGES

if TYPE_CHECKING:
    from scratchvae.practice.exercises import Exercise
    from scratchvae.practice.grade import Grade
    from scratchvae.practice.workbook import Workbook

POLL = 0.05  # seconds between two looks at the file
STYLES = {"good": "green", "bad": "bold red", "plain": "", "faint": "dim", "code": "cyan"}
ACTIONS = {
    GO: "jump to exercise number N: show its task, write its file and watch it",
    "list": "all exercises and how far you are",
    "run": "check one exercise once; exit code 0 if it passes, 1 if not",
    "hint": "the next of three hints",
    "solution": "the solution and its derivation, after passing (or with --give-up)",
    "reset": "begin one anew; what you wrote is kept as NAME.py.bak-1, -2 ...",
    "skip": "leave one out and go on with the next",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `scratchvae exercise`."""
    parser.add_argument("--seed", type=seed, help=argparse.SUPPRESS)
    actions: Any = parser.add_subparsers(dest="action", metavar="ACTION", title="actions")
    actions.choices = actions._name_parser_map = Actions()
    for name, text in ACTIONS.items():
        action = actions.add_parser(name, help=text, description=text)
        action.add_argument(
            "--lang", choices=LANGUAGES, default=argparse.SUPPRESS, help="English or Japanese"
        )
        action.add_argument(
            "--json", action="store_true", default=argparse.SUPPRESS, help="print JSON"
        )
        action.add_argument("--seed", type=seed, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        if name not in (GO, "list"):
            action.add_argument(
                "name", nargs="?", metavar="NAME", help="number or part of the name (the current)"
            )
        if name == "solution":
            action.add_argument("--give-up", action="store_true", help="see it without passing")


def run(arguments: argparse.Namespace) -> None:
    """Carry out `scratchvae exercise`."""
    Desk(arguments).act(arguments.action)


def folder() -> Path:
    """Where the exercises are: `exercises` in the current folder, or this folder if it is that."""
    here = Path()
    ours = here.resolve().name == "exercises" or any(here.glob("[0-9][0-9]_*.py"))  # or a link
    inside = ours and (here / "progress.json").exists()
    return here if inside else here / "exercises"


class Desk(desk.Desk):
    """One run of the command, with the learner's workbook."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        from scratchvae.practice.exercises import load_all
        from scratchvae.practice.workbook import Workbook

        super().__init__(arguments, "exercise")
        self.seed: int | None = arguments.seed
        self.exercises = load_all()
        self.book: Workbook = Workbook(folder(), self.exercises, self.passes)
        self.entries()

    # ------------------------------------------------------------------------------- the actions

    def jump(self) -> None:
        """Show the exercise that was named, whatever its state, and watch its file."""
        self.go_on(self.chosen())

    def go_on(self, exercise: Exercise | None = None) -> None:
        """Show an exercise (the current one) and watch it; without a terminal, check it once."""
        exercise = exercise or self.book.current()
        if exercise is None:
            return self.all_done()
        if self.json or not self.screen.interactive:
            self.begin(exercise)
            self.line("no_terminal")
            return self.finish(exercise, self.check(exercise))
        with suppress(KeyboardInterrupt):
            while exercise is not None:
                self.watch(exercise, seen=self.begin(exercise))
                self.screen.line()
                exercise = self.book.current(after=exercise)
            return self.all_done()
        self.screen.line()
        name = exercise.number if exercise else ""
        return self.line("stopped", name=name, style="dim")

    def run(self) -> None:
        """Check one exercise once."""
        exercise = self.chosen()
        self.book.write(exercise, self.language)
        self.finish(exercise, self.check(exercise))

    def list(self) -> None:
        """Show all exercises."""
        from scratchvae.practice.workbook import Entry

        entries, current = self.entries(), self.book.current()
        rows = []
        for exercise in self.exercises:
            entry = entries.get(exercise.stem, Entry())
            rows.append(
                {
                    "number": exercise.number,
                    "name": exercise.stem,
                    "title": content.text(exercise.title, self.language),
                    "lesson": exercise.lesson,
                    "state": entry.state,
                    "current": exercise is current,
                    "hints": entry.hints,
                    "gave_up": entry.gave_up,
                    "checks": entry.checks,
                    "passed_at": entry.passed_at,
                }
            )
        done = sum(row["state"] == "passed" for row in rows)
        marks = {"passed": "x", "skipped": "-", "open": " "}
        for row in rows:
            mark = ">" if row["current"] else " "
            notes = [self.say("skipped_note")] if row["state"] == "skipped" else []
            notes += [self.say("gave_up_note")] if row["gave_up"] else []
            note = self.say("notes", notes=self.say("and").join(notes)) if notes else ""
            lead = f"{mark} [{marks[str(row['state'])]}] {row['number']:2d}  "
            style = {"passed": "green", "skipped": "dim"}.get(str(row["state"]), "")
            self.hang(lead, f"{row['title']}{note}", "bold" if row["current"] else style)
        self.line("count", done=done, all=len(rows))
        if current is None and not self.json:
            self.all_done()
        self.report({"exercises": rows, "passed": done})

    def hint(self) -> None:
        """Show the next hint."""
        exercise = self.chosen()
        level = min(self.book.entry(exercise).hints + 1, len(exercise.hints))
        self.book.change(exercise, hints=level)
        text = content.text(exercise.hints[level - 1], self.language)
        self.screen.panel(
            self.say("hint_title", level=level, number=exercise.number),
            self.wrapped(text),
        )
        more = "more_hints" if level < len(exercise.hints) else "last_hint"
        self.line(more, name=exercise.number, style="dim")
        self.report({"name": exercise.stem, "level": level, "hint": text})

    def solution(self) -> None:
        """Show the solution, if it was earned or given up."""
        exercise = self.chosen()
        entry = self.book.entry(exercise)
        if entry.state != "passed" and not entry.gave_up and not self.gives_up:
            raise ValueError(self.say("not_yet", name=exercise.number))
        if entry.state != "passed":
            entry = self.book.change(exercise, gave_up=True)
        derivation = content.text(exercise.derivation, self.language)
        code = self.wrapped(exercise.solution, code=True)
        lines = [*self.wrapped(derivation), *self.wrapped(""), *code]
        self.screen.panel(self.say("solution_title", number=exercise.number), lines)
        if entry.state != "passed":
            self.line("gave_up", style="dim")
        self.report(
            {
                "name": exercise.stem,
                "solution": exercise.solution,
                "derivation": derivation,
                "gave_up": entry.gave_up,
            }
        )

    def reset(self) -> None:
        """Begin an exercise anew."""
        exercise = self.chosen()
        kept = self.book.reset(exercise, self.language)
        path = self.book.file(exercise)
        self.line("reset_kept" if kept else "reset", path=path, kept=kept)
        self.report({"name": exercise.stem, "kept": str(kept) if kept else None})

    def skip(self) -> None:
        """Leave an exercise out."""
        exercise = self.chosen()
        if self.book.entry(exercise).state == "passed":
            raise ValueError(self.say("skip_passed", name=exercise.number))
        self.book.change(exercise, state="skipped")
        following = self.book.current(after=exercise)
        self.line("skipped", title=content.text(exercise.title, self.language))
        if following:
            self.line("next_is", title=self.titled(following))
        self.report(
            {"name": exercise.stem, "state": "skipped", "next": following and following.stem}
        )

    # -------------------------------------------------------------------------------- the parts

    def begin(self, exercise: Exercise) -> bytes | None:
        """Write the exercise's file, and show the task; return a content that needs no check."""
        path = self.book.file(exercise)
        there = path.exists()
        self.book.write(exercise, self.language)
        known = self.book.untouched(exercise) or self.book.entry(exercise).state == "passed"
        seen = path.read_bytes() if known else None
        task = content.text(exercise.task, self.language)
        self.screen.panel(self.titled(exercise), self.wrapped(task))
        self.line("file_there" if there else "file_written", path=path, function=exercise.function)
        self.screen.line(self.screen.lesson(exercise.lesson))
        if self.screen.interactive and not self.json:
            self.line("watching", name=exercise.number, style="dim")
        return seen

    def watch(self, exercise: Exercise, seen: bytes | None) -> None:
        """Check every save of another content than `seen`, until one passes."""
        path = self.book.file(exercise)
        stamp: tuple[int, int] | None = None
        missing = 0
        while True:
            now = _stamp(path)
            if now is None:
                missing += 1
                if missing * POLL >= 1 and seen != b"":
                    self.line("file_gone", path=path, name=exercise.number, style="bold red")
                    seen = b""
            elif now != stamp or seen is None:
                missing = 0
                data = _settled(path)
                stamp = now if data is not None else None
                if data is not None and data != seen:
                    seen = data
                    try:
                        grade = self.check(exercise)
                    except FileNotFoundError:  # some editors delete it before they write it
                        continue
                    self.show(exercise, grade)
                    if grade.ok:
                        return
            time.sleep(POLL)

    def check(self, exercise: Exercise) -> Grade:
        """Grade the learner's file, and remember the result."""
        from scratchvae.practice.grade import grade

        path = self.book.file(exercise)
        result = grade(exercise, path, seed=self.seed)
        self.book.change(exercise, checks=1)
        if result.ok:
            self.book.passed(exercise)
        return result

    def passes(self, exercise: Exercise, path: Path) -> bool:
        """Whether a file passes, without a word."""
        from scratchvae.practice.grade import grade

        return grade(exercise, path).ok

    def show(self, exercise: Exercise, grade: Grade) -> None:
        """Say what came of a check."""
        from scratchvae.practice.diagnosis import report

        self.screen.line()
        when = time.strftime("%H:%M:%S")
        self.line(
            "passed" if grade.ok else "failed",
            time=when,
            title=self.titled(exercise),
            style="bold green" if grade.ok else "bold",
        )
        for line in report(exercise, grade, self.language):
            text = line.text.lstrip(" ")
            lead = line.text[: len(line.text) - len(text)]
            self.hang(lead, text, STYLES[line.style], len(lead) + 2)
        if grade.ok:
            self.line("congratulations", style="bold green")
            self.line("see_solution", name=exercise.number, style="dim")

    def finish(self, exercise: Exercise, grade: Grade) -> None:
        """Say what came of the only check; exit with 1 unless it passed."""
        from scratchvae.practice.diagnosis import report

        self.show(exercise, grade)
        following = self.book.current(after=exercise)
        if grade.ok and following:
            self.line("next_is", title=self.titled(following))
        self.report(
            {
                "name": exercise.stem,
                "file": str(self.book.file(exercise)),
                "passed": grade.ok,
                "gradient": grade.gradient,
                "meaning": grade.meaning,
                "problem": asdict(grade.problem) if grade.problem else None,
                "outputs": [
                    {
                        "name": judged.name,
                        "oracle": judged.oracle,
                        "right": judged.ok,
                        "findings": [f.kind for f in judged.findings],
                    }
                    for judged in grade.outputs
                ],
                "objections": [o.kind for o in grade.objections],
                "report": [line.text for line in report(exercise, grade, self.language)],
                "printed": grade.printed,
                "seed": grade.seed,
            }
        )
        if not grade.ok:
            raise SystemExit(1)

    def all_done(self) -> None:
        """Say that no exercise is open."""
        entries = self.entries()
        skipped = [e for e in self.exercises if (x := entries.get(e.stem)) and x.state == "skipped"]
        self.line("all_done", style="bold green")
        if skipped:
            numbers = self.say("and").join(str(e.number) for e in skipped)
            self.line("still_skipped", numbers=numbers, first=skipped[0].number)
        self.report({"name": None, "passed": not skipped, "skipped": [e.stem for e in skipped]})

    def chosen(self) -> Exercise:
        """The exercise that NAME stands for, or the current one."""
        return self.pick(self.exercises, self.book.current)

    def entries(self) -> Any:
        """The learner's progress; what had to be repaired is said."""
        entries = self.book.entries()
        for notice in self.book.notices:
            self.line(f"progress_{notice.kind}", kept=notice.kept, passed=notice.passed)
        self.book.notices.clear()
        return entries


def _stamp(path: Path) -> tuple[int, int] | None:
    with suppress(OSError):
        status = path.stat()
        return status.st_mtime_ns, status.st_size
    return None


def _settled(path: Path) -> bytes | None:
    """The content of a file that is not being written at this moment; None if there is none."""
    try:
        before = path.read_bytes()
        for _ in range(10):
            time.sleep(0.03)
            after = path.read_bytes()
            if after == before:
                break
            before = after
    except OSError:
        return None
    return before
