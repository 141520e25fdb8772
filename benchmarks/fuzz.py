"""Mutation fuzzing of every file that scratchvae reads, guided by the lines that are reached.

    python -m benchmarks.fuzz --inputs 100000
    python -m benchmarks.fuzz --seconds 60 --seed 7 --only checkpoint npz

Valid files are damaged in their bytes and in their structure (zip directory, .npy header, JSON,
TOML, Python, rows and schema of the database); an input that reaches a new line of the readers is
damaged further. Of every input is required what SECURITY.md promises: it is read, or refused by a
ValueError or OSError of one printable line that names the file; memory stays below the reader's
bound; no code of it runs, no pickle is opened, no warning is printed. Violations are printed,
with an input for each in the folder --out; the exit code is then 1.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gzip
import hashlib
import io
import json
import os
import pickle
import random
import re
import sqlite3
import struct
import sys
import tempfile
import time
import tomllib
import traceback
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
from numpy.lib import format as npy_format

from scratchvae import VAE, arrays, checkpoint, runs
from scratchvae.datasets import Dataset, idx, own
from scratchvae.optim import Adam
from scratchvae.practice import (
    bughunt_files,
    content,
    diagnosis,
    drill_cards,
    exercises,
    grade,
    language,
    progress,
    questions,
    sandbox,
    screen,
    state,
    workbook,
)
from scratchvae.train import Training, fit
from scratchvae.web import live

MiB = 1 << 20
MAX_INPUT = 1 << 16
MAX_MESSAGE = 1000


@dataclass(frozen=True)
class Reader:
    """A function that reads a file, valid files for it, and what may be expected of it."""

    name: str
    file: str  # a name that such a file has
    read: Callable[[Path], object]
    seeds: Sequence[bytes]
    edit: Callable[[random.Random, bytes], bytes]  # damages the structure, where there is one
    modules: Sequence[Any]  # whose lines guide
    bound: Callable[[bytes], int]  # the most memory that reading these bytes may take
    refuses: bool = True  # False: bad contents are no error, what is read is a default


@dataclass(frozen=True)
class Violation:
    """A broken promise: what it is, where, and a file that shows it."""

    reader: str
    what: str
    place: str
    content: bytes


@dataclass
class Report:
    """What came of the inputs of one reader."""

    inputs: int = 0
    read: int = 0
    refused: int = 0
    corpus: int = 0
    lines: int = 0
    fullest: float = 0.0  # the largest part of a bound that was used
    slowest: float = 0.0  # seconds
    violations: dict[tuple[str, str], Violation] = field(default_factory=dict)


# ------------------------------------------------------------------------------ watching a reader

_FORBIDDEN = {"pickle.find_class", "exec", "os.system", "subprocess.Popen", "socket.connect"}
_seen: list[str] | None = None  # what forbidden things happened; None: nobody watches


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _seen is not None and event in _FORBIDDEN and not _is_import():
        what = re.sub(" at 0x[0-9a-f]+", "", repr(arguments))  # the same wherever it lies
        _seen.append(f"{event} {what:.100}")


def _is_import() -> bool:
    """Whether an import is on the way: of a codec that a zip's names want, say."""
    frame: Any = sys._getframe(2)
    while frame is not None and "importlib" not in frame.f_code.co_filename:
        frame = frame.f_back
    return frame is not None


@contextlib.contextmanager
def _watched() -> Iterator[list[str]]:
    """Yield the list of forbidden audit events (PEP 578) that the block causes."""
    global _seen
    if not getattr(_watched, "hooked", False):
        sys.addaudithook(_hook)  # which nothing can take away again
        _watched.hooked = True  # type: ignore[attr-defined]
    _seen = []
    try:
        yield _seen
    finally:
        _seen = None


@contextlib.contextmanager
def _traced(files: frozenset[str], lines: set[tuple[str, int]]) -> Iterator[None]:
    """Add to lines what is executed in files."""

    def local(frame: Any, event: str, argument: Any) -> Any:
        if event == "line":
            lines.add((frame.f_code.co_filename, frame.f_lineno))
        return local

    def start(frame: Any, event: str, argument: Any) -> Any:
        return local if frame.f_code.co_filename in files else None

    before = sys.gettrace()
    sys.settrace(start)
    try:
        yield
    finally:
        sys.settrace(before)


class Fuzzer:
    """Feeds one reader; ``folder`` is for the files, the same ``seed`` gives the same inputs."""

    def __init__(self, reader: Reader, folder: Path, seed: int = 0) -> None:
        self.reader = reader
        self.path = folder / reader.file
        self.rng = random.Random(f"{reader.name} {seed}")
        self.report = Report()
        self.files = frozenset(str(module.__file__) for module in reader.modules)
        self.lines: set[tuple[str, int]] = set()
        self.corpus: list[bytes] = []
        for content_ in reader.seeds:  # twice: what is imported on the way counts for no file
            self._run(content_)
            self.try_(content_)
        self.corpus = list(reader.seeds)

    def run(self, inputs: int, until: float = float("inf")) -> Report:
        """Try so many inputs, or as many as are possible until that ``time.monotonic()``."""
        for _ in range(inputs):
            if time.monotonic() > until:
                break
            self.try_(self._damaged())
        self.report.corpus, self.report.lines = len(self.corpus), len(self.lines)
        return self.report

    def _damaged(self) -> bytes:
        content_ = self.rng.choice(self.corpus)
        for _ in range(self.rng.choice((1, 1, 2, 3))):
            if self.rng.random() < 0.6:
                with contextlib.suppress(Exception):  # it is no zip any more, or no JSON
                    content_ = self.reader.edit(self.rng, content_)
                    continue
            content_ = damage(self.rng, content_, self.rng.choice(self.corpus))
        return content_

    def try_(self, content_: bytes) -> None:
        """Read these bytes, and note whatever breaks a promise."""
        outcome, error, peak, ran, warned, lines = self._run(content_)
        report, bound = self.report, self.reader.bound(content_)
        if peak > bound:  # once in 100,000 inputs a table of Python's own grows: not so again
            peak = min(peak, self._run(content_)[2])
        report.inputs += 1
        report.read += outcome == "read"
        report.refused += outcome == "refused"
        report.fullest = max(report.fullest, peak / bound)
        if outcome == "broken":
            self._violation(*_described(error), content_)
        if peak > bound:
            self._violation(f"allocates too much: {peak / bound:.1f} times its bound", "", content_)
        for what in ran:
            self._violation(f"runs code: {what}", "", content_)
        for what in warned:
            self._violation(f"warns: {what}", "", content_)
        if not lines <= self.lines:
            self.lines |= lines
            if len(content_) <= MAX_INPUT:
                self.corpus.append(content_)

    def _run(self, content_: bytes) -> tuple[Any, ...]:
        self.path.write_bytes(content_)
        error: BaseException | None = None
        outcome, lines = "read", set[tuple[str, int]]()
        tracemalloc.start()
        start = time.perf_counter()
        try:
            with (
                warnings.catch_warnings(record=True) as caught,
                contextlib.redirect_stderr(io.StringIO()),
                _watched() as ran,
            ):
                warnings.simplefilter("always")
                # of a pattern in an exercise: for its author, whom it should reach
                warnings.filterwarnings("ignore", "Possible", FutureWarning)
                with _traced(self.files, lines):
                    self.reader.read(self.path)
        except Exception as raised:
            error, outcome = raised, "refused" if self._ours(raised) else "broken"
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        self.report.slowest = max(self.report.slowest, time.perf_counter() - start)
        for left in self.path.parent.iterdir():
            left.unlink()
        return outcome, error, peak, ran, [str(w.message) for w in caught], lines

    def _ours(self, error: Exception) -> bool:
        said = str(error)
        rest = said.replace(str(self.path), "").replace(str(self.path.parent), "")
        return (
            self.reader.refuses
            and isinstance(error, ValueError | OSError)
            and str(self.path.parent) in said
            and len(rest) <= MAX_MESSAGE
            and rest.isprintable()
        )

    def _violation(self, what: str, place: str, content_: bytes) -> None:
        found = Violation(self.reader.name, what, place, content_)
        known = self.report.violations.setdefault((re.sub(r"\d+(\.\d+)?", "N", what), place), found)
        if len(known.content) > len(content_):
            self.report.violations[(re.sub(r"\d+(\.\d+)?", "N", what), place)] = found


def _described(error: BaseException) -> tuple[str, str]:
    """The error without what differs from input to input, and the line that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    inside = [f for f in frames if "scratchvae" in f.filename and "fuzz" not in f.filename]
    place = f"{Path(inside[-1].filename).name}:{inside[-1].lineno}" if inside else ""
    return f"raises {type(error).__name__}: {ascii(str(error))[:80]}", place


# --------------------------------------------------------------------------------- damaging bytes

_INTEGERS = (0, 1, 2, 7, 127, 128, 255, 256, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
_TOKENS = (
    b"\0",
    b"\xff" * 4,
    b"PK\x01\x02",
    b"PK\x03\x04",
    b"PK\x05\x06",
    b"\x1f\x8b",
    b"\x93NUMPY",
    b"\x1b[2J",
    b"\n",
    b"'",
    b'"',
    b"[" * 300,
    b"{",
    b"1000000000000",
    b"9" * 5000,
    b"-1",
    b"1e999",
    b"NaN",
    "θ記\u202e".encode(),
    b"\xc3\x28",
    b"__import__('os')",
)


def damage(rng: random.Random, content_: bytes, other: bytes) -> bytes:
    """One change that looks at no structure."""
    data, at = bytearray(content_), rng.randrange(len(content_) + 1)
    kind = rng.randrange(9)
    if kind == 0 and data:
        data[at % len(data)] ^= 1 << rng.randrange(8)
    elif kind == 1 and data:
        data[at % len(data)] = rng.randrange(256)
    elif kind == 2:
        del data[at:]
    elif kind == 3:
        del data[at : at + rng.choice((1, 4, 16, 100))]
    elif kind == 4:
        data[at:at] = data[at : at + rng.choice((1, 4, 16, 100))] * rng.choice((1, 2, 50))
    elif kind == 5:
        data[at : at + rng.choice((0, 4, 8))] = rng.choice(_TOKENS)
    elif kind == 6:
        form = rng.choice("<>") + rng.choice("BHIQ")
        number = rng.choice(_INTEGERS) % (1 << 8 * struct.calcsize(form))
        data[at : at + struct.calcsize(form)] = struct.pack(form, number)
    elif kind == 7:
        cut = rng.randrange(len(other) + 1)
        data[at:] = other[cut:]
    elif numbers := list(re.finditer(rb"\d+", content_)):
        start, stop = rng.choice(numbers).span()
        data[start:stop] = rng.choice((b"0", b"1", b"-1", b"999999999999", b"9" * 4400, b"1e400"))
    return bytes(data[: 2 * MAX_INPUT])


# ----------------------------------------------------------------------------- damaging structures

_DESCR = (
    *("'<f4'", "'|u1'", "'<f8'", "'>f4'", "'<f2'", "'|b1'", "'<i8'", "'<u8'", "'|O'", "'<U3'"),
    *("'|V0'", "'<U0'", "'<M8[ns]'", "'<f16'", "'<c8'", "'a4'", "'f'", "'<U500000000'", "'i4,i4'"),
    *("[('a', '<f4')]", "[('a\\x1b[2J', '<f4')]", "[('a', '|O')]", "('<f4', (3,))", "[]", "None"),
    *("{}", "'nonsense'", "('<f4', (1000000000000,))", "'<f4' * 3", "__import__('os')", "3"),
)
_SHAPES = (
    *("(3, 4)", "(6,)", "(3, 2, 2)", "()", "(0, 4)", "(4, 0)", "(-1, 4)", "(True, 4)", "(3L, 4)"),
    *("(1000000000000,)", "(1000000, 1000000)", "(0, 1000000000000000000)", "[3, 4]", "(3.0, 4)"),
    *("None", "(2, 1)", f"({'9' * 4500},)", f"({'1, ' * 40})", f"({'1, ' * 70})", "'12'"),
)


def npy_bytes(descr: str, shape: str, payload: bytes, order: str = "False") -> bytes:
    """A .npy file with whatever is wanted in its header."""
    header = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(header) % 65536) + header + payload


def edit_npy(rng: random.Random, content_: bytes) -> bytes:
    """Another header, or one that fits other data."""
    if rng.random() < 0.5:
        payload = content_[-rng.choice((0, 12, 24, 48, 96)) :]
        order = rng.choice(("False", "False", "True", "3"))
        return npy_bytes(rng.choice(_DESCR), rng.choice(_SHAPES), payload, order)
    shape = rng.choice(((2, 3), (3, 2, 2), (4, 4), (10, 1), (2, 2, 2, 2), (2,), (11, 5)))
    values = np.asarray([rng.choice((0, 1, 0.5, 2, -1, np.nan, np.inf)) for _ in range(5)])
    with np.errstate(all="ignore"):
        array = np.resize(values if rng.random() < 0.5 else np.array([0.0, 1.0]), shape)
        array = array.astype(rng.choice(("f2", "f4", "f8", ">f4", "u1", "b1", "i8", "u8", "c8")))
    file = io.BytesIO()
    np.save(file, np.asfortranarray(array) if rng.random() < 0.3 else array)
    return file.getvalue()


_NAMES = ("x", "y", "x_train", "y_train", "x_test", "y_test", "header", "theta", "terms")
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


def edit_zip(rng: random.Random, content_: bytes) -> bytes:
    """Another directory, or other members, or the same ones compressed in another way."""
    if rng.random() < 0.25:
        entries = [m.start() for m in re.finditer(rb"PK\x01\x02|PK\x03\x04|PK\x05\x06", content_)]
        data = bytearray(content_)
        at = rng.choice(entries) + rng.randrange(4, 46)
        data[at : at + 4] = struct.pack("<I", rng.choice((*_INTEGERS, *entries)) % 2**32)
        return bytes(data[: len(content_)])
    with zipfile.ZipFile(io.BytesIO(content_)) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    at, method = rng.randrange(len(members)), zipfile.ZIP_STORED
    name, body = members[at]
    kind = rng.randrange(7)
    if kind == 0:
        members[at] = (rng.choice((*_NAMES, "optimizer.M", "\x1b[2J", "θ", "../x")) + ".npy", body)
    elif kind == 1:
        members.insert(rng.randrange(len(members)), (name, edit_npy(rng, body)))
    elif kind == 2:
        del members[at]
    elif kind == 3:
        method = rng.choice(_METHODS)
    elif kind == 4 and name == "header.npy":
        text = edit_json(rng, np.load(io.BytesIO(body)).tobytes())
        members[at] = (name, npy_bytes("'|u1'", f"({len(text)},)", text))
    elif kind == 5:
        members[at] = (name, damage(rng, body, body))
    else:
        members[at] = (name, edit_npy(rng, body))
    out = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w", method) as archive:
        warnings.simplefilter("ignore")  # two members of one name
        for its_name, its_body in members:
            archive.writestr(its_name, its_body)
    return out.getvalue()


_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 3, 0.5, 1e308, float("nan"), float("inf"), 10**12, 10**400),
    *(2**63, "", "x", "12", "\x1b[2J", "\u202eθ", "x" * 5000, [], {}, [[]], [1] * 50, {"en": 1}),
    *("adam", "sgd", "vae", "ae", "float64", "gaussian", "learned", [4, 4], "ja", "passed"),
)


def edit_json(rng: random.Random, content_: bytes) -> bytes:
    """Another value, a missing one, one too many, or deep nesting."""
    document = json.loads(content_)
    if rng.random() < 0.05 or not _edit_document(rng, document):
        deep = rng.choice((b"[", b'{"a":')) * rng.choice((10, 2000, 20_000))
        return rng.choice((deep, json.dumps(rng.choice(_VALUES)).encode()))
    return json.dumps(document, ensure_ascii=rng.random() < 0.5).encode("utf-8", "replace")


def _edit_document(rng: random.Random, document: Any) -> bool:
    """Change one of the values; False where there is none."""
    places = list(_places(document)) if isinstance(document, dict | list) else []
    if not places:
        return False
    holder, key = rng.choice(places)
    kind = rng.randrange(4)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder[rng.choice(("", "new", "version", "\x1b[2J", key + "2"))] = rng.choice(_VALUES)
    else:
        holder[key] = rng.choice(_VALUES)
    return True


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    keys = list(node) if isinstance(node, dict) else range(len(node))
    for key in keys:
        yield node, key
        if isinstance(node[key], dict | list):
            yield from _places(node[key])


_TOML = (
    *('""', '" "', '"x"', "'\\'", "0", "-1", "1e400", "nan", "inf", "true", "1979-05-27", "9" * 5),
    *("[]", "{}", "[[]]", "[1, 2, 3]", '["a", "b"]', '{ en = "a", ja = "あ" }', '"\\u001b[2J"'),
    *("9" * 4400, "[" * 2000, "{ a = " * 2000, '{ en = 1, ja = "あ" }', '"def f(:"', '"1 +"'),
    *('"(" ', '"["', '"x" # y', '[["a", "b", "c"]]', '[["a"]]', "'''\nx\n'''", '"verify"'),
)


def edit_toml(rng: random.Random, content_: bytes) -> bytes:
    """Another value, one more or less; or a line less, twice or elsewhere."""
    if rng.random() < 0.6:
        document = tomllib.loads(content_.decode())
        _edit_document(rng, document)
        return "\n".join(f"{_toml(k)} = {_toml(v)}" for k, v in document.items()).encode()
    lines = content_.decode().split("\n")
    at = rng.randrange(len(lines))
    kind = rng.randrange(5)
    if kind == 0:
        del lines[at]
    elif kind == 1:
        lines.insert(rng.randrange(len(lines)), lines[at])
    elif kind == 2:
        lines.insert(rng.randrange(len(lines)), lines.pop(at))
    else:
        assigned = [i for i, line in enumerate(lines) if re.match(r"[\w.]+ *=", line)]
        at = rng.choice(assigned)
        lines[at] = f"{lines[at].partition('=')[0]}= {rng.choice(_TOML)}"
    return "\n".join(lines).encode()


def _toml(value: Any) -> str:
    """A value as TOML writes it on one line."""
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{_toml(k)} = {_toml(v)}' for k, v in value.items())} }}"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, bool | str):
        return json.dumps(value)
    return '""' if value is None else str(value)


def edit_gzip(rng: random.Random, content_: bytes) -> bytes:
    """What is compressed, or whether it is."""
    if content_[:2] == idx.GZIP_MAGIC:
        inside = gzip.decompress(content_)
        return rng.choice((gzip.compress, bytes))(damage(rng, inside, inside))
    head = bytes([0, 0, 8, 3]) + struct.pack(">3I", *rng.choices((*_INTEGERS, 2, 2, 3), k=3))
    return rng.choice((head + content_[16:], gzip.compress(content_)))


_CODE = (
    *("(" * 250, "[" * 90 + "]" * 90, "1 + " * 400 + "1", "1 * " * 400 + "1", "-" * 400 + "1"),
    *("1 + " * 1500 + "1", "-" * 2500 + "1", "x" + ".x" * 1500, "not " * 900 + "x", "9" * 400),
    *("'\\d \\s'", '"\x1b[2J"', "# \x1b]0;x\x07", "\x1b[2J +", "\0", "\u3000", "１", "1j", "\\"),
    *("1e-5", "h = 1e-5", "/ (2 * h)", "1e400 / 1e-5", "10 ** -400", "1e300 * 1e300", "1e-320"),
    *("import os", "from . import x", "x.__class__", "getattr", "complex", "f'{x!r:{y}}'"),
    *("x: int", "'" * 3, '"' * 3, "lambda h=1e-9: h", "def f(): 0", "class C: 0", "1 is 1"),
    *("'a'()", "()()", "ORACLE = 3", 'ORACLE = "none"', 'ORACLE = "gradient"'),
    *('ORACLE = "\x1b[2J"', "ORACLE: str", "raise", "return", "while True: 0"),
    *("match x:\n    case 1: 0", "\ufeff", "\f", "\r", "\u2028"),
)


def edit_code(rng: random.Random, content_: bytes) -> bytes:
    """A line less, twice or elsewhere; something strange instead of one, before or within it."""
    lines = content_.decode("utf-8", "surrogateescape").split("\n")
    at, to, kind = rng.randrange(len(lines)), rng.randrange(len(lines)), rng.randrange(6)
    strange = rng.choice(_CODE)
    if kind == 0:
        del lines[at]
    elif kind == 1:
        lines.insert(to, lines[at])
    elif kind == 2:
        lines.insert(to, lines.pop(at))
    elif kind == 3:
        indent = len(lines[at]) - len(lines[at].lstrip())
        lines[at] = lines[at][:indent] + strange
    elif kind == 4:
        lines.insert(at, rng.choice(("", "x = ", "def g(x):\n    return ")) + strange)
    else:
        cut = rng.randrange(len(lines[at]) + 1)
        lines[at] = lines[at][:cut] + strange + lines[at][cut:]
    return "\n".join(lines).encode("utf-8", "surrogateescape")


_PAGE = re.compile(rb'(id="data">)(.*?)(?=</script>)', re.DOTALL)
_DOUBLES = (-1.5e308, 1.5e308, -0.0, 5e-324, 0.5, float("inf"), float("nan"))


def edit_page(rng: random.Random, content_: bytes) -> bytes:
    """Other data: any value; one of its own kind, which looks right; a frame more or less."""
    found = _PAGE.search(content_)
    assert found is not None
    document, kind = json.loads(found[2]), rng.randrange(4)
    if kind == 0:
        data = edit_json(rng, found[2])
    else:
        frames = document["frames"]
        places = [(a, b) for a, b in _places(frames) if type(a[b]) in (int, float, str)]
        holder, key = rng.choice(places)
        if kind == 1:
            at = rng.randrange(len(frames))
            rng.choice((frames.pop, lambda at: frames.insert(at, frames[at]), frames.append))(at)
        elif type(holder[key]) is str:
            text, end = holder[key], rng.choice(("", "=", "==", "===", "<", "AAAA"))
            holder[key] = text[: len(text) - rng.choice((0, len(end), rng.randrange(9)))] + end
        else:
            values = _INTEGERS if type(holder[key]) is int else _DOUBLES
            holder[key] = rng.choice(values)
        data = json.dumps(document).encode()
    return content_[: found.start(2)] + data + content_[found.end(2) :]


_CELLS = (None, 0, -1, 10**15, 1.5, 1e308, "", "x", "[]", "{}", "{", "3", "[3]", '{"a":1}', b"\xff")


def edit_database(rng: random.Random, content_: bytes) -> bytes:
    """Another value in a row, or another schema."""
    tables = {
        "answers": ("n", "time", "kind", "id", "right", "detail"),
        "exams": ("n", "language", "started", "seconds", "questions", "used", "position", "ending"),
        "exam_answers": ("exam", "question", "choice", "flagged"),
    }
    table = rng.choice(list(tables))
    column = rng.choice(tables[table])
    with tempfile.TemporaryDirectory(dir=_memory()) as folder:
        path = Path(folder) / "s"
        path.write_bytes(content_)
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
            database.execute("pragma writable_schema = on")
            if rng.random() < 0.7:
                value = rng.choice((*_CELLS, "[" * 3000, "9" * 4400, '{"exam": [1]}', "\x1b[2J"))
                where = rng.choice(("", " where rowid = 1"))
                database.execute(f"update {table} set {column} = ?{where}", (value,))
            else:
                database.execute(
                    rng.choice(
                        (
                            f"drop table {table}",
                            f"alter table {table} rename column {column} to other",
                            f"alter table {table} add column more",
                            f"alter table {table} rename to other",
                            f"pragma user_version = {rng.choice((0, 2, -1, 2**31 - 1))}",
                            f"pragma application_id = {rng.choice((0, 1))}",
                            f"update sqlite_master set sql = 'create table {table} (x)'"
                            f" where name = '{table}'",
                        )
                    )
                )
        return path.read_bytes()


# ------------------------------------------------------------------------------------- the readers


def _memory() -> str | None:
    """A folder in memory, where there is one: most of an input's time would go to the disk."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


class _Payload:
    """What a pickle would run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.getcwd, ()


def _saved(save: Callable[..., None], *given: Any, **named: Any) -> bytes:
    file = io.BytesIO()
    save(file, *given, **named)
    return file.getvalue()


def _images() -> np.ndarray:
    return np.random.default_rng(0).integers(256, size=(12, 3, 2), dtype=np.uint8)


def _idx_seeds() -> list[bytes]:
    plain = b"\0\0\x08\x03" + struct.pack(">3I", 12, 3, 2) + _images().tobytes()
    head = b"\0\0\x08\x03" + struct.pack(">3I", 10**6, 8, 4)
    return [plain, gzip.compress(plain), gzip.compress(head + bytes(32 * MiB), 9)]


def _array_seeds() -> tuple[list[bytes], list[bytes]]:
    x, y = _images(), np.arange(12) % 3
    floats, objects = x.reshape(12, 6) / np.float32(255), np.array([_Payload()], dtype=object)
    pickled = _saved(np.save, objects, allow_pickle=True)
    npy = [_saved(np.save, x), _saved(np.save, floats), _saved(np.save, x > 9), pickled]
    npz = [
        _saved(np.savez, x=x, y=y),
        _saved(np.savez_compressed, x=floats, y=y.astype("u1"), more=y),
        _saved(np.savez, x_train=floats, y_train=y, x_test=floats[:2], y_test=y[:2]),
        _saved(np.savez, x=objects),
        _saved(np.savez_compressed, x=np.zeros((2000, 2, 2**12))),  # a bomb: 125 MiB in 127 kB
        pickle.dumps(_Payload()),
    ]
    return [*npy, pickle.dumps(_Payload())], npz


def _checkpoint_seeds() -> list[bytes]:
    x = np.random.default_rng(0).random((22, 6), dtype="float32")
    seeds = []
    with tempfile.TemporaryDirectory() as folder:
        for epochs, notes in ((0, {"data": "mnist10k", "epochs": 2}), (2, {})):
            model = VAE(6, (5,), 2)
            training = Training(Adam(), batch_size=8, n_examples=22)
            if epochs:
                fit(model, x, validation=x, epochs=epochs, resume=training)
            checkpoint.save(path := Path(folder) / "model.npz", model, training, notes)
            seeds.append(path.read_bytes())
    with np.load(io.BytesIO(seeds[1])) as file:
        parts = dict(file)
    parts["theta"] = np.array([_Payload()], dtype=object)
    return [*seeds, _saved(np.savez_compressed, **parts), pickle.dumps(_Payload())]


def _state_seeds() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s"
        with state.State(path) as file:
            empty = path.read_bytes()
            file.record("quiz", "a", True, {"choice": 2}, when=20)
            file.record("drill", "kl", False, {"記号": "θ"}, when=10)
            exam = file.begin_exam("ja", [{"source": "question", "id": "a", "order": [1, 0]}], 60)
            file.exam_answer(exam.n, 0, 1, True)
            file.exam_clock(exam.n, 12.5, 0)
        return [empty, path.read_bytes()]


def _read_state(path: Path) -> None:
    with state.State(path) as file:
        for answer in file.answers():
            _ = answer.item, answer.time + 1, answer.id + "", answer.detail.get("exam")
        for exam in file.exams():
            _ = [question.get("id") for question in exam.questions]
            _ = exam.seconds - exam.used, exam.started + 1, exam.position + 1
        file.unfinished_exam()


def _progress_seeds() -> list[bytes]:
    entries = {"01_dense_dx": workbook.Entry("passed", 1, False, 3, "2026-01-01", "ab" * 32)}
    plain = {stem: vars(entry) for stem, entry in entries.items()}
    return [json.dumps({"version": v, "exercises": plain}).encode() for v in (0, 1, 2)]


def _read_progress(path: Path) -> None:
    progress._exercises(path)  # which looks, and leaves it as it is
    book = workbook.Workbook(path.parent, [], lambda exercise, file: False)
    for entry in book.entries().values():
        _ = entry.state.upper(), entry.hints + 1, entry.checks + 1


@functools.cache
def _watched_training() -> tuple[VAE, Training, Dataset]:
    """A training after two epochs, which three will be."""
    x = np.random.default_rng(0).random((22, 6), dtype="float32")
    data = Dataset("mine.npz", x, None, x[:5], None)
    model, training = VAE(6, (5,), 3), Training(Adam(), batch_size=8, n_examples=22)
    fit(model, x, epochs=2, resume=training)
    return model, training, data


def _page_seeds() -> list[bytes]:
    """A page of three frames, and what counts in it."""
    model, training, data = _watched_training()
    with tempfile.TemporaryDirectory() as folder:
        page = live.Live(path := Path(folder) / runs.LIVE, model, training, data, 3)
        page.frames = [{**page._frame(), "epoch": epoch} for epoch in range(3)]
        page._write("training")
        whole = path.read_bytes()
    found = live._DATA.search(whole.decode())
    assert found is not None
    return [whole, found[0].encode()]


def _no_json(word: str) -> None:
    raise AssertionError(f"{word} is no JSON")


def _read_page(path: Path) -> None:
    """Go on with a page. One that is set aside must be there as it was; here that is a refusal."""
    given = path.read_bytes()
    page = live.Live(path, *_watched_training(), 3)
    page.__enter__()
    if not page.frames or page.frames[-1]["epoch"] != 2:
        raise AssertionError("no frame")
    written = live._DATA.search(path.read_text(encoding="utf-8"))
    assert written is not None
    json.loads(written[1], parse_constant=_no_json)
    if page.notice:
        if path.with_name(f"{path.name}.broken-1").read_bytes() != given:
            raise AssertionError("the page is lost")
        raise ValueError(page.notice)


def _read_settings(path: Path) -> None:
    place, language.data_dir = language.data_dir, lambda: path.parent
    try:
        if language.choose() not in language.LANGUAGES:
            raise AssertionError("no language")
    finally:
        language.data_dir = place


def _not_run(job: dict[str, Any], _: object) -> list[sandbox.Outcome]:
    """Instead of the process for the learner's code."""
    return [sandbox.Outcome(problem=sandbox.Problem("not run"))] * len(job["jobs"])


def _refusal(path: Path, problem: sandbox.Problem, *said: str) -> None:
    """Raise what the terminal would show, unless the file's code would have been run."""
    if problem.kind != "not run":
        shown = [row for text in said for row in screen.wrap(text, 80)]
        raise ValueError(f"{path}: {' '.join(shown)}".replace("\u3000", " "))


@functools.cache
def _exercise() -> exercises.Exercise:
    return exercises.load(content.files("exercises")[0])


@functools.cache
def _trial() -> Any:
    """What our own expressions of the exercise come to, evaluated for all inputs at once."""
    trial = grade._Trial(_exercise(), 0)
    return SimpleNamespace(cases=trial.cases, limits=trial.limits().copy, judge=trial.judge)


def _answer_seeds() -> list[bytes]:
    return [_exercise().text("en", body).encode() for body in (None, _exercise().solution)]


def _read_answer(path: Path) -> None:
    """Grade a learner's exercise, but for running it."""
    trial = mock.patch.object(grade, "_Trial", return_value=_trial())
    with trial, mock.patch.object(sandbox, "_run", _not_run):
        graded = grade.grade(_exercise(), path, seed=0)
    assert graded.problem is not None
    if graded.problem.kind != "not run":
        lines = diagnosis.report(_exercise(), graded, "en")
        _refusal(path, graded.problem, *(line.text for line in lines))


@functools.cache
def _hunt() -> bughunt_files.Hunt:
    return bughunt_files.load(content.files("bughunts")[0])


def _hunted_seeds() -> list[bytes]:
    claim = bughunt_files.CLAIM.replace("?", "meaning")
    return [(claim + program).encode() for program in (_hunt().wrong, _hunt().program)]


def _read_hunted(path: Path) -> None:
    """Assess a learner's bug hunt, but for running it."""
    try:
        source = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: {error.reason}") from None
    with mock.patch.object(sandbox, "_run", _not_run):
        verdict = bughunt_files.assess(_hunt(), source)
    problem = verdict.said.problem or sandbox.Problem(verdict.kind)
    _refusal(path, problem, str(verdict.claim), problem.name, problem.text, problem.source)


_PROSE = '{ en = "A story.", ja = "ある話です。" }'
_QUESTION = f"""
[[question]]
id = "kl-at-prior"
topic = "elbo"
kind = "calculation"
lesson = "09_gaussian_kl"
text = {_PROSE}
why = {_PROSE}
drill = "kl-1d"
verify = 'ok = value == 1'
code = 'kl = 0.5'
[[question.option]]
same = "1"
right = true
value = 1
[[question.option]]
en = "two"
ja = "2つ"
value = 2
[[question.option]]
same = "3"
value = 3
[[question.option]]
same = "4"
value = 4
"""
_DRILL = f"""
title = {_PROSE}
[[drill]]
id = "double"
topic = "elbo"
lesson = "09_gaussian_kl"
title = {_PROSE}
answer = "2 * a"
digits = 1
[drill.let]
a = "pick(1.0, 2.0)"
[drill.question]
en = "Twice {{a}}?"
ja = "{{a}}の2倍は。"
[drill.solution]
en = "{{answer}}."
ja = "{{answer}}です。"
[[drill.mistake]]
value = "a"
en = "Once."
ja = "1倍です。"
[[drill.mistake]]
value = "3 * a"
en = "Thrice."
ja = "3倍です。"
[[drill.mistake]]
value = "4 * a"
en = "Four times."
ja = "4倍です。"
"""


def _first(folder: str) -> list[bytes]:
    """The shortest of our own files: a TOML parser in Python takes its time."""
    return [min(content.files(folder), key=lambda path: path.stat().st_size).read_bytes()]


def _times(factor: int) -> Callable[[bytes], int]:
    return lambda content_: factor * len(content_) + MiB


def _archive_bound(content_: bytes) -> int:
    """Of the arrays' own size, which the directory tells, as far as it may be believed."""
    declared = 0
    with contextlib.suppress(Exception), zipfile.ZipFile(io.BytesIO(content_)) as archive:
        declared = sum(info.file_size for info in archive.infolist())
    return 12 * min(declared, arrays.most_held(len(content_))) + _times(64)(content_)


def _idx_bound(content_: bytes) -> int:
    held = len(content_)
    if content_[:2] == idx.GZIP_MAGIC:
        held = arrays.most_held(held)
    return 2 * held + MiB


def readers() -> list[Reader]:
    """Everything that is read."""
    npy, npz = _array_seeds()
    numpy_files = (arrays, own, npy_format, sys.modules[npy_format.read_magic.__module__])
    any_shape = (None, None, None)
    return [
        Reader(
            *("idx", "train-images-idx3-ubyte.gz", lambda path: idx.read_idx(path, any_shape)),
            *(_idx_seeds(), edit_gzip, (idx, arrays, gzip), _idx_bound),
        ),
        Reader(
            *("checkpoint", "model.npz", lambda path: checkpoint.load(path), _checkpoint_seeds()),
            *(edit_zip, (checkpoint, zipfile, *numpy_files), _times(64)),
        ),
        Reader(
            *("run", "model.npz", lambda path: runs.open_run(path.parent), _checkpoint_seeds()),
            *(edit_zip, (runs, checkpoint, zipfile, *numpy_files), _times(64)),
        ),
        Reader("npy", "mine.npy", own.load_file, npy, edit_npy, numpy_files, _times(12)),
        Reader(
            *("npz", "mine.npz", own.load_file, npz, edit_zip, (zipfile, *numpy_files)),
            _archive_bound,
        ),
        Reader(
            *("state", "practice.sqlite3", _read_state, _state_seeds(), edit_database, (state,)),
            _times(64),
        ),
        Reader(
            *("progress", "progress.json", _read_progress, _progress_seeds(), edit_json),
            *((workbook,), _times(64)),
        ),
        Reader(
            *("settings", "settings.json", _read_settings, [b'{"language": "ja"}'], edit_json),
            *((language,), _times(64), False),
        ),
        Reader("live", runs.LIVE, _read_page, _page_seeds(), edit_page, (live,), _times(64)),
        Reader(
            *("questions", "mine.toml", lambda path: questions.load([path]), [_QUESTION.encode()]),
            *(edit_toml, (questions, content), _times(200)),
        ),
        Reader(
            *("drills", "01_mine.toml", lambda path: drill_cards.load([path]), [_DRILL.encode()]),
            *(edit_toml, (drill_cards, content), _times(200)),
        ),
        Reader(
            *("exercises", "01_mine.toml", exercises.load, _first("exercises")),
            *(edit_toml, (exercises, content), _times(200)),
        ),
        Reader(
            *("bughunts", "01_mine.toml", bughunt_files.load, _first("bughunts")),
            *(edit_toml, (bughunt_files, content), _times(200)),
        ),
        Reader(
            *("answer", "01_mine.py", _read_answer, _answer_seeds(), edit_code),
            *((grade, sandbox), _times(1000)),
        ),
        Reader(
            *("hunted", "01_mine.py", _read_hunted, _hunted_seeds(), edit_code),
            *((bughunt_files,), _times(1000)),
        ),
    ]


# ------------------------------------------------------------------------------------- the command


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fuzz",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--inputs", type=int, help="in all (100000, or what fits into --seconds)")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", metavar="READER")
    default = Path(tempfile.gettempdir()) / "scratchvae-fuzz"
    parser.add_argument("--out", type=Path, default=default, help=f"({default})")
    arguments = parser.parse_args()
    chosen = [r for r in readers() if arguments.only is None or r.name in arguments.only]
    inputs = arguments.inputs or (100_000 if arguments.seconds == float("inf") else 10**9)
    start, violations, total = time.monotonic(), 0, 0
    head = ("inputs", "read", "refused", "violations", "corpus", "lines", "of bound", "slowest, s")
    print(f"| reader | {' | '.join(head)} |\n|---|{'---|' * len(head)}")
    for i, reader in enumerate(chosen):
        share = -(-inputs // len(chosen))
        until = start + arguments.seconds * (i + 1) / len(chosen)
        with tempfile.TemporaryDirectory(dir=_memory()) as folder:
            report = Fuzzer(reader, Path(folder), arguments.seed).run(share, until)
        figures = (report.inputs, report.read, report.refused, len(report.violations))
        more = f"{report.corpus} | {report.lines} | {report.fullest:.0%} | {report.slowest:.2f}"
        print(f"| {reader.name} | {' | '.join(f'{n:,}' for n in figures)} | {more} |", flush=True)
        for found in report.violations.values():
            name = f"{reader.name}-{hashlib.sha256(found.content).hexdigest()[:8]}"
            path = arguments.out / f"{name}{Path(reader.file).suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(found.content)
            print(f"  {path}: {found.what} {found.place}", flush=True)
        violations += len(report.violations)
        total += report.inputs
    seconds = time.monotonic() - start
    print(f"{total:,} inputs, {violations} violations, {seconds:.0f} s, seed {arguments.seed}")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
