"""Speed on an NVIDIA GPU: our `fit` through CuPy beside PyTorch and JAX on the same card.

For each batch an epoch of the VAE of lesson 12: all images are on the GPU, the losses are kept and
read once at its end. Float32 without TF32 everywhere. What cannot be run here is named with the
reason, in a row of its own.

`share` is the part of our step that its matrix products take: these alone, recorded as one CUDA
graph and timed by CUDA events, over the step with a graph.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import itertools
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import rivals
from benchmarks.rivals import Setting

Row = dict[str, Any]
BATCHES = (128, 8192)
OURS = "scratchvae, CUDA graph"


class NotRunError(Exception):
    """Why a row has no figures."""


def header() -> Row:
    """The card and what drives it."""
    from scratchvae.backend import gpu_problem, tf32_allowed

    if (problem := gpu_problem()) is not None:
        return {"gpu": f"none ({problem.removeprefix(_PREFIX)})"}
    import cupy

    runtime = cupy.cuda.runtime
    return {
        "gpu": runtime.getDeviceProperties(0)["name"].decode(),
        "driver": runtime.driverGetVersion(),
        "cuda": runtime.runtimeGetVersion(),
        "tf32": tf32_allowed(),
    }


def table(arguments: argparse.Namespace) -> list[Row]:
    """For each batch our step, its products, and the rivals'."""
    return [row for batch in BATCHES for row in _rows(Setting(batch=batch), arguments)]


def _rows(setting: Setting, arguments: argparse.Namespace) -> list[Row]:
    from benchmarks.rivals import digits

    steps = max(arguments.images // setting.batch, 8)
    x, rounds = digits(steps * setting.batch), arguments.rounds
    runs: dict[str, Callable[[], list[float]]] = {
        OURS: lambda: ours(setting, x, rounds, graph=True),
        "its matrix products alone": lambda: products(setting, rounds),
        "scratchvae, kernel by kernel": lambda: ours(setting, x, rounds, graph=False),
        "PyTorch, eager": lambda: torch_eager(setting, x, rounds),
        "PyTorch, eager, fused Adam": lambda: torch_eager(setting, x, rounds, fused=True),
        "PyTorch, reduce-overhead": lambda: torch_compiled(setting, x, rounds),
        "JAX, jit": lambda: jax(setting, x, rounds),
    }
    rows, medians = [], {}
    for name, run in runs.items():
        found: Row = {"name": f"{name}, batch {setting.batch}"}
        try:
            ms = run()
        except NotRunError as reason:
            found["not run:"] = str(reason)
        except Exception as error:  # one rival's failure leaves the others their rows
            found["not run:"] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        else:
            medians[name] = statistics.median(ms)
            found |= {"ms_a_step": medians[name], "smallest": min(ms), "largest": max(ms)}
            if name == "its matrix products alone" and OURS in medians:
                found["share"] = medians[name] / medians[OURS]
            elif OURS in medians:
                found["ratio"] = medians[name] / medians[OURS]
        rows.append(found)
    return rows


# ----------------------------------------------------------------------------------------- ours

_PREFIX = "device='gpu': "


def _need_cupy() -> Any:
    from scratchvae.backend import gpu_problem

    if (problem := gpu_problem()) is not None:
        raise NotRunError(problem.removeprefix(_PREFIX))
    import cupy

    return cupy


def ours(setting: Setting, x: np.ndarray, rounds: int, *, graph: bool) -> list[float]:
    """Return milliseconds a step, epoch by epoch of one `fit`, the first left out."""
    _need_cupy()
    from scratchvae.models import build
    from scratchvae.train import Training, fit

    widths = {"hidden": setting.hidden, "n_latent": setting.n_latent}
    model = build({"model": setting.kind, "n_features": x.shape[1], **widths}, "gpu")
    stamps: list[float] = []

    def stamp(training: Training) -> None:  # the epoch's losses have been read
        stamps.append(time.perf_counter())

    before = os.environ.get("SCRATCHVAE_GRAPH")
    os.environ["SCRATCHVAE_GRAPH"] = str(int(graph))
    try:
        with contextlib.redirect_stderr(io.StringIO()) as said:
            fit(model, x, epochs=rounds + 1, batch_size=setting.batch, callbacks=[stamp])
    finally:
        os.environ.pop("SCRATCHVAE_GRAPH")
        if before is not None:
            os.environ["SCRATCHVAE_GRAPH"] = before
    if said.getvalue():  # it went on without a graph
        raise NotRunError(said.getvalue().strip())
    steps = len(x) / setting.batch
    return [1e3 * (b - a) / steps for a, b in itertools.pairwise(stamps)]


def products(setting: Setting, rounds: int, launches: int = 100) -> list[float]:
    """Return milliseconds that a step's products take on the GPU, those of the biases left out."""
    xp = _need_cupy()
    from scratchvae import graphs

    widths = (784, *setting.hidden)
    encoder = [*itertools.pairwise(widths), *[(widths[-1], setting.n_latent)] * 2]
    decoder = list(itertools.pairwise((setting.n_latent, *setting.hidden[::-1], 784)))
    shapes, jobs, rng = encoder + decoder, [], np.random.default_rng(0)
    for i, (n_in, n_out) in enumerate(shapes):
        sizes = ((setting.batch, n_in), (setting.batch, n_out), (n_in, n_out))
        a, dy, w = (xp.asarray(rng.standard_normal(n, dtype=np.float32)) for n in sizes)
        dw = xp.zeros_like(w)
        jobs += [(a, w, xp.zeros_like(dy)), (a.T, dy, dw)]
        if i:  # nobody wants the gradient of the images
            jobs.append((dy, w.T, xp.zeros_like(a)))

    def work() -> None:
        for a, b, out in jobs:
            xp.matmul(a, b, out=out)

    private = graphs._Private(xp)
    xp.cuda.get_current_stream().synchronize()
    with private.stream, xp.cuda.using_allocator(private.pool.malloc):
        with graphs._products(xp, private):
            work()
            graph = graphs._record(private.stream, work)
        found = []
        for _ in range(rounds + 1):
            start, end = xp.cuda.Event(), xp.cuda.Event()
            start.record()
            for _ in range(launches):
                graph.launch()
            end.record()
            end.synchronize()
            found.append(xp.cuda.get_elapsed_time(start, end) / launches)
    return found[1:]


# --------------------------------------------------------------------------------------- rivals


def _timed(epoch: Callable[[], None], rounds: int, steps: float) -> list[float]:
    """Return milliseconds a step; the first epoch, which compiles, is left out."""
    found = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        epoch()  # reads its losses before it ends
        found.append(1e3 * (time.perf_counter() - start) / steps)
    return found[1:]


def _need_torch() -> Any:
    if not importlib.util.find_spec("torch"):
        raise NotRunError("PyTorch is not installed")
    import torch

    if not torch.cuda.is_available():
        raise NotRunError(f"PyTorch {torch.__version__} sees no GPU")
    torch.set_float32_matmul_precision("highest")
    return torch


def torch_eager(
    setting: Setting, x: np.ndarray, rounds: int, *, fused: bool = False
) -> list[float]:
    """The rival of the CPU's table, on the GPU."""
    _need_torch()
    epoch = rivals.torch_epoch(setting, x, fused=fused, device="cuda")
    return _timed(epoch, rounds, len(x) / setting.batch)


def torch_compiled(setting: Setting, x: np.ndarray, rounds: int) -> list[float]:
    """torch.compile(mode="reduce-overhead"), which launches CUDA graphs, and fused Adam."""
    torch = _need_torch()
    model, loss = rivals.torch_loss(setting, x.shape[1])
    model.cuda()
    loss = torch.compile(loss, mode="reduce-overhead")
    adam = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    images = torch.from_numpy(x).cuda()

    def epoch() -> None:
        order, kept = torch.randperm(len(images), device="cuda"), []
        for batch in order.split(setting.batch):
            torch.compiler.cudagraph_mark_step_begin()
            adam.zero_grad()
            value = loss(images[batch])
            value.backward()
            adam.step()
            kept.append(value.detach().clone())  # the next launch overwrites value
        torch.stack(kept).mean().item()

    return _timed(epoch, rounds, len(x) / setting.batch)


def jax(setting: Setting, x: np.ndarray, rounds: int) -> list[float]:
    """The rival of the CPU's table, the images on the GPU."""
    if not importlib.util.find_spec("jax"):
        raise NotRunError("JAX is not installed")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # others need memory too
    import jax

    if jax.default_backend() != "gpu":
        raise NotRunError(f"JAX {jax.__version__} sees no GPU")
    jax.config.update("jax_default_matmul_precision", "highest")
    epoch = rivals.jax_epoch(setting, jax.numpy.asarray(x))
    return _timed(epoch, rounds, len(x) / setting.batch)
