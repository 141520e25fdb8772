"""Tests run in as many processes as there are cores: one BLAS thread each, the slowest first."""

import locale
import os
import re
import signal
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import browser  # noqa: F401 (the fixture, for every test file)

for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")  # before NumPy loads; more threads would wait for each other

import numpy as np  # noqa: E402

for name in ("LC_ALL", "LC_MESSAGES"):  # the language is what a test says, or English
    os.environ.pop(name, None)
os.environ["LANG"] = "C.UTF-8"

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started by a shell with &
    signal.signal(signal.SIGINT, signal.default_int_handler)

SLOW = (
    "test_the_lesson_runs",
    "test_a_learner_passes_every_exercise",
    "test_a_learner_solves_each_hunt",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the slow ones in front; the sort is stable, all else keeps its order."""
    items.sort(key=lambda item: not item.name.startswith(SLOW))


# What our commands look at; a library that is imported may set others.
OURS = re.compile(r"SCRATCHVAE|HOME|USER|XDG|LOCAL|LANG|LC_|TERM|NO_COLOR|COLUMNS|OPENBLAS|TMP")


def of_the_process() -> dict[str, object]:
    """What the next test of this process would find changed."""
    kept: dict[str, object] = {
        **{f"${name}": value for name, value in os.environ.items() if OURS.match(name)},
        "folder": Path.cwd(),
        "locale": locale.setlocale(locale.LC_ALL),
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "allocations are traced": tracemalloc.is_tracing(),  # and charged to whoever allocates
        "errors of NumPy": np.geterr(),
        "printing of NumPy": np.get_printoptions(),
    }
    if "matplotlib" in sys.modules:
        kept["rcParams"] = sys.modules["matplotlib"].rcParams.copy()
    return kept


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Whatever a test changes of its process, it puts back: any test may be the next."""
    before, threads = of_the_process(), threading.enumerate()
    yield
    for thread in threading.enumerate():
        if thread not in threads:
            thread.join(10)  # it may be at its end
            assert not thread.is_alive()
    after = of_the_process()
    names = [name for name in before | after if before.get(name) != after.get(name)]
    names = [name for name in names if name != "rcParams" or name in before]
    assert not names, [(name, before.get(name), after.get(name)) for name in names]
