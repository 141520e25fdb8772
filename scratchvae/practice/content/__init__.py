"""What practice asks, as TOML files beside this one, and how they are read.

A text is a table with the keys `en` and `ja`. Each folder's README says what its files hold.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent


def files(folder: str) -> list[Path]:
    """The files of `folder`, in the order of their names."""
    return sorted((ROOT / folder).glob("*.toml"))


def read(path: Path) -> dict[str, Any]:
    """Read one file; ValueError with its name and the line if it is not valid TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # of TOML, of UTF-8, of a number too long
        raise ValueError(f"{path}: {error}") from None


def text(both: Mapping[str, str], language: str) -> str:
    """The text in `language`, without the line breaks at its ends."""
    return both[language].strip("\n")
