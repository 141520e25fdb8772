"""Several processes train one model, each on its part of every batch (data parallelism).

NumPy's element-wise passes use one processor, however many there are; only its matrix products use
them all. Here every process does all the work on its rows, on a processor of its own.

The loss of a batch averages over its examples, so the gradient of the batch is the mean of those of
its parts, weighted by their numbers of rows. Worker k of W takes a step thus:

1. forward and backward on rows B k/W to B (k+1)/W, into a gradient vector of its own;
2. it waits until all have done so;
3. on every W-th block of the parameters it adds up the W gradients and steps the optimizer, which
   works element by element;
4. it waits until all have done so.

Parameters, gradients and the optimizer's memory lie in memory that the processes share. The layers
do not know. The random numbers are those of one process: each worker draws the noise of the whole
batch and uses its rows. Sums are rounded in another order, as with another number of BLAS threads.

The workers are forked anew for each epoch, so that whatever a callback has set holds for them too.
Only on Linux can a process that has loaded NumPy be trusted to fork.
"""

from __future__ import annotations

import math
import mmap
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from scratchvae.backend import Array
from scratchvae.models import Model
from scratchvae.optim import BLOCK, Optimizer

MOST_WORKERS = 4  # that `suggested` suggests
LEAST_ROWS = 8  # of a batch for each of them
#: How often a worker looks whether it may go on before it sleeps, from which it takes some 50 us to
#: wake: half a millisecond, and after each look any other process may run.
LOOKS = 1000
PATIENCE = 0.2  # seconds of sleep between looks at whether the others are still there

Batches = Iterator[tuple[Array, Array | None]]
Terms = dict[str, Any]


class WorkerError(RuntimeError):
    """A process of the team has ended before its work was done."""


def suggested(batch_size: int) -> int:
    """Return how many workers to use: as many as the matrix products would use threads, up to 4.

    Measured with two, on two cores: faster than one from 8 rows each on (`benchmarks`).
    """
    return max(1, min(_threads(), MOST_WORKERS, batch_size // LEAST_ROWS)) if possible() else 1


def possible() -> bool:
    """Whether processes that share memory and semaphores can be forked here."""
    if sys.platform != "linux":
        return False
    try:
        _flag()
        _open_files()
    except (ImportError, OSError):  # without /dev/shm, say
        return False
    return True


def part_of(k: int, parts: int, size: int) -> slice:
    """Return the k-th of so many equal parts of ``size`` things."""
    return slice(size * k // parts, size * (k + 1) // parts)


class Team:
    """W workers on one model, on the CPU; the process that makes the team is worker 0.

    In the ``with`` block the parameters and the optimizer's memory are in shared vectors, and
    ``model.grad`` is worker 0's.
    """

    def __init__(self, model: Model, optimizer: Optimizer, workers: int) -> None:
        self.model, self.optimizer, self.workers = model, optimizer, workers

    def __enter__(self) -> Team:
        model, workers = self.model, self.workers
        size, dtype = model.theta.size, model.dtype
        self.private = model.theta, model.grad
        self.grads = _shared((workers, size), dtype)
        self.rows = _shared((workers,), np.dtype(float))
        self.terms = _shared((workers, len(model.term_names)), np.dtype(float))
        model.move(_shared((size,), dtype), self.grads[0])
        self.optimizer.prepare(model.theta, model.grad)
        self._move_memory(_shared)
        n_blocks = workers * math.ceil(size / (workers * BLOCK))
        self.blocks = [part_of(i, n_blocks, size) for i in range(n_blocks)]
        self.scratch = np.empty((2, BLOCK), dtype=dtype)
        return self

    def __exit__(self, *exception: object) -> None:
        self.model.move(*self.private)
        self._move_memory(np.empty)

    def _move_memory(self, empty: Callable[[tuple[int, ...], np.dtype[Any]], Array]) -> None:
        memory = self.optimizer.memory
        for name, vector in memory.items():
            memory[name] = empty(vector.shape, vector.dtype)
            memory[name][...] = vector

    @contextmanager
    def epoch(self, batches: Callable[[int], Batches]) -> Iterator[Callable[[], Terms]]:
        """Start the others, and yield a function that takes a step together with them.

        ``batches(k)`` gives worker k's part of each batch and its noise. The function returns the
        terms of the whole batch's loss, or raises WorkerError. The others end with the block.
        """
        gates = [[_flag() for _ in range(self.workers)] for _ in range(2)]
        me, others = os.getpid(), set[int]()
        with _blas().limit(limits=1):  # not every BLAS can run threads in a forked process
            try:
                for k in range(1, self.workers):
                    with _signals_later():
                        process = _fork()
                        if not process:
                            self._work(k, batches, gates, lambda: _see_parent(me))
                        others.add(process)
                mine = batches(0)

                def step() -> Terms:
                    terms = self._step(0, *next(mine), gates, lambda: _see_alive(others))
                    return dict(zip(self.model.term_names, terms.tolist(), strict=True))

                yield step
            finally:
                for process in others:
                    os.kill(process, signal.SIGKILL)
                    os.waitpid(process, 0)

    def _work(
        self, k: int, batches: Callable[[int], Batches], gates: Any, check: Callable[[], None]
    ) -> None:
        """Take all steps of the epoch as worker k, in a process of its own; never return.

        Ctrl-C and SIGTERM stay held back: worker 0 decides when all of them stop.
        """
        status = 1
        try:
            for descriptor in _open_files():
                if descriptor > 2:  # the lock of the run: it must not outlive worker 0
                    with suppress(OSError):
                        os.close(descriptor)
            self.model.move(self.model.theta, self.grads[k])
            for batch, noise in batches(k):
                self._step(k, batch, noise, gates, check)
            status = 0
        finally:
            os._exit(status)

    def _step(
        self, k: int, batch: Array, noise: Array | None, gates: Any, check: Callable[[], None]
    ) -> Array:
        """Take a step as worker k; return the loss terms of the whole batch."""
        model = self.model
        self.rows[k] = len(batch)
        if len(batch):  # or what stands there from the step before gets the weight 0
            model.forward(batch, noise)
            model.backward()
            self.terms[k] = [model.terms[name] for name in model.term_names]
        _meet(gates[0], k, check)
        weights = self.rows / self.rows.sum()
        terms: Array = weights @ self.terms
        self._update(k, weights.tolist())
        _meet(gates[1], k, check)
        return terms

    def _update(self, k: int, weights: list[float]) -> None:
        """On every W-th block of the parameters, add up the gradients and step the optimizer."""
        optimizer = self.optimizer
        optimizer.t += 1
        scalars = optimizer.scalars(optimizer.t)
        for block in self.blocks[k :: self.workers]:
            total, term = self.scratch[:, : block.stop - block.start]
            np.multiply(self.grads[0, block], weights[0], out=total)
            for j in range(1, self.workers):
                np.multiply(self.grads[j, block], weights[j], out=term)
                total += term
            optimizer.update(self.model.theta[block], total, scalars, block.start)
            optimizer.flush(block)


def _meet(gate: Any, k: int, check: Callable[[], None]) -> None:
    """Wait until all workers are here; ``check`` raises where one will never come."""
    for j, flag in enumerate(gate):
        if j != k:
            flag.release()
    for _ in range(len(gate) - 1):
        for _ in range(LOOKS):
            if gate[k].acquire(False):
                break
            os.sched_yield()
        else:
            while not gate[k].acquire(True, PATIENCE):
                check()


def _see_alive(processes: set[int]) -> None:
    """Raise WorkerError where one of these children has ended, and not at the end of its work."""
    for process in sorted(processes):
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            processes.remove(process)
            if status:
                code = os.waitstatus_to_exitcode(status)
                how = f"exit code {code}" if code > 0 else f"signal {-code}; was memory short?"
                raise WorkerError(f"a process of the training ended before its work did ({how})")


def _see_parent(parent: int) -> None:
    if os.getppid() != parent:
        raise WorkerError("worker 0 is gone")


def _shared(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return an array of zeros that forked processes share."""
    buffer = mmap.mmap(-1, math.prod(shape) * dtype.itemsize)
    return np.frombuffer(buffer, dtype).reshape(shape)


def _flag() -> Any:
    """Return a semaphore: besides the count, what was written before it is raised is seen after."""
    from multiprocessing import get_context

    return get_context("fork").Semaphore(0)


def _open_files() -> list[int]:
    return [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]


@cache
def _blas() -> Any:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")


def _threads() -> int:
    """Return the number of threads that the matrix products use."""
    return max((pool["num_threads"] for pool in _blas().info()), default=1)


@contextmanager
def _signals_later() -> Iterator[None]:
    """Hold back Ctrl-C and SIGTERM, so that no child is forgotten before it is noted down."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _fork() -> int:
    with warnings.catch_warnings():
        # that other threads may hold locks: the child runs this file, the model and NumPy alone
        warnings.simplefilter("ignore")
        return os.fork()
