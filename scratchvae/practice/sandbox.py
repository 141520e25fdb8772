"""Calls a learner's function in a separate process, and says what became of it.

    outcome = call(path, "backward", [(dy, x, W)], seconds=5)
    outcome.problem      # None, or what stopped it: its kind and the line in the learner's file
    outcome.returned     # what the function returned, one value a case

The process (`child`) runs isolated from the environment and the current folder, with one BLAS
thread, limits on time, memory, files and output, and no standard input. It can change files in its
temporary folder only, and start no other process. Arguments and results travel as arrays without
pickle. What outlives the call all the same is killed with its process group.

This keeps accidents away and shortcuts out. It is no prison: a learner's file may do what the
learner may do.
"""

from __future__ import annotations

import ast
import contextlib
import json
import math
import os
import re
import tempfile
import warnings
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from scratchvae.practice import child, starter

SECONDS = 5.0
MEMORY = 4 << 30
DEEPEST = 200  # levels of a program's syntax tree: Python's own parentheses end there too
LONGEST = 200  # characters of a line that are shown
#: What an answer may import.
ALLOWED = ("numpy", "math", "itertools", "__future__")  # others lead on to sys and builtins
#: What an answer cannot name: ways around the other refusals.
NAMES = frozenset(
    re.findall(
        r"\w+",
        """exec eval compile open __import__ input breakpoint globals locals vars getattr setattr
        delattr complex memoryview help""",
    )
)
#: What an answer cannot name after a dot: files, other arithmetic, the inside of Python and NumPy.
ATTRIBUTES = frozenset(
    re.findall(
        r"\w+",
        """load save savez savez_compressed loadtxt savetxt genfromtxt fromfile fromregex tofile
        memmap DataSource open_memmap ctypeslib ctypes f2py testing lib core _core distutils
        sys _sys os modules real conj conjugate builtins exec eval tests conftest mypy_plugin
        gi_frame gi_code cr_frame cr_code ag_frame ag_code tb_frame tb_next
        f_back f_builtins f_code f_globals f_locals""",
    )
)
#: What differentiates in the learner's place.
DERIVATIVES = frozenset(
    re.findall(r"\w+", "gradient deriv polyder chebder legder hermder hermeder lagder")
)
COMPLEX = frozenset(
    re.findall(
        r"\w+",
        """complex64 complex128 complex192 complex256 csingle cdouble clongdouble complexfloating
        imag emath longdouble float96 float128 sctypeDict""",
    )
)


@dataclass(frozen=True)
class Problem:
    """What stopped a learner's code, or why it is refused, and where.

    `kind`: "unreadable", "syntax", "full width", "wide space", "quote", "import", "name",
    "complex", "wide", "derivative", "numerical", "no function", "blank", "exception", "recursion",
    "memory", "flood", "exit", "timeout", "died"; and from `grade`: "none", "none of", "count",
    "type", "imprecise".
    `line` counts from 1 in the learner's file and `source` is that line; `name` is what is refused
    or the exception's type, `text` the exception's message.
    """

    kind: str
    line: int | None = None
    source: str = ""
    name: str = ""
    text: str = ""


@dataclass(frozen=True)
class Outcome:
    """What a learner's function did.

    For each case: `returned`, the value; `lines`, the line where it returned; `changed`, the
    positions of arguments that it overwrote; `again`, what a second call returned (if `twice`).
    After a problem the lists end early. `printed` is the beginning of what it printed
    until the end of the first call.
    """

    returned: list[Any] = field(default_factory=list)
    again: list[Any] = field(default_factory=list)
    changed: list[list[int]] = field(default_factory=list)
    lines: list[int | None] = field(default_factory=list)
    printed: str = ""
    problem: Problem | None = None


def call(
    path: str | os.PathLike[str],
    function: str,
    cases: Sequence[Sequence[Any]],
    *,
    seconds: float = SECONDS,
    allowed: Collection[str] = ALLOWED,
    honest: bool = False,
    twice: bool = False,
) -> Outcome:
    """Call `function` of the file `path` on each of `cases`, a sequence of arguments.

    Arguments are arrays, Python's scalars and strings, and tuples, lists and dicts of these.
    `allowed` are the packages that the file may import (empty: all, and nothing else is refused
    either). `honest` refuses numerical differentiation. `seconds` is for all calls together.
    """
    try:
        source = Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return Outcome(problem=Problem("unreadable", text=str(error)))
    options = {"allowed": allowed, "honest": honest, "twice": twice}
    return call_sources([source], function, cases, seconds=seconds, **options)[0]  # type: ignore[arg-type]


def call_sources(
    sources: Sequence[str],
    function: str,
    cases: Sequence[Sequence[Any]],
    *,
    seconds: float = SECONDS,
    allowed: Collection[str] = ALLOWED,
    honest: bool = False,
    limits: Sequence[tuple[int, int]] = (),
    twice: bool = False,
) -> list[Outcome]:
    """Do as `call` for several files' texts, one after the other in one process.

    `limits` holds, for each case, how many values an honest answer may compute, and how many of
    curved functions (see `effort`); what computes more differentiates numerically. If it is
    shorter than `cases`, the rest are not watched for that.
    """
    problems = [refuse(source, allowed, honest) for source in sources]
    arrays: dict[str, Any] = {}
    encoded = [child.encode(tuple(case), arrays) for case in cases]
    jobs = [
        {
            "source": source,
            "function": function,
            "cases": encoded,
            "nudges": honest,
            "limits": list(limits),
            "twice": twice,
            "allowed": list(allowed),
            "refused": sorted(NAMES - {"__import__"}) if allowed else [],
        }
        for source, problem in zip(sources, problems, strict=True)
        if not problem
    ]
    job = {"jobs": jobs, "seconds": seconds, "memory": MEMORY}
    done = iter(_run(job, arrays) if jobs else [])
    outcomes = []
    for source, problem in zip(sources, problems, strict=True):
        outcome = Outcome(problem=problem) if problem else next(done)
        if outcome.problem:
            named = replace(outcome.problem, source=line_text(source, outcome.problem.line))
            outcome = replace(outcome, problem=named)
        outcomes.append(outcome)
    return outcomes


def line_text(source: str, line: int | None) -> str:
    """The text of a line, without the spaces around it; empty if there is no such line."""
    lines = re.split(r"\r\n?|\n", source)  # as Python counts; splitlines() knows more ends
    text = lines[line - 1].strip() if line and line <= len(lines) else ""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."


def _run(job: dict[str, Any], arguments: dict[str, Any]) -> list[Outcome]:
    """Start the process, wait for its end, and read what it left."""
    seconds = job["seconds"]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
        np.savez(folder / "arguments.npz", **arguments)
        code = starter.run(folder, seconds)
        if (folder / "results.json").exists():
            results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
            with np.load(folder / "results.npz", allow_pickle=False) as file:
                arrays = {key: file[key] for key in file.files}
            return [_outcome(result, arrays) for result in results]
        file = folder / "late.txt"
        late = file.read_text(errors="replace", encoding="utf-8") if file.exists() else ""
        if late or code is None:
            where = re.search(rf'File "{re.escape(child.FILE)}", line (\d+)', late)
            line = int(where[1]) if where else None
            problem = Problem("timeout", line, text=f"{seconds:g}")
        else:
            stderr = folder / "stderr"
            end = stderr.read_text(errors="replace", encoding="utf-8") if stderr.exists() else ""
            last = "".join(end.strip().splitlines()[-1:])
            problem = Problem("died", name=str(code), text=last[:200])
        return [Outcome(problem=problem)] * len(job["jobs"])


def _outcome(result: dict[str, Any], arrays: dict[str, Any]) -> Outcome:
    problem = None
    if found := result["problem"]:
        problem = Problem(
            found["kind"], found["line"], name=found.get("type", ""), text=found.get("text", "")
        )
        if problem.kind == "import":
            problem = Problem("import", problem.line, name=problem.text)
    if problem is None and result["watch"]:
        kind, line = result["watch"]
        problem = Problem("numerical" if kind == "nudged" else kind, line, name=kind)
    return Outcome(
        returned=[child.decode(v, arrays) for v in result["returned"]],
        again=[child.decode(v, arrays) for v in result["again"]],
        changed=result["changed"],
        lines=result["lines"],
        printed=result.get("printed", ""),
        problem=problem,
    )


# ------------------------------------------------------------------- what can be seen in the text


def parsed(source: str) -> ast.Module:
    """Parse a learner's file, without the warnings that Python has for it.

    Raises SyntaxError, ValueError, RecursionError or MemoryError where it cannot be read.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = ast.parse(source)
    level: list[ast.AST] = [tree]
    for _ in range(DEEPEST):
        level = [child for node in level for child in ast.iter_child_nodes(node)]
    if level:
        raise RecursionError("nested too deeply")
    return tree


def refuse(
    source: str,
    allowed: Collection[str] = ALLOWED,
    honest: bool = True,
) -> Problem | None:
    """Why the text of a file is refused before it runs; None if it is not."""
    try:
        tree = parsed(source)
    except SyntaxError as error:
        if wide := re.search(r"U\+(3000|FF[0-9A-F]{2}|201[89CD])\b", error.msg):
            text = chr(int(wide[1], 16))  # of a Japanese keyboard, or a word processor
            quote, space = text in "\u2018\u2019\u201c\u201d", text == "\u3000"
            kind = "quote" if quote else "wide space" if space else "full width"
            return Problem(kind, error.lineno, text=text)
        return Problem("syntax", error.lineno, text=error.msg)
    except (ValueError, RecursionError, MemoryError) as error:
        return Problem("syntax", None, text=str(error))
    found = list(_refused(tree, allowed)) if allowed else []
    if honest:
        found += _complex(tree)
        found += _difference(tree)
    return min(found, key=lambda problem: problem.line or 0, default=None)


def _refused(tree: ast.Module, allowed: Collection[str]) -> Iterator[Problem]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            modules = names if isinstance(node, ast.Import) else [node.module or "."]
            for name in modules:
                if name.partition(".")[0] not in allowed:
                    yield Problem("import", node.lineno, name=name)
            parts = {part for name in (*modules, *names) for part in name.split(".")}
            for part in sorted(parts & ATTRIBUTES):
                yield Problem("name", node.lineno, name=part)
            for part in sorted(parts & DERIVATIVES):
                yield Problem("derivative", node.lineno, name=part)
        elif isinstance(node, ast.Name) and (
            node.id in NAMES - {"complex"} or (_inner(node.id) and node.id != "__name__")
        ):
            yield Problem("name", node.lineno, name=node.id)
        elif isinstance(node, ast.Attribute) and (node.attr in ATTRIBUTES or _inner(node.attr)):
            yield Problem("name", node.lineno, name=node.attr)
        elif isinstance(node, ast.MatchClass):
            for name in node.kwd_attrs:
                if name in ATTRIBUTES or _inner(name):
                    yield Problem("name", node.lineno, name=name)
        if isinstance(node, ast.Attribute) and node.attr in DERIVATIVES:
            yield Problem("derivative", node.lineno, name=node.attr)


def _inner(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


def _complex(tree: ast.Module) -> Iterator[Problem]:
    """A derivative by a complex step, or by differences in wider floats."""
    for node in ast.walk(tree):
        name = ""
        if isinstance(node, ast.Constant):
            if isinstance(node.value, complex) or (
                isinstance(node.value, str)
                and re.fullmatch(r"complex\d*|c(8|16|32)|longdouble|float128|f16", node.value)
            ):
                name = repr(node.value)
        elif isinstance(node, ast.Name) and node.id == "complex":
            name = "complex"
        elif isinstance(node, ast.Attribute) and node.attr in COMPLEX:
            name = node.attr
        elif isinstance(node, ast.ImportFrom):
            name = next((a.name for a in node.names if a.name in COMPLEX), "")
        if name:
            yield Problem("complex", getattr(node, "lineno", None), name=name)


def _difference(tree: ast.Module) -> Iterator[Problem]:
    """A difference quotient: what is added somewhere, or twice it, divides elsewhere.

    The step is a number, or a name whose value is a number written in the file.
    """
    inside = list(ast.walk(tree))
    steps: dict[str, float] = {}
    for node in inside:
        if isinstance(node, ast.Assign) and (value := _number(node.value)):
            steps |= {target.id: value for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and node.value and isinstance(node.target, ast.Name):
            if value := _number(node.value):
                steps[node.target.id] = value
        elif isinstance(node, ast.arguments):
            names = [*node.posonlyargs, *node.args][-len(node.defaults) :] if node.defaults else []
            pairs = [*zip(names, node.defaults, strict=False)]
            pairs += [(a, d) for a, d in zip(node.kwonlyargs, node.kw_defaults, strict=False) if d]
            steps |= {a.arg: value for a, d in pairs if (value := _number(d))}
    added: set[float] = set()
    for node in inside:
        if isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Add | ast.Sub):
            sides = [node.left, node.right] if isinstance(node, ast.BinOp) else [node.value]
            added |= {abs(v) for side in sides for v in _factors(side, steps) if abs(v) <= 0.1}
            added |= {
                abs(steps[n.id])
                for side in sides
                for n in _leaves(side)
                if isinstance(n, ast.Name) and n.id in steps
            }
    for node in inside:
        if isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Div):
            below = node.right if isinstance(node, ast.BinOp) else node.value
            values = _factors(below, steps)
            product = abs(math.prod(values))
            if values and any(abs(product / step - k) < 1e-9 for step in added for k in (1, 2, 12)):
                yield Problem("numerical", node.lineno)


def _leaves(node: ast.AST) -> Iterator[ast.AST]:
    """The factors of a product."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        yield from _leaves(node.left)
        yield from _leaves(node.right)
    else:
        yield node


def _factors(node: ast.AST, steps: dict[str, float]) -> list[float]:
    """The factors of a product that are numbers, or names of numbers."""
    values = []
    for leaf in _leaves(node):
        value = steps.get(leaf.id) if isinstance(leaf, ast.Name) else _number(leaf)
        if value:
            values.append(value)
    return values


def _number(node: ast.AST) -> float:
    """The value of a number as it is written, such as -1e-5 or 10 ** -5; 0 for all else."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_number(node.operand)
    with contextlib.suppress(ArithmeticError, TypeError, ValueError):
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            return float(node.value)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow | ast.Mult | ast.Div):
            a, b = _number(node.left), _number(node.right)
            if a and b and abs(b) < 400:
                value = {ast.Pow: a**b, ast.Mult: a * b, ast.Div: a / b}[type(node.op)]
                return float(value)
    return 0.0
