"""The smallest writer of PNG files: 8-bit greyscale, compressed, nothing else."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import numpy.typing as npt


def png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Return the PNG of pixels (height, width), 0 black to 255 white.

    W3C, "Portable Network Graphics (PNG) Specification", sections 5 and 11.2; every line has the
    filter "none".
    """
    height, width = pixels.shape
    lines = np.insert(pixels, 0, 0, axis=1).tobytes()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines, 6)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )
