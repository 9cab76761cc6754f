"""The classes of Typer's errors, some of which it does not export. Tested with Typer 0.29.0 and 0.29.2 (with Click).

All of them are in the module of ``typer.BadParameter``, which is exported. Before 0.29, Typer does not tell the
expected type of a wrong argument; 0.16 with a current Click does not detect a missing argument.
"""

from __future__ import annotations

import importlib
from typing import Any

import typer

from rdistill._compat.changed import private

_module = importlib.import_module(typer.BadParameter.__module__)


def _error(name: str) -> type[Any]:
    return private("typer", _module, name, "says what is wrong with a command line")


AnyError = _error("ClickException")  # any mistake in the command line
NoSuchOption = _error("NoSuchOption")
MissingParameter = _error("MissingParameter")
BadParameter = typer.BadParameter
ShowsHelp = _error("NoArgsIsHelpError")  # a group of commands was called without a command


def annotation_of(parameter: Any) -> Any:
    """The type with which a command's parameter was declared; None if Typer does not tell.

    Without it, messages about a wrong number have Typer's text instead of rdistill's.
    """
    return getattr(getattr(parameter, "type_descriptor", None), "annotation", None)
