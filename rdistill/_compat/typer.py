"""The classes of Typer's errors, which it exports a part of. Tried with Typer 0.29.0 and 0.29.2; Click is within it.

The module of ``typer.BadParameter``, which is exported, has them all. Before 0.29 Typer does not say which type a wrong
argument should have had; 0.16 beside a Click of today takes a missing argument for none.
"""

from __future__ import annotations

import importlib
from typing import Any

import typer

from rdistill._compat.changed import private

_module = importlib.import_module(typer.BadParameter.__module__)


def _error(name: str) -> type[Any]:
    return private("typer", _module, name, "says what is wrong with a command line")


AnyError = _error("ClickException")  # whatever is wrong with what the user typed
NoSuchOption = _error("NoSuchOption")
MissingParameter = _error("MissingParameter")
BadParameter = typer.BadParameter
ShowsHelp = _error("NoArgsIsHelpError")  # a group of commands without one


def annotation_of(parameter: Any) -> Any:
    """The type that a command's parameter was declared with; None where Typer does not say.

    Without it a wrong number is described in Typer's words instead of ours.
    """
    return getattr(getattr(parameter, "type_descriptor", None), "annotation", None)
