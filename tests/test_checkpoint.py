"""The room `checkpoint`: what is saved comes back, and what is no checkpoint is refused."""

import errno
import io
import json
import pickle
import re
import signal
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scratchvae import VAE, Autoencoder, DenoisingAutoencoder, checkpoint, train
from scratchvae.layers import Sequential, Sigmoid
from scratchvae.losses import BernoulliNLL, GaussianNLL
from scratchvae.optim import OPTIMIZERS, make_optimizer
from scratchvae.train import Stopped, Training, fit

D, L = 6, 2
MODELS = {
    "ae": lambda **kw: Autoencoder(D, (5,), L, activation="tanh", **kw),
    "dae": lambda **kw: DenoisingAutoencoder(D, (), L, fraction=0.25, clip=False, **kw),
    "vae": lambda **kw: VAE(D, (5, 4), L, likelihood="gaussian", sigma=0.3, beta=0.1, **kw),
    "vae learned": lambda **kw: VAE(D, (5,), 1, likelihood="gaussian", sigma="learned", **kw),
}


def data(n=22, seed=0):
    return np.random.default_rng(seed).random((n, D), dtype="float32")


def trained(model, optimizer="adam", stop_at=None, **kw):
    """Train two epochs, or until so many examples of the third are seen; return the Training."""
    training = Training(make_optimizer(optimizer), n_examples=22, batch_size=8, seed=3, **kw)
    fit(model, data(), validation=data(9, 1), epochs=2, resume=training)
    if stop_at:
        fit_part(model, training, stop_at)
    return training


def fit_part(model, training, steps):
    real, count = model.backward, 0

    def backward():
        nonlocal count
        real()
        count += 1
        if count == steps:
            signal.raise_signal(signal.SIGINT)

    model.backward = backward
    with pytest.raises(Stopped):
        fit(model, data(), validation=data(9, 1), epochs=3, resume=training)
    del model.backward


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """The header and the arrays of a good checkpoint of an unfinished epoch."""
    path, model = tmp_path_factory.mktemp("good") / "model.npz", MODELS["vae"]()
    checkpoint.save(path, model, trained(model, stop_at=2), {"data": "mine"})
    with np.load(path) as file:
        arrays = dict(file)
    return json.loads(arrays.pop("header").tobytes()), arrays


@pytest.fixture
def written(tmp_path, parts):
    """Write a checkpoint from its parts, with changes."""

    def write(header=None, save=np.savez, without=(), **arrays):
        path = tmp_path / "changed.npz"
        text = json.dumps(parts[0] if header is None else header).encode()
        content = {"header": np.frombuffer(text, dtype=np.uint8), **parts[1]}
        content |= {name.replace("__", "."): array for name, array in arrays.items()}
        save(path, **{k: v for k, v in content.items() if k not in without})
        return path

    return write


def refusal(path):
    """The message with which load refuses a file; it names the file and stays on one line."""
    with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
        checkpoint.load(path)
    assert len(str(caught.value)) > len(f"{path}: ")
    return str(caught.value)


def load_or_refuse(path):
    """The checkpoint, or None where it is refused by the name of its file."""
    try:
        return checkpoint.load(path)
    except ValueError:
        refusal(path)
        return None


def changed(header, *keys, value):
    """A copy of the header with the value at header[key][key]... replaced."""
    header = json.loads(json.dumps(header))
    at = header
    for key in keys[:-1]:
        at = at[key]
    at[keys[-1]] = value
    return header


# --- what is saved comes back ---


@pytest.mark.parametrize("stop_at", [None, 1])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", MODELS)
def test_everything_comes_back(name, optimizer, stop_at, tmp_path):
    model, path = MODELS[name](seed=5), tmp_path / "model.npz"
    training = trained(model, optimizer, stop_at, binarize=True)
    checkpoint.save(path, model, training, {"data": "mnist10k", "epochs": 3})
    loaded = checkpoint.load(path)
    assert type(loaded.model) is type(model)
    assert loaded.model.config == model.config
    np.testing.assert_array_equal(loaded.model.theta, model.theta)
    assert loaded.model.theta.dtype == model.theta.dtype
    for key, parameter in model.named_parameters().items():
        np.testing.assert_array_equal(loaded.model.named_parameters()[key], parameter)
    there, here = loaded.training, training
    assert type(there.optimizer) is type(here.optimizer)
    assert there.optimizer.config == here.optimizer.config
    assert there.optimizer.t == here.optimizer.t == 6 + (stop_at or 0)
    assert there.optimizer.memory.keys() == here.optimizer.memory.keys()
    for key, vector in here.optimizer.memory.items():
        np.testing.assert_array_equal(there.optimizer.memory[key], vector)
    for field in ("seed", "batch_size", "binarize", "n_examples", "epoch", "step", "terms"):
        assert getattr(there, field) == getattr(here, field), field
    assert there.history.columns == here.history.columns
    assert list(there.history.columns) == list(here.history.columns)
    assert loaded.notes == {"data": "mnist10k", "epochs": 3}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_untrained_model_comes_back(dtype, tmp_path):
    model, path = MODELS["vae"](dtype=dtype), tmp_path / "model.npz"
    checkpoint.save(path, model, Training(make_optimizer("adam"), n_examples=22))
    loaded = checkpoint.load(str(path))
    np.testing.assert_array_equal(loaded.model.theta, model.theta)
    assert loaded.model.dtype == dtype
    assert (loaded.training.optimizer.t, loaded.training.optimizer.memory) == (0, {})
    assert loaded.notes == {}


def test_hyperparameters_of_the_optimizer_come_back(tmp_path):
    optimizer = make_optimizer("adamw", 0.02, beta1=0.8, weight_decay=1 / 3)
    checkpoint.save(tmp_path / "a.npz", MODELS["ae"](), Training(optimizer, n_examples=1))
    assert checkpoint.load(tmp_path / "a.npz").training.optimizer.config == optimizer.config


@pytest.mark.parametrize("name", MODELS)
def test_equal_states_give_equal_files(name, tmp_path):
    files = []
    for i in range(2):
        model = MODELS[name]()
        checkpoint.save(tmp_path / f"{i}.npz", model, trained(model, stop_at=1), {"a": 1})
        files.append((tmp_path / f"{i}.npz").read_bytes())
    assert files[0] == files[1]
    loaded = checkpoint.load(tmp_path / "0.npz")
    checkpoint.save(tmp_path / "2.npz", loaded.model, loaded.training, loaded.notes)
    assert (tmp_path / "2.npz").read_bytes() == files[0]
    with zipfile.ZipFile(tmp_path / "0.npz") as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_the_loaded_arrays_are_the_models_own(tmp_path):
    model, path = MODELS["ae"](), tmp_path / "model.npz"
    checkpoint.save(path, model, trained(model))
    before = path.read_bytes()
    loaded = checkpoint.load(path)
    fit(loaded.model, data(), validation=data(9, 1), epochs=3, resume=loaded.training)
    assert path.read_bytes() == before


def test_no_pickle_is_inside(tmp_path):
    model, path = MODELS["ae"](), tmp_path / "model.npz"
    checkpoint.save(path, model, trained(model))
    with np.load(path, allow_pickle=False) as file:
        assert all(file[name].dtype != object for name in file.files)


def test_unknown_arrays_are_not_read(written, parts):
    bomb = np.empty(3, dtype=object)
    loaded = checkpoint.load(written(note=np.arange(3), extra=bomb))
    np.testing.assert_array_equal(loaded.model.theta, parts[1]["theta"])


# --- saving ---


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_not_saved(value, tmp_path):
    model, path = MODELS["ae"](), tmp_path / "model.npz"
    training = trained(model)
    checkpoint.save(path, model, training)
    before = path.read_bytes()
    training.optimizer.memory["V"][3] = value
    with pytest.raises(ValueError, match=r"not saved, optimizer\.V holds NaN"):
        checkpoint.save(path, model, training)
    model.theta[3] = value
    with pytest.raises(ValueError, match=re.escape(f"{path}: not saved, theta holds NaN")):
        checkpoint.save(path, model, training)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.npz"]


def test_an_error_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    model, path = MODELS["ae"](), tmp_path / "model.npz"
    training = trained(model)
    checkpoint.save(path, model, training)
    before = path.read_bytes()

    def savez(file, **arrays):
        file.write(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", savez)
    with pytest.raises(OSError, match=re.escape(f"No space left on device: {str(path)!r}")):
        checkpoint.save(path, model, training)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.npz"]


def test_an_optimizer_of_ones_own_is_not_saved(tmp_path):
    model, path = MODELS["ae"](), tmp_path / "model.npz"
    for name in ("Mine", "Adam"):
        mine = type(name, (OPTIMIZERS["adam"],), {})
        with pytest.raises(ValueError, match=rf"model\.npz: not saved, optimizer: .*{name}.* none"):
            checkpoint.save(path, model, Training(mine()))
    rate = Training(make_optimizer("adam"))
    rate.optimizer.learning_rate = -1.0
    with pytest.raises(ValueError, match=r"not saved, learning_rate: got -1\.0"):
        checkpoint.save(path, model, rate)
    assert not path.exists()


def test_a_model_of_ones_own_is_not_saved(tmp_path):
    class Mine(VAE):
        """It would come back as a VAE without what it does otherwise."""

    with pytest.raises(ValueError, match=r"model\.npz: not saved, model: .*Mine.* is none of ae"):
        checkpoint.save(tmp_path / "model.npz", Mine(4), Training(make_optimizer("adam")))


def assigned(model):
    model.encoder.layers[0].W = model.encoder.layers[0].W.copy()


def other_activation(model):
    model.encoder.layers = (model.encoder.layers[0], Sigmoid(), *model.encoder.layers[2:])


def another_layer(model):
    model.decoder = Sequential(*model.decoder.layers, Sigmoid())


def other_likelihood(model):
    model.nll = GaussianNLL(0.3)


def other_loss(model):
    model.nll = BernoulliNLL()


def no_kl(model):
    del model.kl


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (assigned, "encoder.0.W: not what the model was made with; write into the arrays, as in"),
        (
            other_activation,
            "model: its layers are Dense, Sigmoid, Dense, ReLU, Dense, Dense, Dense, ReLU, ",
        ),
        (another_layer, "model: its layers are Dense, ReLU, Dense, ReLU, Dense, Dense, Dense"),
        (other_likelihood, "model: its nll is not the likelihood of its sigma"),
        (other_loss, "model: its nll is BernoulliNLL, not GaussianNLL, which load would not make"),
        (no_kl, "model: its kl is NoneType, not GaussianKL, which load would not make"),
    ],
)
def test_a_model_that_load_would_make_otherwise_is_not_saved(change, why, tmp_path):
    model, path = MODELS["vae"](), tmp_path / "model.npz"
    training = trained(model)
    model.note = "of the user's"
    checkpoint.save(path, model, training)
    before = path.read_bytes()
    change(model)
    with pytest.raises(ValueError, match=re.escape(f"{path}: not saved, {why}")):
        checkpoint.save(path, model, training)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("notes", "why"),
    [
        (["a"], r"got \['a'\], want a dict"),
        ("", "got '', want a dict"),
        ({"n": np.int64(3)}, "Object of type int64 is not JSON serializable"),
        ({"path": Path("a")}, "Object of type .*Path is not JSON serializable"),
    ],
)
def test_notes_that_no_checkpoint_holds_are_not_saved(notes, why, tmp_path):
    path, model = tmp_path / "model.npz", MODELS["ae"]()
    with pytest.raises(ValueError, match=rf"model\.npz: not saved, notes: {why}"):
        checkpoint.save(path, model, trained(model), notes)
    assert not path.exists()


@pytest.mark.parametrize("rate", [0.0, 0, np.float32(1e-3)])
def test_a_rate_that_a_schedule_has_set_is_saved(rate, tmp_path):
    model, path = MODELS["ae"](), tmp_path / "model.npz"
    training = trained(model)
    training.optimizer.learning_rate = rate
    checkpoint.save(path, model, training)
    assert checkpoint.load(path).training.optimizer.learning_rate == rate


def test_a_model_without_a_training_is_saved_and_can_be_trained(tmp_path):
    path = tmp_path / "model.npz"
    prepared, model = Training(make_optimizer("adam")), MODELS["ae"]()
    prepared.optimizer.prepare(model.theta, model.grad)  # as fit leaves it, stopped in step 1
    for training in (Training(make_optimizer("adam")), prepared):
        checkpoint.save(path, model, training)
        loaded = checkpoint.load(path)
        assert np.array_equal(loaded.model.theta, model.theta)
        fit(loaded.model, data(), epochs=1, resume=loaded.training)
        assert (loaded.training.epoch, loaded.training.n_examples) == (1, 22)


def test_all_steps_of_an_epoch_that_has_not_ended(tmp_path, monkeypatch):
    """As after a validation that failed: the epoch ends when the training goes on."""
    model, path = MODELS["vae"](), tmp_path / "model.npz"
    training = trained(model)

    def no_memory(*args, **kw):
        raise MemoryError

    monkeypatch.setattr(train, "mean_terms", no_memory)
    with pytest.raises(MemoryError):
        fit(model, data(), validation=data(9, 1), epochs=3, resume=training)
    assert training.step == training.steps_an_epoch
    checkpoint.save(path, model, training)
    monkeypatch.undo()
    loaded = checkpoint.load(path)
    fit(loaded.model, data(), validation=data(9, 1), epochs=3, resume=loaded.training)
    whole = MODELS["vae"]()
    again = trained(whole)
    fit(whole, data(), validation=data(9, 1), epochs=3, resume=again)
    assert np.array_equal(loaded.model.theta, whole.theta)
    assert loaded.training.history == again.history


def test_a_refused_fit_leaves_the_training_as_it_was():
    training = Training(make_optimizer("adam"), binarize=True)
    with pytest.raises(ValueError, match="binarize: x has values outside"):
        fit(MODELS["vae"](), 3 * data(), epochs=1, resume=training)
    assert training.n_examples == 0


# --- files that are none ---


def test_a_missing_file_is_an_os_error(tmp_path):
    for path in (tmp_path / "none.npz", tmp_path):
        with pytest.raises(OSError, match=re.escape(repr(str(path)))):
            checkpoint.load(path)


def test_truncated_files_are_refused(written):
    path = written()
    content = path.read_bytes()
    for length in {*range(0, len(content), 97), *range(len(content) - 70, len(content))}:
        path.write_bytes(content[:length])
        refusal(path)


def test_damaged_bytes_are_refused_or_do_not_matter(written, parts):
    path = written()
    content = path.read_bytes()
    refused = 0
    for position in range(0, len(content), 61):
        damaged = bytearray(content)
        damaged[position] ^= 0xA5
        path.write_bytes(damaged)
        if (loaded := load_or_refuse(path)) is None:
            refused += 1
        else:  # a date in the zip directory, say
            np.testing.assert_array_equal(loaded.model.theta, parts[1]["theta"])
    assert refused > 0.8 * len(range(0, len(content), 61))


@pytest.mark.parametrize(
    "content", [b"", b"epoch,mse\n", b"\x89PNG\r\n\x1a\n" + bytes(100), b"PK\x05\x06" + bytes(18)]
)
def test_foreign_files_are_refused(content, tmp_path):
    path = tmp_path / "model.npz"
    path.write_bytes(content)
    refusal(path)


def test_a_foreign_npz_is_refused(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, x=np.zeros((3, 4)))
    assert "not a scratchvae checkpoint" in refusal(path)
    np.savez(path, header=np.arange(3))
    assert "not a scratchvae checkpoint" in refusal(path)


@pytest.mark.parametrize(
    "header", [[], "text", 3, None, {}, {"format": "other"}, {"format": "scratchvae checkpoint"}]
)
def test_foreign_headers_are_refused(header, written):
    path = written(header=[] if header is None else header)
    assert "not a scratchvae checkpoint" in refusal(path)


def test_a_newer_version_says_what_to_do(written, parts):
    message = refusal(written(changed(parts[0], "version", value=2)))
    assert "checkpoint version 2, this scratchvae reads 1; install a newer one" in message


def test_deep_json_is_refused(written):
    path = written()
    with_member(path, "header.npy", npy((100_000,), b"[" * 100_000, "|u1"))
    assert "not a scratchvae checkpoint" in refusal(path)


@pytest.mark.parametrize("name", ["header", "theta", "terms", "optimizer.M", "optimizer.V"])
def test_missing_arrays_are_named(name, written):
    message = refusal(written(without=[name]))
    assert name.removeprefix("optimizer.") in message


@pytest.mark.parametrize("key", ["model", "optimizer", "training", "history", "notes", "version"])
def test_missing_parts_of_the_header_are_named(key, written, parts):
    header = {name: value for name, value in parts[0].items() if name != key}
    assert f"no '{key}'" in refusal(written(header))


# --- arrays that do not fit ---


@pytest.mark.parametrize("name", ["theta", "optimizer__M", "optimizer__V"])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda a: a[:-1], "the model wants|more than"),
        (lambda a: np.append(a, a[:1]), "the model wants"),
        (lambda a: a.reshape(1, -1), "the model wants"),
        (lambda a: a.astype("float64"), "the model wants float32"),
        (lambda a: a.astype("int32"), "the model wants float32"),
        (lambda a: a * np.float32(np.nan), "holds NaN or infinite values"),
        (lambda a: a + np.float32(np.inf), "holds NaN or infinite values"),
        (lambda a: a.astype(">f4"), "the model wants"),
    ],
)
def test_wrong_vectors_are_refused(name, spoil, message, written, parts):
    path = written(**{name: spoil(parts[1][name.replace("__", ".")])})
    assert re.search(message, refusal(path))


@pytest.mark.parametrize(
    "terms", [np.zeros((1, 4)), np.zeros((2, 3)), np.zeros((2, 4), dtype="float32"), np.zeros(8)]
)
def test_wrong_terms_are_refused(terms, written):
    assert "terms: " in refusal(written(terms=terms))


def test_memory_of_another_optimizer_is_refused(written, parts):
    assert "state of Adam" in refusal(written(optimizer__h=parts[1]["theta"]))


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("training", "epoch"), 3, "epoch 3 and step 2 do not fit the history"),
        (("training", "step"), 4, "epoch 2 and step 4 do not fit"),
        (("training", "step"), 1, "terms: "),
        (("training", "step"), -1, "step: got -1"),
        (("training", "seed"), -1, "seed: got -1"),
        (("training", "batch_size"), 0, "batch_size: got 0"),
        (("training", "n_examples"), 1.5, "n_examples: got 1.5"),
        (("training", "n_examples"), 0, "step 2 do not fit"),
        (("training", "n_examples"), "22", "n_examples: got '22'"),
        (("training",), [], "list"),
        (("history",), [1], ""),
        (("history", "loss"), [1.0], "history: its columns differ in length"),
        (("history", "loss"), [None, None], ""),
        (("history", "mse"), [1.0, 1.0], "history: its columns are loss"),
        (("model", "n_features"), 7, "a model of|the model wants"),
        (("model", "n_features"), "6", "widths: got '6'"),
        (("model", "hidden"), [5, -4], "widths: got -4"),
        (("model", "hidden"), None, ""),
        (("model", "n_latent"), True, "widths: got True"),
        (("model", "model"), "gan", "model: got 'gan', want one of 'ae', 'dae', 'vae'"),
        (("model", "activation"), "gelu", "activation: got 'gelu'"),
        (("model", "depth"), 3, "configuration of a 'vae'"),
        (("model", "dtype"), "float16", "dtype: got 'float16'"),
        (("model",), 3, ""),
        (("optimizer", "name"), "lion", "optimizer: got 'lion'"),
        (("optimizer", "name"), ["adam"], "optimizer: got"),
        (("optimizer", "name"), "sgd", "optimizer 'sgd'"),
        (("optimizer", "t"), -1, "optimizer t: got -1"),
        (("optimizer", "t"), 0, "state of Adam"),
        (("optimizer", "beta1"), 1, "beta1: got 1"),
        (("optimizer", "momentum"), 0.5, "optimizer 'adam'"),
        (("optimizer", "learning_rate"), "fast", "learning_rate: got 'fast'"),
        (("notes",), [], "notes: want a JSON object"),
    ],
)
def test_wrong_headers_are_refused(keys, value, message, written, parts):
    path = written(changed(parts[0], *keys, value=value))
    assert re.search(message, refusal(path))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["adam", "vae", 10**12, 10**400, 2**63]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


def places(node, path=()):
    """The keys under which the values of a JSON document stand."""
    for key, inner in node.items():
        yield (*path, key)
        if isinstance(inner, dict):
            yield from places(inner, (*path, key))


@settings(deadline=None, max_examples=150)
@given(value=JSON, at=st.data())
def test_any_header_is_read_or_refused(parts, value, at, tmp_path_factory):
    header, arrays = parts
    path = tmp_path_factory.getbasetemp() / "fuzz.npz"
    header = changed(header, *at.draw(st.sampled_from(list(places(header)))), value=value)
    text = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
    np.savez(path, header=text, **arrays)
    if (loaded := load_or_refuse(path)) is not None:
        np.testing.assert_array_equal(loaded.model.theta, arrays["theta"])


# --- memory, and code, that a file asks for ---


def peak_of_refusal(path):
    """The message, and the most memory of the better of two readings.

    The first may be charged with a table of the interpreter's own that grows just then.
    """
    peaks = []
    for _ in range(2):
        tracemalloc.start()
        try:
            message = refusal(path)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    return message, min(peaks)


@pytest.mark.parametrize(
    "model",
    [
        {"n_features": 10**12},
        {"n_features": 10**6, "hidden": [10**6]},
        {"hidden": [10**12], "n_features": 1, "n_latent": 1},
        {"hidden": [], "n_latent": 10**12},
        {"n_features": 10**400},
    ],
)
def test_a_header_that_promises_a_giant_model_allocates_nothing(model, written, parts):
    path = written({**parts[0], "model": {**parts[0]["model"], **model}})
    message, peak = peak_of_refusal(path)
    assert "more than" in message
    assert peak < 1_000_000


def npy(shape, data, descr="<f4"):
    """The bytes of a .npy file that promises a shape."""
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + data


def with_member(path, name, content, compression=zipfile.ZIP_STORED):
    """Replace a member of a checkpoint by other bytes."""
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    members[name] = content
    with zipfile.ZipFile(path, "w", compression) as archive:
        for member, its in members.items():
            archive.writestr(member, its)


def test_an_array_that_promises_10_to_the_12_numbers_allocates_nothing(written):
    path = written()
    with_member(path, "theta.npy", npy((10**12,), bytes(64)))
    message, peak = peak_of_refusal(path)
    assert "promises 4000000000000 bytes" in message
    assert peak < 1_000_000


def test_a_lying_compressed_member_allocates_nothing(written):
    path = written()
    with_member(path, "theta.npy", npy((10**4,), bytes(40_000)), zipfile.ZIP_DEFLATED)
    raw = path.read_bytes()
    size = len(npy((10**4,), bytes(40_000)))
    # the size stands in the local header and in the directory
    path.write_bytes(raw.replace(size.to_bytes(4, "little"), (2**31).to_bytes(4, "little")))
    message, peak = peak_of_refusal(path)
    assert "more than its compressed form can hold" in message
    assert peak < 1_000_000


def test_a_compressed_bomb_is_refused(written):
    path = written()
    content = npy((2**22,), bytes(2**24))
    with_member(path, "theta.npy", content, zipfile.ZIP_DEFLATED)
    message, peak = peak_of_refusal(path)
    assert "save them uncompressed" in message
    assert peak < 1_000_000


def test_a_compressed_checkpoint_is_none(written):
    """Its arrays could take any multiple of the file; ``save`` writes none."""
    assert "save them uncompressed" in refusal(written(save=np.savez_compressed))


def test_a_model_of_very_many_layers_is_refused(written, parts):
    """A layer takes two bytes of JSON and eight of theta, and a thousand of Python's."""
    n = 20_000
    config = {**parts[0]["model"], "n_features": 1, "hidden": [1] * n, "n_latent": 1}
    theta = np.zeros(4 * n + 6, dtype="float32")
    path = written({**parts[0], "model": config}, theta=theta)
    message, peak = peak_of_refusal(path)
    assert "a model of 20002 layers, at most 1000 are read" in message
    assert peak < 64 * path.stat().st_size


def test_what_a_file_says_cannot_steer_the_terminal(written, parts):
    for value in ("\x1b[2J\n", "x" * 10_000, "\u202e"):
        path = written(changed(parts[0], "version", value=value))
        message = refusal(path)
        assert message.isprintable()
        assert len(message) < len(str(path)) + 600


@pytest.mark.parametrize("values", ["12", [True, True], ["1", "2"]])
def test_a_history_of_no_numbers_is_refused(values, written, parts):
    assert "history: " in refusal(written(changed(parts[0], "history", "loss", value=values)))


class Payload:
    """What a pickle may do when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("name", ["theta", "header", "optimizer.M"])
def test_pickles_do_not_run(name, written, tmp_path):
    path, victim = written(), tmp_path / "victim"
    payload = np.array([Payload(victim)], dtype=object)
    file = io.BytesIO()
    np.save(file, payload)
    np.load(io.BytesIO(file.getvalue()), allow_pickle=True)[0].close()
    assert victim.exists()  # so it is armed
    victim.unlink()
    with_member(path, f"{name}.npy", file.getvalue())
    assert "Python objects" in refusal(path)
    path.write_bytes(pickle.dumps(Payload(victim)))
    refusal(path)
    assert not victim.exists()
