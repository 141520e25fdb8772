"""Sphinx's settings for the site, for either language: `python docs/build.py` builds both."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

import lesson_pages

project = "scratchvae"
copyright = "the scratchvae developers; digits: Y. LeCun, C. Cortes, C. J. C. Burges, CC BY-SA 3.0"
language = "en"  # build.py says -D language=ja for the other half
locale = {"en": "English", "ja": "日本語"}

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_gallery.gen_gallery",
    "lesson_pages",
    "exam_glossary",
    "japanese_search",
    "latent_explorer",
    "mathml",
    "plain_docstrings",
]
exclude_patterns = ["_build", "_ext"]
templates_path = ["_templates"]
default_role = "code"
highlight_language = "none"  # a docstring's formulas; code says what it is
nitpicky = True
# What the signatures name and this site does not describe: there is no network to look it up.
nitpick_ignore_regex = [
    ("py:.*", r"(?!scratchvae\.).*"),
    ("py:.*", r".*\.(Array|Function|Piece|T)"),
]

autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "ignore-module-all": True}
autodoc_typehints_format = "short"
autosummary_generate_overwrite = True
napoleon_use_ivar = True

sphinx_gallery_conf = {
    "examples_dirs": str(lesson_pages.prepare()),
    "gallery_dirs": "lessons",
    "filename_pattern": r"/\d\d_",
    "abort_on_example_error": True,
    "parallel": os.cpu_count() or 1,
    "capture_repr": (),
    "image_scrapers": ("lesson_pages.figures",),
    "reset_modules": (),
    "min_reported_time": float("inf"),
    "write_computation_times": False,
    "remove_config_comments": True,
}

html_theme = "pydata_sphinx_theme"
html_title = "scratchvae"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_copy_source = False
html_show_sourcelink = False
html_show_search_summary = False  # it would be fetched, which a page opened from the disk may not
html_math_renderer = "mathml"
html_sidebars = {"**": ["sidebar-nav-bs"]}
html_context = {"default_mode": "auto"}
html_theme_options = {
    "navbar_end": ["theme-switcher"],
    "navbar_persistent": ["search-button", "language"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "search_bar_text": "scratchvae",
    "secondary_sidebar_items": ["page-toc"],
    "navigation_depth": 2,
    "show_toc_level": 2,
}
