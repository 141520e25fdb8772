"""One source for two languages: what each page keeps of a text that holds English and Japanese.

The lessons, and the pages written for the site, hold both languages one after another. The rule:

- an indented paragraph and a directive belong to both (formulas, tables, code);
- a heading (but for its number), a list item, an entry of a line block, or else a whole paragraph
  belongs to Japanese if it holds a kana or a kanji, and to English otherwise;
- unless it is ``English / 日本語``: then each language has its own side. The separator is the last
  `` / `` before the first kana or kanji.
"""

from __future__ import annotations

import re

LANGUAGES = ("en", "ja")

JAPANESE = r"\u3041-\u3096\u30a1-\u30fa\u30fc-\u30ff\u3400-\u4dbf\u4e00-\u9fff々〆"
WIDE = JAPANESE + r"\u3000-\u303f\u30fb\uff00-\uff60"

_japanese = re.compile(f"[{JAPANESE}]")
_marker = re.compile(r"(?:\| |- |\d+\. |#\. )")
_directive = re.compile(r"\.\. [a-z-]+:: *")
_heading = re.compile(r"(?P<number>\d+\. |)(?P<title>\S.*)\n(?P<line>([=~^-])\4{3,})\Z")
_underline = re.compile(r"^(([=~^-])\2{3,})\n(?=\S)", re.MULTILINE)
_separator = re.compile(r"(?:\A|\s)/\s+")
_seam = re.compile(rf"(?<=[{WIDE}])\n *(?=[^\s`*:|])|(?<=[^\s`*|])\n *(?=[{WIDE}])")


def pick(text: str, language: str) -> str:
    """Return what a page in ``language`` keeps of a reStructuredText."""
    text = _underline.sub(r"\1\n\n", text.strip("\n"))
    paragraphs = re.split(r"(\n(?:[ \t]*\n)+)", "\n\n" + text)[1:]
    kept = ""
    for blank, paragraph in zip(paragraphs[::2], paragraphs[1::2], strict=True):
        if mine := _paragraph(paragraph, language):
            kept += blank + mine
    return kept.strip("\n") + "\n"


def side(text: str, language: str) -> str:
    """Return the side of ``English / 日本語`` in ``language``; "" if the text is in the other."""
    first = _japanese.search(text)
    if first is None:
        return text if language == "en" else ""
    cuts = list(_separator.finditer(text, 0, first.start()))
    english, japanese = (text[: cuts[-1].start()], text[cuts[-1].end() :]) if cuts else ("", text)
    return english.rstrip() if language == "en" else _seam.sub("", japanese)


def _paragraph(text: str, language: str) -> str:
    """Return what ``language`` keeps of one paragraph."""
    if text.startswith((" ", "\t", "..")):
        directive = _directive.match(text)
        if directive is None:
            return text
        first, newline, rest = text[directive.end() :].partition("\n")
        caption = side(first, language) if _separator.search(first) else first
        return directive.group() + (caption or first) + newline + rest
    heading = _heading.match(text)
    if heading:
        title = side(heading["title"], language)
        return title and f"{heading['number']}{title}\n{heading['line']}"
    if not _marker.match(text):
        return side(text, language)
    items = re.split(rf"\n(?={_marker.pattern})", text)
    marks = [_marker.match(item).group() for item in items]  # type: ignore[union-attr]
    kept = (
        (mark, side(item[len(mark) :], language)) for mark, item in zip(marks, items, strict=True)
    )
    return "\n".join(mark + item for mark, item in kept if item)
