"""mmengine config files, read as they stand; every way in which that fails is one line."""

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

PACKAGE = "::"  # stands between a package and a config within it: 'mmseg::pspnet/NAME.py', as in `_base_`
BASE = "_base_"


def read_config_file(path: Path) -> Config:
    """An mmengine config file as it stands, with names in place of classes.

    Args:
        path: a file, or ``mmseg::FOLDER/NAME.py`` for one that comes with an installed package.

    Raises:
        UserError: it is not there, or cannot be read.
    """
    register_onedl_alias()
    file = find_config(path)
    if problem := _circle(file, [], set()):
        raise UserError(f"{path}: cannot be read: {problem}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # mmengine warns of its own deprecated helpers here
            cfg = Config.fromfile(str(file), import_custom_modules=False)
            import_user_modules(cfg.get("custom_imports"))
        return as_names(cfg)
    except UserError as error:
        problems = [absent] if (absent := absent_behind(error)) else error.problems
        raise UserError(*(f"{path}: {problem}" for problem in problems)) from None
    except SystemExit as error:  # it would end the command, with a status of the config's choice and not a word
        raise UserError(f"{path}: cannot be read: it calls sys.exit({error.code!r}); a config only assigns") from error
    except Exception as error:  # a config is Python: it may raise anything
        if absent := absent_behind(error):
            raise UserError(f"{path}: {absent}") from error
        if isinstance(error, AttributeError) and file.suffix != ".py":  # mmengine reads the keys of a YAML list
            raise UserError(f"{path}: cannot be read: a config has keys and values at its top, not a list") from error
        raise UserError(f"{path}: cannot be read: {type(error).__name__}: {_last_line(error)}") from error


def find_config(path: Path) -> Path:
    """The file that is meant: ``path`` itself, or the one that a package has for ``PACKAGE::FOLDER/NAME.py``.

    Raises:
        UserError: there is none.
    """
    if PACKAGE in str(path):
        return _of_package(str(path))
    if path.is_file():
        return path
    if path.is_dir():
        raise UserError(f"{path}: is a folder; a config is a file such as {path / 'NAME.py'}")
    siblings = [str(p) for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
    near = difflib.get_close_matches(str(path), siblings, n=1)
    raise UserError(f"{path}: no such config file" + (f"; did you mean {near[0]}?" if near else ""))


def register_onedl_alias() -> None:
    """Lets ``mmseg::`` in ``_base_`` find the OneDL distribution, unless the original is installed."""
    remember_lists_of_configs()
    try:
        distribution("mmsegmentation")
    except PackageNotFoundError:
        look_for_configs_in("mmseg", "onedl-mmsegmentation")


def _of_package(name: str) -> Path:
    package, _, inner = name.partition(PACKAGE)
    try:
        return Path(config_of_package(name))
    except FileNotFoundError:
        configs = Path(get_installed_path(distribution_of(package))) / ".mim" / "configs"
        names = [p.relative_to(configs).as_posix() for p in configs.rglob("*.py")]
        near = difflib.get_close_matches(inner, names, n=1)
        hint = f"; did you mean {package}{PACKAGE}{near[0]}?" if near else ""
        raise UserError(f"{name}: no such config in {package}{hint}") from None
    except Exception as error:  # a package that is unknown, or not installed
        raise UserError(f"{name}: no such config: {_last_line(error)}") from None


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1][:300] if lines else "no message"


def _circle(file: Path, above: list[Path], seen: set[Path]) -> str | None:
    """Says so where a config inherits from itself: mmengine would go round until the stack ends, for most of a minute.

    ``above``: the files that have led here; ``seen``: those that have been looked through.
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
    """The local files that a Python config inherits from, as far as that shows without running it."""
    if file.suffix != ".py":
        return
    try:
        body = ast.parse(file.read_text(encoding="utf-8")).body
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError):
        return  # reading it says what is wrong
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
