"""Which share of small wrong changes to the core is noticed by the tests: a random sample of mutmut's mutants.

`pip install -c constraints.txt -e '.[test,mutation]'`, then `python benchmarks/mutation_sample.py --mutants 150` draws among the functions
of data, model, training, evaluation and report (pyproject.toml, `tool.mutmut`), tries each of them, and prints the share and, as a diff,
each one that no test noticed. Whether such a one is equivalent, so that no test could notice it, is for people to judge. The first call
runs the tests of these rooms once to learn which test calls which function; later ones only what changed.
PATTERN, such as 'mm1_ablate.data.mixture.*', draws among fewer. Everything is written to mutants/.
"""

from __future__ import annotations

import argparse
import fnmatch
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
MUTMUT = [sys.executable, "-m", "mutmut"]
NOTICED = {"killed", "timeout", "segfault", "suspicious", "caught by type check"}


def statuses() -> dict[str, str]:
    """By the name of each mutant, what mutmut knows of it."""
    told = subprocess.run([*MUTMUT, "results", "--all", "true"], cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout
    return dict(line.strip().split(": ", 1) for line in told.splitlines() if ": " in line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patterns", nargs="*", default=["*"], metavar="PATTERN")
    parser.add_argument("--mutants", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    run = [*MUTMUT, "run", "--max-children", str(options.processes)]
    # A name of no mutant: everything is made ready and nothing is tried, which mutmut ends with an error.
    subprocess.run([*run, "no.such.mutant"], cwd=REPOSITORY)
    names = sorted(name for name in statuses() if any(fnmatch.fnmatch(name, pattern) for pattern in options.patterns))
    if not names:
        sys.exit("mutmut made no mutants of these names; see what it says above")
    drawn = random.Random(options.seed).sample(names, min(options.mutants, len(names)))
    subprocess.run([*run, *drawn], cwd=REPOSITORY, check=True)
    after = statuses()
    for name in drawn:
        if after[name] not in NOTICED:
            print(f"\n== {after[name]}: {name}", flush=True)
            subprocess.run([*MUTMUT, "show", name], cwd=REPOSITORY)
    noticed = sum(after[name] in NOTICED for name in drawn)
    print(f"\n{noticed} of {len(drawn)} mutants noticed, of {len(names)}: {dict(Counter(after[name] for name in drawn))}")


if __name__ == "__main__":
    main()
