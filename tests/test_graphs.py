"""The captured training step on the strict stand-in; test_gpu.py runs the same on a real GPU.

With a graph a training gives, bit for bit, what it gives without one.
"""
# ruff: noqa: F401, F811 (the fixture ``gpu`` is imported)

from __future__ import annotations

import ctypes
import gc
import math
import re
import signal
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import strict_cupy
from test_backend_strict import MODELS, B, D, Gpu, HostNoise, L, data, gpu

from scratchvae import backend, cli, graphs, train
from scratchvae.backend import generator, to_device, to_host
from scratchvae.graphs import Recorder, StepGraph
from scratchvae.models import VAE, Model
from scratchvae.optim import OPTIMIZERS, Adam, make_optimizer
from scratchvae.train import DivergedError, History, Stopped, Training, fit

ROWS = 20  # with batches of 8 an epoch is two whole ones and a smaller


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[StepGraph]:
    """Every launch of a graph in the test."""
    launched: list[StepGraph] = []
    launch = StepGraph.step

    def step(self: StepGraph) -> None:
        launched.append(self)
        launch(self)

    monkeypatch.setattr(StepGraph, "step", step)
    return launched


def trained(
    name: str, graph: bool, *, dtype: str = "float32", **settings: Any
) -> tuple[Model, History]:
    model = MODELS[name](seed=4, dtype=dtype, device="gpu")
    settings = {"epochs": 3, "batch_size": 8, "seed": 3, **settings}
    if isinstance(settings.get("optimizer"), str):
        settings["optimizer"] = make_optimizer(settings["optimizer"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCRATCHVAE_GRAPH", "1" if graph else "0")
        history = fit(model, data(ROWS, D, dtype=dtype), **settings)
    return model, history


def check_same(gpu: Gpu, got: tuple[Model, History], want: tuple[Model, History]) -> None:
    """Bit for bit on the stand-in, which computes both in one way; cuBLAS promises less."""
    if gpu.digits == 1:
        np.testing.assert_array_equal(to_host(got[0].theta), to_host(want[0].theta))
        assert got[1].columns == want[1].columns
        return
    gpu.check(got[0].theta, to_host(want[0].theta))
    for term, values in want[1].columns.items():
        np.testing.assert_allclose(got[1][term], values, rtol=1e-5)


# --- the same training ----------------------------------------------------------------------------


@pytest.mark.parametrize("binarize", [False, True], ids=["grey", "binarized"])
@pytest.mark.parametrize("name", MODELS)
def test_a_graph_trains_as_single_kernels_do(
    gpu: Gpu,
    launches: list[StepGraph],
    capsys: pytest.CaptureFixture[str],
    name: str,
    binarize: bool,
) -> None:
    got = trained(name, True, binarize=binarize, validation=data(5, D, dtype="float32"))
    assert len(launches) == 3 * 2  # and the smaller batches without it
    assert len({id(graph) for graph in launches}) == 1
    assert capsys.readouterr().err == ""
    want = trained(name, False, binarize=binarize, validation=data(5, D, dtype="float32"))
    assert len(launches) == 3 * 2
    check_same(gpu, got, want)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_can_be_captured(
    gpu: Gpu,
    launches: list[StepGraph],
    name: str,
    dtype: str,
) -> None:
    got = trained("vae bernoulli", True, optimizer=name, dtype=dtype)
    assert len(launches) == 6
    check_same(gpu, got, trained("vae bernoulli", False, optimizer=name, dtype=dtype))


@pytest.mark.parametrize("batch_size", [20, 5, 1])
def test_batches_that_divide_the_data(
    gpu: Gpu,
    launches: list[StepGraph],
    batch_size: int,
) -> None:
    got = trained("vae bernoulli", True, batch_size=batch_size)
    assert len(launches) == 3 * 20 / batch_size
    check_same(gpu, got, trained("vae bernoulli", False, batch_size=batch_size))


def test_fewer_examples_than_a_batch_need_no_graph(
    gpu: Gpu,
    launches: list[StepGraph],
    capsys: pytest.CaptureFixture[str],
) -> None:
    trained("ae", True, batch_size=21)
    assert not launches
    assert capsys.readouterr().err == ""


def test_the_callbacks_see_what_they_see_without_a_graph(
    gpu: Gpu,
) -> None:
    seen: dict[bool, list[Any]] = {True: [], False: []}
    for graph, rows in seen.items():

        def keep(training: Training, rows: list[Any] = rows) -> None:
            state = (training.epoch, training.step, training.optimizer.t, list(training.terms))
            memory = [to_host(v).tolist() for v in training.optimizer.memory.values()]
            rows.append((*state, memory, training.history.last()))

        trained("dae masking", graph, callbacks=[keep])
    assert len(seen[True]) == 3
    if gpu.digits == 1:
        assert seen[True] == seen[False]
    assert [row[:4] for row in seen[True]] == [row[:4] for row in seen[False]]


def change(training: Training, model: VAE, what: str) -> None:
    """What users do in callbacks, of which a recorded number would know nothing."""
    if what == "rate":
        training.optimizer.learning_rate *= 0.5
    elif what == "beta":
        model.beta += 0.5
    elif what == "memory":
        training.optimizer.restore(training.optimizer.state())
    elif what == "place":
        optimizer, theta = training.optimizer, to_host(model.theta)
        model.to("gpu")
        model.theta[...] = to_device(theta, "gpu")
        assert optimizer.t


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("what", ["rate", "beta", "memory", "place"])
def test_a_change_between_epochs_makes_another_graph(
    gpu: Gpu,
    launches: list[StepGraph],
    optimizer: str,
    what: str,
) -> None:
    results = []
    for graph in (True, False):
        model: Any = MODELS["vae bernoulli"](seed=4, device="gpu")

        def callback(training: Training, model: Any = model) -> None:
            change(training, model, what)

        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SCRATCHVAE_GRAPH", str(int(graph)))
            x = data(ROWS, D, dtype="float32")
            history = fit(
                model, x, epochs=3, batch_size=8, optimizer=optimizer, callbacks=[callback]
            )
        results.append((model, history))
    kept = [graph for i, graph in enumerate(launches) if graph not in launches[:i]]
    if (what, optimizer) != ("memory", "sgd"):  # which remembers nothing
        assert len(kept) == 3
    check_same(gpu, *results)


def test_one_model_is_trained_again_in_the_memory_of_its_first_graph(
    gpu: Gpu,
) -> None:
    models = [MODELS["vae bernoulli"](device="gpu") for _ in range(2)]
    for model, graph in zip(models, "10", strict=True):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SCRATCHVAE_GRAPH", graph)
            for _ in range(2):
                fit(model, data(ROWS, D, dtype="float32"), epochs=1, batch_size=8)
    private = graphs._PRIVATE[models[0]]
    assert graphs._private(models[0]) is private
    assert models[1] not in graphs._PRIVATE
    gpu.check(models[0].theta, to_host(models[1].theta))
    gc.collect()
    assert math.isfinite(float(models[0].terms["loss"]))  # the pool is there as long as the model


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_update_takes_its_scalars_as_floats_or_arrays(name: str, dtype: str) -> None:
    rng, optimizers = np.random.default_rng(0), [make_optimizer(name) for _ in range(2)]
    theta = rng.standard_normal(50).astype(dtype)
    thetas = [theta.copy(), theta.copy()]
    for t in range(1, 6):
        g = rng.standard_normal(50).astype(dtype)
        optimizers[0].step(thetas[0], g)
        scalars = tuple(np.array(v, dtype=dtype) for v in optimizers[1].scalars(t))
        optimizers[1].prepare(thetas[1], g)
        optimizers[1].update(thetas[1], g, scalars)
        np.testing.assert_array_equal(*thetas)
    assert (optimizers[0].t, optimizers[1].t) == (5, 0)
    assert optimizers[0].config == optimizers[1].config == make_optimizer(name).config


# --- interruptions --------------------------------------------------------------------------------


@pytest.mark.parametrize("modes", ["11", "10", "01"])
@pytest.mark.parametrize("at", [(0, 1), (1, 0), (1, 1)])
def test_a_training_goes_on_with_or_without_a_graph(
    gpu: Gpu,
    monkeypatch: pytest.MonkeyPatch,
    modes: str,
    at: tuple[int, int],
) -> None:
    want = trained("vae bernoulli", False, binarize=True)
    model = MODELS["vae bernoulli"](seed=4, device="gpu")
    training = Training(Adam(), seed=3, batch_size=8, binarize=True, n_examples=ROWS)
    x = data(ROWS, D, dtype="float32")

    def interrupted(rng: Any, batch: Any) -> Any:
        if (training.epoch, training.step) == at:
            signal.raise_signal(signal.SIGINT)
        return VAE.draw_noise(model, rng, batch)  # type: ignore[arg-type]

    monkeypatch.setenv("SCRATCHVAE_GRAPH", modes[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "draw_noise", interrupted)
        with pytest.raises(Stopped):
            fit(model, x, epochs=3, resume=training)
    assert (training.epoch, training.step) == (at[0], at[1] + 1)
    monkeypatch.setenv("SCRATCHVAE_GRAPH", modes[1])
    check_same(gpu, (model, fit(model, x, epochs=3, resume=training)), want)


@pytest.mark.parametrize("graph", ["0", "1"])
def test_divergence_is_reported_and_undone_as_without_a_graph(
    gpu: Gpu,
    monkeypatch: pytest.MonkeyPatch,
    graph: str,
) -> None:
    monkeypatch.setenv("SCRATCHVAE_GRAPH", graph)
    model, good = MODELS["vae gaussian"](device="gpu"), []

    def spoil(training: Training) -> None:
        good.append((to_host(model.theta), training.optimizer.t))
        training.optimizer.learning_rate = 1e30

    training = Training(Adam(), batch_size=4, n_examples=ROWS)
    with pytest.raises(DivergedError, match=r"epoch 2, step 2 of 5.*back at its .* after epoch 1$"):
        fit(model, data(ROWS, D, dtype="float32"), epochs=4, resume=training, callbacks=[spoil])
    np.testing.assert_array_equal(to_host(model.theta), good[-1][0])
    assert training.optimizer.t == good[-1][1] == 5
    assert (training.epoch, training.step, training.terms) == (1, 0, [])


def test_making_a_graph_changes_nothing(gpu: Gpu) -> None:
    model, optimizer = MODELS["vae bernoulli"](device="gpu"), Adam()
    x = to_device(data(ROWS, D, dtype="float32"), "gpu")
    model.forward(x[:B], model.draw_noise(generator("gpu", 1), x[:B]))
    model.backward()
    optimizer.step(model.theta, model.grad)
    before = [to_host(v) for v in (model.theta, *optimizer.memory.values())]
    assert Recorder(model, x, 8, True).get(optimizer) is not None
    for array, value in zip((model.theta, *optimizer.memory.values()), before, strict=True):
        np.testing.assert_array_equal(to_host(array), value)
    assert optimizer.t == 1


# --- nobody waits ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ae", "dae gaussian", "vae bernoulli"])
def test_an_epoch_waits_once_and_sends_two_arrays(gpu: Gpu, name: str) -> None:
    def count(epochs: int, rows: int) -> strict_cupy.Counts:
        model = MODELS[name](device="gpu")
        with gpu.counts() as counts:
            fit(model, data(rows, D, dtype="float32"), epochs=epochs, batch_size=4)
        return counts

    few, many, long = count(1, 20), count(3, 20), count(3, 200)
    assert long.synchronisations == many.synchronisations == few.synchronisations + 2
    if gpu.digits == 1:  # CuPy does not count transfers
        assert long.transfers == many.transfers == few.transfers + 2 * 2


def test_steps_do_not_wait_at_all(gpu: Gpu) -> None:
    model, optimizer = MODELS["vae bernoulli"](device="gpu"), Adam()
    x = to_device(data(ROWS, D, dtype="float32"), "gpu")
    graph = Recorder(model, x, 4, True).get(optimizer)
    assert graph is not None
    graph.begin(to_device(np.arange(ROWS), "gpu"), 0)
    rng = generator("gpu", 0)
    with gpu.counts() as counts:
        for _ in range(graph.steps):
            graph.draw(rng)
            graph.step()
    assert (counts.synchronisations, counts.transfers) == (0, 0), counts
    assert optimizer.t == 5
    assert np.isfinite(to_host(graph.rows.array)).all()


# --- steps that cannot be captured ----------------------------------------------------------------


class Reading(VAE):
    """Looks at its loss in every step."""

    def forward(self, x: Any, noise: Any = None) -> Any:
        loss = super().forward(x, noise)
        assert not math.isnan(float(loss))
        return loss


class Sending(VAE):
    """Takes a number from the host in every step."""

    def forward(self, x: Any, noise: Any = None) -> Any:
        return super().forward(x, noise + self.xp.asarray(np.zeros(L, dtype=np.float32)))


class Waiting(VAE):
    """Waits for the device."""

    def backward(self) -> None:
        super().backward()
        self.xp.cuda.get_current_stream().synchronize()


class Choosing(VAE):
    """Selects by a mask: how many are selected, the host must know."""

    def backward(self) -> None:
        super().backward()
        self.grad[self.grad > 1e30] = 0
        self.xp.nonzero(self.grad > 1e30)


class Elsewhere(VAE):
    """Allocates outside the graph's memory, where others will write."""

    def forward(self, x: Any, noise: Any = None) -> Any:
        with self.xp.cuda.using_allocator(None):
            return super().forward(x, noise * 1)


class Drawing(VAE):
    """Draws its own noise: the graph would go on with one generator in all epochs."""

    def forward(self, x: Any, noise: Any = None) -> Any:
        if not hasattr(self, "rng"):
            self.rng = generator("gpu", 9)
        return super().forward(x, noise + 0 * self.rng.random(noise.shape, dtype=self.dtype))


REFUSED = {
    Reading: "RuntimeError: the current stream is capturing",
    Sending: "RuntimeError: the current stream is capturing",
    Waiting: "CUDARuntimeError: cudaErrorStreamCapture",
    Choosing: "RuntimeError: the current stream is capturing",
}
REFUSED_HERE = {  # by the stand-in alone: on a real GPU this would go wrong in silence
    Elsewhere: "RuntimeError: memory outside a private pool while capturing",
    Drawing: "NotImplementedError: the graph would go on with this generator",
}


def check_refused(kind: type[VAE], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    models = [kind(D, (5,), L, device="gpu") for _ in range(2)]
    errors = []
    for model, graph in zip(models, "10", strict=True):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SCRATCHVAE_GRAPH", graph)
            fit(model, data(ROWS, D, dtype="float32"), epochs=2, batch_size=8)
        errors.append(capsys.readouterr().err)
    line, silence = errors
    assert line.startswith("training without a CUDA graph, ")
    assert reason in line
    assert line.count("\n") == 1
    assert silence == ""
    np.testing.assert_array_equal(to_host(models[0].theta), to_host(models[1].theta))


@pytest.mark.parametrize("kind", REFUSED)
def test_a_step_that_cannot_be_captured_falls_back(
    gpu: Gpu,
    launches: list[StepGraph],
    kind: type[VAE],
    capsys: pytest.CaptureFixture[str],
) -> None:
    check_refused(kind, REFUSED[kind], capsys)
    assert not launches


def test_a_graph_that_computes_something_else_is_not_used(
    gpu: Gpu,
    launches: list[StepGraph],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    matmul = graphs._Cublas.matmul

    def twice(self: Any, a: Any, b: Any, out: Any = None) -> Any:
        product = matmul(self, a, b, out)
        product *= 2
        return product

    monkeypatch.setattr(graphs._Cublas, "matmul", twice)
    got = trained("vae bernoulli", True)
    assert not launches
    err = capsys.readouterr().err
    assert "the recorded step does not compute what the step computes" in err
    assert err.count("\n") == 1
    check_same(gpu, got, trained("vae bernoulli", False))


class Repeating(StepGraph):
    """Takes the examples of its first step again in the second."""

    def _step(self) -> None:
        self.order[...] = self.order[0] * 1
        super()._step()


class Sticking(StepGraph):
    """Does not count on."""

    def _step(self) -> None:
        super()._step()
        self.counter -= 1


class Gathering(StepGraph):
    """Takes the first examples, whatever the order."""

    def _step(self) -> None:
        order = self.order.copy()
        self.order[...] = self.model.xp.arange(order.size).reshape(order.shape)
        super()._step()
        self.order[...] = order


class Drifting(StepGraph):
    """Moves one parameter by a thirtieth of what a step moves it."""

    def _step(self) -> None:
        super()._step()
        self.model.theta[:1] += 3e-5


class Forgetting(StepGraph):
    """Leaves one layer without its gradient, which here is far smaller than the others."""

    def _step(self) -> None:
        super()._step()
        next(iter(self.model.named_gradients().values())).fill(0)


@pytest.mark.parametrize("kind", [Repeating, Sticking, Gathering, Drifting, Forgetting])
def test_a_graph_that_would_go_wrong_is_not_used(gpu: Gpu, kind: type[StepGraph]) -> None:
    """Recorded is the wrong step; it is held against the right one, over two steps."""
    model = MODELS["vae bernoulli"](device="gpu")
    x = to_device(data(ROWS, D, dtype="float32"), "gpu")

    class Wrong(kind):  # type: ignore[misc, valid-type]
        def _prove(self) -> None:
            self._step = lambda: StepGraph._step(self)
            super()._prove()

    with pytest.raises(RuntimeError, match="does not compute what the step computes"):
        Wrong(model, prepared(model), x, 8, False)


def test_what_a_graph_reads_stays_where_it_is(gpu: Gpu) -> None:
    """A callback that trains a step on more examples lets the layers make their ones anew."""
    models, x = [], data(ROWS, D, dtype="float32")
    for graph in "10":
        model = MODELS["vae bernoulli"](seed=4, device="gpu")
        batch, kept = to_device(data(12, D, dtype="float32"), "gpu"), list[Any]()

        def callback(
            training: Training, model: Any = model, batch: Any = batch, kept: list[Any] = kept
        ) -> None:
            model.forward(batch, model.draw_noise(generator("gpu", 1), batch))
            model.backward()
            gc.collect()
            kept.append(gpu.cupy.full((1, 8), 7, dtype=np.float32))  # where the old ones lay

        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SCRATCHVAE_GRAPH", graph)
            history = fit(model, x, epochs=3, batch_size=8, callbacks=[callback])
        models.append((model, history))
    check_same(gpu, *models)


def test_what_a_layer_keeps_is_not_the_graphs_memory(gpu: Gpu) -> None:
    """Else it would be in the way when the pool is given back with the model."""
    model = MODELS["vae bernoulli"](device="gpu")
    StepGraph(model, prepared(model), to_device(data(8, D, dtype="float32"), "gpu"), 8, False)
    if gpu.digits > 1:
        pytest.skip("only the stand-in can tell which pool an array is from")
    own = [reference() for reference in graphs._PRIVATE[model].pool._arrays]
    for leaf in model.leaves():
        if hasattr(leaf, "ones"):
            assert not any(leaf.ones._host is array for array in own)


def test_the_bias_gradient_follows_the_model_to_another_device(gpu: Gpu) -> None:
    model = MODELS["ae"](device="gpu")
    x = data(B, D, dtype="float32")
    for device in ("gpu", "cpu", "gpu"):
        model.to(device)
        model.forward(to_device(x, device))
        model.backward()
    assert isinstance(model.grad, gpu.cupy.ndarray)


def test_the_losses_of_the_last_step_are_the_models(gpu: Gpu) -> None:
    """Also where no smaller batch follows on those of the graph."""
    models = [trained("vae bernoulli", graph, batch_size=5)[0] for graph in (True, False)]
    for name, value in models[1].terms.items():
        np.testing.assert_allclose(float(models[0].terms[name]), float(value), rtol=1e-5)


def test_memory_goes_with_the_model(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """CuPy 14 keeps the free blocks of a pool that is gone."""
    freed: list[Any] = []

    def free(pool: Any) -> None:
        freed.append(pool)

    if gpu.digits == 1:
        monkeypatch.setattr(strict_cupy.MemoryPool, "free_all_blocks", free)
    model, _ = trained("ae", True)
    own = graphs._PRIVATE[model].pool
    assert own not in freed
    del model
    gc.collect()
    if gpu.digits == 1:
        assert own in freed
    else:
        assert own.total_bytes() == 0


@pytest.mark.parametrize("kind", REFUSED_HERE)
def test_a_step_that_must_not_be_captured_is_found_by_the_stand_in(
    gpu: Gpu,
    kind: type[VAE],
    capsys: pytest.CaptureFixture[str],
) -> None:
    if gpu.digits > 1:
        pytest.skip("only the stand-in sees it")
    check_refused(kind, REFUSED_HERE[kind], capsys)


def test_without_cublas_a_training_falls_back(
    gpu: Gpu,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    load: Any = ctypes.CDLL

    def missing(name: Any, *arguments: Any, **options: Any) -> Any:
        if str(name).startswith(("libcublas.", "cublas64_")):
            raise OSError(f"{name}: cannot open shared object file")
        return load(name, *arguments, **options)

    assert gpu.cupy.cuda.Device().cublas_handle  # CuPy has loaded what it needs
    monkeypatch.setattr(ctypes, "CDLL", missing)
    trained("ae", True)
    err = capsys.readouterr().err
    assert re.search(r"OSError: (libcublas\.so\.1|cublas64_1)", err)
    assert err.count("\n") == 1


def test_the_operators_are_cupys_again_afterwards(gpu: Gpu) -> None:
    def operators() -> list[Any]:
        return [
            gpu.cupy.matmul,
            gpu.cupy.ndarray.__matmul__,
            "__matmul__" in vars(gpu.cupy.ndarray),
        ]

    before = operators()
    trained("ae", True)
    assert operators() == before
    model = Reading(D, (5,), L, device="gpu")
    with pytest.raises(RuntimeError):
        StepGraph(model, prepared(model), to_device(data(8, D, dtype="float32"), "gpu"), 8, False)
    assert operators() == before


def prepared(model: Model) -> Adam:
    optimizer = Adam()
    optimizer.prepare(model.theta, model.grad)
    return optimizer


# --- matrix products ------------------------------------------------------------------------------


@pytest.fixture
def product(gpu: Gpu) -> Iterator[Callable[..., Any]]:
    xp = gpu.cupy
    private = graphs._Private(xp)
    xp.cuda.get_current_stream().synchronize()
    with private.stream, xp.cuda.using_allocator(private.pool.malloc):
        yield graphs._Cublas(xp, private).matmul
        private.stream.synchronize()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "shape", [(3, 4, 5), (1, 4, 5), (3, 1, 5), (3, 4, 1), (1, 1, 1), (1, 4, 1)]
)
@pytest.mark.parametrize("layout", ["CC", "CT", "TC", "TT", "SS"])
def test_products_in_every_layout(
    gpu: Gpu,
    product: Callable[..., Any],
    shape: tuple[int, int, int],
    layout: str,
    dtype: str,
) -> None:
    rng, (i, k, j) = np.random.default_rng(0), shape

    def operand(rows: int, columns: int, how: str) -> tuple[Any, Any]:
        host = rng.standard_normal((rows, columns)).astype(dtype)
        if how == "T":
            return host, to_device(np.ascontiguousarray(host.T), "gpu").T
        if how == "S":
            wide = np.repeat(host, 2, axis=1)
            return host, to_device(wide, "gpu")[:, ::2]
        return host, to_device(host, "gpu")

    (a, a_gpu), (b, b_gpu) = operand(i, k, layout[0]), operand(k, j, layout[1])
    gpu.check(product(a_gpu, b_gpu), a @ b)
    out = gpu.cupy.zeros((i, j), dtype=dtype)
    assert product(a_gpu, b_gpu, out=out) is out
    gpu.check(out, a @ b)


@pytest.mark.parametrize(
    ("a", "b", "out"),
    [
        ((3, 4), (5, 3), None),
        ((3, 4), (4,), None),
        ((2, 3, 4), (2, 4, 3), None),
        ((3, 4), (4, 5), (5, 3)),
    ],
)
def test_products_that_do_not_fit(
    gpu: Gpu,
    product: Callable[..., Any],
    a: Any,
    b: Any,
    out: Any,
) -> None:
    arrays = [gpu.cupy.ones(shape, dtype=np.float32) for shape in (a, b, out) if shape]
    with pytest.raises((NotImplementedError, ValueError)):
        product(*arrays)
    with pytest.raises(NotImplementedError):
        product(gpu.cupy.ones((2, 2), dtype=np.int64), gpu.cupy.ones((2, 2), dtype=np.int64))


# --- agreement of the devices ---------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("float64", 1e-10)])
@pytest.mark.parametrize("name", ["ae", "dae masking", "vae bernoulli"])
def test_a_hundred_steps_agree_with_the_cpu(
    gpu: Gpu,
    monkeypatch: pytest.MonkeyPatch,
    launches: list[StepGraph],
    name: str,
    dtype: str,
    tolerance: float,
) -> None:
    """Same seed, same noise, 100 steps: parameters relative to the largest, as the issue asks."""

    def noise(device: str, *entropy: int) -> Any:
        return HostNoise(*entropy) if device == "gpu" else generator("cpu", *entropy)

    monkeypatch.setattr(train, "generator", noise)
    x, thetas = data(200, D, dtype=dtype), []
    for device in ("cpu", "gpu"):
        model = MODELS[name](seed=4, dtype=dtype, device=device)
        fit(model, x, epochs=4, batch_size=8, seed=3)
        thetas.append(to_host(model.theta))
    assert len(launches) == 100
    host, device = thetas
    assert np.abs(device - host).max() <= tolerance * np.abs(host).max()
    assert np.linalg.norm(device - host) <= tolerance * np.linalg.norm(host)


# --- TF32 -----------------------------------------------------------------------------------------


def test_tf32_is_off_until_somebody_asks(
    gpu: Gpu,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CUPY_TF32", raising=False)
    assert not backend.tf32_allowed()
    monkeypatch.setenv("CUPY_TF32", "0")  # so that it is put back
    asked = []
    gemm = graphs._Cublas._call

    def call(self: Any, function: str, *arguments: Any) -> None:
        if function == "cublasGemmEx":
            asked.append(arguments[-2])
        gemm(self, function, *arguments)

    monkeypatch.setattr(graphs._Cublas, "_call", call)
    for allowed, compute in ((False, 68), (True, 77), (False, 68)):
        backend.allow_tf32(allowed)
        asked.clear()
        trained("ae", True)
        assert set(asked) == {compute}
    asked.clear()
    backend.allow_tf32(True)
    trained("ae", True, dtype="float64")
    assert set(asked) == {70}
    backend.allow_tf32(False)


def test_the_command_line_allows_tf32_on_the_gpu_only(
    gpu: Gpu,
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("CUPY_TF32", "0")
    monkeypatch.chdir(tmp_path)
    np.savez(tmp_path / "tiny.npz", x_train=data(30, 16), x_test=data(20, 16, seed=2))
    run = [
        "train",
        "ae",
        "--data",
        "tiny.npz",
        "--epochs",
        "1",
        "--out",
        "run",
        "--quiet",
        "--tf32",
    ]
    assert cli.main(run) == 2
    assert "--tf32: it is for products on the GPU; add --device gpu" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert not backend.tf32_allowed()
    assert cli.main([*run, "--device", "gpu"]) == 0
    assert backend.tf32_allowed()
    backend.allow_tf32(False)
