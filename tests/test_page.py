"""The base of the pages: one file that asks for nothing, whatever the data hold."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from browser import DESKTOP, PHONE, Browser

from scratchvae.web import page

ASSETS = {
    "try.html": '<p data-i18n="hello"></p><canvas></canvas><div class="lines"></div>',
    "try.css": "p { color: var(--blue) }",
    "try.js": "document.body.dataset.ready = 'yes';",
    "try.json": """{"title": {"en": "A <try>", "ja": "試し"},
                    "hello": {"en": "Hello", "ja": "どうも"}}""",
}


@pytest.fixture
def assets(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Assets of a page `try`, to change before it is made."""
    own, real = dict(ASSETS), page.asset
    monkeypatch.setattr(page, "asset", lambda name: own[name] if name in own else real(name))
    return own


def test_a_page_is_one_file_that_asks_for_nothing(assets: dict[str, str]) -> None:
    text = page.page("try", {"n": 1})
    assert not re.search(r"\b(?:src|href|action)=\"(?!data:)", text)
    assert "@import" not in text
    assert "url(" not in text
    assert [
        url for url in re.findall(r"https?://\S+", text) if "www.w3.org/2000/svg" not in url
    ] == []
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    assert policy[1].startswith("default-src 'none'; script-src 'sha256-")
    assert '<title data-i18n="title">A &lt;try&gt;</title>' in text


def test_data_cannot_leave_their_element(assets: dict[str, str]) -> None:
    evil = {"name": "</script><script>alert(1)</script><!-- $title ${body}"}
    text = page.page("try", evil)
    assert text.count("</script>") == 3
    data = re.search(r'id="data">(.*?)</script>', text)
    assert data is not None
    assert json.loads(data[1]) == evil


@pytest.mark.parametrize("value", [float("nan"), float("inf"), np.float32(1), b"bytes"])
def test_what_json_cannot_hold_is_refused(value: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        page.to_json({"value": value})


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([np.nan], "Float32Array"),
        ([1e39], "Float32Array"),
        ([256], "Uint8Array"),
        ([0.5], "Uint16Array"),
    ],
)
def test_an_array_that_does_not_fit_is_refused(values: list[float], kind: str) -> None:
    with pytest.raises(ValueError, match="array: got values that"):
        page.array(values, kind)


def test_words_are_there_in_both_languages(assets: dict[str, str]) -> None:
    assets["try.html"] = '<p data-i18n-label="missing"></p>'
    with pytest.raises(ValueError, match=r"try\.json: has no words for 'missing'"):
        page.page("try", {})
    assets["try.html"] = ""
    assets["try.json"] = '{"title": {"en": "Only English"}}'
    with pytest.raises(ValueError, match=r"try\.json: 'title' wants words in en and ja"):
        page.page("try", {})


@pytest.mark.browser
@pytest.mark.parametrize("size", [PHONE, DESKTOP])
def test_the_base_in_a_browser(
    assets: dict[str, str], browser: Browser, tmp_path: Path, size: tuple[int, int]
) -> None:
    numbers = np.array([[0, 0.25, 1], [-1.5, 3e-8, 2]], dtype=np.float32)
    path = tmp_path / "try page ü.html"
    data = {"a": page.array(numbers), "b": page.array([[0, 128, 255]], "Uint8Array")}
    path.write_text(page.page("try", data), encoding="utf-8")
    browser.open_page(path, size, language="ja", theme="dark")
    assert browser.run("return document.body.dataset.ready") == "yes"
    assert browser.run("return [document.documentElement.lang, document.title]") == ["ja", "試し"]
    assert browser.run("return document.documentElement.dataset.theme") == "dark"
    back = browser.run("const a = base.decode(base.data.a); return [[...a], a.shape]")
    assert back == [numbers.ravel().tolist(), [2, 3]]

    painted = """
        const canvas = document.querySelector("canvas");
        base.paint(canvas, PIXELS, 1, 3);
        return [...canvas.getContext("2d").getImageData(0, 0, 3, 1).data]"""
    for pixels in ("base.decode(base.data.b)", "new Float32Array([0, 0.502, 1.5])"):
        assert browser.run(painted.replace("PIXELS", pixels)) == [
            *(0, 0, 0, 255), *(128, 128, 128, 255), *(255, 255, 255, 255)
        ]  # fmt: skip
    browser.run(
        "base.lineChart(document.querySelector('.lines'), {title: 'T', xlabel: 'e', xs: [1, 2, 3],"
        " now: 2, series: [{name: 'x', colour: 'red', values: [3, null, 1]}]})"
    )
    label = browser.run("return document.querySelector('svg').getAttribute('aria-label')")
    assert label == "T。x：e 1で3.0、e 3で1.0。"

    browser.click("[data-language=en]")
    browser.click("#theme")
    assert browser.run("return document.querySelector('p').textContent") == "Hello"
    browser.driver.refresh()  # both are remembered
    assert browser.run("return document.title") == "A <try>"
    assert browser.run("return document.documentElement.dataset.theme") == "light"
    browser.open_page(path, size, fragment="#lang=ja&theme=dark&more=1")  # embedded
    assert browser.run("return document.title") == "試し"
    browser.click("[data-language=en]")
    assert browser.run("return location.hash") == "#theme=dark&more=1"
    assert browser.overflow() == 0
    assert browser.console_errors() == []
    assert browser.outside_requests() == []


@pytest.mark.browser
def test_the_browser_sees_what_it_must_object_to(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "bad.html"
    path.write_text(
        '<img src="http://example.invalid/x.png"><div style="width:2000px">.</div>',
        encoding="utf-8",
    )
    browser.open_page(path, PHONE)
    browser.wait("document.readyState === 'complete'")
    assert browser.outside_requests() == ["http://example.invalid/x.png"]
    assert any("ERR_INTERNET_DISCONNECTED" in message for message in browser.console_errors())


@pytest.mark.browser
def test_a_page_cannot_fetch(assets: dict[str, str], browser: Browser, tmp_path: Path) -> None:
    assets["try.js"] = "new Image().src = 'http://example.invalid/x.png';"
    path = tmp_path / "fetch.html"
    path.write_text(page.page("try", {}), encoding="utf-8")
    browser.open_page(path)
    browser.wait("document.readyState === 'complete'")
    assert any("Content Security Policy" in message for message in browser.console_errors())
