"""The registry of layouts: a declaration decorates the function that returns what a dataset reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rdistill.core.errors import UserError
from rdistill.registration.registry import Registry
from rdistill.registration.user_modules import blaming_user_code
from rdistill.schemas.mappings import PlainConfig

Function = TypeVar("Function", bound=Callable[..., Any])
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class LayoutInfo:
    """A registered layout; :func:`register` explains the fields."""

    name: str
    function: Callable[[Path, str], Mapping[str, Any]]
    marks: tuple[str, ...]
    hint: str = ""

    def is_at(self, root: Path) -> bool:
        """Returns whether a folder has all marks of the layout."""
        return all((root / mark).exists() for mark in self.marks)

    def keys(self, root: Path, split: str) -> PlainConfig:
        """Returns the keys of a dataset that reads a split (``train``, ``val`` or ``test``) of a folder; may be empty.

        Raises:
            UserError: the function failed, or returned no mapping.
        """
        where = f"layout {self.name!r} of {root}"
        with blaming_user_code(where):
            keys = self.function(root, split)
        if not isinstance(keys, Mapping) or not all(isinstance(key, str) for key in keys):
            raise UserError(f"{where}: must return a mapping of a dataset's keys, got {keys!r}")
        return dict(keys)


LAYOUTS: Registry[LayoutInfo] = Registry("layout", "rdistill.layouts")


def register(name: str, *, marks: tuple[str, ...], hint: str = "") -> Callable[[Function], Function]:
    """Declares a layout; decorates the function that returns what a dataset reads there.

    The function is ``layout(root, split) -> mapping``. It returns keys of the dataset, such as ``type``, ``ann_file``,
    ``data_prefix``, ``img_suffix``, which replace those of the config if ``data_root`` has this layout and the config's
    own image folder does not exist. All other keys stay. ``split`` is ``train``, ``val`` or ``test``. An empty mapping
    means that the folder is recognised, but that the config must supply what the folder does not show, such as the
    classes.

    Args:
        name: name of the layout in messages.
        marks: files and folders below ``data_root`` that all exist in this layout, and not all in other layouts.
        hint: for an empty mapping: what a user should do if the config does not fit such a folder.

    Raises:
        UserError: the name is taken, or there are no marks.
    """

    def decorate(function: Function) -> Function:
        if not marks or isinstance(marks, str) or not all(isinstance(mark, str) and mark for mark in marks):
            where = f"layout {name!r} of {function.__module__}"
            raise UserError(f"{where}: marks must be names of files or folders, such as ('train.txt',), got {marks!r}")
        LAYOUTS.add(name, LayoutInfo(name, function, tuple(marks), hint), function)
        return function

    return decorate


def layouts_at(root: Path) -> Iterator[LayoutInfo]:
    """Yields the layouts that a folder has, in the order of their registration.

    Raises:
        UserError: an installed package that registers a layout cannot be imported.
    """
    for name in LAYOUTS:
        if (layout := LAYOUTS[name]).is_at(root):
            yield layout


def find_keys(root: Path, split: str) -> PlainConfig:
    """Returns the keys of the first layout of a folder that has some; empty if none has.

    Raises:
        UserError: see :meth:`LayoutInfo.keys` and :func:`layouts_at`.
    """
    return next((keys for layout in layouts_at(root) if (keys := layout.keys(root, split))), {})


def describe_folder(root: Path) -> str:
    """Returns the end of a message about a folder without data: the layout that it has, or all known layouts.

    >>> describe_folder(Path("/no/such/folder"))[:55]
    "the layouts that are recognised by what is in a folder:"
    """
    try:
        layout = next(layouts_at(root), None)
    except UserError as error:
        return error.problems[0]
    if layout is not None:
        return f"{root} looks like {layout.name}" + (f": {layout.hint}" if layout.hint else "")
    listed = "; ".join(f"{name} ({', '.join(LAYOUTS[name].marks)})" for name in LAYOUTS)
    return f"the layouts that are recognised by what is in a folder: {listed}"
