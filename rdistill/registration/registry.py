"""Registries: the names that a config or a sweep file may use, and their entries; one registry for each kind of entry.

An entry is registered in one of three ways: by a decorator in a module of rdistill; by a user's module that a config
names in ``custom_imports``; or by an installed package's entry point, whose module is imported when its name is first
looked up.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, NamedTuple, TypeVar

from rdistill.core.errors import UserError, did_you_mean, error_line

Entry = TypeVar("Entry")
OWN = "rdistill"  # names of this package cannot be registered again


class _Source(NamedTuple):
    """The function or class that registered a name."""

    module: str
    spec: Any  # the module's `__spec__`, which is another object after the module was imported again
    function: str

    def __str__(self) -> str:
        return f"{self.module}.{self.function}"


class Registry(Mapping[str, Entry], Generic[Entry]):
    """A mapping from names to entries, in the order of their registration.

    Args:
        what: the kind of entry, such as ``loss``, for messages.
        group: the group of entry points of installed packages, such as ``rdistill.losses``. The name of an entry point
            is the registered name, its value is the module that registers it.
    """

    def __init__(self, what: str, group: str) -> None:
        self.what, self.group = what, group
        self._entries: dict[str, Entry] = {}
        self._sources: dict[str, _Source] = {}
        self._installed: dict[str, list[EntryPoint]] | None = None

    def add(self, name: str, entry: Entry, defined: Any) -> None:
        """Registers an entry.

        Args:
            name: the name in a config.
            entry: the entry.
            defined: the function or class of the entry, whose module is named in messages.

        Raises:
            UserError: the name is taken. (A module that is imported again may replace its own entries.)
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
        imported_again = source.spec is None or source.spec is not before.spec
        if (source.module, source.function) == (before.module, before.function) and imported_again:
            return
        owner = "rdistill's own" if _package(before.module) == OWN else f"registered by {before}"
        raise UserError(f"{self.what} {name!r} of {source} is {owner} already; register it under another name")

    def __getitem__(self, name: str) -> Entry:
        self._load_installed(name)
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        yield from dict.fromkeys([*self._entries, *self._points()])

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def registered(self) -> dict[str, Entry]:
        """The entries that are registered now, without entry points whose modules were not imported yet."""
        return dict(self._entries)

    def is_own(self, name: str) -> bool:
        """Whether rdistill itself registered a name."""
        return name in self._sources and _package(self._sources[name].module) == OWN

    def nearest(self, name: str) -> str:
        """``"; did you mean 'x'?"`` for the most similar name, or an empty text."""
        return did_you_mean(name, self)

    def hint(self, name: str) -> str:
        """The end of a message about an unknown name: the most similar name, or all names."""
        return self.nearest(name) or f"; known: {', '.join(self)}"

    def _points(self) -> dict[str, list[EntryPoint]]:
        """Name -> entry points of installed packages; read once, because that reads the metadata of all packages."""
        if self._installed is None:
            self._installed = {}
            for point in entry_points(group=self.group):
                self._installed.setdefault(point.name, []).append(point)
        return self._installed

    def _load_installed(self, name: str) -> None:
        """Imports the module of an installed package that has an entry point of this name, if it was not imported yet.

        Raises:
            UserError: the module cannot be imported or does not register the name, or the name is taken.
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
        except Exception as error:  # the package's code may raise any error
            raise UserError(f"{package}: cannot be imported: {error_line(error)}") from error
        if name not in self._entries:
            raise UserError(f"{package}: its module {point.module} registers no {self.what} of that name")


def _package(module: str) -> str:
    return module.partition(".")[0]
