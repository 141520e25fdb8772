"""Starts the processes of `sandbox`, on Linux as forks of one that has imported NumPy already.

The import takes longer than most checks. A system that cannot be trusted to fork with NumPy loaded
(macOS) or at all (Windows) starts a new Python each time.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path

from scratchvae.practice import child

FORKS = sys.platform == "linux"
START = 60.0  # seconds for Python and NumPy to come from a slow disk
SLACK = 5.0  # seconds beyond the limit that the process itself keeps
_COMMAND = (sys.executable, "-I", "-B", "-X", "utf8", child.__file__)
_THREADS = ("OPENBLAS", "OMP", "MKL", "BLIS", "NUMEXPR")
_lock = threading.Lock()
_server: tuple[int, subprocess.Popen[bytes]] | None = None  # whose it is: forks share no answers


def run(folder: Path, seconds: float) -> int | None:
    """Do the jobs in `folder` and return the exit code of their process; None after the limit.

    What the process has started is killed with it, as far as it is in its process group.
    """
    with _lock:
        return _forked(folder, seconds) if FORKS else _started(folder, seconds)


def _environment() -> dict[str, str]:
    plain = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    return plain | {f"{name}_NUM_THREADS": "1" for name in _THREADS}


def _started(folder: Path, seconds: float) -> int | None:
    process = subprocess.Popen(
        [*_COMMAND, str(folder)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env=_environment(),
        start_new_session=True,
    )
    try:
        return process.wait(seconds + SLACK)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if hasattr(os, "killpg"):
            _kill(process.pid)
        else:
            process.kill()
        process.wait()


def _forked(folder: Path, seconds: float) -> int | None:
    server = _running()
    assert server.stdin
    pid: bytes | None = None
    code: bytes | None = None
    try:
        with contextlib.suppress(BrokenPipeError):
            server.stdin.write(os.fsencode(folder) + b"\n")
        pid = _line(server, START)
        code = pid and _line(server, seconds + SLACK)
    finally:
        if pid:
            _kill(int(pid))
        if not code:  # an answer that is still to come would be taken for that to the next job
            stop()
    return None if code is None else int(code or server.returncode)


def _running() -> subprocess.Popen[bytes]:
    """The process that forks; one is started where there is none of this process."""
    global _server
    if _server and _server[1].poll() is not None:
        stop()
    if _server is None or _server[0] != os.getpid():
        server = subprocess.Popen(
            _COMMAND,
            bufsize=0,  # else the second of two lines could wait where select does not see it
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=os.sep,
            env=_environment(),
            start_new_session=True,
        )
        _server = os.getpid(), server
    return _server[1]


def _line(server: subprocess.Popen[bytes], seconds: float) -> bytes | None:
    """The next line that the server writes; empty if it has ended, None if nothing comes."""
    assert server.stdout
    ready = select.select([server.stdout], [], [], seconds)[0]
    return server.stdout.readline() if ready else None


def _kill(pid: int) -> None:
    with contextlib.suppress(OSError):
        os.killpg(pid, signal.SIGKILL)  # its session is its group


@atexit.register
def stop() -> None:
    """End the process that forks, if this process has one."""
    global _server
    if _server and _server[0] == os.getpid():
        with contextlib.suppress(BrokenPipeError), _server[1] as server:
            server.kill()
    _server = None
