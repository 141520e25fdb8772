"""`scratchvae progress`: what it counts, and what it says to do next."""

import json
from pathlib import Path

import practice_bank as bank
import pytest
from terminal import Terminal

from scratchvae import cli
from scratchvae.practice import content, drill_cards, questions
from scratchvae.practice.screen import columns_of
from scratchvae.practice.state import State

ROOT = Path(__file__).parent.parent


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    monkeypatch.delenv("SCRATCHVAE_CLOCK", raising=False)
    bank.use(
        monkeypatch,
        tmp_path,
        "".join(bank.question(f"v{i}") for i in range(5)) + bank.question("w", lesson="11_elbo"),
        "".join(bank.question(f"a{i}", "ae", lesson="05_autoencoder") for i in range(4)),
    )
    return tmp_path


@pytest.fixture
def report(here, capsys):
    def run():
        assert cli.main(["progress", "--json", "--state", str(here / "s")]) == 0
        return json.loads(capsys.readouterr().out)

    return run


@pytest.fixture
def answer(here):
    def run(*answers):
        with State(here / "s") as state:
            for kind, id, right, *detail in answers:
                state.record(kind, id, right, *detail)

    return run


def test_nothing_yet(report):
    found = report()
    assert found["exercises"] == {"passed": 0, "number": len(content.files("exercises"))}
    assert found["drills"] == {"right": 0, "number": len(drill_cards.ids())}
    assert found["bughunts"]["right"] == 0
    assert found["quiz"]["vae"] == {"questions": 6, "seen": 0, "right": 0}
    assert (found["exams"], found["unfinished"]) == ([], None)
    assert found["review"] == {"due": 0, "later": 0, "next": None}
    assert found["next"] == {"what": "new", "topic": "ae"}


def test_the_last_answer_counts(report, answer):
    drills = drill_cards.ids()
    answer(
        *[
            ("quiz", "v0", False),
            ("review", "v0", True),
            ("quiz", "v1", True),
            ("exam", "v2", True),
        ],
        *[("exam", "v2", False), ("quiz", "gone", True), ("drill", drills[0], True)],
        ("exam", drills[1], True, {"source": "drill"}),
        *[("drill", drills[2], True), ("drill", drills[2], False)],
    )
    found = report()
    assert found["quiz"]["vae"] == {"questions": 6, "seen": 3, "right": 2}
    assert found["drills"]["right"] == 2
    assert found["review"]["later"] == 3
    assert found["next"] == {"what": "weak", "topic": "vae", "lesson": "12_vae"}


def test_the_weakest_topic_and_its_most_missed_lesson(report, answer):
    answer(("quiz", "v0", True), ("quiz", "v1", False), ("quiz", "w", True))
    answer(*[("quiz", f"a{i}", True) for i in range(4)])
    assert report()["next"] == {"what": "weak", "topic": "vae", "lesson": "12_vae"}
    answer(("quiz", "v1", True), ("quiz", "w", False), ("quiz", "a0", True))
    assert report()["next"] == {"what": "weak", "topic": "vae", "lesson": "11_elbo"}
    answer(("quiz", "w", True))
    assert report()["next"] == {"what": "exercise"}


def test_four_of_five_are_no_weakness(report, answer):
    answer(*[("quiz", f"v{i}", i > 0) for i in range(5)])
    assert report()["quiz"]["vae"]["right"] == 4
    assert report()["next"]["what"] == "new"


def test_exams_unfinished_and_finished(report, here):
    with State(here / "s") as state:
        for right in (1, 0):
            n = state.begin_exam("en", [{"id": "v0"}, {"id": "v1"}], 60).n
            results = [("v0", bool(right), {"exam": n}), ("v1", True, {"exam": n})]
            state.finish_exam(n, "submitted", results)
        state.begin_exam("en", [], 60)  # abandoned by the next
        n = state.begin_exam("en", [{"id": "v0"}, {"id": "v1"}], 60).n
        state.exam_answer(n, 1, 0, False)
        state.exam_clock(n, 20, 0)
    found = report()
    assert [(exam["right"], exam["number"]) for exam in found["exams"]] == [(2, 2), (1, 2)]
    assert found["unfinished"] == {"answered": 1, "number": 2, "left": 40}
    assert found["next"] == {"what": "exam_unfinished"}


def test_a_review_that_is_due_comes_first(report, answer, monkeypatch, here):
    answer(("quiz", "v0", False))
    (here / "clock").write_text("90000", encoding="utf-8")
    monkeypatch.setenv("SCRATCHVAE_CLOCK", str(here / "clock"))
    found = report()
    assert (found["review"]["due"], found["review"]["later"]) == (1, 0)
    assert found["next"] == {"what": "review", "number": 1}


def test_exercises_of_this_folder(report, here):
    stems = [path.stem for path in content.files("exercises")][:3]
    states = dict(zip(stems, ("passed", "skipped", "passed"), strict=False))
    path = here / "exercises" / "progress.json"
    path.parent.mkdir()
    entries = {stem: {"state": state} for stem, state in states.items()}
    path.write_text(json.dumps({"version": 1, "exercises": entries}), encoding="utf-8")
    assert report()["exercises"]["passed"] == 2
    for broken in ("{", "[]", '{"exercises": [1]}', json.dumps({"exercises": {stems[0]: 1}}), ""):
        path.write_text(broken, encoding="utf-8")
        found = report()["exercises"]
        assert (found["passed"], found["problem"]) == (0, str(Path("exercises") / "progress.json"))
        assert path.read_text(encoding="utf-8") == broken  # it is not ours to mend


def test_the_exercises_command_and_this_one_agree(here, report):
    """progress.json as `exercise` writes it."""
    from scratchvae.practice import exercises, workbook

    known = exercises.load_all()
    book = workbook.Workbook(here / "exercises", known, lambda *_: False)
    book.passed(known[0])
    book.change(known[1], state="skipped")
    assert report()["exercises"]["passed"] == 1


@pytest.mark.parametrize(
    ("language", "title", "score", "then"),
    [
        ("en", "Your practice", "1 of 1 right (100 %)", "Next: review the 5 due today:"),
        ("ja", "学習の記録", "1問中1問正解（100%）", "次にやること：今日の復習（5問）"),
    ],
)
@pytest.mark.parametrize("columns", [40, 80, 120])
def test_one_screen(language, title, score, then, columns, tmp_path):
    with State(tmp_path / "s") as state:
        for card in questions.load()[::20]:
            state.record("quiz", card.id, True)
        for card in questions.load()[:5]:
            state.record("quiz", card.id, False, when=1e9)
        n = state.begin_exam("en", [{"id": "x"}], 60).n
        state.finish_exam(n, "submitted", [("x", True, {"exam": n})])
    options = ("--lang", language, "--state", str(tmp_path / "s"))
    with Terminal("progress", *options, cwd=tmp_path, home=tmp_path, columns=columns) as terminal:
        terminal.expect(title)
        assert terminal.wait() == 0
    text = "".join(line.strip() for line in terminal.text.splitlines())
    assert score in text
    assert then in text
    assert text.endswith(("scratchvae review", "scratchvaereview"))
    for line in terminal.text.splitlines():
        assert columns_of(line) <= columns
        if line.startswith(("│", "╭", "╰")):
            assert columns_of(line) == min(columns, 96)
