"""`scratchvae drill`: short calculations, with fresh numbers each time."""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterable, Sequence
from itertools import groupby

from scratchvae import argument_types as types
from scratchvae.practice import drill_cards, language
from scratchvae.practice.cards import TOPICS
from scratchvae.practice.drill_cards import Drill
from scratchvae.practice.language import Messages
from scratchvae.practice.quiz import Round, add_number, finish, hold
from scratchvae.practice.screen import Screen, columns_of, print_json
from scratchvae.practice.state import Answer, State, add_option, streaks


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `scratchvae drill`."""
    parser.add_argument(
        "topic", nargs="?", help="one topic or one drill only (all); --list shows them"
    )
    add_number(parser, 5)
    parser.add_argument("--list", action="store_true", help="show the topics and their drills")
    parser.add_argument("--seed", type=types.seed, help=argparse.SUPPRESS)
    add_option(parser)


def run(arguments: argparse.Namespace) -> None:
    """Carry out `scratchvae drill`."""
    screen = Screen(language.choose(arguments.lang), json=arguments.json)
    drills = select(drill_cards.drills().values(), arguments.topic, screen.language)
    if arguments.list:
        _list(screen, drills, arguments.json)
        return
    rng = random.Random(arguments.seed)
    with State(arguments.state) as state:
        asked = choose([drill.id for drill in drills], state.answers(), arguments.number, rng)
        results = hold(screen, state, "drill", [_round(id, rng) for id in asked], rng)
    finish(screen, results, arguments.json)


def select(drills: Iterable[Drill], topic: str | None, lang: str = "en") -> list[Drill]:
    """The drills of a file (kl), of a topic of the quiz (vae), or the one of that id (kl-2d).

    Raises ValueError with the topics, in a language, for anything else.
    """
    drills = list(drills)
    chosen = [d for d in drills if topic is None or topic in (d.group, d.topic, d.id)]
    if not chosen:
        groups = dict.fromkeys(drill.group for drill in drills)
        topics = dict.fromkeys(t for t in TOPICS if any(d.topic == t for d in drills))
        names = ", ".join(groups | topics)
        raise ValueError(Messages("drill", lang)("unknown", topic=topic, topics=names))
    return chosen


def choose(
    ids: Sequence[str], answers: Iterable[Answer], number: int, rng: random.Random
) -> list[str]:
    """Draw `number` drills: the new and the missed before those that were right, most often last.

    None comes a second time before all have been asked.
    """
    streak = streaks(answers, "drill")
    asked: list[str] = []
    while len(asked) < number:
        asked += sorted(rng.sample(ids, len(ids)), key=lambda id: streak[id])
    return asked[:number]


def _round(id: str, rng: random.Random) -> Round:
    import numpy as np

    seed = rng.randrange(2**32)
    return Round(drill_cards.card(id, np.random.default_rng(seed)), id, {"seed": seed})


def _list(screen: Screen, drills: Sequence[Drill], json: bool) -> None:
    if json:
        keys = ("id", "group", "topic", "lesson")
        print_json(
            [{**{k: getattr(d, k) for k in keys}, "title": screen.text(d.title)} for d in drills]
        )
        return
    width = max(len(drill.id) for drill in drills)
    beside = width + 4 + max(columns_of(screen.text(d.title)) for d in drills) <= screen.width
    titles = {drill.group: screen.text(drill.group_title) for drill in drills}
    for group, members in groupby(drills, key=lambda drill: drill.group):
        screen.line(f"{group}: {titles[group]}", "bold")
        for drill in members:
            name = f"{drill.id:{width}}  " if beside else f"{drill.id}\n    "
            screen.line(f"  {name}{screen.text(drill.title)}")
        screen.line()
    screen.line(Messages("drill", screen.language)("usage"))
