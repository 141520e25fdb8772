"""`scratchvae quiz`: multiple-choice questions, one at a time, each with its explanation."""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scratchvae import argument_types as types
from scratchvae.practice import language, questions
from scratchvae.practice.cards import TOPICS, Card
from scratchvae.practice.language import Messages
from scratchvae.practice.screen import Screen, StopAsking, print_json
from scratchvae.practice.state import Answer, State, add_option, streaks

MOST = 1000  # questions at a time


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `scratchvae quiz`."""
    parser.add_argument("topic", nargs="?", choices=TOPICS, help="one topic only (all)")
    add_number(parser, 10)
    parser.add_argument("--seed", type=types.seed, help=argparse.SUPPRESS)
    add_option(parser)


def add_number(parser: argparse.ArgumentParser, default: int | None) -> None:
    """Add -n N, how many questions."""
    parser.add_argument(
        "-n",
        type=types.whole(1, MOST),
        default=default,
        metavar="N",
        dest="number",
        help=f"how many questions ({'all' if default is None else default})",
    )


def run(arguments: argparse.Namespace) -> None:
    """Carry out `scratchvae quiz`."""
    speech = language.choose(arguments.lang)
    screen = Screen(speech, json=arguments.json)
    cards = [c for c in questions.load() if arguments.topic in (None, c.topic)]
    if not cards:
        raise ValueError(Messages("quiz", speech)("none"))
    rng = random.Random(arguments.seed)
    with State(arguments.state) as state:
        drawn = choose(cards, state.answers(), arguments.number, rng)
        results = hold(screen, state, "quiz", [Round(card, card.id) for card in drawn], rng)
    finish(screen, results, arguments.json)


def choose(
    cards: Sequence[Card], answers: Sequence[Answer], number: int, rng: random.Random
) -> list[Card]:
    """Draw `number` cards: the new and the missed before those that were right, most often last.

    Questions on one text stay together, in their order.
    """
    streak = streaks(answers, "question")
    drawn = sorted(rng.sample(cards, len(cards)), key=lambda card: streak[card.id])[:number]
    groups: dict[str, list[Card]] = {}
    for card in drawn:
        groups.setdefault(card.passage_id or card.id, []).append(card)
    place = {card.id: number for number, card in enumerate(cards)}
    return [card for g in groups.values() for card in sorted(g, key=lambda c: place[c.id])]


# ---------------------------------------------------------------------------- one after the other


@dataclass(frozen=True)
class Round:
    """One card to ask, and under what it is stored."""

    card: Card
    id: str
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """A round and its answer: the index of the option chosen."""

    round: Round
    choice: int

    @property
    def right(self) -> bool:
        """Whether the right option was chosen."""
        return self.round.card.options[self.choice].right


def hold(
    screen: Screen, state: State, kind: str, rounds: Sequence[Round], rng: random.Random
) -> list[Result]:
    """Ask one round after the other, store and explain each answer; until the learner stops."""
    results: list[Result] = []
    try:
        for number, this in enumerate(rounds, start=1):
            order = rng.sample(range(len(this.card.options)), len(this.card.options))
            choice = screen.choose(this.card, order, f"{number}/{len(rounds)}")
            result = Result(this, choice)
            state.record(kind, this.id, result.right, {**this.detail, "choice": choice})
            results.append(result)
            screen.outcome(this.card, order, choice)
            if screen.interactive and number < len(rounds):
                screen.ask(screen.messages("next"), lambda typed: typed)
    except (StopAsking, KeyboardInterrupt):
        screen.line(Messages("quiz", screen.language)("stopped"))
    return results


def finish(screen: Screen, results: Sequence[Result], json: bool) -> None:
    """Say how many were right, and which lessons to read again."""
    messages = Messages("quiz", screen.language)
    missed = [result.round.card for result in results if not result.right]
    stems = [stem for stem, _ in Counter(card.lesson for card in missed).most_common()]
    right = len(results) - len(missed)
    if results:
        screen.line(messages("score", right=right, answered=len(results)), "bold")
    else:
        screen.line(messages("nothing"))
    if missed:
        screen.line(messages("reread"))
        for stem in stems:
            screen.line(f"  {screen.lesson(stem)}")
        screen.line(messages("later"))
    if json:
        print_json(
            {
                "answered": len(results),
                "right": right,
                "lessons": stems,
                "questions": [
                    {"id": r.round.id, "topic": r.round.card.topic, "right": r.right}
                    for r in results
                ],
            }
        )
