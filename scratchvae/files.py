"""Writing files so that a reader finds the old content or the new, never half of it."""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import IO

_PART = ".{}.{}.part"
_PATIENCE = 2.0  # seconds for which a file may be open elsewhere, on Windows


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Yield a binary file whose content becomes ``path`` when the block ends without an error.

    It is written beside ``path``, flushed to the disk, and renamed over it. After an error nothing
    is left behind and ``path`` is as it was. The new file may be read by whom the old one was, and
    where ``path`` is a link it stays one.
    """
    target = _target(path)
    temporary = target.with_name(_PART.format(target.name, secrets.token_hex(4)))
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        with suppress(OSError):  # there is no old file, or no modes here
            temporary.chmod(target.stat().st_mode)
        replace(temporary, target)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and error.errno and error.filename in (None, str(temporary)):
            raise OSError(error.errno, error.strerror, str(target)) from None  # not the .part
        raise


def replace(source: Path, target: Path) -> None:
    """Rename ``source`` to ``target``, over what is there.

    Windows refuses that while somebody has the target open, and a virus scanner or a browser opens
    it now and then: there the refusal counts after two seconds only.
    """
    for _ in range(int(_PATIENCE / 0.05) if sys.platform == "win32" else 0):
        try:
            source.replace(target)
        except PermissionError:
            time.sleep(0.05)
        else:
            return
    source.replace(target)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` as UTF-8 to ``path``, atomically."""
    with atomic_write(path) as file:
        file.write(text.encode())


def _target(path: str | os.PathLike[str]) -> Path:
    """Return where the content of ``path`` lies; a link may lead elsewhere."""
    target = Path(path)
    return Path(os.path.realpath(target)) if target.is_symlink() else target


def clear_parts(path: str | os.PathLike[str]) -> None:
    """Remove what killed programs left of ``path``; only where nobody else can be writing it."""
    target = _target(path)
    for left in target.parent.glob(_PART.format(escape(target.name), "*")):
        with suppress(OSError):
            left.unlink()


def free_name(path: str | os.PathLike[str], ending: str) -> Path:
    """Return the first of ``path``.``ending``-1, -2 ... that is not there."""
    target, number = Path(path), 1
    while (free := target.with_name(f"{target.name}.{ending}-{number}")).exists():
        number += 1
    return free


@contextmanager
def locked(path: str | os.PathLike[str], *, wait: bool = False) -> Iterator[None]:
    """Hold the lock file ``path`` during the block. Where another holds it: ``wait``, or
    BlockingIOError.

    The system takes the lock from a process that ends, however it ends: a file that was left behind
    keeps nobody out. On a file system without locks there is none.
    """
    target = Path(path)
    while True:
        file = target.open("ab")
        try:
            _lock(file.fileno())
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), target.stat()):
                    break
        except BlockingIOError:
            file.close()
            if not wait:
                raise
            time.sleep(0.05)
            continue
        except BaseException:
            file.close()
            raise
        file.close()  # who held it has ended meanwhile, and taken it away
    try:
        yield
    finally:
        if sys.platform == "win32":  # which removes a file only where nobody has it open
            file.close()
        with suppress(OSError):
            target.unlink()
        file.close()


if sys.platform == "win32":  # pragma: no cover

    def _lock(descriptor: int) -> None:
        import msvcrt

        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            raise BlockingIOError(error.errno, error.strerror) from None

else:

    def _lock(descriptor: int) -> None:
        import fcntl

        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:  # no locks here
            pass
