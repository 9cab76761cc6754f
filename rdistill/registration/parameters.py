"""Declarations of parameters: the allowed values, declared beside the function and checked before anything runs.

They are for the parameters of losses, searchers, schedulers, teachers and layouts. Each class of parameter checks a
value and describes the allowed values. If ``default`` is left out, it is taken from the function's signature.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rdistill.core.errors import UserError, did_you_mean

REQUIRED: Any = inspect.Parameter.empty  # the `default` of a parameter without a default


@dataclass(frozen=True)
class Parameter:
    """A parameter that accepts any value."""

    default: Any = REQUIRED

    def problem(self, name: str, value: Any) -> str:
        """The problem of a value, in one line; an empty text if there is none."""
        return "" if self.fits(value) else f"{name} must be {self.words()}, got {value!r}"

    def fits(self, value: Any) -> bool:
        return True

    @property
    def is_required(self) -> bool:
        """Whether the user must set it."""
        return self.default is REQUIRED

    def is_left_out(self, value: Any) -> bool:
        """Whether a value is None and means that the parameter was not set."""
        return value is None and self.default is None

    def words(self) -> str:
        """The allowed values, for messages."""
        return "any value"


@dataclass(frozen=True)
class Number(Parameter):
    """A finite number within bounds."""

    _: dataclasses.KW_ONLY
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    what: str = ""  # what the number is, such as 'a temperature', for messages

    def problem(self, name: str, value: Any) -> str:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return f"{name} must be a finite number, got {value!r}"
        if self._within(value):
            return ""
        several = len(self._bounds()) > 1
        what = f" is {self.what}{',' if several else ' and'}" if self.what else ""
        return f"{name}{what} must be {' and '.join(self._bounds())}, got {value!r}"

    def fits(self, value: Any) -> bool:
        return not self.problem("it", value)

    def words(self) -> str:
        if self.at_least is not None and self.at_most is not None:
            return f"a number from {self.at_least:g} to {self.at_most:g}"
        return " ".join(["a number", " and ".join(self._bounds())]).strip()

    def _within(self, value: float) -> bool:
        return (
            (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
        )

    def _bounds(self) -> list[str]:
        bounds = {">=": self.at_least, ">": self.above, "<=": self.at_most, "<": self.below}
        return [f"{sign} {bound:g}" for sign, bound in bounds.items() if bound is not None]


@dataclass(frozen=True)
class Whole(Parameter):
    """A whole number within bounds."""

    _: dataclasses.KW_ONLY
    at_least: int | None = None
    at_most: int | None = None

    def fits(self, value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, int):
            return False
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)

    def words(self) -> str:
        bounds = {">=": self.at_least, "<=": self.at_most}
        texts = [f"{sign} {bound}" for sign, bound in bounds.items() if bound is not None]
        return " ".join(["a whole number", " and ".join(texts)]).strip()


@dataclass(frozen=True)
class Switch(Parameter):
    """True or false. It may be true only if the compared tensors have at least ``min_channels`` channels."""

    _: dataclasses.KW_ONLY
    min_channels: int = 1

    def fits(self, value: Any) -> bool:
        return isinstance(value, bool)

    def words(self) -> str:
        return "true or false"


@dataclass(frozen=True)
class Text(Parameter):
    """A text that is not empty."""

    def fits(self, value: Any) -> bool:
        return isinstance(value, str) and bool(value.strip())

    def words(self) -> str:
        return "a text"


@dataclass(frozen=True)
class Choice(Parameter):
    """One of several values."""

    values: tuple[Any, ...] = ()

    def fits(self, value: Any) -> bool:
        return value in self.values

    def words(self) -> str:
        return " or ".join(map(repr, self.values))


def parameter_for_default(default: Any) -> Parameter:
    """The parameter that accepts all values with the type of a default, without bounds."""
    kinds: dict[type, type[Parameter]] = {bool: Switch, int: Whole, float: Number, str: Text}
    return kinds.get(type(default), Parameter)(default)


def declared(
    functions: Iterable[Callable[..., Any]],
    params: Mapping[str, Parameter] | None,
    excluded: Iterable[str] = (),
    *,
    where: str = "",
    taken: Iterable[str] = (),
    taken_by: str = "the sweep file already",
) -> dict[str, Parameter]:
    """The parameters of functions: their declarations, with the defaults of the signatures.

    Args:
        functions: functions whose keyword-only arguments are the parameters; for a class, those of its constructor.
        params: name -> declaration, for parameters with bounds.
        excluded: keyword-only arguments that are no parameters for the user, such as ``mask``.
        where: prefix of messages, such as ``loss 'Huber' of my_losses``.
        taken: keys that are beside the parameters in a config or a sweep file, which no parameter may have as its name.
        taken_by: what these keys belong to, for the message.

    Raises:
        UserError: a declaration contradicts the signature, or a parameter has the name of a ``taken`` key.
    """
    params, prefix = params or {}, f"{where}: " if where else ""
    defaults: dict[str, Any] = {}
    for function in functions:
        for parameter in inspect.signature(function).parameters.values():
            if parameter.kind is parameter.KEYWORD_ONLY and parameter.name not in excluded:
                defaults.setdefault(parameter.name, parameter.default)
    problems = [
        f"{name} has the default {declaration.default!r} in the declaration and {defaults[name]!r} in the function"
        for name, declaration in params.items()
        if name in defaults and declaration.default is not REQUIRED and declaration.default != defaults[name]
    ]
    problems += [
        f"{name} is declared, but is no keyword-only parameter of the function{did_you_mean(name, defaults)}"
        for name, declaration in params.items()
        if name not in defaults and declaration.default is REQUIRED
    ]
    if problems:
        raise UserError(*(f"{prefix}{problem}" for problem in problems))
    complete = {
        name: dataclasses.replace(declaration, default=defaults.get(name, declaration.default))
        for name, declaration in params.items()
    }
    for name, default in defaults.items():
        if name not in complete:
            complete[name] = Parameter() if default is REQUIRED else parameter_for_default(default)
    if clashes := [name for name in complete if name in taken]:
        raise UserError(f"{prefix}{clashes[0]} is a key of {taken_by}; call the parameter otherwise")
    return complete


def problems_of(
    values: Mapping[str, Any], parameters: Mapping[str, Parameter], owner: str, *, complete: bool = True
) -> list[str]:
    """The problems in the values of parameters, one line each.

    Args:
        values: the values that the user has set.
        parameters: name -> declaration.
        owner: what the parameters belong to, for messages.
        complete: whether all parameters without a default must be set.
    """
    problems = []
    for name, value in values.items():
        if name not in parameters:
            accepted = f"{owner} takes {', '.join(parameters) or 'no parameters'}"
            problems.append(f"{name} is not a parameter: {accepted}{did_you_mean(name, parameters)}")
        elif not parameters[name].is_left_out(value) and (problem := parameters[name].problem(name, value)):
            problems.append(problem)
    for name, parameter in parameters.items():
        if complete and parameter.is_required and name not in values:
            problems.append(f"{name} is required: {parameter.words()}")
    return problems
