"""The three oracles of a bug hunt: what they say about a program.

    said = judge(source, draw, properties)     # in a process of its own, see `sandbox`

A program is a file with a few functions of its own and these, whose names, arguments and results
stay as they are:

    new_parameters(rng) -> p                    the parameters, a dict of float64 arrays
    loss_and_gradients(p, x, rng) -> loss, g    the loss of the batch x, its gradients as a dict
    update(p, gradients, memory)                one step of the optimizer, p in place
    train(p, data, rng, steps)                  the training, p in place

*Gradient*: with the random state held fixed, the loss is differentiated numerically and the
gradients are held against it. *Meaning*: properties of what the functions compute. *Neither*:
properties of updates and of the training, which a single call does not show. The properties are
expressions of the hunt's file; they see the names of its [draw], `program` (its functions),
`call(p, x, seed=0)` (loss and gradients on copies) and `trace(steps)` (a training, watched).
"""

from __future__ import annotations

import contextlib
import copy
import math
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from scratchvae.gradcheck import check_gradients
from scratchvae.practice import child

ORACLES = ("gradient", "meaning", "neither")  # in this order: the first that objects is the answer
TOLERANCE = 1e-6  # of a gradient: a loss of hundreds of nats is differenced
FUNCTIONS = ("new_parameters", "loss_and_gradients", "update", "train")

Parameters = dict[str, Any]


class InterfaceError(Exception):
    """The checks cannot call the program: a function is gone, or its arguments or results are."""


@dataclass
class Step:
    """One step of a training: what update was given, and what it should have been given."""

    before: Parameters
    after: Parameters
    given: Parameters
    fresh: Parameters  # the gradients at `before`, averaged over the calls of this step


@dataclass
class Trace:
    """A training, step by step, the state of the noise at each call, and the data around it."""

    data_before: Any
    data_after: Any
    steps: list[Step] = field(default_factory=list)
    noise: list[str] = field(default_factory=list)


def judge(
    source: str, draw: Mapping[str, str], properties: Sequence[Mapping[str, str]]
) -> dict[str, Any]:
    """Say what the oracles object to in the program `source`.

    `draw` holds expressions by name, `properties` tables with `oracle`, `holds` and, where needed,
    `run`, code that is executed first. Returns {"gradient": names of the tensors, "properties":
    positions of those that do not hold}, or {"interface": why the program cannot be called}.
    What the program itself raises passes through.
    """
    sys.settrace(None)  # the child traces what it calls; thousands of calls follow
    with contextlib.redirect_stdout(_Nowhere()), contextlib.redirect_stderr(_Nowhere()):
        try:
            look = _Look(source, draw)
            failing = [i for i, p in enumerate(properties) if not look.holds(p)]
            return {"gradient": look.gradient(), "properties": failing}
        except InterfaceError as error:
            return {"interface": str(error)}


class _Nowhere:
    """What stands for stdout: the learner's prints are for his own runs."""

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None: ...


class _Look:
    """A program, the numbers drawn for it, and what is asked of it."""

    def __init__(self, source: str, draw: Mapping[str, str]) -> None:
        # a name of its own, so that what stands under `if __name__ == "__main__"` does not run
        self.program = types.ModuleType("bughunt")
        exec(compile(source, child.FILE, "exec", dont_inherit=True), vars(self.program))
        for name in FUNCTIONS:
            if not callable(getattr(self.program, name, None)):
                raise InterfaceError(f"{name}(...)")
        self.names: dict[str, Any] = {
            **{"np": np, "math": math, "program": self.program, "rng": np.random.default_rng(0)},
            **{"call": self.call, "trace": cache(self.trace)},
        }
        for name, expression in draw.items():
            self.names[name] = self.evaluate(expression, self.names)

    def evaluate(self, expression: str, names: dict[str, Any], mode: str = "eval") -> Any:
        """Evaluate a trusted expression; what does not fit the program is its interface."""
        code = compile(expression, "<property>", mode)
        try:
            return eval(code, names)
        except InterfaceError:
            raise
        except Exception as error:
            if child.line_of(error) is not None:
                raise  # the program itself stumbled
            raise InterfaceError(f"{type(error).__name__}: {error}") from None

    def holds(self, table: Mapping[str, str]) -> bool:
        """Whether a property holds."""
        names = {**self.names, "rng": np.random.default_rng(1)}
        if run := table.get("run"):
            self.evaluate(run, names, "exec")
        return bool(self.evaluate(table["holds"].strip(), names))

    def call(self, p: Parameters, x: Any, seed: int = 0) -> tuple[float, Parameters]:
        """The loss and the gradients at p and x, with the random numbers of `seed`."""
        loss, gradients = self.answer(
            self.program.loss_and_gradients, _copy(p), x.copy(), np.random.default_rng(seed)
        )
        return loss, gradients

    @staticmethod
    def answer(function: Callable[..., Any], *arguments: Any) -> tuple[float, Parameters]:
        """What loss_and_gradients returns, looked at."""
        value = function(*arguments)
        if not (
            isinstance(value, tuple)
            and len(value) == 2
            and np.ndim(value[0]) == 0
            and isinstance(value[1], dict)
        ):
            raise InterfaceError("loss_and_gradients(...) -> loss, gradients")
        return float(value[0]), _copy(value[1])

    def gradient(self) -> list[str]:
        """The tensors whose gradient is not the numerical derivative of the loss."""
        p, x = _copy(self.names["p"]), self.names["x"]
        loss, gradients = self.call(p, x)
        if self.call(p, x)[0] != loss:
            raise InterfaceError("loss_and_gradients(p, x, rng): random numbers from rng alone")
        if unknown := sorted(set(gradients) - set(p)):
            raise InterfaceError(f"gradients[{unknown[0]!r}]")
        if not math.isfinite(loss):
            return list(p)
        report = check_gradients(
            lambda q: self.call(q, x)[0],
            p,
            gradients,
            tolerance=TOLERANCE,
            directions=2,
            exhaustive=100,
            method="central",
            batch_axis=None,
        )
        return [t.name for t in report.tensors if t.verdict not in ("ok", "kink", "inconclusive")]

    def trace(self, steps: int) -> Trace:
        """A training of so many steps, from fresh copies of p and data."""
        program, data = self.program, self.names["data"].copy()
        p = _copy(self.names["p"])
        trace = Trace(data.copy(), data)
        functions = program.loss_and_gradients, program.update
        calls: list[Parameters] = []

        def loss_and_gradients(p: Parameters, x: Any, rng: Any) -> Any:
            trace.noise.append(str(rng.bit_generator.state))
            again = _copy(p), np.array(x), copy.deepcopy(rng)
            calls.append(self.answer(functions[0], *again)[1])
            return functions[0](p, x, rng)

        def update(p: Parameters, gradients: Parameters, *more: Any, **options: Any) -> Any:
            before, given = _copy(p), _copy(gradients)
            result = functions[1](p, gradients, *more, **options)
            fresh = {k: sum(g[k] for g in calls) / len(calls) for k in calls[0]} if calls else {}
            calls.clear()
            trace.steps.append(Step(before, _copy(p), given, fresh))
            return result

        program.loss_and_gradients, program.update = loss_and_gradients, update  # type: ignore[attr-defined]
        try:
            program.train(p, data, np.random.default_rng(0), steps)
        finally:
            program.loss_and_gradients, program.update = functions  # type: ignore[attr-defined]
        if len(trace.steps) != steps or not all(step.fresh for step in trace.steps):
            raise InterfaceError("train: loss_and_gradients(p, x, rng), update(p, ...)")
        return trace


def _copy(p: Mapping[str, Any]) -> Parameters:
    return {name: np.array(value, dtype=np.float64) for name, value in p.items()}
