"""`scratchvae exam`."""

from __future__ import annotations

import argparse


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `scratchvae exam`."""


def run(arguments: argparse.Namespace) -> None:
    """Carry out `scratchvae exam`."""
    raise ValueError("not written yet")
