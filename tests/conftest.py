"""Lessons are half of the time of the tests: they run in the background, and are asked for last."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SLOW = "test_the_lesson_runs"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the lessons at the end; the sort is stable, all else keeps its order."""
    items.sort(key=lambda item: item.name.startswith(SLOW))


@pytest.fixture(scope="session", autouse=True)
def outcome(request, tmp_path_factory) -> Iterator[Callable[[Path], str]]:
    """Start the selected lessons in a process of their own; return what waits for one's outcome."""
    items = [item for item in request.session.items if item.name.startswith(SLOW)]
    if not items:
        yield lambda lesson: "not started"
        return
    directory = tmp_path_factory.mktemp("lessons")
    lessons = [str(item.callspec.params["lesson"]) for item in items]
    process = subprocess.Popen([sys.executable, str(items[0].path), str(directory), *lessons])

    def wait(lesson: Path) -> str:
        text = directory / f"{lesson.stem}.txt"
        while not text.exists():
            assert process.poll() is None, "the process that runs the lessons has ended"
            time.sleep(0.1)
        return text.read_text(encoding="utf-8")

    yield wait
    process.kill()
    process.wait()
