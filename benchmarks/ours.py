"""Epochs of `fit` in a process of its own, one for each line on stdin: `python -m benchmarks.ours`.

There it is alone, as a user's training is: threads that PyTorch's compiler and JAX leave behind
would keep `fit` from sharing its batches with other processes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from subprocess import PIPE
from typing import IO

from benchmarks import rivals
from benchmarks.rivals import Setting


class Ours:
    """A process that has the images, and trains an epoch whenever it is asked to."""

    def __init__(self, setting: Setting, images: int, workers: int, numba: bool = False) -> None:
        task = json.dumps({"setting": vars(setting), "images": images, "workers": workers})
        command = [sys.executable, "-m", "benchmarks.ours", task]
        environment = {**os.environ, "SCRATCHVAE_NUMBA": str(int(numba))}
        self.process = subprocess.Popen(
            command, stdin=PIPE, stdout=PIPE, text=True, env=environment
        )
        self._read()

    def epoch(self) -> None:
        """Train an epoch."""
        self._pipe(self.process.stdin).write("\n")
        self._pipe(self.process.stdin).flush()
        self._read()

    def close(self) -> None:
        """End the process."""
        self.process.communicate()

    def _read(self) -> None:
        if not self._pipe(self.process.stdout).readline():
            raise RuntimeError("benchmarks.ours has ended")

    @staticmethod
    def _pipe(stream: IO[str] | None) -> IO[str]:
        assert stream is not None
        return stream


def main() -> None:
    task = json.loads(sys.argv[1])
    setting = Setting(**{**task["setting"], "hidden": tuple(task["setting"]["hidden"])})
    epoch = rivals.scratchvae_epoch(setting, rivals.digits(task["images"]), task["workers"])
    print("ready", flush=True)
    for _ in sys.stdin:
        epoch()
        print("done", flush=True)


if __name__ == "__main__":
    main()
