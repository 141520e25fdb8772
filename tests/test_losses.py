import math
import warnings

import numpy as np
import pytest

from scratchvae import BernoulliNLL, GaussianNLL, MeanSquaredError, losses
from scratchvae.losses import Loss

LOG2, LOG3, LOG_2PI = math.log(2), math.log(3), math.log(2 * math.pi)

LOSSES = {
    "mse": MeanSquaredError,
    "bernoulli": BernoulliNLL,
    "gaussian": lambda: GaussianNLL(0.5),
    "gaussian learned": lambda: GaussianNLL("learned"),
}
EVERY_LOSS = pytest.mark.parametrize("name", LOSSES)


def pair(name, seed=0, rows=4, features=3, dtype="float64"):
    """Return an output and data x for the loss of that name."""
    rng = np.random.default_rng(seed)
    columns = 2 * features if "learned" in name else features
    return (
        rng.normal(size=(rows, columns)).astype(dtype),
        rng.uniform(size=(rows, features)).astype(dtype),
    )


def check(loss, output, x, per_example, gradient, rtol=1e-14):
    output, x = np.array(output, "float64"), np.array(x, "float64")
    np.testing.assert_allclose(loss.per_example(output, x), per_example, rtol=rtol)
    np.testing.assert_allclose(loss.forward(output, x), np.mean(per_example), rtol=rtol)
    np.testing.assert_allclose(loss.backward(), gradient, rtol=rtol)


# --- values, worked by hand ---


def test_mse_by_hand():
    # Differences [1, -2] and [0, 3]: per example (1 + 4)/2 and (0 + 9)/2, mean 14/4.
    # Gradient 2 (y - x) / (B D) = (y - x) / 2.
    check(MeanSquaredError(), [[1, 0], [2, 3]], [[0, 2], [2, 0]], [2.5, 4.5], [[0.5, -1], [0, 1.5]])


def test_bernoulli_by_hand():
    # Probabilities sigmoid([0, log 3, -log 3]) = [1/2, 3/4, 1/4].
    # x = [1, 1, 1]: -log(1/2) - log(3/4) - log(1/4) = log 2 + (2 log 2 - log 3) + 2 log 2.
    # x = [0, 0, 1/2]: log 2 + 2 log 2 and, grey, -log(1/4)/2 - log(3/4)/2 = 2 log 2 - log(3)/2.
    # Gradient (y - x) / B with B = 2.
    logits = [[0, LOG3, -LOG3]] * 2
    check(
        BernoulliNLL(),
        logits,
        [[1, 1, 1], [0, 0, 0.5]],
        [5 * LOG2 - LOG3, 5 * LOG2 - LOG3 / 2],
        [[-0.25, -0.125, -0.375], [0.25, 0.375, -0.125]],
    )


def test_gaussian_with_sigma_by_hand():
    # sigma = 1/2: per feature (x - m)^2 / (2/4) + log(1/2) + log(2 pi)/2.
    # Row 0: 2*1 + 2*4; row 1: 0 + 2*(1/4). Gradient (m - x) / (1/4) / B = 2 (m - x).
    constant = 2 * (-LOG2 + LOG_2PI / 2)
    check(
        GaussianNLL(0.5),
        [[1, 2], [3, 0.5]],
        [[0, 0], [3, 0]],
        [10 + constant, 0.5 + constant],
        [[2, 4], [0, 1]],
    )


def test_gaussian_with_unit_sigma_is_the_default():
    check(GaussianNLL(), [[3]], [[1]], [2 + LOG_2PI / 2], [[2]])


def test_gaussian_learned_by_hand():
    # B = 2, D = 2, output [mean | v]. Row 0: means (1, 3), v = (log 4, 0), x = (3, 3):
    #   ((4)/4 + log 4 + log 2pi)/2 + (0 + 0 + log 2pi)/2
    # Row 1: means (0, 1), v = (-log 4, log 2), x = (1, 0):
    #   (1*4 - log 4 + log 2pi)/2 + (1/2 + log 2 + log 2pi)/2
    # dmean = (m - x) e^-v / B; dv = (1 - (x - m)^2 e^-v) / (2 B)
    check(
        GaussianNLL("learned"),
        [[1, 3, 2 * LOG2, 0], [0, 1, -2 * LOG2, LOG2]],
        [[3, 3], [1, 0]],
        [0.5 + LOG2 + LOG_2PI, 2.25 - LOG2 / 2 + LOG_2PI],
        [[-0.25, 0, 0, 0.25], [-2, 0.25, -0.75, 0.125]],
    )


def test_learned_variance_equal_to_sigma_is_the_fixed_likelihood():
    output, x = pair("gaussian")
    fixed, learned = GaussianNLL(0.7), GaussianNLL("learned")
    both = np.hstack([output, np.full_like(output, 2 * math.log(0.7))])
    assert learned.forward(both, x) == pytest.approx(fixed.forward(output, x), rel=1e-14)
    np.testing.assert_allclose(learned.backward()[:, :3], fixed.backward(), rtol=1e-13)
    np.testing.assert_array_equal(learned.mean(both), output)
    np.testing.assert_array_equal(fixed.mean(output), output)


def test_mean_of_the_distribution():
    output, _ = pair("mse")
    np.testing.assert_array_equal(MeanSquaredError().mean(output), output)
    np.testing.assert_allclose(BernoulliNLL().mean(output), 1 / (1 + np.exp(-output)), rtol=1e-14)


# --- BernoulliNLL where probabilities would have been rounded away ---

FAR = np.array([-1e4, -1e3, -80.0, -20.0, 0.0, 20.0, 80.0, 1e3, 1e4])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("target", [0.0, 0.25, 0.5, 1.0])
def test_bernoulli_far_out_has_the_right_value_and_the_full_gradient(dtype, target):
    logits, x = FAR.astype(dtype)[None], np.full((1, FAR.size), target, dtype)
    loss = BernoulliNLL()
    with warnings.catch_warnings(), np.errstate(over="raise", divide="raise", invalid="raise"):
        warnings.simplefilter("error")
        # one pixel an example, so that no pixel hides behind another
        values = loss.per_example(logits.T, x.T)
        total = loss.forward(logits, x)
        gradient = loss.backward()
    # log(1 + e^l) - x l is (1 - x) l for large l and -x l for small, plus log1p(e^-|l|)
    slope = np.where(FAR > 0, 1 - target, -target)
    want = slope * FAR + np.log1p(np.exp(-np.abs(FAR)))
    eps = float(np.finfo(dtype).eps)
    np.testing.assert_allclose(values, want, rtol=2 * eps)
    assert total == pytest.approx(want.sum(), rel=9 * eps)
    y = np.where(FAR < 0, np.exp(FAR.clip(max=0)), 1) / (1 + np.exp(-np.abs(FAR)))
    np.testing.assert_allclose(gradient[0], y - target, rtol=4 * eps, atol=eps / 2)
    assert total.dtype == gradient.dtype == np.dtype(dtype)


def test_a_confidently_wrong_pixel_keeps_its_full_gradient():
    # Clipping probabilities before the log would leave it with none.
    loss = BernoulliNLL()
    loss.forward(np.array([[1e4, -1e4]], "float32"), np.array([[0, 1]], "float32"))
    np.testing.assert_array_equal(loss.backward(), [[1, -1]])


def test_a_confidently_right_pixel_keeps_its_small_loss_and_gradient():
    loss = BernoulliNLL()
    assert loss.forward(np.array([[-80.0]], "float32"), np.zeros((1, 1), "float32")) > 0
    assert loss.backward()[0, 0] == pytest.approx(math.exp(-80), rel=1e-6)


@pytest.mark.parametrize("rows", [1, 2, 7, 8])
@pytest.mark.parametrize("cached", [1, 8 * 784, 3 * 8 * 784 - 1])
def test_bernoulli_block_by_block_is_the_whole_bit_for_bit(monkeypatch, rows, cached):
    rng = np.random.default_rng(0)
    x, output = rng.random((rows, 784)), 4 * rng.standard_normal((rows, 784))
    whole, blocks = BernoulliNLL(), BernoulliNLL()
    want = whole.forward(output, x), whole.backward()
    monkeypatch.setattr(losses, "CACHED", cached)
    found = list(losses._blocks(output))
    assert sum(len(output[block]) for block in found) == rows
    assert max(output[block].nbytes for block in found) < cached + output[0].nbytes
    assert len(found) <= math.ceil(output.nbytes / cached)
    assert blocks.forward(output, x) == want[0]
    np.testing.assert_array_equal(blocks.backward(), want[1])


@pytest.mark.parametrize("dtypes", [("float32", "float64"), ("float64", "float32")])
def test_bernoulli_in_the_wider_of_two_dtypes(dtypes):
    rng, loss = np.random.default_rng(0), BernoulliNLL()
    output, x = (rng.random((5, 3)).astype(dtype) for dtype in dtypes)
    total = loss.forward(output, x)
    assert total == loss.per_example(output, x).mean()
    assert total.dtype == loss.backward().dtype == np.float64


def test_on_the_gpu_no_batch_is_cut_into_blocks(monkeypatch):
    """Each would take kernels of its own."""
    monkeypatch.setattr(losses, "CACHED", 8)
    assert len(list(losses._blocks(np.zeros((5, 3))))) == 5
    monkeypatch.setattr(losses, "device_of", lambda array: "gpu")
    assert list(losses._blocks(np.zeros((5, 3)))) == [slice(0, 5)]


def test_bernoulli_with_grey_targets_is_smallest_at_their_logit():
    x = np.array([[0.1, 0.5, 0.9]])
    loss, best = BernoulliNLL(), np.log(x / (1 - x))
    entropy = -(x * np.log(x) + (1 - x) * np.log(1 - x)).sum()
    assert loss.forward(best, x) == pytest.approx(entropy, rel=1e-14)
    np.testing.assert_allclose(loss.backward(), 0, atol=2e-16)


# --- contracts ---


@EVERY_LOSS
def test_the_reduction_rule(name):
    output, x = pair(name)
    loss = LOSSES[name]()
    total = loss.forward(output, x)
    per_example = loss.per_example(output, x)
    assert per_example.shape == (4,)
    assert total == pytest.approx(per_example.mean(), rel=1e-15)
    # features: summed, but averaged by the MSE
    columns = [[i, i + 3] if "learned" in name else [i] for i in range(3)]
    alone = sum(loss.per_example(output[:, c], x[:, [i]]) for i, c in enumerate(columns))
    np.testing.assert_allclose(per_example, alone / (3 if name == "mse" else 1), rtol=1e-14)


@EVERY_LOSS
def test_arguments_stay_and_backward_repeats(name):
    output, x = pair(name)
    before = output.tobytes(), x.tobytes()
    output.flags.writeable = x.flags.writeable = False
    loss = LOSSES[name]()
    loss.forward(output, x)
    want = loss.backward().copy()
    loss.per_example(*pair(name, seed=1, rows=2))  # remembers nothing
    loss.mean(pair(name, seed=1, rows=2)[0])
    for _ in range(2):
        gradient = loss.backward()
        np.testing.assert_array_equal(gradient, want)
        gradient[...] = np.nan  # the caller's
    loss.forward(output, x)
    kept = loss.backward()
    loss.forward(*pair(name, seed=1))
    loss.backward()
    np.testing.assert_array_equal(kept, want)
    assert (output.tobytes(), x.tobytes()) == before


@EVERY_LOSS
def test_backward_is_the_slope_of_forward(name):
    output, x = pair(name)
    loss, h = LOSSES[name](), 1e-6
    direction = np.random.default_rng(2).normal(size=output.shape)
    up, down = loss.forward(output + h * direction, x), loss.forward(output - h * direction, x)
    loss.forward(output, x)
    assert (loss.backward() * direction).sum() == pytest.approx((up - down) / (2 * h), rel=1e-7)


@EVERY_LOSS
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_dtype_stays(name, dtype):
    output, x = pair(name, dtype=dtype)
    loss = LOSSES[name]()
    results = loss.forward(output, x), loss.backward(), loss.mean(output)
    assert {r.dtype for r in (*results, loss.per_example(output, x))} == {np.dtype(dtype)}


@EVERY_LOSS
def test_memory_layout_does_not_matter(name):
    output, x = pair(name)
    loss = LOSSES[name]()
    value, gradient = loss.forward(output, x), loss.backward()
    for change in (np.asfortranarray, lambda a: np.repeat(a, 2, axis=1)[:, ::2]):
        assert loss.forward(change(output), change(x)) == pytest.approx(value, rel=1e-14)
        np.testing.assert_allclose(loss.backward(), gradient, rtol=1e-14)


# --- errors ---


def test_a_sigma_may_be_changed_within_reason():
    loss = GaussianNLL()
    loss.sigma = np.float64(0.5)
    x = np.zeros((2, 3), "float32")
    assert loss.forward(x, x).dtype == np.float32
    with pytest.raises(ValueError, match=r"^sigma: got -1, .* or 'learned'"):
        loss.sigma = -1
    assert loss.sigma == 0.5


@EVERY_LOSS
@pytest.mark.parametrize("change", [lambda o: o[:1], lambda o: o[:, :1], lambda o: o[0]])
def test_shapes_that_would_broadcast_are_refused(name, change):
    output, x = pair(name)
    wrong = change(output)
    with pytest.raises(ValueError, match="the output must have shape") as error:
        LOSSES[name]().forward(wrong, x)
    for part in (type(LOSSES[name]()).__name__, str(x.shape), str(output.shape), str(wrong.shape)):
        assert part in str(error.value)


def test_a_refused_forward_leaves_the_pending_backward_alone():
    for name, make in LOSSES.items():
        output, x = pair(name)
        loss = make()
        loss.forward(output, x)
        want = loss.backward()
        with pytest.raises(ValueError, match="must have shape"):
            loss.forward(output[:1], x)
        np.testing.assert_array_equal(loss.backward(), want)


@pytest.mark.parametrize("sigma", [0, -1, math.nan, math.inf, "big", None, "1", [1.0]])
def test_gaussian_sigma_errors(sigma):
    with pytest.raises(ValueError, match=r"^sigma: got .*, want a .*number.* 'learned'$") as error:
        GaussianNLL(sigma)
    assert repr(sigma) in str(error.value)


@pytest.mark.parametrize("sigma", [2, 0.5, np.float32(0.5), np.float64(0.5), np.int64(2)])
def test_gaussian_takes_every_kind_of_positive_number(sigma):
    assert GaussianNLL(sigma).forward(np.ones((1, 1)), np.ones((1, 1))) == pytest.approx(
        math.log(sigma) + LOG_2PI / 2
    )


def test_learned_is_told():
    assert GaussianNLL("learned").learned
    assert not GaussianNLL(1).learned


def test_loss_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        Loss()
    assert Loss.__abstractmethods__ == {"per_example", "backward"}


@pytest.mark.parametrize(("logit", "x"), [(30, 1), (-30, 0), (80, 1), (2, 1), (3, 0.3)])
def test_the_bernoulli_gradient_keeps_its_digits_where_the_output_is_almost_right(logit, x):
    nll = BernoulliNLL()
    nll.forward(np.array([[logit]], np.float32), np.array([[x]], np.float32))
    x, t = float(np.float32(x)), math.exp(-abs(logit))
    right = ((1 - x) - x * t) / (1 + t) if logit > 0 else t / (1 + t)
    assert float(nll.backward()[0, 0]) == pytest.approx(right, rel=4e-7)  # sigmoid(l) - x gives 0
