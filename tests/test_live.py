"""`train --live`: what the page keeps, how it goes on, and what it does not believe."""

import base64
import json
import os
import re
import time
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from scratchvae import VAE, Autoencoder, DenoisingAutoencoder, cli, runs
from scratchvae.datasets import Dataset
from scratchvae.optim import Adam
from scratchvae.team import WorkerError
from scratchvae.train import DivergedError, Stopped, Training, fit
from scratchvae.web import live
from scratchvae.web.png import png

MODELS = {"ae": Autoencoder, "dae": DenoisingAutoencoder, "vae": VAE}


def images(n=80, shape=(6, 5), labels=True):
    rng = np.random.default_rng(0)
    x = rng.random((n, shape[0] * shape[1]), dtype="float32")
    y = np.arange(n) % 3 if labels else None
    half = n // 2
    parts = (x[:half], y if y is None else y[:half], x[half:], y if y is None else y[half:])
    return Dataset("mine.npz", *parts, image_shape=shape)


def content(path):
    """The data in a page."""
    found = re.search(r'id="data">(.*?)</script>', path.read_text(encoding="utf-8"), re.DOTALL)
    return json.loads(found[1], parse_constant=pytest.fail)


def epochs_of(path):
    return [frame["epoch"] for frame in content(path)["frames"]]


def watched(path, model, data, epochs=2, training=None):
    """Train with a page; return the page's data and its notice."""
    training = training or Training(Adam(), batch_size=16, n_examples=len(data.x_train))
    with live.Live(path, model, training, data, epochs) as page:
        fit(
            model,
            data.x_train,
            validation=data.x_test,
            epochs=epochs,
            callbacks=[page],
            resume=training,
        )
    return content(path), page.notice


def pixels(text, tmp_path):
    """The pixels of a picture in a page, as another reader of PNG sees them."""
    file = tmp_path / "sheet.png"
    file.write_bytes(base64.b64decode(text))
    return np.rint(matplotlib.image.imread(file) * 255).astype(int)


def test_a_png_is_read_as_it_was_written(tmp_path):
    written = np.random.default_rng(0).integers(0, 256, (7, 5)).astype(np.uint8)
    text = base64.b64encode(png(written)).decode()
    np.testing.assert_array_equal(pixels(text, tmp_path), written)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("latents", [1, 2, 3])
def test_a_page_keeps_every_epoch(kind, latents, tmp_path):
    data, path = images(), tmp_path / "live.html"
    model = MODELS[kind](30, (8,), latents)
    found, notice = watched(path, model, data)
    assert (found["state"], found["epoch"], found["epochs"]) == ("finished", 2, 2)
    assert [frame["epoch"] for frame in found["frames"]] == [0, 1, 2]
    assert notice == ""
    assert len(found["inputs"]) == (2 if kind == "dae" else 1)
    assert found["rows"] == [1, 2]
    names = {"neg_elbo", "reconstruction", "kl"} if kind == "vae" else {"mse"}
    assert set(found["terms"]) == names | {f"val_{name}" for name in names}

    last = found["frames"][-1]
    tiles = 10 + live.SAMPLES + (live.SIDE**2 if latents == 2 else 0)
    sheet = pixels(last["tiles"], tmp_path)
    assert sheet.shape == (6 * -(-tiles // 10), 50)
    shown = data.x_test[runs.one_of_each(data.y_test, 40)[:10]]
    if kind != "dae":
        first = model.reconstruct(shown)[0].reshape(6, 5)
        assert abs(sheet[:6, :5] / 255 - first).max() <= 1 / 30 + 1e-6
    points = live._unpacked(last)
    assert points.shape == (40, 2)
    codes = runs.host_codes(model, data.x_test)
    if latents == 2:
        np.testing.assert_allclose(points, codes, atol=2e-4 * np.ptp(codes))
        corner = model.decode(np.float32([[last["plane"][0][0], last["plane"][1][1]]]))
        place = 10 + live.SAMPLES  # the first tile of the plane is its corner above left
        tile = sheet[6 * (place // 10) :, 5 * (place % 10) :][:6, :5]
        assert abs(tile / 255 - corner.reshape(6, 5)).max() <= 1 / 30 + 1e-6
    if latents == 3:  # a rotation within the plane of the principal components: as far apart
        centred = codes - codes.mean(axis=0)
        variances = np.linalg.eigvalsh(centred.T @ centred)
        kept = np.square(points - points.mean(axis=0)).sum()
        np.testing.assert_allclose(kept, variances[1:].sum(), rtol=1e-3)


def test_projected_codes_follow_the_frame_before(tmp_path):
    data, model = images(), VAE(30, (8,), 3)
    page = live.Live(tmp_path / "live.html", model, Training(Adam()), data, 1)
    codes = np.random.default_rng(1).standard_normal((40, 3)) * [3, 2, 1]
    before = page._points(codes)[0]
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    page.points = before @ turn + 5
    np.testing.assert_allclose(page._points(codes)[0], before @ turn, atol=1e-9)


def test_pictures_of_any_form():
    """No shape given, one row, larger than a thumbnail, values out of range."""
    assert live._tiles(np.zeros((2, 7)), None).shape == (2, 2, 4)
    assert live._tiles(np.ones((1, 1000)), (1, 1000)).shape == (1, 1, 32)
    large = np.repeat(np.repeat(np.arange(4.0).reshape(2, 2) / 3, 32, axis=0), 32, axis=1)
    small = live._tiles(large.reshape(1, -1), (64, 64))
    assert small.shape == (1, 32, 32)
    assert sorted(np.unique(small)) == [0, 85, 170, 255]
    assert live._tiles(np.array([[-1.0, 2.0]]), (1, 2)).tolist() == [[[0, 255]]]


def test_a_picture_that_is_no_multiple_of_a_thumbnail_has_no_dark_rim():
    assert (live._tiles(np.ones((1, 33 * 33)), (33, 33)) == 255).all()


def test_noise_like_codes_that_lie_on_a_line():
    codes = np.outer(np.linspace(-1, 1, 50), [1.0, 1e-9, 3.0])  # whose variances may round below 0
    noise = np.random.default_rng(0).standard_normal((5, 3))
    made = live._like(codes, noise)
    assert np.isfinite(made).all()
    np.testing.assert_allclose(made[:, 2], 3 * made[:, 0], atol=1e-6)


def test_a_training_stopped_within_an_epoch_changes_no_frame(tmp_path):
    training, model = Training(Adam(), n_examples=40), VAE(30, (8,), 2)
    path = tmp_path / "live.html"
    with live.Live(path, model, training, images(), 2) as page:
        before = content(path)["frames"]
        model.theta *= 3
        training.step = 1
        page(training)
        assert content(path)["frames"] == before
        training.step, training.epoch = 0, 1
        page(training)
    assert epochs_of(path) == [0, 1]
    assert content(path)["frames"][0] == before[0]


def test_a_page_without_labels_and_with_many_classes(tmp_path):
    found, _ = watched(tmp_path / "a.html", VAE(30, (8,), 1), images(labels=False))
    assert (found["classes"], set(found["ranks"])) == ([], {0})
    many = images()
    many = Dataset(*(many.name, many.x_train, np.arange(40), many.x_test, np.arange(40)), (6, 5))
    found, _ = watched(tmp_path / "b.html", VAE(30, (8,), 2), many)
    assert (found["classes"], set(found["ranks"])) == ([], {0})


def test_codes_that_overflow_are_shown_all_the_same(tmp_path):
    model = Autoencoder(30, (), 1)
    model.theta[...] = 3e38
    data = images()
    with live.Live(tmp_path / "l.html", model, Training(Adam()), data, 1):
        pass
    points = live._unpacked(content(tmp_path / "l.html")["frames"][0])
    assert abs(points[:, 0]).max() == pytest.approx(1e30)  # infinite, and yet the output is 1


def test_frames_are_thinned_out_and_the_page_stays_small(tmp_path, monkeypatch):
    data, path, model = images(), tmp_path / "live.html", VAE(30, (8,), 2)
    monkeypatch.setattr(live, "MOST", 40_000)
    monkeypatch.setattr(live, "POINTS", 10)
    found, _ = watched(path, model, data, epochs=21)
    kept = [frame["epoch"] for frame in found["frames"]]
    assert sum(map(live._length, found["frames"])) <= 40_000
    assert (kept[0], kept[-1]) == (0, 21)
    steps = set(np.diff(kept[:-1]).tolist())
    assert len(steps) == 1
    assert steps <= {2, 4, 8}
    assert (len(found["rows"]), found["rows"][0], found["rows"][-1]) == (10, 1, 21)
    assert {len(column) for column in found["terms"].values()} == {10}


def test_how_the_training_ended(tmp_path):
    data, path = images(), tmp_path / "live.html"
    training = Training(Adam(), n_examples=40)

    def end(error, last=lambda: None):
        with live.Live(path, VAE(30, (8,), 2), training, data, 2):
            assert content(path)["state"] == "training"
            last()
            raise error

    ends = {Stopped: "stopped", KeyboardInterrupt: "stopped", DivergedError: "diverged"}
    for error, state in {**ends, WorkerError: "stopped", OSError: "training"}.items():
        with pytest.raises(error):
            end(error)
        assert content(path)["state"] == state
    with pytest.raises(Stopped):  # not that its page could not be written
        end(Stopped, lambda: (path.unlink(), path.mkdir()))


def test_a_resumed_training_goes_on_with_its_page(tmp_path):
    data, whole, parts = images(), tmp_path / "whole.html", tmp_path / "parts.html"
    once, _ = watched(whole, VAE(30, (8,), 3), data, epochs=3)
    model = VAE(30, (8,), 3)
    training = Training(Adam(), batch_size=16, n_examples=len(data.x_train))
    watched(parts, model, data, 1, training)
    twice, notice = watched(parts, model, data, 3, training)
    assert notice == ""
    assert [frame["epoch"] for frame in twice["frames"]] == [0, 1, 2, 3]
    for one, other in zip(once["frames"], twice["frames"], strict=True):
        assert one["tiles"] == other["tiles"]
        np.testing.assert_allclose(live._unpacked(one), live._unpacked(other), atol=1e-3)


def test_frames_ahead_of_the_checkpoint_are_forgotten(tmp_path):
    data, path = images(), tmp_path / "live.html"
    watched(path, VAE(30, (8,), 2), data, epochs=3)
    watched(path, VAE(30, (8,), 2), data, epochs=1)
    assert epochs_of(path) == [0, 1]


def damaged(change):
    """A function that changes the data of a page."""

    def damage(path):
        text, data = path.read_text(encoding="utf-8"), content(path)
        change(data)
        new = json.dumps(data).replace("<", "\\u003c")
        start = text.index('id="data">') + len('id="data">')
        stop = text.index("</script>", start)
        path.write_text(text[:start] + new + text[stop:], encoding="utf-8")

    return damage


def frame(key, value):
    return damaged(lambda data: data["frames"][1].__setitem__(key, value))


BROKEN = {
    "empty": lambda path: path.write_bytes(b""),
    "binary": lambda path: path.write_bytes(bytes(range(256)) * 9),
    "another page": lambda path: path.write_text("<h1>My thesis</h1>", encoding="utf-8"),
    "a directory": lambda path: (path.unlink(), path.mkdir()),
    "a link to nothing": lambda path: (path.unlink(), path.symlink_to("nowhere")),
    "half": lambda path: path.write_text(
        path.read_text(encoding="utf-8").partition('"frames":')[0], encoding="utf-8"
    ),
    "too large": lambda path: path.write_bytes(path.read_bytes() + bytes(8_000_000)),
    "deep": lambda path: path.write_text(
        '<script type="application/json" id="data">' + "[" * 10**5 + "</script>",
        encoding="utf-8",
    ),
    "a list": lambda path: path.write_text(
        '<script type="application/json" id="data">[]</script>', encoding="utf-8"
    ),
    "another seed": damaged(lambda data: data["run"].update(training_seed=9)),
    "no frame": damaged(lambda data: data["frames"].__setitem__(0, 5)),
    "backwards": damaged(lambda data: data["frames"].reverse()),
    "negative": damaged(lambda data: data["frames"][0].update(epoch=-1)),
    "a huge number": damaged(lambda data: data["frames"][1].update(low=[1e999, 0.0])),
    "a huge integer": damaged(lambda data: data["frames"][1].update(low=[10**400, 0.0])),
    "an endless integer": lambda path: path.write_text(
        re.sub(r'"active":\d+', '"active":' + "9" * 5000, path.read_text(encoding="utf-8")),
        encoding="utf-8",
    ),
    "numbers at the end of the range": damaged(
        lambda data: data["frames"][2].update(low=[-1.5e308, -1.5e308], high=[1.5e308, 1.5e308])
    ),
    "points with half a number more": damaged(
        lambda data: data["frames"][2]["points"].update(
            base64=data["frames"][2]["points"]["base64"].replace("==", "A=")
        )
    ),
    "markup": frame("tiles", '"><script>alert(1)</script>'),
    "another picture": frame("tiles", base64.b64encode(png(np.zeros((3, 3), np.uint8))).decode()),
    "no picture": frame("tiles", "AAAA"),
    "more points": frame("points", {"kind": "Uint16Array", "shape": [10**12, 2], "base64": "AAAA"}),
    "a key too many": frame("more", 1),
    "text for a number": frame("spread", ["1", "2"]),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_this_run_did_not_write_is_set_aside(what, tmp_path):
    if what == "a link to nothing" and os.name != "posix":
        pytest.skip("links are for anyone on POSIX")
    data, path = images(), tmp_path / "live.html"
    watched(path, VAE(30, (8,), 2), data)
    BROKEN[what](path)
    before = path.read_bytes() if path.is_file() else None
    model, training = VAE(30, (8,), 2), Training(Adam(), batch_size=16, n_examples=40)
    fit(model, data.x_train, validation=data.x_test, epochs=2, resume=training)
    found, notice = watched(path, model, data, 3, training)
    aside = tmp_path / "live.html.broken-1"
    said, _, rest = notice.removeprefix(f"{path}: ").partition("; ")
    assert said in ("is no page of a training", "belongs to another run", "holds damaged data")
    assert rest == f"set aside as {aside}"
    if before is not None:
        assert aside.read_bytes() == before
    assert [frame["epoch"] for frame in found["frames"]] == [2, 3]


def test_every_written_page_is_readable(tmp_path, monkeypatch):
    """No name of the page ever holds half of one, and the times in it run on."""
    data, path, seen = images(), tmp_path / "live.html", []
    real = live.write_text

    def write(target, text):
        if path.exists():
            seen.append(content(path))
        real(target, text)

    monkeypatch.setattr(live, "write_text", write)
    watched(path, VAE(30, (8,), 2), data, epochs=3)
    assert [(one["state"], one["epoch"]) for one in seen] == [("training", n) for n in range(4)]
    assert [one["seconds"] is None for one in seen] == [True, False, False, False]
    assert all(abs(one["written"] / 1000 - time.time()) < 600 for one in seen)


# ------------------------------------------------------------------------- the command line


@pytest.fixture
def train(tmp_path, monkeypatch, capsys):
    """Run `scratchvae train vae ... --live` in an own directory; return stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runs, "draw_pictures", lambda *args: None)
    np.savez("digits.npz", x=np.random.default_rng(0).random((60, 8, 8)), y=np.arange(60) % 3)

    def run(*argv, code=0):
        capsys.readouterr()
        assert cli.main(["train", "vae", *map(str, argv), "--live"]) == code
        return capsys.readouterr()

    return run


SMALL = ("--data", "digits.npz", "--hidden", "6", "--n-latent", "2", "--out", "run")


def test_the_command_keeps_a_page_and_says_where(train):
    path = Path("run/live.html")
    _, err = train(*SMALL, "--epochs", "2")
    assert f"watch it in a browser: {path}\n" in err
    assert epochs_of(path) == [0, 1, 2]
    _, err = train("--resume", "run")
    assert "more with: scratchvae train vae --resume run --live --epochs 22\n" in err
    out, err = train("--resume", "run", "--epochs", "3", "--quiet", "--json")
    assert json.loads(out)["live"] == str(path)
    assert err == ""
    assert epochs_of(path) == [0, 1, 2, 3]
    path.write_text("mine", encoding="utf-8")
    _, err = train("--resume", "run", "--epochs", "4", "--quiet")
    assert err == f"scratchvae: {path}: is no page of a training; set aside as {path}.broken-1\n"
    assert epochs_of(path) == [3, 4]


def test_a_page_that_cannot_be_written_costs_no_epoch(train, monkeypatch):
    real = live.write_text

    def full(path, text):
        if '"epoch":2,' in text:
            raise OSError(28, "No space left on device", str(path))
        real(path, text)

    monkeypatch.setattr(live, "write_text", full)
    out, err = train(*SMALL, "--epochs", "4", "--quiet", code=2)
    path = Path("run/live.html")
    assert (out, err) == ("", f"scratchvae: error: {path}: No space left on device\n")
    assert runs.open_run("run").training.epoch == 2
    monkeypatch.setattr(live, "write_text", real)
    train("--resume", "run", "--quiet")
    assert epochs_of(path) == [0, 1, 2, 3, 4]


def test_a_killed_page_leaves_nothing(train):
    train(*SMALL, "--epochs", "1", "--quiet")
    left = Path("run/.live.html.0badcafe.part")
    left.write_bytes(b"half")
    train("--resume", "run", "--epochs", "2", "--quiet")
    assert not left.exists()
