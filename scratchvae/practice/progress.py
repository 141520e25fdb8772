"""`scratchvae progress`."""

from __future__ import annotations

import argparse


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `scratchvae progress`."""


def run(arguments: argparse.Namespace) -> None:
    """Carry out `scratchvae progress`."""
    raise ValueError("not written yet")
