"""The questions: what a wrong one is told, and that all of ours are right."""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from practice_bank import linked, question

from scratchvae.practice import content, questions
from scratchvae.practice.cards import TOPICS, Card, Option

ROOT = Path(__file__).parent.parent

GOOD = """
[[passage]]
id = "set"
en = "A story."
ja = "ある話です。"

[[question]]
id = "kl-at-prior"
topic = "elbo"
kind = "calculation"
lesson = "09_gaussian_kl"
drill = "DRILL"
code = '''
kl = 0.5 * np.sum(mu**2 + np.exp(logvar) - 1 - logvar)
'''
verify = '''
mu = logvar = np.zeros(3)
ok = bool(np.isclose(value, 0.5 * np.sum(mu**2 + np.exp(logvar) - 1 - logvar)))
'''
[question.text]
en = "What is the KL at the prior?"
ja = "事前分布でのKLはいくつですか。"
[question.why]
en = "The two are equal."
ja = "2つの分布が等しいからです。"
[[question.option]]
same = "1.5"
value = 1.5
[[question.option]]
en = "zero"
ja = "ゼロ"
right = true
value = 0
[[question.option]]
same = "3"
value = 3
[[question.option]]
same = "1"
value = 1
"""


@pytest.fixture(autouse=True)
def one_drill(monkeypatch):
    monkeypatch.setattr(questions.drill_cards, "ids", lambda: ["DRILL"])


@pytest.fixture
def check(tmp_path, capsys):
    """Run the validator over a text; return its exit code and what it printed."""

    def run(text, *more):
        paths = [tmp_path / f"f{number}.toml" for number in range(1 + len(more))]
        for path, content_ in zip(paths, (text, *more), strict=True):
            path.write_text(content_, encoding="utf-8")
        code = questions.main([str(path) for path in paths])
        return code, capsys.readouterr().out

    return run


GOOD_SET = GOOD.replace('[[passage]]\nid = "set"\nen = "A story."\nja = "ある話です。"\n', "")


def test_right_questions_pass(check):
    code, out = check(GOOD_SET, linked("s"))
    assert code == 0
    assert out.startswith("4 questions, 0 problems; 1 have a verify\n")
    assert "right option at: 1: 0, 2: 1, 3: 3, 4: 0" in out


WRONG = {
    "missing language": ('ja = "事前分布でのKLはいくつですか。"', "", "text: ja is missing"),
    "empty language": ('en = "zero"', 'en = " "', "option 2: en is missing"),
    "three options": ('[[question.option]]\nsame = "1"\nvalue = 1\n', "", "has 3 options, want 4"),
    "no right one": ("right = true", "", "has 0 options with right = true, want one"),
    "two right ones": (
        'same = "1"\n',
        'same = "1"\nright = true\n',
        "has 2 options with right = true",
    ),
    "unknown topic": ('topic = "elbo"', 'topic = "gan"', "unknown topic 'gan', want one of ae"),
    "unknown kind": ('"calculation"', '"sum"', "unknown kind 'sum'"),
    "unknown lesson": ("09_gaussian_kl", "09_kl", "unknown lesson '09_kl'"),
    "unknown passage": (
        'kind = "calculation"',
        'kind = "linked"\npassage = "st"',
        "unknown passage 'st'",
    ),
    "passage unasked": (
        'kind = "calculation"',
        'kind = "calculation"\npassage = "set"',
        "has a passage, but is not of kind linked",
    ),
    "unknown drill": ('"DRILL"', '"kl"', "unknown drill 'kl'"),
    "drill of no calculation": ('"calculation"', '"code"', "has a drill, but is not of kind"),
    "same options": ('same = "1"', 'same = "3"', "two options are the same in en"),
    "unknown key": ("drill =", "dril =", "unknown key dril"),
    "unknown option key": ("value = 3", "value = 3\nwhy = 1", "option 3: unknown key why"),
    "same and en": ('same = "3"', 'same = "3"\nen = "3"', "option 3: want either same, or en and"),
    "bad id": ("kl-at-prior", "KL at prior", "the id is not in kebab-case"),
    "code no string": ("code = '''", "code = 3\nx = '''", "code is no string"),
    "English in ja": ("事前分布でのKLはいくつですか。", "What?", "the Japanese has no Japanese"),
    "Japanese in en": ("The two are equal.", "等しい", "the English has Japanese characters"),
    "half-width comma": ("2つの分布が等しい", "2つの分布が,等しい", "half-width punctuation"),
    "no value": ("value = 3\n", "", "option 3: no value for verify"),
    "value without verify": ("verify = '''", "code2 = '''", "a value, but no for verify"),
    "wrong key": ("value = 0\n", "value = 2\n", r"option 2 (2) is right, but verify says False"),
    "two verify": ("value = 3\n", "value = 0.0\n", r"option 3 (0.0) is wrong, but verifies"),
    "verify raises": ("np.zeros(3)", "np.zero(3)", "option 1: verify raised AttributeError"),
    "verify sets nothing": ("ok = ", "okay = ", "ok is None, want True or False"),
    "not TOML": ("[question.text]", "[question.text", "f0.toml: "),
    "unknown table": ("[[passage]]", "[[pasage]]", "unknown pasage, want [[passage]] and"),
    "requires": ("verify =", 'requires = "jax"\nverify =', "requires 'jax', want torch"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_question_is_named_with_its_file(name, check):
    old, new, says = WRONG[name]
    assert old in GOOD
    code, out = check(GOOD.replace(old, new, 1))
    assert code == 1
    line = next(line for line in out.splitlines() if says in line)
    assert "f0.toml: " in line
    if name not in ("not TOML", "unknown table", "bad id"):
        assert ": kl-at-prior: " in line


def test_an_id_used_twice_is_named_with_both_files(check):
    code, out = check(GOOD_SET, GOOD_SET)
    assert code == 1
    assert "f1.toml: kl-at-prior: the id is used twice (also in f0.toml)" in out


@pytest.mark.parametrize("n", [2, 5])
def test_a_passage_with_too_few_or_many_questions(n, check):
    code, out = check(linked("s", n))
    assert code == 1
    assert f"passage s: has {n} questions, want 3 or 4" in out


def test_load_raises_with_file_and_id(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(question("a", lesson="99_nothing"), encoding="utf-8")
    with pytest.raises(ValueError, match=r"mine\.toml: a: unknown lesson '99_nothing'"):
        questions.load([path])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('id = "kl-at-prior"', f"id = {'9' * 5000}"),  # more digits than Python converts
        ('id = "kl-at-prior"', 'id = "\\u001b[2J"'),
        ('id = "kl-at-prior"', f'id = "{"x" * 5000}"'),
        ('[[question.option]]\nsame = "3"\nvalue = 3\n', ""),
    ],
)
def test_a_bad_file_is_one_line_with_its_name(old, new, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(GOOD.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
        questions.load([path])
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


def test_an_option_that_is_no_table(tmp_path):
    path = tmp_path / "mine.toml"
    options = '[{ same = "1", right = true }, { same = "2" }, { same = "3" }, 4]'
    start = GOOD_SET.index("[[question.option]]")
    text = GOOD_SET[:start].replace("[question.text]", f"option = {options}\n[question.text]")
    path.write_text(re.sub(r"verify = '''.*?'''", "", text, flags=re.DOTALL), encoding="utf-8")
    with pytest.raises(ValueError, match=r"mine\.toml: kl-at-prior: has 3 options, want 4"):
        questions.load([path])


def test_load_makes_cards(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(GOOD_SET + linked("s"), encoding="utf-8")
    card, first, *_ = questions.load([path])
    assert card.code == "kl = 0.5 * np.sum(mu**2 + np.exp(logvar) - 1 - logvar)"
    assert card.options[0] == Option({"en": "1.5", "ja": "1.5"})
    assert card.options[1] == Option({"en": "zero", "ja": "ゼロ"}, right=True)
    assert card.drill == "DRILL"
    assert (first.passage, first.passage_id) == (
        {"en": "A story about s.", "ja": "sの話です。"},
        "mine/s",
    )


def test_the_validator_is_a_command(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(question("a").replace("right = true", ""), encoding="utf-8")
    command = [sys.executable, "-m", "scratchvae.practice.questions", str(path)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, encoding="utf-8"
    )
    assert done.returncode == 1
    assert f"{path}: a: has 0 options with right = true" in done.stdout


def test_longest():
    def card(*texts):
        options = [Option({"en": text}, right=text.isupper()) for text in texts]
        return Card("a", "ae", "concept", "05_autoencoder", {}, tuple(options), {})

    assert questions.longest(card("AAA", "b", "c", "d"), "en") == 1
    assert questions.longest(card("A", "bbb", "c", "d"), "en") == 0
    assert questions.longest(card("AA", "bb", "c", "d"), "en") == 0.5


# ------------------------------------------------------------------------------- all that is ours

READ = questions.read()
LOADED = {question.card.id: question for question in READ[0]}
CARDS = [question.card for question in READ[0]]


def test_all_are_well_formed():
    assert READ[1] == []


def test_all_drills_exist(monkeypatch):
    monkeypatch.undo()
    assert questions.drill_problems(LOADED.values()) == []


def test_every_calculation_comes_back_with_new_numbers():
    assert [card.id for card in CARDS if card.kind == "calculation" and card.drill is None] == []


@pytest.mark.parametrize(
    "id",
    [
        pytest.param(id, marks=[pytest.mark.torch] if LOADED[id].requires else [])
        for id in LOADED
        if LOADED[id].verify
    ],
)
def test_exactly_the_right_option_verifies(id):
    if questions.missing(LOADED[id]):
        pytest.skip("PyTorch is missing: pip install 'scratchvae[bench]'")
    assert questions.prove(LOADED[id]) == []


def test_there_are_enough():
    assert len(CARDS) >= 120
    topics = Counter(card.topic for card in CARDS)
    assert min(topics[topic] for topic in TOPICS) >= 6
    kinds = Counter(card.kind for card in CARDS)
    assert min(kinds[kind] for kind in questions.KINDS) >= 8
    assert sum("torch" in card.code for card in CARDS) >= 5


def test_most_answers_are_computed():
    for kind in ("calculation",):
        unproved = [q.card.id for q in READ[0] if q.card.kind == kind and not q.verify]
        assert unproved == []
    assert sum(bool(q.verify) for q in READ[0]) >= 0.9 * len(CARDS)


def test_the_lessons_are_there():
    stems = sorted(path.stem for path in (ROOT / "lessons").glob("[0-9]*.py"))
    assert list(questions.lessons()) == stems
    for stem, title in questions.lessons().items():
        first = (ROOT / "lessons" / f"{stem}.py").read_text(encoding="utf-8").splitlines()[1]
        assert first == f"{int(stem[:2])}. {title['en']} / {title['ja']}"


def test_the_right_option_is_not_always_in_one_place():
    places = Counter([option.right for option in card.options].index(True) for card in CARDS)
    assert max(places.values()) < 0.4 * len(CARDS)
    assert min(places[place] for place in range(4)) > 0.1 * len(CARDS)


@pytest.mark.parametrize("language", ["en", "ja"])
def test_always_the_longest_option_does_not_pass(language):
    assert sum(questions.longest(card, language) for card in CARDS) < 0.45 * len(CARDS)


def test_every_topic_and_kind_has_its_name():
    names = content.read(content.ROOT / "messages" / "screen.toml")
    for key in [f"topic_{t}" for t in TOPICS] + [f"kind_{k}" for k in questions.KINDS]:
        assert set(names[key]) == {"en", "ja"}


@pytest.mark.parametrize("name", ["screen", "quiz", "exam", "review", "progress", "lessons"])
def test_messages_have_the_same_placeholders_in_both_languages(name):
    for key, text in content.read(content.ROOT / "messages" / f"{name}.toml").items():
        assert set(text) == {"en", "ja"}, key
        found = [sorted(set(re.findall(r"\{(\w*)", text[language]))) for language in text]
        assert found[0] == found[1], key
