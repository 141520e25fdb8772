"""The explorer in a real browser, from the disk and without a network."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import DESKTOP, PHONE, Browser
from explorer_pages import MODELS, broken, save, spread

from scratchvae.web import explorer

pytestmark = pytest.mark.browser

NATS = 0.05  # of an image's -ELBO, between the page and Python


@pytest.fixture(scope="module")
def explorers(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Any]]:
    """The page of a kind of model and the model; each is made once."""
    folder, made = tmp_path_factory.mktemp("explorer 日本"), {}

    def make(kind: str) -> tuple[Path, Any]:
        if kind not in made:
            model = save(folder / kind, MODELS[kind])
            explorer.write_explorer([folder / kind], folder / f"{kind}.html")
            made[kind] = folder / f"{kind}.html", model
        return made[kind]

    return make


@pytest.fixture
def opened(browser: Browser, explorers: Callable[[str], tuple[Path, Any]]) -> Any:
    """Opens the page of a kind of model; afterwards nothing may have gone wrong in it."""

    def open_page(kind: str, *arguments: Any, **options: Any) -> Any:
        path, model = explorers(kind)
        show(browser, path, *arguments, **options)
        return model

    yield open_page
    assert browser.console_errors() == []
    assert browser.outside_requests() == []
    assert browser.overflow() == 0


def show(browser: Browser, path: Path, *arguments: Any, **options: Any) -> None:
    browser.open_page(path, *arguments, **options)
    browser.wait("document.getElementById('nearest').textContent")


def decoded(browser: Browser, z: np.ndarray) -> np.ndarray:
    """What the page decodes from each z (N, L): (N, D)."""
    rows = browser.run("return arguments[0].map((z) => [...explorer.state.model.decode(z)])", z)
    return np.array(rows)


def picture(browser: Browser, canvas: str = "picture") -> np.ndarray:
    """The grey levels of a canvas, row by row."""
    script = """
        const canvas = document.getElementById(arguments[0]);
        const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        return [...data].filter((_, i) => i % 4 === 0)"""
    return np.array(browser.run(script, canvas))


def z_of(browser: Browser) -> np.ndarray:
    return np.array(browser.run("return [...explorer.state.z]"))


def pointer(browser: Browser, selector: str, places: list[tuple[float, float]]) -> None:
    """Press the mouse at the first place, given in parts of the element, and drag to the others."""
    from selenium.webdriver.common.action_chains import ActionChains

    element = browser.driver.find_element("css selector", selector)
    browser.run("arguments[0].scrollIntoView({ block: 'center' })", element)
    width, height = element.size["width"], element.size["height"]
    actions = ActionChains(browser.driver, duration=0)
    for k, (x, y) in enumerate(places):
        actions.move_to_element_with_offset(element, (x - 0.5) * width, (y - 0.5) * height)
        if k == 0:
            actions.click_and_hold()
    actions.release().perform()
    frame(browser)


def frame(browser: Browser) -> None:
    """Wait until the page has drawn what it was told."""
    browser.driver.execute_async_script(
        "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(done))"
    )


@pytest.mark.parametrize("kind", MODELS)
def test_the_decoded_picture_is_pythons(opened: Any, browser: Browser, kind: str) -> None:
    model = opened(kind)
    z = spread(model)
    want = model.decode(z)
    assert want.std(axis=0).max() > 0.01  # z matters
    assert np.abs(decoded(browser, z.tolist()) - want).max() <= explorer.AGREEMENT
    for row in (3, -3):
        browser.run("explorer.goTo(arguments[0])", z[row].tolist())
        frame(browser)
        grey = np.clip(want[row], 0, 1) * 255
        assert np.abs(picture(browser) - grey).max() <= 0.5 + 255 * explorer.AGREEMENT


def test_a_wrong_weight_is_seen(
    browser: Browser, explorers: Callable[[str], tuple[Path, Any]], tmp_path: Path
) -> None:
    path, model = explorers("vae")
    show(browser, broken(path, tmp_path / "bad.html"))
    z = spread(model)
    assert np.abs(decoded(browser, z.tolist()) - model.decode(z)).max() > 10 * explorer.AGREEMENT


@pytest.mark.parametrize("kind", ["vae", "learned", "gaussian", "vae of five", "ae"])
def test_the_terms_of_a_loss_are_pythons(opened: Any, browser: Browser, kind: str) -> None:
    model = opened(kind)
    rng = np.random.default_rng(2)
    eps = rng.standard_normal((3, model.n_latent))
    script = """
        const [i, eps] = arguments, x = explorer.images()[i];
        return [[...x], explorer.state.model.terms(x, eps)]"""
    for i in (0, 7):
        x, got = browser.run(script, i, eps.tolist())
        want = expected_terms(model, x, eps)
        assert set(got) == set(want)
        for name, value in want.items():
            tolerance = 1e-3 if name == "mse" else max(NATS, 1e-4 * abs(value))
            assert abs(got[name] - value) <= tolerance, name


def expected_terms(model: Any, x: list[float], eps: np.ndarray) -> dict[str, float]:
    """The same terms by Python, averaged over the rows of eps."""
    rows = np.tile(np.array(x, model.dtype), (len(eps), 1))
    terms = model.loss_terms(rows, eps.astype(model.dtype))
    return {name: float(value) for name, value in terms.items() if name != "loss"}


@pytest.mark.parametrize("size", [PHONE, DESKTOP])
def test_dragging_changes_the_picture(opened: Any, browser: Browser, size: Any) -> None:
    model = opened("vae", size, theme="dark")
    before = picture(browser)
    pointer(browser, "#plane", [(0.5, 0.5), (0.6, 0.4), (0.75, 0.25)])
    z = z_of(browser)
    low, high = browser.run("return explorer.state.model.run.ranges[0]")
    np.testing.assert_allclose(z, [low + 0.75 * (high - low)] * 2, atol=0.03 * (high - low))
    assert np.abs(picture(browser) - before).max() > 20
    want = model.decode(z.astype(np.float32)[None])[0] * 255
    assert np.abs(picture(browser) - want).max() <= 0.5 + 255 * explorer.AGREEMENT
    shown = browser.run("return document.getElementById('z').textContent")
    assert shown == f"z₁ = {z[0]:.2f}\nz₂ = {z[1]:.2f}".replace("-", "−")


def test_a_finger_drags_too(opened: Any, browser: Browser) -> None:
    opened("vae", PHONE)
    box = browser.run("return document.getElementById('plane').getBoundingClientRect().toJSON()")
    start = z_of(browser)

    def touch(kind: str, *places: tuple[float, float]) -> None:
        points = [
            {"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"]} for x, y in places
        ]
        browser.driver.execute_cdp_cmd(
            "Input.dispatchTouchEvent", {"type": kind, "touchPoints": points}
        )

    touch("touchStart", (0.5, 0.5))
    touch("touchMove", (0.2, 0.8))
    touch("touchEnd")
    frame(browser)
    assert (z_of(browser) < -1).all()
    assert browser.run("return scrollY") == 0
    assert (z_of(browser) != start).all()


def test_the_keyboard_does_all(opened: Any, browser: Browser) -> None:
    from selenium.webdriver.common.keys import Keys

    opened("vae")
    browser.press("#plane", Keys.HOME)
    assert z_of(browser).tolist() == [0, 0]
    browser.press("#plane", Keys.ARROW_RIGHT, Keys.ARROW_UP, Keys.ARROW_UP)
    step = z_of(browser)[0]
    np.testing.assert_allclose(z_of(browser), [step, 2 * step])
    assert step > 0.1
    browser.press("#plane", Keys.SHIFT, Keys.ARROW_LEFT)
    np.testing.assert_allclose(z_of(browser)[0], step * 7 / 8)
    picked = browser.run("return explorer.state.picked")
    browser.press("#plane", "n")
    assert browser.run("return explorer.state.picked") == picked + 1
    browser.wait("document.getElementById('live').textContent.includes('z₁ = ')")
    assert "Nearest codes: class " in browser.run(
        "return document.getElementById('live').textContent"
    )
    before = z_of(browser)
    browser.press("#plane", " ")  # from the prior
    assert (z_of(browser) != before).all()

    for tool in ("path", "posterior", "own", "walk"):
        browser.press(":focus" if tool != "path" else "#tab-walk", Keys.ARROW_RIGHT)
        selected = "return document.querySelector('[aria-selected=true]:focus').id"
        assert browser.run(selected) == f"tab-{tool}"
        assert browser.run(
            "return document.getElementById(arguments[0]).checkVisibility()", f"panel-{tool}"
        )


def test_every_part_has_a_name(opened: Any, browser: Browser) -> None:
    opened("vae of five")
    for tool in ("walk", "path", "posterior", "own"):
        browser.click(f"#tab-{tool}")
        frame(browser)
        nameless = browser.run(
            """
            const seen = [...document.querySelectorAll(
              "button, input, select, canvas[tabindex], canvas[role], [role=tabpanel]")];
            return seen.filter((each) => each.checkVisibility() && !(
              each.getAttribute("aria-label") || each.getAttribute("aria-labelledby")
              || each.textContent.trim() || each.labels?.length)).map((each) => each.outerHTML)"""
        )
        assert nameless == []
    assert browser.run("return document.querySelectorAll('.slider').length") == 5


def test_a_path_is_played(opened: Any, browser: Browser) -> None:
    opened("vae")
    browser.click("#tab-path")
    pointer(browser, "#plane", [(0.3, 0.3), (0.25, 0.25)])
    end = browser.run("return explorer.state.t")
    assert end in (0, 1)
    np.testing.assert_allclose(
        z_of(browser), browser.run("return [...explorer.state[arguments[0]]]", "ab"[end])
    )
    browser.run("document.getElementById('time').value = 0; explorer.state.t = 0")
    browser.click("#play")
    browser.wait("explorer.state.t > 0.1")
    browser.click("#play")
    t, a, b = browser.run("const s = explorer.state; return [s.t, [...s.a], [...s.b]]")
    np.testing.assert_allclose(z_of(browser), (1 - t) * np.array(a) + t * np.array(b))
    assert picture(browser, "strip").std() > 5
    assert browser.run("return explorer.state.playing") == 0


@pytest.mark.parametrize("kind", ["vae", "vae of five", "learned"])
def test_the_trick_is_seen(opened: Any, browser: Browser, kind: str) -> None:
    model = opened(kind)
    browser.click("#tab-posterior")
    mu, logvar = model.encode(digit(browser, model))
    for _ in range(3):
        browser.click("#draw-eps")
        eps = np.array(browser.run("return [...explorer.state.eps]"))
        np.testing.assert_allclose(z_of(browser), (mu + np.exp(logvar / 2) * eps)[0], atol=5e-3)
        assert np.abs(eps).max() < 6
    pointer(browser, "#eps-square", [(0.75, 0.25)])
    chosen = browser.run("return explorer.state.eps[explorer.state.axes[0]]")
    np.testing.assert_allclose(chosen, 1.65, atol=0.1)
    formula = browser.run("return document.getElementById('formula').textContent")
    assert f"× {chosen:.2f} = " in formula
    browser.click("#zero-eps")
    np.testing.assert_allclose(z_of(browser), mu[0], atol=5e-3)


def digit(browser: Browser, model: Any) -> np.ndarray:
    """The chosen test image, (1, D)."""
    x = browser.run("return [...explorer.images()[explorer.state.picked]]")
    return np.array(x, model.dtype)[None]


def test_a_drawing_by_keyboard(opened: Any, browser: Browser) -> None:
    from selenium.webdriver.common.keys import Keys

    opened("vae")
    browser.click("#tab-own")
    pad = "#pad"
    browser.press(pad, Keys.ARROW_UP, Keys.ARROW_LEFT)  # the pen is up
    assert browser.run("return explorer.state.own") is None
    browser.press(pad, " ", *[Keys.ARROW_DOWN] * 3)
    assert browser.run("return document.getElementById('live').textContent") == "Pen down"
    browser.press(pad, " ", Keys.ARROW_RIGHT, " ", Keys.SHIFT, Keys.ARROW_UP)
    strokes = browser.run("return explorer.state.strokes")
    assert strokes == [[[126, 126], [126, 140], [126, 154], [126, 168]], [[140, 168], [140, 164]]]
    assert max(browser.run("return [...explorer.state.own]")) > 0.5
    browser.press("#clear", " ")  # the pad loses the focus, and the pen is lifted
    browser.press(pad, Keys.ARROW_DOWN)
    assert browser.run("return explorer.state.own") is None


@pytest.mark.parametrize("kind", ["vae", "dae"])
def test_an_own_drawing_is_measured(opened: Any, browser: Browser, kind: str) -> None:
    model = opened(kind)
    browser.click("#tab-own")
    assert browser.run("return document.getElementById('terms').children.length") == 0
    pointer(browser, "#pad", [(0.3, 0.2), (0.6, 0.2), (0.6, 0.4), (0.4, 0.6), (0.3, 0.8)])
    pointer(browser, "#pad", [(0.3, 0.8), (0.5, 0.8), (0.7, 0.8)])
    x = np.array(browser.run("return [...explorer.state.own]"))
    image = x.reshape(28, 28)
    rows, columns = np.nonzero(image > 0.5)
    assert max(np.ptp(rows), np.ptp(columns)) + 1 in (19, 20)  # the box of 20 x 20
    middle = np.arange(28) + 0.5
    for mass in (image.sum(axis=0), image.sum(axis=1)):  # within half a pixel, and its edge
        assert abs(mass @ middle / mass.sum() - 14) <= 0.6
    code = model.codes(x.astype(np.float32)[None])[0]
    np.testing.assert_allclose(z_of(browser), code, atol=5e-3)
    browser.wait("document.querySelector('#terms[aria-busy=false] dd')")
    shown = browser.run(
        "return Object.fromEntries([...document.querySelectorAll('#terms dd')]"
        ".map((each) => [each.dataset.term, Number(each.dataset.value)]))"
    )
    if kind == "dae":
        want = {"mse": float(np.square(model.reconstruct(x.astype("f4")[None])[0] - x).mean())}
    else:
        eps = np.array(browser.run("return explorer.own.eps"))
        assert eps.shape == (64, 2)
        want = expected_terms(model, x.tolist(), eps)
    assert shown.keys() == want.keys()
    for name, value in want.items():
        assert abs(shown[name] - value) <= (1e-3 if name == "mse" else NATS), name
    if kind == "dae":
        browser.click("#noise")
        noisy = np.array(browser.run("return [...explorer.state.noisy]"))
        assert 0.15 < (noisy != x).mean() < 0.45  # 30 % are hit, some of which had that value
        assert set(np.unique(noisy[noisy != x])) <= {0.0, 1.0}
    browser.click("#clear")
    assert browser.run("return explorer.state.own") is None


def test_what_an_autoencoder_lacks_is_said(opened: Any, browser: Browser) -> None:
    opened("ae")
    hidden = (
        "return ['sample', 'trick'].map((id) => !document.getElementById(id).checkVisibility())"
    )
    assert browser.run(hidden) == [True, True]
    assert "no prior" in browser.run("return document.getElementById('panel-walk').textContent")
    browser.click("#tab-posterior")
    assert "no posterior" in browser.run(
        "return document.getElementById('panel-posterior').textContent"
    )


@pytest.mark.parametrize("size", [PHONE, DESKTOP])
@pytest.mark.parametrize("language", ["en", "ja"])
def test_both_languages(opened: Any, browser: Browser, size: Any, language: str) -> None:
    opened("vae of five", size, language=language)
    titles = {"en": "A walk through the latent space", "ja": "潜在空間を歩く"}
    other = {"en": "ja", "ja": "en"}[language]
    for current in (language, other):
        if current == other:
            browser.click(f"[data-language={other}]")
        assert browser.run("return document.title") == titles[current]
        for tool in ("walk", "path", "posterior", "own"):
            browser.click(f"#tab-{tool}")
            frame(browser)
            assert browser.overflow() == 0
        text = browser.run("return document.querySelector('main').innerText")
        assert "undefined" not in text
        assert "NaN" not in text
        assert ("潜在" in text) == (current == "ja")


def test_several_runs_and_no_room(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = {b: save(tmp_path / f"{b}", {**MODELS["vae"], "beta": b}) for b in (0.5, 4.0)}
    paths = [tmp_path / f"{b}" for b in models]
    monkeypatch.setattr(explorer, "IMAGES", (60,))
    whole = explorer.write_explorer(paths, tmp_path / "x.html")
    monkeypatch.setattr(explorer, "LIMIT", whole["bytes"])
    report = explorer.write_explorer(paths, tmp_path / "x.html")
    assert report["without_encoder"] == [str(paths[1])]
    show(browser, tmp_path / "x.html")
    assert browser.run("return document.getElementById('run-name').textContent") == "β = 0.5"
    slide_to(browser, 1, "β = 4")
    z = spread(models[4.0])[:10]
    want = models[4.0].decode(z)
    assert np.abs(decoded(browser, z.tolist()) - want).max() <= explorer.AGREEMENT
    codes = np.array(browser.run("return explorer.codes().map(({ mu }) => [...mu])"))
    assert codes.shape == (60, 2)
    slide_to(browser, 0, "β = 0.5")
    browser.click("#tab-own")
    browser.click("#test-image")
    x = np.array(browser.run("return [...explorer.state.own]"), np.float32)[None]
    np.testing.assert_allclose(z_of(browser), models[0.5].codes(x)[0], atol=5e-3)
    slide_to(browser, 1, "β = 4")
    assert "did not fit" in browser.run("return document.getElementById('own-text').textContent")
    browser.click("#tab-posterior")
    browser.click("#draw-eps")
    assert browser.console_errors() == []
    assert browser.outside_requests() == []


def slide_to(browser: Browser, run: int, name: str) -> None:
    """Move the slider between the runs."""
    browser.run(
        "const slider = document.getElementById('run'); slider.value = arguments[0];"
        "slider.dispatchEvent(new Event('input'))",
        run,
    )
    browser.wait("document.getElementById('run-name').textContent === arguments[0]", name)


@pytest.mark.parametrize("size", [PHONE, DESKTOP])
def test_data_that_are_no_images(browser: Browser, tmp_path: Path, size: Any) -> None:
    rng = np.random.default_rng(0)
    np.save(tmp_path / "own.npy", rng.random((80, 35)).astype(np.float32))
    config = {"model": "vae", "n_features": 35, "hidden": [9], "n_latent": 3}
    model = save(tmp_path / "run", config, str(tmp_path / "own.npy"))
    explorer.write_explorer([tmp_path / "run"], tmp_path / "x.html")
    show(browser, tmp_path / "x.html", size)
    z = rng.standard_normal((5, 3))
    want = model.decode(z.astype(np.float32))
    assert np.abs(decoded(browser, z.tolist()) - want).max() <= explorer.AGREEMENT
    assert "Nearest code: test image " in browser.run(
        "return document.getElementById('nearest').textContent"
    )
    for tool in ("path", "posterior", "own"):
        browser.click(f"#tab-{tool}")
    browser.click("#test-image")
    browser.wait("document.getElementById('terms').children.length === 6")
    assert not browser.run("return document.getElementById('pad').checkVisibility()")
    assert browser.console_errors() == []
    assert browser.overflow() == 0


def test_the_language_that_was_asked_for(browser: Browser, tmp_path: Path) -> None:
    save(tmp_path / "run", MODELS["ae"])
    explorer.write_explorer([tmp_path / "run"], tmp_path / "x.html", language="ja")
    show(browser, tmp_path / "x.html", language="en")
    assert browser.run("return document.documentElement.lang") == "ja"
    browser.click("[data-language=en]")
    browser.driver.refresh()  # the reader's choice is remembered
    assert browser.run("return document.documentElement.lang") == "en"


def test_a_change_of_language_loses_nothing(opened: Any, browser: Browser) -> None:
    opened("vae")
    browser.click("#tab-posterior")
    for _ in range(3):
        browser.click("#draw-eps")
    z = z_of(browser)
    browser.click("[data-language=ja]")
    browser.click("#theme")
    assert browser.run("return explorer.state.draws.length") == 3
    assert (z_of(browser) == z).all()
