"""Imports users' modules, which register losses and so on: the modules in `custom_imports` of a config or sweep."""

from __future__ import annotations

import importlib
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rdistill.core.errors import UserError, one_line

FIELDS = ("imports", "allow_failed_imports")
PACKAGE = str(Path(__file__).parents[1])  # rdistill's folder


def import_user_modules(section: Any, where: str = "custom_imports") -> None:
    """Imports modules like mmengine's ``custom_imports``, but reports which module failed and why.

    Args:
        section: a mapping with ``imports``, a name or a list of names, and ``allow_failed_imports``; or only the names.
            None, and values of another kind, which a later check reports, import nothing.
        where: the key of the section.

    Raises:
        UserError: a module cannot be imported, for any reason.
    """
    if isinstance(section, Mapping):
        if unknown := [key for key in section if key not in FIELDS]:
            raise UserError(f"{where}: has no key {unknown[0]!r}; its keys are {' and '.join(FIELDS)}")
        names, may_fail = section.get("imports"), bool(section.get("allow_failed_imports"))
    else:
        names, may_fail = section, False
    if isinstance(names, str):
        names = [names]
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        return
    for name in names:
        try:
            importlib.import_module(name)
        except UserError as error:  # the registry raises it: the name is taken, or the declaration is wrong
            raise UserError(*(f"{where}: {problem}" for problem in error.problems)) from error
        except (Exception, SystemExit) as error:  # the user's code may raise any error
            if may_fail and isinstance(error, ImportError):
                warnings.warn(f"{where}: {name} failed to import and is ignored", stacklevel=2)
                continue
            raise UserError(f"{where}: Failed to import {name}{_import_failure(name, error)}") from error


@contextmanager
def blaming_user_code(what: str) -> Iterator[None]:
    """Within the context, errors of a user's function become a :class:`UserError` that names the function and the line.

    Args:
        what: what the function belongs to, such as ``searcher 'qmc'``.
    """
    try:
        yield
    except UserError as error:
        raise UserError(*(f"{what}: {problem}" for problem in error.problems)) from error
    except Exception as error:  # the user's code may raise any error
        raise UserError(f"{what}{_error_with_line(error)}") from error


def _import_failure(name: str, error: BaseException) -> str:
    """Why a module cannot be imported: it does not exist, or the error of its code with the line."""
    if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
        return "; its folder must be in PYTHONPATH, on every node"
    return _error_with_line(error)


def _user_frame(frames: list[traceback.FrameSummary]) -> traceback.FrameSummary | None:
    """The last frame in the user's own code; if all code is installed, the first frame outside of rdistill."""
    outside = [frame for frame in frames if not frame.filename.startswith(PACKAGE)]
    not_installed = [
        frame for frame in outside if not {"site-packages", "dist-packages"} & set(Path(frame.filename).parts)
    ]
    return not_installed[-1] if not_installed else outside[0] if outside else None


def _error_with_line(error: BaseException) -> str:
    """An error as text, with the file and line of the user's code."""
    text = one_line(error)
    if isinstance(error, SyntaxError):
        return f": {type(error).__name__}: {text}"
    lines = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    at = f" ({Path(frame.filename).name}, line {frame.lineno})" if (frame := _user_frame(lines)) else ""
    return f": {type(error).__name__}: {text}{at}"
