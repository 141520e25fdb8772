"""benchmarks/NUMERICS.md stays true: a part of it is measured again (with the extra `test`)."""

import math
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("mpmath", reason="mpmath is in the extra `test`")

from mpmath import mpf

from benchmarks import numerics
from benchmarks.numerics import BATCH, PIECES, TABLE, Measured, error_in_ulp, measure, stated, table

INPUTS = 10 * BATCH
BOUNDS = stated(TABLE.read_text(encoding="utf-8"))
SIGMOID = PIECES[0]
INFO = np.finfo(np.float32)


def keeps(measured):
    """Whether the stated bound holds, and is not four times too wide."""
    bound = BOUNDS[measured.piece.name, measured.dtype]
    return measured.error <= bound <= 4 * measured.error


@pytest.mark.parametrize("piece", PIECES, ids=lambda piece: piece.name)
def test_the_stated_bounds_hold_and_are_not_too_wide(piece):
    for measured in measure(piece, INPUTS, seed=1):
        assert keeps(measured), (measured.dtype, measured.error, measured.inputs)


def test_the_page_states_a_bound_for_every_formula_and_dtype():
    assert list(BOUNDS) == [(piece.name, dtype) for piece in PIECES for dtype in piece.dtypes]


def test_the_page_says_under_which_conditions():
    text = TABLE.read_text(encoding="utf-8")
    assert text.endswith(numerics.NOTES.split("{conditions}")[1])
    for piece in PIECES:
        if piece.condition:
            assert any(piece.name in line and piece.condition in line for line in text.splitlines())


def test_a_page_and_its_bounds():
    rows = [Measured(SIGMOID, "float32", 2.0, (0.5,)), Measured(SIGMOID, "float64", 0.41, (1.0,))]
    assert stated(table(rows, 7)) == {("sigmoid", "float32"): 2.5, ("sigmoid", "float64"): 0.6}


# --- what measures can fail ---


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: 1 / (1 + np.exp(-x)),  # overflows, and loses what is small
        lambda x: SIGMOID.ours(x) * x.dtype.type(1 + 16 * np.finfo(x.dtype).eps),
        lambda x: np.where(x == 0, np.nan, SIGMOID.ours(x)),  # at one of the extremes
    ],
    ids=["naive", "16 eps", "NaN"],
)
def test_a_worse_formula_exceeds_its_bound(wrong):
    in_float32 = next(measure(replace(SIGMOID, ours=wrong), INPUTS))
    assert in_float32.error > BOUNDS["sigmoid", "float32"]
    assert not keeps(in_float32)


def test_a_bound_that_is_too_wide_is_seen():
    exact = replace(SIGMOID, ours=lambda x: SIGMOID.ours(x.astype(np.float64)).astype(x.dtype))
    measured = next(measure(exact, INPUTS))
    assert measured.error <= 0.51
    assert not keeps(measured)


@pytest.mark.parametrize(
    ("ours", "true", "largest", "want"),
    [
        (1.0, 1, 1, 0),
        (1 + 2**-23, 1, 1, 1),
        (1.0, 1 + mpf(2) ** -24, 1 + mpf(2) ** -24, 0.5),
        (1 - 2**-24, mpf(1) - mpf(2) ** -23, mpf(1) - mpf(2) ** -23, 1),  # below 1 ulps are halved
        (2**-20, 0, 4, 2),
        (2**-149, 0, 0, 1),
        (0.0, 3 * mpf(2) ** -149, 3 * mpf(2) ** -149, 3),
        (math.nan, 1, 1, math.inf),
        (math.inf, 1, 1, math.inf),
        (math.inf, mpf(10) ** 39, mpf(10) ** 39, 0),
        (-math.inf, mpf(10) ** 39, mpf(10) ** 39, math.inf),
        (math.inf, mpf(10) ** 30, mpf(10) ** 30, math.inf),
    ],
)
def test_units_in_the_last_place(ours, true, largest, want):
    assert error_in_ulp(ours, (mpf(true), mpf(largest)), INFO) == want


def test_the_inputs_have_the_extremes_and_every_exponent():
    values = numerics.bits(np.random.default_rng(0), 20_000)
    assert values.dtype == np.float32
    assert np.isfinite(values).all()
    for extreme in numerics.EXTREMES:
        assert {extreme, -extreme} <= set(values.tolist())
    assert np.signbit(values[values == 0]).any()
    exponents = np.unique(np.frexp(values[values != 0])[1])
    assert exponents.min() <= -140
    assert set(range(-125, 129)) <= set(exponents.tolist())
    for draw in (numerics.grey, numerics.binary):
        pixels = draw(np.random.default_rng(0), 3000)
        assert (pixels.min(), pixels.max(), pixels.dtype) == (0, 1, np.float32)
