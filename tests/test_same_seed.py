"""Same seed, same result: bit for bit in another process, and close with other thread counts.

OpenBLAS adds up a matrix product in another order when it splits it among threads, and so does
`team` a gradient that it splits among processes. So the last digits differ, and training makes a
little more of the difference at each step.
"""

import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest

#: What README.md states: |theta - theta'| / |theta| and |loss / loss' - 1| after ten steps.
TOLERANCE = 1e-6

PROGRAM = """
import sys
from pathlib import Path
from threadpoolctl import threadpool_info
from scratchvae import VAE, fit, mnist10k

seed, path, workers = int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
model = VAE(784, seed=seed)
x = mnist10k().x_train[:1280]
history = fit(model, x, epochs=1, batch_size=128, seed=seed, workers=workers)
path.write_bytes(model.theta.tobytes())
threads = max(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas")
print(repr(history["neg_elbo"][-1]), threads)
"""


@dataclass(frozen=True)
class Run:
    """A short training in a process of its own."""

    theta: np.ndarray
    loss: float
    threads: int

    @property
    def digest(self):
        return hashlib.sha256(self.theta.tobytes()).hexdigest(), self.loss

    def distance(self, other):
        """Return the larger of the relative differences of the parameters and of the loss."""
        apart = np.linalg.norm(self.theta - other.theta) / np.linalg.norm(self.theta)
        return max(float(apart), abs(self.loss / other.loss - 1))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Twice with two threads, once with one, once from another seed; twice with two processes."""
    directory = tmp_path_factory.mktemp("runs")

    def run(name, threads, seed, workers=1):
        path = directory / name
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(seed), str(path), str(workers)],
            env={**os.environ, "OPENBLAS_NUM_THREADS": str(threads)},
            capture_output=True,
            text=True,
            check=True,
            encoding="utf-8",
        )
        loss, used = done.stdout.split()
        return Run(np.frombuffer(path.read_bytes(), "float32"), float(loss), int(used))

    settings = {"two": (2, 0), "two again": (2, 0), "one": (1, 0), "other": (1, 1)}
    settings |= {"shared": (1, 0, 2), "shared again": (1, 0, 2)}
    with ThreadPoolExecutor(2) as pool:
        waiting = {name: pool.submit(run, name, *each) for name, each in settings.items()}
        return {name: future.result() for name, future in waiting.items()}


def test_two_processes_agree_bit_for_bit(runs):
    assert runs["two"].digest == runs["two again"].digest
    assert runs["two"].digest != runs["other"].digest
    assert runs["shared"].digest == runs["shared again"].digest


def test_thread_counts_agree_to_the_stated_tolerance(runs):
    assert runs["one"].threads == 1
    assert runs["one"].distance(runs["two"]) <= TOLERANCE
    assert runs["one"].distance(runs["shared"]) <= TOLERANCE


def test_another_seed_is_farther_away_than_that(runs):
    assert runs["one"].distance(runs["other"]) > 1e4 * TOLERANCE
