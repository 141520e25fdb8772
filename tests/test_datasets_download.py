"""The downloader against a server on the loopback; nothing here leaves the machine."""

import gzip
import hashlib
import io
import os
import re
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from scratchvae.datasets.download import DownloadError, download
from scratchvae.datasets.idx import read_idx
from scratchvae.datasets.loaders import load_source
from scratchvae.datasets.sources import IdxFile, Source
from scratchvae.places import cache_dir

MiB = 1 << 20


def idx_bytes(array):
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.tobytes()


ARRAYS = {
    "train-images-idx3-ubyte": np.random.default_rng(0).integers(
        256, size=(40, 28, 28), dtype="u1"
    ),
    "train-labels-idx1-ubyte": np.arange(40, dtype="u1") % 10,
    "t10k-images-idx3-ubyte": np.random.default_rng(1).integers(256, size=(10, 28, 28), dtype="u1"),
    "t10k-labels-idx1-ubyte": np.arange(10, dtype="u1"),
}
CONTENTS = {name: idx_bytes(array) for name, array in ARRAYS.items()}
FILES = [
    IdxFile(name, array.shape, hashlib.sha256(CONTENTS[name]).hexdigest())
    for name, array in ARRAYS.items()
]
IMAGES = FILES[0]


def source(*mirrors):
    return Source("tiny", *FILES, mirrors=mirrors)


@pytest.fixture(autouse=True)
def own_cache_and_no_proxy(monkeypatch, tmp_path_factory):
    home = str(tmp_path_factory.mktemp("home"))
    monkeypatch.delenv("SCRATCHVAE_DATA", raising=False)
    for name in ("HOME", "USERPROFILE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(name, home)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def server():
    """A server whose first path component picks the behaviour: server.routes[name](handler)."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            _, behaviour, name = self.path.split("/")
            http.requests.append(f"{behaviour}/{name}")
            try:
                http.routes[behaviour](self, name.removesuffix(".gz"))
            except ConnectionError:  # the client hung up, as some tests want it to
                self.close_connection = True

        def log_message(self, *args):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.requests = []
    http.routes = {"good": good, "absent": absent}
    http.mirror = lambda name: f"http://127.0.0.1:{http.server_port}/{name}/"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield http
    http.shutdown()
    thread.join()
    http.server_close()


def answer(handler, body, length=None):
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body) if length is None else length))
    handler.end_headers()
    handler.wfile.write(body)


def good(handler, name):
    answer(handler, gzip.compress(CONTENTS[name]))


def absent(handler, name):
    handler.send_error(404)


def serving(body):
    return lambda handler, name: answer(handler, body)


def cut(handler, name):
    body = gzip.compress(CONTENTS[name])
    answer(handler, body[: len(body) // 2], len(body))


def refused(folder, mirror, files=(IMAGES,), **options):
    """The reason for which one mirror is refused; nothing is kept."""
    with pytest.raises(DownloadError) as caught:
        download(source(mirror), files, folder, **options)
    assert list(folder.iterdir()) == []
    _, reason, by_hand = str(caught.value).split("\n")
    assert reason.startswith(f"  {mirror}{files[0].name}.gz: ")
    assert str(folder) in by_hand
    return reason


def test_success(server, tmp_path):
    folder = tmp_path / "made" / "on the way"
    download(source(server.mirror("good")), FILES, folder)
    assert sorted(path.name for path in folder.iterdir()) == sorted(f"{f.name}.gz" for f in FILES)
    for file in FILES:
        read = read_idx(folder / f"{file.name}.gz", file.shape, file.sha256)
        np.testing.assert_array_equal(read, ARRAYS[file.name])


def test_only_the_files_asked_for(server, tmp_path):
    download(source(server.mirror("good")), [IMAGES], tmp_path)
    assert server.requests == [f"good/{IMAGES.name}.gz"]


def test_any_compression_of_the_right_contents_is_right(server, tmp_path):
    """Also a server that has decompressed the file: its contents are what is verified."""
    server.routes["plain"] = serving(CONTENTS[IMAGES.name])
    server.routes["stored"] = serving(gzip.compress(CONTENTS[IMAGES.name], compresslevel=0))
    for name in ("plain", "stored"):
        download(source(server.mirror(name)), [IMAGES], tmp_path)
        read_idx(tmp_path / f"{IMAGES.name}.gz", IMAGES.shape, IMAGES.sha256)


def test_404_then_the_next_mirror_which_is_then_asked_first(server, tmp_path):
    download(source(server.mirror("absent"), server.mirror("good")), FILES[:3], tmp_path)
    names = [f"{file.name}.gz" for file in FILES[:3]]
    assert server.requests == [f"absent/{names[0]}", *(f"good/{name}" for name in names)]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


@pytest.mark.parametrize(
    "behaviour",
    [
        cut,
        serving(b""),
        serving(b"<html>Sorry, we have moved.</html>"),
        serving(gzip.compress(CONTENTS["t10k-images-idx3-ubyte"])),
    ],
)
def test_a_bad_mirror_leaves_nothing_and_the_next_is_tried(server, tmp_path, behaviour):
    server.routes["bad"] = behaviour
    refused(tmp_path, server.mirror("bad"))
    download(source(server.mirror("bad"), server.mirror("good")), [IMAGES], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [f"{IMAGES.name}.gz"]
    read_idx(tmp_path / f"{IMAGES.name}.gz", IMAGES.shape, IMAGES.sha256)


def test_cut_connection(server, tmp_path):
    server.routes["cut"] = cut
    reason = refused(tmp_path, server.mirror("cut"))
    assert re.search(r"the connection was cut after \d+ of \d+ bytes", reason)


def test_cut_connection_without_a_length(server, tmp_path):
    def cut_silently(handler, name):
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(gzip.compress(CONTENTS[name])[:-100])

    server.routes["cut"] = cut_silently
    assert "ended before the end-of-stream" in refused(tmp_path, server.mirror("cut"))


def test_connection_closed_before_the_answer(server, tmp_path):
    server.routes["rude"] = lambda handler, name: handler.connection.close()
    refused(tmp_path, server.mirror("rude"))


def test_wrong_checksum(server, tmp_path):
    wrong = bytearray(CONTENTS[IMAGES.name])
    wrong[-1] ^= 1
    server.routes["wrong"] = serving(gzip.compress(bytes(wrong)))
    reason = refused(tmp_path, server.mirror("wrong"))
    assert f"SHA-256 of the contents is {hashlib.sha256(wrong).hexdigest()}" in reason
    assert str(tmp_path) not in reason  # the temporary file's name tells nobody anything


BOMB_HEADS = {
    "the right header": (CONTENTS[IMAGES.name][:16], "goes on after"),
    "no header": (b"", "dimensions|type"),
    "a header that promises 3 TB": (b"\0\0\x08\x03" + b"\xff" * 4 + b"\0\0\0\x1c" * 2, "shape"),
}


@pytest.mark.parametrize("head", BOMB_HEADS)
def test_gzip_bomb(server, tmp_path, head):
    start, expected = BOMB_HEADS[head]
    bomb = gzip.compress(start + bytes(24 * MiB))
    assert len(bomb) < len(CONTENTS[IMAGES.name])
    server.routes["bomb"] = serving(bomb)
    tracemalloc.start()
    try:
        reason = refused(tmp_path, server.mirror("bomb"))
        assert tracemalloc.get_traced_memory()[1] < 2 * MiB
    finally:
        tracemalloc.stop()
    assert re.search(expected, reason)


def test_too_large_by_its_own_word(server, tmp_path):
    server.routes["large"] = lambda handler, name: answer(handler, b"", 10**12)
    assert "too large: 1000000000000 bytes" in refused(tmp_path, server.mirror("large"))


@pytest.mark.parametrize("n_bytes", [1 << 16, 1 << 62])
def test_too_large_without_a_word(server, tmp_path, n_bytes):
    def unannounced(handler, name):
        handler.send_response(200)
        handler.end_headers()
        for _ in range(n_bytes >> 16):
            handler.wfile.write(bytes(1 << 16))

    server.routes["unannounced"] = unannounced
    assert "too large: more than" in refused(tmp_path, server.mirror("unannounced"))


def test_a_mirror_that_never_answers(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        mirror = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        assert "timed out" in refused(tmp_path, mirror, timeout=0.05)


def test_all_mirrors_down(server, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}/"
    with pytest.raises(DownloadError) as caught:
        download(source(nobody, server.mirror("absent")), FILES, tmp_path)
    first, down, missing, by_hand = str(caught.value).split("\n")
    assert first == "tiny: no mirror gave train-images-idx3-ubyte.gz"
    assert down.startswith(f"  {nobody}train-images-idx3-ubyte.gz: ")
    assert ("refused" if os.name == "posix" else "10061") in down  # Windows speaks Japanese
    assert missing.endswith("train-images-idx3-ubyte.gz: 404 Not Found")
    for part in (*(file.name for file in FILES), str(tmp_path), "--data-dir", "SCRATCHVAE_DATA"):
        assert part in by_hand
    assert list(tmp_path.iterdir()) == []


def test_folder_that_cannot_be_made(server, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DownloadError, match=r"write tiny into the folder .*file.*--data-dir"):
        download(source(server.mirror("good")), FILES, tmp_path / "file" / "tiny")
    assert server.requests == []


def test_folder_that_cannot_be_written(server, tmp_path, monkeypatch):
    def denied(path, mode="r"):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", denied)  # root may write anywhere
    with pytest.raises(DownloadError, match=r"Permission denied.*name one that holds the files"):
        download(source(server.mirror("good")), FILES, tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="permission bits are POSIX")
def test_what_is_downloaded_has_the_mode_that_the_umask_leaves(server, tmp_path):
    old = os.umask(0o027)
    try:
        download(source(server.mirror("good")), FILES, tmp_path)
    finally:
        os.umask(old)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o640}


def test_two_downloads_at_once(server, tmp_path):
    together = threading.Barrier(2)

    def meet(handler, name):
        together.wait(timeout=30)  # so that neither begins when the other is done
        good(handler, name)

    server.routes["meet"] = meet
    with ThreadPoolExecutor(2) as pool:
        both = [
            pool.submit(download, source(server.mirror("meet")), FILES, tmp_path) for _ in range(2)
        ]
        for one in both:
            one.result()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"{f.name}.gz" for f in FILES)
    for file in FILES:
        read_idx(tmp_path / f"{file.name}.gz", file.shape, file.sha256)


def test_what_a_killed_download_left_is_cleared_a_day_later(server, tmp_path):
    old, fresh = (tmp_path / f".{IMAGES.name}-{word}.part" for word in ("old", "fresh"))
    for part, age in ((old, 90_000), (fresh, 80_000)):
        part.write_bytes(b"half")
        os.utime(part, (time.time() - age,) * 2)
    download(source(server.mirror("good")), [IMAGES], tmp_path)
    assert not old.exists()
    assert fresh.exists()  # another download may be at it


DOWNLOADER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from scratchvae.datasets.download import download
from test_datasets_download import FILES, source
print("ready", flush=True)
sys.stdin.readline()
download(source(sys.argv[2]), FILES, Path(sys.argv[1]))
"""


def test_a_download_that_is_killed_while_another_goes_on(server, tmp_path):
    """Two processes, one cache: one is killed in the middle, the other's files are whole."""
    asked = threading.Event()

    def stall(handler, name):
        body = gzip.compress(CONTENTS[name])
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body[: len(body) // 2])
        handler.wfile.flush()
        asked.set()
        killed.wait(timeout=60)

    killed = threading.Event()
    server.routes["stall"] = stall
    words = [str(tmp_path), server.mirror("stall"), str(Path(__file__).parent)]
    with subprocess.Popen(
        [sys.executable, "-c", DOWNLOADER, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[1],
    ) as other:
        try:
            assert other.stdout.readline() == f"ready{os.linesep}".encode()
            other.stdin.write(b"\n")
            other.stdin.flush()
            assert asked.wait(timeout=60)
            download(source(server.mirror("good")), FILES, tmp_path)
        finally:
            other.kill()
            other.communicate()
            killed.set()
    for file in FILES:
        read_idx(tmp_path / f"{file.name}.gz", file.shape, file.sha256)
    left = [path.name for path in tmp_path.iterdir() if path.suffix != ".gz"]
    assert len(left) == 1
    assert left[0].endswith(".part")


def test_interrupt_leaves_nothing(server, tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            raise KeyboardInterrupt

    monkeypatch.setattr(sys, "stderr", Terminal())
    with pytest.raises(KeyboardInterrupt):
        download(source(server.mirror("good")), FILES, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("is_terminal", "progress"), [(True, True), (True, False), (False, True)])
def test_bar_only_when_wanted_and_on_a_terminal(
    server, tmp_path, monkeypatch, capsys, is_terminal, progress
):
    stderr = io.StringIO()
    stderr.isatty = lambda: is_terminal
    monkeypatch.setattr(sys, "stderr", stderr)
    download(source(server.mirror("good")), [IMAGES], tmp_path, progress=progress)
    if is_terminal and progress:
        assert f"{IMAGES.name}.gz" in stderr.getvalue()
        assert "kB" in stderr.getvalue()
    else:
        assert stderr.getvalue() == ""
    assert capsys.readouterr().out == ""


# Through the cache


def test_downloaded_once_then_read_from_the_cache(server):
    for _ in range(2):
        data = load_source(source(server.mirror("good")))
        assert data.name == "tiny"
        assert data.x_train.shape == (40, 784)
        assert data.y_test.tolist() == list(range(10))
        assert len(server.requests) == 4
    assert len(list((cache_dir() / "tiny").iterdir())) == 4


def test_only_what_the_cache_lacks_is_downloaded(server):
    folder = cache_dir() / "tiny"
    folder.mkdir(parents=True)
    (folder / "train-images.idx3-ubyte").write_bytes(CONTENTS["train-images-idx3-ubyte"])
    load_source(source(server.mirror("good")))
    assert [request.partition("/")[2] for request in server.requests] == [
        f"{file.name}.gz" for file in FILES[1:]
    ]


def test_the_right_one_of_two_files_in_the_cache_is_read(server):
    folder = cache_dir() / "tiny"
    load_source(source(server.mirror("good")))
    (folder / f"{IMAGES.name}.gz").write_bytes(b"damaged")
    (folder / IMAGES.name).write_bytes(CONTENTS[IMAGES.name])
    load_source(source(server.mirror("absent")))
    assert len(server.requests) == 4


def test_damaged_file_in_the_cache_is_downloaded_again(server):
    expected = load_source(source(server.mirror("good"))).x_train
    damaged = cache_dir() / "tiny" / f"{IMAGES.name}.gz"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    np.testing.assert_array_equal(load_source(source(server.mirror("good"))).x_train, expected)
    assert len(server.requests) == 5
    damaged.write_bytes(b"damaged")
    with pytest.raises(DownloadError):
        load_source(source(server.mirror("absent")))
    assert damaged.read_bytes() == b"damaged"
