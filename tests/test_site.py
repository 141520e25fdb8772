"""The site's sources and its own small extensions, without building it."""

from __future__ import annotations

import json
import pkgutil
import re
import sys
import tomllib
from pathlib import Path

import pytest

import scratchvae

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
LESSONS = sorted((ROOT / "lessons").glob("[0-9][0-9]_*.py"))
sys.path.append(str(DOCS / "_ext"))

import bilingual  # noqa: E402
import links  # noqa: E402

KANA = re.compile(f"[{bilingual.JAPANESE}]")


# ------------------------------------------------------------------ one source, two languages

TEXT = """\
1. Noise / ノイズ
=================
Clean the input, with x / y.

.. math:: a / b
   = c

    code = 1  # 共通


    more = 2

入力のノイズを取り除きます。``x`` は入力、
yは出力、:math:`z` は
潜在変数です。

- An item that is 1 / 2.
  / 項目は
  1/2です。
- Both. / 両方。

| Only English.
| 日本語だけ。
"""


def test_each_language_keeps_its_own_and_what_is_shared():
    assert bilingual.pick(TEXT, "en") == (
        "1. Noise\n=================\n\nClean the input, with x / y.\n\n.. math:: a / b\n   = c\n\n"
        "    code = 1  # 共通\n\n\n    more = 2\n\n"
        "- An item that is 1 / 2.\n- Both.\n\n| Only English.\n"
    )
    assert bilingual.pick(TEXT, "ja") == (
        "1. ノイズ\n=================\n\n.. math:: a / b\n   = c\n\n    code = 1  # 共通\n\n\n"
        "    more = 2\n\n"
        "入力のノイズを取り除きます。``x`` は入力、yは出力、:math:`z` は潜在変数です。\n\n"
        "- 項目は1/2です。\n- 両方。\n\n| 日本語だけ。\n"
    )


def prose(path: Path) -> list[str]:
    """Return the text cells of a lesson, or the whole of a page written for the site."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".rst":
        return [text]
    cells = re.findall(r"^# %%.*\n((?:#.*\n)+)", text, re.MULTILINE)
    return [
        text.split('"""')[1],
        *(re.sub(r"^# ?", "", cell, flags=re.MULTILINE) for cell in cells),
    ]


PAGES = [*LESSONS, *sorted(DOCS.glob("*.rst")), DOCS / "_ext" / "lessons.rst"]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_every_text_is_there_in_both_languages_and_nothing_is_lost(path):
    for cell in prose(path):
        english, japanese = (bilingual.pick(cell, language) for language in ("en", "ja"))
        tables = re.compile(r"^\.\. list-table::.*\n\n(?:   .*\n)+", re.MULTILINE)
        assert not KANA.search(tables.sub("", english)), english
        for paragraph in tables.sub("", japanese).split("\n\n"):
            shared = paragraph.startswith(("..", " ")) or set(paragraph.strip()) <= set("=-~")
            assert shared or not paragraph.strip() or KANA.search(paragraph), paragraph
        assert re.search(r"[A-Za-z]", english)
        assert KANA.search(japanese), f"no Japanese beside {english[:80]!r}"
        words = re.findall(rf"[^\W{bilingual.JAPANESE}]+", cell)
        assert set(words) <= set(re.findall(rf"[^\W{bilingual.JAPANESE}]+", english + japanese))


# ------------------------------------------------------------------------------- the glossary


def terms() -> dict[str, dict]:
    groups = tomllib.loads((DOCS / "glossary.toml").read_text(encoding="utf-8"))
    return {key: term for group in groups.values() for key, term in group["terms"].items()}


def names(cell: str) -> list[str]:
    """Return the Japanese terms of a table's cell: 活性化関数：ReLU、tanh becomes three."""
    return re.split("[、：]", re.sub("（.*?）", "", cell))


def test_the_glossary_holds_every_term_of_the_lessons_tables():
    known = {name for term in terms().values() for name in names(term["ja"])}
    also = {"エビデンス下界"}  # named in the entry of 変分下限
    for lesson in LESSONS:
        header = lesson.read_text(encoding="utf-8").split('"""')[1]
        for cell in re.findall(r"^   \* - (.+)$", header, re.MULTILINE):
            for name in names(cell):
                assert name in known | also, f"{lesson.name}: {name} is not in the glossary"


def test_each_term_is_whole_and_its_lesson_speaks_of_it():
    assert len(terms()) >= 60
    for key, term in terms().items():
        assert set(term) == {"en", "ja", "lesson", "text"}, key
        text = (ROOT / "lessons" / f"{term['lesson']}.py").read_text(encoding="utf-8")
        assert term["text"]["en"].endswith("."), key
        assert term["text"]["ja"].endswith("。"), key
        assert not KANA.search(term["text"]["en"].replace("復元誤差", "")), key
        assert KANA.search(term["text"]["ja"]), key
        flat = re.sub(r"\n# *|\s+", "", text)
        assert any(name in flat for name in names(term["ja"])), f"{key}: {term['lesson']}"


def test_every_module_is_in_the_api_reference():
    listed = set(
        re.findall(
            r"^   (scratchvae\.[\w.]+)$",
            (DOCS / "api.rst").read_text(encoding="utf-8"),
            re.MULTILINE,
        )
    )
    private = {"scratchvae.practice", "scratchvae.practice.child", "scratchvae.web"}
    modules = {m.name for m in pkgutil.walk_packages(scratchvae.__path__, "scratchvae.")}
    assert listed == {name for name in modules if "__" not in name} - private


# ---------------------------------------------------------------------------------- the links


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ('<a href="b.html#there">x</a><img src="data:image/png;base64,AA==">', None),
        ('<a href="https://doi.org/10.1000/1">x</a>', None),
        ('<a href="#here">x</a><p id="here">', None),
        ('<a href="c.html">x</a>', "no such file"),
        ('<a href="b.html#nowhere">x</a>', "no such place"),
        ('<a href="#nowhere">x</a>', "no such place"),
        ('<img src="picture.png">', "no such file"),
        ('<script src="https://cdn.example.org/x.js"></script>', "another host"),
        ('<link rel="stylesheet" href="//fonts.example.org/x.css">', "another host"),
        ('<img srcset="b.html 1x, gone.png 2x">', "no such file"),
    ],
)
def test_a_broken_link_is_found(tmp_path, body, problem):
    (tmp_path / "a.html").write_text(f"<!doctype html><body>{body}</body>", encoding="utf-8")
    (tmp_path / "b.html").write_text('<!doctype html><h1 id="there">b</h1>', encoding="utf-8")
    found = links.problems(tmp_path)
    if problem is None:
        assert not found
    else:
        assert len(found) == 1
        assert problem in found[0]
        assert found[0].startswith("a.html: ")


def test_a_style_that_loads_from_elsewhere_is_found(tmp_path):
    (tmp_path / "a.css").write_text(
        '@font-face { src: url("https://fonts.example.org/a.woff2"); }', encoding="utf-8"
    )
    assert "another host" in links.problems(tmp_path)[0]


# ------------------------------------------------------- what Sphinx is taught (extra `docs`)


@pytest.fixture
def docs():
    pytest.importorskip("sphinx_gallery", reason="Sphinx is missing: pip install -e '.[docs]'")
    pytest.importorskip("latex2mathml", reason="latex2mathml is missing: pip install -e '.[docs]'")


@pytest.mark.usefixtures("docs")
def test_search_cuts_pages_and_queries_into_the_same_pairs():
    from japanese_search import PairSearch

    search = PairSearch({})
    assert search.split("変分下限（ELBO）のlog p") == [
        "変分",
        "分下",
        "下限",
        "ELBO",
        "の",
        "log",
        "p",
    ]
    assert search.split("再パラメータ化") == ["再パ", "パラ", "ラメ", "メー", "ータ", "タ化"]
    assert search.stem("ELBO") == "elbo"


@pytest.mark.usefixtures("docs")
def test_docstrings_are_read_as_plain_text():
    from plain_docstrings import plain

    lines = ["a* |b| c_ and `f(x_)` or ``g``.``h``:", "", "    dW = x^T dy", "", "- one", "  more"]
    assert plain(lines) == [
        r"a\* \|b\| c\_ and ``f(x_)`` or ``g``\ .\ ``h``\ :",
        *("", "::", "", "    dW = x^T dy", "", "- one", "  more"),
    ]


@pytest.mark.usefixtures("docs")
def test_every_formula_of_the_lessons_is_converted():
    from mathml import to_mathml

    number = 0
    for lesson in LESSONS:
        for text in prose(lesson):
            blocks = re.findall(r"^\.\. math::(.*\n(?:[ ]+.*\n|\n(?= ))*)", text, re.MULTILINE)
            for tex in [*re.findall(r":math:`(.+?)`", text, re.DOTALL), *blocks]:
                assert to_mathml(tex, "block").startswith("<math")
                number += 1
    assert number > 300


@pytest.mark.usefixtures("docs")
def test_a_formula_is_spaced_as_in_tex_and_an_unknown_command_is_an_error():
    from mathml import to_mathml

    assert "lspace='0.1667em' rspace='0'>log</mo>" in to_mathml(r"x \log (y)", "inline")
    assert "lspace='0' rspace='0.1667em'>log</mo>" in to_mathml(r"= \log y", "inline")
    assert "<mo>&#x0223C;</mo>" in to_mathml(r"z \sim q", "inline")
    assert "<mo form='prefix'>&#x02212;" in to_mathml("a = -b", "inline")
    assert to_mathml("a &= b \\\\ c &= d", "block").count("<mtr>") == 2
    for tex in (r"\nosuchcommand x", "a & b"):
        with pytest.raises(ValueError, match="cannot be converted"):
            to_mathml(tex, "inline")


@pytest.mark.usefixtures("docs")
@pytest.mark.parametrize("language", bilingual.LANGUAGES)
@pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)
def test_downloads_hold_one_language_and_the_code_of_the_lesson(lesson, language):
    import lesson_pages
    from sphinx_gallery.py_source_parser import split_code_and_text_blocks

    _, blocks = split_code_and_text_blocks(lesson)
    code = [block.content.strip() for block in blocks if block.type == "code"]
    text = lesson_pages.script(blocks, language)
    compile(text, lesson.name, "exec")
    assert all(cell in text for cell in code)
    cells = [lesson_pages._cell(block, language) for block in blocks]
    assert "試験のポイント" in text if language == "ja" else "Points for the exam" in text
    assert "list-table" not in cells[0].content
    assert cells[0].content.count("\n| ") >= 6
    for cell, original in zip((c for c in cells if c.type == "code"), code, strict=True):
        assert cell.content.strip().startswith(original)
        compile(cell.content, lesson.name, "exec")
        assert cell.content.count("display(Image(") == ("\nplots.save(" in "\n" + original)


BUILT = DOCS / "notebooks" / "en" / "02_dense_layer.ipynb"


@pytest.mark.skipif(not BUILT.exists(), reason="the site is not built: python docs/build.py")
def test_a_notebook_runs_as_it_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ipython = type(sys)("IPython.display")
    shown = []
    ipython.Image, ipython.display = Path, shown.append
    package = type(sys)("IPython")
    package.version_info = (9, 0)  # Matplotlib asks for it
    monkeypatch.setitem(sys.modules, "IPython", package)
    monkeypatch.setitem(sys.modules, "IPython.display", ipython)
    names: dict = {}
    for cell in json.loads(BUILT.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    assert [path.name for path in shown] == ["02_dense_layer.png"]
    assert shown[0].is_file()
