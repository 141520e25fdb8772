"""The numerical derivatives one by one: where they look, what they answer, how far to trust it."""

import math
import warnings

import numpy as np
import pytest

from scratchvae import derivatives
from scratchvae.derivatives import Line, Tableau, evaluate, value_and_noise

EPS = float(np.finfo(np.float32).eps)


class Seen:
    """f of one float32 number, computed in float64; it remembers where it was called."""

    def __init__(self, f, x=0.0):
        self.f, self.x, self.at = f, np.array([x], dtype=np.float32), []
        self.line = Line(self, {"x": self.x}, "x", 0)

    def __call__(self, inputs):
        x = float(inputs["x"][0])
        self.at.append(x)
        return self.f(x)


# ------------------------------------------------------------------------------------------ a line


def test_a_step_along_an_element_is_the_one_that_was_made():
    seen = Seen(lambda x: 2 * x, 4.0)
    assert (seen.line.reach, seen.line.eps) == (4.0, EPS)
    assert seen.line(EPS) == (0.0, 8.0)  # it is lost beside 4
    assert seen.line(5 * EPS) == (pytest.approx(4 * EPS), pytest.approx(8 + 8 * EPS))
    assert seen.x[0] == 4


def test_a_step_along_a_direction():
    x = np.array([3.0, 4.0, 12.0])
    line = Line(lambda d: d["x"].sum(), {"x": x}, "x", np.array([0.5, 0.0, -1.0]))
    assert line.reach == pytest.approx(math.hypot(3, 12))  # of what moves
    assert line(2.0) == (2.0, 19 + 1 - 2)
    assert Line(lambda d: 0.0, {"x": x / 100}, "x", 1).reach == 1.0


def test_f_must_be_a_real_scalar():
    assert evaluate(lambda _: np.array([[3]]), {}) == 3.0
    assert evaluate(lambda _: np.uint8(3), {}) == 3.0
    for value in (np.ones(2), 1j, True, np.array([]), "1"):
        with pytest.raises(ValueError, match=r"^f returned .* of shape .*, want a real scalar: use "
                           r"sum\(dy \* y\) with a random dy \(check_layer does\), not a plain sum "
                           r"of the outputs$"):  # fmt: skip
            evaluate(lambda _, value=value: value, {})


# ------------------------------------------------------------------------- central differences


@pytest.mark.parametrize("x", [2.0, 0.0])
def test_a_central_difference_and_its_error(x):
    """The slope of x^3 is off by h^2; the difference to that at 2 h is 3 h^2."""
    seen, noise = Seen(lambda x: x**3, x), 1e-6
    h = EPS ** (1 / 3) * max(x, 1)
    found = derivatives._central(seen.line, 10.0, noise)
    roundoff = 3 * (noise + EPS * 10) / h
    assert found.value == pytest.approx(3 * x * x + h * h, abs=0.02 * h * h)
    assert found.error == pytest.approx(3 * h * h + roundoff, rel=0.02)
    assert (found.method, found.kind) == ("central", "smooth")
    np.testing.assert_allclose(seen.at, x + h * np.array([2, -2, 1, -1]), rtol=1e-5)


# -------------------------------------------------------------------------------- complex steps


def test_the_imaginary_part_along_a_direction():
    x, slopes = np.array([3.0, 4.0, 12.0]), np.array([1.0, 10.0, 100.0])
    line = Line(lambda d: (slopes * d["x"] ** 2).sum(), {"x": x}, "x", np.array([0.5, 0.0, -1.0]))
    assert line.imaginary() == pytest.approx(0.5 * 6 - 100 * 24)


@pytest.mark.parametrize(
    "f",
    [
        lambda x: float(x[0].real),  # real all the way
        lambda x: x,  # no scalar
        lambda x: np.exp(1000 * x).sum(),  # not finite
        lambda x: np.abs(x).sum(),
        lambda x: np.array(x, dtype=float).sum(),
    ],
)
def test_where_there_is_no_imaginary_part(f):
    x = np.array([3.0, 4.0])
    assert Line(lambda d: f(d["x"]), {"x": x}, "x", 0).imaginary() is None


@pytest.mark.parametrize(
    "f",
    [
        *(np.absolute, np.conjugate, np.sign, np.rint),
        *(lambda x, g=g: g(x, 0) for g in (np.maximum, np.minimum, np.fmax, np.fmin)),
        *(lambda x, g=g: x * g(x, 0) for g in (np.greater, np.greater_equal, np.less)),
        *(lambda x, g=g: x * g(x, 0) for g in (np.less_equal, np.equal, np.not_equal)),
        lambda x: x.clip(0, 1),
        *(lambda x, g=g: x * g(x) for g in (np.linalg.norm, lambda x: np.vdot(x, x), np.real)),
        *(lambda x: x * x.imag, lambda x: x.conj(), lambda x: np.linalg.slogdet(x * x[:, None])[1]),
    ],
)
def test_what_has_no_complex_derivative_is_refused(f):
    x = np.array([3.0, 4.0])
    assert Line(lambda d: f(d["x"]).sum(), {"x": x}, "x", 0).imaginary() is None


def test_some_of_linear_algebra_has_a_complex_derivative():
    inputs = {"x": np.array([[3.0, 1.0], [2.0, 4.0]])}
    line = Line(lambda d: np.linalg.det(d["x"]) + np.linalg.inv(d["x"]).sum(), inputs, "x", 0)
    h = 1e-5
    assert line.imaginary() == pytest.approx((line(h)[1] - line(-h)[1]) / (2 * h))


def test_f_may_write_into_an_array_of_its_own():
    def f(inputs):
        square = np.zeros_like(inputs["x"])
        np.multiply(inputs["x"], inputs["x"], out=square)
        return square.sum()

    assert Line(f, {"x": np.array([3.0, 4.0])}, "x", 1).imaginary() == pytest.approx(8)


def test_a_warning_of_f_is_left_to_who_asked():
    def f(inputs):
        warnings.warn("slow", UserWarning, stacklevel=1)
        return inputs["x"].sum()

    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        assert Line(f, {"x": np.ones(2)}, "x", 0).imaginary() == 1


def complex_step(off, noise=0.0):
    """Of x^2 at 1, with a complex derivative that is off by so much; and where it was looked at."""
    x, at = np.array([1.0]), []

    def f(inputs):
        x = inputs["x"][0]
        if isinstance(x, complex):
            return x * x + 1e-30j * off
        at.append(float(x))
        return x * x

    return derivatives._complex_step(Line(f, {"x": x}, "x", 0), noise), at


def test_a_complex_step_is_believed_within_the_doubt_of_a_central_difference():
    eps = float(np.finfo(float).eps)
    h = eps ** (1 / 3)
    for noise in (0.0, 1e-13, 1e-6):
        doubt = 1e3 * eps ** (2 / 3) * 2 + 10 * noise / h
        for off in (-0.97 * doubt, 0.97 * doubt):
            found, at = complex_step(off, noise)
            assert found.value == pytest.approx(2 + off, rel=1e-13)
            assert found.error == pytest.approx(1e-15 * abs(2 + off) + 10 * noise, rel=1e-6)
            assert (found.method, found.kind) == ("complex", "smooth")
            np.testing.assert_allclose(np.array(at) - 1, [h, -h], rtol=1e-6)
        if noise < 1e-8:  # else the doubt is as large as the slope, by which it grows
            assert complex_step(1.03 * doubt, noise)[0] is None
            assert complex_step(-1.03 * doubt, noise)[0] is None


# --------------------------------------------------------------------------------------- kinks


def tableau(value):
    made = Tableau(4.0)
    made.value = value
    return made


def look(seen, gap, noise=0.0, central=1.0, left=-1.0, right=3.0):
    """Which tableaus are trusted, by name."""
    tableaus = {"central": tableau(central), "left": tableau(left), "right": tableau(right)}
    f0 = seen.f(float(seen.x[0]))
    trusted = derivatives._look_at_kink(seen.line, f0, noise, gap, *tableaus.values())
    return [name for name, t in tableaus.items() if any(t is other for other in trusted)]


def kink(at=0.0):
    """Slope -1 on the left of `at` and 3 on its right."""
    return lambda x: 3 * (x - at) if x > at else -(x - at)


@pytest.mark.parametrize("x", [0.0, 4.0])
def test_where_a_kink_is_looked_at(x):
    seen = Seen(kink(x), x)
    look(seen, gap=4.0)
    h = 256 * EPS * max(x, 1)  # the least step that still says something
    np.testing.assert_allclose(seen.at, x + h * np.array([1, -1, 4, -4]), rtol=1e-6)
    seen.at.clear()
    look(seen, gap=4.0, noise=1e-3)
    h = 200 * 1e-3 / 4.0  # the noise of a slope is half a percent of the gap
    np.testing.assert_allclose(seen.at, x + h * np.array([1, -1, 4, -4]), rtol=1e-5)


def test_a_kink_at_x_is_one_whose_gap_is_there_next_to_x():
    for gap in (1.0, 4.0, 50.0):  # 4, whatever other kinks add to it from afar
        assert look(Seen(kink()), gap) == ["left", "right"]


def test_a_kink_near_x_spoils_the_side_on_which_it_is():
    assert look(Seen(kink(-1.0)), 4.0) == ["right"]
    assert look(Seen(kink(1.0)), 4.0) == ["left"]
    assert look(Seen(kink(1.0)), 4.0, left=-1.39) == ["left"]  # to a tenth of the gap
    assert look(Seen(kink(1.0)), 4.0, left=-1.41) == []
    assert look(Seen(kink(2e-4)), 4.0) == ["left"]  # beyond the second step


def test_a_kink_between_the_two_steps_is_none_at_x():
    h = 256 * EPS
    assert look(Seen(kink(2 * h)), 4.0) == ["left"]


def test_a_false_alarm_leaves_the_central_tableau():
    line = Seen(lambda x: x)
    assert look(line, 0.5, central=1.0, left=1.0) == ["central"]
    assert look(line, 0.5, central=1.04) == ["central"]
    assert look(line, 0.5, central=1.06) == []


# ------------------------------------------------------------------------------ extrapolation


def test_a_tableau_of_a_smooth_f_converges():
    """Rows at h, h/4, h/16 of 5 + 3 h^2 + h^4, whose error terms shrink by 16 and by 256."""
    made, h = Tableau(16.0), 1.0
    assert (math.isnan(made.value), made.error) == (True, math.inf)
    for row in range(3):
        made.add(5 + 3 * h**2 + h**4, 1e-15)
        h /= 4
        assert len(made.row) == row + 1
    assert made.value == pytest.approx(5, abs=1e-14)
    second = 5 + 3 / 16 + 1 / 256
    assert made.last == second
    assert made.distances() == (
        pytest.approx(second - made.value),
        pytest.approx(3 / 256 + 1 / 65536),
    )


def test_the_error_of_an_entry_is_its_distance_to_what_it_is_made_from():
    made = Tableau(4.0)
    made.add(8.0, 0.125)
    assert math.isinf(made.error)  # one estimate says nothing about itself
    made.add(5.0, 0.25)
    assert (made.value, made.error) == (4.0, 4.25)  # 5 + (5 - 8) / 3
    made.add(5.0, 0.5)  # the entries 5, then 5 + (5 - 4) / 15
    assert (made.value, made.error) == (5.0, 0.5)
    made.add(9.0, 0.0)  # worse ones change nothing
    assert (made.value, made.error) == (5.0, 0.5)


def test_a_strict_tableau_believes_only_a_tenth_or_round_off():
    for second, roundoff, counts in ((1.0, 0.0, True), (0.7, 0.0, False), (0.7, 0.2, True)):
        made = Tableau(4.0, strict=True)
        made.add(1.0, 0.0)
        made.add(second, roundoff)
        assert math.isfinite(made.error) == counts
    made = Tableau(4.0, strict=True)
    made.add(1.0, 0.0)
    made.add(0.7, 0.13)  # 0.4 + 0.13 <= 4 * 0.13 is not quite so
    assert math.isinf(made.error)


def test_a_tableau_remembers_seven_rows():
    made = Tableau(4.0)
    for i in range(12):
        made.add(1 + 0.25**i, 0.0)
    assert len(made.row) == 7


# ---------------------------------------------------------------------------------- round-off


def test_the_round_off_of_f_at_least_its_last_bit():
    x = np.array([3.0, 0.0])
    f0, noise = value_and_noise(lambda d: 7.0 + 0 * d["x"].sum(), {"x": x}, "x")
    assert (f0, noise) == (7.0, 7 * np.finfo(float).eps)


def test_the_round_off_of_an_f_that_is_rounded():
    """f in steps of 1e-12 is uneven by half of that."""
    x = np.array([3.0, 0.0])
    _, noise = value_and_noise(lambda d: 1e-12 * np.round(d["x"].sum() * 1e14 / 8), {"x": x}, "x")
    assert 0.25e-12 <= noise <= 1e-12


@pytest.mark.parametrize(("dtype", "steps"), [("float32", 1), ("float64", 64)])
def test_where_round_off_is_looked_for(dtype, steps):
    x, at = np.array([4.0, 0.0], dtype=dtype), []

    def f(inputs):
        at.append(inputs["x"].astype(float))
        return float(inputs["x"].sum())

    value_and_noise(f, {"x": x}, "x")
    h = steps * float(np.finfo(dtype).eps)
    moved = np.array([a for a in at if a[1]])
    multiples = np.array([*range(1, 8), *range(-1, -8, -1)])
    np.testing.assert_allclose(moved[:, 0], 4 * (1 + h * multiples), rtol=0, atol=h / 4)
    np.testing.assert_allclose(moved[:, 1], h * multiples)  # where x is 0, by h itself


def test_the_round_off_is_half_of_how_far_f_swings():
    h = 64 * np.finfo(float).eps
    _, noise = value_and_noise(
        lambda d: 1e-9 * (round(float(d["x"][0]) / h) % 2), {"x": np.array([0.0])}, "x"
    )
    assert noise == pytest.approx(1e-9)


def test_an_f_that_counts_is_exact_to_the_inputs_digits():
    _, noise = value_and_noise(lambda d: 5, {"x": np.array([3.0])}, "x")
    assert noise == 5 * np.finfo(float).eps


def test_a_jump_at_x_is_not_round_off():
    """It is on one side, or between the two: each side is looked at by itself."""
    for jump in (lambda s: s > 3, lambda s: s >= 3, lambda s: s < 3):
        x = np.array([3.0, 0.0])
        _, noise = value_and_noise(lambda d, j=jump: float(j(d["x"][0])), {"x": x}, "x")
        assert noise <= 2 * np.finfo(float).eps
    ramp = np.array([3.0])
    _, noise = value_and_noise(lambda d: max(0.0, d["x"][0] - 3) ** 0.5, {"x": ramp}, "x")
    assert noise == 0


def test_the_round_off_of_a_float32_f_of_float64_numbers():
    x = np.array([3.0])
    _, noise = value_and_noise(lambda d: np.float32(d["x"][0]), {"x": x}, "x")
    assert noise >= 3 * EPS
    assert x[0] == 3


@pytest.mark.parametrize("x", [0.1257, 3.0, -60000.3])
def test_the_round_off_of_an_f_that_rounds_to_float32_on_the_way(x):
    inputs = {"x": np.array([x])}
    f0, noise = value_and_noise(lambda d: float(np.float32(d["x"][0]) ** 2), inputs, "x")
    assert f0 == float(np.float32(x) ** 2)
    assert 0.1 < noise / (f0 * np.finfo("f4").eps) < 4


def test_an_f_that_stands_still_has_the_round_off_of_its_value():
    """A large f with a small slope, and one that is flat until a kink further off."""
    for f in (lambda x: 1e6 + x, lambda x: 1 + max(x - 1.001, 0)):
        _, noise = value_and_noise(lambda d, f=f: float(f(d["x"][0])), {"x": np.ones(1)}, "x")
        assert noise <= 2 * np.finfo(float).eps * f(1.0)


def test_an_f_that_overflows_does_so_in_silence():
    x = np.zeros(1)
    f0, _ = value_and_noise(lambda d: np.log(d["x"][0]), {"x": x}, "x")
    assert f0 == -math.inf


def test_an_f_that_is_not_finite_around_x_has_the_round_off_of_its_value():
    x = np.array([2.0])
    _, noise = value_and_noise(lambda d: 2.0 if d["x"][0] == 2 else math.nan, {"x": x}, "x")
    assert noise == 2 * np.finfo(float).eps


# ------------------------------------------------------------------------ Ridders' method, in all

SMOOTH = {
    # name: (f, x, f', the error that it may have, relative to f', evaluations of f)
    "x^3": (lambda x: x**3, 2.0, 12.0, 1e-13, 24),
    "exp": (np.exp, 1.0, np.e, 1e-12, 26),
    "log near 0": (np.log, 0.05, 20.0, 1e-11, 34),
    "a root near 0": (np.sqrt, 0.02, 0.5 / 0.02**0.5, 1e-11, 32),
    "a fast wave": (lambda x: np.sin(300 * x), 0.1, 300 * math.cos(30), 1e-11, 36),
    "a faster wave": (lambda x: np.sin(1e4 * x), 0.3, 1e4 * math.cos(3000), 1e-9, 40),
    "a steep step": (
        lambda x: np.tanh(1e4 * x), 2e-4, 1e4 / math.cosh(2) ** 2, 1e-11, 42
    ),
    "a narrow bell": (
        lambda x: np.exp(-((x / 1e-3) ** 2)), 5e-4, -1e3 * math.exp(-0.25), 1e-11, 38
    ),
    "a pole nearby": (lambda x: 1 / (1 + (1e3 * x) ** 2), 1e-3, -500.0, 1e-11, 42),
    "a small slope of a large f": (lambda x: 1e6 + x, 1.0, 1.0, 1e-8, 36),
    "no slope": (lambda x: 3.0, 1.0, 0.0, 1e-13, 22),
    "a kink at a hundredth": (lambda x: np.exp(x) + abs(x - 0.01), 0.0, 0.0, 1e-11, 36),
    "a kink at a thousandth": (lambda x: np.exp(x) + abs(x - 0.001), 0.0, 0.0, 1e-11, 36),
    "a slight kink nearby": (lambda x: np.exp(x) + 0.0055 * abs(x + 0.07), 0.0, 1.0055, 1e-11, 32),
    "a kink on the other side": (lambda x: np.exp(x) + abs(x + 0.001), 0.0, 2.0, 1e-11, 36),
}  # fmt: skip
ROUGH = {
    # name: (f, x, f', the error that is unavoidable)
    "a slight kink nearby, of a large f": (
        lambda x: 2.5e7 + 7e-5 * abs(x + 1e-7), 0.0, 7e-5, 1.4e-4
    ),
    "a slighter one, further off": (
        lambda x: 2e7 + 4.4e-7 * abs(x - 6.7e-6), 0.0, -4.4e-7, 7e-7
    ),
    "a kink nearby, of an f that is rounded": (lambda x: round(7 * abs(x), 12), 7e-5, 7.0, 1.3e-7),
    "a root that is rounded": (
        lambda x: round(0.325 * max(x + 0.00143, 0) ** 0.5, 12), 0.0, 0.1625 / 0.00143**0.5, 2e-3
    ),
    "a pole nearby, rounded, far from 0": (
        lambda x: round(0.01 / (1 + (130 * (x - 60000.068)) ** 2), 11),
        60000.0, 22.984 / (1 + 8.84**2) ** 2, 1e-6,
    ),
    "a narrow bump on a steep line": (
        lambda x: math.exp(-((200 * (x - 24000.001)) ** 2)) - 8 * x,
        24000.0, 80 * math.exp(-0.04) - 8, 1e-4,
    ),
    "a slight bump on a parabola": (
        lambda x: 2 * x * x - 1e-3 * math.exp(-((3 * (x - 52.002)) ** 2)),
        52.0, 208 - 3.6e-5 * math.exp(-3.6e-5), 1e-8,
    ),
    "a step beside x, in float32": (lambda x: 0.07 * (x > -4.4e-5), np.float32(0), 0.0, 6.0),
}  # fmt: skip
KINKS = {
    # name: (f, the slopes left and right of 0, the error, evaluations)
    "curves": (lambda x: np.exp(2 * x) if x > 0 else np.exp(-3 * x), -3.0, 2.0, 1e-10, 38),
    "waves": (lambda x: np.sin(3 * x) if x > 0 else 5 * np.sin(x), 5.0, 3.0, 1e-11, 34),
    "a slight one": (lambda x: np.exp(x) + 1e-3 * abs(x), 0.999, 1.001, 1e-10, 40),
    "a ReLU": (lambda x: max(x, 0.0), 0.0, 1.0, 1e-13, 30),
}


def ridders(f, x):
    """The derivative, and how often f was evaluated for it."""
    calls = [0]

    def counted(inputs):
        calls[0] += 1
        return float(f(float(inputs["x"][0])))

    x = np.array([x])
    return derivatives.differentiate(counted, {"x": x}, "x", [0], "richardson")[0], calls[0]


@pytest.mark.parametrize("name", SMOOTH)
def test_ridders_is_as_exact_as_it_says_and_as_cheap(name):
    f, x, exact, error, evaluations = SMOOTH[name]
    found, calls = ridders(f, x)
    assert (found.kind, found.method) == ("smooth", "richardson")
    assert abs(found.value - exact) <= found.error <= error * max(abs(exact), 1)
    assert calls <= evaluations


@pytest.mark.parametrize("name", ROUGH)
def test_ridders_knows_how_much_it_cannot_see(name):
    f, x, exact, error = ROUGH[name]
    found, _ = ridders(f, x)
    assert found.kind == "smooth"
    assert abs(found.value - exact) <= found.error <= error


def test_far_from_0_a_jump_costs_no_more_evaluations():
    for far in (1e3, 1e6):
        assert ridders(lambda x, far=far: x > far, far)[1] == ridders(lambda x: x > 1, 1.0)[1]


def test_what_round_off_hides_is_no_jump_even_if_there_is_one_further_off():
    found, _ = ridders(lambda x: 1e5 + 6e-5 * (x > 0) + 90 * (x > -0.02), np.float32(0))
    assert found.kind == "smooth"
    assert abs(found.value) <= found.error


def test_one_step_at_which_f_is_finite_is_too_few():
    for reach, kind in ((5e-14, "not finite"), (2e-13, "smooth")):
        found, _ = ridders(lambda x, reach=reach: x if abs(x) < reach else math.nan, 0.0)
        assert found.kind == kind


@pytest.mark.parametrize("name", KINKS)
def test_ridders_on_both_sides_of_a_kink(name):
    f, left, right, error, evaluations = KINKS[name]
    found, calls = ridders(f, 0.0)
    assert (found.kind, found.method) == ("kink", "richardson")
    assert abs(found.left - left) <= found.error <= error
    assert abs(found.right - right) <= found.error
    assert found.value == (found.left + found.right) / 2
    assert calls <= evaluations


@pytest.mark.parametrize(
    ("f", "kind"),
    [
        (lambda x: float(x > 0), "jump"),
        (lambda x: x + 1e-6 * (x >= 0), "jump"),
        (lambda x: x + 3e-13 * (x > 0), "jump"),
        (lambda x: math.copysign(abs(x) ** 0.3, x), "jump"),
        (lambda x: 1.0 if x == 0 else math.nan, "not finite"),
        (lambda x: math.log(x) if x > 0 else math.inf, "not finite"),
    ],
)
def test_what_ridders_refuses(f, kind):
    found, _ = ridders(f, 0.0)
    assert (found.kind, found.error) == (kind, math.inf)
    assert math.isnan(found.value)


# ----------------------------------------------------------------------------------- arguments


def test_the_grain_is_the_slope_that_round_off_hides_at_a_wide_step():
    x = np.array([8.0])
    _, noise = value_and_noise(lambda d: 3.0, {"x": x}, "x")
    (found,) = derivatives.differentiate(lambda d: 3.0, {"x": x}, "x", [0], "richardson")
    assert found.grain == noise / 8


@pytest.mark.parametrize("x", [0.0, 5.0])
def test_how_far_the_last_bits_of_x_move_the_slope(x):
    inputs = {"x": np.array([x])}
    eps = np.finfo(float).eps
    of_numeric, of_claim = derivatives.rounding(lambda d: 3 * (d["x"][0] - x) ** 2, inputs, "x", 0)
    assert 4 <= of_numeric / (6 * eps * max(x, 1)) <= 16
    assert of_claim == of_numeric * (x > 0)
    assert derivatives.rounding(lambda d: 1.0, inputs, "x", 0) == (0, 0)
    hole = derivatives.rounding(lambda d: math.inf if d["x"][0] > x else 1, inputs, "x", 0)
    assert hole == (0, 0)
    for sign in (1, -1):  # the steeper side counts
        one = derivatives.rounding(
            lambda d, s=sign: 6 * max(0, s * (d["x"][0] - x)) ** 2, inputs, "x", 0
        )
        assert one[0] / of_numeric == pytest.approx(2)


def test_a_wide_x_is_moved_by_a_wide_step():
    seen = Seen(lambda x: x * x)
    derivatives.rounding(seen, {"x": np.array([1e6])}, "x", 0)
    assert max(abs(at - 1e6) for at in seen.at) > 50


def test_a_complex_step_that_gave_way_is_not_tried_again():
    tried = [0]

    def f(inputs):
        tried[0] += np.iscomplexobj(inputs["x"])
        return float(np.abs(inputs["x"].real).sum())

    derivatives.differentiate(f, {"x": np.ones(5)}, "x", range(5), "auto")
    assert tried[0] <= 2


def test_arguments_are_refused_by_name():
    with pytest.raises(ValueError, match="method") as caught:
        derivatives.check_method("newton")
    assert str(caught.value) == (
        "method: got 'newton', want one of auto, complex, richardson, central"
    )
    with pytest.raises(ValueError, match=r"^inputs: got none, want at least one array$"):
        derivatives.as_dict(None, {})
    for value, got in (
        ([1.0], "list of ?"),
        (np.ones(2, int), "ndarray of int64"),
        (np.ones(0), "ndarray of float64"),
    ):
        with pytest.raises(ValueError, match="W") as caught:
            derivatives.as_dict(None, {"W": value})
        assert str(caught.value) == (
            f"W: got {got}, want a NumPy array, float64 or float32, not empty"
        )
