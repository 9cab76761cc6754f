"""Sections of a sweep file whose ``type`` is a registered name and whose other keys are that type's parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator

from rdistill.core.errors import UserError, did_you_mean
from rdistill.core.validation import Section, short
from rdistill.registration.registry import Registry
from rdistill.schedulers import SCHEDULERS
from rdistill.schemas.mappings import Arguments
from rdistill.searchers import SEARCHERS


class NamedSection(Section):
    """A section with extra keys, which are the parameters of its ``type``; :func:`name_problems` checks them."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)
    registry: ClassVar[Registry[Any]]

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, content: Any) -> Any:
        """Adds the defaults of missing parameters, so that a study's record holds all values it was run with."""
        if not isinstance(content, Mapping):
            return content
        info = _registered(cls, content)
        if info is None:
            return content
        defaults = {name: each.default for name, each in info.params.items() if not each.is_required}
        return {**{key: content[key] for key in content if key not in info.params}, **defaults, **content}

    @property
    def params(self) -> Arguments:
        """The values of the type's parameters."""
        return dict(self.model_extra or {})


class SearcherSection(NamedSection):
    """A section whose ``type`` is the name of a searcher."""

    registry = SEARCHERS
    type: str

    @property
    def visits_a_grid(self) -> bool:
        """Whether the searcher tries every point of the space once."""
        info = SEARCHERS.get(self.type)
        return info is not None and info.grid


class SchedulerSection(NamedSection):
    """A section whose ``type`` is the name of a scheduler."""

    registry = SCHEDULERS
    type: str


def name_problems(content: Mapping[Any, Any], model: type[BaseModel]) -> list[str]:
    """Problems with the types that a sweep file names and with their parameters, a line each.

    Args:
        content: the file's content.
        model: the pydantic model of the whole file.
    """
    problems = []
    for where, field in model.model_fields.items():
        section, kind = content.get(where), field.annotation
        if isinstance(section, Mapping) and isinstance(kind, type) and issubclass(kind, NamedSection):
            problems += _section_problems(where, section, kind)
    return problems


def _section_problems(where: str, section: Mapping[Any, Any], kind: type[NamedSection]) -> list[str]:
    name = _name_in(kind, section)
    if not isinstance(name, str):
        return []  # pydantic reports it
    registry = kind.registry
    try:
        info = registry.get(name)
    except UserError as error:  # an installed package that registers the name cannot be imported
        return [f"{where}.type: {line}" for line in error.problems]
    if info is None:
        own = "; one of your own must be in a module that custom_imports names, or of an installed package"
        names = list(registry)
        choices = " or ".join([", ".join(map(repr, names[:-1])), repr(names[-1])])
        return [f"{where}.type: must be {choices}, got {short(name)}{registry.nearest(name) or own}"]
    problems = []
    for key, value in section.items():
        if key in kind.model_fields or not isinstance(key, str):
            continue
        parameter = info.params.get(key)
        if parameter is None:
            problems.append(_unknown(f"{where}.{key}", name, kind))
        elif not parameter.is_left_out(value) and not parameter.fits(value):
            problems.append(f"{where}.{key}: must be {parameter.words()}, got {short(value)}")
    return problems + [
        f"{where}.{key}: is required with type {name}: {parameter.words()}"
        for key, parameter in info.params.items()
        if parameter.is_required and key not in section
    ]


def _unknown(place: str, name: str, kind: type[NamedSection]) -> str:
    """The line about a key that the type does not declare; it may be another type's key, or a typing error."""
    key = place.rpartition(".")[2]
    takers = [each for each, info in kind.registry.registered().items() if key in info.params]
    if takers:
        return f"{place}: does nothing with type {name}; use type {' or '.join(takers)}, or leave it out"
    own = list(kind.registry.registered()[name].params)
    others = [each for info in kind.registry.registered().values() for each in info.params]
    choices = [*kind.model_fields, *own]
    hint = did_you_mean(key, [*choices, *others]) or f"; known: {', '.join(choices)}"
    return f"unknown key {place}{hint}"


def _name_in(kind: type[NamedSection], content: Mapping[Any, Any]) -> Any:
    return content.get("type", kind.model_fields["type"].default)


def _registered(kind: type[NamedSection], content: Mapping[Any, Any]) -> Any:
    """The declaration of the type that a section names; None if there is none."""
    name = _name_in(kind, content)
    try:
        return kind.registry.get(name) if isinstance(name, str) else None
    except UserError:  # `name_problems` reports it
        return None
