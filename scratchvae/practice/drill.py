"""`scratchvae drill`."""

from __future__ import annotations

import argparse


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `scratchvae drill`."""


def run(arguments: argparse.Namespace) -> None:
    """Carry out `scratchvae drill`."""
    raise ValueError("not written yet")
