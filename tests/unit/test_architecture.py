"""The folders are the architecture: imports point down one ordered list, and light modules stay light."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from conftest import REPO, modules_after

PACKAGE = REPO / "rdistill"
# The lowest comes first. A module imports from its own folder and from folders before its own in this list only.
# `config` comes after `losses` because it checks their names and parameters, against a table without torch.
FOLDERS = (
    "schemas",
    "_compat",
    "core",
    "registration",
    "searchers",
    "schedulers",
    "layouts",
    "teachers",
    "distributed",
    "losses",
    "models",
    "networks",
    "config",
    "data",
    "distill",
    "checks",
    "training",
    "store",
    "handover",
    "sweeps.study",
    "sweeps.proof",
    "sweeps.trial",
    "sweeps.cohort",
    "sweeps.monitor",
    "sweeps.search",
    "sweeps.findings",
    "sweeps.headroom",
    "sweeps",
    "init",
    "report",
    "",  # rdistill itself: api, cli, __main__
)
PLACE_OF = {folder: place for place, folder in enumerate(FOLDERS)}
LARGEST_FOLDER = 14  # modules; a folder that outgrows this holds two things
FILES = sorted(PACKAGE.rglob("*.py"))


def module_of(path: Path) -> str:
    """``rdistill/losses/modules.py`` -> ``losses.modules``; a package's own file is the package."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


def folder_of(module: str) -> str:
    return module if module in PLACE_OF else module.rpartition(".")[0]


@cache  # nearly every test below reads all of them
def tree_of(path: Path) -> ast.Module:
    """Of a file; not to be changed."""
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def names_called(path: Path) -> frozenset[str]:
    """``print``, ``sys.exit``, ... of all that a file calls."""
    return frozenset(ast.unparse(node.func) for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call))


@cache
def imports_of(path: Path) -> tuple[tuple[str, str], ...]:
    """(module, name or '') of everything of rdistill that a file imports, also within functions."""
    return tuple(imports_in(ast.walk(tree_of(path)), path))


def imports_in(nodes: Iterable[ast.AST], path: Path) -> Iterator[tuple[str, str]]:
    package = ["rdistill", *path.relative_to(PACKAGE).parts[:-1]]
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "rdistill":
                    yield alias.name.removeprefix("rdistill").lstrip("."), ""
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            if source.split(".")[0] != "rdistill":
                continue
            inner = source.removeprefix("rdistill").lstrip(".")
            for alias in node.names:
                whole = f"{inner}.{alias.name}".lstrip(".")
                yield (whole, "") if whole in MODULES else (inner, alias.name)


def nodes_of(path: Path, *, in_functions: bool) -> Iterator[ast.AST]:
    """All nodes of a file but those that only name types; those within functions where they are wanted."""
    waiting: list[ast.AST] = [tree_of(path)]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            waiting += node.orelse
        elif in_functions or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            waiting += ast.iter_child_nodes(node)


def needed_by(path: Path) -> set[str]:
    """The modules of rdistill that a file's code needs, also within functions; not those that only name a type."""
    return {module for module, _ in imports_in(nodes_of(path, in_functions=True), path) if module in MODULES}


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down_the_list_of_folders(module: str) -> None:
    folder = folder_of(module)
    assert folder in PLACE_OF, f"give {folder} a place in FOLDERS"
    for imported, _ in imports_of(MODULES[module]):
        if imported:
            source_folder = folder_of(imported)
            assert source_folder == folder or PLACE_OF[source_folder] < PLACE_OF[folder], (
                f"{module} may not import {imported}"
            )


def test_every_folder_of_the_list_exists_and_says_what_it_is_for() -> None:
    for folder in FOLDERS:
        own = PACKAGE.joinpath(*folder.split(".")) / "__init__.py"
        text = ast.get_docstring(tree_of(own))
        assert text and "Begin with" in text, own


def test_the_page_has_every_folder_in_its_order_and_what_it_names_is_there() -> None:
    page = (REPO / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| `")]
    folders = [name for row in rows for name in re.findall(r"`(.*?)`", row[0])]
    assert [folder.replace("/", ".") for folder in folders] == [*FOLDERS[:-1], "rdistill."]
    for row, folder in zip(rows, [re.findall(r"`(.*?)`", row[0])[0] for row in rows], strict=True):
        for file, name in re.findall(r"`(\w+\.py)`(?: \(`([\w.]+)`)?", row[2]):
            defines(PACKAGE / folder.removeprefix("rdistill/") / file, name)
    shortcuts = re.findall(r"\| `(\w+/[\w/]+\.py)` \(`([\w.]+)`\) \|", page)
    assert len(shortcuts) == 6
    for file, name in shortcuts:
        defines(PACKAGE / file, name)


def test_the_picture_of_a_sweeps_step_names_what_is_there() -> None:
    picture = (REPO / "docs" / "images" / "sweep-step.svg").read_text(encoding="utf-8")
    named = re.findall(r'data-file="([^"]+)" data-name="([^"]+)"', picture)
    assert len(named) == 11
    for file, name in named:
        defines(PACKAGE / file, name)


def defines(file: Path, name: str) -> None:
    defined = {getattr(node, "name", "") for node in ast.walk(tree_of(file))}
    assert set(name.split(".")) <= defined | {""}, f"{file} defines no {name}"


def test_a_folder_imports_alone_what_its_docstring_says() -> None:
    """Where it says "alone" or "only": also `schemas` and `_compat`, which are types and others' privates."""
    checked = 0
    for folder in FOLDERS:
        text = ast.get_docstring(tree_of(PACKAGE.joinpath(*folder.split("."), "__init__.py"))) or ""
        for claim in re.findall(r"[Ii]mports (?:from )?([^.;]*(?:`rdistill\.[\w.]+`[^.;]*)+?) (?:alone|only)\b", text):
            named = {name.removeprefix("rdistill.") for name in re.findall(r"rdistill\.[\w.]+", claim)}
            found = {
                folder_of(source)
                for module, path in MODULES.items()
                if folder_of(module) == folder
                for source, _ in imports_of(path)
                if source
            }
            assert found - {folder, "schemas", "_compat"} <= named, folder
            checked += 1
    assert checked >= 7


def loaded_with(module: str, seen: set[str], *, deep: bool) -> set[str]:
    """Packages of others that are imported with a module of rdistill; ``deep``: also by those that it imports."""
    path, names = MODULES[module], set[str]()
    seen.add(module)
    nodes = list(nodes_of(path, in_functions=False))
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(str(node.module).partition(".")[0])
    for inner, _ in imports_in(nodes, path):
        if deep and inner in MODULES and inner not in seen:
            names |= loaded_with(inner, seen, deep=True)
    return names


def test_a_folder_loads_no_library_that_its_docstring_rules_out() -> None:
    """Where it says "neither torch nor ray": when its modules are imported, by them or by what they import."""
    checked = 0
    for folder in FOLDERS:
        text = ast.get_docstring(tree_of(PACKAGE.joinpath(*folder.split("."), "__init__.py"))) or ""
        for claim in re.findall(r"neither (\w+(?: nor \w+)+)", " ".join(text.split())):
            ruled_out = {name.lower() for name in claim.split(" nor ")}
            deep = "by itself" not in text and "by themselves" not in text
            exempt = {f"{folder}.{name}" for name in re.findall(r"but :mod:`\.(\w+)`", text)}
            for module in MODULES:
                if folder_of(module) == folder and module not in exempt:
                    assert not loaded_with(module, set(), deep=deep) & ruled_out, module
            checked += 1
    assert checked >= 6


def test_no_folder_is_a_heap() -> None:
    sizes: dict[str, int] = {}
    for module in MODULES:
        if MODULES[module].name != "__init__.py":
            sizes[folder_of(module)] = sizes.get(folder_of(module), 0) + 1
    assert sizes[""] <= 10
    assert {folder: size for folder, size in sizes.items() if size > LARGEST_FOLDER and folder != "report"} == {}


def test_no_module_takes_a_private_name_from_another() -> None:
    taken = [
        f"{module} takes {name} from {source}"
        for module, path in MODULES.items()
        for source, name in imports_of(path)
        if name.startswith("_") and not name.startswith("__")
    ]
    assert not taken


# Private by its name, and documented: the one way to end a process without what it would still do.
DOCUMENTED = {"os._exit"}
# What is assigned to another module's attribute: `tempfile.tempdir` is documented to be set.
MAY_BE_ASSIGNED = {"tempfile.tempdir"}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


@cache
def own_private_names() -> frozenset[str]:
    """Names with an underscore that rdistill itself defines, outside `_compat`, as functions, attributes or fields."""
    names: set[str] = set()
    for module, path in MODULES.items():
        if folder_of(module) == "_compat":
            continue
        for node in ast.walk(tree_of(path)):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                names.add(node.name)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                if ast.unparse(node.value) in ("self", "cls"):
                    names.add(node.attr)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                names.add(node.target.id)
    return frozenset(names)


def names_of_others(tree: ast.AST) -> set[str]:
    """Local names that stand for a package of others or something of one."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").split(".")[0] != "rdistill":
            names |= {alias.asname or alias.name for alias in node.names}
    return names


def privates_of_others(tree: ast.AST, own: frozenset[str]) -> Iterator[str]:
    """What a module touches of others that they do not document: line and name."""
    foreign = names_of_others(tree)
    for node in ast.walk(tree):
        touched: list[str] = []
        if isinstance(node, ast.Import):
            touched = [alias.name for alias in node.names if any(map(is_private, alias.name.split(".")))]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] != "rdistill":
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            touched = [name for name in whole if any(map(is_private, name.split(".")))]
        elif isinstance(node, ast.Attribute):
            private = is_private(node.attr) and node.attr not in own
            if not private and not isinstance(node.ctx, ast.Store):
                continue  # most are so, and their whole name takes long to write
            name = ast.unparse(node)
            if private and name not in DOCUMENTED:
                touched = [name]
            elif isinstance(node.ctx, ast.Store) and name.partition(".")[0] in foreign - {"self", "cls"}:
                touched = [] if name in MAY_BE_ASSIGNED else [f"{name} = "]
        elif isinstance(node, ast.Call):
            words = [word.value for word in node.args[:2] if isinstance(word, ast.Constant)]
            reached = ast.unparse(node.func).rpartition(".")[2] in (
                "getattr", "hasattr", "setattr", "delattr", "import_module", "find_spec", "attrgetter",
            )  # fmt: skip
            if reached:
                parts = [part for word in words if isinstance(word, str) for part in word.split(".")]
                touched = [part for part in parts if is_private(part) and part not in own]
            touched += [word.arg for word in node.keywords if word.arg and is_private(word.arg) and word.arg not in own]
        yield from (f"{node.lineno}: {name}" for name in touched)  # type: ignore[attr-defined]


def test_privates_of_other_packages_stand_in_compat_alone() -> None:
    own, found = own_private_names(), []
    for module, path in MODULES.items():
        if folder_of(module) == "_compat":
            continue
        found += [f"{module}:{line}" for line in privates_of_others(tree_of(path), own)]
    assert not found, "give it a function in rdistill/_compat"


@pytest.mark.parametrize(
    "code",
    [
        "import ray._private.worker",
        "from torch.nn.modules.batchnorm import _BatchNorm",
        "import torch\ntorch.ones(1)._version",
        "def f(cfg): return cfg._cfg_dict",
        "import importlib\nimportlib.import_module('wandb.sdk.data_types._private')",
        "def f(wrapper): return getattr(wrapper, '_inner_count', 0)",
        "import ray\nray.init(_temp_dir='/tmp')",
        "import mmengine.config\nmmengine.config.Config.dump = print",
        "class Mine(Config):\n    def text(self): return self._cfg_dict",
    ],
)
def test_a_private_of_another_package_is_seen(code: str) -> None:
    assert list(privates_of_others(ast.parse(code), own_private_names()))


def test_no_modules_import_each_other_in_a_circle() -> None:
    try:
        TopologicalSorter({module: needed_by(path) - {module, ""} for module, path in MODULES.items()}).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_relative_imports_are_seen() -> None:
    assert ("losses", "LOSSES") in set(imports_of(PACKAGE / "losses" / "modules.py"))


def test_only_the_command_line_prints() -> None:
    """`print` and `sys.exit` stand in cli.py alone; what shows a run is given a rich Console."""
    for path in FILES:
        assert path.name == "cli.py" or not names_called(path) & {"print", "sys.exit", "exit"}, path


@pytest.mark.parametrize("module", ["rdistill.cli", "rdistill.losses", "rdistill.data.synthetic", "rdistill.report"])
def test_light_modules_stay_light(module: str) -> None:
    imports = [module]
    if module == "rdistill.report":
        imports += [
            f"rdistill.report.{path.stem}" for path in (PACKAGE / "report").glob("*.py") if path.stem != "__init__"
        ]
    loaded = modules_after("\n".join(f"import {name}" for name in imports))
    assert "rdistill" in loaded and not loaded & {"torch", "ray", "mmengine", "mmseg", "mmcv"}


MOST_UNTYPED = 20  # places; there were 250 once


def test_what_is_read_by_key_has_a_type() -> None:
    """A mapping that crosses a module's border is one of `rdistill.schemas`: mypy then sees a key that is not there."""
    untyped = [
        f"{module}:{number}"
        for module, path in MODULES.items()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if "dict[str, Any]" in line and folder_of(module) != "schemas"
    ]
    assert len(untyped) <= MOST_UNTYPED, f"give the newest a TypedDict, or a name of schemas.mappings: {untyped}"


MOST_POSITIONAL = 7  # parameters that a call may give without their names; more are mixed up


def positional_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    names = [argument.arg for argument in (*function.args.posonlyargs, *function.args.args)]
    return [name for name in names if name not in ("self", "cls")]


def test_no_function_takes_a_long_row_of_positional_parameters() -> None:
    """What belongs together travels as one value, or each is named; a command's parameters are its flags."""
    long_rows = [
        f"{module}:{node.lineno} {node.name}"
        for module, path in MODULES.items()
        for node in ast.walk(tree_of(path))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and len(positional_of(node)) > MOST_POSITIONAL
        and not any("command(" in ast.unparse(decorator) for decorator in node.decorator_list)
    ]
    assert not long_rows


TESTS = REPO / "tests"


def test_unit_and_end_to_end_tests_are_two_folders() -> None:
    """The folder alone says what a test costs; tests/unit/conftest.py fails one that starts Ray."""
    mark = ".".join(("mark", "e2e"))
    marked = {path for path in TESTS.rglob("test_*.py") if mark in path.read_text(encoding="utf-8")}
    assert not [path for path in marked if path.is_relative_to(TESTS / "unit")]
    assert set((TESTS / "e2e").rglob("test_*.py")) <= marked


# What has no unit test file of its name, and the file (under tests/) that tests it instead. A new module needs a reason
# to be here.
TESTED_IN = {
    # Names for `dict[str, Any]` and nothing else: there is nothing that could be tested.
    "schemas.mappings": "unit/test_architecture.py",
    # A type alone, of what only real models and their images make.
    "schemas.pictures": "unit/sweeps/findings/test_images.py",
}


MOST_TESTED_ELSEWHERE = 2  # modules; there were 38 once


def unit_test_of(module: str) -> Path:
    *folders, name = module.removeprefix("_").split(".")  # the tests of _compat stand in `compat`
    return TESTS.joinpath("unit", *folders, f"test_{name}.py")


def test_every_module_has_a_unit_test_of_its_name() -> None:
    """A file that somebody would look at first; the pages of the report are tested as one, by what is on the page."""
    modules = {module for module, path in MODULES.items() if path.name not in ("__init__.py", "__main__.py")}
    without = {module for module in modules if not module.startswith("report.") and not unit_test_of(module).is_file()}
    assert without <= set(TESTED_IN), "write a unit test file for these, or say where they are tested"
    assert set(TESTED_IN) <= without, "these have a test of their name now, or are gone: take them from the list"
    assert not [file for file in TESTED_IN.values() if not (TESTS / file).is_file()]
    assert len(TESTED_IN) <= MOST_TESTED_ELSEWHERE, "give the newest a test file of its name"


WRITERS = {"write_text", "write_bytes", "savefig", "imwrite", "to_csv"}
# What may be lost or cut off: a log that is appended to, and a cache that checks its sums.
NOT_WHOLE = {
    "core.files", "distill.teacher_cache", "distill.store_files",
    "config.render", "models.pretrained",  # these write to a temporary folder
    "core.logs",  # copies of Ray's logs
    "core.storage",  # the file that it writes to is given by files.written_whole
    "sweeps.monitor.trackers",  # appends a line
    "sweeps.trial.step_profile",  # writes to /proc
}  # fmt: skip


def test_files_are_written_whole_by_one_module() -> None:
    """A kill or a full disk amid a write leaves the file before: nothing but core.files opens one to write to it."""
    writers = []
    for module, path in MODULES.items():
        for node in ast.walk(tree_of(path)):
            if not isinstance(node, ast.Call) or module in NOT_WHOLE:
                continue
            name = ast.unparse(node.func)
            modes = [argument.value for argument in node.args[1:2] if isinstance(argument, ast.Constant)]
            opens = name == "open" and any(set(str(mode)) & set("wax+") for mode in modes)
            if opens or name.rpartition(".")[2] in WRITERS or name in ("json.dump", "pickle.dump", "yaml.dump"):
                writers.append(f"{module}:{node.lineno}: {name}")
    assert not writers, "use files.write_whole or files.written_whole"


def test_json_is_written_without_nan() -> None:
    """json.dumps writes NaN, which is no JSON: what goes to a file or the screen is made by files.to_json."""
    # These make keys and comparisons in memory; the page's is strict.
    inner = {"core.files", "report.page", "report.study", "sweeps.study.space", "sweeps.cohort.assignment",
             "sweeps.trial.complexity", "sweeps.findings.confirm", "sweeps.study.records", "sweeps.study.spec",
             "training.lockstep"}  # fmt: skip
    modules = {module for module, path in MODULES.items() if "json.dumps(" in path.read_text(encoding="utf-8")}
    assert not modules - inner
