"""Checkpoints: one ``.npz`` file without pickle, from which a training goes on bit for bit.

The file holds the arrays ``theta``, ``terms`` (the loss terms of the unfinished epoch) and
``optimizer.<name>``, and ``header``, JSON as UTF-8 bytes: format version, model configuration,
optimizer, history, and the generators' state, which is (seed, epoch, step): see ``train``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from scratchvae import validate
from scratchvae.arrays import one_line, read_npz
from scratchvae.backend import to_device, to_host
from scratchvae.files import atomic_write
from scratchvae.latent import GaussianKL, Reparameterize
from scratchvae.layers import Layer
from scratchvae.losses import Loss
from scratchvae.models import MODELS, VAE, Model, build
from scratchvae.optim import OPTIMIZERS, Optimizer, make_optimizer
from scratchvae.train import COUNTS, History, Training, terms_table

FORMAT, VERSION = "scratchvae checkpoint", 1
PARTS = (Layer, Loss, Reparameterize, GaussianKL)
_MAX_DEPTH = 1000  # hidden layers: a byte or two of the file asks for a kilobyte of Python objects


@dataclass
class Checkpoint:
    """What ``load`` returns: the model, the training, and the caller's own JSON-safe notes."""

    model: Model
    training: Training
    notes: dict[str, Any]


def save(
    path: str | os.PathLike[str],
    model: Model,
    training: Training,
    notes: dict[str, Any] | None = None,
) -> None:
    """Write model and training to ``path``, atomically: there is the old file or the new one.

    Equal states give equal files, byte for byte. ``notes`` is a JSON-safe dict to keep with them.
    Raises ValueError for what ``load`` would refuse or not make again: parameters or optimizer
    vectors that are not finite, a model or an optimizer that is none of ours or has parts that are
    not, other notes; and leaves the old file.
    """
    if notes is not None and not isinstance(notes, dict):
        raise ValueError(f"{path}: not saved, notes: got {notes!r}, want a dict")
    if MODELS.get(model.kind) is not type(model):  # load would make another
        raise ValueError(f"{path}: not saved, model: {type(model)} is none of {', '.join(MODELS)}")
    try:
        model.check_layout()
    except ValueError as error:
        raise ValueError(f"{path}: not saved, {error}") from None
    if (changed := _changed(model)) is not None:
        raise ValueError(f"{path}: not saved, model: its {changed}, which load would not make")
    optimizer = training.optimizer
    if OPTIMIZERS.get(optimizer.name) is not type(optimizer):
        ours = ", ".join(OPTIMIZERS)
        raise ValueError(f"{path}: not saved, optimizer: {type(optimizer)} is none of {ours}")
    described = {"name": optimizer.name, "t": optimizer.t, **optimizer.config}
    try:
        _optimizer(described)
    except ValueError as error:
        raise ValueError(f"{path}: not saved, {error}") from None
    state = optimizer.state()
    del state["t"]
    vectors = {"theta": to_host(model.theta)}
    vectors |= {f"optimizer.{name}": to_host(v) for name, v in sorted(state.items())}
    for name, vector in vectors.items():
        if not np.isfinite(vector).all():
            raise ValueError(f"{path}: not saved, {name} holds NaN or infinite values")
    header = {
        "format": FORMAT,
        "version": VERSION,
        "model": model.config,
        "optimizer": described,
        "training": {name: getattr(training, name) for name in COUNTS}
        | {"binarize": training.binarize},
        "history": training.history.columns,
        "notes": notes or {},
    }
    try:
        text = json.dumps(header)
    except (TypeError, ValueError) as error:  # all else in it is ours
        raise ValueError(f"{path}: not saved, notes: {error}") from None
    arrays = {
        "header": np.frombuffer(text.encode(), dtype=np.uint8),
        "terms": terms_table(training.terms, model.term_names),
        **vectors,
    }
    with atomic_write(path) as file:
        np.savez(file, **arrays)


def _changed(model: Model) -> str | None:
    """Name a part that is another than in a model built from the configuration."""
    small = {"n_features": 1, "n_latent": 1, "hidden": [1] * len(model.hidden)}
    again = build({**model.config, **small})
    leaves = [[type(leaf).__name__ for leaf in m.leaves()] for m in (model, again)]
    if leaves[0] != leaves[1]:
        return f"layers are {', '.join(leaves[0])}, not {', '.join(leaves[1])}"
    for name, part in vars(again).items():
        mine = getattr(model, name, None)
        if isinstance(part, PARTS) and type(mine) is not type(part):
            return f"{name} is {type(mine).__name__}, not {type(part).__name__}"
    if (
        isinstance(model, VAE)
        and model.likelihood == "gaussian"
        and model.nll is not model._gaussian
    ):
        return "nll is not the likelihood of its sigma"
    return None


def load(path: str | os.PathLike[str], device: str = "cpu") -> Checkpoint:
    """Read what ``save`` wrote. No pickle is loaded, and memory is bounded by the file's size.

    So a checkpoint that somebody compressed is none.

    Raises ValueError, with the file's name and the reason, for a file that is truncated, foreign,
    of a newer version, or whose arrays do not fit its configuration; OSError where it cannot be
    opened.
    """
    path = Path(path)
    arrays = read_npz(path, _known, compressed=False)
    try:
        return _parse(arrays, device)
    except KeyError as error:
        raise ValueError(f"{path}: not a scratchvae checkpoint: no {error}") from None
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"{path}: {one_line(error)}") from None


def _known(names: Iterable[str]) -> list[str]:
    """Return those of the names that a checkpoint has; nothing else in the file is read."""
    slots = {f"optimizer.{slot}" for kind in OPTIMIZERS.values() for slot in kind.slots}
    return [name for name in names if name in slots | {"header", "theta", "terms"}]


def _parse(arrays: dict[str, Any], device: str) -> Checkpoint:
    try:
        header = json.loads(arrays["header"].tobytes())
        if header["format"] != FORMAT:
            raise ValueError
    except (ValueError, TypeError, RecursionError):
        raise ValueError("not a scratchvae checkpoint") from None
    if header["version"] != VERSION:
        raise ValueError(
            f"checkpoint version {header['version']}, this scratchvae reads {VERSION}; "
            "install a newer one: pip install -U scratchvae"
        )
    theta = arrays["theta"]
    model = _build(header["model"], theta)
    _check_vector("theta", theta, theta=model.theta)

    optimizer, t = _optimizer(header["optimizer"])
    memory = {
        key.removeprefix("optimizer."): array
        for key, array in arrays.items()
        if key.startswith("optimizer.")
    }
    for key, array in memory.items():
        _check_vector(key, array, theta=model.theta)
    model.to(device)
    optimizer.restore({"t": t, **{k: to_device(v, model.device) for k, v in memory.items()}})
    model.theta[...] = to_device(theta, model.device)

    training = Training(
        optimizer,
        binarize=bool(header["training"]["binarize"]),
        history=_history(header["history"], model.term_names),
        **{name: header["training"][name] for name in COUNTS},
    )
    if training.epoch != len(training.history) or training.step > training.steps_an_epoch:
        raise ValueError(f"epoch {training.epoch} and step {training.step} do not fit the history")
    if training.epoch and not training.n_examples:
        raise ValueError(f"n_examples: got 0 after {training.epoch} epochs")
    terms = arrays["terms"]
    if terms.shape != (training.step, len(model.term_names)) or terms.dtype != np.float64:
        raise ValueError(f"terms: {terms.dtype} {terms.shape} do not fit {training.step} steps")
    training.terms = [dict(zip(model.term_names, row, strict=True)) for row in terms.tolist()]
    notes = header["notes"]
    if not isinstance(notes, dict):
        raise ValueError("notes: want a JSON object")
    return Checkpoint(model, training, notes)


def _optimizer(described: dict[str, Any]) -> tuple[Optimizer, int]:
    """Make the optimizer of a header, and return it with the number of its steps."""
    options = dict(described)
    name, t = options.pop("name"), validate.integer("optimizer t", options.pop("t"), low=0)
    rate = validate.number("learning_rate", options.pop("learning_rate"))
    optimizer = make_optimizer(name, **options)
    optimizer.learning_rate = rate  # a schedule may have ended at 0, where none begins
    return optimizer, t


def _build(config: dict[str, Any], theta: Any) -> Model:
    """Build the model, unless its configuration asks for more parameters than the file holds."""
    widths = [config["n_features"], *config["hidden"], config["n_latent"]]
    if len(widths) > _MAX_DEPTH:
        raise ValueError(f"a model of {len(widths)} layers, at most {_MAX_DEPTH} are read")
    validate.integers("widths", widths)
    if sum(a * b for a, b in pairwise(widths)) > theta.size:
        raise ValueError(f"a model of widths {widths} has more than {theta.size} parameters")
    return build(config)


def _check_vector(name: str, array: Any, theta: Any) -> None:
    if array.shape != theta.shape or array.dtype != theta.dtype:
        raise ValueError(
            f"{name}: {array.dtype} {array.shape}, the model wants {theta.dtype} {theta.shape}"
        )
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: holds NaN or infinite values")


def _history(columns: dict[str, list[float]], terms: tuple[str, ...]) -> History:
    for values in columns.values():
        if not isinstance(values, list) or any(type(v) not in (int, float) for v in values):
            raise ValueError("history: want lists of numbers")
    numbers = {name: [float(v) for v in values] for name, values in columns.items()}
    if numbers and tuple(numbers) not in (terms, (*terms, *(f"val_{name}" for name in terms))):
        raise ValueError(f"history: its columns are {', '.join(numbers)}")
    if len({len(values) for values in numbers.values()}) > 1:
        raise ValueError("history: its columns differ in length")
    return History(numbers)
