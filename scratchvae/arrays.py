"""Reading NumPy's files without pickle, in memory bounded by what the file can hold."""

from __future__ import annotations

import contextlib
import io
import math
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

# One bit of deflate yields at most 129 bytes (zlib's technical details: 1032:1). Whatever claims to
# hold more than this multiple of its compressed size lies, and is refused before memory is asked.
MAX_DEFLATE_RATIO = 1032
_CHUNK = 1 << 20
_HEADER_READERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
_MAX_HEADER = 10_000


class Stream(Protocol):
    """What is read from: a file, or the decompressed side of one."""

    def read(self, size: int = ..., /) -> bytes:
        """At most size bytes; none at the end."""


def read_npy(path: Path) -> NDArray[Any]:
    """Read the array of a `.npy` file.

    Raises:
        ValueError: the file is damaged or holds Python objects; the message names it.
        OSError: the file cannot be opened.
    """
    with path.open("rb") as file, naming(str(path)):
        return _read_array(file, os.fstat(file.fileno()).st_size)


def read_npz(
    path: Path, choose: Callable[[Iterable[str]], Iterable[str]] = tuple
) -> dict[str, NDArray[Any]]:
    """Read the arrays of a `.npz` file by name.

    Args:
        path: the file.
        choose: given the names in the file, says which of them to read; by default all.

    Raises:
        ValueError: as for `read_npy`, and what `choose` raises, behind the file's name.
        OSError: the file cannot be opened.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        with naming(str(path)), zipfile.ZipFile(file) as archive:
            members = {
                info.filename.removesuffix(".npy"): info
                for info in archive.infolist()
                if info.filename.endswith(".npy")
            }
            arrays = {}
            for key in choose(members):
                with naming(key), archive.open(members[key]) as stream:
                    arrays[key] = _read_array(stream, _member_size(members[key], size))
            return arrays


def _member_size(info: zipfile.ZipInfo, archive_size: int) -> int:
    """The uncompressed size that a zip member declares, if its compressed form can hold it."""
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError("compressed by a method that NumPy does not write; save it with np.savez")
    if info.file_size > MAX_DEFLATE_RATIO * min(info.compress_size, archive_size):
        raise ValueError(f"declares {info.file_size} bytes, more than its compressed form can hold")
    return info.file_size


def _read_array(stream: Stream, size: int) -> NDArray[Any]:
    """Read a stream of size bytes in the .npy format (numpy.lib.format), without pickle."""
    version = npy.read_magic(stream)
    if version not in _HEADER_READERS:
        raise ValueError(f"version {version} of the .npy format is not read; save it with np.save")
    prefix = stream.read(2 if version == (1, 0) else 4)
    n_header = int.from_bytes(prefix, "little")
    if n_header > _MAX_HEADER:
        raise ValueError(
            f"its .npy header is {n_header} bytes long; at most {_MAX_HEADER} are read"
        )
    header = prefix + stream.read(n_header)
    shape, fortran_order, dtype = _HEADER_READERS[version](io.BytesIO(header))
    if dtype.hasobject:
        raise ValueError(
            "holds Python objects, which only pickle could read; save numbers of one type and shape"
        )
    if any(n < 0 for n in shape):
        raise ValueError(f"shape {shape} in the header")
    promised, held = math.prod(shape) * dtype.itemsize, size - npy.MAGIC_LEN - len(header)
    if promised != held:
        raise ValueError(
            f"the header promises {promised} bytes ({dtype}, shape {shape}), there are {held}"
        )
    data = read_exactly(stream, promised).view(dtype)
    return data.reshape(shape, order="F" if fortran_order else "C")


def read_exactly(stream: Stream, n_bytes: int) -> NDArray[np.uint8]:
    """Read the whole rest of a stream, which must be n_bytes, into a new array (n_bytes,).

    Raises:
        ValueError: the stream is shorter or longer.
    """
    data = np.empty(n_bytes, dtype=np.uint8)
    filled = 0
    while chunk := stream.read(min(_CHUNK, n_bytes - filled)):
        data.data[filled : filled + len(chunk)] = chunk
        filled += len(chunk)
    if filled < n_bytes:
        raise ValueError(f"ends after {filled} of {n_bytes} bytes of data")
    if stream.read(1):
        raise ValueError(f"goes on after the {n_bytes} bytes of data that its header promises")
    return data


@contextlib.contextmanager
def naming(where: str) -> Iterator[None]:
    """Turn whatever a parser raises on bytes that nobody wrote on purpose into a ValueError."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    # zipfile and NumPy's header parser document no complete list of what they raise.
    except Exception as error:
        raise ValueError(f"{where}: damaged ({type(error).__name__}: {error})") from error
