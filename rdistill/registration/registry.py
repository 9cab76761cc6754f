"""Names that a config or a sweep file may use, and what they stand for: one registry for each kind of thing.

Three ways lead into a registry, and rdistill's own take the first: a decorator in a module that is imported; a module
of the user's that a config names in ``custom_imports``; an installed package's entry point, whose module is imported
when its name is first looked up.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, NamedTuple, TypeVar

from rdistill.core.errors import UserError, did_you_mean, error_line

Entry = TypeVar("Entry")
OWN = "rdistill"  # the package whose names nobody may take


class _Source(NamedTuple):
    """Where a name was registered."""

    module: str
    spec: Any  # which import of that module: another one after it was imported anew
    function: str

    def __str__(self) -> str:
        return f"{self.module}.{self.function}"


class Registry(Mapping[str, Entry], Generic[Entry]):
    """A mapping from names to entries, in the order in which they were registered.

    Args:
        what: a name stands for, such as ``loss``.
        group: of the entry points of installed packages, such as ``rdistill.losses``: the name of an entry point is
            the name that is registered, its value the module that registers it.
    """

    def __init__(self, what: str, group: str) -> None:
        self.what, self.group = what, group
        self._entries: dict[str, Entry] = {}
        self._sources: dict[str, _Source] = {}
        self._installed: dict[str, list[EntryPoint]] | None = None

    def add(self, name: str, entry: Entry, defined: Any) -> None:
        """Registers an entry.

        Args:
            name: what a config calls it.
            entry: what it stands for.
            defined: the function or class behind it, which says where it comes from.

        Raises:
            UserError: the name is taken. The same function of a module that was imported anew takes its own place.
        """
        if not isinstance(name, str) or not name.isidentifier():
            raise UserError(f"{self.what} {name!r} of {defined.__module__}: a name is letters, digits and underscores")
        module = sys.modules.get(defined.__module__)
        source = _Source(defined.__module__, getattr(module, "__spec__", None), defined.__qualname__)
        if name in self._entries:
            self._require_same(name, source)
        self._entries[name], self._sources[name] = entry, source

    def _require_same(self, name: str, source: _Source) -> None:
        before = self._sources[name]
        anew = source.spec is None or source.spec is not before.spec
        if (source.module, source.function) == (before.module, before.function) and anew:
            return
        whose = "rdistill's own" if _package(before.module) == OWN else f"registered by {before}"
        raise UserError(f"{self.what} {name!r} of {source} is {whose} already; register it under another name")

    def __getitem__(self, name: str) -> Entry:
        self._load_installed(name)
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        yield from dict.fromkeys([*self._entries, *self._points()])

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def registered(self) -> dict[str, Entry]:
        """What is registered by now; without the entry points whose module nobody needed yet."""
        return dict(self._entries)

    def is_own(self, name: str) -> bool:
        """Whether a name is rdistill's own."""
        return name in self._sources and _package(self._sources[name].module) == OWN

    def nearest(self, name: str) -> str:
        """``"; did you mean 'x'?"`` for the nearest name, or an empty text."""
        return did_you_mean(name, self)

    def hint(self, name: str) -> str:
        """The end of a line about a name that is not registered: the nearest one, or all of them."""
        return self.nearest(name) or f"; known: {', '.join(self)}"

    def _points(self) -> dict[str, list[EntryPoint]]:
        """Name -> the entry points of installed packages; looked up once, since that reads all their metadata."""
        if self._installed is None:
            self._installed = {}
            for point in entry_points(group=self.group):
                self._installed.setdefault(point.name, []).append(point)
        return self._installed

    def _load_installed(self, name: str) -> None:
        """Imports the module of an installed package that has an entry point of that name, unless it is imported.

        Raises:
            UserError: it cannot be imported, registers no such name, or the name is another's.
        """
        points = self._points().get(name) if isinstance(name, str) else None
        if not points:
            return
        packages = {_package(point.module) for point in points}
        if name in self._sources:
            packages |= {_package(self._sources[name].module)}
        if len(packages) > 1:
            own = " is rdistill's own, and" if OWN in packages else ""
            listed = " and ".join(sorted(packages - {OWN}))
            raise UserError(
                f"{self.what} {name!r}{own} is registered by the installed {listed} too; uninstall all but one"
            )
        if name not in self._entries:
            self._import(name, points[0])

    def _import(self, name: str, point: EntryPoint) -> None:
        package = f"{self.what} {name!r} of the installed package {point.dist.name if point.dist else point.module}"
        try:
            point.load()
        except UserError as error:
            raise UserError(*(f"{package}: {problem}" for problem in error.problems)) from error
        except Exception as error:  # a user's own code
            raise UserError(f"{package}: cannot be imported: {error_line(error)}") from error
        if name not in self._entries:
            raise UserError(f"{package}: its module {point.module} registers no {self.what} of that name")


def _package(module: str) -> str:
    return module.partition(".")[0]
