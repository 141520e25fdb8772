"""A training that is killed, shut out or robbed of its directory keeps its last good state."""

import errno
import os
import re
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
import scratchvae
from benchmarks import kill
from scratchvae import cli, runs
from scratchvae.train import Stopped, fit

pytestmark = pytest.mark.skipif(os.name != "posix", reason="POSIX signals")


@pytest.fixture(autouse=True)
def no_other_threads(monkeypatch):
    """As in a real process: the threads of pytest-xdist do not compute."""
    monkeypatch.setattr(threading, "active_count", lambda: 1)


@pytest.fixture
def data(tmp_path):
    return kill.write_data(tmp_path / "x.npz")


@pytest.fixture
def no_pictures(monkeypatch):
    monkeypatch.setattr(runs, "draw_pictures", lambda *args: None)


def train(capsys, *argv, code=0):
    """Run the command, by two processes where it can be; its one line, if it fails."""
    assert cli.main(["train", "vae", *map(str, argv), "--threads", "2"]) == code
    err = capsys.readouterr().err
    assert err.count("\n") == (1 if code else 0)
    return err


@pytest.fixture
def trained(tmp_path, data, capsys, no_pictures):
    """A run of two epochs, and one of four that nothing happened to."""
    for name, epochs in (("run", 2), ("whole", 4)):
        train(capsys, *kill.settings(data, epochs), "--out", tmp_path / name)
    return tmp_path / "run"


def resumes(run, capsys):
    """Whether the run goes on to the same files as one that nothing happened to."""
    train(capsys, "--resume", run, "--epochs", "4", "--quiet")
    for name in runs.FILES:
        assert (run / name).read_bytes() == (run.parent / "whole" / name).read_bytes(), name
    assert sorted(path.name for path in run.iterdir()) == sorted(runs.FILES)


# ------------------------------------------------------------------------------------------- killed


def test_killed_at_random_moments(tmp_path):
    """A slice of `python -m benchmarks.kill`; the 200 of its recorded run are in SECURITY.md."""
    tally = kill.campaign(times=6, seed=2, folder=tmp_path)
    assert tally.kills == 6
    assert tally.finished >= 1


def test_the_campaign_objects(tmp_path, trained):
    def check(log, complaint="", code=-9):
        kill._check(log, complaint, code, signal.SIGKILL, trained, kill.Tally())

    check(["saving 2 0\n", "saved 2 0\n", "saving 3 0\n"])
    with pytest.raises(kill.BrokenError, match=r"\(2, 0\) is on the disk, but \(3, 0\) had been"):
        check(["saving 3 0\n", "saved 3 0\n"])
    with pytest.raises(kill.BrokenError, match="SIGKILL: stopped\nand more"):
        check(["saving 2 0\n", "saved 2 0\n"], "stopped\nand more\n", 130)
    check(["saving 2 0\n", "saved 2 0\n"], "stopped\n", 130)
    for log in ("saving 1 0\nsaved 1 0\n", "saving 2 0\nsaved 2 0\nsaving 3 0\n"):
        with pytest.raises(kill.BrokenError, match="SIGKILL: stopped"):
            check(log.splitlines(keepends=True), "stopped\n", 130)
    (trained / "core").write_text("", encoding="utf-8")
    with pytest.raises(kill.BrokenError, match="left core"):
        check([])
    (trained / "model.npz").write_bytes((trained / "model.npz").read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"model\.npz"):
        check([])


def test_a_finished_run_that_differs_is_noticed(tmp_path, monkeypatch):
    def spoil(rng, data, directory, tally, watched):
        shutil.copytree(tmp_path / "whole", directory)
        (directory / "history.csv").write_text("epoch\n", encoding="utf-8")
        tally.kills += 1
        return True

    monkeypatch.setattr(kill, "kill_once", spoil)
    monkeypatch.setattr(kill, "start", lambda *argv, slow: Ended())
    with pytest.raises(kill.BrokenError, match=r"history\.csv differs"):
        kill.campaign(1, 0, tmp_path)


class Ended:
    returncode = 0

    def communicate(self, timeout):
        return "", ""


def test_sigterm_stops_as_ctrl_c_does(data, tmp_path, capsys, monkeypatch, no_pictures):
    real, count = scratchvae.VAE.backward, 0

    def backward(model):
        nonlocal count
        real(model)
        count += 1
        if count == 9:
            signal.raise_signal(signal.SIGTERM)

    run, settings = tmp_path / "run", kill.settings(data, 2)
    train(capsys, *settings, "--out", tmp_path / "whole")
    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(scratchvae.VAE, "backward", backward)
    line = train(capsys, *settings, "--out", run, code=130)
    stopped = rf"scratchvae: stopped in epoch 2 after \d of 6 steps; saved {run}/model"
    assert re.match(stopped, line)
    assert signal.getsignal(signal.SIGTERM) is handler
    train(capsys, "--resume", run, "--quiet")
    for name in runs.FILES:
        assert (run / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_the_handlers_are_given_back_after_an_error():
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]

    def stop(training):
        signal.raise_signal(signal.SIGTERM)

    model, x = scratchvae.VAE(4, (3,), 2), np.random.default_rng(0).random((8, 4), dtype="float32")
    with pytest.raises(Stopped):
        fit(model, x, epochs=2, callbacks=[stop])
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before


def test_what_a_killed_save_left_is_cleared_by_the_next(trained, capsys):
    mine = trained / ".notes.txt.part"
    for left in (".model.npz.0badcafe.part", ".history.csv.12345678.part", ".lock"):
        (trained / left).write_bytes(b"half")
    mine.write_text("mine", encoding="utf-8")
    train(capsys, "--resume", trained, "--epochs", "4", "--quiet")
    assert mine.read_text(encoding="utf-8") == "mine"
    mine.unlink()
    resumes(trained, capsys)


# ------------------------------------------------------------------------------- disk and directory


def test_a_disk_that_is_full_in_the_middle(trained, capsys):
    """The history grows from epoch to epoch: a limit on the size of files stops the third save."""
    resource = pytest.importorskip("resource", reason="POSIX only")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((trained / "model.npz").stat().st_size + 9, hard))
    try:
        line = train(capsys, "--resume", trained, "--epochs", "4", "--quiet", code=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert line == f"scratchvae: error: {trained / 'model.npz'}: File too large\n"
    assert runs.open_run(trained).training.epoch == 2
    resumes(trained, capsys)


def test_a_directory_that_nobody_may_write(trained, capsys, monkeypatch):
    def refuse(path, mode="r", *args, **kwargs):
        if path.parent == trained and mode != "rb":
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        return open(path, mode, *args, **kwargs)  # noqa: PTH123

    before = {path: path.read_bytes() for path in trained.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse)
        line = train(capsys, "--resume", trained, "--epochs", "4", "--quiet", code=2)
    assert line == f"scratchvae: error: {trained}: Read-only file system\n"
    assert {path: path.read_bytes() for path in trained.iterdir()} == before
    resumes(trained, capsys)


@pytest.mark.parametrize("then", ["nothing", "a file"])
def test_a_directory_that_is_deleted_under_the_run(then, trained, capsys, monkeypatch):
    kept, real = trained.with_name("kept"), runs.save_run

    def save(directory, model, training, notes):
        if training.epoch == 3:
            trained.rename(kept)
            if then == "a file":
                trained.write_text("", encoding="utf-8")
        real(directory, model, training, notes)

    with monkeypatch.context() as patch:
        patch.setattr(runs, "save_run", save)
        line = train(capsys, "--resume", trained, "--epochs", "4", "--quiet", code=2)
    assert line.startswith(f"scratchvae: error: {trained / 'model.npz'}: N")  # No such, Not a
    assert trained.exists() == (then == "a file")
    trained.unlink(missing_ok=True)
    kept.rename(trained)
    assert runs.open_run(trained).training.epoch == 2
    resumes(trained, capsys)


def test_a_clock_that_is_set_back(trained, capsys, monkeypatch):
    clock = iter(range(10**9, 0, -86_400))
    monkeypatch.setattr(time, "time", lambda: next(clock))
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    for path in trained.iterdir():
        os.utime(path, (4e9, 4e9))  # written in the future
    resumes(trained, capsys)


# --------------------------------------------------------------------------------- two at once


def test_two_trainings_in_one_directory(data, tmp_path, capsys, no_pictures):
    run = tmp_path / "run"
    first = kill.start(*kill.command(data, run), slow=1)
    try:
        kill.wait_for(first.stdout, "saved 1")  # before its first epoch SIGTERM just ends it
        line = train(capsys, "--resume", run, "--quiet", code=2)
        assert line == (
            f"scratchvae: error: {run}: another training is writing there; "
            "wait for its end, or choose another directory: --out\n"
        )
        first.send_signal(signal.SIGTERM)
        _, complaint = first.communicate(timeout=60)
    finally:
        first.kill()
        first.communicate()
    assert first.returncode == 130
    assert complaint.startswith("scratchvae: stopped ")
    train(capsys, "--resume", run, "--quiet")
    train(capsys, *kill.settings(data), "--out", tmp_path / "whole")
    for name in runs.FILES:
        assert (run / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_two_that_begin_at_once(data, tmp_path, capsys, no_pictures):
    run = tmp_path / "run"
    run.mkdir()
    with runs.training_in(run):
        line = train(capsys, *kill.settings(data), "--out", run, code=2)
        assert "another training is writing there" in line
        assert [path.name for path in run.iterdir()] == [".lock"]
    train(capsys, *kill.settings(data), "--out", run)


def test_an_error_in_a_training_frees_its_directory(tmp_path):
    for error in (BlockingIOError, KeyboardInterrupt):
        with pytest.raises(error), runs.training_in(tmp_path):
            raise error
    assert list(tmp_path.iterdir()) == []
