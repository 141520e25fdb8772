import copy
import itertools
import json
import math
import tracemalloc

import numpy as np
import pytest

from scratchvae import SGD, AdaGrad, Adam, AdamW, Momentum, Nesterov, RMSProp
from scratchvae.optim import (
    BLOCK,
    FLUSH_BELOW,
    FLUSH_EVERY,
    OPTIMIZERS,
    Optimizer,
    make_optimizer,
)

P, STEPS = 6, 7
EVERY_OPTIMIZER = pytest.mark.parametrize("name", OPTIMIZERS)


def problem(dtype="float64", size=P, seed=0):
    """Return theta and the gradients of some steps; one is zero throughout, one at first."""
    rng = np.random.default_rng(seed)
    theta, grads = rng.normal(size=size), rng.normal(size=(STEPS, size))
    grads[:, 0] = 0
    grads[:2, 1] = 0
    return theta.astype(dtype), grads.astype(dtype)


def run(optimizer, theta, grads):
    theta = theta.copy()
    for grad in grads:
        optimizer.step(theta, grad)
    return theta


# --- each against its formula, the memory written out as a sum over the steps taken ---


def decayed(values, decay):
    """Return sum over s of decay^(t - s) values_s, for the last t."""
    return sum(decay ** (len(values) - 1 - s) * value for s, value in enumerate(values))


def sgd(theta, gs, lr):
    return theta - lr * gs[-1]


def momentum(theta, gs, lr, mu):
    return theta - lr * decayed(gs, mu)


def nesterov(theta, gs, lr, mu):
    return theta - mu * lr * decayed(gs, mu) - lr * gs[-1]


def adagrad(theta, gs, lr, eps):
    return theta - lr * gs[-1] / (np.sqrt((gs**2).sum(axis=0)) + eps)


def rmsprop(theta, gs, lr, rho, eps):
    return theta - lr * gs[-1] / (np.sqrt((1 - rho) * decayed(gs**2, rho)) + eps)


def adam(theta, gs, lr, beta1, beta2, eps):
    m_hat = (1 - beta1) * decayed(gs, beta1) / (1 - beta1 ** len(gs))
    v_hat = (1 - beta2) * decayed(gs**2, beta2) / (1 - beta2 ** len(gs))
    return theta - lr * m_hat / (np.sqrt(v_hat) + eps)


def adamw(theta, gs, lr, beta1, beta2, eps, decay):
    return adam(theta, gs, lr, beta1, beta2, eps) - lr * decay * theta


FORMULAS = {
    SGD: (sgd, (0.1,), [(0.3,)]),
    Momentum: (momentum, (0.01, 0.9), [(0.3, 0.8), (0.3, 0)]),
    Nesterov: (nesterov, (0.01, 0.9), [(0.3, 0.8), (0.3, 0)]),
    AdaGrad: (adagrad, (0.01, 1e-10), [(0.3, 0.01)]),
    RMSProp: (rmsprop, (0.001, 0.99, 1e-8), [(0.3, 0.7, 0.01), (0.3, 0, 0.01)]),
    Adam: (adam, (0.001, 0.9, 0.999, 1e-8), [(0.3, 0.8, 0.95, 0.01), (0.3, 0, 0, 0.01)]),
    AdamW: (adamw, (0.001, 0.9, 0.999, 1e-8, 0.01), [(0.3, 0.8, 0.95, 0.01, 0.2)]),
}


@pytest.mark.parametrize("cls", FORMULAS)
def test_the_formula(cls):
    formula, defaults, others = FORMULAS[cls]
    for given, arguments in [((), defaults), *((other, other) for other in others)]:
        optimizer, (theta, grads) = cls(*given), problem()
        want = theta.copy()
        for t in range(1, STEPS + 1):
            optimizer.step(theta, grads[t - 1])
            want = formula(want, grads[:t], *arguments)
            np.testing.assert_allclose(theta, want, rtol=1e-13, atol=1e-15, err_msg=str(arguments))
            assert optimizer.t == t


def test_adams_first_step_has_the_length_of_the_learning_rate():
    theta, g = np.zeros(3), np.array([1e-3, -5.0, 1e4])  # whatever the size of the gradient
    Adam(0.01, eps=0).step(theta, g)
    np.testing.assert_allclose(theta, [-0.01, 0.01, -0.01], rtol=1e-14)


def test_nesterov_takes_the_gradient_where_the_velocity_leads():
    # Sutskever et al. 2013: v <- mu v - lr f'(theta + mu v), theta <- theta + v. Ours holds
    # theta + mu v, so on f(x) = a x^2 / 2 the two must agree step by step.
    a, lr, mu = np.array([1.0, 10.0]), 0.05, 0.9
    theta = np.array([1.0, -2.0])
    v, ours, optimizer = np.zeros(2), theta.copy(), Nesterov(lr, mu)
    for _ in range(20):
        v = mu * v - lr * a * (theta + mu * v)
        theta = theta + v
        optimizer.step(ours, a * ours)
        np.testing.assert_allclose(ours, theta + mu * v, rtol=1e-12)


def test_adamw_decays_apart_from_the_gradient():
    theta = np.full(3, 2.0)
    AdamW(0.1, weight_decay=0.5).step(theta, np.zeros(3))
    np.testing.assert_allclose(theta, 2 * (1 - 0.1 * 0.5), rtol=1e-15)
    theta, grads = problem()
    plain = run(Adam(0.1), theta, grads)
    np.testing.assert_array_equal(run(AdamW(0.1, weight_decay=0), theta, grads), plain)


# --- in place ---


@EVERY_OPTIMIZER
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_step_writes_theta_and_nothing_else(name, dtype):
    optimizer, (theta, grads) = OPTIMIZERS[name](), problem(dtype)
    view = theta[2:4]
    before, grad_before = theta.copy(), grads.tobytes()
    grads.flags.writeable = False
    assert optimizer.step(theta, grads[-1]) is None
    assert not np.array_equal(theta, before)
    np.testing.assert_array_equal(view, theta[2:4])
    assert grads.tobytes() == grad_before
    assert theta.dtype == dtype
    assert {array.dtype for array in optimizer.memory.values()} <= {np.dtype(dtype)}
    single = run(OPTIMIZERS[name](), *problem("float32"))
    np.testing.assert_allclose(single, run(OPTIMIZERS[name](), *problem()), rtol=1e-5, atol=1e-6)


@EVERY_OPTIMIZER
def test_only_the_first_step_allocates(name):
    size = 100_000
    optimizer, (theta, grads) = OPTIMIZERS[name](), problem("float32", size)
    OPTIMIZERS[name]().prepare(theta, theta)  # what is compiled, if it is, stays for all
    tracemalloc.start()
    try:
        optimizer.step(theta, grads[0])
        held, first_peak = tracemalloc.get_traced_memory()
        kept = list(optimizer.memory.values())
        tracemalloc.reset_peak()
        for grad in grads[1:]:
            optimizer.step(theta, grad)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    vectors = len(optimizer.slots) + 1
    assert abs(held - vectors * theta.nbytes) < 0.05 * theta.nbytes
    assert first_peak - held < 0.05 * theta.nbytes
    assert peak - held < 0.05 * theta.nbytes
    assert all(a is b for a, b in zip(optimizer.memory.values(), kept, strict=True))


@EVERY_OPTIMIZER
def test_the_learning_rate_may_change_on_the_way(name):
    theta, grads = problem()
    optimizer = OPTIMIZERS[name]()
    optimizer.step(theta, grads[-1])
    before = theta.copy()
    optimizer.learning_rate = 1e-300
    optimizer.step(theta, grads[-1])
    np.testing.assert_allclose(
        theta, before, atol=1 if isinstance(optimizer, Momentum) else 1e-290, rtol=0
    )
    assert optimizer.config["learning_rate"] == 1e-300


@pytest.mark.parametrize("learning_rate", [1e-12, 1e6])
@EVERY_OPTIMIZER
def test_extreme_learning_rates_stay_finite(name, learning_rate):
    theta, grads = problem("float32")
    theta = run(OPTIMIZERS[name](learning_rate), theta, grads)
    assert np.isfinite(theta).all()


# --- memory ---


@EVERY_OPTIMIZER
def test_restored_it_goes_on_bit_for_bit(name):
    theta, grads = problem("float32")
    whole = run(OPTIMIZERS[name](), theta, grads)
    first = OPTIMIZERS[name]()
    half = run(first, theta, grads[:3])
    saved = {k: v if k == "t" else v.copy() for k, v in first.state().items()}
    assert set(saved) == {"t", *first.slots}
    assert saved["t"] == 3

    second = OPTIMIZERS[name]()
    second.restore(first.state())
    np.testing.assert_array_equal(run(first, half, grads[3:]), whole)  # does not touch the copies
    np.testing.assert_array_equal(run(second, half, grads[3:]), whole)
    used = OPTIMIZERS[name]()
    run(used, *problem("float32", seed=5))
    used.restore(saved)  # what it remembered is gone
    np.testing.assert_array_equal(run(used, half, grads[3:]), whole)
    other = OPTIMIZERS[name]()
    run(other, *problem("float32", size=3 * P))
    other.restore(saved)  # its scratch had another size
    np.testing.assert_array_equal(run(other, half, grads[3:]), whole)


@EVERY_OPTIMIZER
def test_the_state_before_the_first_step(name):
    fresh = OPTIMIZERS[name]()
    assert fresh.state() == {"t": 0}
    used = OPTIMIZERS[name]()
    run(used, *problem())
    used.restore(fresh.state())
    np.testing.assert_array_equal(run(used, *problem()), run(fresh, *problem()))


@EVERY_OPTIMIZER
@pytest.mark.parametrize("change", [lambda s: s.pop("t"), lambda s: s.update(x=np.zeros(P))])
def test_a_state_with_a_part_too_few_or_too_many(name, change):
    optimizer = OPTIMIZERS[name]()
    run(optimizer, *problem())
    state = optimizer.state()
    change(state)
    before = optimizer.t
    message = rf"^state of {type(optimizer).__name__}: got \[.*\], want \[.*'t'.*\]$"
    with pytest.raises(ValueError, match=message):
        optimizer.restore(state)
    assert optimizer.t == before


def test_the_state_of_another_optimizer():
    adam = Adam()
    run(adam, *problem())
    with pytest.raises(
        ValueError, match=r"state of Momentum: got \['M', 'V', 't'\], want \['t', 'v'\]"
    ):
        Momentum().restore(adam.state())
    with pytest.raises(ValueError, match=r"state of Adam: got \['t'\], want \['M', 'V', 't'\]"):
        Adam().restore({"t": 3})


@pytest.mark.parametrize("name", ["momentum", "adamw"])
@pytest.mark.parametrize("change", [lambda a: a[:-1], lambda a: a[:1]], ids=["P - 1", "1"])
def test_restored_memory_of_the_wrong_shape_is_refused_before_anything_changes(name, change):
    optimizer, (theta, grads) = OPTIMIZERS[name](), problem()
    run(optimizer, theta, grads)
    state = {k: v if k == "t" else change(v) for k, v in optimizer.state().items()}
    optimizer.restore(state)
    before = theta.copy()
    with pytest.raises(ValueError, match=r"^step: .*remembers"):
        optimizer.step(theta, grads[0])
    np.testing.assert_array_equal(theta, before)
    assert optimizer.t == STEPS


@pytest.mark.parametrize("name", ["momentum", "adamw"])
def test_restored_memory_of_the_wrong_dtype_is_refused_or_cast(name):
    optimizer, (theta, grads) = OPTIMIZERS[name](), problem()
    run(optimizer, theta, grads)
    single = OPTIMIZERS[name]()
    single.restore(optimizer.state())
    theta, grads = problem("float32")
    try:
        single.step(theta, grads[0])
    except ValueError:
        return
    assert {array.dtype for array in single.memory.values()} == {np.dtype("float32")}


# --- errors ---


@EVERY_OPTIMIZER
def test_a_copy_has_a_memory_of_its_own(name):
    (theta, grads), optimizer = problem(), OPTIMIZERS[name]()
    optimizer.step(theta, grads[0])
    before = {k: np.copy(v) for k, v in optimizer.state().items()}
    run(copy.copy(optimizer), theta, grads)
    for key, value in optimizer.state().items():
        np.testing.assert_array_equal(value, before[key])


def test_an_optimizer_of_another_dtype_says_so():
    optimizer = OPTIMIZERS["adam"]()
    run(optimizer, *problem("float32"))
    with pytest.raises(ValueError, match="6 parameters of float32, got 6 of float64"):
        run(optimizer, *problem("float64"))


@EVERY_OPTIMIZER
def test_theta_and_grad_must_agree(name):
    theta, grads = problem()
    for grad in (grads[0, :-1], grads[0].astype("float32"), grads[:1]):
        optimizer = OPTIMIZERS[name]()
        with pytest.raises(ValueError, match=r"^step: theta \(6,\) float64 and grad .* differ$"):
            optimizer.step(theta, grad)
        assert optimizer.t == 0
        assert optimizer.state() == {"t": 0}


@EVERY_OPTIMIZER
def test_one_optimizer_serves_one_model(name):
    optimizer = OPTIMIZERS[name]()
    run(optimizer, *problem())
    theta, grads = problem(size=9)
    with pytest.raises(
        ValueError, match=r"remembers 6 parameters of float64, got 9 of float64; make"
    ):
        optimizer.step(theta, grads[0])
    assert optimizer.t == STEPS


@pytest.mark.parametrize(
    ("name", "argument", "bad", "wish"),
    [
        *((name, "learning_rate", bad, "> 0") for name in OPTIMIZERS for bad in (0, -1, math.nan)),
        ("adam", "learning_rate", "fast", "> 0"),
        ("adam", "learning_rate", math.inf, "> 0"),
        ("momentum", "momentum", 1, ">= 0 and < 1"),
        ("nesterov", "momentum", -0.1, ">= 0 and < 1"),
        ("rmsprop", "rho", 1.0, ">= 0 and < 1"),
        ("rmsprop", "eps", -1e-8, ">= 0"),
        ("adagrad", "eps", None, ">= 0"),
        ("adam", "beta1", 1, ">= 0 and < 1"),
        ("adam", "beta2", 1, ">= 0 and < 1"),
        ("adam", "eps", -1, ">= 0"),
        ("adamw", "weight_decay", -0.01, ">= 0"),
    ],
)
def test_hyperparameter_errors(name, argument, bad, wish):
    for construct in (OPTIMIZERS[name], lambda **k: make_optimizer(name, **k)):
        with pytest.raises(ValueError, match=f"^{argument}: got {bad!r}, want a number {wish}$"):
            construct(**{argument: bad})


def test_optimizer_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        Optimizer(0.1)
    assert Optimizer.__abstractmethods__ == {"_update", "scalars"}


# --- by name ---


@EVERY_OPTIMIZER
def test_by_name_and_back_through_its_configuration(name):
    optimizer = make_optimizer(name)
    assert type(optimizer) is OPTIMIZERS[name]
    assert optimizer.name == name
    assert optimizer.config == OPTIMIZERS[name]().config
    changed = make_optimizer(name, 0.25)
    assert changed.learning_rate == 0.25
    assert changed.config.keys() == optimizer.config.keys()
    run(changed, *problem())
    config = json.loads(json.dumps(changed.config))
    again = make_optimizer(name, **config)
    assert again.config == changed.config
    assert again.t == 0
    assert all(type(value) is float for value in config.values())


def test_the_names():
    assert {name: cls.slots for name, cls in OPTIMIZERS.items()} == {
        "sgd": (),
        "momentum": ("v",),
        "nesterov": ("v",),
        "adagrad": ("h",),
        "rmsprop": ("h",),
        "adam": ("M", "V"),
        "adamw": ("M", "V"),
    }
    assert set(Adam().config) == {"learning_rate", "beta1", "beta2", "eps"}


def test_by_name_errors():
    with pytest.raises(ValueError, match=r"^optimizer: got 'lion', want one of 'sgd', .*'adamw'$"):
        make_optimizer("lion")
    with pytest.raises(ValueError, match=r"^optimizer 'sgd': .*unexpected .*'momentum'"):
        make_optimizer("sgd", 0.1, momentum=0.9)


@pytest.mark.parametrize("name", ["adam", "rmsprop", "momentum"])
def test_a_memory_that_fades_ends_at_zero(name):
    """Subnormal numbers are slow, and 0.9 times the smallest of them is itself."""
    optimizer = make_optimizer(name)
    theta, grad = np.zeros(3, np.float32), np.array([1, 1e-30, 0], np.float32)
    optimizer.step(theta, grad)
    optimizer.memory = {k: (v * 1e-34).astype(np.float32) for k, v in optimizer.memory.items()}
    for _ in range(3 * FLUSH_EVERY - 1):
        optimizer.step(theta, np.zeros_like(grad))
    for vector in optimizer.memory.values():
        magnitude = np.abs(vector)
        assert not np.any((magnitude > 0) & (magnitude < np.finfo(np.float32).tiny))


@EVERY_OPTIMIZER
@pytest.mark.parametrize("size", [BLOCK - 1, BLOCK, 2 * BLOCK + 3])
def test_blocks_change_no_bit(name, size):
    theta, grads = problem("float32", size)
    whole = run(make_optimizer(name), theta, grads[-3:])
    cuts = [0, size // 3, size // 2, size]
    parts = [slice(*pair) for pair in itertools.pairwise(cuts)]
    alone = [run(make_optimizer(name), theta[part], grads[-3:, part]) for part in parts]
    np.testing.assert_array_equal(whole, np.concatenate(alone))
    assert (whole != theta).mean() > 0.99


def test_only_what_is_about_to_be_subnormal_is_set_to_zero():
    low = FLUSH_BELOW * np.finfo(np.float32).tiny
    optimizer = make_optimizer("adagrad")
    theta, grad = np.zeros(4, np.float32), np.zeros(4, np.float32)
    optimizer.prepare(theta, grad)
    optimizer.memory["h"][:] = 1, low, low / 2, low / 2**20
    for _ in range(FLUSH_EVERY):
        optimizer.step(theta, grad)
    np.testing.assert_array_equal(optimizer.memory["h"], np.array([1, low, 0, 0], np.float32))


@EVERY_OPTIMIZER
def test_the_state_before_the_first_step_is_one_that_can_be_restored(name):
    optimizer, other = make_optimizer(name), make_optimizer(name)
    optimizer.prepare(np.zeros(3), np.zeros(3))
    assert optimizer.state() == {"t": 0}
    other.restore(optimizer.state())
    assert other.state() == {"t": 0}


def test_no_memory_is_subnormal_between_two_flushes():
    optimizer = make_optimizer("adam")
    theta, grad = np.zeros(50, np.float32), np.geomspace(1, 1e-19, 50, dtype=np.float32)
    optimizer.step(theta, grad)
    for _ in range(1000):
        optimizer.step(theta, np.zeros_like(grad))
        magnitude = np.abs(optimizer.memory["M"])
        if optimizer.t > FLUSH_EVERY:
            assert not np.any((magnitude > 0) & (magnitude < np.finfo(np.float32).tiny))
    assert not optimizer.memory["M"].any()


@EVERY_OPTIMIZER
def test_an_update_of_some_elements_is_that_part_of_the_whole(name):
    theta, grads = problem("float32", 2 * BLOCK + 3)
    whole, pieces = make_optimizer(name), make_optimizer(name)
    pieces.prepare(theta, grads[0])
    parts, together = theta.copy(), theta.copy()
    for t, grad in enumerate(grads[-3:], start=1):
        whole.step(together, grad)
        for first, stop in ((7, len(theta)), (0, 7)):
            pieces.update(parts[first:stop], grad[first:stop], pieces.scalars(t), first)
    np.testing.assert_array_equal(parts, together)
    for kept in whole.memory:
        np.testing.assert_array_equal(pieces.memory[kept], whole.memory[kept])


@EVERY_OPTIMIZER
@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.2, 0.3, 0.5), (1.0,)])
def test_an_update_of_the_gradients_of_parts_is_one_of_their_mean(name, shares):
    theta, grads = problem("float32", 2 * BLOCK + 3)
    whole, of_parts = make_optimizer(name), make_optimizer(name)
    of_parts.prepare(theta, grads[0], len(shares))
    want, got = theta.copy(), theta.copy()
    for t in range(1, 4):
        rows = np.stack(grads[t : t + len(shares)])
        before = rows.copy()
        mean = rows[0] * np.float32(shares[0])
        for row, share in zip(rows[1:], shares[1:], strict=True):
            mean += row * np.float32(share)
        whole.step(want, mean)
        for part in (slice(7, None), slice(0, 7)):
            of_parts.update(got[part], rows[:, part], of_parts.scalars(t), part.start, shares)
        np.testing.assert_array_equal(rows, before)
    np.testing.assert_array_equal(got, want)
    assert (got != theta).mean() > 0.9
    for kept in whole.memory:
        np.testing.assert_array_equal(of_parts.memory[kept], whole.memory[kept])
