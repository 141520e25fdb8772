"""`scratchvae bughunt`."""

from __future__ import annotations

import argparse


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `scratchvae bughunt`."""


def run(arguments: argparse.Namespace) -> None:
    """Carry out `scratchvae bughunt`."""
    raise ValueError("not written yet")
