"""Optional packages that some of mmseg's models and transforms need, and how to install them."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from rdistill._compat import texts
from rdistill._compat.mmcv import has_compiled_operators
from rdistill.core.errors import causes_of


@dataclass(frozen=True)
class Package:
    """A package, or compiled operators, that may not be installed."""

    name: str
    install: str  # the command to install it
    is_installed: Callable[[], bool]


def _python(module: str, install: str | None = None, name: str | None = None) -> Package:
    return Package(name or module, install or f"pip install {module}", lambda: _can_be_found(module))


def _can_be_found(module: str) -> bool:
    with suppress(ValueError):  # the module is loaded, but has no spec
        return importlib.util.find_spec(module) is not None
    return True


OPERATORS = Package(
    "mmcv's compiled operators",
    "install torch first, then MMCV_WITH_OPS=1 pip install --no-build-isolation --no-binary onedl-mmcv onedl-mmcv",
    has_compiled_operators,
)
MMDET = _python("mmdet", "pip install onedl-mmdetection", "mmdetection")
MMPRETRAIN = _python("mmpretrain", "pip install onedl-mmpretrain")
GDAL = _python("osgeo", "install GDAL with the system's package manager, then pip install gdal", "gdal")
TIFFFILE = _python("tifffile")
TRANSFORMERS = _python("transformers", "pip install 'rdistill[teachers]'")
TURBOJPEG = _python("turbojpeg", "pip install PyTurboJPEG", "PyTurboJPEG")

# Type in mmseg's registries -> what it needs. mmdet itself cannot be imported without the compiled operators.
BY_TYPE = {
    "Mask2FormerHead": (MMDET, OPERATORS),
    "MaskFormerHead": (MMDET, OPERATORS),
    "SideAdapterCLIPHead": (OPERATORS,),
    "PointHead": (OPERATORS,),
    "CCHead": (OPERATORS,),
    "PSAHead": (OPERATORS,),
    "TransformersNetwork": (TRANSFORMERS,),
    "TIMMBackbone": (_python("timm"),),
    "VPD": (_python("ldm", "pip install the packages of mmseg's requirements/optional.txt", "latent-diffusion"),),
    "Albu": (_python("albumentations"),),
    "LoadSingleRSImageFromFile": (GDAL,),
    "LoadMultipleRSImageFromFile": (GDAL,),
}
BY_SCOPE = {"mmdet": (MMDET, OPERATORS), "mmpretrain": (MMPRETRAIN,), "mmcls": (MMPRETRAIN,)}
BY_BACKEND = {"tifffile": (TIFFFILE,), "turbojpeg": (TURBOJPEG,)}  # the key is a loader's `imdecode_backend`


def absent_packages(section: Any) -> str:
    """Names the packages that a section of a config needs and that are not installed.

    Args:
        section: a section of a config; everything below it is checked.

    Returns:
        ``'needs X (INSTALL) and Y (INSTALL), not installed here'``; '' if nothing is missing.
    """
    return _sentence(dict.fromkeys(package for package in _needed(section) if not package.is_installed()))


def absent_behind(error: BaseException) -> str:
    """Like :func:`absent_packages`, but for the packages that an error or one of its causes is about.

    mmcv, mmseg and mmengine report a missing package in many ways.
    """
    text = " ".join(f"{type(link).__name__} {link}" for link in causes_of(error, also_context=True))
    needed: list[Package] = []
    if texts.NO_OPERATORS.is_in(text):
        needed.append(OPERATORS)
    for scope, packages in BY_SCOPE.items():
        if texts.names_scope(scope).is_in(text):
            needed += packages
    return _sentence(dict.fromkeys(package for package in needed if not package.is_installed()))


def _sentence(packages: Mapping[Package, Any]) -> str:
    named = [f"{package.name} ({package.install})" for package in packages]
    return f"needs {' and '.join(named)}, not installed here" if named else ""


def _needed(node: Any) -> Iterator[Package]:
    if isinstance(node, Mapping):
        kind = node.get("type")
        kind = getattr(kind, "__name__", kind)
        if isinstance(kind, str):
            scope, _, name = kind.rpartition(".")
            yield from BY_TYPE.get(name, ())
            yield from BY_SCOPE.get(scope.partition(".")[0], ())
        if isinstance(node.get("imdecode_backend"), str):
            yield from BY_BACKEND.get(node["imdecode_backend"], ())
        node = node.values()
    elif not isinstance(node, (list, tuple)):
        return
    for value in node:
        yield from _needed(value)
