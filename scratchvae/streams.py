"""Standard streams that a command can rely on, whatever it was started with.

What a command does, and its exit code, do not depend on who reads along: a training whose progress
nobody sees any more goes on to its end.
"""

from __future__ import annotations

import codecs
import errno
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO, cast

#: The name of a way to encode (PEP 293): cp932, in a pipe on a Japanese Windows, lacks a few signs.
ALIKE = "scratchvae-alike"
_SIGNS = {
    **{"·": "-", "•": "*", "×": "x", "−": "-", "–": "-", "—": "-", "…": "...", "━": "=", "─": "-"},
    **{"≈": "~", "≥": ">=", "≤": "<=", "≠": "!=", "²": "^2", "σ": "sigma", "π": "pi"},
    **{"“": '"', "”": '"', "‘": "'", "’": "'"},
}


def _alike(error: UnicodeError) -> tuple[str, int]:
    """Return ASCII for the letters that cannot be encoded, and where to go on."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_SIGNS.get(letter, "?") for letter in lacking), error.end


codecs.register_error(ALIKE, _alike)


@contextmanager
def standard() -> Iterator[None]:
    """In the block stdin, stdout and stderr are open, and writing survives a reader that leaves.

    A stream that was closed (``>&-``) is the null device. Once the pipe behind stdout is closed
    (``| head``), or stderr fails in whatever way, what is written there is lost without an error;
    stdout on a full disk is an OSError. A letter that the encoding of stdout lacks becomes one that
    looks like it, or a ``?``.
    """
    saved = sys.stdin, sys.stdout, sys.stderr
    with ExitStack() as opened:
        for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
            if getattr(sys, name) is None:  # or the next file that is opened is taken for it
                null = opened.enter_context(Path(os.devnull).open(mode, encoding="utf-8"))
                setattr(sys, name, null)
        if hasattr(sys.stdout, "reconfigure"):
            opened.callback(sys.stdout.reconfigure, errors=sys.stdout.errors)
            sys.stdout.reconfigure(errors=ALIKE)
        # what writing to a pipe fails with when its reader has gone; on Windows it is EINVAL
        gone = (errno.EPIPE, errno.EINVAL) if sys.platform == "win32" else (errno.EPIPE,)
        sys.stdout = cast(TextIO, Output(sys.stdout, "stdout", gone))
        sys.stderr = cast(TextIO, Output(sys.stderr, "stderr", None))
        try:
            yield
        finally:
            sys.stdin, sys.stdout, sys.stderr = saved


class Output:
    """A text stream for which some OSErrors (`forgiven`, error numbers; None for all) are none.

    `gone` is whether one has happened; nobody sees what is written from then on.
    """

    def __init__(self, stream: TextIO, name: str, forgiven: tuple[int, ...] | None) -> None:
        self._stream, self._name, self._forgiven = stream, name, forgiven
        self.gone = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write `text`; return its length."""
        with self._forgiving():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Hand on what was written."""
        with self._forgiving():
            self._stream.flush()

    @contextmanager
    def _forgiving(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.gone = True
            with suppress(OSError, ValueError):  # what is left in the buffer fails no more
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self._stream.fileno())
                os.close(null)
            if self._forgiven is not None and error.errno not in self._forgiven:
                raise OSError(error.errno, error.strerror, self._name) from None
