"""``scratchvae train``: a fresh run or a resumed one, and what is left of it however it ends."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scratchvae import backend, team, validate
from scratchvae.models import Model, build
from scratchvae.optim import make_optimizer
from scratchvae.output import print_json, print_table, quoted
from scratchvae.parser import EPOCHS, MODEL_OPTIONS
from scratchvae.presets import PRESETS
from scratchvae.train import Callback, DivergedError, Stopped, Training, fit

if TYPE_CHECKING:
    from scratchvae.datasets import Dataset


@dataclass
class _Job:
    """A training to do, and the directory for what comes of it."""

    model: Model
    training: Training
    notes: dict[str, Any]  # of what the checkpoint does not hold: the data and how many epochs
    data: Dataset
    directory: Path

    @property
    def file(self) -> Path:
        return self.directory / "model.npz"

    @property
    def epochs(self) -> int:
        return int(self.notes["epochs"])

    def save(self) -> None:
        from scratchvae import runs

        runs.save_run(self.directory, self.model, self.training, self.notes)


def train(arguments: argparse.Namespace) -> None:
    """Train a model, and leave a run directory behind."""
    from scratchvae import runs

    given = vars(arguments)
    if given.get("tf32"):
        if backend.resolve_device(given.get("device", "cpu")) == "cpu":
            raise ValueError("--tf32: it is for products on the GPU; add --device gpu")
        backend.allow_tf32(True)
    if "resume" in given:  # what it goes on from is read behind the lock: another may write it yet
        with runs.training_in(runs.file_of(given["resume"]).parent):
            _train(arguments, _resumed(given))
    else:
        job = _fresh(given)
        with runs.training_in(job.directory):
            _train(arguments, job)


def _train(arguments: argparse.Namespace, job: _Job) -> None:
    from threadpoolctl import threadpool_limits

    from scratchvae import runs

    given, training = vars(arguments), job.training
    every = given.get("checkpoint_every", 1)

    def save(training: Training) -> None:
        due = training.epoch % every == 0 or training.epoch == job.epochs
        if due and not training.step:  # in the middle of an epoch Stopped follows, and saves
            job.save()

    preset = job.notes.get("preset")
    schedule = [PRESETS[preset].schedule] if preset in PRESETS else []
    resume = f"scratchvae train {job.model.kind} --resume {quoted(str(job.directory))}"
    resume += " --live" if "live" in given else ""
    if training.epoch == job.epochs and not arguments.quiet:
        more = f"more with: {resume} --epochs {training.epoch + EPOCHS}"
        print(f"all {training.epoch} epochs are trained; {more}", file=sys.stderr)
    started = time.perf_counter()
    with threadpool_limits(given.get("threads"), "blas"):
        workers = team.suggested(training.batch_size) if job.model.device == "cpu" else 1
        job.save()  # what cannot be written shows at once
        with _live(arguments, job) as live, _saved(job, resume):
            fit(
                job.model,
                job.data.x_train,
                validation=job.data.x_test,
                epochs=job.epochs,
                callbacks=[*schedule, save, *live],
                resume=training,
                progress=not arguments.quiet,
                workers=workers,
            )
    seconds = time.perf_counter() - started
    runs.draw_pictures(job.directory, job.model, training.history, job.data)
    figures = {"epochs": training.epoch, **training.history.last()}
    pictures = [str(job.directory / name) for name in runs.PICTURES]
    report = {"run": str(job.directory), **figures, "seconds": seconds, "pictures": pictures}
    if live:
        report["live"] = str(job.directory / runs.LIVE)
    if not arguments.json:
        print_table(f"{job.model.kind}, {job.data.name}, after {training.epoch} epochs", figures)
        print(f"{seconds:.1f} s. Model, history and pictures are in {job.directory}:")
        print("  " + "  ".join(runs.PICTURES))
    print_json(arguments, report)


@contextmanager
def _saved(job: _Job, resume: str) -> Iterator[None]:
    """Save a training that does not come to its end, and say how it goes on."""
    training = job.training
    try:
        yield
    except Stopped:
        job.save()
        where = f"after epoch {training.epoch} of {job.epochs}"
        if training.step:
            steps = f"{training.step} of {training.steps_an_epoch} steps"
            where = f"in epoch {training.epoch + 1} after {steps}"
        raise Stopped(f"stopped {where}; saved {job.file}. Go on with: {resume}") from None
    except KeyboardInterrupt:  # the second Ctrl-C, perhaps in the middle of a step
        raise KeyboardInterrupt(
            f"interrupted; {job.file} holds the last checkpoint. Go on with: {resume}"
        ) from None
    except DivergedError as error:
        job.save()
        raise DivergedError(f"{error}; saved in {job.file}") from None
    except team.WorkerError as error:
        job.save()
        raise team.WorkerError(
            f"{error}; saved {job.file}. Go on with: {resume}, in one process with --threads 1"
        ) from None


@contextmanager
def _live(arguments: argparse.Namespace, job: _Job) -> Iterator[list[Callback]]:
    """Keep live.html during the block where --live asks for it; yield the callbacks that do."""
    if "live" not in vars(arguments):
        yield []
        return
    from scratchvae import runs
    from scratchvae.web.live import Live

    path = job.directory / runs.LIVE
    with Live(path, job.model, job.training, job.data, job.epochs) as live:
        if live.notice:
            print(f"scratchvae: {live.notice}", file=sys.stderr)
        if not arguments.quiet:
            print(f"watch it in a browser: {path}", file=sys.stderr)
        yield [live]


#: The options that a resumed run takes.
_RESUMABLE = {"resume", "epochs", "checkpoint_every", "data_dir", "live", "quiet", "json"}
_RESUMABLE |= {"device", "tf32", "threads"}


def _resumed(given: dict[str, Any]) -> _Job:
    from scratchvae import runs

    extra = set(given) - _RESUMABLE - {"command", "model"}
    if extra:
        options = ", ".join(_option(name) for name in sorted(extra))
        raise ValueError(f"a resumed run keeps its settings: leave out {options}")
    run = runs.open_run(given["resume"], given.get("device", "cpu"))
    if Path(given["resume"]) not in (run.directory, run.directory / "model.npz"):
        raise ValueError(f"--resume: got {given['resume']}, want the run directory")
    if run.model.kind != given["model"]:
        raise ValueError(
            f"{run.directory} holds a run of {run.model.kind}: "
            f"scratchvae train {run.model.kind} --resume {run.directory}"
        )
    epochs = validate.integer("--epochs", given.get("epochs", run.notes["epochs"]))
    if epochs < run.training.epoch:
        raise ValueError(
            f"--epochs: got {epochs}, but {run.directory} has {run.training.epoch} already"
        )
    data = run.dataset(data_dir=given.get("data_dir"))
    return _Job(run.model, run.training, {**run.notes, "epochs": epochs}, data, run.directory)


def _fresh(given: dict[str, Any]) -> _Job:
    from scratchvae import datasets, runs

    options = {name: given[name] for name in MODEL_OPTIONS if name in given}
    _check_used(given["model"], options)
    preset = None
    if "preset" in given:
        preset = PRESETS[given["preset"]]
        _check_preset(given)
        defaults = {"epochs": preset.epochs, "batch_size": preset.batch_size, "data": preset.data}
        given = {**defaults, "binarize": preset.binarize, **given}
        options = {**options, **preset.model}
    seed = given.get("seed", 0)
    device = backend.resolve_device(given.get("device", "cpu"))
    optimizer = (
        preset.make_optimizer()
        if preset
        else make_optimizer(given.get("optimizer", "adam"), given.get("learning_rate"))
    )
    name, data_dir = given.get("data", "mnist10k"), given.get("data_dir")
    datasets.check_folder(name, data_dir)
    data = datasets.load(name, data_dir)
    config = {"model": given["model"], "n_features": data.x_train.shape[1], "seed": seed, **options}
    model = build(config, device)
    if preset:
        preset.start(model, data.x_train)
    training = Training(
        optimizer,
        seed=seed,
        batch_size=given.get("batch_size", 128),
        binarize=given.get("binarize", False),
        n_examples=len(data.x_train),
    )
    if Path(name).suffix:  # a file: later commands may run in another directory
        name = str(Path(name).expanduser().resolve())
    notes = {"data": name, "epochs": given.get("epochs", EPOCHS)}
    if preset:
        notes["preset"] = given["preset"]
    if data_dir:
        notes["data_dir"] = str(Path(data_dir).expanduser().resolve())
    directory = runs.new_directory(model.kind, given.get("out"))
    return _Job(model, training, notes, data, directory)


def _check_preset(given: dict[str, Any]) -> None:
    """Refuse an option that the preset decides."""
    own = {*MODEL_OPTIONS, "optimizer", "learning_rate", "batch_size", "binarize"} - {"dtype"}
    if extra := sorted(own & set(given)):
        options = ", ".join(map(_option, extra))
        raise ValueError(f"--preset {given['preset']} decides that itself: leave out {options}")


def _check_used(kind: str, options: dict[str, Any]) -> None:
    """Refuse an option that the model would not look at."""
    unused: dict[str, str] = {}
    if kind == "vae" and options.get("likelihood") != "gaussian":
        unused = {"sigma": "--likelihood gaussian"}
    if kind == "dae" and options.get("corruption", "gaussian") == "gaussian":
        unused = {"fraction": "--corruption masking or salt_and_pepper"}
    elif kind == "dae":
        unused = dict.fromkeys(("sigma", "clip"), "--corruption gaussian")
    for name, needs in unused.items():
        if name in options:
            raise ValueError(f"{_option(name)}: has no effect without {needs}")


def _option(name: str) -> str:
    return "--no-clip" if name == "clip" else "--" + name.replace("_", "-")
