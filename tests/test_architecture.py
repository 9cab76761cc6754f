"""Imports point one way, and a command that only checks its input does not wait for torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import REPO

PACKAGE = REPO / "rdistill"
# From the bottom up. A module imports from lower rows only; a package's own modules may import each other.
# `config` stands above `losses` because it checks their names and parameters, against a table without torch.
ROWS = (
    ("errors", "quiet_mmseg", "workers", "stopping", "logs", "redaction", "teacher_spec", "packages", "config_walk"),
    ("files",),
    (
        "differences",
        "environment",
        "storage",
        "ray_folder",
        "validation",
        "checkpoint",
        "config_schedules",
        "config_shapes",
        "config_types",
        "label_map",
    ),
    ("yaml_data", "pretrained", "config_read", "config_shortcuts"),
    (
        "losses",
        "activation_checkpointing",
        "features",
        "segmentor",
        "task_loss",
        "failures",
        "picture",
        "precision",
        "cluster",
        "config_source",
        "console",
        "tracking",
        "usage",
        "work_dir",
    ),
    ("config", "data", "evaluation", "plain_config", "shapes", "teacher_forward", "teacher_cache"),
    ("teacher", "layers", "inference", "resume"),
    ("routes",),
    ("distiller", "export", "predict"),
    ("run_state",),
    ("hooks", "dry_run"),
    ("check", "tracked_run"),
    ("lockstep",),
    ("runner", "student_files", "model_card"),
    ("teacher_plan",),
    ("training",),
    ("train_group",),
    ("sweep",),
    ("report", "api"),
    ("cli",),
    ("__main__",),
)
ROW_OF = {unit: row for row, units in enumerate(ROWS) for unit in units}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def unit_of(path: Path) -> str:
    """The top-level module or package that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[str]:
    """Dotted names of everything a file imports, also within functions, relative imports resolved."""
    package = ["rdistill", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            # `from rdistill import checkpoint` imports a module, `from rdistill.errors import UserError` a name of one.
            yield from ([f"{module}.{name.name}" for name in node.names] if module == "rdistill" else [module])


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    unit = unit_of(path)
    assert unit in ROW_OF, f"give {unit} a place in ROWS"
    for name in imported(path):
        if not name.startswith("rdistill.") or name == "rdistill.__version__":
            continue
        other = name.split(".")[1]
        assert other == unit or ROW_OF[other] < ROW_OF[unit], f"{unit} may not import {name}"


def test_every_row_exists() -> None:
    gone = [unit for unit in ROW_OF if not (PACKAGE / unit).is_dir() and not (PACKAGE / f"{unit}.py").exists()]
    assert not gone, "take these out of ROWS"


def test_relative_imports_are_seen() -> None:
    assert "rdistill.losses" in set(imported(PACKAGE / "losses" / "modules.py"))


def test_only_the_command_line_prints() -> None:
    """`print` and `sys.exit` stand in cli.py alone; what shows a run is given a rich Console."""
    for path in MODULES:
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        names = {ast.unparse(call.func) for call in calls}
        assert path.name == "cli.py" or not names & {"print", "sys.exit", "exit"}, path


def modules_after(imports: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after some imports."""
    code = f"import sys\n{imports}\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["rdistill.cli", "rdistill.losses", "rdistill.data.synthetic", "rdistill.report"])
def test_light_modules_stay_light(module: str) -> None:
    folder = PACKAGE / "report"
    imports = [module]
    if module == "rdistill.report":
        imports = [f"rdistill.report.{path.stem}" for path in folder.glob("*.py") if path.stem != "__init__"]
        if not imports:
            pytest.skip("rdistill.report is not there yet")
    loaded = modules_after("\n".join(f"import {name}" for name in imports))
    assert "rdistill" in loaded and not loaded & {"torch", "ray", "mmengine", "mmseg", "mmcv"}


@pytest.mark.e2e
@pytest.mark.parametrize(
    "module", ["rdistill.sweep.places", "rdistill.sweep.thin", "rdistill.sweep.cohort", "rdistill.sweep.cohort_group"]
)
def test_a_trial_in_a_cohort_waits_for_no_torch(module: str) -> None:
    """Each such trial has a process of its own, which unpickles its cohort's handle, and with it imports its class."""
    loaded = modules_after(f"import {module}")
    assert "rdistill" in loaded and not loaded & {"torch", "mmengine", "mmseg", "mmcv"}


WRITERS = {"write_text", "write_bytes", "savefig", "imwrite", "to_csv"}
# What may be lost or cut off: a log that is appended to, and a cache that checks its sums.
NOT_WHOLE = {
    "files.py", "teacher_cache.py",
    "config_source.py", "pretrained.py",  # in a temporary folder
    "logs.py",  # copies of Ray's logs
    "storage.py",  # the file that it writes to is given by files.written_whole
    "sweep/trackers.py",  # appends a line
    "sweep/measure.py",  # writes to /proc
}  # fmt: skip


def test_files_are_written_whole_by_one_module() -> None:
    """A kill or a full disk amid a write leaves the file before: nothing but files.py opens one to write to it."""
    found = []
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or str(path.relative_to(PACKAGE)) in NOT_WHOLE:
                continue
            name = ast.unparse(node.func)
            modes = [argument.value for argument in node.args[1:2] if isinstance(argument, ast.Constant)]
            opens = name == "open" and any(set(str(mode)) & set("wax+") for mode in modes)
            if opens or name.rpartition(".")[2] in WRITERS or name in ("json.dump", "pickle.dump", "yaml.dump"):
                found.append(f"{path.relative_to(PACKAGE)}:{node.lineno}: {name}")
    assert not found, "use files.write_whole or files.written_whole"


def test_json_is_written_without_nan() -> None:
    """json.dumps writes NaN, which is no JSON: what goes to a file or the screen is made by files.to_json."""
    # For keys and comparisons in memory; the page's is strict.
    inner = {"files.py", "report/page.py", "report/study.py", "sweep/space.py", "sweep/places.py", "sweep/costs.py",
             "sweep/confirm.py", "sweep/results.py", "sweep/spec.py", "lockstep.py"}  # fmt: skip
    found = [str(path.relative_to(PACKAGE)) for path in MODULES if "json.dumps(" in path.read_text()]
    assert not set(found) - inner
