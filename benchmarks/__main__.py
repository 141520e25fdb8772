"""Speed beside the rivals that are installed.

    python -m benchmarks                  # an epoch of 60,000 images, all rivals
    python -m benchmarks --quick          # a sixth of it, three rounds: half a minute
    python -m benchmarks --settings       # other batches, widths, latents, depths; AE and DAE
    python -m benchmarks --growth         # time against batch, width, depth, data; exponents
    python -m benchmarks --memory         # the peak of `fit`
    python -m benchmarks --gpu            # the same on an NVIDIA GPU, through CuPy

What is timed is training as a user would run it, shuffling, gathering the batches, drawing the
noise and keeping the losses included: for us an epoch of `fit` in a process of its own, or in one
per core, as the command `scratchvae train` has it. The rivals run in this process. One after the
other in each round, so that whatever the machine does meanwhile hits all of them; the first round
warms up. Medians over the rounds, smallest and largest in brackets; ratio is rival /
scratchvae, of the medians. Data: the embedded 9,000 digits, repeated.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import itertools
import json
import math
import os
import platform
import re
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    what = parser.add_mutually_exclusive_group()
    for name in ("settings", "growth", "memory", "gpu"):
        what.add_argument(f"--{name}", action="store_true")
    parser.add_argument("--quick", action="store_true", help="10,000 images, three rounds")
    parser.add_argument("--rounds", type=int, help="(7)")
    parser.add_argument("--images", type=int, help="(60000)")
    parser.add_argument("--threads", type=int, default=2, help="of every library (2)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    arguments.rounds = arguments.rounds or (3 if arguments.quick else 7)
    arguments.images = arguments.images or (10_000 if arguments.quick else 60_000)
    return arguments


ARGUMENTS = parse() if __name__ == "__main__" else argparse.Namespace(threads=2)
for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = str(ARGUMENTS.threads)  # read when the libraries load

import numpy as np  # noqa: E402

from benchmarks import rivals  # noqa: E402
from benchmarks.ours import Ours  # noqa: E402
from benchmarks.rivals import Setting  # noqa: E402
from scratchvae import compiled  # noqa: E402

Epoch = Callable[[], None]
Row = dict[str, Any]


def interleave(epochs: dict[str, Epoch], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each, round by round; the round that warms up is left out."""
    seconds: dict[str, list[float]] = {name: [] for name in epochs}
    for i in range(rounds + 1):
        for name, epoch in epochs.items():
            gc.collect()
            start = time.perf_counter()
            epoch()
            if i:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def row(name: str, seconds: list[float], steps: float, ours: list[float] | None) -> Row:
    ms = [1e3 * s / steps for s in seconds]
    found: Row = {
        "name": name,
        "ms_a_step": statistics.median(ms),
        "smallest": min(ms),
        "largest": max(ms),
    }
    if ours is not None:
        found["ratio"] = statistics.median(seconds) / statistics.median(ours)
    return found


# ---------------------------------------------------------------------------------- the tables


@contextmanager
def ours(setting: Setting, arguments: argparse.Namespace) -> Iterator[dict[str, Epoch]]:
    """Yield our epochs, in as many processes as there are threads and in one.

    Where Numba is installed, both without it and with it.
    """
    processes = {
        f"scratchvae{parts}{loops}": Ours(setting, arguments.images, workers, numba=bool(loops))
        for loops in (("", " + Numba") if compiled.problem() is None else ("",))
        for parts, workers in (("", arguments.threads), (", one process", 1))
    }
    yield {name: process.epoch for name, process in processes.items()}
    for process in processes.values():
        process.close()


def main_table(arguments: argparse.Namespace) -> list[Row]:
    """An epoch of the VAE of lesson 12, all rivals."""
    setting, x = Setting(), rivals.digits(arguments.images)
    epochs: dict[str, Epoch] = {"its matrix products alone": rivals.products_epoch(setting, x)}
    if importlib.util.find_spec("torch"):
        import torch

        torch.set_num_threads(arguments.threads)
        epochs["PyTorch, eager"] = rivals.torch_epoch(setting, x)
        epochs["PyTorch, eager, fused Adam"] = rivals.torch_epoch(setting, x, fused=True)
        epochs["PyTorch, compiled, fused Adam"] = rivals.torch_epoch(
            setting, x, fused=True, mode="default"
        )
    if importlib.util.find_spec("jax"):
        epochs["JAX, jit"] = rivals.jax_epoch(setting, x)
    with ours(setting, arguments) as scratchvae:
        seconds = interleave(scratchvae | epochs, arguments.rounds)
    steps = math.ceil(arguments.images / setting.batch)
    rows = [row(name, s, steps, seconds["scratchvae"]) for name, s in seconds.items()]
    if importlib.util.find_spec("easyvae"):  # far slower: 256 images are enough
        slow = interleave({"easyvae": rivals.easyvae_epoch(setting, x[:256])}, 3)["easyvae"]
        rows.append(row("easyvae", slow, 2, None))
        rows[-1]["ratio"] = rows[-1]["ms_a_step"] / rows[0]["ms_a_step"]
    return rows


SETTINGS = (
    *(Setting(batch=32), Setting(batch=128), Setting(batch=512)),
    *(Setting(hidden=(200,)), Setting(hidden=(1600,)), Setting(n_latent=2), Setting(n_latent=50)),
    *(Setting(hidden=(400, 200)), Setting("ae"), Setting("dae")),
)


def settings_table(arguments: argparse.Namespace) -> list[Row]:
    """Ours beside eager PyTorch in other settings."""
    import torch

    torch.set_num_threads(arguments.threads)
    x, rows = rivals.digits(arguments.images), []
    for setting in SETTINGS:
        with ours(setting, arguments) as scratchvae:
            epochs = scratchvae | {"PyTorch": rivals.torch_epoch(setting, x)}
            seconds, steps = interleave(epochs, arguments.rounds), math.ceil(len(x) / setting.batch)
        ms = {name: 1e3 * statistics.median(s) / steps for name, s in seconds.items()}
        found = row(str(setting), seconds["scratchvae"], steps, None)
        found["PyTorch"] = ms["PyTorch"]
        for name in scratchvae:
            found["ratio" + name.removeprefix("scratchvae")] = ms["PyTorch"] / ms[name]
        rows.append(found)
    return rows


GROWTH: dict[str, list[tuple[float, Setting, float]]] = {
    "batch (a step)": [(b, Setting(batch=b), 1) for b in (32, 128, 512, 2048)],
    "hidden width (a step)": [(h, Setting(hidden=(h,)), 1) for h in (200, 400, 800, 1600)],
    "hidden layers of 400 (a step)": [(n, Setting(hidden=(400,) * n), 1) for n in (1, 2, 4, 8)],
    "images (an epoch)": [(f, Setting(), f) for f in (1, 2, 4, 8)],
}


def growth_table(arguments: argparse.Namespace) -> list[Row]:
    """Time against size; the exponent is the slope of log time by log size."""
    rows = []
    for what, cases in GROWTH.items():
        epochs, steps = {}, []
        for size, setting, factor in cases:
            x = rivals.digits(int(factor * max(6144, 3 * setting.batch)))
            epochs[str(size)] = rivals.scratchvae_epoch(setting, x, arguments.threads)
            steps.append(1 if what.startswith("images") else math.ceil(len(x) / setting.batch))
        seconds = interleave(epochs, arguments.rounds)
        ms = [1e3 * statistics.median(s) / n for s, n in zip(seconds.values(), steps, strict=True)]
        slope = np.polyfit(np.log([c[0] for c in cases]), np.log(ms), 1)[0]
        rows.append({"name": what, **dict(zip(seconds, ms, strict=True)), "exponent": float(slope)})
    return rows


def memory_table(arguments: argparse.Namespace) -> list[Row]:
    """By how much an epoch of `fit` makes its processes grow at most, beside the images."""
    rows = []
    both = (False, True) if compiled.problem() is None else (False,)
    for numba, workers in itertools.product(both, (1, arguments.threads)):
        process = Ours(Setting(), arguments.images, workers, numba)
        before = most = resident(process.process.pid)
        training = threading.Thread(target=process.epoch)
        training.start()
        while training.is_alive():
            most = max(most, resident(process.process.pid))
        name = f"fit, {workers} process{'es' if workers > 1 else ''}{', Numba' if numba else ''}"
        rows.append({"name": name, "above_MiB": most - before})
        process.close()
    return rows


def resident(process: int) -> float:
    """Return the memory of a process and its children in MiB; shared pages count once.

    The kernel says it of each (`Pss` in /proc/PID/smaps_rollup, Linux).
    """
    total = 0
    with suppress(OSError):  # it has ended
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
        for each in (process, *children):
            rollup = Path(f"/proc/{each}/smaps_rollup").read_text()
            found = re.search(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)
            total += int(found[1]) if found else 0
    return total / 1024


# -------------------------------------------------------------------------------------- output


def header(arguments: argparse.Namespace) -> Row:
    """What ran where."""
    import threadpoolctl

    from scratchvae import kernels

    versions = {}
    for name in ("numpy", "numba", "torch", "jax", "easyvae", "cupy"):
        if importlib.util.find_spec(name):
            from importlib.metadata import packages_distributions, version

            versions[name] = version(packages_distributions()[name][0])
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists() and (match := re.search(r"model name\s*:\s*(.*)", info.read_text())):
        cpu = match[1]
    blas = next((p for p in threadpoolctl.threadpool_info() if p["user_api"] == "blas"), {})
    architecture = blas.get("architecture") or "unknown"
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": arguments.threads,
        "kernels": f"{blas.get('internal_api')} {architecture}",
        "advice": kernels.advice(architecture),
        "load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        **versions,
    }


def main() -> None:
    arguments = ARGUMENTS
    facts = header(arguments)
    name, table = next(
        (
            (name, table)
            for name, table in (
                ("settings", settings_table),
                ("growth", growth_table),
                ("memory", memory_table),
            )
            if getattr(arguments, name)
        ),
        ("main", main_table),
    )
    if arguments.gpu:
        from benchmarks import gpu

        name, table = "gpu", gpu.table
        facts |= gpu.header()
    rows = table(arguments)
    if arguments.json:
        print(json.dumps({"table": name, **facts, "rows": rows}, indent=2))
        return
    print(", ".join(f"{key} {value}" for key, value in facts.items() if value is not None))
    if name == "main":
        print(f"{Setting()}, an epoch of {arguments.images:,} images, {arguments.rounds} rounds\n")
    for found in rows:
        cells = [f"{found.pop('name'):32}"]
        if "smallest" in found:
            spread = f"({found.pop('smallest'):.2f}-{found.pop('largest'):.2f})"
            cells.append(f"{found.pop('ms_a_step'):8.2f} ms a step {spread:16}")
        cells += [
            f"{key} {v:.2f}" if isinstance(v, float) else f"{key} {v}" for key, v in found.items()
        ]
        print("  ".join(cells))


if __name__ == "__main__":
    main()
