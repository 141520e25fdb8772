"""The live page in a real browser, from the disk, with the network cut."""

import time

import numpy as np
import pytest
from browser import DESKTOP, PHONE

from scratchvae import VAE, Autoencoder, DenoisingAutoencoder
from scratchvae.datasets import Dataset
from scratchvae.optim import Adam
from scratchvae.train import Training, fit
from scratchvae.web import live

pytestmark = pytest.mark.browser

SMALLEST = (360, 640)
LEFT, HOME, SPACE = "\ue012", "\ue011", " "
EPOCH = "document.getElementById('epoch').textContent"
STATE = "document.getElementById('state').textContent"
PICTURES = """
    return [...document.querySelectorAll("canvas")].filter((c) => c.offsetWidth).map((c) => {
        const data = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
        return data.reduce((sum, value, i) => (sum + value * (i % 977 + 1)) % 1e9, 0);
    })"""

PAINTED = """[...document.querySelectorAll("canvas.pixels")].every((canvas) =>
    !canvas.offsetWidth || canvas.getContext("2d").getImageData(0, 0, 1, 1).data[3])"""


def images():
    rng = np.random.default_rng(0)
    x = rng.random((60, 64), dtype="float32") * np.linspace(0.1, 1, 64, dtype="float32")
    y = np.arange(60) % 3
    return Dataset("mine.npz", x[:30], y[:30], x[30:], y[30:], image_shape=(8, 8))


MODELS = {
    "ae": lambda: Autoencoder(64, (8,), 2),
    "dae": lambda: DenoisingAutoencoder(64, (8,), 5),
    "vae": lambda: VAE(64, (8,), 2, beta=2),
    "vae5": lambda: VAE(64, (8,), 5),
}


def watch(path, name="vae", epochs=4):
    """Train the model with a page; return how to write the page again."""
    model, data = MODELS[name](), images()
    training = Training(Adam(0.01), batch_size=8, n_examples=30)
    page = live.Live(path, model, training, data, epochs)
    with page:
        fit(
            model,
            data.x_train,
            validation=data.x_test,
            epochs=epochs,
            callbacks=[page],
            resume=training,
        )
    return page


def clean(browser):
    assert browser.console_errors() == []
    assert browser.outside_requests() == []
    assert browser.overflow() == 0


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("vae", PHONE),
        ("vae", DESKTOP),
        ("vae", SMALLEST),
        ("dae", DESKTOP),
        ("ae", PHONE),
        ("vae5", PHONE),
    ],
)
def test_the_slider_changes_every_picture(name, size, browser, tmp_path):
    path = tmp_path / "räume 空白" / "live.html"
    path.parent.mkdir()
    watch(path, name)
    browser.open_page(path, size)
    assert browser.run(f"return {EPOCH}") == "Epoch 4 of 4"
    assert browser.run(f"return {STATE}") == "Finished: 4 epochs."
    browser.wait(PAINTED)
    trained = browser.run(PICTURES)
    browser.press("#slider", HOME)
    assert browser.run(f"return {EPOCH}") == "Untrained"
    browser.wait(PAINTED)
    untrained = browser.run(PICTURES)
    inputs = 2 if name == "dae" else 1
    assert untrained[:inputs] == trained[:inputs]
    assert len(trained) == inputs + 4
    for before, after in zip(untrained[inputs:], trained[inputs:], strict=True):
        assert before != after
    clean(browser)


def test_every_picture_and_curve_has_a_name_in_both_languages(browser, tmp_path):
    path = tmp_path / "live.html"
    watch(path)
    browser.open_page(path, language="ja")
    names = """return [...document.querySelectorAll("[role=img]")].filter((e) => e.clientWidth)
        .map((e) => e.getAttribute("aria-label"))"""
    japanese = browser.run(names)
    assert len(japanese) == 5 + 4
    assert all(any("ぁ" <= c <= "鿿" for c in name) for name in japanese)
    assert browser.run("return document.documentElement.lang") == "ja"
    assert browser.run(f"return {EPOCH}") == "エポック 4 / 4"
    browser.click("[data-language=en]")
    english = browser.run(names)
    assert all(name.isascii() or not any("ぁ" <= c <= "鿿" for c in name) for name in english)
    assert any(name.startswith("−ELBO. training: ") for name in english)
    assert not browser.run("return document.body.innerText.includes('undefined')")
    clean(browser)


def test_play_goes_through_all_epochs_and_stops(browser, tmp_path):
    path = tmp_path / "live.html"
    watch(path)
    browser.open_page(path, PHONE)
    browser.run("""window.seen = [];
        new MutationObserver(() => {
            const name = document.getElementById("epoch").textContent;
            if (name !== window.seen.at(-1)) window.seen.push(name);
        }).observe(document.getElementById("epoch"), {childList: true})""")
    browser.press("#play", SPACE)
    browser.wait("window.seen.length")
    assert browser.run("return window.seen[0]") == "Untrained"
    browser.wait("window.seen.length === 5")
    assert browser.run("return window.seen.slice(1)") == [f"Epoch {n} of 4" for n in (1, 2, 3, 4)]
    browser.wait("document.getElementById('play').textContent === 'Play'")
    clean(browser)


def test_a_finger_moves_the_slider(browser, tmp_path):
    path = tmp_path / "live.html"
    watch(path)
    browser.open_page(path, PHONE)
    x, y, width = browser.run(
        "const r = document.getElementById('slider').getBoundingClientRect();"
        "return [r.x, r.y + r.height / 2, r.width]"
    )

    def touch(kind, *points):
        at = [{"x": at, "y": y} for at in points]
        browser.driver.execute_cdp_cmd(
            "Input.dispatchTouchEvent", {"type": kind, "touchPoints": at}
        )

    touch("touchStart", x + width - 10)
    for step in range(10):
        touch("touchMove", x + width - 10 - step * (width / 2 - 10) / 9)
    touch("touchEnd")
    assert browser.run(f"return {EPOCH}") == "Epoch 2 of 4"


def test_the_page_reloads_itself_while_the_training_goes_on(browser, tmp_path):
    path = tmp_path / "live.html"
    page = watch(path, epochs=3)
    page.epochs, page.seconds = 5, 0.1
    page._write("training")
    browser.open_page(path)
    assert browser.run(f"return {STATE}").startswith("Epoch 3 of 5, training.")
    page.training.epoch = 4
    page(page.training)  # the next epoch: the newest is shown
    browser.wait(f"{EPOCH} === 'Epoch 4 of 5'")

    browser.click("[data-language=ja]")  # what the reader chose is kept over a reload
    browser.press("#slider", LEFT, LEFT)
    assert browser.run(f"return {EPOCH}") == "エポック 2 / 5"
    page.training.epoch = 5
    page(page.training)
    browser.wait(f"{STATE}.startsWith('5エポック中5エポックまで')")
    assert browser.run(f"return {EPOCH}") == "エポック 2 / 5"
    assert browser.run("return document.activeElement.id") == "slider"

    page._write("finished")
    browser.wait(f"{STATE} === '学習が終わりました（5エポック）。'")
    browser.run("window.still = true")
    time.sleep(1.5)  # it would have reloaded after one second
    assert browser.run("return window.still") is True
    clean(browser)


def test_a_training_that_was_killed_is_not_waited_for(browser, tmp_path, monkeypatch):
    path = tmp_path / "live.html"
    page = watch(path, epochs=2)
    page.seconds = 0.1
    real = time.time
    monkeypatch.setattr(live.time, "time", lambda: real() - 3600)
    page._write("training")
    browser.open_page(path)
    browser.wait(f"{STATE}.startsWith('No news since ')")
    assert browser.run(f"return {STATE}").endswith("reload the page to look again.")
    clean(browser)


def test_a_page_without_a_frame_yet(browser, tmp_path):
    """A training that was stopped in its first epoch, and resumed."""
    path, training = tmp_path / "live.html", Training(Adam(), n_examples=30, step=1)
    with live.Live(path, VAE(64, (8,), 2), training, images(), 2):
        browser.open_page(path)
        assert browser.run(f"return {STATE}").startswith("Epoch 0 of 2, training.")
        text = browser.run("return document.getElementById('kept').textContent")
        assert text.startswith("There are no pictures yet")
        assert browser.run("return document.getElementById('dock').offsetWidth") == 0
    clean(browser)
