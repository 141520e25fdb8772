"""English or Japanese: which one the learner reads, and the texts of the engine in both."""

from __future__ import annotations

import json
import locale
import os
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from typing import Any

from scratchvae.files import write_text
from scratchvae.places import data_dir
from scratchvae.practice import content

LANGUAGES = ("en", "ja")


def choose(wanted: str | None = None) -> str:
    """The language to speak: `wanted`, which is remembered; or the remembered one; or the locale's.

    A settings file that cannot be read or written is no reason to stop: then the locale decides.
    """
    settings: dict[str, Any] = {}
    with suppress(OSError, ValueError, RecursionError):
        path = data_dir() / "settings.json"
        loaded = json.loads(path.read_text(encoding="utf-8"))
        settings = loaded if isinstance(loaded, dict) else {}
    if wanted is None:
        remembered = settings.get("language")
        return remembered if remembered in LANGUAGES else _of_the_locale()
    if wanted not in LANGUAGES:
        raise ValueError(f"--lang: got {wanted!r}, want one of {', '.join(LANGUAGES)}")
    if settings.get("language") != wanted:
        with suppress(OSError):
            path = data_dir() / "settings.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, json.dumps({**settings, "language": wanted}) + "\n")
    return wanted


def _of_the_locale() -> str:
    for variable in ("LC_ALL", "LC_MESSAGES", "LANG"):  # the first that is set decides
        if value := os.environ.get(variable):
            return "ja" if value.lower().startswith("ja") else "en"
    with suppress(ValueError):  # Windows and macOS have a locale without the variables
        return "ja" if (locale.getlocale()[0] or "").lower().startswith("ja") else "en"
    return "en"


class Messages:
    """The texts of one part of the engine, `content/messages/NAME.toml`, in one language.

    `messages("key", name=value)` is the text of that key with its {name} filled in.
    """

    def __init__(self, name: str, language: str) -> None:
        self.language = language
        self._texts = _texts(name)

    def __call__(self, key: str, **values: Any) -> str:
        """The text of `key` in this language, filled in."""
        return content.text(self._texts[key], self.language).format(**values)


@cache
def _texts(name: str) -> Mapping[str, Any]:
    return content.read(content.ROOT / "messages" / f"{name}.toml")
