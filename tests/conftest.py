"""Tests run in as many processes as there are cores: one BLAS thread each, the slowest first."""

import locale
import os
import signal
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
import threadpoolctl  # noqa: F401 (sets KMP_DUPLICATE_LIB_OK for its process: before the tests)
from browser import browser  # noqa: F401 (the fixture, for every test file)

for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")  # before NumPy loads; more threads would wait for each other

import numpy as np  # noqa: E402

SLOW = (
    "test_the_lesson_runs",
    "test_a_learner_passes_every_exercise",
    "test_a_learner_solves_each_hunt",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the slow ones in front; the sort is stable, all else keeps its order."""
    items.sort(key=lambda item: not item.name.startswith(SLOW))


def of_the_process() -> dict[str, object]:
    """What the next test of this process would find changed."""
    kept: dict[str, object] = {
        "folder": Path.cwd(),
        **{f"${name}": os.environ[name] for name in os.environ if name != "PYTEST_CURRENT_TEST"},
        "locale": locale.setlocale(locale.LC_ALL),
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "allocations are traced": tracemalloc.is_tracing(),  # and charged to whoever allocates
        "trace": None if "coverage" in sys.modules else sys.gettrace(),
        "threads": threading.active_count(),
        "errors of NumPy": np.geterr(),
        "printing of NumPy": np.get_printoptions(),
    }
    if "matplotlib" in sys.modules:
        kept["rcParams"] = sys.modules["matplotlib"].rcParams.copy()
    return kept


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Whatever a test changes of its process, it puts back: any test may be the next."""
    before = of_the_process()
    yield
    after = of_the_process()
    names = [name for name in before | after if before.get(name) != after.get(name)]
    assert not names, [(name, before.get(name), after.get(name)) for name in names]
