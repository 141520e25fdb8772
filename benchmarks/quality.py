"""What the models reach on the official 10,000 MNIST test digits, beside the same in PyTorch.

    python -m benchmarks.quality --data-dir DIR [--seeds 3] [--full]

VAE 784-400-20-400-784, grey pixels as Bernoulli targets, Adam 1e-3, batch 128: -ELBO in nats an
image after 5, 10, 20, 40 epochs on the embedded 9,000 (with ``--full`` on all 60,000, to 20). Three
rows: ours; ours started like PyTorch's ``nn.Linear``; PyTorch. Then the autoencoder's test MSE a
pixel after 10 epochs on the 9,000 with 2, 20 and 32 latents beside PCA's. One run a seed; mean, and
smallest and largest over the seeds. DIR holds the official IDX files. Without PyTorch its row is
left out.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable

import numpy as np

from scratchvae import VAE, Autoencoder
from scratchvae.datasets import load
from scratchvae.evaluate import PCA, mse, reconstruct
from scratchvae.train import Training, fit, mean_terms

BATCH, MARKS = 128, (5, 10, 20, 40)


def start_like_torch(model: VAE, seed: int) -> None:
    """Draw W and b from U(-1/sqrt(n_in), 1/sqrt(n_in)), as ``torch.nn.Linear`` does."""
    rng = np.random.default_rng(seed)
    parameters = model.named_parameters()
    for name, array in parameters.items():
        n_in = parameters[name[:-1] + "W"].shape[0]
        array[...] = rng.uniform(-1, 1, array.shape) / np.sqrt(n_in)


def ours(
    x: np.ndarray, x_test: np.ndarray, marks: tuple[int, ...], seed: int, like_torch: bool = False
) -> list[float]:
    """Return -ELBO on ``x_test`` after each of ``marks`` epochs."""
    model = VAE(x.shape[1], seed=seed)
    if like_torch:
        start_like_torch(model, seed)
    reached: list[float] = []

    def look(training: Training) -> None:
        if training.epoch in marks:
            reached.append(mean_terms(model, x_test)["neg_elbo"])

    fit(model, x, epochs=marks[-1], batch_size=BATCH, seed=seed, callbacks=[look])
    return reached


def pytorch(x: np.ndarray, x_test: np.ndarray, marks: tuple[int, ...], seed: int) -> list[float]:
    """Return the same of the model in PyTorch."""
    import torch

    from benchmarks.rivals import torch_vae

    torch.manual_seed(seed)
    model = torch_vae()
    adam = torch.optim.Adam(model.parameters(), lr=1e-3)
    data, test = torch.from_numpy(x), torch.from_numpy(x_test)
    reached = []
    for epoch in range(1, marks[-1] + 1):
        for batch in torch.randperm(len(data)).split(BATCH):
            adam.zero_grad()
            sum(model(data[batch], torch.randn(len(batch), 20))).backward()
            adam.step()
        if epoch in marks:
            with torch.no_grad():
                reconstruction, kl = model(test, torch.randn(len(test), 20))
            reached.append(float(reconstruction + kl))
    return reached


def spread(values: list[float], digits: int) -> str:
    return f"{np.mean(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--full", action="store_true")
    arguments = parser.parse_args()
    official, seeds = load("mnist", arguments.data_dir), range(arguments.seeds)
    x_test = official.x_test
    x, marks = load("mnist10k").x_train, MARKS
    if arguments.full:
        x, marks = official.x_train, MARKS[:3]

    rows: dict[str, Callable[[int], list[float]]] = {
        "scratchvae": lambda seed: ours(x, x_test, marks, seed),
        "scratchvae, started like PyTorch": lambda seed: ours(x, x_test, marks, seed, True),
    }
    if importlib.util.find_spec("torch"):
        rows["PyTorch"] = lambda seed: pytorch(x, x_test, marks, seed)
    print(f"-ELBO, nats an image; {len(x):,} training digits, {arguments.seeds} seeds\n")
    print("| epochs | " + " | ".join(map(str, marks)) + " |")
    print("|---" * (len(marks) + 1) + "|")
    for name, run in rows.items():
        columns = zip(*(run(seed) for seed in seeds), strict=True)
        cells = " | ".join(spread(list(c), 1) for c in columns)
        print(f"| {name} | {cells} |", flush=True)
    if arguments.full:
        return

    print(f"\nMSE a pixel after 10 epochs; {len(x):,} training digits\n")
    print("| latents | Autoencoder | PCA, cut to [0, 1] |\n|---|---|---|")
    for n_latent in (2, 20, 32):
        errors = []
        for seed in seeds:
            model = Autoencoder(x.shape[1], n_latent=n_latent, seed=seed)
            fit(model, x, epochs=10, batch_size=BATCH, seed=seed)
            errors.append(mse(x_test, reconstruct(model, x_test)))
        pca = mse(x_test, PCA(x, n_latent).reconstruct(x_test))
        print(f"| {n_latent} | {spread(errors, 5)} | {pca:.4f} |", flush=True)


if __name__ == "__main__":
    main()
