"""Bad files: a slice of `python -m benchmarks.fuzz` for each reader; and the fuzzer objects."""

import pickle
import re
import sqlite3
import sys
import tempfile
import tomllib
import warnings
from contextlib import closing
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks import fuzz

INPUTS = 120  # for each reader; a recorded run has thousands
NAMES = ("idx", "checkpoint", "run", "npy", "npz", "state", "progress", "settings", "live")
NAMES += ("questions", "drills", "exercises", "bughunts", "answer", "hunted")


@pytest.fixture(scope="module")
def readers():
    return {reader.name: reader for reader in fuzz.readers()}


def test_these_are_all(readers):
    assert tuple(readers) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_slice(name, readers, tmp_path):
    reader = readers[name]
    report = fuzz.Fuzzer(reader, tmp_path, seed=1).run(INPUTS)
    assert [f"{v.what} {v.place}" for v in report.violations.values()] == []
    assert report.inputs == INPUTS + len(reader.seeds)
    assert report.read > 0
    assert report.refused > 0 or not reader.refuses
    assert report.corpus > len(reader.seeds)


def sql(script):
    """The database of the seeds after a script."""

    def edit(content):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "s"
            path.write_bytes(content)
            with closing(sqlite3.connect(path)) as database:
                database.executescript(script)
            return path.read_bytes()

    return edit


def toml(**values):
    """A TOML file with other values at its top."""
    return lambda content: "\n".join(
        f"{key} = {fuzz._toml(value)}"
        for key, value in {**tomllib.loads(content.decode()), **values}.items()
    ).encode()


def code(line):
    """A learner's file that ends with this line."""
    return lambda content: content + line.encode() + b"\n"


ENDLESS = """
drop table answers;
create view answers as with recursive c(n) as (select 1 union all select n + 1 from c)
select n, 1.0 as time, 'quiz' as kind, 'a' as id, 1 as right, '{}' as detail from c;
"""
FOUND = [
    ("settings", lambda content: b"[" * 20_000),
    ("progress", lambda content: b'{"version": 1, "exercises": "x"}'),
    ("exercises", lambda content: re.sub(rb"says = .*", b'says = "["', content, count=1)),
    ("exercises", lambda content: content.replace(b'kind = "', b'kind = "' + b"9" * 5000, 1)),
    ("bughunts", toml(title="x")),
    ("bughunts", toml(program=5)),
    ("drills", lambda content: content.replace(b"\nid", b'\n"\\u001b[2J" = 1\nid')),
    ("live", lambda content: re.sub(rb'([^=])="([,}])', rb'\1A"\2', content)),
    *(
        (name, code(line))
        for name in ("answer", "hunted")
        for line in (
            "x =\u30001",  # as a Japanese keyboard types it
            "x = '\x1b[2J' +",
            "x = '\\d'",
            "x = " + "9" * 400,
            "x = " + "1 + " * 1500 + "1",
            "x = " + "-" * 1500 + "1",
            "x = " + "(" * 5000,
        )
    ),
    *(
        ("state", sql(script))
        for script in (
            "update answers set detail = '{'",
            "update answers set detail = '3'",
            "update answers set detail = x'ff'",
            "update answers set time = 'x'",
            "update answers set kind = x'ff'",
            "update exams set questions = '[3]'",
            "update exams set seconds = 'x'",
            ENDLESS,
        )
    ),
]


@pytest.mark.parametrize("number", range(len(FOUND)))
def test_what_was_found_once(number, readers, tmp_path):
    name, edit = FOUND[number]
    fuzzer = fuzz.Fuzzer(readers[name], tmp_path)
    fuzzer.try_(edit(readers[name].seeds[-1]))
    assert [f"{v.what} {v.place}" for v in fuzzer.report.violations.values()] == []


def test_equal_seeds_give_equal_inputs(readers, tmp_path):
    reports = []
    for _ in range(2):
        report = fuzz.Fuzzer(readers["npy"], tmp_path, seed=3).run(60)
        reports.append((report.read, report.refused, report.corpus, report.lines))
    assert reports[0] == reports[1]


# ------------------------------------------------------------------------------- the fuzzer objects


def fake(read, refuses=True):
    """A reader of files of one byte."""
    here = (sys.modules[__name__],)
    return fuzz.Reader(
        "fake", "x.bin", read, [b"s"], lambda rng, c: b"e", here, lambda c: fuzz.MiB, refuses
    )


def raising(error):
    def read(path):
        raise error(path)

    return read


class Payload:
    def __reduce__(self):
        return sorted, ([],)


def warn(path):
    warnings.warn("of a file", stacklevel=1)


BAD = {
    "raises KeyError": raising(lambda path: KeyError(str(path))),
    "raises MemoryError": raising(lambda path: MemoryError(str(path))),
    "raises ValueError: 'no name'": raising(lambda path: ValueError("no name")),
    "raises OSError": raising(lambda path: OSError(5, "of what?")),
    "raises ValueError: '%s: two": raising(lambda path: ValueError(f"{path}: two\nlines")),
    "raises ValueError: '%s: \\x1b": raising(lambda path: ValueError(f"{path}: \x1b[2J")),
    "raises ValueError: '%s: long": raising(lambda path: ValueError(f"{path}: long{'x' * 2000}")),
    "allocates too much": lambda path: len(bytearray(8 * fuzz.MiB)),
    "runs code: pickle.find_class": lambda path: pickle.loads(pickle.dumps(Payload())),
    "runs code: exec": lambda path: exec("1"),
    "warns: of a file": warn,
}


@pytest.mark.parametrize("what", BAD)
def test_the_fuzzer_objects(what, tmp_path):
    report = fuzz.Fuzzer(fake(BAD[what]), tmp_path).run(3)
    (found,) = report.violations.values()
    assert found.what.startswith(what.partition("%s")[0])


def test_what_never_refuses_must_not(tmp_path):
    read = raising(lambda path: ValueError(f"{path}: no"))
    assert not fuzz.Fuzzer(fake(read), tmp_path).run(3).violations
    assert fuzz.Fuzzer(fake(read, refuses=False), tmp_path).run(3).violations


def test_an_input_that_reaches_a_new_line_is_damaged_further(tmp_path):
    def read(path):
        if path.read_bytes() == b"new":
            return "this line"
        return "that line"

    fuzzer = fuzz.Fuzzer(fake(read), tmp_path)
    for content, corpus in ((b"s", 1), (b"new", 2), (b"new", 2), (b"old", 2)):
        fuzzer.try_(content)
        assert len(fuzzer.corpus) == corpus


@pytest.mark.parametrize("good", [True, False])
def test_the_command_keeps_a_file_for_each_violation(good, tmp_path, monkeypatch, capsys):
    read = raising(lambda path: ValueError(f"{path}: no") if good else IndexError())
    monkeypatch.setattr(fuzz, "readers", lambda: [fake(read)])
    monkeypatch.setattr(sys, "argv", ["fuzz", "--inputs", "5", "--out", str(tmp_path / "out")])
    assert fuzz.main() == (0 if good else 1)
    out = capsys.readouterr().out
    assert f"6 inputs, {0 if good else 1} violations" in out
    assert (tmp_path / "out").exists() != good
    assert all(str(path) in out for path in (tmp_path / "out").glob("*"))
