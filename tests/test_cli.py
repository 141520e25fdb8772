"""The command line, as a person and as a program use it: mostly in this process, for speed."""

import csv
import json
import math
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import threadpoolctl
from terminal import posix_modules

import scratchvae
from scratchvae import VAE, checkpoint, cli, compiled, parser, proofs, runs, team, train_command
from scratchvae.evaluate import PCA, Ridge, corrupted, mse
from scratchvae.evaluate import evaluate as figures_of
from scratchvae.output import quoted
from scratchvae.presets import PRESETS, burda_rate
from scratchvae.train import fit

KINDS = ("ae", "dae", "vae")
SMALL = ("--hidden", "6", "--n-latent", "2", "--epochs", "2", "--batch-size", "16")
FILES = ["config.json", "history.csv", "model.npz"]
COMMAND = [sys.executable, "-m", "scratchvae"]
COMMANDS = ("train", "evaluate", "sample", "reconstruct", "interpolate", "latent")
COMMANDS += ("explore", "check", "info")


def write_images(path, n=60, side=8, seed=0):
    """A file of random images with labels 0, 1, 2."""
    x = np.random.default_rng(seed).random((n, side, side), dtype="float32")
    np.savez(path, x=x, y=np.arange(n) % 3)
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with data, and in runs/ a finished run of each kind; not to be changed."""
    directory = tmp_path_factory.mktemp("place")
    data = write_images(directory / "digits.npz")
    for kind in KINDS:
        argv = ["train", kind, "--data", str(data), *SMALL, "--out", str(directory / kind)]
        assert cli.main([*argv, "--quiet"]) == 0
    return directory


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An own working directory with data in it."""
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "digits.npz")
    return tmp_path


@pytest.fixture
def no_pictures(monkeypatch):
    monkeypatch.setattr(runs, "draw_pictures", lambda *args: None)


def answer(capsys, *argv, code=0):
    """Run the command; return what it wrote to stdout and stderr."""
    capsys.readouterr()
    assert cli.main([str(word) for word in argv]) == code
    return capsys.readouterr()


def report(capsys, *argv):
    """Run the command with --json; return what it reports on stdout, where nothing else is."""
    out, _ = answer(capsys, *argv, "--json")
    return json.loads(out, parse_constant=pytest.fail)


def complaint(capsys, *argv):
    """Run the command, which fails in one line on stderr and code 2; return the line."""
    out, err = answer(capsys, *argv, code=2)
    assert out == ""
    assert re.fullmatch(r"scratchvae[a-z ]*: error: [^\n]+\n", err)
    assert "Traceback" not in err
    return err


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def picture(path):
    """The pixels of a PNG that shows something."""
    pixels = matplotlib.image.imread(path)
    assert pixels.std() > 0.01
    return pixels


# --- train ---


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_leaves_a_model_a_history_a_configuration_and_pictures(place, kind):
    directory = place / kind
    assert names(directory) == sorted([*FILES, *runs.PICTURES])
    for name in runs.PICTURES:
        assert picture(directory / name).shape[1] > 300
    loaded = checkpoint.load(directory / "model.npz")
    assert loaded.model.kind == kind
    assert (loaded.model.n_features, loaded.model.hidden, loaded.model.n_latent) == (64, (6,), 2)
    assert loaded.training.epoch == 2
    with (directory / "history.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    last = loaded.training.history.last()
    assert {name: float(rows[1][name]) for name in last} == last
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    assert (config["model"], config["epochs"], config["batch_size"]) == (kind, 2, 16)


def test_training_says_what_it_did(here, capsys, no_pictures):
    out, err = answer(capsys, "train", "vae", "--data", "digits.npz", *SMALL)
    assert [line.split("  ")[0] for line in err.splitlines()] == ["epoch 1/2", "epoch 2/2"]
    assert "vae, digits.npz, after 2 epochs" in out
    last = checkpoint.load("runs/vae/model.npz").training.history.last()
    for name in ("neg_elbo", "kl", "reconstruction", "val_neg_elbo"):
        assert re.search(rf"\b{name}\b.*{last[name]:.5g} nats an image", out)
    assert not re.search(r"\bloss\b", out)  # the same as neg_elbo
    where = f"Model, history and pictures are in {Path('runs/vae')}:"
    assert out.index(where) < out.index("latent.png")


def test_with_a_beta_the_loss_is_a_figure_of_its_own(here, capsys, no_pictures):
    out, _ = answer(capsys, "train", "vae", "--data", "digits.npz", *SMALL, "--beta", "3")
    assert re.search(r"\bloss\b.* nats an image", out)


def test_training_as_json(here, capsys, no_pictures):
    got = report(capsys, "train", "ae", "--data", "digits.npz", *SMALL)
    last = checkpoint.load("runs/ae/model.npz").training.history.last()
    assert got["run"] == str(Path("runs/ae"))
    assert got["epochs"] == 2
    assert (got["mse"], got["val_mse"]) == (last["mse"], last["val_mse"])
    assert got["pictures"] == [str(Path("runs/ae", name)) for name in runs.PICTURES]
    assert got["seconds"] > 0


def test_quiet_training_has_no_progress(here, capsys, no_pictures):
    _, err = answer(capsys, "train", "ae", "--data", "digits.npz", *SMALL, "--quiet")
    assert err == ""


def test_runs_are_numbered(here, capsys, no_pictures):
    for _ in range(2):
        answer(capsys, "train", "vae", "--data", "digits.npz", *SMALL)
    assert names(here / "runs") == ["vae", "vae-2"]
    for name in FILES:
        first, second = (here / "runs" / run / name for run in ("vae", "vae-2"))
        assert first.read_bytes() == second.read_bytes()


OPTIONS = {
    "ae": {"output": "linear", "activation": "tanh", "dtype": "float64", "hidden": [5, 4]},
    "dae": {"corruption": "masking", "fraction": 0.25, "hidden": []},
    "vae": {"likelihood": "gaussian", "sigma": "learned", "beta": 0.5, "n_latent": 3, "seed": 7},
}


@pytest.mark.parametrize("kind", KINDS)
def test_options_reach_the_model_and_the_training(here, capsys, no_pictures, kind):
    argv = []
    for name, value in OPTIONS[kind].items():
        text = ",".join(map(str, value)) or "none" if name == "hidden" else str(value)
        argv += ["--" + name.replace("_", "-"), text]
    argv += ["--optimizer", "rmsprop", "--learning-rate", "0.002", "--binarize", "--epochs", "1"]
    answer(capsys, "train", kind, "--data", "digits.npz", "--batch-size", "9", *argv)
    loaded = checkpoint.load(f"runs/{kind}/model.npz")
    for name, value in OPTIONS[kind].items():
        assert loaded.model.config[name] == value, name
    training = loaded.training
    assert (training.optimizer.name, training.optimizer.learning_rate) == ("rmsprop", 0.002)
    assert (training.batch_size, training.binarize) == (9, True)
    assert training.seed == OPTIONS[kind].get("seed", 0)


def test_no_clip(here, capsys, no_pictures):
    answer(capsys, "train", "dae", "--data", "digits.npz", *SMALL, "--no-clip", "--sigma", "0.2")
    model = checkpoint.load("runs/dae/model.npz").model
    assert (model.clip, model.sigma) == (False, 0.2)


def test_the_command_line_trains_what_fit_trains(here, capsys, no_pictures):
    answer(capsys, "train", "vae", "--data", "digits.npz", *SMALL, "--seed", "3")
    run = runs.open_run("runs/vae")
    data = run.dataset()
    model = scratchvae.VAE(64, (6,), 2, seed=3)
    history = fit(model, data.x_train, validation=data.x_test, epochs=2, batch_size=16, seed=3)
    np.testing.assert_array_equal(model.theta, run.model.theta)
    assert history.columns == run.training.history.columns


@pytest.mark.parametrize(("every", "saved"), [("1", [0, 1, 2, 3, 4, 5]), ("2", [0, 2, 4, 5])])
def test_checkpoint_every(here, capsys, no_pictures, monkeypatch, every, saved):
    epochs, real = [], runs.save_run

    def save_run(directory, model, training, notes):
        epochs.append(training.epoch)
        real(directory, model, training, notes)

    monkeypatch.setattr(runs, "save_run", save_run)
    argv = ["train", "ae", "--data", "digits.npz", *SMALL, "--epochs", "5"]
    answer(capsys, *argv, "--checkpoint-every", every)
    assert epochs == saved


# --- resuming ---


def copied(place, kind, here):
    """A copy of a finished run, to be changed."""
    shutil.copytree(place / kind, here / kind)
    return here / kind


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_goes_on_to_the_same_files(place, here, capsys, monkeypatch, kind):
    if kind != "vae":  # pictures take their time
        monkeypatch.setattr(runs, "draw_pictures", lambda *args: None)
    copied(place, kind, here)
    data = place / "digits.npz"
    answer(capsys, "train", kind, "--resume", kind, "--epochs", "4")
    answer(capsys, "train", kind, "--data", data, *SMALL, "--epochs", "4", "--out", "whole")
    for name in names(here / "whole"):
        assert (here / kind / name).read_bytes() == (here / "whole" / name).read_bytes(), name


def test_resuming_a_finished_run_draws_its_pictures(place, here, capsys):
    """As after a Ctrl-C between the last checkpoint and the pictures."""
    run = copied(place, "vae", here)
    before = {name: (run / name).read_bytes() for name in names(run)}
    for name in runs.PICTURES:
        (run / name).unlink()
    _, err = answer(capsys, "train", "vae", "--resume", "vae")
    assert err == (
        "all 2 epochs are trained; more with: scratchvae train vae --resume vae --epochs 22\n"
    )
    assert {name: (run / name).read_bytes() for name in names(run)} == before


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["vae", "--resume", "vae", "--beta", "2"], "keeps its settings: leave out --beta"),
        (["vae", "--resume", "vae", "--out", "a", "--seed", "1"], "leave out --out, --seed"),
        (["dae", "--resume", "dae", "--no-clip"], "leave out --no-clip"),
        (["ae", "--resume", "vae"], "vae holds a run of vae: scratchvae train vae --resume vae"),
        (["vae", "--resume", "vae", "--epochs", "1"], "--epochs: got 1, but vae has 2 already"),
        (["vae", "--resume", "none"], "none: no run here: want a directory with model.npz"),
        (["vae", "--resume", "best.npz"], "--resume: got best.npz, want the run directory"),
        (["vae", "--resume", "digits.npz"], "digits.npz: not a scratchvae checkpoint"),
    ],
)
def test_contradictory_resumes_are_refused(place, here, capsys, argv, message):
    copied(place, "vae", here)
    copied(place, "dae", here)
    shutil.copy(here / "vae" / "model.npz", here / "best.npz")
    before = (here / "vae" / "model.npz").read_bytes()
    assert message in complaint(capsys, "train", *argv)
    assert names(here) == ["best.npz", "dae", "digits.npz", "vae"]
    assert (here / "vae" / "model.npz").read_bytes() == before


def test_data_that_shrank_are_noticed(here, capsys, no_pictures):
    answer(capsys, "train", "ae", "--data", "digits.npz", *SMALL)
    write_images(here / "digits.npz", n=50)
    line = complaint(capsys, "train", "ae", "--resume", "runs/ae", "--epochs", "3")
    assert "n_examples: got 45, but the training to resume has 54" in line


def test_a_run_finds_its_data_from_another_directory(here, capsys, no_pictures, monkeypatch):
    answer(capsys, "train", "ae", "--data", "digits.npz", *SMALL)
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    assert report(capsys, "evaluate", "../runs/ae")["images"] == 6
    answer(capsys, "train", "ae", "--resume", "../runs/ae", "--epochs", "3")


def test_a_run_remembers_the_data_directory(here, capsys, no_pictures, monkeypatch):
    """Without it a resumed run would go and download the data."""
    from scratchvae import datasets

    asked, real = [], datasets.load

    def load(name, data_dir=None):
        asked.append((name, data_dir))
        return real("digits.npz")

    monkeypatch.setattr(datasets, "load", load)
    answer(capsys, "train", "ae", "--data", "mnist", "--data-dir", "idx", *SMALL)
    answer(capsys, "evaluate", "runs/ae")
    answer(capsys, "train", "ae", "--resume", "runs/ae", "--epochs", "3")
    assert asked == [("mnist", "idx"), *[("mnist", str(here / "idx"))] * 2]


# --- a training that stops ---


def interrupted_at(monkeypatch, step, times=1):
    """Send Ctrl-C in the middle of the given step, counted from 1."""
    count, real = 0, scratchvae.VAE.backward

    def backward(model):
        nonlocal count
        real(model)
        count += 1
        if count == step:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(scratchvae.VAE, "backward", backward)


@pytest.mark.parametrize(
    ("step", "where"),
    [
        (1, "in epoch 1 after 1 of 4 steps"),
        (4, "after epoch 1 of 2"),
        (6, "in epoch 2 after 2 of 4 steps"),
        (8, "after epoch 2 of 2"),
    ],
)
def test_ctrl_c_saves_and_says_how_to_go_on(
    place, here, capsys, monkeypatch, no_pictures, step, where
):
    argv = ["--data", place / "digits.npz", *SMALL, "--checkpoint-every", "9", "--quiet"]
    with monkeypatch.context() as patch:
        interrupted_at(patch, step)
        out, err = answer(capsys, "train", "vae", *argv, "--out", "my run", code=130)
    assert out == ""
    assert err == (
        f"scratchvae: stopped {where}; saved {Path('my run/model.npz')}. "
        f"Go on with: scratchvae train vae --resume {quoted('my run')}\n"
    )
    training = checkpoint.load("my run/model.npz").training
    assert (training.epoch, training.step) == divmod(step, 4)
    assert names(here / "my run") == FILES
    answer(capsys, "train", "vae", "--resume", "my run", "--quiet")
    for name in FILES:
        assert (here / "my run" / name).read_bytes() == (place / "vae" / name).read_bytes(), name


def test_the_second_ctrl_c_keeps_the_last_checkpoint(place, here, capsys, monkeypatch, no_pictures):
    """Between two lines of a step parameters and counts do not belong together."""
    argv = ["--data", place / "digits.npz", *SMALL, "--quiet"]
    with monkeypatch.context() as patch:
        interrupted_at(patch, 6, times=2)
        _, err = answer(capsys, "train", "vae", *argv, "--out", "run", code=130)
    assert err == (
        f"scratchvae: interrupted; {Path('run/model.npz')} holds the last checkpoint. "
        "Go on with: scratchvae train vae --resume run\n"
    )
    training = checkpoint.load("run/model.npz").training
    assert (training.epoch, training.step) == (1, 0)
    answer(capsys, "train", "vae", "--resume", "run")
    assert (here / "run/model.npz").read_bytes() == (place / "vae/model.npz").read_bytes()


def test_ctrl_c_elsewhere_is_one_line(place, capsys, monkeypatch):
    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "open_run", stop)
    assert answer(capsys, "evaluate", place / "vae", code=130).err == "scratchvae: interrupted\n"


def test_divergence_is_one_line_and_keeps_the_last_good_epoch(here, capsys):
    argv = ["vae", "--data", "digits.npz", *SMALL, "--likelihood", "gaussian", "--epochs", "50"]
    argv += ["--optimizer", "sgd", "--learning-rate", "1e6", "--quiet", "--out", "run"]
    line = complaint(capsys, "train", *argv)
    assert "not finite in epoch" in line
    assert "the learning rate 1e+06 is too large, try 100000" in line
    assert line.endswith(f"; saved in {Path('run/model.npz')}\n")
    loaded = checkpoint.load("run/model.npz")
    assert np.isfinite(loaded.model.theta).all()
    assert f"parameters after epoch {loaded.training.epoch};" in line


# --- evaluate ---


@pytest.mark.parametrize("kind", KINDS)
def test_evaluate_gives_the_figures_of_the_last_epoch(place, capsys, kind):
    got = report(capsys, "evaluate", place / kind)
    run = runs.open_run(place / kind)
    last = run.training.history.last()
    for name in run.model.term_names:
        assert got[name] == pytest.approx(last[f"val_{name}"], rel=2e-6), name
    assert (got["images"], got["binarized"]) == (6, False)
    want = figures_of(run.model, run.dataset().x_test)
    assert {name: got[name] for name in want} == want


def test_evaluate_for_people(place, capsys):
    out, err = answer(capsys, "evaluate", place / "vae", "--samples", 5, "--rivals")
    got = report(capsys, "evaluate", place / "vae", "--samples", 5, "--rivals")
    assert err == ""
    assert "digits.npz, test part" in " ".join(out.split())
    for name, unit in {
        "neg_elbo": "nats an image",
        "kl": "nats an image",
        "neg_iw_bound_5": "nats an image",
        "mse": "a pixel",
        "mse_pca_2": "a pixel",
        "psnr": "dB",
    }.items():
        assert re.search(rf"\b{name}\b.* {got[name]:.5g} {unit}", out), name


def test_the_bound_is_better_than_the_elbo(place, capsys):
    got = report(capsys, "evaluate", place / "vae", "--samples", 200)
    assert got["neg_iw_bound_200"] < got["neg_elbo"]


def test_evaluate_is_limited_and_seeded(place, capsys):
    assert report(capsys, "evaluate", place / "vae", "--limit", 2)["images"] == 2
    assert report(capsys, "evaluate", place / "vae", "--limit", 999)["images"] == 6
    first, same, other = (
        report(capsys, "evaluate", place / "vae", "--seed", seed, "--samples", 3)
        for seed in (1, 1, 2)
    )
    assert first == same
    assert first["neg_elbo"] != other["neg_elbo"]
    assert first["neg_iw_bound_3"] != other["neg_iw_bound_3"]


def test_the_rivals_see_what_the_model_sees(place, capsys):
    got = report(capsys, "evaluate", place / "dae", "--rivals", "--seed", 4)
    run = runs.open_run(place / "dae")
    data = run.dataset()
    noisy = corrupted(run.model, data.x_test, 4)
    assert got["mse_corrupted"] == mse(data.x_test, noisy)
    assert got["mse_pca_2"] == mse(data.x_test, PCA(data.x_train, 2).reconstruct(noisy))
    ridge = Ridge(corrupted(run.model, data.x_train, 5), data.x_train)
    assert got["mse_ridge"] == mse(data.x_test, ridge.predict(noisy))
    got = report(capsys, "evaluate", place / "ae", "--rivals")
    assert got["mse_pca_2"] == mse(data.x_test, PCA(data.x_train, 2).reconstruct(data.x_test))
    assert "mse_ridge" not in got


def test_a_data_dir_that_has_no_effect_is_refused(place, here, capsys):
    for argv in (
        ["train", "vae", "--data-dir", "/nonexistent", *SMALL],
        ["train", "vae", "--data", "digits.npz", "--data-dir", ".", *SMALL],
        ["evaluate", place / "vae", "--data-dir", "/nonexistent"],
    ):
        assert "--data-dir: has no effect on the data" in complaint(capsys, *argv)
    assert not (here / "runs").exists()


def test_an_empty_list_of_widths_is_refused(here, capsys):
    assert "--hidden" in complaint(capsys, "train", "vae", "--data", "digits.npz", "--hidden", "")


def test_a_run_is_read_behind_its_lock(place, here, capsys, monkeypatch):
    """Or another training could end between, and its epochs be overwritten."""
    shutil.copytree(place / "vae", here / "run")
    held = []

    def resumed(given):
        with pytest.raises(ValueError, match="another training"), runs.training_in(Path("run")):
            pass
        held.append(True)
        raise ValueError("seen")

    monkeypatch.setattr(train_command, "_resumed", resumed)
    assert complaint(capsys, "train", "vae", "--resume", "run").endswith("error: seen\n")
    assert held == [True]


def test_a_preset_may_be_written_with_an_equals_sign(here, capsys):
    error = complaint(capsys, "train", "--preset=nonesuch")
    assert "invalid choice: 'nonesuch'" in error


def test_stdout_is_left_as_it_was(capsys):
    before = sys.stdout.errors
    answer(capsys, "check", "--json")
    assert sys.stdout.errors == before


def test_a_rival_has_no_more_components_than_the_data(here, capsys, no_pictures):
    answer(capsys, "train", "ae", "--data", "digits.npz", *SMALL, "--n-latent", 400)
    n = min(runs.open_run("runs/ae").dataset().x_train.shape)
    assert n < 400
    assert f"mse_pca_{n}" in report(capsys, "evaluate", "runs/ae", "--rivals")


@pytest.mark.parametrize("kind", ["ae", "dae"])
def test_the_mse_of_a_model_trained_on_binary_pixels_is_that_of_the_grey_ones(kind, here, capsys):
    answer(capsys, "train", kind, "--data", "digits.npz", *SMALL, "--binarize")
    got = report(capsys, "evaluate", f"runs/{kind}")
    run = runs.open_run(here / "runs" / kind)
    want = figures_of(run.model, run.dataset().x_test)
    assert got["binarized"] is False
    assert got["mse"] == pytest.approx(want["mse"], rel=1e-12)


def test_a_run_on_binary_pixels_is_evaluated_on_binary_pixels(here, capsys, no_pictures):
    answer(capsys, "train", "vae", "--data", "digits.npz", *SMALL, "--binarize")
    got = report(capsys, "evaluate", "runs/vae", "--samples", 50)
    last = checkpoint.load("runs/vae/model.npz").training.history.last()
    assert got["binarized"] is True
    assert got["neg_elbo"] == last["val_neg_elbo"]
    assert got["neg_iw_bound_50"] < got["neg_elbo"]


def test_evaluate_on_other_data(place, here, capsys):
    write_images(here / "other.npz", n=100, seed=5)
    got = report(capsys, "evaluate", place / "vae", "--data", "other.npz")
    assert got["images"] == 10
    write_images(here / "wide.npz", side=9)
    line = complaint(capsys, "evaluate", place / "vae", "--data", "wide.npz")
    assert "wide.npz: has 81 features, the model of" in line


def test_infinity_is_null_in_json(place, capsys, monkeypatch):
    from scratchvae import evaluate

    monkeypatch.setattr(evaluate, "mse", lambda x, y: 0.0)
    got = report(capsys, "evaluate", place / "ae")
    assert got["mse"] == 0
    assert got["psnr"] is None
    assert "inf dB" in answer(capsys, "evaluate", place / "ae").out


def test_only_a_vae_has_a_bound(place, capsys):
    line = complaint(capsys, "evaluate", place / "ae", "--samples", 5)
    assert "--samples: the importance-weighted bound is for a VAE" in line


# --- pictures ---


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("command", "name", "options"),
    [
        ("sample", "samples.png", ["--n", "7", "--seed", "1"]),
        ("reconstruct", "reconstructions.png", ["--n", "4"]),
        ("interpolate", "interpolation.png", ["--n", "2", "--steps", "3"]),
        ("latent", "latent.png", []),
    ],
)
def test_pictures(place, here, capsys, command, name, options, kind):
    run = copied(place, kind, here)
    before = {name: (run / name).read_bytes() for name in FILES}
    (run / name).unlink(missing_ok=True)
    out, err = answer(capsys, command, kind, *options)
    assert err == ""
    assert out.splitlines()[-1] == str(Path(kind, name))
    picture(run / name)
    if kind == "vae":
        got = report(capsys, command, kind, *options, "--out", "new/my picture.png")
        assert got["picture"] == str(Path("new/my picture.png"))
        assert picture("new/my picture.png").shape == picture(run / name).shape
        if command == "reconstruct":
            assert f"mse {got['mse']:.5g}" in out
    assert {name: (run / name).read_bytes() for name in FILES} == before


def test_interpolation_between_named_images(place, here, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(runs, "draw_interpolation", lambda *args: asked.append(args[3:]))
    argv = ["interpolate", place / "vae", "--steps", 4, "--out", "a.png"]
    answer(capsys, *argv, "--images", 3, 5)
    answer(capsys, *argv, "--n", 2, "--seed", 1)
    answer(capsys, *argv, "--n", 2, "--seed", 1)
    assert asked[0] == ([(3, 5)], 4)
    assert asked[1] == asked[2]
    assert len(asked[1][0]) == 2
    assert all(a != b for a, b in asked[1][0])


def test_one_test_image_has_no_way_to_go(here, capsys, no_pictures):
    np.save("three.npy", np.random.default_rng(0).random((3, 9)))
    answer(capsys, "train", "vae", "--data", "three.npy", *SMALL)
    assert "the test part has one image" in complaint(capsys, "interpolate", "runs/vae")
    answer(capsys, "interpolate", "runs/vae", "--images", 0, 0)


# --- check and info ---


def test_check_proves_every_gradient(capsys, monkeypatch):
    monkeypatch.setattr(proofs, "_models", lambda rng: [])  # they are slower than the rest
    out, err = answer(capsys, "check", "--seed", "1")
    words = " ".join(out.split())
    assert err == ""
    for piece in ("Dense", "Reparameterize", "GaussianKL", "BernoulliNLL", "worst relative error"):
        assert piece.split()[0] in words
    assert "wrong" not in words


class WrongRow:
    """What proofs.run_all returns for a piece whose gradient is wrong."""

    piece, tensors, error, method, verdict, ok = "Dense", 3, 0.5, "richardson", "wrong", False
    report = "off by a factor of 2"

    def to_dict(self):
        return {"piece": self.piece, "ok": self.ok, "error": math.nan}


def test_check_as_json(capsys, monkeypatch):
    monkeypatch.setattr(proofs, "_models", lambda rng: [])
    got = report(capsys, "check")
    assert got["ok"] is True
    assert {"Dense", "GaussianKL"} < {row["piece"] for row in got["pieces"]}


def test_check_names_what_is_wrong_and_how(capsys, monkeypatch):
    monkeypatch.setattr(proofs, "run_all", lambda seed: [WrongRow()])
    out, err = answer(capsys, "check", code=2)
    assert "Dense:\noff by a factor of 2\n" in out
    assert err == "scratchvae: error: the gradient is wrong in: Dense\n"
    out, err = answer(capsys, "check", "--json", code=2)
    assert json.loads(out) == {
        "ok": False,
        "pieces": [{"piece": "Dense", "ok": False, "error": None}],
    }


def test_info(capsys, monkeypatch):
    got = report(capsys, "info")
    assert got["scratchvae"] == scratchvae.__version__
    assert got["numpy"] == np.__version__
    assert any(re.search(r" 1 thread,| \d+ threads,", str(value)) for value in got.values())
    assert Path(got["data mnist10k"]).is_dir()
    assert "gpu" in got
    assert got["optimizers"].startswith("NumPy (" if compiled.problem() else "Numba 0.")
    for workers, said in ((1, "1 process for"), (4, "4 processes for")):
        with monkeypatch.context() as patch:
            patch.setattr(team, "suggested", lambda batch_size, workers=workers: workers)
            assert report(capsys, "info")["training"] == f"{said} batches of 128"
    out, err = answer(capsys, "info")
    assert err == ""
    assert np.__version__ in out
    assert "data mnist10k" in out


# --- help ---


@pytest.mark.parametrize(
    "command", ["", *COMMANDS, "train ae", "train dae", "train vae"], ids=lambda c: c or "(none)"
)
def test_help_has_an_example_that_parses(capsys, command):
    out, err = answer(capsys, *command.split(), "--help")
    assert err == ""
    example = re.search(r"example: scratchvae (.*)", " ".join(out.split())).group(1)
    assert example.startswith(command)
    arguments = vars(parser.make(cli.COMMANDS).parse_args(example.split()))
    if command not in ("", "info", "train"):
        assert ("--seed" in out) == (command not in ("explore", "latent"))  # no chance in these
        assert "json" in arguments


def test_the_examples_of_train_are_accepted(here, capsys, no_pictures):
    for example in (*parser.TRAIN_EXAMPLES.values(), parser.EXAMPLES["train"]):
        argv = [*example.split()[1:], "--data", "digits.npz", "--hidden", "3", "--epochs", "1"]
        answer(capsys, *argv, "--quiet")


def test_version(capsys):
    assert answer(capsys, "--version").out == f"{scratchvae.__version__}\n"


# --- bad input ---


BAD = {
    "": "the following arguments are required: COMMAND; see scratchvae --help",
    "fly": "invalid choice: 'fly'",
    "train": "required: {ae,dae,vae}",
    "train gan": "invalid choice: 'gan'",
    "train vae --epochs 0": "--epochs: got '0', want a whole number >= 1",
    "train vae --epochs -3": "--epochs: got '-3', want a whole number",
    "train vae --epochs 1.5": "--epochs: got '1.5'",
    "train vae --batch-size 0": "--batch-size: got '0'",
    "train vae --checkpoint-every 0": "--checkpoint-every: got '0'",
    "train vae --n-latent 0": "--n-latent: got '0'",
    "train vae --hidden 5,,3": "--hidden: got '', want a whole number",
    "train vae --hidden 5,-3": "--hidden: got '-3'",
    "train vae --seed -1": "--seed: got '-1', want a whole number >= 0",
    "train vae --learning-rate 0": "learning_rate: got 0.0, want a number > 0",
    "train vae --learning-rate -1": "learning_rate: got -1.0",
    "train vae --learning-rate nan": "--learning-rate: got 'nan', want a number",
    "train vae --learning-rate fast": "--learning-rate: got 'fast', want a number",
    "train vae --beta -1": "beta: got -1.0",
    "train vae --beta inf": "--beta: got 'inf'",
    "train vae --likelihood mse": "invalid choice: 'mse'",
    "train vae --likelihood gaussian --sigma 0": "sigma: got 0.0, want a ",
    "train vae --likelihood gaussian --sigma big": "got 'big', want a number or 'learned'",
    "train vae --sigma 2": "--sigma: has no effect without --likelihood gaussian",
    "train dae --fraction 0.2": "--fraction: has no effect without --corruption masking",
    "train dae --corruption masking --sigma 1": "--sigma: has no effect without --corruption gau",
    "train dae --corruption masking --no-clip": "--no-clip: has no effect without --corruption",
    "train dae --corruption masking --fraction 2": "fraction: got 2.0",
    "train vae --optimizer lion": "invalid choice: 'lion'",
    "train vae --device tpu": "invalid choice: 'tpu'",
    "train vae --data none.npz": "none.npz: No such file or directory",
    "train vae --data mnist11k": "unknown data set 'mnist11k'; expected mnist10k",
    "train vae --data broken.npz": "broken.npz",
    "train vae --data bytes.npy": "bytes.npy: x: 1 rows",
    "train vae --data mnist --data-dir none": "names none, which is not a folder",
    "train vae --out digits.npz/run": "digits.npz",
    "train vae --out full": "--out: full holds a run already",
    "train vae --output linear": "unrecognized arguments: --output linear",
    "train vae --n-latent 1" + 30 * "0": "",
    "train vae --n-latent 100000000000": "",
    "train vae --hidden 1" + 4500 * "0": "want a whole number",
    "evaluate": "the following arguments are required: run",
    "evaluate none": "none: no run here",
    "evaluate digits.npz": "digits.npz: not a scratchvae checkpoint",
    "evaluate broken.npz": "broken.npz: ",
    "evaluate full --samples 0": "--samples: got '0'",
    "evaluate full --limit -1": "--limit: got '-1'",
    "evaluate full --data none.npy": "none.npy: No such file",
    "sample full --n 0": "--n: got '0'",
    "sample full --n 1" + 30 * "0": "",
    "sample full --out a.jpg": "got 'a.jpg', figures are PNG files: end the name in .png",
    "reconstruct full --out digits.npz/a.png": "digits.npz",
    "interpolate full --steps 1": "--steps: got '1', want a whole number >= 2",
    "interpolate full --steps 1" + 30 * "0": "",
    "interpolate full --images 0 6": "--images: got (0, 6), the test part has images 0 to 5",
    "interpolate full --images -1 2": "--images: got '-1'",
    "latent full --seed x": "--seed: got 'x'",
    "check --seed -1": "--seed: got '-1'",
    "info --data-dir": "--data-dir: expected one argument",
}


@pytest.mark.parametrize("command", BAD, ids=lambda command: command[:60] or "(none)")
def test_bad_input_is_one_line_and_leaves_nothing(place, here, capsys, command):
    shutil.copytree(place / "vae", here / "full")
    (here / "broken.npz").write_bytes((here / "digits.npz").read_bytes()[:900])
    np.save("bytes.npy", np.zeros((1, 64), dtype="uint8"))
    before = {path: path.stat().st_mtime_ns for path in sorted(here.rglob("*"))}
    assert BAD[command] in complaint(capsys, *command.split())
    assert {path: path.stat().st_mtime_ns for path in sorted(here.rglob("*"))} == before


def test_a_line_break_in_an_argument_stays_in_the_line(capsys):
    complaint(capsys, "train", "vae", "--no\nsuch", "option")
    complaint(capsys, "evaluate", "no\nrun")


def test_an_error_without_words_has_a_name(place, capsys, monkeypatch):
    def fail(*args):
        raise MemoryError

    monkeypatch.setattr(runs, "open_run", fail)
    assert complaint(capsys, "evaluate", place / "vae") == "scratchvae: error: MemoryError\n"


def test_no_gpu_is_one_line_with_what_to_install(place, here, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    for argv in (["train", "vae"], ["evaluate", place / "vae"]):
        line = complaint(capsys, *argv, "--device", "gpu")
        assert 'CuPy is not installed. pip install "scratchvae[cuda12]"' in line
    assert names(here) == ["digits.npz"]
    assert "CuPy is not installed" in report(capsys, "info")["gpu"]
    assert not report(capsys, "info")["gpu"].startswith("device=")


@contextmanager
def nobody():
    """Give up root's right to write everywhere."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(os.name != "posix", reason="permission bits are POSIX")
def test_a_read_only_directory_is_one_line(here, capsys):
    assert cli.main(["train", "vae", *SMALL, "--out", "run"]) == 0  # imports what root may read
    closed = Path(tempfile.mkdtemp())  # not in tmp_path, which only its owner may enter
    run = closed / "run"
    run.mkdir()
    run.chmod(0o555)
    closed.chmod(0o555)
    try:
        for out in (run, closed / "new"):
            with nobody():
                line = complaint(capsys, "train", "vae", *SMALL, "--out", out)
            assert line.endswith(": Permission denied\n")
            assert str(out) in line
            assert ".part" not in line
        assert names(closed) == ["run"]
        assert names(run) == []
    finally:
        closed.chmod(0o755)
        run.chmod(0o755)
        shutil.rmtree(closed)


@pytest.mark.skipif(os.name != "posix", reason="Windows removes no open file")
def test_a_directory_that_is_deleted_under_the_run(here, capsys, monkeypatch):
    real = runs.save_run

    def save_run(directory, model, training, notes):
        if training.epoch == 1:
            shutil.rmtree(directory)
        real(directory, model, training, notes)

    monkeypatch.setattr(runs, "save_run", save_run)
    out, err = answer(capsys, "train", "ae", "--data", "digits.npz", *SMALL, "--quiet", code=2)
    assert out == ""
    assert err == "scratchvae: error: runs/ae/model.npz: No such file or directory\n"


# --- as a process ---


def run_process(*argv, **options):
    """Run ``python -m scratchvae`` and wait for it."""
    settings = {"capture_output": True, "text": True, "timeout": 60, **options}
    return subprocess.run([*COMMAND, *map(str, argv)], check=False, **settings)


def test_python_m_scratchvae():
    done = run_process("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{scratchvae.__version__}\n", "")
    done = run_process("evaluate", "none")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("scratchvae: error: none: no run here")


def test_another_process_trains_the_same_files(place, tmp_path):
    argv = ["train", "dae", "--data", place / "digits.npz", *SMALL, "--out", tmp_path / "run"]
    assert run_process(*argv).returncode == 0
    for name in names(place / "dae"):
        assert (tmp_path / "run" / name).read_bytes() == (place / "dae" / name).read_bytes(), name


@pytest.mark.parametrize("argv", [["info"], ["info", "--json"], ["train", "vae", "--help"]])
def test_a_closed_pipe_is_quiet(argv):
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = run_process(*argv, capture_output=False, stdout=writer, stderr=subprocess.PIPE)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_pipe_that_closes_while_we_write(capsys, monkeypatch, tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    with (
        os.fdopen(writer, "w", closefd=True) as stdout,
        (tmp_path / "stderr").open("w", encoding="utf-8") as stderr,
        monkeypatch.context() as patch,
    ):
        patch.setattr(sys, "stdout", stdout)
        patch.setattr(sys, "stderr", stderr)
        assert cli.main(["info"]) == 0
        print("into nothing, where the stream may flush without an error")
    assert (tmp_path / "stderr").read_text(encoding="utf-8") == ""


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
def test_sigint_to_a_process_and_on_to_the_same_files(tmp_path, capsys, no_pictures):
    """A real Ctrl-C after the first checkpoint; the resumed run equals one without a stop."""
    data = write_images(tmp_path / "many.npz", n=1500)
    argv = ["train", "vae", "--data", data, "--hidden", "6", "--batch-size", "1", "--epochs", "3"]
    process = subprocess.Popen(
        [*COMMAND, *map(str, argv), "--out", str(tmp_path / "run")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    history = tmp_path / "run" / "history.csv"
    deadline = time.monotonic() + 60
    while not (history.exists() and len(history.read_text(encoding="utf-8").splitlines()) > 1):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert re.fullmatch(
        r"scratchvae: stopped (in|after) epoch .*; saved \S+/run/model.npz\. "
        r"Go on with: scratchvae train vae --resume \S+/run",
        err.splitlines()[-1],
    )
    assert names(tmp_path / "run") == FILES
    stopped = checkpoint.load(tmp_path / "run" / "model.npz").training
    assert 1350 <= stopped.epoch * 1350 + stopped.step < 3 * 1350
    answer(capsys, *err.split("Go on with: scratchvae ")[1].split())
    answer(capsys, *argv, "--out", tmp_path / "whole")
    for name in FILES:
        whole = (tmp_path / "whole" / name).read_bytes()
        assert (tmp_path / "run" / name).read_bytes() == whole, name


def on_a_terminal(*argv, columns=100):
    """Run the command on a pseudo-terminal without colours; return its code and what it drew."""
    fcntl, pty, termios = posix_modules()
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
    environment |= {"TERM": "xterm", "NO_COLOR": "1"}
    process = subprocess.Popen(
        [*COMMAND, *map(str, argv)], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    drawn = b""
    try:
        while chunk := os.read(ours, 65536):
            drawn += chunk
    except OSError:  # how Linux says that the other side has closed
        pass
    finally:
        os.close(ours)
    return process.wait(timeout=60), re.sub(r"\x1b\[[?\d;]*[a-zA-Z]", "", drawn.decode())


def test_two_epochs_on_real_digits_on_a_terminal(tmp_path):
    """The default VAE: -ELBO falls below 160 nats; the bar shows its way there and its end."""
    code, drawn = on_a_terminal("train", "vae", "--epochs", "2", "--out", tmp_path / "run")
    assert code == 0
    history = checkpoint.load(tmp_path / "run" / "model.npz").training.history
    assert 140 < history["val_neg_elbo"][-1] < 160

    frames = [frame for frame in re.split(r"[\r\n]+", drawn) if frame.startswith("epoch ")]
    assert max(map(len, frames)) <= 100
    epochs = [int(re.match(r"epoch (\d)/2 ", frame).group(1)) for frame in frames]
    assert epochs == sorted(epochs)
    # without colours what is still to do is blank
    done = [len(re.sub("[^━╸]", "", frame)) for frame in frames]
    assert done == sorted(done)
    assert done[0] <= 1
    assert done[-1] == 20
    assert re.search(r"[\d,]+ images/s 00:00", frames[-1])
    neg_elbo, rec, kl, val = (
        history[name][-1] for name in ("neg_elbo", "reconstruction", "kl", "val_neg_elbo")
    )
    assert f"-ELBO {neg_elbo:.4g} rec {rec:.4g} KL {kl:.4g} val {val:.4g} " in frames[-1]


def test_a_preset(tmp_path, monkeypatch):
    """784-200-200-50, tanh, batch 20, binarized; the rate falls after 1, 4, 13, ... epochs."""
    monkeypatch.chdir(tmp_path)
    small = tmp_path / "small.npy"
    np.save(small, np.random.default_rng(0).random((60, 16), dtype=np.float32))
    options = ["--preset", "burda", "--data", str(small), "--quiet"]
    assert cli.main(["train", *options, "--out", "run", "--epochs", "2"]) == 0
    config = json.loads(Path("run/config.json").read_text(encoding="utf-8"))
    assert (config["hidden"], config["n_latent"], config["activation"]) == ([200, 200], 50, "tanh")
    assert (config["batch_size"], config["binarize"], config["preset"]) == (20, True, "burda")
    assert config["optimizer"]["eps"] == 5e-6
    assert config["optimizer"]["learning_rate"] == pytest.approx(1e-3 * 10 ** (-1 / 7))
    assert cli.main(["train", "vae", "--resume", "run", "--epochs", "5", "--quiet"]) == 0
    config = json.loads(Path("run/config.json").read_text(encoding="utf-8"))
    assert config["optimizer"]["learning_rate"] == pytest.approx(1e-3 * 10 ** (-2 / 7))
    assert cli.main(["train", "vae", *options, "--out", "other", "--epochs", "5"]) == 0
    with np.load("run/model.npz") as resumed, np.load("other/model.npz") as whole:
        np.testing.assert_array_equal(resumed["theta"], whole["theta"])


def test_a_preset_decides(capsys):
    assert (
        cli.main(["train", "vae", "--preset", "burda", "--hidden", "4", "--batch-size", "7"]) == 2
    )
    assert "leave out --batch-size, --hidden" in capsys.readouterr().err
    assert cli.main(["train", "--preset", "borda"]) == 2
    assert "burda" in capsys.readouterr().err


def test_a_preset_starts_at_the_mean_of_the_data():
    x = np.random.default_rng(0).random((50, 6), dtype=np.float32)
    x[:, 0] = 0
    model = VAE(6, (4, 4), 2, "tanh")
    PRESETS["burda"].start(model, x)
    mean = np.array([0.001, *x[:, 1:].mean(axis=0)])
    np.testing.assert_allclose(model.decoder.layers[-1].b, np.log(mean / (1 - mean)), atol=1e-6)


def test_the_published_schedule():
    rates = [burda_rate(epoch) for epoch in range(3280)]
    counts = [rates.count(r) for r in sorted(set(rates), reverse=True)]
    assert counts == [1, 3, 9, 27, 81, 243, 729, 2187]
    assert rates[0] == 1e-3
    assert rates[-1] == pytest.approx(1e-4)
    assert burda_rate(10_000) == rates[-1]
    assert PRESETS["burda"].epochs == 3280


def test_threads(tmp_path, monkeypatch):
    seen = []

    def spy(*arguments, **options):
        pools = threadpoolctl.threadpool_info()
        seen.append([p["num_threads"] for p in pools if p["user_api"] == "blas"])
        return fit(*arguments, **options)

    monkeypatch.setattr(train_command, "fit", spy)
    monkeypatch.chdir(tmp_path)
    np.save("small.npy", np.random.default_rng(0).random((60, 16), dtype=np.float32))
    words = ["train", "ae", "--data", "small.npy", "--epochs", "1", "--quiet", "--threads", "1"]
    assert cli.main(words) == 0
    assert seen
    assert all(n == 1 for n in seen[0])
