"""The room `evaluate`: bounds against known evidence, figures against numbers worked by hand."""

import math
import re
import tracemalloc
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scratchvae import VAE, Autoencoder, DenoisingAutoencoder
from scratchvae.backend import generator
from scratchvae.evaluate import (
    PCA,
    Ridge,
    corrupted,
    evaluate,
    importance_weighted_bound,
    mse,
    psnr,
    reconstruct,
    roc_auc,
)
from scratchvae.train import VALIDATION, fit, mean_terms

D, L, SIGMA = 4, 2, 0.6
F64 = {"dtype": "float64"}
# orthogonal rows, so that the true posterior of z has a diagonal covariance
W = np.array([[0.8, 0.4, -0.2, 0.0], [0.1, -0.2, 0.0, 0.5]])
BIAS = np.array([0.3, -0.1, 0.2, 0.5])


def linear_gaussian(**settings):
    """x = z W + b + sigma noise, with q(z|x) the true posterior; D = 4, L = 2.

    p(z|x) has the precision I + W W^T / sigma^2 and the mean (x - b) W^T / sigma^2 / precision.
    """
    assert W[0] @ W[1] == pytest.approx(0)
    vae = VAE(D, (), L, likelihood="gaussian", sigma=SIGMA, **F64, **settings)
    precision = 1 + (W**2).sum(axis=1) / SIGMA**2
    decoder = vae.decoder.layers[-1]
    decoder.W[...], decoder.b[...] = W, BIAS
    vae.to_mu.W[...] = W.T / SIGMA**2 / precision
    vae.to_mu.b[...] = -BIAS @ vae.to_mu.W
    vae.to_logvar.W[...], vae.to_logvar.b[...] = 0, -np.log(precision)
    return vae


def log_evidence(x):
    """log N(x; b, W^T W + sigma^2 I), (N,)."""
    covariance = W.T @ W + SIGMA**2 * np.eye(D)
    _, log_det = np.linalg.slogdet(2 * np.pi * covariance)
    centred = x - BIAS
    return -((centred @ np.linalg.inv(covariance) * centred).sum(axis=1) + log_det) / 2


def samples(n, seed=1):
    """Draws from p(x)."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, L)) @ W + BIAS + SIGMA * rng.normal(size=(n, D))


def disturbed():
    """The same model with a posterior that is off."""
    vae = linear_gaussian()
    vae.to_mu.b[...] += [0.4, -0.3]
    vae.to_logvar.b[...] += [0.5, -0.4]
    return vae


# --- the importance-weighted bound ---


@pytest.mark.parametrize("n_samples", [1, 2, 50])
def test_with_the_true_posterior_every_draw_gives_the_evidence(n_samples):
    x = samples(30)
    for seed in range(3):
        bound = importance_weighted_bound(linear_gaussian(), x, n_samples, seed=seed)
        np.testing.assert_allclose(bound, log_evidence(x), rtol=0, atol=1e-12)


def test_a_wrong_decoder_is_seen():
    vae = linear_gaussian()
    vae.decoder.layers[-1].b += 0.1
    x = samples(30)
    bound = importance_weighted_bound(vae, x, 50)
    assert np.abs(bound - log_evidence(x)).max() > 0.01


def test_one_sample_is_the_elbo_in_expectation():
    vae, n = disturbed(), 20_000
    x = np.repeat(samples(1), n, axis=0)
    bound = importance_weighted_bound(vae, x, 1, seed=2)
    terms = mean_terms(vae, x[:1], seed=3)  # its KL is exact; the reconstruction is one draw
    draws = vae.nll.per_example(
        vae.decoder.apply(
            vae.reparameterize.apply(
                *vae.encode(x), np.random.default_rng(9).standard_normal((n, L))
            )
        ),
        x,
    )
    elbo = -draws.mean() - terms["kl"]
    error = math.hypot(bound.std(), draws.std()) / math.sqrt(n)
    assert abs(bound.mean() - elbo) < 4 * error
    assert error < 0.02


def test_the_bound_grows_with_the_samples_up_to_the_evidence():
    x = np.repeat(samples(1), 4000, axis=0)
    evidence = log_evidence(x[:1])[0]
    previous = -math.inf
    for n_samples in (1, 3, 10, 30):
        bound = importance_weighted_bound(disturbed(), x, n_samples, seed=n_samples)
        mean, error = bound.mean(), bound.std() / math.sqrt(len(x))
        assert mean > previous + 4 * error
        assert mean < evidence + 4 * error
        previous = mean
    exact = importance_weighted_bound(disturbed(), x[:3], 100_000)
    np.testing.assert_allclose(exact, evidence, atol=0.02)


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
@pytest.mark.parametrize("binarize", [False, True])
def test_chunks_do_not_change_the_numbers(likelihood, binarize):
    vae = VAE(9, (7,), 3, likelihood=likelihood, **F64)
    x = np.random.default_rng(0).random((13, 9))
    want = importance_weighted_bound(vae, x, 11, seed=4, binarize=binarize)
    row = 5 * 9 * 8  # bytes that one decoded row is said to take
    for max_bytes in (1, row, 4 * row, 13 * row, 30 * row, 143 * row):
        got = importance_weighted_bound(vae, x, 11, seed=4, max_bytes=max_bytes, binarize=binarize)
        np.testing.assert_allclose(got, want, rtol=1e-13)
    other = importance_weighted_bound(vae, x, 11, seed=5, binarize=binarize)
    assert (np.abs(other - want) > 1e-6).all()


def test_the_bound_by_its_definition():
    """log 1/K sum_k p(x|z_k) p(z_k) / q(z_k|x), each density written out."""
    vae, x, k = VAE(5, (4,), 2, **F64), np.random.default_rng(0).random((3, 5)), 6
    mu, logvar = vae.encode(x)
    log_w = []
    for eps in generator("cpu", 1, VALIDATION).standard_normal((k, 3, 2)):
        z = mu + np.exp(logvar / 2) * eps
        p = vae.decode(z)
        log_px = (x * np.log(p) + (1 - x) * np.log(1 - p)).sum(axis=1)
        log_pz = -(z**2 + math.log(2 * math.pi)).sum(axis=1) / 2
        log_qz = -(eps**2 + logvar + math.log(2 * math.pi)).sum(axis=1) / 2
        log_w.append(log_px + log_pz - log_qz)
    want = np.log(np.mean(np.exp(log_w), axis=0))
    np.testing.assert_allclose(importance_weighted_bound(vae, x, k, seed=1), want, rtol=1e-12)


def test_large_weights_do_not_overflow():
    """exp(log w) is 0 for every sample: log p(x) is far below the least float."""
    vae = VAE(2000, (3,), 2, likelihood="gaussian", sigma=0.01, **F64)
    bound = importance_weighted_bound(vae, np.ones((2, 2000)), 5)
    assert np.isfinite(bound).all()
    assert (bound < -1e6).all()


def test_a_float32_model_gives_a_float64_bound():
    x = np.random.default_rng(0).random((4, 5), dtype="float32")
    bound = importance_weighted_bound(VAE(5, (4,), 2), x, 3)
    assert (bound.dtype, bound.shape) == (np.float64, (4,))


@pytest.mark.parametrize(
    ("n_samples", "x", "message"),
    [
        (0, np.zeros((2, 5)), "n_samples: got 0"),
        (3, np.zeros((2, 4)), "x: got shape"),
        (3, np.full((2, 5), np.nan), "x: got NaN"),
        (3, np.full((2, 5), 2.0), "x: got values from 2 to 2"),
    ],
)
def test_bad_arguments_of_the_bound(n_samples, x, message):
    with pytest.raises(ValueError, match=message):
        importance_weighted_bound(VAE(5, (4,), 2), x, n_samples)


@pytest.mark.parametrize("sigma", [1.0, "learned"])
def test_memory_is_bounded(sigma):
    vae = VAE(300, (50,), 5, likelihood="gaussian", sigma=sigma)
    x = np.random.default_rng(0).random((100, 300), dtype="float32")
    all_at_once = 100 * 200 * 300 * 4
    for max_bytes in (2**18, 2**20):
        tracemalloc.start()
        importance_weighted_bound(vae, x, 200, max_bytes=max_bytes)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1.1 * max_bytes + 50_000 < all_at_once / 10


def test_the_data_of_the_bound_stay():
    x = np.random.default_rng(0).random((4, 5), dtype="float32")
    x.flags.writeable = False
    importance_weighted_bound(VAE(5, (4,), 2), x, 3, binarize=True)


def test_a_binarized_bound_is_that_of_binary_pixels():
    vae, x = VAE(5, (4,), 2, **F64), np.random.default_rng(0).random((1, 5)).repeat(3000, axis=0)
    grey = importance_weighted_bound(vae, x, 1)
    binary = importance_weighted_bound(vae, x, 1, binarize=True)
    assert binary.std() > 1.5 * grey.std()  # x itself varies now


# --- evaluate ---


MODELS = {
    "ae": lambda: Autoencoder(5, (4,), 2),
    "dae gaussian": lambda: DenoisingAutoencoder(5, (4,), 2),
    "dae not clipped": lambda: DenoisingAutoencoder(5, (4,), 2, clip=False),
    "dae salt": lambda: DenoisingAutoencoder(5, (4,), 2, corruption="salt_and_pepper"),
    "vae": lambda: VAE(5, (4,), 2, beta=2.0),
}


@pytest.mark.parametrize("name", MODELS)
def test_evaluate_gives_the_figures_of_the_last_validation(name):
    """More rows than one batch of either holds."""
    rng, model = np.random.default_rng(0), MODELS[name]()
    x = rng.random((1203, 5), dtype="float32")
    history = fit(model, rng.random((50, 5)), validation=x, epochs=2, seed=3)
    figures = evaluate(model, x, seed=3)
    assert math.isfinite(figures["mse"])
    for term in model.term_names:
        assert figures[term] == pytest.approx(history[f"val_{term}"][-1], rel=2e-6), term
    assert figures["psnr"] == pytest.approx(-10 * math.log10(figures["mse"]))


def test_evaluate_of_a_vae():
    vae, x = MODELS["vae"](), np.random.default_rng(0).random((40, 5), dtype="float32")
    figures = evaluate(vae, x, seed=1)
    assert list(figures) == ["loss", "reconstruction", "kl", "neg_elbo", "mse", "psnr"]
    assert figures["neg_elbo"] == pytest.approx(figures["reconstruction"] + figures["kl"])
    mu, _ = vae.encode(x)
    assert figures["mse"] == pytest.approx(np.mean((vae.decode(mu) - x) ** 2), rel=1e-6)
    other = evaluate(vae, x, seed=2)
    assert other["neg_elbo"] != figures["neg_elbo"]
    assert (other["mse"], other["kl"]) == (figures["mse"], figures["kl"])


def test_evaluate_of_a_binarized_vae():
    vae, rng = VAE(5, (4,), 2), np.random.default_rng(0)
    x = rng.random((1203, 5), dtype="float32")
    history = fit(vae, rng.random((50, 5)), validation=x, epochs=2, seed=3, binarize=True)
    figures = evaluate(vae, x, seed=3, binarize=True)
    assert figures["neg_elbo"] == history["val_neg_elbo"][-1]
    assert figures["mse"] == evaluate(vae, x, seed=3)["mse"]


def test_what_is_no_probability_is_not_binarized():
    vae, x = VAE(5, (4,), 2, likelihood="gaussian"), np.full((3, 5), 1.5, dtype="float32")
    for figures in (evaluate, partial(importance_weighted_bound, n_samples=2)):
        with pytest.raises(ValueError, match=r"^binarize: x has values outside"):
            figures(vae, x, binarize=True)
        figures(vae, x)  # to a Gaussian any value is one


@pytest.mark.parametrize("batch_size", [0, -1])
def test_batches_of_nothing_reconstruct_nothing(batch_size):
    with pytest.raises(ValueError, match=f"^batch_size: got {batch_size}"):
        corrupted(DenoisingAutoencoder(5, (4,), 2), np.zeros((3, 5)), 0, batch_size)
    with pytest.raises(ValueError, match=f"^batch_size: got {batch_size}"):
        reconstruct(VAE(5, (4,), 2), np.zeros((3, 5)), batch_size)
    with pytest.raises(ValueError, match=f"^batch_size: got {batch_size}"):
        mean_terms(VAE(5, (4,), 2), np.zeros((3, 5)), batch_size=batch_size)


def test_corrupted_draws_what_a_validation_draws(monkeypatch):
    """On the GPU the numbers of a batch depend on its size."""
    model, drawn, x = MODELS["dae gaussian"](), [], np.zeros((2500, 5), "float32")
    real = model.draw_noise
    monkeypatch.setattr(model, "draw_noise", lambda rng, x: (drawn.append(len(x)), real(rng, x))[1])
    assert corrupted(model, x, seed=1).shape == x.shape
    mean_terms(model, x, seed=1)
    assert drawn == [1000, 1000, 500] * 2


def test_evaluate_of_a_denoiser():
    model = MODELS["dae salt"]()
    x = np.random.default_rng(0).random((40, 5), dtype="float32")
    figures, noisy = evaluate(model, x, seed=1), corrupted(model, x, seed=1)
    assert list(figures) == ["mse", "psnr", "mse_corrupted"]
    assert figures["mse"] == pytest.approx(np.mean((model.reconstruct(noisy) - x) ** 2), rel=1e-6)
    assert figures["mse_corrupted"] == pytest.approx(np.mean((noisy - x) ** 2), rel=1e-6)
    share = np.mean(noisy != x)
    assert 0.2 < share < 0.4
    assert (corrupted(model, x, seed=2) != noisy).any()


@pytest.mark.parametrize("name", MODELS)
def test_evaluate_leaves_data_and_model_alone(name):
    model, x = MODELS[name](), np.random.default_rng(0).random((4, 5), dtype="float32")
    x.flags.writeable = model.theta.flags.writeable = False
    evaluate(model, x)
    with pytest.raises(ValueError, match="x: got NaN"):
        evaluate(model, x * np.float32(np.nan))


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_reconstruct_in_batches(batch_size):
    model, x = MODELS["vae"](), np.random.default_rng(0).random((7, 5), dtype="float32")
    got = reconstruct(model, x, batch_size=batch_size)
    np.testing.assert_allclose(got, model.reconstruct(x), rtol=1e-6)


# --- mse, psnr ---


def test_mse_and_psnr_by_hand():
    # Differences 0.1, 0, -0.3, 0.2: squares 0.01 + 0 + 0.09 + 0.04 = 0.14, over 4 pixels.
    x, y = np.array([[0.1, 0.5], [0.2, 0.9]]), np.array([[0.0, 0.5], [0.5, 0.7]])
    assert mse(x, y) == pytest.approx(0.035, rel=1e-12)
    assert psnr(0.01) == pytest.approx(20)
    assert psnr(100.0, peak=255) == pytest.approx(20 * math.log10(25.5))
    assert (psnr(0.0), psnr(math.inf)) == (math.inf, -math.inf)
    assert psnr(1.0, peak=1e-200) == pytest.approx(-4000)
    assert math.isnan(psnr(math.nan))
    assert isinstance(mse(x, y), float)


def test_mse_of_bytes_does_not_wrap():
    assert mse(np.uint8([[3, 5]]), np.uint8([[5, 3]])) == 4


def test_mse_is_summed_in_float64():
    x = np.full((1000, 784), 1 / 3, dtype="float32")
    want = float(np.float32(1 / 3)) ** 2
    assert mse(x, np.zeros_like(x)) == pytest.approx(want, rel=1e-12)


def test_mse_refuses_broadcasting():
    with pytest.raises(ValueError, match=re.escape("mse: got shapes (2, 3) and (2, 1)")):
        mse(np.zeros((2, 3)), np.zeros((2, 1)))


# --- ROC AUC ---


def pairs_auc(scores, positive):
    """P(score of a positive > score of a negative), a tie half, by counting all pairs."""
    wins = [
        1 if a > b else 0.5 if a == b else 0 for a in scores[positive] for b in scores[~positive]
    ]
    return sum(wins) / len(wins)


labelled = st.lists(
    st.tuples(st.integers(-3, 3) | st.floats(allow_nan=False), st.booleans()), min_size=2
).filter(lambda pairs: len({label for _, label in pairs}) == 2)


@settings(deadline=None)
@given(labelled)
def test_auc_counts_pairs(pairs):
    scores = np.array([float(score) for score, _ in pairs])
    positive = np.array([label for _, label in pairs])
    auc = roc_auc(scores, positive)
    assert auc == pytest.approx(pairs_auc(scores, positive), abs=1e-12)
    assert roc_auc(-scores, positive) == pytest.approx(1 - auc, abs=1e-12)
    assert roc_auc(scores, ~positive) == pytest.approx(1 - auc, abs=1e-12)


def test_auc_by_hand():
    # Positives 3 and 1, negatives 2, 1, 0: wins 3 + (0 + 1/2 + 1) of 6 pairs.
    assert roc_auc([3, 2, 1, 1, 0], [1, 0, 1, 0, 0]) == pytest.approx(4.5 / 6)
    assert roc_auc([1, 2, 3], [False, True, True]) == 1
    assert roc_auc([5, 5, 5], [False, True, True]) == 0.5
    assert roc_auc([math.inf, 0, -math.inf], [True, False, False]) == 1


@pytest.mark.parametrize(
    ("scores", "positive", "message"),
    [
        ([1, 2], [True], r"got shapes \(2,\) and \(1,\)"),
        ([[1, 2]], [[True, False]], r"got shapes \(1, 2\)"),
        ([1, math.nan], [True, False], "got NaN"),
        ([1, 2], [True, True], "at least one positive and one negative"),
        ([1, 2], [3, 8], r"^positive: want True or False for each example, such as labels == 1$"),
        ([], [], "at least one positive and one negative"),
    ],
)
def test_bad_arguments_of_the_auc(scores, positive, message):
    with pytest.raises(ValueError, match=message):
        roc_auc(np.array(scores), np.array(positive))


# --- PCA ---


@pytest.mark.parametrize("n_components", [1, 3, 6])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_pca_against_the_singular_value_decomposition(n_components, dtype):
    x = np.random.default_rng(0).random((50, 6)).astype(dtype) * [1, 2, 3, 4, 5, 6]
    x = (x / 6).astype(dtype)
    pca = PCA(x, n_components)
    mean = x.mean(axis=0, dtype="float64")
    _, s, vh = np.linalg.svd(x - mean, full_matrices=False)
    np.testing.assert_allclose(pca.variances, (s**2 / 50)[:n_components], rtol=1e-10)
    np.testing.assert_allclose(
        np.abs((pca.components * vh[:n_components]).sum(axis=1)), 1, rtol=1e-10
    )
    np.testing.assert_allclose(pca.components @ pca.components.T, np.eye(n_components), atol=1e-12)
    best = mean + (x - mean) @ vh[:n_components].T @ vh[:n_components]
    np.testing.assert_allclose(pca.decode(pca.encode(x)), best, atol=1e-12)
    np.testing.assert_allclose(pca.reconstruct(x), np.clip(best, 0, 1), atol=1e-12)
    assert pca.encode(x).shape == (50, n_components)


def test_rivals_on_a_table_are_not_cut():
    """To [0, 1] is cut what was made from such data."""
    x = np.random.default_rng(3).normal(size=(50, 4))
    np.testing.assert_allclose(PCA(x, 4).reconstruct(3 * x), 3 * x, atol=1e-12)
    np.testing.assert_allclose(Ridge(x, 2 * x, 0).predict(x), 2 * x, atol=1e-12)
    inside = (x - x.min()) / np.ptp(x)
    for y in (PCA(inside, 4).reconstruct(5 * inside), Ridge(x, inside).predict(5 * x)):
        assert (y.min(), y.max()) == (0, 1)


def test_pca_of_fewer_images_than_pixels():
    x = np.random.default_rng(0).random((4, 9))
    np.testing.assert_allclose(PCA(x, 4).reconstruct(x), x, atol=1e-7)


def test_pca_cuts_to_the_range_of_images():
    x = np.array([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [1.0, 0.9]])
    pca = PCA(x, 1)
    assert pca.decode(pca.encode(x)).max() > 1
    assert pca.reconstruct(x).max() == 1


@pytest.mark.parametrize(
    ("shape", "n", "message"),
    [
        ((5, 3), 4, r"n_components: got 4 for data \(5, 3\), want at most 3"),
        ((2, 3), 3, "want at most 2"),
        ((5, 3), 0, "n_components: got 0"),
        ((5,), 1, r"PCA: got data of shape \(5,\), want \(N, D\)"),
        ((), 1, r"PCA: got data of shape \(\), want"),
    ],
)
def test_bad_arguments_of_pca(shape, n, message):
    with pytest.raises(ValueError, match=message):
        PCA(np.zeros(shape), n)


# --- ridge regression ---


def regression(seed=0, n=40):
    rng = np.random.default_rng(seed)
    x = rng.random((n, 3))
    y = x @ rng.normal(size=(3, 2)) * 0.2 + 0.5 + 0.01 * rng.normal(size=(n, 2))
    return x, y


@pytest.mark.parametrize("penalty", [0, 1e-3, 0.5])
def test_ridge_against_the_normal_equations(penalty):
    """Minimise |y - [x 1] beta|^2 + penalty N |W|^2 with an intercept that is not penalised."""
    x, y = regression()
    with_one = np.column_stack([x, np.ones(40)])
    shrink = penalty * 40 * np.diag([1, 1, 1, 0])
    beta = np.linalg.solve(with_one.T @ with_one + shrink, with_one.T @ y)
    ridge = Ridge(x, y, penalty)
    np.testing.assert_allclose(ridge.W, beta[:3], rtol=1e-9)
    np.testing.assert_allclose(ridge.b, beta[3], rtol=1e-9)
    np.testing.assert_allclose(ridge.predict(x), np.clip(with_one @ beta, 0, 1), rtol=1e-9)


def test_ridge_minimises_what_it_says():
    x, y = regression()
    ridge = Ridge(x, y, 0.1)

    def objective(weights, bias):
        return np.sum((y - x @ weights - bias) ** 2) + 0.1 * 40 * np.sum(weights**2)

    best, rng = objective(ridge.W, ridge.b), np.random.default_rng(1)
    for _ in range(20):
        weights = ridge.W + 0.01 * rng.normal(size=(3, 2))
        assert objective(weights, ridge.b + 0.01 * rng.normal(size=2)) > best


def test_a_huge_penalty_leaves_the_mean():
    x, y = regression()
    ridge = Ridge(x, y, 1e12)
    np.testing.assert_allclose(ridge.predict(x), np.broadcast_to(y.mean(axis=0), y.shape))


def test_ridge_of_float32_and_constant_features():
    x, y = regression()
    x[:, 1] = 0.5
    ridge = Ridge(x.astype("float32"), y.astype("float32"))
    assert np.abs(ridge.W[1]).max() < 1e-9
    assert np.isfinite(ridge.predict(x)).all()
    assert ridge.predict(x * 100).max() == 1


@pytest.mark.parametrize(
    ("x", "y", "penalty", "message"),
    [
        (np.zeros((4, 2)), np.zeros((3, 2)), 1.0, r"Ridge: got x \(4, 2\) and y \(3, 2\)"),
        (np.zeros((4, 2)), np.zeros(4), 1.0, "want .N, D. and .N, E."),
        (np.zeros((4, 2)), np.zeros((4, 1)), -1.0, "penalty: got -1"),
        (np.zeros((4, 2)), np.zeros((4, 1)), 0.0, "penalty: got 0"),
    ],
)
def test_bad_arguments_of_ridge(x, y, penalty, message):
    with pytest.raises(ValueError, match=message):
        Ridge(x, y, penalty)


@pytest.mark.parametrize("rival", [lambda x: PCA(x, 1), lambda x: Ridge(x, x)])
def test_rivals_of_data_too_large_for_a_covariance(rival):
    x = 1e200 * np.random.default_rng(0).random((4, 2))
    with pytest.raises(ValueError, match=r"^covariance: not finite, the data are too large"):
        rival(x)


@pytest.mark.parametrize(("mse", "peak"), [(-1.0, 1.0), (0.1, 0.0), (0.1, -1.0), (0.1, math.inf)])
def test_a_ratio_of_impossible_numbers_is_refused(mse, peak):
    with pytest.raises(ValueError, match=r"^psnr: got mse"):
        psnr(mse, peak)
