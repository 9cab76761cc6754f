"""Turns pydantic's errors about a section that a user wrote into plain messages, one line for each key."""

from __future__ import annotations

import reprlib
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel, BeforeValidator, ByteSize, ConfigDict, Tag, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError

from rdistill.core.errors import did_you_mean
from rdistill.core.words import counted

MAX_SEED = 2**32 - 1  # the largest seed of numpy
MAX_VALUE_CHARS = 120  # characters of a value in a message
SCALARS: dict[Any, tuple[str, str]] = {  # type -> its name in messages, singular and plural
    bool: ("true or false", "true or false"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("text", "texts"),
    ByteSize: ("a size such as '2GiB'", "sizes such as '2GiB'"),
    dict: ("a mapping", "mappings"),
    Any: ("a value", "values"),
}


class Section(BaseModel):
    """The base of all sections that a user writes: immutable; refuses unknown keys, NaN and infinite numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _not_a_switch(value: Any) -> Any:
    if isinstance(value, bool):  # pydantic would accept true as 1
        raise PydanticCustomError("number_type", "must be a number")
    return value


def _switch_as_word(value: Any) -> Any:
    return ("on" if value else "off") if isinstance(value, bool) else value


Whole = Annotated[int, BeforeValidator(_not_a_switch)]
Number = Annotated[float, BeforeValidator(_not_a_switch)]
Word = BeforeValidator(_switch_as_word)  # validates a Literal with 'on' or 'off', which YAML reads as true and false


def mistakes(error: ValidationError, model: type[BaseModel], content: Any, where: str = "") -> list[str]:
    """pydantic's errors as lines that name the key, the problem, the value and, for a mistyped key, the nearest one.

    Args:
        error: the error of ``model.model_validate(content)``.
        model: the model of the section.
        content: the section as the user wrote it.
        where: dotted key of the section itself; empty for a whole file.
    """
    items = error.errors(include_url=False)
    # pydantic counts valid entries only: it reports a list whose only entry is invalid as too short as well.
    short_by_others = [item for item in items if item["type"] == "too_short" and _is_long_enough(item, model, content)]
    lines = [
        _line(item, model, content, where)
        for item in items
        if item not in short_by_others and not _belongs_to_scalar_member(item, model, content)
    ]
    return list(dict.fromkeys(lines))  # a value that fits no member of a union has one error for each member


def _is_long_enough(item: ErrorDetails, model: type[BaseModel], content: Any) -> bool:
    value = _value_at(content, _find(model, item["loc"], content).path)
    return isinstance(value, Sequence) and len(value) >= item["ctx"]["min_length"]


def _belongs_to_scalar_member(item: ErrorDetails, model: type[BaseModel], content: Any) -> bool:
    """Whether the error is about a scalar member of a union, while the user wrote a mapping.

    The only section among the union's members then reports its own errors, which are the ones to show.
    """
    place = _find(model, item["loc"], content)
    members = _members(place.field.annotation)
    return place.in_union and _section_of(members, _value_at(content, place.path)) is not None


def short(value: Any) -> str:
    """The ``repr`` of a value, cut to 120 characters."""
    try:
        text = _SHORT.repr(value)
    except (ValueError, RecursionError):  # such as an integer of more than 4,300 digits
        return f"a {type(value).__name__} too long to show"
    return text if len(text) <= MAX_VALUE_CHARS else f"{text[: MAX_VALUE_CHARS - 3]}..."


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother, _SHORT.maxlong = 4, 100, 100, 60
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = 8


def _line(item: ErrorDetails, model: type[BaseModel], content: Any, where: str) -> str:
    path, field, parent, in_union = _find(model, item["loc"], content)
    place = ".".join(filter(None, [where, *map(str, path)]))
    kind = "" if in_union else item["type"]
    if kind == "extra_forbidden":
        fields = parent.model_fields if parent is not None else model.model_fields
        return f"unknown key {place}{did_you_mean(str(path[-1]), fields) or _known(fields)}"
    if kind == "missing":
        return f"{place}: is required"
    if kind == "invalid_key" or item["loc"][-1:] == ("[key]",):
        return f"{place}: a key must be text, got {short(path[-1])}; put it in quotes"
    got = _value_at(content, path)
    if kind == "value_error":
        return f"{place}: {item['msg'].removeprefix('Value error, ')}, got {short(got)}"
    if kind in ("too_short", "too_long"):
        bound, count = ("at least", "min_length") if kind == "too_short" else ("at most", "max_length")
        return f"{place}: must have {bound} {counted(item['ctx'][count], 'entry')}, got {len(got)}"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        return _wrong_tag(place, field, got)
    wanted = "a finite number" if kind == "finite_number" else describe(field.annotation, field.metadata)[0]
    if field.description and not _tags(field.annotation):
        wanted = field.description
    return f"{place or 'it'}: must be {wanted}, got {short(got)}{_hint(field, got)}"


def _wrong_tag(place: str, field: FieldInfo, got: Any) -> str:
    tag = got.get("type") if isinstance(got, Mapping) else got
    tags = _tags(field.annotation)
    hint = did_you_mean(str(tag), tags) or f"; known: {', '.join(tags)}"
    return f"{place}.type: must be {field.description or 'one of its types'}, got {short(tag)}{hint}"


def _known(fields: Iterable[str]) -> str:
    return f"; known: {', '.join(fields) or 'none'}"


def _hint(field: FieldInfo, got: Any) -> str:
    members = _members(_stripped(field).annotation)
    if isinstance(got, str):
        return did_you_mean(got, [value for value in _literals(members) if isinstance(value, str)])
    takes_text = any(member is str for member in members)
    return "; put it in quotes" if takes_text and isinstance(got, (bool, int, float)) else ""


class _Place(NamedTuple):
    """Where an error is in the user's section."""

    path: list[str | int]
    field: FieldInfo
    parent: type[BaseModel] | None  # the section that has the last part of the path as a key
    in_union: bool  # whether a member of the field's union reports the error


def _find(model: type[BaseModel], loc: Sequence[str | int], content: Any) -> _Place:
    """The path of an error in the user's section, and the field there.

    pydantic's path ``loc`` also names the member of a union that it tried, which is not in the user's file.
    """
    path: list[str | int] = []
    field, parent = FieldInfo.from_annotation(model), None
    for part in loc:
        field = _stripped(field)
        annotation, members = field.annotation, _members(field.annotation)
        parent = None
        if len(members) > 1:
            chosen = next((member for member in members if part in (*_tags(member), _own_tag(member))), None)
            section = _section_of(members, _value_at(content, path))
            if chosen is None and section is not None and part == section.__name__:
                chosen = section
            if chosen is None:
                # Each member reports its own error; the message is about the union as a whole.
                return _Place(path, field, None, in_union=True)
            field = FieldInfo.from_annotation(chosen)
            continue
        if part == "[key]":
            break
        path.append(part)
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            parent = annotation
            if part not in annotation.model_fields:
                break
            field = annotation.model_fields[str(part)]
        elif get_origin(annotation) in (list, tuple, dict):
            inner = get_args(annotation)
            fixed = get_origin(annotation) is tuple and Ellipsis not in inner
            index = (part if isinstance(part, int) and part < len(inner) else 0) if fixed else 0
            field = FieldInfo.from_annotation(inner[1] if get_origin(annotation) is dict else inner[int(index)])
        else:
            break
    return _Place(path, _stripped(field), parent, in_union=False)


def _section_of(members: Sequence[Any], value: Any) -> type[BaseModel] | None:
    """The only section among a union's members, if the value is a mapping: the user then meant this section."""
    sections = [member for member in members if isinstance(member, type) and issubclass(member, BaseModel)]
    return sections[0] if len(sections) == 1 < len(members) and isinstance(value, Mapping) else None


def _stripped(field: FieldInfo) -> FieldInfo:
    """The field without ``| None``, with the metadata of an inner ``Annotated``."""
    members = _members(field.annotation)
    if len(members) == 1 and members[0] is not field.annotation:
        inner = FieldInfo.from_annotation(members[0])
        return _with(inner, field)
    return field


def _with(inner: FieldInfo, outer: FieldInfo) -> FieldInfo:
    field = FieldInfo.from_annotation(inner.annotation)  # type: ignore[arg-type]
    field.metadata = [*inner.metadata, *outer.metadata]
    field.description = outer.description or inner.description
    return field


def _members(annotation: Any) -> list[Any]:
    """The members of a union without None; for any other type, the type itself."""
    if get_origin(annotation) in (Union, types.UnionType):
        return [member for part in get_args(annotation) if part is not type(None) for member in _members(part)]
    return [annotation]


def _own_tag(member: Any) -> str | None:
    """The tag of a member of a union with a `Discriminator`; pydantic's path contains it."""
    return next((entry.tag for entry in getattr(member, "__metadata__", ()) if isinstance(entry, Tag)), None)


def _tags(annotation: Any) -> list[str]:
    """The values of the key ``type`` that select one of the models of a union, or the only model."""
    tags: list[str] = []
    for member in _members(annotation):
        if isinstance(member, type) and issubclass(member, BaseModel) and "type" in member.model_fields:
            tags += get_args(member.model_fields["type"].annotation)
    return tags


def _literals(members: Iterable[Any]) -> list[Any]:
    values: list[Any] = []
    for member in members:
        if get_origin(member) is Annotated:
            values += _literals(_members(get_args(member)[0]))
        elif get_origin(member) is Literal:
            values += get_args(member)
    return values


def describe(annotation: Any, metadata: Sequence[Any] = ()) -> tuple[str, str]:
    """Describes the values that a type accepts, for messages: (for a single value, for several values).

    >>> describe(list[Annotated[int, annotated_types.Ge(0)]])[0]
    'a list of whole numbers of at least 0'
    """
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        field = FieldInfo.from_annotation(annotation)
        if field.description:
            return field.description, field.description
        return describe(field.annotation, [*field.metadata, *metadata])
    members = _members(annotation)
    if len(members) > 1:
        if tags := _tags(annotation):
            return (f"a mapping with a `type` ({', '.join(tags)}) and what that takes", "mappings with a `type`")
        # A bound may be set for the union as a whole, although only one of its members can have it.
        described = [describe(member, metadata) for member in members]
        values = [repr(value) for value in _literals(members)]
        others = [pair for pair, member in zip(described, members, strict=True) if not _literals([member])]
        return _either([*values, *(text for text, _ in others)]), _either([*values, *(text for _, text in others)])
    if members[0] is not annotation:
        return describe(members[0], metadata)
    if origin is Literal:
        text = _either([repr(value) for value in inner])
        return text, f"values out of {', '.join(repr(value) for value in inner)}"
    if origin in (list, tuple):
        fixed = origin is tuple and Ellipsis not in inner
        what = f"{len(inner)} {describe(inner[0])[1]}" if fixed else describe(inner[0])[1]
        return f"a list of {what}", f"lists of {what}"
    if origin is dict or annotation is dict:
        return "a mapping", "mappings"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        keys = ", ".join(annotation.model_fields)
        return f"a mapping with the keys {keys}" if keys else "a mapping", "mappings"
    single, several = SCALARS.get(annotation, (f"a {getattr(annotation, '__name__', annotation)}", "values"))
    bounds = _bounds(metadata) if annotation in (int, float) else ""
    return single + bounds, several + bounds


def _either(texts: Sequence[str]) -> str:
    """Joins texts as ``a, b or c``."""
    return " or ".join(filter(None, [", ".join(texts[:-1]), texts[-1]]))


def _constraints(metadata: Sequence[Any]) -> dict[str, float]:
    """The bounds in a field's metadata by name: ge, gt, le, lt."""
    bounds: dict[str, float] = {}
    for entry in metadata:
        for name in ("ge", "gt", "le", "lt"):
            value = getattr(entry, name, None)
            if value is not None and isinstance(entry, annotated_types.BaseMetadata):
                bounds[name] = value
    return bounds


def _bounds(metadata: Sequence[Any]) -> str:
    have = _constraints(metadata)
    if "ge" in have and "le" in have:
        return f" from {have['ge']} to {have['le']}"
    words = {"ge": "of at least", "gt": "above", "le": "of at most", "lt": "below"}
    texts = [f"{words[name]} {have[name]}" for name in words if name in have]
    return f" {' and '.join(texts)}" if texts else ""


def _value_at(content: Any, path: Sequence[str | int]) -> Any:
    """The user's value at a path; where the path ends early, the value there."""
    for part in path:
        if isinstance(content, Mapping) and part in content:
            content = content[part]
            continue
        if not isinstance(content, (list, tuple)) or not isinstance(part, int) or part >= len(content):
            break
        content = content[part]
    return content
