"""What `explain` says of each mistake, word for word, and the numbers that it gives to programs."""

import json
import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from scratchvae.explain import (
    Finding,
    Report,
    TensorReport,
    describe,
    explain,
    indices,
    listed,
    name_factor,
    number,
    positions,
    unusable,
)

B, L = 7, 3
N = np.random.default_rng(3).standard_normal((B, L))
SIZES = {"B": B, "L": L}
CUBE = np.random.default_rng(4).standard_normal((2, 3, 4))


def put(array, index, value):
    array = array.copy()
    array[index] = value
    return array


def said(a, n=N, **options):
    found = explain(a, n, **{"sizes": SIZES, "name": "dx", **options})
    return [(f.kind, f.text, f.numbers) for f in found]


@pytest.mark.parametrize(
    ("a", "text"),
    [
        (3 * N, "z = 3.000 x the right draw, and 3.000 = L: it is summed over the latents, it "
         "should be averaged"),
        (put(N, 2, -N[2]), "z is right in batch rows 0, 1, 3, 4, 5, 6 and wrong in 2, where it is "
         "-1.000 x the right draw: it has the wrong sign"),
        (N**3, "z is wrong in 21 of 21 elements"),
    ],
)  # fmt: skip
def test_what_is_no_gradient_is_called_by_its_noun(a, text):
    ((_, got, numbers),) = said(a, name="z", noun="draw")
    assert got == text
    assert "cosine" not in numbers


def test_a_draw_that_is_wrong_throughout():
    ((kind, _, numbers),) = said(N**3, name="z", noun="draw")
    assert (kind, numbers) == ("different", {"wrong": 21, "of": 21})


def test_a_transpose_is_called_by_its_noun():
    square = N[:3]
    assert said(square.T, square, noun="draw")[0][1] == "dx is the transpose of the right draw"


# ----------------------------------------------------------------------- what cannot be compared


@pytest.mark.parametrize(
    ("shape", "want", "text"),
    [
        ((3, 7), (7, 3), "dx has shape (3, 7), want (7, 3): that of the transpose"),
        ((7, 4), (7, 3), "dx has shape (7, 4), want (7, 3)"),
        ((3, 2), (7, 3), "dx has shape (3, 2), want (7, 3)"),
        ((3, 2, 7), (7, 2, 3), "dx has shape (3, 2, 7), want (7, 2, 3): the right number of "
         "elements in another shape"),
        ((21,), (7, 3), "dx has shape (21,), want (7, 3): the right number of elements in another "
         "shape"),
        ((5, 7, 3), (7, 3), "dx has shape (5, 7, 3), want (7, 3): not summed over the batch"),
        ((5, 7, 4), (7, 3), "dx has shape (5, 7, 4), want (7, 3)"),
        ((2, 5, 7, 3), (7, 3), "dx has shape (2, 5, 7, 3), want (7, 3)"),
        ((), (7, 3), "dx has shape (), want (7, 3): summed over the wrong axes"),
        ((3,), (7, 3), "dx has shape (3,), want (7, 3): summed over the wrong axes"),
        ((7,), (3,), "dx has shape (7,), want (3,): summed over the wrong axes"),
        ((1, 3), (3,), "dx has shape (1, 3), want (3,): an axis of length 1 too many (of "
         "keepdims=True?)"),
        ((1, 1), (7, 3), "dx has shape (1, 1), want (7, 3)"),
        ((2,), (7, 3), "dx has shape (2,), want (7, 3)"),
    ],
)  # fmt: skip
def test_a_wrong_shape(shape, want, text):
    numbers = {"shape": list(shape), "want": list(want)}
    assert unusable(np.zeros(shape), want, "dx") == Finding("wrong shape", text, numbers)
    assert explain(np.zeros(shape), np.ones(want), name="dx") == [
        Finding("wrong shape", text, numbers)
    ]


def test_what_is_not_finite_is_counted_and_found():
    bad = put(put(N, (0, 1), math.nan), (slice(2, 4), slice(0, 2)), -math.inf)
    assert said(bad) == [
        (
            "not finite",
            "dx has 1 nan and 4 inf in 21 elements, at (0, 1), (2, 0), (2, 1) and 2 more",
            {"nan": 1, "inf": 4},
        )
    ]
    assert said(put(N, (1, 1), math.nan)) == [
        ("not finite", "dx has 1 nan in 21 elements, at (1, 1)", {"nan": 1, "inf": 0})
    ]
    with pytest.raises(ValueError, match=r"^numeric: got NaN or infinite values, want the right"):
        explain(N, bad)


# ------------------------------------------------------------------------------ all of it at once


def test_right_is_right_within_tolerance_and_uncertainty():
    assert said(N) == []
    assert said(N * (1 + 0.9e-6)) == []
    assert said(N * (1 + 1.2e-6))[0][0] == "factor"
    assert said(N * 1.009, tolerance=1e-2) == []
    small, at_second = np.array([1.0, 1e-12]), np.array([0.0, 1.0])
    assert (
        explain(small + 0.9e-9 * at_second, small) == []
    )  # 1e-3 tolerance times the largest entry
    assert explain(small + 1.2e-9 * at_second, small) != []
    assert explain(small + 0.5 * at_second, small, uncertainty=[0, 0.6]) == []
    assert explain(small + 0.5 * at_second, small, uncertainty=[0.6, 0])[0].kind == "elements"
    assert explain(1e9 * small + 0.5 * at_second, 1e9 * small, uncertainty=[0, 0.6]) == []
    assert explain(np.zeros(2), np.zeros(2)) == []
    assert explain([0.9e-9, 0.0], [0.0, 0.0]) == []  # of 1, where all entries are 0
    assert explain([1.2e-9, 0.0], [0.0, 0.0]) != []
    assert explain([], []) == []
    assert said(2e-12 * N, 1e-12 * N)[0][0] == "factor"  # all is relative to the largest entry


def test_a_gradient_that_is_known_exactly():
    """Without uncertainty, what is 0 has to be 0."""
    right = np.array([0.0, 1.0, 2.0])
    assert said(right, right, uncertainty=0) == []
    assert said(2 * right, right, uncertainty=0)[0][0] == "factor"
    assert said(put(right, 0, 1e-30), right, uncertainty=0)[0][0] == "elements"
    assert said(N**2, N, terms={"one": N, "none": 0 * N}, uncertainty=0)[0][0] == "different"


def test_fractions_are_numbers():
    right = [Fraction(1, 3), Fraction(2, 7)]
    assert said(right, right) == []
    ((_, text, _),) = said([2 * q for q in right], right)
    assert text.startswith("dx = 2.000 x the right gradient")


def test_a_model_explains_a_gradient_to_four_times_the_uncertainty():
    square, u = N[:3], 0.01
    for off, kind in ((3 * u, "transposed"), (5 * u, "different")):
        transpose = put(square.T, (0, 1), square[1, 0] + off)
        assert said(transpose, square, uncertainty=u)[0][0] == kind
    for off, kind in ((3 * u, "factor"), (5 * u, "rows")):  # as uncertain as 50 n is
        assert said(50 * put(N, (0, 0), N[0, 0] + off), N, uncertainty=u)[0][0] == kind


def test_a_gradient_without_a_name():
    assert explain(0 * N, N)[0].text.startswith("gradient is zero everywhere")


def test_zero():
    text = "dx is zero everywhere: not written, or cut off somewhere"
    assert said(0 * N) == [("zero", text, {})]


@pytest.mark.parametrize(
    ("c", "text", "names"),
    [
        (2, "dx = 2.000 x the right gradient: it counts twice, or has lost a 1/2", ["2"]),
        (-1, "dx = -1.000 x the right gradient: it has the wrong sign", ["-1"]),
        (1 / 7, "dx = 0.143 x the right gradient, and 0.143 = 1/B: it is averaged over the batch "
         "once too often", ["1/B"]),
        (0.37, "dx = 0.370 x the right gradient", []),
        (1e-8, "dx = 1e-08 x the right gradient: it is missing", ["0"]),
    ],
)  # fmt: skip
def test_a_factor(c, text, names):
    ((kind, its_text, numbers),) = said(c * N)
    assert (kind, its_text) == ("factor", text)
    assert numbers == {"factor": pytest.approx(c), "names": names}


def test_a_right_gradient_of_zero_has_no_factor():
    ((kind, text, _),) = said(np.ones(4), np.zeros(4))
    assert (kind, text) == ("offset", "dx is right but for a constant added to every element")
    assert said([1.0, -1.0], [0.0, 0.0]) == [
        (
            "different",
            "dx is wrong in 2 of 2 elements; the cosine of its angle with the right gradient is "
            "0.000",
            {"wrong": 2, "of": 2, "cosine": 0.0},
        )
    ]


def test_a_transpose():
    square = N[:3]
    assert said(square.T, square) == [
        ("transposed", "dx is the transpose of the right gradient", {})
    ]
    symmetric = square + square.T
    assert said(symmetric, symmetric) == []
    assert said(np.swapaxes(CUBE[:, :2, :2], 0, 2), CUBE[:, :2, :2])[0][0] != "transposed"


# ----------------------------------------------------------------------------------------- terms


def test_terms():
    one, other = N, np.cos(5 * N)
    terms = {"reconstruction": one, "KL": other}

    def of(a, b, **options):
        return said(a * one + b * other, one + other, terms=terms, **options)

    assert of(1, 1 / 3) == [
        (
            "term",
            "dx = 1.000 x reconstruction + 0.333 x KL, and 0.333 = 1/L: your KL is averaged over "
            "the latents once too often",
            {
                "coefficients": {"reconstruction": pytest.approx(1), "KL": pytest.approx(1 / 3)},
                "names": {"KL": ["1/L"]},
            },
        )
    ]
    ((_, text, numbers),) = of(0, -2)
    assert text == (
        "dx = 0.000 x reconstruction - 2.000 x KL: your reconstruction is missing; your KL has the "
        "wrong sign; counts twice, or has lost a 1/2"
    )
    assert numbers["names"] == {"reconstruction": ["0"], "KL": ["-2"]}
    ((_, text, numbers),) = of(0.37, 1)
    assert text == (
        "dx = 0.370 x reconstruction + 1.000 x KL: your reconstruction should have the factor 1"
    )
    assert numbers["names"] == {"reconstruction": []}


def test_terms_that_cannot_be_told_apart():
    found = said(3 * N, 2 * N + 1e-9, terms={"one": N, "other": N + 1e-9})
    assert found[0][0] == "factor"
    a = put(3 * N, (0, 0), 3 * N[0, 0])
    collinear = said(a + np.sin(N), 2 * N + np.sin(N), terms={"p": N, "q": N, "r": np.sin(N)})
    assert collinear[0] == (
        "term",
        "dx: p and q and r are proportional to each other here, so that a wrong one cannot be "
        "told: take other inputs",
        {"collinear": ["p", "q", "r"]},
    )
    assert len(collinear) == 2


def test_as_many_terms_as_numbers_fit_anything_and_explain_nothing():
    r, k = np.array([0.3, -1.2]), np.array([0.5, 0.4])
    (found,) = explain([0.8, 0.3], r + k, terms={"reconstruction": r, "KL": k})
    assert found.kind == "elements"
    (found,) = explain(r + 2 * k, r + k, terms={"reconstruction": r, "KL": k})  # one is right
    assert found.numbers["names"] == {"KL": ["2"]}


def test_one_term_or_more_terms_than_elements_explain_nothing():
    assert said(N**2, N, terms={"one": N**2, "none": 0 * N})[0][0] != "term"
    tiny = np.array([1.0, 2.0])
    terms = {"a": tiny, "b": tiny**2, "c": tiny**3}
    assert said([3.0, 5.0], tiny + tiny**2 + tiny**3, terms=terms)[0][0] != "term"
    terms = {"a": tiny, "b": tiny**2}
    assert said(tiny + 5 * tiny**2, tiny + tiny**2, terms=terms)[0][0] == "term"


def test_a_term_is_told_apart_however_small_it_is():
    small = 1e-6 * np.cos(5 * N)  # a KL with a beta of 1e-6
    found = said(N + 2 * small, N + small, terms={"nll": N, "KL": small}, tolerance=1e-9)
    assert found[0][1].startswith("dx = 1.000 x nll + 2.000 x KL: your KL counts twice")


def alike(angle):
    """Two terms of length 1 at an angle, and a third at right angles to both."""
    one, other, third = np.linalg.qr(np.random.default_rng(5).standard_normal((21, 3)))[0].T
    return one, math.cos(angle) * one + math.sin(angle) * other, third


@pytest.mark.parametrize(("angle", "told"), [(2.2e-5, True), (1.8e-5, False), (1.1e-5, False)])
def test_terms_are_told_apart_from_an_angle_of_2e_5_on(angle, told):
    one, other, _ = alike(angle)
    found = said(one - 2 * other, one + other, terms={"p": one, "q": other}, tolerance=1e-12)
    assert found[0][0] == "term"
    assert ("collinear" not in found[0][2]) == told


@pytest.mark.parametrize(("off", "kind"), [(0.15, "different"), (0.25, "term")])
def test_the_more_alike_two_terms_are_the_less_one_of_them_is_blamed(off, kind):
    one, other, third = alike(1e-4)  # a tolerance of 1e-6 leaves a doubt of 0.2
    terms = {"p": one, "q": other}
    a, n = (1 + off) * one + (1 - off) * other, one + other
    assert said(a, n, terms=terms)[0][0] == kind
    assert said(a + third, n + third, terms=terms | {"r": third})[0][0] == kind


# --------------------------------------------------------------------------------- rows, offsets


def test_rows():
    assert said(put(N, 2, 2 * N[2])) == [
        (
            "rows",
            "dx is right in batch rows 0, 1, 3, 4, 5, 6 and wrong in 2, where it is 2.000 x the "
            "right gradient: it counts twice, or has lost a 1/2",
            {"right": [0, 1, 3, 4, 5, 6], "wrong": [2], "factors": [pytest.approx(2)]},
        )
    ]
    ((kind, text, _),) = said(put(N, 2, 2 * N[2]), batch_axis=None)
    assert text.startswith("dx is right in rows 0, 1, 3")
    ((kind, text, _),) = said(put(N, 2, 2 * N[2]), sizes={"B": 6})
    assert text.startswith("dx is right in rows 0, 1, 3")
    ((kind, text, numbers),) = said(put(N, slice(1, None), np.sin(9 * N[1:])))
    assert (kind, text) == ("rows", "dx is right in batch row 0 and wrong in 1, 2, 3, 4, 5, 6")
    assert numbers == {"right": [0], "wrong": [1, 2, 3, 4, 5, 6], "factors": [None] * 6}


def test_rows_of_zeros():
    ((_, text, _),) = said(put(N, slice(1, 3), 0))
    assert text == (
        "dx is right in batch rows 0, 3, 4, 5, 6 and wrong in 1, 2, where it is 0.000 x the right "
        "gradient: it is missing"
    )


def test_a_block_of_rows_and_columns_is_told_by_the_batch():
    square = np.random.default_rng(6).standard_normal((4, 4))
    bad = put(square, (slice(3), slice(3)), 9.0)
    assert said(bad, square, batch_axis=0)[0][0] == "rows"
    assert said(bad, square, batch_axis=1)[0][0] == "columns"


def test_rows_of_which_each_has_a_factor():
    factors = np.arange(2.0, 9)
    ((kind, text, numbers),) = said(factors[:, None] * N)
    assert (kind, text) == (
        "rows",
        "dx is wrong in all batch rows, by a factor of its own in each: 2.000, 3.000, 4.000, "
        "5.000, 6.000, 7.000",
    )
    assert numbers == {"right": [], "wrong": list(range(7)), "factors": pytest.approx(factors)}
    half = np.array([1, 1, 1, 1, 1, 2.0, 2.5])
    ((_, text, _),) = said(half[:, None] * N)
    assert text.endswith("wrong in 5, 6, by a factor of its own in each: 2.000, 2.500")


def test_columns_and_slices():
    ((kind, text, _),) = said(put(N, (slice(None), 1), -N[:, 1]))
    assert (kind, text) == (
        "columns",
        "dx is right in columns 0, 2 and wrong in 1, where it is -1.000 x the right gradient: it "
        "has the wrong sign",
    )
    ((kind, text, _),) = said(put(CUBE, (..., 1), -CUBE[..., 1]), CUBE)
    assert (kind, text.split(",")[0]) == ("slices", "dx is right in slices 0")
    two = N[:2]
    assert said(put(two, 1, 2 * two[1]), two)[0][0] == "rows"  # two rows are enough
    one = N[:1]
    assert said(put(one, (0, 1), 5), one)[0][0] == "columns"
    assert said(one * [[2, 3, 4]], one)[0][0] == "different"


def test_a_row_counts_as_wrong_if_most_of_it_is():
    most = put(N, (2, slice(0, 2)), 5)
    assert said(most)[0][0] == "rows"
    least = put(N, (2, slice(0, 1)), 5)
    assert said(least)[0][0] == "elements"
    half = put(N[:, :2], (2, 0), 5)
    assert said(half, N[:, :2])[0][0] == "elements"
    assert said(put(most, (4, 0), 5))[0][0] == "elements"  # a row is neither right nor wrong


def test_elements_of_a_vector_are_no_rows():
    vector = N[:, 0]
    ((kind, text, _),) = said(put(vector, 3, 9), vector)
    assert (kind, text) == ("elements", "dx is wrong in 1 of 7 elements, at (3,)")


def test_offsets():
    assert said(N + 0.1) == [
        ("offset", "dx is right but for a constant added to every element", {})
    ]
    assert said(N + np.arange(7.0)[:, None]) == [
        (
            "offset",
            "dx is right but for a constant added to each row: a term with the sum over the row "
            "is lost or wrong",
            {"axis": -1},
        )
    ]
    cube = np.swapaxes(CUBE, 0, 1)
    of_its_own = np.arange(6.0).reshape(3, 2, 1)
    assert said(cube + of_its_own, cube)[0][2] == {"axis": -1}
    two = N[:, :2]  # in two columns half of all mistakes would be offsets of their rows
    assert said(two + np.arange(7.0)[:, None], two)[0][0] != "offset"
    assert said(N[:2] + np.array([[1.0], [2.0]]), N[:2])[0][0] == "offset"
    assert said([3.0], [1.0])[0][0] == "factor"
    assert said([1.0, 2.0], [0.0, 1.0])[0][0] == "offset"
    assert said([1.0], [0.0])[0][0] == "different"


# -------------------------------------------------------------------------------- what is left


def test_signs():
    text = f"dx is wrong in {(N < 0).sum()} of 21 elements, by the sign only"
    assert said(np.abs(N)) == [("sign", text, {"wrong": int((N < 0).sum()), "of": 21})]


def test_some_elements():
    bad = put(N, ([0, 2, 5, 6], [1, 0, 2, 2]), 9.0)
    assert said(bad) == [
        (
            "elements",
            "dx is wrong in 4 of 21 elements, at (0, 1), (2, 0), (5, 2) and 1 more",
            {"wrong": 4, "of": 21, "at": [[0, 1], [2, 0], [5, 2]]},
        )
    ]
    four = np.array([1.0, 2, 3, 4])
    assert said([1.0, 2, 7, 11], four)[0][0] == "elements"  # half of them
    assert said([1.0, 5, 7, 11], four)[0][0] == "different"


def test_most_elements():
    factors = np.exp(np.random.default_rng(0).standard_normal((B, L)))
    assert said(factors * N) == [
        (
            "different",
            "dx is wrong in 21 of 21 elements, each by a positive factor of its own: a factor that "
            "depends on the element is lost or too many, such as sigma or the derivative of an "
            "activation",
            {"wrong": 21, "of": 21},
        )
    ]
    other = np.random.default_rng(9).standard_normal((B, L))
    cosine = float(np.vdot(other, N) / np.linalg.norm(other) / np.linalg.norm(N))
    assert said(other) == [
        (
            "different",
            "dx is wrong in 21 of 21 elements; the cosine of its angle with the right gradient is "
            f"{cosine:.3f}",
            {"wrong": 21, "of": 21, "cosine": pytest.approx(cosine)},
        )
    ]
    assert "cosine" in said(put(factors * N, (3, 1), 0.0))[0][1]  # 0 is no positive factor


# --------------------------------------------------------------------------------- names of factors


@pytest.mark.parametrize(
    ("c", "sizes", "found"),
    [
        (7, {"B": 7}, [("B", "is summed over the batch, it should be averaged")]),
        (1 / 7, {"B": 7}, [("1/B", "is averaged over the batch once too often")]),
        (49, {"B": 7}, [("B^2", "is summed over the batch, it should be averaged")]),
        (1 / 21, {"B": 7, "L": 3}, [("1/(B*L)", "is averaged over the batch and the latents "
         "once too often")]),
        (2 / 21, {"B": 7, "L": 3}, [("2/(B*L)", "is averaged over the batch and the latents "
         "once too often; counts twice, or has lost a 1/2")]),
        (-7 / 2, {"B": 7}, [("-B/2", "has the wrong sign; is summed over the batch, it should be "
         "averaged; has a 1/2 too many, or counts once of two")]),
        (7 / 3, {"B": 7, "L": 3}, [("B/L", "is averaged over the latents once too often; "
         "is summed over the batch, it should be averaged")]),
        (3, {"B": 3, "L": 3}, [("B", "is summed over the batch, it should be averaged"),
         ("L", "is summed over the latents, it should be averaged")]),
        (5, {"Q": 5}, [("Q", "is summed over Q, it should be averaged")]),
        (1 / 5, {"Q": 5}, [("1/Q", "is averaged over Q once too often")]),
        (2, {}, [("2", "counts twice, or has lost a 1/2")]),
        (2, {"B": 2}, [("2", "counts twice, or has lost a 1/2"),
         ("B", "is summed over the batch, it should be averaged")]),
        (1, {"B": 7}, []),
        (1, {"B": 1}, []),
        (7 * 7 * 3 * 3, {"B": 7, "L": 3}, []),  # not simple enough
        (2 * 7 * 7 * 3, {"B": 7, "L": 3}, []),
        (7 * 7 * 3, {"B": 7, "L": 3}, [("B^2*L", "is summed over the batch and the latents, it "
         "should be averaged")]),
        (7 * (1 + 2e-6), {"B": 7}, []),
        (7 * (1 + 0.5e-6), {"B": 7}, [("B", "is summed over the batch, it should be averaged")]),
    ],
)  # fmt: skip
def test_the_names_of_a_factor(c, sizes, found):
    assert name_factor(c, sizes) == found


def test_a_factor_is_described():
    assert describe(0.99e-6, {}, 1e-6, "it") == (": it is missing", ["0"])
    assert describe(1.01e-6, {}, 1e-6, "it") == (": it should have the factor 1", [])
    assert describe(3, {"B": 3, "L": 3}, 1e-6, "it") == (
        ", and 3.000 = B = L: it is summed over the batch, it should be averaged, or it is summed "
        "over the latents, it should be averaged",
        ["B", "L"],
    )
    assert describe(-2, {}, 1e-6, "it")[0] == (
        ": it has the wrong sign; counts twice, or has lost a 1/2"
    )
    assert describe(2 * (1 + 5e-4), {}, 1e-2, "it")[1] == ["2"]  # as exact as the gradient is
    assert describe(2 * (1 + 2e-3), {}, 1e-2, "it")[1] == []  # but never more than 1e-3 off
    assert describe(2 * (1 + 0.5e-7), {}, 1e-12, "it")[1] == ["2"]
    assert describe(2 * (1 + 2e-7), {}, 1e-12, "it")[1] == []
    assert describe(2 * (1 + 9.5e-6), {}, 1e-6, "it")[1] == ["2"]
    assert describe(2 * (1 + 10.5e-6), {}, 1e-6, "it")[1] == []


@pytest.mark.parametrize(
    ("c", "text"),
    [
        (0.9e-9, "0.000"),
        (1.1e-9, "1.1e-09"),
        (0.0476190476, "0.0476"),
        (0.143, "0.143"),
        (1 / 3, "0.333"),
        (0.49995, "0.500"),
        (1.0, "1.000"),
        (1 + 0.5e-7, "1.000"),
        (1 + 2e-7, "1.0000002"),
        (-35.0, "-35.000"),
        (1234.5678, "1234.568"),
        (0.0004, "0.0004"),
    ],
)
def test_numbers(c, text):
    assert number(c) == text


def test_positions():
    shape = (4, 5)
    assert positions([7], shape) == "at (1, 2)"
    assert positions([7, 0, 19], shape) == "at (1, 2), (0, 0), (3, 4)"
    assert positions([7, 0, 19, 3], shape) == "at (1, 2), (0, 0), (3, 4) and 1 more"
    assert positions(list(range(9)), shape) == "at (0, 0), (0, 1), (0, 2) and 6 more"
    assert indices([7, 0, 19, 3], shape) == [[1, 2], [0, 0], [3, 4]]
    assert listed(np.arange(6)) == "0, 1, 2, 3, 4, 5"
    assert listed(np.arange(7)) == "0, 1, 2, 3, 4, 5 and 1 more"
    assert listed(np.arange(9)) == "0, 1, 2, 3, 4, 5 and 3 more"


# --------------------------------------------------------------------------------------- reports


def test_a_report():
    right = TensorReport("x", (7, 3), "ok", (), 1e-12, 2e-11, (1, 2), 3e-13, "complex", "21 of 21")
    kink = TensorReport("W", (3,), "kink", checked="3 of 3", kinks=((0,), (2,)), method="central")
    report = Report((right, kink), 1e-9).refuse("W", Finding("zero", "dW is zero"))
    assert [t.verdict for t in report.tensors] == ["ok", "wrong"]
    assert report["W"].findings == (Finding("zero", "dW is zero"),)
    assert ("W" in report, "dW" in report, list(report)) == (True, False, ["x", "W"])
    with pytest.raises(KeyError, match="report: got 'dW', want one of x, W"):
        report["dW"]
    assert report.refuse("W", Finding("sign", "s"))["W"].findings[1].kind == "sign"
    assert str(report).splitlines() == [
        "tensor  shape   checked   by norm  worst    method   kinks  verdict",
        "x       (7, 3)  21 of 21  1.0e-12  2.0e-11  complex  -      ok",
        "W       (3,)    3 of 3    nan      nan      central  2      wrong",
        "  dW is zero",
    ]
    loose = "  held to 1e-02 only; float64 throughout decides more"
    assert str(replace(report, tolerance=1e-2)) == f"{report}\n{loose}"
    assert "\n  held to 1e-03 only; " in str(replace(report, tolerance=1e-3))
    assert (report.ok, report.verdict, report.method) == (False, "wrong", "complex, central")
    with pytest.raises(AssertionError) as caught:
        report.raise_if_wrong()
    assert str(caught.value) == f"gradient check failed\n{report}"


def test_a_report_as_json():
    found = Finding("rows", "dx", {"factors": [np.float64(2), math.inf], 3: np.int64(4), "n": None})
    tensor = TensorReport("x", (np.int64(7),), "wrong", (found,), worst_index=(1, np.int64(2)))
    plain = Report((tensor,), 1e-9).to_dict()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain == {
        "ok": False,
        "verdict": "wrong",
        "tolerance": 1e-9,
        "tensors": [
            {
                "name": "x",
                "shape": [7],
                "verdict": "wrong",
                "findings": [
                    {
                        "kind": "rows",
                        "text": "dx",
                        "numbers": {"factors": [2.0, None], "3": 4, "n": None},
                    }
                ],
                "norm_error": None,
                "worst_error": None,
                "worst_index": [1, 2],
                "numeric_error": None,
                "method": "-",
                "checked": "-",
                "kinks": [],
            }
        ],
    }  # fmt: skip
