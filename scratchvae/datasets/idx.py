"""IDX, the file format of MNIST (Y. LeCun, http://yann.lecun.com/exdb/mnist/).

bytes 0, 1   zero
byte  2      type of the elements; 0x08 is the unsigned byte, the only one read here
byte  3      the number of dimensions n
4 n bytes    the dimensions, big-endian unsigned 32-bit
the rest     the elements, row-major
"""

import gzip
import hashlib
import io
import math
import os
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scratchvae.arrays import Stream, most_held, read_exactly

GZIP_MAGIC = b"\x1f\x8b"


def read_idx(
    path: Path, shape: tuple[int | None, ...], sha256: str | None = None
) -> NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes, gzipped or not (its first bytes decide, not its name).

    Magic, element type, dimensions and length are checked before the array is allocated, and
    decompression stops at the length that the header promises.

    Args:
        path: the file.
        shape: the expected shape; None stands for any length along that dimension.
        sha256: hexadecimal SHA-256 of the uncompressed file, header included; None: not checked.

    Raises:
        ValueError: the file is not IDX, is of another type or shape, is too short or too long, is
            damaged gzip, or has another checksum. The message names the file.
        OSError: the file cannot be opened or read.
    """
    with path.open("rb") as file:
        try:
            return _read(file, shape, sha256)
        except (ValueError, EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{path}: {error}") from error


def _read(
    file: io.BufferedReader, shape: tuple[int | None, ...], sha256: str | None
) -> NDArray[np.uint8]:
    size = os.fstat(file.fileno()).st_size
    gzipped = file.read(2) == GZIP_MAGIC
    file.seek(0)
    stream: Stream = gzip.GzipFile(fileobj=file) if gzipped else file

    magic = stream.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0":
        raise ValueError(f"not an IDX file: begins with {magic.hex(' ') or 'nothing'}, not 00 00")
    if magic[2] != 0x08:
        raise ValueError(f"elements of IDX type 0x{magic[2]:02x}; expected unsigned bytes, 0x08")
    if magic[3] != len(shape):
        raise ValueError(f"{magic[3]} dimensions in the header; expected {len(shape)}")
    header = stream.read(4 * len(shape))
    if len(header) < 4 * len(shape):
        raise ValueError("ends within its header")
    dimensions = struct.unpack(f">{len(shape)}I", header)
    if any(wanted not in (None, got) for wanted, got in zip(shape, dimensions, strict=True)):
        expected = tuple("any" if n is None else n for n in shape)
        raise ValueError(f"shape {dimensions} in the header; expected {expected}")
    if 0 in dimensions:
        raise ValueError(f"shape {dimensions} in the header: empty")

    promised = math.prod(dimensions)
    held = most_held(size) if gzipped else size - len(magic) - len(header)
    if promised > held or not (gzipped or promised == held):
        bound = "at most " if gzipped else ""
        raise ValueError(f"the header promises {promised} bytes of data; there are {bound}{held}")
    data = read_exactly(stream, promised)
    if sha256 is not None:
        digest = hashlib.sha256(magic + header)
        digest.update(data.data)
        if digest.hexdigest() != sha256:
            raise ValueError(
                f"SHA-256 of the contents is {digest.hexdigest()}, expected {sha256}: damaged, or "
                "another data set under the same name"
            )
    return data.reshape(dimensions)
