"""What a value of a parameter may be: declared beside the function that takes it, checked before anything runs.

Parameters of losses, searchers, schedulers, teachers and layouts. Each kind says of a value what is wrong with it, and
in words what it takes. A ``default`` that is left out is the one of the function's signature.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rdistill.core.errors import UserError, did_you_mean

REQUIRED: Any = inspect.Parameter.empty  # what a parameter without a default has


@dataclass(frozen=True)
class Parameter:
    """Any value."""

    default: Any = REQUIRED

    def problem(self, name: str, value: Any) -> str:
        """What is wrong with a value, in one line; an empty text where nothing is."""
        return "" if self.fits(value) else f"{name} must be {self.words()}, got {value!r}"

    def fits(self, value: Any) -> bool:
        return True

    @property
    def is_required(self) -> bool:
        """Whether a user must give it."""
        return self.default is REQUIRED

    def is_left_out(self, value: Any) -> bool:
        """Whether a value is the None that stands for a parameter that was not set."""
        return value is None and self.default is None

    def words(self) -> str:
        """What it takes."""
        return "any value"


@dataclass(frozen=True)
class Number(Parameter):
    """A finite number, within bounds."""

    _: dataclasses.KW_ONLY
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    what: str = ""  # it is, such as 'a temperature', for the message

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
    """A whole number, from a least to a most one."""

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
    """True or false. ``min_channels``: how many channels what is compared must have for it to be true."""

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
    """One of some values."""

    values: tuple[Any, ...] = ()

    def fits(self, value: Any) -> bool:
        return value in self.values

    def words(self) -> str:
        return " or ".join(map(repr, self.values))


def of_default(default: Any) -> Parameter:
    """What a parameter takes of which only the default is known: whatever has its type, without bounds."""
    kinds: dict[type, type[Parameter]] = {bool: Switch, int: Whole, float: Number, str: Text}
    return kinds.get(type(default), Parameter)(default)


def declared(
    functions: Iterable[Callable[..., Any]],
    params: Mapping[str, Parameter] | None,
    apart: Iterable[str] = (),
    *,
    where: str = "",
    taken: Iterable[str] = (),
    taken_by: str = "the sweep file already",
) -> dict[str, Parameter]:
    """The parameters of some functions: as declared, with the defaults of their signatures.

    Args:
        functions: whose keyword-only parameters they are; a class's are those of its constructor.
        params: name -> declaration, for as many as have bounds.
        apart: names that are no parameters of the user's, such as ``mask``.
        where: begins the lines about mistakes, such as ``loss 'Huber' of my_losses``.
        taken: keys that stand beside the parameters in a config or a sweep file; ``taken_by`` says whose they are.

    Raises:
        UserError: a declaration and a signature that contradict each other, or a parameter called like a ``taken`` key.
    """
    params, begin = params or {}, f"{where}: " if where else ""
    defaults: dict[str, Any] = {}
    for function in functions:
        for parameter in inspect.signature(function).parameters.values():
            if parameter.kind is parameter.KEYWORD_ONLY and parameter.name not in apart:
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
        raise UserError(*(f"{begin}{problem}" for problem in problems))
    complete = {
        name: dataclasses.replace(declaration, default=defaults.get(name, declaration.default))
        for name, declaration in params.items()
    }
    for name, default in defaults.items():
        if name not in complete:
            complete[name] = Parameter() if default is REQUIRED else of_default(default)
    if clashes := [name for name in complete if name in taken]:
        raise UserError(f"{begin}{clashes[0]} is a key of {taken_by}; call the parameter otherwise")
    return complete


def problems_of(
    values: Mapping[str, Any], parameters: Mapping[str, Parameter], owner: str, *, complete: bool = True
) -> list[str]:
    """What is wrong with the values of some parameters, one line each.

    Args:
        values: what the user wrote.
        parameters: name -> declaration.
        owner: whose they are, for the message.
        complete: whether a parameter without a default must be there.
    """
    problems = []
    for name, value in values.items():
        if name not in parameters:
            takes = f"{owner} takes {', '.join(parameters) or 'no parameters'}"
            problems.append(f"{name} is not a parameter: {takes}{did_you_mean(name, parameters)}")
        elif not parameters[name].is_left_out(value) and (problem := parameters[name].problem(name, value)):
            problems.append(problem)
    for name, parameter in parameters.items():
        if complete and parameter.is_required and name not in values:
            problems.append(f"{name} is required: {parameter.words()}")
    return problems
