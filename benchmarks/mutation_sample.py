"""Which share of small wrong changes to the core is noticed by the tests: a random sample of mutmut's mutants.

`pip install -c constraints.txt -e '.[test,mutation]'`, then `python benchmarks/mutation_sample.py --mutants 150` draws among all changes
that mutmut can make to functions of data, model, training, evaluation and report (pyproject.toml, `tool.mutmut`), tries each of those
drawn, and prints the share and, as a diff, each one that no test noticed. Whether such a one is equivalent, so that no test could notice
it, is for people to judge. Before that the tests of these rooms run once, to learn which test calls which function.
PATTERN, such as 'mm1_ablate.data.mixture.*', draws among fewer functions. Everything is written to mutants/, anew each time.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import libcst
from mutmut import __main__ as mutmut
from mutmut.mutation.file_mutation import MutatedFile, _compute_mutated_function_hashes, combine_mutations_to_source, create_mutations
from mutmut.utils.file_utils import walk_mutatable_files

REPOSITORY = Path(__file__).resolve().parent.parent
MUTANTS = REPOSITORY / "mutants"
MUTMUT = [sys.executable, "-m", "mutmut"]
NO_MUTANT = "no.such.mutant"
NOTICED = {"killed", "timeout", "segfault", "suspicious", "caught by type check"}
Change = tuple[str, int]
"""A file, and which of the changes to its functions."""


def changes(file: str) -> tuple[Any, list[Any], set[str], set[str]]:
    """As `create_mutations`, without what lies outside functions, which mutmut does not change."""
    module, mutations, *ignored = create_mutations(file, Path(file).read_text())
    return module, [one for one in mutations if isinstance(one.contained_by_top_level_function, libcst.FunctionDef)], *ignored


def all_changes(patterns: Sequence[str]) -> list[Change]:
    """Everything that could be drawn."""
    found = []
    for file in sorted(map(str, walk_mutatable_files())):
        module = file.removesuffix(".py").replace("/", ".")
        for number, one in enumerate(changes(file)[1]):
            name = f"{module}.{one.contained_by_top_level_function.name.value}"
            if any(fnmatch.fnmatch(name, pattern) for pattern in patterns):
                found.append((file, number))
    return found


def write_mutants(drawn: Collection[Change]) -> None:
    """What `mutmut run` begins with, for these changes alone: to write out all of them takes a quarter of an hour."""

    def mutated(filename: str, code: str, *_: Any) -> MutatedFile:
        numbers = [number for file, number in drawn if file == filename]
        if not numbers:
            return MutatedFile(code=code, mutant_names=[], line_span_by_function_name={}, hash_by_function_name={})
        module, mutations, classes, functions = changes(filename)
        kept = [mutations[number] for number in numbers]
        hashes = _compute_mutated_function_hashes(code, module, kept)
        return replace(combine_mutations_to_source(module, kept, classes, functions), hash_by_function_name=hashes)

    shutil.rmtree(MUTANTS, ignore_errors=True)
    MUTANTS.mkdir()
    mutmut.mutate_file_contents = mutated
    mutmut.copy_src_dir()
    mutmut.create_mutants(1)


def told(*words: str) -> str:
    """What mutmut says."""
    return subprocess.run([*MUTMUT, *words], cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout


def statuses() -> dict[str, str]:
    """By the name of each mutant, what mutmut knows of it."""
    return dict(line.strip().split(": ", 1) for line in told("results", "--all", "true").splitlines() if ": " in line)


def noticed_by_more(name: str) -> bool:
    """Whether other tests notice a mutant that those do not which mutmut knows to call it: all in their files or, without any, of its room.

    What a fixture of a whole file calls counts for the first test alone that asks for the fixture, and what another process calls, or
    what is called when a module is imported, is not seen.
    """
    tests = {line.split("::")[0] for line in told("tests-for-mutant", name).splitlines() if "::" in line}
    tests = tests or {f"tests/{name.split('.')[1]}"}
    environment = {**os.environ, "MUTANT_UNDER_TEST": name, "PYTHONPATH": str(MUTANTS)}
    command = [sys.executable, "-m", "pytest", "-n", "0", "-x", "-q", "-p", "no:cacheprovider", *sorted(tests)]
    return subprocess.run(command, cwd=MUTANTS, env=environment, capture_output=True).returncode not in (0, 5)


def tried(processes: int) -> Mapping[str, str]:
    """By name, what became of each mutant that was written."""
    run = [*MUTMUT, "run", "--max-children", str(processes)]
    # A name of no mutant: everything is made ready and nothing is tried, which mutmut ends with an error.
    ready = subprocess.run([*run, NO_MUTANT], cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)
    if NO_MUTANT not in ready.stderr:
        sys.exit(ready.stderr or "a test failed before anything was changed; see what mutmut says above")
    subprocess.run([*run, *statuses()], cwd=REPOSITORY, check=True)
    found = statuses()
    for name, status in found.items():
        if status not in NOTICED and noticed_by_more(name):
            found[name] = "killed"
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patterns", nargs="*", default=["*"], metavar="PATTERN")
    parser.add_argument("--mutants", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only-write", action="store_true", help="write mutants/ and try nothing")
    options = parser.parse_args()
    os.chdir(REPOSITORY)
    everything = all_changes(options.patterns)
    if not everything:
        sys.exit("no function of these rooms has such a name")
    drawn = random.Random(options.seed).sample(everything, min(options.mutants, len(everything)))
    write_mutants(drawn)
    if options.only_write:
        return
    found = tried(options.processes)
    for name, status in found.items():
        if status not in NOTICED:
            print(f"\n== {status}: {name}\n{told('show', name)}", flush=True)
    noticed = sum(status in NOTICED for status in found.values())
    print(f"\n{noticed} of {len(found)} mutants noticed, of {len(everything):,}: {dict(Counter(found.values()))}")


if __name__ == "__main__":
    main()
