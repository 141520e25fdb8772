"""What `mutmut run` found, as the tables of MUTATION.md: each file's mutants, and who survived.

    pip install -e ".[test,mutation]"
    OPENBLAS_NUM_THREADS=1 mutmut run --max-children 1     # goes on where it was stopped
    python -m benchmarks.mutation

The files to mutate and the tests that must notice are in pyproject.toml, [tool.mutmut]. mutmut
leaves every version of every function, and the exit code of the tests on it, in the folder mutants.
"""

from __future__ import annotations

import ast
import difflib
import json
import sys
import tomllib
from collections import Counter
from pathlib import Path

#: By the exit code of pytest, or of mutmut where it stopped the tests.
OUTCOMES = {0: "survived", 1: "killed", 3: "killed"} | dict.fromkeys(
    (36, 24, -24, 152, 255), "timeout"
)
COUNTED = ("killed", "survived", "timeout")


def main() -> int:
    settings = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["tool"]["mutmut"]
    paths = {name: Path("mutants", f"{name}.meta") for name in settings["only_mutate"]}
    if missing := [str(path) for path in paths.values() if not path.is_file()]:
        print(
            f"{missing[0]}: not there, so nothing was recorded: run mutmut first", file=sys.stderr
        )
        return 2
    print("| file | mutants | killed | survived | timeout | not run | killed, of those run |")
    print("|---|---|---|---|---|---|---|")
    survivors, total = {}, Counter[str]()
    for name, path in paths.items():
        codes = json.loads(path.read_text(encoding="utf-8"))["exit_code_by_key"]
        outcomes = {key: OUTCOMES.get(code, "not run") for key, code in codes.items()}
        survivors[name] = [key for key, outcome in outcomes.items() if outcome == "survived"]
        _row(Path(name).name, count := Counter(outcomes.values()))
        total += count
    _row("all", total)
    for name, keys in survivors.items():
        source = Path("mutants", name).read_text(encoding="utf-8")
        functions = {
            n.name: n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef)
        }
        lines = source.splitlines()
        for key in keys:
            mutant = key.rpartition(".")[2]
            both = functions[f"{mutant.rpartition('_')[0]}_orig"], functions[mutant]
            before, after = (lines[f.lineno : f.end_lineno] for f in both)
            diff = difflib.unified_diff(before, after, n=0, lineterm="")
            print("", key, *(line for line in [*diff][2:] if line[0] in "+-"), sep="\n")
    return 0


def _row(name: str, count: Counter[str]) -> None:
    ran = sum(count[outcome] for outcome in COUNTED)
    stopped = count["killed"] + count["timeout"]  # an endless loop is noticed
    columns = [count.total(), *(count[outcome] for outcome in COUNTED), count.total() - ran]
    share = f"{stopped / ran:.1%}" if ran else "-"
    print(f"| {name} | {' | '.join(f'{n:,}' for n in columns)} | {share} |")


if __name__ == "__main__":
    sys.exit(main())
