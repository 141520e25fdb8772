"""A training step of the VAE against eager PyTorch, in one process, interleaved.

    python -m benchmarks.step [--rounds 15] [--batch 128] [--threads 2]

Each round times 30 steps of each, one after the other, so that whatever the machine does meanwhile
hits both. A step is: draw the noise, forward, backward, Adam; 784-400-20-400-784 in float32 on
real digits. The ratio is of the medians; min and max are over the rounds.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
parser.add_argument("--rounds", type=int, default=15)
parser.add_argument("--batch", type=int, default=128)
parser.add_argument("--threads", type=int, default=2)
STEPS = 30


def main() -> None:
    arguments = parser.parse_args()
    os.environ["OPENBLAS_NUM_THREADS"] = str(arguments.threads)  # read when NumPy loads
    import numpy as np
    import torch

    from benchmarks.rivals import TorchVAE, torch_step
    from scratchvae import VAE, Adam
    from scratchvae.datasets import mnist10k

    torch.set_num_threads(arguments.threads)
    x = mnist10k().x_train[: arguments.batch]
    ours, adam, rng = VAE(784), Adam(), np.random.default_rng(0)
    theirs, x_torch = TorchVAE(), torch.from_numpy(x)
    torch_adam = torch.optim.Adam(theirs.parameters(), lr=1e-3)

    def our_step() -> None:
        ours.forward(x, ours.draw_noise(rng, x))
        ours.backward()
        adam.step(ours.theta, ours.grad)

    rivals: dict[str, Callable[[], None]] = {
        "scratchvae": our_step,
        "PyTorch eager": lambda: torch_step(theirs, torch_adam, x_torch),
    }
    times: dict[str, list[float]] = {name: [] for name in rivals}
    for i in range(arguments.rounds + 1):
        for name, step in rivals.items():
            start = time.perf_counter()
            for _ in range(STEPS):
                step()
            if i:  # the first round warms up
                times[name].append((time.perf_counter() - start) / STEPS * 1e3)
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, {arguments.threads} threads, "
        f"NumPy {np.__version__}, PyTorch {torch.__version__}, batch {arguments.batch}"
    )
    median = {name: statistics.median(values) for name, values in times.items()}
    for name, values in times.items():
        ratio = median[name] / median["scratchvae"]
        print(
            f"{name:14} {median[name]:6.2f} ms a step ({min(values):.2f} to {max(values):.2f}), "
            f"{ratio:.2f} times scratchvae's"
        )


if __name__ == "__main__":
    main()
