"""Runs mutmut over the core: `python tests/mutants.py [MODULE...]`, such as `losses/common.py`; all modules are hours.

`--sample N --seed S` tries N mutants of them, drawn by chance.

Two things keep mutmut from the core as it stands, and are changed in a copy of the project, `build/mutants/`:
it leaves out every function with a decorator, and so every loss; and what `lru_cache` remembers of the function
itself, a mutant in a forked process would return. What came of it is in tests/mutants.md.
"""

from __future__ import annotations

import argparse
import ast
import fnmatch
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
COPY = REPO / "build" / "mutants"
MUTMUT = str(Path(sys.executable).parent / "mutmut")
COPIED = ("rdistill", "tests", "benchmarks", "configs", "docs", "sweeps", "README.md", "setup.py", "pyproject.toml")
LOSSES = ("tests/unit/losses", "tests/unit/distributed/test_collectives.py")
PROOF = ("tests/unit/sweeps/proof",)
DISTILLER = (
    "tests/unit/distill/test_distiller.py", "tests/unit/distill/test_optimizer.py",
    "tests/unit/distill/test_no_device_waits.py",
)  # fmt: skip
# Module -> the test files that one would look at.
TESTS = {
    "sweeps/findings/statistics.py": ("tests/unit/sweeps/findings/test_statistics.py", *PROOF),
    "sweeps/proof/sequential.py": PROOF,
    "sweeps/proof/decision.py": PROOF,
    "sweeps/proof/two_way.py": PROOF,
    "distill/distiller.py": DISTILLER,
    "models/features.py": ("tests/unit/models/test_features.py",),
    **{
        f"losses/{file.name}": LOSSES
        for file in sorted((REPO / "rdistill" / "losses").glob("*.py"))
        if file.name not in ("__init__.py", "functional.py")  # nothing but imports
    },
}
LIGHT = ("tests/unit/losses", "tests/unit/sweeps/proof")  # these use nothing of tests/conftest.py, which imports mmseg
KEPT = ("staticmethod", "classmethod")  # which mutmut knows
CACHE = '''"""lru_cache as a mutant may have it: what another mutant returned is not remembered."""
import os

from mutmut.stats import record_trampoline_hit

names = {}  # module -> its cached functions

def cached(function):
    remembered = {}
    names.setdefault(function.__module__, []).append(function.__name__)
    def by_mutant(*args, **kwargs):
        mutant = os.environ.get("MUTANT_UNDER_TEST", "")
        changed = mutant if mutant.startswith(function.__module__) else ""
        key = (changed, args, tuple(kwargs.items()))
        if key not in remembered:
            remembered[key] = function(*args, **kwargs)
        elif mutant == "stats":  # which tests reach the function: all that call it
            for name in names[function.__module__]:
                record_trampoline_hit(f"{function.__module__}.x_{name}", caller=None)
        return remembered[key]
    by_mutant.cache_clear = remembered.clear
    return by_mutant
'''


def undecorated(source: str) -> str:
    """The same module with `f = decorator(f)` after a function instead of `@decorator` before it."""
    lines = source.splitlines()
    tree = ast.parse(source)
    bodies = [tree, *(node for node in tree.body if isinstance(node, ast.ClassDef))]
    functions = [node for body in bodies for node in body.body if isinstance(node, ast.FunctionDef)]
    for node in sorted(functions, key=lambda node: -node.lineno):
        decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
        if not decorators or set(decorators) & set(KEPT):
            continue
        indent = " " * node.col_offset
        after = []
        for decorator in reversed(decorators):
            name = "__import__('mutant_cache').cached" if decorator.startswith("lru_cache") else decorator
            after.append(f"{indent}{node.name} = {name}({node.name})")
        lines[node.end_lineno : node.end_lineno] = after
        del lines[node.decorator_list[0].lineno - 1 : node.lineno - 1]
    return "\n".join([*lines, ""])


def prepare(modules: list[str]) -> None:
    """Makes the copy, whose settings have mutmut change these modules. What mutmut knows from earlier runs stays."""
    COPY.mkdir(parents=True, exist_ok=True)
    for name in COPIED:
        if (REPO / name).is_dir():
            shutil.rmtree(COPY / name, ignore_errors=True)
            shutil.copytree(REPO / name, COPY / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(REPO / name, COPY / name)
    for module in modules:
        file = COPY / "rdistill" / module
        file.write_text(undecorated(file.read_text()))
    (COPY / "mutant_cache.py").write_text(CACHE)
    tests = sorted({test for module in modules for test in TESTS[module]})
    with (COPY / "pyproject.toml").open("a") as settings:
        settings.write(
            "\n[tool.mutmut]\nsource_paths = ['rdistill']\nuse_git_change_detection = false\n"
            f"only_mutate = {[f'rdistill/{module}' for module in modules]}\n"
            f"pytest_add_cli_args_test_selection = {tests}\n"
            "also_copy = ['benchmarks', 'configs', 'docs', 'sweeps', 'README.md', 'setup.py', 'mutant_cache.py']\n"
        )


def stages_of(module: str) -> list[list[str]]:
    """Test files that a mutant of a module is tried against, one list after the other; the quickest comes first."""
    folder, _, name = module.rpartition("/")
    light = [tests for tests in TESTS[module] if tests.startswith(LIGHT)]
    stages = [[f"tests/unit/{folder}/test_{name}"], light, [tests for tests in TESTS[module] if tests not in light]]
    return [stage for stage in stages if stage]


def run_tests(*tests: str) -> int:
    import pytest

    flags = ["--noconftest"] if all(each.startswith(LIGHT) for each in tests) else []
    return int(pytest.main(["-q", "-x", "-p", "no:cacheprovider", *flags, *tests]))


def try_sample(modules: list[str], count: int, seed: int) -> int:
    """Tries some mutants, drawn from all that mutmut makes of these modules: the same for the same seed.

    Each runs in a fork of one process that has imported all, first against the test file of the module's name, and
    against the others of ``TESTS`` if it lives there: mutmut's own run first traces which of all tests reach what.
    """
    from mutmut.mutation.diff_apply import get_diff_for_mutant
    from mutmut.mutation.file_mutation import mutate_file_contents
    from mutmut.utils.format_utils import get_mutant_name

    os.chdir(COPY)
    sys.path[:0] = [str(COPY), str(COPY / "tests")]
    made: dict[str, tuple[str, Path, str]] = {}  # name -> module, file, code of all mutants
    for module in modules:
        file = Path("rdistill", module)
        mutated = mutate_file_contents(str(file), file.read_text())
        file.write_text(mutated.code)
        made.update({get_mutant_name(file, name): (module, file, mutated.code) for name in mutated.mutant_names})
    # The order is that of the draws: what a run that is cut off has tried is a sample too.
    chosen = random.Random(seed).sample(sorted(made), min(count, len(made)))
    print(f"{len(made)} mutants in {', '.join(modules)}; of these {len(chosen)} by seed {seed}", flush=True)
    begun = time.monotonic()  # this run leaves all that is imported in the process that forks
    if run_tests(*sorted({stages_of(made[name][0])[0][0] for name in chosen})) != 0:
        return 1  # the tests fail without any mutant
    patience_s = 60 + 10 * (time.monotonic() - begun)
    alive = []
    for number, name in enumerate(chosen, start=1):
        module, file, code = made[name]
        ends = (fate(name, stage, patience_s) for stage in stages_of(module) if passes(tuple(stage)))
        outcome = next((end for end in ends if end != "lives"), "lives")
        print(f"{number}/{len(chosen)} {outcome} {name}", flush=True)
        if outcome != "killed":
            alive.append(name)
            print(get_diff_for_mutant(name, source=code, path=file), flush=True)
    print(f"{len(chosen) - len(alive)} of {len(chosen)} killed", *alive, sep="\n")
    return 0


@cache
def passes(tests: tuple[str, ...]) -> bool:
    """Whether some test files pass without any mutant, as else they would seem to kill each."""
    good = fate("none", list(tests), 3600) == "lives"
    if not good:
        print(f"not used: {' '.join(tests)} fails without a mutant", flush=True)
    return good


def fate(mutant: str, tests: list[str], patience_s: float) -> str:
    """``killed``, ``lives`` or ``timeout``, of one mutant against some test files."""
    from mutmut.mutation.trampoline import set_mutant_under_test

    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        set_mutant_under_test(mutant)
        os._exit(run_tests(*tests))
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return "lives" if status == 0 else "killed"
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "timeout"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="tests/mutants.py")
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="such as losses/common.py, or losses/*.py")
    parser.add_argument("--sample", type=int, metavar="N", help="try N mutants of them, not all")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    options = parser.parse_args(arguments)
    wanted = options.modules or list(TESTS)
    if unknown := [pattern for pattern in wanted if not fnmatch.filter(TESTS, pattern)]:
        parser.error(f"no module {', '.join(unknown)}; choose from {', '.join(TESTS)}")
    modules = [module for module in TESTS if any(fnmatch.fnmatch(module, pattern) for pattern in wanted)]
    prepare(modules)
    if options.sample:
        return try_sample(modules, options.sample, options.seed)
    subprocess.run([MUTMUT, "run", "--max-children", "1"], cwd=COPY, check=True)
    return subprocess.run([MUTMUT, "results"], cwd=COPY).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
