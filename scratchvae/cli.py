"""The command ``scratchvae``: one function for each subcommand; their options are in ``parser``.

Whatever goes wrong ends in one line on stderr and exit code 2; an interrupted training in 130.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import scratchvae
from scratchvae import backend, parser, streams, team
from scratchvae.models import DenoisingAutoencoder, Model
from scratchvae.output import print_json, report
from scratchvae.presets import PRESETS
from scratchvae.train_command import train


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (without the program's name); return the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["train"] and words[1:2] and words[1].startswith("--preset="):
        words[1:2] = words[1].split("=", 1)
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


def evaluate(arguments: argparse.Namespace) -> None:
    """``scratchvae evaluate``: the figures of a run on its test data, and those of its rivals."""
    from scratchvae import evaluate as e
    from scratchvae import runs

    run = runs.open_run(arguments.run, arguments.device)
    data = run.dataset(arguments.data, arguments.data_dir)
    if arguments.samples and not isinstance(run.model, scratchvae.VAE):
        raise ValueError("--samples: the importance-weighted bound is for a VAE")
    x, binarize = data.x_test[: arguments.limit], run.training.binarize
    binarized = binarize and isinstance(run.model, scratchvae.VAE)  # the others' MSE is of greys
    figures: dict[str, Any] = {"images": len(x), "binarized": binarized}
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
        n_components = min(run.model.n_latent, *data.x_train.shape)
        pca = e.PCA(data.x_train, n_components)
        figures[f"mse_pca_{n_components}"] = e.mse(x, pca.reconstruct(noisy))
    report(arguments, f"{run.directory} on {data.name}, test part", figures)


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

    written = write_explorer(
        arguments.runs,
        arguments.out,
        data=arguments.data,
        data_dir=arguments.data_dir,
        language=arguments.lang,
    )
    if not arguments.json:
        for run in written["without_encoder"]:
            print(f"{run}: its encoder did not fit into the page: no drawing of your own with it")
        print(f"{written['page']} ({written['bytes'] / 1e6:.2f} MB): open it in a browser")
    print_json(arguments, written)


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
    print_json(arguments, {**figures, "picture": str(path)})


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
    print_json(arguments, {"ok": not wrong, "pieces": [row.to_dict() for row in rows]})
    if wrong:
        raise ValueError(f"the gradient is wrong in: {', '.join(wrong)}")


def info(arguments: argparse.Namespace) -> None:
    """``scratchvae info``: versions, backend, threads, and where the data are."""
    from importlib.metadata import version

    import threadpoolctl

    from scratchvae import compiled, datasets, kernels

    facts: dict[str, Any] = {
        "scratchvae": scratchvae.__version__,
        "python": platform.python_version(),
        **{name: version(name) for name in ("numpy", "matplotlib", "rich")},
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }
    for pool in threadpoolctl.threadpool_info():
        kind = f"{pool['user_api']} {pool['internal_api']}"
        threads = pool["num_threads"]
        facts[kind] = f"{pool['version']}, {threads} thread{'s' * (threads > 1)}" + (
            f", kernels {pool['architecture']}" if pool.get("architecture") else ""
        )
        if better := kernels.advice(pool.get("architecture") or ""):
            facts["faster"] = better
    problem = compiled.problem()
    facts["optimizers"] = f"NumPy ({problem})" if problem else f"Numba {version('numba')}"
    workers = team.suggested(128)
    facts["training"] = f"{workers} process{'es' * (workers > 1)} for batches of 128"
    facts["gpu"] = (backend.gpu_problem() or "usable").removeprefix("device='gpu': ")
    facts |= {
        f"data {name}": found for name, found in datasets.available(arguments.data_dir).items()
    }
    report(arguments, "scratchvae", facts)


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
