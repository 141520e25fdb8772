"""What a command writes, whoever reads it: pipes, narrow windows, few letters, streams closed."""

import json
import os
import re
import subprocess
import sys
import unicodedata
from pathlib import Path

import forks
import pytest
from test_command_lines import World

from scratchvae import checkpoint, streams

COMMANDS = {  # and the exit code
    "train vae --data digits.npz --hidden 3 --epochs 2 --out new": 0,
    "evaluate vae --samples 2 --rivals": 0,
    "sample vae": 0,
    "reconstruct vae --json": 0,
    "interpolate vae": 0,
    "latent vae": 0,
    "check": 0,
    "info": 0,
    "exercise list": 0,
    "exercise run 1": 1,
    "exercise hint 1 --json": 0,
    "bughunt": 0,
    "bughunt run 1": 2,
    "drill --seed 1": 0,
    "quiz elbo --seed 1": 0,
    "exam": 2,
    "review": 0,
    "progress": 0,
    "progress --json": 0,
    "evaluate none": 2,
}
PRACTICE = ("exercise", "bughunt", "drill", "quiz", "exam", "review", "progress")
JA = {"LANG": "ja_JP.UTF-8"}
WAYS = {
    "pipe": {},
    "pipe, Japanese": {"env": JA},
    "40 columns, NO_COLOR": {"columns": 40, "env": {"NO_COLOR": "1"}},
    "200 columns, dumb": {"columns": 200, "env": {"TERM": "dumb"}},
    "40 columns, Japanese": {"columns": 40, "env": {**JA, "NO_COLOR": "1"}},
    "ascii": {"encoding": "ascii", "env": {"LC_ALL": "C"}},
    "latin-1, Japanese": {"encoding": "latin-1", "env": JA},
    "cp932, Japanese": {"encoding": "cp932", "env": JA},  # a pipe on a Japanese Windows
    "stdout and stdin closed": {"stdout": "closed", "stdin": "closed"},
    "stdout gone": {"stdout": "gone"},
    "stdout full": {"stdout": "full"},
    "stderr closed": {"stderr": "closed"},
    "stderr gone": {"stderr": "gone"},
    "stderr full": {"stderr": "full"},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return World(tmp_path_factory.mktemp("world")).place


@pytest.fixture(scope="module")
def answers(place):
    """What became of each command, each way."""
    pairs = [(command, way) for command in COMMANDS for way in WAYS]
    cases = [{"argv": command.split(), **WAYS[way]} for command, way in pairs]
    return dict(zip(pairs, forks.run_all(cases, place), strict=True))


def timeless(text):
    """Without the time of day and how long it took."""
    return re.sub(r"\d\d:\d\d:\d\d|\b\d+\.\d s\.", "T", text)


def is_json(command):
    return "--json" in command


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("command", COMMANDS)
def test_the_exit_code_and_no_traceback(answers, command, way):
    answer = answers[command, way]
    written = answer["out"] + answer["err"]
    assert "Traceback" not in written, written
    code = COMMANDS[command]
    if way == "stdout full" and answers[command, "pipe"]["out"]:
        assert answer["code"] == 2
        assert answer["err"].endswith("scratchvae: error: stdout: No space left on device\n")
    elif command == "exam" and WAYS[way].get("columns"):
        assert answer["code"] == (2 if "dumb" in way else 0), written
    else:
        assert answer["code"] == code, written


@pytest.mark.parametrize("command", [c for c, code in COMMANDS.items() if code == 2])
@pytest.mark.parametrize("way", ["pipe", "pipe, Japanese", "ascii", "latin-1, Japanese"])
def test_an_error_is_one_line_on_stderr(answers, command, way):
    answer = answers[command, way]
    lines = [line for line in answer["err"].splitlines() if " the encoding here" not in line]
    assert answer["out"] == ""
    assert len(lines) == 1
    assert lines[0].startswith("scratchvae: error: ")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_pipe_gets_no_escapes_and_whole_words(answers, command):
    for way in ("pipe", "pipe, Japanese"):
        answer = answers[command, way]
        assert "\x1b" not in answer["out"] + answer["err"]
        assert "…" not in answer["out"]
        if is_json(command):
            json.loads(answer["out"])


@pytest.mark.parametrize("command", COMMANDS)
def test_no_color_and_a_dumb_terminal(answers, command):
    """Bold and the cursor are no colours; a dumb terminal has neither."""
    written = answers[command, "40 columns, NO_COLOR"]["out"]
    assert not re.search(r"\x1b\[[\d;]*(?<!\d)(3[0-8]|4[0-8]|9\d)[;m]", written)
    assert "\x1b" not in answers[command, "200 columns, dumb"]["out"]


def columns_of(line):
    """How many columns of a terminal a line takes."""
    return sum(1 + (unicodedata.east_asian_width(c) in "WF") for c in line)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("way", ["40 columns, NO_COLOR", "40 columns, Japanese"])
def test_a_narrow_window(answers, command, way):
    """What is framed or broken into lines fits; a terminal itself breaks a path or an error."""
    text = re.sub(r"\x1b\[[?\d;]*[a-zA-Z]", "", answers[command, way]["out"])
    lines = [line for line in re.split(r"[\r\n]+", text) if line]
    framed = [line for line in lines if line[0] in "│┌└├╭╰┃┏┡┗"]
    assert all(columns_of(line) <= 40 for line in framed)
    if command != "progress":  # long names of topics end in … there
        assert "…" not in "".join(framed)
    if command.split()[0] in PRACTICE and not is_json(command):
        broken = [line for line in lines if not re.search("error|HOME|/|answer|解答", line)]
        assert max(map(columns_of, broken), default=0) <= 40, broken


@pytest.mark.parametrize("command", [c for c in COMMANDS if not is_json(c)])
def test_a_wide_window_uses_no_more_than_reads_well(answers, command):
    lines = answers[command, "200 columns, dumb"]["out"].split("\r\n")
    if command.split()[0] in PRACTICE:
        broken = [line for line in lines if "scratchvae: error" not in line]
        assert max(map(columns_of, broken)) <= 96


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("way", "like"),
    [
        ("ascii", "pipe"),
        ("latin-1, Japanese", "pipe, Japanese"),
        ("cp932, Japanese", "pipe, Japanese"),
    ],
)
def test_letters_that_the_encoding_lacks(answers, command, way, like):
    """They are shown as others or as ?, which one line says; JSON is escaped, and as before."""
    few, all_letters = answers[command, way], answers[command, like]
    encoding = WAYS[way]["encoding"]
    if is_json(command):
        assert json.loads(few["out"]) == json.loads(all_letters["out"])
    elif command.split()[0] in PRACTICE:
        wanted = timeless(all_letters["out"])
        assert timeless(few["out"]) == wanted.encode(encoding, streams.ALIKE).decode(encoding)
    else:  # rich draws its frames with + and - then
        assert "?" not in few["out"]
    if command.split()[0] in PRACTICE:
        said = f"the encoding here, {encoding}, lacks" in few["err"]
        assert said == (encoding != "cp932")  # whose few signs have others like them
        assert " the encoding here" not in all_letters["err"]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_stream_that_is_not_there_changes_nothing_else(answers, command, stream):
    whole = answers[command, "pipe"]
    ways = ["stdout and stdin closed", "stdout gone"]
    if stream == "stderr":
        ways = ["stderr closed", "stderr gone", "stderr full"]
    other = {"stdout": "err", "stderr": "out"}[stream]
    for way in ways:
        assert timeless(answers[command, way][other]) == timeless(whole[other])


# --- as started from a shell ---


def shell(place, tmp_path, line, **env):
    """Run a line of bash, in which scratchvae is $S; return the finished process."""
    if os.name != "posix":
        pytest.skip("bash, and links for anyone, are POSIX's")
    (tmp_path / "digits.npz").symlink_to(place / "digits.npz")
    names = {"HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    root = str(Path(__file__).parent.parent)
    names |= {"S": f"{sys.executable} -m scratchvae", "PYTHONPATH": root, **env}
    return subprocess.run(
        ["bash", "-c", line], capture_output=True, cwd=tmp_path, env=names, timeout=60, check=False
    )


TRAIN = "$S train ae --data digits.npz --hidden 3 --epochs 40 --out run"


def trained(directory):
    return checkpoint.load(directory / "model.npz").training.epoch


@pytest.mark.parametrize(
    "line",
    [
        f"({TRAIN}; echo $? >code) 2>&1 | head -1",
        f"({TRAIN}; echo $? >code) 2> >(head -1 >&2)",
        f"{TRAIN} 2>&-; echo $? >code",
        f"{TRAIN} >&- 2>&- <&-; echo $? >code",
    ],
)
def test_a_training_that_nobody_watches_goes_on_to_its_end(place, tmp_path, line):
    done = shell(place, tmp_path, line)
    assert (tmp_path / "code").read_text(encoding="utf-8") == "0\n", done
    assert trained(tmp_path / "run") == 40
    assert (tmp_path / "run" / "latent.png").stat().st_size > 1000
    assert b"Traceback" not in done.stdout + done.stderr


def test_a_closed_stderr_stays_out_of_stdout(place, tmp_path):
    """Python prints to stdout what is for a stderr that is None."""
    done = shell(place, tmp_path, f"{TRAIN} --json 2>&-")
    assert json.loads(done.stdout)["epochs"] == 40


@pytest.mark.parametrize(
    ("words", "env"),
    [
        ("quiz vae -n 1 --lang ja", {"PYTHONIOENCODING": "ascii"}),
        ("info", {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}),
    ],
)
def test_a_real_process_with_few_letters(place, tmp_path, words, env):
    done = shell(place, tmp_path, f"$S {words} <&- | cat", **env)
    assert done.stdout.isascii()
    assert done.stdout
    assert b"Traceback" not in done.stderr


def test_the_code_of_what_failed_outlives_its_reader(tmp_path):
    """`check` that finds a wrong gradient does not end in 0 because of `| head`."""
    script = (
        "import sys; from types import SimpleNamespace as N; from scratchvae import cli, proofs\n"
        "row = N(piece='Dense', tensors=1, error=1.0, method='m', verdict='wrong', ok=False,"
        " report='r', to_dict=dict)\n"
        "proofs.run_all = lambda seed: [row]\n"
        "sys.exit(cli.main(['check']))"
    )
    reader, writer = os.pipe()
    os.close(reader)
    root = Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", script],
        stdout=writer,
        stderr=subprocess.PIPE,
        check=False,
        cwd=root,
    )
    os.close(writer)
    wanted = b"scratchvae: error: the gradient is wrong in: Dense\n"
    assert (done.returncode, done.stderr.replace(b"\r\n", b"\n")) == (2, wanted)


def test_a_question_that_nobody_sees_waits_for_no_answer(place, tmp_path):
    """With --json the questions are on stderr."""
    line = "$S quiz -n 3 --json 2> >(exit) < <(sleep 0.3; yes a)"
    done = shell(place, tmp_path, f"sleep 0.1; {line}")
    assert json.loads(done.stdout)["answered"] <= 1
    assert done.returncode == 0
