"""Counts what a learner's answer computes: each operator and call of its text goes through here.

    effort = Effort(see)
    code = compile(instrumented(source, "answer.py"), "answer.py", "exec")
    exec(code, {**namespace, **effort.names})
    effort.values, effort.curved

A derivative costs about as much as the function that it belongs to; a numerical one evaluates that
function again and again, at inputs that are moved. So the numbers that come out of the operators
and of NumPy's and math's functions are counted, whatever name they go by; those of *curved*
functions (an exponential, a power, a tanh), which a derivative takes once or twice, are counted
apart; and it is noted by what each number is moved. A central difference of a quadratic function
takes two values only and is exact with any step, so `Terms` looks for its form. Like `child`, this
file imports NumPy and nothing of this package.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable
from functools import partial
from types import CodeType
from typing import Any

import numpy as np

CURVED = frozenset(
    re.findall(
        r"\w+",
        """exp exp2 expm1 log log2 log10 log1p logaddexp logaddexp2 sqrt cbrt isqrt power
        float_power pow reciprocal sin cos tan sinh cosh tanh asin acos atan atan2 arcsin arccos
        arctan arctan2 asinh acosh atanh arcsinh arccosh arctanh erf erfc gamma lgamma hypot""",
    )
)
OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mult": operator.mul,
    "Div": operator.truediv,
    "FloorDiv": operator.floordiv,
    "Mod": operator.mod,
    "Pow": operator.pow,
    "MatMult": operator.matmul,
    "LShift": operator.lshift,
    "RShift": operator.rshift,
    "BitAnd": operator.and_,
    "BitOr": operator.or_,
    "BitXor": operator.xor,
}
NUDGE = 1e-2  # of the largest number in an array: a step of a difference quotient
# Names with a space, which no program can write.
OPERATE, CALL, SAW = "the operator", "the call", "the assignment"
#: What an instrumented module finds among its globals where nothing is to be counted.
UNCOUNTED: dict[str, Callable[..., Any]] = {
    OPERATE: lambda name, a, b: OPERATORS[name](a, b),
    CALL: lambda function, /, *arguments, **options: function(*arguments, **options),
    SAW: lambda name, value: value,
}


def instrumented(source: str, name: str) -> CodeType:
    """Compile a module whose operators and calls are told to an `Effort`; SyntaxError as usual."""
    tree = compile(source, name, "exec", ast.PyCF_ONLY_AST, dont_inherit=True)
    changed = ast.fix_missing_locations(_Instrument().visit(tree))
    return compile(changed, name, "exec", dont_inherit=True)


class _Instrument(ast.NodeTransformer):
    """Puts a call in the place of each operator and call; lines stay where they are."""

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        if _written(node):
            return node
        self.generic_visit(node)
        words = [ast.Constant(type(node.op).__name__), node.left, node.right]
        return _call(node, OPERATE, words)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        return _call(node, CALL, [node.func, *node.args], node.keywords)

    def visit_AugAssign(self, node: ast.AugAssign) -> Any:
        self.generic_visit(node)
        word = ast.Constant(type(node.op).__name__)
        if isinstance(node.target, ast.Name):
            seen = _call(node, SAW, [word, ast.Name(node.target.id, ast.Load())])
            return [node, ast.copy_location(ast.Expr(seen), node)]
        node.value = _call(node, SAW, [word, node.value])
        return node

    def visit_match_case(self, node: ast.match_case) -> ast.AST:
        node.body = [self.visit(statement) for statement in node.body]  # a pattern is no expression
        return node


def _call(
    node: ast.AST, name: str, words: list[ast.expr], keywords: list[ast.keyword] | None = None
) -> ast.Call:
    function = ast.Name(name, ast.Load())
    return ast.copy_location(ast.Call(function, words, keywords or []), node)


def _written(node: ast.expr) -> bool:
    """Whether it is a number as it is written, such as 2 ** -17."""
    if isinstance(node, ast.BinOp):
        return _written(node.left) and _written(node.right)
    return isinstance(node.operand if isinstance(node, ast.UnaryOp) else node, ast.Constant)


class Effort:
    """What an instrumented module computes; `see` is shown each result on the way.

    `values` counts the numbers that operators and functions return, and the terms of a product's
    sums; `curved` those of curved functions.
    """

    def __init__(self, see: Callable[[Any], None] = lambda _: None) -> None:
        self.see = see
        self.values = self.curved = 0
        self.moves: dict[Any, set[float]] = {}  # of an array or a number: what was added to it
        self.scales: dict[Any, set[float]] = {}  # and by what it was multiplied, less 1
        self.terms = Terms()

    @property
    def names(self) -> dict[str, Any]:
        """What an instrumented module must find among its globals."""
        return {OPERATE: self.operate, CALL: self.call, SAW: self.saw}

    def operate(self, name: str, a: Any, b: Any) -> Any:
        """Compute `a` operator `b`."""
        value = OPERATORS[name](a, b)
        if name in ("Add", "Sub", "Mult"):
            self.move(name, a, b)
            if name != "Sub":
                self.move(name, b, a)
        self.terms.note(name, value, (a, b))
        terms = np.shape(a)[-1] if name == "MatMult" and np.ndim(a) else 1
        self.count(value, terms, name == "Pow" and not _plain(b))
        return value

    def move(self, name: str, x: Any, by: Any) -> None:
        """Note that x is moved by one small number, or by a factor close to 1."""
        if not isinstance(x, np.ndarray | float) or (np.size(x) > 1 and _single(x) is not None):
            return  # one number all over is no input
        step = _single(by)
        if step is not None and name == "Mult":
            step = (step - 1) * (0 < abs(step - 1) <= NUDGE)
        largest = float(np.abs(x).max(initial=0)) if step else 0.0
        if step and abs(step) <= NUDGE * max(largest, 1.0):
            key = x.tobytes() if isinstance(x, np.ndarray) and x.size > 1 else float(np.ravel(x)[0])
            sign = -1 if name == "Sub" else 1
            moves = self.scales if name == "Mult" else self.moves
            moves.setdefault(key, set()).add(float(f"{sign * step:.6g}"))

    @property
    def nudges(self) -> bool:
        """Whether something is moved by several small steps, or by any two in opposite ways."""
        if self.terms.mirrored:
            return True
        several = {}
        for key in self.moves | self.scales:
            added, scaled = self.moves.get(key, set()), self.scales.get(key, set())
            if len(added) > 1 or _multiples(added | scaled):  # data may lie near 1, too
                several[key] = frozenset(added | scaled)
        if any(isinstance(key, bytes) for key in several):
            return True
        steps = list(several.values())
        return any(steps.count(one) > 2 for one in set(steps))

    def saw(self, name: str, value: Any) -> Any:
        """Count what an assignment such as a += b computed."""
        self.terms.forget(value)
        self.count(value, 1, name == "Pow")
        return value

    def call(self, function: Any, /, *arguments: Any, **options: Any) -> Any:
        """Call a function; such as np.exp among its arguments (of map, say) are counted too."""
        counted = [partial(self.call, a) if _computes(a) else a for a in arguments]
        value = function(*counted, **options)
        if _computes(function):
            owner = getattr(function, "__self__", None)
            parts = (owner, *arguments) if isinstance(owner, np.ndarray) else arguments
            name = _name(function)
            self.terms.note(name, value, (*parts, *options.values()))
            self.count(value, 1, name in CURVED and not _plain_power(function, arguments))
        return value

    def count(self, value: Any, terms: int, curved: bool) -> None:
        """Count the numbers of a result."""
        if not isinstance(value, np.ndarray | np.generic | int | float):
            return
        size = int(np.size(value)) * terms
        self.values += size
        self.curved += size * curved
        self.see(value)


class Terms:
    """Where values come from: finds f(u + c) - f(u - c), which differentiates f by u.

    c may be one number or an array, such as a step in proportion to u. u must come from the
    arguments by + - * / @ alone. In a function of them, a derivation may have the same form: with
    t = exp(2 x), tanh'(x) is ((t + 1)^2 - (t - 1)^2) / (t + 1)^2.
    """

    MOST = 20_000  # terms: an endless loop is to run out of time, not of memory
    DEEP = 50  # operations in f
    RATIONAL = ("Add", "Sub", "Mult", "Div", "MatMult")

    def __init__(self) -> None:
        self.mirrored = False
        self.terms: list[tuple[Any, ...]] = []  # (operation, numbers of its parts), or a value
        self.numbers: dict[tuple[Any, ...], int] = {}  # where in `terms` one is
        self.rational: list[bool] = []
        self.known: dict[int, tuple[Any, int]] = {}  # by id: a value, kept alive, and its term
        self.shifts: dict[int, set[tuple[int, Any]]] = {}  # of the term u + c: every u and c

    def note(self, name: str, value: Any, parts: tuple[Any, ...]) -> None:
        """Note that an operator or a function has made a value of its parts."""
        if len(self.terms) > self.MOST or not isinstance(value, np.ndarray | np.floating | float):
            return
        inside = [self.term(part) for part in parts]
        term = self.number((name, *inside))
        self.rational[term] = name in self.RATIONAL and all(self.rational[i] for i in inside)
        self.known[id(value)] = (value, term)
        if name in ("Add", "Sub"):
            self.shift(name, term, parts, inside)
            if name == "Sub":
                self.mirrored = self.mirrored or self.opposite(inside[0], inside[1], itself=False)

    def shift(self, name: str, term: int, parts: tuple[Any, ...], inside: list[int]) -> None:
        """Note what is moved by what in a sum or a difference."""
        moves = [(0, 1, 1), (1, 0, 1)] if name == "Add" else [(0, 1, -1)]
        for u, by, sign in moves:
            if self.rational[inside[u]]:
                step = _single(parts[by])
                c = (inside[by], sign) if step is None else (None, sign * step)
                self.shifts.setdefault(term, set()).add((inside[u], c))

    def forget(self, value: Any) -> None:
        """A value was changed in its place."""
        self.known.pop(id(value), None)

    def term(self, value: Any) -> int:
        """The number of the term that a value is; what was not made here is its own term."""
        if id(value) in self.known:
            return self.known[id(value)][1]
        if isinstance(value, np.ndarray):
            return self.number(("array", value.shape, value.tobytes()))
        if isinstance(value, np.generic | float | int | str | None):
            return self.number(("value", repr(value)))
        return self.number(("other", len(self.terms)))

    def number(self, term: tuple[Any, ...]) -> int:
        """The number of a term, a new one if it is new."""
        if term not in self.numbers:
            self.numbers[term] = len(self.terms)
            self.terms.append(term)
            self.rational.append(True)
        return self.numbers[term]

    def opposite(self, i: int, j: int, deep: int = DEEP, itself: bool = True) -> bool:
        """Whether two terms differ, and only so that one has u + c where the other has u - c.

        `itself`: they may be u + c and u - c themselves.
        """
        if i == j or deep == 0:
            return False
        if itself and i in self.shifts and j in self.shifts:
            back = {(u, (by, -c)) for u, (by, c) in self.shifts[i]}
            if back & self.shifts[j]:
                return True
        (name, *mine), (other, *theirs) = self.terms[i], self.terms[j]
        if name != other or name in ("array", "value", "other") or len(mine) != len(theirs):
            return False
        differ = {(one, two) for one, two in zip(mine, theirs, strict=True) if one != two}
        return all(self.opposite(one, two, deep - 1) for one, two in differ)


def _single(by: Any) -> float | None:
    """The one number that an array is filled with, or that it is; None if there are several."""
    if isinstance(by, int | float):
        return float(by) if by == by else None  # no NaN
    if not isinstance(by, np.ndarray | np.number) or by.size == 0 or by.dtype.kind not in "biuf":
        return None
    first, last = by.flat[0], by.flat[-1]
    filled = first == last and (by == first).all()  # most arrays are done with these two
    return float(first) if filled else None


def _multiples(steps: set[float]) -> bool:
    """Whether a step is a multiple of another, such as -h or 2 h of h; data seldom are."""
    ratios = [a / b for a in steps for b in steps if abs(a) >= abs(b) and a != b]
    return any(abs(r - round(r)) <= 1e-3 and abs(r) <= 12.5 for r in ratios)


def _plain(exponent: Any) -> bool:
    """Whether a power is a product that everybody writes, such as x**2."""
    return np.ndim(exponent) == 0 and exponent in (1, 2)


def _plain_power(function: Any, arguments: tuple[Any, ...]) -> bool:
    return (
        getattr(function, "__name__", "") in ("power", "pow", "float_power")
        and len(arguments) > 1
        and _plain(arguments[1])
    )


def _computes(function: Any) -> bool:
    """Whether it is a function of NumPy or math, or a method of an array or a ufunc."""
    owner = getattr(function, "__self__", None)
    return (
        isinstance(function, np.ufunc)
        or isinstance(owner, np.ufunc | np.ndarray | np.generic)
        or owner is math
        or str(getattr(function, "__module__", "")).startswith("numpy")
    ) and not isinstance(function, type)


def _name(function: Any) -> str:
    owner = getattr(function, "__self__", None)
    named = owner if isinstance(owner, np.ufunc) else function
    return str(getattr(named, "__name__", ""))
