import subprocess
import sys

import pytest

from scratchvae import kernels

FLAGS = "processor : 0\nvendor_id : AuthenticAMD\nflags\t\t: fpu sse2 avx2 {} lm\n"
ALL = "avx512f avx512dq avx512cd avx512bw avx512vl"


@pytest.mark.parametrize(
    ("text", "wide"),
    [
        (FLAGS.format(ALL), True),
        (FLAGS.format("avx512f avx512cd"), False),
        (FLAGS.format(""), False),
        ("Features : asimd sve\n", False),
        ("", False),
    ],
)
def test_what_the_processor_has(text, wide, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    path = tmp_path / "cpuinfo"
    path.write_text(text, encoding="utf-8")
    assert kernels.has_avx512(path) is wide
    assert not kernels.has_avx512(tmp_path / "absent")


@pytest.mark.parametrize("architecture", ["Haswell", "Zen"])
def test_advice(architecture, monkeypatch):
    monkeypatch.delenv(kernels.VARIABLE, raising=False)
    assert kernels.advice(architecture, avx512=True).startswith("OPENBLAS_CORETYPE=SkylakeX would")
    assert kernels.advice(architecture, avx512=False) is None
    monkeypatch.setenv(kernels.VARIABLE, "Haswell")
    assert "OPENBLAS_CORETYPE=Haswell is set" in kernels.advice(architecture, avx512=True)


@pytest.mark.parametrize("architecture", ["SkylakeX", "Cooperlake", "neoversen1", "VORTEX", ""])
def test_where_nothing_would_be_faster(architecture):
    assert kernels.advice(architecture, avx512=True) is None


def test_an_import_sets_nothing():
    code = (
        "import os; before = dict(os.environ); import scratchvae.cli; print(before == os.environ)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, encoding="utf-8"
    )
    assert done.stdout.strip() == "True"
