"""An answer that differentiates numerically is refused, and a derived one is not, however either
of them is written."""

from __future__ import annotations

import math

import numpy as np
import pytest

from scratchvae.practice import content, effort, grade
from scratchvae.practice.exercises import load
from scratchvae.practice.grade import grade_sources

PATHS = {path.stem[3:]: path for path in content.files("exercises")}
SLOPE = "[(1, 4 / 5), (2, -1 / 5), (3, 4 / 105), (4, -1 / 280)]"  # of the eighth order
TANH = "(np.e**v - np.e**-v) / (np.e**v + np.e**-v)"


def stencil(function: str, result: str = "dy * s", x: str = "x", step: float = 2.0**-4) -> str:
    """Central differences of the eighth order."""
    return f"""
    f = lambda v: {function}
    s = 0
    for j, c in {SLOPE}:
        s = s + c * (f({x} + j * {step}) - f({x} - j * {step}))
    s = s * {1 / step}
    return {result}"""


def richardson(function: str, result: str = "dy * s", x: str = "x") -> str:
    """Central differences, extrapolated; no step is written down."""
    return f"""
    f = lambda v: {function}
    d = lambda k: (f({x} + np.ldexp(1.0, -k)) - f({x} - np.ldexp(1.0, -k))) * np.ldexp(1.0, k - 1)
    table = [d(k) for k in range(3, 8)]
    for p in range(1, 5):
        table = [b + (b - a) * (1 / (4**p - 1)) for a, b in zip(table, table[1:])]
    s = table[0]
    return {result}"""


def scalars(body: str) -> str:
    """One number at a time, with math."""
    return f"""
    import math
    out = np.zeros_like(x)
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            v = float(x[i, j])
            {body}
    return out"""


EVASIONS = {
    "tanh": {
        "a power for the exponential": stencil(TANH),
        "extrapolated": richardson("np.tanh(v)"),
        "extrapolated, with powers": richardson(TANH),
        "another name": "\n    from numpy import tanh as t" + stencil("t(v)"),
        "a small step": stencil(TANH, step=2.0**-7),
        "math": scalars(
            f"out[i, j] = dy[i, j] * 16 * sum(c * (math.tanh(v + m / 16) - math.tanh(v - m / 16)) "
            f"for m, c in {SLOPE})"
        ),
        "math, by map": scalars(
            f"out[i, j] = dy[i, j] * 16 * sum(c * (b - a) for (m, c) in {SLOPE} for a, b in "
            "[map(math.tanh, (v - m / 16, v + m / 16))])"
        ),
        "math, four values": scalars(
            "q = 0.0013; f = math.tanh; out[i, j] = dy[i, j] * (8 * (f(v + q) - f(v - q)) - "
            "(f(v + q + q) - f(v - q - q))) / 0.0156"
        ),
        "all steps in one array": """
    k = np.array([1, 2, 3, 4.0, -1, -2, -3, -4])[:, None, None] / 16
    c = np.array([4/5, -1/5, 4/105, -1/280, -4/5, 1/5, -4/105, 1/280])[:, None, None]
    return dy * (np.tanh(x + k) * c).sum(0) * 16""",
        "another shape": """
    q, v, f = 2.0**-9, x.ravel(), np.tanh
    s = 45 * (f(v + q) - f(v - q)) - 9 * (f(v + q + q) - f(v - q - q)) + f(v + 3 * q) - f(v - 3 * q)
    return dy * (s * 512 / 60).reshape(x.shape)""",
        "by a factor": """
    s = 0
    for j, c in """
        + SLOPE
        + """:
        s = s + c * (np.tanh(x * (1 + j * 0.001)) - np.tanh(x * (1 - j * 0.001)))
    return dy * s * 1000 / x""",
        "an exponential of its own": """
    def exp(v):
        v = v * 0.125
        t = r = 1.0 + 0 * v
        for n in range(1, 22):
            t = t * v / n
            r = r + t
        r = r * r
        r = r * r
        return r * r
    """
        + stencil("1 - 2 / (exp(2 * v) + 1)"),
        "a polynomial": """
    from numpy.polynomial import Chebyshev
    return dy * Chebyshev.interpolate(np.tanh, 200, [-6, 6]).deriv()(x)""",
        "a table": """
    g = np.linspace(-8, 8, 400001)
    return dy * np.interp(x, g, np.gradient(np.tanh(g), g))""",
    },
    "mean_squared_error": {
        "steps of two lengths": """
    c = y - x
    k = np.abs(c).max()
    h, g = 0.005 * k, -0.0075 * k
    a, b, f = (c + h) ** 2, (c + g) ** 2, c * c
    return ((a - f) / h * g - (b - f) / g * h) / (g - h) / y.size""",
        "two values": """
    f = lambda v: (v - x) ** 2 / y.size
    return (f(y + 1) - f(y - 1)) / 2""",
        "two values of the error": """
    d = y - x
    return ((d + 1) ** 2 - (d - 1) ** 2) / (2 * y.size)""",
        "two values, in columns": """
    f = lambda v: np.square(v) / y.size
    d, step = y - x, np.full(y.shape[1], 0.25)
    return 2 * f(d + step) - 2 * f(d - step)""",
        "number by number": """
    dy = np.empty_like(y)
    for i in np.ndindex(*y.shape):
        v = float(y[i]) - float(x[i])
        dy[i] = ((v + 1) ** 2 - (v - 1) ** 2) / (2 * y.size)
    return dy""",
        "one of them weighted with -1": """
    f = lambda v: (v - x) ** 2 / y.size
    return sum(c * f(y + c) for c in (1.0, -1.0)) / 2""",
        "steps drawn at random": """
    f = lambda v: (v - x) ** 2 / y.size
    r = np.random.default_rng(0).uniform(1, 2, y.shape)
    return (f(y + r) - f(y - r)) / (2 * r)""",
        "moved in place": """
    t, s = y * 1, y * 1
    t += 1
    s -= 1
    return ((t - x) ** 2 - (s - x) ** 2) / (2 * y.size)""",
        "the square of the negative": """
    d = y - x
    return ((d + 1) ** 2 - (1 - d) ** 2) / (2 * y.size)""",
        "less the step": """
    f = lambda v: (v - x) ** 2
    return (f(y + 1) - f(y) - 1) / y.size""",
        "steps in proportion": """
    f = lambda v: (v - x) ** 2 / y.size
    h = y / 2
    return (f(y + h) - f(y - h)) / (2 * h)""",
    },
    "kl": {
        "half of it": """
    f = lambda v: 0.5 * (np.exp(logvar) + v * v - 1 - logvar) / len(mu)
    return (f(mu + 1) - f(mu - 1)) / 2, (np.exp(logvar) - 1) / (2 * len(mu))""",
        "behind a function, added": """
    square = lambda v: v * v
    half = lambda c: square(mu + c) * (c / 4)
    return (half(1.0) + half(-1.0)) / len(mu), (np.exp(logvar) - 1) / (2 * len(mu))""",
    },
    "sigmoid": {
        "six steps of six lengths": """
    h, s = 6e-3, 0
    nodes = np.array([-3.03, -2.013, -1.0037, 1, 2.005, 3.017])
    weights = np.linalg.solve(np.vander(nodes, increasing=True).T, np.eye(6)[1])
    for node, weight in zip(nodes, weights / h):
        s = s + weight * 1 / (1 + np.exp(-(x + node * h)))
    return dy * s""",
        "a power": stencil("1 / (1 + np.e**-v)"),
        "extrapolated": richardson("1 / (1 + np.e**-v)"),
    },
    "reparameterize": {
        "six steps of six lengths": """
    h, s = 6e-3, 0
    nodes = np.array([-3.03, -2.013, -1.0037, 1, 2.005, 3.017])
    weights = np.linalg.solve(np.vander(nodes, increasing=True).T, np.eye(6)[1])
    for node, weight in zip(nodes, weights / h):
        s = s + weight * np.exp((logvar + node * h) / 2)
    return dz, dz * eps * s""",
        "a power": stencil("np.e ** (v / 2)", "(dz, dz * eps * s)", "logvar"),
        "extrapolated": richardson("np.e ** (v / 2)", "(dz, dz * eps * s)", "logvar"),
    },
    "reparameterize_softplus": {
        "the given function": stencil("softplus(v)", "(dz, dz * eps * s)", "rho"),
    },
    "relu": {
        "steps of two lengths": "a = 1e-7\n"
        "    d = np.maximum(x + a, 0) - np.maximum(x - 1.5 * a, 0)\n"
        "    return dy * np.round(d / (2.5 * a))",
    },
}
OTHER_ARITHMETIC = {
    "objects": "o = x.astype(object)\n    return dy * (1 - y * y)",
    "long integers": "k = int(x[0, 0] * 2.0**52) << 400\n    return dy * (1 - y * y)",
    "a complex step": "z = np.tanh(x + np.sqrt(-1e-60 + 0j))\n    return dy * z.imag * 1e30",
    "wider floats": "z = np.tanh(x.astype('f16'))\n    return dy * (1 - y * y)",
}
KINDS = {"objects": "wide", "long integers": "wide"}  # the others are "complex"
REFUSALS = ("numerical", "imprecise", "derivative")
LIBRARIES = ("mpmath", "decimal", "fractions", "jax", "scipy.misc")

DERIVED = {
    "tanh": {
        "from x": "return dy * (1 - np.tanh(x) ** 2)",
        "in factors": "return -dy * (y - 1) * (y + 1)",
        "with cosh": "return dy / np.cosh(x) ** 2",
        "by the quotient rule": "t = np.exp(2 * x)\n"
        "    return dy * ((t + 1) ** 2 - (t - 1) ** 2) / (t + 1) ** 2",
        "in the form that tells": "y = np.tanh(x)\n    return dy * ((1 + y) - y * (1 + y))",
        "with exponentials": "return dy * 4 / (np.exp(x) + np.exp(-x)) ** 2",
        "as it is defined": "t = (np.exp(x) - np.exp(-x)) / (np.exp(x) + np.exp(-x))\n"
        "    return dy * (1 - t ** 2)",
        "number by number": """
    dx = np.empty_like(x)
    for i in range(len(x)):
        for j in range(x.shape[1]):
            dx[i, j] = dy[i, j] * (1 - y[i, j] * y[i, j])
    return dx""",
    },
    "sigmoid": {
        "stable": "y = np.where(x < 0, np.exp(x) / (1 + np.exp(x)), 1 / (1 + np.exp(-x)))\n"
        "    return dy * y * (1 - y)",
        "by tanh": "return dy * (1 - np.tanh(x / 2) ** 2) / 4",
        "with a power": "y = 1 / (1 + np.e ** -x)\n    return dy * y * (1 - y)",
        "in place": "y = -x\n    np.exp(y, out=y)\n    y += 1\n    y **= -1\n"
        "    return dy * (y - y ** 2)",
    },
    "reparameterize": {
        "a root": "sigma = np.sqrt(np.exp(logvar))\n    return dz, dz * eps * sigma / 2",
        "a power": "return dz, dz * eps * np.exp(logvar) ** 0.5 * 0.5",
    },
    "reparameterize_softplus": {
        "two cases": "e = np.exp(-np.abs(rho))\n"
        "    return dz, dz * eps * np.where(rho < 0, e / (1 + e), 1 / (1 + e))",
    },
    "mean_squared_error": {
        "expanded": "return 2 / y.size * y - 2 / y.size * x",
        "by the halves": "d = y - x\n    return (d + d) / d.shape[0] / d.shape[1]",
    },
    "kl": {
        "in sigma": "s = np.exp(logvar / 2)\n"
        "    return mu / len(mu), (s + 1) * (s - 1) / (2 * len(mu))",
    },
    "dense_dW": {
        "einsum": "return np.einsum('ni,no->io', x, dy)",
        "sum of outer products": "return sum(np.outer(a, b) for a, b in zip(x, dy))",
        "three loops": """
    dW = np.zeros((x.shape[1], dy.shape[1]))
    for n in range(len(x)):
        for i in range(x.shape[1]):
            for j in range(dy.shape[1]):
                dW[i, j] += x[n, i] * dy[n, j]
    return dW""",
    },
    "gaussian_nll_logvar": {
        "in factors": "s = np.exp(logvar / 2)\n    r = (x - mean) / s\n"
        "    return -r / s / len(x), -(r - 1) * (r + 1) / 2 / len(x)",
    },
    "score_function": {
        "sample by sample": """
    dmu, dlogvar = np.zeros_like(mu), np.zeros_like(mu)
    for one, at in zip(f, z):
        dmu += one * (at - mu) / np.exp(logvar) / len(f)
        dlogvar += one * ((at - mu) ** 2 / np.exp(logvar) - 1) / 2 / len(f)
    return dmu, dlogvar""",
    },
    "momentum": {
        "number by number": """
    v, theta = v.copy(), theta.copy()
    for i in range(len(v)):
        v[i] *= momentum
        v[i] -= lr * grad[i]
        theta[i] += v[i]
    return v, theta""",
    },
    "importance_weighted": {
        "log-sum-exp": """
    m = log_w.max(axis=1, keepdims=True)
    lse = m + np.log(np.exp(log_w - m).sum(axis=1, keepdims=True))
    return -np.exp(log_w - lse) / len(log_w)""",
    },
}


def answers(topic: str, bodies: list[str], seed: int) -> list[grade.Grade]:
    ex = load(PATHS[topic])
    head = f"def {ex.function}({', '.join(ex.arguments)}):\n    "
    texts = [ex.text("en", head + body.strip() + "\n") for body in bodies]
    return grade_sources(ex, texts, seed=seed, seconds=60)


@pytest.mark.parametrize("topic", EVASIONS)
def test_differences_are_refused_however_they_are_written(topic: str) -> None:
    got = answers(topic, [*EVASIONS[topic].values()], seed=3)
    for name, one in zip(EVASIONS[topic], got, strict=True):
        assert not one.ok, name
        assert one.problem, name
        assert one.problem.kind in REFUSALS, f"{name}: {one.problem}"


def test_other_arithmetic_is_refused() -> None:
    got = answers("tanh", [*OTHER_ARITHMETIC.values()], seed=4)
    for name, one in zip(OTHER_ARITHMETIC, got, strict=True):
        assert one.problem, name
        assert one.problem.kind == KINDS.get(name, "complex"), f"{name}: {one.problem}"


def test_libraries_for_it_are_refused() -> None:
    bodies = [f"import {name}\n    return dy * (1 - y * y)" for name in LIBRARIES]
    for one in answers("tanh", bodies, seed=5):
        assert one.problem
        assert one.problem.kind == "import"


@pytest.mark.parametrize("topic", DERIVED)
@pytest.mark.parametrize("seed", [6, 7, 8])
def test_derivations_pass_however_they_are_written(topic: str, seed: int) -> None:
    for name, one in zip(
        DERIVED[topic], answers(topic, [*DERIVED[topic].values()], seed), strict=True
    ):
        assert one.ok, f"{name}: {one.problem} {one.outputs} {one.objections}"


def test_a_list_in_place_of_an_array_is_called_one() -> None:
    bodies = ["return dy.sum(axis=0).tolist()", "return list(dy)", "return [dy.sum(axis=0)]"]
    *lists, one = answers("dense_db", bodies, seed=9)
    for got in lists:
        assert got.problem
        assert (got.problem.kind, got.problem.name, got.problem.text) == ("type", "db", "list")
    assert one.ok


def test_a_small_number_added_for_safety_is_an_approximation() -> None:
    body = "return mu / len(mu), (sigma - 1 / (sigma + 1e-7)) / len(mu)"
    (got,) = answers("kl_sigma", [body], seed=10)
    assert got.problem
    assert got.problem.kind == "imprecise"


def counted(body: str, **given: object) -> effort.Effort:
    work = effort.Effort()
    names = {**given, **work.names}
    exec(effort.instrumented(body, "counted"), names)
    return work


@pytest.mark.parametrize(
    ("body", "values", "curved"),
    [
        ("y = x + 1", 6, 0),
        ("y = x**2", 6, 0),
        ("y = 2**x", 6, 6),
        ("y = x.copy(); y **= 3", 12, 6),
        ("y = np.exp(x)", 6, 6),
        ("y = np.power(x, 2)", 6, 0),
        ("y = x @ x.T", 4 * 3, 0),
        ("y = [*map(math.exp, (1.0, 2.0))]", 2, 2),
        ("y = np.exp.outer(x, x) if False else np.multiply.outer(x, x)", 36, 0),
        ("y = 2 ** -17", 0, 0),
    ],
)
def test_what_is_computed_is_counted(body: str, values: int, curved: int) -> None:
    work = counted(body, np=np, math=math, x=np.ones((2, 3)))
    assert (work.values, work.curved) == (values, curved)


@pytest.mark.parametrize(
    ("body", "nudges"),
    [
        ("y = (x + 1e-3) - (x - 1e-3)", True),
        ("y = (x + 1e-3) - (x + 1e-3)", False),
        ("y = x * 1.001 - x * 0.999", True),
        ("y = np.sqrt(x) + 1e-8", False),
        ("y = (x - 1) * (x + 1)", False),
        ("y = [v + h for v in x.ravel() for h in (1e-3, -1e-3)]", True),
        ("y = [v + 1e-3 for v in x.ravel()]", False),
        ("y = [v * w for v in x.ravel() for w in (1.003, 0.997)]", True),
        ("y = [v * w for v in x.ravel() for w in (1.002, 1.004)]", True),
        ("y = [v * w for v in x.ravel() for w in (1.004, 0.9973)]", False),  # data
        ("y = [x + h for h in (1e-3, -1.003e-3)]", True),
        ("y = [x * w for w in (1.004, 0.996)]", True),
        ("y = [x * 1.004, x - 0.004]", True),
        ("y = (x + 3) ** 2 - (x - 3) ** 2", True),
        ("y = (x + 3) @ x.T - (-3 + x) @ x.T", True),
        ("y = (x + 3) ** 2 - (x - 2) ** 2", False),
        ("y = (x + 3) - (x - 3)", False),
        ("y = (x + 3) ** 2 + (x - 3) ** 2", False),
        ("y = (x + 3) ** 2 - 2 * (x - 3)", False),
        ("y = np.exp(x + 3) - np.sin(x - 3)", False),
        ("t = np.exp(x); y = (t + 3) ** 2 - (t - 3) ** 2", False),
        ("t = x * 1; t += 1; y = (t + 3) ** 2 - (x - 3) ** 2", False),
        ("y = (x + 3).sum() - (x - 3).sum()", True),
        ("y = (x + 3).sum() - x.sum()", False),
    ],
)
def test_steps_are_noted(body: str, nudges: bool) -> None:
    assert counted(body, np=np, x=np.arange(6.0).reshape(2, 3)).nudges is nudges
