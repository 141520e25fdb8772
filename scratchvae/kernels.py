"""Whether NumPy's matrix products could be faster on this processor.

OpenBLAS looks at the processor when it loads. The wheels of NumPy 2.0 to 2.4 see AVX-512 on AMD and
on Intel; a build that does not, or the variable OPENBLAS_CORETYPE set to an older processor, costs
half of the speed of the products (measured by `python -m benchmarks`).
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

VARIABLE = "OPENBLAS_CORETYPE"
WIDE = "SkylakeX"
#: What OpenBLAS's SkylakeX kernels are compiled for.
NEEDED = frozenset({"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"})
#: OpenBLAS's kernels for x86-64 that make do without AVX-512.
NARROW = frozenset({"haswell", "zen", "sandybridge", "nehalem", "prescott", "excavator"})


def advice(architecture: str, avx512: bool | None = None) -> str | None:
    """Say what would be faster than the OpenBLAS kernels `architecture`; None if nothing would."""
    if architecture.lower() not in NARROW or not (has_avx512() if avx512 is None else avx512):
        return None
    if VARIABLE in os.environ:
        return f"{VARIABLE}={os.environ[VARIABLE]} is set: this processor is faster without it"
    return f"{VARIABLE}={WIDE} would be faster: this processor has AVX-512"


def has_avx512(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor, and the system, have what the wide kernels need."""
    if sys.platform == "win32":  # 41: PF_AVX512F_INSTRUCTIONS_AVAILABLE
        import ctypes

        return bool(ctypes.windll.kernel32.IsProcessorFeaturePresent(41))
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:  # macOS: no Mac that Apple still supports has AVX-512 and OpenBLAS
        return False
    flags = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    return flags is not None and set(flags[1].split()) >= NEEDED
