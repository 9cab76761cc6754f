"""Runs mutmut over the core: `python tests/mutants.py [MODULE...]`, such as `losses/common.py`; all modules are hours.

Two things keep mutmut from the core as it stands, and are changed in a copy of the project, `build/mutants/`:
it leaves out every function with a decorator, and so every loss; and what `lru_cache` remembers of the function
itself, a mutant in a forked process would return. What came of it is in tests/mutants.md.
"""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
COPY = REPO / "build" / "mutants"
COPIED = ("rdistill", "tests", "configs", "docs", "sweeps", "README.md", "setup.py", "pyproject.toml")
LOSSES = ("tests/unit/losses", "tests/unit/distributed/test_collectives.py")
PROOF = ("tests/unit/sweeps/findings", "tests/unit/sweeps/proof")
DISTILLER = (
    "tests/unit/distill/test_distiller.py", "tests/unit/distill/test_optimizer.py",
    "tests/unit/distill/test_no_device_waits.py",
)  # fmt: skip
# Module -> the test files that one would look at.
TESTS = {
    "sweeps/findings/statistics.py": PROOF,
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
            "also_copy = ['configs', 'docs', 'sweeps', 'README.md', 'setup.py', 'mutant_cache.py']\n"
        )


def main(modules: list[str]) -> int:
    if unknown := set(modules) - set(TESTS):
        print(f"tests/mutants.py: no module {', '.join(sorted(unknown))}; choose from {', '.join(TESTS)}")
        return 2
    prepare(modules or list(TESTS))
    mutmut = str(Path(sys.executable).parent / "mutmut")
    subprocess.run([mutmut, "run", "--max-children", "1"], cwd=COPY, check=True)
    return subprocess.run([mutmut, "results"], cwd=COPY).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
