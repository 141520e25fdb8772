"""Every link of a finished site: does its file exist, and the place in it; does a page ask outside?

A link that a reader may click can lead anywhere. What a page loads by itself (images, styles,
scripts, fonts, frames) must lie in the site.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADS = {"img", "script", "iframe", "source", "video", "audio", "embed"}  # by src


class Page(HTMLParser):
    """What one page names: its own places, what it links to and what it loads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.places: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the ids and the addresses of one tag."""
        named = {name: value or "" for name, value in attrs}
        self.places.update(named[name] for name in ("id", "name") if name in named)
        if tag == "a" and "href" in named:
            self.links.append(named["href"])
        if tag == "link" and named.get("rel") not in ("author", "canonical"):
            self.loads.append(named["href"])
        if tag in LOADS and "src" in named:
            self.loads.append(named["src"])
        self.loads += [part.split()[0] for part in named.get("srcset", "").split(",") if part]


def problems(root: Path) -> list[str]:
    """Return a line for each broken link of the site in this folder, and for each load outside."""
    root = root.resolve()
    pages = {
        path: Page(path) for path in sorted(root.rglob("*.html")) if "_static" not in path.parts
    }
    found = []
    for path, page in pages.items():
        for address in [*page.links, *page.loads]:
            problem = _problem(path, address, pages, loaded=address in page.loads)
            if problem:
                found.append(f"{path.relative_to(root)}: {address}: {problem}")
    for style in sorted(root.rglob("*.css")):
        text = style.read_text(encoding="utf-8")
        for address in re.findall(r"(?:url\(|@import )\s*[\"']?([^\"')\s]+)", text):
            if problem := _problem(style, address, pages, loaded=True):
                found.append(f"{style.relative_to(root)}: {address}: {problem}")
    return found


def _problem(path: Path, address: str, pages: dict[Path, Page], loaded: bool) -> str:
    """Return what is wrong with one address on one page, or ""."""
    parts = urlsplit(address)
    if parts.scheme == "data":
        return ""
    if parts.scheme or parts.netloc:
        return "loaded from another host" if loaded else ""
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if not target.is_file():
        return "no such file"
    place = unquote(parts.fragment)
    named = target not in pages or "=" in place or place in {"", *pages[target].places}
    if not named:
        return "no such place on the page"
    return ""
