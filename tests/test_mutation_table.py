"""`python -m benchmarks.mutation` reads what mutmut left, here a made-up tree of two files."""

import json
from pathlib import Path

import pytest

from benchmarks import mutation

PYPROJECT = '[tool.mutmut]\nonly_mutate = ["room/one.py", "room/two.py"]\n'
ONE = """\
def x_half__mutmut_orig(a):
    b = a + 1
    return b / 2


def x_half__mutmut_1(a):
    b = a - 1
    return b / 2


def x_half__mutmut_2(a):
    b = a + 1
    return b / 3
"""
TWO = """\
class Room:
    def xǁRoomǁopen__mutmut_orig(
        self, door=1
    ):
        return door

    def xǁRoomǁopen__mutmut_10(
        self, door=2
    ):
        return door
"""


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A folder in which mutmut has run; mutants by exit code: killed, late, skipped, survived."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text(PYPROJECT, encoding="utf-8")
    room = tmp_path / "mutants" / "room"
    room.mkdir(parents=True)
    half, opened = "room.one.x_half__mutmut_", "room.two.xǁRoomǁopen__mutmut_"
    codes = {
        "one": {f"{half}1": 1, f"{half}2": 0, **{f"{half}{i}": 1 for i in range(3, 1200)}},
        "two": {f"{opened}10": 0, f"{opened}11": 36, f"{opened}12": 3, f"{opened}13": None},
    }
    for name, source in (("one", ONE), ("two", TWO)):
        (room / f"{name}.py").write_text(source, encoding="utf-8")
        meta = json.dumps({"exit_code_by_key": codes[name], "durations_by_key": {}})
        (room / f"{name}.py.meta").write_text(meta, encoding="utf-8")
    return room


def test_the_table_and_the_survivors(tree, capsys):
    assert mutation.main() == 0
    assert (
        capsys.readouterr().out
        == """\
| file | mutants | killed | survived | timeout | not run | killed, of those run |
|---|---|---|---|---|---|---|
| one.py | 1,199 | 1,198 | 1 | 0 | 0 | 99.9% |
| two.py | 4 | 1 | 1 | 1 | 1 | 66.7% |
| all | 1,203 | 1,199 | 2 | 1 | 1 | 99.8% |

room.one.x_half__mutmut_2
-    return b / 2
+    return b / 3

room.two.xǁRoomǁopen__mutmut_10
-        self, door=1
+        self, door=2
"""
    )


def test_a_run_that_has_not_begun_has_no_share(tree, capsys):
    for meta in tree.glob("*.meta"):
        codes = json.loads(meta.read_text(encoding="utf-8"))["exit_code_by_key"]
        meta.write_text(json.dumps({"exit_code_by_key": dict.fromkeys(codes)}), encoding="utf-8")
    assert mutation.main() == 0
    assert capsys.readouterr().out.splitlines()[-1] == "| all | 1,203 | 0 | 0 | 0 | 1,203 | - |"


def test_where_nothing_was_recorded(tree, capsys):
    (tree / "two.py.meta").unlink()
    assert mutation.main() == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        f"{Path('mutants/room/two.py.meta')}: not there, so nothing was recorded: run mutmut first"
    ]
