"""The room `team`: several processes reach what one does, and none is left over."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from scratchvae import VAE, Autoencoder, DenoisingAutoencoder, cli, team, train_command
from scratchvae.files import locked
from scratchvae.optim import OPTIMIZERS
from scratchvae.team import WorkerError, part_of
from scratchvae.train import DivergedError, Stopped, Training, fit

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes fork on Linux only")

D, L = 6, 2
MODELS = {
    "ae": lambda **kw: Autoencoder(D, (5,), L, **kw),
    "dae": lambda **kw: DenoisingAutoencoder(D, (5,), L, **kw),
    "vae": lambda **kw: VAE(D, (5,), L, **kw),
    "vae without hidden layers": lambda **kw: VAE(D, (), L, likelihood="gaussian", **kw),
}
SETTINGS = {"epochs": 3, "batch_size": 8, "seed": 3}


def data(n=21, dtype="float64"):  # 3 steps an epoch: 8 + 8 + 5
    return np.random.default_rng(0).random((n, D), dtype=dtype)


def trained(name="vae", workers=1, x=None, dtype="float64", **settings):
    """Return the trained model, its Training and its History."""
    model, kept = MODELS[name](dtype=dtype), []
    x = data(dtype=dtype) if x is None else x
    settings = {**SETTINGS, "callbacks": [kept.append], **settings}
    history = fit(model, x, workers=workers, **settings)
    return model, kept[-1], history


def children(process=None):
    """The processes that this thread has started, or the main thread of another process."""
    task = f"{process}/task/{process}" if process else f"self/task/{threading.get_native_id()}"
    return [
        int(child) for child in Path(f"/proc/{task}/children").read_text(encoding="utf-8").split()
    ]


@pytest.fixture(autouse=True)
def no_process_is_left():
    before = children()  # a process that serves other tests, perhaps
    with threadpool_limits(1, "blas"):  # pytest-xdist has threads of its own
        yield
    assert children() == before


# --- what they compute ---


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("workers", [2, 3])
@pytest.mark.parametrize("binarize", [False, True])
def test_the_numbers_are_those_of_one_process(name, workers, binarize):
    settings = {"binarize": binarize, "validation": data(9)}
    one, training, history = trained(name, **settings)
    several, training_of_several, history_of_several = trained(name, workers, **settings)
    np.testing.assert_allclose(several.theta, one.theta, rtol=1e-11, atol=1e-14)
    for kept, vector in training.optimizer.memory.items():
        found = training_of_several.optimizer.memory[kept]
        np.testing.assert_allclose(found, vector, rtol=1e-9, atol=1e-16)
    assert training_of_several.optimizer.t == training.optimizer.t == 9
    for column, values in history.columns.items():
        np.testing.assert_allclose(history_of_several[column], values, rtol=1e-12)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer(name):
    one, *_ = trained(optimizer=name)
    several, *_ = trained(workers=2, optimizer=name)
    np.testing.assert_allclose(several.theta, one.theta, rtol=1e-11, atol=1e-14)


def test_more_parameters_than_one_block(monkeypatch):
    monkeypatch.setattr("scratchvae.optim.BLOCK", 10)  # of 124 parameters: 7 blocks each
    one, *_ = trained()
    several, *_ = trained(workers=2)
    np.testing.assert_allclose(several.theta, one.theta, rtol=1e-11, atol=1e-14)


def test_memories_are_flushed_in_all_parts(monkeypatch):
    monkeypatch.setattr("scratchvae.optim.FLUSH_EVERY", 2)
    monkeypatch.setattr("scratchvae.optim.FLUSH_BELOW", 5e304)  # what is below 0.001
    monkeypatch.setattr("scratchvae.optim.BLOCK", 10)
    one, training, _ = trained(optimizer="momentum")
    several, training_of_several, _ = trained(optimizer="momentum", workers=2)
    np.testing.assert_allclose(several.theta, one.theta, rtol=1e-11, atol=1e-14)
    memories = [t.optimizer.memory["v"] for t in (training, training_of_several)]
    np.testing.assert_allclose(*memories, rtol=1e-9, atol=0)
    assert 0 < (memories[0] == 0).mean() < 1


def test_float32_agrees_to_a_millionth_after_ten_steps():
    x = data(80, "float32")
    one, *_ = trained(x=x, dtype="float32", epochs=1)
    several, *_ = trained(x=x, dtype="float32", epochs=1, workers=2)
    assert several.theta.dtype == np.float32
    np.testing.assert_allclose(several.theta, one.theta, rtol=1e-6, atol=1e-6)


def test_fewer_examples_than_workers(monkeypatch):
    x = data(9)  # the last batch is one example
    real = DenoisingAutoencoder.draw_noise

    def draw_noise(self, rng, x):
        assert x.max() <= 1
        return real(self, rng, x)

    monkeypatch.setattr(DenoisingAutoencoder, "draw_noise", draw_noise)
    one, _, history = trained("dae", x=x)
    several, _, history_of_several = trained("dae", x=x, workers=4)
    np.testing.assert_allclose(several.theta, one.theta, rtol=1e-11, atol=1e-14)
    assert history_of_several["mse"] == pytest.approx(history["mse"], rel=1e-12)


def test_the_workers_have_different_rows(monkeypatch):
    """A share that were taken twice, or a noise of their own, would make another model."""
    honest, *_ = trained(workers=2)
    monkeypatch.setattr("scratchvae.train.part_of", lambda k, n, size: part_of(0, n, size))
    twice, *_ = trained(workers=2)
    assert np.abs(twice.theta - honest.theta).max() > 1e-3


@pytest.mark.parametrize(("binarize", "rows"), [(False, 4 + 4 + 2), (True, 21)])
def test_each_draws_the_noise_of_its_rows(monkeypatch, binarize, rows):
    """Unless it must know where the pixels end that are drawn before."""
    model, drawn = MODELS["dae"](), []
    real = model.draw_noise

    def draw_noise(rng, x):
        drawn.append(len(x))
        return real(rng, x)

    monkeypatch.setattr(model, "draw_noise", draw_noise)
    settings = {**SETTINGS, "binarize": binarize, "epochs": 1}
    fit(model, data(dtype="float32"), workers=2, **settings)
    assert sum(drawn) == rows  # in worker 0


def test_two_runs_are_the_same_bit_for_bit():
    first, _, history = trained(workers=3)
    second, _, again = trained(workers=3)
    np.testing.assert_array_equal(first.theta, second.theta)
    assert history.columns == again.columns


def other_rate(model, held, training):
    training.optimizer.learning_rate /= 2
    model.beta *= 3


def other_memory(model, held, training):
    memory = training.optimizer.memory
    training.optimizer.memory = {name: vector.copy() for name, vector in memory.items()}


def restored(model, held, training):
    training.optimizer.restore(training.optimizer.state())


def other_optimizer(model, held, training):
    training.optimizer = OPTIMIZERS["momentum"](0.1)


def own_step(model, held, training):
    training.optimizer = Clipped(1.0)


def own_update(model, held, training):
    training.optimizer = Halved(1.0)


def clipped(model, held, training):
    np.clip(held, -0.1, 0.1, out=held)


@pytest.mark.parametrize(
    "change",
    [other_rate, other_memory, restored, other_optimizer, own_step, own_update, clipped],
    ids=lambda f: f.__name__,
)
def test_what_a_callback_changes_holds_for_all(monkeypatch, change):
    monkeypatch.setattr("scratchvae.optim.BLOCK", 10)
    thetas = []
    for workers in (1, 2):
        model = MODELS["vae"](dtype="float64")
        callback = partial(change, model, model.theta)
        fit(model, data(), workers=workers, callbacks=[callback], **SETTINGS)
        thetas.append(model.theta)
    np.testing.assert_allclose(thetas[1], thetas[0], rtol=1e-11, atol=1e-14)


def test_between_epochs_all_arrays_are_the_models_own():
    model = MODELS["vae"](dtype="float64")
    theta, grad, weight, memory = model.theta, model.grad, model.to_mu.W, []

    def look(training):
        memory.append(training.optimizer.memory)
        assert model.theta is theta
        assert model.grad is grad
        assert all(vector.flags.owndata for vector in memory[-1].values())
        assert memory[-1] is memory[0]
        seen.append(theta.copy())

    seen = [theta.copy()]
    fit(model, data(), workers=2, callbacks=[look], **SETTINGS)
    assert len(seen) == 4
    assert all((before != after).any() for before, after in pairwise(seen))
    assert np.shares_memory(model.to_mu.W, theta)
    assert np.shares_memory(weight, theta)
    model.forward(data(), np.zeros((21, L)))
    model.backward()
    assert np.shares_memory(model.to_mu.dW, grad)
    assert grad.any()


class Clipped(OPTIMIZERS["sgd"]):
    """An optimizer with a step of its own, which a team would not call."""

    def step(self, theta, grad):
        super().step(theta, grad * min(1, 1e-3 / np.linalg.norm(grad)))


class Halved(OPTIMIZERS["sgd"]):
    """One with an update of its own, which knows nothing of parts."""

    def update(self, theta, grad, scalars, first=0):
        super().update(theta, grad / 2, scalars, first)


class Prepared(OPTIMIZERS["sgd"]):
    def prepare(self, theta, grad):
        super().prepare(theta, grad)


class Flushed(OPTIMIZERS["sgd"]):
    def flush(self):
        self.flushed = True


@pytest.mark.parametrize("optimizer", [Clipped, Halved, Prepared, Flushed])
def test_an_optimizer_with_methods_of_its_own_trains_in_one_process(capfd, optimizer):
    thetas = []
    for workers in (1, 2):
        model = MODELS["vae"](dtype="float64")
        fit(model, data(), workers=workers, optimizer=optimizer(1.0), **SETTINGS)
        thetas.append(model.theta)
    np.testing.assert_array_equal(*thetas)
    why = "training in one process: the optimizer has methods of its own\n"
    assert capfd.readouterr().err == why


@pytest.mark.parametrize("method", ["step", "update"])
def test_a_method_that_was_put_into_an_optimizer_counts_too(capfd, method):
    sgd, called = OPTIMIZERS["sgd"](1.0), []
    setattr(sgd, method, lambda theta, grad, *rest: called.append(len(grad)))
    model = MODELS["vae"](dtype="float64")
    before = model.theta.copy()
    fit(model, data(), workers=2, optimizer=sgd, **SETTINGS)
    assert called == 9 * [before.size]
    np.testing.assert_array_equal(model.theta, before)
    assert "methods of its own" in capfd.readouterr().err


def test_an_optimizer_is_told_how_many_gradients_it_will_add_up(monkeypatch):
    """So that it compiles its loop before the processes are forked."""
    told, adam = [], OPTIMIZERS["adam"]
    real = adam.prepare

    def prepare(self, theta, grad, parts=0):
        told.append(parts)
        return real(self, theta, grad, parts)

    monkeypatch.setattr("scratchvae.optim.Optimizer.prepare", prepare)
    for workers in (1, 2, 3):
        told.clear()
        trained(workers=workers, epochs=1)
        assert told == ([workers] if workers > 1 else [0, 0, 0])


def test_a_complaint_of_any_length_is_heard():
    talk = team._Talk(2)
    talk.complain(1, ValueError("x" * 1000))
    heard = talk.complaints[1].tobytes().rstrip(b"\0").decode()
    assert heard == f"ValueError: {'x' * 488}"


def test_an_optimizer_of_another_model_changes_nothing():
    optimizer = OPTIMIZERS["adam"]()
    optimizer.prepare(np.zeros(3), np.zeros(3))
    model = MODELS["vae"](dtype="float64")
    theta, values = model.theta, model.theta.copy()
    with pytest.raises(ValueError, match="this optimizer remembers 3 parameters"):
        fit(model, data(), workers=2, optimizer=optimizer)
    assert model.theta is theta
    np.testing.assert_array_equal(theta, values)


@pytest.mark.parametrize(("layer", "threads"), [("pthreads", 2), ("openmp", 1)])
def test_the_threads_are_shared_too_where_they_survive_a_fork(
    monkeypatch, tmp_path, layer, threads
):
    """OpenMP's threads do not: a worker would wait for them forever."""
    blas, model, seen = team._blas(), MODELS["vae"](), tmp_path / "seen"

    class Blas:
        limit = blas.limit

        def info(self):
            return [{**pool, "threading_layer": layer} for pool in blas.info()]

    real = model.forward

    def forward(x, noise):
        with seen.open("a", encoding="utf-8") as file:
            file.write(f"{os.getpid()} {team._threads()}\n")
        return real(x, noise)

    monkeypatch.setattr(model, "forward", forward)
    monkeypatch.setattr(team, "_blas", Blas)
    monkeypatch.setattr(threading, "active_count", lambda: 1)
    with threadpool_limits(4, "blas"):
        fit(model, data(dtype="float32"), workers=2, **SETTINGS)
        assert team._threads() == 4
    lines = set(seen.read_text(encoding="utf-8").splitlines())
    assert len(lines) == 4  # worker 0 and, in each of three epochs, another worker 1
    assert {line.split()[1] for line in lines} == {str(threads)}


# --- stopping and going on ---


def press_ctrl_c():
    """It goes to all processes of the terminal: to the worker started last, and to this one."""
    for process in (children()[-1], os.getpid()):
        os.kill(process, signal.SIGINT)


def stop_at(monkeypatch, model, step, what=None):
    """In worker 0, at the given step from 1, do this; by default a terminal's Ctrl-C."""
    count, real, me = 0, model.backward, os.getpid()

    def backward():
        nonlocal count
        real()
        count += 1
        if count == step and os.getpid() == me:
            (what or press_ctrl_c)()

    monkeypatch.setattr(model, "backward", backward)


@pytest.mark.parametrize("step", [1, 4, 8])
@pytest.mark.parametrize("binarize", [False, True])
def test_stopped_and_resumed_bit_for_bit(monkeypatch, step, binarize):
    whole, _, history = trained("dae", workers=3, binarize=binarize)
    model, kept = MODELS["dae"](dtype="float64"), []
    stop_at(monkeypatch, model, step)
    with pytest.raises(Stopped):
        fit(model, data(), workers=3, binarize=binarize, callbacks=[kept.append], **SETTINGS)
    assert kept[-1].step == step % 3
    monkeypatch.undo()
    resumed = fit(model, data(), workers=3, epochs=3, resume=kept[-1])
    np.testing.assert_array_equal(model.theta, whole.theta)
    assert resumed.columns == history.columns


@pytest.mark.parametrize("workers", [1, 2])
def test_resumed_between_the_last_step_and_the_end_of_the_epoch(monkeypatch, workers):
    """As where the memory was too short for the validation."""
    whole, *_ = trained(workers=workers, validation=data(9))
    model = MODELS["vae"](dtype="float64")
    training = Training(OPTIMIZERS["adam"](), seed=3, n_examples=21, batch_size=8)
    settings = {"validation": data(9), "epochs": 3, "resume": training, "workers": workers}
    monkeypatch.setattr("scratchvae.train.mean_terms", Mock(side_effect=MemoryError))
    with pytest.raises(MemoryError):
        fit(model, data(), **settings)
    assert (training.epoch, training.step) == (0, 3)
    monkeypatch.undo()
    fit(model, data(), **settings)
    np.testing.assert_array_equal(model.theta, whole.theta)


@pytest.mark.parametrize("in_a_thread", [False, True])
def test_what_is_sent_to_a_worker_alone_is_not_heard(monkeypatch, in_a_thread):
    def tell():
        for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM, signal.SIGTERM):
            os.kill(children()[-1], number)
            time.sleep(0.02)

    honest, *_ = trained(workers=2)
    model = MODELS["vae"](dtype="float64")
    stop_at(monkeypatch, model, 5, tell)
    if in_a_thread:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(fit, model, data(), workers=2, **SETTINGS).result()
    else:
        fit(model, data(), workers=2, **SETTINGS)
    np.testing.assert_array_equal(model.theta, honest.theta)


def test_two_ctrl_c_while_a_worker_starts(monkeypatch):
    real, me = team._fork, os.getpid()

    def fork():
        process = real()
        if os.getpid() == me:
            press_ctrl_c()
            press_ctrl_c()
        return process

    monkeypatch.setattr(team, "_fork", fork)
    with pytest.raises(KeyboardInterrupt) as interruption:
        fit(MODELS["vae"](dtype="float64"), data(), workers=2, **SETTINGS)
    assert not isinstance(interruption.value, Stopped)


def test_an_error_ends_all_of_them(monkeypatch):
    def fail():
        raise RuntimeError("mine")

    model = MODELS["vae"](dtype="float64")
    stop_at(monkeypatch, model, 5, fail)
    with pytest.raises(RuntimeError, match=r"^mine$"):
        fit(model, data(), workers=3, **SETTINGS)


def test_a_loss_that_is_not_finite(monkeypatch):
    model = MODELS["vae"](dtype="float64")
    before = model.theta.copy()
    real, me = model.nll.forward, os.getpid()

    def forward(output, x):  # in one part of the batch only
        return real(output, x) + (0 if os.getpid() == me else np.inf)

    monkeypatch.setattr(model.nll, "forward", forward)
    training = Training(OPTIMIZERS["adam"](), n_examples=21, batch_size=8)
    with pytest.raises(DivergedError, match="in epoch 1, step 1 of 3"):
        fit(model, data(), workers=2, epochs=1, resume=training)
    np.testing.assert_array_equal(model.theta, before)
    assert training.step == training.optimizer.t == 0


def end_itself(how):
    if how == "failed":
        raise ArithmeticError("row 7")
    os.kill(os.getpid(), getattr(signal, how))


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("SIGKILL", r"\(signal 9; was memory short\?\)"),
        ("SIGABRT", r"\(signal 6\)"),
        ("failed", r"\(ArithmeticError: row 7\)"),
    ],
)
@pytest.mark.parametrize("where", ["draw_noise", "forward", "scalars"])
def test_a_worker_that_ends(monkeypatch, how, reason, where):
    """In the second epoch: the model is set back to the end of the first."""
    after_one, *_ = trained(workers=2, epochs=1)
    model, kept, me = MODELS["vae"](dtype="float64"), [], os.getpid()
    training = Training(OPTIMIZERS["adam"](), seed=3, n_examples=21, batch_size=8)
    whose = training.optimizer if where == "scalars" else model
    real = getattr(whose, where)

    def ends(*args):
        if os.getpid() != me and training.epoch == 1:
            end_itself(how)
        return real(*args)

    monkeypatch.setattr(whose, where, ends)
    monkeypatch.setattr(team, "PATIENCE", 0.02)
    with pytest.raises(WorkerError, match=f"^a process of the training ended .*{reason}$"):
        fit(model, data(), workers=2, epochs=3, resume=training, callbacks=[kept.append])
    assert len(kept) == 1
    assert (training.epoch, training.step, training.optimizer.t) == (1, 0, 3)
    np.testing.assert_array_equal(model.theta, after_one.theta)


def test_no_process_to_be_had(monkeypatch):
    real, left = os.fork, [0, 0]

    def fork():
        if not left:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        left.pop()
        return real()

    monkeypatch.setattr(os, "fork", fork)
    model = MODELS["vae"](dtype="float64")
    theta, values = model.theta, model.theta.copy()
    with pytest.raises(WorkerError, match=r"could be started .* \(Resource .*\); workers=1 needs"):
        fit(model, data(), workers=4, **SETTINGS)
    assert model.theta is theta
    np.testing.assert_array_equal(theta, values)


def reap(number, frame):
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


@pytest.mark.parametrize("handler", [signal.SIG_IGN, reap], ids=["ignored", "reaped"])
def test_where_somebody_else_takes_the_ended_children(monkeypatch, handler):
    one, *_ = trained()
    before = signal.signal(signal.SIGCHLD, handler)
    try:
        several, *_ = trained(workers=3)
        np.testing.assert_allclose(several.theta, one.theta, rtol=1e-11, atol=1e-14)
        monkeypatch.setattr(team, "PATIENCE", 0.02)
        model, me = MODELS["vae"](dtype="float64"), os.getpid()
        real = model.forward

        def forward(x, noise):
            return real(x, noise) if os.getpid() == me else end_itself("SIGKILL")

        monkeypatch.setattr(model, "forward", forward)
        with pytest.raises(WorkerError, match=r"\(for no known reason\)$"):
            fit(model, data(), workers=2, **SETTINGS)
    finally:
        signal.signal(signal.SIGCHLD, before)


@pytest.mark.parametrize("code", [0, 3])
def test_who_has_ended_at_the_end_of_the_work_is_not_missed(code):
    talk = team._Talk(2)
    process = os.fork()
    if not process:
        talk.finished[1] = not code
        os._exit(0)
    os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)
    others = {process: 1}
    if code:
        with pytest.raises(WorkerError, match=r"\(for no known reason\)$"):
            talk.see_alive(others)
    else:
        talk.see_alive(others)
    assert not others


def test_every_worker_says_that_it_has_finished(monkeypatch):
    talks = []

    class Talk(team._Talk):
        def __init__(self, workers):
            super().__init__(workers)
            talks.append(self)

    monkeypatch.setattr(team, "_Talk", Talk)
    monkeypatch.setattr(team, "_end", lambda others: [os.waitpid(each, 0) for each in others])
    monkeypatch.setattr(team._Talk, "see_parent", lambda self, parent: None)
    trained(workers=3)
    assert [talk.finished.tolist() for talk in talks] == [[0, 1, 1]] * 3


def test_workers_that_nobody_ended_end_themselves(monkeypatch):
    """As where a third Ctrl-C interrupts the end."""
    left = []
    monkeypatch.setattr(team, "PATIENCE", 0.02)
    monkeypatch.setattr(team, "_end", left.extend)
    model = MODELS["vae"](dtype="float64")
    stop_at(monkeypatch, model, 2)
    with pytest.raises(Stopped):
        fit(model, data(), workers=3, **SETTINGS)
    assert len(left) == 2
    for process in left:
        assert os.waitpid(process, 0)[0] == process


def test_ctrl_c_waits_for_the_end_of_a_block():
    heard = []
    before = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    try:
        with team._uninterrupted():
            signal.raise_signal(signal.SIGINT)
            assert not heard
        assert heard == [signal.SIGINT]
        with ThreadPoolExecutor(1) as pool:  # where there are no handlers to set
            assert pool.submit(lambda: team._uninterrupted().__enter__()).result() is None
    finally:
        signal.signal(signal.SIGINT, before)


PROGRAM = """
    import os, signal, sys
    import numpy as np
    from scratchvae import VAE
    from scratchvae.files import locked
    from scratchvae.train import fit

    model, me = VAE(6, (5,), 2), os.getpid()
    real = model.forward

    def forward(x, noise):
        if os.getpid() == me and model.terms:
            print("ready", flush=True)
            signal.pause()
        return real(x, noise)

    model.forward = forward
    with locked(sys.argv[1]):
        fit(model, np.random.default_rng(0).random((20, 6)), epochs=1, batch_size=4, workers=2)
"""


def test_no_worker_outlives_a_training_that_is_killed(tmp_path):
    program = textwrap.dedent(PROGRAM)
    lock = tmp_path / "lock"
    process = subprocess.Popen(
        [sys.executable, "-c", program, lock],
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    with process:
        assert process.stdout.readline()
        (child,) = children(process.pid)
        process.kill()
    with locked(lock):  # at once: the worker does not hold it
        pass
    deadline = time.monotonic() + 30
    while Path(f"/proc/{child}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# --- where it is used ---


def test_bad_numbers_of_workers(monkeypatch):
    model = MODELS["vae"]()
    for workers in (0, 1.5, "2"):
        with pytest.raises(ValueError, match=f"^workers: got {workers!r}, want an integer >= 1"):
            fit(model, data(dtype="float32"), workers=workers)


def no_flag():
    raise OSError("no /dev/shm")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ((sys, "platform", "darwin"), "only on Linux can it be shared"),
        ((team, "_flag", no_flag), "this system has no shared semaphores (no /dev/shm)"),
        ((team, "_threads", lambda: 2), "other threads of this program may be computing"),
    ],
)
def test_where_nothing_can_be_shared_one_process_does_it_all(monkeypatch, capsys, change, reason):
    one, *_ = trained()
    monkeypatch.setattr(threading, "active_count", lambda: 2)
    monkeypatch.setattr(*change)
    monkeypatch.setattr(os, "fork", None)
    alone, *_ = trained(workers=2)
    np.testing.assert_array_equal(alone.theta, one.theta)
    assert capsys.readouterr().err == f"training in one process: {reason}\n"
    assert team.suggested(128) == 1


def test_threads_that_cannot_be_in_a_product_are_no_obstacle(monkeypatch):
    monkeypatch.setattr(threading, "active_count", lambda: 2)
    assert team.obstacle() is None


@pytest.mark.parametrize(
    ("threads", "batch_size", "workers"),
    [(1, 128, 1), (2, 128, 2), (3, 128, 3), (16, 128, 4), (16, 20, 2), (16, 8, 1), (2, 1, 1)],
)
def test_suggested(monkeypatch, threads, batch_size, workers):
    monkeypatch.setattr(threading, "active_count", lambda: 1)
    monkeypatch.setattr(team, "_threads", lambda: threads)
    assert team.suggested(batch_size) == workers


@pytest.fixture
def command(monkeypatch, tmp_path):
    """Two epochs of training in two processes."""
    np.savez(tmp_path / "x.npz", x_train=data(200, "float32"))
    monkeypatch.setattr("scratchvae.runs.draw_pictures", lambda *args: None)
    monkeypatch.setattr(threading, "active_count", lambda: 1)
    monkeypatch.setattr(team, "_threads", lambda: 2)
    argv = ["train", "vae", "--data", str(tmp_path / "x.npz"), "--out", str(tmp_path / "run")]
    return [*argv, "--epochs", "2", "--hidden", "5", "--n-latent", "2", "--quiet"]


@pytest.mark.parametrize("threads", [1, 2])
def test_the_command_line_uses_as_many_as_it_may(monkeypatch, command, threads):
    given = []
    monkeypatch.setattr(team, "_threads", lambda: threads)
    monkeypatch.setattr(
        train_command, "fit", lambda *a, **kw: given.append(kw["workers"]) or fit(*a, **kw)
    )
    assert cli.main(command) == 0
    assert given == [threads]


def test_the_command_line_says_how_to_go_on(monkeypatch, command, tmp_path, capsys):
    real = team.Team._work

    def work(self, *args):  # in the second epoch
        if self.optimizer.t > 0:
            os.kill(os.getpid(), signal.SIGKILL)
        real(self, *args)

    monkeypatch.setattr(team.Team, "_work", work)
    monkeypatch.setattr(team, "PATIENCE", 0.02)
    assert cli.main(command) == 2
    run = tmp_path / "run"
    assert capsys.readouterr().err == (
        "scratchvae: error: a process of the training ended before its work did (signal 9; was "
        f"memory short?); saved {run / 'model.npz'}. Go on with: scratchvae train vae --resume "
        f"{run}, in one process with --threads 1\n"
    )
    monkeypatch.setattr(team.Team, "_work", real)
    resumed = ["train", "vae", "--resume", str(run), "--quiet"]
    assert cli.main(resumed) == 0
    assert len((run / "history.csv").read_text(encoding="utf-8").splitlines()) == 1 + 2
