"""Tests run in as many processes as there are cores: one BLAS thread each, the slowest first."""

import os
import tracemalloc
from collections.abc import Iterator

import pytest
from browser import browser  # noqa: F401 (the fixture, for every test file)

for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")  # before NumPy loads; more threads would wait for each other

SLOW = ("test_the_lesson_runs", "test_a_learner_passes_every_exercise")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the slow ones in front; the sort is stable, all else keeps its order."""
    items.sort(key=lambda item: not item.name.startswith(SLOW))


@pytest.fixture(autouse=True)
def no_tracing_left_on() -> Iterator[None]:
    """The next test of this process would be charged with what this one allocates."""
    yield
    assert not tracemalloc.is_tracing()
