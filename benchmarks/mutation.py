"""What `mutmut run` found, as the tables of MUTATION.md: each file's mutants, and who survived.

    pip install -e '.[test,mutation]'
    OPENBLAS_NUM_THREADS=1 mutmut run --max-children 1     # goes on where it was stopped
    python -m benchmarks.mutation

The files to mutate and the tests that must notice are in pyproject.toml, [tool.mutmut].
"""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from pathlib import Path

from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.stats import status_by_exit_code

COUNTED = ("killed", "survived", "timeout")


def main() -> None:
    settings = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["tool"]["mutmut"]
    print("| file | mutants | killed | survived | timeout | not run | killed, of those run |")
    print("|---|---|---|---|---|---|---|")
    survivors, total = [], Counter[str]()
    for name in settings["only_mutate"]:
        results = json.loads(Path("mutants", f"{name}.meta").read_text(encoding="utf-8"))
        outcomes = {key: status_by_exit_code[c] for key, c in results["exit_code_by_key"].items()}
        survivors += [key for key, outcome in outcomes.items() if outcome == "survived"]
        _row(Path(name).name, count := Counter(outcomes.values()))
        total += count
    _row("all", total)
    for key in survivors:
        print(f"\n{key}")
        for line in get_diff_for_mutant(key).splitlines()[3:]:
            if line[:1] in "+-":
                print(line)


def _row(name: str, count: Counter[str]) -> None:
    ran = sum(count[outcome] for outcome in COUNTED)
    stopped = count["killed"] + count["timeout"]  # an endless loop is noticed
    columns = [count.total(), *(count[outcome] for outcome in COUNTED), count.total() - ran]
    print(f"| {name} | {' | '.join(f'{n:,}' for n in columns)} | {stopped / max(ran, 1):.1%} |")


if __name__ == "__main__":
    main()
