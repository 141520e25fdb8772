"""The directive ``latent-explorer``: the page that build.py trains and writes, in a frame."""

from __future__ import annotations

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

TITLES = {
    "en": ("A latent space to walk through", "Open it in a window of its own"),
    "ja": ("潜在空間を歩く", "別のウィンドウで開く"),
}


class LatentExplorer(SphinxDirective):
    """A frame with the explorer, and a link to it."""

    def run(self) -> list[nodes.Node]:
        """Return the frame and the link."""
        title, alone = TITLES[self.config.language]
        address = f"../explorer.html#lang={self.config.language}"
        frame = (
            f'<iframe class="explorer" src="{address}" title="{title}" loading="lazy"></iframe>'
            f'<p><a href="{address}" target="_blank">{alone}</a></p>'
        )
        return [nodes.raw("", frame, format="html")]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.add_directive("latent-explorer", LatentExplorer)
    return {"parallel_read_safe": True}
