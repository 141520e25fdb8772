"""What a command tells: a table for a person, JSON for a program."""

from __future__ import annotations

import argparse
import json
import math
import shlex
import sys
from typing import Any


def quoted(word: str) -> str:
    """Return a word as the shell here wants it: Windows' knows only double quotes."""
    if sys.platform == "win32":
        from subprocess import list2cmdline

        return list2cmdline([word])
    return shlex.quote(word)


def report(arguments: argparse.Namespace, title: str, figures: dict[str, Any]) -> None:
    """Print figures as a table under a title, or as JSON where --json asks for it."""
    if not arguments.json:
        print_table(title, figures)
    print_json(arguments, figures)


def print_json(arguments: argparse.Namespace, report: dict[str, Any]) -> None:
    """Print a report as JSON where --json asks for it."""
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


def print_table(title: str, figures: dict[str, Any]) -> None:
    """Print figures as a table under a title, those of a kind that we know with their unit."""
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
