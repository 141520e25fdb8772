"""The CPU side of the backend; CuPy itself is played here by the smallest module that has a name.

A stand-in that computes is in test_backend_strict.py.
"""

import ast
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

import scratchvae
from scratchvae import VAE, GpuUnavailableError, array_module, to_device, to_host
from scratchvae.backend import (
    STREAMS,
    device_of,
    generator,
    gpu_problem,
    module_for,
    resolve_device,
)

PACKAGE = Path(scratchvae.__file__).parent
INSTALL = r'pip install "scratchvae\[cuda12\]" .*"scratchvae\[cuda13\]"'


class CudaError(RuntimeError):
    """Stands for cupy.cuda.runtime.CUDARuntimeError."""


class FakeArray:
    """Stands for cupy.ndarray: not a NumPy array, and it knows its way to the host."""

    dtype, ndim, shape = np.dtype("float32"), 2, (2, 3)

    def __init__(self, host):
        self.host = np.asarray(host)


@pytest.fixture
def install_cupy(monkeypatch):
    """Return a function that puts a CuPy with ``count`` GPUs, or a failing driver, into place."""

    def install(count=1, error=None):
        def get_device_count():
            if error is not None:
                raise error
            return count

        cupy = ModuleType("cupy")
        cupy.ndarray = FakeArray
        cupy.asarray = lambda x: x if isinstance(x, FakeArray) else FakeArray(x)
        cupy.asnumpy = lambda x: x.host
        cupy.random = SimpleNamespace(
            Philox4x3210=lambda seed, size: (seed, size),
            Generator=lambda bits: ("GPU generator", *bits),
        )
        runtime = SimpleNamespace(getDeviceCount=get_device_count, CUDARuntimeError=CudaError)
        cupy.cuda = SimpleNamespace(runtime=runtime)
        monkeypatch.setitem(sys.modules, "cupy", cupy)
        return cupy

    return install


@pytest.fixture
def no_cupy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)  # makes `import cupy` fail


@pytest.fixture
def cupy_file(monkeypatch, tmp_path):
    """Return a function that makes ``import cupy`` run this text."""

    def write(text):
        (tmp_path / "cupy.py").write_text(text, encoding="utf-8")
        monkeypatch.delitem(sys.modules, "cupy", raising=False)
        monkeypatch.syspath_prepend(tmp_path)

    return write


@pytest.mark.parametrize("x", [np.zeros(3), np.float32(1), np.zeros((2, 2), "int8")])
def test_numpy_arrays_and_scalars_compute_with_numpy(x, no_cupy):
    assert array_module(x) is np
    assert device_of(x) == "cpu"


@pytest.mark.parametrize("x", [[1.0], 1.0, None, "x"])
def test_what_is_no_array_is_refused_by_its_type(x, install_cupy):
    message = f"^expected a NumPy or CuPy array, got {type(x).__name__}$"
    with pytest.raises(TypeError, match=message):
        array_module(x)
    install_cupy()
    with pytest.raises(TypeError, match=message):
        array_module(x)


def test_the_backend_is_not_frozen_at_import(install_cupy):
    x = FakeArray([1.0, 2.0])
    with pytest.raises(TypeError):
        array_module(x)
    cupy = install_cupy()  # long after scratchvae was imported
    assert array_module(x) is cupy
    assert device_of(x) == "gpu"
    assert array_module(np.zeros(1)) is np


def test_a_usable_gpu(install_cupy):
    cupy = install_cupy(count=2)
    assert gpu_problem() is None
    assert (resolve_device("gpu"), resolve_device("auto"), resolve_device("cpu")) == (
        "gpu",
        "gpu",
        "cpu",
    )
    assert (module_for("gpu"), module_for("auto"), module_for("cpu")) == (cupy, cupy, np)


def test_arrays_move_and_stay(install_cupy):
    install_cupy()
    x = np.arange(3.0)
    assert to_device(x, "cpu") is x
    assert to_host(x) is x
    moved = to_device(x, "gpu")
    assert isinstance(moved, FakeArray)
    assert to_device(moved, "gpu") is moved
    assert to_device(moved, "cpu") is moved.host
    assert to_host(moved) is moved.host


def test_a_scalar_becomes_an_array_of_no_dimensions_and_keeps_its_dtype():
    x = to_host(np.float32(3))
    assert isinstance(x, np.ndarray)
    assert (x.shape, x.dtype) == ((), np.float32)


def test_what_is_no_array_does_not_move():
    with pytest.raises(TypeError, match="got list"):
        to_host([1.0])
    with pytest.raises(TypeError, match="got list"):
        to_device([1.0], "cpu")


@pytest.mark.parametrize("device", ["cuda", "GPU", "", None, 0])
def test_an_unknown_device(device):
    for function in (resolve_device, module_for, lambda name: to_device(np.zeros(1), name)):
        with pytest.raises(ValueError, match=r"^device: got .*, want one of cpu, gpu, auto$") as e:
            function(device)
        assert repr(device) in str(e.value)


def test_without_cupy(no_cupy):
    assert resolve_device("auto") == "cpu"
    assert module_for("auto") is np
    for ask in (resolve_device, module_for, lambda name: VAE(3, device=name)):
        with pytest.raises(GpuUnavailableError, match=r"CuPy is not installed.*" + INSTALL):
            ask("gpu")
    with pytest.raises(GpuUnavailableError, match="CuPy is not installed"):
        to_device(np.zeros(1), "gpu")


def test_with_a_cupy_that_cannot_be_loaded(cupy_file):
    cupy_file("raise ImportError('libcublas.so.12: cannot open')")
    assert resolve_device("auto") == "cpu"
    with pytest.raises(GpuUnavailableError, match="installed but cannot be loaded") as error:
        resolve_device("gpu")
    assert "libcublas.so.12" in str(error.value)
    assert "scratchvae[cuda12]" in str(error.value)


def test_with_a_cupy_that_lacks_a_module_of_its_own(cupy_file):
    cupy_file("import fastrlock_that_is_missing")
    with pytest.raises(GpuUnavailableError, match="fastrlock_that_is_missing") as error:
        resolve_device("gpu")
    assert "not installed" not in str(error.value)  # it is, and pip install would not help


def test_without_a_driver(install_cupy):
    install_cupy(error=CudaError("cudaErrorInsufficientDriver: driver version is insufficient"))
    assert resolve_device("auto") == "cpu"
    with pytest.raises(GpuUnavailableError, match="driver is missing or too old") as error:
        resolve_device("gpu")
    assert "cudaErrorInsufficientDriver" in str(error.value)
    assert "scratchvae[cuda12]" in str(error.value)


@pytest.mark.parametrize(
    "found",
    [{"count": 0}, {"error": CudaError("cudaErrorNoDevice: no CUDA-capable device is detected")}],
    ids=["count 0", "cudaErrorNoDevice"],
)
def test_with_a_driver_but_no_gpu(install_cupy, found):
    # A driver that sees no GPU (or CUDA_VISIBLE_DEVICES="") answers cudaErrorNoDevice.
    install_cupy(**found)
    assert resolve_device("auto") == "cpu"
    with pytest.raises(GpuUnavailableError, match=r"no NVIDIA GPU.*device='cpu'"):
        resolve_device("gpu")


def test_a_model_on_the_cpu_refuses_an_array_on_the_gpu(install_cupy):
    install_cupy()
    with pytest.raises(ValueError, match="x: got an array on the gpu, the model is on the cpu"):
        VAE(3, (), 1).encode(FakeArray(np.zeros((2, 3))))


def test_a_generator_is_decided_by_its_integers():
    draws = [generator("cpu", *entropy).random(3) for entropy in [(0, 1), (0, 1), (0, 2), (1, 1)]]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])
    assert not np.array_equal(draws[0], draws[3])
    np.testing.assert_array_equal(draws[0], np.random.default_rng((0, 1)).random(3))


def test_a_generator_on_the_gpu_is_seeded_by_the_host(install_cupy):
    install_cupy()
    (kind, seed, size), (_, again, _), (_, other, _) = (generator("gpu", 0, n) for n in (1, 1, 2))
    assert kind == "GPU generator"
    assert size == STREAMS  # and not the card's own number
    assert type(seed) is int
    assert seed == again != other
    seeds = [generator("gpu", n)[1] for n in range(20)]
    assert min(seeds) >= 0
    assert 2**28 < max(seeds) < 2**31


def imports(path):
    """Return the dotted names that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: a relative import"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize(
    ("library", "file"),
    [("cupy", "backend.py"), ("numba", "compiled.py"), ("matplotlib", "plots.py")],
)
def test_one_file_imports_it(library, file):
    who = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if any(name.split(".")[0] == library for name in imports(path))
    }
    assert who == {file}


def test_the_core_imports_numpy_and_itself_only():
    above = {"train", "checkpoint", "evaluate", "plots", "cli", "datasets", "practice"}
    rooms, waiting = set(), ["gradcheck", "models", "optim"]
    while waiting:  # whatever these three import, directly or not
        room = waiting.pop()
        path = PACKAGE / f"{room}.py"
        if room in rooms or not path.exists():
            continue
        rooms.add(room)
        for name in imports(path):
            first, *rest = name.split(".")
            if first == "scratchvae":
                waiting += rest[:1]
            else:
                ours = {"numpy", "cupy", "numba"}
                assert first in ours or first in sys.stdlib_module_names, (room, name)
                assert first != "pickle", room
    assert rooms >= {"backend", "validate", "layers", "latent", "losses", "models", "optim"}
    assert not rooms & above
