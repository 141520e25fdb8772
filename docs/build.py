"""Build the site in both languages and check it: docs/_build/html/index.html is where it begins.

    pip install -e ".[docs]" && python docs/build.py

Warnings are errors. The lessons are run once, and again only where they have changed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

DOCS = Path(__file__).parent
BUILD = DOCS / "_build"
HTML = BUILD / "html"
LANGUAGES = ("en", "ja")

START = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>scratchvae</title>
<script>
  location.replace((navigator.language.startsWith("ja") ? "ja" : "en") + "/index.html");
</script>
<p><a href="en/index.html">English</a> &middot; <a lang="ja" href="ja/index.html">日本語</a></p>
</html>
"""


def run(*command: str) -> None:
    """Run a command of this Python's environment, or stop where it fails."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", *command], cwd=DOCS)
    print(f"{' '.join(command)}: {time.perf_counter() - start:.0f} s", flush=True)
    if done.returncode:
        sys.exit(done.returncode)


def main() -> None:
    """Build, then check every link."""
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # the lessons run in as many processes as cores
    os.environ["PYTHONPATH"] = str(DOCS / "_ext")
    model = str(BUILD / "run")
    if not (BUILD / "run").exists():
        shape = ("--hidden", "256,64", "--n-latent", "2", "--epochs", "15")
        run("scratchvae", "train", "vae", *shape, "--quiet", "--out", model)
    HTML.mkdir(parents=True, exist_ok=True)
    run("scratchvae", "explore", model, "--out", str(HTML / "explorer.html"))
    for language in LANGUAGES:
        doctrees, out = str(BUILD / "doctrees" / language), str(HTML / language)
        options = ("-a", "-E", "-W", "--keep-going", "-q", "-D", f"language={language}")
        run("sphinx", *options, "-d", doctrees, str(DOCS), out)
    (HTML / "index.html").write_text(START, encoding="utf-8")
    problems = links.problems(HTML)
    print(*problems, f"{len(problems)} broken links", sep="\n")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    sys.path.insert(0, str(DOCS / "_ext"))
    import links

    main()
