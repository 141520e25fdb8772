"""`scratchvae exercise`."""

from __future__ import annotations

import argparse


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `scratchvae exercise`."""


def run(arguments: argparse.Namespace) -> None:
    """Carry out `scratchvae exercise`."""
    raise ValueError("not written yet")
