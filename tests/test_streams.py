"""The room `streams`: signs for letters that an encoding lacks, and what Windows does otherwise."""

import errno
import io
import sys
from types import SimpleNamespace

import pytest

from scratchvae import streams
from scratchvae.output import quoted


@pytest.mark.parametrize(
    ("encoding", "text", "shown"),
    [
        ("cp932", "1/2 · VAE · 計算", "1/2 - VAE - 計算"),
        ("cp932", "σ² ≈ 1, KL ≥ 0, 潜在変数", "σ^2 ~ 1, KL >= 0, 潜在変数"),
        ("ascii", "━━─ σ = 2π × 3 …", "==- sigma = 2pi x 3 ..."),
        ("ascii", "潜在 ≈ é", "?? ~ ?"),
        ("utf-8", "潜在 ≈ ·", "潜在 ≈ ·"),
    ],
)
def test_a_letter_that_the_encoding_lacks_looks_alike(encoding, text, shown):
    assert text.encode(encoding, streams.ALIKE).decode(encoding) == shown


def test_only_encoding_is_forgiven():
    with pytest.raises(UnicodeDecodeError):
        b"\xff".decode("ascii", streams.ALIKE)


@pytest.mark.parametrize(
    ("platform", "number", "forgiven"),
    [
        ("linux", errno.EPIPE, True),
        ("win32", errno.EPIPE, True),
        ("linux", errno.EINVAL, False),
        ("win32", errno.EINVAL, True),  # what its pipes without a reader answer
        ("win32", errno.ENOSPC, False),
    ],
)
def test_a_reader_that_leaves(platform, number, forgiven, monkeypatch):
    def write(text):
        raise OSError(number, "no")

    stream = SimpleNamespace(write=write, flush=lambda: None, fileno=io.StringIO().fileno)
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "platform", platform)
    with streams.standard():
        if forgiven:
            assert sys.stdout.write("gone") == 4
            assert sys.stdout.gone
        else:
            with pytest.raises(OSError, match="stdout") as caught:
                sys.stdout.write("full")
            assert caught.value.errno == number


@pytest.mark.parametrize(
    ("platform", "word", "shown"),
    [
        ("linux", "my run", "'my run'"),
        ("linux", "runs/vae", "runs/vae"),
        ("win32", "my run", '"my run"'),
        ("win32", r"runs\vae", r"runs\vae"),
        ("win32", "", '""'),
    ],
)
def test_words_for_the_shell_here(platform, word, shown, monkeypatch):
    monkeypatch.setattr(sys, "platform", platform)
    assert quoted(word) == shown
