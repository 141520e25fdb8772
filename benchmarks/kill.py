"""Kill trainings at random moments, resume them, and hold the end against an unkilled run's.

    python -m benchmarks.kill --times 200

Each process is a real `scratchvae train`, on Linux with a second one that shares its batches. It
saves after every epoch; its writing is slowed down, so that some of the moments fall into it.
SIGKILL, SIGTERM and SIGINT take turns at random. After each the run directory must open, hold
nothing older than the last save that had ended, and nothing else than a run's files and what the
next training clears. Whenever a run gets to its end its files are compared byte for byte with those
of a run that nobody killed. Every second run is watched (--live): its page is read again and again,
must be whole whenever it is there, and holds in the end the same frames.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from scratchvae import cli, runs
from scratchvae.web import live

SIGNALS = ("SIGKILL", "SIGTERM", "SIGINT")  # by name: Windows lacks the first
EPOCHS = 12
SLOW = 0.02  # seconds that writing a checkpoint takes in the child

# Says on stdout when it saves what; writes checkpoint and page in eight pieces, and slowly.
CHILD = """
import io, os, sys, time
import numpy as np
from scratchvae import cli, files, runs
from scratchvae.web import live
slow, savez, fsync, save_run = float(sys.argv[1]), np.savez, os.fsync, runs.save_run

def slow_write(file, data):
    for i in range(0, len(data), len(data) // 8 + 1):
        file.write(data[i : i + len(data) // 8 + 1])
        file.flush()
        time.sleep(slow / 10)

def slow_savez(file, **arrays):
    savez(whole := io.BytesIO(), **arrays)
    slow_write(file, whole.getvalue())

def slow_text(path, text):
    with files.atomic_write(path) as file:
        slow_write(file, text.encode())

def slow_fsync(descriptor):
    fsync(descriptor)
    time.sleep(slow / 10)

def told(directory, model, training, notes):
    os.write(1, f"saving {training.epoch} {training.step}\\n".encode())
    save_run(directory, model, training, notes)
    os.write(1, f"saved {training.epoch} {training.step}\\n".encode())

np.savez, os.fsync, runs.save_run, live.write_text = slow_savez, slow_fsync, told, slow_text
os.write(1, b"ready\\n")
sys.exit(cli.main(sys.argv[2:]))
"""


class BrokenError(AssertionError):
    """What must not happen has happened."""


@dataclass
class Tally:
    """What was killed, and when."""

    kills: int = 0
    inside: int = 0  # between "saving" and "saved"
    orderly: int = 0  # stopped after a step and saved, with exit code 130
    signals: dict[str, int] = field(default_factory=dict)
    finished: int = 0  # runs that got to their end
    lost: int = 0  # kills that cost a whole checkpoint interval: in the midst of its write
    watched: int = 0  # kills of runs that keep a page
    halves: int = 0  # parts of a page that they left
    looks: int = 0  # at pages


def write_data(path: Path) -> Path:
    np.savez(path, x=np.random.default_rng(0).random((90, 16), dtype=np.float32))
    return path


def settings(data: Path, epochs: int = EPOCHS) -> list[str]:
    return [
        *("--data", str(data), "--hidden", "6", "--n-latent", "2", "--batch-size", "16"),
        *("--epochs", str(epochs), "--quiet"),
    ]


def command(data: Path, directory: Path, watched: bool = False) -> list[str]:
    """What begins the run, or goes on with it."""
    more = ["--threads", "2", *(["--live"] if watched else [])]
    if (directory / "model.npz").exists():
        return ["train", "vae", "--resume", str(directory), "--quiet", *more]
    return ["train", "vae", *settings(data), "--out", str(directory), *more]


def start(*argv: str, slow: float = SLOW) -> subprocess.Popen[str]:
    """A process that trains, slowly."""
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(slow), *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )


def wait_for(stream: IO[str], words: str, times: int = 1) -> list[str]:
    """Read lines until so many begin with words, or to the end; return them."""
    lines: list[str] = []
    while times and (line := stream.readline()):
        lines.append(line)
        times -= line.startswith(words)
    return lines


def page(directory: Path) -> dict[str, Any] | None:
    """What the run's page holds, but for the times; None where there is none."""
    try:
        text = (directory / runs.LIVE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    found = live._DATA.search(text)
    if not found or not text.endswith("</html>\n"):
        raise BrokenError(f"half a page, of {len(text)} characters")
    content: dict[str, Any] = json.loads(found[1])
    return {key: value for key, value in content.items() if key not in ("written", "seconds")}


def kill_once(rng: random.Random, data: Path, directory: Path, tally: Tally, watched: bool) -> bool:
    """Train until a random moment; whether the run got to its end before it came."""
    process = start(*command(data, directory, watched))
    assert process.stdout is not None
    if rng.random() < 0.1:
        log = wait_for(process.stdout, "ready")
        pause = rng.uniform(0, 0.3)
    else:  # within a save, or soon after
        log = wait_for(process.stdout, "saving", rng.randint(1, 5))
        pause = rng.uniform(0, 3 * SLOW)
    until = time.monotonic() + pause
    while (left := until - time.monotonic()) > 0:
        tally.looks += page(directory) is not None
        time.sleep(min(left, 0.001))
    number = getattr(signal, rng.choice(SIGNALS))
    ended = process.poll() is not None
    process.send_signal(number)
    rest, complaint = process.communicate(timeout=120)
    log += rest.splitlines(keepends=True)
    if process.returncode == 0:
        return True
    if ended:
        raise BrokenError(f"ended by itself with {process.returncode}: {complaint}")
    tally.kills += 1
    tally.signals[number.name] = tally.signals.get(number.name, 0) + 1
    tally.watched += watched
    _check(log, complaint, process.returncode, number, directory, tally)
    return False


def _check(
    log: list[str], complaint: str, code: int, number: int, directory: Path, tally: Tally
) -> None:
    saving = [tuple(map(int, line.split()[1:])) for line in log if line.startswith("saving")]
    saved = [tuple(map(int, line.split()[1:])) for line in log if line.startswith("saved")]
    if saved or (directory / "model.npz").exists():
        training = runs.open_run(directory).training
        there = (training.epoch, training.step)
        if (shown := page(directory)) and not 0 <= there[0] - shown["frames"][-1]["epoch"] <= 1:
            raise BrokenError(f"the page ends with epoch {shown['frames'][-1]['epoch']}: {there}")
        if saved and there < saved[-1]:
            raise BrokenError(f"{there} is on the disk, but {saved[-1]} had been saved")
        if len(saving) > len(saved):
            tally.inside += 1
            tally.lost += there != saving[-1]
    known = (*runs.FILES, *runs.PICTURES, runs.LIVE, ".lock")
    for path in directory.iterdir() if directory.exists() else ():
        tally.halves += path.match(f".{runs.LIVE}.*.part")
        if path.name not in known and path.suffix != ".part":
            raise BrokenError(f"left {path.name}")
    if code == 130 and "stopped" in complaint:
        tally.orderly += 1
        if complaint.count("\n") != 1 or not there == saving[-1] == saved[-1]:
            raise BrokenError(f"{signal.Signals(number).name}: {complaint}")


def campaign(times: int, seed: int, folder: Path) -> Tally:
    """Kill so many times, in as many runs as that takes; BrokenError where a promise is broken."""
    rng, tally, data = random.Random(seed), Tally(), write_data(folder / "x.npz")
    whole = folder / "whole"
    with contextlib.redirect_stdout(io.StringIO()):
        if cli.main(command(data, whole, watched=True)):
            raise BrokenError("the run without a kill has failed")
    run = 0
    while tally.kills < times:
        directory, watched = folder / f"run{(run := run + 1)}", run % 2 == 1
        while tally.kills < times and not kill_once(rng, data, directory, tally, watched):
            pass
        end = start(*command(data, directory, watched), slow=0)
        _, complaint = end.communicate(timeout=120)
        if end.returncode:
            raise BrokenError(f"cannot be resumed: {complaint}")
        tally.finished += 1
        names = sorted(path.name for path in directory.iterdir())
        if names != sorted((*runs.FILES, *runs.PICTURES, *([runs.LIVE] if watched else []))):
            raise BrokenError(f"the finished run holds {', '.join(names)}")
        if watched and page(directory) != page(whole):
            raise BrokenError("the page differs from that of the run without a kill")
        for name in runs.FILES:
            if (directory / name).read_bytes() != (whole / name).read_bytes():
                raise BrokenError(f"{name} differs from that of the run without a kill")
    return tally


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.kill",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--times", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        tally = campaign(arguments.times, arguments.seed, Path(folder))
    print(
        f"{tally.kills} kills ({', '.join(f'{n} {s}' for s, n in sorted(tally.signals.items()))}) "
        f"in {tally.finished} runs; {tally.inside} during a save, {tally.lost} of which cost the "
        f"one checkpoint being written; {tally.orderly} stopped in order. Every directory opened, "
        f"every finished run is bit for bit the unkilled one. {tally.watched} of the kills met a "
        f"run with --live, {tally.halves} the writing of its page; {tally.looks} looks at a page "
        f"saw a whole one, in the end the unkilled one's. {time.monotonic() - began:.0f} s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
