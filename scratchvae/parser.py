"""The parser of the command ``scratchvae``: every subcommand, its options and their types."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Any

import scratchvae
from scratchvae import argument_types as types
from scratchvae import backend
from scratchvae.layers import ACTIVATIONS
from scratchvae.models import CORRUPTIONS, MODELS
from scratchvae.optim import OPTIMIZERS
from scratchvae.output import quoted
from scratchvae.practice.commands import add_commands
from scratchvae.practice.language import LANGUAGES
from scratchvae.presets import PRESETS

Command = Callable[[argparse.Namespace], None]

EPOCHS = 20
SHOWN = {"sample": (100, 10_000), "reconstruct": (10, 10_000), "interpolate": (6, 100)}  # at most
MOST_STEPS = 100
MOST_SAMPLES = 1_000_000
MOST_THREADS = 1024

MODEL_OPTIONS = (
    *("hidden", "n_latent", "activation", "dtype", "output", "corruption", "sigma", "clip"),
    *("fraction", "likelihood", "beta"),
)

EXAMPLES = {
    "train": "scratchvae train vae --n-latent 2 --epochs 40",
    "evaluate": "scratchvae evaluate runs/vae --samples 100 --limit 200",
    "sample": "scratchvae sample runs/vae --n 64 --seed 1 --out samples.png",
    "reconstruct": "scratchvae reconstruct runs/vae --n 20",
    "interpolate": "scratchvae interpolate runs/vae --images 3 8 --steps 15",
    "latent": "scratchvae latent runs/vae --out latent.png",
    "explore": "scratchvae explore runs/vae",
    "check": "scratchvae check --seed 1",
    "info": "scratchvae info --json",
}
TRAIN_EXAMPLES = {
    "ae": "scratchvae train ae --n-latent 32 --epochs 10",
    "dae": "scratchvae train dae --corruption salt_and_pepper --fraction 0.3",
    "vae": "scratchvae train vae --n-latent 2 --beta 0.5 --epochs 40",
}


class _Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        known, unknown = self.parse_known_args(args, namespace)
        if unknown:  # quoted, so that a space or nothing is seen
            self.error(f"unrecognized arguments: {' '.join(map(quoted, unknown))}")
        return known

    def error(self, message: str) -> Any:
        line = " ".join(message.split())
        self.exit(2, f"{self.prog}: error: {line}; see {self.prog} --help\n")


def make(commands: Mapping[str, Command]) -> argparse.ArgumentParser:
    """The parser; its result's ``command`` is the function of that name in ``commands``."""
    parser = _Parser(
        prog="scratchvae", description=scratchvae.__doc__, epilog="example: scratchvae train vae"
    )
    parser.add_argument("--version", action="version", version=scratchvae.__version__)
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, function in commands.items():
        text = (function.__doc__ or "").partition(": ")[2].split("\n")[0]
        sub: argparse.ArgumentParser = subparsers.add_parser(
            name, help=text, description=text, epilog=f"example: {EXAMPLES[name]}"
        )
        sub.set_defaults(command=function)
        if name == "train":
            kinds = sub.add_subparsers(required=True, metavar="{ae,dae,vae}")
            for kind in MODELS:
                _add_train_options(kinds, kind)
        elif name == "info":
            sub.add_argument("--json", action="store_true", help="print JSON")
            sub.add_argument(
                "--data-dir", type=types.path, metavar="DIR", help="where to look for IDX files"
            )
            sub.add_argument("--seed", type=types.seed, default=0, help=argparse.SUPPRESS)
        else:
            if name == "explore":
                _add_explore_options(sub)
            elif name != "check":
                _add_run_options(sub, name)
            chance = name not in ("explore", "latent")
            text = "of all random numbers (0)" if chance else argparse.SUPPRESS
            sub.add_argument("--seed", type=types.seed, default=0, metavar="N", help=text)
            sub.add_argument("--json", action="store_true", help="print the figures as JSON")
    add_commands(subparsers)
    return parser


def _add_run_options(sub: argparse.ArgumentParser, name: str) -> None:
    """Add the options of the subcommands that open a run."""
    add = sub.add_argument
    add("run", type=types.path, help="run directory or model.npz")
    if name == "evaluate":
        add(
            "--samples",
            type=types.whole(1, MOST_SAMPLES),
            metavar="K",
            help="also the importance-weighted bound with K samples",
        )
        add("--limit", type=types.count, metavar="N", help="only the first N test images")
        add("--rivals", action="store_true", help="also PCA and, for a DAE, ridge regression")
    else:
        add("--out", type=types.path, metavar="FILE.png", help="default: in the run directory")
    if name in SHOWN:
        default, most = SHOWN[name]
        how_many = types.whole(1, most)
        add("--n", type=how_many, default=default, metavar="N", help="how many (%(default)s)")
    if name == "interpolate":
        add(
            "--images",
            type=types.index,
            nargs=2,
            metavar="I",
            help="which two test images, in place of --n pairs that --seed draws",
        )
        steps = types.whole(2, MOST_STEPS)
        add("--steps", type=steps, default=11, metavar="N", help="images a row (%(default)s)")
    add("--device", default="cpu", choices=backend.DEVICES, help="(cpu)")
    _add_data(sub, default=None, help="other data than the run's own")


def _add_explore_options(sub: argparse.ArgumentParser) -> None:
    """Add the options of ``explore``, which opens several runs."""
    sub.add_argument(
        "runs",
        type=types.path,
        nargs="+",
        metavar="run",
        help="run directory or model.npz; of several, the page offers each by its beta",
    )
    sub.add_argument(
        "--out", type=types.path, metavar="FILE.html", help="default: in the first run's directory"
    )
    sub.add_argument("--lang", choices=LANGUAGES, help="the page's language (the browser's)")
    _add_data(sub, default=None, help="other data than the first run's own")


def _add_data(sub: argparse.ArgumentParser, default: Any, help: str) -> None:
    sub.add_argument("--data", default=default, metavar="NAME|FILE", help=help)
    sub.add_argument(
        "--data-dir",
        type=types.path,
        default=default,
        metavar="DIR",
        help="directory of IDX files (or set SCRATCHVAE_DATA)",
    )


def _add_train_options(kinds: Any, kind: str) -> None:
    """Add ``train KIND``; options that were not given are absent, so that --resume can tell."""
    text = f"train a{'n' if kind == 'ae' else ''} {MODELS[kind].__name__}"
    sub = kinds.add_parser(
        kind,
        help=text,
        description=text,
        epilog=f"example: {TRAIN_EXAMPLES[kind]}",
        argument_default=argparse.SUPPRESS,
    )
    sub.set_defaults(model=kind)
    _add_data(
        sub, argparse.SUPPRESS, "mnist10k (default), mnist, fashion-mnist, or your .npy or .npz"
    )
    add = sub.add_argument
    add(
        "--out",
        type=types.path,
        metavar="DIR",
        help=f"run directory (default: runs/{kind}, runs/{kind}-2, ...)",
    )
    add(
        "--resume",
        type=types.path,
        metavar="DIR",
        help="go on with the run in DIR, with its settings",
    )
    add("--epochs", type=types.count, metavar="N", help=f"passes over the data ({EPOCHS})")
    add("--batch-size", type=types.count, metavar="N", help="images a step (128)")
    add("--optimizer", choices=OPTIMIZERS, help="(adam)")
    add("--learning-rate", type=types.real, metavar="X", help="(the optimizer's own; adam 0.001)")
    add("--binarize", action="store_true", help="draw each pixel as 0 or 1 anew in each epoch")
    add("--checkpoint-every", type=types.count, metavar="N", help="save every N epochs (1)")
    add(
        "--live", action="store_true", help="keep live.html in the run directory: open it and watch"
    )
    add("--seed", type=types.seed, metavar="N", help="seed of all random numbers (0)")
    add("--device", choices=backend.DEVICES, help="(cpu)")
    add("--tf32", action="store_true", help="faster products on the GPU, right to 3 digits")
    add("--dtype", choices=("float32", "float64"), help="(float32)")
    add("--hidden", type=types.widths, metavar="N,N,...", help="hidden widths, or 'none' (400)")
    add("--n-latent", type=types.count, metavar="L", help="latents (20)")
    add("--activation", choices=ACTIVATIONS, help="(relu)")
    if kind == "vae":
        about = "; ".join(f"{name}: {preset.about}" for name, preset in PRESETS.items())
        add("--preset", choices=PRESETS, help=f"a published setting. {about}")
        add("--likelihood", choices=("bernoulli", "gaussian"), help="(bernoulli)")
        add(
            "--sigma",
            type=types.sigma,
            metavar="X",
            help="of the gaussian likelihood: a number or 'learned' (1)",
        )
        add("--beta", type=types.real, metavar="X", help="weight of the KL (1)")
    else:
        add("--output", choices=("sigmoid", "linear"), help="(sigmoid)")
    if kind == "dae":
        add("--corruption", choices=CORRUPTIONS, help="(gaussian)")
        add(
            "--sigma",
            type=types.real,
            metavar="X",
            help="standard deviation of the gaussian corruption (0.5)",
        )
        add("--no-clip", action="store_false", dest="clip", help="let it leave [0, 1]")
        add(
            "--fraction",
            type=types.real,
            metavar="X",
            help="of the pixels hit by the other corruptions (0.3)",
        )
    add(
        "--threads",
        type=types.whole(1, MOST_THREADS),
        metavar="N",
        help="to compute with (all cores); 1 where another program keeps one busy",
    )
    add("--quiet", action="store_true", default=False, help="no progress")
    add("--json", action="store_true", default=False, help="print the figures as JSON")
