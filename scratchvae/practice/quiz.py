"""`scratchvae quiz`."""

from __future__ import annotations

import argparse


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `scratchvae quiz`."""


def run(arguments: argparse.Namespace) -> None:
    """Carry out `scratchvae quiz`."""
    raise ValueError("not written yet")
