"""What a learner hands in by accident is handled like the plain case or refused in one clear line.

The rooms' own tests hold much of it; here are the kinds that they leave out, through every piece.
"""

import math
import re

import numpy as np
import pytest

import scratchvae.evaluate as room
from scratchvae import (
    VAE,
    Autoencoder,
    BernoulliNLL,
    DenoisingAutoencoder,
    GaussianKL,
    GaussianNLL,
    MeanSquaredError,
    Reparameterize,
    fit,
)
from scratchvae.evaluate import (
    PCA,
    Ridge,
    corrupted,
    evaluate,
    importance_weighted_bound,
    mse,
    reconstruct,
    roc_auc,
)
from scratchvae.layers import Dense, ReLU, Sequential, Sigmoid, Tanh
from scratchvae.optim import EPS_MIN, OPTIMIZERS, make_optimizer
from scratchvae.train import DivergedError

B, D, L = 6, 4, 2
MODELS = {
    "ae": lambda **k: Autoencoder(D, (5,), L, **k),
    "dae": lambda **k: DenoisingAutoencoder(D, (5,), L, **k),
    "dae masking": lambda **k: DenoisingAutoencoder(D, (5,), L, corruption="masking", **k),
    "vae": lambda **k: VAE(D, (5,), L, **k),
    "vae gaussian": lambda **k: VAE(D, (5,), L, likelihood="gaussian", **k),
    "vae learned": lambda **k: VAE(D, (5,), L, likelihood="gaussian", sigma="learned", **k),
}
LAYERS = {
    "dense": lambda: Dense(D, 3),
    "relu": ReLU,
    "tanh": Tanh,
    "sigmoid": Sigmoid,
    "sequential": lambda: Sequential(Dense(D, 3), ReLU(), Dense(3, 2)),
}
LOSSES = {
    "mse": MeanSquaredError,
    "bernoulli": BernoulliNLL,
    "gaussian": GaussianNLL,
    "learned": lambda: GaussianNLL("learned"),
}
EVERY_MODEL = pytest.mark.parametrize("name", MODELS)
NOISY = pytest.mark.parametrize("name", [name for name in MODELS if name != "ae"])
EVERY_LAYER = pytest.mark.parametrize("name", LAYERS)
EVERY_LOSS = pytest.mark.parametrize("name", LOSSES)


def data(rows=B, dtype="float32"):
    return np.random.default_rng(0).random((rows, D), dtype="float32").astype(dtype)


def noise(model, x):
    return model.draw_noise(np.random.default_rng(1), x)


def output(name, x):
    columns = 2 * x.shape[1] if name == "learned" else x.shape[1]
    return np.random.default_rng(2).normal(size=(len(x), columns)).astype(x.dtype)


def odd_layouts(x):
    """Yield arrays equal to x that lie differently in memory, the last of them read-only."""
    wide = np.full((2 * x.shape[0], 3 * x.shape[1]), np.nan, x.dtype)
    wide[::2, ::3] = x
    yield np.asfortranarray(x)
    yield wide[::2, ::3]
    yield x[::-1, ::-1].copy()[::-1, ::-1]
    yield x.astype(x.dtype.newbyteorder())
    shifted = np.zeros(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)  # not aligned
    shifted[...] = x
    yield shifted
    locked = x.copy()
    locked.flags.writeable = False
    yield locked


# --- dtypes and layouts ---


@EVERY_MODEL
@pytest.mark.parametrize("dtype", ["float16", "float64", "longdouble"])
def test_other_floats_are_the_plain_case_in_the_models_dtype(name, dtype):
    x = data(dtype="float16").astype(dtype)
    plain, other = MODELS[name](), MODELS[name]()
    before = x.copy()
    same = x.astype("float32")
    histories = [
        fit(model, given, validation=given, epochs=2, batch_size=4).to_csv()
        for model, given in ((plain, same), (other, x))
    ]
    assert histories[0] == histories[1]
    np.testing.assert_array_equal(plain.theta, other.theta)
    assert evaluate(plain, same) == evaluate(other, x)
    eps = noise(plain, same)
    if eps is not None:
        assert plain.forward(same, eps) == other.forward(x, eps.astype("float64"))
        assert plain.terms["neg_elbo" if "vae" in name else "mse"].dtype == np.float32
    np.testing.assert_array_equal(x, before)


@EVERY_MODEL
def test_layouts_are_the_plain_case_and_nothing_is_written_to_them(name):
    x = data()
    eps = noise(MODELS[name](), x)
    want = None
    for given in (x, *odd_layouts(x)):
        for its_noise in [None] if eps is None else [eps, *odd_layouts(eps)]:
            model = MODELS[name]()
            loss = model.forward(given, its_noise)
            model.backward()
            got = [loss, model.grad, model.reconstruct(given), *evaluate(model, given).values()]
            want = want or got
            for a, b in zip(got, want, strict=True):
                rounding = 2e-6 * np.abs(b).max()  # sums are added in another order
                np.testing.assert_allclose(a, b, rtol=0, atol=rounding)
        np.testing.assert_array_equal(given, x)


def test_a_training_on_odd_layouts_is_the_plain_training_bit_for_bit():
    thetas = []
    for given in (data(), *odd_layouts(data())):
        model = MODELS["vae"]()
        fit(model, given, epochs=2, batch_size=4)
        thetas.append(model.theta.tobytes())
    assert set(thetas) == {thetas[0]}


@EVERY_LAYER
@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8", "bool", "float16"])
def test_layers_compute_with_other_numbers_as_with_floats(name, dtype):
    x = (3 * data()).astype(dtype)
    layer, before = LAYERS[name](), x.copy()
    want = layer.forward(x.astype("float64"))
    for got in (layer.apply(x), layer.forward(x)):
        assert got.dtype.kind == "f" or name == "relu"
        np.testing.assert_allclose(got, want, rtol=2e-3)  # NumPy answers bytes in float16
    np.testing.assert_array_equal(x, before)


@EVERY_LOSS
@pytest.mark.parametrize("dtype", ["int64", "uint8", "bool"])
def test_losses_refuse_integers(name, dtype):
    """Bytes would wrap around: (0 - 1)^2 is 1 by luck only, (3 - 255)^2 is 16."""
    x = data()
    good = output(name, x)
    cls = type(LOSSES[name]()).__name__
    for bad in ((good, x.astype(dtype)), (good.astype(dtype), x)):
        for method in (LOSSES[name]().forward, LOSSES[name]().per_example):
            with pytest.raises(
                ValueError, match=rf"^{cls}: (output|x) is of dtype {dtype}, want floating-point"
            ):
                method(*bad)


@pytest.mark.parametrize("which", [0, 1])
def test_the_kl_and_z_refuse_integers_and_empty_batches(which):
    for dtype, shape in (("int8", (B, L)), ("float32", (0, L)), ("float32", (B, 0))):
        arrays = [np.zeros(shape, "float32"), np.zeros(shape, "float32")]
        arrays[which] = arrays[which].astype(dtype)
        for method in (GaussianKL().forward, GaussianKL().per_example, GaussianKL().per_latent):
            with pytest.raises(ValueError, match=r"^GaussianKL: mu and logvar must have one shape"):
                method(*arrays)
        with pytest.raises(ValueError, match=r"^Reparameterize: mu, logvar and eps must have one"):
            Reparameterize().forward(*arrays, arrays[0])


def test_an_eps_of_another_dtype_gives_what_the_wider_dtype_gives():
    mu, logvar, eps = (np.random.default_rng(i).normal(size=(B, L)) for i in range(3))
    mu, logvar = mu.astype("float32"), logvar.astype("float32")
    wide = mu.astype("float64"), logvar.astype("float64"), eps
    layer, plain = Reparameterize(), Reparameterize()
    np.testing.assert_allclose(layer.forward(mu, logvar, eps), plain.forward(*wide), rtol=1e-6)
    half = eps.astype("float16")
    z = layer.forward(mu, logvar, half)
    assert z.dtype == np.float32
    np.testing.assert_array_equal(z, plain.forward(mu, logvar, half.astype("float32")))


# --- shapes ---


@EVERY_LOSS
def test_per_example_refuses_what_would_broadcast(name):
    loss, x = LOSSES[name](), data()
    good = output(name, x)
    for bad in (good[:1], good[:, :1], good[0], good[None], np.float32(0)):
        with pytest.raises(ValueError, match=r"the output must have shape"):
            loss.per_example(bad, x)
    for bad in (x[0], x[:0], x[:, :0], x[None]):
        with pytest.raises(
            ValueError, match=rf"^{type(loss).__name__}: got x of shape .*, want \(B, D\)$"
        ):
            loss.per_example(good, bad)


def test_the_kl_of_each_example_refuses_what_would_broadcast():
    mu = np.zeros((B, L))
    for bad in (mu[:1], mu[:, :1], mu[0]):
        for method in (GaussianKL().per_example, GaussianKL().per_latent):
            with pytest.raises(ValueError, match=r"must have one shape \(B, L\), got"):
                method(mu, bad)


@pytest.mark.parametrize("shape", [(D,), (B, D + 1), (B, 1), (D, B), (2, B, D)])
def test_dense_says_what_it_wants(shape):
    for method in (Dense(D, 3).apply, Dense(D, 3).forward):
        with pytest.raises(ValueError, match=rf"^Dense: got x of shape .*, want \(B, {D}\)$"):
            method(np.zeros(shape, "float32"))


@EVERY_MODEL
def test_one_feature_and_constant_features(name):
    """One row, one column, and pixels that never change: zero gradients from a black border."""
    for x in (data()[:1], np.zeros((B, D), "float32"), np.ones((B, D), "float32")):
        model = MODELS[name]()
        assert len(fit(model, x, validation=x, epochs=2)) == 2
        assert np.isfinite(model.theta).all()
        assert all(v == math.inf or math.isfinite(v) for v in evaluate(model, x).values())


# --- NaN, infinity, subnormal ---


@NOISY
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_noise_that_is_not_finite_is_refused(name, bad):
    model, x = MODELS[name](), data()
    eps = noise(model, x)
    model.forward(x, eps)
    model.backward()
    grad = model.grad.copy()
    eps[1, 1] = bad
    methods = [model.forward, model.loss_terms]
    for method in methods + ([model.corrupt] if "dae" in name else []):
        with pytest.raises(ValueError, match=r"^noise: got NaN or infinite values, want finite"):
            method(x, eps)
    model.backward()  # the pending one is left alone
    np.testing.assert_array_equal(model.grad, grad)


@EVERY_MODEL
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e300])
def test_z_that_is_not_finite_is_refused(name, bad):
    z = np.zeros((3, L))
    z[0, 1] = bad
    with pytest.raises(ValueError, match=r"^z: got NaN or infinite values, want finite ones$"):
        MODELS[name]().decode(z)


@EVERY_MODEL
def test_subnormal_numbers_are_numbers(name):
    tiny = np.full((B, D), 1e-42, "float32")
    zero = np.zeros_like(tiny)
    model = MODELS[name]()
    eps = noise(model, tiny)
    losses = [model.forward(x, eps) for x in (tiny, zero)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    model.backward()
    assert np.isfinite(model.grad).all()
    model.theta[...] = 1e-42
    assert math.isfinite(model.forward(tiny, eps))
    model.backward()
    assert np.isfinite(model.grad).all()


@EVERY_LOSS
def test_nan_in_is_nan_out_of_a_loss_and_says_it_of_the_right_example(name):
    x = data()
    bad = output(name, x)
    bad[2, 1] = np.nan
    np.testing.assert_array_equal(np.isnan(LOSSES[name]().per_example(bad, x)), np.arange(B) == 2)


# --- arguments ---


@pytest.mark.parametrize("hidden", [b"ab", bytearray(b"ab"), "ab"])
def test_hidden_layers_are_not_text(hidden):
    with pytest.raises(ValueError, match=r"^hidden: got .*want a sequence of integers"):
        VAE(D, hidden)


@pytest.mark.parametrize("bad", ["no", "False", None, 2, 0.5, []])
def test_flags_are_true_or_false(bad):
    x = data()
    for call in (
        lambda: DenoisingAutoencoder(D, (5,), L, clip=bad),
        lambda: evaluate(MODELS["vae"](), x, binarize=bad),
        lambda: importance_weighted_bound(MODELS["vae"](), x, 2, binarize=bad),
    ):
        with pytest.raises(ValueError, match=r"^(clip|binarize): got .*, want True or False$"):
            call()


def test_flags_may_be_numpys():
    assert DenoisingAutoencoder(D, (5,), L, clip=np.False_).clip is False


@pytest.mark.parametrize("dtype", ["int32", "float16", "complex128", "huge", None])
def test_a_layer_has_float32_or_float64_parameters(dtype):
    with pytest.raises(ValueError, match=r"^dtype: got .*, want 'float32' or 'float64'$"):
        Dense(D, 3, dtype=dtype)


@pytest.mark.parametrize("sigma", [1e-200, 1e-19, 1e19, 1e200])
def test_a_sigma_whose_square_no_float32_holds(sigma):
    message = r"^sigma: got .*, want a number >= 1e-18 and <= 1e\+18 or 'learned'$"
    for make in (GaussianNLL, lambda s: VAE(D, (5,), L, likelihood="gaussian", sigma=s)):
        with pytest.raises(ValueError, match=message):
            make(sigma)


@pytest.mark.parametrize("sigma", [1e-18, 1e18])
def test_the_ends_of_sigma(sigma):
    loss, one = GaussianNLL(sigma), np.ones((1, 1), "float32")
    assert math.isfinite(loss.forward(one, 0 * one))
    assert math.isfinite(loss.backward()[0, 0])


# --- backward before forward ---


@pytest.mark.parametrize(
    ("piece", "arguments"),
    [
        *((LAYERS[name], [np.zeros((B, 3), "float32")]) for name in LAYERS if name != "sequential"),
        *((make, []) for make in LOSSES.values()),
        (Reparameterize, [np.zeros((B, L))]),
        (GaussianKL, []),
    ],
)
def test_backward_before_forward_says_so(piece, arguments):
    piece = piece()
    message = rf"^{type(piece).__name__}: backward needs a forward before it$"
    with pytest.raises(ValueError, match=message):
        piece.backward(*arguments)


@EVERY_MODEL
def test_backward_of_a_model_before_forward_says_so(name):
    with pytest.raises(ValueError, match="backward needs a forward before it"):
        MODELS[name]().backward()


# --- GaussianNLL where exp(-logvar) would have overflowed ---


@pytest.mark.parametrize("logvar", [-100, -150, 100, 150])
def test_a_learned_variance_beyond_the_range_of_its_exponential(logvar):
    loss = GaussianNLL("learned")
    value = loss.forward(np.array([[0.5, logvar]], "float32"), np.array([[0.5]], "float32"))
    assert value == pytest.approx((logvar + math.log(2 * math.pi)) / 2, rel=1e-6)  # 0 * inf before
    np.testing.assert_array_equal(loss.backward(), [[0, 0.5]])


# --- optimizers ---


@pytest.mark.parametrize("name", ["adagrad", "rmsprop", "adam", "adamw"])
@pytest.mark.parametrize("eps", [0, 1e-300, 1e-50])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_zero_gradients_move_nothing_without_eps(name, eps, dtype):
    options = {"weight_decay": 0.0} if name == "adamw" else {}
    optimizer = make_optimizer(name, 0.1, eps=eps, **options)
    theta, grad = np.ones(3, dtype), np.array([0, 1, -1e-3], dtype)
    for _ in range(3):
        optimizer.step(theta, grad)
    assert theta[0] == 1
    assert np.isfinite(theta).all()
    assert (theta[1:] != 1).all()
    assert optimizer.config["eps"] == eps
    tiny = make_optimizer(name, 0.1, eps=EPS_MIN, **options)
    again = np.ones(3, dtype)
    for _ in range(3):
        tiny.step(again, grad)
    np.testing.assert_array_equal(theta, again)


def test_a_training_without_eps_on_a_black_border():
    x = data()
    x[:, 0] = 0
    for name in ("adagrad", "rmsprop", "adam"):
        model = MODELS["vae"]()
        fit(model, x, optimizer=make_optimizer(name, 0.01, eps=0), epochs=3)
        assert np.isfinite(model.theta).all()


# --- finite or a named stop ---


class Keeper:
    """A callback that holds what a checkpoint would."""

    def __init__(self, model):
        self.model, self.saved = model, [model.theta.copy()]

    def __call__(self, training):
        self.saved.append(self.model.theta.copy())
        self.saved += [v.copy() for v in training.optimizer.memory.values()]


def train(model, **settings):
    """Train; return the history or None after a named stop. Nothing saved is not finite."""
    keeper = Keeper(model)
    try:
        history = fit(model, data(20), epochs=3, batch_size=8, callbacks=[keeper], **settings)
    except DivergedError as error:
        history, message = None, str(error)
        assert re.match("the .* not finite in epoch .*; likely cause: ", message)
    assert all(np.isfinite(saved).all() for saved in (*keeper.saved, model.theta))
    if history:
        assert all(math.isfinite(v) for v in history.last().values())
    return history


@pytest.mark.parametrize("beta", [0, 1, 1e6])
@pytest.mark.parametrize("name", ["vae", "vae gaussian", "vae learned"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_learning_rates_and_betas_end_finite_or_in_a_named_stop(name, optimizer, beta):
    for learning_rate in (1e-12, 1e-3, 1.0, 1e6):
        model = MODELS[name](beta=beta)
        history = train(model, optimizer=optimizer, learning_rate=learning_rate)
        assert history or learning_rate > 1e-12


@pytest.mark.parametrize("logvar", [-1e4, -200, 80, 200, 1e4])
@pytest.mark.parametrize("name", ["vae", "vae gaussian", "vae learned"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_logvar_driven_far_out_ends_finite_or_in_a_named_stop(name, logvar, dtype):
    model = MODELS[name](dtype=dtype)
    model.to_logvar.b[...] = logvar
    x = data(dtype=dtype)
    for judge in (evaluate, lambda m, x: {"bound": importance_weighted_bound(m, x, 3)}):
        try:
            figures = judge(model, x)
        except ValueError as error:
            figures, message = {}, str(error)
            assert logvar > 0
            assert "not finite, the model's parameters or the data are too large" in message
        assert all(np.isfinite(v).all() for v in figures.values())
    assert train(model) or logvar > 0


def test_a_decoder_variance_driven_far_out_ends_finite_or_in_a_named_stop():
    for logvar in (-1e4, -100, 1e4):
        model = MODELS["vae learned"]()
        model.decoder.layers[-1].b[D:] = logvar
        assert train(model) or logvar < 0


# --- evaluate ---


def test_no_rows_are_refused_in_one_line():
    for name, make in MODELS.items():
        model, none = make(), data()[:0]
        for call in (evaluate, reconstruct, *([corrupted] if "dae" in name else [])):
            with pytest.raises(ValueError, match=rf"^x: got shape \(0, {D}\), want \(B, {D}\)$"):
                call(model, none)
    with pytest.raises(ValueError, match=r"^mse: got shapes .* want equal ones, not empty$"):
        mse(none, none)


@pytest.mark.parametrize("log_w", [[[-math.inf, -2, -math.inf]], [[-math.inf], [-2], [-math.inf]]])
def test_a_weight_of_zero_counts_as_zero(log_w, monkeypatch):
    """A sample that explains nothing, log w = -inf, beside others and alone in its chunk."""
    vae, x = MODELS["vae"](), data()[:1]
    chunks = map(np.array, log_w)
    monkeypatch.setattr(room, "_log_weights", lambda *_: next(chunks))
    bound = importance_weighted_bound(vae, x, 3, max_bytes=10**9 if len(log_w) == 1 else 1)
    assert bound == pytest.approx(-2 - math.log(3), rel=1e-15)


def test_a_bound_of_weights_that_are_all_zero_is_refused(monkeypatch):
    monkeypatch.setattr(room, "_log_weights", lambda *_: np.full(3, -math.inf))
    with pytest.raises(ValueError, match=r"^bound: not finite"):
        importance_weighted_bound(MODELS["vae"](), data()[:1], 3)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_the_rivals_refuse_what_is_not_finite(bad):
    x = data()
    spoiled = x.copy()
    spoiled[1, 1] = bad
    for call in (
        lambda: PCA(spoiled, 2),
        lambda: Ridge(spoiled, x),
        lambda: Ridge(x, spoiled),
    ):
        with pytest.raises(ValueError, match=r"^[xy]: got NaN or infinite values"):
            call()
    with pytest.raises(ValueError, match=r"^Ridge: got x \(0, 4\)"):
        Ridge(x[:0], x[:0])


def test_the_rivals_take_other_numbers_and_layouts():
    x = (255 * data(20)).astype("uint8")
    plain = x.astype("float64")
    for given in (x, x.astype("int64"), np.asfortranarray(x), x.astype("float32")):
        np.testing.assert_allclose(PCA(given, 2).variances, PCA(plain, 2).variances, rtol=1e-10)
        np.testing.assert_allclose(Ridge(given, x).W, Ridge(plain, plain).W, atol=1e-12)
    assert PCA(np.ones((B, D)), 2).variances == pytest.approx([0, 0])


def test_the_auc_wants_booleans_and_counts_infinite_scores():
    with pytest.raises(ValueError, match=r"^positive: want True or False for each example"):
        roc_auc([1, 2, 3], [0, 1, 7])
    with pytest.raises(ValueError, match=r"^positive: want True or False for each example"):
        roc_auc([1, 2], [0, math.nan])
    assert roc_auc([-math.inf, 0, math.inf], [0, 1, 1]) == 1


def test_a_word_is_no_boolean():
    with pytest.raises(ValueError, match="binarize: got 'no'"):
        fit(Autoencoder(4, (3,), 2), np.full((8, 4), 0.5, np.float32), epochs=1, binarize="no")
