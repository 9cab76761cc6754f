"""Reads mmengine config files; each possible failure becomes an error of one line."""

from __future__ import annotations

import ast
import difflib
import warnings
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from mmengine.config import Config
from mmengine.utils import get_installed_path

from rdistill._compat.mmengine import (
    config_of_package,
    distribution_of,
    look_for_configs_in,
    remember_lists_of_configs,
)
from rdistill.config.types import as_names
from rdistill.core.errors import UserError
from rdistill.models.packages import absent_behind
from rdistill.registration.user_modules import import_user_modules

PACKAGE = "::"  # separates a package from a config in it: 'mmseg::pspnet/NAME.py', as in `_base_`
BASE = "_base_"


def read_config_file(path: Path) -> Config:
    """Reads an mmengine config file and replaces classes by names.

    Args:
        path: a file, or ``mmseg::FOLDER/NAME.py`` for a config of an installed package.

    Raises:
        UserError: the file does not exist or cannot be read.
    """
    register_onedl_alias()
    file = find_config(path)
    if problem := _circle(file, [], set()):
        raise UserError(f"{path}: cannot be read: {problem}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # mmengine warns about its own deprecated helpers
            cfg = Config.fromfile(str(file), import_custom_modules=False)
            import_user_modules(cfg.get("custom_imports"))
        return as_names(cfg)
    except UserError as error:
        problems = [absent] if (absent := absent_behind(error)) else error.problems
        raise UserError(*(f"{path}: {problem}" for problem in problems)) from None
    except SystemExit as error:  # it would silently end the command with the config's exit status
        raise UserError(f"{path}: cannot be read: it calls sys.exit({error.code!r}); a config only assigns") from error
    except Exception as error:  # a config is Python code, which may raise any error
        if absent := absent_behind(error):
            raise UserError(f"{path}: {absent}") from error
        if isinstance(error, AttributeError) and file.suffix != ".py":  # mmengine reads the keys of a YAML list
            raise UserError(f"{path}: cannot be read: a config has keys and values at its top, not a list") from error
        raise UserError(f"{path}: cannot be read: {type(error).__name__}: {_last_line(error)}") from error


def find_config(path: Path) -> Path:
    """The file of a config: ``path`` itself, or a package's file for ``PACKAGE::FOLDER/NAME.py``.

    Raises:
        UserError: there is no such file.
    """
    if PACKAGE in str(path):
        return _package_config(str(path))
    if path.is_file():
        return path
    if path.is_dir():
        raise UserError(f"{path}: is a folder; a config is a file such as {path / 'NAME.py'}")
    siblings = [str(p) for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
    similar = difflib.get_close_matches(str(path), siblings, n=1)
    raise UserError(f"{path}: no such config file" + (f"; did you mean {similar[0]}?" if similar else ""))


def register_onedl_alias() -> None:
    """Lets ``mmseg::`` in ``_base_`` find the OneDL distribution, unless the original is installed."""
    remember_lists_of_configs()
    try:
        distribution("mmsegmentation")
    except PackageNotFoundError:
        look_for_configs_in("mmseg", "onedl-mmsegmentation")


def _package_config(name: str) -> Path:
    package, _, inner = name.partition(PACKAGE)
    try:
        return Path(config_of_package(name))
    except FileNotFoundError:
        configs = Path(get_installed_path(distribution_of(package))) / ".mim" / "configs"
        names = [p.relative_to(configs).as_posix() for p in configs.rglob("*.py")]
        similar = difflib.get_close_matches(inner, names, n=1)
        hint = f"; did you mean {package}{PACKAGE}{similar[0]}?" if similar else ""
        raise UserError(f"{name}: no such config in {package}{hint}") from None
    except Exception as error:  # the package is not known or not installed
        raise UserError(f"{name}: no such config: {_last_line(error)}") from None


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1][:300] if lines else "no message"


def _circle(file: Path, above: list[Path], seen: set[Path]) -> str | None:
    """A text about a config that inherits from itself, or None; mmengine would recurse for most of a minute.

    ``above`` are the files that inherit from this one; ``seen`` are files that were checked already.
    """
    file = file.resolve()
    if file in above:
        names = " -> ".join(path.name for path in [*above[above.index(file) :], file])
        return f"it inherits from itself: {names}"
    if file in seen:
        return None
    for base in _bases(file):
        if base.is_file() and (problem := _circle(base, [*above, file], seen)):
            return problem
    seen.add(file)
    return None


def _bases(file: Path) -> Iterator[Path]:
    """The local files from which a Python config inherits, as far as they can be found without running it."""
    if file.suffix != ".py":
        return
    try:
        body = ast.parse(file.read_text(encoding="utf-8")).body
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError):
        return  # reading the file will report what is wrong
    for node in body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == BASE for t in node.targets):
            try:
                named = ast.literal_eval(node.value)
            except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
                continue
            for name in [named] if isinstance(named, str) else named:
                if isinstance(name, str) and PACKAGE not in name:
                    yield file.parent / name
        elif isinstance(node, ast.With):  # `with read_base(): from .base import *`
            for inner in node.body:
                if isinstance(inner, ast.ImportFrom) and inner.level and inner.module:
                    folder = file.parents[inner.level - 1]
                    yield folder / f"{inner.module.replace('.', '/')}.py"
