"""The proof of every piece, at several points; and that it objects to a broken one."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pytest

from scratchvae import proofs
from scratchvae.gradcheck import check_layer, check_loss, check_model
from scratchvae.latent import GaussianKL, Reparameterize
from scratchvae.layers import Dense, ReLU, Sigmoid, Tanh
from scratchvae.losses import BernoulliNLL, GaussianNLL, MeanSquaredError

rows_of = cache(proofs.run_all)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_gradient_is_proved(seed):
    rows = rows_of(seed)
    assert len(rows) >= 30
    for row in rows:
        limit = 1e-7 if row.piece.startswith(("Auto", "Den", "VAE")) else 1e-9
        assert row.ok, row.report
        assert row.error <= limit, row.report
        assert row.verdict == ("kink" if "inputs 0" in row.piece else "ok")
    json.dumps([row.to_dict() for row in rows], allow_nan=False)


def test_the_table_names_every_public_piece():
    pieces = " ".join(row.piece for row in rows_of(0))
    for name in (
        *("Dense", "ReLU", "Tanh", "Sigmoid", "Sequential", "Reparameterize", "GaussianKL"),
        *("MeanSquaredError", "BernoulliNLL", "GaussianNLL", "Autoencoder"),
        *("DenoisingAutoencoder", "VAE", "784-400-20-400-784"),
    ):
        assert name in pieces


RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((7, 5)), RNG.random((7, 5))


@pytest.mark.parametrize(
    ("kind", "broken", "inputs"),
    [
        (ReLU, lambda self, dy: dy * ~self.positive, [X]),
        (Tanh, lambda self, dy: dy * (1 - self.slope), [X]),
        (Sigmoid, lambda self, dy: dy, [X]),
        (Dense, lambda self, dy: dy @ self.W.T / len(dy), [X]),
        (Reparameterize, lambda self, dz: (dz, dz * self.sigma_eps), [X, Y, X + Y]),
    ],
)
def test_a_broken_backward_is_refused(monkeypatch, kind, broken, inputs):
    layer = Dense(5, 3, dtype="float64") if kind is Dense else kind()
    assert check_layer(layer, *inputs).ok
    monkeypatch.setattr(kind, "backward", broken)
    assert not check_layer(layer, *inputs).ok


@pytest.mark.parametrize("loss", [MeanSquaredError(), BernoulliNLL(), GaussianNLL(0.7)])
def test_a_loss_whose_backward_forgets_the_batch_is_refused(monkeypatch, loss):
    assert check_loss(loss, X, Y).ok
    right = loss.backward
    monkeypatch.setattr(loss, "backward", lambda: right() * len(X))
    report = check_loss(loss, X, Y)
    assert "B" in report.tensors[0].findings[0].numbers["names"]


def test_a_kl_with_the_wrong_sign_is_refused(monkeypatch):
    kl = GaussianKL()
    right = kl.backward
    monkeypatch.setattr(kl, "backward", lambda: tuple(-d for d in right()))
    report = check_loss(kl, X, Y)
    assert report.verdict == "wrong"
    assert all("wrong sign" in t.findings[0].text for t in report.tensors)


@pytest.mark.parametrize(
    "name", ["VAE, tanh", "Autoencoder, ReLU", "DenoisingAutoencoder, masking"]
)
def test_a_model_that_forgets_one_gradient_is_refused(name):
    model = proofs._small_models()[name]
    x = np.random.default_rng(0).random((7, model.n_features))
    noise = model.draw_noise(np.random.default_rng(1), x)
    right = model.backward

    def forgetful():
        right()
        model.named_gradients()["decoder.0.b"][...] = 0

    model.backward = forgetful
    report = check_model(model, x, noise)
    assert [t.name for t in report.tensors if not t.ok] == ["decoder.0.b"]
    assert report["decoder.0.b"].findings[0].kind == "zero"
