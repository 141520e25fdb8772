"""Explorers to test: runs without a training, and what a page holds, read by other code."""

import base64
import json
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from scratchvae import runs
from scratchvae.datasets import mnist10k
from scratchvae.models import Model, build
from scratchvae.optim import make_optimizer
from scratchvae.train import Training

MODELS: dict[str, dict[str, Any]] = {
    "vae": {"model": "vae", "hidden": [48]},
    "vae of five": {"model": "vae", "hidden": [40, 32], "n_latent": 5, "activation": "tanh"},
    "gaussian": {"model": "vae", "hidden": [40], "likelihood": "gaussian", "sigma": 0.4},
    "learned": {
        **{"model": "vae", "hidden": [33], "n_latent": 1, "activation": "sigmoid"},
        **{"likelihood": "gaussian", "sigma": "learned", "dtype": "float64"},
    },
    "no hidden layer": {"model": "vae", "hidden": [], "n_latent": 3},
    "ae": {"model": "ae", "hidden": [48]},
    "linear": {"model": "ae", "hidden": [36], "n_latent": 4, "output": "linear"},
    "dae": {"model": "dae", "hidden": [48], "corruption": "salt_and_pepper"},
}


def digits(directory: Path) -> str:
    """Write a few digits of MNIST to a file in ``directory``, and return its name."""
    data, path = mnist10k(), directory / "digits.npz"
    if not path.exists():
        np.savez(
            path,
            x_train=data.x_train[:20].reshape(-1, 28, 28),
            y_train=data.y_train[:20],
            x_test=data.x_test[:120].reshape(-1, 28, 28),
            y_test=data.y_test[:120],
        )
    return str(path)


def save(
    directory: Path,
    config: dict[str, Any],
    data: str | None = None,
    *,
    scale: float = 1.5,
    binarize: bool = False,
) -> Any:
    """Leave a run with the model of ``config`` in ``directory``; return the model.

    It is not trained: its initial weights are scaled up, so that z changes the picture.
    """
    model = build({"n_features": 784, "n_latent": 2, "seed": 1, **config})
    model.theta *= model.theta.dtype.type(scale)
    directory.mkdir(parents=True)
    data = digits(directory.parent) if data is None else data
    training = Training(make_optimizer("adam"), n_examples=9000, binarize=binarize)
    runs.save_run(directory, model, training, {"data": data, "epochs": 1})
    return model


def spread(model: Model, n: int = 40) -> np.ndarray:
    """Codes of test images and points between -4 and 4, (2 n, L)."""
    if model.n_features != 784:
        raise ValueError("want a model of MNIST")
    codes = model.codes(mnist10k().x_test[:n])
    between = np.random.default_rng(5).uniform(-4, 4, codes.shape)
    if model.kind != "vae":  # a walk stays near the codes
        between = codes[::-1] * 0.5 + codes * 0.5
    return np.concatenate([codes, between]).astype(model.dtype)


def content(page: Path) -> dict[str, Any]:
    """The data in a page."""
    found = re.search(r'id="data">(.*?)</script>', page.read_text(encoding="utf-8"))
    assert found is not None
    return json.loads(found[1])


def unpack(packed: dict[str, Any]) -> dict[str, np.ndarray]:
    """The arrays in a packed block."""
    block = zlib.decompress(base64.b64decode(packed["block"]), wbits=-15)
    kinds = {"Uint8Array": np.uint8, "Float32Array": np.dtype("<f4")}
    arrays = {}
    for name, entry in packed["arrays"].items():
        count = int(np.prod(entry["shape"]))
        flat = np.frombuffer(block, kinds[entry["kind"]], count, entry["start"])
        arrays[name] = flat.reshape(entry["shape"])
    return arrays


def parameters(packed: dict[str, Any]) -> dict[str, np.ndarray]:
    """The parameters that a packed block stands for."""
    arrays = unpack(packed)
    found = {}
    for name, array in arrays.items():
        if name.endswith(".planes"):
            bare = name.removesuffix(".planes")
            whole = np.zeros(array.shape[1:])
            for plane in array:
                whole = whole * 256 + plane
            found[bare] = (whole - 2 ** (8 * len(array) - 1)) * arrays[f"{bare}.scale"]
        elif not name.endswith(".scale"):
            found[name] = array
    return found


def broken(page: Path, out: Path) -> Path:
    """A copy of the page in which one weight of the decoder's last bias is another."""
    text = page.read_text(encoding="utf-8")
    data = content(page)
    packed = data["runs"][0]["decoder"]
    arrays = unpack(packed)
    name = max(key for key in arrays if key.endswith(".b"))
    block = bytearray(zlib.decompress(base64.b64decode(packed["block"]), wbits=-15))
    at = packed["arrays"][name]["start"] + 4 * 300  # of pixel 300
    block[at : at + 4] = (arrays[name][300] + np.float32(0.5)).astype("<f4").tobytes()
    packer = zlib.compressobj(9, wbits=-15)
    packed_again = base64.b64encode(packer.compress(bytes(block)) + packer.flush()).decode()
    out.write_text(text.replace(packed["block"], packed_again), encoding="utf-8")
    return out
