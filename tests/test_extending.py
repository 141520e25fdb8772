"""The page `docs/extending.rst`: its pieces are what it says of them."""

import re
import textwrap
from pathlib import Path

import pytest

from scratchvae import check_model
from scratchvae.gradcheck import check_layer, check_loss

PAGE = Path(__file__).parents[1] / "docs" / "extending.rst"


@pytest.fixture(scope="module")
def names():
    page = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"\.\. code-block:: python\n\n((?:   .*\n|\n)+)", page)
    assert len(blocks) == 5
    found = {}
    for block in blocks:
        exec(compile(textwrap.dedent(block), PAGE.name, "exec"), found)
    return found


def test_its_pieces_are_right(names):
    rng = names["rng"]
    assert check_layer(names["Gain"](3, "float64"), rng.normal(size=(7, 3))).ok
    pair = rng.normal(size=(2, 7, 3))
    assert check_loss(names["AbsoluteError"](), *pair).ok
    model = names["Sparse"](784, hidden=(9,), n_latent=3, dtype="float64")
    assert check_model(model, names["x"][:7].astype("float64")).ok
    assert names["history"]["loss"][1] < names["history"]["loss"][0]


def test_a_mistake_in_them_is_seen(names):
    class Wrong(names["Sparse"]):
        def backward(self):
            self.encoder.backward(self.decoder.backward(self.mse.backward()), need_dx=False)

    model = Wrong(784, hidden=(9,), n_latent=3, dtype="float64")
    model.weight = 0.1
    assert check_model(model, names["x"][:7].astype("float64")).verdict == "wrong"
