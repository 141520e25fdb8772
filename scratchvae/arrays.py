"""Reading NumPy's files without pickle, in memory bounded by what the file can hold."""

from __future__ import annotations

import contextlib
import io
import math
import os
import warnings
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
# What tells the truth may be a bomb. Digits in black and white compress 98-fold in float64.
MAX_RATIO, SMALL = 200, 1 << 24
_MAX_MESSAGE = 500
_CHUNK = 1 << 20
_HEADER_READERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
_MAX_HEADER = 1_000  # NumPy writes 118 bytes; its parser takes 600 times as many


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
    path: Path,
    choose: Callable[[Iterable[str]], Iterable[str]] = tuple,
    *,
    compressed: bool = True,
) -> dict[str, NDArray[Any]]:
    """Read the arrays of a `.npz` file by name, all of them together at most `most_held` bytes.

    Args:
        path: the file.
        choose: given the names in the file, says which of them to read; by default all.
        compressed: whether the arrays may take more bytes than the file has.

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
            sizes = {}
            for key in choose(members):
                with naming(key):
                    sizes[key] = _member_size(members[key], size)
            total = sum(sizes.values())
            if total > (most_held(size) if compressed else size):
                raise ValueError(
                    f"its arrays take {total} bytes, the file has {size}; "
                    "save them uncompressed, with np.savez"
                )
            arrays = {}
            for key, its in sizes.items():
                with naming(key), archive.open(members[key]) as stream:
                    arrays[key] = _read_array(stream, its)
            return arrays


def most_held(size: int) -> int:
    """How many bytes are read at most out of a compressed file of `size` bytes."""
    return min(MAX_DEFLATE_RATIO * size, max(MAX_RATIO * size, SMALL))


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
    with warnings.catch_warnings():  # about headers of Python 2 and old names of types
        warnings.simplefilter("ignore")
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
        raise ValueError(f"{where}: {one_line(error)}") from error
    except MemoryError:  # the file may be right
        raise
    # zipfile and NumPy's header parser document no complete list of what they raise.
    except Exception as error:
        what = one_line(f"{type(error).__name__}: {error}")
        raise ValueError(f"{where}: damaged ({what})") from error


def one_line(text: object) -> str:
    """What a file's bytes have got into, fit for a terminal: one line, not endless, no escapes."""
    line = " ".join(str(text).split())
    line = line if len(line) <= _MAX_MESSAGE else f"{line[:_MAX_MESSAGE]} ..."
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
