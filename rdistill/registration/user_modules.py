"""The import of users' modules, which register what they hold: what `custom_imports` of a config or sweep names."""

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
    """Imports modules, as mmengine's ``custom_imports`` does, but says which one failed and why.

    Args:
        section: a mapping with ``imports``, a name or a list of names, and ``allow_failed_imports``; or the names
            alone. None and anything of another shape, of which the check of shapes tells, import nothing.
        where: the section's key.

    Raises:
        UserError: a module cannot be imported, for whatever reason.
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
        except UserError as error:  # a registry's: the name is taken, or the declaration is wrong
            raise UserError(*(f"{where}: {problem}" for problem in error.problems)) from error
        except (Exception, SystemExit) as error:  # a user's own code may raise anything
            if may_fail and isinstance(error, ImportError):
                warnings.warn(f"{where}: {name} failed to import and is ignored", stacklevel=2)
                continue
            raise UserError(f"{where}: Failed to import {name}{_why(name, error)}") from error


@contextmanager
def blaming_user_code(what: str) -> Iterator[None]:
    """Turns what a user's function raises into a :class:`UserError` that names it, and the line that failed.

    Args:
        what: whose function it is, such as ``searcher 'qmc'``.
    """
    try:
        yield
    except UserError as error:
        raise UserError(*(f"{what}: {problem}" for problem in error.problems)) from error
    except Exception as error:  # a user's own code may raise anything
        raise UserError(f"{what}{_raised(error)}") from error


def _why(name: str, error: BaseException) -> str:
    """Why a module cannot be imported: it is not there, or what its code raised and on which line."""
    if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
        return "; its folder must be in PYTHONPATH, on every node"
    return _raised(error)


def _of_user(frames: list[traceback.FrameSummary]) -> traceback.FrameSummary | None:
    """The last line of the user's own code; where all of it is installed, the first that is not rdistill's."""
    others = [frame for frame in frames if not frame.filename.startswith(PACKAGE)]
    own = [frame for frame in others if not {"site-packages", "dist-packages"} & set(Path(frame.filename).parts)]
    return own[-1] if own else others[0] if others else None


def _raised(error: BaseException) -> str:
    """What code raised, and on which line."""
    text = one_line(error)
    if isinstance(error, SyntaxError):
        return f": {type(error).__name__}: {text}"
    lines = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    at = f" ({Path(frame.filename).name}, line {frame.lineno})" if (frame := _of_user(lines)) else ""
    return f": {type(error).__name__}: {text}{at}"
