"""Search in Japanese, which has no spaces: index and query are cut into the same pairs of letters.

Sphinx's own splitter guesses words when it writes the index and leaves the query whole, so that
再パラメータ化 is found only where it happened to guess the same word. Here a run of Japanese is all
its pairs (変分, 分下, 下限), for the page and for the query; a page must hold all of them.
"""

from __future__ import annotations

import json
import re

from bilingual import JAPANESE
from sphinx.application import Sphinx
from sphinx.search import SearchLanguage

RUN = rf"[{JAPANESE}]+|[^\W{JAPANESE}]+"
RUN_JS = rf"[{JAPANESE}]+|(?:(?![{JAPANESE}])[\p{{L}}\p{{N}}_])+"


class PairSearch(SearchLanguage):
    """Words of other letters stay whole; their case is ignored."""

    lang = "ja"
    language_name = "Japanese"
    js_splitter_code = """
function splitQuery(query) {
  const run = new RegExp(RUN, "gu"), japanese = new RegExp(JAPANESE, "u");
  return [...query.matchAll(run)].flatMap(([text]) =>
    !japanese.test(text) || text.length < 3
      ? [text]
      : Array.from({ length: text.length - 1 }, (_, i) => text.slice(i, i + 2)),
  );
}
""".replace("RUN", json.dumps(RUN_JS)).replace("JAPANESE", json.dumps(f"[{JAPANESE}]"))

    def split(self, input: str) -> list[str]:
        """Return the words and pairs of a text."""
        found = []
        for text in re.findall(RUN, input):
            if re.match(f"[{JAPANESE}]", text) and len(text) > 2:
                found += [text[i : i + 2] for i in range(len(text) - 1)]
            else:
                found.append(text)
        return found

    def stem(self, word: str) -> str:
        """Ignore the case."""
        return word.lower()


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.add_search_language(PairSearch)
    return {"parallel_read_safe": True}
