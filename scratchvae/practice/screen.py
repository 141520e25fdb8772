"""What a learner sees and types: cards, prompts, and lines broken where Japanese allows it.

On a terminal cards stand in panels; in a pipe everything is plain lines, and the end of the input
is a way to stop like any other.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from scratchvae.practice import content, questions
from scratchvae.practice.cards import TOPICS, Card, Text
from scratchvae.practice.language import Messages
from scratchvae.streams import ALIKE

if TYPE_CHECKING:
    from rich.text import Text as RichText

T = TypeVar("T")

LETTERS = "abcdefgh"
_SAMPLES = {"en": "σ━", "ja": "あ漢━"}  # an encoding with these has all letters
WIDEST = 92  # longer lines are hard to read

_NOT_FIRST = "、。，．,.:;!?)]}！？）」』】〕・：；ーぁぃぅぇぉっゃゅょゎァィゥェォッャュョヮ々…％%"
_NOT_LAST = "（「『【〔([{"
_KEEP = re.compile(r"\s|[-*•] |\d+[.)] |[（(]\d+[）)]")  # such a line begins on a line of its own


class StopAsking(Exception):
    """The learner stops: q, Ctrl-C, Ctrl-D, or the end of the input."""


class Screen:
    """Where cards are shown and answers typed, in one language.

    With `json` everything for the eyes goes to stderr, so that stdout holds the JSON alone.
    """

    def __init__(self, language: str, json: bool = False) -> None:
        from rich.console import Console

        self.language = language
        self.stream: TextIO = sys.stderr if json else sys.stdout
        for stream, errors in ((self.stream, ALIKE), (sys.stdin, "replace")):
            if hasattr(stream, "reconfigure"):  # a letter that the terminal lacks is no disaster
                stream.reconfigure(errors=errors)
        self.console = Console(file=self.stream, highlight=False, soft_wrap=False)
        self.messages = Messages("screen", language)
        if not _encodes(self.stream, _SAMPLES[language]):
            encoding = self.stream.encoding
            print(f"scratchvae: {self.messages('encoding', encoding=encoding)}", file=sys.stderr)

    @property
    def interactive(self) -> bool:
        """Whether a person sits there: input and output are a terminal."""
        return _is_terminal(sys.stdin) and self.stream.isatty()

    @property
    def width(self) -> int:
        """Columns for text."""
        return max(10, min(WIDEST, self.console.width - 4))

    def text(self, both: Text) -> str:
        """A text in the learner's language."""
        return content.text(both, self.language)

    # ------------------------------------------------------------------------------- showing

    def line(self, text: str = "", style: str = "") -> None:
        """Show a paragraph, broken to the width."""
        self.lines(styled(wrap(text, max(10, min(WIDEST, self.console.width))), style))

    def lines(self, lines: Iterable[RichText]) -> None:
        """Show lines that are broken already."""
        for line in lines:
            self.console.print(line, no_wrap=True, overflow="ignore", crop=False)

    def panel(self, title: str, lines: Sequence[RichText]) -> None:
        """Show lines in a panel; in a pipe, as plain lines under the title."""
        from rich.panel import Panel
        from rich.text import Text as RichText

        if not self.interactive:
            self.lines([RichText(title), RichText(), *lines, RichText()])
            return
        head: RichText | None = RichText(title, style="bold")
        if columns_of(title) > self.width - 2:  # then it does not fit into the frame
            lines, head = [*styled(wrap(title, self.width), "bold"), RichText(), *lines], None
        body = RichText("\n", no_wrap=True, overflow="ignore").join(lines)
        width = min(self.console.width, self.width + 4)
        self.console.print(Panel(body, title=head, title_align="left", width=width))

    def card(self, card: Card, order: Sequence[int], heading: str = "") -> None:
        """Show a card with its options in this order: `order[i]` is the i-th one's index."""
        title = " · ".join(part for part in (heading, self.label(card)) if part)
        self.panel(title, card_lines(card, order, self.language, self.width))

    def label(self, card: Card) -> str:
        """The card's topic and kind, in words."""
        return f"{self.topic(card.topic)} · {self.messages('kind_' + card.kind)}"

    def topic(self, topic: str) -> str:
        """The topic in words."""
        return self.messages("topic_" + topic) if topic in TOPICS else topic

    def lesson(self, stem: str) -> str:
        """Which lesson to go back to, with its title and file."""
        title = self.text(questions.lessons()[stem])
        return self.messages("lesson", number=int(stem[:2]), title=title, stem=stem)

    def outcome(self, card: Card, order: Sequence[int], choice: int | None) -> None:
        """Say whether `choice` (an index into the card's options) was right, and why."""
        right = [option.right for option in card.options].index(True)
        named = {"right": letter(order, right)}
        if choice == right:
            self.line(self.messages("right"), "bold green")
        elif choice is None:
            self.line(self.messages("wrong_unanswered", **named), "bold red")
        else:
            self.line(self.messages("wrong", chosen=letter(order, choice), **named), "bold red")
            if mistake := card.options[choice].mistake:
                self.line(self.text(mistake))
        self.line(self.text(card.why))
        self.line(self.messages("reread", lesson=self.lesson(card.lesson)), "bold")
        self.line()

    # ------------------------------------------------------------------------------- reading

    def ask(self, prompt: str, accept: Callable[[str], T | None], complaint: str = "") -> T:
        """Ask until `accept` returns something else than None for what was typed.

        What was typed arrives in lower case, half-width letters, and without spaces around it.
        Raises StopAsking at q, Ctrl-C, Ctrl-D and the end of the input.
        """
        while True:
            try:
                self.stream.write(prompt)
                self.stream.flush()
                raw = sys.stdin.readline() if sys.stdin else ""
            except KeyboardInterrupt:
                raw = ""
            typed = unicodedata.normalize("NFKC", raw).strip().lower()
            if not raw.endswith("\n") or not _is_terminal(sys.stdin):
                self.stream.write(typed + "\n")  # nothing has ended the prompt's line yet
            gone = getattr(self.stream, "gone", False)  # then nobody sees what is asked
            if not raw or typed in ("q", "quit") or gone:
                raise StopAsking
            if (answer := accept(typed)) is not None:
                return answer
            if complaint:
                self.line(complaint)

    def choose(self, card: Card, order: Sequence[int], heading: str = "") -> int:
        """Show a card and ask for a choice (a-d or 1-4); return its index in the card's options."""
        self.card(card, order, heading)
        last = LETTERS[len(order) - 1]
        return self.ask(
            self.messages("ask"),
            lambda typed: chosen(typed, order),
            self.messages("ask_again", last=last),
        )


def chosen(typed: str, order: Sequence[int]) -> int | None:
    """The index of the option that `typed`, a letter or a number, stands for; or None."""
    for names in (LETTERS, "12345678"):
        if len(typed) == 1 and typed in names[: len(order)]:
            return order[names.index(typed)]
    return None


def letter(order: Sequence[int], index: int) -> str:
    """The letter under which option `index` was shown."""
    return LETTERS[list(order).index(index)]


def _encodes(stream: TextIO, sample: str) -> bool:
    try:
        sample.encode(stream.encoding or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _is_terminal(stream: TextIO | None) -> bool:  # Python has no stdin where it was closed
    return stream is not None and stream.isatty()


# --------------------------------------------------------------------------------------- lines


def styled(lines: Iterable[str], style: str = "") -> list[RichText]:
    """Lines as rich text, without markup."""
    from rich.text import Text as RichText

    return [RichText(line, style=style) for line in lines]


def card_lines(
    card: Card, order: Sequence[int], language: str, width: int, choice: int | None = None
) -> list[RichText]:
    """A card as lines of at most `width` columns; `choice` is the option marked as chosen."""
    lines: list[RichText] = []
    if card.passage is not None:
        lines += styled([f"[{Messages('screen', language)('passage')}]"], "bold")
        lines += styled([*wrap(content.text(card.passage, language), width), ""])
    lines += styled([*wrap(content.text(card.text, language), width), ""], "bold")
    if card.code:
        lines += styled([f"  {line}" for line in wrap_code(card.code, width - 2)])
        lines += styled([""])
    for place, index in enumerate(order):
        mark = ">" if index == choice else " "
        body = wrap_option(content.text(card.options[index].text, language), width - 5)
        first = f"{mark} {LETTERS[place]}. "
        texts = [(first if number == 0 else " " * 5) + line for number, line in enumerate(body)]
        lines += styled(texts, "reverse" if index == choice else "")
    return lines


def wrap(text: str, width: int) -> list[str]:
    """Break a text into lines of at most `width` columns.

    A single line break in the text counts as a space between words and as nothing between Japanese
    characters; an empty line parts paragraphs; a line that begins with a space or as an item of a
    list stays on its own. No Japanese line begins with 、。）or ends with （「.
    """
    lines: list[str] = []
    for paragraph in text.strip("\n").split("\n"):
        if lines and lines[-1] and paragraph.strip() and not _KEEP.match(paragraph):
            gap = "" if _is_wide(lines[-1][-1]) or _is_wide(paragraph[0]) else " "
            lines[-1] += gap + paragraph.rstrip()
        else:
            lines.append(paragraph.rstrip())
    return [piece for line in lines for piece in _broken(line, width)]


def wrap_option(text: str, width: int) -> list[str]:
    """Break an option into lines; every line break in it stays, as in code."""
    return [piece for line in text.split("\n") for piece in _broken(line.rstrip(), width)]


def wrap_code(code: str, width: int) -> list[str]:
    """Break code into lines; what does not fit goes on two columns further right."""
    return [
        piece
        for line in code.strip("\n").split("\n")
        for piece in _broken(line.rstrip(), width, hang=2)
    ]


def _broken(line: str, width: int, hang: int = 0) -> list[str]:
    """Break one line; what follows keeps its indentation, plus `hang`."""
    line = _harmless(line)
    indent = min(len(line) - len(line.lstrip(" ")) + hang, width // 2)
    pieces, current, columns = [], "", 0
    for unit in _units(line):
        size = columns_of(unit)
        if columns + size > width and current.strip():
            pieces.append(current.rstrip())
            current, columns = " " * indent, indent
            unit = unit.lstrip(" ")
            size = columns_of(unit)
        while columns + size > width and len(unit) > 1:  # longer than a line: anywhere
            head = _fitting(unit, max(2, width - columns))
            pieces.append(current + head)
            unit = unit[len(head) :]
            current, columns, size = " " * indent, indent, columns_of(unit)
        current += unit
        columns += size
    return [*pieces, current.rstrip()]


def _harmless(line: str) -> str:
    """A line without what a terminal would obey: a learner's file and its output are shown too."""
    if line.isprintable():
        return line
    return "".join(
        c if c.isprintable() or unicodedata.category(c) == "Zs" else ascii(c)[1:-1]
        for c in line.expandtabs(4)
    )


def _units(line: str) -> Iterable[str]:
    """The pieces between which a line may be broken: words with the space before, and kanji."""
    unit = ""
    for before, character in zip(" " + line, line, strict=False):
        breakable = (
            (character == " " and before != " ")
            or (_is_wide(character) and character not in _NOT_FIRST and before not in _NOT_LAST)
            or (
                _is_wide(before)
                and character != " "
                and character not in _NOT_FIRST
                and before not in _NOT_LAST
            )
        )
        if breakable and unit.strip():
            yield unit
            unit = ""
        unit += character
    yield unit


def _fitting(text: str, width: int) -> str:
    head = ""
    for character in text:
        if head and columns_of(head + character) > width:
            break
        head += character
    return head


def _is_wide(character: str) -> bool:
    return unicodedata.east_asian_width(character) in "WF"


def columns_of(text: str) -> int:
    """How many columns `text` takes."""
    from rich.cells import cell_len

    return cell_len(text)


def print_json(report: Any) -> None:
    """Print a report as JSON, escaped where stdout may lack a letter of it."""
    import json

    escaped = (sys.stdout.encoding or "").lower().replace("-", "") != "utf8"
    print(json.dumps(report, indent=2, ensure_ascii=escaped, allow_nan=False))
