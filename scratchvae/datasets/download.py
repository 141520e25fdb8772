"""Download of IDX files: several mirrors, verified contents, nothing half-written left behind."""

import contextlib
import http.client
import math
import secrets
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from scratchvae.datasets.idx import read_idx
from scratchvae.datasets.sources import IdxFile, Source
from scratchvae.files import replace

_CHUNK = 1 << 16
_DAY = 86_400.0


class DownloadError(OSError):
    """No mirror gave the right file, or the folder for it cannot be written."""


class _MirrorError(Exception):
    """Why one mirror failed."""


def download(
    source: Source,
    files: Iterable[IdxFile],
    folder: Path,
    progress: bool = True,
    timeout: float = 20.0,
) -> None:
    """Download files of a source into a folder, each as NAME.gz.

    A file is written under a temporary name, verified (shape, length, SHA-256 of its contents) and
    only then renamed, so that a wrong or cut one is never kept and two downloads at once do not
    mix. Where a mirror fails, the next one is tried; the one that worked is asked first for the
    files that follow.

    Args:
        source: whose mirrors are asked, in order.
        files: which of its files.
        folder: where to; made where it does not exist.
        progress: show a bar on stderr, where that is a terminal.
        timeout: seconds without an answer after which a mirror is given up.

    Raises:
        DownloadError: every mirror failed; one line for each says why, the last what to do by hand.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _download(source, files, folder, progress, timeout)
    except DownloadError:
        raise
    except OSError as error:
        raise DownloadError(
            f"cannot write {source.name} into the folder {folder} ({error}); "
            "name one that holds the files: --data-dir DIR or SCRATCHVAE_DATA=DIR"
        ) from error


def _download(
    source: Source, files: Iterable[IdxFile], folder: Path, progress: bool, timeout: float
) -> None:
    mirrors = list(source.mirrors)
    for file in files:
        _clear_parts(file, folder)
        reasons = []
        for mirror in mirrors:
            url = f"{mirror}{file.name}.gz"
            try:
                _download_one(url, file, folder, progress, timeout)
            except _MirrorError as error:
                reasons.append(f"  {url}: {error}")
            else:
                mirrors.remove(mirror)
                mirrors.insert(0, mirror)
                break
        else:
            names = ", ".join(f"{file.name}.gz" for file in source.files)
            raise DownloadError(
                "\n".join(
                    [
                        f"{source.name}: no mirror gave {file.name}.gz",
                        *reasons,
                        f"By hand: put {names} into {folder}, or into a folder of your own that "
                        "you name with --data-dir DIR or SCRATCHVAE_DATA=DIR.",
                    ]
                )
            )


def _download_one(url: str, file: IdxFile, folder: Path, progress: bool, timeout: float) -> None:
    """Download, verify and rename one file. Raises _MirrorError; leaves no temporary file."""
    # in the same folder, where a rename is atomic, under a name that no other download has
    temporary = folder / f".{file.name}-{secrets.token_hex(4)}.part"
    try:
        with temporary.open("xb") as out:
            for chunk in _fetch(url, _size_limit(file), progress, timeout):
                out.write(chunk)
        try:
            read_idx(temporary, file.shape, file.sha256)
        except ValueError as error:
            raise _MirrorError(str(error).removeprefix(f"{temporary}: ")) from error
        replace(temporary, folder / f"{file.name}.gz")
    finally:
        temporary.unlink(missing_ok=True)


def _clear_parts(file: IdxFile, folder: Path) -> None:
    """Remove what a killed download left: what nobody has written to for a day."""
    for left in folder.glob(f".{file.name}-*.part"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _DAY:
                left.unlink()


def _size_limit(file: IdxFile) -> int:
    """The most bytes that a gzip of the file can take: stored blocks and their framing."""
    contents = 4 + 4 * len(file.shape) + math.prod(file.shape)
    return contents + contents // 1000 + 1024


def _fetch(url: str, limit: int, progress: bool, timeout: float) -> Iterator[bytes]:
    """The body of url in chunks, at most limit bytes. Raises _MirrorError."""
    request = urllib.request.Request(url, headers={"User-Agent": "scratchvae"})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            length = response.headers.get("Content-Length", "")
            total = int(length) if length.isdecimal() else None
            if total is not None and total > limit:
                raise _MirrorError(f"too large: {total} bytes, the file has at most {limit}")
            received = 0
            with _bar(url, total, progress) as advance:
                while chunk := response.read(_CHUNK):
                    received += len(chunk)
                    if received > limit:
                        raise _MirrorError(f"too large: more than {limit} bytes")
                    advance(len(chunk))
                    yield chunk
            # read(n) ends quietly where the connection does.
            if total is not None and received < total:
                raise _MirrorError(f"the connection was cut after {received} of {total} bytes")
    except urllib.error.HTTPError as error:
        error.close()
        raise _MirrorError(f"{error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise _MirrorError(str(error.reason)) from error
    except (OSError, http.client.HTTPException) as error:
        raise _MirrorError(str(error) or type(error).__name__) from error


@contextlib.contextmanager
def _bar(url: str, total: int | None, progress: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr, or nothing; yields what to call with each number of bytes."""
    if not (progress and sys.stderr.isatty()):
        yield lambda n_bytes: None
        return
    # Imported here: rich takes longer to import than the rest of this package.
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, TransferSpeedColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(url.rpartition("/")[2], total=total)
        yield lambda n_bytes: bar.advance(task, n_bytes)
