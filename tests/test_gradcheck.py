"""The gradient check: it accepts right gradients at any scale, and refuses and names wrong ones."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scratchvae import derivatives, gradcheck, verdict
from scratchvae.explain import Report, TensorReport, name_factor
from scratchvae.gradcheck import (
    assert_gradients,
    check_gradients,
    check_layer,
    check_loss,
    check_model,
    explain,
    numerical_gradient,
)
from scratchvae.latent import GaussianKL
from scratchvae.layers import Dense, Layer, ReLU, Sequential, Tanh, mlp
from scratchvae.losses import MeanSquaredError
from scratchvae.models import VAE, Autoencoder

B, L, D = 7, 3, 5
RNG = np.random.default_rng(7)
MU, LOGVAR, EPS = (RNG.standard_normal((B, L)) for _ in range(3))
W, X = RNG.standard_normal((L, D)), RNG.random((B, D))


# ------------------------------------------------------- a small VAE, from its latents onwards


def reconstruction(latents):
    z = latents["mu"] + np.exp(latents["logvar"] / 2) * EPS
    return np.sum((z @ W - X) ** 2) / (2 * B)


def kl(latents):
    mu, logvar = latents["mu"], latents["logvar"]
    return np.sum(mu * mu + np.exp(logvar) - 1 - logvar) / (2 * B)


def loss(latents):
    return reconstruction(latents) + kl(latents)


def gradients(of_reconstruction=1.0, of_kl=1.0):
    sigma = np.exp(LOGVAR / 2)
    dz = of_reconstruction * ((MU + sigma * EPS) @ W - X) @ W.T / B
    dmu, dlogvar = MU / B, (sigma * sigma - 1) / (2 * B)
    return {"mu": dz + of_kl * dmu, "logvar": dz * EPS * sigma / 2 + of_kl * dlogvar}


def check(claims, **options):
    return check_gradients(
        loss,
        {"mu": MU.copy(), "logvar": LOGVAR.copy()},
        claims,
        terms={"reconstruction": reconstruction, "KL": kl},
        sizes={"B": B, "L": L, "D": D},
        **options,
    )


def test_right_gradients_pass():
    report = check(gradients())
    assert report.ok
    assert report.verdict == "ok"
    assert report.worst < 1e-12
    assert [t.findings for t in report.tensors] == [(), ()]
    report.raise_if_wrong()


# -------------------------------------------------------------------------- wrong gradients


def put(index, value):
    def change(a):
        a = a.copy()
        a[index] = value(a[index])
        return a

    return change


WRONG_DMU = {
    # name: (what is done to dmu, verdict, kind of finding, words in it)
    "factor 2": (lambda a: 2 * a, "wrong", "factor", "2.000 x the right gradient"),
    "factor 1/2": (lambda a: a / 2, "wrong", "factor", "0.500 = 1/2"),
    "sign": (lambda a: -a, "wrong", "factor", "wrong sign"),
    "1/B": (lambda a: a / B, "wrong", "factor", "0.143 = 1/B: it is averaged over the batch"),
    "B": (lambda a: a * B, "wrong", "factor", "= B: it is summed over the batch"),
    "1/L": (lambda a: a / L, "wrong", "factor", "0.333 = 1/L: it is averaged over the latents"),
    "D": (lambda a: a * D, "wrong", "factor", "= D: it is summed over the features"),
    "1/(B L)": (lambda a: a / (B * L), "wrong", "factor", "0.0476 = 1/(B*L)"),
    "B D": (lambda a: a * B * D, "wrong", "factor", "35.000 = B*D"),
    "-2/B": (lambda a: -2 * a / B, "wrong", "factor", "-0.286 = -2/B"),
    "a factor without a name": (lambda a: 0.37 * a, "wrong", "factor", "0.370 x the right"),
    "a bias of 1e-6": (lambda a: a * (1 + 1e-6), "wrong", "factor", "1.000001 x the right"),
    "zeros": (np.zeros_like, "wrong", "zero", "zero everywhere"),
    "none at all": (lambda a: None, "wrong", "missing", "no gradient"),
    "batch row 0 only": (
        put(slice(1, None), np.zeros_like),
        "wrong",
        "rows",
        "right in batch row 0",
    ),
    "one batch row doubled": (
        put(3, lambda r: 2 * r),
        "wrong",
        "rows",
        "wrong in 3, where it is 2",
    ),
    "a factor for each row": (
        lambda a: a * np.arange(2, 2 + B)[:, None],
        "wrong",
        "rows",
        "by a factor of its own in each: 2.000, 3.000",
    ),
    "one column": (put((slice(None), 1), lambda c: -c), "wrong", "columns", "wrong in 1, where it"),
    "one element": (
        put((2, 1), lambda v: v + 1e-6),
        "wrong",
        "elements",
        "1 of 21 elements, at (2",
    ),
    "a constant added": (lambda a: a + 0.1, "wrong", "offset", "added to every element"),
    "a constant a row": (lambda a: a + MU[:, :1], "wrong", "offset", "added to each row"),
    "absolute value": (np.abs, "wrong", "sign", "by the sign only"),
    "a factor an element": (lambda a: a * np.exp(EPS), "wrong", "different", "depends on the elem"),
    "anything": (lambda a: EPS, "wrong", "different", "cosine"),
    "NaN": (put((0, 1), lambda v: math.nan), "not finite", "not finite", "1 nan in 21 elements"),
    "infinity": (put((4, 2), lambda v: -math.inf), "not finite", "not finite", "1 inf"),
    "transposed shape": (lambda a: a.T, "wrong shape", "wrong shape", "that of the transpose"),
    "summed over the batch": (lambda a: a.sum(0), "wrong shape", "wrong shape", "the wrong axes"),
    "an axis too many": (
        lambda a: a[None],
        "wrong shape",
        "wrong shape",
        "an axis of length 1 too many",
    ),
    "not summed over the batch": (
        lambda a: np.stack([a, a]),
        "wrong shape",
        "wrong shape",
        "not summed over the bat",
    ),
    "flattened": (lambda a: a.ravel(), "wrong shape", "wrong shape", "in another shape"),
    "a scalar": (lambda a: a.sum(), "wrong shape", "wrong shape", "shape ()"),
    "not an array": (lambda a: {"mu": a}, "wrong shape", "wrong shape", "is a dict"),
}


@pytest.mark.parametrize("mistake", WRONG_DMU)
def test_a_wrong_gradient_is_refused_and_named(mistake):
    change, verdict, kind, words = WRONG_DMU[mistake]
    right = gradients()
    report = check({**right, "mu": change(right["mu"])})
    assert not report.ok
    assert report["logvar"].verdict == "ok"
    assert report["mu"].verdict == verdict == report.verdict
    assert report["mu"].findings[0].kind == kind
    assert words in report["mu"].findings[0].text
    assert words in str(report)
    json.dumps(report.to_dict(), allow_nan=False)
    with pytest.raises(AssertionError, match=re.escape(words)):
        report.raise_if_wrong()


WRONG_TERM = {
    "KL missing": ((1, 0), "1.000 x reconstruction + 0.000 x KL: your KL is missing"),
    "KL doubled": ((1, 2), "1.000 x reconstruction + 2.000 x KL: your KL counts twice"),
    "KL halved": ((1, 1 / 2), "+ 0.500 x KL, and 0.500 = 1/2: your KL has a 1/2 too many"),
    "KL with the wrong sign": ((1, -1), "reconstruction - 1.000 x KL: your KL has the wrong sign"),
    "KL averaged over the latents": (
        (1, 1 / L),
        "1.000 x reconstruction + 0.333 x KL, and 0.333 = 1/L: "
        "your KL is averaged over the latents once too often",
    ),
    "KL not averaged over the batch": ((1, B), "and 7.000 = B: your KL is summed over the batch"),
    "reconstruction missing": ((0, 1), "your reconstruction is missing"),
    "reconstruction averaged over the pixels": (
        (1 / D, 1),
        "0.200 x reconstruction + 1.000 x KL, and 0.200 = 1/D: "
        "your reconstruction is averaged over the features",
    ),
    "both": ((1 / D, 1 / L), "0.200 = 1/D: your reconstruction is averaged"),
    "no name": ((1, 1.37), "1.000 x reconstruction + 1.370 x KL: your KL should have the factor 1"),
}


@pytest.mark.parametrize("mistake", WRONG_TERM)
def test_a_wrong_term_is_named(mistake):
    coefficients, words = WRONG_TERM[mistake]
    report = check(gradients(*coefficients))
    for tensor in report.tensors:
        assert tensor.verdict == "wrong"
        assert tensor.findings[0].kind == "term"
        assert words in tensor.findings[0].text
        found = tensor.findings[0].numbers["coefficients"]
        assert list(found.values()) == pytest.approx(coefficients, abs=1e-8)


def test_the_explanation_never_gives_the_right_gradient_away():
    right = gradients()
    claims = [{**right, "mu": change(right["mu"])} for change, *_ in WRONG_DMU.values()]
    claims += [gradients(*coefficients) for coefficients, _ in WRONG_TERM.values()]
    for claim in claims:
        report = check(claim)
        text = str(report) + json.dumps(report.to_dict())
        for entry in right["mu"].ravel():
            assert f"{abs(entry):.4f}" not in text
            assert f"{abs(entry):.3e}" not in text


def test_terms_that_are_proportional_cannot_be_told_apart():
    a = np.arange(1.0, 7).reshape(2, 3)
    b = 4 * a + 1e-6 * RNG.standard_normal((2, 3))
    found = explain(a + 2 * b, a + b, terms={"a": a, "b": b}, tolerance=1e-9)
    assert found[0].numbers == {"collinear": ["a", "b"]}
    assert "a wrong one cannot be told" in found[0].text
    assert [f.kind for f in found] == ["term", "different"]
    assert explain(a * a, a + b, terms={"a": a, "b": b})[0].kind == "different"


def test_explain_alone():
    right = RNG.standard_normal((4, 4))
    assert explain(right, right) == []
    assert explain(right.T, right)[0].kind == "transposed"
    assert explain(right[:3].T, right[:3])[0].kind == "wrong shape"
    assert explain(2 * right, right, name="dW")[0].text.startswith("dW = 2.000 x")
    assert explain([3.0], [1.0], sizes={"B": 3, "L": 3})[0].numbers["names"] == ["B", "L"]
    assert "wrong in all rows" in explain(right * np.array([[2, 3, 4, 5]]).T, right)[0].text
    cube = RNG.standard_normal((2, 3, 4))
    assert explain(cube * np.array([1, 1, 2, 1]), cube)[0].kind == "slices"
    tall = RNG.standard_normal((20, 2))
    text = explain(np.where(np.arange(20)[:, None] < 9, tall, 0), tall)[0].text
    assert "0, 1, 2, 3, 4, 5 and 3 more" in text
    with pytest.raises(ValueError, match="numeric: got NaN"):
        explain(right, right * math.nan)


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from([(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, -1), (1, -1), (-2, 0)]),
    st.sampled_from([1.0, 2.0, 0.5]),
    st.sampled_from([1, -1]),
)
def test_the_name_of_a_factor_is_its_value(exponents, constant, sign):
    sizes = {"B": 7, "L": 3}
    c = sign * constant * 7.0 ** exponents[0] * 3.0 ** exponents[1]
    names = [name for name, _ in name_factor(c, sizes)]
    if c == 1:
        assert names == []
    else:
        assert names
        for name in names:
            assert eval(name.replace("^", "**"), {}, sizes) == pytest.approx(c)


# --------------------------------------------------------------------- layers of learners


class SoftmaxOffByAConstant:
    def forward(self, x):
        e = np.exp(x - x.max(axis=1, keepdims=True))
        self.y = e / e.sum(axis=1, keepdims=True)
        return self.y

    def backward(self, dy):
        right = self.y * (dy - (dy * self.y).sum(axis=1, keepdims=True))
        return right + 1000.0 * self.y.mean(axis=1, keepdims=True)


class SoftmaxWithoutTheSum(SoftmaxOffByAConstant):
    def backward(self, dy):
        return self.y * (dy - dy.mean())  # zero for dy = 1, as the right one


def test_a_softmax_that_a_sum_of_outputs_lets_pass():
    x, layer = RNG.standard_normal((4, 3)), SoftmaxWithoutTheSum()
    layer.forward(x)
    naive = check_gradients(lambda x: layer.forward(x).sum(), x, layer.backward(np.ones((4, 3))))
    assert naive.ok  # the trap
    assert check_layer(layer, x)["x"].verdict == "wrong"
    report = check_layer(SoftmaxOffByAConstant(), x)
    assert report["x"].findings[0].kind == "offset"


class SigmoidWithoutOneMinusY:
    def forward(self, x):
        self.y = 1 / (1 + np.exp(-x))
        return self.y

    def backward(self, dy):
        return dy * self.y


def test_a_sigmoid_that_forgets_a_factor():
    finding = check_layer(SigmoidWithoutOneMinusY(), RNG.standard_normal((4, 3)))["x"].findings[0]
    assert finding.kind == "different"
    assert "derivative of an activation" in finding.text


class Linear:
    """A dense layer; a subclass does one thing wrong."""

    def __init__(self, n_in=D, n_out=L):
        self.W = np.random.default_rng(1).standard_normal((n_in, n_out))
        self.b = np.zeros(n_out)
        self.dW, self.db = np.zeros_like(self.W), np.zeros_like(self.b)

    def named_parameters(self):
        return {"W": self.W, "b": self.b}

    def named_gradients(self):
        return {"W": self.dW, "b": self.db}

    def forward(self, x):
        self.x = x
        return x @ self.W + self.b

    def backward(self, dy):
        self.dW[...] = self.x.T @ dy
        self.db[...] = dy.sum(axis=0)
        return dy @ self.W.T


class MeanBias(Linear):
    def backward(self, dy):
        dx = super().backward(dy)
        self.db[...] = dy.mean(axis=0)
        return dx


class BiasOverTheWrongAxis(Linear):
    def backward(self, dy):
        self.dW[...] = self.x.T @ dy
        self.db = dy.sum(axis=1)
        return dy @ self.W.T


class SquareTransposed(Linear):
    def backward(self, dy):
        dx = super().backward(dy)
        self.dW[...] = dy.T @ self.x
        return dx


class Accumulates(Linear):
    def backward(self, dy):
        self.dW += self.x.T @ dy
        self.db += dy.sum(axis=0)
        return dy @ self.W.T


class ReturnsNothing(Linear):
    def backward(self, dy):
        super().backward(dy)


class OverwritesItsCotangent(Linear):  # as in-place ReLUs do
    def backward(self, dy):
        dx = super().backward(dy)
        dy[dy < 0] = 0
        return dx


class OverwritesItsInput(Linear):
    def forward(self, x):
        y = super().forward(x)
        x *= 1.5
        return y


class DifferentTheSecondTime(Linear):
    def backward(self, dy):
        dx = super().backward(dy)
        self.x = self.x[:, :1]
        return dx


class ForgetsItsWeights(Linear):
    def backward(self, dy):
        self.db[...] = dy.sum(axis=0)
        return dy @ self.W.T


@pytest.mark.parametrize(
    ("layer", "tensor", "kind", "words"),
    [
        (MeanBias(), "b", "factor", "db = 0.143 x the right gradient, and 0.143 = 1/B"),
        (BiasOverTheWrongAxis(), "b", "wrong shape", "db has shape (7,), want (3,)"),
        (SquareTransposed(D, D), "W", "transposed", "dW is the transpose"),
        (Accumulates(), "W", "accumulated", "not added to what is there"),
        (Accumulates(), "b", "accumulated", "not added to what is there"),
        (ReturnsNothing(), "x", "missing", "dx: there is no gradient"),
        (OverwritesItsCotangent(), "x", "overwritten", "dy was overwritten"),
        (OverwritesItsInput(), "x", "overwritten", "x was overwritten"),
    ],
)
def test_a_wrong_layer_is_refused(layer, tensor, kind, words):
    report = check_layer(layer, RNG.standard_normal((B, layer.W.shape[0])))
    assert not report[tensor].ok
    finding = report[tensor].findings[-1]
    assert (finding.kind, words in finding.text) == (kind, True)


class OverwritesItsInputBackwards(Linear):
    def backward(self, dy):
        dx = super().backward(dy)
        self.x *= 1.5
        return dx


def test_one_mistake_is_one_finding():
    """Who has overwritten the input answers otherwise the second time: that goes unsaid."""
    report = check_layer(OverwritesItsInputBackwards(), RNG.standard_normal((B, D)))
    assert [f.kind for t in report.tensors for f in t.findings] == ["overwritten"]


def test_a_right_gradient_left_from_before_is_no_answer():
    layer, x = ForgetsItsWeights(), RNG.standard_normal((B, D))
    report = check_layer(layer, x)
    layer.dW[...] = layer.x.T @ np.random.default_rng(0).standard_normal((B, L))
    for again in (report, check_layer(layer, x)):
        assert [f.kind for f in again["W"].findings] == ["zero"]


class TinyAndAccumulating(Linear):
    """Its gradients are of 1e-11: next to nothing, but wrong by half all the same."""

    def forward(self, x):
        return 1e-12 * super().forward(x)

    def backward(self, dy):
        self.dW += 1e-12 * (self.x.T @ dy)
        self.db[...] = 1e-12 * dy.sum(axis=0)
        return 1e-12 * (dy @ self.W.T)


class Drifts(Linear):
    """Its second answer is 2 % larger."""

    def forward(self, x):
        self.calls = 0
        return super().forward(x)

    def backward(self, dy):
        self.calls += 1
        return super().backward(dy) * (1 + 0.02 * (self.calls > 1))


def test_a_slight_change_in_a_second_backward_is_seen():
    report = check_layer(Drifts(), RNG.standard_normal((B, D)))
    assert [f.kind for f in report["x"].findings] == ["accumulated"]


class WorseTheSecondTime(Linear):
    """What was refused the first time is not refused again for being different."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def backward(self, dy):
        dx = super().backward(dy)
        self.calls += 1
        self.db[...] += self.calls
        self.dW[0, 0] = math.nan
        return dx[: self.calls]


def test_gradients_that_change_in_a_second_backward():
    x = RNG.standard_normal((B, D))
    report = check_layer(TinyAndAccumulating(), x)
    assert [f.kind for t in report.tensors for f in t.findings] == ["accumulated"]
    assert report["W"].findings[0].text == (
        "dW changes when backward is called again after the same forward: it must be written, not "
        "added to what is there"
    )
    report = check_layer(WorseTheSecondTime(), x)
    kinds = {t.name: [f.kind for f in t.findings] for t in report.tensors}
    assert kinds == {"x": ["wrong shape"], "W": ["not finite"], "b": ["offset", "accumulated"]}


def test_a_direction_moves_every_element():
    check = verdict.Check(None, {}, "auto", 1e-9, np.random.default_rng(0), 3, {}, {}, 0)
    direction = check.direction(np.zeros((20, 5)))
    assert direction.shape == (20, 5)
    assert 0.04 < np.abs(direction).min() < np.abs(direction).max() < 0.16
    assert abs(direction.sum()) < 4


def test_the_options_reach_the_check():
    x, options = RNG.standard_normal((B, D)), {"tolerance": 0.5, "method": "central"}
    for report in (
        check_layer(Linear(), x, **options),
        check_loss(MeanSquaredError(), x, X, **options),
        check_model(*small(), **options),
    ):
        assert (report.tolerance, report.method) == (0.5, "central")
    assert_gradients(lambda x: (x**2).sum(), x, 2.2 * x, tolerance=0.5)
    with pytest.raises(AssertionError, match="gradient check failed"):
        assert_gradients(lambda x: (x**2).sum(), x, 2.2 * x)


def test_the_tolerance_of_a_model_is_that_of_its_dtype():
    assert check_model(*small()).tolerance == gradcheck.MODEL_TOLERANCE
    _, x, noise = small()
    single = VAE(5, (4,), 3, "tanh", dtype="float32")
    report = check_model(single, x.astype("float32"), noise.astype("float32"))
    assert report.tolerance == gradcheck.TOLERANCE[np.dtype("float32")]


def test_the_same_check_gives_the_same_report():
    x, layer = RNG.standard_normal((B, D)), MeanBias()
    first, second = (check_layer(layer, x, exhaustive=0).to_dict() for _ in range(2))
    assert first == second
    assert check_layer(layer, x, rng=1, exhaustive=0).to_dict() != first


def test_a_layer_is_checked_in_its_own_dtype():
    layer, given = Dense(D, L), []

    def backward(dy):
        given.append(dy.dtype)
        return Dense.backward(layer, dy)

    layer.backward = backward
    assert check_layer(layer, RNG.standard_normal((B, D), dtype="float32")).ok
    assert set(given) == {np.dtype("float32")}


def test_inputs_without_a_name_are_refused():
    class Anything(Linear):
        def forward(self, *x):
            return super().forward(x[0])

    class Two(Linear):
        def forward(self, x, y):
            return super().forward(x)

    class Nothing(Linear):
        def forward(self):
            return super().forward(W)

    for layer, takes, n in ((Two, "x, y", 3), (Nothing, "nothing", 1)):
        with pytest.raises(ValueError, match=f"^forward: takes {takes}, got {n} inputs$"):
            check_loss(layer(), *[X] * n)
    with pytest.raises(ValueError, match="forward: takes x, got 2 inputs"):
        check_layer(Anything(), RNG.standard_normal((B, D)), X)


def test_right_layers_pass_and_remember_what_they_were_given():
    x, layer = RNG.standard_normal((B, D)), Linear()
    before = {name: p.copy() for name, p in layer.named_parameters().items()}
    kept = x.copy()
    report = check_layer(layer, x)
    assert report.ok
    assert [t.name for t in report.tensors] == ["x", "W", "b"]
    assert "complex" in report.method
    np.testing.assert_array_equal(x, kept)
    np.testing.assert_array_equal(layer.x, x)
    for name, p in layer.named_parameters().items():
        assert p.tobytes() == before[name].tobytes()
    assert check_layer(Dense(D, L, dtype="float32"), x.astype(np.float32)).ok


def test_a_piece_remembers_its_inputs_and_not_the_perturbed_ones():
    x, layer = RNG.standard_normal((B, D)), Tanh()
    check_layer(layer, x)
    after = layer.backward(np.ones((B, D)))
    layer.forward(x)
    np.testing.assert_array_equal(after, layer.backward(np.ones((B, D))))


def test_a_model_remembers_its_batch_and_not_its_perturbed_parameters():
    model, eps = VAE(D, (4,), 2, dtype="float64"), RNG.standard_normal((B, 2))
    check_model(model, X, eps)
    model.backward()
    after = model.grad.copy()
    model.forward(X, eps)
    model.backward()
    np.testing.assert_array_equal(after, model.grad)


def test_a_nan_is_not_overwritten():
    report = check_loss(MeanSquaredError(), np.array([[1.0, np.nan]]), np.ones((1, 2)))
    assert report.verdict == "not finite"
    assert [f.kind for f in report["output"].findings] == ["not finite"]


class Returns(Linear):
    """A layer whose backward returns something else made of dx."""

    def __init__(self, what):
        super().__init__()
        self.what = what

    def backward(self, dy):
        return self.what(super().backward(dy))


def test_what_backward_may_return():
    x = RNG.standard_normal((B, D))
    assert check_layer(Returns(lambda dx: [dx]), x).ok
    for what, n in ((lambda dx: (), 0), (lambda dx: (dx, dx), 2)):
        with pytest.raises(ValueError, match=f"backward: got {n} gradients, want one for each"):
            check_layer(Returns(what), x)
    for what, words in (
        (lambda dx: dx + 1j, "dx is of dtype complex128, want an array"),
        (lambda dx: dx.astype(str), "dx is of dtype <U"),
        (lambda dx: {"dx": dx}, "dx is of dtype object"),
    ):
        report = check_layer(Returns(what), x)
        assert report["x"].verdict == "wrong shape"
        assert words in report["x"].findings[0].text


class Square:
    """A loss of one number."""

    def forward(self, x):
        self.x = x
        return x * x

    def backward(self):
        return 2 * self.x


def test_a_loss_of_a_number():
    assert check_loss(Square(), np.array(3.0)).ok


class DrawsItsOwnEps:
    """Forward and backward each draw: the noise of one is not that of the other."""

    def __init__(self):
        self.rng = np.random.default_rng(0)

    def forward(self, mu, logvar):
        self.mu, self.logvar = mu, logvar
        return mu + np.exp(logvar / 2) * self.rng.standard_normal(mu.shape)

    def backward(self, dz):
        return dz, dz * self.rng.standard_normal(dz.shape) * np.exp(self.logvar / 2) / 2


class DrawsEpsAgainInBackward(DrawsItsOwnEps):
    def forward(self, mu, logvar):
        self.mu, self.logvar = mu, logvar
        return mu + np.exp(logvar / 2) * EPS


def test_noise_drawn_twice():
    with pytest.raises(ValueError, match=r"not deterministic.*draw noise such as eps once"):
        check_layer(DrawsItsOwnEps(), MU, LOGVAR)
    report = check_layer(DrawsEpsAgainInBackward(), MU, LOGVAR)
    assert report["mu"].ok
    assert [f.kind for f in report["logvar"].findings] == ["different", "accumulated"]


class WrongLoss:
    def forward(self, output, x):
        self.d = output - x
        return (self.d**2).mean()

    def backward(self):
        return 2 * self.d / len(self.d)  # averaged over the batch, not over the features


def test_a_wrong_loss():
    report = check_loss(WrongLoss(), RNG.random((B, D)), X, sizes={"D": D})
    assert report["output"].findings[0].numbers["names"] == ["D"]


# ------------------------------------------------------------------- right, at awkward scales


def cubic(scale):
    return lambda x: scale * np.sum(x**3 / 3 + x)


MIXED = 10.0 ** np.arange(-6, 7)
AT = np.array([0.7, -1.3, 2.1, 0.4])
AWKWARD = {
    # name: (f, x, gradient)
    "gradients of 1e-6": (cubic(1e-6), AT, 1e-6 * (AT**2 + 1)),
    "gradients of 1e6": (cubic(1e6), AT, 1e6 * (AT**2 + 1)),
    "gradients from 1e-6 to 1e6": (lambda x: np.sum(MIXED * np.sin(x)), np.ones(13) / 3, None),
    "inputs of 1e8": (lambda x: np.sum(np.tanh(x / 1e8)), 1e8 * AT, None),
    "inputs of 1e-8": (lambda x: np.sum(np.exp(x) + x * x), 1e-8 * AT, None),
    "inputs of 1e-8 that matter": (lambda x: np.sum(np.tanh(x * 1e8)), 1e-8 * AT, None),
    "inputs from 1e-6 to 1e6": (lambda x: np.sum(np.log(x)), MIXED, 1 / MIXED),
    "zero gradient": (lambda x: 3.0 + 0 * np.sum(x), AT, np.zeros(4)),
    "zero but for round-off": (lambda x: np.sum(x) - np.sum(x[::-1]) + 5, AT, np.full(4, 1e-17)),
    "almost an overflow": (lambda x: np.sum(np.exp(x)), np.array([700.0, 705, 709, 1]), None),
    "a large constant beside it": (lambda x: 100.0 + np.sum(np.sin(x)), AT, np.cos(AT)),
    "a steep wall far away": (lambda x: np.sum(np.sin(x) + np.exp(50 * (x - 4))), AT, None),
    "1e-7 from a kink": (
        lambda x: np.sum(np.arange(1, 5) * np.maximum(x, 0)),
        np.array([1e-7, -1e-7, 1e-12, -1e-9]),
        np.array([1.0, 0, 3, 0]),
    ),
    "between two kinks": (
        lambda x: np.sum(np.exp(x) + np.abs(x - 1e-4) + np.abs(x + 1e-5)),
        np.array([0.0, 1e-6]),
        np.exp([0.0, 1e-6]),
    ),
}
EXACT = {
    "gradients from 1e-6 to 1e6": lambda x: MIXED * np.cos(x),
    "inputs of 1e8": lambda x: 1e-8 / np.cosh(x / 1e8) ** 2,
    "inputs of 1e-8": lambda x: np.exp(x) + 2 * x,
    "inputs of 1e-8 that matter": lambda x: 1e8 / np.cosh(x * 1e8) ** 2,
    "almost an overflow": np.exp,
    "a steep wall far away": lambda x: np.cos(x) + 50 * np.exp(50 * (x - 4)),
}


@pytest.mark.parametrize("method", ["auto", "richardson"])
@pytest.mark.parametrize("scale", AWKWARD)
def test_a_right_gradient_passes_at_any_scale(scale, method):
    f, x, gradient = AWKWARD[scale]
    gradient = EXACT[scale](x) if gradient is None else gradient
    tolerance = 1e-8 if scale == "between two kinks" else None  # 1e-5 of room limits the step
    assert_gradients(f, x.copy(), gradient, method=method, tolerance=tolerance)
    wrong = gradient + 1e-3 * (np.abs(gradient) + np.abs(gradient).max() + (scale[:4] == "zero"))
    assert (
        check_gradients(f, x.copy(), wrong, method=method, tolerance=tolerance).verdict == "wrong"
    )


@pytest.mark.parametrize("scale", ["gradients from 1e-6 to 1e6", "inputs from 1e-6 to 1e6"])
def test_each_element_of_a_mixed_tensor_counts_at_its_own_scale(scale):
    f, x, gradient = AWKWARD[scale]
    gradient = EXACT[scale](x) if gradient is None else gradient
    wrong = gradient.copy()
    wrong[np.abs(gradient).argmin()] *= 2
    assert check_gradients(f, x.copy(), wrong)["x"].findings[0].numbers["wrong"] == 1


@pytest.mark.parametrize("factor", [1.0, 2.0])
@pytest.mark.parametrize(
    "f",
    [
        lambda x: np.sum(np.tanh(x)),
        lambda x: np.sum(np.tanh(x).astype(np.float32), dtype=np.float32),
        lambda x: np.sum(np.log1p(np.exp(-np.abs(x))) + np.maximum(x, 0) - x / 2),
    ],
    ids=["any precision", "float32 throughout", "float32 with kinks removed"],
)
def test_float32_functions(f, factor):
    x = np.random.default_rng(3).standard_normal((3, 4)).astype(np.float32)
    exact = numerical_gradient(f, x.astype(np.float64))
    assert check_gradients(f, x, (factor * exact).astype(np.float32)).ok == (factor == 1)


@pytest.mark.parametrize("seed", [104, 109, 115, 161])
def test_a_slight_kink_in_float32_is_no_mistake(seed):
    x = np.random.default_rng(seed).standard_normal((7, 5)).astype(np.float32)
    assert check_layer(ReLU(), x, rng=seed).ok  # these have a tiny x * dy beside a large sum
    claim = np.where(x > 0, 1, 0)
    assert not check_gradients(lambda x: np.sum(np.maximum(x, 0)), x, 1.1 * claim).ok


def test_an_accusation_is_measured_twice(monkeypatch):
    """An error that is estimated too low by accident must not accuse."""
    differentiate = verdict.differentiate

    def unlucky(*arguments):
        slopes = differentiate(*arguments)
        if slopes and arguments[-1] == 0.11:
            slopes[1] = replace(slopes[1], value=slopes[1].value * (1 + 1e-8), error=1e-20)
        return slopes

    monkeypatch.setattr(verdict, "differentiate", unlucky)
    report = check_gradients(lambda x: np.sum(np.sin(x)), AT.copy(), np.cos(AT))
    assert report.verdict == "inconclusive"
    assert (
        check_gradients(lambda x: np.sum(np.sin(x)), AT.copy(), 2 * np.cos(AT)).verdict == "wrong"
    )


def test_what_cannot_be_decided_does_not_pass():
    x, f = AT.copy(), lambda x: 1e9 + 1e-3 * np.sum(np.abs(np.sin(x)))
    report = check_gradients(f, x, 1e-3 * np.cos(x) * np.sign(np.sin(x)))
    assert (report.verdict, report.ok) == ("inconclusive", False)
    assert "too much for a tolerance of 1e-09" in str(report)
    assert check_gradients(f, x, 1e-3 * np.cos(x) * np.sign(np.sin(x)), tolerance=0.1).ok
    assert check_gradients(f, x, np.zeros(4)).verdict != "ok"


@settings(max_examples=25, deadline=None)
@given(
    st.floats(-6, 6),
    st.lists(st.floats(-3, 3), min_size=1, max_size=4),
    st.sampled_from([np.sin, np.tanh, np.exp, lambda x: x**3 - x]),
)
def test_richardson_is_right_within_its_own_error(magnitude, x, f):
    x, scale = np.array(x), 10.0**magnitude
    exact = scale * derivatives_of(f)(x)
    slopes = derivatives.differentiate(
        lambda d: scale * np.sum(f(d["x"])), {"x": x}, "x", range(x.size), "richardson"
    )
    for slope, right in zip(slopes, exact, strict=True):
        assert abs(slope.value - right) <= 2 * slope.error + 1e-15 * scale
        assert slope.error <= 1e-9 * scale * (1 + np.exp(np.abs(x)).max())


def derivatives_of(f):
    known = {np.sin: np.cos, np.tanh: lambda x: 1 / np.cosh(x) ** 2, np.exp: np.exp}
    return known.get(f, lambda x: 3 * x * x - 1)


# ------------------------------------------------------------------------- kinks and jumps


@pytest.mark.parametrize("subgradient", [0.0, 0.3, 1.0])
def test_a_subgradient_at_a_kink_passes_as_a_kink(subgradient):
    x = np.array([[0.5, 0.0], [-0.7, 0.0]])
    dy = np.array([[1.0, -2.0], [3.0, 4.0]])
    claim = dy * np.where(x == 0, subgradient, x > 0)
    report = check_gradients(lambda x: np.sum(dy * np.maximum(x, 0)), x, claim)
    assert report.ok
    assert (report.verdict, report["x"].kinks) == ("kink", ((0, 1), (1, 1)))
    assert "kink" in str(report)


@pytest.mark.parametrize("outside", [-0.1, 1.5, 2.0])
def test_outside_the_subdifferential_is_wrong(outside):
    x = np.array([0.5, 0.0, -0.7])
    claim = np.array([1.0, outside, 0.0])
    report = check_gradients(lambda x: np.sum(np.maximum(x, 0)), x, claim)
    assert report.verdict == "wrong"
    assert report["x"].findings[0].text.endswith("1 of 3 elements, at (1,)")


def test_a_kink_on_a_slope_is_measured_on_both_sides():
    def f(x):
        return np.sum(np.sin(3 * x) + 1e-5 * np.maximum(x, 0))

    x = np.zeros(1)
    assert check_gradients(f, x, [3 + 0.5e-5]).verdict == "kink"
    assert check_gradients(f, x, [3 + 1.1e-5]).verdict == "wrong"
    assert check_gradients(f, x, [3 - 1e-6]).verdict == "wrong"


@settings(max_examples=25, deadline=None)
@given(st.floats(-12, 0), st.sampled_from([-1, 1]), st.floats(0.1, 50))
def test_a_kink_that_is_near_is_no_kink(exponent, side, constant):
    x = np.array([side * 10.0**exponent])
    claim = 2.0 * (x > 0)
    report = check_gradients(lambda x: constant + 2 * np.maximum(x, 0).sum(), x, claim)
    assert report.verdict == "ok"
    assert not check_gradients(lambda x: constant + 2 * np.maximum(x, 0).sum(), x, claim + 1).ok


@pytest.mark.parametrize(
    ("f", "kind"),
    [
        (lambda x: np.sum(np.sign(x)), "jump"),
        (lambda x: np.sum(x >= 0) * 1.0, "jump"),
        (lambda x: np.sum(np.cbrt(x)), "jump"),
        (lambda x: np.sum(np.sqrt(np.abs(x))), "jump"),
        (lambda x: np.sum(np.sqrt(x)), "not finite"),
    ],
)
def test_a_jump_or_a_hole_is_reported(f, kind):
    report = check_gradients(f, np.array([1.0, 0.0]), np.zeros(2))
    assert report.verdict == "not finite"
    assert report["x"].findings[0].kind == kind
    assert report["x"].findings[0].text.endswith("(1,)")
    assert np.isnan(numerical_gradient(f, np.array([0.0]))).all()


def test_f_that_is_not_finite():
    report = check_gradients(lambda x: np.sum(np.log(x)), np.array([-1.0]), np.ones(1))
    assert report.verdict == "not finite"
    assert "f itself" in str(report)


def test_a_wrong_tensor_with_an_element_that_cannot_be_measured():
    def f(x):
        return np.sum(np.where(x > 5, 1e12, 0) + np.sin(x) * (1 + 1e-9 * (np.arange(2) == 1)))

    x = np.array([0.3, 0.4])
    assert check_gradients(f, x, 2 * np.cos(x)).verdict == "wrong"


# ----------------------------------------------------------------------- numerical derivatives


@pytest.mark.parametrize(
    ("method", "error"), [("richardson", 1e-11), ("complex", 1e-15), ("central", 1e-8)]
)
def test_the_methods_reach_their_precision(method, error):
    x = np.linspace(-1.5, 1.5, 6).reshape(2, 3)
    found = numerical_gradient(lambda x: np.sum(np.exp(np.sin(x))), x, method)
    exact = np.cos(x) * np.exp(np.sin(x))
    assert np.abs(found - exact).max() <= error * np.abs(exact).max()
    both = numerical_gradient(lambda d: np.sum(d["a"] * d["b"]), {"a": x, "b": 2 * x}, method)
    np.testing.assert_allclose(both["a"], 2 * x, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(both["b"], x, rtol=1e-7, atol=1e-9)


def real_where_x_is(softplus):
    return lambda x: softplus(x) if np.iscomplexobj(x) else float(np.real(softplus(x)))


@pytest.mark.parametrize(
    "softplus",
    [
        lambda x: np.sum(np.log1p(np.exp(-np.abs(x))) + np.maximum(x, 0)),
        lambda x: np.sum(np.log1p(np.exp(x)).real),
        lambda x: sum(math.log1p(math.exp(v)) for v in x.tolist()),
        lambda x: np.sum(np.log1p(np.exp(into_float64(x)))),
        lambda x: np.sum(np.log1p(np.exp(np.asarray(x).real))) + 0j,
        lambda x: np.sum(np.logaddexp(0, x)),
        lambda x: np.sum(np.log1p(np.exp(x))) * (math.nan if np.iscomplexobj(x) else 1),
    ],
    ids=["abs", "real part", "math", "real buffer", "lost silently", "no complex loop", "nan"],
)
def test_complex_step_gives_way_to_richardson(softplus):
    x = np.array([-30.0, -2.0, 0.3, 30.0])
    report = check_gradients(real_where_x_is(softplus), x, 1 / (1 + np.exp(-x)))
    assert report.ok
    assert report.method == "richardson"


def into_float64(x):
    buffer = np.empty(x.shape)
    buffer[...] = x
    return buffer


def test_complex_step_sees_in_place_and_reduced_results():
    def f(x):
        y = x * 2
        y *= x
        np.add(y, 1, out=y)
        return np.sum(y) + np.prod(y, axis=0) * 0

    report = check_gradients(f, AT.copy(), 4 * AT)
    assert report.ok
    assert report.method == "complex"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: numerical_gradient(np.sum, np.arange(3)), "x: got ndarray of int64, want a NumPy"),
        (lambda: numerical_gradient(np.sum, [1.0]), "x: got list"),
        (lambda: numerical_gradient(np.sum, np.zeros(0)), "not empty"),
        (lambda: numerical_gradient(np.sum, np.broadcast_to(1.0, (3,))), "read-only"),
        (lambda: numerical_gradient(np.exp, np.ones(3)), r"shape \(3,\).*not a plain sum"),
        (lambda: numerical_gradient(np.sum, np.ones(3), "forward"), "method: got 'forward'"),
        (lambda: check_gradients(np.sum, np.ones(3), np.ones(3), method="x"), "method: got 'x'"),
        (lambda: check_gradients(loss, {"mu": MU}, {"nu": MU}), r"gradients: got \['nu'\]"),
        (lambda: check_gradients(loss, {"mu": MU}, MU), "got a ndarray, want a dict: 'mu'"),
        (lambda: check_gradients(loss, {"mu": MU, "b": MU}, MU), "want a dict: 'mu', 'b'$"),
        (lambda: check_gradients(loss, {}, {}), "inputs: got none"),
        (lambda: check_gradients(loss, {0: MU}, {0: MU}), "inputs: got the name 0, want a string"),
        (lambda: check_gradients(loss, {}, {}, tolerance=1e-9), "inputs: got none"),
        (lambda: check(gradients(), tolerance=math.inf), "tolerance: got inf"),
        (lambda: check(gradients(), tolerance=math.nan), "tolerance: got nan"),
        (lambda: check(gradients(), tolerance=1), "tolerance: got 1, want a number > 0 and < 1"),
        (lambda: check(gradients(), tolerance=0), "tolerance: got 0"),
        (lambda: check(gradients(), directions=0, exhaustive=0), "directions: got 0"),
        (lambda: check(gradients(), exhaustive=-1), "exhaustive: got -1"),
    ],
)
def test_arguments_that_make_no_sense(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize("method", ["auto", "richardson", "central"])
@pytest.mark.parametrize("exhaustive", [0, 100])
def test_arrays_are_put_back_bit_for_bit(method, exhaustive):
    base = np.random.default_rng(0).standard_normal((6, 8)) * 10.0 ** np.arange(-4, 4)
    x = base[::2, 1:7]  # a view that is not contiguous
    before, addresses = base.tobytes(), []

    def f(x):
        addresses.append(x.ctypes.data)
        return np.sum(np.abs(x))

    check_gradients(f, x, np.sign(x), method=method, exhaustive=exhaustive)
    assert base.tobytes() == before
    real = addresses[:8]
    assert set(real) == {x.ctypes.data}  # in place, as a model needs it


@pytest.mark.parametrize("exhaustive", [0, 100])
def test_arrays_are_put_back_when_f_raises(exhaustive):
    x = np.random.default_rng(0).standard_normal(6)
    before, calls = x.tobytes(), []

    def f(x):
        calls.append(x.tobytes())
        if len(set(calls)) > 12:
            raise RuntimeError("enough")
        return np.sum(np.abs(x))

    with pytest.raises(RuntimeError, match="enough"):
        check_gradients(f, x, np.sign(x), exhaustive=exhaustive)
    assert x.tobytes() == before


def count_calls(f):
    def counted(x):
        counted.calls += 1
        return f(x)

    counted.calls = 0
    return counted


@pytest.mark.parametrize(
    ("f", "method", "most"),
    [
        (np.exp, "complex", 3),
        (np.exp, "richardson", 12),
        (np.exp, "central", 4),
        (np.abs, "auto", 16),
    ],
)
def test_the_cost_of_an_element(f, method, most):
    x = np.linspace(0.1, 2, 40)
    counted = count_calls(lambda x: np.sum(f(x)))
    numerical_gradient(counted, x, method)
    assert counted.calls <= most * x.size + 20


def test_the_cost_of_a_large_tensor_does_not_grow_with_it():
    calls = []
    for size in (3_000, 300_000):
        x = np.random.default_rng(0).standard_normal(size)
        counted = count_calls(lambda x: np.sum(np.sin(x)))
        report = check_gradients(counted, x, np.cos(x), method="richardson")
        assert report.ok
        assert report["x"].checked == f"3 directions, 6 of {size}"
        calls.append(counted.calls)
    assert max(calls) < 150


# ------------------------------------------------------------------------------- large models


@pytest.fixture(scope="module")
def big():
    model = VAE(784, (400,), 20, dtype="float64")
    x = np.random.default_rng(0).random((4, 784))
    return model, x, model.draw_noise(np.random.default_rng(1), x)


def test_a_model_with_650_000_parameters(big):
    model, x, noise = big
    before, calls = model.theta.tobytes(), []
    forward = model.forward
    model.forward = lambda *a: calls.append(1) or forward(*a)
    report = check_model(model, x, noise)
    del model.forward
    assert report.ok
    assert model.theta.size > 650_000
    assert model.theta.tobytes() == before
    assert len(calls) < 3000
    assert report.worst < 1e-7


def spoil(model, monkeypatch, change):
    """Let model.backward() make a mistake afterwards."""
    backward = model.backward

    def wrong():
        backward()
        change(model.named_gradients())

    monkeypatch.setattr(model, "backward", wrong, raising=False)


def test_one_wrong_element_among_650_000_is_found(big, monkeypatch):
    model, x, noise = big

    def change(g):
        g["encoder.0.W"][123, 321] += 1e-3 * np.abs(g["encoder.0.W"]).max()

    spoil(model, monkeypatch, change)
    report = check_model(model, x, noise)
    assert [t.name for t in report.tensors if not t.ok] == ["encoder.0.W"]
    finding = report["encoder.0.W"].findings[0]
    assert finding.numbers["index"] == [123, 321]
    assert finding.text.startswith("encoder.0.dW is wrong at (123, 321)")


def middling():
    model = VAE(60, (41,), 5, "tanh", dtype="float64")
    x = np.random.default_rng(0).random((3, 60))
    return model, x, model.draw_noise(np.random.default_rng(1), x)


@pytest.mark.parametrize("index", [(0, 0), (59, 40), (17, 23)])
@pytest.mark.parametrize("size", [1.0, 1e-5])
def test_one_wrong_element_is_found_wherever_it_is(monkeypatch, index, size):
    model, x, noise = middling()

    def change(g):
        g["encoder.0.W"][index] += size * np.abs(g["encoder.0.W"]).max()

    spoil(model, monkeypatch, change)
    report = check_model(model, x, noise, exhaustive=0)
    assert [t.name for t in report.tensors if not t.ok] == ["encoder.0.W"]
    assert str(index) in report["encoder.0.W"].findings[0].text


def test_a_row_and_a_factor_of_a_large_tensor(monkeypatch):
    model, x, noise = middling()

    def change(g):
        g["decoder.2.W"][7] *= 2
        g["decoder.2.b"] *= 3
        g["to_mu.W"][::2] *= -1
        g["to_logvar.W"][::2, ::2] = 0.3

    spoil(model, monkeypatch, change)
    report = check_model(model, x, noise, exhaustive=0)
    assert not report["decoder.2.W"].ok
    assert report["decoder.2.b"].findings[0].numbers["names"] == ["B"]
    assert report["to_mu.W"].findings[0].kind == "sign"
    sampled = report["to_logvar.W"].findings[0]
    assert sampled.kind == "elements"
    assert "elements sampled, at (" in sampled.text
    assert report["encoder.0.W"].ok


def test_two_errors_that_cancel_in_one_direction_do_not_in_all(monkeypatch):
    model, x, noise = middling()

    def change(g):
        g["encoder.0.W"][5, 5] += 1e-3
        g["encoder.0.W"][6, 6] -= 1e-3

    spoil(model, monkeypatch, change)
    assert not check_model(model, x, noise, exhaustive=0, directions=12)["encoder.0.W"].ok


def test_a_gradient_that_the_optimizer_never_reads_is_refused(monkeypatch):
    model, x, noise = small()
    layer = model.encoder.layers[0]
    right = layer.backward

    def backward(dy, need_dx=True):
        dx = right(dy, need_dx)
        layer.dW = layer.dW.copy()  # as by self.dW = x.T @ dy
        return dx

    monkeypatch.setattr(layer, "backward", backward)
    reads = r"encoder\.0\.W is no view of grad, which the optimizer reads; "
    want = r"want backward to write the gradient in place: layer\.dW\[\.\.\.\] =$"
    with pytest.raises(ValueError, match=reads + want):
        check_model(model, x, noise)


def small(**options):
    model = VAE(5, (4,), 3, "tanh", dtype="float64", **options)
    x = np.random.default_rng(0).random((7, 5))
    return model, x, model.draw_noise(np.random.default_rng(1), x)


@pytest.mark.parametrize("beta", [1.0, 4.0])
def test_a_vae_that_averages_its_kl_over_the_latents(monkeypatch, beta):
    model, x, noise = small(beta=beta)
    right = model.kl.backward
    monkeypatch.setattr(model.kl, "backward", lambda: tuple(g / 3 for g in right()))
    report = check_model(model, x, noise)
    wrong = {t.name for t in report.tensors if not t.ok}
    assert wrong == {f"{n}.{p}" for n in ("encoder.0", "to_mu", "to_logvar") for p in "Wb"}
    assert report["to_logvar.W"].findings[0].text == (
        "to_logvar.dW = 1.000 x reconstruction + 0.333 x KL, and 0.333 = 1/L: "
        "your KL is averaged over the latents once too often"
    )


@pytest.mark.parametrize(("letter", "size"), [("B", 7), ("D", 5), ("L", 3)])
def test_a_factor_of_a_model_is_named_by_its_sizes(monkeypatch, letter, size):
    model, x, noise = small()
    spoil(model, monkeypatch, lambda g: g["decoder.2.b"].__imul__(size))
    assert check_model(model, x, noise)["decoder.2.b"].findings[0].numbers["names"] == [letter]
    named = check_model(model, x, noise, sizes={"B": 1, "D": 1, "L": 1, "K": size})
    assert named["decoder.2.b"].findings[0].numbers["names"] == ["K"]


def test_the_rows_of_a_weight_are_not_those_of_the_batch(monkeypatch):
    model, _, _ = small()
    x = np.random.default_rng(0).random((5, 5))  # as many examples as encoder.0.W has rows
    noise = model.draw_noise(np.random.default_rng(1), x)
    spoil(model, monkeypatch, lambda g: g["encoder.0.W"][2].__imul__(2))
    (found,) = check_model(model, x, noise)["encoder.0.W"].findings
    assert found.text.startswith("encoder.0.dW is right in rows 0, 1, 3, 4 and wrong in 2")


def test_a_model_that_adds_up_its_gradients(monkeypatch):
    model, x, noise = small()
    backward, bias = model.backward, model.named_gradients()["decoder.2.b"]

    def wrong():
        old = bias.copy()
        backward()
        bias[...] += old

    monkeypatch.setattr(model, "backward", wrong)
    report = check_model(model, x, noise)
    assert [t.name for t in report.tensors if not t.ok] == ["decoder.2.b"]
    assert report["decoder.2.b"].findings[0].kind == "accumulated"


def test_a_model_that_does_not_write_a_gradient(monkeypatch):
    model, x, noise = small()
    for value in (0.0, 2.0):  # what stands there from before counts for nothing
        model.grad[...] = value
        monkeypatch.setattr(model, "backward", lambda: None)
        report = check_model(model, x, noise)
        assert {f.kind for t in report.tensors for f in t.findings} == {"zero"}


def test_a_model_whose_parameters_are_not_views_of_theta(monkeypatch):
    model, x, noise = small()
    copies = {name: p.copy() for name, p in model.named_parameters().items()}
    monkeypatch.setattr(model, "named_parameters", lambda: copies)
    words = r"^named_parameters\(\): got arrays that do not make up theta, want its views$"
    with pytest.raises(ValueError, match=words):
        check_model(model, x, noise)


def test_a_relu_model_in_float32_is_refused_if_wrong(monkeypatch):
    model = VAE(5, (4,), 3, dtype="float32")
    x = np.random.default_rng(0).random((7, 5), dtype=np.float32)
    noise = model.draw_noise(np.random.default_rng(1), x)
    assert check_model(model, x, noise).ok
    spoil(model, monkeypatch, lambda g: g["to_mu.W"].__imul__(2))
    assert check_model(model, x, noise)["to_mu.W"].verdict == "wrong"


def test_several_kinks_along_a_direction_prove_nothing():
    x = np.zeros(10)
    signs = np.where(np.arange(10) % 2, 1.0, -1.0)
    report = check_gradients(lambda x: np.sum(signs * np.maximum(x, 0)), x, signs / 2, exhaustive=0)
    assert report.verdict in ("kink", "inconclusive")
    assert check_layer(ReLU(), np.zeros((3, 2))).verdict == "kink"


# ------------------------------------------------------------------------------------- reports


def test_a_report_is_a_table_and_a_dict():
    report = check({**gradients(), "mu": 2 * gradients()["mu"]})
    lines = str(report).splitlines()
    assert lines[0].split()[:3] == ["tensor", "shape", "checked"]
    assert lines[1].startswith("mu      (7, 3)  21 of 21  5.0e-01")
    assert lines[1].endswith("wrong")
    assert lines[3].startswith("  dmu = 2.000 x")
    plain = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert plain["ok"] is False
    assert plain["tensors"][0]["findings"][0]["numbers"] == {
        "factor": pytest.approx(2),
        "names": ["2"],
    }
    assert plain["tensors"][0]["worst_index"] == list(report["mu"].worst_index)


def test_what_a_report_holds():
    x = np.array([[1.0, -2.0, 3.0], [4.0, 5.0, -6.0]])
    claim = 2 * x
    claim[1, 0] = 8.8
    (found,) = check_gradients(lambda x: (x**2).sum(), x, claim, method="richardson").tensors
    assert (found.name, found.shape, found.verdict) == ("x", (2, 3), "wrong")
    largest = max(np.linalg.norm(claim), np.linalg.norm(2 * x))
    assert found.norm_error == pytest.approx(0.8 / largest)
    assert found.worst_error == pytest.approx(0.8 / 8.8)
    assert (found.worst_index, found.method, found.checked) == ((1, 0), "richardson", "6 of 6")
    assert 0 < found.numeric_error < 1e-11
    assert found.kinks == ()


def test_what_a_report_holds_of_directions():
    x = RNG.standard_normal((5, 6))
    options = {"method": "richardson", "exhaustive": 29, "directions": 4}
    (found,) = check_gradients(lambda x: (x**2).sum(), x, 2 * x, **options).tensors
    assert found.ok
    assert re.fullmatch("4 directions, [3-6] of 30", found.checked)
    options["exhaustive"] = 30
    (found,) = check_gradients(lambda x: (x**2).sum(), x, 2 * x, **options).tensors
    assert found.checked == "30 of 30"


@pytest.mark.parametrize("scale", [1e-20, 1e-200])
def test_a_tiny_gradient_is_measured_by_itself(scale):
    x = np.array([1.0, 2.0])
    report = check_gradients(lambda x: scale * (x**2).sum(), x, 2.2 * scale * x)
    assert report.verdict == "wrong"
    assert report["x"].norm_error == pytest.approx(1 / 11)
    assert report["x"].worst_error == pytest.approx(1 / 11)


def test_a_claim_within_the_round_off_of_a_flat_f_is_right():
    (found,) = check_gradients(lambda x: 3.0 + 0 * x.sum(), np.ones(2), np.full(2, 1e-15)).tensors
    assert found.verdict == "ok"
    assert (found.norm_error, found.worst_error, found.numeric_error) == (0, 0, 0)


@pytest.mark.parametrize("mistake", [np.negative, lambda g: 2 * g, np.zeros_like])
def test_a_problem_of_tiny_numbers_is_no_minimum(mistake):
    t, x = (1e-7 * RNG.standard_normal((B, L)).astype(np.float32) for _ in range(2))
    g = 2 * (x - t) / x.size
    assert check_gradients(lambda z: ((z - t) ** 2).mean(), x, mistake(g)).verdict == "wrong"


@pytest.mark.parametrize(("dtype", "large"), [("float64", 1.7e18), ("float32", 1e4)])
@pytest.mark.parametrize("exhaustive", [0, 2000])
def test_a_large_input_excuses_nothing(dtype, large, exhaustive):
    w = RNG.standard_normal(12).astype(dtype)
    inputs = {"w": w, "t": np.array([large], dtype)}
    for claim in (-np.cos(w), 0 * w):
        report = check_gradients(
            lambda p: np.sin(p["w"]).sum() + 0 * p["t"].sum(),
            inputs,
            {"w": claim, "t": np.zeros(1)},
            exhaustive=exhaustive,
        )
        assert report["w"].verdict == "wrong"


def test_two_swapped_elements_of_a_large_tensor_are_found():
    """In directions of +-1 they cancel each other as often as not."""
    x, w = RNG.standard_normal(2500), RNG.standard_normal(2500)
    g = w / np.cosh(x) ** 2
    for seed in range(30):
        i, j = np.random.default_rng(seed).choice(2500, 2, replace=False)
        h = g.copy()
        h[i], h[j] = g[j], g[i]
        assert check_gradients(lambda z: w @ np.tanh(z), x, h, rng=seed).verdict == "wrong", seed


@pytest.mark.parametrize("near", [1e-1, 1e-3, 1e-4])
def test_a_kink_at_x_beside_another_one(near):
    def f(b):
        return float((np.maximum(np.array([0.0, -near]) + b, 0) * np.array([1.0, 9.0])).sum()) + 2

    for claim in (-0.1, 0.0, 0.5, 1.0, 1.1):
        found = check_gradients(f, np.zeros(1), np.array([claim]))
        assert found.verdict == ("kink" if 0 <= claim <= 1 else "wrong"), claim


def test_a_penalty_that_conjugates_is_not_lost():
    x, y, w = 3 * RNG.standard_normal((50, 4)), RNG.standard_normal((50, 3)), RNG.random((4, 3))
    g = 2 * x.T @ (x @ w - y)
    for square in (lambda w: np.vdot(w, w), lambda w: np.linalg.norm(w) ** 2):
        report = check_gradients(
            lambda w, s=square: ((x @ w - y) ** 2).sum() + 5e-6 * s(w), w, g + 1e-5 * w
        )
        assert report.ok
        assert not check_gradients(
            lambda w, s=square: ((x @ w - y) ** 2).sum() + 5e-4 * s(w), w, g
        ).ok


def test_an_f_that_writes_into_its_input_is_refused():
    x = np.array([-1.0, 2.0])
    with pytest.raises(ValueError, match="f writes into its input x: let it work on a copy"):
        check_gradients(lambda x: float((np.maximum(x, 0, out=x) ** 2).sum()), x, x)
    assert x.tolist() == [-1, 2]


FLAT = np.zeros((B, L))
MINIMA = {
    "squares": (lambda a: (a**2).sum(), FLAT),
    "not complex": (lambda a: (np.abs(a) ** 2).sum(), FLAT),
    "of fourth order": (lambda a: (a**4).sum(), FLAT),
    "an inflection": (lambda a: (a**3).sum(), FLAT),
    "above another minimum": (lambda a: (a**2).sum() + 1e-18, FLAT),
    "large": (lambda a: (a**2).sum(), np.zeros((90, 30))),
    "float32": (lambda a: (a**2).sum(), FLAT.astype(np.float32)),
}


@pytest.mark.parametrize("name", MINIMA)
def test_a_right_gradient_where_f_is_least_and_zero(name):
    """No slope is there to be relative to, and f has no digits that round-off would be of."""
    f, x = MINIMA[name]
    (found,) = check_gradients(f, x.copy(), np.zeros(x.shape)).tensors
    assert found.verdict == "ok"
    assert (found.norm_error, found.worst_error, found.numeric_error) == (0, 0, 0)
    off = np.zeros(x.shape)
    off.flat[1] = 1e-5 if x.dtype == np.float32 else 1e-9
    assert check_gradients(f, x.copy(), off).verdict == "wrong"


def test_losses_are_right_where_they_are_zero():
    assert check_loss(GaussianKL(), FLAT, FLAT).verdict == "ok"
    assert check_loss(GaussianKL(), FLAT + 1e-9, FLAT).verdict == "ok"
    assert check_loss(MeanSquaredError(), X, X).verdict == "ok"
    rough = check_loss(GaussianKL(), FLAT, FLAT, method="central")  # too rough to tell
    assert [t.verdict for t in rough.tensors] == ["ok", "inconclusive"]


@pytest.mark.parametrize("seed", range(3))
def test_a_gradient_that_is_nothing_but_round_off(seed):
    """x W W^T - x is 0 for a rotation W, but for the last bits of x, and so is the gradient."""
    rng = np.random.default_rng(seed)
    x, w = rng.random((B, L)), np.linalg.qr(rng.standard_normal((L, L)))[0]

    def error(p):
        return x @ p["a"] @ p["b"] - x

    d = 2 * error({"a": w, "b": w.T}) / x.size
    claims = {"a": x.T @ d @ w, "b": (x @ w).T @ d}
    inputs = {"a": w.copy(), "b": w.T.copy()}
    assert check_gradients(lambda p: (error(p) ** 2).mean(), inputs, claims).ok
    claims["a"][0, 0] += 1e-12
    report = check_gradients(lambda p: (error(p) ** 2).mean(), inputs, claims)
    assert [t.verdict for t in report.tensors] == ["wrong", "ok"]


def test_a_small_element_has_the_round_off_of_the_largest():
    """As where it is a difference of two of them."""
    right = [derivatives.Derivative(value, 0.0) for value in (1e6, 1e-10)]
    for claim, wrong in ((1.1e-10, False), (1e-7, True)):
        group = verdict.Group(right, np.array([1e6, claim]), 1e6, 2.2e-16, 1e-9)
        assert group.wrong.tolist() == [False, wrong]


def test_a_minimum_in_a_gorge_excuses_no_wrong_gradient():
    report = check_gradients(lambda a: np.cosh(300 * a).sum() - 3, np.zeros(3), np.full(3, 1e-6))
    assert report.verdict == "wrong"


def test_a_direction_is_differentiated_once_and_its_scale_is_that_of_the_whole():
    x, calls = RNG.standard_normal((8, 5)), [0]

    def f(x):
        calls[0] += 1
        return (x**2).sum()

    options = {"method": "central", "exhaustive": 10}
    assert check_gradients(f, x, 2 * x, tolerance=1e-3, directions=1, **options).ok
    once, calls[0] = calls[0], 0
    assert check_gradients(f, x, 2 * x, tolerance=1e-3, directions=11, **options).ok
    assert calls[0] - once == 10 * 4
    check = verdict.Check(
        lambda v: f(v["x"]), {"x": x}, "central", 1e-3, np.random.default_rng(0), 1, {}, {}, 0
    )
    direction = check.direction(x)
    group = check.group("x", 2 * x, [direction])
    scale = np.linalg.norm(2 * x) / math.sqrt(40)
    assert group.doubt == pytest.approx(group.slopes[0].error / max(scale, abs(group.numeric[0])))


def test_a_report_names_the_kinks():
    x = np.array([[1.0, 0.0], [0.0, -2.0]])
    (found,) = check_gradients(lambda x: np.maximum(x, 0).sum(), x, (x > 0) * 1.0).tensors
    assert (found.verdict, found.kinks) == ("kink", ((0, 1), (1, 0)))


@pytest.mark.parametrize(
    ("f", "claim", "verdict", "finding"),
    [
        (lambda x: x.sum(), None, "wrong", ("missing", "W: there is no gradient", {})),
        (
            lambda x: x.sum(),
            "ones",
            "wrong shape",
            ("wrong shape", "W is a str, want an array of shape (2,)", {}),
        ),
        (
            lambda x: math.nan,
            np.ones(2),
            "not finite",
            ("not finite", "f itself is not finite here", {}),
        ),
        (
            lambda x: float(x[1] > 0),
            np.zeros(2),
            "not finite",
            (
                "jump",
                "W cannot be checked: f jumps or has a vertical tangent, at (1,)",
                {"count": 1},
            ),
        ),
        (
            lambda x: 0.0 if x[1] == 0 else math.nan,
            np.zeros(2),
            "not finite",
            (
                "not finite",
                "W cannot be checked: f is not finite on both sides, at (1,)",
                {"count": 1},
            ),
        ),
    ],
)
def test_why_a_gradient_is_refused(f, claim, verdict, finding):
    name = "encoder.0.W"
    x = {name: np.array([1.0, 0.0])}
    report = check_gradients(lambda values: f(values[name]), x, {name: claim})
    assert report[name].verdict == verdict
    kind, text, numbers = finding
    if text.startswith("W"):
        text = f"encoder.0.d{text}"
    assert [(f.kind, f.text, f.numbers) for f in report[name].findings] == [(kind, text, numbers)]


def test_an_f_that_is_finite_next_to_x_only_proves_nothing():
    def f(x):
        return x.sum() if abs(x[0]) < 5e-14 else math.nan

    assert check_gradients(f, np.zeros(1), np.array([3.0])).verdict == "not finite"


def test_a_report_names_both_methods():
    x = np.array([1.0, -2.0])
    report = check_gradients(lambda x: x[0] ** 2 + np.abs(x[1].real), x, np.array([2.0, -1.0]))
    assert report.ok
    assert report.method == "complex+richardson"


def along(monkeypatch, *script):
    """What is made of directions, the first two and those drawn later, with these slopes; and how
    many were drawn and differentiated."""
    a, known, drawn = RNG.standard_normal((8, 5)), {}, []
    flat, rng = lambda inputs: 0.0, np.random.default_rng(0)
    check = verdict.Check(flat, {"x": a}, "auto", 1e-9, rng, 2, {}, {}, 0)
    draw, script = check.direction, iter(script)

    def direction(a):
        drawn.append(draw(a))
        return drawn[-1]

    def slopes(name, places, start=0.11):
        found = []
        for place in places:
            right = float(np.vdot(place, a))
            one = derivatives.Derivative(right, 1e-13, grain=1e-16)
            if id(place) not in known:
                known[id(place)] = next(script)
            found.append(
                {
                    "right": one,
                    "wrong": replace(one, value=right + 1),
                    "kink": replace(one, kind="kink", left=right - 1, right=right + 1),
                    "other kink": replace(one, kind="kink", left=right + 1, right=right + 2),
                    "unclear": replace(one, error=1.0),
                }[known[id(place)]]
            )
        return found

    monkeypatch.setattr(check, "direction", direction)
    monkeypatch.setattr(check, "slopes", slopes)
    _, group = check.along("x", a)
    return group.wrong.tolist(), group.unclear.tolist(), len(drawn)


def test_directions_that_cannot_be_judged_are_replaced_three_times(monkeypatch):
    assert along(monkeypatch, "right", "right") == ([False] * 2, [False] * 2, 2)
    assert along(monkeypatch, "right", "wrong") == ([False, True], [False] * 2, 2)
    assert along(monkeypatch, "kink", "right") == ([False] * 2, [False] * 2, 2)
    for bad in ("other kink", "unclear"):
        assert along(monkeypatch, bad, "right", "right") == ([False] * 2, [False] * 2, 3)
        assert along(monkeypatch, "right", bad, bad, "wrong") == ([False, True], [False] * 2, 4)
        assert along(monkeypatch, "right", *[bad] * 4) == ([False] * 2, [False, True], 5)


def test_a_slightly_random_f_is_refused():
    draws = iter(np.linspace(1, 1.01, 1000))
    with pytest.raises(ValueError, match="f is") as caught:
        check_gradients(lambda x: next(draws) * x.sum(), np.ones(3), np.ones(3))
    assert str(caught.value) == (
        "f is not deterministic: at the same point it gave 3 and then 3.00003; draw noise such as "
        "eps once and pass it in"
    )


# ------------------------------------------------------------------ large tensors, at small cost


def sampled(claim, x, **options):
    """What is found in a linear f along directions and at a few of its 40 elements."""
    slopes = np.arange(1.0, 41).reshape(8, 5)
    report = check_gradients(lambda x: (slopes * x).sum(), x, claim(slopes), **options)
    (found,) = report["x"].findings
    return found


def test_one_wrong_element_is_found_whether_sampled_or_not():
    x = RNG.standard_normal((8, 5))
    for seed, where in enumerate([*range(40), *[0] * 6]):

        def claim(slopes, where=where):
            wrong = slopes.copy()
            wrong.flat[where] += 7
            return wrong

        found = sampled(claim, x, exhaustive=10, rng=seed, directions=1 + where % 3)
        at = [where // 5, where % 5]
        assert found.kind == "elements"
        if "index" in found.numbers:
            assert found.numbers == {"index": at}
            assert found.text == f"dx is wrong at {tuple(at)}; the elements sampled are right"
        else:
            assert found.numbers["at"] == [at]
            assert re.fullmatch(
                rf"dx is wrong in 1 of \d+ elements sampled, at {re.escape(str(tuple(at)))}",
                found.text,
            )


def test_some_wrong_elements_of_those_sampled():
    x, odd = RNG.standard_normal((8, 5)), np.arange(40).reshape(8, 5) % 3 == 0
    kinds = set()
    for seed in range(12):
        found = sampled(lambda slopes: slopes + odd * np.cos(slopes), x, exhaustive=10, rng=seed)
        kinds.add(found.kind)
        if found.kind != "elements":
            continue
        numbers = found.numbers
        assert set(numbers) == {"wrong", "of", "at"}
        assert all(odd[i, j] for i, j in numbers["at"])
        wrong, of, at = numbers["wrong"], numbers["of"], numbers["at"]
        more = f" and {wrong - 3} more" if wrong > 3 else ""
        assert found.text == (
            f"dx is wrong in {wrong} of {of} elements sampled, at "
            + ", ".join(str(tuple(i)) for i in at)
            + more
        )
    assert "elements" in kinds


def test_an_element_that_cannot_be_measured_is_not_held_against_the_claim():
    """f jumps at one element, which is among those sampled for an explanation, or not."""
    slopes = np.arange(1.0, 41).reshape(8, 5)
    verdicts = set()
    for seed in range(12):
        report = check_gradients(
            lambda x: (slopes * x).sum() + (x[3, 2] > 0),
            np.zeros((8, 5)),
            2 * slopes,
            exhaustive=10,
            rng=seed,
        )
        verdicts.add(report.verdict)
        if report.verdict == "wrong":
            (found,) = report["x"].findings
            sampled_too = found.kind == "different" and found.numbers["of"] - found.numbers["wrong"]
            assert found.kind == "factor" or sampled_too == 1
    assert verdicts == {"wrong", "not finite"}


def test_too_uncertain_to_tell():
    x = np.array([0.1, 0.2])
    report = check_gradients(lambda x: np.round(1000 + np.sin(x).sum(), 8), x, np.cos(x))
    assert report.verdict == "inconclusive"
    (finding,) = report["x"].findings
    assert re.fullmatch(
        r"dx: the numerical derivative is uncertain by \d\.\de-\d\d, too much for a tolerance "
        r"of 1e-09; take float64 or other inputs",
        finding.text,
    )
    assert finding.kind == "inconclusive"


def test_the_verdict_of_a_report_is_the_worst():
    tensors = [TensorReport(v, (1,), v) for v in ("ok", "kink", "inconclusive")]
    assert Report(tuple(tensors[:1]), 1e-9).verdict == "ok"
    assert Report(tuple(tensors[:2]), 1e-9).verdict == "kink"
    assert Report(tuple(tensors), 1e-9).verdict == "inconclusive"
    assert math.isnan(Report(tuple(tensors), 1e-9).worst)


def test_the_tolerance_is_that_of_the_coarsest_dtype():
    x = {"a": np.ones(2), "b": np.ones(2, dtype=np.float32)}
    ones = {"a": np.ones(2), "b": np.ones(2)}
    report = check_gradients(lambda x: x["a"].sum() + x["b"].sum(dtype=np.float64), x, ones)
    assert report.tolerance == gradcheck.TOLERANCE[np.dtype(np.float32)]
    assert report.ok


def test_terms_too_alike_to_blame_one():
    rng = np.random.default_rng(0)
    one = rng.standard_normal(20)
    other = one + 1e-4 * rng.standard_normal(20)
    claim = 1.01 * one + 0.99 * other  # within the doubt that their likeness leaves
    found = explain(claim, one + other, terms={"one": one, "other": other})
    assert found[0].kind in ("elements", "different")


def test_a_kink_too_slight_to_place_leaves_the_verdict_open():
    def f(x):  # rounded to 9 decimals: near its two kinks nothing smaller than 1e-9 is to be seen
        kinks = np.abs(x - 1e-4) + np.abs(x + 1e-3)
        return np.round((1000 + np.sin(3 * x) + 1e-3 * kinks).sum(), 9)

    x = np.array([1e-3])
    exact = 3 * np.cos(3 * x) + 2e-3
    np.testing.assert_allclose(numerical_gradient(f, x), exact, rtol=0, atol=1e-3)
    report = check_gradients(f, x, exact, method="richardson")
    assert report.verdict == "inconclusive"
    assert not check_gradients(f, x, 1.1 * exact).ok


def test_the_round_off_of_a_small_difference_of_large_numbers():
    """f moves by less than the last bit of the two that it is the difference of."""

    def f(x):
        return (0.3 + 0.065 * x[0]) - (0.2999 + 1e-9 * x[0] ** 2)

    for start in np.linspace(-0.3, 0.3, 41):
        slope = numerical_gradient(f, np.array([start]), "richardson")[0]
        assert slope == pytest.approx(0.065 - 2e-9 * start, abs=1e-11)


@pytest.mark.parametrize("shape", [(1,), (3, 4), (60, 50)])
@pytest.mark.parametrize("seed", range(3))
def test_an_f_that_rounds_on_the_way_refuses_no_right_gradient(shape, seed):
    """To float32, or to eight decimals: too rough to say "ok", but not to find a mistake."""
    x = np.random.default_rng(seed).standard_normal(shape)
    for f in (
        lambda x: float((x.astype("f4") ** 2).sum()),
        lambda x: round(float((x**2).sum()), 8),
    ):
        verdicts = [check_gradients(f, x, factor * 2 * x).verdict for factor in (1, 1.01, 0)]
        assert verdicts == ["inconclusive", "wrong", "wrong"]


# --- what a layer owes besides its gradients ---


class Stale(ReLU):
    """Remembers the mask of its first batch for ever."""

    def forward(self, x):
        y = super().forward(x)
        self.first = getattr(self, "first", self.positive)
        self.positive = self.first
        return y


class StaleBackward(ReLU):
    """Remembers its first dy for ever."""

    def backward(self, dy, need_dx=True):
        self.first = getattr(self, "first", dy)
        return super().backward(self.first)


class StaleLoss(MeanSquaredError):
    """Remembers the differences of its first batch for ever."""

    def forward(self, output, x):
        self.first = getattr(self, "first", output - x)
        return super().forward(output, x)

    def backward(self):
        return self.first * (2 / self.first.size)


class OtherApply(ReLU):
    def apply(self, x):
        return super().apply(x) / 2


class RememberingApply(Tanh):
    def apply(self, x):
        y = super().apply(x)
        self.slope = 1 - y * y
        return y


class Hasty(Dense):
    def backward(self, dy, need_dx=True):
        return super().backward(dy) if need_dx else None


@pytest.mark.parametrize(
    ("layer", "kind", "text"),
    [
        (Stale(), None, "dx"),
        (StaleBackward(), None, "dx"),
        (OtherApply(), "apply", "apply gives other values than forward"),
        (RememberingApply(), "apply", "dx changes when apply is called between forward and"),
        (Hasty(D, 2, dtype="float64"), "need_dx", "dW changes when backward is called with"),
    ],
    ids=lambda case: type(case).__name__ if isinstance(case, Layer) else "",
)
def test_a_layer_that_breaks_its_word(layer, kind, text):
    report = check_layer(layer, np.random.default_rng(3).standard_normal((B, D)))
    assert not report.ok
    findings = [finding for tensor in report.tensors for finding in tensor.findings]
    assert kind is None or findings[0].kind == kind
    assert findings[0].text.startswith(text)


@pytest.mark.parametrize("stale", [Stale, StaleBackward])
@pytest.mark.parametrize("model", [Autoencoder, VAE])
def test_a_model_that_remembers_its_first_batch(model, stale):
    model = model(D, (4,), 2, dtype="float64")
    model.encoder.layers = (model.encoder.layers[0], stale(), *model.encoder.layers[2:])
    x = np.random.default_rng(0).random((B, D))
    assert not check_model(model, x, model.draw_noise(np.random.default_rng(1), x)).ok


def test_a_loss_that_remembers_its_first_batch():
    y, x = np.random.default_rng(0).random((2, B, D))
    assert check_loss(MeanSquaredError(), y, x).ok
    assert not check_loss(StaleLoss(), y, x).ok


@pytest.mark.parametrize("seed", range(4))
def test_a_blank_example_under_two_relus(seed):
    """Its kinks lie in one point, where the slopes on both sides enclose no chain rule."""
    x = np.random.default_rng(seed).random((5, D))
    x[1] = 0
    model = Autoencoder(D, (6,), 3, seed=seed, dtype="float64")
    theta = model.theta.copy()
    assert check_model(model, x).ok
    np.testing.assert_array_equal(model.theta, theta)
    vae = VAE(D, (6,), 3, seed=seed, dtype="float64")
    noise = vae.draw_noise(np.random.default_rng(seed), x)
    noise[1] = 0  # so that z, too, is where the decoder's kinks meet
    assert check_model(vae, x, noise).ok
    rng = np.random.default_rng(seed)
    net = mlp((D, 6, 6), "relu", rng, np.float64)
    parameters = {name: p.copy() for name, p in net.named_parameters().items()}
    assert check_layer(net, x).ok
    for name, p in net.named_parameters().items():
        np.testing.assert_array_equal(p, parameters[name])
    real = net.layers[0].backward
    net.layers[0].backward = lambda dy, need_dx=True: real(1.01 * dy, need_dx)
    assert check_layer(net, x).verdict == "wrong"


def test_a_parameter_with_the_name_of_an_input():
    class Scale(Layer):
        parameter_names = ("x",)

        def __init__(self):
            self.x, self.dx = np.ones(1), np.ones(1)

        apply = backward = None

        def forward(self, x):
            return x

    with pytest.raises(ValueError, match=r"^x: the name of an input and of a parameter; rename"):
        check_layer(Scale(), np.ones((2, 2)))


def test_a_model_with_a_beta_of_another_meaning():
    """As a sparse autoencoder has one; it has no KL to explain a mistake by."""
    model = Autoencoder(D, (), 2, dtype="float64")
    model.beta = 3.0
    x = np.random.default_rng(0).random((B, D))
    assert check_model(model, x).ok
    real = model.mse.backward
    model.mse.backward = lambda: 2 * real()
    assert check_model(model, x).verdict == "wrong"


def test_a_gradient_in_float32_is_right_to_seven_digits():
    rng = np.random.default_rng(0)
    W, x, dy = rng.standard_normal((3, 4)), rng.standard_normal((5, 3)), rng.standard_normal((5, 4))
    rough = (x.astype("float32").T @ dy.astype("float32")).astype("float64")
    two = x.T @ dy
    two[1, :2] *= 1 + 1e-7
    for gradient in (rough, x.T @ dy * (1 + 1e-7), two):
        report = check_gradients(lambda W: np.sum(dy * np.tanh(x @ W)), W, gradient * 0 + gradient)
        assert report.verdict == "wrong"  # of tanh: not only round-off
        assert report["x"].findings[0].kind != "digits"
        report = check_gradients(lambda W: np.sum(dy * (x @ W)), W, gradient)
        (found,) = report["x"].findings
        assert found.kind == "digits"
        text = r"dx is right to ([67]) digits only: is a part of it in float32\?"
        assert found.numbers == {"digits": int(re.fullmatch(text, found.text)[1])}
    single = check_gradients(lambda W: np.sum(dy * (x @ W)), W.astype("float32"), rough)
    assert single.ok


class AtZero(ReLU):
    """7 dy where x is 0."""

    def backward(self, dy, need_dx=True):
        return super().backward(dy) + 7 * dy * self.zero

    def forward(self, x):
        self.zero = x == 0
        return super().forward(x)


class NotFinite(ReLU):
    """NaN for an example of zeros."""

    def forward(self, x):
        self.blank = ~x.any(axis=1, keepdims=True)
        return super().forward(x)

    def backward(self, dy, need_dx=True):
        return np.where(self.blank, np.nan, super().backward(dy))


class NoBias(Dense):
    """db = 0 as long as b is, as it is in every new model."""

    def backward(self, dy, need_dx=True):
        dx = super().backward(dy, need_dx)
        self.db *= self.b.any()
        return dx


def unit_of_zeros(first):
    """A net with kinks that have nothing to do with the mistake in its first layer."""
    second = Dense(4, 4, rng=1, dtype="float64")
    second.W[:, 0] = 0
    return Sequential(first, second, ReLU(), Dense(4, 2, rng=2, dtype="float64"))


@pytest.mark.parametrize(
    "layer",
    [
        AtZero(),
        NotFinite(),
        unit_of_zeros(NoBias(D, 4, dtype="float64")),
        unit_of_zeros(NotFinite()),
    ],
    ids=["at zero", "NaN", "no bias", "NaN elsewhere"],
)
def test_kinks_excuse_nothing_else(layer):
    wide = 4 if getattr(layer, "layers", None) and isinstance(layer.layers[0], ReLU) else D
    x = np.random.default_rng(3).standard_normal((B, wide))
    x[1] = 0
    assert not check_layer(layer, x).ok


def test_after_a_look_around_all_is_as_it_was():
    """What the layers remember, their gradients, and the kinks in the table."""
    net = mlp((D, 6, 6), "relu", np.random.default_rng(1), np.float64)
    x = np.random.default_rng(2).standard_normal((B, D))
    x[1] = 0
    report = check_layer(net, x)
    assert report.ok
    assert any(tensor.kinks for tensor in report.tensors)
    assert {t.verdict for t in report.tensors if t.kinks} == {"kink"}
    np.testing.assert_array_equal(net.layers[0].x, x)
    gradients = {name: g.copy() for name, g in net.named_gradients().items()}
    y = net.forward(x)
    net.backward(np.random.default_rng(0).standard_normal(y.shape))
    for name, gradient in net.named_gradients().items():
        np.testing.assert_array_equal(gradient, gradients[name])


class Ordered(Tanh):
    """Refuses examples in another order, and an `apply` of fewer inputs."""

    def forward(self, x, knots):
        if (np.diff(knots) <= 0).any():
            raise ValueError("knots: want ascending ones")
        return super().forward(x)

    def apply(self, x):
        return super().apply(x)


class RoundsOtherwise(Layer):
    def apply(self, x):
        return x - np.full((1, len(x)), 1 / len(x)) @ x

    def forward(self, x):
        return x - x.mean(axis=0)

    def backward(self, dy, need_dx=True):
        return dy - dy.mean(axis=0)


class FewGradients(Dense):
    def named_gradients(self):
        return {"W": self.dW}


class OverwritingApply(Tanh):
    def apply(self, x):
        return np.tanh(x, out=x)

    def forward(self, x):
        y = np.tanh(x)
        self.slope = 1 - y * y
        return y


class BrokenApply(Tanh):
    def apply(self, x):
        raise KeyError("x")

    def forward(self, x):
        y = np.tanh(x)
        self.slope = 1 - y * y
        return y


def test_what_a_layer_need_not_take():
    x = np.random.default_rng(3).standard_normal((B, D))
    assert check_layer(Ordered(), x, np.arange(float(B))).ok
    assert check_layer(RoundsOtherwise(), np.repeat(x[:1], 3, axis=0)).ok
    report = check_layer(FewGradients(D, 2, dtype="float64"), x)
    assert report["b"].findings[0].text == "db: there is no gradient"
    text = check_layer(OverwritingApply(), x)["x"].findings[0].text
    assert text == "x was overwritten: apply may write only what it allocated"
    assert check_layer(BrokenApply(), x)["x"].findings[0].text == "apply raises KeyError: 'x'"
