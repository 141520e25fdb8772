"""Every command line ends well: command lines are built from the parser itself, and run.

Exit code 0; or 2 with one line on stderr that names what is wrong, and nothing half-written; or
what is documented: 1 for an exercise or a hunt that does not pass, 130 for an interruption. Never
another exception. For a longer run, with other command lines each time:

    python tests/test_command_lines.py 5000
"""

import argparse
import contextlib
import copy
import functools
import io
import json
import math
import os
import re
import shutil
import sys
import tempfile
import time
import traceback
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from scratchvae import argument_types as types
from scratchvae import cli, parser, plots, proofs, train_command
from scratchvae.files import atomic_write
from scratchvae.output import quoted
from scratchvae.practice import bughunt_files, drill_cards, exercises, grade, questions
from scratchvae.practice.commands import COMMANDS
from scratchvae.practice.sandbox import Problem
from scratchvae.train import Stopped, fit

EXAMPLES = 350
INPUTS = "place"  # what a command finds; only some of it may it change

# --- what a command line is made of ---

NUMBERS = ["0", "-1", "1", "2", "3", "7", "1e30", "1" + 30 * "0", 400 * "9", 5000 * "7", "-0", "+1"]
NUMBERS += ["1.5", "nan", "inf", "-inf", "1e-400", "1e400", "1e-45", "1e38", "0x10", "1_0", "²"]
NUMBERS += ["１", "٣", "1,2", "1,,2", ",", "none", "learned", "4294967296", "1000000001"]
PATHS = ["", " ", ".", "..", "-", "--", "/", "~", "$HOME", "/dev/null", "none.npz", "no/such/file"]
PATHS += ["vae", "ae/model.npz", "dae", "digits.npz", "digits.npy", "wide.npz", "garbage.npz"]
PATHS += ["garbage.npy", "empty.npz", "half/model.npz", "folder", "notes.txt", "dangling", "a.png"]
PATHS += [
    "räume mit 空白/vae",
    "räume mit 空白/x.png",
    "digits.npz/run",
    "a\nb",
    "\udcff.npz",
    "🙂",
]
PATHS += [300 * "long", "new.sqlite3", "other.sqlite3", "mnist", "gpu", "ja", "elbo", "kl-2d"]
HOSTILE = st.one_of(
    st.sampled_from(NUMBERS),
    st.sampled_from(PATHS),
    st.text(st.characters(exclude_characters="\0"), max_size=6),  # no argument can hold a NUL
)
COUNTS = ["1", "2", "3"]
REALS = ["0.5", "1e-3", "0", "1"]
RUNS = ["vae", "ae", "dae", "dae/model.npz", "räume mit 空白/vae"]
DATA = ["digits.npz", "digits.npy", "räume mit 空白/x.npz"]
GOOD = {  # by the option or, where that has many meanings, by the command and the option
    "train --out": ["new", "räume mit 空白/neu"],
    "explore --out": ["a.html", "räume mit 空白/ä.html"],
    "--out": ["a.png", "räume mit 空白/ä.png"],
    "--resume": RUNS[:3],
    "--data": DATA,
    "--data-dir": [".", "folder"],
    "--hidden": ["4", "3,2", "none"],
    "--sigma": REALS,
    "--beta": REALS,
    "--fraction": REALS,
    "--learning-rate": REALS,
    "--threads": ["1"],
    "--state": ["new.sqlite3", "räume mit 空白/state"],
    "--minutes": ["1"],
    "run": RUNS,
    "runs": RUNS,
    "drill topic": ["kl", "vae", "kl-2d"],
    "exercise name": ["1", "relu", "kl", "30"],
    "bughunt name": ["1", "26", "digits", "x"],
}
FAKE = "999"  # what has no good value of its own gets a number


def leaves(parser, words=()):
    """For each command the levels of its parser: ((parser, word that leads on or None), ...)."""
    subs = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    found = [] if subs and subs[0].required else [((parser, None),)]
    for action in subs:
        for word, sub in action.choices.items():
            found += [((parser, word), *levels) for levels in leaves(sub)]
    return found


def name_of(leaf):
    return " ".join(word for _, word in leaf if word)


@st.composite
def command_line(draw, leaf):
    """The words of a command line for one command: mostly such as it wants."""
    argv = []
    wild = draw(st.integers(0, 3)) == 0  # one in four may have more than one thing wrong
    spoilt = draw(st.integers(0, 6))  # which word, if there are that many, is hostile
    for sub, word in leaf:
        actions = [a for a in sub._actions if not isinstance(a, argparse._SubParsersAction)]
        options = [a for a in actions if a.option_strings]
        chosen = draw(st.lists(st.sampled_from(options), max_size=4 if word is None else 1))
        for action in (a for a in actions if not a.option_strings):
            if action.nargs != "?" or draw(st.booleans()):
                chosen.insert(draw(st.integers(0, len(chosen))), action)
        for action in chosen:
            values = []
            for _ in range({None: 1, "?": 1, "+": 2}.get(action.nargs, action.nargs)):
                hostile = spoilt == 0 or (wild and draw(st.integers(0, 3)) == 0)
                values.append(draw(HOSTILE if hostile else good(leaf, action)))
                spoilt -= 1
            if action.option_strings:
                option = draw(st.sampled_from(action.option_strings))
                if option.startswith("--") and draw(st.integers(0, 5)) == 0:
                    option = option[: draw(st.integers(3, len(option)))]  # may be abbreviated
                if values and option.startswith("--") and draw(st.booleans()):
                    argv.append(f"{option}={values.pop(0)}")
                else:
                    argv.append(option)
            argv += values
        if word:
            argv.append(word)
    if wild and draw(st.integers(0, 3)) == 0:
        argv.insert(draw(st.integers(0, len(argv))), draw(HOSTILE))
    return argv


def good(leaf, action):
    """Values that the action accepts, and that lead on."""
    if action.choices:
        return st.sampled_from(list(action.choices))
    option = action.option_strings[-1] if action.option_strings else action.dest
    command = name_of(leaf).split()[0] if name_of(leaf) else ""
    return st.sampled_from(GOOD.get(f"{command} {option}", GOOD.get(option, COUNTS)))


# --- where it runs ---

LIGHT = {"epochs": 5, "rows": 200, "parameters": 100_000}


def light_fit(model, x, **options):
    """`fit`, where it is short; as though Ctrl-C came, where it is not."""
    if (
        options["epochs"] > LIGHT["epochs"]
        or len(x) > LIGHT["rows"]
        or model.theta.size > LIGHT["parameters"]
    ):
        raise Stopped
    return fit(model, x, **options)


def light_save(figure, path):
    """`plots.save` without the drawing."""
    path = Path(path)
    if path.suffix.lower() != ".png":
        return REAL_SAVE(figure, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write(b"a picture")
    return path


REAL_SAVE = plots.save


def no_network(*args, **options):
    raise urllib.error.URLError("no network here")


@functools.cache
def proved():
    rng = np.random.default_rng(0)
    return [proofs.Row(*pair) for pair in list(proofs._pieces(rng))[:3]]


def light_proofs(seed):
    np.random.default_rng(seed)
    return proved()


@contextlib.contextmanager
def light():
    """Without what takes long: training, drawing, proofs, oracles in other processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_command, "fit", light_fit)
        patch.setattr(plots, "save", light_save)
        patch.setattr(proofs, "run_all", light_proofs)
        patch.setattr(urllib.request, "urlopen", no_network)
        patch.setattr(grade, "grade", lambda *args, **options: grade.Grade(Problem("blank")))
        patch.setattr(bughunt_files, "look", lambda hunt, source: bughunt_files.Said())
        for module, name in (
            (exercises, "load_all"),
            (bughunt_files, "load_all"),
            (questions, "load"),
            (drill_cards, "drills"),
        ):
            patch.setattr(module, name, functools.cache(getattr(module, name)))
        yield


class World:
    """A folder in which command lines run, each in the same state of it."""

    def __init__(self, root):
        self.root, self.place, self.saved = root, root / INPUTS, root / "saved"
        self.saved.mkdir()
        rng = np.random.default_rng(0)
        odd = self.saved / "räume mit 空白"
        odd.mkdir()
        x, y = rng.random((40, 4, 4), dtype="float32"), np.arange(40) % 3
        for file in (self.saved / "digits.npz", odd / "x.npz"):
            np.savez(file, x=x, y=y)
        np.save(self.saved / "digits.npy", x)
        np.savez(self.saved / "wide.npz", x=rng.random((9, 5)))
        for name in ("garbage.npz", "garbage.npy", "notes.txt", "other.sqlite3"):
            (self.saved / name).write_bytes(b"not what it says\n" * 9)
        (self.saved / "empty.npz").touch()
        (self.saved / "folder").mkdir()
        (self.saved / "folder" / "train-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03")
        (self.saved / "dangling").symlink_to("nowhere")
        small = ["--data", str(self.saved / "digits.npz"), "--hidden", "3", "--n-latent", "2"]
        for kind in ("ae", "dae", "vae"):
            out = ["--out", str(self.saved / kind), "--epochs", "2", "--quiet"]
            with light():
                assert run(["train", kind, *small, *out]).code == 0
        shutil.copytree(self.saved / "vae", odd / "vae")
        (self.saved / "half").mkdir()
        whole = (self.saved / "vae" / "model.npz").read_bytes()
        (self.saved / "half" / "model.npz").write_bytes(whole[: len(whole) // 2])
        self.before = snapshot(self.saved)
        self.restore()

    def restore(self):
        for folder in (self.place, self.root / "home"):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.saved, self.place, symlinks=True)

    @contextlib.contextmanager
    def inside(self):
        """In the folder, with directories of the user's and a locale of its own."""
        here = Path.cwd()
        with pytest.MonkeyPatch.context() as patch, light():
            for name in ("HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
                patch.setenv(name, str(self.root / "home"))
            for name in ("SCRATCHVAE_DATA", "NO_COLOR", "FORCE_COLOR", "LC_ALL", "LINES"):
                patch.delenv(name, raising=False)
            patch.setenv("LANG", "C")
            os.chdir(self.place)
            try:
                yield
            finally:
                os.chdir(here)


def snapshot(folder):
    """What the folder holds: the content of each file, by its name there."""
    return {
        str(path.relative_to(folder)): b"/" if path.is_dir() else path.read_bytes()
        for path in folder.rglob("*")
        if not path.is_symlink()
    }


class Ending:
    """What became of a command line."""

    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err


def run(argv, typed="", encoding="utf-8"):
    """Run a command line in this process; `typed` None is a closed stdin."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding, write_through=True) for _ in range(2)]
    streams[1].reconfigure(errors="backslashreplace")
    saved = sys.stdin, sys.stdout, sys.stderr
    sys.stdin = None if typed is None else io.StringIO(typed)
    sys.stdout, sys.stderr = streams
    try:
        code = cli.main(argv)
    except BaseException:
        streams[1].write(traceback.format_exc())
        code = None
    finally:
        sys.stdin, sys.stdout, sys.stderr = saved
    return Ending(code, *(stream.buffer.getvalue().decode(encoding) for stream in streams))


# --- what is asked of it ---

SET_ASIDE = re.compile(r"scratchvae: .* is no database or is damaged: .*\n")
LACKS = re.compile(r"scratchvae: the encoding here, .*\n")
ERROR = re.compile(r"scratchvae[a-zN ]*: error: (.+)")
ANSWERED = ("exercise", "bughunt")  # these end in 1 where the answer does not pass
HELP = re.compile(r"--(h(e(l(p)?)?)?|v\w*)$")  # --help, --version, abbreviated
LEFT = ("exercises/", "bughunts/", "exercises", "bughunts")  # the learner's files
# What names itself otherwise than by a word of the command line.
OF_ITSELF = ("arguments are required", "exam: needs a terminal", "no network here")


def objections(argv, ending, before, after):
    """What is wrong with the end of a command line."""
    code, found = ending.code, []
    allowed = {0, 2, 130} | ({1} if argv and set(argv) & set(ANSWERED) else set())
    if code not in allowed or "Traceback" in ending.out + ending.err:
        found.append(f"exit code {code}")
    lines = LACKS.sub("", SET_ASIDE.sub("", ending.err)).split("\n")
    changed = {name for name in before | after if before.get(name) != after.get(name)}
    if code == 2:
        said = [line for line in lines if line]
        error = ERROR.fullmatch(said[-1]) if said else None
        json_mode = set(argv) & set(COMMANDS) and any(w[:3] == "--j" for w in argv)
        if not error or not (len(said) == 1 or json_mode):
            found.append("stderr is not one line that begins with scratchvae ...: error:")
        elif not names_something(error.group(1), argv):
            found.append("the line does not name what is wrong")
        mine = {n for n in changed if not n.startswith(LEFT) and not is_state(after.get(n))}
        mine = {n for n in mine if not re.search(r"\.broken-\d+$", n)}
        if mine and not (error and "saved in" in error.group(1)):
            found.append(f"it changed {sorted(mine)}")
    if code == 130 and len([line for line in lines if line.startswith("scratchvae: ")]) != 1:
        found.append("an interruption that says nothing")
    if any(name.endswith(".part") for name in after):
        found.append("something half-written")
    if "digits.npz" in changed and "digits.npz.broken-1" not in after:
        found.append("it changed digits.npz")
    helped = any(w == "-h" or (len(w) > 2 and HELP.match(w)) for w in argv)
    if code in (0, 1) and "--json" in argv and not helped:
        try:
            json.loads(ending.out, parse_constant=lambda name: 1 / 0)
        except (ValueError, ZeroDivisionError):
            found.append("stdout is not the JSON alone")
    return found


def is_state(content):
    """Whether a file is a learner's state, whole or just begun."""
    return content is not None and content[:15] in (b"", b"SQLite format 3")


def names_something(line, argv):
    """Whether an error's line contains an option, or a value, of the command line."""
    line = line.casefold()
    if any(words in line for words in OF_ITSELF):
        return True
    words = [part for word in argv for part in (word.split("=", 1) if "--" in word else [word])]
    forms = {f"{name}: " for name in ARGUMENTS}
    for word in words:
        bare = word.lstrip("-")
        forms |= {word, bare, bare.replace("-", "_"), repr(word)[1:-1], word[:30]}
        forms |= {" ".join(word.split())}
        for encoding in ("ascii", "latin-1"):  # of the situations that do not hold every character
            forms |= {word.encode(encoding, "backslashreplace").decode(encoding)}
        if word.startswith("--") and len(word) > 3:  # an abbreviation, spelt out by argparse
            forms |= {name for name in OPTIONS if name.startswith(word)}
        with contextlib.suppress(ValueError):
            forms |= {repr(float(word)), f"{float(word):g}"}
    blank = any(word and not word.strip() for word in words) and quoted(" ") in line
    empty = "''" in line or quoted("") in line
    return blank or empty or any(form.strip() and form.casefold() in line for form in forms)


PARSER = parser.make(cli.COMMANDS)
LEAVES = leaves(PARSER)
ACTIONS = [action for leaf in LEAVES for sub, _ in leaf for action in sub._actions]
OPTIONS = {option for action in ACTIONS for option in action.option_strings}
ARGUMENTS = {a.metavar or a.dest for a in ACTIONS if not a.option_strings}

SITUATION = st.fixed_dictionaries(
    {
        "typed": st.sampled_from(["", "", None, 40 * "a\n", 9 * "\n", "q\n", "１\nb\nx\n"]),
        "encoding": st.sampled_from(["utf-8", "utf-8", "ascii", "latin-1", "shift_jis"]),
        "columns": st.sampled_from([None, "40", "200", "1", "0", "x"]),
    }
)


def judged(world, argv, typed, encoding, columns):
    """Run a command line in the world; return its ending, and what there is against it."""
    with world.inside(), pytest.MonkeyPatch.context() as patch:
        if columns is None:
            patch.delenv("COLUMNS", raising=False)
        else:
            patch.setenv("COLUMNS", columns)
        ending = run(argv, typed, encoding)
        after = snapshot(world.place)
    found = objections(argv, ending, world.before, after)
    if after != world.before:
        world.restore()
    return ending, found


def report(argv, ending, found):
    return f"{argv}\n{found}\nexit code {ending.code}\n{ending.out[-800:]}\n{ending.err[-3000:]}"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("world"))


SETTINGS = {
    "deadline": None,
    "database": None,
    "phases": [Phase.explicit, Phase.generate, Phase.shrink],
    "suppress_health_check": list(HealthCheck),
    "print_blob": False,
}


@settings(max_examples=EXAMPLES, derandomize=True, **SETTINGS)
@given(st.data())
def test_every_command_line_ends_well(world, data):
    argv = data.draw(st.sampled_from(LEAVES).flatmap(command_line))
    ending, found = judged(world, argv, **data.draw(SITUATION))
    assert not found, report(argv, ending, found)


@pytest.mark.parametrize("leaf", LEAVES, ids=name_of)
def test_every_command_has_a_good_end(world, leaf):
    """Each is reached, and works, with no more than it asks for."""
    argv = name_of(leaf).split()
    argv += ["vae" for action in leaf[-1][0]._actions if action.dest in ("run", "runs")]
    if argv[0] == "train":
        argv += ["--data", "digits.npz", "--hidden", "3", "--epochs", "1"]
    if argv[-1] == "solution":
        argv.append("--give-up")
    ending, found = judged(world, argv, "", "utf-8", None)
    assert not found, report(argv, ending, found)
    codes = {"exam": 2, "exercise": 1, "exercise run": 1, "bughunt run": 2}
    codes |= {"exercise N": 2, "bughunt N": 2}
    assert ending.code == codes.get(" ".join(argv), 0), report(argv, ending, found)


EXTREMES = ["-1", "1e-400", "4294967296", "1" + 30 * "0", 400 * "9", 5000 * "7"]
NUMBERED = [  # a command, and one of its options that is a number
    (leaf, action)
    for leaf in LEAVES
    for action in leaf[-1][0]._actions
    if action.option_strings and action.type and action.type is not types.path
]


@pytest.mark.parametrize(
    ("leaf", "action"), NUMBERED, ids=lambda x: name_of(x) if type(x) is tuple else x.dest
)
def test_an_extreme_number_alone(world, leaf, action):
    """Refused, or in reach: none of them trains without end, or draws a million images."""
    argv = name_of(leaf).split()
    argv += ["vae" for one in leaf[-1][0]._actions if one.dest in ("run", "runs")]
    argv += ["--data", "digits.npz", "--hidden", "3"] if argv[0] == "train" else []
    for value in EXTREMES:
        words = [*argv, action.option_strings[-1], *[value] * (action.nargs or 1)]
        ending, found = judged(world, words, "", "utf-8", None)
        assert not found, report(words, ending, found)
        if action.type not in (types.real, types.sigma, types.seed) and len(value) > 9:
            assert ending.code == 2


# --- the test can fail ---


def key_error(arguments):
    raise KeyError("run")


def two_lines(arguments):
    print("one thing", file=sys.stderr)
    raise ValueError(f"{arguments.run}: and another")


def names_nothing(arguments):
    raise ValueError("int too large to convert")


def half(arguments):
    Path("new").mkdir()
    Path("new/model.npz").write_bytes(b"PK")
    raise ValueError(f"{arguments.run}: failed")


def partly(arguments):
    Path(".model.npz.part").write_bytes(b"PK")


def another_code(arguments):
    raise SystemExit(3)


def silent(arguments):
    raise SystemExit(2)


def no_json(arguments):
    print("NaN" if arguments.json else "a table")


@pytest.mark.parametrize(
    ("command", "objection"),
    [
        (key_error, "exit code None"),
        (two_lines, "stderr is not one line"),
        (names_nothing, "does not name what is wrong"),
        (half, f"it changed ['new', {str(Path('new/model.npz'))!r}]"),
        (partly, "something half-written"),
        (another_code, "exit code 3"),
        (silent, "stderr is not one line"),
        (no_json, "stdout is not the JSON alone"),
    ],
)
def test_a_command_that_ends_badly_is_reported(world, monkeypatch, command, objection):
    command.__doc__ = "``scratchvae latent``: spoilt."
    monkeypatch.setitem(cli.COMMANDS, "latent", command)
    ending, found = judged(world, ["latent", "vae", "--json"], "", "utf-8", None)
    assert objection in " ".join(found), report([], ending, found)
    if command is key_error:
        assert "KeyError: 'run'" in ending.err


def test_a_parser_whose_type_fails_is_found(world, monkeypatch):
    """A KeyError in one option of one command, and only for a certain value."""

    def spoilt(commands):
        spoilt_parser = copy.deepcopy(PARSER)
        steps = next(a for a in leaf_of("interpolate")[-1][0]._actions if a.dest == "steps")
        monkeypatch.setattr(steps, "type", {"2": 2, "3": 3}.__getitem__)
        return PARSER if spoilt_parser else None

    def leaf_of(name):
        return next(leaf for leaf in LEAVES if name_of(leaf) == name)

    monkeypatch.setattr(parser, "make", spoilt)
    spoilt({})

    @settings(max_examples=400, derandomize=True, **SETTINGS)
    @given(command_line(leaf_of("interpolate")))
    def search(argv):
        ending, found = judged(world, argv, "", "utf-8", None)
        assert not found, report(argv, ending, found)

    with pytest.raises(AssertionError, match="KeyError"):
        search()


# --- the longer run ---


def main(examples):
    """Run that many; print how they ended and what is wrong, each kind once."""
    codes, kinds, started = Counter(), {}, time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))

        @seed(int(time.time()))
        @settings(max_examples=examples, **SETTINGS)
        @given(st.data())
        def search(data):
            argv = data.draw(st.sampled_from(LEAVES).flatmap(command_line))
            ending, found = judged(world, argv, **data.draw(SITUATION))
            codes[ending.code] += 1
            for one in found:
                kinds.setdefault((one, ending.err[-60:]), report(argv, ending, found))

        search()
    for text in kinds.values():
        print(text, end="\n\n")
    counts = ", ".join(f"{n} with {code}" for code, n in sorted(codes.items(), key=str))
    seconds = math.ceil(time.perf_counter() - started)
    print(f"{sum(codes.values())} command lines in {seconds} s: {counts}; {len(kinds)} objections")
    return 1 if kinds else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else EXAMPLES))
