"""The subcommands of practice. Each module has `add_options(parser)` and `run(arguments)`.

They are imported with every `scratchvae` command, so they import what is heavy only when they run.
"""

from __future__ import annotations

import argparse
from importlib import import_module
from typing import Any

from scratchvae.practice.language import LANGUAGES

#: In the order of `scratchvae --help`: what it is, an example.
COMMANDS = {
    "exercise": ("write a backward pass and hear what is wrong with it", "exercise --lang ja"),
    "bughunt": ("find the bug in a short program that trains and is wrong", "bughunt --lang ja"),
    "drill": ("short calculations, with fresh numbers each time", "drill kl -n 5"),
    "quiz": ("multiple-choice questions with explanations", "quiz elbo -n 10"),
    "exam": ("a mock exam: 20 questions in 23 minutes", "exam --lang ja"),
    "review": ("what you missed, again after 1, 3, 7, 16 and 35 days", "review"),
    "progress": ("one screen over all practice", "progress --json"),
}


def add_commands(subparsers: Any) -> None:
    """Add the parsers of all parts of practice to `scratchvae`'s."""
    for name, (text, example) in COMMANDS.items():
        module = import_module(f"scratchvae.practice.{name}")
        sub: argparse.ArgumentParser = subparsers.add_parser(
            name, help=text, description=text, epilog=f"example: scratchvae {example}"
        )
        sub.add_argument(
            "--lang",
            choices=LANGUAGES,
            help="English or Japanese; remembered (default: the remembered one, or the locale's)",
        )
        sub.add_argument("--json", action="store_true", help="print JSON")
        module.add_options(sub)
        sub.set_defaults(command=module.run)
