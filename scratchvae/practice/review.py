"""`scratchvae review`."""

from __future__ import annotations

import argparse


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `scratchvae review`."""


def run(arguments: argparse.Namespace) -> None:
    """Carry out `scratchvae review`."""
    raise ValueError("not written yet")
