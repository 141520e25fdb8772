"""Training: ``fit`` runs minibatches through a model and an optimizer and returns the History.

Every random number of a training follows from its seed: epoch e shuffles with the generator made
from (seed, SHUFFLE, e) and draws its noise, batch after batch, from (seed, NOISE, e). So the state
of the generators is the triple (seed, epoch, step), and a training resumed in the middle of an
epoch redraws the noise of the steps that it has behind it. CuPy's generators, whose state cannot be
read, resume the same way. On the GPU the steps of whole batches are launched as a CUDA graph
(``graphs``), with the same numbers.
"""

from __future__ import annotations

import csv
import io
import math
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from scratchvae import validate
from scratchvae.backend import Array, array_module, generator, to_device, to_host
from scratchvae.bar import ProgressBar
from scratchvae.graphs import Recorder, Rows
from scratchvae.models import Model, Terms
from scratchvae.optim import Optimizer, make_optimizer
from scratchvae.team import (
    SHARED,
    Batch,
    Batches,
    Team,
    Turn,
    WorkerError,
    obstacle,
    on_stop,
    part_of,
)

# From 1: NumPy pads entropy with zeros, so (seed, 0, 0) would be the stream of the initial weights.
SHUFFLE, NOISE, VALIDATION = 1, 2, 3

#: Examples of a validation that are computed at a time: of others a GPU would draw other noise.
AT_ONCE = 1000


class Stopped(KeyboardInterrupt):
    """Ctrl-C stopped the training after a whole step: model and Training belong together."""


class DivergedError(ArithmeticError):
    """The loss or a parameter was not finite; the model holds its last good parameters."""


@dataclass
class History:
    """The mean of each loss term over each epoch, training and, as ``val_...``, validation.

    ``history["val_neg_elbo"]`` is a list with one float an epoch; iterating gives the names, and
    ``len`` the number of epochs.
    """

    columns: dict[str, list[float]] = field(default_factory=dict)

    def append(self, row: dict[str, float]) -> None:
        """Add the figures of one epoch; every epoch has the same columns."""
        if self.columns and set(row) != set(self.columns):
            raise ValueError(f"history: got columns {sorted(row)}, want {sorted(self.columns)}")
        for name, value in row.items():
            self.columns.setdefault(name, []).append(float(value))

    def __getitem__(self, name: str) -> list[float]:
        if name not in self.columns:
            names = ", ".join(self.columns)
            want = f"want one of {names}" if names else "no epoch has ended"
            raise KeyError(f"history: got {name!r}, {want}")
        return self.columns[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), []))

    def last(self) -> dict[str, float]:
        """Return the figures of the last epoch, {} before the first has ended."""
        return {name: values[-1] for name, values in self.columns.items()}

    def to_csv(self) -> str:
        """Return a table with a line an epoch, numbered from 1; floats as Python prints them."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["epoch", *self.columns])
        for i, row in enumerate(zip(*self.columns.values(), strict=True), start=1):
            writer.writerow([i, *map(repr, row)])
        return out.getvalue()


COUNTS = {"seed": 0, "batch_size": 1, "n_examples": 0, "epoch": 0, "step": 0}  # name: least value


@dataclass
class Training:
    """Where a training stands: with the model's theta, all that it takes to go on bit for bit.

    Raises ValueError, which names the setting, for one that makes no sense.
    """

    optimizer: Optimizer
    seed: int = 0
    batch_size: int = 128
    binarize: bool = False
    n_examples: int = 0
    epoch: int = 0  # epochs finished
    step: int = 0  # steps finished in the epoch under way
    terms: list[dict[str, Any] | Rows] = field(default_factory=list)  # of these, on the device
    history: History = field(default_factory=History)

    def __post_init__(self) -> None:
        if not isinstance(self.optimizer, Optimizer):
            raise ValueError(f"optimizer: got {self.optimizer!r}, want an Optimizer such as Adam()")
        for name, low in COUNTS.items():
            setattr(self, name, validate.integer(name, getattr(self, name), low=low))
        self.binarize = validate.boolean("binarize", self.binarize)

    @property
    def steps_an_epoch(self) -> int:
        """Steps in an epoch, the last one with the examples that are left over."""
        return math.ceil(self.n_examples / self.batch_size)


Callback = Callable[[Training], None]
_State = tuple[Array, dict[str, Any], int, list[Any]]  # theta, the optimizer's, step and terms


def fit(
    model: Model,
    x: Array,
    *,
    validation: Array | None = None,
    epochs: int = 20,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    optimizer: str | Optimizer | None = None,
    seed: int | None = None,
    binarize: bool | None = None,
    callbacks: Iterable[Callback] | None = None,
    resume: Training | None = None,
    progress: bool = False,
    workers: int = 1,
) -> History:
    """Train ``model`` on x (N, D) until ``epochs`` epochs are finished; return its History.

    The examples are shuffled each epoch and cut into batches of ``batch_size`` (128; the last one
    may be smaller). ``optimizer`` is a name (``"adam"``) or an Optimizer; ``learning_rate`` is for
    the named one and by default its own (Adam: 1e-3). ``binarize`` draws each pixel anew as 0 or 1
    with the grey value as its probability (dynamic binarization). ``validation`` (M, D) is
    evaluated after each epoch, with the same noise every time. Data and model share a device: the
    data are moved there once, and no loss is read before the epoch ends. On the GPU a step is
    launched as one CUDA graph where that can be had; a line on stderr says why where it cannot.

    With ``workers`` > 1 so many processes share each batch (``team``), on the CPU, on Linux, and
    while no other thread of the program computes; a line on stderr says why where one does it all.
    The numbers are then the same up to rounding, and ``model.grad`` is left as it was. That holds
    for every loss which is a mean over examples that do not know of one another, as ours are: not
    for a sum, for statistics of a batch, or for a layer that draws random numbers of its own.

    Each callback is called with the Training after each epoch (``training.step == 0``), and once
    more when Ctrl-C stops the training after the step under way (``training.step > 0``); then
    Stopped, a KeyboardInterrupt, is raised. A second Ctrl-C does not wait for the step to end, and
    raises a plain KeyboardInterrupt. ``resume`` takes such a Training and goes on as though it had
    never stopped; settings that contradict it are a ValueError.

    Raises ValueError for bad arguments and for a model whose layers, weights or gradients are not
    those that it was made with, DivergedError, saying where and probably why, if the loss
    or a parameter is not finite, and WorkerError if one of the processes is killed; theta, the
    optimizer and the Training are then set back to the end of the last epoch, or to where the
    resume found them.
    """
    if not isinstance(model, Model):
        raise ValueError(f"model: got {model!r}, want one such as VAE(784)")
    epochs = validate.integer("epochs", epochs)
    callbacks = _callables(callbacks)
    x = _data(model, "x", x)
    if validation is not None:
        validation = _data(model, "validation", validation)
    settings: dict[str, Any] = {"batch_size": batch_size, "seed": seed, "binarize": binarize}
    if resume is None:
        training = _start(len(x), optimizer, learning_rate, settings)
    else:
        training = resume
        _check_resume(training, len(x), optimizer, learning_rate, settings)
        _check_columns(training, model, validation)
    if training.binarize:
        check_unit_interval("x", x)
        if validation is not None:
            check_unit_interval("validation", validation)
    training.n_examples = len(x)

    model.check_layout()
    team = _team(model, workers)
    recorder = Recorder(model, x, training.batch_size, training.binarize)
    bar: Any = ProgressBar(training, epochs) if progress else nullcontext()
    errors: Any = np.geterr()  # the caller's, which hold in callbacks
    # what overflows here is caught by the test for a finite loss
    with bar, _interruption() as interrupted, np.errstate(all="ignore"):
        for epoch in range(training.epoch, epochs):
            if team is not None and not training.optimizer.keeps(*SHARED):
                print(
                    "training in one process: the optimizer has methods of its own", file=sys.stderr
                )
                team = None
            model.check_layout()  # again, after the callbacks
            good, stopped = _state(model, training), False
            try:
                with closing(_steps(model, x, training, recorder, team)) as steps:
                    for i, _ in enumerate(steps):
                        if i == 0:  # a backward pass may have put a gradient elsewhere
                            model.check_layout()
                        if progress:
                            bar.step()
                        stopped = interrupted() and training.step < training.steps_an_epoch
                        if stopped or _seen_to_diverge(model):
                            break
            except (WorkerError, ValueError):  # some of the last step's updates may be missing
                _set_back(model, training, good)
                raise
            row = _epoch_row(model, training, None if stopped else validation, good)
            if not stopped:
                training.epoch, training.step, training.terms = epoch + 1, 0, []
                training.history.append(row)
            with np.errstate(**errors):
                for callback in callbacks:
                    callback(training)
            if progress and not stopped:  # what it shows is saved
                bar.epoch(row)
            if stopped or interrupted():
                raise Stopped
    return training.history


def _callables(callbacks: Iterable[Callback] | None) -> tuple[Callback, ...]:
    """Return the callbacks, or refuse them before an epoch is trained for nothing."""
    found = tuple(callbacks or ()) if isinstance(callbacks, Iterable | None) else (None,)
    if not all(map(callable, found)):
        raise ValueError(f"callbacks: got {callbacks!r}, want a list of functions of the Training")
    return found


def _data(model: Model, name: str, x: Array) -> Array:
    """Return x on the model's device, or raise a ValueError that says what is wrong with it."""
    try:
        x = to_device(x, model.device)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: {error}") from None
    return model.check(x, values=True, name=name)


def _seen_to_diverge(model: Model) -> bool:
    """Whether the last loss was not finite; on the GPU a look would wait for the device."""
    return model.device == "cpu" and not math.isfinite(model.terms[model.term_names[0]])


def _start(
    n_examples: int,
    optimizer: str | Optimizer | None,
    learning_rate: float | None,
    settings: dict[str, Any],
) -> Training:
    if not isinstance(optimizer, Optimizer):
        optimizer = make_optimizer("adam" if optimizer is None else optimizer, learning_rate)
    elif learning_rate is not None:
        raise ValueError("learning_rate: give it to the Optimizer, or name the optimizer instead")
    given = {name: value for name, value in settings.items() if value is not None}
    return Training(optimizer, n_examples=n_examples, **given)


def _team(model: Model, workers: int) -> Team | None:
    if validate.integer("workers", workers) == 1:
        return None
    if model.device != "cpu":
        raise ValueError(f"workers: got {workers}, but the model is on the GPU; want 1")
    if (reason := obstacle()) is not None:
        print(f"training in one process: {reason}", file=sys.stderr)
        return None
    return Team(model, workers)


def _check_resume(
    training: Training,
    n_examples: int,
    optimizer: str | Optimizer | None,
    learning_rate: float | None,
    settings: dict[str, Any],
) -> None:
    if optimizer is not None or learning_rate is not None:
        raise ValueError("optimizer, learning_rate: a resumed training goes on with its own")
    kept = sum(row.stop - row.start if isinstance(row, Rows) else 1 for row in training.terms)
    if (training.epoch, training.step) != (len(training.history), kept):
        raise ValueError(
            f"resume: epoch {training.epoch} and step {training.step} do not fit the history of "
            f"{len(training.history)} epochs and the terms of {kept} steps"
        )
    begun = training.n_examples > 0  # or made by hand, for a model that is yet to be trained
    for name, value in {**settings, "n_examples": n_examples if begun else None}.items():
        if value is not None and value != getattr(training, name):
            raise ValueError(
                f"{name}: got {value}, but the training to resume has {getattr(training, name)}"
            )


def _check_columns(training: Training, model: Model, validation: Array | None) -> None:
    """Before an epoch is trained, see that its row will fit into the history."""
    names = [*model.term_names]
    if validation is not None:
        names += [f"val_{name}" for name in names]
    columns = training.history.columns
    if columns and set(columns) != set(names):
        raise ValueError(
            f"resume: this training would add {', '.join(names)} to a history of "
            f"{', '.join(columns)}; want the same model, and validation as before"
        )


def check_unit_interval(name: str, x: Array) -> None:
    """Raise ValueError unless all values of x are probabilities, as ``binarized`` takes them."""
    if not 0 <= float(x.min()) <= float(x.max()) <= 1:
        raise ValueError(f"binarize: {name} has values outside [0, 1], which is no probability")


def _steps(
    model: Model, x: Array, training: Training, recorder: Recorder, team: Team | None
) -> Generator[None, None, None]:
    """Run the steps that are left of the epoch under way, yielding after each."""
    epoch, size, done = training.epoch, training.batch_size, training.step
    order = generator("cpu", training.seed, SHUFFLE, epoch).permutation(len(x))
    order = to_device(order, model.device)
    rng = generator(model.device, training.seed, NOISE, epoch)
    first = 0  # step that no graph takes
    if training.optimizer.keeps("step") and (graph := recorder.get(training.optimizer)):
        first = graph.steps
        if done < first:
            graph.begin(order, done)
            training.terms.append(graph.rows)
        for i in range(first):
            graph.draw(rng)
            if i >= done:  # before the resume: only its random numbers are drawn again
                graph.step()
                training.step = i + 1
                yield

    def batches(k: int, workers: int, turn: Turn) -> Iterator[Batch]:
        """Yield worker k's part of each batch that is left, and its noise."""
        for i in range(first, training.steps_an_epoch):
            rows = order[i * size : (i + 1) * size]
            part = part_of(k, workers, len(rows))
            if training.binarize:  # the noise of the first row follows on the pixels of the last
                batch = binarized(rng, x[rows])
                noise = model.draw_noise(rng, batch)
                batch, noise = batch[part], None if noise is None else noise[part]
            else:
                batch = x[rows[part]]
                with turn(rng):  # a batch may have fewer rows than there are workers
                    noise = model.draw_noise(rng, batch) if len(batch) else None
            if i >= done:
                yield batch, noise

    steps = partial(_alone, model) if team is None else team.epoch
    with steps(training.optimizer, batches) as step:
        for i in range(max(first, done), training.steps_an_epoch):
            model.terms = step()
            training.terms.append(dict(model.terms))
            training.step = i + 1
            yield


@contextmanager
def _alone(model: Model, optimizer: Optimizer, batches: Batches) -> Iterator[Callable[[], Terms]]:
    """Yield a function that takes a step on the next batch, as ``Team.epoch`` does."""
    whole = batches(0, 1, nullcontext)

    def step() -> Terms:
        model.forward(*next(whole))
        model.backward()
        optimizer.step(model.theta, model.grad)
        return model.terms

    yield step


def binarized(rng: Any, x: Array) -> Array:
    """Return x in [0, 1] with each value drawn as 0 or 1, x being the probability of 1."""
    return (rng.random(x.shape, dtype=x.dtype) < x).astype(x.dtype)


def _epoch_row(
    model: Model, training: Training, validation: Array | None, good: _State
) -> dict[str, float]:
    """Return the mean of each term over the examples seen, and over those of ``validation``.

    Raises DivergedError unless they, the parameters and the optimizer's memory are finite: the last
    update can spoil those behind a finite loss. On the GPU this is the epoch's only wait.
    """
    xp, names = model.xp, model.term_names
    finite = xp.isfinite(model.theta).all()
    for vector in training.optimizer.memory.values():
        finite = finite & xp.isfinite(vector).all()
    table = terms_table([*training.terms, dict.fromkeys(names, finite)], names)
    rows = np.full(training.step, training.batch_size, dtype=float)
    if training.step == training.steps_an_epoch:
        rows[-1] = training.n_examples - training.batch_size * (training.step - 1)
    means = rows @ table[:-1] / rows.sum()
    row = dict(zip(names, means.tolist(), strict=True))
    if validation is not None:
        means_there = mean_terms(model, validation, seed=training.seed, binarize=training.binarize)
        row |= {f"val_{name}": value for name, value in means_there.items()}
    if not table[-1].all() or not all(map(math.isfinite, row.values())):
        raise _diverged(model, training, row, good)
    return row


def terms_table(terms: Sequence[dict[str, Any] | Rows], names: Sequence[str]) -> np.ndarray:
    """Return the steps' terms as a host array (steps, terms) in float64, in one transfer."""
    values: list[Any] = []
    for row in terms:
        values += [row.array.ravel()] if isinstance(row, Rows) else [row[name] for name in names]
    on_device = next((v for v in values if not isinstance(v, float | np.generic)), None)
    if on_device is not None:
        xp = array_module(on_device)
        parts = [xp.asarray(v, dtype=on_device.dtype).reshape(-1) for v in values]
        values = to_host(xp.concatenate(parts))
    return np.asarray(values, dtype=np.float64).reshape(-1, len(names))


def mean_terms(
    model: Model, x: Array, *, seed: int = 0, batch_size: int = AT_ONCE, binarize: bool = False
) -> dict[str, float]:
    """Return the model's loss terms over x (N, D), with one draw of noise an example from ``seed``.

    Computed ``batch_size`` examples at a time; x must be on the model's device.
    """
    batch_size = validate.integer("batch_size", batch_size)
    rng = generator(model.device, seed, VALIDATION)
    terms, rows = [], []
    for start in range(0, len(x), batch_size):
        batch = x[start : start + batch_size]
        if binarize:
            batch = binarized(rng, batch)
        terms.append(model.loss_terms(batch, model.draw_noise(rng, batch)))
        rows.append(len(batch))
    means = np.asarray(rows) @ terms_table(terms, model.term_names) / len(x)
    return dict(zip(model.term_names, means.tolist(), strict=True))


def _state(model: Model, training: Training) -> _State:
    """Return copies of what ``_diverged`` goes back to."""
    optimizer = {
        name: value if isinstance(value, int) else value.copy()
        for name, value in training.optimizer.state().items()
    }
    return model.theta.copy(), optimizer, training.step, list(training.terms)


def _set_back(model: Model, training: Training, good: _State) -> None:
    """Set model and training back to ``good``."""
    theta, optimizer, training.step, training.terms = good
    model.theta[...] = theta
    training.optimizer.restore(optimizer)


def _diverged(
    model: Model, training: Training, row: dict[str, float], good: _State
) -> DivergedError:
    """Say where and why, and set model and training back to ``good``."""
    table = terms_table(training.terms, model.term_names)
    finite, step = np.isfinite(table).all(axis=1), training.step
    rate = training.optimizer.learning_rate
    cause = f"the learning rate {rate:g} is too large, try {rate / 10:g}"
    if not finite.all():
        what, step = "loss is", int(np.argmin(finite)) + 1
        row = dict(zip(model.term_names, table[step - 1].tolist(), strict=True))
        if step == 1 and training.epoch == 0:  # before any update
            cause = "the scale of the data, of sigma or of the initial parameters"
    elif not bool(model.xp.isfinite(model.theta).all()):
        what, row = "updated parameters are", {}
    elif all(map(math.isfinite, row.values())):
        what = f"memory of {training.optimizer.name} is"
        cause = f"gradients too large for {model.dtype}: the scale of the data, of sigma or of beta"
    else:
        what = "validation loss is"
        cause = f"the scale of the validation data, or {cause}"
    bad = ", ".join(f"{name} {v:.4g}" for name, v in row.items() if not math.isfinite(v))
    _set_back(model, training, good)
    return DivergedError(
        f"the {what} not finite in epoch {training.epoch + 1}, step {step} of "
        f"{training.steps_an_epoch}{f' ({bad})' if bad else ''}; likely cause: {cause}. "
        f"The model is back at its parameters after epoch {training.epoch}"
        f"{f' and {training.step} steps' if training.step else ''}"
    )


@contextmanager
def _interruption() -> Iterator[Callable[[], bool]]:
    """Let the first Ctrl-C set a flag and the second interrupt at once."""
    seen: list[int] = []

    def handler(number: int, frame: Any) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(number)

    with on_stop(handler):
        yield lambda: bool(seen)
