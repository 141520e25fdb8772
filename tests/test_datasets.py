"""The room `datasets` without the network: IDX, embedded digits, local folders, own files."""

import gzip
import hashlib
import io
import os
import pickle
import re
import struct
import subprocess
import sys
import tempfile
import tracemalloc
import warnings
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import scratchvae.datasets
from scratchvae import arrays
from scratchvae.datasets import available, fashion_mnist, load, mnist, mnist10k
from scratchvae.datasets.idx import read_idx
from scratchvae.datasets.loaders import load_source
from scratchvae.datasets.sources import (
    FASHION_MNIST,
    MNIST,
    MNIST10K_IMAGES,
    MNIST10K_LABELS,
    IdxFile,
    Source,
)
from scratchvae.places import cache_dir

DATA = Path(scratchvae.datasets.__file__).parent / "data"
MiB = 1 << 20


def idx_bytes(array):
    """The IDX form of a uint8 array."""
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.tobytes()


def refusal(path, shape, sha256=None):
    """The message with which read_idx refuses a file; it names the file."""
    with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
        read_idx(path, shape, sha256)
    return str(caught.value)


@pytest.fixture
def written(tmp_path):
    def write(content, name="file"):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


@pytest.fixture(autouse=True)
def no_data_but_the_embedded(monkeypatch, tmp_path_factory):
    """Neither this user's folder nor this user's cache is seen by a test."""
    home = str(tmp_path_factory.mktemp("home"))
    monkeypatch.delenv("SCRATCHVAE_DATA", raising=False)
    for name in ("HOME", "USERPROFILE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(name, home)


@pytest.fixture(scope="session")
def full_mnist():
    """A folder with the official MNIST files."""
    named = os.environ.get("SCRATCHVAE_DATA")
    folder = Path(named) if named else Path(__file__).parents[2] / "shared" / "data" / "mnist"
    if not folder.is_dir():
        pytest.skip(f"the full MNIST is not at {folder}; name its folder with SCRATCHVAE_DATA")
    return folder


# The IDX reader


def zipped(data):
    """The same bytes at any time: every process of the tests must give its cases the same names."""
    return gzip.compress(data, mtime=0)


@pytest.mark.parametrize("shape", [(5,), (4, 3, 2), (2, 1, 3, 2)])
@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_idx_round_trip_whatever_the_name(written, shape, compress):
    array = np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)
    content = idx_bytes(array)
    path = written(compress(content), "misleading.gz" if compress is bytes else "plain")
    read = read_idx(path, (None, *shape[1:]), hashlib.sha256(content).hexdigest())
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, array)


GOOD = idx_bytes(np.arange(24, dtype=np.uint8).reshape(4, 3, 2))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not an IDX file: begins with nothing"),
        (b"\0\0\x08", "not an IDX file"),
        (b"\x89PNG\r\n\x1a\n", "not an IDX file: begins with 89 50 4e 47"),
        (b"\0\0\x0d\x03" + GOOD[4:], "type 0x0d; expected unsigned bytes, 0x08"),
        (b"\0\0\x08\x01" + GOOD[4:], "1 dimensions in the header; expected 3"),
        (GOOD[:9], "ends within its header"),
        (GOOD[:4] + struct.pack(">3I", 4, 2, 3) + GOOD[16:], r"shape \(4, 2, 3\).*expected"),
        (GOOD[:4] + struct.pack(">3I", 0, 3, 2), "empty"),
        (GOOD[:-1], "promises 24 bytes of data; there are 23"),
        (GOOD + b"\0", "promises 24 bytes of data; there are 25"),
        (zipped(GOOD[:-1]), "ends after 23 of 24"),
        (zipped(GOOD + b"\0"), "goes on after the 24 bytes"),
        (zipped(GOOD) + zipped(b"more"), "goes on after the 24 bytes"),
        (zipped(GOOD) + b"garbage", "Not a gzipped file"),
        (zipped(GOOD)[:-9], "ended before the end-of-stream"),
        (zipped(GOOD)[:5], "ended before the end-of-stream"),
        (zipped(GOOD)[:-8] + b"\0\0\0\0" + zipped(GOOD)[-4:], "CRC"),
        (zipped(GOOD)[:-4] + b"\0\0\0\0", "Incorrect length"),
        (zipped(GOOD)[:10] + b"\xff" * 40, "invalid block type"),
    ],
)
def test_idx_refuses(written, content, reason):
    assert re.search(reason, refusal(written(content), (None, 3, 2)))


def test_idx_refuses_another_checksum(written):
    path = written(gzip.compress(GOOD))
    assert "expected 00" in refusal(path, (4, 3, 2), "0" * 64)


def peak_memory(action):
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_idx_header_that_promises_too_much_allocates_nothing(written, compress):
    path = written(compress(b"\0\0\x08\x03" + struct.pack(">3I", 10**9, 32, 32) + bytes(100)))
    peak = peak_memory(lambda: refusal(path, (None, None, None)))
    assert peak < MiB
    assert "promises 1024000000000 bytes" in refusal(path, (None, None, None))


def test_idx_decompresses_no_more_than_promised(written):
    bomb = gzip.compress(GOOD + bytes(32 * MiB), compresslevel=1)
    path = written(bomb)
    assert len(bomb) < MiB  # so that what follows measures decompression
    assert peak_memory(lambda: refusal(path, (None, 3, 2))) < 2 * MiB
    assert "goes on after" in refusal(path, (None, 3, 2))


def test_idx_header_that_its_bomb_can_keep_allocates_nothing(written):
    """64 MiB of zeros in 64 kB: the header tells the truth."""
    head = b"\0\0\x08\x03" + struct.pack(">3I", 1 << 16, 32, 32)
    path = written(gzip.compress(head + bytes(64 * MiB)))
    assert peak_memory(lambda: refusal(path, (None, 32, 32))) < MiB
    assert "there are at most" in refusal(path, (None, 32, 32))


def test_idx_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_idx(tmp_path / "absent", (None,))


def refuses_or_reads(content, loader, suffix=""):
    """Anything but a ValueError that names the file fails the test. Returns what was read."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"mutated{suffix}"
        path.write_bytes(content)
        try:
            return loader(path)
        except ValueError as error:
            if str(path) not in str(error):
                pytest.fail(f"does not name the file: {error}")
            return None


def mutated(content, edits):
    """Content with bytes replaced: edits are (position, byte)."""
    changed = bytearray(content)
    for position, byte in edits:
        changed[position % len(changed)] = byte
    return bytes(changed)


edits = st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), max_size=4)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.binary(max_size=64), st.sampled_from([b"", b"\0\0\x08\x03", b"\x1f\x8b\x08\0"]))
def test_idx_random_bytes(tail, start):
    read = refuses_or_reads(start + tail, lambda path: read_idx(path, (None, None, None)))
    assert read is None or read.size <= len(tail)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(edits, st.integers(0, len(GOOD)), st.booleans())
def test_idx_truncated_and_mutated(changes, cut, inside_gzip):
    content = mutated(GOOD, changes)[:cut] or b"\0"
    if inside_gzip:
        content = gzip.compress(content)
    read = refuses_or_reads(content, lambda path: read_idx(path, (None, None, None)))
    assert read is None or read.size == 24


@settings(max_examples=60, deadline=None, derandomize=True)
@given(edits, st.integers(0, 100))
def test_idx_damaged_gzip(changes, cut):
    content = mutated(gzip.compress(GOOD, mtime=0), changes)[: -cut or None] or b"\0"
    sha256 = hashlib.sha256(GOOD).hexdigest()
    read = refuses_or_reads(content, lambda path: read_idx(path, (4, 3, 2), sha256))
    assert read is None or idx_bytes(read) == GOOD


# The embedded digits


def test_mnist10k_shapes_and_range():
    data = mnist10k()
    assert data.name == "mnist10k"
    assert data.image_shape == (28, 28)
    assert data.x_train.shape == (9000, 784)
    assert data.x_test.shape == (1000, 784)
    for x in (data.x_train, data.x_test):
        assert x.dtype == np.float32
        assert (x.min(), x.max()) == (0, 1)
    assert data.y_train.shape == (9000,)
    assert data.y_test.shape == (1000,)
    assert data.y_train.dtype == data.y_test.dtype == np.int64
    # The class counts of the first 10,000 training digits, 0 to 9.
    counts = np.bincount(np.concatenate([data.y_train, data.y_test]))
    assert counts.tolist() == [1001, 1127, 991, 1032, 980, 863, 1014, 1070, 944, 978]
    # The first digits of MNIST, as everybody knows them.
    assert data.y_train[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]


def test_mnist10k_calls_share_nothing():
    first = mnist10k()
    first.x_train[:] = 7
    assert mnist10k().x_train.max() == 1


@pytest.mark.parametrize("file", [MNIST10K_IMAGES, MNIST10K_LABELS])
def test_embedded_contents_have_the_checksum_in_the_readme(file):
    content = gzip.decompress((DATA / f"{file.name}.gz").read_bytes())
    line = f"{hashlib.sha256(content).hexdigest()}  {file.name}"
    assert line in (DATA / "README.md").read_text(encoding="utf-8")
    assert hashlib.sha256(content).hexdigest() == file.sha256


def test_readme_recipe_cuts_the_embedded_files(full_mnist, tmp_path, monkeypatch):
    for part in ("images-idx3", "labels-idx1"):
        name = f"train-{part}-ubyte.gz"
        (tmp_path / name).write_bytes((full_mnist / name).read_bytes())
    readme = (DATA / "README.md").read_text(encoding="utf-8")
    (recipe,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(recipe, "data/README.md", "exec"), {})
    for file in (MNIST10K_IMAGES, MNIST10K_LABELS):
        read_idx(tmp_path / f"{file.name}.gz", file.shape, file.sha256)


def test_full_mnist_begins_with_the_embedded_digits(full_mnist):
    full, cut = mnist(full_mnist), mnist10k()
    assert full.name == "mnist"
    assert full.x_train.shape == (60_000, 784)
    assert full.x_test.shape == (10_000, 784)
    assert full.x_train.dtype == np.float32
    assert np.bincount(full.y_train)[0] == 5923
    assert full.y_test[:5].tolist() == [7, 2, 1, 0, 4]
    np.testing.assert_array_equal(full.x_train[:9000], cut.x_train)
    np.testing.assert_array_equal(full.x_train[9000:10_000], cut.x_test)
    np.testing.assert_array_equal(full.y_train[9000:10_000], cut.y_test)


def test_mnist_under_the_name_of_fashion_mnist_is_refused(full_mnist):
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte.*another data set"):
        fashion_mnist(full_mnist)


# Local folders, on a source small enough to write in every form


def small_source(mirrors=()):
    """A source of 6 + 2 images of 3 x 2 pixels, and the contents of its files by name."""
    rng = np.random.default_rng(3)
    arrays = {
        "train-images-idx3-ubyte": rng.integers(256, size=(6, 3, 2), dtype=np.uint8),
        "train-labels-idx1-ubyte": np.array([5, 0, 4, 1, 9, 2], dtype=np.uint8),
        "t10k-images-idx3-ubyte": rng.integers(256, size=(2, 3, 2), dtype=np.uint8),
        "t10k-labels-idx1-ubyte": np.array([7, 255], dtype=np.uint8),
    }
    contents = {name: idx_bytes(array) for name, array in arrays.items()}
    files = [
        IdxFile(name, array.shape, hashlib.sha256(contents[name]).hexdigest())
        for name, array in arrays.items()
    ]
    return Source("small", *files, mirrors=tuple(mirrors)), contents


@pytest.mark.parametrize("place", ["", "small"])
@pytest.mark.parametrize("compress", [bytes, gzip.compress])
@pytest.mark.parametrize("dotted", [False, True])
def test_local_folder_in_every_form(tmp_path, monkeypatch, place, compress, dotted):
    source, contents = small_source()
    folder = tmp_path / place
    folder.mkdir(exist_ok=True)
    for name, content in contents.items():
        stem = name.replace("-idx", ".idx") if dotted else name
        (folder / (stem + ("" if compress is bytes else ".gz"))).write_bytes(compress(content))
    data = load_source(source, tmp_path)
    assert data.name == "small"
    assert data.image_shape == (3, 2)
    expected = np.frombuffer(contents["train-images-idx3-ubyte"][16:], np.uint8).reshape(6, 6)
    np.testing.assert_array_equal(data.x_train, expected.astype(np.float32) / np.float32(255))
    assert data.y_test.tolist() == [7, 255]

    monkeypatch.setenv("SCRATCHVAE_DATA", str(tmp_path))
    np.testing.assert_array_equal(load_source(source).x_test, data.x_test)


def test_argument_comes_before_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("SCRATCHVAE_DATA", str(tmp_path / "absent"))
    source, contents = small_source()
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    assert len(load_source(source, tmp_path).x_train) == 6
    with pytest.raises(FileNotFoundError, match=r"SCRATCHVAE_DATA names .*absent"):
        load_source(source)


def test_missing_files_are_named_and_not_downloaded(tmp_path):
    source, contents = small_source(mirrors=["http://never.invalid/"])
    for name in list(contents)[:2]:
        (tmp_path / name).write_bytes(contents[name])
    with pytest.raises(FileNotFoundError) as caught:
        load_source(source, tmp_path)
    message = str(caught.value)
    assert f"{tmp_path} lacks t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte" in message
    assert f"{tmp_path / 'small'} lacks train-images-idx3-ubyte" in message
    assert "\n" not in message


def test_local_file_with_other_contents_is_refused(tmp_path):
    source, contents = small_source()
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    wrong = bytearray(contents["t10k-labels-idx1-ubyte"])
    wrong[-1] ^= 1
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(wrong)
    with pytest.raises(ValueError, match=r"t10k-labels-idx1-ubyte: SHA-256 .* damaged"):
        load_source(source, tmp_path)


def test_known_sources_are_eight_distinct_files_in_order():
    files = MNIST.files + FASHION_MNIST.files
    assert len({file.sha256 for file in files}) == 8
    assert all(re.fullmatch("[0-9a-f]{64}", file.sha256) for file in files)
    for source in (MNIST, FASHION_MNIST):
        assert [file.shape[0] for file in source.files] == [60_000, 60_000, 10_000, 10_000]
        assert all(re.fullmatch("https?://.*/", mirror) for mirror in source.mirrors)


ELSEWHERE = str(Path("/elsewhere").absolute())  # with a drive where there are drives


@pytest.mark.parametrize(
    ("platform", "environment", "expected"),
    [
        ("linux", {}, "~/.cache/scratchvae"),
        ("linux", {"XDG_CACHE_HOME": ELSEWHERE}, f"{ELSEWHERE}/scratchvae"),
        ("linux", {"XDG_CACHE_HOME": "not/absolute"}, "~/.cache/scratchvae"),
        ("darwin", {}, "~/Library/Caches/scratchvae"),
        ("darwin", {"XDG_CACHE_HOME": ELSEWHERE}, f"{ELSEWHERE}/scratchvae"),
        ("win32", {"LOCALAPPDATA": ELSEWHERE}, f"{ELSEWHERE}/scratchvae"),
        ("win32", {"LOCALAPPDATA": "/no", "XDG_CACHE_HOME": ELSEWHERE}, f"{ELSEWHERE}/scratchvae"),
        ("win32", {}, "~/AppData/Local/scratchvae"),
    ],
)
def test_cache_dir(platform, environment, expected):
    assert cache_dir(platform, environment) == Path(expected).expanduser()


def test_without_a_home_there_is_no_cache(monkeypatch):
    monkeypatch.setenv("HOME", "not/absolute")
    monkeypatch.setenv("USERPROFILE", "not/absolute")
    with pytest.raises(FileNotFoundError, match=r"no home directory.*SCRATCHVAE_DATA=DIR"):
        cache_dir(environment={})


def test_a_user_that_is_not_there(tmp_path):
    for call in (lambda: load("~nosuchuser/x.npy"), lambda: load("mnist", "~nosuchuser")):
        with pytest.raises(ValueError, match=r"~nosuchuser.*: there is no such user here"):
            call()


def test_a_file_too_large_for_the_memory_is_not_damaged():
    with pytest.raises(MemoryError), arrays.naming("x.npy"):
        raise MemoryError


def test_the_rows_that_are_held_out_stay_the_same(tmp_path):
    """Or a model would be evaluated on the rows that an older release trained it on."""
    np.save(tmp_path / "own.npy", np.arange(30, dtype=np.uint8).reshape(30, 1))
    held_out = load(tmp_path / "own.npy").x_test.ravel() * 255
    assert np.rint(held_out).tolist() == [24, 1, 15]


def test_the_subfolder_comes_before_the_folder(tmp_path):
    source, contents = small_source()
    (tmp_path / "small").mkdir()
    for name, content in contents.items():
        (tmp_path / "small" / name).write_bytes(content)
        (tmp_path / name).write_bytes(b"another data set")
    assert load_source(source, tmp_path).name == "small"


def test_available(tmp_path, monkeypatch):
    found = available()
    assert list(found) == ["mnist10k", "mnist", "fashion-mnist"]
    assert found["mnist10k"] == str(DATA)
    assert found["mnist"] == f"not found: downloaded to {cache_dir() / 'mnist'} when first used"

    for name in ("train-images-idx3", "train-labels.idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        for place in (tmp_path, cache_dir() / "fashion-mnist"):
            place.mkdir(parents=True, exist_ok=True)
            assert available()["fashion-mnist"].startswith("not found: downloaded to")
            (place / f"{name}-ubyte").touch()
    assert available()["fashion-mnist"] == str(cache_dir() / "fashion-mnist")
    assert available(tmp_path)["mnist"] == str(tmp_path)
    monkeypatch.setenv("SCRATCHVAE_DATA", str(tmp_path / "absent"))
    assert re.match("not found: SCRATCHVAE_DATA names .*not a folder", available()["mnist"])


# Your own files


def grey(*shape):
    return np.random.default_rng(1).integers(256, size=shape, dtype=np.uint8)


def test_npy_of_bytes_is_scaled_and_split_the_same_way_each_time(tmp_path):
    images = np.arange(40 * 3 * 2, dtype=np.uint8).reshape(40, 3, 2)
    np.save(tmp_path / "own.npy", images)
    data = load(tmp_path / "own.npy")
    assert data.name == "own.npy"
    assert data.image_shape == (3, 2)
    assert data.y_train is None
    assert data.y_test is None
    assert data.x_train.dtype == np.float32
    assert data.x_train.shape == (36, 6)
    assert data.x_test.shape == (4, 6)
    rows = np.concatenate([data.x_train, data.x_test])
    expected = images.reshape(40, 6).astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(rows[np.argsort(rows[:, 0])], expected)
    assert not np.array_equal(rows, expected)
    np.testing.assert_array_equal(load(str(tmp_path / "own.npy")).x_test, data.x_test)


@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8", "longdouble"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_of_floats(tmp_path, dtype, order):
    values = np.asarray(grey(10, 4) / 256, dtype=dtype, order=order)
    np.save(tmp_path / "own.npy", values)
    data = load(tmp_path / "own.npy")
    assert data.image_shape is None
    assert data.x_train.dtype == np.float32
    assert data.x_train.flags.c_contiguous
    rows = np.concatenate([data.x_train, data.x_test])
    assert sorted(rows.tolist()) == sorted(values.astype(np.float32).tolist())


def test_two_rows_are_enough_and_booleans_are_binary_images(tmp_path):
    np.save(tmp_path / "own.NPY.npy", np.array([[True, False], [False, True]]))
    data = load(tmp_path / "own.NPY.npy")
    assert len(data.x_train) == len(data.x_test) == 1
    assert data.x_train.dtype == np.float32
    assert sorted(data.x_train[0]) == [0, 1]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_with_labels_is_split_row_by_row(tmp_path, save):
    images = np.arange(30, dtype=np.uint8)[:, None].repeat(5, axis=1)
    save(tmp_path / "own.npz", x=images, y=np.arange(30, dtype=np.uint16), unrelated=np.array("a"))
    data = load(tmp_path / "own.npz")
    for x, y in ((data.x_train, data.y_train), (data.x_test, data.y_test)):
        assert y.dtype == np.int64
        np.testing.assert_array_equal(np.rint(x[:, 0] * 255), y)
    assert len(data.x_test) == 3


def test_npz_with_its_own_test_part_is_left_in_order(tmp_path):
    train, test = grey(5, 4, 3), grey(2, 4, 3)
    np.savez(tmp_path / "own.npz", x_train=train, x_test=test, y_train=np.arange(5) - 1)
    data = load(tmp_path / "own.npz")
    assert data.image_shape == (4, 3)
    np.testing.assert_array_equal(np.rint(data.x_train * 255), train.reshape(5, 12))
    np.testing.assert_array_equal(np.rint(data.x_test * 255), test.reshape(2, 12))
    assert data.y_train.tolist() == [-1, 0, 1, 2, 3]
    assert data.y_test is None


def test_rows_are_contiguous_whatever_the_order_in_the_file(tmp_path):
    values = np.asfortranarray(grey(6, 4) / np.float32(256))
    np.savez(tmp_path / "own.npz", x_train=values, x_test=np.asfortranarray(grey(3, 4)))
    data = load(tmp_path / "own.npz")
    assert data.x_train.flags.c_contiguous
    assert data.x_test.flags.c_contiguous
    np.testing.assert_array_equal(data.x_train, values)


def test_npz_with_only_a_training_part_is_split(tmp_path):
    np.savez(tmp_path / "own.npz", x_train=grey(20, 3), y_train=np.arange(20))
    data = load(tmp_path / "own.npz")
    assert sorted([*data.y_train, *data.y_test]) == list(range(20))
    assert len(data.x_test) == 2


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros(4), r"x: shape \(4,\); expected \(N, D\) or \(N, H, W\)"),
        (np.zeros((4, 2, 2, 1)), "x: shape"),
        (np.zeros((4, 0)), "x: shape"),
        (np.zeros((1, 4)), "x: 1 rows; expected at least 2"),
        (np.zeros((0, 4)), "x: 0 rows; expected at least 2"),
        (np.full((3, 2), 255.0), r"floats from 255.0 to 255.0; expected \[0, 1\]"),
        (np.full((3, 2), 1 + 1e-9), r"floats from 1.000000001 to 1.000000001; expected"),
        (np.full((3, 2), -0.5), r"floats from -0.5 to -0.5; expected \[0, 1\]"),
        (np.array([[0, np.nan], [0, 1]]), "NaN or infinity"),
        (np.array([[0, np.inf], [0, 1]], dtype=np.float16), "NaN or infinity"),
        (np.zeros((3, 2), dtype=np.int64), "type int64; expected uint8"),
        (np.zeros((3, 2), dtype=complex), "type complex128"),
        (np.zeros((3, 2), dtype="U3"), "type <U3"),
        (np.zeros((3, 2), dtype="M8[s]"), "type datetime64"),
        (np.zeros((3, 2), dtype=[("a", "f4")]), "expected uint8"),
    ],
)
def test_npy_refuses(tmp_path, array, reason):
    path = tmp_path / "own.npy"
    np.save(path, array)
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}: .*{reason}"):
        load(path)


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({}, "holds no arrays; expected x"),
        ({"images": grey(4, 2)}, "holds images; expected x, or x_train"),
        ({"x": grey(4, 2), "x_train": grey(4, 2)}, "both x and x_train"),
        ({"x": grey(4, 2), "x_test": grey(4, 2)}, "x_test but no x_train"),
        ({"x": grey(4, 2), "y_train": np.arange(4)}, "y_train but no x_train"),
        ({"x_train": grey(4, 2), "y_test": np.arange(4)}, "y_test but no x_test"),
        ({"x_train": grey(4, 2), "x_test": grey(4, 3)}, r"rows of shape \(3,\), x_train of .*2"),
        ({"x_train": grey(4, 2), "x_test": grey(0, 2)}, "x_test: 0 rows; expected at least 1"),
        ({"x": grey(4, 2), "y": np.arange(3)}, r"y: int64 of shape \(3,\); .*shape \(4,\)"),
        ({"x": grey(4, 2), "y": np.zeros(4)}, "y: float64"),
        ({"x": grey(2, 2), "y": np.array([0, 2**63], np.uint64)}, "too large for int64"),
    ],
)
def test_npz_refuses(tmp_path, arrays, reason):
    path = tmp_path / "own.npz"
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}: .*{reason}"):
        load(path)


class Detonator:
    """Leaves a trace where it is unpickled."""

    def __reduce__(self):
        return (os.mkdir, ("detonated",))


@pytest.mark.parametrize("form", ["npy", "npz", "pickle"])
def test_pickle_is_refused_and_never_run(tmp_path, monkeypatch, form):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / ("own.npz" if form == "npz" else "own.npy")
    array = np.array([Detonator(), Detonator()], dtype=object)
    if form == "npy":
        np.save(path, array, allow_pickle=True)
    elif form == "npz":
        np.savez(path, x=array)
    else:
        path.write_bytes(pickle.dumps(Detonator()))
    reason = "magic string" if form == "pickle" else "Python objects"
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}.*{reason}"):
        load(path)
    assert not (tmp_path / "detonated").exists()


def npy_bytes(header, version=(1, 0), data=b""):
    """A .npy file with a header of one's own."""
    text = header.encode() + b"\n"
    length = len(text).to_bytes(2 if version == (1, 0) else 4, "little")
    return b"\x93NUMPY" + bytes(version) + length + text + data


HEADER = "{'descr': '|u1', 'fortran_order': False, 'shape': (4, 2)}"
HUGE = "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000)}"


@pytest.mark.parametrize("archive", [False, True])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "magic"),
        (b"\x93NUMPY", "magic"),
        (npy_bytes(HEADER, (3, 0), bytes(8)), r"version \(3, 0\)"),
        (npy_bytes(HEADER, (9, 9), bytes(8)), r"version \(9, 9\)"),
        (npy_bytes(HEADER, data=bytes(7)), "promises 8 bytes .* there are 7"),
        (npy_bytes(HEADER, (2, 0), data=bytes(9)), "promises 8 bytes .* there are 9"),
        (npy_bytes(HUGE, data=bytes(64)), "promises 8000000000000 bytes"),
        (npy_bytes(HEADER.replace("4, 2", "-4, -2"), data=bytes(8)), "shape"),
        (npy_bytes(HEADER.replace("(4, 2)", "'many'"), data=bytes(8)), ""),
        (npy_bytes(HEADER.replace("|u1", "rubbish"), data=bytes(8)), ""),
        (npy_bytes(HEADER.replace("'|u1'", "('<f4', (2,))"), data=bytes(64)), ""),
        (npy_bytes("(" * 5000), ""),
        (npy_bytes("{'descr': "), ""),
        (npy_bytes(HEADER + " " * 20_000, data=bytes(8)), "header is 20058 bytes"),
        (npy_bytes(f"{{'descr': '|u1', 'shape': ({'9' * 4500},)}}"), "header is 45.. bytes"),
        (b"\x93NUMPY\x02\0\xff\xff\xff\xff", "header is 4294967295 bytes"),
    ],
)
def test_malformed_npy(tmp_path, content, reason, archive):
    path = tmp_path / ("own.npz" if archive else "own.npy")
    if archive:
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("x.npy", content)
    else:
        path.write_bytes(content)

    def refuse():
        with pytest.raises(ValueError, match=f"{re.escape(str(path))}: .*{reason}"):
            load(path)

    assert peak_memory(refuse) < 4 * MiB  # the parser alone takes one for 5000 brackets


def npz_bytes(method=zipfile.ZIP_DEFLATED, **arrays):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.save(member, array)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), member.getvalue(), method)
    return buffer.getvalue()


def test_zip_member_that_declares_more_than_it_can_hold(written):
    """The central directory and the .npy header agree on a lie."""
    n_header = len(npy_bytes(HUGE))
    content = npy_bytes(HUGE.replace("1000000, 1000000", "50000, 10000"), data=bytes(100))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", content)
    forged = bytearray(buffer.getvalue())
    directory = forged.index(b"PK\x01\x02")
    forged[directory + 24 : directory + 28] = struct.pack("<I", n_header - 4 + 50000 * 10000 * 8)
    path = written(bytes(forged), "own.npz")
    with pytest.raises(ValueError, match=r"own.npz: .*more than its compressed form can hold"):
        load(path)


def test_a_bomb_of_honest_headers_is_refused(written):
    """32 MiB of zeros in 32 kB, in two halves of which neither is too much alone."""
    half = np.zeros((4, 4 * MiB), np.uint8)
    path = written(npz_bytes(x_train=half, x_test=half), "own.npz")

    def refuse():
        with pytest.raises(ValueError, match=r"own.npz: its arrays take 3\d+ bytes, the file has "):
            load(path)

    assert peak_memory(refuse) < MiB
    np.savez(path, x_train=half, x_test=half)
    assert load(path).x_train.shape == half.shape


@pytest.mark.parametrize("binarized", [np.eye(784), np.ones((2000, 784))])
def test_what_compresses_well_and_is_small_is_read(tmp_path, binarized):
    np.savez_compressed(tmp_path / "own.npz", x=binarized)
    assert (tmp_path / "own.npz").stat().st_size < binarized.nbytes / 500
    load(tmp_path / "own.npz")


@pytest.mark.parametrize("name", ["\x1b[2J", "a\nb", "\u202e", "x" * 3000])
def test_names_in_a_file_cannot_steer_the_terminal(tmp_path, name):
    path = tmp_path / "own.npz"
    np.savez(path, **{name: np.zeros(3)})
    with pytest.raises(ValueError, match=r"own\.npz") as caught:
        load(path)
    assert str(caught.value).isprintable()
    np.save(tmp_path / "own.npy", np.zeros((3, 2), dtype=[(name, "f4")]))
    with pytest.raises(ValueError, match=r"own\.npy") as caught:
        load(tmp_path / "own.npy")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


def test_no_warning_comes_from_a_file(written):
    """NumPy warns of headers of Python 2, and of types that were renamed."""
    path = written(b"", "own.npy")
    for header in (HEADER.replace("4, 2", "4L, 2"), HEADER.replace("|u1", "a1")):
        path.write_bytes(npy_bytes(header, data=bytes(8)))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with suppress(ValueError):
                load(path)
        assert caught == []


def test_zip_methods_that_numpy_does_not_write_are_refused(written):
    path = written(npz_bytes(zipfile.ZIP_BZIP2, x=grey(4, 2)), "own.npz")
    with pytest.raises(ValueError, match=r"own.npz: x: compressed by a method"):
        load(path)


def test_zip_with_a_wrong_crc_is_refused(written):
    content = npz_bytes(zipfile.ZIP_STORED, x=np.full((4, 4), 77, np.uint8))
    at = content.index(bytes([77] * 16))
    path = written(content[:at] + b"\0" + content[at + 1 :], "own.npz")
    with pytest.raises(ValueError, match=r"own.npz: x: damaged .*CRC"):
        load(path)


def test_not_a_zip_is_refused(written):
    path = written(b"not a zip", "own.npz")
    with pytest.raises(ValueError, match=r"own.npz: damaged .*BadZipFile"):
        load(path)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(edits, st.integers(0, 40), st.sampled_from([".npy", ".npz"]))
@pytest.mark.filterwarnings("ignore::UserWarning")  # NumPy's, of headers from Python 2
def test_mutated_own_files(changes, cut, suffix):
    member = io.BytesIO()
    np.save(member, grey(8, 6) / 255)
    whole = member.getvalue() if suffix == ".npy" else npz_bytes(x=grey(8, 6), y=np.arange(8))
    content = mutated(whole, changes)[: -cut or None]
    data = refuses_or_reads(content, load, suffix)
    assert data is None or (data.x_train.min() >= 0 and data.x_train.max() <= 1)


# Names


def test_load_by_name(full_mnist):
    assert load().name == load("mnist10k").name == "mnist10k"
    assert load("mnist", data_dir=full_mnist).name == "mnist"


@pytest.mark.parametrize("name", ["imagenet", "fashion_mnist", "digits.csv", "", Path("mnist.gz")])
def test_unknown_name(name):
    with pytest.raises(ValueError, match=r"unknown data set '.*'; expected mnist10k, mnist"):
        load(name)


def test_own_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent.npz"):
        load(tmp_path / "absent.npz")


def test_reading_the_embedded_digits_imports_no_rich_and_no_urllib():
    package = Path(scratchvae.datasets.__file__).parents[1]
    program = f"""
import sys, types
package = types.ModuleType("scratchvae")  # its own __init__ is not what is tested here
package.__path__ = [{str(package)!r}]
sys.modules.update({{"scratchvae": package, "rich": None, "urllib.request": None}})
from scratchvae.datasets import mnist10k
print(mnist10k().x_train.shape)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, encoding="utf-8"
    )
    assert done.stdout == "(9000, 784)\n", done.stderr
