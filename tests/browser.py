"""A real Chromium without a window and without a network: the fixture `browser`.

One is started in each process of the tests that asks for it. A page is opened from the disk in a
window of a given size, and the browser's own logs say what went wrong and what it asked for.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PHONE, DESKTOP = (390, 844), (1280, 800)
_FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--hide-scrollbars"),
    "--disable-features=RenderDocument",  # a reloaded page could miss what it had just stored
)


class Browser:
    """One Chromium: it opens pages, runs JavaScript in them and reports what they did."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver
        self._log: list[dict[str, Any]] = []

    def open_page(
        self,
        path: Path,
        size: tuple[int, int] = DESKTOP,
        *,
        language: str = "en",
        theme: str = "light",
        fragment: str = "",
    ) -> None:
        """Open the file as a reader would who was never there before, with the network cut."""
        cdp, (width, height) = self.driver.execute_cdp_cmd, size
        phone = width < 600
        self.driver.get("file:///")  # all files share one storage
        self.run("localStorage.clear(); sessionStorage.clear()")
        cdp("Network.enable", {})
        cdp(
            "Network.emulateNetworkConditions",
            {"offline": True, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1},
        )
        cdp(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1 + phone, "mobile": phone},
        )
        cdp("Emulation.setTouchEmulationEnabled", {"enabled": phone})
        agent = self.run("return navigator.userAgent")
        cdp("Emulation.setUserAgentOverride", {"userAgent": agent, "acceptLanguage": language})
        cdp(
            "Emulation.setEmulatedMedia",
            {"features": [{"name": "prefers-color-scheme", "value": theme}]},
        )
        for kind in ("browser", "performance"):
            self.driver.get_log(kind)
        self._log = []
        self.driver.get(path.resolve().as_uri() + fragment)

    def run(self, script: str, *arguments: Any) -> Any:
        """Run JavaScript in the page, as the body of a function; return what it returns."""
        return self.driver.execute_script(script, *arguments)

    def wait(self, condition: str, *arguments: Any, seconds: float = 20) -> None:
        """Wait until the JavaScript expression `condition` is true."""
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.driver, seconds, poll_frequency=0.05).until(
            lambda _: self.run(f"return Boolean({condition})", *arguments), condition
        )

    def click(self, selector: str) -> None:
        """Click the middle of the first element of this CSS selector, as a mouse does."""
        self.driver.find_element("css selector", selector).click()

    def press(self, selector: str, *keys: str) -> None:
        """Press keys (`selenium.webdriver.common.keys.Keys`, or text) on an element."""
        self.driver.find_element("css selector", selector).send_keys(*keys)

    def console_errors(self) -> list[str]:
        """Return what the console complained of since the last call, refused requests included.

        Hints on how to render faster are no complaints.
        """
        return [
            entry["message"]
            for entry in self.driver.get_log("browser")
            if entry["level"] in ("SEVERE", "WARNING") and entry["source"] != "rendering"
        ]

    def requests(self) -> list[str]:
        """Return the addresses that were asked for since the page was opened."""
        for entry in self.driver.get_log("performance"):
            self._log.append(json.loads(entry["message"])["message"])
        return [
            event["params"]["request"]["url"]
            for event in self._log
            if event["method"] == "Network.requestWillBeSent"
        ]

    def outside_requests(self) -> list[str]:
        """Return the requests that are neither for a file nor for data in the page itself."""
        return [url for url in self.requests() if not url.startswith(("file://", "data:"))]

    def overflow(self) -> int:
        """Return by how many pixels the page is wider than its window: 0 if it fits."""
        return int(
            self.run(
                "const page = document.documentElement;"
                "return Math.max(0, page.scrollWidth - page.clientWidth)"
            )
        )

    def screenshot(self, path: Path, *, whole: bool = False) -> Path:
        """Write a PNG of the window, or of the whole page, to look at."""
        import base64

        shot = self.driver.execute_cdp_cmd(
            "Page.captureScreenshot", {"captureBeyondViewport": whole}
        )
        path.write_bytes(base64.b64decode(shot["data"]))
        return path


def start(profile: Path) -> Any:
    """Start a Chromium with an empty profile; None where it or its chromedriver is missing."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    chromedriver = shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        return None
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*_FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=Service(chromedriver))


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """The Chromium of this process; skips where there is none."""
    pytest.importorskip("selenium", reason="Selenium is missing: pip install -e '.[browser]'")
    driver = start(tmp_path_factory.mktemp("chromium"))
    if driver is None:
        pytest.skip("chromium or chromedriver is missing: apt install chromium-driver")
    try:
        yield Browser(driver)
    finally:
        driver.quit()
