"""Runs a learner's function in a process of its own: the other half of `sandbox`.

It is started as a script (see `starter`) and imports NumPy and nothing of this package. In the
folder that it is given it finds `job.json` and `arguments.npz`, and leaves `results.json` and
`results.npz` there, and what is written to stderr.
"""

from __future__ import annotations

import builtins
import contextlib
import faulthandler
import importlib.util
import json
import os
import sys
import threading
import zipfile  # noqa: F401 (NumPy imports it to read a file; here it is once for all forks)
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy import absolute, array_equal, flatnonzero  # a learner may replace numpy's

if TYPE_CHECKING:
    from scratchvae.practice import effort
else:  # the file beside this one; the package is not there in the process
    _spec = importlib.util.spec_from_file_location("effort", Path(__file__).with_name("effort.py"))
    effort = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(effort)

FILE = "answer.py"  # what tracebacks call the learner's file, whatever its real name
PRINTED = 20_000  # characters that are kept
STUCK = 0.5  # seconds after the limit in which the interpreter gives up its lock, if it ever does
STACK = 1 << 20  # bytes, of our threads; `ulimit -s` may say more than the memory that is allowed
OUTSIDE = (
    *("scratchvae", "torch", "jax", "tensorflow", "autograd", "sympy", "numdifftools", "scipy"),
    *("cupy", "mpmath", "keras", "casadi"),
)


class Flood(BaseException):
    """More is printed than anybody reads."""


class Refused(ImportError):
    """An import that an answer must do without."""


class Printed:
    """What stands for stdout and stderr: it keeps the beginning and stops a flood."""

    encoding, errors = "utf-8", "replace"

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        """Keep `text`, unless there is too much already."""
        self.text += text[: PRINTED - len(self.text)]
        if len(self.text) >= PRINTED:
            raise Flood
        return len(text)

    def flush(self) -> None:
        """Nothing is held back."""

    def isatty(self) -> bool:
        """Tell that nobody looks."""
        return False


def encode(value: Any, arrays: dict[str, np.ndarray[Any, Any]]) -> Any:
    """Take `value` apart into what JSON can hold and arrays; Python's scalars keep their type."""
    if isinstance(value, np.ndarray | np.generic):
        if value.dtype.kind not in "biufc":
            return {"other": f"array of {value.dtype}"}
        arrays[f"a{len(arrays)}"] = np.asarray(value)
        return {"array": f"a{len(arrays) - 1}"}
    if isinstance(value, tuple | list):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [encode(v, arrays) for v in value[:1000]]}
    if isinstance(value, dict):
        return {"dict": [[str(k), encode(v, arrays)] for k, v in value.items()]}
    if value is None or isinstance(value, bool | int | float | str):
        return {"plain": value}
    return {"other": type(value).__name__}


class Other:
    """A returned value of a type that no answer has."""

    def __init__(self, name: str) -> None:
        self.name = name


def decode(value: dict[str, Any], arrays: Any) -> Any:
    """Put together what `encode` took apart."""
    ((kind, content),) = value.items()
    if kind == "array":
        return arrays[content]
    if kind in ("tuple", "list"):
        parts = [decode(v, arrays) for v in content]
        return tuple(parts) if kind == "tuple" else parts
    if kind == "dict":
        return {k: decode(v, arrays) for k, v in content}
    return content if kind == "plain" else Other(content)


class Watch:
    """Follows the learner's lines: where it returns, and whether it nudges its arguments.

    A numerical derivative evaluates a function at x with one element moved, again and again, or
    with all of them moved a little. So an array that is an argument but for one element, here one
    and there another, gives it away, whatever the step and whether or not a function is called.
    """

    def __init__(self, answer: CodeType, arguments: list[Any], nudges: bool) -> None:
        self.answer, self.nudges = answer, nudges
        self.returned: int | None = None
        self.finding: tuple[str, int] | None = None
        self.originals = [
            a.copy()
            for a in arguments
            if nudges and isinstance(a, np.ndarray) and a.dtype == np.float64 and 1 < a.size < 5000
        ]
        self.single: list[set[int]] = [set() for _ in self.originals]
        self.shifts: list[set[float]] = [set() for _ in self.originals]
        self.looks = 20_000

    def __call__(self, frame: FrameType, event: str, _: Any) -> Any:
        """Follow one event of the interpreter; see sys.settrace."""
        if frame.f_code.co_filename != FILE:
            return None
        if event == "return" and frame.f_code is self.answer:
            self.returned = frame.f_lineno
        if self.finding is None and self.looks > 0:
            called = event == "call" and frame.f_code is not self.answer
            for value in list(frame.f_locals.values()):
                self.value(value, called, frame.f_lineno)
        return self

    def see(self, value: Any) -> None:
        """Look at the result of an operator or a call."""
        frame: FrameType | None = sys._getframe(1)
        while frame and frame.f_code.co_filename != FILE:
            frame = frame.f_back
        if frame and self.finding is None and self.looks > 0:
            self.value(value, None, frame.f_lineno)

    def value(self, value: Any, called: bool | None, line: int) -> None:
        """Look at one value; `called`: an inner function's argument; None: no local variable."""
        if type(value) is int and value.bit_length() > 200:
            self.finding = ("wide", line)
        if not isinstance(value, np.ndarray):
            return
        self.looks -= 1
        numbers = value.dtype.kind != "O" or (value.size and type(value.flat[0]) in (int, float))
        if value.dtype.kind in "cO" * bool(numbers) or value.dtype.itemsize > 8:
            self.finding = ("complex" if value.dtype.kind == "c" else "wide", line)
            return
        for i, x in enumerate(self.originals):
            if value.shape == x.shape and value.dtype == x.dtype:
                self.compare(i, value - x, called, line)

    def compare(self, i: int, moved: np.ndarray[Any, Any], called: bool | None, line: int) -> None:
        """Remember how a local array differs from argument i."""
        rounding = 1e-14 * float(absolute(self.originals[i]).max())
        where = flatnonzero(absolute(moved) > rounding)
        if len(where) == 1:
            self.single[i].add(int(where[0]))
        elif called is not None and len(where) == moved.size:
            step = float(absolute(moved).max())
            if step <= 1e-2 * float(absolute(self.originals[i]).max()):
                self.shifts[i].add(float(f"{moved.flat[0]:.3g}"))
        if len(self.single[i]) > 1 or len(self.shifts[i]) > (0 if called else 1):
            self.finding = ("nudged", line)


def line_of(error: BaseException) -> int | None:
    """The last line of the learner's file on the way to `error`."""
    lines, traceback = [], error.__traceback__
    while traceback:
        if traceback.tb_frame.f_code.co_filename == FILE:
            lines.append(traceback.tb_lineno)
        traceback = traceback.tb_next
    if isinstance(error, RecursionError):  # the last is the line of the def, the one before calls
        lines = lines[:-1] or lines
    return lines[-1] if lines else None


def problem_of(error: BaseException) -> dict[str, Any]:
    """Name what stopped the learner's code."""
    kinds: list[tuple[type[BaseException], str]] = [
        (Flood, "flood"),
        (SystemExit, "exit"),
        (KeyboardInterrupt, "exit"),
        (NotImplementedError, "blank"),
        (Refused, "import"),
        (RecursionError, "recursion"),
        (MemoryError, "memory"),
        (SyntaxError, "syntax"),
    ]
    kind = next((name for base, name in kinds if isinstance(error, base)), "exception")
    line = error.lineno if isinstance(error, SyntaxError) else line_of(error)
    try:
        text = " ".join(str(error.msg if isinstance(error, SyntaxError) else error).split())
    except Exception:
        text = ""
    return {"kind": kind, "line": line, "type": type(error).__name__, "text": text[:300]}


def fresh_namespace(allowed: list[str], refused: list[str]) -> dict[str, Any]:
    """The globals of a learner's module: what is refused is not there, imports are looked at."""
    inner = {k: v for k, v in vars(builtins).items() if k not in refused}
    namespace: dict[str, Any] = {"__name__": "answer", "__builtins__": inner}
    original: Callable[..., Any] = builtins.__import__

    def looked_at(name: str, globals: Any = None, *rest: Any, **more: Any) -> Any:
        if globals is namespace and allowed and name.partition(".")[0] not in allowed:
            raise Refused(name)
        return original(name, globals, *rest, **more)

    inner["__import__"] = looked_at
    return namespace


class Blocker:
    """Refuses libraries that would answer in the learner's place, however they are imported."""

    def find_spec(self, name: str, *_: Any) -> None:
        """Refuse them; leave the rest to the other finders."""
        if name.partition(".")[0] in OUTSIDE:
            raise Refused(name)


def run(job: dict[str, Any], arguments: Any, arrays: dict[str, Any]) -> dict[str, Any]:
    """Load one learner's module and call its function on every case, twice where asked."""
    printed = Printed()
    result: dict[str, Any] = {"problem": None, "returned": [], "again": [], "changed": []}
    result |= {"lines": [], "watch": None}
    namespace = fresh_namespace(job["allowed"], job["refused"])
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            exec(compiled(job, namespace), namespace)
            function = namespace.get(job["function"])
            if not callable(function) or not hasattr(function, "__code__"):
                result["problem"] = {"kind": "no function", "line": None}
                return result
            for case in job["cases"]:
                call(function, case, arguments, arrays, job, result, printed)
    except BaseException as error:
        result["problem"] = problem_of(error)
    finally:
        sys.settrace(None)
        result.setdefault("printed", printed.text)
    return result


def compiled(job: dict[str, Any], namespace: dict[str, Any]) -> CodeType:
    """The learner's module, with what it computes counted where that is asked for."""
    if not job.get("nudges"):
        return compile(job["source"], FILE, "exec", dont_inherit=True)
    namespace.update(effort.Effort().names)
    return effort.instrumented(job["source"], FILE)


def call(
    function: Callable[..., Any],
    case: dict[str, Any],
    arguments: Any,
    arrays: dict[str, Any],
    job: dict[str, Any],
    result: dict[str, Any],
    printed: Printed,
) -> None:
    """Call `function` on one case, and keep what it returns and what it did on the way."""
    given = decode(case, arguments)
    handed, again = copied(given), copied(given)
    number = len(result["lines"])
    limited = number < len(job["limits"])
    watch = Watch(function.__code__, list(given), job["nudges"] and (limited or not job["limits"]))
    work = effort.Effort(watch.see)
    if job["nudges"]:
        function.__globals__.update(work.names)
    try:
        sys.settrace(watch)
        value = function(*handed)
    finally:
        sys.settrace(None)
        values, curved = job["limits"][number] if limited else (np.inf, np.inf)
        if not watch.finding and (work.values > values or work.curved > curved):
            watch.finding = ("nudged", watch.returned or 1)
        if not watch.finding and watch.nudges and work.nudges:
            watch.finding = ("nudged", watch.returned or 1)
        if watch.finding and not result["watch"]:
            result["watch"] = watch.finding
    result.setdefault("printed", printed.text)  # of the first call; the others say it again
    printed.text = ""
    result["lines"].append(watch.returned)
    result["changed"].append([i for i, v in enumerate(handed) if not same(v, given[i])])
    result["returned"].append(encode(value, arrays))
    if job["twice"]:
        if job["nudges"]:
            function.__globals__.update(effort.UNCOUNTED)
        result["again"].append(encode(function(*again), arrays))


def copied(value: Any) -> Any:
    """A copy of nested arrays."""
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, tuple | list):
        return type(value)(copied(v) for v in value)
    return {k: copied(v) for k, v in value.items()} if isinstance(value, dict) else value


def same(a: Any, b: Any) -> bool:
    """Whether nested arrays are bit for bit the same."""
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        equal_nan = getattr(a, "dtype", np.dtype(object)).kind in "fc"
        return bool(array_equal(a, b, equal_nan=equal_nan))
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return bool(a == b)


def limit(memory: int, seconds: float) -> None:
    """Limit memory, processor time and the size of files, where the system can."""
    try:
        import resource
    except ImportError:  # Windows
        return
    limits = {"AS": memory, "CPU": int(seconds) + 3, "FSIZE": 1 << 26, "CORE": 0}
    for name, value in limits.items():
        with contextlib.suppress(AttributeError, ValueError, OSError):
            which = getattr(resource, f"RLIMIT_{name}")
            resource.setrlimit(which, (value, resource.getrlimit(which)[1]))


WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
#: Python's audit events (PEP 578) whose paths are changed, and those that start a process.
CHANGES = frozenset(
    f"os.{name}"
    for name in (
        *("remove", "rename", "mkdir", "rmdir", "truncate", "link", "symlink"),
        *("chmod", "chown", "utime"),
    )
) | {"shutil.rmtree"}
STARTS = frozenset(
    f"os.{name}" for name in ("fork", "forkpty", "posix_spawn", "spawn", "exec", "system")
) | {"subprocess.Popen", "os.startfile", "_winapi.CreateProcess"}


def keep_inside(folder: Path) -> None:
    """From now on, refuse to change files outside `folder` and to start processes.

    A process that begins a session of its own would not be killed with this one. Nor are the
    solutions to be read.
    """
    inside, void = folder.resolve(), Path(os.devnull).resolve()
    solutions = Path(__file__).resolve().parent / "content"

    def look(event: str, arguments: tuple[Any, ...]) -> None:
        if event in STARTS:
            raise PermissionError(f"{event}: no other process may be started here")
        if event in CHANGES or (event == "open" and arguments[2] & WRITING):
            for name in arguments[:1] if event == "open" else arguments:
                if isinstance(name, str | bytes | os.PathLike):
                    path = Path(os.fsdecode(name)).resolve()
                    if path != void and not path.is_relative_to(inside):
                        raise PermissionError(f"{path}: outside the folder of this process")
        elif event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            path = Path(os.fsdecode(arguments[0])).resolve()
            if path.is_relative_to(solutions):
                raise PermissionError(f"{path}: closed to this process")

    sys.addaudithook(look)
    with contextlib.suppress(ImportError):  # Windows
        import _posixsubprocess

        def start(*_: Any) -> None:  # by which multiprocessing starts one, and tells no audit hook
            raise PermissionError("fork_exec: no other process may be started here")

        _posixsubprocess.fork_exec = start  # type: ignore[assignment]


def forked() -> Path:
    """Fork for each folder that stdin names, and return there; end with stdin.

    Says on stdout the number of each fork and, after its end, its exit code.
    """
    for name in sys.stdin.buffer:
        pid = os.fork()
        if not pid:
            os.setsid()
            return Path(os.fsdecode(name.removesuffix(b"\n")))
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
    sys.exit()


@contextlib.contextmanager
def ends_after(seconds: float, where: Path) -> Iterator[None]:
    """End the process if the body takes longer, and leave in `where` what was running.

    The thread that looks holds the interpreter's lock, so that what it looks at stands still. Where
    something written in C never gives up the lock, faulthandler looks without it.
    """
    done = threading.Event()

    def wait() -> None:
        if not done.wait(seconds):
            faulthandler.dump_traceback(late)
            os._exit(1)

    with where.open("w", encoding="utf-8") as late:
        usual = threading.stack_size(STACK)
        faulthandler.dump_traceback_later(seconds + STUCK, exit=True, file=late)
        threading.Thread(target=wait, daemon=True).start()
        threading.stack_size(usual)
        try:
            yield
        finally:
            done.set()
            faulthandler.cancel_dump_traceback_later()


def settle(folder: Path) -> None:
    """Leave whatever this process was started with: streams, place, and where TemporaryFile is."""
    empty = folder / "empty"
    empty.mkdir()
    os.chdir(empty)
    os.environ.update(dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(empty)))
    with Path(os.devnull).open("r+b", 0) as nothing, (folder / "stderr").open("wb") as stderr:
        for number, stream in enumerate((nothing, nothing, stderr)):
            os.dup2(stream.fileno(), number)


def main(folder: Path) -> None:
    """Do the jobs in `folder`."""
    settle(folder)
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    with np.load(folder / "arguments.npz", allow_pickle=False) as file:
        arguments = {name: file[name] for name in file.files}
    if any(one["allowed"] for one in job["jobs"]):
        sys.meta_path.insert(0, Blocker())
    limit(job["memory"], job["seconds"])
    keep_inside(folder)
    arrays: dict[str, Any] = {}
    np.seterr(all="ignore")
    with ends_after(job["seconds"], folder / "late.txt"):
        results = [run(one, arguments, arrays) for one in job["jobs"]]
    np.savez(folder / "results.npz", **arrays)
    part = folder / "results.part"
    part.write_text(json.dumps(results), encoding="utf-8")
    part.rename(folder / "results.json")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else forked())
    os._exit(0)  # to take NumPy down would take longer than a usual job
