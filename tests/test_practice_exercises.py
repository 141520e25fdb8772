"""The exercises: every content file keeps its promises, both oracles object, the command works."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from terminal import Terminal

from scratchvae import cli
from scratchvae.explain import Finding, explain
from scratchvae.practice import content, diagnosis, exercises, grade, workbook
from scratchvae.practice.exercises import Exercise, load
from scratchvae.practice.grade import Grade, grade_sources, mistakes
from scratchvae.practice.language import Messages
from scratchvae.practice.sandbox import Outcome
from scratchvae.practice.workbook import Entry, Workbook

SEED = 20260
PATHS = content.files("exercises")
STEMS = [path.stem for path in PATHS]
LESSONS = {path.stem for path in (Path(__file__).parent.parent / "lessons").glob("*.py")}
RELU = next(path for path in PATHS if "relu" in path.stem)


@cache
def exercise(stem: str) -> Exercise:
    return load(content.ROOT / "exercises" / f"{stem}.toml")


def graded(stem: str, *bodies: str, language: str = "en") -> list[Grade]:
    ex = exercise(stem)
    return grade_sources(ex, [ex.text(language, body) for body in bodies], seed=SEED, seconds=60)


def said(ex: Exercise, got: Grade, language: str = "en") -> str:
    return "\n".join(line.text for line in diagnosis.report(ex, got, language))


# ------------------------------------------------------------------------------------ the content


def test_there_are_enough_exercises_and_their_numbers_give_the_order() -> None:
    assert len(PATHS) >= 24
    assert [int(stem[:2]) for stem in STEMS] == list(range(1, len(STEMS) + 1))


@pytest.mark.parametrize("stem", STEMS)
def test_each_answer_of_a_file_is_graded_as_declared(stem: str) -> None:
    """The blank fails, the solution passes, and each mutant is refused by its oracle with the right
    words; no right number is shown, and no English sentence is in a Japanese report."""
    ex = exercise(stem)
    assert len(ex.mutants) >= 3
    bodies = [ex.blank, ex.solution, *(mutant.source for mutant in ex.mutants)]
    blank, solution, *mutants = graded(stem, *bodies)
    assert mistakes(ex, 0, blank) == ""
    assert not blank.ok
    assert solution.ok, said(ex, solution)
    assert (solution.objections, solution.altered) == ((), ())
    right = [value for array in grade._Trial(ex, SEED).right[0] for value in np.ravel(array)[:200]]
    for k, got in enumerate(mutants, start=2):
        assert mistakes(ex, k, got) == "", ex.mutants[k - 2].kind + "\n" + said(ex, got)
        assert not got.ok
        text = said(ex, got) + said(ex, got, "ja")
        for value in right:
            assert f"{abs(value):.5g}" not in text or float(value).is_integer()
    for got in (blank, solution, *mutants):
        for line in diagnosis.report(ex, got, "ja"):
            assert line.style == "code" or no_english(line.text), line.text


def no_english(text: str) -> bool:
    """Whether no word of an English sentence is there; names, numbers and formulas may be."""
    words = "the is it its of and not your are has in with to by should right wrong missing term"
    words += " path head old new rest each where which factor shape want got"
    return not set(re.findall(r"[a-z]+", re.sub(r"\w*_\w*", "", text))) & set(words.split(" "))


def test_the_search_for_english_finds_it() -> None:
    assert not no_english("dxは it is averaged です")
    assert no_english("dxは正しい勾配の2倍です。dW_mu = 1.000 × mu")


@pytest.mark.parametrize("stem", STEMS)
def test_the_texts_are_complete(stem: str) -> None:
    ex = exercise(stem)
    assert ex.lesson in LESSONS
    assert len(ex.hints) == 3
    for text in (ex.title, ex.task, ex.derivation, *ex.hints, *(p.text for p in ex.properties)):
        assert re.search(r"[ぁ-んァ-ヶ一-龠]", text["ja"]) or text is ex.title, text["ja"]
        assert not re.search(r"[ぁ-んァ-ヶ一-龠]", text["en"])
        assert not re.search(r"[ぁ-んァ-ヶ一-龠][,.?!]", text["ja"])
        assert not re.search(r"[ぁ-んァ-ヶ一-龠]\([ぁ-ん一-龠]", text["ja"])
    lines = [line.strip() for line in ex.solution.splitlines()]
    written = [line for line in lines if re.match(r"(d\w+ =|return) .{5,}[*/@(]", line)]
    for hint in ex.hints:
        for line in written:
            for language in ("en", "ja"):
                assert line.removeprefix("return ") not in hint[language]


@pytest.mark.parametrize("stem", STEMS)
def test_the_learners_file_holds_all_that_is_needed(stem: str) -> None:
    ex = exercise(stem)
    for language in ("en", "ja"):
        text = ex.text(language)
        names: dict[str, Any] = {}
        exec(compile(text, stem, "exec"), names)
        assert content.text(ex.title, language) in names["__doc__"]
        assert content.text(ex.task, language).strip() in names["__doc__"]
        assert callable(names[ex.function])
        assert names[ex.function].__doc__
        assert ex.given_names <= set(names)
        assert all(names[name].__doc__ for name in ex.given_names)
        assert "scratchvae" not in text


def test_every_term_in_words_has_a_japanese_name() -> None:
    known = {*diagnosis._terms(), "log", "exp", "sigma"}
    for stem in STEMS:
        ex = exercise(stem)
        code = set(re.findall(r"[A-Za-z]+", ex.given + ex.solution + " ".join(ex.draw)))
        for output in ex.outputs:
            for name in output.terms:
                plain = re.sub(r"[A-Za-z]+_\w+", "", name)
                words = {w for w in re.findall(r"[A-Za-z]{3,}", plain) if w.lstrip("d") not in code}
                assert name in known or words <= known, f"{stem}: {name}"


@pytest.mark.parametrize("stem", STEMS)
def test_the_terms_add_up_to_the_gradient_or_the_value(stem: str) -> None:
    ex = exercise(stem)
    trial = grade._Trial(ex, SEED)
    names = {**trial.sizes[0], **trial.rounds[0]}
    for output, right in zip(ex.outputs, trial.right[0], strict=True):
        if not output.terms:
            continue
        terms = (
            [ex.evaluate(term, names) for term in output.terms.values()]
            if output.value
            else [*trial.terms(0, output).values()]
        )
        scale = max(np.abs(term).max() for term in terms)
        np.testing.assert_allclose(sum(terms), right, rtol=0, atol=1e-6 * scale)


# -------------------------------------------------------------------------- reading a content file


def broken(tmp_path: Path, old: str, new: str) -> Path:
    text = RELU.read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "04_relu.toml"
    path.write_text(text.replace(old, new), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("lesson =", "# lesson =", "lacks 'lesson'"),
        ("lesson =", "lessons =", "unknown key 'lessons'"),
        ("lesson =", "more = 1\nlesson =", "unknown key 'more'"),
        ("[title]", "[titel]", "unknown key 'titel'"),
        ('name = "dx"', 'name = "x"', "must be d and another name"),
        ('name = "dx"', 'name = "dx"\nof = "q"', "'q' is not under"),
        ("[[hint]]", "[[hints]]", "unknown key"),
        ("def backward(", "def back(", "want the one function backward"),
        ('objects = "gradient"', 'objects = "both"', "objects is 'both'"),
        ("letters = [", 'letters = ["B", "B", ', "each once"),
    ],
)
def test_a_broken_content_file_is_refused(
    tmp_path: Path, old: str, new: str, complaint: str
) -> None:
    path = broken(tmp_path, old, new)
    with pytest.raises(ValueError, match=re.escape(complaint)) as error:
        load(path)
    assert str(path) in str(error.value)


def test_a_mutant_that_replaces_nothing_is_refused(tmp_path: Path) -> None:
    path = broken(tmp_path, "replace = [", 'replace = ["nowhere", "x"]\nold = [')
    with pytest.raises(ValueError, match="unknown key"):
        load(path)


def test_the_authors_tool_tells_a_broken_promise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert grade.main([str(RELU)]) == 0
    path = broken(tmp_path, "says = ", "says = 'xyzzy' #")
    assert grade.main([str(path)]) == 1
    assert "NOT AS DECLARED: the diagnosis does not say 'xyzzy'" in capsys.readouterr().out


# ---------------------------------------------------------------------- what it is graded on


def test_numbers_and_sizes_are_fresh_and_reproducible() -> None:
    ex = exercise(RELU.stem)
    first, again = (grade._Trial(ex, 1) for _ in range(2))
    other = grade._Trial(ex, 2)
    for a, b in zip(first.rounds, again.rounds, strict=True):
        assert all(np.array_equal(a[name], b[name]) for name in a)
    assert any(
        a["x"].shape != b["x"].shape for a, b in zip(first.rounds, other.rounds, strict=True)
    )
    assert len({sizes["B"] for k in range(20) for sizes in grade._Trial(ex, k).sizes}) > 2
    for sizes in first.sizes:
        assert len(set(sizes.values())) == len(sizes)
        assert set(sizes.values()) <= set(exercises.PRIMES)
    one, two = (grade_sources(ex, [ex.text("en")]) for _ in range(2))
    assert one[0].seed != two[0].seed


def test_cases_of_a_property_share_what_is_not_replaced() -> None:
    ex = exercise(RELU.stem)
    sizes = ex.sizes([1])
    usual = ex.drawn([1], sizes)
    doubled = ex.drawn([1], sizes, {"dy": "2 * dy"})
    assert np.array_equal(doubled["dy"], 2 * usual["dy"])
    assert np.array_equal(doubled["x"], usual["x"])


CHEATS: dict[str, tuple[str, str]] = {
    "zeros": ("return np.zeros_like(x)", r"objects.*\n.*zero everywhere"),
    "hard-coded": ("return np.full((3, 5), 0.25)", r"has shape \(3, 5\)|wrong in"),
    "hard-coded number": ("return 0.25", r"has shape \(\)"),
    "ones": ("return np.ones_like(x)", "wrong in"),
    "the incoming gradient": ("return dy", "wrong in|missing"),
    "random": ("return np.random.standard_normal(x.shape)", "wrong in"),
    "the library": ("import scratchvae\n    return dy", "Importing scratchvae is refused"),
    "a framework": ("import torch\n    return dy", "Importing torch is refused"),
    "a difference": (
        "h = 1e-6\n    return dy * (forward(x + h) - forward(x - h)) / (2 * h)",
        "differentiates numerically",
    ),
    "a difference by names of its own": (
        "q, r = 2.0**-20, 2.0**19\n"
        "    return r * dy * (np.maximum(x + q, 0) - np.maximum(x - q, 0)) + 1e-10 * x",
        "differentiates numerically",
    ),
    "a complex step": ("return dy * forward(x + 1e-30j).imag / 1e-30", "complex step"),
    "None": ("pass", r"None: is a return missing.*\n\s+line \d+: pass"),
    "None in a tuple": ("return (None,)", "dx is None"),
    "too many": ("return dy * (x > 0), x", "returns 2 values, want: dx"),
    "a string": ("return 'dx'", r"dx is a str, want an array.*\n\s+line \d+: return 'dx'"),
    "objects": ("return np.array([None])", "array of object"),
    "NaN": ("return dy * (x > 0) * np.nan", r"has \d+ nan in .*\n\s+line \d+: return"),
    "a wrong shape": ("return (dy * (x > 0)).T", r"has shape .*transpose\n\s+line \d+: return"),
    "float32": (
        "return (dy * (x > 0)).astype('float32')",
        r"content\n.*right: dx\n.*objects\n.*dx is not float64",
    ),
    "integers": ("return np.zeros(x.shape, dtype=int)", "zero everywhere"),
    "overwrites dy": ("dy *= x > 0\n    return dy", "overwrites its argument dy"),
    "counts its calls": (
        "global n\n    n = globals_n = 1\n    return dy * (x > 0)",
        "",
    ),
    "adds up": (
        "backward.total = getattr(backward, 'total', 0) + 1\n    return dy",
        "getattr is refused",
    ),
    "remembers": (
        "forward.n = forward.__dict__.get('n', 0) + 1\n    return dy",
        "__dict__ is refused",
    ),
    "another answer the second time": (
        "seen.append(1)\n    return dy * (x > 0) * (len(seen) % 2 + 0)\n\n\nseen = []",
        "called a second time",
    ),
    "a print": ("print(x.shape)\n    return dy", r"printed:\n  \(\d+, \d+\)\nGradient"),
    "prints all it has, in each call": ("print(x, dy)\n    return dy", "objects"),
    "no ending": ("raise ValueError('no idea')", r"ValueError: no idea\n\s+line \d+: raise"),
}


@cache
def cheats() -> dict[str, Grade]:
    bodies = [f"def backward(dy, x):\n    {body}\n" for body, _ in CHEATS.values()]
    return dict(zip(CHEATS, graded(RELU.stem, *bodies), strict=True))


@pytest.mark.parametrize("name", [name for name in CHEATS if CHEATS[name][1]])
def test_a_dishonest_or_broken_answer_does_not_pass(name: str) -> None:
    got = cheats()[name]
    text = said(exercise(RELU.stem), got)
    assert not got.ok
    assert re.search(CHEATS[name][1], text), text
    japanese = said(exercise(RELU.stem), got, "ja")
    assert re.search(r"[ぁ-ん]", japanese)


def test_a_right_answer_may_keep_a_global() -> None:
    assert cheats()["counts its calls"].ok


def test_silence_is_no_pass() -> None:
    assert not Grade().ok
    trial = grade._Trial(exercise(RELU.stem), SEED)
    assert not trial.judge(Outcome()).ok
    assert not trial.judge(Outcome(returned=trial.right[:1], lines=[1])).ok


def test_a_file_that_is_no_text_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_bytes(b"x = '\xff'\n")
    got = grade.grade(exercise(RELU.stem), path)
    assert not got.ok
    assert "The file is not UTF-8 text" in said(exercise(RELU.stem), got)


def test_a_byte_order_mark_and_line_ends_of_windows_are_no_obstacle(tmp_path: Path) -> None:
    ex = exercise(RELU.stem)
    path = tmp_path / "a.py"
    text = ex.text("ja", ex.solution).replace("\n", "\r\n")
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert grade.grade(ex, path).ok


def test_an_endless_loop_is_told_with_its_line() -> None:
    ex = exercise(RELU.stem)
    body = "def backward(dy, x):\n    while True:\n        pass\n"
    got = grade_sources(ex, [ex.text("en", body)], seconds=0.5)[0]
    assert re.search(r"Still running after 0.5 seconds.*\n\s+line \d+: (while|pass)", said(ex, got))


def test_a_changed_forward_is_told_and_not_used() -> None:
    ex = exercise(RELU.stem)
    text = ex.text("en", ex.solution).replace("np.maximum(x, 0", "np.maximum(-x, 0")
    assert text != ex.text("en", ex.solution)
    got = grade_sources(ex, [text], seed=SEED)[0]
    assert got.ok
    assert got.altered
    assert "Your file changes the given" in said(ex, got)


def test_after_the_first_wrong_array_the_later_ones_are_excused() -> None:
    stem = next(s for s in STEMS if len(exercise(s).outputs) > 4)
    answers = graded(stem, *(mutant.source for mutant in exercise(stem).mutants))
    got = next(g for g in answers if sum(not o.ok for o in g.outputs) > 2)
    wrong = [o.name for o in got.outputs if not o.ok]
    text = said(exercise(stem), got)
    expected = f"{', '.join(wrong[1:])}: after {wrong[0]} in the backward pass; may be wrong only"
    assert expected in text


# ---------------------------------------------------------------------- the words in Japanese


RNG = np.random.default_rng(0)
N = RNG.standard_normal((7, 3))
SIZES = {"B": 7, "L": 3}


def put(where: Any, value: Any) -> Callable[[np.ndarray], np.ndarray]:
    def change(a: np.ndarray) -> np.ndarray:
        b = a.copy()
        b[where] = value(b[where]) if callable(value) else value
        return b

    return change


WRONG: dict[str, tuple[Any, str, str]] = {
    "zero": (0 * N, "zero", "すべて0"),
    "factor": (2 * N, "factor", "2.000倍.*二重に数えているか"),
    "half": (N / 2, "factor", "1/2で、|余分な1/2"),
    "averaged": (N / 3, "factor", "0.333 = 1/Lで、dmuを潜在変数（L）について1回余分に平均"),
    "averaged over the batch": (N / 7, "factor", "ミニバッチ（B）について1回余分に平均"),
    "summed": (3 * N, "factor", "潜在変数（L）について足し合わせていますが"),
    "sign": (-N, "factor", "符号が逆です。$"),
    "both": (-2 * N / 21, "factor", "符号が逆です。また、.*ミニバッチ（B）と潜在変数（L）"),
    "odd factor": (0.77 * N, "factor", "0.770倍です。$"),
    "shape": (N.T, "wrong shape", "転置した形"),
    "summed away": (N.sum(0), "wrong shape", "和を(と|取)る軸"),
    "flat": (N.ravel(), "wrong shape", "並べ方"),
    "kept": (N[None], "wrong shape", "長さ1の余分な軸"),
    "not summed": (np.stack([N, N]), "wrong shape", "ミニバッチについて和を(と|取)っていません"),
    "other shape": (np.zeros((2, 2)), "wrong shape", r"\(2, 2\)"),
    "nan": (put((0, 0), np.nan)(N), "not finite", "NaNが1個"),
    "inf": (put((0, 0), np.inf)(N), "not finite", "infが1個"),
    "rows": (put(slice(0, 2), lambda v: 2 * v)(N), "rows", "行2、3、4、5、6では正しく、行0、1"),
    "columns": (put((slice(None), 1), lambda v: v**2)(N), "columns", "列0、2では正しく"),
    "own factors": (N * np.arange(2, 9)[:, None], "rows", "すべての行.*それぞれ別の係数"),
    "offset": (N + 1, "offset", "同じ定数"),
    "row offset": (N + np.arange(7)[:, None], "offset", "行ごとに同じ定数"),
    "elements": (put((2, 1), 9.0)(N), "elements", r"21個の要素のうち1個（\(2, 1\)）"),
    "sign only": (np.abs(N), "sign", "違うのは符号だけ"),
    "own factor": (N * np.exp(N), "different", "活性化関数の微分"),
    "anything": (RNG.standard_normal((7, 3)), "different", "余弦は"),
}


@pytest.mark.parametrize("name", WRONG)
def test_each_finding_is_put_into_japanese(name: str) -> None:
    claim, kind, pattern = WRONG[name]
    found = explain(claim, N, sizes=SIZES, name="dmu")[0]
    assert found.kind == kind
    text = diagnosis.finding(found, "dmu", "ja")
    assert re.search(pattern, text), text
    assert no_english(text)
    assert text.startswith("dmu")
    assert diagnosis.finding(found, "dmu", "en") == found.text


def test_values_in_the_wrong_order_are_told() -> None:
    ex = load(next(path for path in content.files("exercises") if "reparameterize" in path.stem))
    text = ex.text("en", ex.solution.replace("return dmu, dlogvar", "return dlogvar, dmu"))
    (got,) = grade_sources(ex, [text], seed=1)
    for language, words in (
        ("en", "dmu holds what belongs to dlogvar"),
        ("ja", "dmuの位置にdlogvar"),
    ):
        lines = [line.text for line in diagnosis.report(ex, got, language)]
        assert words in "\n".join(lines)
        assert sum("return dlogvar, dmu" in line for line in lines) == 1


def test_a_transpose_and_terms_in_japanese() -> None:
    square = RNG.standard_normal((3, 3))
    found = explain(square.T, square, name="dW")[0]
    assert "転置したもの" in diagnosis.finding(found, "dW", "ja")
    parts = {"reconstruction": N, "KL": RNG.standard_normal((7, 3))}
    right = parts["reconstruction"] + parts["KL"]
    cases = {
        "averaged": (N + parts["KL"] / 3, "0.333 = 1/Lで、KLを潜在変数（L）について1回余分に平均"),
        "missing": (N, "KLが抜けています"),
        "odd": (N + 0.7 * parts["KL"], "KLの係数は1でなければなりません"),
        "sign": (parts["KL"] - N, "再構成誤差の符号が逆です"),
    }
    for claim, words in cases.values():
        found = explain(claim, right, terms=parts, sizes=SIZES, name="dmu")[0]
        text = diagnosis.finding(found, "dmu", "ja")
        assert words in text, text
        assert "再構成誤差" in text
        assert no_english(text)
    same = {"reconstruction": N, "KL": 2 * N}
    found = explain(3 * N + N**2, 3 * N, terms=same, name="dmu")[0]
    for one in (found, Finding("term", "", {"collinear": ["reconstruction", "KL"]})):
        assert no_english(diagnosis.finding(one, "dmu", "ja"))


@pytest.mark.parametrize(
    "found",
    [
        Finding("missing", ""),
        Finding("inconclusive", ""),
        Finding("complex", ""),
        Finding("imprecise", ""),
        Finding("wrong shape", ""),
        Finding("not finite", ""),
        Finding("not finite", "", {"count": 3}),
        Finding("jump", "", {"count": 2}),
        Finding("elements", "", {"index": [1, 2]}),
        Finding("slices", "", {"right": [0], "wrong": [1], "factors": [None]}),
    ],
    ids=lambda found: f"{found.kind} {found.numbers}",
)
def test_the_gradient_checkers_own_findings_are_put_into_japanese(found: Finding) -> None:
    text = diagnosis.finding(found, "dmu", "ja")
    assert re.search("[ぁ-ん]", text)
    assert no_english(text)


def test_a_value_is_not_called_a_gradient() -> None:
    found = explain(2 * N, N, name="theta")[0]
    assert "正しい値の2.000倍" in diagnosis.finding(found, "theta", "ja", value=True)


# --------------------------------------------------------------------------------- the workbook


@pytest.mark.parametrize("language", ["en", "ja"])
def test_an_optimizers_step_is_not_called_an_activation(language: str) -> None:
    """What is no gradient has lost no factor of an activation, and has no angle."""
    ex = exercise("24_momentum")
    wrong = ("theta + v * (1 + np.abs(grad))", "theta + v * grad")  # by factors, and otherwise
    for got in graded(ex.stem, *(ex.solution.replace("theta + v", w) for w in wrong)):
        line = said(ex, got, language).splitlines()[3]
        sentence = {
            "en": r"  theta is wrong in \d+ of \d+ elements",
            "ja": r"  thetaは.*違います。",
        }
        assert re.fullmatch(sentence[language], line)


@pytest.mark.parametrize(
    ("expression", "en", "ja"),
    [
        ("dy @ W", r"left array has length \d+, the first", r"左の配列の最後の軸の長さは\d+、"),
        ("np.dot(dy, W)", r"left array has length \d+, the first", r"左の配列の最後の軸の長さは"),
        ("dy * W", r"shapes \(\d+,\d+\), \(\d+,\d+\) cannot", r"\(\d+,\d+\)の配列どうしでは"),
        ("np.where(dy > 0, dy, np.zeros(2))", r"\), \(2,\) cannot", r"\), \(2,\)の配列どうし"),
        ("dy.reshape(W.shape)", r"of \d+ numbers cannot be", r"が\d+個の配列の形状を\("),
        ("np.copyto(np.zeros(2), dy)", r"\(2,\) has no place for", r"形状\(2,\)の配列に、形状\("),
        ("dy.sum(axis=2)", "no axis 2: .* of dimension 2", "軸2はありません。次元数が2の"),
        ("np.stack((dy, W))", "ValueError: all input arrays", "ValueError: all input arrays"),
    ],
)
def test_shapes_that_do_not_fit_are_told_in_words(expression: str, en: str, ja: str) -> None:
    ex = exercise("01_dense_dx")
    (got,) = graded(ex.stem, ex.solution.replace("dy @ W.T", expression))
    assert re.search(en, said(ex, got))
    assert re.search(ja, said(ex, got, "ja"))


@pytest.fixture
def shelf() -> list[Exercise]:
    return [exercise(stem) for stem in STEMS[:4]]


def book(folder: Path, shelf: list[Exercise], passing: str = "never") -> Workbook:
    return Workbook(folder, shelf, lambda _, path: passing in path.read_text(encoding="utf-8"))


def test_a_file_that_the_learner_changed_is_never_overwritten(
    tmp_path: Path, shelf: list[Exercise]
) -> None:
    work, one = book(tmp_path / "exercises", shelf), shelf[0]
    assert work.write(one, "en")
    path = work.file(one)
    assert path.read_text(encoding="utf-8") == one.text("en")
    assert work.write(one, "ja")  # untouched: it follows the language
    assert path.read_text(encoding="utf-8") == one.text("ja")
    path.write_text("mine", encoding="utf-8")
    assert not work.write(one, "en")
    assert path.read_text(encoding="utf-8") == "mine"


def test_a_file_of_an_older_release_is_untouched_by_its_hash(
    tmp_path: Path, shelf: list[Exercise]
) -> None:
    work, one = book(tmp_path, shelf), shelf[0]
    work.file(one).write_text("as an older release wrote it", encoding="utf-8")
    assert not work.write(one, "en")
    work.change(one, written=workbook._hash("as an older release wrote it"))
    assert work.write(one, "en")
    assert work.file(one).read_text(encoding="utf-8") == one.text("en")


def test_reset_keeps_what_was_written(tmp_path: Path, shelf: list[Exercise]) -> None:
    work, one = book(tmp_path, shelf), shelf[0]
    work.write(one, "en")
    assert work.reset(one, "en") is None
    for number, text in ((1, "first"), (2, "second")):
        work.file(one).write_text(text, encoding="utf-8")
        work.change(one, hints=2, state="passed")
        kept = work.reset(one, "en")
        assert (work.entry(one).state, work.entry(one).hints) == ("open", 0)
        assert kept == tmp_path / f"{one.stem}.py.bak-{number}"
        assert kept.read_text(encoding="utf-8") == text
        assert work.file(one).read_text(encoding="utf-8") == one.text("en")


def test_the_day_of_the_first_pass_is_kept(tmp_path: Path, shelf: list[Exercise]) -> None:
    work = book(tmp_path, shelf)
    work.change(shelf[0], passed_at="2026-01-01T00:00:00+09:00")
    work.passed(shelf[0])
    assert work.entry(shelf[0]).passed_at == "2026-01-01T00:00:00+09:00"
    work.passed(shelf[1])
    assert work.entry(shelf[1]).passed_at > "2026-01-02"


def test_two_terminals_lose_nothing(tmp_path: Path, shelf: list[Exercise]) -> None:
    def work(k: int) -> None:
        mine = book(tmp_path, shelf)
        for _ in range(10):
            mine.change(shelf[k], checks=1)
            mine.change(shelf[3], checks=1)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    entries = book(tmp_path, shelf).entries()
    assert [entries[ex.stem].checks for ex in shelf] == [10, 10, 10, 30]


BROKEN = {
    "half": '{"version": 1, "exer',
    "empty": "",
    "a list": "[]",
    "no exercises": '{"version": 1}',
    "a version that is none": '{"version": "1", "exercises": {}}',
    "an unknown state": '{"version": 1, "exercises": {"01": {"state": "done", "hints": 0, '
    '"gave_up": false, "checks": 0, "passed_at": null, "written": null}}}',
    "hints below zero": '{"version": 1, "exercises": {"01": {"state": "open", "hints": -5, '
    '"gave_up": false, "checks": 0, "passed_at": null, "written": null}}}',
    "a hint too few": '{"version": 1, "exercises": {"01": {"state": "open"}}}',
    "an entry that is none": '{"version": 1, "exercises": {"01": 3}}',
    "deep": "[" * 100_000,
    "not text": "\udcff",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_progress_file_is_set_aside_and_rebuilt(
    tmp_path: Path, shelf: list[Exercise], name: str
) -> None:
    bad = BROKEN[name].encode("utf-8", "surrogateescape")
    path = tmp_path / "progress.json"
    path.write_bytes(bad)
    (tmp_path / f"{shelf[1].stem}.py").write_text("solved", encoding="utf-8")
    (tmp_path / f"{shelf[2].stem}.py").write_text("not yet", encoding="utf-8")
    work = book(tmp_path, shelf, "solved")
    entries = work.entries()
    assert {stem: entry.state for stem, entry in entries.items()} == {shelf[1].stem: "passed"}
    kept = tmp_path / "progress.json.broken-1"
    assert kept.read_bytes() == bad
    assert [(n.kind, n.kept, n.passed) for n in work.notices] == [("set_aside", str(kept), 1)]
    assert book(tmp_path, shelf).entries() == entries
    path.write_bytes(bad)
    book(tmp_path, shelf).entries()
    assert (tmp_path / "progress.json.broken-2").read_bytes() == bad


def test_a_lost_progress_file_is_rebuilt(tmp_path: Path, shelf: list[Exercise]) -> None:
    (tmp_path / f"{shelf[1].stem}.py").write_text("solved", encoding="utf-8")
    work = book(tmp_path, shelf, "solved")
    assert work.entries()[shelf[1].stem].state == "passed"
    assert [n.kind for n in work.notices] == ["missing"]


def test_an_older_progress_file_is_upgraded(tmp_path: Path, shelf: list[Exercise]) -> None:
    old = json.dumps({"exercises": {shelf[0].stem: {"state": "passed"}, "99_gone": {"hints": 2}}})
    (tmp_path / "progress.json").write_text(old, encoding="utf-8")
    work = book(tmp_path, shelf)
    assert work.entries() == {shelf[0].stem: Entry("passed"), "99_gone": Entry(hints=2)}
    assert [n.kind for n in work.notices] == ["upgraded"]
    assert (tmp_path / "progress.json.version-0-1").read_text(encoding="utf-8") == old
    data = json.loads((tmp_path / "progress.json").read_text(encoding="utf-8"))
    assert data["version"] == workbook.VERSION
    assert work.current() is shelf[1]


def test_a_newer_progress_file_is_refused_and_left_alone(
    tmp_path: Path, shelf: list[Exercise]
) -> None:
    new = '{"version": 99, "exercises": {}}'
    (tmp_path / "progress.json").write_text(new, encoding="utf-8")
    with pytest.raises(ValueError, match=r"progress.json: is of version 99, this scratchvae knows"):
        book(tmp_path, shelf).entries()
    assert (tmp_path / "progress.json").read_text(encoding="utf-8") == new


# ---------------------------------------------------------------------------------- the command


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    return tmp_path


def command(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = cli.main(["exercise", *words])
    out, err = capsys.readouterr()
    return code, out, err


def answer(home: Path, stem: str, body: str | None = None) -> Path:
    """Write an answer into the learner's file: the solution, or `body`."""
    ex = exercise(stem)
    path = home / "exercises" / f"{stem}.py"
    path.parent.mkdir(exist_ok=True)
    path.write_text(ex.text("en", body or ex.solution), encoding="utf-8")
    return path


WORDS = {
    "en": {
        "task": r"1\. Dense layer",
        "watch": "Each save is checked",
        "wrong": r"dx = 2\.000 x the right gradient",
        "oracle": "Gradient oracle: objects",
        "passed": "passed",
        "praise": "Well done",
        "next": r"2\. Dense layer",
        "stop": r"go on with: scratchvae exercise \d",
        "syntax": r"Python cannot read the file.*\n\s+line \d+",
    },
    "ja": {
        "task": r"1\. 全結合層",
        "watch": "保存するたびに採点します",
        "wrong": r"dxは正しい勾配の2\.000倍です",
        "oracle": "勾配の判定：誤りがあります",
        "passed": "合格",
        "praise": "正解です",
        "next": r"2\. 全結合層",
        "stop": r"続きは scratchvae exercise \d で",
        "syntax": r"構文エラー.*\n\s+\d+行目",
    },
}


@pytest.mark.parametrize("language", ["en", "ja"])
def test_the_watch_checks_each_save_and_goes_on(tmp_path: Path, language: str) -> None:
    words, ex = WORDS[language], exercise(STEMS[0])
    path = tmp_path / "exercises" / f"{STEMS[0]}.py"
    with Terminal("exercise", "--lang", language, cwd=tmp_path, home=tmp_path) as terminal:
        for key in ("task", "watch"):
            terminal.expect(words[key])
        start = path.read_text(encoding="utf-8")
        assert start == ex.text(language)
        path.write_text(start.replace("raise NotImplementedError", "return ("), encoding="utf-8")
        terminal.expect(words["syntax"])
        double = ex.solution.replace("return ", "return 2 * (").rstrip() + ")\n"
        path.write_text(ex.text(language, double), encoding="utf-8")
        terminal.expect(words["oracle"])
        terminal.expect(words["wrong"])
        beside = path.with_suffix(".tmp")  # as editors save: a new file over the old one
        beside.write_text(ex.text(language, ex.solution), encoding="utf-8")
        beside.replace(path)
        for key in ("passed", "praise", "next", "watch"):
            terminal.expect(words[key])
        terminal.interrupt()
        terminal.expect(words["stop"])
        assert terminal.wait() == 0
        assert "Traceback" not in terminal.text
    data = json.loads((tmp_path / "exercises" / "progress.json").read_text(encoding="utf-8"))
    assert data["exercises"][STEMS[0]]["state"] == "passed"
    assert data["exercises"][STEMS[0]]["checks"] == 3
    assert (tmp_path / "exercises" / f"{STEMS[1]}.py").exists()


class Learner:
    """Somebody who works through all exercises in one terminal."""

    def __init__(self, language: str, home: Path) -> None:
        home.mkdir()
        self.language, self.home = language, home
        self.say = Messages("exercise", language)
        words = ("exercise", "--lang", language, "--seed", str(SEED))
        self.terminal = Terminal(*words, cwd=home, home=home, columns=160)

    def save(self, ex: Exercise, body: str) -> None:
        path = self.home / "exercises" / f"{ex.stem}.py"
        path.write_text(ex.text(self.language, body), encoding="utf-8")

    def sees(self, ex: Exercise, verdict: str, texts: list[str]) -> None:
        """The verdict, and then these texts, wherever they are broken into lines."""
        title = content.text(ex.title, self.language)
        first = self.say(verdict, time="", title=f"{ex.number}. {title}")
        for text in (first, *texts):
            letters = map(re.escape, "".join(text.split()))
            self.terminal.expect(r"\s*".join(letters))


def test_a_learner_passes_every_exercise(tmp_path: Path) -> None:
    """From the first to the last, in both languages at once: the blank fails and so does a mutant,
    another one in each language, with the words that it is declared to get (see the test of each
    answer); the solution passes."""
    with ExitStack() as stack:
        learners = [Learner(language, tmp_path / language) for language in ("en", "ja")]
        for learner in learners:
            stack.enter_context(learner.terminal)
        for stem in STEMS:
            ex = exercise(stem)
            for learner in learners:
                learner.terminal.expect(WORDS[learner.language]["watch"])
                learner.save(ex, ex.blank + "# saved\n")
            for learner in learners:
                say = Messages("problem", learner.language)
                learner.sees(ex, "failed", [say("blank", function=ex.function)])
            mutants = [mutant.source for mutant in ex.mutants[:2]]
            for learner, mutant in zip(learners, mutants, strict=True):
                learner.save(ex, mutant)
            for learner, mutant in zip(learners, mutants, strict=True):
                (got,) = graded(stem, mutant, language=learner.language)
                lines = diagnosis.report(ex, got, learner.language)
                learner.sees(ex, "failed", [line.text for line in lines])
            for learner in learners:
                learner.save(ex, ex.solution)
            for learner in learners:
                learner.sees(ex, "passed", [])
        for learner in learners:
            assert learner.terminal.wait(120) == 0
            data = json.loads(
                (learner.home / "exercises" / "progress.json").read_text(encoding="utf-8")
            )
            states = {stem: data["exercises"][stem]["state"] for stem in STEMS}
            assert states == dict.fromkeys(STEMS, "passed")


@pytest.mark.parametrize("language", ["en", "ja"])
def test_a_number_jumps_to_that_exercise(tmp_path: Path, language: str) -> None:
    words = WORDS[language]
    place: dict[str, Any] = {"cwd": tmp_path, "home": tmp_path}

    def titled(number: int) -> str:
        return re.escape(f"{number}. {content.text(exercise(STEMS[number - 1]).title, language)}")

    with Terminal("exercise", "7", "--lang", language, **place) as terminal:
        terminal.expect(titled(7))
        terminal.expect(words["watch"])
        path = tmp_path / "exercises" / f"{STEMS[6]}.py"
        assert path.read_text(encoding="utf-8") == exercise(STEMS[6]).text(language)
        path.write_text(exercise(STEMS[6]).text(language, exercise(STEMS[6]).solution), "utf-8")
        terminal.expect(words["praise"])
        terminal.expect(titled(8))
        terminal.interrupt()
        assert terminal.wait() == 0
    with Terminal("exercise", "7", **place) as terminal:  # passed: it waits for another try
        terminal.expect(words["watch"])
        path.write_text(exercise(STEMS[6]).text(language), encoding="utf-8")
        terminal.expect(re.escape(Messages("problem", language)("blank", function="backward")))
        terminal.interrupt()
        assert terminal.wait() == 0
    with Terminal("exercise", "99", **place) as terminal:
        assert terminal.wait() == 2
        assert "99" in terminal.text
    assert not (tmp_path / "exercises" / f"{STEMS[0]}.py").exists()


def test_the_help_says_that_a_number_jumps(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = command(capsys, "--help")
    assert code == 0
    assert re.search(r"\n +N +jump to exercise number N", out)
    assert command(capsys, "7x")[0] == 2


def test_the_watch_notices_a_file_that_is_gone(tmp_path: Path) -> None:
    with Terminal("exercise", cwd=tmp_path, home=tmp_path) as terminal:
        terminal.expect("Each save is checked")
        (tmp_path / "exercises" / f"{STEMS[0]}.py").unlink()
        terminal.expect("is gone. scratchvae exercise reset 1 writes it anew")
        answer(tmp_path, STEMS[0])
        terminal.expect("Well done")
        terminal.interrupt()
        assert terminal.wait() == 0


def test_without_a_terminal_it_checks_once(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = command(capsys)
    assert code == 1
    assert "This is no terminal" in out
    assert "is not written yet" in out
    answer(home, STEMS[0])
    code, out, _ = command(capsys)
    assert code == 0
    assert "Well done" in out
    assert "Next: 2." in out
    assert "\x1b" not in out


def test_run_has_exit_codes_and_json(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stem = RELU.stem
    code, out, _ = command(capsys, "run", "relu", "--json")
    report = json.loads(out)
    assert code == 1
    assert report["problem"]["kind"] == "blank"
    answer(home, stem, "def backward(dy, x):\n    return -dy * (x > 0)\n")
    code, out, _ = command(capsys, "--json", "run", "4", "--seed", "7")
    report = json.loads(out)
    assert code == 1
    assert (report["seed"], report["gradient"], report["passed"]) == (7, "objects", False)
    assert report["outputs"][0]["findings"] == ["factor"]
    answer(home, stem)
    code, out, _ = command(capsys, "run", f"exercises/{stem}.py", "--json")
    assert code == 0
    assert json.loads(out)["gradient"] == "content"
    code, out, err = command(capsys, "run", "nothing")
    assert (code, out) == (2, "")
    assert "NAME: got nothing" in err
    assert command(capsys, "run", "99")[0] == 2
    code, _, err = command(capsys, "run", "e")
    assert code == 2
    assert "take the number" in err


def test_the_learners_own_file_survives_everything(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = "# 私の答え\n"
    command(capsys)
    path = home / "exercises" / f"{STEMS[0]}.py"
    path.write_text(mine, encoding="utf-8")
    for words in ((), ("--lang", "ja"), ("run", "1"), ("list",), ("hint",), ("skip",)):
        command(capsys, *words)
        assert path.read_text(encoding="utf-8") == mine
    _, out, _ = command(capsys, "reset", "1", "--lang", "en")
    assert "what you wrote is in" in out
    assert (path.parent / f"{path.name}.bak-1").read_text(encoding="utf-8") == mine


@pytest.mark.parametrize("language", ["en", "ja"])
def test_hints_come_one_by_one_and_are_remembered(
    home: Path, capsys: pytest.CaptureFixture[str], language: str
) -> None:
    ex = exercise(STEMS[0])
    for level in (1, 2, 3, 3):
        code, out, _ = command(capsys, "--lang", language, "hint", "--json")
        report = json.loads(out)
        assert code == 0
        assert report == {
            "name": ex.stem,
            "level": level,
            "hint": content.text(ex.hints[level - 1], language),
        }
    _, out, _ = command(capsys, "hint", "2")
    first = content.text(exercise(STEMS[1]).hints[0], language)
    assert first[:8] in out


def test_the_solution_is_earned_or_given_up(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ex = exercise(STEMS[0])
    line = ex.solution.strip().splitlines()[-1].strip()
    code, out, err = command(capsys, "solution")
    assert (code, out) == (2, "")
    assert "--give-up" in err
    assert line not in err
    code, out, _ = command(capsys, "solution", "--give-up")
    assert code == 0
    assert f"\n\n{ex.solution.splitlines()[0]}\n" in out  # apart from the derivation
    assert line in out
    assert "Remembered as given up" in out
    assert command(capsys, "solution")[0] == 0
    _, out, _ = command(capsys, "list", "--json")
    rows = json.loads(out)["exercises"]
    assert (rows[0]["gave_up"], rows[0]["state"]) == (True, "open")
    assert "solution seen before passing" in command(capsys, "list")[1]
    answer(home, STEMS[1])
    command(capsys, "run", "2")
    code, out, _ = command(capsys, "solution", "2", "--json")
    report = json.loads(out)
    assert (code, report["gave_up"]) == (0, False)
    assert report["solution"] == exercise(STEMS[1]).solution


def test_skipping_goes_on_and_can_be_taken_back(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = command(capsys, "skip")
    assert re.search(r"Skipped: .*\nNext: 2\.", out)
    rows = json.loads(command(capsys, "list", "--json")[1])["exercises"]
    assert [row["state"] for row in rows[:2]] == ["skipped", "open"]
    assert [row["current"] for row in rows[:2]] == [False, True]
    command(capsys, "reset", "1")
    rows = json.loads(command(capsys, "list", "--json")[1])["exercises"]
    assert rows[0]["current"]
    answer(home, STEMS[0])
    command(capsys, "run", "1")
    code, _, err = command(capsys, "skip", "1")
    assert code == 2
    assert "passed already" in err


def test_the_end_of_all_exercises(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(1, len(STEMS) + 1):
        assert command(capsys, "skip", str(number))[0] == 0
    code, out, _ = command(capsys)
    assert code == 0
    assert "No exercise is left open" in out
    assert "scratchvae exercise reset 1" in " ".join(out.split())
    assert command(capsys, "hint")[0] == 2
    assert json.loads(command(capsys, "--json")[1])["skipped"] == STEMS


@pytest.mark.parametrize("language", ["en", "ja"])
def test_the_list_shows_titles_and_marks(
    home: Path, capsys: pytest.CaptureFixture[str], language: str
) -> None:
    answer(home, STEMS[0])
    assert command(capsys, "run", "1", "--lang", language)[0] == 0
    _, out, _ = command(capsys, "list")
    rows = out.splitlines()
    assert content.text(exercise(STEMS[0]).title, language) in rows[0]
    assert "[x]" in rows[0]
    assert rows[1].startswith("> [ ]")


def test_a_broken_progress_file_is_said_and_nothing_is_lost(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer(home, STEMS[0])
    answer(home, STEMS[1], "def backward(dy, x):\n    return dy\n")
    command(capsys, "run", "1")
    progress = home / "exercises" / "progress.json"
    progress.write_text("{", encoding="utf-8")
    code, out, _ = command(capsys, "list")
    assert code == 0
    aside = Path("exercises", "progress.json.broken-1")
    assert f"kept as {aside}. Your files were graded again: 1 pass" in (" ".join(out.split()))
    assert progress.with_name("progress.json.broken-1").read_text(encoding="utf-8") == "{"
    assert "progress.json" not in command(capsys, "list")[1]
    progress.write_text('{"version": 2, "exercises": {}}', encoding="utf-8")
    code, _, err = command(capsys, "list")
    assert code == 2
    assert "is of version 2" in err


def test_it_works_inside_the_folder_too(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(home, STEMS[0])
    command(capsys, "run", "1")
    monkeypatch.chdir(home / "exercises")
    rows = json.loads(command(capsys, "list", "--json")[1])["exercises"]
    assert rows[0]["state"] == "passed"
    assert not (home / "exercises" / "exercises").exists()


def test_the_folder_may_have_lost_its_files(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(home, STEMS[0])
    command(capsys, "run", "1")
    (home / "exercises" / f"{STEMS[0]}.py").unlink()
    monkeypatch.chdir(home / "exercises")
    command(capsys, "run", "1")
    assert not (home / "exercises" / "exercises").exists()


def test_the_folder_may_be_a_link(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "real").mkdir()
    (home / "exercises").symlink_to("real")
    answer(home, STEMS[0])
    command(capsys, "run", "1")
    monkeypatch.chdir(home / "exercises")
    assert json.loads(command(capsys, "list", "--json")[1])["exercises"][0]["state"] == "passed"
    assert not (home / "real" / "exercises").exists()


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_japanese_panels_keep_to_the_width(tmp_path: Path, columns: int) -> None:
    from rich.cells import cell_len

    with Terminal(
        "exercise", "hint", "--lang", "ja", cwd=tmp_path, home=tmp_path, columns=columns
    ) as terminal:
        assert terminal.wait() == 0
        lines = terminal.text.splitlines()
    framed = [line for line in lines if line[:1] in "╭│╰" and line]
    assert len(framed) > 2
    assert {cell_len(line) for line in framed} == {min(columns, 96)}
    assert all(cell_len(line) <= columns for line in lines)


def test_an_answer_of_booleans_is_refused_in_words():
    (got,) = graded(RELU.stem, "def backward(dy, x):\n    return x > 0\n")
    assert not got.ok
    assert "float64" in " ".join(diagnosis.objections(got, "en"))


def test_a_hidden_extrapolation_is_refused():
    """No step is written down and no argument is moved by name: the work gives it away."""
    body = """
def backward(dy, x):
    b = np.tanh
    f = lambda k: (b(x + np.ldexp(1.0, -k)) - b(x - np.ldexp(1.0, -k))) * np.ldexp(1.0, k - 1)
    table = [f(k) for k in range(3, 8)]
    for p in range(1, 5):
        table = [v + (v - u) * (1 / (4**p - 1)) for u, v in zip(table, table[1:])]
    return dy * table[0]
"""
    stem = next(path.stem for path in PATHS if "tanh" in path.stem)
    (got,) = graded(stem, body.replace("backward(dy, x)", signature(stem)))
    assert not got.ok
    assert got.problem.kind == "numerical"


def signature(stem: str) -> str:
    grade = exercise(stem)
    return f"{grade.function}({', '.join(grade.arguments)})"
