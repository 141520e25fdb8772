"""One self-contained HTML file out of a page's assets and its data.

A page NAME is four files in ``assets``: ``NAME.html`` (what stands in ``<main>``), ``NAME.css``,
``NAME.js`` (plain JavaScript, a classic script on top of ``base.js``) and ``NAME.json``, its words:
``{"key": {"en": ..., "ja": ...}}``, of which ``title`` is the page's title. An element says which
words it shows by ``data-i18n="key"``, and which name a screen reader gives it by
``data-i18n-label="key"``. The words and the data go into the page as JSON; its policy forbids every
request, and every script but its own.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from string import Template
from typing import Any

import numpy as np
import numpy.typing as npt

LANGUAGES = ("en", "ja")
_ARRAYS = {"Uint8Array": np.uint8, "Uint16Array": np.uint16, "Float32Array": np.float32}


def page(name: str, data: Mapping[str, Any], *, scripts: Sequence[str] = ()) -> str:
    """Return the page ``name`` with its ``data`` as the text of one HTML file.

    ``scripts`` are further assets that ``NAME.js`` builds on. In the page, ``base.data`` is
    ``data`` and ``base.decode`` turns what ``array`` made into a typed array.

    Raises ValueError where the data is no JSON (a number that is not finite, say), or words are
    missing.
    """
    words = {**json.loads(asset("base.json")), **json.loads(asset(f"{name}.json"))}
    body = asset(f"{name}.html")
    skeleton = asset("base.html")
    _check_words(name, words, skeleton + body)
    script = "\n".join(asset(part) for part in ("base.js", *scripts, f"{name}.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return Template(skeleton).substitute(
        policy=f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'",
        title=html.escape(words["title"]["en"]),
        style=asset("base.css") + asset(f"{name}.css"),
        body=body,
        words=to_json(words),
        data=to_json(data),
        script=script,
    )


def asset(name: str) -> str:
    """Return the text of a file in ``assets``."""
    return (files("scratchvae.web") / "assets" / name).read_text(encoding="utf-8")


def array(values: npt.ArrayLike, kind: str = "Float32Array") -> dict[str, Any]:
    """Return an array as JSON: the typed array it becomes in the page, its shape, its bytes.

    Raises ValueError where a value is not finite or does not fit into ``kind``.
    """
    given = np.asarray(values)
    with np.errstate(all="ignore"):
        stored = given.astype(np.dtype(_ARRAYS[kind]).newbyteorder("<"))
    if not np.isfinite(stored).all() or (kind != "Float32Array" and (stored != given).any()):
        raise ValueError(f"array: got values that a {kind} does not hold")
    text = base64.b64encode(stored.tobytes()).decode()
    return {"kind": kind, "shape": list(stored.shape), "base64": text}


def to_json(value: Any) -> str:
    """Return JSON that may stand in a ``<script>``: it holds no ``<``, and no NaN or infinity."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def _check_words(name: str, words: Mapping[str, Any], markup: str) -> None:
    for key in ["title", *re.findall(r'data-i18n(?:-label)?="([^"]*)"', markup)]:
        if key not in words:
            raise ValueError(f"{name}.json: has no words for {key!r}")
    for key, texts in words.items():
        if set(texts) != set(LANGUAGES) or not all(texts.values()):
            raise ValueError(f"{name}.json: {key!r} wants words in {' and '.join(LANGUAGES)}")
