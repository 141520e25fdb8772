import math
import re

import numpy as np
import pytest

from scratchvae import validate


@pytest.mark.parametrize("value", [1, 7, np.int64(3), np.uint8(200)])
def test_integer_accepts_and_returns_an_int(value):
    result = validate.integer("n", value)
    assert result == value
    assert type(result) is int


@pytest.mark.parametrize("value", [0, -1, 1.0, True, "3", None, np.float64(2), [2]])
def test_integer_names_argument_value_and_wish(value):
    with pytest.raises(ValueError, match=r"^n: got .*, want an integer >= 1$") as error:
        validate.integer("n", value)
    assert repr(value) in str(error.value)


def test_integer_takes_its_lower_bound():
    assert validate.integer("seed", 0, low=0) == 0
    with pytest.raises(ValueError, match=r"seed: got -1, want an integer >= 0"):
        validate.integer("seed", -1, low=0)


@pytest.mark.parametrize(("value", "want"), [((), ()), ([4, 3], (4, 3)), ((np.int32(5),), (5,))])
def test_integers(value, want):
    result = validate.integers("hidden", value)
    assert result == want
    assert all(type(n) is int for n in result)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (400, r"^hidden: got 400, want a sequence of integers such as \(400,\)$"),
        ("400", r"^hidden: got '400', want a sequence"),
        (None, r"^hidden: got None, want a sequence"),
        ((4, 0), r"^hidden: got 0, want an integer >= 1$"),
        ([4, 2.5], r"^hidden: got 2.5, want an integer >= 1$"),
    ],
)
def test_integers_errors(value, message):
    with pytest.raises(ValueError, match=message):
        validate.integers("hidden", value)


def test_choice():
    assert validate.choice("init", "he", {"he": 1, "glorot": 2}) == "he"
    for wrong in ("HE", None, 3, ["he"]):
        with pytest.raises(ValueError, match=r"^init: got .*, want one of 'he', 'glorot'$"):
            validate.choice("init", wrong, iter(["he", "glorot"]))


@pytest.mark.parametrize("value", [0, 0.25, 1, np.float32(0.5), np.int8(1)])
def test_number_accepts_and_returns_a_float(value):
    result = validate.number("fraction", value, 0, 1)
    assert result == value
    assert type(result) is float


@pytest.mark.parametrize(
    "value", [-0.1, 1.1, math.nan, math.inf, -math.inf, True, "0.5", None, [0.5], np.bool_(True)]
)
def test_number_errors(value):
    with pytest.raises(ValueError, match=r"^fraction: got .*, want a number >= 0 and <= 1$"):
        validate.number("fraction", value, 0, 1)


@pytest.mark.parametrize(
    ("ends", "low_in", "high_in", "wish"),
    [
        ("[]", True, True, ">= 0 and <= 1"),
        ("[)", True, False, ">= 0 and < 1"),
        ("(]", False, True, "> 0 and <= 1"),
        ("()", False, False, "> 0 and < 1"),
    ],
)
def test_number_ends(ends, low_in, high_in, wish):
    for value, inside in ((0, low_in), (1, high_in), (0.5, True), (-0.5, False)):
        if inside:
            assert validate.number("p", value, 0, 1, ends=ends) == value
        else:
            with pytest.raises(ValueError, match=f"^p: got {value}, want a number {wish}$"):
                validate.number("p", value, 0, 1, ends=ends)


def test_number_without_upper_bound_says_only_the_lower_one():
    assert validate.number("sigma", 1e300) == 1e300
    with pytest.raises(ValueError, match=r"^sigma: got -1, want a number >= 0$"):
        validate.number("sigma", -1)


@pytest.mark.parametrize(
    "value",
    [10**400, -(10**400), np.complex128(1), 1j],
    ids=["10^400", "-10^400", "complex128", "complex"],
)
def test_number_refuses_what_no_float_holds(value):
    with pytest.raises(ValueError, match=r"^sigma: got "):
        validate.number("sigma", value)


# --- boolean, dtype, floating ---


@pytest.mark.parametrize("value", [True, False, 1, 0, np.True_, np.False_, np.int8(1)])
def test_boolean_accepts_and_returns_a_bool(value):
    got = validate.boolean("clip", value)
    assert type(got) is bool
    assert got == bool(value)


@pytest.mark.parametrize("value", ["no", "", None, 2, -1, 1.0, [], np.array(True)])
def test_boolean_errors(value):
    with pytest.raises(ValueError, match=r"^clip: got .*, want True or False$") as error:
        validate.boolean("clip", value)
    assert repr(value) in str(error.value)


@pytest.mark.parametrize("value", ["float32", np.float64, np.dtype("float32"), float, "<f4"])
def test_dtype_accepts_and_returns_a_dtype(value):
    assert validate.dtype(value) == np.dtype(value)


@pytest.mark.parametrize("value", [None, "float16", int, "complex64", "half a float", 3])
def test_dtype_errors(value):
    with pytest.raises(ValueError, match=r"^dtype: got .*, want 'float32' or 'float64'$") as error:
        validate.dtype(value)
    assert repr(value) in str(error.value)


def test_floating_names_the_argument_and_its_dtype():
    good = [np.zeros(2, dtype) for dtype in ("float16", "float32", "float64", "complex128")]
    for array in good:
        validate.floating("Loss", output=array, x=good[0])
    for dtype in ("int64", "uint8", "bool", "object", "<U3"):
        bad = np.zeros(2, dtype)
        message = (
            f"Loss: x is of dtype {bad.dtype}, want floating-point values: x.astype('float32')"
        )
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            validate.floating("Loss", output=good[0], x=bad)
