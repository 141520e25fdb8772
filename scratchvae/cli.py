"""The command ``scratchvae``: one function for each subcommand; their options are in ``parser``.

Whatever goes wrong ends in one line on stderr and exit code 2; an interrupted training in 130.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import scratchvae
from scratchvae import backend, parser, streams, team, validate
from scratchvae.models import DenoisingAutoencoder, Model, build
from scratchvae.optim import make_optimizer
from scratchvae.parser import EPOCHS, MODEL_OPTIONS
from scratchvae.presets import PRESETS
from scratchvae.train import Callback, DivergedError, Stopped, Training, fit


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (without the program's name); return the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:2] == ["train", "--preset"]:  # a preset is of one kind: it need not be named
        words.insert(1, PRESETS[words[2]].kind if words[2:] and words[2] in PRESETS else "vae")
    with streams.standard():
        try:
            try:
                arguments = parser.make(COMMANDS).parse_args(words)
                arguments.command(arguments)
            finally:
                sys.stdout.flush()
        except SystemExit as end:  # of --help, --version and the parser's errors
            return int(end.code or 0)
        except KeyboardInterrupt as interruption:
            print(f"scratchvae: {str(interruption) or 'interrupted'}", file=sys.stderr)
            return 130
        except (ValueError, OSError, RuntimeError, ArithmeticError, MemoryError) as error:
            print(f"scratchvae: error: {_line(error)}", file=sys.stderr)
            return 2
        return 0


def _line(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


# --------------------------------------------------------------------------------- subcommands


def train(arguments: argparse.Namespace) -> None:
    """``scratchvae train``: train a model, and leave a run directory behind."""
    from scratchvae import runs

    given = vars(arguments)
    if given.get("tf32"):
        if backend.resolve_device(given.get("device", "cpu")) == "cpu":
            raise ValueError("--tf32: it is for products on the GPU; add --device gpu")
        backend.allow_tf32(True)
    if "resume" in given:
        model, training, notes, data, directory = _resumed(given)
    else:
        model, training, notes, data, directory = _fresh(given)
    with runs.training_in(directory):
        _train(arguments, model, training, notes, data, directory)


def _train(
    arguments: argparse.Namespace,
    model: Model,
    training: Training,
    notes: dict[str, Any],
    data: Any,
    directory: Path,
) -> None:
    from threadpoolctl import threadpool_limits

    from scratchvae import runs

    given = vars(arguments)
    every = given.get("checkpoint_every", 1)

    def save(training: Training) -> None:
        due = training.epoch % every == 0 or training.epoch == notes["epochs"]
        if due and not training.step:  # in the middle of an epoch Stopped follows, and saves
            runs.save_run(directory, model, training, notes)

    schedule = [PRESETS[notes["preset"]].schedule] if notes.get("preset") in PRESETS else []

    resume = f"scratchvae train {model.kind} --resume {shlex.quote(str(directory))}"
    resume += " --live" if "live" in given else ""
    if training.epoch == notes["epochs"] and not arguments.quiet:
        more = f"more with: {resume} --epochs {training.epoch + EPOCHS}"
        print(f"all {training.epoch} epochs are trained; {more}", file=sys.stderr)
    started = time.perf_counter()
    with threadpool_limits(given.get("threads"), "blas"):
        workers = team.suggested(training.batch_size) if model.device == "cpu" else 1
        runs.save_run(directory, model, training, notes)  # what cannot be written shows at once
        with _live(arguments, model, training, notes, data, directory) as live:
            try:
                fit(
                    model,
                    data.x_train,
                    validation=data.x_test,
                    epochs=notes["epochs"],
                    callbacks=[*schedule, save, *live],
                    resume=training,
                    progress=not arguments.quiet,
                    workers=workers,
                )
            except Stopped:
                runs.save_run(directory, model, training, notes)
                where = f"after epoch {training.epoch} of {notes['epochs']}"
                if training.step:
                    steps = f"{training.step} of {training.steps_an_epoch} steps"
                    where = f"in epoch {training.epoch + 1} after {steps}"
                raise Stopped(
                    f"stopped {where}; saved {directory / 'model.npz'}. Go on with: {resume}"
                ) from None
            except KeyboardInterrupt:  # the second Ctrl-C, perhaps in the middle of a step
                raise KeyboardInterrupt(
                    f"interrupted; {directory / 'model.npz'} holds the last checkpoint. "
                    f"Go on with: {resume}"
                ) from None
            except DivergedError as error:
                runs.save_run(directory, model, training, notes)
                raise DivergedError(f"{error}; saved in {directory / 'model.npz'}") from None
            except team.WorkerError as error:
                runs.save_run(directory, model, training, notes)
                raise team.WorkerError(
                    f"{error}; saved {directory / 'model.npz'}. Go on with: {resume}, in one "
                    "process with --threads 1"
                ) from None
    seconds = time.perf_counter() - started
    runs.draw_pictures(directory, model, training.history, data)
    figures = {"epochs": training.epoch, **training.history.last()}
    pictures = [str(directory / name) for name in runs.PICTURES]
    report = {"run": str(directory), **figures, "seconds": seconds, "pictures": pictures}
    if live:
        report["live"] = str(directory / runs.LIVE)
    if not arguments.json:
        _print_table(f"{model.kind}, {data.name}, after {training.epoch} epochs", figures)
        print(f"{seconds:.1f} s. Model, history and pictures are in {directory}:")
        print("  " + "  ".join(runs.PICTURES))
    _print_json(arguments, report)


@contextmanager
def _live(
    arguments: argparse.Namespace,
    model: Model,
    training: Training,
    notes: dict[str, Any],
    data: Any,
    directory: Path,
) -> Iterator[list[Callback]]:
    """Keep live.html during the block where --live asks for it; yield the callbacks that do."""
    if "live" not in vars(arguments):
        yield []
        return
    from scratchvae import runs
    from scratchvae.web.live import Live

    path = directory / runs.LIVE
    with Live(path, model, training, data, notes["epochs"]) as live:
        if live.notice:
            print(f"scratchvae: {live.notice}", file=sys.stderr)
        if not arguments.quiet:
            print(f"watch it in a browser: {path}", file=sys.stderr)
        yield [live]


_RESUMABLE = {"resume", "epochs", "device", "tf32", "data_dir", "checkpoint_every"} | {
    "threads",
    "live",
    "quiet",
    "json",
}


def _resumed(given: dict[str, Any]) -> tuple[Any, ...]:
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
    return run.model, run.training, {**run.notes, "epochs": epochs}, data, run.directory


def _fresh(given: dict[str, Any]) -> tuple[Any, ...]:
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
    epochs = validate.integer("--epochs", given.get("epochs", EPOCHS))
    optimizer = (
        preset.make_optimizer()
        if preset
        else make_optimizer(given.get("optimizer", "adam"), given.get("learning_rate"))
    )
    batch_size = validate.integer("--batch-size", given.get("batch_size", 128))
    validate.integer("--checkpoint-every", given.get("checkpoint_every", 1))
    name, data_dir = given.get("data", "mnist10k"), given.get("data_dir")
    data = datasets.load(name, data_dir)
    config = {"model": given["model"], "n_features": data.x_train.shape[1], "seed": seed, **options}
    model = build(config, device)
    if preset:
        preset.start(model, data.x_train)
    training = Training(
        optimizer,
        seed=seed,
        batch_size=batch_size,
        binarize=given.get("binarize", False),
        n_examples=len(data.x_train),
    )
    if Path(name).suffix:  # a file: later commands may run in another directory
        name = str(Path(name).expanduser().resolve())
    notes = {"data": name, "epochs": epochs}
    if preset:
        notes["preset"] = given["preset"]
    if data_dir:
        notes["data_dir"] = str(Path(data_dir).expanduser().resolve())
    return model, training, notes, data, runs.new_directory(model.kind, given.get("out"))


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


def evaluate(arguments: argparse.Namespace) -> None:
    """``scratchvae evaluate``: the figures of a run on its test data, and those of its rivals."""
    from scratchvae import evaluate as e
    from scratchvae import runs

    run = runs.open_run(arguments.run, arguments.device)
    data = run.dataset(arguments.data, arguments.data_dir)
    if arguments.samples and not isinstance(run.model, scratchvae.VAE):
        raise ValueError("--samples: the importance-weighted bound is for a VAE")
    x, binarize = data.x_test[: arguments.limit], run.training.binarize
    figures: dict[str, Any] = {"images": len(x), "binarized": binarize}
    figures |= e.evaluate(run.model, x, seed=arguments.seed, binarize=binarize)
    if isinstance(run.model, scratchvae.VAE) and arguments.samples:
        bound = e.importance_weighted_bound(
            run.model, x, arguments.samples, seed=arguments.seed, binarize=binarize
        )
        figures[f"neg_iw_bound_{arguments.samples}"] = -float(bound.mean())
    if arguments.rivals:
        noisy = x
        if isinstance(run.model, DenoisingAutoencoder):  # the rivals see what the model sees
            noisy = e.corrupted(run.model, x, arguments.seed)
            noisy_train = e.corrupted(run.model, data.x_train, arguments.seed + 1)
            ridge = e.Ridge(noisy_train, data.x_train)
            figures["mse_ridge"] = e.mse(x, ridge.predict(noisy))
        pca = e.PCA(data.x_train, run.model.n_latent)
        figures[f"mse_pca_{run.model.n_latent}"] = e.mse(x, pca.reconstruct(noisy))
    _report(arguments, f"{run.directory} on {data.name}, test part", figures)


def sample(arguments: argparse.Namespace) -> None:
    """``scratchvae sample``: images that the model makes."""
    _draw(
        arguments,
        "samples.png",
        lambda runs, path, model, data: runs.draw_samples(
            path, model, data, arguments.n, arguments.seed
        ),
    )


def reconstruct(arguments: argparse.Namespace) -> None:
    """``scratchvae reconstruct``: test images and what the model makes of them."""
    _draw(
        arguments,
        "reconstructions.png",
        lambda runs, path, model, data: {
            "mse": runs.draw_reconstructions(path, model, data, arguments.n, arguments.seed)
        },
    )


def latent(arguments: argparse.Namespace) -> None:
    """``scratchvae latent``: the codes by digit and, with two latents, the decoded plane."""
    _draw(
        arguments, "latent.png", lambda runs, path, model, data: runs.draw_latent(path, model, data)
    )


def interpolate(arguments: argparse.Namespace) -> None:
    """``scratchvae interpolate``: from one test image to another through the latent space."""

    def draw(runs: Any, path: Path, model: Model, data: Any) -> None:
        n = len(data.x_test)
        if arguments.images:
            pairs = [tuple(arguments.images)]
        elif n < 2:
            raise ValueError("the test part has one image, want two to go from one to the other")
        else:
            rng = np.random.default_rng(arguments.seed)
            pairs = [tuple(rng.choice(n, 2, replace=False).tolist()) for _ in range(arguments.n)]
        if max(max(pair) for pair in pairs) >= n:
            raise ValueError(f"--images: got {pairs[0]}, the test part has images 0 to {n - 1}")
        runs.draw_interpolation(path, model, data, pairs, arguments.steps)

    _draw(arguments, "interpolation.png", draw)


def explore(arguments: argparse.Namespace) -> None:
    """``scratchvae explore``: one HTML file in which the latent space is walked through."""
    from scratchvae.web.explorer import write_explorer

    report = write_explorer(
        arguments.runs,
        arguments.out,
        data=arguments.data,
        data_dir=arguments.data_dir,
        language=arguments.lang,
    )
    if not arguments.json:
        for run in report["without_encoder"]:
            print(f"{run}: its encoder did not fit into the page: no drawing of your own with it")
        print(f"{report['page']} ({report['bytes'] / 1e6:.2f} MB): open it in a browser")
    _print_json(arguments, report)


def _draw(arguments: argparse.Namespace, name: str, draw: Callable[..., Any]) -> None:
    """Open the run, draw one picture, and say where it is."""
    from scratchvae import runs

    run = runs.open_run(arguments.run, arguments.device)
    path = Path(arguments.out) if arguments.out else run.directory / name
    figures = draw(runs, path, run.model, run.dataset(arguments.data, arguments.data_dir)) or {}
    if not arguments.json:
        for key, value in figures.items():
            print(f"{key} {value:.5g}")
        print(path)
    _print_json(arguments, {**figures, "picture": str(path)})


_CHECKED = "Gradients held against numerical derivatives; errors are relative"


def check(arguments: argparse.Namespace) -> None:
    """``scratchvae check``: prove every gradient, and print the proof."""
    from scratchvae import proofs

    rows = proofs.run_all(arguments.seed)
    wrong = [row.piece for row in rows if not row.ok]
    if not arguments.json:
        from rich.console import Console
        from rich.table import Table

        console, table = Console(), Table(title=_CHECKED)
        shown = slice(None) if console.width >= 70 else slice(0, None, 2)  # the more important
        for head in ("piece", "tensors", "worst error", "method", "verdict")[shown]:
            wraps = head in ("piece", "method")
            table.add_column(head, overflow="fold", no_wrap=not wraps)
        for row in rows:
            cells = (row.piece, str(row.tensors), f"{row.error:.1e}", row.method, row.verdict)
            table.add_row(*cells[shown])
        console.print(table)
        for row in rows:
            if not row.ok:
                print(f"{row.piece}:\n{row.report}")
    _print_json(arguments, {"ok": not wrong, "pieces": [row.to_dict() for row in rows]})
    if wrong:
        raise ValueError(f"the gradient is wrong in: {', '.join(wrong)}")


def info(arguments: argparse.Namespace) -> None:
    """``scratchvae info``: versions, backend, threads, and where the data are."""
    from importlib.metadata import version

    import threadpoolctl

    from scratchvae import datasets, kernels

    facts: dict[str, Any] = {
        "scratchvae": scratchvae.__version__,
        "python": platform.python_version(),
        **{name: version(name) for name in ("numpy", "matplotlib", "rich")},
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }
    for pool in threadpoolctl.threadpool_info():
        kind = f"{pool['user_api']} {pool['internal_api']}"
        facts[kind] = f"{pool['version']}, {pool['num_threads']} threads" + (
            f", kernels {pool['architecture']}" if pool.get("architecture") else ""
        )
        if better := kernels.advice(pool.get("architecture") or ""):
            facts["faster"] = better
    facts["training"] = f"{team.suggested(128)} processes for batches of 128"
    facts["gpu"] = (backend.gpu_problem() or "usable").removeprefix("device='gpu': ")
    facts |= {
        f"data {name}": found for name, found in datasets.available(arguments.data_dir).items()
    }
    _report(arguments, "scratchvae", facts)


def _report(arguments: argparse.Namespace, title: str, figures: dict[str, Any]) -> None:
    if not arguments.json:
        _print_table(title, figures)
    _print_json(arguments, figures)


def _print_json(arguments: argparse.Namespace, report: dict[str, Any]) -> None:
    if arguments.json:
        print(json.dumps(_finite(report), indent=2, allow_nan=False))


def _finite(value: Any) -> Any:
    """Return ``value`` with null for what JSON has no number for."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


_UNITS = {
    "neg_elbo": "nats an image",
    "reconstruction": "nats an image",
    "kl": "nats an image",
    "loss": "nats an image",
    "neg_iw": "nats an image",
    "mse": "a pixel",
    "psnr": "dB",
}


def _print_table(title: str, figures: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    columns = [Column(overflow="fold") for _ in range(2)]  # a path that is cut is of no use
    table = Table(*columns, title=Text(title), title_justify="left", show_header=False)
    for name, value in figures.items():
        bare = name.removeprefix("val_")
        if bare == "loss" and value == figures.get(name.replace("loss", "neg_elbo")):
            continue  # with beta = 1 they are one
        unit = next((unit for start, unit in _UNITS.items() if bare.startswith(start)), "")
        text = f"{value:.5g}" if isinstance(value, float) else str(value)
        table.add_row(name, Text(f"{text} {unit}".strip()))  # Text: "[cuda12]" is no markup
    Console().print(table)


COMMANDS = {
    function.__name__: function
    for function in (
        train,
        evaluate,
        sample,
        reconstruct,
        interpolate,
        latent,
        explore,
        check,
        info,
    )
}
