"""`scratchvae review`: when what was missed comes back, and with which numbers."""

import io
import json
import sys
import time
from datetime import date, timedelta
from pathlib import Path

import practice_bank as bank
import pytest
from terminal import Terminal

from scratchvae import cli
from scratchvae.practice import drill_cards, questions, review
from scratchvae.practice.state import Answer, State

ROOT = Path(__file__).parent.parent
DAY = 86400
NOON = 1_700_000_000 // DAY * DAY + DAY / 2
TODAY = date.fromtimestamp(NOON)


@pytest.fixture(autouse=True)
def utc(monkeypatch):
    if not hasattr(time, "tzset"):
        pytest.skip("the time zone can be set on POSIX only")
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def dates(*answers, today=0):
    """The schedule, in days from the first, after answers (day, right) to one question."""
    history = [
        Answer(n, NOON + DAY * day, "quiz", "a", right) for n, (day, right) in enumerate(answers)
    ]
    found = review.schedule(history, TODAY + timedelta(days=today))
    return [(day - TODAY).days for day in found.values()]


def test_the_ladder():
    history, day = [(0, False)], 0
    for step in review.DAYS:
        assert dates(*history, today=day) == [day + step]
        day += step
        history.append((day, True))
    assert dates(*history, today=day) == []  # learnt
    assert review.DAYS == (1, 3, 7, 16, 35)


def test_a_miss_goes_back_to_the_start():
    assert dates((0, False), (1, True), (4, True), (11, False), today=11) == [12]
    assert dates((0, False), (1, True), (4, False), (5, True), today=5) == [8]


def test_a_right_answer_before_it_is_due_changes_nothing():
    assert dates((0, False), (0, True), (0, True)) == [1]
    assert dates((0, False), (1, True), (2, True), today=2) == [4]


def test_a_late_answer_counts_from_its_day():
    assert dates((0, False), (50, True), today=50) == [53]


def test_what_was_never_missed_does_not_come_back():
    assert dates((0, True), (3, True), today=3) == []


def test_what_was_learnt_and_missed_again_starts_again():
    days = [0, 1, 4, 11, 27, 62]
    history = [(day, day > 0) for day in days]
    assert dates(*history, today=62) == []
    assert dates(*history, (100, False), today=100) == [101]


def test_days_are_the_calendars():
    evening = Answer(0, NOON + DAY / 2 - 60, "quiz", "a", False)
    assert review.schedule([evening], TODAY) == {("question", "a"): TODAY + timedelta(days=1)}


def test_a_clock_set_back_does_not_put_off_a_review():
    """Answers that a wrong clock dated next year count as given today."""
    assert dates((400, False), today=0) == [1]
    assert dates((400, False), (0, True), today=0) == [1]
    assert dates((400, False), (400, True), (0, False), today=0) == [1]
    assert dates((400, False), (401, True), today=1) == [2]


def test_quiz_exam_drill_and_review_count_bug_hunts_do_not():
    kinds = [
        ("quiz", {}),
        ("exam", {}),
        ("exam", {"source": "drill"}),
        ("drill", {}),
        ("bughunt", {}),
    ]
    history = [
        Answer(n, NOON, kind, f"x{n}", False, detail) for n, (kind, detail) in enumerate(kinds)
    ]
    assert set(review.schedule(history, TODAY)) == {
        *(("question", "x0"), ("question", "x1"), ("drill", "x2"), ("drill", "x3")),
    }


def test_one_drill_in_an_exam_and_on_its_own_is_one():
    history = [
        Answer(0, NOON, "exam", "kl", False, {"source": "drill"}),
        Answer(1, NOON + DAY, "drill", "kl", True),
    ]
    found = review.schedule(history, TODAY + timedelta(days=1))
    assert found == {("drill", "kl"): TODAY + timedelta(days=4)}


# ------------------------------------------------------------------------------------ the command


@pytest.fixture
def day(tmp_path, monkeypatch):
    """Set the day that it is, from now."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    monkeypatch.setenv("SCRATCHVAE_CLOCK", str(tmp_path / "clock"))

    def change(days):
        (tmp_path / "clock").write_text(str(NOON - time.time() + DAY * days), encoding="utf-8")

    change(0)
    return change


@pytest.fixture
def piped(day, tmp_path, monkeypatch, capsys):
    def run(typed, *argv):
        monkeypatch.setattr(
            sys, "stdin", io.TextIOWrapper(io.BytesIO(typed.encode()), encoding="utf-8")
        )
        code = cli.main([*argv, "--state", str(tmp_path / "s.sqlite3")])
        assert code == 0
        return capsys.readouterr()

    return run


def letters(out):
    """The letter of the bank's right option in each screen of `out`."""
    return [
        line.split(".")[0].strip() for line in out.splitlines() if line.endswith("the right one")
    ]


def test_a_missed_question_comes_back_until_it_is_learnt(day, piped, tmp_path, monkeypatch):
    bank.use(monkeypatch, tmp_path, bank.question("a") + bank.question("b"))
    assert "you have missed no question" in piped("", "review", "--lang", "en").out
    with State(tmp_path / "s.sqlite3") as state:
        state.record("quiz", "a", False)
    now = 0
    for step in review.DAYS:
        day(now + step - 1)
        out = piped("", "review").out
        assert f"Nothing is due today. Next: 1 on {TODAY + timedelta(days=now + step)}" in out
        now += step
        day(now)
        (letter,) = letters(piped("", "review", "--seed", "1").out)
        out = piped(f"{letter}\n", "review", "--seed", "1").out
        assert "Due today: 1." in out
        assert "What is a?" in out
        assert "1 of 1 right." in out
    assert "Nothing to review" in out
    day(now + 1000)
    assert "Nothing to review" in piped("", "review").out


def test_stopping_a_review_keeps_what_was_answered(day, piped, tmp_path, monkeypatch):
    bank.use(monkeypatch, tmp_path, "".join(bank.question(id) for id in "abc"))
    with State(tmp_path / "s.sqlite3") as state:
        for id in "abc":
            state.record("quiz", id, False)
    day(1)
    out = piped("a\n", "review", "--lang", "ja").out
    assert "今日復習する問題：3問" in out
    assert "ここで終了します。" in out
    out, err = piped("", "review", "-n", "1", "--json")
    report = json.loads(out)
    assert (report["answered"], report["questions"]) == (0, [])
    assert "今日復習する問題：1問" in err
    assert (
        len(bank.rows(tmp_path / "s.sqlite3", "select * from answers where kind = 'review'")) == 1
    )


def test_a_missed_drill_comes_back_with_new_numbers(day, piped, tmp_path, monkeypatch):
    id = drill_cards.ids()[0]
    bank.use(monkeypatch, tmp_path, bank.question("a", "ae", "calculation", more=f'drill = "{id}"'))
    with State(tmp_path / "s.sqlite3") as state:
        state.record("quiz", "a", False)
        state.record("exam", id, False, {"source": "drill", "seed": 3})
    day(1)
    screens = {piped("", "review", "-n", "1", "--lang", "en").out for _ in range(8)}
    assert len(screens) > 1  # other numbers, or another order
    assert not any("What is a?" in screen for screen in screens)
    piped("a\nb\n", "review")
    found = bank.rows(
        tmp_path / "s.sqlite3", "select id, detail from answers where kind = 'review' order by n"
    )
    details = [json.loads(detail) for _, detail in found]
    assert [(row[0], d["source"], d["drill"]) for row, d in zip(found, details, strict=True)] == [
        ("a", "question", id),
        (id, "drill", id),
    ]
    assert details[0]["seed"] != details[1]["seed"]
    with State(tmp_path / "s.sqlite3") as state:
        assert [answer.item for answer in state.answers("review")] == [
            ("question", "a"),
            ("drill", id),
        ]


def test_a_question_that_is_gone_is_not_asked(day, piped, tmp_path, monkeypatch):
    bank.use(monkeypatch, tmp_path, bank.question("a"))
    with State(tmp_path / "s.sqlite3") as state:
        state.record("quiz", "gone", False)
        state.record("drill", "gone", False)
    day(1)
    assert "Nothing to review" in piped("", "review", "--lang", "en").out


@pytest.mark.parametrize(
    ("language", "due", "left", "nothing"),
    [
        ("en", "Due today: 2", "Stopped", "Nothing is due today. Next: 2 on 2023-11-15"),
        (
            "ja",
            "今日復習する問題：2問",
            "ここで終了",
            "今日復習する問題はありません。次は2023-11-15に2問",
        ),
    ],
)
@pytest.mark.parametrize("end", ["\x03", "\x04"])
def test_a_review_in_a_terminal(language, due, left, nothing, end, day, tmp_path):
    with State(tmp_path / "s.sqlite3") as state:
        for card in questions.load()[:2]:
            state.record("quiz", card.id, False)
    options = ("--lang", language, "--state", str(tmp_path / "s.sqlite3"))
    day(1)
    with Terminal("review", *options, cwd=ROOT, home=tmp_path) as terminal:
        terminal.expect(due)
        terminal.expect("1/2")
        terminal.send(end)
        terminal.expect(left)
        assert terminal.wait() == 0
    assert "Traceback" not in terminal.text
    day(0)
    with Terminal("review", *options, cwd=ROOT, home=tmp_path) as terminal:
        terminal.expect(nothing)
        assert terminal.wait() == 0
