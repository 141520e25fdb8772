"""How fast the explorer draws, and the pictures of it in ``docs``.

    scratchvae train vae --n-latent 2 --epochs 40 --out RUN
    python -m benchmarks.explorer RUN [--pictures docs]

Opens the page in a headless Chromium (as the tests do: the extra ``browser``, chromium and
chromedriver), drags through the latent plane for four seconds, and prints the time of a decoding,
of a frame's work and between frames, in milliseconds. ``--pictures`` writes three screenshots.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from browser import DESKTOP, PHONE, Browser, start

from scratchvae.web.explorer import write_explorer

READY = "document.getElementById('nearest').textContent"
DRAG = """
const done = arguments[0], plane = document.getElementById("plane");
const box = plane.getBoundingClientRect();
const model = explorer.state.model, between = [], work = [];
const sorted = (list, q) => list.sort((a, b) => a - b)[Math.floor(q * (list.length - 1))];
const clock = performance.now();
for (let i = 0; i < 500; i++) model.decode([3 * Math.sin(i), 3 * Math.cos(1.3 * i)]);
const decode = (performance.now() - clock) / 500;
const next = window.requestAnimationFrame.bind(window);
window.requestAnimationFrame = (draw) => next((now) => {
  const began = performance.now();
  draw(now);
  work.push(performance.now() - began);
});
plane.setPointerCapture = () => {};
plane.hasPointerCapture = () => true;
const move = (kind, angle) => plane.dispatchEvent(new PointerEvent(kind, {
  clientX: box.left + box.width * (0.5 + 0.4 * Math.cos(angle)),
  clientY: box.top + box.height * (0.5 + 0.4 * Math.sin(angle)),
}));
move("pointerdown", 0);
let frames = 0, before = null;
next(function step(now) {
  if (before !== null) between.push(now - before);
  before = now;
  move("pointermove", frames / 20);
  if (++frames < 240) next(step);
  else done({ decode, frame_median: sorted(work, 0.5), frame_95: sorted(work, 0.95),
              between_median: sorted(between, 0.5), between_95: sorted(between, 0.95) });
});
"""
NINE = "document.querySelectorAll('#panel-walk .thumbs button')[9].click();"
DECODED = NINE + "document.getElementById('show-decoded').click();"
POSTERIOR = """
document.getElementById("tab-posterior").click();
document.querySelectorAll("#panel-posterior .thumbs button")[8].click();
for (let i = 0; i < 60; i++) document.getElementById("draw-eps").click();
"""
PICTURES = {
    "explorer-desktop": (DESKTOP, "en", "light", DECODED),
    "explorer-phone": (PHONE, "ja", "dark", NINE),
    "explorer-posterior": (DESKTOP, "en", "light", POSTERIOR),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--pictures", type=Path, metavar="DIR")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "explorer.html"
        report = write_explorer([arguments.run], page)
        driver = start(Path(folder) / "profile")
        if driver is None:
            sys.exit("chromium or chromedriver is missing: apt install chromium-driver")
        try:
            browser = Browser(driver)
            browser.open_page(page)
            browser.wait(READY)
            times = driver.execute_async_script(DRAG)
            if arguments.pictures:
                draw_pictures(browser, page, arguments.pictures)
        finally:
            driver.quit()
    del report["page"]
    print(json.dumps({**report, "ms": {key: round(value, 2) for key, value in times.items()}}))


def draw_pictures(browser: Browser, page: Path, folder: Path) -> None:
    for name, (size, language, theme, script) in PICTURES.items():
        browser.open_page(page, size, language=language, theme=theme)
        browser.wait(READY)
        browser.run(script)
        browser.run("document.getElementById('live').textContent = ''")
        browser.wait("document.getElementById('live').textContent")
        browser.screenshot(folder / f"{name}.png")


if __name__ == "__main__":
    main()
