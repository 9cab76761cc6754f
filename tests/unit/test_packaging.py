"""setup.py names what rdistill imports, and the versions that the tests run with are among those it allows."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, packages_distributions, requires, version

import pytest
from conftest import REPO
from packaging.requirements import Requirement
from packaging.version import Version

FILES = sorted((REPO / "rdistill").rglob("*.py"))
LOADERS = ("import_module", "find_spec", "_can_be_found", "_python")  # calls that name a module in a text
# Named to say that they are absent, and how they are installed: no part of rdistill works with them alone.
OF_THE_USERS_CHOICE = {"mmdet", "mmpretrain", "osgeo", "turbojpeg", "torchvision", "ldm", "albumentations"}
PRIVATES_USED = ("ray", "torch", "numpy", "onedl-mmengine", "onedl-mmcv", "onedl-mmsegmentation", "typer", "wandb")


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def setup_arguments() -> dict[str, object]:
    call = next(
        node
        for node in ast.walk(ast.parse((REPO / "setup.py").read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "setup"
    )
    wanted = ("install_requires", "extras_require")
    return {word.arg: ast.literal_eval(word.value) for word in call.keywords if word.arg in wanted}


def requirements(*, extras: bool) -> dict[str, Requirement]:
    arguments = setup_arguments()
    lines: list[str] = list(arguments["install_requires"])  # type: ignore[call-overload]
    if extras:
        lines += [line for extra in arguments["extras_require"].values() for line in extra]  # type: ignore[attr-defined]
    return {normal(Requirement(line).name): Requirement(line) for line in lines}


def locked_versions(lock: str = "requirements.lock") -> dict[str, str]:
    lines = (REPO / lock).read_text().splitlines()
    pairs = [line.split("==") for line in lines if "==" in line and not line.startswith("#")]
    return {normal(name): version.strip() for name, version in pairs}


def imported() -> Iterator[tuple[str, str]]:
    """(file, top-level module) of everything that is not Python's own or rdistill's."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names = [node.module]
            elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in LOADERS:
                names = [word.value for word in node.args[:1] if isinstance(word, ast.Constant)]
            for name in names:
                top = name.partition(".")[0]
                if top and top not in sys.stdlib_module_names and top != "rdistill":
                    yield path.name, top


def test_what_is_imported_is_declared() -> None:
    declared, of = requirements(extras=True), packages_distributions()
    missing = {
        f"{file} imports {module}"
        for file, module in imported()
        if module not in OF_THE_USERS_CHOICE
        and not any(normal(distribution) in declared for distribution in of.get(module, [module]))
    }
    assert not missing


def test_the_tested_versions_are_allowed() -> None:
    others = ("docs/requirements.lock", "requirements-openvino.lock", "requirements-timm.lock")  # not of `make setup`
    versions = {
        name: version for lock in (*others, "requirements.lock") for name, version in locked_versions(lock).items()
    }
    for name, requirement in requirements(extras=True).items():
        assert name in versions, f"{name} is not in requirements.lock"
        assert requirement.specifier.contains(versions[name], prereleases=True), requirement


@pytest.mark.parametrize("name", PRIVATES_USED)
def test_a_package_whose_private_things_are_used_has_a_ceiling(name: str) -> None:
    assert any(part.operator == "<" for part in requirements(extras=False)[name].specifier)


def test_there_is_one_opencv() -> None:
    """opencv-python, -headless and -contrib write to one folder: what is imported then is a matter of luck."""
    assert [name for name in locked_versions() if name.startswith("opencv")] == ["opencv-python"]


def test_the_lock_holds_together() -> None:
    """As `pip check`, of the lock: what each package needs is in it, in a version that it takes."""
    versions, problems, others = locked_versions(), [], []
    for name in versions:
        try:
            installed, lines = version(name), requires(name) or []
        except PackageNotFoundError:  # it is for another platform
            continue
        if Version(installed).public != Version(versions[name]).public:  # +cpu is of the same version
            others.append(name)  # another version's needs are no matter of the lock
            continue
        for requirement in map(Requirement, lines):
            if requirement.name == "setuptools":  # which pip freeze leaves out, and every environment has
                continue
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
                continue
            locked = versions.get(normal(requirement.name))
            if locked is None or not requirement.specifier.contains(locked, prereleases=True):
                problems.append(f"{name} needs {requirement}, the lock has {locked}")
    assert not problems
    if others:
        pytest.skip(f"{len(others)} packages are of other versions than the lock's: as in `make test-lowest`")
