"""The room `runs`: the run directory, what is in it, and how it is opened again."""

import csv
import json
import os
import re
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from scratchvae import VAE, Autoencoder, DenoisingAutoencoder, checkpoint, runs
from scratchvae.datasets import Dataset
from scratchvae.evaluate import corrupted
from scratchvae.optim import Adam
from scratchvae.train import Training, fit

MODELS = {
    "ae": lambda n, latents: Autoencoder(n, (8,), latents),
    "dae": lambda n, latents: DenoisingAutoencoder(n, (8,), latents),
    "vae": lambda n, latents: VAE(n, (8,), latents),
}


def images(n_train=30, n_test=6, shape=(5, 4), labels=True, name="mine.npz"):
    """A data set of random images; the classes are 0, 1, 2."""
    rng = np.random.default_rng(0)
    n = n_train + n_test
    x = rng.random((n, shape[0] * shape[1]), dtype="float32")
    y = np.arange(n) % 3 if labels else None
    parts = (
        x[:n_train],
        y if y is None else y[:n_train],
        x[n_train:],
        y if y is None else y[n_train:],
    )
    return Dataset(name, *parts, image_shape=shape)


def trained(kind, data, latents=3):
    model = MODELS[kind](data.x_train.shape[1], latents)
    training = Training(Adam(), batch_size=8, n_examples=len(data.x_train))
    fit(model, data.x_train, validation=data.x_test, epochs=2, resume=training)
    return model, training


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def picture(path):
    """The pixels of a PNG that shows something."""
    pixels = matplotlib.image.imread(path)
    assert pixels.ndim == 3
    assert pixels.std() > 0.01
    return pixels


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(tmp_path):
    """A run directory without pictures."""
    directory, data = tmp_path / "run", images()
    directory.mkdir()
    model, training = trained("vae", data)
    runs.save_run(directory, model, training, {"data": "mine.npz", "epochs": 2})
    return directory


# --- making the directory ---


def test_default_directories_are_numbered(here):
    made = [str(runs.new_directory(kind, None)) for kind in ("vae", "ae", "vae", "vae")]
    assert made == [str(Path("runs", name)) for name in ("vae", "ae", "vae-2", "vae-3")]
    assert names(here / "runs") == ["ae", "vae", "vae-2", "vae-3"]


@pytest.mark.skipif(os.name != "posix", reason="links are for anyone on POSIX")
@pytest.mark.parametrize("target", ["nowhere", "file"])
def test_no_runs_directory_can_be_made(here, target):
    (here / "file").write_text("", encoding="utf-8")
    (here / "runs").symlink_to(target)
    with pytest.raises(OSError, match="runs"):
        runs.new_directory("vae", None)


def test_a_directory_of_ones_own(tmp_path):
    out = tmp_path / "a" / "b c"
    assert runs.new_directory("vae", str(out)) == out
    assert out.is_dir()
    (out / "notes.txt").write_text("mine", encoding="utf-8")
    assert runs.new_directory("vae", str(out)) == out


def test_a_directory_with_a_run_is_refused(run):
    message = f"--out: {run} holds a run already; go on with it by --resume {run}"
    with pytest.raises(ValueError, match=re.escape(message)):
        runs.new_directory("vae", str(run))


@pytest.mark.parametrize("name", ["config.json", "history.csv", "samples.png"])
def test_files_of_ones_own_are_not_overwritten(name, tmp_path):
    (tmp_path / name).write_text("mine", encoding="utf-8")
    with pytest.raises(ValueError, match=f"would overwrite {re.escape(name)} in"):
        runs.new_directory("vae", str(tmp_path))
    assert names(tmp_path) == [name]


def test_a_file_in_the_way_is_an_os_error(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    for out in ("file", "file/run"):
        with pytest.raises(OSError, match="file"):
            runs.new_directory("vae", str(tmp_path / out))


# --- saving and opening ---


def test_what_is_saved(run):
    assert names(run) == ["config.json", "history.csv", "model.npz"]
    model, training = trained("vae", images())
    loaded = checkpoint.load(run / "model.npz")
    np.testing.assert_array_equal(loaded.model.theta, model.theta)
    with (run / "history.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    for name, values in training.history.columns.items():
        assert [float(row[name]) for row in rows] == values
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    assert config["model"] == "vae"
    assert config["hidden"] == [8]
    assert config["optimizer"]["name"] == "adam"
    assert config["optimizer"]["learning_rate"] == 0.001
    assert (config["training_seed"], config["batch_size"], config["binarize"]) == (0, 8, False)
    assert (config["data"], config["epochs"]) == ("mine.npz", 2)


def test_a_run_is_opened_by_its_directory_or_its_file(run):
    for path in (run, str(run), run / "model.npz"):
        opened = runs.open_run(path)
        assert opened.directory == run
        assert opened.notes["data"] == "mine.npz"
        assert opened.training.epoch == 2


@pytest.mark.parametrize("name", ["none", "empty", "config.json"])
def test_what_is_no_run_is_refused(name, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(str(tmp_path / name))):
        runs.open_run(tmp_path / name)


@pytest.mark.parametrize(
    "notes",
    [
        {},
        {"data": "mnist10k"},
        {"data": 3, "epochs": 3},
        {"data": "mnist10k", "epochs": 0},
        {"data": "mnist10k", "epochs": "3"},
        {"data": "mnist10k", "epochs": 3, "data_dir": 7},
        {"data": "mnist10k", "epochs": 3, "preset": []},
    ],
)
def test_a_checkpoint_of_python_code_is_no_run(notes, tmp_path):
    model, training = trained("ae", images())
    checkpoint.save(tmp_path / "model.npz", model, training, notes)
    with pytest.raises(ValueError, match="was not written by 'scratchvae train'"):
        runs.open_run(tmp_path)


# --- the data of a run ---


@pytest.fixture
def own(tmp_path):
    """Two files of one's own: images of 20 and of 30 pixels."""
    for name, shape in (("mine.npz", (5, 4)), ("other.npz", (5, 6))):
        data = images(shape=shape)
        np.savez(tmp_path / name, x=data.x_train.reshape(-1, *shape), y=data.y_train)
    return tmp_path


def opened(directory, **notes):
    model, training = trained("vae", images())
    checkpoint.save(directory / "model.npz", model, training, {"epochs": 2, **notes})
    return runs.open_run(directory)


def test_a_run_loads_its_data(own):
    data = opened(own, data=str(own / "mine.npz")).dataset()
    assert data.name == "mine.npz"
    assert data.x_train.shape[1] == 20


def test_a_run_loads_other_data_of_the_same_width(own, run):
    assert runs.open_run(run).dataset(str(own / "mine.npz")).name == "mine.npz"
    with pytest.raises(ValueError, match=r"other.npz: has 30 features, the model of .* wants 20"):
        runs.open_run(run).dataset(str(own / "other.npz"))


def test_a_run_remembers_the_data_directory(own, monkeypatch):
    asked = []

    def load(name, data_dir):
        asked.append((name, data_dir))
        return images()

    run = opened(own, data="mnist", data_dir="/there")
    monkeypatch.setattr(runs.datasets, "load", load)
    run.dataset()
    run.dataset(data_dir="/elsewhere")
    run.dataset("fashion-mnist")
    assert asked == [("mnist", "/there"), ("mnist", "/elsewhere"), ("fashion-mnist", None)]


# --- pictures ---


@pytest.mark.parametrize("kind", MODELS)
def test_the_four_pictures(kind, tmp_path):
    data = images()
    model, training = trained(kind, data)
    runs.draw_pictures(tmp_path, model, training.history, data)
    assert names(tmp_path) == sorted(runs.PICTURES)
    for name in runs.PICTURES:
        picture(tmp_path / name)


ODD_DATA = {
    "two rows": {"n_train": 1, "n_test": 1},
    "one test image": {"n_train": 4, "n_test": 1},
    "no labels": {"labels": False},
}


@pytest.mark.parametrize("latents", [1, 2])
@pytest.mark.parametrize(
    ("odd", "kind"), [("two rows", "ae"), ("one test image", "ae"), ("no labels", "vae")]
)
def test_pictures_of_odd_data(odd, kind, latents, tmp_path):
    data = images(**ODD_DATA[odd])
    model, _ = trained(kind, data, latents)
    runs.draw_samples(tmp_path / "samples.png", model, data, 3)
    runs.draw_latent(tmp_path / "latent.png", model, data)
    runs.draw_reconstructions(tmp_path / "reconstructions.png", model, data)
    runs.draw_interpolation(tmp_path / "interpolation.png", model, data, [(0, 0)], 4)
    for path in tmp_path.iterdir():
        picture(path)


def spy(monkeypatch, name):
    """Record what a function of plots is called with."""
    calls, real = [], getattr(runs.plots, name)

    def record(*args, **kwargs):
        calls.append((args, kwargs))
        return real(*args, **kwargs)

    monkeypatch.setattr(runs.plots, name, record)
    return calls


def test_rows_that_nobody_said_are_images(tmp_path):
    data = images()
    data = Dataset(data.name, data.x_train, None, data.x_test, None, image_shape=None)
    model, _ = trained("vae", data, 2)
    runs.draw_latent(tmp_path / "latent.png", model, data)
    runs.draw_samples(tmp_path / "samples.png", model, data, 3)
    for path in tmp_path.iterdir():
        picture(path)


@pytest.mark.parametrize(
    ("name", "label"), [("mnist10k", "digit"), ("fashion-mnist", "class"), ("mine.npz", "class")]
)
def test_classes_are_digits_for_mnist_only(name, label, tmp_path, monkeypatch):
    data = images(name=name)
    calls = spy(monkeypatch, "latent")
    runs.draw_latent(tmp_path / "latent.png", trained("vae", data)[0], data)
    assert calls[0][1]["label_name"] == label


def test_codes_that_are_all_one_still_make_a_grid(tmp_path, monkeypatch):
    data = images()
    model, _ = trained("ae", data, 2)
    model.encoder.layers[-1].W[...] = 0
    calls = spy(monkeypatch, "latent")
    runs.draw_latent(tmp_path / "latent.png", model, data)
    _, z1, z2 = calls[0][1]["decoded"]
    assert (np.diff(z1) > 0).all()
    assert (np.diff(z2) > 0).all()
    picture(tmp_path / "latent.png")


def test_the_decoded_plane_is_where_it_says(tmp_path, monkeypatch):
    """Image (row, column) of the grid is the decoded (z1[column], z2[row])."""
    data = images()
    model, _ = trained("vae", data, 2)
    calls = spy(monkeypatch, "latent")
    runs.draw_latent(tmp_path / "latent.png", model, data, side=7)
    decoded, z1, z2 = calls[0][1]["decoded"]
    assert (z1[0], z1[-1], z2[0], z2[-1]) == (-3, 3, -3, 3)
    z = np.array([[z1[5], z2[2]]], dtype="float32")
    np.testing.assert_allclose(decoded[2 * 7 + 5], model.decode(z)[0], rtol=1e-5)


def test_the_plane_of_an_autoencoder_is_the_middle_of_its_codes():
    codes = np.stack([np.arange(101.0), np.full(101, 7.0)], axis=1)
    low, high = runs.plane_corners(trained("ae", images(), 2)[0], codes)
    assert low.tolist() == [2, 7]
    assert high.tolist() == [98, pytest.approx(7.008)]


def test_reconstructions_show_one_image_of_each_class_first(tmp_path, monkeypatch):
    data = images(n_test=7)
    data.y_test[...] = [4, 4, 2, 2, 0, 4, 2]
    model, _ = trained("ae", data)
    calls = spy(monkeypatch, "reconstructions")
    error = runs.draw_reconstructions(tmp_path / "a.png", model, data, 5)
    (x, y), options = calls[0]
    np.testing.assert_array_equal(x, data.x_test[[4, 2, 0, 1, 3]])
    np.testing.assert_allclose(y, model.reconstruct(x), rtol=1e-5)
    assert options["noisy"] is None
    assert error == pytest.approx(np.mean((x - y) ** 2), rel=1e-6)
    np.testing.assert_allclose(options["errors"], ((x - y) ** 2).mean(axis=1))


def test_the_denoiser_is_given_corrupted_images(tmp_path, monkeypatch):
    data = images()
    model, _ = trained("dae", data)
    calls = spy(monkeypatch, "reconstructions")
    error = runs.draw_reconstructions(tmp_path / "a.png", model, data, 4, seed=3)
    (x, y), options = calls[0]
    np.testing.assert_allclose(options["errors"], ((x - y) ** 2).mean(axis=1))
    assert error == pytest.approx(((x - y) ** 2).mean(), rel=1e-6)  # beside the clean images
    np.testing.assert_array_equal(options["noisy"], corrupted(model, x, 3))
    np.testing.assert_allclose(y, model.reconstruct(options["noisy"]), rtol=1e-5)


def test_samples_follow_the_seed(tmp_path, monkeypatch):
    data = images()
    calls = spy(monkeypatch, "image_grid")
    for kind in MODELS:
        model, _ = trained(kind, data)
        calls.clear()
        for seed in (1, 1, 2):
            runs.draw_samples(tmp_path / "a.png", model, data, 5, seed)
        first, same, other = (args[0] for args, _ in calls)
        assert first.shape == (5, 20)
        np.testing.assert_array_equal(first, same)
        assert (first != other).any()
        assert ("prior N(0, I)" in calls[0][1]["title"]) == (kind == "vae")


def test_samples_of_an_autoencoder_have_the_moments_of_its_codes(tmp_path, monkeypatch):
    data = images(n_train=200)
    model, _ = trained("ae", data, 2)
    drawn = []
    real = model.decode
    monkeypatch.setattr(model, "decode", lambda z: (drawn.append(z), real(z))[1])
    monkeypatch.setattr(runs.plots, "image_grid", lambda *args, **kwargs: None)
    monkeypatch.setattr(runs.plots, "save", lambda *args: None)
    runs.draw_samples(tmp_path / "a.png", model, data, 20_000)
    codes, z = runs.host_codes(model, data.x_train), drawn[0]
    np.testing.assert_allclose(z.mean(axis=0), codes.mean(axis=0), atol=0.03)
    np.testing.assert_allclose(np.cov(z.T), np.cov(codes.T), atol=0.03)


def test_interpolation_goes_from_code_to_code(tmp_path, monkeypatch):
    data = images()
    model, _ = trained("vae", data)
    calls = spy(monkeypatch, "interpolation")
    runs.draw_interpolation(tmp_path / "a.png", model, data, [(1, 4), (2, 0)], 5)
    (shown,), options = calls[0]
    assert shown.shape == (2, 5, 20)
    mu, _ = model.encode(data.x_test)
    np.testing.assert_allclose(shown[0][[0, -1]], model.decode(mu[[1, 4]]), rtol=1e-5)
    np.testing.assert_allclose(shown[1][2], model.decode((mu[[2]] + mu[[0]]) / 2)[0], rtol=1e-5)
    assert options["ends"] == [(data.y_test[1], data.y_test[4]), (data.y_test[2], data.y_test[0])]
    picture(tmp_path / "a.png")


def test_codes_in_batches():
    data = images(n_train=40)
    model, _ = trained("vae", data)
    codes = runs.host_codes(model, data.x_train, batch_size=7)
    np.testing.assert_allclose(codes, model.codes(data.x_train), atol=1e-6)
