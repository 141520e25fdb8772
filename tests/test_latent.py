import numpy as np
import pytest

from scratchvae import GaussianKL, Reparameterize

LOG4 = np.log(4)


def draw(seed=0, shape=(4, 3), dtype="float64"):
    rng = np.random.default_rng(seed)
    return tuple(rng.normal(size=shape).astype(dtype) for _ in range(4))


# --- values, worked by hand ---


def test_reparameterize_by_hand():
    layer = Reparameterize()
    # logvar = log 4: sigma = exp(log 4 / 2) = 2, and not 4
    mu, logvar, eps = np.array([[1.0, -1.0]]), np.array([[LOG4, 0.0]]), np.array([[0.5, -3.0]])
    for function in (layer.forward, layer.apply):
        np.testing.assert_allclose(function(mu, logvar, eps), [[1 + 2 * 0.5, -1 - 3]], rtol=1e-15)
    dmu, dlogvar = layer.backward(np.array([[10.0, 7.0]]))
    np.testing.assert_array_equal(dmu, [[10, 7]])
    # dz eps sigma / 2: 10 * 0.5 * 2 / 2 and 7 * (-3) * 1 / 2
    np.testing.assert_allclose(dlogvar, [[5, -10.5]], rtol=1e-15)


def test_kl_by_hand():
    kl = GaussianKL()
    mu, logvar = np.array([[2.0, 0.0], [0.0, -1.0]]), np.array([[0.0, LOG4], [0.0, -LOG4]])
    # (mu^2 + sigma^2 - 1 - logvar) / 2 for each latent:
    # [(4 + 1 - 1 - 0) / 2, (0 + 4 - 1 - log 4) / 2], [0, (1 + 1/4 - 1 + log 4) / 2]
    per_latent = np.array([[2, (3 - LOG4) / 2], [0, (0.25 + LOG4) / 2]])
    np.testing.assert_allclose(kl.per_example(mu, logvar), per_latent.sum(axis=1), rtol=1e-15)
    np.testing.assert_allclose(kl.per_latent(mu, logvar), per_latent.mean(axis=0), rtol=1e-15)
    assert kl.forward(mu, logvar) == pytest.approx(per_latent.sum() / 2, rel=1e-15)
    dmu, dlogvar = kl.backward()
    np.testing.assert_array_equal(dmu, [[1, 0], [0, -0.5]])  # mu / B
    # (sigma^2 - 1) / (2 B): 0, 3/4; 0, -3/16
    np.testing.assert_allclose(dlogvar, [[0, 0.75], [0, -0.1875]], rtol=1e-15)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n_latent", [1, 20, 50])
def test_kl_is_exactly_zero_at_the_prior_with_a_zero_gradient(dtype, n_latent):
    kl, zeros = GaussianKL(), np.zeros((7, n_latent), dtype)
    assert kl.forward(zeros, zeros) == 0
    assert not kl.per_example(zeros, zeros).any()
    assert not np.any(kl.backward())


def test_kl_is_never_negative_and_grows_from_the_prior():
    values = np.concatenate([10.0 ** np.arange(-30, 3), [1e-300]])
    for dtype in ("float32", "float64"):
        v = np.concatenate([-values, values]).astype(dtype)[:, None]
        assert (GaussianKL().per_example(0 * v, v.clip(-1e4, 80)) >= 0).all()


def test_kl_is_accurate_close_to_the_prior():
    # (e^v - 1 - v) / 2 = v^2/4 + v^3/12 + ...: exp(v) - 1 would lose all of it to rounding
    v = np.array([[1e-6], [-1e-6]])
    np.testing.assert_allclose(
        GaussianKL().per_example(np.zeros_like(v), v), [2.5e-13] * 2, rtol=1e-3
    )
    kl = GaussianKL()
    kl.forward(np.zeros_like(v), v)
    np.testing.assert_allclose(kl.backward()[1], v / 4, rtol=1e-6)


# --- contracts ---


def test_reparameterize_contract():
    mu, logvar, eps, dz = arrays = draw()
    before = [a.tobytes() for a in arrays]
    for a in arrays:
        a.flags.writeable = False
    layer = Reparameterize()
    z = layer.forward(mu, logvar, eps)
    want = [g.copy() for g in layer.backward(dz)]
    layer.apply(*draw(1)[:3])  # remembers nothing
    z[...] = np.nan  # the caller's
    for _ in range(2):
        got = layer.backward(dz)
        np.testing.assert_array_equal(got, want)
        for g in got:
            assert not np.shares_memory(g, dz)
            g[...] = np.nan
    z = layer.forward(mu, logvar, eps)
    kept = z.tobytes()
    layer.forward(*draw(1)[:3])
    assert z.tobytes() == kept
    assert [a.tobytes() for a in arrays] == before


def test_kl_contract():
    mu, logvar, *_ = arrays = draw()[:2]
    before = [a.tobytes() for a in arrays]
    for a in arrays:
        a.flags.writeable = False
    kl = GaussianKL()
    value = kl.forward(mu, logvar)
    assert value == kl.per_example(mu, logvar).mean()
    want = [g.copy() for g in kl.backward()]
    other = draw(1)
    kl.per_example(*other[:2])
    kl.per_latent(*other[:2])
    for _ in range(2):
        got = kl.backward()
        np.testing.assert_array_equal(got, want)
        for g in got:
            assert not np.shares_memory(g, mu)
            g[...] = np.nan
    assert [a.tobytes() for a in arrays] == before


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_dtype_stays(dtype):
    mu, logvar, eps, dz = draw(dtype=dtype)
    layer, kl = Reparameterize(), GaussianKL()
    results = [layer.forward(mu, logvar, eps), layer.apply(mu, logvar, eps), *layer.backward(dz)]
    results += [kl.forward(mu, logvar), *kl.backward()]
    results += [kl.per_example(mu, logvar), kl.per_latent(mu, logvar)]
    assert {r.dtype for r in results} == {np.dtype(dtype)}


# --- errors: broadcasting would hide them ---


@pytest.mark.parametrize("which", [0, 1, 2])
def test_reparameterize_wants_one_shape(which):
    arrays = list(draw()[:3])
    arrays[which] = arrays[which][:1]
    got = " and ".join(f"{a.shape} float64" for a in arrays)
    with pytest.raises(ValueError, match="Reparameterize") as e:
        Reparameterize().forward(*arrays)
    assert str(e.value) == (
        "Reparameterize: mu, logvar and eps must have one shape (B, L), "
        f"got {got}; want floating-point, not empty"
    )


@pytest.mark.parametrize(
    ("mu", "logvar"), [((4, 3), (4, 1)), ((4, 3), (1, 3)), ((3,), (3,)), ((2, 2, 2), (2, 2, 2))]
)
def test_kl_wants_one_shape_of_two_dimensions(mu, logvar):
    with pytest.raises(ValueError, match=r"mu and logvar must have one shape \(B, L\), got") as e:
        GaussianKL().forward(np.zeros(mu), np.zeros(logvar))
    assert str(mu) in str(e.value)
    assert str(logvar) in str(e.value)
