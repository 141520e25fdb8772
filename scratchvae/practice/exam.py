"""`scratchvae exam`: 20 questions in 23 minutes, against a clock that one sees.

Every answer is stored when it is given, and the time that has passed at each key and every two
seconds; so an exam goes on after a crash, and time away from it does not count.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from scratchvae import argument_types as types
from scratchvae.files import locked
from scratchvae.practice import drill_cards, language, questions
from scratchvae.practice.cards import TOPICS, Card
from scratchvae.practice.keyboard import Keyboard
from scratchvae.practice.language import Messages
from scratchvae.practice.screen import (
    LETTERS,
    Screen,
    StopAsking,
    card_lines,
    columns_of,
    letter,
    print_json,
    styled,
    wrap,
)
from scratchvae.practice.state import Exam, State, add_option

if TYPE_CHECKING:
    from rich.text import Text

N_QUESTIONS = 20
N_DRILLS = 3  # of them, calculations with fresh numbers
MINUTES = 23.0  # 104 questions in 120 minutes is the real exam's pace

_HEARTBEAT = 2.0  # seconds between two notes of the time that has passed
_LONGEST_GAP = 5.0  # a longer gap between two looks at the clock: the machine slept


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `scratchvae exam`."""
    parser.add_argument("--minutes", type=_minutes, default=MINUTES, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=types.seed, help=argparse.SUPPRESS)
    add_option(parser)


def _minutes(text: str) -> float:
    minutes = types.real(text)
    if not 0 < minutes <= 1440:
        raise argparse.ArgumentTypeError(f"got {text!r}, want a number > 0 and <= 1440")
    return minutes


def run(arguments: argparse.Namespace) -> None:
    """Carry out `scratchvae exam`."""
    screen = Screen(language.choose(arguments.lang), json=arguments.json)
    messages = Messages("exam", screen.language)
    if not screen.interactive or screen.console.is_dumb_terminal:
        raise ValueError(messages("terminal"))
    bank = questions.load()
    with State(arguments.state) as state:
        try:
            exam, sheet = _begin(screen, messages, state, bank, arguments)
        except (StopAsking, KeyboardInterrupt):
            screen.line(messages("not_begun"))
            if arguments.json:
                print_json({"exam": None})
            return
        with _alone(state, exam, messages):
            exam = state.exam(exam.n)  # another terminal may have gone on with it meanwhile
            ending = Sitting(screen, messages, state, exam, sheet).run()
        if ending in ("submitted", "time"):
            state.finish_exam(exam.n, ending, _results(state.exam(exam.n), sheet))
        exam = state.exam(exam.n)
        report: dict[str, Any] = {"exam": exam.n, "ending": exam.ending, **_standing(exam)}
        if ending == "elsewhere":
            screen.line(messages("elsewhere"))
        if exam.ending in ("submitted", "time"):
            report = _report(exam, sheet)
            _show(screen, messages, exam, sheet, report)
        elif exam.ending is None:
            screen.line(messages("paused", **_standing(exam)))
        if arguments.json:
            print_json(report)


@contextmanager
def _alone(state: State, exam: Exam, messages: Messages) -> Iterator[None]:
    """Keep other terminals out of an exam; raises ValueError where it is sat in another."""
    with ExitStack() as held:
        try:
            held.enter_context(locked(f"{state.path}.exam-{exam.n}"))
        except BlockingIOError:
            raise ValueError(messages("open")) from None
        yield


# ------------------------------------------------------------------------------- the questions


@dataclass(frozen=True)
class Item:
    """One question of an exam: the card, the order of its options, where it comes from."""

    card: Card
    order: Sequence[int]
    source: Mapping[str, Any]


def _begin(
    screen: Screen,
    messages: Messages,
    state: State,
    bank: Sequence[Card],
    arguments: argparse.Namespace,
) -> tuple[Exam, list[Item]]:
    """The unfinished exam, if the learner goes on with it; or a new one."""
    exam = state.unfinished_exam()
    if exam is not None:
        sheet = _sheet(exam, bank)
        if sheet is None:
            screen.line(messages("changed"))
        else:
            date = datetime.fromtimestamp(exam.started).strftime("%Y-%m-%d %H:%M")
            screen.line(messages("unfinished", date=date, **_standing(exam)))
            answers = {"": True, "y": True, "n": False}
            if screen.ask(messages("resume"), answers.get, messages("resume_again")):
                return exam, sheet
        with _alone(state, exam, messages):  # it is dropped: not while somebody sits in it
            return _new(screen, messages, state, bank, arguments)
    return _new(screen, messages, state, bank, arguments)


def _new(
    screen: Screen,
    messages: Messages,
    state: State,
    bank: Sequence[Card],
    arguments: argparse.Namespace,
) -> tuple[Exam, list[Item]]:
    """A new exam, in place of one that is unfinished."""
    rng = random.Random(arguments.seed)
    past = Counter(str(question.get("id")) for exam in state.exams() for question in exam.questions)
    drawn = draw(bank, _drills(rng), past, rng)
    minutes = f"{arguments.minutes:g}"
    intro = messages("intro", number=len(drawn), minutes=minutes)
    screen.panel(messages("title"), styled(wrap(intro, screen.width)))
    screen.ask(messages("begin"), lambda typed: None if typed else "", messages("begin_again"))
    exam = state.begin_exam(screen.language, drawn, 60 * arguments.minutes)
    return exam, _sheet(exam, bank) or []


def _drills(rng: random.Random) -> list[tuple[Card, str, int]]:
    ids = sorted(drill_cards.ids())
    chosen = [(id, rng.randrange(2**32)) for id in rng.sample(ids, min(N_DRILLS, len(ids)))]
    return [(_drill_card(id, seed), id, seed) for id, seed in chosen]


def _drill_card(id: str, seed: int) -> Card:
    import numpy as np

    return drill_cards.card(id, np.random.default_rng(seed))


def draw(
    bank: Sequence[Card],
    drills: Sequence[tuple[Card, str, int]],
    past: Mapping[str, int],
    rng: random.Random,
) -> list[dict[str, Any]]:
    """Draw an exam: these drills, one linked set, the rest by the topics' shares of the bank.

    Questions of earlier exams (`past` counts them) come last. A linked set stays together.
    """
    number = min(N_QUESTIONS, len(bank) + len(drills))
    cards = sorted(rng.sample(bank, len(bank)), key=lambda card: past.get(card.id, 0))
    sets: dict[str, list[Card]] = {}
    for card in bank:
        if card.passage_id is not None:
            sets.setdefault(card.passage_id, []).append(card)
    linked = sorted(rng.sample(list(sets.values()), len(sets)), key=lambda s: past.get(s[0].id, 0))
    asked = {id for _, id, _ in drills}
    singles = [c for c in cards if c.passage_id is None and c.drill not in asked]
    chosen: list[tuple[Card, dict[str, Any]]] = [
        (card, {"source": "drill", "id": id, "seed": seed}) for card, id, seed in drills
    ]

    def take(card: Card) -> None:
        chosen.append((card, {"source": "question", "id": card.id}))

    for card in linked.pop(0) if linked else []:
        take(card)
    share = Counter(card.topic for card in bank)
    have = Counter(card.topic for card, _ in chosen)
    while len(chosen) < number and singles:
        open_topics = {card.topic for card in singles}
        topic = max(
            (topic for topic in TOPICS if topic in open_topics),
            key=lambda t: number * share[t] / len(bank) - have[t],
        )
        card = next(card for card in singles if card.topic == topic)
        singles.remove(card)
        have[topic] += 1
        take(card)
    for group in linked:  # a bank of little else
        if len(chosen) + len(group) <= number:
            for card in group:
                take(card)
    first_topic = {id: group[0].topic for id, group in sets.items()}
    chosen.sort(key=lambda pair: _place(pair[0], first_topic))
    return [
        {**source, "order": rng.sample(range(len(card.options)), len(card.options))}
        for card, source in chosen
    ]


def _place(card: Card, first_topic: Mapping[str, str]) -> tuple[int, str]:
    topic = first_topic.get(card.passage_id or "", card.topic)
    return TOPICS.index(topic) if topic in TOPICS else len(TOPICS), card.passage_id or ""


def _sheet(exam: Exam, bank: Sequence[Card]) -> list[Item] | None:
    """The exam's questions; None if one of them no longer exists, or its record is damaged."""
    by_id = {card.id: card for card in bank}
    items = []
    try:
        for source in exam.questions:
            id = source["id"]
            if source["source"] == "drill":
                card = _drill_card(id, source["seed"]) if id in drill_cards.ids() else None
            else:
                card = by_id.get(id)
            if card is None or sorted(source["order"]) != [*range(len(card.options))]:
                return None
            items.append(Item(card, source["order"], source))
    except (KeyError, TypeError, ValueError):
        return None
    return items


# --------------------------------------------------------------------------------- the sitting


@dataclass
class View:
    """What the screen shows: the questions, what is answered, and where the learner is."""

    sheet: Sequence[Item]
    choices: dict[int, int]
    flags: set[int]
    position: int = 0
    scroll: int = 0
    prompt: str = ""
    left: float = 0.0
    seconds: float = 1.0
    rows_of_body: int = 1
    lines_of_body: int = 1


@dataclass
class Clock:
    """Seconds of an exam that have passed. A gap in which the machine slept counts as short."""

    used: float
    last: float = field(default_factory=time.monotonic)

    def look(self) -> float:
        """How many seconds have passed."""
        now = time.monotonic()
        self.used += min(now - self.last, _LONGEST_GAP)
        self.last = now
        return self.used


class Sitting:
    """An exam from its start or its resumption to its end or a pause."""

    def __init__(
        self, screen: Screen, messages: Messages, state: State, exam: Exam, sheet: list[Item]
    ) -> None:
        self.screen, self.messages, self.state, self.exam = screen, messages, state, exam
        self.view = View(sheet, dict(exam.choices), set(exam.flags), exam.position)
        self.view.seconds = exam.seconds
        self.clock = Clock(exam.used)
        self._typed = ""  # digits of a question's number
        self._jumped = False  # to a number that could not go on: the Enter after it is its own
        self._asking = False  # whether to submit

    def run(self) -> str | None:
        """Let the learner answer; how it ended.

        "submitted", "time", "elsewhere" (by another program), or None for a pause.
        """
        noted = 0.0
        try:
            with Keyboard(self.screen.console, self.screen.stream) as keyboard:
                while True:
                    left = self.view.left = self.exam.seconds - self.clock.look()
                    if left <= 0:
                        return "time"
                    if self.clock.used - noted >= _HEARTBEAT:
                        noted = self.clock.used
                        if not self._note():
                            return "elsewhere"
                    keyboard.paint(frame(self.view, self.messages, self.screen, *keyboard.size))
                    key = keyboard.key(min(0.25, left - math.ceil(left) + 1))
                    if key is not None:
                        ending = self._press(key)
                        self._note()
                        if ending is not None:
                            return ending or None
        except KeyboardInterrupt:
            return None
        finally:
            self._note()

    def _note(self) -> bool:
        return self.state.exam_clock(self.exam.n, self.clock.used, self.view.position)

    def _press(self, key: str) -> str | None:
        """Do what the key says; an ending, "" for a pause, or None to go on."""
        view, number = self.view, len(self.view.sheet)
        if self._asking:
            self._asking, view.prompt = False, ""
            return "submitted" if key == "y" else None
        jumped, self._jumped = self._jumped, False
        if jumped and key == "enter":
            return None
        if key.isdecimal() or (self._typed and key in ("enter", "back")):
            self._dial(key)
            return None
        self._typed, view.prompt = "", ""
        order = view.sheet[view.position].order
        if len(key) == 1 and key in LETTERS[: len(order)]:
            view.choices[view.position] = order[LETTERS.index(key)]
            self._store()
        elif key == "f":
            view.flags ^= {view.position}
            self._store()
        elif key in ("n", "right", "enter"):
            self._go(view.position + 1)
        elif key in ("p", "left"):
            self._go(view.position - 1)
        elif key in ("home", "end"):
            self._go(0 if key == "home" else number - 1)
        elif key in ("up", "k", "down", "j", "pageup", "pagedown", "space"):
            self._scroll(key)
        elif key == "s":
            self._asking = True
            missing = number - len(view.choices)
            view.prompt = self.messages(
                "submit_unanswered" if missing else "submit", number=missing
            )
        elif key in ("q", "quit"):
            return ""
        return None

    def _dial(self, key: str) -> None:
        number = len(self.view.sheet)
        if key == "back":
            self._typed = self._typed[:-1]
        elif key != "enter":
            self._typed += key
        wanted = int(self._typed or 0)
        if not 1 <= wanted <= number:
            self._typed = ""
        elif key == "enter" or wanted * 10 > number:
            self._go(wanted - 1)
            self._typed, self._jumped = "", key != "enter"
        self.view.prompt = self.messages("goto", typed=self._typed) if self._typed else ""

    def _go(self, position: int) -> None:
        self.view.position = min(max(position, 0), len(self.view.sheet) - 1)
        self.view.scroll = 0

    def _scroll(self, key: str) -> None:
        view = self.view
        last = max(0, view.lines_of_body - view.rows_of_body)
        page = max(1, view.rows_of_body - 1)
        if key == "space" and view.scroll >= last:
            view.scroll = 0
            return
        step = {"up": -1, "k": -1, "down": 1, "j": 1, "pageup": -page}.get(key, page)
        view.scroll = min(max(view.scroll + step, 0), last)

    def _store(self) -> None:
        place = self.view.position
        self.state.exam_answer(
            self.exam.n, place, self.view.choices.get(place), place in self.view.flags
        )


def frame(view: View, messages: Messages, screen: Screen, columns: int, rows: int) -> list[Text]:
    """The whole screen as lines: the clock, the question, which are answered, the keys."""
    from rich.text import Text

    item = view.sheet[view.position]
    time_left = messages("left", time=clock(view.left))
    head = f"{view.position + 1}/{len(view.sheet)}"
    if view.position in view.flags:
        head += " " + messages("flagged")
    label = f" · {screen.label(item.card)}"
    if columns_of(head + label + time_left) < columns:
        head += label
    gap = max(1, columns - columns_of(head) - columns_of(time_left))
    urgent = "bold red" if view.left < 60 else "bold"
    top = [Text.assemble((head, "bold"), " " * gap, (time_left, urgent))]
    bottom = (
        [Text(view.prompt, "bold reverse")] if view.prompt else [_keys(view, messages, columns)]
    )
    if rows >= 14:
        filled = round(columns * max(0.0, view.left) / view.seconds)
        top.append(Text("━" * filled + "─" * (columns - filled), "red" if view.left < 60 else ""))
        bottom = [*_overview(view, columns), *bottom]
    body = card_lines(
        item.card,
        item.order,
        screen.language,
        max(10, min(columns - 2, screen.width)),
        view.choices.get(view.position),
    )
    view.lines_of_body = len(body)
    view.rows_of_body = max(1, rows - len(top) - len(bottom) - 1)
    view.scroll = min(view.scroll, max(0, len(body) - view.rows_of_body))
    hint = ""
    if len(body) > view.rows_of_body:
        end = view.scroll + view.rows_of_body >= len(body)
        hint = messages("more_above" if end else "more")
    shown = body[view.scroll : view.scroll + view.rows_of_body]
    shown += [Text()] * (view.rows_of_body - len(shown))
    rule = Text(f" {hint} " if hint else "", "bold")
    rule.append("─" * max(0, columns - rule.cell_len), "not bold")
    return [*top, *(Text(" ") + line for line in shown), rule, *bottom][:rows]


def _keys(view: View, messages: Messages, columns: int) -> Text:
    from rich.text import Text

    keys = messages("keys", number=len(view.sheet))
    return Text(keys if columns_of(keys) <= columns else messages("keys_short"))


def _overview(view: View, columns: int) -> list[Text]:
    """For each question its number, the letter chosen or a point, and a star for a flag."""
    from rich.text import Text

    size = 5 if columns >= 50 else 4
    a_row = next((n for n in (20, 10, 5) if n * size <= columns), max(1, columns // size))
    lines = []
    for start in range(0, len(view.sheet), a_row):
        line = Text()
        for place in range(start, min(start + a_row, len(view.sheet))):
            choice = view.choices.get(place)
            chosen = "." if choice is None else letter(view.sheet[place].order, choice)
            cell = f"{place + 1:>2}{chosen}{'*' if place in view.flags else ' '}"
            line.append(cell, "reverse" if place == view.position else "")
            line.append(" " * (size - 4))
        lines.append(line)
    return lines


def clock(seconds: float) -> str:
    """A number of seconds, rounded up, as minutes and seconds."""
    whole = max(0, math.ceil(seconds))
    return f"{whole // 60}:{whole % 60:02}"


# ----------------------------------------------------------------------------------- afterwards


def _standing(exam: Exam) -> dict[str, Any]:
    left = clock(exam.seconds - exam.used)
    return {"answered": len(exam.choices), "number": len(exam.questions), "left": left}


def _results(exam: Exam, sheet: Sequence[Item]) -> list[tuple[str, bool, dict[str, Any]]]:
    results = []
    for place, item in enumerate(sheet):
        choice = exam.choices.get(place)
        right = choice is not None and item.card.options[choice].right
        detail = {"exam": exam.n, "choice": choice, **item.source}
        results.append((detail.pop("id"), right, detail))
    return results


def _report(exam: Exam, sheet: Sequence[Item]) -> dict[str, Any]:
    """What came out, as JSON holds it."""
    topics: dict[str, dict[str, int]] = {}
    missed = []
    for place, (item, (id, right, _)) in enumerate(zip(sheet, _results(exam, sheet), strict=True)):
        topic = topics.setdefault(item.card.topic, {"right": 0, "number": 0})
        topic["right"] += right
        topic["number"] += 1
        if not right:
            missed.append({"question": place + 1, "id": id, "lesson": item.card.lesson})
    lessons = Counter(str(one["lesson"]) for one in missed)
    return {
        "exam": exam.n,
        "ending": exam.ending,
        "number": len(sheet),
        "answered": len(exam.choices),
        "right": len(sheet) - len(missed),
        "seconds": exam.seconds,
        "used": round(min(exam.used, exam.seconds), 1),
        "topics": {topic: topics[topic] for topic in TOPICS if topic in topics},
        "lessons": [stem for stem, _ in lessons.most_common()],
        "missed": missed,
    }


def _show(
    screen: Screen, messages: Messages, exam: Exam, sheet: Sequence[Item], report: dict[str, Any]
) -> None:
    """Show the score, the topics, what to read again, and each missed question explained."""
    passage = None  # shown once, above the first of its questions
    for one in report["missed"]:
        place = one["question"] - 1
        item = sheet[place]
        known, passage = passage == item.card.passage_id, item.card.passage_id
        card = replace(item.card, passage=None) if known else item.card
        screen.card(card, item.order, messages("missed", number=one["question"]))
        screen.outcome(item.card, item.order, exam.choices.get(place))
    if exam.ending == "time":
        screen.line(messages("time"), "bold")
    right, number = report["right"], report["number"]
    score = messages(
        "score",
        right=right,
        number=number,
        percent=round(100 * right / number),
        used=clock(report["used"]),
        allowed=clock(exam.seconds),
    )
    rows = [
        (
            screen.topic(topic),
            f"{counts['right']}/{counts['number']}",
            counts["right"],
            counts["number"],
        )
        for topic, counts in report["topics"].items()
    ]
    screen.panel(messages("by_topic"), bars(rows, screen.width))
    screen.line(score, "bold")
    if not report["missed"]:
        screen.line(messages("none_missed"))
        return
    screen.line(messages("reread"))
    for stem in report["lessons"]:
        screen.line(f"  {screen.lesson(stem)}")
    screen.line(messages("later"))


def bars(rows: Sequence[tuple[str, str, int, int]], width: int) -> list[Text]:
    """A line for each (name, numbers, part, whole): the name, the numbers, and a bar."""
    from rich.text import Text

    numbers = max(len(row[1]) for row in rows)
    names = min(max(columns_of(row[0]) for row in rows), max(4, width - numbers - 2))
    longest = min(30, width - names - numbers - 3)
    lines = []
    for name, shown, part, whole in rows:
        line = Text(name)
        line.truncate(names, overflow="ellipsis", pad=True)
        line.append(f"  {shown:>{numbers}}")
        if longest >= 5:
            filled = round(longest * part / whole) if whole else 0
            line.append(" " + "━" * filled, "bold")
            line.append("─" * (longest - filled))
        lines.append(line)
    return lines
