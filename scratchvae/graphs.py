"""The training step as a CUDA graph: recorded once, then launched by one call a step.

A step at batch 128 is some fifty kernels of a few microseconds each; ``backend.fused`` has made one
of each longer chain of element-wise ones. Launched one by one from Python they take the better part
of a millisecond, in which the GPU mostly waits. A graph launches them all at once.

Layers, losses and models do not know: they run once on a stream that records what they launch
(*capture*). Recorded are the kernels, the addresses of their arrays and the numbers given by value,
so everything that differs between steps stands in arrays that stay where they are:

- ``counter``, the step's number in the epoch, which the graph itself counts on, and tables with a
  row a step: the indices of its examples, the optimizer's scalars, and the loss terms it found;
- the noise, drawn before each launch by the same calls as without a graph. So the random numbers
  are the same, and a training can go on with or without graphs where another has stopped.

Intermediate results come from a memory pool that nobody else uses: their addresses are the graph's
for as long as it is launched. Three steps run before the capture, so that all kernels are compiled
and the pool has what a step needs; what they did to the parameters is undone. Then two launches are
held against the same steps without the graph, and undone as well.

Matrix products are the exception to "do not know". CuPy (all of 13.0 to 14.2) refuses to call
cuBLAS on a capturing stream (its issue 6290), though cuBLAS itself can be captured
(docs.nvidia.com/cuda/cublas, section "CUDA Graphs Support"). During warm-up and capture ``@`` and
``cupy.matmul`` therefore call cuBLAS through its C interface, with CuPy's handle and CuPy's choice
of routine.

Where no graph can be had, one line on stderr says why and the steps are launched kernel by kernel;
``SCRATCHVAE_GRAPH=0`` in the environment chooses that from the start.
"""

from __future__ import annotations

import ctypes
import os
import sys
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import numpy as np

from scratchvae.backend import Array, fused, generator, tf32_allowed, to_device
from scratchvae.models import Model
from scratchvae.optim import Optimizer

WARM_UPS = 2  # in the first no layer holds arrays of the step before it, in the second all do


class Rows:
    """The loss terms of consecutive steps, a row each, in a table that the graph fills."""

    def __init__(self, table: Array, start: int) -> None:
        self.table, self.start, self.stop = table, start, start

    @property
    def array(self) -> Array:
        """The rows so far, (steps, terms), on the device."""
        return self.table[self.start : self.stop]


class Recorder:
    """Gives ``fit`` the graph of a step: made at first use, and anew where the step has changed."""

    def __init__(self, model: Model, x: Array, batch_size: int, binarize: bool) -> None:
        self.model, self.x, self.size, self.binarize = model, x, batch_size, binarize
        self.graph: StepGraph | None = None
        self.key: Any = None
        self.refused = (
            model.device == "cpu"
            or len(x) < batch_size
            or os.environ.get("SCRATCHVAE_GRAPH", "1") == "0"
        )

    def get(self, optimizer: Optimizer) -> StepGraph | None:
        """Return the graph of a step of ``batch_size`` examples, or None where there is none.

        What is no array was recorded by value: a callback that sets ``learning_rate`` or ``beta``,
        or moves an array, makes another graph necessary.
        """
        if self.refused:
            return None
        model = self.model
        optimizer.prepare(model.theta, model.grad)
        arrays = (model.theta, model.grad, *optimizer.vectors)
        places = [array.data.ptr for array in arrays]
        key = (id(optimizer), optimizer.config, model.config, places)
        if self.graph is None or key != self.key:
            self.graph, self.key = None, key
            try:
                self.graph = StepGraph(model, optimizer, self.x, self.size, self.binarize)
            except Exception as error:
                self.refused = True
                reason = (str(error).splitlines() or [""])[0]
                print(
                    "training without a CUDA graph, several times slower at small batches: "
                    f"{type(error).__name__}: {reason}",
                    file=sys.stderr,
                )
        return self.graph


class StepGraph:
    """A step of B examples, recorded."""

    def __init__(
        self, model: Model, optimizer: Optimizer, x: Array, batch_size: int, binarize: bool
    ) -> None:
        xp, dtype = model.xp, model.dtype
        self.model, self.optimizer, self.x = model, optimizer, x
        self.steps = len(x) // batch_size  # of an epoch, without a smaller one at its end
        self.batch = x[:batch_size]  # for its shape
        self.counter = xp.zeros(1, dtype=np.int64)
        self.order = xp.zeros((self.steps, batch_size), dtype=np.int64)
        self.scalars = xp.ones((self.steps, len(optimizer.scalars(1))), dtype=dtype)
        self.terms = xp.zeros(len(model.term_names), dtype=dtype)
        self.table = xp.zeros((self.steps, len(model.term_names)), dtype=dtype)
        self.rows = Rows(self.table, 0)
        self.uniform = xp.zeros(self.batch.shape, dtype=x.dtype) if binarize else None
        self.noise = model.draw_noise(generator(model.device, 0), self.batch)
        self.graph = self._captured()
        self.read = self._kept_by_layers()
        self._prove()

    def begin(self, order: Array, step: int) -> None:
        """Get ready for an epoch: its order of the examples (N,), and the steps done before."""
        self.order[...] = order[: self.order.size].reshape(self.order.shape)
        self.counter.fill(step)
        self.rows = Rows(self.table, step)
        names = self.model.term_names
        self.model.terms = {name: self.terms[i] for i, name in enumerate(names)}
        first = self.optimizer.t + 1 - step
        numbers = [self.optimizer.scalars(max(1, first + i)) for i in range(self.steps)]
        values = np.asarray(numbers, dtype=self.model.dtype)
        self.scalars[...] = to_device(values, self.model.device)

    def draw(self, rng: Any) -> None:
        """Draw the step's random numbers, as ``fit`` does without a graph."""
        if self.uniform is not None:
            self.uniform[...] = rng.random(self.uniform.shape, dtype=self.uniform.dtype)
        if self.noise is not None:
            self.noise[...] = self.model.draw_noise(rng, self.batch)

    def step(self) -> None:
        """Launch the step that the counter has come to; nobody waits for it."""
        self.graph.launch()
        self.optimizer.t += 1
        self.rows.stop += 1

    def _step(self) -> None:
        """What is recorded."""
        model, now = self.model, self.counter
        batch = self.x.take(self.order.take(now, axis=0)[0], axis=0)
        if self.uniform is not None:
            batch = (self.uniform < batch).astype(batch.dtype)
        model.forward(batch, self.noise)
        places = [self.terms[i] for i in range(len(self.terms))]
        _copy(model.xp, *places, *(model.terms[name] for name in model.term_names))
        self.table[now] = self.terms
        model.backward()
        self.optimizer.update(model.theta, model.grad, tuple(self.scalars.take(now, axis=0)[0]))
        now += 1

    def _prove(self) -> None:
        """Raise RuntimeError unless the graph does what the step does without it, twice."""
        model, steps = self.model, min(2, self.steps)
        changed = [model.theta, *self.optimizer.memory.values(), self.table, self.counter]
        changed += model.named_gradients().values()
        found = []
        self.begin(model.xp.arange(len(self.x))[::-1], 0)
        for run in (self._step, self.graph.launch):
            with _undone(changed) as saved:
                for _ in range(steps):
                    run()
                found.append([array.copy() for array in changed])
        rounding = 8 * np.finfo(model.dtype).eps
        for before, want, got in zip(saved, *found, strict=True):
            least = rounding * float(abs(before).max())  # all that is left of a very small step
            if not float(abs(got - want).max()) <= 1e-3 * float(abs(want - before).max()) + least:
                raise RuntimeError("the recorded step does not compute what the step computes")

    def _kept_by_layers(self) -> list[Array]:
        """Return what the layers hold, so that it stays where the graph reads it.

        A layer may make anew what it keeps for many steps, for a larger batch in a callback, say.
        """
        held = [value for leaf in self.model.leaves() for value in vars(leaf).values()]
        return [value for value in held if isinstance(value, self.model.xp.ndarray)]

    def _captured(self) -> Any:
        model, xp = self.model, self.model.xp
        private = _private(model)
        with ExitStack() as stack:
            stack.enter_context(_undone([model.theta, *self.optimizer.memory.values()]))
            stack.callback(private.stream.synchronize)
            self._step()  # what a layer makes once and keeps is not to stand in the graph's memory
            self.counter.fill(0)
            xp.cuda.get_current_stream().synchronize()  # the capturing stream does not wait for it
            stack.enter_context(private.stream)
            stack.enter_context(xp.cuda.using_allocator(private.pool.malloc))
            stack.enter_context(_products(xp, private))
            for _ in range(WARM_UPS):
                self._step()
                self.counter.fill(0)
            return _record(private.stream, self._step)


@fused
def _copy(xp: Any, *arrays: Array) -> None:
    """Write the second half of the arrays into the first."""
    half = len(arrays) // 2
    for place, value in zip(arrays[:half], arrays[half:], strict=True):
        xp.multiply(value, 1, out=place)


@contextmanager
def _undone(arrays: list[Array]) -> Iterator[list[Array]]:
    """Give copies of the arrays, and set the arrays back to them when the block ends."""
    saved = [array.copy() for array in arrays]
    try:
        yield saved
    finally:
        for array, value in zip(arrays, saved, strict=True):
            array[...] = value


def _record(stream: Any, step: Any) -> Any:
    """Return the graph of what ``step`` launches on ``stream``."""
    stream.begin_capture()
    try:
        step()
    except BaseException:
        with suppress(Exception):  # where the mistake has spoilt the capture, ending it fails too
            stream.end_capture()
        raise
    return stream.end_capture()


# ------------------------------------------------------------------------------- private memory


class _Private:
    """The stream on which a model's steps are recorded, their memory, and cuBLAS's there."""

    def __init__(self, xp: Any) -> None:
        self.pool = xp.cuda.MemoryPool()
        self.stream = xp.cuda.Stream(non_blocking=True)  # as CuPy's documentation has it
        with self.stream, xp.cuda.using_allocator(self.pool.malloc):
            self.workspace = xp.empty(WORKSPACE, dtype=np.uint8)

    def __del__(self) -> None:
        """CuPy 14 keeps the free blocks of a pool that is gone, for ever."""
        if not sys.is_finalizing():
            self.workspace = None
            self.pool.free_all_blocks()


#: A pool's memory is freed with the pool (in CuPy 13 also where arrays still stand in it, as those
#: do that a layer remembers from its last forward). So it lives as long as the model. All graphs of
#: a model share it: a new one is recorded only after the last launch of the one before.
_PRIVATE: weakref.WeakKeyDictionary[Model, _Private] = weakref.WeakKeyDictionary()


def _private(model: Model) -> _Private:
    if model not in _PRIVATE:
        _PRIVATE[model] = _Private(model.xp)
    return _PRIVATE[model]


# ------------------------------------------------------------------------------ matrix products

#: Without a workspace of ours cuBLAS would allocate one in every graph. 32 MiB is its own choice on
#: Hopper (cublasSetWorkspace, in its documentation), and the largest.
WORKSPACE = 32 << 20

# From cublas_api.h and library_types.h.
_OP_N, _OP_T, _GEMM_DEFAULT = 0, 1, -1
_TYPE = {np.dtype("float32"): 0, np.dtype("float64"): 1}  # CUDA_R_32F, CUDA_R_64F
_COMPUTE_32F, _COMPUTE_64F, _COMPUTE_32F_FAST_TF32 = 68, 70, 77


class _Cublas:
    """``matmul`` of CuPy arrays by cublasGemmEx, on one stream."""

    def __init__(self, xp: Any, private: _Private) -> None:
        self.xp = xp
        self.handle = ctypes.c_void_p(xp.cuda.Device().cublas_handle)  # loads the library
        major = xp.cuda.runtime.runtimeGetVersion() // 1000
        name = f"cublas64_{major}.dll" if sys.platform == "win32" else f"libcublas.so.{major}"
        self.library = ctypes.CDLL(name)  # the one that CuPy has loaded
        workspace = ctypes.c_void_p(private.workspace.data.ptr)
        # In this order: cublasSetStream takes the workspace away. CuPy sets the stream before each
        # product of its own, which gives it back its own workspace.
        self._call("cublasSetStream_v2", ctypes.c_void_p(private.stream.ptr))
        self._call("cublasSetWorkspace_v2", workspace, ctypes.c_size_t(WORKSPACE))

    def _call(self, function: str, *arguments: Any) -> None:
        status = getattr(self.library, function)(self.handle, *arguments)
        if status:
            raise RuntimeError(f"{function} failed with status {status}")

    def matmul(self, a: Array, b: Array, out: Array = None) -> Array:
        """Return a @ b, with a (I, K) and b (K, J), in ``out`` (I, J) or a new array."""
        fits = a.ndim == b.ndim == 2 and a.shape[1] == b.shape[0] and a.dtype == b.dtype in _TYPE
        if not fits:
            raise NotImplementedError(
                f"a product of {a.dtype} {a.shape} and {b.dtype} {b.shape} in a graph"
            )
        if out is None:
            out = self.xp.empty((a.shape[0], b.shape[1]), dtype=a.dtype)
        elif out.shape != (a.shape[0], b.shape[1]) or out.dtype != a.dtype:
            raise ValueError(f"matmul: out is {out.dtype} {out.shape}")
        elif not out.flags.c_contiguous:
            raise NotImplementedError("a product into an array that is not C-contiguous")
        # cuBLAS counts down the columns: what it takes for out^T = b^T a^T is, by rows, out = a b
        a, op_a, lda = self._operand(a, c_first=True)
        b, op_b, ldb = self._operand(b, c_first=False)
        compute = _COMPUTE_32F_FAST_TF32 if tf32_allowed() else _COMPUTE_32F
        number: Any = ctypes.c_float
        if a.dtype == np.float64:
            compute, number = _COMPUTE_64F, ctypes.c_double
        of_type = _TYPE[a.dtype]
        (rows, inner), columns = a.shape, b.shape[1]
        self._call(
            "cublasGemmEx",
            *(op_b, op_a, columns, rows, inner, ctypes.byref(number(1))),
            *(ctypes.c_void_p(b.data.ptr), of_type, ldb),
            *(ctypes.c_void_p(a.data.ptr), of_type, lda),
            *(ctypes.byref(number(0)), ctypes.c_void_p(out.data.ptr), of_type, columns),
            *(compute, _GEMM_DEFAULT),
        )
        return out

    def _operand(self, a: Array, c_first: bool) -> tuple[Array, int, int]:
        """Return the array, its operation and its leading dimension; a copy if it has gaps.

        Both layouts fit where one side is 1; ``c_first`` says which of them CuPy takes then.
        """
        c, f = a.flags.c_contiguous, a.flags.f_contiguous
        if not (c or f):
            a, c = self.xp.ascontiguousarray(a), True
        return (a, _OP_N, a.shape[1]) if c and (c_first or not f) else (a, _OP_T, a.shape[0])


@contextmanager
def _products(xp: Any, private: _Private) -> Iterator[None]:
    """Let ``@`` and ``xp.matmul`` call cuBLAS on the private stream until the block ends."""
    one = xp.ones((2, 2), dtype=np.float32)
    xp.matmul(one, one)  # CuPy loads cuBLAS at its first product
    cublas = _Cublas(xp, private)
    places = [(xp, "matmul"), (xp.ndarray, "__matmul__")]
    with ExitStack() as stack:
        for owner, name in places:
            if name in vars(owner):
                stack.callback(setattr, owner, name, vars(owner)[name])
            else:  # CuPy's ndarray inherits its operators
                stack.callback(delattr, owner, name)
        xp.matmul = cublas.matmul
        xp.ndarray.__matmul__ = lambda a, b: cublas.matmul(a, b)
        yield
