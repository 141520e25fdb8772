"""Many command lines, each in a process of its own, at the price of one start of Python.

A process that has imported everything forks once for each; the child gets the streams, the
environment and the encoding of its case as Python would set them up, and its buffers are flushed at
the end as Python does. What takes long is replaced as in `test_command_lines`.
"""

import contextlib
import io
import json
import os
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

from terminal import posix_modules

DEFAULTS = {
    "env": {},  # what is added to a plain environment
    "columns": None,  # of a terminal; None: pipes
    "stdin": "eof",  # or "closed"
    "stdout": "open",  # or "closed", "gone" (the reader has left), "full" (the disk)
    "stderr": "open",
    "encoding": "utf-8",
}
BARE = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "TERM": "xterm-256color"}
END = b"\x04"  # Ctrl-D, on a terminal


def run_all(cases, place):
    """Run each case, a dict like `DEFAULTS` with argv, in a copy of `place`.

    Returns for each a dict with code, out and err; a terminal has only out. Without POSIX the test
    is skipped.
    """
    posix_modules()
    with tempfile.TemporaryDirectory() as folder:
        jobs, answers = Path(folder) / "jobs.json", Path(folder) / "answers.json"
        jobs.write_text(json.dumps([{**DEFAULTS, **case} for case in cases]), encoding="utf-8")
        words = [sys.executable, __file__, str(jobs), str(place), str(answers)]
        root = {"PYTHONPATH": str(Path(__file__).parent.parent)}
        subprocess.run(words, check=True, timeout=300, env={**os.environ, **root})
        return json.loads(answers.read_text(encoding="utf-8"))


def main(jobs, place, answers):
    import matplotlib.backends.backend_agg  # noqa: F401
    import rich.panel
    import rich.progress
    import rich.table  # noqa: F401
    import threadpoolctl  # noqa: F401
    from test_command_lines import light, proved

    from scratchvae import evaluate, runs  # noqa: F401
    from scratchvae.practice import bughunt_files, drill_cards, exercises, questions

    with light():
        bughunt_files.load_all(), exercises.load_all(), questions.load(), drill_cards.drills()
        proved()
        done = [
            one(case, Path(place)) for case in json.loads(Path(jobs).read_text(encoding="utf-8"))
        ]
    Path(answers).write_text(json.dumps(done), encoding="utf-8")


def one(case, place):
    """Run a case in a child, and read what it writes."""
    fcntl, pty, termios = posix_modules()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        shutil.copytree(place, home / "place", symlinks=True)
        errors = (home / "errors").open("w+b")
        if case["columns"]:
            ours, theirs = pty.openpty()
            fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, case["columns"], 0, 0))
        else:
            ours, theirs = os.pipe()
        child = os.fork()
        if not child:
            code = 125
            try:
                os.close(ours)
                code = as_child(case, home, theirs, errors.fileno())
            finally:
                os._exit(code)
        os.close(theirs)
        if case["columns"]:
            os.write(ours, END)
        out = drain(ours, child)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os.close(ours)
        errors.seek(0)
        err = errors.read()
        errors.close()
    answer = {"code": code}
    for name, data in (("out", out), ("err", err)):
        answer[name] = data.decode(case["encoding"], "replace").replace(str(home), "HOME")
    return answer


def drain(descriptor, child, seconds=30):
    """All that comes until the other side closes; after `seconds` the child is killed."""
    out, deadline = b"", time.monotonic() + seconds
    while select.select([descriptor], [], [], max(0, deadline - time.monotonic()))[0]:
        try:
            data = os.read(descriptor, 65536)
        except OSError:  # Linux: the terminal is closed
            return out
        if not data:
            return out
        out += data
    os.kill(child, signal.SIGKILL)
    return out


def as_child(case, home, descriptor, errors):
    """Set the process up and run the command line; return the exit code."""
    os.environ.clear()
    places = dict.fromkeys(("HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"), str(home / "home"))
    os.environ.update({**BARE, **places, **case["env"]})
    os.chdir(home / "place")
    if case["columns"]:
        fcntl, _, termios = posix_modules()
        os.setsid()
        fcntl.ioctl(descriptor, termios.TIOCSCTTY, 0)
        errors = descriptor
    sources = {"stdin": descriptor if case["columns"] else os.open(os.devnull, os.O_RDONLY)}
    sources |= {"stdout": descriptor, "stderr": errors}
    reader, gone = os.pipe()
    os.close(reader)
    full = os.open("/dev/full", os.O_WRONLY) if Path("/dev/full").exists() else gone
    for number, (name, source) in enumerate(sources.items()):
        source = {"gone": gone, "full": full}.get(case[name], source)
        os.dup2(source, number)
        stream = None
        if case[name] == "closed":
            os.close(number)
        else:
            buffered = os.fdopen(number, "rb" if name == "stdin" else "wb", closefd=False)
            how = "backslashreplace" if name == "stderr" else "strict"
            lines = bool(case["columns"]) or name == "stderr"
            stream = io.TextIOWrapper(buffered, case["encoding"], how, line_buffering=lines)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    os.closerange(3, 64)
    from scratchvae import cli

    try:
        code = cli.main(case["argv"])
    except BaseException:
        code = 1
        with contextlib.suppress(Exception):
            sys.stderr.write(traceback.format_exc())
    for stream in (sys.stdout, sys.stderr):  # as at the end of every Python
        try:
            if stream is not None:
                stream.flush()
        except Exception:
            code = 120
    return code


if __name__ == "__main__":
    main(*sys.argv[1:])
