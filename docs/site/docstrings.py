"""griffe's extension for the site: docstrings and signatures as `help` shows them.

- The roles of docstrings, such as :func:`train`, become links. What the site does not document (the modules of
  rdistill, which are internal) is shown by its name.
- ``**shortcuts: Unpack[SomeTypedDict]`` becomes its single keyword arguments, and a line of a docstring that describes
  several arguments at once becomes one for each. So a strict build still ends at an argument that a docstring has and
  the signature has not.
- The comment at the end of a key's line in a TypedDict becomes the key's description.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:func|class|data|meth|mod|attr|exc):`~?([\w.]+)`")
SEVERAL = re.compile(r"^( +)(\w+(?:, \w+)+):\s+([^\n]+)$", re.M)
UNPACKED = re.compile(r"Unpack\[(\w+)\]")


class AsHelpShowsIt(griffe.Extension):
    """Rewrites a package once it is read, before any docstring is parsed."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        for item in list(own_objects(pkg)):
            if isinstance(item, griffe.Attribute) and item.docstring is None:
                describe_by_its_comment(item)
            if item.docstring is not None:
                text = ROLE.sub(lambda role: link(role[1], pkg), item.docstring.value)
                item.docstring.value = SEVERAL.sub(one_by_one, text)
            if isinstance(item, griffe.Function):
                show_every_argument(item)


def own_objects(item: griffe.Object) -> Any:
    """An object and all below it that are defined there."""
    yield item
    for member in item.members.values():
        if not member.is_alias:
            yield from own_objects(member)  # type: ignore[arg-type]


def describe_by_its_comment(attribute: griffe.Attribute) -> None:
    if attribute.lineno is not None and isinstance(attribute.parent, griffe.Class):
        _, _, comment = attribute.lines_collection[attribute.filepath][attribute.lineno - 1].partition("  # ")
        if comment:
            attribute.docstring = griffe.Docstring(comment, parent=attribute)


def link(name: str, package: griffe.Module) -> str:
    last = name.removeprefix("rdistill.").rpartition(".")[2]
    public = "." not in name.removeprefix("rdistill.") and last in {str(export) for export in package.exports or ()}
    return f"[`{name}`][rdistill.{last}]" if public else f"`{name}`"


def one_by_one(line: re.Match[str]) -> str:
    indent, names, text = line.groups()
    return "\n".join(f"{indent}{name}: {text}" for name in names.split(", "))


def show_every_argument(function: griffe.Function) -> None:
    for parameter in list(function.parameters):
        unpacked = UNPACKED.fullmatch(str(parameter.annotation))
        if parameter.kind is griffe.ParameterKind.var_keyword and unpacked:
            del function.parameters[parameter.name]
            for field in function.module.classes[unpacked[1]].attributes.values():  # those of its bases too
                keyword, annotation = griffe.ParameterKind.keyword_only, field.annotation
                function.parameters.add(
                    griffe.Parameter(field.name, annotation=annotation, kind=keyword, default="None")
                )
