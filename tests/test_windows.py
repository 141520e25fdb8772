"""What Windows lacks is asked for where it is used: everything else can be imported there."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = {"fcntl", "grp", "pty", "pwd", "resource", "termios", "tty"}
NAMES = {"SIGALRM", "SIGHUP", "SIGKILL", "fork", "geteuid", "killpg", "setsid"}


def at_import(source):
    """What a module asks for as soon as it is imported, and Windows lacks."""
    found, nodes = set(), [ast.parse(source)]
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & MODULES
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module} & MODULES
        elif isinstance(node, ast.Attribute):
            found |= {node.attr} & NAMES
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            nodes.extend(ast.iter_child_nodes(node))
        else:
            nodes.extend(getattr(node, "decorator_list", []))
    return found


@pytest.mark.parametrize("folder", ["scratchvae", "tests", "benchmarks"])
def test_nothing_that_windows_lacks_at_import(folder):
    files = sorted((ROOT / folder).glob("**/*.py"))
    assert files
    assert {
        path.name: found for path in files if (found := at_import(path.read_text("utf-8")))
    } == {}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import os, fcntl", {"fcntl"}),
        ("from termios import *", {"termios"}),
        ("try:\n    import pty\nexcept ImportError:\n    pty = None", {"pty"}),
        ("import signal\nclass C:\n    n = signal.SIGKILL", {"SIGKILL"}),
        ("@mark(os.fork)\ndef f():\n    import pty", {"fork"}),
        ("def f():\n    import fcntl\n    os.fork()\ng = lambda: os.fork()", set()),
    ],
)
def test_it_objects(source, found):
    assert at_import(source) == found
