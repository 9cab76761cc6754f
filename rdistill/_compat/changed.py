"""The error for a private part of another package that its installed version does not have."""

from __future__ import annotations

import importlib
import operator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

# The versions with which everything in this folder was tested: those of requirements.lock.
TRIED = {
    "numpy": "2.4.6",
    "onedl-mmengine": "0.10.12",
    "ray": "2.60.0",
    "torch": "2.13.0",
    "typer": "0.29.2",
    "wandb": "0.31.0",
}


class LibraryChangedError(RuntimeError):
    """The installed version of a package does not have a part that rdistill needs. One line; exit status 1.

    Args:
        package: the name of the package for pip.
        what: the missing part.
        need: what rdistill does with it, such as ``binds Ray to this machine``.
    """

    def __init__(self, package: str, what: str, need: str) -> None:
        self.package, self.what, self.need = package, what, need
        try:
            have = version(package)
        except PackageNotFoundError:  # the original package is installed, which has another name
            have = "as it is installed"
        super().__init__(
            f"{package} {have} has no {what}, by which rdistill {need}; "
            f"install the version that it was tried with: pip install '{package}=={TRIED[package]}'"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.package, self.what, self.need)


def private(package: str, owner: Any, name: str, need: str) -> Any:
    """A private attribute of another package.

    Args:
        package: the name of the package for pip.
        owner: a module, a class or an object.
        name: the name of the attribute; it may be dotted.
        need: as for :class:`LibraryChangedError`.

    Raises:
        LibraryChangedError: there is no such attribute.
    """
    try:
        return operator.attrgetter(name)(owner)
    except AttributeError:
        owner_name = getattr(owner, "__name__", None) or type(owner).__name__
        raise LibraryChangedError(package, f"{owner_name}.{name}", need) from None


def private_module(package: str, name: str, need: str) -> Any:
    """A private module of another package; it raises the same errors as :func:`private`."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise LibraryChangedError(package, name, need) from None
