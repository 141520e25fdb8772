"""The room `train`: minibatches, the history, resuming bit for bit, what stops a training."""

import hashlib
import io
import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
import tracemalloc
from contextlib import redirect_stderr

import numpy as np
import pytest

from scratchvae import VAE, Autoencoder, DenoisingAutoencoder, checkpoint
from scratchvae.bar import ProgressBar
from scratchvae.layers import Dense, ReLU, Sequential
from scratchvae.optim import OPTIMIZERS, Adam
from scratchvae.train import DivergedError, History, Stopped, Training, fit, mean_terms

D, L = 6, 2
MODELS = {
    "ae": lambda **kw: Autoencoder(D, (5,), L, **kw),
    "dae": lambda **kw: DenoisingAutoencoder(D, (5,), L, **kw),
    "dae masking": lambda **kw: DenoisingAutoencoder(D, (5,), L, corruption="masking", **kw),
    "vae": lambda **kw: VAE(D, (5,), L, **kw),
}
EVERY_MODEL = pytest.mark.parametrize("name", MODELS)
SETTINGS = {"epochs": 3, "batch_size": 8, "seed": 3}  # of 22 examples: 3 steps an epoch, 8 + 8 + 6
STEPS = 9


def data(n=22, seed=0, dtype="float32"):
    return np.random.default_rng(seed).random((n, D), dtype=dtype)


def spy(monkeypatch, model, method):
    """Record copies of the arguments of each call of a model's method."""
    calls = []
    real = getattr(model, method)

    def record(x, noise=None):
        calls.append((x.copy(), None if noise is None else noise.copy()))
        return real(x, noise)

    monkeypatch.setattr(model, method, record)
    return calls


def interrupt(monkeypatch, model, *steps):
    """Send Ctrl-C in the middle of the given steps, counted from 1."""
    count = 0
    real = model.backward

    def backward():
        nonlocal count
        count += 1
        real()
        if count in steps:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(model, "backward", backward)


# --- minibatches ---


def test_each_epoch_sees_each_example_once_in_a_new_order(monkeypatch):
    model, x = MODELS["ae"](), data()
    calls = spy(monkeypatch, model, "forward")
    fit(model, x, **SETTINGS)
    assert [len(batch) for batch, _ in calls] == [8, 8, 6] * 3
    orders = []
    for epoch in range(3):
        rows = np.concatenate([batch for batch, _ in calls[3 * epoch : 3 * epoch + 3]])
        orders.append([int(np.flatnonzero((x == row).all(axis=1))[0]) for row in rows])
        assert sorted(orders[-1]) == list(range(22))
    assert len({tuple(order) for order in [*orders, range(22)]}) == 4


def test_a_batch_larger_than_the_data_holds_all_of_them(monkeypatch):
    model = MODELS["ae"]()
    calls = spy(monkeypatch, model, "forward")
    fit(model, data(), epochs=2)  # 128 by default
    assert [len(batch) for batch, _ in calls] == [22, 22]


def test_a_batch_of_one(monkeypatch):
    model = MODELS["vae"]()
    calls = spy(monkeypatch, model, "forward")
    fit(model, data(3), epochs=1, batch_size=1)
    assert [len(batch) for batch, _ in calls] == [1, 1, 1]


def test_the_noise_is_new_in_each_step_and_epoch(monkeypatch):
    model = MODELS["vae"]()
    calls = spy(monkeypatch, model, "forward")
    fit(model, data(), **SETTINGS)
    eps = np.concatenate([noise.ravel() for _, noise in calls])
    assert len(np.unique(eps)) == eps.size == 3 * 22 * L


def test_training_noise_is_not_the_stream_of_the_initial_parameters(monkeypatch):
    # NumPy pads entropy with zeros: the seeds 3 and (3, 0, 0) are one generator.
    model = MODELS["vae"](seed=3)
    calls = spy(monkeypatch, model, "forward")
    fit(model, data(), **SETTINGS)
    stream = np.random.default_rng(3).standard_normal((8, L), dtype="float32")
    assert (calls[0][1] != stream).all()
    order = np.random.default_rng(3).permutation(22)[:8]
    assert (calls[0][0] != data()[order]).any()


# --- the History ---


def test_training_terms_are_means_over_examples_not_over_steps(monkeypatch):
    model, x = MODELS["ae"](), data()
    losses = []
    real = model.forward

    def forward(x, noise=None):
        losses.append((len(x), float(real(x, noise))))
        return model.terms["mse"]

    monkeypatch.setattr(model, "forward", forward)
    history = fit(model, x, epochs=1, batch_size=8)
    assert history["mse"][0] == pytest.approx(sum(n * v for n, v in losses) / 22, rel=1e-12)


@pytest.mark.parametrize(
    ("name", "terms"),
    [
        ("ae", ["mse"]),
        ("dae", ["mse"]),
        ("vae", ["loss", "reconstruction", "kl", "neg_elbo"]),
    ],
)
def test_the_history_has_every_term(name, terms):
    history = fit(MODELS[name](), data(), epochs=2)
    assert list(history.columns) == terms
    history = fit(MODELS[name](), data(), validation=data(5, 1), epochs=2)
    assert list(history.columns) == [*terms, *(f"val_{term}" for term in terms)]
    assert len(history) == 2
    assert all(len(values) == 2 for values in history.columns.values())
    assert history.last() == {name: values[1] for name, values in history.columns.items()}


def test_the_terms_of_a_vae_add_up():
    history = fit(MODELS["vae"](beta=4), data(), validation=data(5, 1), epochs=2)
    for v in ("", "val_"):
        kl, rec = np.array(history[f"{v}kl"]), np.array(history[f"{v}reconstruction"])
        np.testing.assert_allclose(history[f"{v}loss"], rec + 4 * kl, rtol=1e-6)
        np.testing.assert_allclose(history[f"{v}neg_elbo"], rec + kl, rtol=1e-6)


def test_history_as_csv():
    history = History()
    assert history.to_csv() == "epoch\n"
    assert (len(history), history.last()) == (0, {})
    history.append({"mse": 0.1, "val_mse": np.float32(0.5)})
    history.append({"mse": 1e-20, "val_mse": 3})
    assert history.to_csv() == "epoch,mse,val_mse\n1,0.1,0.5\n2,1e-20,3.0\n"


def test_history_refuses_other_columns():
    history = History()
    history.append({"mse": 0.1})
    with pytest.raises(ValueError, match=r"got columns \['kl'\], want \['mse'\]"):
        history.append({"kl": 0.1})
    assert len(history) == 1


def test_history_is_looked_up_by_the_names_of_its_columns():
    history = History()
    with pytest.raises(KeyError, match="history: got 'mse', no epoch has ended"):
        history["mse"]
    history.append({"mse": 0.1, "val_mse": 0.2})
    assert ("mse" in history, "kl" in history) == (True, False)
    assert list(history) == ["mse", "val_mse"]
    with pytest.raises(KeyError, match="history: got 'kl', want one of mse, val_mse"):
        history["kl"]


def test_training_makes_the_loss_smaller():
    x = np.repeat(np.eye(D, dtype="float32"), 20, axis=0)
    for name, settings in {"ae": {}, "dae": {"sigma": 0.1}, "vae": {}}.items():
        model = MODELS[name](**settings)
        history = fit(model, x, epochs=30, learning_rate=0.01, batch_size=16)
        values = history[model.objective]
        assert values[-1] < 0.8 * values[0]


# --- arguments ---


def test_the_defaults_are_adam_1e3_batches_of_128_and_seed_0():
    thetas = []
    for settings in (
        {},
        {"optimizer": "adam", "learning_rate": 1e-3, "batch_size": 128, "seed": 0},
        {"optimizer": Adam(1e-3), "binarize": False},
    ):
        model = MODELS["vae"]()
        fit(model, data(200), epochs=2, **settings)
        thetas.append(model.theta)
    np.testing.assert_array_equal(thetas[0], thetas[1])
    np.testing.assert_array_equal(thetas[0], thetas[2])
    model = MODELS["vae"]()
    assert len(fit(model, data(2))) == 20


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_named_optimizer_is_the_same_as_the_optimizer(name):
    thetas = []
    for settings in (
        {"optimizer": name, "learning_rate": 0.02},
        {"optimizer": OPTIMIZERS[name](0.02)},
        {"optimizer": name},
    ):
        model = MODELS["ae"]()
        fit(model, data(), **SETTINGS, **settings)
        thetas.append(model.theta)
    np.testing.assert_array_equal(thetas[0], thetas[1])
    assert (thetas[0] != thetas[2]).any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs: got 0, want an integer >= 1"),
        ({"epochs": 1.5}, "epochs: got 1.5"),
        ({"batch_size": 0}, "batch_size: got 0"),
        ({"seed": -1}, "seed: got -1"),
        ({"optimizer": "adma"}, "optimizer: got 'adma', want one of 'sgd'"),
        ({"optimizer": ""}, "optimizer: got ''"),
        ({"learning_rate": 0}, "learning_rate: got 0"),
        ({"learning_rate": math.nan}, "learning_rate: got nan"),
        ({"optimizer": Adam(), "learning_rate": 0.1}, "learning_rate: give it to the Optimizer"),
        ({"validation": np.zeros((3, D + 1))}, r"validation: got shape \(3, 7\), want \(B, 6\)"),
        ({"validation": np.full((3, D), np.nan)}, "validation: got NaN"),
        ({"validation": np.full((3, D), 2.0)}, r"validation: got values .* want \[0, 1\]"),
        ({"validation": np.zeros((0, D))}, r"validation: got shape \(0, 6\)"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_trained(settings, message):
    model = MODELS["vae"]()
    before = model.theta.copy()
    with pytest.raises(ValueError, match=message):
        fit(model, data(), **settings)
    np.testing.assert_array_equal(model.theta, before)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((22, D + 1)), "x: got shape"),
        (np.zeros((22, D), dtype=np.uint8), "x: got integers of dtype uint8"),
        (np.full((22, D), np.inf), "x: got NaN or infinite"),
        (np.zeros((0, D)), "x: got shape"),
    ],
)
def test_bad_data_are_refused(x, message):
    with pytest.raises(ValueError, match=message):
        fit(MODELS["vae"](), x, epochs=1)


@pytest.mark.parametrize("callbacks", [print, [None], "ab", [print, 3]])
def test_callbacks_that_cannot_be_called_cost_no_epoch(callbacks):
    model = MODELS["ae"]()
    before = model.theta.copy()
    with pytest.raises(ValueError, match=r"^callbacks: got .*, want a list of functions"):
        fit(model, data(), epochs=1, callbacks=callbacks)
    np.testing.assert_array_equal(model.theta, before)


def test_callbacks_may_be_none_or_drawn_from_a_generator():
    seen = []
    fit(MODELS["ae"](), data(), epochs=1, callbacks=None)
    fit(MODELS["ae"](), data(), epochs=3, callbacks=(each for each in [seen.append]))
    assert len(seen) == 3


def test_what_numpy_does_on_errors_is_the_callers_in_callbacks():
    seen = []
    with np.errstate(divide="raise", over="warn"):
        fit(MODELS["ae"](), data(), epochs=1, callbacks=[lambda t: seen.append(np.geterr())])
        assert seen == [np.geterr()]


def test_callbacks_are_called_in_order_after_each_epoch():
    seen = []
    training = Training(Adam(), n_examples=22, batch_size=8)

    def first(t):
        assert t is training
        seen.append(("first", t.epoch, t.step, len(t.history)))

    fit(
        MODELS["ae"](),
        data(),
        epochs=2,
        resume=training,
        callbacks=[first, lambda t: seen.append("second")],
    )
    assert seen == [("first", 1, 0, 1), "second", ("first", 2, 0, 2), "second"]


def test_an_error_in_a_callback_is_the_callers():
    def broken(training):
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        fit(MODELS["ae"](), data(), epochs=1, callbacks=[broken])


# --- dynamic binarization ---


def test_binarize_draws_each_pixel_anew(monkeypatch):
    model, n, epochs = MODELS["vae"](), 300, 4
    x = np.repeat(data(1), n, axis=0)
    calls = spy(monkeypatch, model, "forward")
    fit(model, x, epochs=epochs, batch_size=n, binarize=True)
    drawn = np.stack([batch for batch, _ in calls])  # (epochs, N, D)
    assert set(np.unique(drawn)) == {0, 1}
    assert drawn.dtype == np.float32
    p = x[0].astype("float64")
    standard_error = np.sqrt(p * (1 - p) / (epochs * n))
    assert (np.abs(drawn.mean(axis=(0, 1)) - p) < 4 * standard_error).all()
    assert (drawn[0] != drawn[1]).any()


def test_validation_is_binarized_too_and_always_the_same(monkeypatch):
    model = MODELS["vae"]()
    calls = spy(monkeypatch, model, "loss_terms")
    fit(model, data(), validation=data(9, 1), epochs=3, binarize=True)
    assert set(np.unique(calls[0][0])) == {0, 1}
    for x, eps in calls[1:]:
        np.testing.assert_array_equal(x, calls[0][0])
        np.testing.assert_array_equal(eps, calls[0][1])


@pytest.mark.parametrize("part", ["x", "validation"])
def test_binarize_wants_probabilities(part):
    model = VAE(D, (5,), L, likelihood="gaussian")  # which itself takes any number
    parts = {"x": data(), "validation": data()}
    parts[part] = parts[part] * 3 - 1
    with pytest.raises(ValueError, match=rf"binarize: {part} has values outside \[0, 1\]"):
        fit(model, **parts, epochs=1, binarize=True)
    fit(model, **parts, epochs=1)


# --- validation ---


@pytest.mark.parametrize("name", ["dae", "dae masking", "vae"])
def test_validation_has_the_same_noise_each_epoch(monkeypatch, name):
    noises = []
    for batch_size in (8, 22):
        model = MODELS[name]()
        calls = spy(monkeypatch, model, "loss_terms")
        fit(model, data(), validation=data(9, 1), epochs=3, batch_size=batch_size)
        assert len(calls) == 3
        noises += [noise for _, noise in calls]
    for noise in noises[1:]:
        np.testing.assert_array_equal(noise, noises[0])


@EVERY_MODEL
def test_validation_leaves_the_training_alone(name):
    thetas = []
    for validation in (None, data(9, 1)):
        model = MODELS[name]()
        fit(model, data(), validation=validation, **SETTINGS)
        thetas.append(model.theta)
    np.testing.assert_array_equal(*thetas)


@EVERY_MODEL
def test_mean_terms_does_not_depend_on_its_batches(name):
    model, x = MODELS[name](dtype="float64"), data(23, dtype="float64")
    whole = mean_terms(model, x, seed=5)
    assert mean_terms(model, x, seed=5, batch_size=4) == pytest.approx(whole, rel=1e-13)
    if name != "ae":
        assert mean_terms(model, x, seed=6) != pytest.approx(whole, rel=1e-6)


# --- the same seed, the same result ---


@EVERY_MODEL
@pytest.mark.parametrize("binarize", [False, True])
def test_the_same_seed_gives_the_same_training(name, binarize):
    results = []
    for seed in (3, 3, 4):
        model = MODELS[name]()
        settings = {**SETTINGS, "seed": seed, "binarize": binarize}
        history = fit(model, data(), validation=data(9, 1), **settings)
        results.append((model.theta.tobytes(), history.to_csv()))
    assert results[0] == results[1]
    assert results[0][0] != results[2][0]
    assert results[0][1] != results[2][1]


def test_the_same_seed_gives_the_same_training_in_another_process():
    program = (
        "import hashlib, sys; sys.path.insert(0, 'tests'); from test_train import *\n"
        "model = MODELS['vae'](); history = fit(model, data(), binarize=True, **SETTINGS)\n"
        "print(hashlib.sha256(model.theta.tobytes()).hexdigest(), history.to_csv(), end='')"
    )
    there = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        encoding="utf-8",
    )
    model = MODELS["vae"]()
    history = fit(model, data(), binarize=True, **SETTINGS)
    here = hashlib.sha256(model.theta.tobytes()).hexdigest()
    assert there.stdout == f"{here} {history.to_csv()}"


# --- what goes in stays as it is ---


@EVERY_MODEL
def test_data_are_not_written_to(name):
    x, validation = data(), data(9, 1)
    for array in (x, validation):
        array.flags.writeable = False
    fit(MODELS[name](), x, validation=validation, binarize=True, **SETTINGS)
    np.testing.assert_array_equal(x, data())


@EVERY_MODEL
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_model_trains_in_its_own_precision(name, dtype, monkeypatch):
    model, adam = MODELS[name](dtype=dtype), Adam()
    calls = spy(monkeypatch, model, "forward")
    fit(model, data(dtype="float64"), optimizer=adam, **SETTINGS)
    arrays = [model.theta, model.grad, *adam.memory.values()]
    arrays += [a for call in calls for a in call if a is not None]
    assert {a.dtype for a in arrays} == {np.dtype(dtype)}
    assert all(v.dtype == dtype for v in model.terms.values())


def test_the_layout_of_the_data_does_not_matter():
    x = data()
    wide = np.zeros((44, 2 * D), dtype="float32")
    wide[::2, ::2] = x
    thetas = []
    for same in (x, np.asfortranarray(x), wide[::2, ::2], x.astype("float64")):
        model = MODELS["vae"]()
        fit(model, same, **SETTINGS)
        thetas.append(model.theta)
    for theta in thetas[1:]:
        np.testing.assert_array_equal(theta, thetas[0])


# --- resuming ---


def trained_file(path, name, **settings):
    """Train without a stop; return the bytes of the last checkpoint."""
    model = MODELS[name]()

    def save(training):
        checkpoint.save(path, model, training)

    fit(model, data(), validation=data(9, 1), callbacks=[save], **SETTINGS, **settings)
    return path.read_bytes()


def stopped_and_resumed_file(path, name, stop, monkeypatch, **settings):
    """Stop after ``stop`` steps, go on from the file alone; return the last checkpoint's bytes."""
    model = MODELS[name]()
    interrupt(monkeypatch, model, stop)

    def save(training):
        checkpoint.save(path, model, training)

    with pytest.raises(Stopped):
        fit(model, data(), validation=data(9, 1), callbacks=[save], **SETTINGS, **settings)
    loaded = checkpoint.load(path)
    assert (loaded.training.epoch, loaded.training.step) == divmod(stop, 3)

    def save_loaded(training):
        checkpoint.save(path, loaded.model, training)

    fit(
        loaded.model,
        data(),
        validation=data(9, 1),
        epochs=3,
        resume=loaded.training,
        callbacks=[save_loaded],
    )
    return path.read_bytes()


@EVERY_MODEL
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_resuming_anywhere_gives_the_same_file(name, optimizer, tmp_path, monkeypatch):
    settings = {"optimizer": optimizer}
    whole = trained_file(tmp_path / "whole.npz", name, **settings)
    for stop in range(1, STEPS):
        path = tmp_path / f"{stop}.npz"
        assert stopped_and_resumed_file(path, name, stop, monkeypatch, **settings) == whole


@EVERY_MODEL
def test_resuming_with_dynamic_binarization_gives_the_same_file(name, tmp_path, monkeypatch):
    whole = trained_file(tmp_path / "whole.npz", name, binarize=True)
    for stop in (2, 3, 7):
        path = tmp_path / f"{stop}.npz"
        assert stopped_and_resumed_file(path, name, stop, monkeypatch, binarize=True) == whole


def test_a_finished_training_resumes_to_itself():
    model, training = MODELS["ae"](), Training(Adam(), n_examples=22)
    history = fit(model, data(), epochs=2, resume=training)
    before = model.theta.copy()
    assert fit(model, data(), epochs=2, resume=training) is history
    np.testing.assert_array_equal(model.theta, before)
    assert len(history) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seed": 4}, "seed: got 4, but the training to resume has 3"),
        ({"batch_size": 9}, "batch_size: got 9, but .* has 8"),
        ({"binarize": True}, "binarize: got True, but .* has False"),
        ({"optimizer": "adam"}, "optimizer, learning_rate: a resumed training goes on with its"),
        ({"learning_rate": 0.1}, "optimizer, learning_rate: a resumed"),
        ({"x": data(21)}, "n_examples: got 21, but .* has 22"),
        ({"validation": None}, "resume: this training would add mse to a history of mse, val_mse"),
        ({"model": MODELS["vae"]()}, "resume: this training would add loss, reconstruction"),
    ],
)
def test_contradictory_settings_are_refused(settings, message):
    model, training = MODELS["ae"](), Training(Adam(), seed=3, batch_size=8, n_examples=22)
    fit(model, data(), validation=data(9, 1), epochs=1, resume=training)
    before = model.theta.copy()
    settings = {"model": model, "x": data(), "validation": data(9, 1), **settings}
    with pytest.raises(ValueError, match=message):
        fit(**settings, epochs=2, resume=training)
    np.testing.assert_array_equal(model.theta, before)
    assert len(training.history) == training.epoch == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "adam"}, "optimizer: got 'adam', want an Optimizer"),
        ({"binarize": "no"}, "binarize: got 'no', want True or False"),
        ({"batch_size": 0}, "batch_size: got 0"),
        ({"batch_size": 2.5}, "batch_size: got 2.5"),
        ({"seed": -1}, "seed: got -1"),
        ({"step": None}, "step: got None"),
    ],
)
def test_a_training_made_by_hand_is_looked_at(settings, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        Training(**{"optimizer": Adam(), **settings})


@pytest.mark.parametrize("settings", [{"step": 1}, {"step": 9}, {"epoch": 2}])
def test_a_training_that_does_not_fit_itself_is_not_resumed(settings):
    model = MODELS["ae"]()
    before = model.theta.copy()
    with pytest.raises(ValueError, match=r"^resume: epoch \d and step \d do not fit the history"):
        fit(model, data(), epochs=3, resume=Training(Adam(), batch_size=8, **settings))
    np.testing.assert_array_equal(model.theta, before)


def test_the_bar_counts_images_and_not_batches():
    training = Training(Adam(), batch_size=1000, n_examples=10, epoch=2, step=1)
    assert ProgressBar(training, 5)._images() == 30
    training = Training(Adam(), batch_size=4, n_examples=10, epoch=1, step=2)
    assert ProgressBar(training, 5)._images() == 18


def test_the_settings_of_a_training_are_plain_numbers():
    training = Training(Adam(), seed=np.int64(3), batch_size=np.int32(8), binarize=np.True_)
    assert json.dumps([training.seed, training.batch_size, training.binarize]) == "[3, 8, true]"


def test_a_training_made_by_hand_takes_the_number_of_examples_from_the_data():
    model, training = MODELS["ae"](), Training(Adam(), batch_size=8)
    fit(model, data(), epochs=1, resume=training)
    assert training.n_examples == len(data())


def test_the_settings_of_the_training_may_be_repeated():
    model, training = MODELS["ae"](), Training(Adam(), seed=3, batch_size=8, n_examples=22)
    fit(model, data(), **SETTINGS, binarize=False, resume=training)
    assert len(training.history) == 3


# --- Ctrl-C ---


def test_ctrl_c_stops_after_the_step_and_calls_back_once_more(monkeypatch):
    model, states = MODELS["vae"](), []
    interrupt(monkeypatch, model, 5)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(Stopped):
        fit(model, data(), callbacks=[lambda t: states.append((t.epoch, t.step))], **SETTINGS)
    assert states == [(1, 0), (1, 2)]
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_is_ignored_stops_nothing(number):
    """As in a program that a shell has started with &."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        fit(
            MODELS["vae"](),
            data(),
            **{**SETTINGS, "callbacks": [lambda _: signal.raise_signal(number)]},
        )
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_a_handler_that_is_none_of_pythons_is_left_alone(monkeypatch):
    """Python cannot put such a handler back."""
    monkeypatch.setattr(signal, "getsignal", lambda number: None)
    monkeypatch.setattr(signal, "signal", lambda *_: pytest.fail("a handler was replaced"))
    fit(MODELS["vae"](), data(), **SETTINGS)


@pytest.mark.parametrize(
    ("x", "says"),
    [
        ([[0.5] * D] * 9, "x: expected a NumPy or CuPy array, got list"),
        (None, "x: expected a NumPy or CuPy array, got NoneType"),
        (np.ma.masked_array(data(), data() > 0.5), r"x: got a masked array, .*\.filled\(0\)"),
    ],
)
def test_what_is_no_array_is_a_value_error(x, says):
    with pytest.raises(ValueError, match=says):
        fit(MODELS["vae"](), x, **SETTINGS)
    if x is None:  # no validation
        return
    with pytest.raises(ValueError, match=says.replace("x: ", "validation: ")):
        fit(MODELS["vae"](), data(), validation=x, **SETTINGS)


def test_ctrl_c_in_the_last_step_of_an_epoch_stops_after_the_epoch(monkeypatch):
    model, states = MODELS["vae"](), []
    interrupt(monkeypatch, model, 6)
    with pytest.raises(Stopped):
        fit(model, data(), callbacks=[lambda t: states.append((t.epoch, t.step))], **SETTINGS)
    assert states == [(1, 0), (2, 0)]


def test_the_second_ctrl_c_is_no_orderly_stop(monkeypatch):
    model, states, handler = MODELS["vae"](), [], signal.getsignal(signal.SIGINT)
    real = model.backward

    def backward():
        real()
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(model, "backward", backward)
    with pytest.raises(KeyboardInterrupt) as caught:
        fit(model, data(), callbacks=[states.append], **SETTINGS)
    assert not isinstance(caught.value, Stopped)
    assert states == []
    assert signal.getsignal(signal.SIGINT) is handler


def test_ctrl_c_belongs_to_the_main_thread():
    handler, handlers, model = signal.getsignal(signal.SIGINT), [], MODELS["vae"]()

    def train():
        fit(
            model,
            data(),
            callbacks=[lambda t: handlers.append(signal.getsignal(signal.SIGINT))],
            **SETTINGS,
        )

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert handlers == [handler] * 3
    reference = MODELS["vae"]()
    fit(reference, data(), **SETTINGS)
    np.testing.assert_array_equal(model.theta, reference.theta)


# --- what is not finite ---


class Keeper:
    """A callback that keeps theta and the optimizer's state of the last good epoch."""

    def __init__(self, model):
        self.model, self.t, self.theta, self.memory = model, 0, model.theta.copy(), {}
        self.epoch, self.training = 0, None

    def __call__(self, training):
        self.training, self.epoch, self.t = training, training.epoch, training.optimizer.t
        self.theta = self.model.theta.copy()
        self.memory = {name: v.copy() for name, v in training.optimizer.memory.items()}

    def check(self, optimizer):
        np.testing.assert_array_equal(self.model.theta, self.theta)
        assert np.isfinite(self.theta).all()
        assert optimizer.t == self.t
        assert optimizer.memory.keys() == self.memory.keys()
        for name, vector in self.memory.items():
            np.testing.assert_array_equal(optimizer.memory[name], vector)


@EVERY_MODEL
@pytest.mark.parametrize("name_of_optimizer", OPTIMIZERS)
def test_an_absurd_learning_rate_ends_finite_or_in_a_named_stop(name, name_of_optimizer):
    model, optimizer = MODELS[name](), OPTIMIZERS[name_of_optimizer](1e6)
    keeper = Keeper(model)
    try:
        message = fit(model, data(), optimizer=optimizer, callbacks=[keeper], **SETTINGS).to_csv()
    except DivergedError as error:
        message = str(error)
    assert "nan" not in message.split(" (")[0]
    if keeper.epoch < 3:
        assert f"not finite in epoch {keeper.epoch + 1}, step " in message
        assert "the learning rate 1e+06 is too large, try 100000" in message
        assert f"back at its parameters after epoch {keeper.epoch}" in message
    keeper.check(optimizer)


def test_the_stop_says_where_and_why_and_goes_back():
    """SGD at 1e6 on the Gaussian VAE is sure to diverge; at first it is well."""
    model = VAE(D, (5,), L, likelihood="gaussian")
    keeper, training = Keeper(model), Training(OPTIMIZERS["sgd"](1e-3), n_examples=22, batch_size=8)

    def spoil(training):
        keeper(training)
        if training.epoch == 2:
            training.optimizer.learning_rate = 1e6

    with pytest.raises(DivergedError) as caught:
        fit(model, data(), epochs=5, resume=training, callbacks=[spoil])
    message = str(caught.value)
    assert re.match(r"the loss is not finite in epoch 3, step [23] of 3 \(loss ", message)
    assert "likely cause: the learning rate 1e+06 is too large, try 100000." in message
    assert message.endswith("The model is back at its parameters after epoch 2")
    keeper.check(training.optimizer)
    assert (training.epoch, training.step, training.terms) == (2, 0, [])
    training.optimizer.learning_rate = 1e-3  # and so it can go on
    assert len(fit(model, data(), epochs=3, resume=training)) == 3


def test_the_stop_does_not_wait_for_the_epoch_to_end(monkeypatch):
    model = VAE(D, (5,), L, likelihood="gaussian")
    steps = spy(monkeypatch, model, "forward")
    with pytest.raises(DivergedError):
        fit(model, data(), epochs=1, batch_size=1, optimizer=OPTIMIZERS["sgd"](1e6))
    assert len(steps) < 8  # of 22


def test_a_loss_that_starts_infinite_blames_the_scale():
    model = VAE(D, (5,), L, likelihood="gaussian")
    keeper, adam = Keeper(model), Adam()
    with pytest.raises(DivergedError, match=r"step 1 of 3 .*cause: the scale of the data"):
        fit(model, 1e30 * data(), optimizer=adam, callbacks=[keeper], **SETTINGS)
    keeper.check(adam)


def test_parameters_spoiled_by_the_last_step_do_not_pass():
    """One step an epoch: the loss is from before the update that ruins the parameters."""
    model = MODELS["ae"](output="linear")
    keeper, sgd = Keeper(model), OPTIMIZERS["sgd"](1e38)
    with pytest.raises(DivergedError, match="updated parameters are not finite in epoch 1, step 1"):
        fit(model, 1000 * data(), optimizer=sgd, callbacks=[keeper], epochs=3)
    keeper.check(sgd)


def test_memory_that_overflows_does_not_pass():
    """g^2 is infinite in float32: Adam would stand still for ever, and say nothing."""
    model = VAE(D, (5,), L, likelihood="gaussian", sigma=1e-10)
    keeper, adam = Keeper(model), Adam()
    with pytest.raises(DivergedError, match=r"memory of adam is not finite.*: gradients too"):
        fit(model, data(), validation=data(9, 1), optimizer=adam, callbacks=[keeper], epochs=2)
    keeper.check(adam)


def test_a_validation_that_is_not_finite_stops_the_training():
    model = VAE(D, (5,), L, likelihood="gaussian")
    keeper, adam = Keeper(model), Adam()
    with pytest.raises(DivergedError, match=r"the validation loss is not .*: the scale of"):
        fit(model, data(), validation=1e30 * data(), optimizer=adam, callbacks=[keeper], epochs=2)
    keeper.check(adam)


def diverge_from(stop, monkeypatch):
    """A training that stops in epoch 2, and goes on with a learning rate of 1e30."""
    model = VAE(D, (5,), L, likelihood="gaussian")
    training = Training(Adam(), n_examples=22, batch_size=8)
    interrupt(monkeypatch, model, stop)
    with pytest.raises(Stopped):
        fit(model, data(), epochs=4, resume=training)
    training.optimizer.learning_rate = 1e30
    return model, training


def test_divergence_after_a_resume_goes_back_to_where_it_resumed(monkeypatch):
    model, training = diverge_from(4, monkeypatch)
    keeper, terms = Keeper(model), list(training.terms)
    keeper(training)
    with pytest.raises(DivergedError, match=r"parameters after epoch 1 and 1 steps$"):
        fit(model, data(), epochs=4, resume=training)
    keeper.check(training.optimizer)
    assert (training.epoch, training.step, training.terms) == (1, 1, terms)


def test_ctrl_c_does_not_save_what_is_not_finite(monkeypatch):
    model = MODELS["ae"](output="linear")
    interrupt(monkeypatch, model, 1)
    calls, before = [], model.theta.copy()
    with pytest.raises(DivergedError, match="updated parameters"):
        fit(
            model,
            1000 * data(),
            optimizer="sgd",
            learning_rate=1e38,
            callbacks=[calls.append],
            **SETTINGS,
        )
    assert calls == []
    np.testing.assert_array_equal(model.theta, before)


def test_overflow_warns_nobody(recwarn):
    with pytest.raises(DivergedError):
        fit(VAE(D, (5,), L, likelihood="gaussian"), 1e30 * data(), **SETTINGS)
    assert not recwarn.list


# --- progress ---


class Terminal(io.StringIO):
    """A terminal without colours, 100 columns wide; rich asks the environment for both."""

    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    for name, value in {"TERM": "xterm", "COLUMNS": "100", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    return Terminal()


def last_line(terminal):
    """What the bar looked like in the end."""
    text = re.sub(r"\x1b\[[?\d]*\w", "", terminal.getvalue())
    return re.split(r"[\r\n]+", text.strip())[-1]


def test_into_a_pipe_goes_a_line_an_epoch(capsys):
    fit(MODELS["vae"](), data(), validation=data(9, 1), progress=True, **SETTINGS)
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert [line.split("  ")[0] for line in lines] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    for line in lines:
        words = line.split()
        assert (words[2], words[4], words[6], words[8]) == ("-ELBO", "rec", "KL", "val")
        float(words[3])
        float(words[9])


def test_an_autoencoder_shows_its_mse(capsys):
    history = fit(MODELS["ae"](), data(), epochs=1, progress=True)
    assert capsys.readouterr().err == f"epoch 1/1  MSE {history['mse'][0]:.4g}\n"


def test_no_progress_is_silence(capsys):
    fit(MODELS["vae"](), data(), **SETTINGS)
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_there_is_a_bar(terminal):
    model = MODELS["vae"]()
    with redirect_stderr(terminal):
        history = fit(model, data(), validation=data(9, 1), progress=True, **SETTINGS)
    last = last_line(terminal)
    assert "epoch 3/3" in last
    assert f"-ELBO {history['neg_elbo'][-1]:.4g} rec" in last
    assert f"val {history['val_neg_elbo'][-1]:.4g} " in last
    assert "images/s" in last
    assert last.endswith(" 00:00")
    assert len(last) <= 100


@pytest.mark.parametrize("columns", [40, 60, 80])
def test_in_a_narrow_terminal_the_time_left_stays(terminal, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    with redirect_stderr(terminal):
        fit(MODELS["vae"](), data(), validation=data(9, 1), progress=True, **SETTINGS)
    last = last_line(terminal)
    assert len(last) <= columns
    bar = "━━━━" if os.name == "posix" else "----"  # as the encoding has it
    assert last.startswith(f"epoch 3/3 {bar} -E")
    assert re.search(r" [\d,]+ images/s 00:00$", last)


def test_what_the_bar_shows_is_saved(terminal):
    def fail(training):
        raise OSError("disk full")

    with redirect_stderr(terminal), pytest.raises(OSError, match="disk full"):
        fit(MODELS["vae"](), data(), progress=True, callbacks=[fail], **SETTINGS)
    assert "ELBO" not in terminal.getvalue()


def test_a_resumed_bar_starts_where_it_stopped(terminal):
    model, training = MODELS["ae"](), Training(Adam(), n_examples=22, batch_size=8)
    fit(model, data(), epochs=2, resume=training)
    with redirect_stderr(terminal):
        fit(model, data(), epochs=3, resume=training, progress=True)
    first = terminal.getvalue().split("images/s")[0]
    assert "epoch 3/3" in first
    assert "epoch 1/3" not in terminal.getvalue()
    assert f"MSE {training.history['mse'][1]:.4g}" in first


def test_fit_needs_little_beside_the_data():
    x = np.random.default_rng(0).random((20_000, 100), dtype=np.float32)
    model = Autoencoder(100, hidden=(8,), n_latent=2)
    tracemalloc.start()
    fit(model, x, epochs=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < x.nbytes / 4  # a copy of the data, or of what is made of it, would show


# --- models that have come apart ---


def assigned(model):
    model.decoder.layers[0].W = model.decoder.layers[0].W.copy()


def other_theta(model):
    model.theta = model.theta.copy()


def other_grad(model):
    model.grad = model.grad.copy()


def another_layer(model):
    model.decoder.layers = (Dense(L, L), *model.decoder.layers)


def one_layer_less(model):
    model.decoder.layers = model.decoder.layers[:-1]


def other_decoder(model):
    model.decoder = MODELS["vae"](seed=5).decoder


def heads_swapped(model):
    model.to_mu, model.to_logvar = model.to_logvar, model.to_mu


def reversed_view(model):
    model.to_mu.W = model.to_mu.W[::-1]


def a_number(model):
    model.decoder.layers[0].b = 0


def no_gradient(model):
    model.decoder.layers[0].dW = None


def another_dtype(model):
    model.to_mu.W = model.to_mu.W.view(np.int32)


def emptied(model):
    model.to_mu.b = model.to_mu.b[:0]


def gone(model):
    del model.decoder.layers[0].W


def no_theta(model):
    model.theta = None


def no_grad(model):
    model.grad = None


def rebinding(model):
    """As a hand-written backward may do: dW = instead of dW[...] =."""
    layer = model.decoder.layers[0]
    real = layer.backward

    def backward(dy, need_dx=True):
        dx = real(dy, need_dx)
        layer.dW = layer.dW.copy()
        return dx

    layer.backward = backward


@pytest.mark.parametrize("workers", [1, 2] if sys.platform == "linux" else [1])
@pytest.mark.parametrize(
    ("change", "name"),
    [
        (assigned, "decoder.0.W"),
        (other_theta, "encoder.0.W"),
        (other_grad, "encoder.0.dW"),
        (another_layer, r"decoder.\d.W"),
        (one_layer_less, "theta"),
        (other_decoder, "decoder.0.W"),
        (heads_swapped, "to_mu.W"),
        (reversed_view, "to_mu.W"),
        (a_number, "decoder.0.b"),
        (no_gradient, "decoder.0.dW"),
        (another_dtype, "to_mu.W"),
        (emptied, "to_mu.b"),
        (gone, "decoder.0.W"),
        (no_theta, "theta"),
        (no_grad, "grad"),
        (rebinding, "decoder.0.dW"),
    ],
)
def test_what_the_optimizer_would_not_train_is_refused(change, name, workers):
    model = MODELS["vae"]()
    theta = model.theta.copy()
    change(model)
    training = Training(Adam(), n_examples=22, batch_size=8, seed=3)
    with pytest.raises(ValueError, match=f"^{name}: not what the model was made with; write into"):
        fit(model, data(), workers=workers, epochs=3, resume=training)
    assert (training.step, training.terms, training.optimizer.t) == (0, [], 0)
    assert model.theta is None or (model.theta == theta).all()


def test_a_layer_without_parameters_may_be_put_in():
    """As lesson 8 puts a ReLU behind the codes."""
    model = MODELS["ae"]()
    model.encoder = Sequential(*model.encoder.layers, ReLU())
    before = {name: p.copy() for name, p in model.named_parameters().items()}
    fit(model, data(), **SETTINGS)
    assert all((p != before[name]).any() for name, p in model.named_parameters().items())
    assert isinstance([*model.leaves()][3], ReLU)


def test_a_callback_cannot_take_a_weight_away_either():
    model = MODELS["vae"]()
    with pytest.raises(ValueError, match=r"^decoder.0.W: not what"):
        fit(model, data(), callbacks=[lambda training: assigned(model)], **SETTINGS)


def test_parameters_of_another_dtype_than_the_models():
    class Own(Autoencoder):
        def pack(self, layers):
            super().pack({"own": Dense(2, 2)})

    Own(D, (5,), L)
    with pytest.raises(ValueError, match=r"^parameters of float32 in a model of float64$"):
        Own(D, (5,), L, dtype="float64")


def test_a_model_may_keep_one_dict_of_terms():
    class Own(Autoencoder):
        def forward(self, x, noise=None):
            terms = self.terms
            loss = super().forward(x)
            terms.update(self.terms)
            self.terms = terms
            return loss

    models = [kind(D, (5,), L) for kind in (Autoencoder, Own)]
    histories = [fit(model, data(), **SETTINGS)["mse"] for model in models]
    assert histories[0] == histories[1]


@pytest.mark.parametrize("model", [VAE, Dense(D, L), None])
def test_what_is_no_model_is_refused(model):
    with pytest.raises(ValueError, match=r"^model: got .*, want one such as VAE\(784\)$"):
        fit(model, data())
