"""Runs mutmut over the core: `python tests/mutants.py [MODULE...]`, such as `losses/common.py`; all modules are hours.

`--sample N --seed S` tries N mutants of each module, drawn by chance; with `--own` only by the test files of the
module's name, and with `--only PATTERN...` only mutants of such names, such as those that lived in an earlier run.

Two things keep mutmut from the core as it stands, and are changed in a copy of the project, `build/mutants/`:
it leaves out every function with a decorator, and so every loss; and what `lru_cache` remembers of the function
itself, a mutant in a forked process would return. What came of it is in tests/mutants.md.
"""

from __future__ import annotations

import argparse
import ast
import fnmatch
import gc
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

if TYPE_CHECKING:
    import pytest

REPO = Path(__file__).resolve().parents[1]
COPY = REPO / "build" / "mutants"
MUTMUT = str(Path(sys.executable).parent / "mutmut")
COPIED = ("rdistill", "tests", "benchmarks", "configs", "docs", "sweeps", "README.md", "setup.py", "pyproject.toml")
LOSSES = ("tests/unit/losses", "tests/unit/distributed/test_collectives.py")
PROOF = ("tests/unit/sweeps/proof",)
DISTILLER = tuple(
    f"tests/unit/distill/test_{name}.py"
    for name in (
        "distiller", "distiller_parts", "optimizer", "no_device_waits", "batch_labels", "class_maps", "shares",
        "several_teachers", "teacher",
    )
)  # fmt: skip
# Module -> the test files that one would look at.
TESTS = {
    "sweeps/findings/statistics.py": tuple(
        f"tests/unit/sweeps/findings/test_{name}.py" for name in ("statistics", "looks", "exported")
    ),
    "sweeps/proof/sequential.py": PROOF,
    "sweeps/proof/decision.py": PROOF,
    "sweeps/proof/two_way.py": PROOF,
    "distill/distiller.py": DISTILLER,
    "distill/gradients.py": ("tests/unit/distill/test_gradients.py", "tests/unit/distill/test_shares.py"),
    "distill/loss_weights.py": ("tests/unit/distill/test_loss_weights.py", "tests/unit/distill/test_shares.py"),
    "distill/routes.py": ("tests/unit/distill/test_routes.py", *DISTILLER),
    "distill/teacher_store.py": ("tests/unit/distill/test_teacher_store.py",),
    "models/features.py": ("tests/unit/models/test_features.py",),
    **{
        f"losses/{file.name}": LOSSES
        for file in sorted((REPO / "rdistill" / "losses").glob("*.py"))
        if file.name not in ("__init__.py", "functional.py")  # nothing but imports
    },
}
# The tests that hold for every loss.
RULES = ("test_functional.py", "test_chunked.py", "test_no_device_waits.py", "test_unless_all_valid.py")
LIGHT = ("tests/unit/losses", "tests/unit/sweeps/proof")  # these use nothing of tests/conftest.py, which imports mmseg
KEPT = ("staticmethod", "classmethod")  # which mutmut knows
CACHE = '''"""lru_cache as a mutant may have it: what another mutant returned is not remembered."""
import os

from mutmut import stats

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
                stats.record_trampoline_hit(f"{function.__module__}.x_{name}")
        return remembered[key]
    by_mutant.cache_clear = remembered.clear
    return by_mutant
'''


def undecorated(source: str) -> str:
    """The same module with `f = decorator(f)` after a function instead of `@decorator` before it."""
    while decorated := [node for node in ast.walk(ast.parse(source)) if _is_decorated(node)]:
        node = max(decorated, key=lambda node: node.lineno)  # a function within another one comes before it
        indent = " " * node.col_offset
        after = []
        for decorator in map(ast.unparse, reversed(node.decorator_list)):
            name = "__import__('mutant_cache').cached" if decorator.startswith("lru_cache") else decorator
            after.append(f"{indent}{node.name} = {name}({node.name})")
        lines = source.splitlines()
        lines[node.end_lineno : node.end_lineno] = after
        del lines[node.decorator_list[0].lineno - 1 : node.lineno - 1]
        source = "\n".join([*lines, ""])
    return source


def _is_decorated(node: ast.AST) -> TypeGuard[ast.FunctionDef]:
    if not isinstance(node, ast.FunctionDef):
        return False
    decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
    return bool(decorators) and not decorators & set(KEPT)


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


def drawn(made: dict[str, Mutant], count: int, seed: int) -> list[str]:
    """Up to ``count`` mutants of each module, the same for the same seed.

    One of each module comes after the other: what a run that is cut off has tried is a sample of each module too.
    """
    chance = random.Random(seed)
    by_module: dict[str, list[str]] = {}
    for name in sorted(made):
        by_module.setdefault(made[name].module, []).append(name)
    samples = [chance.sample(names, min(count, len(names))) for names in by_module.values()]
    return [name for row in zip_longest(*samples) for name in row if name is not None]


def own_tests(module: str) -> list[str]:
    """The test files of a module's name, such as test_distiller.py and test_distiller_parts.py; for a loss also the
    rules that hold for every loss."""
    file = Path(module)
    folder = REPO / "tests/unit" / file.parent
    rules = RULES if file.parent.name == "losses" else ()
    return sorted(str(path.relative_to(REPO)) for name in (f"test_{file.stem}*", *rules) for path in folder.glob(name))


def try_sample(modules: list[str], count: int, seed: int, only_own: bool, only: Sequence[str] = ("*",)) -> int:
    """Tries some mutants of each module: one pytest session, in which each mutant runs in a fork (:class:`Trial`)."""
    import pytest
    from mutmut.mutation.file_mutation import mutate_file_contents
    from mutmut.utils.format_utils import get_mutant_name

    os.chdir(COPY)
    sys.path[:0] = [str(COPY), str(COPY / "tests")]
    made: dict[str, Mutant] = {}
    for module in modules:
        file = Path("rdistill", module)
        mutated = mutate_file_contents(str(file), file.read_text())
        file.write_text(mutated.code)
        made.update({get_mutant_name(file, name): Mutant(module, file, mutated.code) for name in mutated.mutant_names})
    named = {name: mutant for name, mutant in made.items() if any(fnmatch.fnmatch(name, pattern) for pattern in only)}
    chosen = drawn(named, count, seed)
    print(f"{len(made)} mutants in {', '.join(modules)}; of these {len(chosen)} by seed {seed}", flush=True)
    tests = sorted({test for module in modules for test in (own_tests(module) if only_own else TESTS[module])})
    flags = ["--noconftest"] if all(each.startswith(LIGHT) for each in tests) else []
    options = ["-q", "--tb=no", "-p", "no:cacheprovider", *flags, *tests]
    trial = Trial({name: made[name] for name in chosen}, options, watched())
    return int(pytest.main(["-s", *options], plugins=[trial]))  # uncaptured: what is printed between the tests is seen


def watched() -> set[str]:
    """A set to which mutmut adds each function of the modules that runs from now on, without a mutant."""
    from mutmut import stats
    from mutmut.mutation import trampoline

    hits: set[str] = set()
    for module in (stats, trampoline):
        module.record_trampoline_hit = lambda name, caller=None: hits.add(name)  # type: ignore[attr-defined]
    trampoline.set_mutant_under_test("stats")
    return hits


@dataclass(frozen=True)
class Mutant:
    """Where a mutant is: its module, such as ``losses/common.py``, and the file, with the code of all its mutants."""

    module: str
    file: Path
    code: str


@dataclass
class Trial:
    """A pytest plugin that runs the tests once without a mutant, and then once for each mutant, in a fork.

    A fork has everything imported and collected, and the session's fixtures made. It runs only the tests that reached
    the mutated function in the first run, those of the file of the module's name first, and ends at the first failure.

    What ran while the tests were imported, such as a decorator, has left its result in every fork: a mutant of it that
    lives there is tried once more, by a new process that has the mutant from its start.
    """

    mutants: dict[str, Mutant]
    options: list[str]  # pytest's, for a new process
    hits: set[str]  # the functions that ran, see watched()
    kills: Counter[str] = field(default_factory=Counter)  # test -> number of mutants that it killed

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        if session.testsfailed:
            raise session.Interrupted("a test file cannot be imported without a mutant")
        at_import = set(self.hits)
        reached, seconds = self._without_mutants(session)
        failed = [f"--deselect={item.nodeid}" for item in session.items if item.nodeid not in reached]
        gc.collect()
        gc.freeze()  # a collection in a fork would otherwise copy all that is shared
        alive = []
        for number, (name, mutant) in enumerate(self.mutants.items(), start=1):
            function = name.partition("__mutmut_")[0]
            own = str(Path("tests/unit", mutant.module).with_name(f"test_{mutant.file.stem}"))
            items = [item for item in session.items if function in reached.get(item.nodeid, ())]
            # The file of the module's name first; in it, what is likely to fail soon: by kills, and by seconds.
            items.sort(key=lambda item: self._promise(item, seconds), reverse=True)
            items.sort(key=lambda item: not item.nodeid.startswith(own))
            outcome = fate(session, name, items, 10 * sum(seconds[item.nodeid] for item in items))
            if outcome.word == "lives" and function in at_import:
                outcome = fate_in_a_new_process(name, [*self.options, *failed])
            self.kills[outcome.killer] += 1
            print(f"{number}/{len(self.mutants)} {outcome.word} {name} {outcome.killer or len(items)}", flush=True)
            if outcome.word != "killed":
                alive.append(name)
                print(difference(name, mutant), flush=True)
        print(f"{len(self.mutants) - len(alive)} of {len(self.mutants)} killed", *alive, sep="\n", flush=True)
        os._exit(0)  # what pytest tells of the session is about the tests, not about the mutants

    def _promise(self, item: pytest.Item, seconds: dict[str, float]) -> float:
        return (1 + self.kills[item.nodeid]) / (0.02 + seconds[item.nodeid])

    def _without_mutants(self, session: pytest.Session) -> tuple[dict[str, set[str]], dict[str, float]]:
        """Which functions each test reaches, and its processor seconds. A test that fails reaches none, as else it
        would seem to kill each mutant."""
        reached, seconds = {}, {}
        for item in session.items:
            self.hits.clear()
            failed, begun = session.testsfailed, time.process_time()
            run_test(session, item)
            seconds[item.nodeid] = time.process_time() - begun
            if session.testsfailed > failed:
                print(f"not used: {item.nodeid} fails without a mutant", flush=True)
                continue
            reached[item.nodeid] = set(self.hits)
        print(f"\n{len(reached)} tests in {sum(seconds.values()):.0f} s of processor time", flush=True)
        return reached, seconds


def run_test(session: pytest.Session, item: pytest.Item) -> None:
    """Runs one test, and keeps only the session's fixtures: any other test can come after it."""
    item.config.hook.pytest_runtest_protocol(item=item, nextitem=session)


@dataclass(frozen=True)
class Outcome:
    """``killed``, ``lives`` or ``timeout``, and the name of the test that failed, if one did."""

    word: str
    killer: str = ""


def fate(session: pytest.Session, mutant: str, items: Sequence[pytest.Item], patience_s: float) -> Outcome:
    """Runs tests in a fork with a mutant; ``patience_s`` is processor time, which other processes take nothing of."""
    from mutmut.mutation.trampoline import set_mutant_under_test

    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        limit = int(time.process_time() + 10 + patience_s)
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
        set_mutant_under_test(mutant)
        for item in items:
            failed = session.testsfailed
            run_test(session, item)
            if session.testsfailed > failed:
                os.write(writes, item.nodeid.encode())
                os._exit(1)
        os._exit(0)
    os.close(writes)
    with os.fdopen(reads) as pipe:
        killer = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL):
        return Outcome("timeout")
    return Outcome("lives") if status == 0 else Outcome("killed", killer or "(the process ended)")


def fate_in_a_new_process(mutant: str, options: list[str]) -> Outcome:
    environment = {**os.environ, "MUTANT_UNDER_TEST": mutant, "PYTHONPATH": os.pathsep.join(sys.path[:2])}
    command = [sys.executable, "-m", "pytest", "-x", *options]
    try:
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800)
    except subprocess.TimeoutExpired:
        return Outcome("timeout")
    if ended.returncode == 0:
        return Outcome("lives")
    words = [line.split() for line in ended.stdout.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    return Outcome("killed", words[0][1] if words else "(pytest did not begin)")


def difference(name: str, mutant: Mutant) -> str:
    """What a mutant changes."""
    from mutmut.mutation.diff_apply import get_diff_for_mutant

    return str(get_diff_for_mutant(name, source=mutant.code, path=mutant.file))


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="tests/mutants.py")
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="such as losses/common.py, or losses/*.py")
    parser.add_argument("--sample", type=int, metavar="N", help="try N mutants of each module, not all")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--own", action="store_true", help="of the sample: only by the test files of the module's name")
    parser.add_argument(
        "--only", nargs="+", default=["*"], metavar="PATTERN", help="of the sample: mutants of such names"
    )
    options = parser.parse_args(arguments)
    wanted = options.modules or list(TESTS)
    if unknown := [pattern for pattern in wanted if not fnmatch.filter(TESTS, pattern)]:
        parser.error(f"no module {', '.join(unknown)}; choose from {', '.join(TESTS)}")
    modules = [module for module in TESTS if any(fnmatch.fnmatch(module, pattern) for pattern in wanted)]
    prepare(modules)
    if options.sample:
        return try_sample(modules, options.sample, options.seed, options.own, options.only)
    subprocess.run([MUTMUT, "run", "--max-children", "1"], cwd=COPY, check=True)
    return subprocess.run([MUTMUT, "results"], cwd=COPY).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
