"""The file of answers: what is added stays, whoever else writes, and whatever the file was."""

import json
import os
import random
import sqlite3
import subprocess
import sys

import pytest

from scratchvae.practice import state as module
from scratchvae.practice.state import State


@pytest.fixture
def path(tmp_path):
    return tmp_path / "s.sqlite3"


def test_answers_come_back_in_the_order_given(path):
    with State(path) as state:
        state.record("quiz", "b", True, {"choice": 2}, when=20)
        state.record("drill", "a", False, when=10)
        state.record("exam", "kl", False, {"source": "drill", "記号": "θ"}, when=30)
    with State(path) as state:
        found = state.answers()
        assert [(a.kind, a.id, a.right, a.time) for a in found] == [
            ("quiz", "b", True, 20),
            ("drill", "a", False, 10),
            ("exam", "kl", False, 30),
        ]
        assert [a.item for a in found] == [("question", "b"), ("drill", "a"), ("drill", "kl")]
        assert found[2].detail == {"source": "drill", "記号": "θ"}
        assert [a.id for a in state.answers("quiz", "drill")] == ["b", "a"]
        assert [a.id for a in state.answers(id="kl")] == ["kl"]


def test_an_unknown_kind_is_refused_and_nothing_is_added(path):
    with State(path) as state:
        with pytest.raises(ValueError, match="kind: got 'quizz', want one of quiz, drill"):
            state.record("quizz", "a", True)
        assert state.answers() == []


def test_the_default_is_in_the_data_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "new"))
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(module, "data_dir", lambda: tmp_path / "new" / "scratchvae")
    with State() as state:
        state.record("quiz", "a", True)
    assert (tmp_path / "new" / "scratchvae" / "practice.sqlite3").exists()


def test_an_exam_is_stored_as_it_goes(path):
    drawn = [{"source": "question", "id": "a", "order": [1, 0]}, {"source": "drill", "id": "b"}]
    with State(path) as state:
        n = state.begin_exam("ja", drawn, 60).n
        state.exam_answer(n, 0, 1, False)
        state.exam_answer(n, 0, 0, True)
        state.exam_answer(n, 1, None, True)
        assert state.exam_clock(n, 12.5, 1)
        assert state.exam_clock(n, 11, 1)  # the clock of a second terminal, begun later
    with State(path) as state:
        exam = state.unfinished_exam()
        assert (exam.n, exam.language, exam.seconds, exam.questions) == (n, "ja", 60, drawn)
        assert (exam.choices, exam.flags) == ({0: 0}, {0, 1})
        assert (exam.used, exam.position) == (12.5, 1)
        results = [("a", True, {"exam": n}), ("b", False, {"exam": n, "source": "drill"})]
        state.finish_exam(n, "submitted", results)
        state.finish_exam(n, "time", results)  # by the second terminal
        assert len(state.answers("exam")) == 2
        assert state.exam(n).ending == "submitted"
        assert state.unfinished_exam() is None
        state.exam_answer(n, 1, 1, False)
        assert not state.exam_clock(n, 20, 0)
        assert state.exam(n).choices == {0: 0}


def test_a_new_exam_abandons_the_unfinished_one(path):
    with State(path) as state:
        first = state.begin_exam("en", [], 60)
        second = state.begin_exam("en", [], 60)
        assert state.unfinished_exam().n == second.n
        assert state.exam(first.n).ending == "abandoned"


WRITER = """
import sys
from scratchvae.practice.state import State
with State(sys.argv[1]) as state:
    print("ready", flush=True)
    sys.stdin.readline()
    for i in range(30):
        state.record("quiz", f"{sys.argv[2]}-{i}", True)
"""


def test_two_processes_writing_at_once_lose_nothing(path):
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        for name in "xy"
    ]
    for writer in writers:  # both have it open: now
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate(timeout=60)
        assert writer.returncode == 0
    with State(path) as state:
        ids = [answer.id for answer in state.answers()]
    assert sorted(ids) == sorted(f"{name}-{i}" for name in "xy" for i in range(30))
    assert [id for id in ids if id[0] == "x"] == [f"x-{i}" for i in range(30)]


def test_waiting_too_long_for_another_program_is_one_line(path, monkeypatch):
    monkeypatch.setattr(module, "_PATIENCE", 0)
    with State(path) as state:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("begin immediate")
        with pytest.raises(OSError, match=r"there \(database is locked\)"):
            state.record("quiz", "a", True)
        other.execute("rollback")
        other.close()
        state.record("quiz", "a", True)


def broken_in(kind, path):
    if kind == "text":
        path.write_text("my notes\n" * 100, encoding="utf-8")
    elif kind == "noise":
        path.write_bytes(random.Random(0).randbytes(9000))
    else:
        with State(path) as state:
            for i in range(5):
                state.record("quiz", f"q{i}", True, {"text": "x" * 6000})
        data = bytearray(path.read_bytes())
        if kind == "cut":
            del data[len(data) // 2 :]
        else:
            data[4096:8192] = bytes(4096)
        path.write_bytes(data)
    return path.read_bytes()


@pytest.mark.parametrize("kind", ["text", "noise", "cut", "zeros"])
def test_a_broken_file_is_set_aside_with_a_line(kind, path, capsys, monkeypatch):
    monkeypatch.setattr(module, "data_dir", lambda: path.parent)
    monkeypatch.setattr(module, "NAME", path.name)
    for number in (1, 2):
        content = broken_in(kind, path)
        with State() as state:
            assert state.answers() == []
            state.record("quiz", "a", True)
        aside = path.with_name(f"s.sqlite3.broken-{number}")
        assert aside.read_bytes() == content
        (line,) = capsys.readouterr().err.splitlines()
        assert f"set aside as {aside}" in line
        with State(path) as state:
            assert len(state.answers()) == 1
        path.unlink()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("kind", ["text", "noise"])
def test_a_file_that_was_named_by_mistake_stays(kind, path):
    content = broken_in(kind, path)
    with pytest.raises(ValueError, match="is not a file of answers"):
        State(path)
    assert path.read_bytes() == content
    assert [found.name for found in path.parent.iterdir()] == [path.name]


def test_a_file_with_sqlites_name_for_memory_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with State(":memory:") as state:
        state.record("quiz", "a", True)
    assert (tmp_path / ":memory:").exists()


def test_the_journal_goes_with_its_file(path):
    path.write_bytes(b"SQLite format 3\0, broken")
    journal = path.with_name(f"{path.name}-journal")
    journal.write_bytes(b"of it")
    aside = module._set_aside(path, module._identity(path))
    assert not journal.exists()
    assert aside.with_name(f"{aside.name}-journal").read_bytes() == b"of it"


def test_a_file_that_another_terminal_has_just_replaced_is_not_set_aside(path):
    path.write_bytes(b"SQLite format 3\0, broken")
    found = module._identity(path)
    path.rename(path.with_name("s.sqlite3.broken-1"))
    with State(path) as state:
        state.record("quiz", "a", True)
    assert module._set_aside(path, found) is None
    assert path.exists()


def test_a_newer_version_is_refused_and_left_alone(path, capsys):
    with State(path) as state:
        state.record("quiz", "a", True)
    database = sqlite3.connect(path)
    database.execute("pragma user_version = 9")
    database.close()
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"s\.sqlite3: was written by a newer scratchvae"):
        State(path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_another_programs_database_is_refused_and_left_alone(path):
    database = sqlite3.connect(path)
    database.execute("create table bookmarks (url text)")
    database.commit()
    database.close()
    before = path.read_bytes()
    with pytest.raises(ValueError, match="is another program's database"):
        State(path)
    assert path.read_bytes() == before


def test_a_directory_is_one_line(tmp_path):
    with pytest.raises(OSError, match=r"cannot keep your answers there .*--state FILE"):
        State(tmp_path)
    with pytest.raises(OSError, match=r"cannot keep your answers there .*--state FILE"):
        State(tmp_path / "missing" / "s.sqlite3")


def test_a_data_directory_that_cannot_be_made_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setattr(module, "data_dir", lambda: tmp_path / "file" / "scratchvae")
    with pytest.raises(OSError, match="name another file: --state FILE") as caught:
        State()
    why = caught.value.__context__
    assert type(why) is (NotADirectoryError if os.name == "posix" else FileExistsError)
    assert why.strerror in str(caught.value)


def test_a_full_disk_loses_no_earlier_answer(path):
    with State(path) as state:
        state.record("quiz", "a", True)
        state._database.execute("pragma max_page_count = 8")
        with pytest.raises(OSError, match="full"):
            state.record("quiz", "b", True, {"text": "x" * 100_000})
        assert [answer.id for answer in state.answers()] == ["a"]


def test_an_interruption_in_a_transaction_undoes_it(path):
    def results():
        yield "a", True, {}
        raise KeyboardInterrupt

    with State(path) as state:
        n = state.begin_exam("en", [], 60).n
        with pytest.raises(KeyboardInterrupt):
            state.finish_exam(n, "submitted", results())
        assert state.answers() == []
        assert state.exam(n).ending is None
        state.record("quiz", "a", True)


def test_the_tests_clock(tmp_path, monkeypatch):
    """SCRATCHVAE_CLOCK names a file with seconds to add: for tests only, so said only here."""
    shift = tmp_path / "clock"
    shift.write_text("86400", encoding="utf-8")
    monkeypatch.setattr(module.time, "time", lambda: 1000.0)
    assert module.now() == 1000
    monkeypatch.setenv("SCRATCHVAE_CLOCK", str(shift))
    assert module.now() == 87400


def test_what_is_stored_is_no_pickle(path):
    with State(path) as state:
        state.record("quiz", "a", True, {"choice": 1})
        state.begin_exam("en", [{"id": "a"}], 60)
        for (text,) in state._rows(
            "select detail from answers union all select questions from exams"
        ):
            json.loads(text)
