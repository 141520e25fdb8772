"""`scratchvae exam`: drawn, sat, interrupted, resumed and reported."""

import io
import json
import os
import random
import re
import signal
import struct
import sys
from collections import Counter
from pathlib import Path

import practice_bank as bank
import pytest
from rich.text import Text
from terminal import Terminal, posix_modules

from scratchvae import cli
from scratchvae.practice import drill_cards, exam, keyboard, questions, screen
from scratchvae.practice.cards import TOPICS
from scratchvae.practice.language import Messages
from scratchvae.practice.state import State

ROOT = Path(__file__).parent.parent
BANK = questions.load()


def draw(cards, seed=0, drills=(), past=None):
    return exam.draw(cards, drills, past or {}, random.Random(seed))


def ids(drawn):
    return [question["id"] for question in drawn]


# ---------------------------------------------------------------------------------- what is drawn


@pytest.mark.parametrize("seed", range(12))
def test_a_draw_of_ours(seed):
    rng = random.Random(seed)
    drawn = exam.draw(BANK, exam._drills(rng), {}, rng)
    assert len(drawn) == len(set(ids(drawn))) == 20
    assert sum(question["source"] == "drill" for question in drawn) == 3
    assert all(sorted(question["order"]) == [0, 1, 2, 3] for question in drawn)
    cards = {card.id: card for card in BANK}
    drills = {id: exam._drill_card(id, 0) for id in drill_cards.ids()}
    chosen = [(drills if q["source"] == "drill" else cards)[q["id"]] for q in drawn]
    sets = [card.passage_id for card in chosen if card.passage_id]
    assert sets
    for name in set(sets):  # whole, together, in order
        whole = [card.id for card in BANK if card.passage_id == name]
        start = ids(drawn).index(whole[0])
        assert ids(drawn)[start : start + len(whole)] == whole
    share, have = Counter(card.topic for card in BANK), Counter(card.topic for card in chosen)
    for topic in TOPICS:  # a set and the drills may weigh on a topic; the rest is by proportion
        assert have[topic] <= 20 * share[topic] / len(BANK) + 4
        assert have[topic] >= 20 * share[topic] / len(BANK) - 2
    asked = {id for id in ids(drawn) if id in drills}
    assert not [card for card in chosen if card.drill in asked and card.id != card.drill]


def test_the_next_exam_has_other_questions():
    first = draw(BANK)
    second = draw(BANK, seed=1, past=Counter(ids(first)))
    assert not set(ids(first)) & set(ids(second))


def test_topics_in_exact_proportion(monkeypatch, tmp_path):
    text = "".join(bank.question(f"a{i}", "ae") for i in range(30))
    text += "".join(bank.question(f"v{i}") for i in range(60))
    text += "".join(bank.question(f"d{i}", "dae") for i in range(10))
    bank.use(monkeypatch, tmp_path, text)
    drawn = draw(questions.load())
    assert Counter(id[0] for id in ids(drawn)) == {"a": 6, "v": 12, "d": 2}
    assert [id[0] for id in ids(drawn)] == sorted((id[0] for id in ids(drawn)), key="adv".index)


def test_a_linked_set_that_was_asked_comes_last(monkeypatch, tmp_path):
    text = "".join(bank.question(f"q{i}") for i in range(40))
    bank.use(monkeypatch, tmp_path, text + "".join(bank.linked(name, 3) for name in "stu"))
    cards = questions.load()
    past = {card.id: 1 for card in cards if card.passage_id and card.id[0] != "t"}
    for seed in range(6):
        got = [id for id in ids(draw(cards, seed=seed, past=past)) if id[0] in "stu"]
        assert [id[0] for id in got] == ["t"] * 3


def test_a_small_bank_gives_a_short_exam(monkeypatch, tmp_path):
    bank.use(monkeypatch, tmp_path, bank.question("a") + bank.linked("s", 3) + bank.linked("t", 4))
    assert len(draw(questions.load())) == 8


def test_a_seed_repeats_the_numbers_of_a_drill():
    id = drill_cards.ids()[0]
    assert exam._drill_card(id, 5) == exam._drill_card(id, 5)
    assert len({exam._drill_card(id, seed).text["en"] for seed in range(20)}) > 1


# ----------------------------------------------------------------------------- what it looks like


OPEN = []  # what `sitting` has opened in a test


@pytest.fixture(autouse=True)
def _closes():
    yield
    while OPEN:
        OPEN.pop().close()


def sitting(monkeypatch, tmp_path, n=12, language="en"):
    bank.use(monkeypatch, tmp_path, "".join(bank.question(f"q{i}") for i in range(n)))
    sheet = [exam.Item(card, [0, 1, 2, 3], {"id": card.id}) for card in questions.load()]
    state = State(tmp_path / "s.sqlite3")
    OPEN.append(state)
    begun = state.begin_exam(language, [{"id": i.card.id, "order": i.order} for i in sheet], 600)
    return exam.Sitting(screen.Screen(language), Messages("exam", language), state, begun, sheet)


def frame(sit, columns=80, rows=24):
    sit.view.left = sit.view.left or 600.0
    lines = exam.frame(sit.view, sit.messages, sit.screen, columns, rows)
    assert len(lines) == rows
    return [line.plain for line in lines]


@pytest.mark.parametrize("columns", [10, 20, 40, 80, 120])
@pytest.mark.parametrize("rows", [4, 10, 14, 24, 50])
@pytest.mark.parametrize("language", ["en", "ja"])
def test_every_frame_fits_its_window(columns, rows, language, monkeypatch, tmp_path):
    sheet = [exam.Item(card, [2, 0, 3, 1], {}) for card in BANK[::9]]
    view = exam.View(sheet, {0: 1, 3: 2}, {0, 2}, left=61, seconds=600)
    messages, on = Messages("exam", language), screen.Screen(language)
    for view.position in range(len(sheet)):
        for view.scroll in (0, 3, 1000):
            lines = exam.frame(view, messages, on, columns, rows)
            assert len(lines) == rows
            if columns >= 40:
                assert max(line.cell_len for line in lines) <= columns
                assert lines[0].plain.endswith(messages("left", time="1:01"))


def test_all_of_a_long_question_can_be_read(monkeypatch, tmp_path):
    sit = sitting(monkeypatch, tmp_path)
    sit.view.sheet = [exam.Item(max(BANK, key=lambda c: len(str(c))), [0, 1, 2, 3], {})]
    card = sit.view.sheet[0].card
    wanted = [line.plain for line in screen.card_lines(card, [0, 1, 2, 3], "en", 38)]
    seen = frame(sit, 40, 16)
    assert sum("more below: space" in line for line in seen) == 1
    for _ in range(60):
        sit._press("space")
        seen += frame(sit, 40, 16)
        if "back to the top: space" in "\n".join(seen):
            break
    assert {line.strip() for line in wanted} <= {line.strip() for line in seen}
    sit._press("space")
    assert sit.view.scroll == 0
    for key, scroll in (("down", 1), ("j", 2), ("up", 1), ("k", 0), ("up", 0)):
        sit._press(key)
        assert sit.view.scroll == scroll
    sit._press("pagedown")
    sit._press("pageup")
    assert sit.view.scroll == 0
    press(sit, "space", "n")  # the next question begins at its beginning
    assert sit.view.scroll == 0


def test_only_what_changes_is_repainted(capsys, monkeypatch):
    with open(os.devnull) as nothing:  # noqa: PTH123
        monkeypatch.setattr("sys.stdin", nothing)
        on = screen.Screen("en")
        board = keyboard.Keyboard(on.console, on.stream)
        lines = [Text("1:00"), Text("日本語"), Text("same")]
        board.paint(lines)
        assert "same" in capsys.readouterr().out
        board.paint(lines)
        assert capsys.readouterr().out == ""
        board.paint([Text("0:59"), *lines[1:]])
        out = capsys.readouterr().out
        assert "0:59" in out
        assert "\x1b[1;1H" in out
        assert "same" not in out
        assert "\x1b[2J" not in out
        board.paint(lines[:1])
        assert "\x1b[3;1H" in capsys.readouterr().out
        board.paint(lines)
        capsys.readouterr()
        monkeypatch.setattr(keyboard.Keyboard, "size", (80, 30))
        board.paint(lines)  # on a window of another height: everything anew
        out = capsys.readouterr().out
        assert out.startswith("\x1b[2J")
        assert all(line.plain in out for line in lines)


# ------------------------------------------------------------------------------------------- keys


def press(sit, *keys):
    return [sit._press(key) for key in keys][-1]


def test_choosing_and_choosing_again(monkeypatch, tmp_path):
    sit = sitting(monkeypatch, tmp_path)
    press(sit, "b", "n", "d", "n", "a", "c")
    assert sit.view.choices == {0: 1, 1: 3, 2: 2}
    assert sit.state.exam(sit.exam.n).choices == sit.view.choices
    seen = frame(sit)
    assert [line for line in seen if line.strip().startswith("> c. the right one")]
    assert any(" 1b   2d   3c   4. " in line for line in seen)


def test_moving(monkeypatch, tmp_path):
    sit = sitting(monkeypatch, tmp_path)
    for key, position in (
        *(("p", 0), ("right", 1), ("enter", 2), ("n", 3), ("left", 2), ("end", 11), ("n", 11)),
        *(("home", 0), ("7", 6), ("1", 6), ("2", 11), ("1", 11), ("enter", 0), ("9", 8)),
        *(("1", 8), ("n", 9), ("0", 9), ("1", 9), ("back", 9), ("5", 4)),
        *(("enter", 4), ("enter", 5), ("1", 5), ("2", 11), ("p", 10), ("enter", 11)),
    ):
        press(sit, key)
        assert sit.view.position == position, key
    press(sit, "1")
    assert "Go to question 1_ (Enter)" in frame(sit)[-1]
    press(sit, "x")
    assert "Go to" not in frame(sit)[-1]


def test_flags(monkeypatch, tmp_path):
    sit = sitting(monkeypatch, tmp_path)
    press(sit, "f", "n", "n", "f", "n", "f", "f")
    assert sit.view.flags == {0, 2}
    assert sit.state.exam(sit.exam.n).flags == {0, 2}
    press(sit, "home")
    seen = frame(sit)
    assert "1/12 [flagged]" in seen[0]
    assert any(" 1.*  2.   3.*  4. " in line for line in seen)


def test_submitting_asks_first(monkeypatch, tmp_path):
    sit = sitting(monkeypatch, tmp_path, n=2)
    assert press(sit, "a", "s") is None
    assert frame(sit)[-1] == "1 unanswered. Submit? y/n"
    assert press(sit, "n") is None
    assert sit.view.position == 0
    assert press(sit, "n", "b", "s") is None
    assert frame(sit)[-1] == "All answered. Submit? y/n"
    assert press(sit, "y") == "submitted"


@pytest.mark.parametrize("key", ["q", "quit"])
def test_pausing(key, monkeypatch, tmp_path):
    assert press(sitting(monkeypatch, tmp_path), key) == ""


def test_keys_as_terminals_send_them(monkeypatch):
    with open(os.devnull) as nothing:  # noqa: PTH123
        monkeypatch.setattr("sys.stdin", nothing)
        board = keyboard.Keyboard(screen.Screen("en").console, None)
    sent = [
        "aｂN",
        "\x1b[A\x1bOB\x1b[",
        "C",
        "\x1b[D\x1b[H\x1b[5~\x1b[6~",
        "\x1b",
        "",
        "\r\n　\x7f\x04",
        "\x1b[1;5C",
        "\x1b[15~",
        "",
    ]
    monkeypatch.setattr(board, "_read", lambda timeout: sent.pop(0) if sent else "")
    found = []
    while sent or board._typed:
        found.append(board.key(0))
    assert [key for key in found if key] == [
        *("a", "b", "n", "up", "down", "right", "left", "home", "pageup", "pagedown", "escape"),
        *("enter", "enter", "space", "back", "quit", "right", "unknown"),
    ]


class WindowsConsole:
    """The stand-in for msvcrt. As in ucrt/conio/getwch.cpp a special key comes in two halves; the
    second waits where one character may be put back, which kbhit does not look at."""

    def __init__(self, keys):
        self.keys, self.waiting = keys, None

    def kbhit(self):
        return bool(self.keys)

    def getwch(self):
        if self.waiting is not None:
            first, self.waiting = self.waiting, None
            return first
        first, *second = self.keys.pop(0)  # IndexError: it would wait for another key
        self.waiting = second[0] if second else None
        return first

    def ungetwch(self, character):
        if self.waiting is not None:
            raise OSError
        self.waiting = character


def test_keys_as_windows_sends_them(monkeypatch):
    keys = [*"aN\r \b\x04", "\xe0H", "\0P", "\xe0I", "\0;", "\xe0", "\xe0H", "\xe0", "\x03", "\x1b"]
    monkeypatch.setitem(sys.modules, "msvcrt", WindowsConsole(keys))
    monkeypatch.setattr(sys, "platform", "win32")
    started = []
    monkeypatch.setattr(os, "system", started.append)  # it switches escape sequences on
    with keyboard.Keyboard(screen.Screen("en").console, io.StringIO()) as board:
        assert [board.key(0) for _ in range(13)] == [
            *("a", "n", "enter", "space", "back", "quit", "up", "down", "pageup", "unknown"),
            *("à", "up", "à"),
        ]
        with pytest.raises(KeyboardInterrupt):
            board.key(0)
        assert board.key(0) == "escape"
        assert board.key(0) is None
    assert started == [""]


def test_time_while_the_machine_slept_does_not_count(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(exam.time, "monotonic", lambda: now[0])
    watch = exam.Clock(10.0, now[0])
    now[0] += 0.25
    assert watch.look() == 10.25
    now[0] += 3600
    assert watch.look() == 15.25


def test_the_clocks_words():
    assert [exam.clock(s) for s in (1380, 60.2, 59.0, 0.1, 0, -3)] == [
        *("23:00", "1:01", "0:59", "0:01", "0:00", "0:00"),
    ]


# ----------------------------------------------------------------------------------- in a terminal


def sit_down(tmp_path, *options, language="en", **window):
    return Terminal(
        *("exam", "--lang", language, "--state", str(tmp_path / "s.sqlite3"), *options),
        cwd=ROOT,
        home=tmp_path,
        **window,
    )


def sheet(tmp_path):
    """For each question of the exam in the state: the letter that is right."""
    with State(tmp_path / "s.sqlite3") as state:
        begun = state.exams()[-1]
    items = exam._sheet(begun, BANK)
    return [
        screen.letter(i.order, [option.right for option in i.card.options].index(True))
        for i in items
    ]


@pytest.mark.parametrize(
    ("language", "left", "score", "reread"),
    [
        ("en", r"\d+:\d\d left", r"18 of 20 right \(90 %\)", "To read again:"),
        ("ja", r"残り\d+:\d\d", r"20問中18問正解（90%）", "復習する講座："),
    ],
)
def test_an_exam_from_beginning_to_end(language, left, score, reread, tmp_path):
    with sit_down(tmp_path, "--json", language=language) as terminal:
        terminal.expect("23")
        terminal.send("\n")
        terminal.expect(left)
        right = sheet(tmp_path)
        wrong = {4: "abcd".replace(right[4], "")[0], 7: ""}
        for number, letter in enumerate(right):
            terminal.send(wrong.get(number, letter) + "n")
        terminal.expect(r"20\w  ")
        terminal.send("s")
        terminal.expect("1 unanswered|未解答1問")
        terminal.send("y")
        terminal.expect(score)
        terminal.expect(reread)
        assert terminal.wait() == 0
    assert "Traceback" not in terminal.text
    assert terminal.raw.endswith("}\r\n")
    report = json.loads(re.search(r"^\{\n.*", terminal.text, re.S | re.M).group())
    assert (report["right"], report["answered"], report["number"]) == (18, 19, 20)
    assert [one["question"] for one in report["missed"]] == [5, 8]
    assert sum(topic["number"] for topic in report["topics"].values()) == 20
    assert report["lessons"]
    assert "\x1b[?1049l" in terminal.raw  # the screen is given back
    answers = bank.rows(tmp_path / "s.sqlite3", "select kind, right from answers")
    assert Counter(answers) == {("exam", 1): 18, ("exam", 0): 2}
    drills = bank.rows(
        tmp_path / "s.sqlite3", 'select n from answers where detail like \'%"source": "drill"%\''
    )
    assert len(drills) == 3


def test_sigterm_gives_the_screen_back(tmp_path):
    with sit_down(tmp_path) as terminal:
        terminal.send("\n")
        terminal.expect("1/20")
        terminal.terminate()
        assert terminal.wait() == 0
    assert "\x1b[?1049l" in terminal.raw
    assert "Traceback" not in terminal.text


@pytest.mark.parametrize("language", ["en", "ja"])
def test_a_crash_loses_no_answer_and_no_time(language, tmp_path):
    with sit_down(tmp_path, language=language) as terminal:
        terminal.send("\n")
        terminal.expect("1/20")
        terminal.send("abncfn")
        terminal.expect("3/20")
        terminal.kill()
        terminal.wait()
    with State(tmp_path / "s.sqlite3") as state:
        before = state.unfinished_exam()
        assert len(before.choices) == 2
        assert before.flags == {1}
        assert before.position == 2
        assert 0 < before.used < 60
        state.exam_clock(before.n, 600, 2)  # as if ten minutes had passed
    with sit_down(tmp_path, language=language) as terminal:
        terminal.expect(
            {"en": "2 of 20 answered, 13:00 left", "ja": "20問中2問解答済み、残り13:00"}[language]
        )
        terminal.send("\n")
        terminal.expect(r"3/20")
        terminal.expect("13:00|12:59")
        terminal.expect(r" 1b   2c\* ")
        terminal.interrupt()
        terminal.expect("scratchvae exam\n")
        assert terminal.wait() == 0
        assert "Traceback" not in terminal.text
    with State(tmp_path / "s.sqlite3") as state:
        assert state.unfinished_exam().choices == before.choices
        assert state.answers() == []


def test_a_new_exam_in_place_of_the_unfinished_one(tmp_path):
    for answer in ("\n", "x\nn\n\n"):
        with sit_down(tmp_path) as terminal:
            terminal.expect("clock|go on")
            terminal.send(answer)
            terminal.expect("1/20")
            terminal.send("q")
            terminal.expect("Paused: 0 of 20 answered")
            assert terminal.wait() == 0
    endings = bank.rows(tmp_path / "s.sqlite3", "select ending from exams order by n")
    assert endings == [("abandoned",), (None,)]


def test_time_up_ends_it(tmp_path):
    with sit_down(tmp_path, "--minutes", "0.02") as terminal:
        terminal.expect("0.02 minutes")
        terminal.send("\n")
        terminal.expect("0:01 left")  # nobody has touched a key
        terminal.expect("Time is up")
        terminal.expect("0 of 20 right")
        assert terminal.wait() == 0
    assert bank.rows(tmp_path / "s.sqlite3", "select ending from exams") == [("time",)]
    assert bank.rows(tmp_path / "s.sqlite3", "select count(*), sum(right) from answers") == [
        (20, 0)
    ]


def test_the_json_of_a_pause_does_not_tell_the_score(tmp_path):
    with sit_down(tmp_path, "--json") as terminal:
        terminal.send("\naq")
        terminal.expect("Paused: 1 of 20 answered")
        assert terminal.wait() == 0
    report = json.loads(re.search(r"^\{\n.*", terminal.text, re.S | re.M).group())
    assert set(report) == {"exam", "ending", "answered", "number", "left"}
    assert (report["ending"], report["answered"]) == (None, 1)


@pytest.mark.parametrize("end", ["\x03", "\x04", "q\n"])
def test_stopping_before_the_start_changes_nothing(end, tmp_path):
    with sit_down(tmp_path) as terminal:
        terminal.expect("starts the clock")
        terminal.send(end)
        terminal.expect("Nothing has changed")
        assert terminal.wait() == 0
    assert bank.rows(tmp_path / "s.sqlite3", "select count(*) from exams") == [(0,)]


@pytest.mark.parametrize("end", ["\x03", "\x04", "q\n"])
def test_stopping_at_the_resumption_changes_nothing(end, tmp_path):
    with State(tmp_path / "s.sqlite3") as state:
        drawn = [{"source": "question", "id": BANK[0].id, "order": [0, 1, 2, 3]}]
        before = state.begin_exam("en", drawn, 600)
    with sit_down(tmp_path) as terminal:
        terminal.expect("go on")
        terminal.send(end)
        terminal.expect("Nothing has changed")
        assert terminal.wait() == 0
    with State(tmp_path / "s.sqlite3") as state:
        assert state.exams() == [before]


def test_ended_in_another_terminal(tmp_path):
    with sit_down(tmp_path) as terminal:
        terminal.send("\n")
        terminal.expect("1/20")
        with State(tmp_path / "s.sqlite3") as state:
            state.begin_exam("en", [], 60)
        terminal.expect("ended in another terminal")
        assert terminal.wait() == 0


@pytest.mark.parametrize(
    ("language", "says"), [("en", "open in another terminal"), ("ja", "別の端末で受験中です")]
)
def test_an_exam_is_sat_in_one_terminal(language, says, tmp_path):
    """Two would each show, and store, answers that the other has changed."""
    with sit_down(tmp_path) as first:
        first.send("\n")
        first.expect("1/20")
        with sit_down(tmp_path, language=language) as second:
            second.expect("Enter")
            first.send("a")
            second.send("\n")
            second.expect(says)
            assert second.wait() == 2
        first.send("nq")
        first.expect("Paused: 1 of 20")
        assert first.wait() == 0
    assert [path.name for path in tmp_path.iterdir() if "exam" in path.name] == []


def test_an_exam_in_another_terminal_is_not_dropped(tmp_path):
    with sit_down(tmp_path) as terminal:
        terminal.send("\n")
        terminal.expect("1/20")
        terminal.send("q")
        assert terminal.wait() == 0
    with sit_down(tmp_path) as undecided, sit_down(tmp_path) as sitting:
        undecided.expect("drop it and begin a new one")
        sitting.expect("Enter")
        sitting.send("\n")
        sitting.expect("1/20")
        undecided.send("n\n")
        undecided.expect("open in another terminal")
        assert undecided.wait() == 2
        sitting.send("aq")
        sitting.expect("Paused: 1 of 20")


def test_what_was_answered_elsewhere_before_the_resumption_is_there(tmp_path):
    with sit_down(tmp_path) as terminal:
        terminal.send("\nq")
        terminal.expect("Paused: 0 of 20")
    with sit_down(tmp_path) as terminal:
        terminal.expect("Enter")
        with State(tmp_path / "s.sqlite3") as state:
            state.exam_answer(1, 0, 2, False)
        terminal.send("\n")
        terminal.expect("1/20")
        terminal.send("fq")  # the flag is stored with the choice that is shown
        terminal.expect("Paused: 1 of 20")


def test_a_smaller_window_in_the_middle(tmp_path):
    with sit_down(tmp_path, language="ja", columns=80, rows=24) as terminal:
        terminal.send("\n")
        terminal.expect("1-20 移動")
        terminal.raw, terminal._seen = "", 0
        fcntl, _, termios = posix_modules()
        fcntl.ioctl(terminal.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 40, 0, 0))
        terminal.expect("a-d解答 n/p移動")
        assert "\x1b[2J" in terminal.raw
        rows = [int(row) for row in re.findall(r"\x1b\[(\d+);1H", terminal.raw)]
        assert max(rows) == 24
        for line in re.split(r"\x1b\[\d+;1H", terminal.raw)[1:]:
            assert screen.columns_of(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line)) <= 40


def test_the_terminal_is_given_back_as_it_was(tmp_path):
    with sit_down(tmp_path) as terminal:
        terminal.expect("starts the clock")
        _, _, termios = posix_modules()
        before = termios.tcgetattr(terminal.fd)
        terminal.send("\n")
        terminal.expect("1/20")
        assert termios.tcgetattr(terminal.fd)[3] != before[3]
        terminal.interrupt()
        terminal.expect("Paused")
        assert termios.tcgetattr(terminal.fd) == before
        terminal.wait()


def test_hanging_up_keeps_the_exam(tmp_path):
    with sit_down(tmp_path) as terminal:
        terminal.send("\n")
        terminal.expect("1/20")
        terminal.send("c")
        terminal.expect("1c")
        os.kill(terminal.pid, signal.SIGHUP)
        terminal.wait()
    with State(tmp_path / "s.sqlite3") as state:
        assert len(state.unfinished_exam().choices) == 1


@pytest.mark.parametrize(
    ("language", "says"), [("en", "exam: needs a terminal"), ("ja", "端末が必要です")]
)
def test_without_a_terminal_it_is_one_line(language, says, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert cli.main(["exam", "--lang", language, "--state", str(tmp_path / "s")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    "question",
    [
        {"source": "question", "id": "gone", "order": [0, 1, 2, 3]},
        {"source": "question", "id": BANK[0].id, "order": [0, 1, 2, 4]},
        {"source": "drill", "id": "psnr", "seed": "x", "order": [0, 1, 2, 3]},
        {},
    ],
)
def test_an_exam_with_a_question_that_is_gone_begins_anew(question, tmp_path):
    with State(tmp_path / "s.sqlite3") as state:
        state.begin_exam("en", [question], 60)
    with sit_down(tmp_path) as terminal:
        terminal.expect("questions that no longer exist; a new one begins")
        terminal.expect("starts the clock")
