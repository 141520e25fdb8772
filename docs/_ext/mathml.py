"""Formulas as MathML, which every browser of today draws itself: no script, no image, no request.

``_static/site.css`` brings a font with the shapes of mathematics. The converter is latex2mathml;
what it writes for browsers of the past, or spaces unlike TeX, is set right here.
"""

from __future__ import annotations

import re

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

logger = logging.getLogger(__name__)

FUNCTION = re.compile(r"(?P<before><[^<>]+>)<m[io]>(?P<name>log|ln|max|min|sin|cos)</m[io]>")
PRIME = re.compile(r"<msup>(<mi>\w</mi>)<mi>(&#x(?:0203[2-4]|02057);)</mi></msup>")
UNARY = re.compile(
    r"(<m(?:row|td)[^<>]*>|<mo[^<>]*>(?:&#x0003D;|&#x00028;|&#x0002C;|\[)</mo>)<mo>(?=&#x0(?:2212|002B|00B1);)"
)
BREAKS = {f"<mo>&#x0{code};" for code in ("003D", "2264", "2265", "003C", "003E", "2248")}
SIGNS = {
    "<mi>&#x000B1;</mi>": "<mo>&#x000B1;</mo>",
    "<mi>&#x0007E;</mi>": "<mo>&#x0223C;</mo>",
    "<mi>:</mi>": "<mo>:</mo>",
    "<mo>&#x022EF;</mo>": "<mi>&#x022EF;</mi>",
    "<munder><munder>": '<munder><mrow class="braced">',
    "<mo>&#x23DF;</mo></munder>": "</mrow>",
    '<mo stretchy="false">&#x0007C;</mo>': '<mo stretchy="false" lspace="0" rspace="0">|</mo>',
}


def to_mathml(tex: str, display: str) -> str:
    """Return the MathML of a formula; ValueError where a command of it is unknown."""
    if "\\\\" in tex:
        tex = rf"\begin{{align*}}{tex}\end{{align*}}"
    mathml = convert(tex, display=display)
    if "\\" in mathml or "<mi>&</mi>" in mathml:
        raise ValueError(f"cannot be converted: {tex}")
    for sign, replacement in SIGNS.items():
        mathml = mathml.replace(sign, replacement)
    mathml = UNARY.sub(r"\1<mo form='prefix'>", mathml)
    mathml = PRIME.sub(r"<mrow>\1<mo lspace='0' rspace='0'>\2</mo></mrow>", mathml)
    mathml = FUNCTION.sub(_function, mathml)
    return _breakable(mathml) if display == "inline" else mathml


def _breakable(mathml: str) -> str:
    """Cut a long formula of a line before its equals signs, where TeX would break the line too."""
    start, content, end = re.fullmatch(r"(<math[^>]*><mrow>)(.*)(</mrow></math>)", mathml).groups()
    pieces, depth, kept = [""], 0, 0
    for tag in re.findall(r"<[^<>]+>[^<>]*", content):
        if depth == 0 and tag in BREAKS and kept > 8:
            pieces.append("")
            kept = 0
        depth += 0 if "/>" in tag else -1 if tag.startswith("</") else 1
        kept += not tag.startswith("</")
        pieces[-1] += tag
    return "".join(start + piece + end for piece in pieces)


def _function(match: re.Match[str]) -> str:
    """Space a function's name as TeX does: apart from its neighbours, but not from a bracket."""
    thin = "0.1667em"
    left = thin if match["before"] in ("</mi>", "</mn>", "</mrow>", "</msub>", "</mstyle>") else "0"
    after = match.string[match.end() : match.end() + 40]
    bracket = re.match(r"</|<mo [^>]*>(?:&#x00028;|\(|\[|&#x0005B;)|<mo>\[", after)
    right = "0" if bracket else thin
    return f"{match['before']}<mo lspace='{left}' rspace='{right}'>{match['name']}</mo>"


def _convert(node: nodes.math | nodes.math_block, display: str) -> str:
    """Return the MathML; a formula that cannot be converted is a warning, and so an error."""
    try:
        return to_mathml(node.astext(), display)
    except Exception as error:  # the converter's own are many
        logger.warning("formula: %r", error, location=node, type="mathml")
        return ""


def visit_inline(translator: HTML5Translator, node: nodes.math) -> None:
    """Write a formula in a line."""
    translator.body.append(_convert(node, "inline"))
    raise nodes.SkipNode


def visit_block(translator: HTML5Translator, node: nodes.math_block) -> None:
    """Write a formula on lines of its own, which scrolls where the window is too narrow."""
    mathml = _convert(node, "block")
    translator.body.append(f'<div class="formula" tabindex="0">{mathml}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True}
