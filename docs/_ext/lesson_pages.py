"""The lessons as pages: run once by sphinx-gallery, then read in one language a build.

sphinx-gallery runs the scripts in a copy of their folder and writes pages in both languages; it
does not run a script again that has not changed, so the second language costs no training. When
Sphinx reads a page, it is reduced to the language of the build (``bilingual.pick``). So are the
scripts and notebooks to download.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from bilingual import pick
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx_gallery.notebook import jupyter_notebook, save_notebook
from sphinx_gallery.py_source_parser import Block, split_code_and_text_blocks

DOCS = Path(__file__).parents[1]
LESSONS = DOCS.parent / "lessons"
INDEX = DOCS / "_ext" / "lessons.rst"
COPY = DOCS / "_build" / "scripts"
DOWNLOADS = {
    "en": "Download this lesson: :download:`notebook </{0}.ipynb>`, :download:`script </{0}.py>`",
    "ja": r"この講をダウンロード：\ :download:`ノートブック </{0}.ipynb>`"
    r"、\ :download:`スクリプト </{0}.py>`",
}
FIGURE = re.compile(r'^plots\.save\(.*"(out/\w+\.png)"\)', re.MULTILINE)


def prepare() -> Path:
    """Copy the lessons to where they run and may leave their figures; return the folder."""
    shutil.rmtree(COPY, ignore_errors=True)
    COPY.mkdir(parents=True)
    for lesson in LESSONS.glob("[0-9][0-9]_*.py"):
        shutil.copyfile(lesson, COPY / lesson.name)
    shutil.copyfile(INDEX, COPY / "GALLERY_HEADER.rst")
    return COPY


def figures(block: Block, block_vars: dict[str, Any], gallery_conf: dict[str, Any]) -> str:
    """Scrape what a cell has saved by ``plots.save``: each figure is a link to its full size."""
    rst = ""
    for saved in FIGURE.findall(block.content):
        image = Path(next(block_vars["image_path_iterator"]))
        shutil.copyfile(Path(block_vars["src_file"]).parent / saved, image)
        words = Path(saved).stem[3:].replace("_", " ")
        rst += (
            f"\n.. image:: /lessons/images/{image.name}\n   :alt: Figure: {words}\n"
            f"   :class: lesson-figure\n   :target: ../_images/{image.name}\n\n"
        )
    return rst


def script(blocks: list[Block], language: str) -> str:
    """Return a lesson as a script in one language, with the cells of the original."""
    title, *rest = blocks
    parts = [f'r"""\n{pick(title.content, language)}"""\n']
    for block in rest:
        if block.type == "code":
            parts.append(block.content.strip("\n") + "\n")
        else:
            lines = pick(block.content, language).splitlines()
            parts.append("\n".join(["# %%", *(f"# {line}".rstrip() for line in lines)]) + "\n")
    return "\n".join(parts)


def _cell(block: Block, language: str) -> Block:
    """Return a block as a notebook wants it: plain Markdown, and each saved figure shown."""
    if block.type == "code":
        shown = ", ".join(f'Image("{path}")' for path in FIGURE.findall(block.content))
        show = f"\nfrom IPython.display import Image, display\n\ndisplay({shown})" if shown else ""
        return block._replace(content=block.content + show)
    text = re.sub(r"^\| ", "", pick(block.content, language), flags=re.MULTILINE)
    head, *rows = re.split(r"^ +\* - (?=.*\n +- )", text, flags=re.MULTILINE)
    if rows:
        head = re.sub(r"\.\. list-table:: *(.*)\n", r"**\1**\n", head) + "| | |\n|---|---|\n"
    cells = (re.sub(r"\n +- ", " | ", row.rstrip()) for row in rows)
    return block._replace(content=head + "".join(f"| {row} |\n" for row in cells))


def write_downloads(app: Sphinx) -> None:
    """Write each lesson as a script and as a notebook in the language of this build."""
    language = app.config.language
    folder = DOCS / "notebooks" / language
    folder.mkdir(parents=True, exist_ok=True)
    for source in sorted(LESSONS.glob("[0-9][0-9]_*.py")):
        _, blocks = split_code_and_text_blocks(source)
        (folder / source.name).write_text(script(blocks, language), encoding="utf-8")
        cells = [_cell(block, language) for block in blocks]
        notebook = jupyter_notebook(cells, app.config.sphinx_gallery_conf, str(folder))
        save_notebook(notebook, folder / f"{source.stem}.ipynb")


def one_language(app: Sphinx, docname: str, source: list[str]) -> None:
    """Keep one language of a page; of sphinx-gallery's page, what lies between its own notes."""
    folder, _, stem = docname.rpartition("/")
    language = app.config.language
    if folder == "api":
        return
    if folder != "lessons" or stem == "index":
        text = INDEX.read_text(encoding="utf-8") if folder else source[0]
        source[0] = pick(text, language)
        return
    page = re.split(r"^\.\. _sphx_glr_.*:$", source[0], flags=re.MULTILINE)[1]
    title, line, body = pick(page, language).split("\n", 2)
    links = DOWNLOADS[language].format(f"notebooks/{language}/{stem}")
    source[0] = f"{title}\n{line}\n\n.. rst-class:: lesson-downloads\n\n{links}\n{body}"


class LessonPath(SphinxDirective):
    """The way through the lessons: their table of contents in lessons/README.md, as cards."""

    def run(self) -> list[nodes.Node]:
        """Return a card for each lesson."""
        name = "README.ja.md" if self.config.language == "ja" else "README.md"
        self.env.note_dependency(str(LESSONS / name))
        rows = re.findall(
            r"^\| !\[\]\((.+?)\) \| \[(.+?)\]\((\w+)\.py\) \| (.+?) \| (.+?) \| .+ \|$",
            (LESSONS / name).read_text(encoding="utf-8"),
            re.MULTILINE,
        )
        folder = "" if self.env.docname.startswith("lessons/") else "lessons/"
        cards = nodes.container(classes=["lesson-path"])
        for thumbnail, title, stem, what, keywords in rows:
            link = nodes.reference(refuri=f"{folder}{stem}.html", internal=True)
            link += nodes.image(uri=f"/../lessons/{thumbnail}", alt="", classes=["thumbnail"])
            link += nodes.inline(text=title, classes=["lesson-title"])
            link += nodes.inline(text=what, classes=["lesson-what"])
            link += nodes.inline(text=keywords, classes=["lesson-keywords"])
            cards += nodes.paragraph("", "", link, classes=["lesson-card"])
        return [cards]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("builder-inited", write_downloads, priority=600)  # after sphinx-gallery's 500
    app.connect("source-read", one_language)
    app.add_directive("lesson-path", LessonPath)
    return {"parallel_read_safe": True}
