"""The room `files`: a reader finds the old content or the new, never half of it."""

import errno
import importlib.util
import os
import re
import shutil
import stat
import sys
import threading
from types import SimpleNamespace

import pytest

from scratchvae import files
from scratchvae.files import atomic_write, clear_parts, locked, write_text


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def write_half(path, error):
    with atomic_write(path) as file:
        file.write(b"half of i")
        raise error


def test_the_content_is_there_when_the_block_ends(tmp_path):
    path = tmp_path / "a.bin"
    with atomic_write(path) as file:
        file.write(b"one ")
        file.write(b"two")
        assert not path.exists()
    assert path.read_bytes() == b"one two"
    assert names(tmp_path) == ["a.bin"]


@pytest.mark.skipif(os.name != "posix", reason="Windows replaces no open file")
def test_the_old_content_is_there_until_then(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with path.open("rb") as reader:
        with atomic_write(str(path)) as file:
            file.write(b"new")
            file.flush()
            assert path.read_bytes() == b"old"
        assert path.read_bytes() == b"new"
        assert reader.read() == b"old"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, OSError])
@pytest.mark.parametrize("old", [None, b"old"])
def test_an_error_leaves_everything_as_it_was(error, old, tmp_path):
    path = tmp_path / "a.bin"
    if old is not None:
        path.write_bytes(old)
    with pytest.raises(error, match=r"^mine$"):
        write_half(path, error("mine"))
    assert names(tmp_path) == ([] if old is None else ["a.bin"])
    assert old is None or path.read_bytes() == old


def test_the_bytes_are_on_the_disk_before_the_name_is(tmp_path, monkeypatch):
    path, real, seen = tmp_path / "a.bin", os.fsync, []

    def fsync(descriptor):
        seen.append((os.fstat(descriptor).st_size, path.exists()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with atomic_write(path) as file:
        file.write(b"12345")
    assert seen == [(5, False)]


def test_two_writers_do_not_mix(tmp_path):
    path = tmp_path / "a.bin"
    with atomic_write(path) as first, atomic_write(path) as second:
        first.write(b"a" * 10)
        second.write(b"b" * 5)
        first.write(b"a" * 10)
    assert path.read_bytes() == b"a" * 20  # the last to end
    assert names(tmp_path) == ["a.bin"]


@pytest.mark.skipif(os.name != "posix", reason="permission bits are POSIX")
def test_the_file_has_the_mode_that_the_umask_leaves(tmp_path):
    old = os.umask(0o027)
    try:
        write_text(tmp_path / "a.txt", "")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o640


@pytest.mark.skipif(os.name != "posix", reason="permission bits are POSIX")
def test_a_file_keeps_its_mode(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old", encoding="utf-8")
    path.chmod(0o600)
    write_text(path, "new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.skipif(os.name != "posix", reason="links are for anyone on POSIX")
def test_a_link_stays_one(tmp_path):
    (tmp_path / "there").mkdir()
    link, path = tmp_path / "a.txt", tmp_path / "there" / "b.txt"
    for old in (None, "old"):
        if old:
            path.write_text(old, encoding="utf-8")
        link.unlink(missing_ok=True)
        link.symlink_to(path)
        write_text(link, "new")
        assert link.is_symlink()
        assert path.read_text(encoding="utf-8") == "new"
    left = path.with_name(".b.txt.0123.part")
    left.write_text("", encoding="utf-8")
    clear_parts(link)
    assert names(tmp_path / "there") == ["b.txt"]


def test_errors_name_the_file_and_not_the_temporary_one(tmp_path):
    path = tmp_path / "none" / "a.txt"
    with pytest.raises(FileNotFoundError, match=re.escape(f"directory: {str(path)!r}")):
        write_text(path, "text")
    (tmp_path / "file").write_text("", encoding="utf-8")
    path = tmp_path / "file" / "a.txt"
    found = NotADirectoryError if os.name == "posix" else FileNotFoundError
    with pytest.raises(found, match=re.escape(f"directory: {str(path)!r}")):
        write_text(path, "text")
    path = tmp_path / "directory"
    path.mkdir()
    found, why = (IsADirectoryError, "directory") if os.name == "posix" else (PermissionError, "")
    with pytest.raises(found, match=re.escape(f"{why}: {str(path)!r}") + "$"):
        write_text(path, "text")
    assert names(tmp_path) == ["directory", "file"]


def test_an_error_about_another_file_keeps_its_name(tmp_path):
    missing = str(tmp_path / "input.txt")
    with pytest.raises(FileNotFoundError) as caught, atomic_write(tmp_path / "a.txt"):
        open(missing)  # noqa: PTH123, SIM115
    assert caught.value.filename == missing


@pytest.mark.skipif(os.name != "posix", reason="Windows removes no open file")
def test_a_directory_that_is_deleted_meanwhile(tmp_path):
    directory = tmp_path / "run"
    directory.mkdir()
    path = directory / "a.txt"
    with pytest.raises(FileNotFoundError, match=re.escape(f"'{path}'")), atomic_write(path):
        shutil.rmtree(directory)


def test_a_full_disk_leaves_the_old_file(tmp_path):
    """A limit on the size of files stands for the full disk; both fail in write."""
    resource = pytest.importorskip("resource", reason="POSIX only")
    path = tmp_path / "a.txt"
    write_text(path, "old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match=re.escape(f"'{path}'")) as caught:
            write_text(path, "new" * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG
    assert path.read_text(encoding="utf-8") == "old"
    assert names(tmp_path) == ["a.txt"]


def test_text_is_utf_8_with_the_lines_as_given(tmp_path):
    write_text(tmp_path / "a.txt", "誤差\n逆伝播\n")
    assert (tmp_path / "a.txt").read_bytes() == "誤差\n逆伝播\n".encode()


# --- what a killed program leaves, and two at once ---


def test_left_over_parts_of_one_file_are_cleared(tmp_path):
    path = tmp_path / "a[1].txt"
    with atomic_write(path):
        (part,) = names(tmp_path)
    others = [".a[1].txt.part", ".a1.txt.0badcafe.part", "a[1].txt", ".b.txt.0badcafe.part"]
    for name in (part, *others):
        (tmp_path / name).write_text("half", encoding="utf-8")
    clear_parts(path)
    assert names(tmp_path) == sorted(others)


def test_one_holds_a_lock(tmp_path):
    path = tmp_path / ".lock"
    path.write_text("left by a process that was killed", encoding="utf-8")
    with locked(path):
        for _ in range(2):
            with pytest.raises(BlockingIOError), locked(path):
                pass
    assert names(tmp_path) == []
    with locked(path):
        assert names(tmp_path) == [".lock"]


def test_one_waits_for_a_lock(tmp_path):
    path, order = tmp_path / ".lock", []

    def second():
        with files.locked(path, wait=True):
            order.append("second")

    thread = threading.Thread(target=second)
    with files.locked(path):
        thread.start()
        thread.join(0.2)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


@pytest.mark.skipif(os.name != "posix", reason="Windows removes no open file")
def test_a_lock_that_is_taken_away_while_one_waits_for_it_is_none(tmp_path, monkeypatch):
    """Between our opening and locking it, its holder removes it, and then another makes one."""
    path, real, calls = tmp_path / ".lock", files._lock, []

    def lock(descriptor):
        calls.append(descriptor)
        if len(calls) == 1:
            path.unlink()
        elif len(calls) == 2:
            path.rename(tmp_path / "removed")
            path.touch()
        real(descriptor)

    monkeypatch.setattr(files, "_lock", lock)
    with locked(path):
        assert len(calls) == 3
        with pytest.raises(BlockingIOError), locked(path):
            pass


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl", reason="POSIX only")

    def flock(descriptor, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with locked(tmp_path / ".lock"):
        pass
    assert names(tmp_path) == []


@pytest.fixture
def on_windows(monkeypatch):
    """The room as Windows would load it, over a stand-in for Windows' locks."""
    fcntl = pytest.importorskip("fcntl", reason="the stand-in needs POSIX")

    def locking(descriptor, mode, n_bytes):
        assert (mode, n_bytes) == ("LK_NBLCK", 1)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PermissionError(errno.EACCES, "Permission denied") from None

    spec = importlib.util.find_spec("scratchvae.files")
    room = importlib.util.module_from_spec(spec)
    msvcrt = SimpleNamespace(locking=locking, LK_NBLCK="LK_NBLCK")
    monkeypatch.setitem(sys.modules, "msvcrt", msvcrt)
    monkeypatch.setattr(sys, "platform", "win32")
    spec.loader.exec_module(room)
    return room


@pytest.mark.parametrize(("refusals", "late"), [(3, False), (10**6, True)])
def test_a_file_that_is_open_elsewhere_on_windows(
    on_windows, tmp_path, monkeypatch, refusals, late
):
    """A virus scanner looks at it, say; who holds it for long is an error."""
    real, slept = on_windows.Path.replace, []

    def replace(source, target):
        if len(slept) < refusals:
            raise PermissionError(errno.EACCES, "Access is denied", str(source), None, str(target))
        return real(source, target)

    monkeypatch.setattr(on_windows.Path, "replace", replace)
    monkeypatch.setattr(on_windows.time, "sleep", slept.append)
    path = tmp_path / "a.txt"
    path.write_text("old", encoding="utf-8")
    if late:
        with pytest.raises(PermissionError, match=re.escape(str(path))):
            on_windows.write_text(path, "new")
        assert 1 < sum(slept) < 4
    else:
        on_windows.write_text(path, "new")
    assert path.read_text(encoding="utf-8") == ("old" if late else "new")
    assert names(tmp_path) == ["a.txt"]


def test_one_holds_a_lock_on_windows(on_windows, tmp_path, monkeypatch):
    def refuse(path, missing_ok=False):  # an open file, there
        raise PermissionError(errno.EACCES, "The process cannot access the file", str(path))

    monkeypatch.setattr(on_windows.Path, "unlink", refuse)
    path = tmp_path / ".lock"
    for _ in range(2):
        with on_windows.locked(path):
            with pytest.raises(BlockingIOError), on_windows.locked(path):
                pass
            with pytest.raises(BlockingIOError), locked(path):  # it is a lock indeed
                pass
    assert names(tmp_path) == [".lock"]
