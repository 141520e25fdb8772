"""``compiled``: the optimizers' updates as loops, with NumPy's bits.

That the loops are right takes no Numba: Python runs them too. What Numba makes of them needs it.
"""

from __future__ import annotations

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
from scratchvae.backend import fused
from scratchvae.models import VAE
from scratchvae.optim import BLOCK, OPTIMIZERS, Adam, Optimizer, make_optimizer

NUMBA = pytest.mark.skipif(
    importlib.util.find_spec("numba") is None, reason="Numba (the extra `fast`) is not installed"
)


@pytest.fixture(autouse=True)
def _anew(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Forget what was compiled, and that something was not."""
    monkeypatch.setattr(compiled, "_AS_THEY_STAND", set())
    compiled._loop.cache_clear()
    yield
    compiled._loop.cache_clear()


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


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_loop_has_numpys_bits(name: str, dtype: str) -> None:
    optimizer = make_optimizer(name)
    update, want, got = update_of(type(optimizer)), *(vectors_of(name, dtype) for _ in "ab")
    scalars = optimizer.scalars(3)
    loop = compiled.source(update, (True,) * len(want) + (False,) * len(scalars))
    names: dict[str, Any] = {"np": np}
    exec(loop, names)
    with np.errstate(all="ignore"):
        update(np, *want, *scalars)
        names["loop"](*got, *map(want[0].dtype.type, scalars))
    assert bits(got) == bits(want)
    assert bits(want) != bits(vectors_of(name, dtype))


def test_a_loop_reads_like_the_update() -> None:
    sgd = compiled.source(update_of(OPTIMIZERS["sgd"]), (True, True, True, False))
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


def reduces(xp: Any, x: Any, y: Any) -> None:
    x += xp.sum(y)


def chooses(xp: Any, x: Any, y: Any) -> None:
    if y > 0:
        x += y


def multiplies_by_a_number(xp: Any, x: Any, y: Any) -> None:
    x *= 2


def takes_a_part(xp: Any, x: Any, y: Any) -> None:
    x[:1] += y[1:]


def makes_an_array(xp: Any, x: Any, y: Any) -> None:
    x += y * y


def returns(xp: Any, x: Any, y: Any) -> Any:
    x += y
    return x


def adds_where(xp: Any, x: Any, y: Any) -> None:
    xp.add(x, y, out=x, where=True)


def accumulates(xp: Any, x: Any, y: Any) -> None:
    xp.add.accumulate(y, out=x)


@pytest.mark.parametrize(
    "function",
    [
        reduces,
        chooses,
        multiplies_by_a_number,
        takes_a_part,
        makes_an_array,
        returns,
        adds_where,
        accumulates,
    ],
)
def test_what_is_no_loop_runs_as_it_stands(function: Callable[..., Any]) -> None:
    with pytest.raises((TypeError, AttributeError)):
        compiled.source(function, (True, True))
    x, y = np.ones(compiled.LEAST), np.full(compiled.LEAST, 3.0)
    want = x.copy()
    if function in (takes_a_part, chooses):
        with pytest.raises(ValueError):  # noqa: PT011  NumPy's own
            fused(function)(np, x, y)
        return
    function(np, want, y)
    fused(function)(np, x, y)
    np.testing.assert_array_equal(x, want)
    assert function in compiled._AS_THEY_STAND


def add(xp: Any, x: Any, y: Any) -> None:
    x += y


def test_a_number_is_not_written_into() -> None:
    with pytest.raises(TypeError, match="writes into a number"):
        compiled.source(add, (False, True))


class _Compiler:
    """Stands for Numba: the loop stays Python's, and says that it has run."""

    def __init__(self) -> None:
        self.runs: list[tuple[int, ...]] = []

    def njit(self, error_model: str) -> Callable[..., Any]:
        assert error_model == "numpy"

        def compile(loop: Callable[..., None]) -> Callable[..., None]:
            def run(*arguments: Any) -> None:
                self.runs.append(tuple(np.size(a) for a in arguments))
                loop(*arguments)

            return run

        return compile


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> _Compiler:
    stand_in = _Compiler()
    monkeypatch.setitem(sys.modules, "numba", stand_in)
    monkeypatch.delenv("SCRATCHVAE_NUMBA", raising=False)
    return stand_in


def test_where_a_loop_is_used(compiler: _Compiler) -> None:
    n = compiled.LEAST
    x, y, numbers = np.zeros(n), np.ones(n), np.ones(())
    fused(add)(np, x, y)
    assert compiler.runs == [(n, n)]
    fused(add)(np, x, 2)
    fused(add)(np, x, numbers)
    assert compiler.runs == [(n, n), (n, 1), (n, 1)]
    fused(add)(np, x[1:], y[1:])  # too small
    fused(add)(np, x[:, None], y[:, None])  # no vectors
    fused(add)(np, x, y[:1])  # broadcast
    assert len(compiler.runs) == 3
    assert x.tolist() == [6.0] + (n - 1) * [7.0]  # the third call left the first


def test_an_optimizer_is_compiled_before_its_first_step(compiler: _Compiler) -> None:
    """So that processes which `fit` forks do not compile it again and again."""
    theta, adam = np.ones(compiled.LEAST + 1), Adam()
    adam.prepare(theta, theta)
    rehearsal = compiler.runs.copy()
    assert rehearsal == [(compiled.LEAST,) * 5 + (1,) * 4]
    assert (theta == 1).all()
    assert adam.t == 0
    assert not adam.memory["M"].any()
    adam.prepare(theta, theta)
    assert compiler.runs == rehearsal
    adam.step(theta, np.ones_like(theta))
    assert compiler.runs == [*rehearsal, (theta.size,) * 5 + (1,) * 4]
    np.testing.assert_allclose(theta, 1 - 1e-3)


def test_a_small_model_is_not_compiled(compiler: _Compiler) -> None:
    theta = np.ones(compiled.LEAST - 1)
    Adam().step(theta, theta)
    assert compiler.runs == []


@pytest.mark.parametrize(
    ("numba", "switch", "why"),
    [
        (None, "1", "pip install 'scratchvae[fast]'"),
        (
            ImportError("Numba needs NumPy 2.4 or less.\nmore"),
            "1",
            "Numba needs NumPy 2.4 or less.",
        ),
        ("there", "0", "SCRATCHVAE_NUMBA=0 is set"),
    ],
)
def test_why_nothing_is_compiled(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, numba: Any, switch: str, why: str
) -> None:
    monkeypatch.delitem(sys.modules, "numba", raising=False)
    if numba is None:
        monkeypatch.setitem(sys.modules, "numba", None)
    elif isinstance(numba, ImportError):
        (tmp_path / "numba.py").write_text(f"raise ImportError({str(numba)!r})")
        monkeypatch.syspath_prepend(tmp_path)
    else:
        monkeypatch.setitem(sys.modules, "numba", _Compiler())
    monkeypatch.setenv("SCRATCHVAE_NUMBA", switch)
    problem = compiled.problem()
    assert problem is not None
    assert why in problem
    assert "\n" not in problem
    x = np.ones(compiled.LEAST)
    fused(add)(np, x, x.copy())
    assert (x == 2).all()


# --- Numba itself ---------------------------------------------------------------------------------


@NUMBA
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_numba_has_numpys_bits(monkeypatch: pytest.MonkeyPatch, name: str, dtype: str) -> None:
    """Through several steps, in whole blocks and a part of one."""
    start, *gradients = vectors_of("adam", dtype, BLOCK + compiled.LEAST + 3)[:3]
    results = []
    for switch in "01":
        monkeypatch.setenv("SCRATCHVAE_NUMBA", switch)
        monkeypatch.setattr(compiled, "_AS_THEY_STAND", set())
        compiled._loop.cache_clear()
        theta, optimizer = start.copy(), make_optimizer(name)
        with np.errstate(all="ignore"):
            for gradient in gradients:
                optimizer.step(theta, gradient)
        assert (len(compiled._AS_THEY_STAND) == 0) == (switch == "1")
        results.append([theta, *optimizer.memory.values()])
    assert bits(results[0]) == bits(results[1])


TRAIN = """
import json, sys
import numpy as np
from scratchvae import compiled
from scratchvae.models import VAE
from scratchvae.train import fit
x = np.random.default_rng(0).random((96, 40), dtype=np.float32)
model = VAE(40, (100,), 5)
fit(model, x, epochs=3, batch_size=32, workers=int(sys.argv[1]))
print(json.dumps([compiled.problem(), model.theta.tolist()]))
"""


@NUMBA
@pytest.mark.parametrize("workers", [1, 2] if sys.platform == "linux" else [1])
def test_a_training_is_the_same_with_and_without(workers: int) -> None:
    assert VAE(40, (100,), 5).theta.size > 2 * compiled.LEAST
    found = []
    for switch in "01":
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", TRAIN, str(workers)],
            env={**os.environ, "SCRATCHVAE_NUMBA": switch},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        found.append(json.loads(done.stdout))
    assert [problem is None for problem, _ in found] == [False, True]
    assert found[0][1] == found[1][1]
