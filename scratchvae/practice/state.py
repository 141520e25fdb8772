"""What a learner has answered: one SQLite file, to which answers are only ever added.

What is due for review and how far a learner has come is derived from the answers, never stored.
Several programs may write at once: each change is one transaction, and waits for its turn.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from scratchvae.arrays import one_line
from scratchvae.files import free_name
from scratchvae.places import data_dir

KINDS = ("quiz", "drill", "exam", "review", "bughunt")
NAME = "practice.sqlite3"
MAGIC = b"SQLite format 3\0"

_VERSION = 1
_APPLICATION = 0x53564145  # "SVAE": tells our file from another program's database
_PATIENCE = 30  # seconds to wait for another program's transaction
_SCHEMA = """
create table if not exists answers (
    n integer primary key, time real not null, kind text not null, id text not null,
    right integer not null, detail text not null
);
create table if not exists exams (
    n integer primary key, language text not null, started real not null, seconds real not null,
    questions text not null, used real not null default 0, position integer not null default 0,
    finished real, ending text
);
create table if not exists exam_answers (
    exam integer not null references exams, question integer not null,
    choice integer, flagged integer not null default 0, primary key (exam, question)
);
"""


def now() -> float:
    """Seconds since 1970; SCRATCHVAE_CLOCK may name a file with seconds to add."""
    shift = os.environ.get("SCRATCHVAE_CLOCK")
    return time.time() + (float(Path(shift).read_text(encoding="utf-8")) if shift else 0.0)


@dataclass(frozen=True)
class Answer:
    """One answer. `n` is its place among all of them, which a wrong clock cannot change."""

    n: int
    time: float
    kind: str
    id: str
    right: bool
    detail: Mapping[str, Any] = field(default_factory=dict)

    @property
    def item(self) -> tuple[str, str]:
        """What was answered: ("question" | "drill" | "bughunt", id)."""
        if self.kind in ("drill", "bughunt"):
            return self.kind, self.id
        return str(self.detail.get("source", "question")), self.id


def streaks(answers: Iterable[Answer], item: str) -> Counter[str]:
    """Count, for each question (or drill: `item`), the right answers since the last wrong one."""
    streak: Counter[str] = Counter()
    for answer in answers:
        if answer.item[0] == item:
            streak[answer.id] = streak[answer.id] + 1 if answer.right else 0
    return streak


@dataclass(frozen=True)
class Exam:
    """One mock exam.

    `questions` holds, for each, its id, its source ("question" or "drill"), the order of its
    options and, for a drill, the seed of its numbers. `choices` and `flags` are by question.
    `seconds` is the time allowed and `used` what has passed of it. `ending` is None while it is
    unfinished, then "submitted", "time" or "abandoned".
    """

    n: int
    language: str
    started: float
    seconds: float
    questions: Sequence[Mapping[str, Any]]
    used: float
    position: int
    finished: float | None
    ending: str | None
    choices: Mapping[int, int]
    flags: frozenset[int]


class State:
    """The file at `path`, or `practice.sqlite3` in the user's data directory; made if not there.

    A file that is no database, or a damaged one, is set aside as NAME.broken-N, which stderr says.
    Raises ValueError for a database of another program or of a newer version, OSError for a file
    that cannot be read or written. Use it in a ``with`` block, or `close` it.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        # absolute: to SQLite ":memory:" is no file
        self.path = Path(path).absolute() if path is not None else data_dir() / NAME
        if path is not None and _holds_something_else(self.path):
            raise ValueError(f"{path}: is not a file of answers; name another: --state FILE")
        if path is None:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise OSError(
                    f"{self.path.parent}: {error.strerror}; name another file: --state FILE"
                ) from None
        found = _identity(self.path)
        try:
            self._database = self._open()
        except sqlite3.Error as error:
            if not _is_broken(error):
                raise self._explained(error) from None
            aside = _set_aside(self.path, found)
            print(
                f"scratchvae: {self.path} is no database or is damaged: "
                f"{'set aside as ' + str(aside) if aside else 'another program set it aside'}; "
                "a new one begins",
                file=sys.stderr,
            )
            try:
                self._database = self._open()
            except sqlite3.Error as again:
                raise self._explained(again) from None

    def __enter__(self) -> State:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    # ------------------------------------------------------------------------------- answers

    def record(
        self,
        kind: str,
        id: str,
        right: bool,
        detail: Mapping[str, Any] | None = None,
        when: float | None = None,
    ) -> None:
        """Add an answer. `kind` is one of `KINDS`; `when` is seconds since 1970 (now)."""
        with self._transaction():
            self._add(kind, id, right, detail or {}, now() if when is None else when)

    def _add(self, kind: str, id: str, right: bool, detail: Mapping[str, Any], when: float) -> None:
        if kind not in KINDS:
            raise ValueError(f"kind: got {kind!r}, want one of {', '.join(KINDS)}")
        self._database.execute(
            "insert into answers (time, kind, id, right, detail) values (?, ?, ?, ?, ?)",
            (when, kind, id, bool(right), json.dumps(dict(detail), ensure_ascii=False)),
        )

    def answers(self, *kinds: str, id: str | None = None) -> list[Answer]:
        """The answers of these kinds (of all), in the order in which they were given."""
        rows = self._rows("select n, time, kind, id, right, detail from answers order by n")
        with self._believed():
            return [
                Answer(n, float(when), _text(kind), _text(name), bool(right), _json(detail, dict))
                for n, when, kind, name, right, detail in rows
                if (not kinds or kind in kinds) and id in (None, name)
            ]

    # --------------------------------------------------------------------------------- exams

    def begin_exam(
        self, language: str, questions: Iterable[Mapping[str, Any]], seconds: float
    ) -> Exam:
        """Begin an exam; an unfinished one is abandoned."""
        drawn = json.dumps([dict(question) for question in questions])
        with self._transaction():
            self._database.execute(
                "update exams set finished = ?, ending = 'abandoned' where finished is null",
                (now(),),
            )
            cursor = self._database.execute(
                "insert into exams (language, started, seconds, questions) values (?, ?, ?, ?)",
                (language, now(), seconds, drawn),
            )
        return self.exam(int(cursor.lastrowid or 0))

    def exam(self, n: int) -> Exam:
        """Exam number `n`."""
        return next(exam for exam in self.exams() if exam.n == n)

    def unfinished_exam(self) -> Exam | None:
        """The exam that can be gone on with."""
        return next((exam for exam in reversed(self.exams()) if exam.ending is None), None)

    def exams(self) -> list[Exam]:
        """All exams, in the order of their beginning."""
        choices: dict[int, dict[int, int]] = {}
        flags: dict[int, set[int]] = {}
        for exam, question, choice, flagged in self._rows(
            "select exam, question, choice, flagged from exam_answers"
        ):
            if choice is not None:
                choices.setdefault(exam, {})[question] = choice
            if flagged:
                flags.setdefault(exam, set()).add(question)
        rows = self._rows(
            "select n, language, started, seconds, questions, used, position, finished, ending"
            " from exams order by n"
        )
        with self._believed():
            return [
                Exam(
                    n,
                    _text(language),
                    float(started),
                    float(seconds),
                    _json(drawn, list, dict),
                    float(used),
                    int(position),
                    finished,
                    ending,
                    choices.get(n, {}),
                    frozenset(flags.get(n, ())),
                )
                for n, language, started, seconds, drawn, used, position, finished, ending in rows
            ]

    def exam_answer(self, n: int, question: int, choice: int | None, flagged: bool) -> None:
        """Store what question number `question` of exam `n` has now: the choice, the flag."""
        with self._transaction():
            self._database.execute(
                "insert into exam_answers (exam, question, choice, flagged)"
                " select n, ?, ?, ? from exams where n = ? and finished is null"
                " on conflict (exam, question)"
                " do update set choice = excluded.choice, flagged = excluded.flagged",
                (question, choice, bool(flagged), n),
            )

    def exam_clock(self, n: int, used: float, position: int) -> bool:
        """Store how many seconds of exam `n` have passed, and which question is shown.

        Returns False if it has ended: in another terminal.
        """
        with self._transaction():
            cursor = self._database.execute(
                "update exams set used = max(used, ?), position = ?"
                " where n = ? and finished is null",
                (used, position, n),
            )
        return bool(cursor.rowcount)

    def finish_exam(
        self, n: int, ending: str, results: Iterable[tuple[str, bool, Mapping[str, Any]]]
    ) -> None:
        """End exam `n` and add its answers, (id, right, detail) each; once, whoever asks again."""
        with self._transaction():
            cursor = self._database.execute(
                "update exams set finished = ?, ending = ? where n = ? and finished is null",
                (now(), ending, n),
            )
            if cursor.rowcount:
                for id, right, detail in results:
                    self._add("exam", id, right, detail, now())

    # -------------------------------------------------------------------------------- the file

    def _open(self) -> sqlite3.Connection:
        database = sqlite3.connect(self.path, timeout=_PATIENCE, isolation_level=None)
        try:
            database.execute("begin immediate")
            version, application, tables = (
                database.execute(query).fetchone()[0]
                for query in (
                    "pragma user_version",
                    "pragma application_id",
                    "select count(*) from sqlite_master",
                )
            )
            if application != _APPLICATION and (application or version or tables):
                raise ValueError(
                    f"{self.path}: is another program's database; name another: --state FILE"
                )
            if version > _VERSION:
                raise ValueError(
                    f"{self.path}: was written by a newer scratchvae (its version {version}, "
                    f"want {_VERSION}); update scratchvae, or name another file: --state FILE"
                )
            if _tables(database) - _own_tables():
                raise ValueError(
                    f"{self.path}: holds tables that are not this program's; "
                    "name another file: --state FILE"
                )
            if (verdict := database.execute("pragma quick_check(1)").fetchone()[0]) != "ok":
                raise _DamagedError(verdict)
            for statement in _SCHEMA.split(";"):
                database.execute(statement)
            database.execute(f"pragma application_id = {_APPLICATION}")
            database.execute(f"pragma user_version = {_VERSION}")
            database.execute("commit")
        except UnicodeDecodeError:  # of SQLite's own message, which quotes the damaged schema
            database.close()
            raise _DamagedError("schema") from None
        except BaseException:
            database.close()
            raise
        return database

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._database.execute("begin immediate")
            try:
                yield
                self._database.execute("commit")
            except BaseException:
                with suppress(sqlite3.Error):
                    self._database.execute("rollback")
                raise
        except sqlite3.Error as error:
            raise self._explained(error) from None

    def _rows(self, query: str) -> list[tuple[Any, ...]]:
        try:
            with closing(self._database.execute(query)) as cursor:
                return cursor.fetchall()
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise self._explained(error) from None

    @contextmanager
    def _believed(self) -> Iterator[None]:
        """Say which file holds a row that this program did not write."""
        try:
            yield
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            raise ValueError(
                f"{self.path}: holds an answer or an exam that is damaged "
                f"({one_line(error)}); name another: --state FILE"
            ) from None

    def _explained(self, error: sqlite3.Error | UnicodeDecodeError) -> OSError:
        return OSError(
            f"{self.path}: cannot keep your answers there ({one_line(error)}); "
            "name another: --state FILE"
        )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.50} is no text")
    return value


def _json(text: Any, kind: Any, inner: Any = None) -> Any:
    """The document, which must be of a kind, and so what is in it."""
    value = json.loads(_text(text))
    if not isinstance(value, kind) or not all(inner is None or isinstance(v, inner) for v in value):
        raise TypeError(f"{text:.50} is no {kind.__name__}")
    return value


def _tables(database: sqlite3.Connection) -> set[tuple[str, ...]]:
    """What the database consists of: a view or a computed column could ask for any memory."""
    query = "select name, sql from sqlite_master where name not like 'sqlite_%'"
    return set(database.execute(query))


@cache
def _own_tables() -> set[tuple[str, ...]]:
    with closing(sqlite3.connect(":memory:")) as database:
        for statement in _SCHEMA.split(";"):
            database.execute(statement)
        return _tables(database)


class _DamagedError(sqlite3.DatabaseError):
    sqlite_errorcode = sqlite3.SQLITE_CORRUPT


def _holds_something_else(path: Path) -> bool:
    """Whether a file was named by mistake: it is not empty and was never a database."""
    try:
        with path.open("rb") as file:
            start = file.read(len(MAGIC))
    except OSError:  # not there, or the error is said when it is opened
        return False
    return bool(start) and start != MAGIC


def _is_broken(error: sqlite3.Error) -> bool:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the low byte is the primary code
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _identity(path: Path) -> tuple[int, int] | None:
    with suppress(OSError):
        return path.stat().st_dev, path.stat().st_ino
    return None


def _set_aside(path: Path, found: tuple[int, int] | None) -> Path | None:
    """Rename `path` and its journal; None if it is no longer the file that was found."""
    if _identity(path) != found:
        return None
    aside = path.rename(free_name(path, "broken"))
    with suppress(FileNotFoundError):
        Path(f"{path}-journal").rename(f"{aside}-journal")
    return aside


def add_option(parser: argparse.ArgumentParser) -> None:
    """Add --state FILE."""
    parser.add_argument(
        "--state", metavar="FILE", help="where your answers are kept (in the data directory)"
    )
