"""What exercises and bug hunts share: numbered pieces, actions on them, and a screen."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from scratchvae.practice import content
from scratchvae.practice.language import Messages, choose

if TYPE_CHECKING:
    from scratchvae.practice.bughunt_files import Hunt
    from scratchvae.practice.exercises import Exercise
    from scratchvae.practice.screen import Screen

Piece = TypeVar("Piece", bound="Exercise | Hunt")

GO = "N"  # the action that a number stands for


class Actions(dict[str, argparse.ArgumentParser]):
    """The parsers by action; any number stands for GO."""

    def __contains__(self, word: object) -> bool:
        return super().__contains__(word) or is_number(word)

    def __missing__(self, word: str) -> argparse.ArgumentParser:
        return self[GO]


def is_number(word: object) -> bool:
    """Whether a word of the command line is the number of a piece."""
    return isinstance(word, str) and word.isdecimal() and len(word) < 10


def named(name: str, pieces: Sequence[Piece]) -> list[Piece]:
    """The pieces that `name`, a number or a part of a name, may stand for."""
    if is_number(name):
        return [piece for piece in pieces if piece.number == int(name)]
    stem = Path(name).name.removesuffix(".py")
    exact = [piece for piece in pieces if piece.stem == stem]
    return exact or [piece for piece in pieces if stem.lower() in piece.stem.lower()]


class Desk:
    """One run of a command: its options and its words."""

    def __init__(self, arguments: argparse.Namespace, messages: str) -> None:
        from scratchvae.practice.screen import Screen

        self.language = choose(arguments.lang)
        self.say = Messages(messages, self.language)
        self.screen: Screen = Screen(self.language, json=arguments.json)
        self.json: bool = arguments.json
        self.name: str | None = getattr(arguments, "name", None)
        self.gives_up: bool = getattr(arguments, "give_up", False)

    def pick(self, pieces: Sequence[Piece], current: Callable[[], Piece | None]) -> Piece:
        """The piece that NAME stands for, or the current one."""
        if self.name is None:
            if piece := current():
                return piece
            raise ValueError(self.say("name_one"))
        found = named(self.name, pieces)
        if len(found) == 1:
            return found[0]
        if found:
            names = self.say("and").join(piece.stem for piece in found)
            raise ValueError(self.say("ambiguous", name=self.name, names=names))
        raise ValueError(self.say("unknown", name=self.name))

    def act(self, action: str | None) -> None:
        """Carry out an action of the command line, `go_on` where there is none."""
        action = action or "go_on"
        if action == GO or is_number(action):
            self.name, action = action, "jump"
        getattr(self, action)()

    def titled(self, piece: Exercise | Hunt) -> str:
        """The number and the title."""
        return f"{piece.number}. {content.text(piece.title, self.language)}"

    def line(self, key: str, style: str = "", **values: Any) -> None:
        """Say one of the messages."""
        self.screen.line(self.say(key, **values), style)

    def wrapped(self, text: str, code: bool = False) -> Any:
        """A text as lines for a panel."""
        from scratchvae.practice.screen import styled, wrap, wrap_code

        return styled((wrap_code if code else wrap)(text, self.screen.width))

    def hang(self, lead: str, text: str, style: str = "", indent: int | None = None) -> None:
        """Show one line that begins with `lead`; what does not fit goes on, indented."""
        from scratchvae.practice.screen import WIDEST, styled, wrap

        indent = len(lead) if indent is None else indent
        width = max(20, min(WIDEST, self.screen.console.width)) - max(indent, len(lead))
        first, *rest = wrap(text, width)
        self.screen.lines(styled([lead + first, *(" " * indent + row for row in rest)], style))

    def report(self, values: dict[str, Any]) -> None:
        """Print the result as JSON, if that was asked for."""
        from scratchvae.practice.screen import print_json

        if self.json:
            print_json(values)
