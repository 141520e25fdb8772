"""What a gradient check cannot see: whether the losses mean what their names say."""

import itertools
import math

import numpy as np
import pytest

from scratchvae import (
    VAE,
    Autoencoder,
    BernoulliNLL,
    DenoisingAutoencoder,
    GaussianKL,
    GaussianNLL,
    MeanSquaredError,
    Reparameterize,
)


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


# --- the latent ---


def test_the_variance_of_z_is_exp_logvar():
    n, mu, logvar = 200_000, np.array([[1.0, -2.0, 0.0]]), np.array([[-4.0, 0.0, 3.0]])
    shape = (n, 3)
    z = Reparameterize().forward(
        np.broadcast_to(mu, shape), np.broadcast_to(logvar, shape), normal(0, *shape)
    )
    variance = np.exp(logvar[0])
    assert (abs(z.mean(axis=0) - mu[0]) < 4 * np.sqrt(variance / n)).all()
    # were exp(logvar) the standard deviation, this would be 55 times too small, or 20 too large
    assert (abs(z.var(axis=0) - variance) < 4 * variance * math.sqrt(2 / n)).all()
    correlation = np.corrcoef(z.T)[np.triu_indices(3, 1)]
    assert (abs(correlation) < 4 / math.sqrt(n)).all()


@pytest.mark.parametrize("n_latent", [1, 2, 20])
def test_the_kl_is_the_mean_of_log_q_minus_log_p(n_latent):
    n, mu, logvar = 100_000, 2 * normal(1, 1, n_latent), normal(2, 1, n_latent)
    z = Reparameterize().apply(mu, logvar, normal(3, n, n_latent))
    log_q = -((z - mu) ** 2 / np.exp(logvar) + logvar + math.log(2 * math.pi)).sum(axis=1) / 2
    log_p = -(z**2 + math.log(2 * math.pi)).sum(axis=1) / 2
    draws = log_q - log_p
    kl, error = GaussianKL().forward(mu, logvar), draws.std() / math.sqrt(n)
    assert abs(kl - draws.mean()) < 4 * error
    assert error < 0.01 * kl  # fine enough to see a wrong factor


@pytest.mark.parametrize(("n_latent", "exactly"), [(1, True), (3, True), (20, False)])
def test_an_appended_latent_at_the_prior_leaves_the_kl_alone(n_latent, exactly):
    mu, logvar = normal(1, 5, n_latent), normal(2, 5, n_latent)
    longer = [np.hstack([array, np.zeros((5, 1))]) for array in (mu, logvar)]
    kl = GaussianKL()
    values = kl.forward(mu, logvar), kl.per_example(mu, logvar), *kl.backward()
    with_it = kl.forward(*longer), kl.per_example(*longer), *(g[:, :-1] for g in kl.backward())
    for one, other in zip(values, with_it, strict=True):
        # NumPy adds 8 and more numbers in another order, so that the last bit may differ
        np.testing.assert_allclose(other, one, rtol=0 if exactly else 1e-15)
    assert not np.any([g[:, -1] for g in kl.backward()])
    assert kl.per_latent(*longer)[-1] == 0


# --- the batch ---


def twice(array):
    return None if array is None else np.concatenate([array, array])


@pytest.mark.parametrize(
    ("loss", "columns"),
    [
        (MeanSquaredError(), 4),
        (BernoulliNLL(), 4),
        (GaussianNLL(0.3), 4),
        (GaussianNLL("learned"), 8),
    ],
    ids=["mse", "bernoulli", "gaussian", "learned"],
)
def test_a_duplicated_batch_leaves_every_loss_alone(loss, columns):
    output, x = normal(1, 3, columns), np.random.default_rng(2).uniform(size=(3, 4))
    value, gradient = loss.forward(output, x), loss.backward()
    assert loss.forward(twice(output), twice(x)) == pytest.approx(value, rel=1e-14)
    # each output now has half the weight in the mean; a parameter collects both halves
    np.testing.assert_allclose(loss.backward(), twice(gradient) / 2, rtol=1e-14)


def test_a_duplicated_batch_leaves_the_kl_alone():
    mu, logvar, kl = normal(1, 3, 4), normal(2, 3, 4), GaussianKL()
    value, gradients = kl.forward(mu, logvar), kl.backward()
    assert kl.forward(twice(mu), twice(logvar)) == pytest.approx(value, rel=1e-14)
    for gradient, half in zip(gradients, kl.backward(), strict=True):
        np.testing.assert_allclose(half, twice(gradient) / 2, rtol=1e-14)


MODELS = {
    "ae": (Autoencoder, {}),
    "dae": (DenoisingAutoencoder, {}),
    "dae masking": (DenoisingAutoencoder, {"corruption": "masking"}),
    "vae": (VAE, {"beta": 2.5}),
    "vae shallow": (VAE, {"hidden": ()}),
    "vae gaussian": (VAE, {"likelihood": "gaussian", "sigma": 0.4}),
    "vae learned": (VAE, {"likelihood": "gaussian", "sigma": "learned"}),
}


@pytest.mark.parametrize("name", MODELS)
def test_what_a_batch_means_to_a_model(name):
    cls, arguments = MODELS[name]
    model = cls(6, **{"hidden": (7,), "n_latent": 3, "dtype": "float64", "seed": 2, **arguments})
    x = np.random.default_rng(0).uniform(size=(4, 6))
    noise = model.draw_noise(np.random.default_rng(1), x)

    def measure(pick):
        model.forward(pick(x), None if noise is None else pick(noise))
        model.backward()
        return dict(model.terms), model.grad.copy()

    def same(result, other):
        for key, value in result[0].items():
            assert other[0][key] == pytest.approx(value, rel=1e-13)
        np.testing.assert_allclose(other[1], result[1], rtol=1e-9, atol=1e-14)

    whole = measure(lambda a: a)
    same(whole, measure(twice))  # the mean over the batch, in every term and every gradient
    same(whole, measure(lambda a: a[::-1]))  # no example knows its place
    single = [measure(lambda a, i=i: a[i : i + 1]) for i in range(4)]
    terms = {key: np.mean([terms[key] for terms, _ in single]) for key in whole[0]}
    same(whole, (terms, np.mean([gradient for _, gradient in single], axis=0)))


# --- the likelihoods are distributions ---


@pytest.mark.parametrize("n_features", [1, 3, 8])
def test_bernoulli_probabilities_of_all_images_add_up_to_one(n_features):
    images = np.array(list(itertools.product([0.0, 1.0], repeat=n_features)))
    logits = np.broadcast_to(3 * normal(0, 1, n_features), images.shape)
    p = np.exp(-BernoulliNLL().per_example(logits, images))
    assert p.sum() == pytest.approx(1, rel=1e-13)
    np.testing.assert_allclose(p @ images, BernoulliNLL().mean(logits)[0], rtol=1e-12)


@pytest.mark.parametrize("sigma", [0.2, 1.0, 3.0])
@pytest.mark.parametrize("learned", [False, True])
def test_gaussian_densities_integrate_to_one_with_their_mean_and_variance(sigma, learned):
    mean, width = 1.5, 12 * sigma
    x = (mean + np.linspace(-width, width, 4001))[:, None]
    dx = x[1, 0] - x[0, 0]
    output = np.full_like(x, mean)
    loss = GaussianNLL("learned" if learned else sigma)
    if learned:
        output = np.hstack([output, np.full_like(x, 2 * math.log(sigma))])
    p = np.exp(-loss.per_example(output, x))
    x = x[:, 0]
    assert p.sum() * dx == pytest.approx(1, rel=1e-12)
    assert (p * x).sum() * dx == pytest.approx(mean, rel=1e-12)
    assert (p * (x - mean) ** 2).sum() * dx == pytest.approx(sigma**2, rel=1e-12)


# --- a VAE whose evidence is known ---
#
# p(z) = N(0, I), p(x|z) = N(W z + b, s^2 I). Then
#     p(x)   = N(b, S),  S = W W^T + s^2 I,
#     p(z|x) = N(M^-1 W^T (x - b) / s^2, M^-1),  M = I + W^T W / s^2,
# (Bishop 2006, section 12.2). The columns of W are orthogonal, so that M is diagonal and an encoder
# without hidden layers can be the posterior.

D, L, S = 5, 2, 0.6


def linear_gaussian(learned):
    """Return the VAE with its encoder at the true posterior, and W (D, L), b (D,)."""
    w, b = np.linalg.qr(normal(3, D, L))[0] * [1.5, 0.4], normal(4, D)
    m = 1 + (w * w).sum(axis=0) / S**2
    sigma = "learned" if learned else S
    model = VAE(D, (), L, likelihood="gaussian", sigma=sigma, dtype="float64")
    model.theta[:] = 0
    model.to_mu.W[...] = w / S**2 / m
    model.to_mu.b[...] = -b @ model.to_mu.W
    model.to_logvar.b[...] = -np.log(m)
    decoder = model.decoder.layers[-1]
    decoder.W[:, :D], decoder.b[:D] = w.T, b
    decoder.b[D:] = 2 * math.log(S)  # the log-variances, where they are learned
    return model, w, b


def log_evidence(x, w, b):
    """Return log p(x), (B,), by linear algebra that the package has no part in."""
    covariance = w @ w.T + S**2 * np.eye(D)
    distance = ((x - b) @ np.linalg.inv(covariance) * (x - b)).sum(axis=1)
    return -(distance + np.linalg.slogdet(2 * np.pi * covariance)[1]) / 2


def expectation(function, batch):
    """Return E function(eps) over eps ~ N(0, I), exactly where it is quadratic in eps.

    The 2 L points +-sqrt(L) e_i, each with the same weight, have the moments of N(0, I) up to the
    third; with a linear decoder, losses and gradients are quadratic in eps.
    """
    points = math.sqrt(L) * np.vstack([np.eye(L), -np.eye(L)])
    return np.mean([function(np.tile(point, (batch, 1))) for point in points], axis=0)


def elbo(model, x):
    by_terms = -expectation(lambda eps: model.loss_terms(x, eps)["neg_elbo"], len(x))
    by_forward = -expectation(lambda eps: model.forward(x, eps), len(x))  # beta = 1
    assert by_terms == pytest.approx(by_forward, rel=1e-13)
    return by_terms


FIXED_OR_LEARNED = pytest.mark.parametrize("learned", [False, True], ids=["fixed", "learned"])
X = 2 * normal(5, 4, D)


@FIXED_OR_LEARNED
def test_at_the_true_posterior_the_elbo_is_the_evidence(learned):
    model, w, b = linear_gaussian(learned)
    assert elbo(model, X) == pytest.approx(log_evidence(X, w, b).mean(), abs=1e-10)
    for x in X:
        assert elbo(model, x[None]) == pytest.approx(log_evidence(x[None], w, b)[0], abs=1e-10)


@FIXED_OR_LEARNED
@pytest.mark.parametrize("seed", range(8))
def test_elsewhere_the_elbo_is_less_by_the_kl_to_the_posterior(learned, seed):
    model, w, b = linear_gaussian(learned)
    best_mu, best_logvar = model.encode(X)
    for head in (model.to_mu, model.to_logvar):
        head.W += 0.2 * normal(seed, *head.W.shape)
        head.b += 0.2 * normal(seed + 100, *head.b.shape)
    mu, logvar = model.encode(X)
    # KL between two diagonal Gaussians, q and p(z|x)
    difference = logvar - best_logvar
    squares = np.exp(difference) + (mu - best_mu) ** 2 / np.exp(best_logvar)
    gap = (squares - 1 - difference).sum(axis=1) / 2
    for i, evidence in enumerate(log_evidence(X, w, b)):
        bound = elbo(model, X[i : i + 1])
        assert bound < evidence
        assert bound == pytest.approx(evidence - gap[i], abs=1e-10)


@FIXED_OR_LEARNED
def test_at_the_true_posterior_the_gradient_is_that_of_the_evidence(learned):
    model, w, b = linear_gaussian(learned)

    def gradient(eps):
        model.forward(X, eps)
        model.backward()
        return model.grad.copy()

    model.grad[:] = expectation(gradient, len(X))
    slopes = model.named_gradients()
    # The ELBO touches the evidence: the encoder has nothing to gain, the decoder gains as much as
    # the evidence does. With r = x - b: d log p / db = S^-1 r and
    # d log p / dW = S^-1 (r r^T S^-1 - I) W.
    inverse, r = np.linalg.inv(w @ w.T + S**2 * np.eye(D)), X - b
    d_w = inverse @ (r.T @ r / len(X) @ inverse - np.eye(D)) @ w
    for name in ("to_mu.W", "to_mu.b", "to_logvar.W", "to_logvar.b"):
        np.testing.assert_allclose(slopes[name], 0, atol=1e-10, err_msg=name)
    np.testing.assert_allclose(-slopes["decoder.0.W"][:, :D], d_w.T, atol=1e-10)
    np.testing.assert_allclose(-slopes["decoder.0.b"][:D], (r @ inverse).mean(axis=0), atol=1e-10)


def test_the_evidence_itself_agrees_with_quadrature():
    _, w, b = linear_gaussian(False)
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    z = np.array(list(itertools.product(nodes, repeat=L)))
    weight = np.prod(list(itertools.product(weights, repeat=L)), axis=1) / (2 * np.pi)
    residual = X[0] - z @ w.T - b
    density = np.exp(-(residual**2).sum(axis=1) / (2 * S**2)) / (2 * np.pi * S**2) ** (D / 2)
    assert math.log(weight @ density) == pytest.approx(log_evidence(X[:1], w, b)[0], abs=1e-9)


WRONG = {
    "KL averaged over the latents": ("kl", lambda f, *a: f(*a) / L),
    "KL doubled": ("kl", lambda f, *a: 2 * f(*a)),
    "KL without its -1/2 a latent": ("kl", lambda f, *a: f(*a) + L / 2),
    "NLL without log 2 pi": ("nll", lambda f, *a: f(*a) - D / 2 * math.log(2 * math.pi)),
    "NLL averaged over the pixels": ("nll", lambda f, *a: f(*a) / D),
    "NLL without log sigma": ("nll", lambda f, *a: f(*a) - D * math.log(S)),
    "half the squared error": ("nll", lambda f, m, x: f(m, x) - ((m - x) ** 2).sum(1) / S**2 / 4),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_constant_would_be_seen(wrong, monkeypatch):
    model, w, b = linear_gaussian(False)
    piece, change = WRONG[wrong]
    right = getattr(model, piece).per_example
    monkeypatch.setattr(getattr(model, piece), "per_example", lambda *a: change(right, *a))
    assert abs(elbo(model, X) - log_evidence(X, w, b).mean()) > 1e-2


def test_exp_logvar_taken_for_a_standard_deviation_would_be_seen(monkeypatch):
    model, w, b = linear_gaussian(False)
    wrong = lambda mu, logvar, eps: mu + np.exp(logvar) * eps  # noqa: E731
    for method in ("apply", "forward"):
        monkeypatch.setattr(model.reparameterize, method, wrong)
    assert abs(elbo(model, X) - log_evidence(X, w, b).mean()) > 1e-2


def test_the_bernoulli_elbo_is_less_than_the_evidence_by_the_kl_to_the_posterior():
    # One latent, so that every integral over z can be done by quadrature.
    model = VAE(3, (), 1, seed=1, dtype="float64")
    model.theta[:] = 0.7 * normal(2, model.theta.size)
    eps, z = np.linspace(-8, 8, 321)[:, None], np.linspace(-30, 30, 6001)[:, None]
    weights = np.exp(-(eps[:, 0] ** 2) / 2)
    weights /= weights.sum()
    dz = z[1, 0] - z[0, 0]
    for image in itertools.product([0.0, 1.0], repeat=3):
        x = np.array([image])
        bound = -weights @ [model.loss_terms(x, e[None])["neg_elbo"] for e in eps]
        p_x1 = model.decode(z)  # (Z, D): the probability that each pixel is 1
        joint = np.prod(np.where(x == 1, p_x1, 1 - p_x1), axis=1)
        joint *= np.exp(-(z[:, 0] ** 2) / 2) / math.sqrt(2 * math.pi)
        evidence = math.log(joint.sum() * dz)
        mu, logvar = (a[0, 0] for a in model.encode(x))
        log_q = -((z[:, 0] - mu) ** 2 / math.exp(logvar) + logvar + math.log(2 * math.pi)) / 2
        gap = (np.exp(log_q) * (log_q - np.log(joint) + evidence)).sum() * dz
        assert gap > 1e-4
        assert bound == pytest.approx(evidence - gap, abs=1e-9)
