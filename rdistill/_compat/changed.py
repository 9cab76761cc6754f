"""The error for something private of another package that a version of it no longer has."""

from __future__ import annotations

import importlib
import operator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

# The versions that everything in this folder was tried with: those of requirements.lock.
TRIED = {
    "numpy": "2.4.6",
    "onedl-mmengine": "0.10.12",
    "ray": "2.60.0",
    "torch": "2.13.0",
    "typer": "0.29.2",
    "wandb": "0.31.0",
}


class LibraryChangedError(RuntimeError):
    """A package is there in a version that lacks what rdistill needs of it. One line; exit status 1.

    Args:
        package: as pip knows it.
        what: is missing.
        need: what rdistill does with it, such as ``binds Ray to this machine``.
    """

    def __init__(self, package: str, what: str, need: str) -> None:
        self.package, self.what, self.need = package, what, need
        try:
            have = version(package)
        except PackageNotFoundError:  # the original under another name
            have = "as it is installed"
        super().__init__(
            f"{package} {have} has no {what}, by which rdistill {need}; "
            f"install the version that it was tried with: pip install '{package}=={TRIED[package]}'"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.package, self.what, self.need)


def private(package: str, owner: Any, name: str, need: str) -> Any:
    """An attribute of somebody else's.

    Args:
        package: as pip knows it.
        owner: a module, a class or an object.
        name: of the attribute; dotted, one of its attributes.
        need: as for :class:`LibraryChangedError`.

    Raises:
        LibraryChangedError: there is none of that name.
    """
    try:
        return operator.attrgetter(name)(owner)
    except AttributeError:
        of = getattr(owner, "__name__", None) or type(owner).__name__
        raise LibraryChangedError(package, f"{of}.{name}", need) from None


def private_module(package: str, name: str, need: str) -> Any:
    """A module of somebody else's; raises as :func:`private`."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise LibraryChangedError(package, name, need) from None
