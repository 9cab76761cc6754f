"""What a layout of a data folder is: one declaration beside the function that says what a dataset reads there."""

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
    """What there is to know about a layout. See :func:`register` for what the fields mean."""

    name: str
    function: Callable[[Path, str], Mapping[str, Any]]
    marks: tuple[str, ...]
    hint: str = ""

    def is_at(self, root: Path) -> bool:
        """Whether a folder has the layout's marks."""
        return all((root / mark).exists() for mark in self.marks)

    def keys(self, root: Path, split: str) -> PlainConfig:
        """The keys of a dataset that reads a split (``train``, ``val`` or ``test``) of a folder; may be empty.

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
    """Declares a layout; decorates the function that says what a dataset reads there.

    The function is ``layout(root, split) -> mapping``: the keys that a dataset of a config gets where ``data_root`` has
    this layout and the config's own folder of images is not there, such as ``type``, ``ann_file``, ``data_prefix``,
    ``img_suffix``. All other keys stay the config's. ``split`` is ``train``, ``val`` or ``test``. An empty mapping says
    that the folder is recognised, but that the config must say what cannot be seen in it, such as the classes.

    Args:
        name: of the layout, in messages.
        marks: files and folders below ``data_root``, all of which are there in this layout, and not in others.
        hint: what a user does who has such a folder and a config that does not fit it; for an empty mapping.

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
    """The layouts that a folder has, in the order in which they are registered.

    Raises:
        UserError: an installed package that registers one cannot be imported.
    """
    for name in LAYOUTS:
        if (layout := LAYOUTS[name]).is_at(root):
            yield layout


def find_keys(root: Path, split: str) -> PlainConfig:
    """What a dataset reads of a folder by the first layout that says it; empty where none does.

    Raises:
        UserError: as :meth:`LayoutInfo.keys` and :func:`layouts_at`.
    """
    return next((keys for layout in layouts_at(root) if (keys := layout.keys(root, split))), {})


def describe_folder(root: Path) -> str:
    """The end of a line about a folder that a dataset cannot read: what it looks like, or what is recognised.

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
