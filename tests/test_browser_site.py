"""The built site in a real Chromium, opened from the disk with the network cut.

It reads docs/_build/html, which `python docs/build.py` writes.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from browser import DESKTOP, PHONE

SITE = Path(__file__).parents[1] / "docs" / "_build" / "html"
PAGES = [path.relative_to(SITE).as_posix() for path in sorted((SITE / "en").rglob("*.html"))]
PAGES = [page.removeprefix("en/") for page in PAGES if "_static" not in page]

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not PAGES, reason="the site is not built: python docs/build.py"),
]

FLAWS = """
const flaws = [];
for (const formula of document.querySelectorAll("math")) {
  const box = formula.getBoundingClientRect();
  if (box.width < 2 || box.height < 5) flaws.push("an empty formula: " + formula.outerHTML);
}
for (const code of document.querySelectorAll("pre"))
  if (!code.textContent.trim()) flaws.push("empty code");
for (const formula of document.querySelectorAll("article math")) {
  const scroller = formula.closest(".formula, .scrolls");
  if (!scroller && formula.getBoundingClientRect().right > innerWidth)
    flaws.push("a formula that is cut: " + formula.textContent);
}
const text = document.querySelector("article, main").cloneNode(true);
for (const code of text.querySelectorAll("pre, code, math, script, style")) code.remove();
const raw = text.textContent.match(/\\\\[a-zA-Z]{2,}|\\$\\$|:(math|ref|doc|download):|``/);
if (raw) flaws.push("raw markup: " + raw[0]);
for (const image of document.images)
  if (!image.complete || !image.naturalWidth) flaws.push("no picture: " + image.src);
if (document.documentElement.lang !== arguments[0]) flaws.push("lang");
return flaws;
"""


def test_both_languages_have_the_same_pages():
    japanese = {path.relative_to(SITE / "ja").as_posix() for path in (SITE / "ja").rglob("*.html")}
    assert {page for page in japanese if "_static" not in page} == set(PAGES)
    assert sum(page.startswith("lessons/") for page in PAGES) == 15


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize(("language", "theme"), [("en", "light"), ("ja", "dark")])
def test_the_page_is_whole_on_a_phone_and_on_a_desk(browser, page, language, theme):
    browser.open_page(SITE / language / page, PHONE, language=language, theme=theme)
    assert browser.run(FLAWS, language) == []
    assert browser.run("return document.documentElement.dataset.theme") == theme
    assert browser.overflow() == 0
    width, height = DESKTOP
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    assert browser.overflow() == 0
    assert browser.console_errors() == []
    assert browser.outside_requests() == []


def test_a_flaw_is_seen(browser, tmp_path):
    page = tmp_path / "flawed.html"
    page.write_text(
        '<!doctype html><html lang="en"><article>\\frac{a}{b}<math></math><pre> </pre>'
        '<img src="gone.png"></article><div style="width: 3000px">wide</div></html>',
        encoding="utf-8",
    )
    browser.open_page(page, DESKTOP)
    browser.wait("document.images[0].complete")
    assert [flaw.split(":")[0] for flaw in browser.run(FLAWS, "en")] == [
        "an empty formula",
        "empty code",
        "raw markup",
        "no picture",
    ]
    assert browser.overflow() > 1000
    assert "gone.png" in browser.console_errors()[0]


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
@pytest.mark.parametrize(
    ("page", "title", "other"),
    [
        ("lessons/11_elbo.html", "11. The ELBO", "11. 変分下限（ELBO）"),
        ("api/scratchvae.latent.html", "scratchvae.latent", "scratchvae.latent"),
        ("glossary.html", "Glossary", "用語集"),
    ],
)
def test_the_switch_leads_to_the_same_page_and_place(browser, size, page, title, other):
    browser.open_page(SITE / "en" / page, size, fragment="#elbo")
    heading = "document.querySelector('h1').firstChild.textContent"
    assert browser.run(f"return {heading}") == title
    for language, text in (("ja", other), ("en", title)):
        browser.run(  # of the two, on a phone only one is seen
            "[...document.querySelectorAll('.language-switch')]"
            ".find((link) => link.checkVisibility()).click()"
        )
        browser.wait(f"document.documentElement.lang === '{language}' && document.body")
        assert browser.run(f"return {heading}") == text
        assert browser.run("return location.href").endswith(f"/{language}/{page}#elbo")


@pytest.mark.parametrize(
    ("language", "query", "found"),
    [
        ("ja", "再パラメータ化", "10_reparameterization_trick"),
        ("ja", "変分下限", "11_elbo"),
        ("ja", "潜在空間", "13_generation_and_latent_space"),
        ("ja", "KLダイバージェンス", "09_gaussian_kl"),
        ("ja", "事後崩壊 対策", "14_strengths_and_weaknesses"),
        ("ja", "GaussianKL", "scratchvae.latent"),
        ("en", "reparameterization trick", "10_reparameterization_trick"),
        ("en", "posterior collapse", "14_strengths_and_weaknesses"),
        ("en", "Reparameterize", "scratchvae.latent"),
        ("ja", "量子力学", None),
        ("en", "zebra", None),
    ],
)
def test_search_finds_it(browser, language, query, found):
    from selenium.webdriver.common.keys import Keys

    browser.open_page(SITE / language / "index.html", PHONE, language=language)
    browser.run("document.querySelector('.search-button__button').click()")
    browser.wait("document.querySelector('dialog input[type=search]')?.checkVisibility()")
    browser.press("dialog input[type=search]", query, Keys.ENTER)
    browser.wait("document.querySelector('#search-results .search-summary')?.innerText")
    results = browser.run(
        "return [...document.querySelectorAll('#search-results li a')].map((link) => link.href)"
    )
    if found is None:
        assert results == []
    else:
        assert any(found in address for address in results)
    assert browser.console_errors() == []
    assert browser.outside_requests() == []


def test_light_and_dark_can_be_chosen(browser):
    browser.open_page(SITE / "en" / "index.html", DESKTOP, theme="light")
    ground = "return getComputedStyle(document.body).backgroundColor"
    light = browser.run(ground)
    browser.run("document.querySelector('button[data-mode=dark]').click()")
    browser.wait("document.documentElement.dataset.theme === 'dark'")
    assert browser.run(ground) != light


@pytest.mark.parametrize("language", ["en", "ja"])
def test_the_first_page_knows_the_readers_language(browser, language):
    browser.open_page(SITE / "index.html", language=language)
    browser.wait(f"location.pathname.endsWith('/{language}/index.html')")


@pytest.mark.parametrize("language", ["en", "ja"])
def test_the_explorer_lives_in_its_frame(browser, language):
    browser.open_page(SITE / language / "explorer.html", DESKTOP, language="fr", theme="dark")
    browser.driver.switch_to.frame(browser.driver.find_element("css selector", "iframe.explorer"))
    browser.wait(f"document.documentElement.lang === '{language}'")
    assert browser.run("return document.documentElement.dataset.theme") == "dark"
    browser.wait("document.querySelector('canvas')?.width > 0")
    browser.driver.switch_to.default_content()
    browser.run("document.querySelector('button[data-mode=light]').click()")
    browser.driver.switch_to.frame(browser.driver.find_element("css selector", "iframe.explorer"))
    browser.wait("document.documentElement.dataset.theme === 'light'")
    browser.driver.switch_to.default_content()
    assert browser.console_errors() == []
    assert browser.outside_requests() == []
