"""How the learner's processes are started: forks of one that waits, or a new Python each time."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from scratchvae.practice import starter
from scratchvae.practice.sandbox import Outcome, call_sources

linux = pytest.mark.skipif(not starter.FORKS, reason="Linux only")
DOUBLE = "def f(x):\n    return 2 * x\n"


def do(source: str, x: float = 1.0, seconds: float = 20) -> Outcome:
    return call_sources([source], "f", [(x,)], allowed=(), seconds=seconds)[0]


def server() -> int:
    """The number of the process that forks."""
    assert starter._server is not None
    return starter._server[1].pid


@pytest.mark.parametrize("forks", [True, False])
def test_both_ways_do_the_same(forks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starter, "FORKS", forks and starter.FORKS)
    assert do(DOUBLE, 3.0).returned == [6.0]
    died = do("import os\n\ndef f(x):\n    os.write(2, b'last words')\n    os._exit(3)\n").problem
    assert died is not None
    assert (died.kind, died.name, died.text) == ("died", "3", "last words")
    late = do("def f(x):\n    while True:\n        x = x + 1\n", seconds=0.5).problem
    assert late is not None
    assert (late.kind, late.line in (2, 3)) == ("timeout", True)
    stuck = "import itertools\n\ndef f(x):\n    return sum(itertools.repeat(x))\n"
    late = do(stuck, seconds=0.3).problem  # C code that never gives up the interpreter's lock
    assert late is not None
    assert (late.kind, late.line) == ("timeout", 4)
    monkeypatch.setattr(starter, "SLACK", 0.3)
    deaf = "import faulthandler\n\nfaulthandler.cancel_dump_traceback_later()\n"
    late = do(deaf + stuck, seconds=0.3).problem
    assert late is not None
    assert (late.kind, late.line) == ("timeout", None)
    monkeypatch.undo()
    assert do(DOUBLE, 3.0).returned == [6.0]


def test_a_loop_is_named_whatever_it_does_at_its_limit() -> None:
    """Frames that come and go while somebody looks at them have ended the process instead."""
    loop = "import numpy as np\n\ndef f(x):\n    while True:\n        x = np.abs(x) + 1\n"
    lines = []
    for _ in range(80):
        (outcome,) = call_sources([loop], "f", [(1.0,)], seconds=0.03, honest=True)
        assert outcome.problem
        assert outcome.problem.kind == "timeout"
        lines.append(outcome.problem.line)
    assert sum(line in (4, 5) for line in lines) > 60  # on a busy machine it has hardly begun


@linux
@pytest.mark.parametrize("forks", [True, False])
def test_a_stack_beyond_the_memory_allowed(forks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """`ulimit -s` is what the C library gives a thread, unless it is told otherwise."""
    import resource

    monkeypatch.setattr(starter, "FORKS", forks)
    before, most = resource.getrlimit(resource.RLIMIT_STACK)
    if most != resource.RLIM_INFINITY:
        pytest.skip(f"ulimit -s cannot be raised beyond {most}")
    starter.stop()
    resource.setrlimit(resource.RLIMIT_STACK, (8 << 30, most))
    try:
        assert do(DOUBLE, 3.0).returned == [6.0]
        late = do("def f(x):\n    while True:\n        x = x + 1\n", seconds=0.5).problem
    finally:
        resource.setrlimit(resource.RLIMIT_STACK, (before, most))
        starter.stop()
    assert late is not None
    assert (late.kind, late.line in (2, 3)) == ("timeout", True)


@linux
def test_one_process_forks_for_all_and_no_answer_knows_the_last() -> None:
    do(DOUBLE)
    first = server()
    start = "import numpy, os\n\ndef f(x):\n"
    leaves = "    numpy.mine = 1\n    os.environ['MINE'] = '1'\n    return os.getppid()\n"
    assert do(start + leaves).returned == [first]
    looks = "    return [hasattr(numpy, 'mine'), 'MINE' in os.environ, os.getppid()]\n"
    assert do(start + looks).returned == [[False, False, first]]


@linux
def test_one_that_was_killed_is_said_and_another_started() -> None:
    source = "import os, time\n\ndef f(x):\n    os.kill(os.getppid(), 9)\n    time.sleep(60)\n"
    problem = do(source).problem
    assert problem is not None
    assert (problem.kind, problem.name) == ("died", "-9")
    assert do(DOUBLE, 3.0).returned == [6.0]
    first = server()
    os.kill(first, signal.SIGKILL)  # between two jobs nobody needs to know
    starter._server[1].wait()  # type: ignore[index]
    assert do(DOUBLE, 3.0).returned == [6.0]
    assert server() != first


@linux
def test_threads_do_not_mix_their_answers() -> None:
    with ThreadPoolExecutor(4) as threads:
        outcomes = threads.map(lambda x: do(DOUBLE, x), range(12))
        assert [outcome.returned for outcome in outcomes] == [[2 * x] for x in range(12)]


@linux
def test_a_fork_of_this_process_starts_its_own() -> None:
    do(DOUBLE)
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            do(DOUBLE)
            os.write(writer, b"%d" % server())
        finally:
            starter.stop()
            os._exit(0)
    os.close(writer)
    os.waitpid(pid, 0)
    theirs = int(os.read(reader, 100))
    os.close(reader)
    assert theirs != server()
    assert do(DOUBLE, 3.0).returned == [6.0]


@linux
def test_ctrl_c_in_a_check_leaves_no_answer_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    do(DOUBLE)
    line, calls = starter._line, []

    def interrupted(*arguments: object) -> bytes | None:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return line(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(starter, "_line", interrupted)
    with pytest.raises(KeyboardInterrupt):
        do("def f(x):\n    return np.zeros(3)\n")
    monkeypatch.undo()
    assert do(DOUBLE, 3.0).returned == [6.0]


def test_it_ends_with_the_process_that_started_it() -> None:
    do(DOUBLE)
    starter.stop()
    starter.stop()
    assert starter._server is None
    np.testing.assert_array_equal(do(DOUBLE, np.ones(2)).returned, [[2, 2]])  # type: ignore[arg-type]
