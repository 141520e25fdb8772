"""`scratchvae progress`: one screen over exercises, bug hunts, drills, quiz, exams and reviews."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from scratchvae.practice import content, drill_cards, exercise, language, questions, review
from scratchvae.practice.cards import TOPICS, Card
from scratchvae.practice.exam import bars, clock
from scratchvae.practice.language import Messages
from scratchvae.practice.screen import Screen, print_json, styled, wrap
from scratchvae.practice.state import Answer, State, add_option

_SHOWN = 5  # of the exams, the latest
_GOOD = 0.8  # a topic with this rate of right answers needs no more lessons


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `scratchvae progress`."""
    add_option(parser)


def run(arguments: argparse.Namespace) -> None:
    """Carry out `scratchvae progress`."""
    screen = Screen(language.choose(arguments.lang), json=arguments.json)
    bank = questions.load()
    with State(arguments.state) as state:
        report = survey(state, bank, exercise.folder() / "progress.json")
    if arguments.json:
        print_json(report)
    else:
        _show(screen, report)


def survey(state: State, bank: Sequence[Card], exercises: Path) -> dict[str, Any]:
    """How far the learner has come, as JSON holds it."""
    answers = state.answers()
    last = {answer.item: answer.right for answer in answers}
    cards = {card.id: card for card in bank}
    topics = {
        topic: {
            "questions": sum(card.topic == topic for card in bank),
            "seen": sum(("question", c.id) in last for c in bank if c.topic == topic),
            "right": sum(last.get(("question", c.id), False) for c in bank if c.topic == topic),
        }
        for topic in TOPICS
    }
    today = review.today()
    dates = review.known(review.schedule(answers, today), cards)
    n_due = len(review.due(dates, today))
    passed, problem = _exercises(exercises)
    unfinished = state.unfinished_exam()
    report: dict[str, Any] = {
        "exercises": {"passed": passed, "number": len(content.files("exercises"))},
        "bughunts": _kept(
            {answer.id for answer in answers if answer.kind == "bughunt" and answer.right},
            [path.stem for path in content.files("bughunts")],
        ),
        "drills": _kept(
            {id for (source, id), right in last.items() if source == "drill" and right},
            drill_cards.ids(),
        ),
        "quiz": topics,
        "exams": _exams(state, answers),
        "unfinished": unfinished
        and {
            "answered": len(unfinished.choices),
            "number": len(unfinished.questions),
            "left": round(max(0.0, unfinished.seconds - unfinished.used), 1),
        },
        "review": {
            "due": n_due,
            "later": len(dates) - n_due,
            "next": str(min(dates.values())) if dates else None,
        },
    }
    if problem:
        report["exercises"]["problem"] = problem
    return {**report, "next": _next(report, bank, last)}


def _kept(done: set[str], known: Sequence[str]) -> dict[str, int]:
    return {"right": len(done & set(known)), "number": len(known)}


def _exercises(path: Path) -> tuple[int, str | None]:
    """How many exercises the file says are passed, and the file if it cannot be read."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["exercises"]
        stems = [file.stem for file in content.files("exercises")]
        return sum(entries.get(stem, {}).get("state") == "passed" for stem in stems), None
    except FileNotFoundError:
        return 0, None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return 0, str(path)


def _exams(state: State, answers: Sequence[Answer]) -> list[dict[str, Any]]:
    right = Counter(answer.detail.get("exam") for answer in answers if answer.right)
    return [
        {
            "exam": exam.n,
            "date": str(datetime.fromtimestamp(exam.started).date()),
            "right": right[exam.n],
            "number": len(exam.questions),
            "ending": exam.ending,
        }
        for exam in state.exams()
        if exam.ending in ("submitted", "time")
    ]


def _next(
    report: Mapping[str, Any], bank: Sequence[Card], last: Mapping[tuple[str, str], bool]
) -> dict[str, Any]:
    """What to do next: first what is begun or due, then what is weak, then what is new."""
    if report["unfinished"]:
        return {"what": "exam_unfinished"}
    if report["review"]["due"]:
        return {"what": "review", "number": report["review"]["due"]}
    quiz = {topic: counts for topic, counts in report["quiz"].items() if counts["questions"]}
    seen = [topic for topic in quiz if quiz[topic]["seen"]]
    rates = {topic: quiz[topic]["right"] / quiz[topic]["seen"] for topic in seen}
    weakest = min(rates, key=lambda topic: rates[topic], default=None)
    if weakest is not None and rates[weakest] < _GOOD:
        missed = Counter(
            card.lesson
            for card in bank
            if card.topic == weakest and last.get(("question", card.id)) is False
        )
        return {"what": "weak", "topic": weakest, "lesson": missed.most_common(1)[0][0]}
    new = next((topic for topic in quiz if not quiz[topic]["seen"]), None)
    if new is not None:
        return {"what": "new", "topic": new}
    if report["exercises"]["passed"] < report["exercises"]["number"]:
        return {"what": "exercise"}
    return {"what": "exam"}


def _show(screen: Screen, report: Mapping[str, Any]) -> None:
    messages = Messages("progress", screen.language)
    seen = sum(counts["seen"] for counts in report["quiz"].values())
    number = sum(counts["questions"] for counts in report["quiz"].values())
    exercises, hunts, drills = (report[key] for key in ("exercises", "bughunts", "drills"))
    parts = [
        ("exercises", exercises["passed"], exercises["number"]),
        ("bughunts", hunts["right"], hunts["number"]),
        ("drills", drills["right"], drills["number"]),
        ("questions", seen, number),
    ]
    lines = bars(
        [(messages(k), f"{part}/{all}", part, all) for k, part, all in parts], screen.width
    )
    if "problem" in exercises:
        lines += styled(wrap(messages("broken", path=exercises["problem"]), screen.width))
    screen.panel(messages("title"), lines)
    rows = [
        (
            screen.topic(topic),
            f"{c['right']}/{c['seen']}/{c['questions']}",
            c["right"],
            c["questions"],
        )
        for topic, c in report["quiz"].items()
    ]
    screen.panel(messages("quiz"), bars(rows, screen.width))
    lines = styled(
        messages("exam", percent=round(100 * exam["right"] / exam["number"]), **exam)
        for exam in report["exams"][-_SHOWN:]
    )
    if report["unfinished"]:
        standing = {**report["unfinished"], "left": clock(report["unfinished"]["left"])}
        lines += styled(wrap(messages("exam_unfinished", **standing), screen.width))
    screen.panel(messages("exams"), lines or styled([messages("no_exam")]))
    screen.panel(messages("reviews"), styled([messages("due", **report["review"])]))
    screen.line(messages("next", what=_words(screen, messages, report["next"])), "bold")


def _words(screen: Screen, messages: Messages, step: Mapping[str, Any]) -> str:
    values = {key: value for key, value in step.items() if key != "what"}
    if "topic" in step:
        values["name"] = screen.topic(step["topic"])
    if "lesson" in step:
        values["lesson"] = screen.lesson(step["lesson"])
    return messages(f"next_{step['what']}", **values)
