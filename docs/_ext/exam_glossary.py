"""The directive ``exam-glossary``: docs/glossary.toml as a page, in the language of the build.

A term has its Japanese and its English name, the lesson that explains it, and what it means in
both languages. Its address (#elbo) is the same in both, so that the language switch keeps it.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from bilingual import LANGUAGES
from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

FILE = Path(__file__).parents[1] / "glossary.toml"


def read() -> dict[str, dict[str, Any]]:
    """Return the groups of terms: a title in both languages, and a table for each term."""
    return tomllib.loads(FILE.read_text(encoding="utf-8"))


class ExamGlossary(SphinxDirective):
    """A section for each group, an entry for each term."""

    def run(self) -> list[nodes.Node]:
        """Return the sections of the page."""
        self.env.note_dependency(str(FILE))
        here = self.config.language
        other = next(name for name in LANGUAGES if name != here)
        sections = []
        for key, group in read().items():
            section = nodes.section(ids=[key])
            section += nodes.title(text=group["title"][here])
            entries = nodes.definition_list(classes=["glossary"])
            for name, term in group["terms"].items():
                head = nodes.term("", term[here], ids=[name])
                head += nodes.inline(text=term[other], classes=["other-language"], lang=other)
                link = addnodes.pending_xref(
                    "",
                    nodes.inline(),
                    refdomain="std",
                    reftype="doc",
                    reftarget=f"/lessons/{term['lesson']}",
                    refexplicit=False,
                    refdoc=self.env.docname,
                )
                text = nodes.paragraph("", f"{term['text'][here]} ", link)
                entries += nodes.definition_list_item("", head, nodes.definition("", text))
            sections.append(section)
            section += entries
        return sections


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.add_directive("exam-glossary", ExamGlossary)
    return {"parallel_read_safe": True}
