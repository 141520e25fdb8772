import copy
import json
import math
import pickle
import warnings

import numpy as np
import pytest

from scratchvae import (
    VAE,
    Adam,
    Autoencoder,
    BernoulliNLL,
    DenoisingAutoencoder,
    Dense,
    GaussianNLL,
    Sequential,
    Sigmoid,
)
from scratchvae.layers import ACTIVATIONS
from scratchvae.models import MODELS, Model, build

D, B = 6, 5  # features, batch

ARGUMENTS = {
    "ae": (Autoencoder, {}),
    "ae linear": (Autoencoder, {"hidden": (), "output": "linear"}),
    "ae deep": (Autoencoder, {"hidden": (8, 5), "activation": "tanh", "n_latent": 1}),
    "dae gaussian": (DenoisingAutoencoder, {}),
    "dae unclipped": (DenoisingAutoencoder, {"clip": False, "output": "linear", "sigma": 2}),
    "dae masking": (DenoisingAutoencoder, {"corruption": "masking", "activation": "sigmoid"}),
    "dae salt": (DenoisingAutoencoder, {"corruption": "salt_and_pepper", "fraction": 0.6}),
    "vae": (VAE, {}),
    "vae shallow": (VAE, {"hidden": ()}),
    "vae deep": (VAE, {"hidden": (8, 5), "activation": "tanh", "beta": 4.0, "n_latent": 1}),
    "vae wide": (VAE, {"n_latent": 50, "activation": "sigmoid", "beta": 0}),
    "vae gaussian": (VAE, {"likelihood": "gaussian", "sigma": 0.3}),
    "vae learned": (VAE, {"likelihood": "gaussian", "sigma": "learned", "beta": 0.5}),
}
EVERY_MODEL = pytest.mark.parametrize("name", ARGUMENTS)
BOTH_DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])


def make(name, **arguments):
    cls, own = ARGUMENTS[name]
    small = {"hidden": (7,), "n_latent": 3, "seed": 1, "dtype": "float64"}
    return cls(D, **{**small, **own, **arguments})


def data(rows=B, seed=0, dtype="float64"):
    return np.random.default_rng(seed).uniform(size=(rows, D)).astype(dtype)


def noise_for(model, x, seed=2):
    return model.draw_noise(np.random.default_rng(seed), x)


def gradient(model, x, noise):
    model.forward(x, noise)
    model.backward()
    return model.grad.copy()


def encode(model, x):
    """Return all that ``encode`` returns, in one array."""
    return np.hstack([model.encode(x)])


# --- one vector ---


@EVERY_MODEL
def test_parameters_and_gradients_are_views_of_two_vectors(name):
    model = make(name)
    for vector, named in (
        (model.theta, model.named_parameters()),
        (model.grad, model.named_gradients()),
    ):
        assert vector.ndim == 1
        assert vector.flags.c_contiguous
        assert vector.flags.owndata
        vector[:] = np.arange(vector.size)
        flat = np.concatenate([array.ravel() for array in named.values()])
        np.testing.assert_array_equal(flat, vector)  # all of it, in order
        assert all(np.shares_memory(array, vector) for array in named.values())
    assert list(model.named_parameters()) == list(model.named_gradients())


def test_the_names_of_the_parameters():
    assert list(make("ae").named_parameters()) == [
        *("encoder.0.W", "encoder.0.b", "encoder.2.W", "encoder.2.b"),
        *("decoder.0.W", "decoder.0.b", "decoder.2.W", "decoder.2.b"),
    ]
    shapes = {k: v.shape for k, v in make("vae deep").named_parameters().items() if k[-1] == "W"}
    assert shapes == {
        "encoder.0.W": (6, 8),
        "encoder.2.W": (8, 5),
        "to_mu.W": (5, 1),
        "to_logvar.W": (5, 1),
        "decoder.0.W": (1, 5),
        "decoder.2.W": (5, 8),
        "decoder.4.W": (8, 6),
    }
    assert make("vae shallow").named_parameters()["to_mu.W"].shape == (6, 3)
    assert make("vae learned").named_parameters()["decoder.2.W"].shape == (7, 12)


@EVERY_MODEL
def test_writing_theta_changes_the_model(name):
    model, x = make(name), data()
    before = model.reconstruct(x)
    first = next(iter(model.named_parameters().values()))
    model.theta *= 1.5
    np.testing.assert_array_equal(next(iter(model.named_parameters().values())), first)
    assert not np.allclose(model.reconstruct(x), before)


@EVERY_MODEL
def test_identity_is_kept_over_training_steps_and_training_trains(name):
    model, x = make(name, seed=0), data(rows=32)
    noise, optimizer = noise_for(model, x), Adam(0.01)
    theta, grad, named = model.theta, model.grad, model.named_parameters()
    slopes = model.named_gradients()
    before = float(model.forward(x, noise))
    for _ in range(30):
        after = float(model.forward(x, noise))
        model.backward()
        optimizer.step(model.theta, model.grad)
    assert after < before
    assert model.theta is theta
    assert model.grad is grad
    for key, array in model.named_parameters().items():
        assert array is named[key]
        assert np.shares_memory(array, theta)
        assert model.named_gradients()[key] is slopes[key]
        assert np.shares_memory(slopes[key], grad)


@pytest.mark.parametrize("name", ["ae", "dae masking", "vae"])
def test_a_deep_copy_of_a_model_still_is_one_vector(name):
    model, x = make(name), data()
    model.theta += 0.1  # no longer what the seed says
    twin = copy.deepcopy(model)
    assert all(np.shares_memory(a, twin.theta) for a in twin.named_parameters().values())
    assert all(np.shares_memory(a, twin.grad) for a in twin.named_gradients().values())
    before = model.reconstruct(x)
    np.testing.assert_array_equal(twin.reconstruct(x), before)
    twin.theta[:] = 0
    np.testing.assert_array_equal(model.reconstruct(x), before)


@EVERY_MODEL
@pytest.mark.parametrize("again", [copy.copy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_learns_as_the_model_does(name, again):
    """Copied by copy, or sent to another process: trained, it moves, and the model stays."""
    model, x = make(name), data()
    noise, theta = noise_for(model, x), model.theta.copy()
    twin = again(model)
    twin.to("cpu")
    for one in (twin, model):
        for _ in range(3):
            one.theta -= 1e-3 * gradient(one, x, noise)
        assert all(np.shares_memory(a, one.theta) for a in one.named_parameters().values())
        assert one is model or np.array_equal(model.theta, theta)
    np.testing.assert_array_equal(twin.theta, model.theta)
    assert twin.forward(x, noise) == model.forward(x, noise) < make(name).forward(x, noise)


def test_a_copy_of_a_class_of_ones_own_is_of_that_class():
    class Mine(VAE):
        def codes(self, x):
            return -super().codes(x)

    model = Mine(D, (4,), 2, dtype="float64")
    twin = copy.deepcopy(model)
    assert type(twin) is Mine
    np.testing.assert_array_equal(twin.codes(data()), model.codes(data()))


@EVERY_MODEL
def test_to_the_device_where_it_is_keeps_the_values(name):
    model, x = make(name), data()
    noise = noise_for(model, x)
    want, theta = gradient(model, x, noise), model.theta.copy()
    model.to("cpu")
    np.testing.assert_array_equal(model.theta, theta)
    np.testing.assert_array_equal(gradient(model, x, noise), want)
    assert all(np.shares_memory(a, model.theta) for a in model.named_parameters().values())
    with pytest.raises(ValueError, match=r"^device: got 'tpu'"):
        model.to("tpu")
    assert model.device == "cpu"


# --- write only what you allocated; remember only in forward ---


@EVERY_MODEL
def test_x_noise_and_z_stay_as_they_are(name):
    model, x = make(name), data()
    noise, z = noise_for(model, x), np.ones((B, model.n_latent))
    arrays = [a for a in (x, noise, z) if a is not None]
    before = [a.tobytes() for a in arrays]
    for array in arrays:
        array.flags.writeable = False
    model.forward(x, noise)
    model.backward()
    model.loss_terms(x, noise)
    encode(model, x)
    model.reconstruct(x)
    model.decode(z)
    assert [a.tobytes() for a in arrays] == before


@EVERY_MODEL
def test_backward_twice_gives_the_same_answer_and_leaves_theta(name):
    model, x = make(name), data()
    noise, theta = noise_for(model, x), model.theta.copy()
    want = gradient(model, x, noise)
    assert want.any()
    assert np.isfinite(want).all()
    model.grad[:] = np.nan  # overwritten, not added to
    model.backward()
    np.testing.assert_array_equal(model.grad, want)
    np.testing.assert_array_equal(model.theta, theta)


@EVERY_MODEL
def test_forward_is_deterministic_and_the_noise_is_drawn_once(name, monkeypatch):
    model, x = make(name), data()
    noise = noise_for(model, x)
    loss, want = model.forward(x, noise), gradient(model, x, noise)
    monkeypatch.setattr(np.random, "default_rng", None)  # nobody can draw any more
    np.random.seed(0)  # noqa: NPY002  nor is the global generator asked
    state = np.random.get_state()[1].tobytes()  # noqa: NPY002
    assert model.forward(x, noise) == loss
    np.testing.assert_array_equal(gradient(model, x, noise), want)
    assert np.random.get_state()[1].tobytes() == state  # noqa: NPY002
    if noise is not None:
        other = np.roll(noise, 1, axis=0)
        assert model.forward(x, other) != loss
        assert not np.array_equal(gradient(model, x, other), want)


@EVERY_MODEL
def test_calls_between_forward_and_backward_disturb_nothing(name):
    model, x, other = make(name), data(), data(rows=2, seed=8)
    noise = noise_for(model, x)
    want = gradient(model, x, noise)
    model.forward(x, noise)
    terms = dict(model.terms)
    encode(model, other)
    model.codes(other)
    model.reconstruct(other)
    model.decode(np.ones((2, model.n_latent)))
    model.loss_terms(other, noise_for(model, other))
    if isinstance(model, VAE):
        model.sample(4, 0)
    if isinstance(model, DenoisingAutoencoder):
        model.corrupt(other, noise_for(model, other))
    with pytest.raises(ValueError, match=r"^x: "):
        model.forward(other[:, 1:], noise)  # a refused forward as well
    if noise is not None:
        with pytest.raises(ValueError, match=r"^noise: "):
            model.forward(other, noise)
    assert model.terms == terms
    model.backward()
    np.testing.assert_array_equal(model.grad, want)


@EVERY_MODEL
def test_results_are_the_callers_to_keep(name):
    model, x, other = make(name), data(), data(seed=8)
    noise = noise_for(model, x)
    want = gradient(model, x, noise)

    def results(x):
        z = model.codes(x)
        codes = model.encode(x) if isinstance(model, VAE) else (model.encode(x),)
        return [*codes, z, model.reconstruct(x), model.decode(z)]

    model.forward(x, noise)
    kept = results(x)
    before = [a.copy() for a in kept]
    results(other)
    model.forward(other, noise)
    model.backward()
    for array, same in zip(kept, before, strict=True):
        np.testing.assert_array_equal(array, same)
        assert not np.shares_memory(array, x)
    model.forward(x, noise)
    for array in kept:
        array[...] = np.nan
    model.backward()
    np.testing.assert_array_equal(model.grad, want)


@EVERY_MODEL
def test_backward_belongs_to_the_last_forward(name):
    model, x, other = make(name), data(), data(rows=2, seed=8)
    noise = noise_for(model, x)
    want = gradient(model, x, noise)
    gradient(model, other, noise_for(model, other))
    np.testing.assert_array_equal(gradient(model, x, noise), want)


@pytest.mark.parametrize("name", ["ae", "ae linear", "dae masking", "vae", "vae shallow"])
def test_nobody_computes_the_gradient_of_the_data(name, monkeypatch):
    asked, right = [], Dense.backward

    def backward(layer, dy, need_dx=True):
        asked.append((layer.W.shape[0] == D, need_dx))
        return right(layer, dy, need_dx)

    monkeypatch.setattr(Dense, "backward", backward)
    model, x = make(name), data()
    gradient(model, x, noise_for(model, x))
    assert sorted(asked) == sorted((stands_on_x, not stands_on_x) for stands_on_x, _ in asked)
    assert any(stands_on_x for stands_on_x, _ in asked)


# --- dtypes and layouts ---


@EVERY_MODEL
@BOTH_DTYPES
def test_the_dtype_stays_whatever_comes_in(name, dtype):
    model = make(name, dtype=dtype)
    assert model.dtype == dtype
    for given in ("float16", "float32", "float64", ">f8"):  # float64 noise must not promote
        x = data(dtype=given)
        noise = noise_for(model, x)
        if noise is not None:
            assert noise.dtype == dtype
            noise = noise.astype(given)
        results = [model.forward(x, noise), *model.terms.values()]
        model.backward()
        results += [*model.loss_terms(x, noise).values(), encode(model, x), model.codes(x)]
        results += [model.reconstruct(x), model.decode(np.ones((2, model.n_latent), given))]
        results += [model.theta, model.grad, *model.named_gradients().values()]
        assert {r.dtype for r in results} == {np.dtype(dtype)}


def test_corruption_keeps_the_models_dtype():
    model, x = make("dae gaussian", dtype="float32"), data()
    assert model.corrupt(x, noise_for(model, x)).dtype == np.float32


@EVERY_MODEL
def test_layouts_do_not_matter(name):
    model, x = make(name), data()
    noise = noise_for(model, x)
    loss, want = model.forward(x, noise), gradient(model, x, noise)
    for change in (np.asfortranarray, lambda a: np.repeat(a, 2, axis=1)[:, ::2]):
        changed = noise if noise is None else change(noise)
        assert model.forward(change(x), changed) == pytest.approx(loss, rel=1e-13)
        np.testing.assert_allclose(gradient(model, change(x), changed), want, rtol=1e-10)


@pytest.mark.parametrize("name", ["ae", "dae masking", "vae", "vae learned"])
def test_a_batch_of_one_and_a_single_feature(name):
    cls, own = ARGUMENTS[name]
    model = cls(1, hidden=(2,), n_latent=1, seed=0, dtype="float64", **own)
    x = np.array([[0.5]])
    noise = noise_for(model, x)
    assert math.isfinite(model.forward(x, noise))
    assert np.isfinite(gradient(model, x, noise)).all()
    assert model.reconstruct(x).shape == (1, 1)


# --- what the three compute ---


@EVERY_MODEL
def test_loss_terms_are_those_of_forward(name):
    model, x = make(name), data()
    noise = noise_for(model, x)
    assert model.terms == {}
    loss = model.forward(x, noise)
    assert list(model.terms) == list(model.term_names)
    assert loss == model.terms["loss" if isinstance(model, VAE) else "mse"]
    terms = model.loss_terms(x, noise)
    assert terms.keys() == model.terms.keys()
    for key, value in terms.items():
        assert value == pytest.approx(model.terms[key], rel=1e-14)
    assert model.objective in terms


@EVERY_MODEL
def test_shapes(name):
    model, x = make(name), data()
    assert model.codes(x).shape == (B, model.n_latent)
    assert model.reconstruct(x).shape == model.decode(model.codes(x)).shape == (B, D)
    np.testing.assert_array_equal(model.reconstruct(x), model.decode(model.codes(x)))
    assert (model.n_features, model.xp, model.device) == (D, np, "cpu")


@pytest.mark.parametrize("name", [n for n in ARGUMENTS if "ae" in n and n[0] != "v"])
def test_the_code_of_an_autoencoder_is_what_encode_gives(name):
    model, x = make(name), data()
    np.testing.assert_array_equal(model.codes(x), model.encode(x))
    linear = model.encoder.apply(x)  # no activation on the code
    np.testing.assert_array_equal(model.encode(x), linear)
    last = model.decoder.layers[-1]
    assert isinstance(last, Sigmoid) == (model.output == "sigmoid")


def test_autoencoder_is_the_mean_squared_error_of_its_reconstruction():
    model, x = make("ae"), data()
    want = ((model.reconstruct(x) - x) ** 2).mean()
    assert model.forward(x) == pytest.approx(want, rel=1e-14)
    assert model.draw_noise(np.random.default_rng(0), x) is None


def test_the_linear_autoencoder_is_a_product_of_matrices():
    model, x = make("ae linear"), data() * 30 - 7  # any real numbers
    p = model.named_parameters()
    z = x @ p["encoder.0.W"] + p["encoder.0.b"]
    np.testing.assert_allclose(model.encode(x), z, rtol=1e-14)
    y = z @ p["decoder.0.W"] + p["decoder.0.b"]
    np.testing.assert_allclose(model.reconstruct(x), y, rtol=1e-13)
    assert len(p) == 4


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("cls", MODELS.values())
def test_networks_alternate_dense_and_activation(cls, activation):
    model = cls(D, (5, 4), 2, activation, seed=3)
    hidden = [*model.encoder.layers[1::2], *model.decoder.layers[1:4:2]]
    assert len(hidden) == 4
    assert {type(layer) for layer in hidden} == {ACTIVATIONS[activation]}


def test_vae_loss_is_reconstruction_plus_beta_kl():
    x = data()
    for name in ("vae", "vae deep", "vae gaussian", "vae learned", "vae wide"):
        model = make(name)
        eps = noise_for(model, x)
        terms = model.loss_terms(x, eps)
        mu, logvar = model.encode(x)
        kl = ((mu**2 + np.exp(logvar) - 1 - logvar) / 2).sum(axis=1).mean()
        assert terms["kl"] == pytest.approx(kl, rel=1e-12)
        output = model.decoder.apply(mu + np.exp(logvar / 2) * eps)
        nll = BernoulliNLL() if model.likelihood == "bernoulli" else GaussianNLL(model.sigma)
        reconstruction = terms["reconstruction"]
        assert reconstruction == pytest.approx(nll.per_example(output, x).mean(), rel=1e-14)
        assert terms["loss"] == pytest.approx(reconstruction + model.beta * kl, rel=1e-13)
        assert terms["neg_elbo"] == pytest.approx(reconstruction + kl, rel=1e-13)


def test_beta_may_be_changed_to_any_kind_of_number():
    """NumPy's float64, which a schedule gives, does not make the gradients float64."""
    x = np.random.default_rng(0).random((3, 6), dtype=np.float32)
    gradients = []
    for beta in (0.5, np.float64(0.5), np.float32(0.5)):
        model = VAE(6, (5,), 2)
        model.beta = beta
        model.forward(x, np.ones((3, 2), dtype=np.float32))
        model.backward()
        gradients.append(model.grad.tobytes())
        assert type(model.config["beta"]) is float
    assert len(set(gradients)) == 1
    with pytest.raises(ValueError, match="beta: got nan, want a number >= 0"):
        model.beta = math.nan
    assert model.beta == 0.5


def test_beta_weighs_the_gradient_of_the_kl():
    x = data()
    models = [make("vae", beta=beta) for beta in (0, 1, 3)]
    g0, g1, g3 = (gradient(model, x, noise_for(model, x)) for model in models)
    np.testing.assert_allclose(g3 - g0, 3 * (g1 - g0), rtol=1e-9, atol=1e-14)
    none, full = (model.named_gradients() for model in models[:2])
    mu, logvar = models[0].encode(x)
    for name, added in (("to_mu.b", mu), ("to_logvar.b", (np.exp(logvar) - 1) / 2)):
        np.testing.assert_allclose(full[name] - none[name], added.mean(axis=0), rtol=1e-12)
    for name in none:
        seen = not np.array_equal(full[name], none[name])
        assert seen != name.startswith("decoder"), name  # the KL does not see the decoder


def test_vae_encode_decode_reconstruct_and_codes():
    x = data()
    for name in ("vae", "vae gaussian", "vae learned", "vae shallow"):
        model = make(name)
        mu, logvar = model.encode(x)
        h = model.encoder.apply(x)
        np.testing.assert_array_equal(mu, model.to_mu.apply(h))
        np.testing.assert_array_equal(logvar, model.to_logvar.apply(h))
        np.testing.assert_array_equal(model.codes(x), mu)
        output = model.decoder.apply(mu)[:, :D]
        mean = output if model.likelihood == "gaussian" else 1 / (1 + np.exp(-output))
        np.testing.assert_allclose(model.reconstruct(x), mean, rtol=1e-13)
    probabilities = make("vae").decode(100 * np.ones((1, 3)))
    assert ((probabilities >= 0) & (probabilities <= 1)).all()


def test_the_heads_stand_on_the_data_without_hidden_layers():
    model, x = make("vae shallow"), data()
    assert model.encoder.layers == ()
    p = model.named_parameters()
    np.testing.assert_allclose(model.encode(x)[0], x @ p["to_mu.W"] + p["to_mu.b"], rtol=1e-14)


@BOTH_DTYPES
def test_sample_decodes_draws_of_the_prior(dtype):
    model = make("vae", dtype=dtype)
    samples = model.sample(4, np.random.default_rng(7))
    z = np.random.default_rng(7).standard_normal((4, 3), dtype=dtype)
    np.testing.assert_array_equal(samples, model.decode(z))
    np.testing.assert_array_equal(samples, model.sample(4, 7))  # a seed does as well
    assert not np.array_equal(samples, model.sample(4, 8))
    assert (samples.shape, samples.dtype) == ((4, D), np.dtype(dtype))
    rng = np.random.default_rng(7)
    assert not np.array_equal(model.sample(4, rng), model.sample(4, rng))


def test_draw_noise_has_the_shape_and_the_distribution_it_promises():
    rng, x = np.random.default_rng(0), data(rows=4000)
    n = x.size
    eps = make("vae").draw_noise(rng, x)
    assert eps.shape == (4000, 3)
    assert abs(eps.mean()) < 4 / math.sqrt(eps.size)
    assert abs(eps.var() - 1) < 4 * math.sqrt(2 / eps.size)
    normal = make("dae gaussian").draw_noise(rng, x)
    assert normal.shape == x.shape
    assert abs(normal.mean()) < 4 / math.sqrt(n)
    assert abs(normal.var() - 1) < 4 * math.sqrt(2 / n)
    for name in ("dae masking", "dae salt"):
        uniform = make(name).draw_noise(rng, x)
        assert uniform.shape == x.shape
        assert 0 <= uniform.min() < 0.001
        assert 0.999 < uniform.max() < 1
        assert abs(uniform.mean() - 0.5) < 4 / math.sqrt(12 * n)


# --- the corruptions ---


@pytest.mark.parametrize("name", ["sigma", "fraction"])
def test_a_corruption_may_be_changed_within_reason(name):
    model = DenoisingAutoencoder(D, (4,), 2)
    setattr(model, name, np.float64(0.25))
    assert type(getattr(model, name)) is float
    assert model.config[name] == 0.25
    x = np.ones((3, D), "float32")
    assert model.corrupt(x, x).dtype == np.float32
    with pytest.raises(ValueError, match=f"^{name}: got -3, want a number >= 0"):
        setattr(model, name, -3)
    assert getattr(model, name) == 0.25


def test_gaussian_corruption():
    x, noise = np.array([[0.5, 0.0, 0.9]]), np.array([[0.2, -1.0, 1.0]])
    cut = DenoisingAutoencoder(3, sigma=0.5, dtype="float64")
    np.testing.assert_allclose(cut.corrupt(x, noise), [[0.6, 0, 1]], rtol=1e-15)
    free = DenoisingAutoencoder(3, sigma=0.5, clip=False, dtype="float64")
    np.testing.assert_allclose(free.corrupt(x, noise), [[0.6, -0.5, 1.4]], rtol=1e-15)


def test_masking_and_salt_and_pepper_at_their_thresholds():
    x = np.full((1, 6), 0.7)
    u = np.array([[0.0, 0.19, 0.2, 0.39, 0.4, 0.99]])
    arguments = {"fraction": 0.4, "dtype": "float64"}
    masking = DenoisingAutoencoder(6, corruption="masking", **arguments)
    np.testing.assert_array_equal(masking.corrupt(x, u), [[0, 0, 0, 0, 0.7, 0.7]])
    salt = DenoisingAutoencoder(6, corruption="salt_and_pepper", **arguments)
    np.testing.assert_array_equal(salt.corrupt(x, u), [[1, 1, 0, 0, 0.7, 0.7]])


@BOTH_DTYPES
@pytest.mark.parametrize("fraction", [0, 0.1, 0.5, 1])
def test_the_fractions_of_hit_pixels(fraction, dtype):
    x = np.full((300, 100), 0.5, dtype)
    n = x.size

    def close(count, p):
        return abs(count - n * p) <= 4 * math.sqrt(n * p * (1 - p))

    for corruption, black, white in (
        ("masking", fraction, 0),
        ("salt_and_pepper", fraction / 2, fraction / 2),
    ):
        model = DenoisingAutoencoder(
            100, (), 1, corruption=corruption, fraction=fraction, dtype=dtype
        )
        x_tilde = model.corrupt(x, noise_for(model, x))
        assert close((x_tilde == 0).sum(), black)
        assert close((x_tilde == 1).sum(), white)
        assert close((x_tilde == 0.5).sum(), 1 - fraction)
        assert np.isin(x_tilde, (0, 0.5, 1)).all()
        assert x_tilde.dtype == dtype


@pytest.mark.parametrize("name", [n for n in ARGUMENTS if n.startswith("dae")])
def test_the_encoder_sees_the_corrupted_and_the_loss_the_clean(name):
    model, x = make(name), data()
    noise = noise_for(model, x)
    x_tilde = model.corrupt(x, noise)
    assert not np.allclose(x_tilde, x)
    y = model.decoder.apply(model.encoder.apply(x_tilde))
    assert model.forward(x, noise) == pytest.approx(((y - x) ** 2).mean(), rel=1e-13)
    assert model.loss_terms(x, noise)["mse"] == pytest.approx(((y - x) ** 2).mean(), rel=1e-13)
    np.testing.assert_array_equal(model.encoder.layers[0].x, x_tilde)
    np.testing.assert_array_equal(model.encode(x), model.encoder.apply(x))  # no noise here


def test_a_masked_feature_sends_no_gradient_to_its_weights():
    model, x = make("dae masking"), data()
    noise = np.full_like(x, 0.9)
    noise[:, 2] = 0
    gradient(model, x, noise)
    slopes = np.abs(model.named_gradients()["encoder.0.W"]).sum(axis=1)
    assert slopes[2] == 0
    assert (np.delete(slopes, 2) > 0).all()


@pytest.mark.parametrize(
    "arguments",
    [
        {"corruption": "gaussian", "sigma": 0},
        {"corruption": "masking", "fraction": 0},
        {"corruption": "salt_and_pepper", "fraction": 0},
    ],
)
def test_without_corruption_a_denoising_autoencoder_is_an_autoencoder(arguments):
    dae, ae, x = make("dae gaussian", **arguments), make("ae"), data()
    noise = noise_for(dae, x)
    assert dae.forward(x, noise) == ae.forward(x)
    np.testing.assert_array_equal(gradient(dae, x, noise), gradient(ae, x, None))
    np.testing.assert_array_equal(dae.encode(x), ae.encode(x))


def test_a_denoising_autoencoder_encodes_what_its_corruption_makes():
    x = data()
    model = make("dae gaussian", sigma=5, clip=False)  # a sigmoid output; x~ leaves [0, 1]
    x_tilde = model.corrupt(x, noise_for(model, x))
    assert x_tilde.min() < 0
    np.testing.assert_array_equal(model.encode(x_tilde), model.encoder.apply(x_tilde))
    assert model.reconstruct(x_tilde).shape == (B, D)


@pytest.mark.parametrize("name", ["dae gaussian", "dae masking", "dae salt"])
def test_a_corruption_that_stays_in_the_unit_interval_is_no_licence_for_0_to_255(name):
    model, x = make(name), data()
    model.encode(model.corrupt(x, noise_for(model, x)))
    with pytest.raises(ValueError, match=r"^x: .*want \[0, 1\]: divide images in 0..255"):
        model.reconstruct(255 * x)


# --- construction ---


@EVERY_MODEL
def test_the_seed_decides(name):
    one, again, other = make(name), make(name), make(name, seed=2)
    assert np.array_equal(one.theta, again.theta)
    assert not np.array_equal(one.theta, other.theta)
    single = make(name, dtype="float32")
    assert single.theta.dtype == np.float32
    np.testing.assert_array_equal(single.theta, one.theta.astype("float32"))
    weights = {k: w for k, w in one.named_parameters().items() if k[-1] == "W"}
    for key, w in weights.items():
        assert not np.intersect1d(w, other.named_parameters()[key]).size, key
        assert not np.array_equal(w, w.astype("float32")), key  # drawn in float64
    values = np.concatenate([w.ravel() for w in weights.values()])
    assert np.unique(values).size == values.size  # no two matrices are the same draws


@pytest.mark.parametrize("name", ["ae", "vae"])
def test_the_initialisation_is_he_before_a_relu_and_glorot_elsewhere(name):
    cls, _ = ARGUMENTS[name]
    for activation in ACTIVATIONS:
        p = cls(200, (100,), 80, activation, seed=4).named_parameters()
        he = {"encoder.0.W", "decoder.0.W"} if activation == "relu" else set()
        for key, array in p.items():
            if key.endswith("b"):
                assert not array.any()
                continue
            n_in, n_out = array.shape
            variance = 2 / n_in if key in he else 2 / (n_in + n_out)
            kurtosis_excess = 0 if key in he else -1.2
            error = variance * math.sqrt((2 + kurtosis_excess) / array.size)
            assert abs(array.astype("float64").var() - variance) < 4 * error, key


@EVERY_MODEL
def test_config_survives_json_and_builds_the_same_model(name):
    model = make(name)
    config = json.loads(json.dumps(model.config))
    again = build(config)
    assert type(again) is type(model)
    assert again.config == model.config == config
    np.testing.assert_array_equal(again.theta, model.theta)
    x = data()
    noise = noise_for(model, x)
    assert again.forward(x, noise) == model.forward(x, noise)


def test_config_holds_plain_numbers_only():
    model = VAE(np.int64(4), [np.int32(3)], np.int8(2), sigma=np.float64(0.5), beta=np.float32(2))
    assert json.loads(json.dumps(model.config)) == model.config
    assert model.hidden == (3,)
    model = DenoisingAutoencoder(3, sigma=np.float32(0.5), clip=0, fraction=1)
    assert json.loads(json.dumps(model.config)) == model.config
    assert model.clip is False


def test_sizes_may_be_small_numpy_integers():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = VAE(np.uint8(200), (), 2, likelihood="gaussian", sigma="learned")
    assert model.reconstruct(np.zeros((1, 200))).shape == (1, 200)


def test_the_defaults_are_those_of_the_issue():
    for cls in MODELS.values():
        model = cls(9)
        assert (model.hidden, model.n_latent, model.activation) == ((400,), 20, "relu")
        assert (model.dtype, model.device, model.seed) == (np.float32, "cpu", 0)
    assert (Autoencoder(2).output, VAE(2).likelihood, VAE(2).beta) == ("sigmoid", "bernoulli", 1)
    assert VAE(2, likelihood="gaussian").nll.sigma == 1
    dae = DenoisingAutoencoder(2)
    assert (dae.corruption, dae.sigma, dae.clip, dae.fraction) == ("gaussian", 0.5, True, 0.3)
    assert {k: v.kind for k, v in MODELS.items()} == {"ae": "ae", "dae": "dae", "vae": "vae"}


def test_model_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        Model(1, (), 1, "relu", 0, "float32", "cpu")
    methods = {"draw_noise", "forward", "backward", "loss_terms", "codes", "decode"}
    assert Model.__abstractmethods__ == {"unit_interval", *methods}


@pytest.mark.parametrize("cls", MODELS.values())
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_features": 0}, "n_features: got 0, want an integer >= 1"),
        ({"n_features": 784.0}, "n_features: got 784.0, want an integer >= 1"),
        ({"hidden": 400}, r"hidden: got 400, want a sequence of integers such as \(400,\)"),
        ({"hidden": (400, 0)}, "hidden: got 0, want an integer >= 1"),
        ({"n_latent": 0}, "n_latent: got 0, want an integer >= 1"),
        ({"n_latent": -2}, "n_latent: got -2, want an integer >= 1"),
        ({"activation": "gelu"}, "activation: got 'gelu', want one of 'relu', 'tanh', 'sigmoid'"),
        ({"seed": -1}, "seed: got -1, want an integer >= 0"),
        ({"seed": None}, "seed: got None, want an integer >= 0"),
        ({"dtype": "float16"}, "dtype: got 'float16', want 'float32' or 'float64'"),
        ({"dtype": "int32"}, "dtype: got 'int32', want 'float32' or 'float64'"),
        ({"dtype": "flaot32"}, "dtype: got 'flaot32', want 'float32' or 'float64'"),
        ({"device": "tpu"}, "device: got 'tpu', want one of cpu, gpu, auto"),
    ],
)
def test_construction_errors(cls, arguments, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        cls(**{"n_features": 4, "hidden": (3,), **arguments})


def test_no_dtype_at_all_is_an_error():
    with pytest.raises(ValueError, match="dtype: got None"):
        VAE(4, dtype=None)  # np.dtype(None) is float64


@pytest.mark.parametrize(
    ("cls", "arguments", "message"),
    [
        (Autoencoder, {"output": "relu"}, "output: got 'relu', want one of 'sigmoid', 'linear'$"),
        (
            DenoisingAutoencoder,
            {"corruption": "blur"},
            "corruption: got 'blur', want one of 'gaussian', 'masking', 'salt_and_pepper'$",
        ),
        (DenoisingAutoencoder, {"sigma": -1}, "sigma: got -1, want a number >= 0$"),
        (DenoisingAutoencoder, {"sigma": math.nan}, "sigma: got nan, want a number >= 0$"),
        (DenoisingAutoencoder, {"fraction": 1.5}, "fraction: got 1.5, want .*>= 0 and <= 1$"),
        (VAE, {"likelihood": "poisson"}, "likelihood: got 'poisson', want one of 'bernoulli', 'g"),
        (VAE, {"likelihood": None}, "likelihood: got None, want one of 'bernoulli', 'gaussian'$"),
        (VAE, {"likelihood": "mse"}, "likelihood: got 'mse', which averages .* want 'gaussian'"),
        (VAE, {"likelihood": "mean_squared_error"}, "likelihood: got .* no log-likelihood"),
        (VAE, {"likelihood": "gaussian", "sigma": 0}, "sigma: got 0, want .*number"),
        (VAE, {"likelihood": "gaussian", "sigma": "x"}, "sigma: got 'x', .* or 'learned'$"),
        (VAE, {"sigma": "x"}, "sigma: got 'x', .* or 'learned'$"),  # also where it is not used
        (VAE, {"beta": -1}, "beta: got -1, want a number >= 0$"),
        (VAE, {"beta": math.inf}, "beta: got inf, want a number >= 0$"),
    ],
)
def test_construction_errors_of_one_model(cls, arguments, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        cls(4, (3,), 2, **arguments)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "^model: got None, want one of 'ae', 'dae', 'vae'$"),
        ({"model": "gan"}, "^model: got 'gan'"),
        ({"model": "ae"}, "^configuration of a 'ae': .*n_features"),
        ({"model": "vae", "n_features": 3, "colour": 1}, "^configuration of a 'vae': .*colour"),
        ({"model": "vae", "n_features": 3, "beta": "x"}, "^beta: got 'x'"),
    ],
)
def test_build_errors(config, message):
    with pytest.raises(ValueError, match=message):
        build(config)


def test_build_passes_the_device_on():
    with pytest.raises(ValueError, match=r"^device: got 'tpu'"):
        build({"model": "vae", "n_features": 3}, device="tpu")
    assert build({"model": "vae", "n_features": 3}, "auto").device in ("cpu", "gpu")


def test_build_leaves_the_configuration_alone():
    config = make("vae").config
    before = copy.deepcopy(config)
    build(config)
    assert config == before


def test_the_sigma_of_a_likelihood_can_be_changed():
    model, x = make("vae gaussian"), data()
    noise = noise_for(model, x)
    model.sigma = 0.7
    twin = build(model.config)
    twin.theta[:] = model.theta
    assert (
        model.forward(x, noise) == twin.forward(x, noise) != make("vae gaussian").forward(x, noise)
    )
    with pytest.raises(ValueError, match="sigma: got 'learned', which takes another decoder"):
        model.sigma = "learned"
    with pytest.raises(ValueError, match="sigma: got 0, want a number"):
        model.sigma = 0
    assert model.sigma == twin.sigma == 0.7


def test_data_that_clipping_would_spoil_are_refused():
    """A linear output could give them, the clipped corruption would not let them in."""
    model = make("dae unclipped", clip=True)
    with pytest.raises(ValueError, match=r"got values from .*, to which .*clip=False"):
        model.forward(3 * data() - 1, noise_for(model, data()))
    make("dae unclipped").forward(3 * data() - 1, noise_for(model, data()))


# --- bad input ---


@pytest.mark.parametrize("name", ["ae", "vae"])
def test_what_is_encoded_is_looked_at(name):
    model = MODELS[name](D, (4,), 2)
    for bad, words in ((np.nan, "NaN or infinite"), (1.5, r"want \[0, 1\]")):
        with pytest.raises(ValueError, match=words):
            model.encode(np.full((3, D), bad, "float32"))


def test_a_matrix_is_no_array():
    model = Autoencoder(D, (4,), 2)
    with pytest.warns(PendingDeprecationWarning):
        x = np.matrix(np.zeros((D, D), "float32"))
    for call in (model.forward, model.encode, model.loss_terms):
        with pytest.raises(ValueError, match="x: got a matrix, want an array"):
            call(x)


@pytest.mark.parametrize("config", [None, [1], 5])
def test_what_is_no_configuration_builds_nothing(config):
    with pytest.raises(ValueError, match=r"^configuration: got .*, want a dict"):
        build(config)


NAN, INF = data(), data()
NAN[1, 2], INF[3, 0] = math.nan, -math.inf

BAD_X = {
    "masked": (np.ma.masked_array(data(), data() > 0.5), r"^x: got a masked array, .*filled\(0\)$"),
    "booleans": (data() > 0.5, r"dtype bool, want floating-point values; x\.astype\('float32'\)$"),
    "one image": (data()[0], r"^x: got shape \(6,\), want \(B, 6\)$"),
    "square images": (data().reshape(B, 2, 3), r"^x: got shape \(5, 2, 3\), want \(B, 6\)$"),
    "too narrow": (data()[:, :5], r"^x: got shape \(5, 5\), want \(B, 6\)$"),
    "transposed": (data().T, r"^x: got shape \(6, 5\), want \(B, 6\)$"),
    "empty": (data()[:0], r"^x: got shape \(0, 6\), want \(B, 6\)$"),
    "uint8": (
        np.full((B, D), 255, "uint8"),
        r"^x: got integers of dtype uint8, .* \(x / 255\).astype\('float32'\)$",
    ),
    "int64": (np.ones((B, D), "int64"), "^x: got integers of dtype int64, want floating-point"),
    "bool": (np.ones((B, D), bool), "^x: got an array of dtype bool, want floating-point"),
    "complex": (np.ones((B, D), complex), "^x: got an array of dtype complex128"),
    "objects": (np.ones((B, D), object), "^x: got an array of dtype object"),
    "list": ([[0.5] * D] * B, r"^x: got list, want an array of shape \(B, 6\)$"),
    "none": (None, "^x: got NoneType, want an array"),
    "NaN": (NAN, "^x: got NaN or infinite values, want finite ones$"),
    "infinite": (INF, "^x: got NaN or infinite values, want finite ones$"),
}


@pytest.mark.parametrize(
    "name", ["ae", "ae linear", "dae gaussian", "dae unclipped", "vae", "vae gaussian"]
)
@pytest.mark.parametrize("bad", BAD_X)
def test_bad_x_is_refused_by_every_method(name, bad):
    model = make(name, dtype="float32")
    x, message = BAD_X[bad]
    noise = noise_for(model, data())
    for method in (
        lambda: model.forward(x, noise),
        lambda: model.loss_terms(x, noise),
        lambda: model.encode(x),
        lambda: model.codes(x),
        lambda: model.reconstruct(x),
    ):
        with pytest.raises(ValueError, match=message):
            method()


def test_what_overflows_in_the_models_dtype_is_refused_without_a_warning():
    with pytest.raises(ValueError, match="infinite"):
        make("vae gaussian", dtype="float32").encode(np.full((B, D), 1e300))


@pytest.mark.parametrize("name", ["ae", "dae gaussian", "vae"])
@pytest.mark.parametrize(
    ("x", "message"),
    [
        (
            255 * np.eye(D),
            r"^x: got values from 0 to 255, want \[0, 1\]: divide images in 0",
        ),
        (2 * data() - 1, r"^x: got values from -0\..* to 0\..*, want \[0, 1\]$"),
        (3 * data() - 0.5, r"^x: got values from -0\..* to 2\..*, want \[0, 1\]$"),
        (1.5 * data(), r"^x: got values from 0\..* to 1\.4.*, want \[0, 1\]$"),
    ],
    ids=["0..255", "-1..1", "-0.5..2.5", "0..1.5"],
)
def test_values_outside_the_unit_interval(name, x, message):
    model = make(name)
    noise = noise_for(model, x)
    methods = [lambda: model.forward(x, noise), lambda: model.loss_terms(x, noise)]
    if name != "dae gaussian":
        methods += [lambda: model.encode(x), lambda: model.reconstruct(x)]
    for method in methods:
        with pytest.raises(ValueError, match=message):
            method()


def test_a_value_just_outside_says_so():
    x = data()
    x[0, 0] = 1 + 1e-9
    with pytest.raises(ValueError, match=r"want \[0, 1\]") as error:
        make("vae").forward(x, np.zeros((B, 3)))
    assert "to 1," not in str(error.value)  # "from 0 to 1, want [0, 1]" helps nobody


@pytest.mark.parametrize("name", ["ae linear", "dae unclipped", "vae gaussian", "vae learned"])
def test_other_models_take_any_finite_number(name):
    model, x = make(name), 10 * data() - 5
    noise = noise_for(model, x)
    assert math.isfinite(model.forward(x, noise))
    assert np.isfinite(model.reconstruct(x)).all()
    assert not model.unit_interval


@pytest.mark.parametrize("name", ["ae", "dae gaussian", "vae"])
def test_the_ends_of_the_unit_interval_belong_to_it(name):
    model, x = make(name), np.eye(D)
    assert math.isfinite(model.forward(x, noise_for(model, x)))
    assert model.unit_interval


def test_check_looks_at_values_when_told():
    model = make("vae")
    assert model.check(NAN, values=False) is NAN
    with pytest.raises(ValueError, match=r"^validation: got NaN"):
        model.check(NAN, values=True, name="validation")
    with pytest.raises(ValueError, match=r"^x: got shape"):
        model.check(NAN[0], values=False)
    x = data()
    assert model.check(x) is x  # nothing is copied without need
    assert make("vae", dtype="float32").check(x).dtype == np.float32


@pytest.mark.parametrize(("name", "columns"), [("dae gaussian", 6), ("dae salt", 6), ("vae", 3)])
def test_bad_noise(name, columns):
    model, x, want = make(name), data(), rf"\(5, {columns}\)"
    good = noise_for(model, x)
    for method in (model.forward, model.loss_terms):
        with pytest.raises(ValueError, match=r"^noise: got None, .*model\.draw_noise\(rng, x\)"):
            method(x)
        for bad in (good[0], good[:1], good[:-1], good[:, :1], good[None]):
            with pytest.raises(ValueError, match=f"^noise: got shape .*, want {want}$"):
                method(x, bad)
        with pytest.raises(ValueError, match=r"^noise: got integers of dtype int64"):
            method(x, good.astype("int64"))
        with pytest.raises(ValueError, match=f"^noise: got float, want an array of shape {want}$"):
            method(x, 0.5)


def test_bad_noise_and_bad_x_for_corrupt():
    model, x = make("dae masking"), data()
    with pytest.raises(ValueError, match=r"^noise: got None"):
        model.corrupt(x, None)
    with pytest.raises(ValueError, match=r"^noise: got shape \(5, 5\), want \(5, 6\)$"):
        model.corrupt(x, x[:, :5])
    noise = noise_for(model, x)
    for bad in (x[:, :1], 255 * np.ones((B, D), "uint8"), [[0.5] * D] * B):
        with pytest.raises(ValueError, match=r"^x: got "):
            model.corrupt(bad, noise)


@EVERY_MODEL
def test_bad_z(name):
    model = make(name)
    n = model.n_latent
    for bad, message in (
        (np.zeros((2, n + 1)), rf"^z: got shape \(2, {n + 1}\), want \(B, {n}\)$"),
        (np.zeros(n), rf"^z: got shape \({n},\), want \(B, {n}\)$"),
        (np.zeros((0, n)), rf"^z: got shape \(0, {n}\), want \(B, {n}\)$"),
        (np.zeros((2, n), int), "^z: got integers of dtype int64"),
        ([[0.0] * n], "^z: got list"),
    ):
        with pytest.raises(ValueError, match=message):
            model.decode(bad)


@pytest.mark.parametrize("n", [0, -1, 2.0, True, None])
def test_sample_errors(n):
    with pytest.raises(ValueError, match=r"^n: got .*, want an integer >= 1$"):
        make("vae").sample(n, 0)


def test_sequential_parts_are_public():
    model = make("vae")
    assert isinstance(model.encoder, Sequential)
    assert isinstance(model.decoder, Sequential)
