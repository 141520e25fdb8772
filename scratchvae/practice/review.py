"""`scratchvae review`: what was missed comes back after 1, 3, 7, 16 and 35 days.

A right answer on or after the day due moves a question one step up, a miss puts it back to the
start, and a right answer at the last step is the end of it. Days are those of the calendar, so
that what was missed in the evening is due the next morning.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterable, Mapping
from datetime import date, datetime, timedelta

from scratchvae import argument_types as types
from scratchvae.practice import drill_cards, language, questions
from scratchvae.practice.cards import Card
from scratchvae.practice.language import Messages
from scratchvae.practice.quiz import Round, add_number, finish, hold
from scratchvae.practice.screen import Screen
from scratchvae.practice.state import Answer, State, add_option, now

DAYS = (1, 3, 7, 16, 35)

Item = tuple[str, str]  # ("question" | "drill", id)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `scratchvae review`."""
    add_number(parser, None)
    parser.add_argument("--seed", type=types.seed, help=argparse.SUPPRESS)
    add_option(parser)


def run(arguments: argparse.Namespace) -> None:
    """Carry out `scratchvae review`."""
    screen = Screen(language.choose(arguments.lang), json=arguments.json)
    messages = Messages("review", screen.language)
    rng = random.Random(arguments.seed)
    bank = {card.id: card for card in questions.load()}
    with State(arguments.state) as state:
        dates = known(schedule(state.answers(), today()), bank)
        items = due(dates, today())[: arguments.number]
        if items:
            screen.line(messages("due", number=len(items)), "bold")
        results = hold(screen, state, "review", [_round(item, bank, rng) for item in items], rng)
        dates = known(schedule(state.answers(), today()), bank)
    if items or arguments.json:
        finish(screen, results, arguments.json)
    if items and due(dates, today()):
        return  # stopped before the end
    if not dates:
        screen.line(messages("nothing_missed"))
    else:
        first = min(dates.values())
        number = sum(day == first for day in dates.values())
        screen.line(messages("next" if items else "not_yet", number=number, date=first))


def today() -> date:
    """The day it is, on the learner's calendar."""
    return datetime.fromtimestamp(now()).date()


def schedule(answers: Iterable[Answer], today: date) -> dict[Item, date]:
    """The day on which each question or drill that was missed comes back.

    An answer from the future, given before the clock was set back, counts as given today.
    """
    step: dict[Item, int] = {}
    dates: dict[Item, date] = {}
    for answer in answers:
        item = answer.item
        if item[0] == "bughunt":
            continue
        day = min(datetime.fromtimestamp(answer.time).date(), today)
        if not answer.right:
            step[item] = 0
        elif item not in dates or day < dates[item]:
            continue  # never missed, or not due yet: recalling it today says little
        else:
            step[item] += 1
        if step[item] == len(DAYS):
            del step[item], dates[item]
        else:
            dates[item] = day + timedelta(days=DAYS[step[item]])
    return dates


def known(dates: Mapping[Item, date], bank: Mapping[str, Card]) -> dict[Item, date]:
    """Without the questions and drills that no longer exist."""
    here = {("question", id) for id in bank} | {("drill", id) for id in drill_cards.ids()}
    return {item: day for item, day in dates.items() if item in here}


def due(dates: Mapping[Item, date], today: date) -> list[Item]:
    """What is due, the longest overdue first."""
    return sorted((item for item in dates if dates[item] <= today), key=lambda item: dates[item])


def _round(item: Item, bank: Mapping[str, Card], rng: random.Random) -> Round:
    """The card to ask: a drill, or a question that names one, with new numbers."""
    import numpy as np

    source, id = item
    name = id if source == "drill" else bank[id].drill
    if name is None:
        return Round(bank[id], id)
    seed = rng.randrange(2**32)
    detail = {"source": source, "drill": name, "seed": seed}
    return Round(drill_cards.card(name, np.random.default_rng(seed)), id, detail)
