"""Wrong gradients of many kinds, each refused and named; right ones at awkward scales."""

from __future__ import annotations

import numpy as np
import pytest

from scratchvae import VAE, Dense, GaussianKL, ReLU
from scratchvae.gradcheck import (
    assert_gradients,
    check_gradients,
    check_layer,
    check_loss,
    check_model,
    explain,
    numerical_gradient,
)

B, D, H, L = 7, 5, 4, 3
RNG = np.random.default_rng(0)
X, W, DY = (RNG.standard_normal(shape) for shape in ((B, D), (D, H), (B, H)))
SQUARE = RNG.standard_normal((5, 5))
MU, LOGVAR = RNG.standard_normal((2, B, L))
SIZES = {"B": B, "L": L, "D": D}


def dense(p):
    """L = mean over the batch of (x W)^2 / 2, so that dW = x^T x W / B."""
    return ((X @ p["W"]) ** 2).sum() / (2 * B)


DW = X.T @ X @ W / B


def sigmoid_sum(x):
    return (DY[:, :L] / (1 + np.exp(-x))).sum()


Y = 1 / (1 + np.exp(-MU))


def one_element(a, value):
    a = a.copy()
    a[1, 2] = value
    return a


def first_row_only(a):
    wrong = 3 * a
    wrong[0] = a[0]
    return wrong


WRONG_DENSE = {
    "factor 2": (2 * DW, "factor", "2"),
    "factor 1/2": (DW / 2, "factor", "1/2"),
    "wrong sign": (-DW, "factor", "-1"),
    "summed over the batch": (B * DW, "factor", "B"),
    "averaged twice": (DW / B, "factor", "1/B"),
    "averaged over the latents": (DW / L, "factor", "1/L"),
    "a factor without a name": (1.2345 * DW, "factor", None),
    "zero": (0 * DW, "zero", None),
    "one element": (one_element(DW, 5.0), "elements", None),
    "one element, slightly": (one_element(DW, DW[1, 2] * (1 + 1e-6)), "elements", None),
    "nan": (one_element(DW, np.nan), "not finite", None),
    "inf": (one_element(DW, np.inf), "not finite", None),
    "shape of the transpose": (DW.T, "wrong shape", None),
    "missing": (None, "missing", None),
    "a constant added": (DW + 0.1, "offset", None),
    "right in one row": (first_row_only(DW), "rows", None),
    "absolute values": (np.abs(DW), "sign", None),
    "another gradient": (RNG.standard_normal(DW.shape), "different", None),
}


@pytest.mark.parametrize(("claim", "kind", "name"), WRONG_DENSE.values(), ids=WRONG_DENSE)
def test_a_wrong_gradient_is_refused_and_named(claim, kind, name):
    claims = {} if claim is None else {"W": claim}
    before = W.copy()
    report = check_gradients(dense, {"W": W}, claims, sizes=SIZES, batch_axis=None)
    assert not report.ok
    finding = report["W"].findings[0]
    assert finding.kind == kind, finding
    if name:
        assert name in finding.numbers["names"]
    np.testing.assert_array_equal(W, before)
    with pytest.raises(AssertionError, match="gradient check failed"):
        report.raise_if_wrong()


def test_the_right_one_passes():
    report = check_gradients(dense, {"W": W}, {"W": DW})
    assert report.ok
    assert report.worst < 1e-12


def test_a_transposed_square_is_named():
    def f(p):
        return (SQUARE * p["A"] ** 2).sum() / 2

    a = SQUARE + 2
    assert check_gradients(f, {"A": a}, {"A": SQUARE * a}).ok
    report = check_gradients(f, {"A": a}, {"A": (SQUARE * a).T})
    assert report["A"].findings[0].kind == "transposed"


TERMS = {
    "reconstruction": lambda p: sigmoid_sum(p["logvar"]),
    "KL": lambda p: (np.exp(p["logvar"]) - p["logvar"]).sum() / (2 * B),
}
S = 1 / (1 + np.exp(-LOGVAR))
R, K = DY[:, :L] * S * (1 - S), np.expm1(LOGVAR) / (2 * B)


@pytest.mark.parametrize(
    ("claim", "words"),
    [
        (R + K / L, ["1.000 x reconstruction + 0.333 x KL", "1/L", "averaged over the latents"]),
        (R, ["0.000 x KL", "your KL is missing"]),
        (R + 2 * K, ["2.000 x KL"]),
        (R - K, ["your KL has the wrong sign"]),
        (R + B * K, ["7.000 x KL", "summed over the batch"]),
        (K, ["your reconstruction is missing"]),
    ],
)
def test_a_wrong_term_is_named(claim, words):
    report = check_gradients(
        lambda p: sum(term(p) for term in TERMS.values()),
        {"logvar": LOGVAR.copy()},
        {"logvar": claim},
        terms=TERMS,
        sizes={"B": B, "L": L},
    )
    assert not report.ok
    text = report["logvar"].findings[0].text
    for word in words:
        assert word in text, text


def test_an_explanation_does_not_give_the_answer_away():
    n = RNG.standard_normal((4, 3))
    for a in (2 * n, n + 1, first_row_only(n), -n, np.abs(n), RNG.standard_normal((4, 3))):
        text = " ".join(f.text for f in explain(a, n, sizes={"B": 4}))
        assert not any(f"{value:.4f}"[:5] in text for value in n.ravel())


class Broken(Dense):
    """A dense layer with one mistake in its backward pass."""

    mistake = ""

    def backward(self, dy, need_dx=True):
        dx = super().backward(dy, need_dx)
        if self.mistake == "db averaged":
            self.db /= len(dy)
        elif self.mistake == "dx with a forward W":
            dx = dy @ self.W.T * 0 + (dy.sum() * np.ones_like(dx))
        elif self.mistake == "accumulates":
            self.total = getattr(self, "total", 0) + self.dW
            self.dW[...] = self.total
        elif self.mistake == "overwrites dy":
            dy *= 2
        elif self.mistake == "forgets dW":
            self.dW[...] = 0
        return dx


@pytest.mark.parametrize(
    ("mistake", "tensor"),
    [
        ("db averaged", "b"),
        ("dx with a forward W", "x"),
        ("accumulates", "W"),
        ("overwrites dy", "x"),
        ("forgets dW", "W"),
    ],
)
def test_a_broken_layer_is_refused(mistake, tensor):
    layer = Broken(D, H, dtype="float64")
    assert check_layer(layer, X).ok
    layer.mistake = mistake
    report = check_layer(layer, X)
    assert [t.name for t in report.tensors if not t.ok] == [tensor]


class Softmax:
    """A softmax whose dx is a thousand times too large."""

    factor = 1000

    def forward(self, x):
        e = np.exp(x - x.max(axis=1, keepdims=True))
        self.y = e / e.sum(axis=1, keepdims=True)
        return self.y

    def backward(self, dy):
        return self.factor * self.y * (dy - (dy * self.y).sum(axis=1, keepdims=True))


def test_a_softmax_that_a_plain_sum_of_outputs_would_pass():
    softmax = Softmax()
    softmax.forward(X)
    plain = softmax.backward(np.ones((B, D)))
    numeric = numerical_gradient(lambda x: softmax.forward(x).sum(), X.copy())
    np.testing.assert_allclose(plain, numeric, rtol=0, atol=1e-8)  # both are 0: it would pass
    assert not check_layer(softmax, X).ok
    softmax.factor = 1
    assert check_layer(softmax, X).ok


def test_a_sigmoid_without_its_slope():
    assert check_gradients(sigmoid_sum, MU.copy(), DY[:, :L] * Y * (1 - Y)).ok
    report = check_gradients(sigmoid_sum, MU.copy(), DY[:, :L] * Y)
    assert "derivative of an activation" in report["x"].findings[0].text


def test_eps_drawn_twice_is_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="not deterministic"):
        check_gradients(lambda mu: (mu + rng.standard_normal(mu.shape)).sum(), MU, np.ones_like(MU))


class MeanKL(GaussianKL):
    """The KL whose backward averages over the latents."""

    def backward(self):
        dmu, dlogvar = super().backward()
        return dmu, dlogvar / L


def test_a_kl_averaged_over_the_latents_in_backward_only():
    report = check_loss(MeanKL(), MU, LOGVAR, sizes={"L": L})
    assert report["mu"].ok
    assert "1/L" in report["logvar"].findings[0].numbers["names"]


def test_one_wrong_parameter_among_650_000():
    vae = VAE(784, dtype="float64")
    x = np.random.default_rng(0).random((4, 784))
    eps = vae.draw_noise(np.random.default_rng(1), x)
    right = vae.backward

    def wrong():
        right()
        vae.named_gradients()["decoder.2.W"][17, 300] += 0.05

    calls = 0
    forward = vae.forward

    def counted(*arguments):
        nonlocal calls
        calls += 1
        return forward(*arguments)

    before = vae.theta.copy()
    vae.forward = counted
    assert check_model(vae, x, eps).ok
    assert calls < 2500
    np.testing.assert_array_equal(vae.theta, before)
    vae.backward = wrong
    report = check_model(vae, x, eps)
    assert [t.name for t in report.tensors if not t.ok] == ["decoder.2.W"]
    np.testing.assert_array_equal(vae.theta, before)


def test_a_vae_that_averages_its_kl_is_told_so():
    vae = VAE(D, (H,), L, "tanh", dtype="float64")
    x = np.random.default_rng(0).random((B, D))
    right = vae.kl.backward
    vae.kl.backward = lambda: tuple(d / L for d in right())
    report = check_model(vae, x, vae.draw_noise(np.random.default_rng(1), x))
    text = report["to_logvar.W"].findings[0].text
    assert "1.000 x reconstruction + 0.333 x KL" in text
    assert "1/L" in text


KINKED = np.array([[-1.0, 0.0], [0.0, 2.0]])


@pytest.mark.parametrize(
    ("at_zero", "verdict"),
    [(0.0, "kink"), (0.3, "kink"), (1.0, "kink"), (1.2, "wrong"), (-0.1, "wrong")],
)
def test_a_kink_takes_every_subgradient_and_nothing_else(at_zero, verdict):
    claim = np.where(KINKED > 0, 1.0, np.where(KINKED == 0, at_zero, 0.0))
    report = check_gradients(lambda x: np.maximum(x, 0).sum(), KINKED.copy(), claim)
    assert report.verdict == verdict
    assert report["x"].kinks == ((0, 1), (1, 0))


@pytest.mark.parametrize("distance", [1e-3, 1e-5, 1e-7])
def test_a_kink_nearby_is_no_kink(distance):
    x = np.array([[distance, -distance, 1.0]])
    report = check_layer(ReLU(), x)
    assert report.verdict == "ok"


def test_a_jump_is_no_derivative():
    report = check_gradients(lambda x: float((x > 0).sum()) + x.sum(), np.zeros(3), np.ones(3))
    assert not report.ok


def quadratic(scale):
    return lambda x: ((scale * x) ** 2).sum() / 2


@pytest.mark.parametrize(
    ("f", "x", "gradient"),
    [
        (quadratic(1e-3), X, 1e-6 * X),
        (quadratic(1e3), X, 1e6 * X),
        (quadratic(np.logspace(-3, 3, D)), X, np.logspace(-6, 6, D) * X),
        (quadratic(1), 1e8 * X, 1e8 * X),
        (quadratic(1), 1e-8 * X, 1e-8 * X),
        (quadratic(1), X.astype(np.float32), X),
        (quadratic(np.float32(1e3)), X.astype(np.float32), 1e6 * X),
        (lambda x: np.exp(x).sum(), 300 + X, np.exp(300 + X)),
        (lambda x: 3.0 + 0 * x.sum(), X, 0 * X),
        (lambda x: 1e6 + np.sin(x).sum(), X, np.cos(X)),
    ],
    ids=[
        "1e-6",
        "1e6",
        "mixed",
        "x 1e8",
        "x 1e-8",
        "float32",
        "float32 1e6",
        "exp",
        "zero",
        "offset",
    ],
)
def test_a_right_gradient_at_an_awkward_scale_is_accepted(f, x, gradient):
    tolerance = 1e-6 if f(x) > 1e5 and x.dtype == np.float64 else None
    report = check_gradients(f, x.copy(), gradient, tolerance=tolerance)
    assert report.ok, report
    assert not check_gradients(
        f, x.copy(), 1.1 * gradient + 1e-3 * np.abs(f(x)), tolerance=tolerance
    ).ok


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((lambda x: x, X, X), "want a real scalar"),
        ((lambda x: x.sum() * 1j, X, X), "want a real scalar"),
        ((lambda x: 0.0, [1.0], [1.0]), "x: got list"),
        ((lambda x: 0.0, np.ones(3, int), np.ones(3)), "x: got ndarray of int"),
        ((lambda x: 0.0, np.ones(0), np.ones(0)), "not empty"),
        ((lambda x: 0.0, np.broadcast_to(1.0, 3), np.ones(3)), "read-only"),
        ((lambda p: 0.0, {"x": X}, {"x": X, "y": X}), r"gradients: got \['y'\]"),
    ],
)
def test_what_cannot_be_checked_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        check_gradients(*arguments)
    with pytest.raises(ValueError, match=r"method: got 'guess', want one of auto"):
        numerical_gradient(arguments[0], X, method="guess")


@pytest.mark.parametrize(
    ("claim", "words"),
    [
        (np.zeros((B, D, H)), "not summed over the batch"),
        (DW.ravel(), "the right number of elements in another shape"),
        (DW.sum(axis=0), "summed over the wrong axes"),
        (np.zeros((2, 2)), "want (5, 4)"),
        ("a string", "is a str"),
    ],
)
def test_a_wrong_shape_says_what_it_is(claim, words):
    report = check_gradients(dense, {"W": W}, {"W": claim})
    assert report.verdict == "wrong shape"
    assert words in report["W"].findings[0].text


def test_a_function_that_is_not_finite_has_no_gradient():
    report = check_gradients(lambda x: np.inf * x.sum(), X.copy(), X)
    assert "f itself is not finite" in report["x"].findings[0].text
    assert report.to_dict()["tensors"][0]["norm_error"] is None
    assert "not finite" in str(report)


def test_float32_cannot_decide_to_nine_digits():
    x = X.astype(np.float32)
    report = check_gradients(lambda x: np.sin(x).sum(), x, np.cos(x), tolerance=1e-9)
    assert report.verdict == "inconclusive"
    assert not report.ok
    assert "take float64" in report["x"].findings[0].text


@pytest.mark.parametrize("method", ["central", "richardson", "complex"])
def test_the_three_methods_agree(method):
    numeric = numerical_gradient(lambda p: np.sin(p["a"]).sum(), {"a": X.copy()}, method)["a"]
    error = {"central": 1e-9, "richardson": 1e-11, "complex": 1e-15}[method]
    np.testing.assert_allclose(numeric, np.cos(X), rtol=0, atol=error)
    numeric = numerical_gradient(lambda x: np.abs(x).sum(), X.copy(), method)
    np.testing.assert_allclose(numeric, np.sign(X), atol=1e-8)  # no complex derivative: falls back


def test_assert_gradients():
    assert_gradients(dense, {"W": W}, {"W": DW})
    with pytest.raises(AssertionError, match=r"2\.000 x the right gradient"):
        assert_gradients(dense, {"W": W}, {"W": 2 * DW})


def test_a_backward_that_returns_nothing_is_refused():
    layer = ReLU()
    layer.backward = lambda dy: None
    assert check_layer(layer, X)["x"].findings[0].kind == "missing"


def test_a_model_whose_parameters_are_not_its_vector_is_refused():
    vae = VAE(D, (H,), L, dtype="float64")
    vae.theta = vae.theta.copy()
    x = np.random.default_rng(0).random((B, D))
    with pytest.raises(ValueError, match="do not make up theta"):
        check_model(vae, x, vae.draw_noise(np.random.default_rng(1), x))


N = RNG.standard_normal((B, D))


def rows(a, which, factors):
    a = a.copy()
    a[which] *= np.reshape(factors, (-1, 1))
    return a


@pytest.mark.parametrize(
    ("a", "words"),
    [
        (N, None),
        (rows(N, [2, 4], [0, 0]), "right in batch rows 0, 1, 3, 5, 6 and wrong in 2, 4"),
        (rows(N, slice(1, None), [B] * 6), "right in batch row 0 and wrong in 1, 2, 3, 4, 5, 6"),
        (rows(N, slice(None), np.arange(2, 9)), "by a factor of its own in each: 2.000, 3.000"),
        (rows(N.T, [1], [3]).T, "right in columns 0, 2, 3, 4 and wrong in 1, where it is 3.000"),
        (N + N.sum(axis=1, keepdims=True), "to each row: a term with the sum over the row"),
        (N * 2 / (B * D), "2/(B*D)"),
        (-N * B**2, "-B^2"),
        (N * 2 * B, "B*2"),
    ],
)
def test_an_explanation_names_the_mistake(a, words):
    found = explain(a, N, sizes={"B": B, "D": D})
    assert (words is None) == (found == [])
    if words:
        assert words in found[0].text


def test_proportional_terms_cannot_be_told_apart():
    found = explain(N / 3, N, terms={"one": N / 2, "other": N / 2}, sizes={"L": 3})
    assert found[0].kind == "factor"
    found = explain(N + np.eye(B, D), N, terms={"one": N / 2, "other": N / 2 + 1e-9})
    assert found[-1].kind in ("elements", "different")
    with pytest.raises(ValueError, match="numeric: got NaN"):
        explain(N, np.full_like(N, np.nan))
