"""The learner's folder of exercises: their files, and `progress.json` beside them.

Every change reads the file again under a lock, changes one exercise and replaces the file, so that
two terminals lose nothing of each other's. A learner's file is never overwritten: only one that is
as this program wrote it is written anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from scratchvae.files import free_name, locked, write_text
from scratchvae.practice.exercises import Exercise

VERSION = 1
NAME = "progress.json"
STATES = ("open", "passed", "skipped")


class NewerError(ValueError):
    """The progress file is of a version that this program does not know."""


@dataclass(frozen=True)
class Entry:
    """How far one exercise is: `hints` were shown, `written` is the hash of what was written."""

    state: str = "open"
    hints: int = 0
    gave_up: bool = False
    checks: int = 0
    passed_at: str | None = None
    written: str | None = None


@dataclass(frozen=True)
class Notice:
    """What happened to the progress file: "set_aside", "missing" or "upgraded"."""

    kind: str
    kept: str = ""
    passed: int = 0


class Workbook:
    """The folder, with one entry an exercise.

    `passes` grades a file silently; it is asked when the progress is lost and must be found again.
    """

    def __init__(
        self, folder: Path, exercises: Sequence[Exercise], passes: Callable[[Exercise, Path], bool]
    ) -> None:
        self.folder, self.exercises, self.passes = folder, exercises, passes
        self.notices: list[Notice] = []

    def file(self, exercise: Exercise) -> Path:
        """The learner's file of an exercise."""
        return self.folder / f"{exercise.stem}.py"

    # -------------------------------------------------------------------------------- progress

    def entry(self, exercise: Exercise) -> Entry:
        """What is known about an exercise now."""
        return self.entries().get(exercise.stem, Entry())

    def entries(self) -> dict[str, Entry]:
        """What is known about all exercises now, by stem."""
        if not self.folder.is_dir():
            return {}
        with locked(self.folder / ".progress.lock", wait=True):
            return self._read()

    def change(self, exercise: Exercise, **values: Any) -> Entry:
        """Change what is known about one exercise; `checks=1` adds one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder / ".progress.lock", wait=True):
            entries = self._read()
            entry = entries.get(exercise.stem, Entry())
            if "checks" in values:
                values["checks"] += entry.checks
            entry = replace(entry, **values)
            self._write({**entries, exercise.stem: entry})
        return entry

    def passed(self, exercise: Exercise) -> None:
        """Remember that an exercise is solved."""
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        before = self.entry(exercise)
        self.change(exercise, state="passed", passed_at=before.passed_at or now)

    def current(self, after: Exercise | None = None) -> Exercise | None:
        """The first open exercise (after a certain one, if there is one there)."""
        entries = self.entries()
        todo = [e for e in self.exercises if entries.get(e.stem, Entry()).state == "open"]
        later = [e for e in todo if after is None or e.number > after.number]
        return next(iter(later or todo), None)

    # ----------------------------------------------------------------------------------- files

    def write(self, exercise: Exercise, language: str) -> bool:
        """Write the learner's file, unless there is one that was changed; whether it is as new."""
        path, text = self.file(exercise), exercise.text(language)
        if path.exists():
            known = {_hash(exercise.text(other)) for other in ("en", "ja")}
            known.add(self.entry(exercise).written or "")
            there = _hash(path.read_bytes())
            if there == _hash(text) or there not in known:
                return there in known
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
        self.change(exercise, written=_hash(text))
        return True

    def untouched(self, exercise: Exercise) -> bool:
        """Whether the learner's file is as it was written."""
        known = {self.entry(exercise).written, *(_hash(exercise.text(x)) for x in ("en", "ja"))}
        path = self.file(exercise)
        return path.exists() and _hash(path.read_bytes()) in known

    def reset(self, exercise: Exercise, language: str) -> Path | None:
        """Begin an exercise anew; return where the learner's file went, if it was changed."""
        path, kept = self.file(exercise), None
        if path.exists():
            if not self.untouched(exercise):
                kept = _aside(path, "bak")
            else:
                path.unlink()
        self.change(exercise, state="open", hints=0)
        self.write(exercise, language)
        return kept

    # -------------------------------------------------------------------------- the progress file

    def _read(self) -> dict[str, Entry]:
        path = self.folder / NAME
        try:
            data = json.loads(path.read_bytes().decode("utf-8"))
            version, entries = _understood(data)
        except FileNotFoundError:
            return self._rebuilt("missing", "") if any(map(self._changed, self.exercises)) else {}
        except NewerError as error:
            raise ValueError(f"{path}: {error}") from None
        except (ValueError, TypeError, AttributeError, RecursionError):
            return self._rebuilt("set_aside", str(_aside(path, "broken")))
        if version < VERSION:
            kept = _copied(path, f"version-{version}")
            self.notices.append(Notice("upgraded", str(kept)))
            self._write(entries)
        return entries

    def _changed(self, exercise: Exercise) -> bool:
        path = self.file(exercise)
        known = {_hash(exercise.text(language)) for language in ("en", "ja")}
        return path.is_file() and _hash(path.read_bytes()) not in known

    def _rebuilt(self, kind: str, kept: str) -> dict[str, Entry]:
        """The entries as the exercise files have them: solved or not."""
        entries = {}
        for exercise in self.exercises:
            if self._changed(exercise) and self.passes(exercise, self.file(exercise)):
                now = datetime.now().astimezone().isoformat(timespec="seconds")
                entries[exercise.stem] = Entry("passed", passed_at=now)
        self._write(entries)
        self.notices.append(Notice(kind, kept, len(entries)))
        return entries

    def _write(self, entries: dict[str, Entry]) -> None:
        plain = {stem: asdict(entry) for stem, entry in sorted(entries.items())}
        text = json.dumps({"version": VERSION, "exercises": plain}, indent=2) + "\n"
        write_text(self.folder / NAME, text)


def _understood(data: Any) -> tuple[int, dict[str, Entry]]:
    """The version and the entries of a progress file; ValueError or TypeError if it is broken.

    Version 0 had no `version`, and its entries may lack fields, which then have their defaults.
    """
    version = data.get("version", 0) if isinstance(data, dict) else None
    if not isinstance(version, int) or isinstance(version, bool) or version < 0:
        raise ValueError("no progress file")
    if version > VERSION:
        raise NewerError(
            f"is of version {version}, this scratchvae knows {VERSION}; update scratchvae, or move "
            "the file away"
        )
    names = [field.name for field in fields(Entry)]
    entries = {}
    for stem, values in data["exercises"].items() if "exercises" in data else _broken():
        if version == VERSION and set(values) != set(names):
            raise ValueError("an entry has other fields")
        entry = Entry(**{name: values[name] for name in names if name in values})
        types = {"hints": int, "gave_up": bool, "checks": int}
        if entry.state not in STATES or not all(
            type(getattr(entry, name)) is kind and getattr(entry, name) >= 0
            for name, kind in types.items()
        ):
            raise ValueError("an entry has other values")
        if not all(isinstance(v, str | None) for v in (entry.passed_at, entry.written)):
            raise ValueError("an entry has other values")
        entries[str(stem)] = entry
    return version, entries


def _broken() -> Any:
    raise ValueError("no exercises")


def _hash(text: str | bytes) -> str:
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()


def _aside(path: Path, ending: str) -> Path:
    return path.rename(free_name(path, ending))


def _copied(path: Path, ending: str) -> Path:
    free = free_name(path, ending)
    free.write_bytes(path.read_bytes())
    return free
