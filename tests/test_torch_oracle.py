"""PyTorch as an outside oracle: the same losses from its own functions, gradients by autograd."""

import numpy as np
import pytest

from scratchvae import (
    SGD,
    VAE,
    AdaGrad,
    Adam,
    AdamW,
    Autoencoder,
    DenoisingAutoencoder,
    Momentum,
    Nesterov,
    RMSProp,
)

torch = pytest.importorskip("torch", reason="PyTorch is missing: pip install 'scratchvae[bench]'")
F = torch.nn.functional
N = torch.distributions.Normal

pytestmark = pytest.mark.torch

D, B = 9, 6
CASES = {
    "ae": (Autoencoder, {}),
    "ae linear": (Autoencoder, {"hidden": (), "output": "linear"}),
    "ae deep tanh": (Autoencoder, {"hidden": (8, 6), "activation": "tanh", "n_latent": 1}),
    "ae sigmoid, linear output": (Autoencoder, {"activation": "sigmoid", "output": "linear"}),
    "dae gaussian": (DenoisingAutoencoder, {}),
    "dae gaussian unclipped": (DenoisingAutoencoder, {"clip": False, "output": "linear"}),
    "dae masking": (DenoisingAutoencoder, {"corruption": "masking", "fraction": 0.4}),
    "dae salt and pepper": (DenoisingAutoencoder, {"corruption": "salt_and_pepper"}),
    "vae": (VAE, {}),
    "vae beta 4": (VAE, {"beta": 4.0, "hidden": (8, 6), "activation": "tanh"}),
    "vae beta 0, no hidden layer": (VAE, {"beta": 0, "hidden": ()}),
    "vae 50 latents": (VAE, {"n_latent": 50, "activation": "sigmoid"}),
    "vae gaussian": (VAE, {"likelihood": "gaussian", "sigma": 0.3}),
    "vae gaussian learned": (VAE, {"likelihood": "gaussian", "sigma": "learned", "beta": 0.5}),
}
EVERY_CASE = pytest.mark.parametrize("name", CASES)


def make(name):
    cls, arguments = CASES[name]
    small = {"hidden": (7,), "n_latent": 3, "dtype": "float64", "seed": 1}
    model = cls(D, **{**small, **arguments})
    rng = np.random.default_rng(5)
    model.theta += rng.normal(0, 0.3, model.theta.size)  # the biases, too
    return model


def batch(model, seed):
    x = np.random.default_rng(seed).uniform(size=(B, D))
    return x, model.draw_noise(np.random.default_rng(seed + 100), x)


def tensors(named):
    return {k: torch.tensor(v, requires_grad=True) for k, v in named.items()}


def network(p, name, x, activation, activate_last=False):
    """Run the affine maps called ``name.0``, ``name.2``, ... with activations between them."""
    n = sum(key.startswith(f"{name}.") and key.endswith(".W") for key in p)
    for i in range(n):
        x = x @ p[f"{name}.{2 * i}.W"] + p[f"{name}.{2 * i}.b"]
        if i < n - 1 or activate_last:
            x = getattr(torch, activation)(x)
    return x


def corrupted(model, x, noise):
    if model.kind == "ae":
        return x
    if model.corruption == "gaussian":
        x = x + model.sigma * noise
        return torch.clamp(x, 0, 1) if model.clip else x
    salt, hit = noise < model.fraction / 2, noise < model.fraction
    x = torch.where(hit, torch.zeros_like(x), x)
    return torch.where(salt, torch.ones_like(x), x) if "salt" in model.corruption else x


def torch_terms(model, p, x, noise):
    """Return the model's loss terms from PyTorch's losses, Normal and kl_divergence."""
    x, noise = torch.tensor(x), None if noise is None else torch.tensor(noise)
    if model.kind != "vae":
        z = network(p, "encoder", corrupted(model, x, noise), model.activation)
        y = network(p, "decoder", z, model.activation)
        return {"mse": F.mse_loss(torch.sigmoid(y) if model.output == "sigmoid" else y, x)}
    h = network(p, "encoder", x, model.activation, activate_last=True)
    mu, logvar = (h @ p[f"to_{head}.W"] + p[f"to_{head}.b"] for head in ("mu", "logvar"))
    q = N(mu, torch.exp(logvar).sqrt())
    output = network(p, "decoder", q.loc + q.scale * noise, model.activation)
    if model.likelihood == "bernoulli":
        nll = F.binary_cross_entropy_with_logits(output, x, reduction="sum")
    elif model.sigma == "learned":
        mean, v = output.chunk(2, dim=1)
        nll = -N(mean, torch.exp(v / 2)).log_prob(x).sum()
    else:
        nll = -N(output, torch.full_like(output, model.sigma)).log_prob(x).sum()
    reconstruction, kl = nll / B, torch.distributions.kl_divergence(q, N(0.0, 1.0)).sum() / B
    return {
        "loss": reconstruction + model.beta * kl,
        "reconstruction": reconstruction,
        "kl": kl,
        "neg_elbo": reconstruction + kl,
    }


def close(ours, theirs, tolerance, name):
    theirs = theirs.detach().numpy()
    scale = max(np.abs(theirs).max(), 1e-300)
    assert np.abs(ours - theirs).max() <= tolerance * scale, name


@EVERY_CASE
def test_losses_and_gradients_are_those_of_autograd(name):
    model = make(name)
    for seed in range(3):
        x, noise = batch(model, seed)
        p = tensors(model.named_parameters())
        loss = model.forward(x, noise)
        model.backward()
        terms = torch_terms(model, p, x, noise)
        assert terms.keys() == model.terms.keys()
        for key, value in terms.items():
            assert model.terms[key] == pytest.approx(value.item(), rel=1e-13)
        objective = terms["mse" if "mse" in terms else "loss"]
        assert loss == pytest.approx(objective.item(), rel=1e-13)
        objective.backward()
        slopes = model.named_gradients()
        assert slopes.keys() == p.keys()
        for key, parameter in p.items():
            close(slopes[key], parameter.grad, 1e-12, f"{key}, seed {seed}")


@EVERY_CASE
def test_five_steps_of_adam_agree_parameter_by_parameter(name):
    model = make(name)
    p = tensors(model.named_parameters())
    ours, theirs = Adam(0.01), torch.optim.Adam(p.values(), lr=0.01)
    for seed in range(5):
        x, noise = batch(model, seed)
        model.forward(x, noise)
        model.backward()
        ours.step(model.theta, model.grad)
        theirs.zero_grad()
        terms = torch_terms(model, p, x, noise)
        terms["mse" if "mse" in terms else "loss"].backward()
        theirs.step()
    for key, parameter in model.named_parameters().items():
        close(parameter, p[key], 1e-10, key)


# Where PyTorch's definitions coincide with the sources that ours name: its momentum buffer is
# -v / lr, and its Nesterov step is ours for a constant learning rate.
ADAM = {"lr": 0.1, "betas": (0.8, 0.95), "eps": 1e-3}
OPTIMIZERS = {
    "sgd": (SGD, (0.1,), torch.optim.SGD, {"lr": 0.1}),
    "momentum": (Momentum, (0.1, 0.8), torch.optim.SGD, {"lr": 0.1, "momentum": 0.8}),
    "nesterov": (
        *(Nesterov, (0.1, 0.8)),
        *(torch.optim.SGD, {"lr": 0.1, "momentum": 0.8, "nesterov": True}),
    ),
    "adagrad": (AdaGrad, (), torch.optim.Adagrad, {}),
    "rmsprop": (RMSProp, (0.1, 0.9), torch.optim.RMSprop, {"lr": 0.1, "alpha": 0.9}),
    "rmsprop, defaults": (RMSProp, (0.01,), torch.optim.RMSprop, {}),
    "adam": (Adam, (0.1, 0.8, 0.95, 1e-3), torch.optim.Adam, ADAM),
    "adam, defaults": (Adam, (), torch.optim.Adam, {}),
    "adamw": (AdamW, (0.1, 0.8, 0.95, 1e-3, 0.2), torch.optim.AdamW, {**ADAM, "weight_decay": 0.2}),
    "adamw, defaults": (AdamW, (), torch.optim.AdamW, {}),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_agree(name):
    cls, arguments, their_cls, their_arguments = OPTIMIZERS[name]
    rng = np.random.default_rng(0)
    theta, grads = rng.normal(size=20), rng.normal(size=(8, 20)) * 10.0 ** np.arange(-10, 10)
    grads[:, 0] = 0
    parameter = torch.tensor(theta, requires_grad=True)
    ours, theirs = cls(*arguments), their_cls([parameter], **their_arguments)
    for grad in grads:
        ours.step(theta, grad)
        parameter.grad = torch.tensor(grad)
        theirs.step()
        np.testing.assert_allclose(theta, parameter.detach().numpy(), rtol=1e-12, atol=1e-14)
