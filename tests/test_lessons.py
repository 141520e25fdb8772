"""Every lesson runs whole, in a process of its own, says nothing on stderr and leaves a figure."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import pytest

LESSONS = sorted((Path(__file__).parents[1] / "lessons").glob("[0-9][0-9]_*.py"))
JAPANESE = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]")


def run_lesson(lesson: Path, directory: Path) -> str:
    """Run a lesson in ``directory`` and return what it printed; AssertionError if it is not fit."""
    done = subprocess.run(
        [sys.executable, "-W", "error", str(lesson)],
        cwd=directory,
        env={"OPENBLAS_NUM_THREADS": "1", **os.environ, "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        timeout=240,
    )
    assert done.returncode == 0, f"{lesson.name} fails:\n{done.stderr[-3000:]}"
    assert not done.stderr.strip(), f"{lesson.name} writes to stderr:\n{done.stderr[-3000:]}"
    figures = sorted((directory / "out").glob(f"{lesson.name[:2]}_*.png"))
    assert figures, f"{lesson.name} leaves no figure out/{lesson.name[:2]}_*.png"
    for figure in figures:
        assert matplotlib.image.imread(figure).std() > 0.01, f"{figure.name} is blank"
    assert done.stdout.strip(), f"{lesson.name} prints nothing"
    return done.stdout


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)
def test_the_lesson_runs(lesson, tmp_path):
    run_lesson(lesson, tmp_path)


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)
def test_the_lesson_has_its_form(lesson):
    text = lesson.read_text(encoding="utf-8")
    header = text.split('"""')[1]
    assert re.match(r'r?"""\n', text), "the title block comes first"
    assert re.search(r"^=+$", header, re.MULTILINE), "the title is underlined"
    assert JAPANESE.search(header)
    assert "# %%" in text
    cells = re.split(r"^# %%.*\n", text, flags=re.MULTILINE)[1:]
    prose = [cell for cell in cells if len(re.findall(r"^# ", cell, re.MULTILINE)) > 5]
    for cell in prose:
        assert JAPANESE.search(cell), f"no Japanese in the cell that begins {cell[:80]!r}"
    points = next(cell for cell in cells if "試験のポイント" in cell.split("\n")[0])
    assert "Points for the exam" in points
    assert 5 <= len(re.findall(r"^# (?:\d\.|[-*]) ", points, re.MULTILINE)) <= 8
    trials = next(cell for cell in cells if "試してみよう" in cell.split("\n")[0])
    assert "Try it" in trials
    for cell in (points, trials):  # a Japanese page does not show the English beside it
        assert not (found := re.search(r"この(式|等式|1行)|[のは]式。|上の\d?式", cell)), found


FIT = """
from pathlib import Path
import numpy as np
from scratchvae.web.png import png
print("measured")
picture = np.eye(9, dtype=np.uint8)
Path("out").mkdir()
Path("out/99_figure.png").write_bytes(png(255 * picture))
"""


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (("", ""), None),
        (("print", "assert False; print"), "fails"),
        (("print", "import warnings; warnings.warn('old'); print"), "old"),
        (("print", "import sys; print('odd', file=sys.stderr); print"), "writes to stderr"),
        (("99_", "98_"), "leaves no figure"),
        (("np.eye(9", "np.ones((9, 9)"), "is blank"),
        (('print("measured")', ""), "prints nothing"),
    ],
)
def test_a_lesson_that_is_not_fit_is_refused(tmp_path, change, complaint):
    lesson = tmp_path / "99_lesson.py"
    lesson.write_text(FIT.replace(*change) if change[0] else FIT, encoding="utf-8")
    if complaint is None:
        assert run_lesson(lesson, tmp_path) == "measured\n"
        return
    with pytest.raises(AssertionError, match=complaint):
        run_lesson(lesson, tmp_path)


def test_there_is_a_line_for_each_lesson_in_both_tables_of_contents():
    for name in ("README.md", "README.ja.md"):
        text = (LESSONS[0].parent / name).read_text(encoding="utf-8")
        for lesson in LESSONS:
            assert f"({lesson.name})" in text, f"lessons/{name} lacks {lesson.name}"
