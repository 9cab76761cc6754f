"""What is wrong with a command line, in a line of the house's form instead of Typer's box."""

from __future__ import annotations

import re
from typing import Any

import annotated_types
from pydantic import ValidationError

from rdistill.core.errors import did_you_mean
from rdistill.core.validation import describe, short


def is_usage_error(error: BaseException) -> bool:
    """Whether Typer raised it for what the user typed. Its versions keep these classes in different places."""
    return any(kind.__name__ == "ClickException" for kind in type(error).__mro__)


def usage_line(error: Any) -> str:
    """Where, what, got, how to fix.

    Args:
        error: of Typer's own kinds; see :func:`is_usage_error`.
    """
    command = " ".join(["rdistill", *_command_path(error)])
    see = f"see `{command} --help`"
    kind, message = type(error).__name__, " ".join(str(error.format_message()).split())
    if kind == "NoSuchOption":
        options = [name for param in error.ctx.command.params for name in (*param.opts, *param.secondary_opts)]
        flags = [name for name in options if name.startswith("--")]
        hint = did_you_mean(error.option_name, [*flags, "--help"]) or f"; {see}"
        return f"{error.option_name}: no such option of `{command}`{hint}"
    if kind == "MissingParameter":
        return f"{_name(error.param)}: is required; {see}"
    if kind == "BadParameter" and getattr(error, "param", None) is not None:
        return _wrong_value(error, message)
    if match := re.match(r"No such command '(.*?)'\.", message):
        commands = list(error.ctx.command.commands)
        hint = did_you_mean(match[1], commands) or f"; known: {', '.join(commands)}"
        return f"{match[1]}: no such command of `{command}`{hint}"
    if match := re.match(r"Got unexpected extra arguments? ?(?:\(s\) )?\((.*)\)", message):
        return f"{match[1]}: more arguments than `{command}` takes; {see}"
    if match := re.match(r"Option '(.*?)' requires an argument", message):
        return f"{match[1]}: needs a value after it"
    if match := re.match(r"Option '(.*?)' does not take a value", message):
        return f"{match[1]}: takes no value; leave out what follows `=`"
    return message


def _wrong_value(error: Any, message: str) -> str:
    param, cause = error.param, error.__cause__
    annotation = getattr(getattr(param, "type_descriptor", None), "annotation", None)
    bounds = [
        constraint(limit)
        for name, constraint in (("min", annotated_types.Ge), ("max", annotated_types.Le))
        if (limit := getattr(param, name, None)) is not None
    ]
    if annotation not in (int, float) or not isinstance(cause, ValidationError):
        return f"{_name(param)}: {error.message if error.message else message}"
    first = cause.errors(include_url=False)[0]
    wanted = "a finite number" if first["type"] == "finite_number" else describe(annotation, bounds)[0]
    return f"{_name(param)}: must be {wanted}, got {short(first['input'])}"


def _name(param: Any) -> str:
    """``--iters``, or ``CONFIG`` as the help has it."""
    options = [name for name in param.opts if name.startswith("-")]
    return max(options, key=len) if options else str(param.metavar or param.name).upper().removesuffix("...")


def _command_path(error: Any) -> list[str]:
    """The command's name, or those of its group and itself, without the program's."""
    context: Any = getattr(error, "ctx", None)
    names: list[str] = []
    while context is not None and context.parent is not None:
        names.insert(0, context.info_name)
        context = context.parent
    return [name for name in names if name]
