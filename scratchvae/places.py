"""The user's own directories: where downloads are cached and a learner's answers are kept."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

# The variables that may name the folder, the first first, and what it is without them.
_CACHE = {
    "darwin": (("XDG_CACHE_HOME",), "~/Library/Caches"),
    "win32": (("XDG_CACHE_HOME", "LOCALAPPDATA"), "~/AppData/Local"),
    "linux": (("XDG_CACHE_HOME",), "~/.cache"),
}
_DATA = {
    "darwin": (("XDG_DATA_HOME",), "~/Library/Application Support"),
    "win32": (("XDG_DATA_HOME", "APPDATA"), "~/AppData/Roaming"),
    "linux": (("XDG_DATA_HOME",), "~/.local/share"),
}


def cache_dir(platform: str = sys.platform, environment: Mapping[str, str] | None = None) -> Path:
    """The folder for downloads: `scratchvae` in the user's cache directory.

    XDG_CACHE_HOME where that is set, else ~/.cache on Linux, ~/Library/Caches on macOS,
    %LOCALAPPDATA% on Windows.
    Raises FileNotFoundError where there is no home directory.
    """
    return _find(_CACHE, platform, environment, "name a folder for data: SCRATCHVAE_DATA=DIR")


def data_dir(platform: str = sys.platform, environment: Mapping[str, str] | None = None) -> Path:
    """The folder for what practice remembers: `scratchvae` in the user's data directory.

    XDG_DATA_HOME where that is set, else ~/.local/share on Linux, ~/Library/Application Support on
    macOS, %APPDATA% on Windows. Raises FileNotFoundError where there is no home directory.
    """
    return _find(_DATA, platform, environment, "name a file: --state FILE")


def _find(
    table: Mapping[str, tuple[tuple[str, ...], str]],
    platform: str,
    environment: Mapping[str, str] | None,
    advice: str,
) -> Path:
    variables, default = table.get(platform, table["linux"])
    values = os.environ if environment is None else environment
    home = os.path.expanduser(default)  # noqa: PTH111 (Path's raises where there is no home)
    for base in map(Path, (*(values.get(name, "") for name in variables), home)):
        if base.is_absolute():  # the XDG specification: a relative path is to be ignored
            return base / "scratchvae"
    raise FileNotFoundError(f"there is no home directory; {advice}")
