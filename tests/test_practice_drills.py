"""Drills: keys by independent formulas, different mistakes, the command as a learner uses it."""

import json
import math
import random
import re
import subprocess
import sys
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest

from scratchvae.practice import content, drill, drill_cards
from scratchvae.practice.cards import TOPICS
from scratchvae.practice.language import LANGUAGES
from scratchvae.practice.state import State
from tests.terminal import Terminal

SEEDS = range(200)
LESSONS = Path(__file__).parents[1] / "lessons"


# ------------------------------------------------------------- the keys, without the library


def integral_kl(mu, sigma):
    """KL(N(mu, sigma^2) || N(0, 1)) from its definition, by the trapezoidal rule."""
    t, step = np.linspace(-12, 12, 241, retstep=True)
    q = np.exp(-t * t / 2) / math.sqrt(2 * math.pi)
    z = mu + sigma * t
    log_ratio = -t * t / 2 - math.log(sigma) + z * z / 2
    return float(np.sum(q * log_ratio) * step)


def slope(f, at, h=1e-5):
    return (f(at + h) - f(at - h)) / (2 * h)


def kl_of_logvar(mu):
    return lambda logvar: integral_kl(mu, math.exp(logvar / 2))


def density(x, m, sigma):
    return math.exp(-((x - m) ** 2) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi))


def z_of_logvar(mu, eps):
    return lambda logvar: mu + math.sqrt(math.exp(logvar)) * eps


def bce(x, logit):
    p = 1 / (1 + math.exp(-logit))
    return -math.log(p if x else 1 - p)


def momentum(n):
    place, velocity = n["theta"], 0.0
    for g in (n["g1"], n["g2"]):
        velocity = n["mu"] * velocity - n["lr"] * g
        place += velocity
    return place


def layers(*widths):
    return sum((i + 1) * o for i, o in pairwise(widths))


def squared(a, b):
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) / len(a)


def adam_m_hat(n):
    weights = np.array([n["beta"], 1.0])  # of the older and of the newer gradient
    return float(weights @ [n["g1"], n["g2"]] / weights.sum())


def pairs(n):
    won = sum(a > b for a in n["anomalous"] for b in n["normal"])
    return won / (len(n["anomalous"]) * len(n["normal"]))


def flagged(errors, t):
    return len([e for e in errors if e > t])


def tiny_autoencoder(n):
    x, w = np.array(n["x"]), np.array(n["w"])
    y = np.clip(x @ w, 0, None) * w
    return sum((x - y) ** 2) / len(x)


def mean_square_of_noise(sigma):
    n, step = np.linspace(-12 * sigma, 12 * sigma, 241, retstep=True)
    return sum(step * t * t * density(t, 0, sigma) for t in n)


def best_shrinkage(n):
    """Where the error is lowest, a parabola in w: its mean over x, noise = +- their deviations."""
    corners = [(a * math.sqrt(n["v"]), b * n["sigma"]) for a in (-1, 1) for b in (-1, 1)]
    left, middle, right = (
        sum((w * (x + noise) - x) ** 2 for x, noise in corners) / 4 for w in (-1, 0, 1)
    )
    return (left - right) / (left - 2 * middle + right) / 2


def used_latents(n):
    """How often the loss of lesson 14 is lowest at a weight w > 0, with all else at its best."""
    w = np.linspace(0, 4, 4001)
    t = w**2 + n["beta"] * n["s2"]
    return sum(int((a / t + np.log(t)).argmin() > 0) for a in n["eigenvalues"])


KEYS = {
    "kl-1d": lambda n: integral_kl(n["mu"], math.sqrt(n["v"])),
    "kl-2d": lambda n: (
        integral_kl(n["m1"], math.sqrt(n["v1"])) + integral_kl(n["m2"], math.sqrt(n["v2"]))
    ),
    "kl-sigma": lambda n: integral_kl(n["mu"], n["sigma"]),
    "kl-dlogvar": lambda n: slope(kl_of_logvar(n["mu"]), math.log(n["v"])),
    "kl-dsigma": lambda n: slope(lambda s: integral_kl(n["mu"], s), n["sigma"]),
    "kl-batch-gradient": lambda n: [
        slope(lambda m: integral_kl(m, math.sqrt(n["v"])), n["mu"]) / n["B"],
        slope(kl_of_logvar(n["mu"]), math.log(n["v"])) / n["B"],
    ],
    "z-from-logvar": lambda n: n["mu"] + math.sqrt(n["v"]) * n["eps"],
    "z-from-table": lambda n: n["mu"] + math.sqrt(math.e) ** n["logvar"] * n["eps"],
    "z-2d": lambda n: [
        m + math.sqrt(v) * e for m, v, e in zip(n["mu"], (n["v1"], n["v2"]), n["eps"], strict=True)
    ],
    "std-from-logvar": lambda n: math.sqrt(n["v"]),
    "dz-dlogvar": lambda n: slope(z_of_logvar(n["mu"], n["eps"]), math.log(n["v"])),
    "dl-dsigma": lambda n: slope(lambda s: n["g"] * (n["mu"] + s * n["eps"]), n["sigma"]),
    "vae-dlogvar": lambda n: slope(
        lambda a: n["g"] * z_of_logvar(n["mu"], n["eps"])(a) + kl_of_logvar(n["mu"])(a),
        math.log(n["v"]),
    ),
    "elbo-terms": lambda n: -(n["reconstruction"] + n["kl"]),
    "elbo-two-draws": lambda n: n["log_p1"] / 2 + n["log_p2"] / 2 - integral_kl(n["mu"], 1.0),
    "beta-vae": lambda n: n["reconstruction"] + n["kl"] + (n["beta"] - 1) * n["kl"],
    "elbo-gap": lambda n: n["gap"],
    "iwae-bound": lambda n: math.log(np.mean(n["w"])),
    "log-weight": lambda n: (
        n["log_px"] + math.log(density(n["z"], 0, 1) / density(n["z"], n["mu"], n["sigma"]))
    ),
    "bce-two-pixels": lambda n: -math.log(n["y1"] * (1 - n["y2"])),
    "bce-dlogit": lambda n: slope(lambda a: bce(n["x"], a), math.log(n["odds"])),
    "mse-pixels": lambda n: squared(n["x"], n["y"]),
    "mse-gradient": lambda n: slope(lambda y: (y - n["x"]) ** 2 / (n["B"] * n["D"]), n["y"]),
    "gaussian-nll": lambda n: -math.log(density(n["x"], n["m"], n["sigma"])),
    "gaussian-dmean": lambda n: slope(lambda m: -math.log(density(n["x"], m, n["sigma"])), n["m"]),
    "dae-loss": lambda n: squared(n["x"], n["y"]),
    "dense-dx": lambda n: [sum(w * g for w, g in zip(r, n["dy"][0], strict=True)) for r in n["W"]],
    "dense-dw": lambda n: np.einsum("ni,nj->ij", n["x"], n["dy"]).tolist(),
    "sigmoid-backward": lambda n: (
        n["dy"] * slope(lambda a: 1 / (1 + math.exp(-a)), -math.log(1 / n["y"] - 1))
    ),
    "tanh-backward": lambda n: n["dy"] * slope(math.tanh, math.atanh(n["y"])),
    "relu-backward": lambda n: [g if a > 0 else 0.0 for a, g in zip(n["x"], n["dy"], strict=True)],
    "dense-parameters": lambda n: layers(n["I"], n["O"]),
    "ae-parameters": lambda n: layers(n["D"], n["H"], n["L"], n["H"], n["D"]),
    "tied-parameters": lambda n: n["D"] * n["L"] + n["L"] + n["D"],
    "vae-parameters": lambda n: (
        layers(n["D"], n["H"], n["L"]) + layers(n["H"], n["L"]) + layers(n["L"], n["H"], n["D"])
    ),
    "dense-shapes": lambda n: (n["I"], n["O"]),
    "vae-shapes": lambda n: f"W ({n['H']}, {n['L']}), logvar ({n['B']}, {n['L']})",
    "adam-first-step": lambda n: n["theta"] - n["lr"] * n["g"] / abs(n["g"]),
    "adam-bias-correction": adam_m_hat,
    "momentum-two-steps": momentum,
    "rmsprop-first-step": lambda n: (
        n["theta"] - n["lr"] * n["g"] / math.sqrt((1 - n["rho"]) * n["g"] ** 2)
    ),
    "adagrad-second-step": lambda n: -n["lr"] * n["g2"] / math.hypot(n["g1"], n["g2"]),
    "psnr": lambda n: -20 * math.log10(math.sqrt(n["mse"])),
    "compression-ratio": lambda n: n["side"] ** 2 * n["channels"] / (n["L"] * n["kind"] / 8),
    "anomaly-recall": lambda n: flagged(n["anomalous"], n["t"]) / len(n["anomalous"]),
    "anomaly-precision": lambda n: (
        flagged(n["anomalous"], n["t"]) / flagged(n["anomalous"] + n["normal"], n["t"])
    ),
    "anomaly-auc": pairs,
    "ae-forward": tiny_autoencoder,
    "dae-identity": lambda n: mean_square_of_noise(n["sigma"]),
    "dae-shrink": best_shrinkage,
    "active-latents": used_latents,
    "mean-mse-weight": lambda n: (
        slope(lambda d: sum([d**2 / 2] * n["D"]), 1.0) / slope(lambda d: d**2, 1.0)
    ),
    "kl-batch-mean": lambda n: sum(integral_kl(m, 1.0) for m in n["mu1"] + n["mu2"]) / 2,
}


def numbers(value):
    return np.array(value, dtype=float).ravel()


def drawn(this, seed, monkeypatch):
    """The card of this seed, and the names whose numbers it shows."""
    names = []
    draw = drill_cards.Drill.draw

    def recorded(self, rng):
        names.append(draw(self, rng))
        return names[-1]

    monkeypatch.setattr(drill_cards.Drill, "draw", recorded)
    return this.card(np.random.default_rng(seed)), names[-1]


def test_every_drill_has_an_independent_formula_here():
    assert list(KEYS) == drill_cards.ids()
    assert len(KEYS) >= 18


@pytest.mark.parametrize("id", KEYS)
def test_two_hundred_cards_of(id, monkeypatch):
    this = drill_cards.drills()[id]
    assert (LESSONS / f"{this.lesson}.py").exists()
    assert this.topic in TOPICS
    seen, named = set(), set()
    for seed in SEEDS:
        with monkeypatch.context() as patch:
            card, names = drawn(this, seed, patch)
        key, ours = names["answer"], KEYS[id](names)
        if isinstance(key, str):
            assert key == ours
        else:
            np.testing.assert_allclose(numbers(key), numbers(ours), rtol=1e-5, atol=1e-6)
            assert np.shape(key) == np.shape(ours)
        (right,) = [option for option in card.options if option.right]
        assert right.text == dict.fromkeys(LANGUAGES, this.shown(key))
        assert right.mistake is None
        assert len({option.text["en"] for option in card.options}) == 4
        assert this.shown(this.by_hand(names)) == right.text["en"]
        named |= {option.mistake["en"] for option in card.options if not option.right}
        for one, other in combinations([option.text["en"] for option in card.options], 2):
            assert apart(one, other, this.digits)
        assert (card.id, card.drill, card.kind) == (id, id, "calculation")
        for language in LANGUAGES:
            for text in (card.text, card.why, *(o.mistake for o in card.options if o.mistake)):
                assert not re.search(r"[{}]", text[language])
                assert not re.search(r"\d\.\d{7}", text[language]), text[language]
                assert not re.search(r"np\.|array\(", text[language])
        assert right.text["en"] in card.why["en"]
        assert right.text["ja"] in card.why["ja"]
        seen.add(card.text["en"])
    assert len(seen) >= 8, "the numbers hardly change"
    fixed = {mistake.text["en"] for mistake in this.mistakes if "{" not in mistake.text["en"]}
    assert fixed <= named, "a mistake is never shown"


def apart(a, b, digits):
    """Whether two options differ by clearly more than the rounding."""
    v, w = ([float(x) for x in re.findall(r"-?\d+\.?\d*", text)] for text in (a, b))
    least = 2.5 * 10.0**-digits if digits else 1
    return len(v) != len(w) or max(abs(x - y) for x, y in zip(v, w, strict=True)) >= least


@pytest.mark.parametrize("id", [id for id, d in drill_cards.drills().items() if d.given])
def test_the_given_constants_are_the_rounded_ones_and_are_used(id):
    this = drill_cards.drills()[id]
    exact = {
        **{"ln2": math.log(2), "ln3": math.log(3), "ln5": math.log(5)},
        **{"log2": math.log10(2), "ln2pi": math.log(2 * math.pi)},
        **{"e_minus_1": math.exp(-1), "e_minus_half": math.exp(-0.5)},
        **{"e_half": math.exp(0.5), "e_1": math.e},
    }
    for name, value in this.given.items():
        assert value == round(exact[name], 3)
        for language in LANGUAGES:
            assert f"{{{name}}}" in this.question[language]
    if id == "std-from-logvar":  # its logvar is made of the constants: nothing is rounded by hand
        return
    differs = False
    for seed in range(20):
        names = this.draw(np.random.default_rng(seed))
        differs |= this.by_hand(names) != names["answer"]
    assert differs, "`hand` does not use the constants"


def test_the_numbers_in_the_text_lead_to_the_key():
    number = r"-?\d+(?:\.\d+)?"
    for seed in range(50):
        card = drill_cards.card("kl-2d", np.random.default_rng(seed))
        for language, mark in (("en", "logvar"), ("ja", "logvar")):
            mu = [float(m) for m in re.findall(number, card.text[language].split("mu = ")[1])[:2]]
            shown = card.text[language].split(f"{mark} = log sigma^2 = [")[1].split("]")[0]
            variances = [
                1.0 if part == "0" else float(part.split()[1]) ** (-1 if part[0] == "-" else 1)
                for part in shown.split(", ")
            ]
            key = sum(integral_kl(m, v**0.5) for m, v in zip(mu, variances, strict=True))
            (right,) = [o.text[language] for o in card.options if o.right]
            assert right == drill_cards.show(key, 2)


def test_a_seed_gives_one_card_and_another_seed_another():
    def one(seed):
        return drill_cards.card("kl-2d", np.random.default_rng(seed))

    assert one(1) == one(1)
    assert one(1) != one(2)
    with pytest.raises(ValueError, match="got 'nonsense', want one of kl-1d, "):
        drill_cards.card("nonsense", np.random.default_rng(0))


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        *[(0.125, 2, "0.13"), (-0.125, 2, "-0.13"), (0.1 + 0.2, 1, "0.3"), (-0.0004, 2, "0.00")],
        *[(2.0, 0, "2"), (12345, 0, "12345"), (1.0, 3, "1.000"), ((3, 5), 0, "(3, 5)")],
        *[([0.5, -1.0], 1, "[0.5, -1.0]"), ([[1.0], [2.5]], 1, "[[1.0], [2.5]]"), ("W", 0, "W")],
        (0.0214999999999999, 3, "0.022"),  # 0.0215 but for the noise of its computation
    ],
)
def test_values_are_shown_as_at_school(value, digits, text):
    assert drill_cards.show(value, digits) == text


def test_japanese_is_japanese():
    for this in drill_cards.drills().values():
        texts = [this.question, this.solution, this.title, *(m.text for m in this.mistakes)]
        for text in texts:
            assert re.search(r"[ぁ-んァ-ヶ一-龠]", text["ja"]), text
            assert not re.search(r"[ぁ-んァ-ヶ一-龠]", text["en"]), text
            assert not re.search(r"[ぁ-んァ-ヶ一-龠][,.;!?]", text["ja"]), text
        assert this.question["ja"].rstrip("。）").count("選べ") == 1
        for mistake in this.mistakes:
            assert mistake.text["ja"].endswith("。")


# ----------------------------------------------------------------------------- broken files

GOOD = """
title = { en = "T", ja = "題" }
[[drill]]
id = "sum"
topic = "ae"
lesson = "02_dense_layer"
title = { en = "a sum", ja = "和" }
answer = "a + b"
digits = 0
let = { a = "pick(1, 2, 3)", b = "pick(10, 20)" }
question = { en = "What is {a} + {b}?", ja = "{a} + {b} を選べ。" }
solution = { en = "It is {answer}.", ja = "{answer} です。" }
[[drill.mistake]]
value = "a - b"
en = "Subtracted."
ja = "引いています。"
[[drill.mistake]]
value = "a * b + 100"
en = "Multiplied."
ja = "掛けています。"
[[drill.mistake]]
value = "b + 200"
en = "Forgot {a}."
ja = "{a} を忘れています。"
"""


def loaded(tmp_path, text):
    path = tmp_path / "01_sums.toml"
    path.write_text(text, encoding="utf-8")
    return drill_cards.load([path])


def test_a_good_file(tmp_path):
    this = loaded(tmp_path, GOOD)["sum"]
    assert this.group == "sums"
    card = this.card(np.random.default_rng(0))
    a, b = re.findall(r"\d+", card.text["en"])
    assert [o.text["en"] for o in card.options if o.right] == [str(int(a) + int(b))]
    assert {o.mistake["en"] for o in card.options if o.mistake} == {
        *("Subtracted.", "Multiplied.", f"Forgot {a}.")
    }


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('answer = "a + b"', "", "answer: got None, want a str"),
        ("digits = 0", 'digits = "2"', "digits: got '2', want a int"),
        ("digits = 0", "digits = 0\nunits = 3", "units: a key or a type"),
        ('topic = "ae"', 'topic = "cooking"', "topic: got 'cooking', want one of ae, "),
        ('ja = "引いています。"', "", "mistake 'a - b': the text in 'ja' is missing"),
        ('en = "a sum", ', "", "title: the text in 'en' is missing"),
        ('[[drill.mistake]]\nvalue = "a - b"\nen = "Subtracted."\nja = "引いています。"', "",
         "mistake: got 2, want at least 3"),
        ('value = "a - b"', "value = 3", "want a table with value, en and ja"),
    ],
)  # fmt: skip
def test_an_incomplete_drill_is_reported_with_file_and_id(tmp_path, old, new, says):
    assert old in GOOD
    with pytest.raises(ValueError, match=r"01_sums\.toml: drill 'sum': ") as caught:
        loaded(tmp_path, GOOD.replace(old, new, 1))
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('a = "pick(1, 2, 3)"', 'a = "pick(1, 2"', "a: pick(1, 2: "),
        ('answer = "a + b"', 'answer = "a + c"', "answer: a + c: name 'c' is not defined"),
        ('answer = "a + b"', 'answer = "math.inf"', "answer: math.inf: got inf, want a finite"),
        ('value = "a - b"', 'value = "a / 0"', "mistake: a / 0: division by zero"),
        ('value = "a - b"', 'value = "a + b"', "no four different options within 200 draws"),
        ('value = "a - b"', 'value = "b + 200"', "no four different options within 200 draws"),
        ("digits = 0", 'digits = 0\nhand = "a"', "no four different options within 200 draws"),
        ("What is {a}", "What is {c}", "text 'What is {c} + {b}?': KeyError('c')"),
        ("It is {answer}", "It is {answer", "text 'It is {answer.': ValueError"),
    ],
)
def test_a_drill_that_cannot_be_computed_is_reported(tmp_path, old, new, says):
    assert old in GOOD
    this = loaded(tmp_path, GOOD.replace(old, new, 1))["sum"]
    with pytest.raises(ValueError, match=r"01_sums\.toml: drill 'sum': ") as caught:
        this.card(np.random.default_rng(0))
    assert says in str(caught.value)


def test_a_file_that_is_no_drill_file_is_reported(tmp_path):
    for text in (
        "x = 1",
        "[[drill]]\n",
        GOOD + "[[question]]\nx = 1",
        "title = 3\ndrill = [1]",
        "title = {}\ndrill = [1]",
    ):
        with pytest.raises(ValueError, match=r"01_sums\.toml: want one \[title\] and at least"):
            loaded(tmp_path, text)
    with pytest.raises(ValueError, match=r"01_sums\.toml: Invalid value"):
        loaded(tmp_path, "title = ")
    twice = GOOD + GOOD.split("\n", 2)[2]
    with pytest.raises(ValueError, match=r"drill 'sum': the id is already in .*01_sums\.toml"):
        loaded(tmp_path, twice)


def test_the_example_of_the_readme_is_well_formed(tmp_path):
    readme = (content.ROOT / "drills" / "README.md").read_text(encoding="utf-8")
    example = re.search(r"```toml\n(.*?)```", readme, re.DOTALL).group(1)
    mistake = '[[drill.mistake]]\nvalue = "{}"\nen = "e"\nja = "j"\n'
    this = loaded(tmp_path, example + mistake.format("v + 9") + mistake.format("mu - 9"))["kl-1d"]
    assert "mu = " in this.card(np.random.default_rng(0)).text["en"]


# ------------------------------------------------------------------------------ the command


def first_card(id, seed):
    """The card that `drill ID --seed SEED` shows first, and the order of its options."""
    rng = random.Random(seed)
    (name,) = drill.choose([id], [], 1, rng)
    card = drill._round(name, rng).card
    return card, rng.sample(range(4), 4)


def squeezed(text):
    return "".join(text.replace("│", "").split())


def letters(card, order):
    """The letter of the right option, and the letters and mistakes of the wrong ones."""
    options = [card.options[index] for index in order]
    wrong = [("abcd"[i], o.mistake) for i, o in enumerate(options) if not o.right]
    return next("abcd"[i] for i, o in enumerate(options) if o.right), wrong


@pytest.mark.parametrize(("lang", "right"), [("en", "Right"), ("ja", "正解です")])
def test_a_right_answer(tmp_path, lang, right):
    card, order = first_card("vae-dlogvar", 5)
    state = tmp_path / "state"
    arguments = ["vae-dlogvar", "-n", "1", "--seed", "5", "--lang", lang, "--state", str(state)]
    with Terminal("drill", *arguments, cwd=tmp_path, home=tmp_path) as terminal:
        terminal.expect("[:：] ?$")
        terminal.send(letters(card, order)[0] + "\n")
        assert terminal.wait() == 0
        assert right in terminal.text
        for text in (card.text, card.why, *(option.text for option in card.options)):
            assert squeezed(text[lang]) in squeezed(terminal.text)
    with State(state) as kept:
        (answer,) = kept.answers("drill")
    assert (answer.id, answer.right) == ("vae-dlogvar", True)
    again = drill_cards.card("vae-dlogvar", np.random.default_rng(answer.detail["seed"]))
    assert again == card
    assert again.options[answer.detail["choice"]].right


@pytest.mark.parametrize("lang", LANGUAGES)
def test_a_wrong_answer_names_the_mistake(tmp_path, lang):
    card, order = first_card("z-from-logvar", 2)
    state = tmp_path / "state"
    (letter, mistake), (_, another), _ = letters(card, order)[1]
    arguments = ["z-from-logvar", "-n1", "--seed", "2", "--lang", lang, "--state", str(state)]
    with Terminal("drill", *arguments, cwd=tmp_path, home=tmp_path) as terminal:
        terminal.expect("[:：] ?$")
        terminal.send(letter + "\n")
        assert terminal.wait() == 0
        assert squeezed(mistake[lang]) in squeezed(terminal.text)
        assert squeezed(another[lang]) not in squeezed(terminal.text)
        assert squeezed(card.why[lang]) in squeezed(terminal.text)
        assert "lessons/10_reparameterization_trick.py" in terminal.text
    with State(state) as kept:
        assert [(a.id, a.right) for a in kept.answers("drill")] == [("z-from-logvar", False)]


@pytest.mark.parametrize("end", ["q\n", "\x03", "\x04"])
def test_stopping_keeps_what_was_answered(tmp_path, end):
    state = tmp_path / "state"
    arguments = ["kl", "-n", "3", "--seed", "1", "--lang", "en", "--state", str(state)]
    with Terminal("drill", *arguments, cwd=tmp_path, home=tmp_path) as terminal:
        terminal.expect("stop\\): $")
        terminal.send("a\n")
        terminal.expect("next one")
        terminal.send("\n")
        terminal.expect("2/3")
        terminal.expect("stop\\): $")
        terminal.send(end)
        assert terminal.wait() == 0
        assert "Traceback" not in terminal.text
    with State(state) as kept:
        assert len(kept.answers("drill")) == 1


def command(tmp_path, *arguments, typed=""):
    return subprocess.run(
        [sys.executable, "-m", "scratchvae", "drill", *arguments],
        input=typed,
        capture_output=True,
        encoding="utf-8",
        cwd=Path(__file__).parents[1],
        env={
            "XDG_DATA_HOME": str(tmp_path),
            **{"LC_ALL": "C.UTF-8", "PYTHONUTF8": "1", "OPENBLAS_NUM_THREADS": "1"},
        },
        check=False,
    )


def test_the_end_of_a_pipe_and_json(tmp_path):
    done = command(tmp_path, "kl-1d", "-n", "3", "--json", "--lang", "en", typed="a\nb\n")
    assert done.returncode == 0
    report = json.loads(done.stdout)
    assert report["answered"] == 2
    assert [q["id"] for q in report["questions"]] == ["kl-1d"] * 2
    assert "Stopped" in done.stderr
    done = command(tmp_path, "--lang", "ja")
    assert done.returncode == 0
    assert "1/5" in done.stdout


def test_list(tmp_path):
    for lang in LANGUAGES:
        done = command(tmp_path, "--list", "--lang", lang)
        assert done.returncode == 0
        for this in drill_cards.drills().values():
            assert this.id in done.stdout
            assert this.group in done.stdout
            assert this.title[lang] in done.stdout
    done = command(tmp_path, "kl", "--list", "--json", "--lang", "ja")
    rows = json.loads(done.stdout)
    assert [row["id"] for row in rows if row["group"] == "kl"] == [
        this.id for this in drill_cards.drills().values() if this.group == "kl"
    ]
    assert rows[0]["title"] == drill_cards.drills()["kl-1d"].title["ja"]


def test_an_unknown_topic_is_one_line(tmp_path):
    done = command(tmp_path, "cooking")
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "got 'cooking', want one of kl, reparameterization, elbo, loss, " in line
    (line,) = command(tmp_path, "cooking", "--lang", "ja").stderr.splitlines()
    assert "'cooking'という分野やドリルはありません。分野（kl, reparameterization, " in line


def test_topics_are_files_topics_of_the_quiz_and_drills():
    drills = drill_cards.drills().values()
    assert {d.group for d in drill.select(drills, "kl")} == {"kl"}
    assert {"kl-1d", "elbo-gap", "iwae-bound"} <= {d.id for d in drill.select(drills, "elbo")}
    assert all(d.topic == "uses" for d in drill.select(drills, "uses"))
    assert [d.id for d in drill.select(drills, "psnr")] == ["psnr"]
    assert len(drill.select(drills, None)) == len(drills)


def test_the_new_and_the_missed_come_first_and_none_twice(tmp_path):
    ids = ["a", "b", "c"]
    with State(tmp_path / "state") as state:
        for id, right in (("a", True), ("b", True), ("b", False), ("a", True)):
            state.record("drill", id, right)
        answers = state.answers()
    orders = {tuple(drill.choose(ids, answers, 5, random.Random(s))) for s in range(20)}
    assert len(orders) == 4  # b and c in either order, twice
    for order in orders:
        assert {*order[:2]} == {"b", "c"}
        assert order[2] == "a"
        assert {*order[3:]} == {"b", "c"}
