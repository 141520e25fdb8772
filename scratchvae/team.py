"""Several processes train one model, each on its part of every batch (data parallelism).

NumPy's element-wise passes use one processor, however many there are; only its matrix products use
them all. Here every process does all the work on its rows, on a processor of its own.

The loss of a batch averages over its examples, so the gradient of the batch is the mean of those of
its parts, weighted by their numbers of rows. Worker k of W takes a step thus:

1. forward and backward on rows B k/W to B (k+1)/W, into a gradient vector of its own;
2. it waits until all have done so;
3. on the k-th part of the parameters it adds up the W gradients and steps the optimizer, which
   works element by element;
4. it waits until all have done so.

Parameters, gradients and the optimizer's memory lie in memory that the processes share. The layers
do not know. The random numbers are those of one process: the workers draw the noise of their rows
in turn, each from where the one before left the generator. So that they do not wait for one
another, worker 0 draws for its next step before 2., the others draw when they begin theirs. Sums
are rounded in another order, as with another number of BLAS threads.

The workers are forked anew for each epoch, so that whatever a callback has set holds for them too;
between epochs all arrays are the model's own again. Only on Linux can a process that has loaded
NumPy be trusted to fork, and there only while no other thread of it computes.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from scratchvae.backend import Array
from scratchvae.models import Model, Terms
from scratchvae.optim import Optimizer

MOST_WORKERS = 4  # that `suggested` suggests
LEAST_ROWS = 8  # of a batch for each of them
#: How often a worker looks whether it may go on before it sleeps, from which it takes some 50 us to
#: wake: half a millisecond, and after each look any other process may run.
LOOKS = 1000
STOPPING = (signal.SIGINT, signal.SIGTERM)
SHARED = ("step", "prepare", "update", "flush")  # an optimizer with others trains in one process
PATIENCE = 0.2  # seconds of sleep between looks at whether the others are still there

Batch = tuple[Array, Array | None]  # rows of the data, and their noise
Turn = Callable[[Any], AbstractContextManager[None]]
#: ``batches(k, W, turn)`` yields worker k's part of each batch; it draws its noise from a generator
#: ``rng`` within ``with turn(rng)``.
Batches = Callable[[int, int, Turn], Iterator[Batch]]


class WorkerError(RuntimeError):
    """A process of the team could not be started, or has ended before its work was done."""


def suggested(batch_size: int) -> int:
    """Return how many workers to use: as many as the matrix products would use threads, up to 4.

    Measured with two, on two cores: faster than one from 8 rows each on (`benchmarks`).
    """
    if obstacle() is not None:
        return 1
    return max(1, min(_threads(), MOST_WORKERS, batch_size // LEAST_ROWS))


def obstacle() -> str | None:
    """Say why a training cannot be shared between processes here; None where it can."""
    if sys.platform != "linux":
        return "only on Linux can it be shared"
    try:
        _flag()
        _open_files()
    except (ImportError, OSError) as error:  # without /dev/shm, say
        return f"this system has no shared semaphores ({error})"
    if threading.active_count() > 1 and _threads() > 1:  # a product of theirs would block the fork
        return "other threads of this program may be computing"
    return None


def part_of(k: int, parts: int, size: int) -> slice:
    """Return the k-th of so many equal parts of ``size`` things."""
    return slice(size * k // parts, size * (k + 1) // parts)


class Team:
    """W workers on one model, on the CPU; the process that makes the team is worker 0."""

    optimizer: Optimizer  # of the epoch under way
    talk: _Talk

    def __init__(self, model: Model, workers: int) -> None:
        size, dtype = model.theta.size, model.dtype
        self.model, self.workers = model, workers
        self.theta = _shared((size,), dtype)
        self.grads = _shared((workers, size), dtype)
        self.memory: dict[str, Array] = {}
        self.rows = _shared((workers,), np.dtype(float))
        self.terms = _shared((workers, len(model.term_names)), np.dtype(float))

    @contextmanager
    def epoch(self, optimizer: Optimizer, batches: Batches) -> Iterator[Callable[[], Terms]]:
        """Start the others, and yield a function that takes a step together with them.

        The function returns the terms of the whole batch's loss, or raises WorkerError. The others
        end with the block.
        """
        self.optimizer, self.talk = optimizer, _Talk(self.workers)
        me, others = os.getpid(), dict[int, int]()  # k by process
        check = partial(self.talk.see_alive, others)
        with self._shared_by_all(), _blas().limit(limits=_threads_each(self.workers)):
            try:
                with _uninterrupted():
                    for k in range(1, self.workers):
                        process = _fork()
                        if not process:
                            self._work(k, batches, me)
                        others[process] = k
                mine = batches(0, self.workers, partial(self.talk.turn, 0, check))
                ahead = next(mine, None)  # None too where the last step was behind the resume

                def step() -> Terms:
                    nonlocal ahead
                    assert ahead is not None
                    self._backward(0, *ahead)
                    ahead = next(mine, None)
                    terms = self._update(0, check)
                    return dict(zip(self.model.term_names, terms.tolist(), strict=True))

                yield step
            finally:
                with _uninterrupted():
                    self.talk.over[0] = 1
                    _end(others)

    @contextmanager
    def _shared_by_all(self) -> Iterator[None]:
        """Keep parameters and memory in the shared vectors while the block lasts."""
        model, optimizer = self.model, self.optimizer
        optimizer.prepare(model.theta, model.grad, self.workers)
        theta, grad, memory = model.theta, model.grad, optimizer.memory
        for name, vector in memory.items():
            if name not in self.memory:
                self.memory[name] = _shared(vector.shape, vector.dtype)
            self.memory[name][...] = vector
        model.move(self.theta, self.grads[0])
        optimizer.memory = {name: self.memory[name] for name in memory}
        try:
            yield
        finally:
            model.move(theta, grad)
            for name, vector in memory.items():
                vector[...] = self.memory[name]
            optimizer.memory = memory

    def _work(self, k: int, batches: Batches, parent: int) -> None:
        """Take all steps of the epoch as worker k, in a process of its own; never return."""
        check = partial(self.talk.see_parent, parent)
        try:
            for number in STOPPING:  # worker 0 decides when all stop
                signal.signal(number, signal.SIG_IGN)
            for descriptor in _open_files():
                if descriptor > 2:  # the lock of the run: it must not outlive worker 0
                    with suppress(OSError):
                        os.close(descriptor)
            self.model.move(self.theta, self.grads[k])
            for batch, noise in batches(k, self.workers, partial(self.talk.turn, k, check)):
                self._backward(k, batch, noise)
                self._update(k, check)
            self.talk.finished[k] = 1
        except BaseException as error:
            self.talk.complain(k, error)
        finally:
            os._exit(0)

    def _backward(self, k: int, batch: Array, noise: Array | None) -> None:
        """Compute worker k's gradient and the terms of its loss."""
        model = self.model
        self.rows[k] = len(batch)
        if len(batch):  # or what stands there from the step before gets the weight 0
            model.forward(batch, noise)
            model.backward()
            self.terms[k] = [model.terms[name] for name in model.term_names]

    def _update(self, k: int, check: Callable[[], None]) -> Array:
        """Add up all workers' gradients and step the optimizer on the k-th part of the parameters.

        Returns the terms of the whole batch's loss.
        """
        self.talk.meet(0, k, check)
        shares = self.rows / self.rows.sum()
        terms: Array = shares @ self.terms
        optimizer, part = self.optimizer, part_of(k, self.workers, self.theta.size)
        optimizer.t += 1
        scalars = optimizer.scalars(optimizer.t)
        gradients = self.grads[:, part]
        optimizer.update(self.theta[part], gradients, scalars, part.start, tuple(shares.tolist()))
        optimizer.flush(part)
        self.talk.meet(1, k, check)
        return terms


class _Talk:
    """What the workers of an epoch tell one another."""

    def __init__(self, workers: int) -> None:
        self.gates = [[_flag() for _ in range(workers)] for _ in range(2)]
        self.turns = [_flag() for _ in range(workers)]
        self.turns[0].release()
        self.generator = _shared((1000,), np.dtype(np.uint8))  # its state, in JSON
        self.over = _shared((1,), np.dtype(np.uint8))
        self.finished = _shared((workers,), np.dtype(np.uint8))
        self.complaints = _shared((workers, 500), np.dtype(np.uint8))

    def meet(self, gate: int, k: int, check: Callable[[], None]) -> None:
        """Wait until all workers are here; ``check`` raises where one will never come."""
        flags = self.gates[gate]
        for j, flag in enumerate(flags):
            if j != k:
                flag.release()
        for _ in range(len(flags) - 1):
            _wait(flags[k], check)

    @contextmanager
    def turn(self, k: int, check: Callable[[], None], rng: Any) -> Iterator[None]:
        """Let ``rng`` draw from where the worker before has left its own."""
        _wait(self.turns[k], check)
        if state := self.generator.tobytes().rstrip(b"\0"):
            rng.bit_generator.state = json.loads(state)
        yield
        state = json.dumps(rng.bit_generator.state).encode()
        self.generator[: len(state)] = np.frombuffer(state, np.uint8)
        self.generator[len(state) :] = 0
        self.turns[(k + 1) % len(self.turns)].release()

    def complain(self, k: int, error: BaseException) -> None:
        """Leave a line for worker 0."""
        text = np.frombuffer(f"{type(error).__name__}: {error}".encode(), np.uint8)
        self.complaints[k, : len(text)] = text[: self.complaints.shape[1]]

    def see_parent(self, parent: int) -> None:
        """Raise WorkerError where worker 0, this process's parent, waits for nobody any more."""
        if self.over[0] or os.getppid() != parent:
            raise WorkerError("worker 0 has ended")

    def see_alive(self, others: dict[int, int]) -> None:
        """Raise WorkerError where one of these processes has ended before its work was done."""
        for process, k in list(others.items()):
            status = _status(process)
            if status is None:
                continue
            del others[process]
            if not self.finished[k]:
                code = os.waitstatus_to_exitcode(status)
                short = "; was memory short?" if code == -signal.SIGKILL else ""
                how = self.complaints[k].tobytes().rstrip(b"\0").decode(errors="replace")
                how = how or (f"signal {-code}{short}" if code else "for no known reason")
                raise WorkerError(f"a process of the training ended before its work did ({how})")


def _wait(flag: Any, check: Callable[[], None]) -> None:
    """Wait for a semaphore; ``check`` raises where nobody will ever raise it."""
    for _ in range(LOOKS):
        if flag.acquire(False):
            return
        os.sched_yield()
    while not flag.acquire(True, PATIENCE):
        check()


def _status(process: int) -> int | None:
    """Return the exit status of a child that has ended, None while it runs."""
    try:
        ended, status = os.waitpid(process, os.WNOHANG)
    except ChildProcessError:  # SIGCHLD is ignored here, or somebody else has asked before
        return 0
    return status if ended else None


def _end(processes: Iterable[int]) -> None:
    left = [process for process in processes if _status(process) is None]
    for process in left:
        os.kill(process, signal.SIGKILL)
    for process in left:
        with suppress(ChildProcessError):
            os.waitpid(process, 0)


@contextmanager
def on_stop(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM call ``handler(number, frame)`` in the block (in the main thread).

    SIGTERM, by which a system that shuts down asks for the end, counts as Ctrl-C. A signal that is
    ignored stays so, as for a program that a shell has started with ``&``.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in STOPPING}
    ours = [n for n, old in handlers.items() if old not in (signal.SIG_IGN, None)]  # None: C's
    before = {number: signal.signal(number, handler) for number in ours}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Put off to the end of the block what Ctrl-C and SIGTERM do to this thread."""
    seen: list[int] = []
    try:
        with on_stop(lambda number, frame: seen.append(number)):
            yield
    finally:
        for number in seen:
            signal.raise_signal(number)


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


def _threads_each(workers: int) -> int:
    """Return how many threads each worker's products may use: some BLAS lose theirs in a fork."""
    survive = all(pool.get("threading_layer") == "pthreads" for pool in _blas().info())
    return max(1, _threads() // workers) if survive else 1


def _fork() -> int:
    with warnings.catch_warnings():
        # that other threads may hold locks: the child runs this file, the model and NumPy alone
        warnings.simplefilter("ignore")
        try:
            return os.fork()
        except OSError as error:
            raise WorkerError(
                f"no process could be started for the training ({error.strerror}); workers=1 needs "
                "none"
            ) from None
