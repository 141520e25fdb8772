"""A learner's code in its own process: what it returns, what stops it, and on which line."""

from __future__ import annotations

import os
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scratchvae.practice import child, content
from scratchvae.practice.sandbox import Outcome, call, call_sources, line_text, refuse

X = np.arange(6.0).reshape(2, 3)


def run(tmp_path: Path, source: str, *arguments: Any, **options: Any) -> Outcome:
    path = tmp_path / "01_解答.py"  # a name that must not matter
    path.write_text(source, encoding="utf-8")
    return call(path, "f", [arguments or (X,)], **options)


def test_arrays_and_scalars_travel_both_ways(tmp_path: Path) -> None:
    arguments = (X, 0.5, 3, True, "name", None, {"W": X, "b": [1, (2.0, X)]}, X > 2)
    outcome = run(tmp_path, "def f(*a):\n    return a\n", *arguments)
    assert outcome.problem is None
    back = outcome.returned[0]
    assert [type(v) for v in back] == [type(v) for v in arguments]
    np.testing.assert_array_equal(back[0], X)
    np.testing.assert_array_equal(back[6]["b"][1][1], X)
    assert back[7].dtype == bool
    assert back[1:6] == arguments[1:6]


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    source = "import numpy as np\n\ndef f(x):\n    return np.array([object()])\n"
    outcome = run(tmp_path, source)
    assert type(outcome.returned[0]).__name__ == "Other"


def test_every_case_is_called(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text("def f(x, k):\n    return k * x\n", encoding="utf-8")
    outcome = call(path, "f", [(X, 1), (X, 2), (X[:1], 3)], twice=True)
    assert [v.shape for v in outcome.returned] == [(2, 3), (2, 3), (1, 3)]
    assert len(outcome.again) == 3
    assert outcome.lines == [2, 2, 2]
    assert outcome.changed == [[], [], []]


def test_overwritten_arguments_are_told_and_stay_in_the_process(tmp_path: Path) -> None:
    outcome = run(tmp_path, "def f(k, x):\n    x[0] = 7\n    return x\n", 1, X)
    assert outcome.changed == [[1]]
    assert X[0, 0] == 0


def test_several_sources_share_a_process(tmp_path: Path) -> None:
    sources = ["def f(x):\n    return x\n", "def f(x)\n", "def f(x):\n    return 1 / 0\n"]
    outcomes = call_sources(sources, "f", [(X,)])
    assert [o.problem.kind if o.problem else None for o in outcomes] == [
        None,
        "syntax",
        "exception",
    ]


PROBLEMS: dict[str, tuple[str, str, int | None, str]] = {
    "syntax": ("def f(x):\n    return x +\n", "syntax", 2, "return x +"),
    "indentation": ("def f(x):\nreturn x\n", "syntax", 2, "return x"),
    "null byte": ("def f(x):\n    return x\0\n", "syntax", None, ""),
    "no function": ("def g(x):\n    return x\n", "no function", None, ""),
    "not a function": ("f = 3\n", "no function", None, ""),
    "blank": (
        "def f(x):\n    raise NotImplementedError\n",
        "blank",
        2,
        "raise NotImplementedError",
    ),
    "exception": ("def f(x):\n    y = x @ x\n    return y\n", "exception", 2, "y = x @ x"),
    "exception in a helper": (
        "def g(x):\n    return x.nothing\n\ndef f(x):\n    return g(x)\n",
        "exception",
        2,
        "return x.nothing",
    ),
    "exception on import": ("import numpy as np\nnp.zeros(-1)\n", "exception", 2, "np.zeros(-1)"),
    "missing argument": ("def f(x, y):\n    return x\n", "exception", None, ""),
    "recursion": ("def f(x):\n    return f(x)\n", "recursion", 2, "return f(x)"),
    "flood": ("def f(x):\n    while True:\n        print(x)\n", "flood", 3, "print(x)"),
    "flood, caught": (
        "def f(x):\n    for i in range(9**9):\n        try:\n            print(x)\n"
        "        except BaseException:\n            raise\n",
        "flood",
        4,
        "print(x)",
    ),
    "exit": ("def f(x):\n    raise SystemExit(3)\n", "exit", 2, "raise SystemExit(3)"),
    "exit from a builtin": ("def f(x):\n    exit()\n", "exit", 2, "exit()"),
    "memory": (
        "import numpy as np\n\ndef f(x):\n    return np.ones(10**10)\n",
        "memory",
        4,
        "return np.ones(10**10)",
    ),
}


@cache
def together(which: str) -> dict[str, Outcome]:
    """All sources of a table in one process, since a start takes a while."""
    if which == "problems":
        sources = {name: case[0] for name, case in PROBLEMS.items()}
        outcomes = call_sources([*sources.values()], "f", [(X,)], seconds=20)
        return dict(zip(sources, outcomes, strict=True))
    sources = {"numerical": NUMERICAL, "honest": HONEST}[which]
    x = np.random.default_rng(0).standard_normal((3, 5))
    outcomes = call_sources(
        [START + source for source in sources.values()],
        "f",
        [(x, np.ones_like(x))],
        honest=True,
        seconds=20,
    )
    return dict(zip(sources, outcomes, strict=True))


@pytest.mark.parametrize("name", PROBLEMS)
def test_what_stops_the_code_is_named_with_its_line(name: str) -> None:
    _, kind, line, text = PROBLEMS[name]
    problem = together("problems")[name].problem
    assert problem is not None
    assert (problem.kind, problem.line, problem.source) == (kind, line, text)


ENDLESS = {
    "loop": ("def f(x):\n    while True:\n        x = x + 1\n", {2, 3}),
    "loop that catches": (
        "def f(x):\n    while True:\n        try:\n            x = x + 1\n"
        "        except BaseException:\n            pass\n",
        {2, 3, 4},
    ),
    "inside C, holding the lock": ("def f(x):\n    y = 3\n    return y ** (10**9)\n", {3}),
    "on import": ("while True:\n    pass\n", {1, 2}),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_an_endless_loop_is_stopped_and_its_line_named(tmp_path: Path, name: str) -> None:
    source, lines = ENDLESS[name]
    problem = run(tmp_path, source, seconds=0.7).problem
    assert problem is not None
    assert problem.kind == "timeout"
    assert problem.line in lines
    assert problem.source == source.splitlines()[problem.line - 1].strip()


def test_a_process_that_dies_is_told(tmp_path: Path) -> None:
    source = "import os\n\ndef f(x):\n    os._exit(3)\n"
    problem = run(tmp_path, source, allowed=()).problem
    assert problem is not None
    assert (problem.kind, problem.name) == ("died", "3")


REACHES_OUT = {
    "open": "open({path!r}, 'w')",
    "open in bytes": "open({path!r}.encode(), 'ab')",
    "os.open": "os.open({path!r}, os.O_RDWR | os.O_CREAT)",
    "NumPy": "np.save({path!r}, x)",
    "pathlib": "pathlib.Path({path!r}).write_text('x')",
    "a folder": "os.makedirs({path!r})",
    "a removal": "os.remove({path!r})",
    "a tree": "shutil.rmtree(pathlib.Path({path!r}).parent)",
    "a rename": "os.rename(os.open('x', os.O_CREAT) and 'x', {path!r})",
    "a relative path": "open('../../x', 'w')",
    "a link": "os.symlink(pathlib.Path({path!r}).parent, 'y')",
    "its rights": "os.chmod({path!r}, 0o600)",
    "its owner": "os.chown({path!r}, 0, 0)",
    "its time": "os.utime({path!r})",
    "a shell": "os.system('touch ' + {path!r})",
    "subprocess": "subprocess.Popen(['touch', {path!r}], start_new_session=True)",
    "a fork": "os.fork()",
    "multiprocessing": "multiprocessing.Process(target=print).start()",
    "a new Python": "multiprocessing.get_context('spawn').Process(target=print).start()",
}
WITH = "import multiprocessing, os, pathlib, shutil, subprocess\nimport numpy as np\n"


@pytest.mark.skipif(os.name != "posix", reason="os.fork")
def test_nothing_outside_is_changed_and_no_process_started(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text("mine", encoding="utf-8")
    sources = [
        f"{WITH}def f(x):\n    {body.format(path=str(mine))}\n" for body in REACHES_OUT.values()
    ]
    outcomes = call_sources(sources, "f", [(X,)], allowed=(), seconds=20)
    for name, outcome in zip(REACHES_OUT, outcomes, strict=True):
        assert outcome.problem is not None, name
        assert (outcome.problem.name, outcome.problem.line) == ("PermissionError", 4), name
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert mine.read_text(encoding="utf-8") == "mine"


def test_a_program_may_write_in_its_own_folder(tmp_path: Path) -> None:
    source = (
        "import os, tempfile\nimport numpy as np\n\ndef f(x):\n    np.save('x.npy', x)\n"
        "    os.mkdir('y')\n    os.rename('x.npy', 'y/x.npy')\n    open(os.devnull, 'w').close()\n"
        "    with tempfile.TemporaryFile() as file:\n        np.save(file, x)\n"
        "    return np.load('y/x.npy')\n"
    )
    outcome = run(tmp_path, source, allowed=())
    assert outcome.problem is None
    np.testing.assert_array_equal(outcome.returned[0], X)


def test_the_solutions_are_closed_to_the_process(tmp_path: Path) -> None:
    path = content.files("exercises")[0]
    source = f"def f(x):\n    return open({str(path)!r}).read()\n"
    problem = run(tmp_path, source, allowed=()).problem
    assert problem is not None
    assert (problem.name, problem.line) == ("PermissionError", 2)


@pytest.mark.skipif(os.name != "posix", reason="fork of the C library")
def test_what_outlives_the_call_is_killed(tmp_path: Path) -> None:
    """Python refuses to fork there; C does not ask it."""
    source = (
        "import ctypes, time\n\ndef f(x):\n    pid = ctypes.CDLL(None).fork()\n"
        "    if pid == 0:\n        time.sleep(60)\n    return pid\n"
    )
    outcome = run(tmp_path, source, allowed=())
    assert outcome.problem is None
    (pid,) = outcome.returned
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and _runs(pid):
        time.sleep(0.01)
    assert not _runs(pid)


def _runs(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def test_the_process_is_isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "math.py").write_text("raise RuntimeError('the wrong math')\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "7")
    source = (
        "import os, sys, math\n\ndef f(x):\n"
        "    return [os.environ['OPENBLAS_NUM_THREADS'], os.listdir('.'), sys.stdin.read(), "
        "'scratchvae' in sys.modules, 'matplotlib' in sys.modules]\n"
    )
    outcome = run(tmp_path, source, allowed=())
    assert outcome.returned == [["1", [], "", False, False]]


def test_printed_text_is_kept_to_a_bound(tmp_path: Path) -> None:
    outcome = run(tmp_path, "def f(x):\n    print('here', x.shape)\n    return x\n")
    assert outcome.printed == "here (2, 3)\n"
    flood = run(tmp_path, "def f(x):\n    print('x' * 10**6)\n    return x\n")
    assert len(flood.printed) <= 20_000


# ------------------------------------------------------------------------- what is refused by name

REFUSED = {
    **{
        f"import {name}": (f"import {name}\n", "import", 1, name)
        for name in ("scratchvae", "torch", "jax.numpy", "tensorflow", "autograd", "sympy", "scipy")
    },
    "numdifftools": ("from numdifftools import Gradient\n", "import", 1, "numdifftools"),
    "inside": ("def f(x):\n    import scratchvae.layers as s\n", "import", 2, "scratchvae.layers"),
    "importlib": ("import importlib\n", "import", 1, "importlib"),
    "subprocess": ("import subprocess\n", "import", 1, "subprocess"),
    "os": ("import os\n", "import", 1, "os"),
    "relative": ("from . import x\n", "import", 1, "."),
    "__import__": ("t = __import__('torch')\n", "name", 1, "__import__"),
    "exec": ("exec('1')\n", "name", 1, "exec"),
    "eval": ("def f(x):\n    return eval('x')\n", "name", 2, "eval"),
    "open": ("def f(x):\n    return open('a').read()\n", "name", 2, "open"),
    "globals": ("def f(x):\n    return globals()\n", "name", 2, "globals"),
    "getattr": ("import numpy as np\ng = getattr(np, 'lo' + 'ad')\n", "name", 2, "getattr"),
    "np.load": ("import numpy as np\nx = np.load('a')\n", "name", 2, "load"),
    "from numpy import": ("from numpy import load\n", "name", 1, "load"),
    "numpy.testing": ("import numpy.testing\n", "name", 1, "testing"),
    "builtins": ("b = __builtins__\n", "name", 1, "__builtins__"),
    "subclasses": ("b = ().__class__\n", "name", 1, "__class__"),
    "1j": ("def f(x):\n    return x + 1e-20j\n", "complex", 2, "1e-20j"),
    "complex()": ("def f(x):\n    return complex(0, 1)\n", "complex", 2, "complex"),
    "complex128": ("def f(x):\n    return x.astype('complex128')\n", "complex", 2, "'complex128'"),
    "np.complex128": ("import numpy as np\nt = np.complex128\n", "complex", 2, "complex128"),
    "longdouble": ("import numpy as np\nt = np.longdouble\n", "complex", 2, "longdouble"),
    ".imag": ("def f(x):\n    return x.imag\n", "complex", 2, "imag"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_by_name_and_line(name: str) -> None:
    source, kind, line, what = REFUSED[name]
    problem = refuse(source)
    assert problem is not None
    assert (problem.kind, problem.line, problem.name) == (kind, line, what)


def test_imports_that_the_text_hides_are_refused_in_the_process(tmp_path: Path) -> None:
    source = (
        "import functools\n\ndef f(x):\n    i = functools.partial.__repr__.__globals__\n"
        "    return 1\n"
    )
    assert refuse(source) is not None
    job = {"source": "import torch\n", "allowed": ["numpy"], "refused": ["open"]}
    result = child.run({**job, "function": "f", "cases": []}, {}, {})
    assert result["problem"]["kind"] == "import"
    job["source"] = "open\n"
    result = child.run({**job, "function": "f", "cases": []}, {}, {})
    assert result["problem"]["type"] == "NameError"


LOOPS = """
def f(x, dy):
    dx = np.zeros_like(x)
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            {body}
    return dx
"""
NUMERICAL = {
    "one element at a time": LOOPS.format(
        body="a, b = x.copy(), x.copy(); a[i, j] += k; b[i, j] -= k; "
        "dx[i, j] = np.sum(dy * (forward(a) - forward(b))) * r"
    ),
    "in place": LOOPS.format(
        body="x[i, j] += k; a = np.sum(dy * np.tanh(x)); x[i, j] -= 2 * k; "
        "b = np.sum(dy * np.tanh(x)); x[i, j] += k; dx[i, j] = (a - b) * r"
    ).replace("; ", "\n            "),
    "its own forward": LOOPS.format(
        body="a = x.copy(); a[i, j] += k; g = lambda v: np.sum(dy * np.tanh(v)); "
        "dx[i, j] = (g(a) - g(x)) * r"
    ),
    "one-hot": LOOPS.format(
        body="e = np.zeros_like(x); e[i, j] = k; g = lambda v: np.sum(dy * np.tanh(v)); "
        "dx[i, j] = (g(x + e) - g(x - e)) * r"
    ),
    "all at once": "\ndef f(x, dy):\n    return dy * (forward(x + k) - forward(x - k)) * r\n",
    "an alias": "\ng = forward\n\ndef f(x, dy):\n    return dy * (g(x + k) - g(x - k)) * r\n",
    "written out": "\ndef f(x, dy):\n    h = 1e-5\n"
    "    return dy * (np.tanh(x + h) - np.tanh(x - h)) / (2 * h)\n",
    "literal step": "\ndef f(x, dy):\n"
    "    return dy * (np.tanh(x + 1e-6) - np.tanh(x - 1e-6)) / 2e-6\n",
    "default step": "\ndef f(x, dy, h=10**-5):\n"
    "    return dy * (np.tanh(x + h) - np.tanh(x)) / h\n",
}
START = (
    "import numpy as np\n\nk, r = 2.0 ** -17, 2.0 ** 16\n\n\n"
    "def forward(x):\n    return np.tanh(x)\n"
)


@pytest.mark.parametrize("name", NUMERICAL)
def test_numerical_differentiation_is_refused(name: str) -> None:
    problem = together("numerical")[name].problem
    assert problem is not None
    assert problem.kind == "numerical", problem
    assert problem.line


HONEST = {
    "a formula": "def f(x, dy):\n    return dy * (1 - np.tanh(x) ** 2)\n",
    "the forward once": "def f(x, dy):\n    y = forward(x)\n    return dy * (1 - y) * (1 + y)\n",
    "row by row": "def f(x, dy):\n    return np.stack([g * (1 - forward(r) ** 2) "
    "for r, g in zip(x, dy)])\n",
    "element by element": LOOPS.format(body="dx[i, j] = dy[i, j] * (1 - np.tanh(x[i, j]) ** 2)"),
    "a mask set one by one": LOOPS.replace("zeros_like(x)", "copy(dy)").format(
        body="dx[i, j] = 0 if x[i, j] < 0 else dy[i, j]"
    ),
    "an epsilon in a root": "def f(x, dy, eps=1e-8):\n    return dy / (np.sqrt(x**2) + eps)\n",
    "a scale": "def f(x, dy):\n    s = 2.0\n    return dy * (x - s) / (s * len(x))\n".replace(
        "2.0", "x.std()"
    ),
    "averages": "def f(x, dy):\n    n = len(x)\n    return (dy - dy.mean()) / n + (1 - n) * 0\n",
}


@pytest.mark.parametrize("name", HONEST)
def test_derivations_are_not_taken_for_numerical(name: str) -> None:
    assert together("honest")[name].problem is None


def test_complex_numbers_at_run_time_are_refused(tmp_path: Path) -> None:
    source = "import numpy as np\n\ndef f(x):\n    z = np.fft.fft(x)\n    return x\n"
    problem = run(tmp_path, source, honest=True).problem
    assert problem is not None
    assert (problem.kind, problem.line) == ("complex", 4)


def test_a_program_may_be_left_alone(tmp_path: Path) -> None:
    """The bug hunts run whole programs, which import and differentiate what they like."""
    source = "import os\n\ndef f(x):\n    h = 1e-5\n    return ((x + h) - x) / h\n"
    assert run(tmp_path, source, allowed=()).problem is None


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("return\u3000x", "wide space"),
        ("return f\uff08x)", "full width"),
        ("x \uff1d 1", "full width"),
        ("x = \u201ca\u201d", "quote"),
        ("x = \u2018a\u2019", "quote"),
    ],
)
def test_a_character_of_another_keyboard_is_named(text, kind):
    problem = refuse(f"def f(x):\n    {text}\n")
    assert (problem.kind, problem.line) == (kind, 2)
    assert problem.text in text


def test_what_is_nested_too_deeply_is_refused():
    assert refuse("x = " + "1 + " * 150 + "1\n") is None
    problem = refuse("x = " + "1 + " * 250 + "1\n")
    assert (problem.kind, problem.text) == ("syntax", "nested too deeply")


def test_lines_are_counted_as_python_counts_them_and_shortened():
    assert line_text("a\x0c\u2028b\r\nc\rd\ne", 3) == "d"
    assert line_text("x" * 300, 1) == "x" * 200 + " ..."
    assert line_text("a", 2) == ""


@pytest.mark.parametrize(
    "text",
    [
        "import dataclasses",
        "import functools",
        "import typing",
        "np.core.builtins",
        "x.exec('y')",
        "x.real",
        "x.gi_frame.f_back",
        "match x:\n    case object(__class__=c): pass",
        "match x:\n    case object(tb_frame=f): pass",
        "import numpy.typing.tests",
        "np.poly1d([1, 0]).deriv()",
        "from numpy import gradient",
    ],
)
def test_ways_to_the_inside_of_python_are_refused(text):
    assert refuse(f"import numpy as np\n{text}\n") is not None
