"""The bug hunts: every planted bug trips its oracle, every fix and every decoy passes, and the
command leads a learner through them in both languages."""

import contextlib
import io
import json
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
from rich.cells import cell_len
from terminal import Shell, Terminal

from scratchvae.cli import main
from scratchvae.practice import bughunt_files, bughunt_oracles, content
from scratchvae.practice.bughunt_files import ORACLES, assess, changed, load, load_all, look
from scratchvae.practice.language import Messages
from scratchvae.practice.state import State

HUNTS = load_all()
BY_NUMBER = {hunt.number: hunt for hunt in HUNTS}
DECOYS = [hunt for hunt in HUNTS if hunt.oracle == "none"]
BUGGY = [hunt for hunt in HUNTS if hunt.oracle != "none"]
LESSONS = Path(__file__).parents[1] / "lessons"
JAPANESE = re.compile(r"[ぁ-ゖァ-ヺ一-鿿]")
HALF_WIDTH = re.compile(r"[ぁ-ゖァ-ヺ一-鿿][,.;!?)]|\([ぁ-ゖァ-ヺ一-鿿]")
each = pytest.mark.parametrize("hunt", HUNTS, ids=lambda hunt: hunt.stem)
each_bug = pytest.mark.parametrize("hunt", BUGGY, ids=lambda hunt: hunt.stem)
each_decoy = pytest.mark.parametrize("hunt", DECOYS, ids=lambda hunt: hunt.stem)


def objecting(hunt, source):
    """The oracles that object, asked in this process."""
    tables = [{"holds": p.holds, "run": p.run} for p in hunt.properties]
    with np.errstate(all="ignore"):
        said = bughunt_oracles.judge(source, hunt.draw, tables)
    assert "interface" not in said, said
    found = {hunt.properties[i].oracle for i in said["properties"]}
    return [o for o in ORACLES if o in found or (o == "gradient" and said["gradient"])]


def claimed(source, oracle):
    return source.replace('ORACLE = "?"', f'ORACLE = "{oracle}"')


def solved_text(hunt):
    return claimed(bughunt_files.CLAIM, hunt.oracle) + hunt.program


# --------------------------------------------------------------------------------- the content


def test_there_are_enough_of_each_kind():
    assert len(BUGGY) >= 16
    assert len(DECOYS) >= 4
    assert [hunt.number for hunt in HUNTS] == list(range(1, len(HUNTS) + 1))
    for oracle in ORACLES:
        assert sum(hunt.oracle == oracle for hunt in HUNTS) >= 4


@each
def test_texts(hunt):
    assert (LESSONS / f"{hunt.lesson}.py").exists()
    texts = [hunt.title, hunt.story, hunt.explanation, hunt.source_note, *hunt.hints]
    for text in [*texts, *(p.text for p in hunt.properties)]:
        assert JAPANESE.search(text["ja"]), text
        assert not JAPANESE.search(text["en"]), text
        assert not HALF_WIDTH.search(text["ja"]), text["ja"]
    assert not re.search("gradient oracle|meaning oracle|neither", hunt.story["en"])
    assert hunt.source or "no public source found" in hunt.source_note["en"]


@each
def test_program_is_short_and_says_nothing_of_the_answer(hunt):
    lines = hunt.wrong.split("\n")
    assert 40 <= len([line for line in lines if line.strip()]) <= 90
    assert max(map(len, lines)) <= 100
    assert "ORACLE" not in hunt.wrong
    assert not re.search(r"\b(bug|wrong|fixme|todo)\b", hunt.wrong, re.I)


@each
def test_program_runs_and_prints_numbers(hunt):
    for source in [hunt.wrong, hunt.program] if hunt.not_finite else [hunt.wrong]:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), np.errstate(all="ignore"):
            exec(compile(source, hunt.stem, "exec"), {"__name__": "__main__"})
        text = printed.getvalue()
        numbers = re.findall(r"-?\d+\.\d+(?:e[-+]\d+)?|\bnan\b|\binf\b", text)
        assert len(numbers) >= 2
        infinite = not np.isfinite([float(number) for number in numbers]).all()
        assert infinite == (hunt.not_finite and source == hunt.wrong), text


@each
def test_right_program_is_silent(hunt):
    assert objecting(hunt, hunt.program) == []


@each_bug
def test_bug_trips_its_oracle_first(hunt):
    found = objecting(hunt, hunt.wrong)
    assert found[:1] == [hunt.oracle], found
    if hunt.oracle != "gradient":
        assert found == [hunt.oracle]


@each_decoy
def test_decoy_is_spoilt_by_what_looks_like_its_fix(hunt):
    assert hunt.wrong == hunt.program
    assert hunt.wrong_fixes
    for fix in hunt.wrong_fixes:
        assert objecting(hunt, changed(hunt.program, fix)), fix


OTHER_FIXES = {  # right, and not as the file has it
    2: [
        ("kl, (x, h, mu, logvar, z, g, y)", "kl, (x, h, mu, logvar, z, g, y, eps)"),
        ("z, g, y = cache\n    eps = rng.standard_normal(mu.shape)\n", "z, g, y, eps = cache\n"),
    ],
    6: [
        ("axis=1).mean()\n\n\ndef kl_grad", "axis=1).mean() / D\n\n\ndef kl_grad"),
        (
            "return mu / len(mu), (np.exp(logvar) - 1)",
            "return mu / len(mu) / D, (np.exp(logvar) - 1) / D",
        ),
    ],
    8: [("- logvar, axis=1) - 1)", "- logvar, axis=1) - L)")],
    12: [("seen = 2 * x - 1", "seen = 2 * corrupt(x, rng) - 1")],
    13: [
        ('    for layer in ("h", "mu", "lv", "x"):\n', "    if True:\n"),
        ('for k in (f"W_{layer}", f"b_{layer}"):', "for k in gradients:"),
    ],
    21: [("x = data[start : start + 50]", "x = data[start : start + 50].copy()")],
    22: [
        ("    y = sigmoid(logits)\n", "    t = np.log1p(np.exp(-np.abs(logits)))\n"),
        (
            "-np.sum(x * np.log(y) + (1 - x) * np.log(1 - y),",
            "np.sum(logits.clip(0) + t - x * logits,",
        ),
    ],
    26: [("loss_and_gradients(p, data, noise)", "loss_and_gradients(p, data, rng)")],
}


@pytest.mark.parametrize("number", OTHER_FIXES)
def test_another_right_fix_passes(number):
    hunt, changes = BY_NUMBER[number], OTHER_FIXES[number]
    for before, _ in changes:
        assert hunt.wrong.count(before) == 1
    assert objecting(hunt, changed(hunt.wrong, changes)) == []


def test_clipping_is_no_fix_of_the_overflow():
    hunt = BY_NUMBER[22]
    clipped = hunt.wrong.replace(
        "y = sigmoid(logits)\n", "y = sigmoid(logits).clip(1e-7, 1 - 1e-7)\n"
    )
    assert clipped != hunt.wrong
    assert "meaning" in objecting(hunt, clipped)


@pytest.mark.parametrize(
    ("before", "after", "complaint"),
    [
        ('oracle = "meaning"', 'oracle = "luck"', "oracle: got 'luck'"),
        ('oracle = "meaning"', 'oracle = "none"', "a decoy"),
        ("https://github.com/", "https://example.com/", "source"),
        ("[title]\nen", "[title]\nfr", "title: has no en"),
        ("mu + np.exp(logvar / 2) * eps, eps'", "nowhere in the program'", "0 times"),
        ("\ndata = '", "\ndada = '", "draw: missing data"),
        ("[source_note]", "[note]", "missing: source_note"),
    ],
)
def test_a_broken_file_is_refused(tmp_path, before, after, complaint):
    text = (content.ROOT / "bughunts" / "01_first_digits.toml").read_text(encoding="utf-8")
    assert before in text
    path = tmp_path / "01_first_digits.toml"
    path.write_text(text.replace(before, after, 1), encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(complaint)) as error:
        load(path)
    assert str(path) in str(error.value)


def test_messages_in_both_languages_have_the_same_places():
    path = content.ROOT / "messages" / "bughunt.toml"
    for key, text in tomllib.loads(path.read_text(encoding="utf-8")).items():
        assert set(text) == {"en", "ja"}, key
        assert set(re.findall(r"{\w+}", text["en"])) == set(re.findall(r"{\w+}", text["ja"])), key


# -------------------------------------------------------------------------------- the verdicts


def test_nothing_is_told_before_the_learner_commits_himself():
    for hunt in (BY_NUMBER[1], DECOYS[0]):
        unquoted = hunt.text.replace('"?"', "gradient", 1)
        texts = {hunt.text: "no claim", hunt.wrong: "no claim"}
        texts |= {claimed(hunt.text, "勾配"): "bad claim", unquoted: "bad claim"}
        for text, kind in texts.items():
            verdict = assess(hunt, text)
            assert (verdict.kind, verdict.judged) == (kind, False)
        comment = claimed(hunt.text, "meaning").replace("# ", "# by me: ", 1)
        assert assess(hunt, comment).kind == "unchanged"


def test_right_fix_and_right_name():
    hunt = BY_NUMBER[1]
    assert assess(hunt, solved_text(hunt)).kind == "solved"
    for wrong in ("gradient", "none"):
        verdict = assess(hunt, solved_text(hunt).replace('"meaning"', f'"{wrong}"', 1))
        assert verdict.kind == "wrong oracle"
    assert assess(hunt, claimed(hunt.text, "none")).kind == "not none"


def test_a_change_elsewhere_is_not_yet_a_fix():
    hunt = BY_NUMBER[1]
    verdict = assess(hunt, claimed(hunt.text, "meaning").replace("lr=0.003", "lr=0.002"))
    assert verdict.kind == "not yet"
    assert verdict.fresh.objecting == ()  # nothing that the bug itself causes is told


def test_half_a_fix_says_what_it_made_worse():
    hunt = BY_NUMBER[1]
    half = changed(claimed(hunt.text, "meaning"), [hunt.bugs[0][::-1]])
    verdict = assess(hunt, half)
    assert verdict.kind == "not yet"
    assert verdict.fresh.objecting == ("gradient",)
    assert "W_lv" in verdict.fresh.gradient


def test_decoys():
    hunt = DECOYS[0]
    assert assess(hunt, claimed(hunt.text, "none")).kind == "solved"
    assert assess(hunt, claimed(hunt.text, "none").replace("lr=", "lr = ")).kind == "solved"
    spoilt = changed(claimed(hunt.text, "meaning"), hunt.wrong_fixes[0])
    verdict = assess(hunt, spoilt)
    assert verdict.kind == "not yet"
    assert verdict.fresh.objecting == ("meaning",)
    harmless = claimed(hunt.text, "meaning").replace("lr=0.003", "lr=0.004")
    assert assess(hunt, harmless).kind == "wrong oracle"


ENCODE = "    h, mu, logvar = encode(p, x)\n"
BROKEN = [
    ("def kl(mu, logvar):", "def kl(mu, logvar)", "syntax", "def kl(mu, logvar)"),
    (ENCODE, "    h, mu, logvar = 1 / 0, x, x\n", "exception", "1 / 0"),
    (ENCODE, "    raise SystemExit\n", "exit", "raise SystemExit"),
    ("import numpy as np\n", "import numpy as np\nprint(undefined)\n", "exception", "undefined"),
]


@pytest.mark.parametrize(("before", "after", "kind", "line"), BROKEN)
def test_what_stops_a_program_is_named_with_its_line(before, after, kind, line):
    hunt = BY_NUMBER[1]
    source = claimed(hunt.text, "meaning").replace(before, after, 1)
    verdict = assess(hunt, source)
    assert verdict.kind == "problem"
    assert verdict.said.problem.kind == kind
    assert line in verdict.said.problem.source
    assert source.split("\n")[verdict.said.problem.line - 1].strip() == verdict.said.problem.source


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("def update(", "def improve(", "update"),
        ("def kl(mu, logvar):", "def kl(mu):", "kl"),
        ("    return loss, gradients | {", "    return loss, 5 or {", "loss_and_gradients"),
        ("rng.standard_normal(mu", "np.random.default_rng().standard_normal(mu", "rng"),
        ("        update(p, gradients, memory)\n", "        p.update(gradients)\n", "train"),
    ],
)  # fmt: skip
def test_what_the_checks_cannot_call_is_named(before, after, says):
    hunt = BY_NUMBER[1]
    assert hunt.program.count(before) == 1
    said = look(hunt, hunt.program.replace(before, after))
    assert says in said.interface


# --------------------------------------------------------------------------------- the command


@pytest.fixture
def at_home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_json_where_no_hunt_is_open(at_home, capsys):
    with State() as state:
        for hunt in HUNTS:
            state.record("bughunt", hunt.stem, True, {"event": "claim"})
    assert printed_json(capsys) == (0, {"name": None})


def printed_json(capsys, *arguments):
    code = main(["bughunt", *arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


@pytest.fixture
def stack():
    with contextlib.ExitStack() as stack:
        yield stack


WORDS = {
    "en": ("How a hunt goes", "Written", "not solved yet", "commit yourself", "is not the answer",
           "does not yet do", "solved\\.", "Seen in real code", "hint 1 of 3", "is not solved",
           "given up", "kept|what you wrote"),
    "ja": ("進め方", "作りました", "まだ解決していません", "先に自分の答え", "正解ではありません",
           "まだ正しく動いていません", "解決しました", "実際にあったコード", "ヒント1/3",
           "まだ解決していません", "記録しました", "残してあります"),
}  # fmt: skip


@pytest.mark.parametrize("language", ["en", "ja"])
def test_a_learner_solves_the_first_hunt(tmp_path, language, stack):
    (how, written, unsolved, commit, not_the_answer, not_yet, solved, real, hint, refused, given_up,
     kept) = WORDS[language]  # fmt: skip
    home, hunt = tmp_path / "home", HUNTS[0]
    path = tmp_path / "bughunts" / f"{hunt.stem}.py"

    place = {"cwd": tmp_path, "home": home, "rows": 200}
    with Terminal("bughunt", "--lang", language, **place) as terminal:
        assert terminal.wait() == 0
        text = terminal.text
    assert re.search(how, text)
    assert re.search(written, text)
    assert path.read_text(encoding="utf-8") == hunt.text

    shell = stack.enter_context(Shell(**place))

    def scratchvae(*arguments, code=0):
        got, text = shell.run("bughunt", *arguments)
        assert got == code, text
        return text

    text = scratchvae("run", code=1)  # the language is remembered
    assert re.search(unsolved, text)
    assert re.search(commit, text)
    assert not re.search("logvar", text)

    text = scratchvae("solution", code=2)
    assert re.search(refused, text)
    assert "--give-up" in text
    assert re.search(hint, scratchvae("hint"))

    path.write_text(claimed(hunt.text, "neither").replace("lr=0.003", "lr=0.002"), encoding="utf-8")
    mine = path.read_bytes()
    text = scratchvae("run", code=1)
    assert re.search(not_yet, text.replace("\n", ""))
    assert "sample" not in text
    scratchvae()  # shows the task again
    assert path.read_bytes() == mine

    fixed = claimed(bughunt_files.CLAIM, "gradient") + hunt.program
    path.write_text(fixed, encoding="utf-8")
    text = scratchvae("run", code=1)
    assert re.search(not_the_answer, text.replace("\n", " "))
    path.write_text(solved_text(hunt), encoding="utf-8")
    text = scratchvae("run")
    for words in (solved, real, hunt.source, hunt.lesson, r"scratchvae bughunt 2\W"):
        assert re.search(words, text), words
    assert "+    return mu + np.exp(logvar / 2) * eps, eps" in text

    listed = scratchvae("list")
    assert f"[x]  1  {hunt.title[language]}" in listed
    assert f"> [ ]  2  {HUNTS[1].title[language]}" in listed
    text = scratchvae("solution", "2", "--give-up")
    assert re.search(given_up, text.replace("\n", ""))
    text = scratchvae("reset", "1")
    assert re.search(kept, text)
    assert path.read_text(encoding="utf-8") == hunt.text
    assert Path(f"{path}.bak-1").read_text(encoding="utf-8") == solved_text(hunt)


@pytest.mark.parametrize("language", ["en", "ja"])
def test_a_learner_solves_each_hunt(tmp_path, language):
    """A decoy is solved by leaving it as it is; a buggy program that is left as it is, is not, and
    its oracle is the one that is said to object to it."""
    say = Messages("bughunt", language)
    (tmp_path / "bughunts").mkdir()

    def shown(text):
        return "".join(text.replace("│", "").split())

    with Shell(cwd=tmp_path, home=tmp_path / "home", columns=80, rows=200) as shell:

        def checked(hunt, text, code):
            (tmp_path / "bughunts" / f"{hunt.stem}.py").write_text(text, encoding="utf-8")
            got, out = shell.run("bughunt", "run", str(hunt.number), "--lang", language)
            assert got == code, out
            assert all(cell_len(line) <= 80 for line in out.split("\n")), out
            return shown(out)

        for hunt in HUNTS:
            if hunt in BUGGY:
                left = checked(hunt, claimed(hunt.text, "none"), 1)
                assert shown(say("verdict_not_none")) in left
                assert not any(shown(say(oracle)) in left for oracle in ORACLES)  # not given away
            right = claimed(hunt.text, "none") if hunt in DECOYS else solved_text(hunt)
            solved = checked(hunt, right, 0)
            for text in (hunt.title, hunt.explanation, hunt.source_note):
                assert shown(text[language]) in solved
            for oracle in ORACLES:
                if oracle == hunt.oracle or hunt.oracle != "gradient" or oracle == "gradient":
                    verdict = say("objects" if oracle == hunt.oracle else "silent")
                    assert shown(say("oracle", oracle=say(oracle), verdict=verdict)) in solved
        shell.send("\x04")
        assert shell.wait() == 0


@pytest.mark.parametrize("language", ["en", "ja"])
def test_lines_fit_the_terminal(tmp_path, language):
    solution = ["solution", "16", "--give-up"]
    for columns, arguments in ((40, []), (40, ["list"]), (40, solution), (120, [])):
        words = ["bughunt", "--lang", language, *arguments]
        home = tmp_path / "home"
        with Terminal(*words, cwd=tmp_path, home=home, columns=columns, rows=200) as terminal:
            assert terminal.wait() == 0
            for line in terminal.text.split("\n"):
                assert cell_len(line) <= columns, line


@pytest.mark.parametrize(
    ("line", "en", "ja"),
    [
        ("h = np.tanh(y)", "NameError", "NameError"),
        ("h = np.tanh(x.T @ p['W_h'])", r"product does not fit", "行列積の形状が合いません"),
        ("raise NotImplementedError", "NotImplementedError", "NotImplementedError"),
    ],
)
def test_a_crash_in_the_terminal(tmp_path, line, en, ja):
    hunt = HUNTS[0]
    path = tmp_path / "bughunts" / f"{hunt.stem}.py"
    path.parent.mkdir()
    begins = '    h = np.tanh(x @ p["W_h"]'
    crash = claimed(hunt.text, "meaning").replace(begins, f"    {line}\n{begins}", 1)
    number = crash[: crash.index(line)].count("\n") + 1
    path.write_text(crash, encoding="utf-8")
    for language, what, where in (("en", en, f"line {number}:"), ("ja", ja, f"{number}行目:")):
        words = ["bughunt", "run", "1", "--lang", language]
        with Terminal(*words, cwd=tmp_path, home=tmp_path / "home") as terminal:
            terminal.expect(what)
            terminal.expect(where)
            assert terminal.wait() == 1


def test_a_loop_that_does_not_end(at_home, capsys, monkeypatch):
    monkeypatch.setattr(bughunt_files, "SECONDS", 1.5)
    main(["bughunt", "--lang", "en"])
    path = at_home / "bughunts" / f"{HUNTS[0].stem}.py"
    loop = claimed(HUNTS[0].text, "meaning").replace(ENCODE, "    while True:\n        pass\n", 1)
    path.write_text(loop, encoding="utf-8")
    capsys.readouterr()
    assert main(["bughunt", "run"]) == 1
    out = capsys.readouterr().out
    assert "Still running" in out
    assert re.search(r"line \d+: (pass|while True:)", out)


def test_json_state_skip_and_names(at_home, capsys):
    code, report = printed_json(capsys, "skip", "first_digits", "--lang", "en")
    assert (code, report["next"]) == (0, HUNTS[1].stem)
    code, report = printed_json(capsys)
    assert (code, report["name"], report["written"]) == (0, HUNTS[1].stem, True)
    assert (at_home / report["file"]).read_text(encoding="utf-8") == HUNTS[1].text
    assert printed_json(capsys)[1]["written"] is False
    code, report = printed_json(capsys, "list")
    assert [row["state"] for row in report["bughunts"][:2]] == ["skipped", "open"]
    assert len(report["bughunts"]) == len(HUNTS)
    assert printed_json(capsys, "reset", "1")[1]["kept"] is None
    assert printed_json(capsys, "list")[1]["bughunts"][0]["state"] == "open"
    code, report = printed_json(capsys, "3")
    assert (code, report["name"], report["written"]) == (0, HUNTS[2].stem, True)
    for level in (1, 2, 3, 3):
        assert printed_json(capsys, "hint", "2")[1]["level"] == level

    decoy = DECOYS[0]
    main(["bughunt", "reset", str(decoy.number)])
    path = at_home / "bughunts" / f"{decoy.stem}.py"
    path.write_text(claimed(decoy.text, "none"), encoding="utf-8")
    capsys.readouterr()
    other = str(at_home / "other.sqlite3")
    code, report = printed_json(capsys, "run", str(decoy.number), "--state", other)
    assert (code, report["solved"], report["claim"]) == (0, True, "none")
    with State(other) as state:
        assert [(a.id, a.right) for a in state.answers("bughunt")] == [(decoy.stem, True)]
    assert printed_json(capsys, "list")[1]["solved"] == 0

    path.write_text(claimed(decoy.text, "neither"), encoding="utf-8")
    code, report = printed_json(capsys, "run", str(decoy.number))
    assert (code, report["verdict"]) == (1, "unchanged")
    code, report = printed_json(capsys, "solution", str(decoy.number), "--give-up")
    assert (report["oracle"], report["difference"], report["solved"]) == ("none", "", False)


@pytest.mark.parametrize(
    "arguments",
    [["99"], ["run", "99"], ["run", "digits"], ["run", "5"], ["skip", "nowhere"], ["fly"]],
)
def test_bad_usage(at_home, capsys, arguments):
    assert main(["bughunt", *arguments]) == 2
    assert len(capsys.readouterr().err.strip().split("\n")) <= 3


@pytest.mark.parametrize(("language", "comma"), [("en", ", "), ("ja", "、")])
@pytest.mark.parametrize(("command", "part"), [("bughunt", "latents"), ("exercise", "vae")])
def test_a_part_of_several_names(at_home, capsys, command, part, language, comma):
    assert main([command, "skip", part, "--lang", language]) == 2
    said = capsys.readouterr().err
    names = re.findall(r"\d\d_[a-z_]+", said)
    assert len(names) == 2
    assert comma.join(names) in said


def test_a_file_that_is_no_text(at_home, capsys):
    main(["bughunt", "--lang", "en"])
    (at_home / "bughunts" / f"{HUNTS[0].stem}.py").write_bytes(b"\xff\xfe\x00")
    assert main(["bughunt", "run"]) == 1
    assert "UTF-8" in capsys.readouterr().out
