"""What a docstring or a comment of rdistill refers to (``:func:`name``` and the like) exists, and is of that kind.

The files are parsed, not imported. `make docs` checks only the references of the pages that it shows.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest
from conftest import REPO

PACKAGE = REPO / "rdistill"
REFERENCE = re.compile(r":([a-z]+(?::[a-z]+)?):`([^`]*)`")
# The kinds of names that each role may refer to; a module is no name within a module.
KINDS = {
    "mod": {"module"},
    "class": {"class"},
    "func": {"function"},
    "meth": {"method"},
    "data": {"data"},
    "attr": {"attribute", "method"},  # a property is written as a method
}


@dataclass
class Names:
    """The names that a module or a class defines."""

    kinds: dict[str, str] = field(default_factory=dict)  # name -> kind
    classes: dict[str, Names] = field(default_factory=dict)
    bases: list[str] = field(default_factory=list)  # a class's base classes, as they are written
    imported: dict[str, str] = field(default_factory=dict)  # local name -> whole name, such as `rdistill.losses.LOSSES`
    stars: list[str] = field(default_factory=list)  # the modules of `from MODULE import *`


def whole_name(path: Path) -> str:
    """``rdistill/losses/modules.py`` -> ``rdistill.losses.modules``."""
    parts = path.relative_to(REPO).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {whole_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def package_of(module: str) -> str:
    return module if FILES[module].name == "__init__.py" else module.rpartition(".")[0]


def statements(nodes: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a module or a class, also those in its ``if``, ``try`` and ``with``."""
    for node in nodes:
        yield node
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            for block in ("body", "orelse", "finalbody"):
                yield from statements(getattr(node, block, []))
            for handler in getattr(node, "handlers", []):
                yield from statements(handler.body)


def assigned(node: ast.AST) -> list[str]:
    """``["A", "B"]`` for ``A, B = ...`` and ``["x"]`` for ``self.x = ...``."""
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    found = [inner for target in targets if target is not None for inner in ast.walk(target)]
    names = [inner.id for inner in found if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store)]
    of_self = [inner for inner in found if isinstance(inner, ast.Attribute) and ast.unparse(inner.value) == "self"]
    return names + [inner.attr for inner in of_self]


def names_in(body: list[ast.stmt], package: str, *, in_class: bool = False) -> Names:
    names = Names()
    for node in statements(body):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            names.kinds[node.name] = "method" if in_class else "function"
            if in_class:
                names.kinds |= {
                    name: "attribute"
                    for inner in ast.walk(node)
                    if isinstance(inner, (ast.Assign, ast.AnnAssign))
                    for name in assigned(inner)
                    if name not in names.kinds and f"self.{name}" in ast.unparse(inner)
                }
        elif isinstance(node, ast.ClassDef):
            names.kinds[node.name] = "class"
            names.classes[node.name] = names_in(node.body, package, in_class=True)
            names.classes[node.name].bases = [ast.unparse(base).partition("[")[0] for base in node.bases]
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            names.kinds |= dict.fromkeys(assigned(node), "attribute" if in_class else "data")
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            names.imported |= {alias.asname or alias.name: f"{source}.{alias.name}" for alias in node.names}
            names.stars += [source for alias in node.names if alias.name == "*"]
        elif isinstance(node, ast.Import):
            names.imported |= {alias.asname or alias.name.partition(".")[0]: alias.name for alias in node.names}
    return names


@cache
def names_of(module: str) -> Names:
    return names_in(ast.parse(FILES[module].read_text(encoding="utf-8")).body, package_of(module))


def kind_of(name: str) -> str | None:
    """The kind of a whole name such as ``rdistill.losses.LOSSES``; None if there is nothing of this name."""
    if name in FILES:
        return "module"
    parts = name.split(".")
    module = next((whole for end in range(len(parts), 0, -1) if (whole := ".".join(parts[:end])) in FILES), None)
    return None if module is None else kind_within(module, parts[module.count(".") + 1 :])


def kind_within(module: str, parts: list[str]) -> str | None:
    """The kind of ``["LossInfo", "load"]`` as it is written in a module; 'foreign' if it is another package's."""
    names = names_of(module)
    first, *rest = parts
    if first in names.imported:
        source = names.imported[first]
        return kind_of(".".join([source, *rest])) if source.partition(".")[0] == "rdistill" else "foreign"
    if first not in names.kinds:
        return next((kind for source in names.stars if (kind := kind_of(f"{source}.{'.'.join(parts)}"))), None)
    if not rest:
        return names.kinds[first]
    owner = names.classes.get(first)
    return member_of(module, owner, rest) if owner is not None else None


def member_of(module: str, owner: Names, parts: list[str]) -> str | None:
    """The kind of a member of a class, or of one of its bases."""
    if len(parts) > 1:
        inner = owner.classes.get(parts[0])
        return member_of(module, inner, parts[1:]) if inner is not None else None
    if parts[0] in owner.kinds:
        return owner.kinds[parts[0]]
    for base in owner.bases:
        if (kind := kind_within(module, [*base.split("."), *parts])) is not None:
            return kind
    return None


def texts_of(source: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, text) of every docstring and every comment of a file."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                yield first.lineno, str(first.value.value)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def classes_around(tree: ast.Module, line: int) -> list[str]:
    """The names of the classes around a line, the outermost first."""
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    around = [node for node in classes if node.lineno <= line <= (node.end_lineno or node.lineno)]
    return [node.name for node in sorted(around, key=lambda node: node.lineno)]


def kinds_meant(module: str, classes: list[str], name: str) -> set[str]:
    """The kinds of what a name may mean within some classes of a module: a member of these, or a name of the module."""
    if name.partition(".")[0] == "rdistill":
        found = [kind_of(name)]
    elif name.startswith("."):
        found = [kind_of(f"{package_of(module)}{name}")]
    else:
        scopes: list[list[str]] = [[], classes]
        found = [kind_within(module, [*scope, *name.split(".")]) for scope in scopes]
    return {kind for kind in found if kind is not None}


def dead_references(module: str, source: str) -> Iterator[str]:
    """What the text of a module refers to that does not exist, or is of another kind."""
    tree = ast.parse(source)
    for line, text in texts_of(source, tree):
        for role, written in REFERENCE.findall(text):
            name = " ".join(written.split()).removeprefix("~")
            kinds = kinds_meant(module, classes_around(tree, line), name)
            if role not in KINDS:
                yield f"{module}:{line}: there is no role {role}"
            elif not kinds & (KINDS[role] | {"foreign"}):
                yield f"{module}:{line}: {role} {name} is {' or '.join(sorted(kinds)) or 'nothing'}"


@pytest.mark.parametrize("module", FILES)
def test_what_a_module_refers_to_exists(module: str) -> None:
    assert not list(dead_references(module, FILES[module].read_text(encoding="utf-8")))


def test_the_references_are_found() -> None:
    """There are several hundred; a pattern that found none would let every test above pass."""
    found = [
        written
        for path in FILES.values()
        for source in [path.read_text(encoding="utf-8")]
        for _, text in texts_of(source, ast.parse(source))
        for written in REFERENCE.findall(text)
    ]
    assert len(found) > 400
    assert {role for role, _ in found} >= {"mod", "class", "func", "meth", "data"}


# Both stand in the place of rdistill/losses/registry.py: what may be written there, and what is reported.
ALIVE = """
''':mod:`rdistill.losses`, :mod:`.modules`, :class:`.modules.Term`, :func:`~rdistill.losses.distributions.kl`,
:func:`rdistill.losses.functional.kl`, :data:`LOSSES`, :data:`rdistill.losses.LOSSES`, :class:`LossInfo`,
:meth:`LossInfo.load`, :func:`register`.'''

class LossInfo:
    ''':meth:`load`, :attr:`implementation`.'''
    def load(self):
        # :meth:`default_weight` in a comment, and :class:`rdistill.core.errors.UserError`
        return 1
"""
DEAD = {
    "':mod:`rdistill.losses.gone`'": "mod rdistill.losses.gone is nothing",
    "':mod:`.gone`'": "mod .gone is nothing",
    "':func:`.kl`'": "func .kl is nothing",
    "':func:`rdistill.losses.functional.gone`'": "func rdistill.losses.functional.gone is nothing",
    "':func:`rdistill.losses.distributions.gone`'": "func rdistill.losses.distributions.gone is nothing",
    "':class:`rdistill.losses.LOSSES`'": "class rdistill.losses.LOSSES is data",
    "':func:`LossInfo`'": "func LossInfo is class",
    "':meth:`LossInfo.gone`'": "meth LossInfo.gone is nothing",
    "':meth:`load`'": "meth load is nothing",  # only within its class
    "'a'\n# :func:`gone`": "func gone is nothing",
    "class LossInfo:\n    ':meth:`gone`'": "meth gone is nothing",
    "def f():\n    '''One.\n\n    :func:`gone`\n    '''": "func gone is nothing",
    "':function:`register`'": "there is no role function",
}


def test_a_reference_that_is_there_is_accepted() -> None:
    assert len(REFERENCE.findall(ALIVE)) == 14
    assert not list(dead_references("rdistill.losses.registry", ALIVE))


@pytest.mark.parametrize("source", DEAD)
def test_a_dead_reference_is_reported(source: str) -> None:
    (problem,) = dead_references("rdistill.losses.registry", source)
    assert problem.endswith(DEAD[source])
