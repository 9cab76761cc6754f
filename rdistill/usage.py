"""Describes the mistake in a command line in one line, in place of Typer's box."""

from __future__ import annotations

from typing import Any

import annotated_types
from pydantic import ValidationError
from typer.core import TyperCommand

from rdistill._compat import texts
from rdistill._compat.typer import BadParameter, MissingParameter, NoSuchOption, annotation_of
from rdistill.core.errors import UserError, did_you_mean, one_line
from rdistill.core.validation import describe, short


class Command(TyperCommand):
    """A command that refuses an empty value, which as a path would mean the current folder."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        words, _, _ = self.make_parser(ctx).parse_args(
            args=list(args)
        )  # parsing below turns an empty string into a path
        for param in self.params:
            value = words.get(param.name)
            for text in value if isinstance(value, (list, tuple)) else [value]:
                if isinstance(text, str) and not text.strip():
                    raise UserError(f"{_name(param)}: is empty; {_how_to_fix(param)}")
        rest: list[str] = super().parse_args(ctx, args)
        return rest


def _how_to_fix(param: Any) -> str:
    for part, words in _NAMED_BY.items():
        if part in (param.metavar or ""):
            return f"name {words}"
    return "give it a value" if param.required else "give it a value, or leave it out"


# Part of a value's metavar -> what the value names.
_NAMED_BY = {"DIR": "a folder", "CONFIG": "a config file", ".yaml": "a sweep file", "FILE": "a file", ".onnx": "a file"}


def usage_line(error: Any) -> str:
    """Returns one line that says where the mistake is, what is wrong, and how to fix it.

    Args:
        error: one of :data:`rdistill._compat.typer.AnyError`.
    """
    command = " ".join(["rdistill", *_command_path(error)])
    see = f"see `{command} --help`"
    message = one_line(error.format_message())
    if isinstance(error, NoSuchOption):
        options = [name for param in error.ctx.command.params for name in (*param.opts, *param.secondary_opts)]
        flags = [name for name in options if name.startswith("--")]
        hint = did_you_mean(error.option_name, [*flags, "--help"]) or f"; {see}"
        return f"{error.option_name}: no such option of `{command}`{hint}"
    if isinstance(error, MissingParameter):
        return f"{_name(error.param)}: is required; {see}"
    if isinstance(error, BadParameter) and getattr(error, "param", None) is not None:
        return _wrong_value(error, message)
    if name := texts.NO_SUCH_COMMAND.read(message):
        commands = list(error.ctx.command.commands)
        hint = did_you_mean(name, commands) or f"; known: {', '.join(commands)}"
        return f"{name}: no such command of `{command}`{hint}"
    if words := texts.TOO_MANY_WORDS.read(message):
        return f"{words}: more arguments than `{command}` takes; {see}"
    if option := texts.NEEDS_A_VALUE.read(message):
        return f"{option}: needs a value after it"
    if option := texts.TAKES_NO_VALUE.read(message):
        return f"{option}: takes no value; leave out what follows `=`"
    return message


def _wrong_value(error: Any, message: str) -> str:
    param, cause = error.param, error.__cause__
    annotation = annotation_of(param)
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
    """Returns a parameter's name as the help shows it, such as ``--iters`` or ``CONFIG``."""
    options = [name for name in param.opts if name.startswith("-")]
    return max(options, key=len) if options else str(param.metavar or param.name.upper()).removesuffix("...")


def _command_path(error: Any) -> list[str]:
    """Returns the names of the command's group, if it has one, and of the command."""
    context: Any = getattr(error, "ctx", None)
    names: list[str] = []
    while context is not None and context.parent is not None:
        names.insert(0, context.info_name)
        context = context.parent
    return [name for name in names if name]
