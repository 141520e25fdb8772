"""A command in a pseudo-terminal, driven as a learner would: see something, type something."""

from __future__ import annotations

import codecs
import os
import re
import select
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ESCAPES = re.compile(
    r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[()][A-Z0-9]|[=>78])"
)

# A session leader does not own the terminal that it was handed; here it takes it, for Ctrl-C. Where
# the tests run in the background of a script or under nohup, they ignore it, which is inherited.
IN_THE_TERMINAL = """
import fcntl, os, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
for number in (signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""


# One command after the other: the end of each is marked, since no process ends.
COMMANDS = """
from scratchvae.cli import main
for line in open("/dev/tty"):  # the commands set up sys.stdin
    print(f"<{main(line.split())}>", flush=True)
"""


def posix_modules() -> tuple[Any, Any, Any]:
    """Return fcntl, pty and termios; where they are missing, as on Windows, skip the test."""
    why = "a pseudo-terminal needs POSIX: no module {}"
    names = ("fcntl", "pty", "termios")
    fcntl, pty, termios = (pytest.importorskip(n, reason=why.format(n)) for n in names)
    return fcntl, pty, termios


class Terminal:
    """``scratchvae ARGUMENTS`` in a pseudo-terminal of its own; use it in a ``with`` block.

    ``home`` becomes HOME and XDG_DATA_HOME, so that nothing of the user's is read or written.
    """

    python: tuple[str, ...] = ("-m", "scratchvae")

    def __init__(
        self,
        *arguments: str,
        cwd: Path,
        home: Path,
        columns: int = 100,
        rows: int = 40,
        env: dict[str, str] | None = None,
    ) -> None:
        fcntl, pty, termios = posix_modules()
        environment = {
            **os.environ,
            "HOME": str(home),
            "XDG_DATA_HOME": str(home),
            "TERM": "xterm-256color",
            "LC_ALL": "C.UTF-8",
            "OPENBLAS_NUM_THREADS": "1",
            **(env or {}),
        }
        environment.pop("COLUMNS", None)
        environment.pop("LINES", None)
        command = [sys.executable, *self.python, *arguments]
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.raw = ""  # all that was written, with its escape sequences
        self._seen = 0  # how much of `text` earlier `expect` calls have used up
        self.code: int | None = None
        self.fd, terminal = pty.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-c", IN_THE_TERMINAL, *command],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            cwd=cwd,
            env=environment,
            start_new_session=True,
        )
        os.close(terminal)
        self.pid = self.process.pid

    @property
    def text(self) -> str:
        """All that was written, without escape sequences, lines ended by a line feed."""
        return ESCAPES.sub("", self.raw).replace("\r\n", "\n")

    def expect(self, pattern: str, timeout: float = 60) -> str:
        """Wait until ``pattern`` (a regular expression) has been written; return what matched."""
        deadline = time.monotonic() + timeout
        while True:
            if match := re.compile(pattern).search(self.text, self._seen):
                self._seen = match.end()
                return match.group()
            if not self._read(deadline - time.monotonic()):
                raise AssertionError(
                    f"{pattern!r} did not appear; the end of the output:\n{self.text[-3000:]}"
                )

    def send(self, text: str) -> None:
        """Type ``text``; end it with a line feed where the learner would press Enter."""
        if "\x03" in text:  # Python does not see a Ctrl-C between its prompt and its read()
            self._until_it_waits()
        os.write(self.fd, text.replace("\n", "\r").encode())

    def _until_it_waits(self) -> None:
        """Until the command has ended, or sleeps and has used no processor for a few looks."""
        stat, looks = Path(f"/proc/{self.pid}/stat"), [""]
        if not stat.exists():  # no Linux
            time.sleep(0.2)
            return
        while len(looks) < 5 or looks[-1][:1] not in "SZ":
            fields = stat.read_text(encoding="utf-8").rpartition(") ")[2].split()
            look = " ".join([fields[0], *fields[11:13]])  # state, ticks in it and in the system
            looks = [*looks, look] if look == looks[-1] else [look]
            time.sleep(0.01)

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self.send("\x03")

    def terminate(self) -> None:
        """``kill PID`` from another terminal."""
        os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """The power fails."""
        os.kill(self.pid, signal.SIGKILL)

    def wait(self, timeout: float = 60) -> int:
        """Wait for the end of the command; return its exit code, or minus the signal."""
        deadline = time.monotonic() + timeout
        while self.code is None:
            self._read(0.05)
            self.code = self.process.poll()
            if self.code is None and time.monotonic() > deadline:
                raise AssertionError(f"still running; the end of the output:\n{self.text[-3000:]}")
        while self._read(0.05):
            pass
        return self.code

    def _read(self, timeout: float) -> bool:
        if timeout <= 0 or not select.select([self.fd], [], [], timeout)[0]:
            return False
        try:
            data = os.read(self.fd, 65536)
        except OSError:  # Linux: the other side is closed
            return False
        self.raw += self._decoder.decode(data)
        return bool(data)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.fd)


class Shell(Terminal):
    """Commands of ``scratchvae`` in one pseudo-terminal and, to save their starts, one process."""

    python = ("-c", COMMANDS)

    def run(self, *words: str, timeout: float = 60) -> tuple[int, str]:
        """Type a command whose words have no spaces; return its exit code and what it wrote."""
        start = len(self.text)
        self.send(" ".join(words) + "\n")
        code = self.expect(r"<\d+>\n", timeout)[1:-2]
        return int(code), self.text[start : self._seen - len(code) - 3]
