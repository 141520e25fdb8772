"""How long each lesson takes; and, with --thumbnails, the pictures of their table of contents.

    python -m benchmarks.lessons [--thumbnails] [NN ...]

Each runs alone, in a process and a scratch folder of its own; seconds of the wall clock and of the
processors. The thumbnail of a lesson is its first figure, 320 pixels wide.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image  # comes with matplotlib

LESSONS = Path(__file__).parents[1] / "lessons"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("numbers", nargs="*", metavar="NN")
    parser.add_argument("--thumbnails", action="store_true")
    arguments = parser.parse_args()
    print("| lesson | wall, s | processors, s |\n|---|---|---|")
    for lesson in sorted(LESSONS.glob("[0-9][0-9]_*.py")):
        if arguments.numbers and lesson.name[:2] not in arguments.numbers:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            start, before = time.perf_counter(), os.times()
            subprocess.run(
                [sys.executable, str(lesson)], cwd=scratch, check=True, stdout=subprocess.DEVNULL
            )
            wall, after = time.perf_counter() - start, os.times()
            busy = sum(after[2:4]) - sum(before[2:4])
            print(f"| {lesson.stem} | {wall:.1f} | {busy:.1f} |", flush=True)
            if arguments.thumbnails:
                figure = min((Path(scratch) / "out").glob(f"{lesson.name[:2]}_*.png"))
                image = Image.open(figure).convert("RGB")
                image.thumbnail((320, 320), Image.Resampling.LANCZOS)
                folder = LESSONS / "thumbnails"
                folder.mkdir(exist_ok=True)
                image.save(folder / f"{lesson.name[:2]}.png", optimize=True)


if __name__ == "__main__":
    main()
