"""`scratchvae quiz`: in a pipe, and in a terminal as a learner sees it."""

import io
import json
import random
import re
import sys
from pathlib import Path

import practice_bank as bank
import pytest
from terminal import Terminal

from scratchvae import cli
from scratchvae.practice import questions, quiz, screen
from scratchvae.practice.state import Answer, State

ROOT = Path(__file__).parent.parent


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working and data directory of our own, without a remembered language."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    monkeypatch.delenv("SCRATCHVAE_CLOCK", raising=False)
    return tmp_path


@pytest.fixture
def piped(here, monkeypatch, capsys):
    """Run a command with this input; return its exit code, stdout and stderr."""

    def run(typed, *argv):
        monkeypatch.setattr(
            sys, "stdin", io.TextIOWrapper(io.BytesIO(typed.encode()), encoding="utf-8")
        )
        capsys.readouterr()
        code = cli.main([*argv, "--state", str(here / "s.sqlite3")])
        return code, *capsys.readouterr()

    return run


def stored(here):
    with State(here / "s.sqlite3") as state:
        return [(answer.kind, answer.id, answer.right) for answer in state.answers()]


def right_letter(text):
    """The letter before the right option of the bank's questions in the last screen of `text`."""
    return next(
        line.strip(" │>")[0]
        for line in reversed(text.splitlines())
        if line.strip(" │").endswith(("the right one", "正しい"))
    )


@pytest.mark.parametrize(
    ("language", "right", "why"),
    [("en", "Right.", "Because of a."), ("ja", "正解です。", "aだからです。")],
)
def test_a_quiz_in_a_pipe(language, right, why, here, piped, monkeypatch):
    bank.use(monkeypatch, here, bank.question("a"))
    outputs = [piped(f"{letter}\n", "quiz", "--lang", language, "--seed", "5") for letter in "abcd"]
    assert all(code == 0 and err == "" for code, _, err in outputs)
    assert sum(f"\n{right}\n" in out for _, out, _ in outputs) == 1
    for _, out, _ in outputs:
        assert why in out
        assert "lessons/12_vae.py" in out
        assert "│" not in out  # plain lines
        assert "\x1b" not in out
    assert sorted(stored(here)) == [("quiz", "a", False)] * 3 + [("quiz", "a", True)]


def test_letters_numbers_capitals_and_full_width_letters_are_understood():
    order = [3, 1, 0, 2]
    for typed in ("b", "2"):
        assert screen.chosen(typed, order) == 1
    for typed in ("", "e", "5", "0", "ab", "12"):
        assert screen.chosen(typed, order) is None


def test_what_is_no_answer_is_asked_again(here, piped, monkeypatch):
    bank.use(monkeypatch, here, bank.question("a"))
    code, out, _ = piped(
        "x\n\n\udcff\nＢ\n".encode("utf-8", "replace").decode(), "quiz", "--lang", "en"
    )
    assert code == 0
    assert out.count("Type a letter from a to d, or q to stop.") == 3
    assert len(stored(here)) == 1


@pytest.mark.parametrize("end", ["", "q\n", "Ｑ\n", "quit\n"])
def test_stopping_keeps_what_was_answered(end, here, piped, monkeypatch):
    bank.use(monkeypatch, here, bank.question("a") + bank.question("b") + bank.question("c"))
    code, out, err = piped("a\nb\n" + end, "quiz", "--lang", "en")
    assert (code, err) == (0, "")
    assert out.count("Stopped. Your answers so far are kept.") == 1
    assert "of 2 right." in out
    assert len(stored(here)) == 2


def test_stopping_at_once(here, piped, monkeypatch):
    bank.use(monkeypatch, here, bank.question("a"))
    code, out, _ = piped("", "quiz", "--lang", "ja")
    assert code == 0
    assert out.endswith(
        "ここで終了します。ここまでの解答は保存されています。\n解答はありませんでした。\n"
    )


def test_a_closed_input_is_an_end_of_input(here, monkeypatch, capsys):
    bank.use(monkeypatch, here, bank.question("a"))
    monkeypatch.setattr(sys, "stdin", None)
    assert cli.main(["quiz", "--lang", "en", "--state", str(here / "s.sqlite3")]) == 0
    assert "Nothing was answered." in capsys.readouterr().out


def test_json_alone_is_on_stdout(here, piped, monkeypatch):
    bank.use(
        monkeypatch, here, bank.question("a") + bank.question("b", "ae", lesson="05_autoencoder")
    )
    code, out, err = piped("a\na\n", "quiz", "--json", "--lang", "en")
    assert code == 0
    report = json.loads(out)
    assert report["answered"] == 2
    assert {one["id"] for one in report["questions"]} == {"a", "b"}
    missed = {"a": "12_vae", "b": "05_autoencoder"}
    wrong = {one["id"] for one in report["questions"] if not one["right"]}
    assert set(report["lessons"]) == {missed[id] for id in wrong}
    assert "What is a?" in err


def test_one_topic_and_a_number(here, piped, monkeypatch):
    texts = [bank.question(f"a{i}", "ae") + bank.question(f"v{i}") for i in range(5)]
    bank.use(monkeypatch, here, *texts)
    code, out, _ = piped("a\n" * 9, "quiz", "ae", "-n", "3", "--json", "--lang", "en")
    assert code == 0
    ids = [one["id"] for one in json.loads(out)["questions"]]
    assert len(ids) == 3
    assert all(id.startswith("a") for id in ids)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("quiz", "gan"), "invalid choice: 'gan'"),
        (("quiz", "-n", "0"), "argument -n: got '0', want a whole number >= 1"),
        (("quiz", "-n", "x"), "argument -n: got 'x', want a whole number >= 1"),
        (("quiz", "uses", "--lang", "en"), "There are no questions on this topic."),
    ],
)
def test_a_wrong_option_is_one_line(argv, says, here, piped, monkeypatch):
    bank.use(monkeypatch, here, bank.question("a"))
    code, out, err = piped("", *argv)
    assert (code, out) == (2, "")
    assert says in err
    assert len(err.splitlines()) == 1


def test_a_wrong_content_file_is_one_line(here, piped, monkeypatch):
    bank.use(monkeypatch, here, bank.question("a", topic="gan"))
    code, _, err = piped("", "quiz")
    assert code == 2
    assert "bank0.toml: a: unknown topic 'gan'" in err


def test_a_broken_state_is_said_on_stderr(here, piped, monkeypatch):
    bank.use(monkeypatch, here, bank.question("a"))
    (here / "s.sqlite3").write_bytes(b"SQLite format 3\0" + bytes(500))
    code, out, err = piped("a\n", "quiz", "--json")
    assert code == 0
    assert json.loads(out)["answered"] == 1
    assert err.startswith("scratchvae: ")
    assert "s.sqlite3.broken-1" in err


# ---------------------------------------------------------------------------------- what is drawn


def answers(*pairs):
    return [Answer(n, float(n), "quiz", id, right) for n, (id, right) in enumerate(pairs)]


def load(monkeypatch, folder, *texts):
    bank.use(monkeypatch, folder, *texts)
    return questions.load()


def test_new_and_missed_questions_come_before_those_known(monkeypatch, tmp_path):
    cards = load(monkeypatch, tmp_path, "".join(bank.question(id) for id in "abcdef"))
    history = answers(
        *[("a", True), ("a", True), ("b", True), ("c", True), ("c", False), ("d", False)],
        *[("d", True), ("e", False), ("e", False)],
    )
    for seed in range(20):
        drawn = [card.id for card in quiz.choose(cards, history, 6, random.Random(seed))]
        assert set(drawn[:3]) == {"c", "e", "f"}  # missed, missed, new
        assert set(drawn[3:5]) == {"b", "d"}
        assert drawn[5] == "a"


def test_the_draw_varies_and_a_seed_repeats_it(monkeypatch, tmp_path):
    cards = load(monkeypatch, tmp_path, "".join(bank.question(f"q{i}") for i in range(30)))
    draws = [tuple(c.id for c in quiz.choose(cards, [], 5, random.Random(s))) for s in range(9)]
    assert len(set(draws)) == 9
    assert draws[0] == tuple(c.id for c in quiz.choose(cards, [], 5, random.Random(0)))


def test_linked_questions_stay_together_in_their_order(monkeypatch, tmp_path):
    text = "".join(bank.question(f"q{i}") for i in range(6)) + bank.linked("s", 4)
    cards = load(monkeypatch, tmp_path, text)
    for seed in range(20):
        drawn = [card.id for card in quiz.choose(cards, [], 10, random.Random(seed))]
        places = [drawn.index(f"s-{i}") for i in range(1, 5)]
        assert places == list(range(places[0], places[0] + 4))


def test_the_options_are_shuffled(here, piped, monkeypatch):
    bank.use(monkeypatch, here, bank.question("a"))
    letters = {
        right_letter(piped("", "quiz", "--lang", "en", "--seed", str(s))[1]) for s in range(30)
    }
    assert letters == set("abcd")


# ----------------------------------------------------------------------------------- Japanese lines


@pytest.mark.parametrize("width", [10, 16, 24, 37, 60, 92])
def test_no_line_is_too_wide_and_none_begins_with_a_full_stop(width):
    for card in questions.load():
        for both in (card.text, card.why, *(option.text for option in card.options)):
            for line in screen.wrap(both["ja"], width):
                assert screen.columns_of(line) <= width
                if width >= 24:  # in a narrower one a formula may fill a line to its end
                    assert line[:1] not in tuple("、。）」")
                    assert line[-1:] not in tuple("（「")


def test_wrapping():
    assert screen.wrap("ab cd\nef\n\ngh\n- i\n- j", 8) == ["ab cd ef", "", "gh", "- i", "- j"]
    assert screen.wrap("損失は\n小さい。", 20) == ["損失は小さい。"]
    assert screen.wrap("あいうえ。お", 8) == ["あいう", "え。お"]
    assert screen.wrap("あい（う）お", 6) == ["あい", "（う）", "お"]
    assert screen.wrap("x" * 10, 4) == ["xxxx", "xxxx", "xx"]
    assert screen.wrap("潜在変数z_iを", 10) == ["潜在変数", "z_iを"]
    assert screen.wrap_code("def f(x):\n    return x + 1234", 14) == [
        "def f(x):",
        "    return x +",
        "      1234",
    ]
    assert screen.wrap_option("a\nb", 5) == ["a", "b"]


def test_what_a_terminal_would_obey_is_spelled_out():
    assert screen.wrap("a\x1b[2Jb\tc\u202e　θ", 60) == ["a\\x1b[2Jb  c\\u202e　θ"]


def test_wrapping_loses_nothing():
    for card in questions.load():
        for both in (card.text, card.why, card.passage or card.text):
            for language in ("en", "ja"):
                flat = "".join(both[language].split())
                for width in (11, 36):
                    assert "".join("".join(screen.wrap(both[language], width)).split()) == flat


# ----------------------------------------------------------------------------------- in a terminal


@pytest.mark.parametrize(
    ("language", "prompt", "again", "stopped"),
    [
        ("en", "Your answer", "Enter for the next one", "Stopped. Your answers so far are kept."),
        ("ja", "解答（a～d、qで終了）", "Enterで次の問題へ", "ここで終了します。"),
    ],
)
@pytest.mark.parametrize(
    ("end", "at_a_question"), [("\x03", True), ("\x03", False), ("\x04", False), ("q\n", True)]
)
def test_a_quiz_in_a_terminal(language, prompt, again, stopped, end, at_a_question, tmp_path):
    state = tmp_path / "s.sqlite3"
    options = ("--lang", language, "--state", str(state), "--seed", "1")
    with Terminal("quiz", "vae", *options, cwd=ROOT, home=tmp_path) as terminal:
        terminal.expect(prompt)
        terminal.send("5\n")
        terminal.expect(prompt)
        terminal.send("A\n")
        terminal.expect("lessons/")
        terminal.expect(again)
        if at_a_question:
            terminal.send("\n")
            terminal.expect(prompt)
        terminal.send(end)
        terminal.expect(stopped)
        assert terminal.wait() == 0
    assert "Traceback" not in terminal.text
    assert bank.rows(state, "select kind from answers") == [("quiz",)]
    for line in terminal.text.splitlines():
        assert screen.columns_of(line) <= 100


def test_the_language_is_remembered(tmp_path):
    for options, prompt in (("--lang", "ja"), "解答"), ((), "解答"):
        with Terminal("quiz", *options, cwd=ROOT, home=tmp_path) as terminal:
            terminal.expect(prompt)


@pytest.mark.parametrize("columns", [40, 80])
@pytest.mark.parametrize("language", ["en", "ja"])
def test_a_panel_fits_the_window(columns, language, tmp_path):
    options = ("--lang", language, "-n", "4", "--state", str(tmp_path / "s"))
    with Terminal(
        "quiz", *options, cwd=ROOT, home=tmp_path, columns=columns, env={"NO_COLOR": "1"}
    ) as terminal:
        for _ in range(3):
            terminal.expect("a-d|a～d")
            terminal.send("c\n")
            terminal.expect("Enter")
            terminal.send("\n")
        terminal.expect("a-d|a～d")
        lines = terminal.text.splitlines()
    assert any(line.startswith("╭") for line in lines)
    for line in lines:
        assert screen.columns_of(line) <= columns
        if line.startswith(("│", "╭", "╰")):
            assert screen.columns_of(line) == min(columns, 96)
    assert not [code for code in ("\x1b[3", "\x1b[9") if code in terminal.raw]  # NO_COLOR


@pytest.mark.parametrize("language", ["en", "ja"])
def test_every_question_is_shown_and_explained(language, tmp_path):
    """One session over all of them, 80 columns wide, the right option chosen each time."""
    cards = questions.load()
    options = ("--lang", language, "-n", "1000", "--state", str(tmp_path / "s"))
    shown = ""
    with Terminal("quiz", *options, cwd=ROOT, home=tmp_path, columns=80) as terminal:
        for number in range(len(cards)):
            terminal.expect("a-d|a～d", timeout=60)
            terminal.send("a\n")
            if number < len(cards) - 1:
                terminal.expect("Enter", timeout=60)
                terminal.send("\n")
            else:
                assert terminal.wait(60) == 0
            shown, terminal.raw, terminal._seen = shown + terminal.text, "", 0
    for line in shown.splitlines():
        assert screen.columns_of(line) <= 80
        if line.startswith(("│", "╭", "╰")):
            assert screen.columns_of(line) == 80, line
    shown = "".join(re.sub("[│╭╰─]", "", shown).split())
    for card in cards:
        texts = [card.text, card.why, *(option.text for option in card.options)]
        for text in texts:
            assert "".join(text[language].split()) in shown, f"{card.id}: {text[language]}"
    stored = bank.rows(tmp_path / "s", "select count(distinct id), count(*) from answers")
    assert stored == [(len(cards), len(cards))]
