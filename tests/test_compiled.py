"""``compiled``: the optimizers' updates as loops, with NumPy's bits.

That the loops are right takes no Numba: Python runs them too. What Numba makes of them needs it.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scratchvae import compiled
from scratchvae.models import VAE
from scratchvae.optim import (
    BLOCK,
    COMPILED,
    OPTIMIZERS,
    SGD,
    Adam,
    Momentum,
    Optimizer,
    _of_parts,
    make_optimizer,
)

NUMBA = pytest.mark.skipif(
    importlib.util.find_spec("numba") is None, reason="Numba (the extra `fast`) is not installed"
)


@pytest.fixture(autouse=True)
def _anew() -> Any:
    """Forget what was compiled."""
    compiled._compiled.cache_clear()
    yield
    compiled._compiled.cache_clear()


class _Compiler:
    """Stands for Numba: loops stay Python's; what is compiled and what runs is noted."""

    class config:
        DISABLE_JIT = 0

    class _Type(str):
        def __getitem__(self, item: Any) -> str:
            assert item == slice(None, None, 1)
            return f"{self}[]"

    def __init__(self) -> None:
        self.signatures: list[list[str]] = []
        self.runs: list[list[tuple[int, ...]]] = []

    def from_dtype(self, dtype: Any) -> str:
        return self._Type(dtype.name)

    def void(self, *arguments: str) -> list[str]:
        return [*map(str, arguments)]

    def njit(self, signature: list[str], error_model: str) -> Callable[..., Any]:
        assert error_model == "numpy"
        self.signatures.append(signature)

        def compile(loop: Callable[..., None]) -> Callable[..., None]:
            def run(*arguments: Any) -> None:
                dtypes = [a.dtype.name + "[]" * a.ndim for a in arguments]
                assert dtypes == signature
                self.runs.append([a.shape for a in arguments])
                with np.errstate(all="ignore"):
                    loop(*arguments)

            return run

        return compile


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> _Compiler:
    stand_in = _Compiler()
    monkeypatch.setitem(sys.modules, "numba", stand_in)
    monkeypatch.delenv("SCRATCHVAE_NUMBA", raising=False)
    return stand_in


def update_of(optimizer: type[Optimizer]) -> Callable[..., None]:
    return optimizer._update.__wrapped__  # type: ignore[attr-defined]


def vectors_of(name: str, dtype: str, n: int = 300) -> list[np.ndarray]:
    """Theta, gradient, scratch and memory, with all that floating-point numbers can be."""
    rng = np.random.default_rng(5)
    numbers = np.finfo(dtype)
    vectors = rng.standard_normal((3 + len(OPTIMIZERS[name].slots), n)).astype(dtype)
    odd = (0, -0.0, numbers.tiny, numbers.smallest_subnormal, numbers.max, np.inf, np.nan)
    vectors[:, : len(odd)] = rng.permuted(np.tile(odd, (len(vectors), 1)), axis=1)
    vectors[3:] = abs(vectors[3:])
    return [*vectors]


def bits(vectors: list[np.ndarray]) -> list[list[int]]:
    """Which NaN it is may differ; all else is compared bit by bit."""
    return [np.where(np.isnan(v), 0, v).view(f"i{v.itemsize}").tolist() for v in vectors]


def test_an_update_that_somebody_decorated_is_not_compiled_without_it() -> None:
    """Any decorator leaves ``__wrapped__``, behind which its own work would be lost."""

    class Halved(SGD):
        name = "halved"

        @staticmethod
        @functools.wraps(SGD._update)
        def _update(xp: Any, theta: Any, grad: Any, *rest: Any) -> None:
            SGD._update(xp, theta, grad / 2, *rest)

    for size in (100, COMPILED + 1):
        theta = np.zeros(size)
        Halved(1.0).step(theta, np.ones(size))
        assert theta[0] == theta[-1] == -0.5


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("scratch", [(), (2,)])
def test_the_loop_has_numpys_bits(name: str, dtype: str, scratch: tuple[int, ...]) -> None:
    optimizer = make_optimizer(name)
    update, (want, got, before) = (
        update_of(type(optimizer)),
        (vectors_of(name, dtype) for _ in "abc"),
    )
    scalars = optimizer.scalars(3)
    names: dict[str, Any] = {"np": np}
    exec(compiled.source(update, len(want), len(scalars), scratch), names)
    with np.errstate(all="ignore"):
        update(np, *want, *scalars)
        for i in scratch:
            del want[i], got[i], before[i]
        names["loop"](*got, *map(want[0].dtype.type, scalars))
    assert bits(got) == bits(want)
    assert bits(want) != bits(
        [v for i, v in enumerate(vectors_of(name, dtype)) if i not in scratch]
    )


def test_a_loop_reads_like_the_update() -> None:
    sgd = compiled.source(update_of(OPTIMIZERS["sgd"]), 3, 1)
    assert sgd == (
        "def loop(x0, x1, x2, x3):\n"
        "    for i in range(len(x0)):\n"
        "        e0 = x0[i]\n"
        "        e1 = x1[i]\n"
        "        e2 = x2[i]\n"
        "        e2 = np.multiply(e1, x3)\n"
        "        e0 = np.subtract(e0, e2)\n"
        "        x0[i] = e0\n"
        "        x2[i] = e2\n"
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_loop_of_the_gradients_of_parts_has_numpys_bits(name: str, dtype: str) -> None:
    optimizer, shares = make_optimizer(name), (0.3, 0.7)
    theta, g, scratch, *memory = vectors_of(name, dtype)
    gradients = [g, g[::-1].copy()]
    got = [vector.copy() for vector in (theta, *gradients, *memory)]
    update, numbers = update_of(type(optimizer)), (*optimizer.scalars(3), *shares)
    names: dict[str, Any] = {"np": np}
    vectors = len(got) + 2
    exec(compiled.source(_of_parts(update, 2), vectors, len(numbers), (1, 2)), names)
    with np.errstate(all="ignore"):
        names["loop"](*got, *map(theta.dtype.type, numbers))
        mean = gradients[0] * theta.dtype.type(0.3) + gradients[1] * theta.dtype.type(0.7)
        update(np, theta, mean, scratch, *memory, *optimizer.scalars(3))
    assert bits(got) == bits([theta, *gradients, *memory])


def test_scratch_may_be_the_first() -> None:
    def swapped(xp: Any, scratch: Any, x: Any, k: Any) -> None:
        xp.multiply(x, k, out=scratch)
        x -= scratch

    names: dict[str, Any] = {"np": np}
    exec(compiled.source(swapped, 2, 1, (0,)), names)
    x = np.ones(3)
    names["loop"](x, 0.25)
    assert (x == 0.75).all()


def test_a_loop_without_its_scratch_neither_reads_nor_writes_it() -> None:
    sgd = compiled.source(update_of(OPTIMIZERS["sgd"]), 3, 1, (2,))
    assert sgd == (
        "def loop(x0, x1, x3):\n"
        "    for i in range(len(x0)):\n"
        "        e0 = x0[i]\n"
        "        e1 = x1[i]\n"
        "        e2 = np.multiply(e1, x3)\n"
        "        e0 = np.subtract(e0, e2)\n"
        "        x0[i] = e0\n"
    )


def test_scratch_that_is_read_before_it_is_written_is_no_scratch(compiler: _Compiler) -> None:
    def remembers(xp: Any, x: Any, y: Any, k: Any) -> None:
        y += x
        x *= k

    with pytest.raises(TypeError, match="what is read has not been written"):
        compiled.source(remembers, 2, 1, (1,))
    assert compiled.loop(remembers, 2, 1, np.dtype("float32"), (1,)) is None
    assert compiled.loop(remembers, 2, 1, np.dtype("float32")) is not None


def reduces(xp: Any, x: Any, y: Any, k: Any) -> None:
    x += xp.sum(y)


def asks(xp: Any, x: Any, y: Any, k: Any) -> None:
    if k:
        x += y


def chooses(xp: Any, x: Any, y: Any, k: Any) -> None:
    x *= y > 0


def multiplies_by_a_number(xp: Any, x: Any, y: Any, k: Any) -> None:
    x *= 2


def takes_a_part(xp: Any, x: Any, y: Any, k: Any) -> None:
    x[:1] += y[1:]


def makes_an_array(xp: Any, x: Any, y: Any, k: Any) -> None:
    x += y * y


def returns(xp: Any, x: Any, y: Any, k: Any) -> Any:
    x += y
    return x


def adds_where(xp: Any, x: Any, y: Any, k: Any) -> None:
    xp.add(x, y, out=x, where=True)


def accumulates(xp: Any, x: Any, y: Any, k: Any) -> None:
    xp.add.accumulate(y, out=x)


def has_other_bits(xp: Any, x: Any, y: Any, k: Any) -> None:
    xp.exp(y, out=x)


def has_two_results(xp: Any, x: Any, y: Any, k: Any) -> None:
    xp.divmod(x, y, out=(x, y))


def fills(xp: Any, x: Any, y: Any, k: Any) -> None:
    x.fill(k)


def writes_into_a_number(xp: Any, x: Any, y: Any, k: Any) -> None:
    k += x


NO_LOOPS = (
    *(reduces, asks, chooses, multiplies_by_a_number, takes_a_part, makes_an_array, returns),
    *(adds_where, accumulates, has_other_bits, has_two_results, fills, writes_into_a_number),
)


@pytest.mark.parametrize("function", NO_LOOPS)
def test_what_is_no_loop(compiler: _Compiler, function: Callable[..., Any]) -> None:
    with pytest.raises((TypeError, AttributeError)):
        compiled.source(function, 2, 1)
    assert compiled.loop(function, 2, 1, np.dtype("float32")) is None
    assert compiler.signatures == []


def test_an_optimizer_is_compiled_before_its_first_step(compiler: _Compiler) -> None:
    """So that processes which `fit` forks do not compile it again and again."""
    theta, adam = np.ones(COMPILED + 1, dtype=np.float32), Adam()
    adam.prepare(theta, theta.copy())
    assert compiler.signatures == [4 * ["float32[]"] + 4 * ["float32"]]
    assert compiler.runs == []
    assert (theta == 1).all()
    assert adam.t == 0
    for _ in range(2):
        adam.step(theta, np.ones_like(theta))
    assert len(compiler.signatures) == 1
    assert compiler.runs == [[(theta.size,)] * 4 + [()] * 4] * 2
    np.testing.assert_allclose(theta, 1 - 2e-3, rtol=1e-6)


@pytest.mark.parametrize("rate", [0.5, np.float64(0.5)])
def test_for_the_gradients_of_parts_it_is_compiled_too(compiler: _Compiler, rate: float) -> None:
    """Also where the optimizer has taken steps of its own before."""
    theta, sgd = np.ones(COMPILED), SGD()
    sgd.learning_rate = rate
    sgd.step(theta, np.ones(COMPILED))
    sgd.prepare(theta, np.ones(COMPILED), parts=2)
    assert len(compiler.signatures) == 1  # a half of it is too small
    sgd = SGD()
    sgd.learning_rate = rate
    sgd.prepare(np.ones(2 * COMPILED), np.ones(2 * COMPILED), parts=2)
    assert compiler.signatures == [
        2 * ["float64[]"] + ["float64"],
        3 * ["float64[]"] + 3 * ["float64"],
    ]
    rows = np.stack([np.ones(COMPILED), 2 * np.ones(COMPILED)])
    shares = (np.float64(0.25), np.float64(0.75))
    sgd.update(theta, rows, sgd.scalars(2), shares=shares)
    assert len(compiler.signatures) == 2
    assert len(compiler.runs) == 2
    np.testing.assert_array_equal(theta, 1 - 0.5 - 0.5 * 1.75)


PLAIN: dict[str, Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]] = {
    "small": lambda theta: (theta[1:], theta[1:].copy()),
    "strided gradient": lambda theta: (theta, np.ones(2 * len(theta))[::2]),
    "strided parameters": lambda theta: (np.ones(2 * len(theta))[::2], theta),
    "the same": lambda theta: (theta, theta),
    "overlapping": lambda theta: (lambda both: (both[1:], both[:-1]))(np.ones(len(theta) + 1)),
    "float16": lambda theta: (theta.astype("f2"), theta.astype("f2")),
    "other byte order": lambda theta: (theta.astype(">f8"), theta.astype(">f8")),
    "a subclass": lambda theta: (theta, np.ones(len(theta)).view(np.recarray)),
}


@pytest.mark.parametrize("what", PLAIN)
def test_where_numpy_does_it(compiler: _Compiler, what: str) -> None:
    theta, gradient = PLAIN[what](np.ones(COMPILED))
    want, before = theta - 0.5 * gradient, theta.copy()
    SGD(0.5).step(theta, gradient)
    np.testing.assert_array_equal(theta, want)
    assert (theta != before).all()
    assert compiler.runs == []


def test_where_numpy_adds_up_the_gradients(compiler: _Compiler) -> None:
    both = np.ones((3, COMPILED))
    for rows in (both[:, ::-1], both[1:, :].astype("f4"), [both[1], np.asfortranarray(both)[2]]):
        theta, sgd = both[0].copy(), SGD(0.5)
        sgd.prepare(theta, theta.copy())
        sgd.update(theta, rows, sgd.scalars(1), shares=(0.5,) * len(rows))
        np.testing.assert_array_equal(theta, 1 - 0.25 * len(rows))
    theta = both[0]
    sgd.prepare(theta, theta.copy())
    sgd.update(theta, [both[1], theta], sgd.scalars(1), shares=(0.5, 0.5))
    np.testing.assert_array_equal(theta, 0.5)
    momentum = Momentum(0.5)
    momentum.memory["v"] = np.zeros(2 * COMPILED)[::2]
    momentum.step(theta, both[1])
    np.testing.assert_array_equal(theta, 0)
    assert compiler.runs == []


def test_a_gradient_that_may_not_be_written(compiler: _Compiler) -> None:
    theta, gradient = np.ones(COMPILED), np.ones(COMPILED)
    gradient.flags.writeable = False
    SGD(0.5).step(theta, gradient)
    assert (theta == 0.5).all()


def test_an_update_of_ones_own_is_not_touched(compiler: _Compiler) -> None:
    """Nobody asks it for anything before its first step, and it is called as it stands."""
    seen: list[Any] = []

    class Own(SGD):
        def _update(self, xp: Any, theta: Any, g: Any, scratch: Any, lr: Any) -> None:  # type: ignore[override]
            seen.append(lr)
            theta -= lr * g / np.abs(g).max()

    theta = np.ones(COMPILED)
    own = Own(0.5)
    own.prepare(theta, theta.copy())
    assert seen == []
    own.step(theta, 3 * np.ones(COMPILED))
    assert (theta == 0.5).all()
    assert compiler.signatures == []


def test_a_learning_rate_of_numpys_is_a_number(compiler: _Compiler) -> None:
    """As a callback may take it from an array: nothing is computed in its float64."""
    results = []
    for rate in (0.1, np.float64(0.1)):
        theta, sgd = np.linspace(0, 1, COMPILED, dtype=np.float32), SGD()
        sgd.learning_rate = rate
        sgd.step(theta, theta[::-1].copy())
        results.append(theta)
    np.testing.assert_array_equal(*results)
    assert len(compiler.runs) == 2
    for theta in results:
        sgd.learning_rate = np.asarray(0.1)  # type: ignore[assignment]
        sgd.step(theta, theta[::-1].copy())
    assert len(compiler.runs) == 2


@pytest.mark.parametrize(
    ("numba", "why"),
    [
        (None, 'faster with Numba: pip install "scratchvae[fast]"'),
        (
            "raise ImportError('Numba needs NumPy 2.4 or less.\\nmore')",
            "Numba needs NumPy 2.4 or less.",
        ),
        ("raise ImportError", "ImportError"),
        ("import llvmlite_that_is_missing", "No module named 'llvmlite_that_is_missing'"),
        ("raise OSError('libllvmlite.so')", "libllvmlite.so"),
        ("", "module 'numba' has no attribute 'config'"),
        ("class config: DISABLE_JIT = 1", "NUMBA_DISABLE_JIT is set"),
        ("class config: DISABLE_JIT = 0", None),
    ],
)
def test_why_nothing_is_compiled(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, numba: str | None, why: str | None
) -> None:
    monkeypatch.delenv("SCRATCHVAE_NUMBA", raising=False)
    monkeypatch.setitem(sys.modules, "numba", None)
    del sys.modules["numba"]  # to be imported, and forgotten afterwards
    if numba is None:
        monkeypatch.setattr(sys, "path", [str(tmp_path)])
    else:
        (tmp_path / "numba.py").write_text(numba, encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path)
    assert compiled.problem() == why
    monkeypatch.setenv("SCRATCHVAE_NUMBA", "0")
    assert compiled.problem() == "SCRATCHVAE_NUMBA=0 is set"
    theta = np.ones(COMPILED)
    SGD(0.5).step(theta, theta.copy())
    assert (theta == 0.5).all()


# --- Numba itself ---------------------------------------------------------------------------------


@NUMBA
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_numba_has_numpys_bits(monkeypatch: pytest.MonkeyPatch, name: str, dtype: str) -> None:
    """Through several steps, in whole blocks and a part of one."""
    start, *gradients = vectors_of("adam", dtype, BLOCK + 5000)[:3]
    results = []
    for switch in "01":
        monkeypatch.setenv("SCRATCHVAE_NUMBA", switch)
        theta, optimizer = start.copy(), make_optimizer(name)
        with np.errstate(all="ignore"):
            for gradient in gradients:
                optimizer.step(theta, gradient)
        assert compiled._compiled.cache_info().currsize == int(switch)
        results.append([theta, *optimizer.memory.values()])
    assert bits(results[0]) == bits(results[1])


TRAIN = """
import json, sys
import numpy as np
from scratchvae import compiled
from scratchvae.models import VAE
from scratchvae.train import fit
x = np.random.default_rng(0).random((96, 40), dtype=np.float32)
model = VAE(40, (150,), 5)
fit(model, x, epochs=3, batch_size=32, workers=int(sys.argv[1]))
print(json.dumps([compiled.problem(), model.theta.tolist()]))
"""


@NUMBA
@pytest.mark.parametrize("workers", [1, 2, 3] if sys.platform == "linux" else [1])
def test_a_training_is_the_same_with_and_without(workers: int) -> None:
    assert VAE(40, (150,), 5).theta.size > 3 * COMPILED  # and thirds of 32 rows are no halves
    found = []
    for switch in "01":
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", TRAIN, str(workers)],
            env={**os.environ, "SCRATCHVAE_NUMBA": switch},
            capture_output=True,
            text=True,
            encoding="utf-8",
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        found.append(json.loads(done.stdout))
    assert [problem is None for problem, _ in found] == [False, True]
    assert found[0][1] == found[1][1]
