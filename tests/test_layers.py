import warnings

import numpy as np
import pytest

from scratchvae import Dense, Layer, ReLU, Sequential, Sigmoid, Tanh
from scratchvae.layers import (
    ACTIVATIONS,
    FEW_ROWS,
    LARGE,
    glorot_uniform,
    gradients_of,
    he_normal,
    mlp,
    pack,
    parameters_of,
    sigmoid,
)

B, D = 4, 5


def make(name, dtype="float64"):
    rng = np.random.default_rng(3)
    return {
        "dense": lambda: Dense(D, 3, rng=rng, dtype=dtype),
        "dense 1x1": lambda: Dense(1, 1, init="he", rng=rng, dtype=dtype),
        "relu": ReLU,
        "tanh": Tanh,
        "sigmoid": Sigmoid,
        "sequential": lambda: Sequential(
            Dense(D, 4, rng=rng, dtype=dtype),
            Tanh(),
            Sequential(Dense(4, 3, rng=rng, dtype=dtype), ReLU()),
            Dense(3, 2, rng=rng, dtype=dtype),
            Sigmoid(),
        ),
        "begins with an activation": lambda: Sequential(
            Sigmoid(), Dense(D, 2, rng=rng, dtype=dtype), Tanh()
        ),
    }[name]()


EVERY_LAYER = pytest.mark.parametrize(
    "name",
    ["dense", "dense 1x1", "relu", "tanh", "sigmoid", "sequential", "begins with an activation"],
)


def batch(name, dtype="float64", seed=0, rows=B):
    """Return x and dy for ``make(name)``."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 1 if "1x1" in name else D)).astype(dtype)
    y = make(name, dtype).apply(x)
    return x, rng.normal(size=y.shape).astype(dtype)


def gradients(layer):
    return {name: array.copy() for name, array in layer.named_gradients().items()}


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


# --- values, worked by hand ---


def test_dense_by_hand():
    layer = Dense(2, 3, dtype="float64")
    layer.W[...] = [[1, 2, 3], [4, 5, 6]]
    layer.b[...] = [10, 20, 30]
    x = np.array([[1.0, -1.0], [2.0, 0.5]])
    # row 0: [1-4, 2-5, 3-6] + b; row 1: [2+2, 4+2.5, 6+3] + b
    np.testing.assert_array_equal(layer.forward(x), [[7, 17, 27], [14, 26.5, 39]])
    dy = np.array([[1.0, 0.0, 2.0], [-1.0, 3.0, 0.5]])
    # dx = dy W^T: row 0 [1+6, 4+12]; row 1 [-1+6+1.5, -4+15+3]
    np.testing.assert_array_equal(layer.backward(dy), [[7, 16], [6.5, 14]])
    # dW = x^T dy: row 0 [1-2, 0+6, 2+1]; row 1 [-1-.5, 0+1.5, -2+.25]
    np.testing.assert_array_equal(layer.dW, [[-1, 6, 3], [-1.5, 1.5, -1.75]])
    np.testing.assert_array_equal(layer.db, [0, 3, 2.5])  # summed over the batch, not averaged


def test_the_ones_of_db_serve_every_smaller_batch():
    """A CUDA graph goes on reading them after a smaller batch."""
    layer, dy = Dense(2, 3, dtype="float32"), np.arange(15, dtype=np.float32).reshape(5, 3)

    def ones_of(batch, dtype="float32"):
        layer.forward(np.ones((batch, 2), dtype=dtype))
        layer.backward(dy[:batch].astype(dtype))
        np.testing.assert_array_equal(layer.db, dy[:batch].sum(axis=0))
        assert (layer.ones == 1).all()
        assert layer.ones.dtype == layer.db.dtype
        return layer.ones

    first = ones_of(3)
    assert first.shape == (1, 3)
    assert ones_of(2) is ones_of(3) is first
    assert ones_of(5).shape == (1, 5)
    assert ones_of(4, "float64").shape == (1, 5)
    assert Dense(2, 3).ones.size == 0  # each layer its own


def test_db_is_summed_in_the_precision_of_the_layer():
    layer = Dense(1, 1, dtype="float64")
    layer.forward(np.ones((2**13, 1)))
    layer.backward(np.full((2**13, 1), 1 + 2**-20, dtype=np.float32))
    assert layer.db == 2**13 + 2**-7


def test_relu_by_hand():
    layer = ReLU()
    x = np.array([[-2.0, -0.0, 0.0, 1e-300, 0.5, 3.0]])
    np.testing.assert_array_equal(layer.forward(x), [[0, 0, 0, 1e-300, 0.5, 3]])
    np.testing.assert_array_equal(layer.backward(np.full((1, 6), 5.0)), [[0, 0, 0, 5, 5, 5]])


def test_tanh_by_hand():
    layer = Tanh()
    # tanh(log 2) = (2 - 1/2) / (2 + 1/2) = 3/5, and its slope is 1 - 9/25 = 16/25
    np.testing.assert_allclose(layer.forward(np.log([[2.0, 0.5]])), [[0.6, -0.6]], rtol=1e-15)
    np.testing.assert_allclose(layer.backward(np.array([[1.0, 25.0]])), [[0.64, 16]], rtol=1e-15)


def test_sigmoid_by_hand():
    layer = Sigmoid()
    # sigmoid(log 3) = 3/4, sigmoid(-log 3) = 1/4, sigmoid(0) = 1/2; slopes 3/16, 3/16, 1/4
    x = np.array([[np.log(3), -np.log(3), 0.0, -0.0]])
    y = [[0.75, 0.25, 0.5, 0.5]]
    for result in (layer.forward(x), layer.apply(x), sigmoid(x)):
        np.testing.assert_allclose(result, y, rtol=1e-15)
    dx = layer.backward(np.array([[16.0, -16.0, 4.0, 4.0]]))
    np.testing.assert_allclose(dx, [[3, -3, 1, 1]], rtol=1e-15)


def test_sigmoid_keeps_small_values_and_small_slopes():
    layer = Sigmoid()
    x = np.array([[-700.0, -100.0, 40.0, 700.0]])
    y = layer.forward(x)
    np.testing.assert_allclose(y, [[np.exp(-700), np.exp(-100), 1, 1]], rtol=1e-14)
    # y (1 - y) would be 0 at x = 40; the slope is e^-40 / (1 + e^-40)^2
    slope = layer.backward(np.ones_like(x))
    np.testing.assert_allclose(slope, np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x))) ** 2, 1e-14)
    assert slope[0, 2] > 0


@pytest.mark.parametrize("activation", ACTIVATIONS.values())
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_activations_at_the_far_ends(activation, dtype):
    x = np.array([[-1e30, -1e4, -89.0, 89.0, 1e4, 1e30]], dtype)
    layer = activation()
    with warnings.catch_warnings(), np.errstate(over="raise", divide="raise", invalid="raise"):
        warnings.simplefilter("error")
        y = layer.forward(x)
        dx = layer.backward(np.ones_like(x))
    assert np.isfinite(y).all()
    if activation is not ReLU:
        np.testing.assert_allclose(np.abs(y[0]), [activation is Tanh] * 3 + [1] * 3, atol=1e-30)
        np.testing.assert_allclose(dx, 0, atol=1e-30)


# --- the protocol ---


def test_an_x_that_is_refused_does_not_spoil_a_pending_backward():
    dense, x = Dense(3, 2, dtype="float64"), np.arange(12.0).reshape(4, 3)
    dense.forward(x)
    with pytest.raises(ValueError, match="Dense: got x of shape"):
        dense.forward(x[:, :2])
    dense.backward(np.ones((4, 2)))
    np.testing.assert_allclose(dense.dW, x.T @ np.ones((4, 2)))


@EVERY_LAYER
def test_apply_is_forward_without_a_memory(name):
    x, _ = batch(name)
    layer = make(name)
    before = {k: v for k, v in vars(layer).items() if k != "layers"}
    y = layer.apply(x)
    assert vars(layer).keys() - {"layers"} == before.keys()
    np.testing.assert_array_equal(y, layer.forward(x))


@EVERY_LAYER
def test_arguments_are_read_only_in_fact(name):
    x, dy = batch(name)
    layer = make(name)
    bytes_before = x.tobytes(), dy.tobytes()
    x.flags.writeable = dy.flags.writeable = False
    layer.apply(x)
    layer.forward(x)
    layer.backward(dy)
    layer.backward(dy, need_dx=False)
    assert (x.tobytes(), dy.tobytes()) == bytes_before


@EVERY_LAYER
def test_what_is_returned_is_the_callers_to_keep(name):
    x, dy = batch(name)
    layer = make(name)
    layer.forward(x)
    want_dx, want = layer.backward(dy).copy(), gradients(layer)

    y = layer.forward(x)
    assert not np.shares_memory(y, x)
    y[...] = np.nan
    dx = layer.backward(dy)
    np.testing.assert_array_equal(dx, want_dx)
    assert_same(gradients(layer), want)
    assert not np.shares_memory(dx, dy)
    dx[...] = np.nan
    np.testing.assert_array_equal(layer.backward(dy), want_dx)  # and twice the same answer
    assert_same(gradients(layer), want)
    np.testing.assert_array_equal(dy, batch(name)[1])


@EVERY_LAYER
def test_later_calls_leave_earlier_results_alone(name):
    x, dy = batch(name)
    x2, dy2 = batch(name, seed=1)
    layer = make(name)
    y = layer.forward(x)
    dx = layer.backward(dy)
    kept = y.tobytes(), dx.tobytes()
    layer.forward(x2)
    layer.backward(dy2)
    layer.apply(x2)
    assert (y.tobytes(), dx.tobytes()) == kept


@EVERY_LAYER
def test_apply_between_forward_and_backward_disturbs_nothing(name):
    x, dy = batch(name)
    layer = make(name)
    layer.forward(x)
    want_dx, want = layer.backward(dy), gradients(layer)
    layer.forward(x)
    layer.apply(batch(name, seed=9, rows=2)[0])
    np.testing.assert_array_equal(layer.backward(dy), want_dx)
    assert_same(gradients(layer), want)


@EVERY_LAYER
def test_backward_belongs_to_the_last_forward_and_replaces_its_gradients(name):
    (x, _), (x2, dy2) = batch(name), batch(name, seed=1, rows=B + 2)
    once, twice = make(name), make(name)
    twice.forward(x)
    for layer in (once, twice):
        layer.forward(x2)
    np.testing.assert_array_equal(twice.backward(dy2), once.backward(dy2))
    assert_same(gradients(twice), gradients(once))


@EVERY_LAYER
def test_without_dx_the_parameter_gradients_are_the_same(name):
    x, dy = batch(name)
    layer = make(name)
    layer.forward(x)
    layer.backward(dy)
    want = gradients(layer)
    for gradient in layer.named_gradients().values():
        gradient[...] = np.nan
    assert layer.backward(dy, need_dx=False) is None
    assert_same(gradients(layer), want)


@EVERY_LAYER
def test_parameters_and_gradients_keep_their_identity(name):
    layer = make(name)
    parameters, before = layer.named_parameters(), layer.named_gradients()
    assert parameters.keys() == before.keys()
    assert all(parameters[k].shape == before[k].shape for k in parameters)
    for seed in range(3):
        x, dy = batch(name, seed=seed)
        layer.forward(x)
        layer.backward(dy)
    assert all(layer.named_parameters()[k] is parameters[k] for k in parameters)
    assert all(layer.named_gradients()[k] is before[k] for k in before)


@EVERY_LAYER
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_dtype_stays(name, dtype):
    x, dy = batch(name, dtype)
    layer = make(name, dtype)
    results = [layer.apply(x), layer.forward(x), layer.backward(dy)]
    results += [*layer.named_parameters().values(), *layer.named_gradients().values()]
    assert {array.dtype for array in results} == {np.dtype(dtype)}


@EVERY_LAYER
def test_memory_layout_does_not_matter(name):
    x, dy = batch(name)
    layer = make(name)
    y, dx, want = layer.forward(x), layer.backward(dy), gradients(layer)
    for change in (np.asfortranarray, lambda a: np.repeat(a, 2, axis=1)[:, ::2]):
        np.testing.assert_allclose(layer.forward(change(x)), y, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(layer.backward(change(dy)), dx, rtol=1e-12, atol=1e-14)
        for key, gradient in gradients(layer).items():
            np.testing.assert_allclose(gradient, want[key], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("rows", [1, FEW_ROWS, FEW_ROWS + 1])
@pytest.mark.parametrize("widths", [(LARGE, LARGE), (2 * LARGE, LARGE - 1), (LARGE + 3, 5 * LARGE)])
@pytest.mark.parametrize("order", "CF")
def test_dx_of_few_and_of_many_rows(rows, widths, order):
    """Which are multiplied in different ways."""
    layer, rng = Dense(*widths), np.random.default_rng(1)
    dy = rng.standard_normal((rows, widths[1])).astype("float32", order=order)
    layer.forward(rng.standard_normal((rows, widths[0]), dtype="float32"))
    dx = layer.backward(dy)
    want = dy.astype("float64") @ layer.W.T.astype("float64")
    np.testing.assert_allclose(dx, want, rtol=0, atol=1e-5 * abs(want).max())
    assert dx.flags.c_contiguous
    assert not np.may_share_memory(dx, layer.W)


# --- Sequential ---


def test_a_layer_that_stands_twice_is_refused():
    """It would remember one of its two inputs only."""
    act, dense = Tanh(), Dense(3, 3)
    twice = r"^Sequential: got a layer twice, which would remember one input only$"
    for layers in ((dense, act, Dense(3, 3), act), (dense, act, dense)):
        with pytest.raises(ValueError, match=twice):
            Sequential(*layers)
    with pytest.raises(ValueError, match=twice):
        Sequential(dense, Sequential(Tanh(), dense))


@pytest.mark.parametrize("layers", [(np.tanh,), ([Tanh(), Tanh()],), (Tanh(), Tanh)])
def test_what_is_no_layer_is_refused(layers):
    with pytest.raises(ValueError, match=r"^Sequential: got .* want layers such as"):
        Sequential(*layers)


def test_sequential_composes_and_names():
    net = make("sequential")
    x, dy = batch("sequential")
    layers = net.layers
    y = layers[4].apply(layers[3].apply(layers[2].apply(layers[1].apply(layers[0].apply(x)))))
    np.testing.assert_array_equal(net.forward(x), y)
    np.testing.assert_array_equal(net.apply(x), y)
    names = ["0.W", "0.b", "2.0.W", "2.0.b", "3.W", "3.b"]
    assert list(net.named_parameters()) == names
    assert list(net.named_gradients()) == names
    assert net.named_parameters()["2.0.W"] is net.layers[2].layers[0].W
    assert net.named_gradients()["2.0.b"] is net.layers[2].layers[0].db

    dx = net.backward(dy)
    for layer in reversed(layers):
        dy = layer.backward(dy)
    np.testing.assert_array_equal(dx, dy)


def test_only_the_first_layer_is_spared_its_dx():
    class Spy(ReLU):
        def backward(self, dy, need_dx=True):
            self.asked = need_dx
            return super().backward(dy, need_dx)

    spies = Spy(), Spy(), Spy()
    net = Sequential(*spies)
    net.forward(np.ones((1, 1)))
    net.backward(np.ones((1, 1)), need_dx=False)
    assert [spy.asked for spy in spies] == [False, True, True]
    net.backward(np.ones((1, 1)))
    assert [spy.asked for spy in spies] == [True, True, True]


def test_an_empty_sequential_is_the_identity():
    x, net = np.arange(6.0).reshape(2, 3), Sequential()
    for function in (net.apply, net.forward, net.backward):
        np.testing.assert_array_equal(function(x), x)
    assert net.named_parameters() == net.named_gradients() == {}


def test_layers_without_parameters_have_no_names():
    assert ReLU().named_parameters() == {}
    assert list(Dense(1, 1).named_parameters()) == ["W", "b"]


def test_layer_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        Layer()
    assert Layer.__abstractmethods__ == {"apply", "forward", "backward"}


# --- initialisation ---


def test_he_has_variance_2_over_the_inputs():
    w = he_normal(np.random.default_rng(0), 200, 500)
    n = w.size
    variance = 2 / 200
    # the sample variance of n normal numbers has standard error variance * sqrt(2 / n)
    assert abs(w.var() - variance) < 4 * variance * np.sqrt(2 / n)
    assert abs(w.mean()) < 4 * np.sqrt(variance / n)
    kurtosis = (w**4).mean() / w.var() ** 2  # 3 for a normal, 1.8 for a uniform distribution
    assert abs(kurtosis - 3) < 4 * np.sqrt(24 / n)


def test_glorot_is_uniform_with_variance_2_over_inputs_plus_outputs():
    w = glorot_uniform(np.random.default_rng(0), 200, 500)
    bound, n = np.sqrt(6 / 700), w.size
    assert np.abs(w).max() <= bound
    assert np.abs(w).max() > 0.999 * bound
    # of a uniform distribution, whose kurtosis is 1.8: variance * sqrt(0.8 / n)
    assert abs(w.var() - 2 / 700) < 4 * 2 / 700 * np.sqrt(0.8 / n)
    assert abs(w.mean()) < 4 * np.sqrt(2 / 700 / n)


@pytest.mark.parametrize(("init", "function"), [("he", he_normal), ("glorot", glorot_uniform)])
def test_dense_draws_by_the_initialiser_of_that_name(init, function):
    want = function(np.random.default_rng(5), 30, 20)
    double = Dense(30, 20, init=init, rng=np.random.default_rng(5), dtype="float64")
    single = Dense(30, 20, init=init, rng=5)  # a seed does as well; float32 unless told
    np.testing.assert_array_equal(double.W, want)
    np.testing.assert_array_equal(single.W, want.astype("float32"))
    assert single.W.dtype == single.b.dtype == single.dW.dtype == single.db.dtype == np.float32
    for layer in (double, single):
        assert layer.b.shape == (20,)
        assert not layer.b.any()
        assert not layer.dW.any()
        assert not layer.db.any()


def test_dense_is_glorot_from_seed_0_unless_told():
    np.testing.assert_array_equal(Dense(3, 2).W, Dense(3, 2, rng=0, init="glorot").W)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_in": 0}, "^n_in: got 0, want an integer >= 1$"),
        ({"n_out": 2.0}, "^n_out: got 2.0, want an integer >= 1$"),
        ({"init": "xavier"}, "^init: got 'xavier', want one of 'he', 'glorot'$"),
    ],
)
def test_dense_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        Dense(**{"n_in": 2, "n_out": 2, **arguments})


@pytest.mark.parametrize(
    ("activation", "init"), [("relu", "he"), ("tanh", "glorot"), ("sigmoid", "glorot")]
)
def test_mlp_alternates_dense_and_activation(activation, init):
    net = mlp((6, 5, 4), activation, np.random.default_rng(2), np.dtype("float64"))
    kinds = [Dense, ACTIVATIONS[activation]] * 2
    assert [type(layer) for layer in net.layers] == kinds
    rng = np.random.default_rng(2)
    for layer, sizes in zip(net.layers[::2], [(6, 5), (5, 4)], strict=True):
        np.testing.assert_array_equal(layer.W, Dense(*sizes, init=init, rng=rng, dtype="f8").W)
    assert mlp((6,), activation, rng, np.dtype("float64")).layers == ()


# --- one vector ---


def test_parameters_of_two_dtypes_make_no_vector():
    with pytest.raises(ValueError, match="parameters of float32 and float64: want one dtype"):
        pack({"a": Dense(2, 3, dtype="float32"), "b": Dense(2, 3, dtype="float64")}, "cpu")


@pytest.mark.parametrize("whole", [True, False])
def test_one_array_under_two_names_makes_no_vector(whole):
    """It would become two, of which each is trained on its own."""
    a, b = Dense(3, 3, rng=1), Dense(3, 3, rng=2)
    b.W = a.W[::-1].T
    layers = {"a": a, "b": a if whole else b}
    with pytest.raises(ValueError, match=r"^[ab]\.[Wb] and [ab]\.[Wb] share memory; want one "):
        pack(layers, "cpu")


def test_parts_of_one_array_are_no_ties():
    a, b = Dense(3, 2, rng=1), Dense(1, 3, rng=2)
    both = np.concatenate([a.W.ravel(), b.W.ravel()])
    a.W, b.W = both[:6].reshape(3, 2), both[6:].reshape(1, 3)
    assert pack({"a": a, "b": b}, "cpu")[0].size == 6 + 2 + 3 + 3


def test_pack_makes_every_parameter_a_view_of_one_vector():
    layers = {"a": make("sequential"), "c": Dense(2, 3, rng=1, dtype="float64"), "none": Tanh()}
    x, dy = batch("sequential")
    values = {name: array.copy() for name, array in parameters_of(layers).items()}
    y = layers["a"].forward(x)
    layers["a"].backward(dy)
    before = gradients(layers["a"])

    theta, grad = pack(layers, "cpu")
    assert list(parameters_of(layers)) == list(gradients_of(layers)) == list(values)
    assert list(values)[-2:] == ["c.W", "c.b"]
    assert_same(parameters_of(layers), values)
    np.testing.assert_array_equal(theta, np.concatenate([v.ravel() for v in values.values()]))
    assert theta.shape == grad.shape == (sum(v.size for v in values.values()),)
    assert not grad.any()

    np.testing.assert_array_equal(layers["a"].forward(x), y)
    layers["a"].backward(dy)
    assert_same(gradients(layers["a"]), before)
    written = np.concatenate([g.ravel() for g in gradients_of(layers).values()])
    np.testing.assert_array_equal(grad, written)
    theta[:] = np.arange(theta.size)
    assert layers["a"].layers[0].W[0, 1] == 1
    assert layers["c"].b[-1] == theta.size - 1


def test_what_forward_leaves_is_declared_and_named_when_missing():
    assert "forward" in type(Dense.x).__doc__  # of the class: the declaration itself
    layer = ReLU()
    with pytest.raises(ValueError, match=r"^ReLU: backward needs a forward before it$"):
        layer.backward(np.ones((2, 2)))
    layer.forward(np.ones((2, 2)))
    assert "positive" in vars(layer)  # hides the declaration: nothing is asked in a hot path
