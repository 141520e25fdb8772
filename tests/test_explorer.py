"""The explorer's file, without a browser: its size, what it asks for, how exact its weights are."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from explorer_pages import MODELS, broken, content, parameters, save, spread, unpack

from scratchvae import cli
from scratchvae.datasets import mnist10k
from scratchvae.models import build
from scratchvae.web import explorer, page

EXISTS = "File exists" if os.name == "posix" else ""  # Windows says it in the user's language


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The directory of a small VAE of MNIST."""
    save(tmp_path / "vae", MODELS["vae"])
    return tmp_path / "vae"


def worst_pixel(path: Path, model, z: np.ndarray, encoder: bool = False) -> float:
    """The largest difference between the model and the weights in the page, put in its place."""
    entry = content(path)["runs"][0]
    exact = model.theta.copy()
    want = model.decode(z) if not encoder else model.reconstruct(z)
    stored = parameters(entry["decoder"]) | (parameters(entry["encoder"]) if encoder else {})
    try:
        for name, values in stored.items():
            model.named_parameters()[name][...] = values
        got = model.decode(z) if not encoder else model.reconstruct(z)
    finally:
        model.theta[...] = exact
    return float(np.abs(got - want).max())


@pytest.mark.parametrize("kind", MODELS)
def test_the_weights_agree_with_the_model(tmp_path: Path, kind: str) -> None:
    model = save(tmp_path / "run", MODELS[kind])
    before = (tmp_path / "run" / "model.npz").read_bytes()
    report = explorer.write_explorer([tmp_path / "run"], tmp_path / "x.html")
    assert 0 <= report["pixel_error"] <= explorer.AGREEMENT / 2
    assert worst_pixel(tmp_path / "x.html", model, spread(model)) <= explorer.AGREEMENT
    x = mnist10k().x_test[500:600].astype(model.dtype)
    assert worst_pixel(tmp_path / "x.html", model, x, encoder=True) <= explorer.AGREEMENT
    assert (tmp_path / "run" / "model.npz").read_bytes() == before
    names = set(model.named_parameters())
    entry = content(tmp_path / "x.html")["runs"][0]
    assert set(parameters(entry["decoder"])) | set(parameters(entry["encoder"])) == names


def test_a_wrong_weight_is_seen(tmp_path: Path) -> None:
    model = save(tmp_path / "run", MODELS["vae"])
    explorer.write_explorer([tmp_path / "run"], tmp_path / "x.html")
    bad = broken(tmp_path / "x.html", tmp_path / "bad.html")
    assert worst_pixel(bad, model, spread(model)) > 10 * explorer.AGREEMENT


@pytest.mark.parametrize("bits", [8, 11, 16, 17, 24])
def test_rounding_is_within_half_a_step(bits: int) -> None:
    rng = np.random.default_rng(bits)
    values = rng.standard_normal((40, 50)).astype(np.float32)
    values[:, 3] = 0
    values[7, 4] = 1e6
    stored, stands_for = explorer.quantise(values, bits)
    steps = np.abs(values).max(axis=0) / (2 ** (bits - 1) - 1)
    assert (np.abs(stands_for - values) <= steps / 2 + 1e-6 * np.abs(values)).all()
    np.testing.assert_array_equal(stands_for[:, 3], 0)
    packed = explorer.pack({f"W{key}": array for key, array in stored.items()})
    np.testing.assert_allclose(parameters(packed)["W"], stands_for, rtol=1e-6)
    for narrow in (values[:, :5], values[:9], values[0]):
        assert explorer.quantise(narrow, bits)[1].tobytes() == narrow.tobytes()


def test_a_model_of_the_lessons_fits_with_its_encoder(tmp_path: Path) -> None:
    save(tmp_path / "run", {"model": "vae", "hidden": [400], "n_latent": 20}, "mnist10k")
    report = explorer.write_explorer([tmp_path / "run"])
    path = tmp_path / "run" / "explorer.html"
    assert Path(report["page"]) == path
    assert path.stat().st_size == report["bytes"] < explorer.LIMIT
    assert report["without_encoder"] == []
    assert report["images"] >= 250


def test_the_page_asks_for_nothing(run: Path, tmp_path: Path) -> None:
    explorer.write_explorer([run], tmp_path / "x.html")
    text = (tmp_path / "x.html").read_text(encoding="utf-8")
    assert "default-src 'none'; script-src 'sha256-" in text
    assert not re.search(r"\b(?:src|href|action)=\"(?!data:)", text)
    assert "url(" not in text
    assert "@import" not in text
    urls = [url for url in re.findall(r"https?://\S+", text) if "www.w3.org/2000/svg" not in url]
    assert urls == []
    for word in ("fetch(", "XMLHttpRequest", "WebSocket", "import(", "eval("):
        assert word not in text


def test_what_does_not_fit_is_left_out_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for beta in (4.0, 0.25, 1.0):
        save(tmp_path / f"b{beta}", {**MODELS["vae"], "beta": beta})
    monkeypatch.setattr(explorer, "IMAGES", (120, 60))
    paths = [tmp_path / f"b{beta}" for beta in (4.0, 0.25, 1.0)]
    whole = explorer.write_explorer(paths, tmp_path / "x.html")
    assert [entry["beta"] for entry in content(tmp_path / "x.html")["runs"]] == [0.25, 1, 4]
    assert (whole["images"], whole["without_encoder"]) == (120, [])

    monkeypatch.setattr(explorer, "LIMIT", whole["bytes"])
    fewer = explorer.write_explorer(paths, tmp_path / "x.html")
    assert (fewer["images"], fewer["without_encoder"]) == (60, [])

    monkeypatch.setattr(explorer, "IMAGES", (30,))
    least = explorer.write_explorer(paths, tmp_path / "x.html")
    monkeypatch.setattr(explorer, "LIMIT", least["bytes"])
    without = explorer.write_explorer(paths, tmp_path / "x.html")
    assert without["without_encoder"] == [str(paths[0])]  # of the largest beta
    first, *_, last = content(tmp_path / "x.html")["runs"]
    assert "encoder" in first
    assert "encoder" not in last
    codes = unpack(last["codes"])
    assert codes["mu"].shape == codes["logvar"].shape == (30, 2)

    before = (tmp_path / "x.html").read_bytes()
    monkeypatch.setattr(explorer, "LIMIT", 100_000)
    with pytest.raises(ValueError, match=r"even without encoders.*fewer runs.*--hidden \d+0$"):
        explorer.write_explorer(paths, tmp_path / "x.html")
    assert (tmp_path / "x.html").read_bytes() == before


def test_runs_share_one_scale(tmp_path: Path) -> None:
    save(tmp_path / "a", MODELS["vae"])
    save(tmp_path / "b", {**MODELS["vae"], "beta": 2.0}, scale=2.2)
    explorer.write_explorer([tmp_path / "a", tmp_path / "b"], tmp_path / "x.html")
    one, two = (entry["ranges"] for entry in content(tmp_path / "x.html")["runs"])
    assert one == two
    assert max(map(max, one)) > 4


@pytest.mark.parametrize("binarize", [False, True])
@pytest.mark.parametrize("kind", ["ae", "dae", "vae"])
def test_the_figures_are_those_of_evaluate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, binarize: bool
) -> None:
    model = save(tmp_path / "run", {**MODELS["vae"], "model": kind}, binarize=binarize)
    explorer.write_explorer([tmp_path / "run"], tmp_path / "x.html")
    found = content(tmp_path / "x.html")["runs"][0]
    assert cli.main(["evaluate", str(tmp_path / "run"), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert found["figures"] == {name: figures[name] for name in model.term_names}
    assert found["binarized"] == figures["binarized"] == (binarize and kind == "vae")


def test_typical_is_what_the_page_would_show_of_the_test_images(tmp_path: Path) -> None:
    model = save(tmp_path / "ae", {**MODELS["vae"], "model": "ae"})
    explorer.write_explorer([tmp_path / "ae"], tmp_path / "x.html")
    x = mnist10k().x_test[:120]
    each = np.square(model.reconstruct(x) - x).mean(axis=1)
    found = content(tmp_path / "x.html")["runs"][0]["typical"]
    assert found == pytest.approx(np.percentile(each, (5, 50, 95)), rel=1e-5)

    vae = build({"n_features": 784, "n_latent": 2, **MODELS["vae"]})
    vae.to_mu.b[...] = 9  # a KL whose lack would be seen
    eps = np.random.default_rng(1).standard_normal((20, 120, 2)).astype("float32")
    mu, logvar = vae.encode(x)
    z = vae.reparameterize.apply(mu, logvar, eps)
    kl = vae.kl.per_example(mu, logvar)
    each = [vae.nll.per_example(vae.decoder.apply(one), x) + kl for one in z]
    drawn = np.percentile(each, (5, 50, 95), axis=1).T
    found = explorer._typical(vae, x)
    assert (drawn.min(axis=0) < found).all()
    assert (found < drawn.max(axis=0)).all()


def test_where_a_page_walks() -> None:
    codes = np.stack([np.linspace(-10, 10, 201), np.full(201, 7.0)], axis=1)
    vae, ae = (build({"n_features": 9, **MODELS["vae"], "model": k}) for k in ("vae", "ae"))
    assert explorer._ranges(vae, codes)[0] == pytest.approx([-12.87, 12.87])
    assert explorer._ranges(ae, codes)[0] == pytest.approx([-12.87, 12.87])
    assert explorer._ranges(ae, codes)[1] == pytest.approx([6.992, 7.008])
    assert explorer._ranges(vae, codes / 100)[0].tolist() == [-4, 4]
    points = explorer._everywhere(np.array([[-4.0, 4.0], [-5.0, 5.0]]), codes, "float64")
    assert len(points) == 201 + 1000
    for corner in ((-4, -5), (-4, 5), (4, -5), (4, 5)):
        assert (points == corner).all(axis=1).any()


def test_numbers_that_no_page_holds_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "run", MODELS["gaussian"], scale=1e9)
    with pytest.raises(ValueError, match="the numbers of this model are too large for a page"):
        explorer.write_explorer([tmp_path / "run"])
    assert not (tmp_path / "run" / "explorer.html").exists()


@pytest.mark.parametrize(
    ("rows", "shape"), [((36,), [6, 6]), ((35,), None), ((5, 7), [5, 7]), ((1,), [1, 1])]
)
def test_the_shape_of_images(
    tmp_path: Path, rows: tuple[int, ...], shape: list[int] | None
) -> None:
    np.save(tmp_path / "own.npy", np.random.default_rng(0).random((20, *rows)))
    config = {"model": "ae", "n_features": int(np.prod(rows)), "hidden": [3], "n_latent": 1}
    save(tmp_path / "run", config, str(tmp_path / "own.npy"))
    explorer.write_explorer([tmp_path / "run"], tmp_path / "x.html")
    assert content(tmp_path / "x.html")["shape"] == shape


@pytest.mark.parametrize("labels", [None, "many", "few"])
def test_data_of_your_own(tmp_path: Path, labels: str | None) -> None:
    rng = np.random.default_rng(0)
    arrays = {"x": rng.random((400, 35)).astype(np.float32)}
    if labels:
        arrays["y"] = np.arange(400) % (3 if labels == "few" else 30)
    np.savez(tmp_path / "own.npz", **arrays)
    config = {"model": "ae", "n_features": 35, "hidden": [34]}
    save(tmp_path / "run", config, str(tmp_path / "own.npz"))
    explorer.write_explorer([tmp_path / "run"], tmp_path / "x.html", language="ja")
    data = content(tmp_path / "x.html")
    assert data["shape"] is None
    assert data["language"] == "ja"
    assert (data["labels"] is not None) == (labels == "few")
    assert unpack(data["images"])["x"].shape == (40, 35)


def test_every_word_is_there_and_used() -> None:
    words = set(json.loads(page.asset("explorer.json")))
    script, markup = page.asset("explorer.js"), page.asset("explorer.html")
    used = set(re.findall(r'data-i18n(?:-label)?="(\w+)"', markup))
    used |= set(re.findall(r'"(\w+)"', script))
    used |= {"title", "kind_ae", "kind_dae", "kind_vae", "run_ae", "run_dae", "run_vae"}
    used |= {"term_reconstruction", "term_kl", "term_neg_elbo", "term_mse"}
    assert words <= used
    assert set(re.findall(r'\btext\("(\w+)"', script)) <= words


# --- the command ---


def test_the_command(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["explore", str(run)]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{run / 'explorer.html'} (")
    assert cli.main(["explore", str(run / "model.npz"), "--json", "--out", f"{run}/new/é.htm"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert Path(report["page"]).stat().st_size == report["bytes"]


@pytest.mark.parametrize(
    ("words", "objection"),
    [
        (["none"], "none: no run here"),
        (["vae", "none"], "none: no run here"),
        (["notes.npz"], "notes.npz: "),
        (["vae", "other"], "other: its model has 35 features, that of vae has 784"),
        (["vae", "--out", "x.png"], "--out: got 'x.png', want the name of an HTML file"),
        (["vae", "--out", "file/x.html"], f"file: {EXISTS}"),
        (["vae", "--lang", "fr"], "invalid choice: 'fr'"),
        (["vae", "--data", "own.npz"], "own.npz: has 35 features"),
        ([], "the following arguments are required: run"),
    ],
)
def test_bad_input_ends_in_one_line(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    objection: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("own.npz", x=np.random.default_rng(0).random((60, 35)).astype(np.float32))
    save(Path("other"), {"model": "ae", "n_features": 35, "hidden": [4]}, "own.npz")
    Path("notes.npz").write_bytes(b"notes")
    Path("file").write_text("", encoding="utf-8")
    before = sorted(Path().rglob("*"))
    assert cli.main(["explore", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert objection in err
    assert sorted(Path().rglob("*")) == before
