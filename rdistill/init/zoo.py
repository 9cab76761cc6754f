"""mmseg's models by name, as its installed configs have them, with their parameters and FLOPs.

The figures stand in ``zoo.json``, measured by :mod:`rdistill.init.list_models` with the version of mmseg that it names.
"""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from mmengine.utils import get_installed_path

from rdistill._compat.mmengine import distribution_of
from rdistill.config.read import PACKAGE, read_config_file, register_onedl_alias
from rdistill.core.errors import UserError
from rdistill.init.own_models import OWN, OWN_SOURCE
from rdistill.models.packages import absent_packages

FIGURES = Path(__file__).with_name("zoo.json")
SIZE, CLASSES = 512, 19  # the figures are of an image of this size and a model of 19 classes
# Folders of configs that are no semantic segmentors of one image, or of other registries' models throughout.
LEFT_OUT = ("_base_", "dsdl", "san", "vpd", "mask2former", "maskformer")
SCHEDULE = re.compile(r"_(\d+xb?\d+[-_].*|\d+x\d+.*)$")  # GPUs x batch, length and data: no part of the model
START = re.compile(r"[-_](in1k|in22k)-pre|-scratch|-384x384")  # where its weights come from: no part of it either
# Words that people use which are no beginning of a name.
ALIASES = {
    "segnext-t": "segnext_mscan-t", "segnext-s": "segnext_mscan-s", "segnext-b": "segnext_mscan-b",
    "segnext-l": "segnext_mscan-l", "hrnet": "fcn_hr18", "hrnet18": "fcn_hr18", "hrnet48": "fcn_hr48",
    "unet": "unet-s5-d16_fcn", "mobilenet-v3": "mobilenet-v3-d8_lraspp", "mobilenet-v2": "mobilenet-v2-d8_fcn",
    "mobilenetv3": "mobilenet-v3-d8_lraspp", "mobilenetv2": "mobilenet-v2-d8_fcn", "fastscnn": "fast_scnn",
    "ddrnet": "ddrnet_23-slim", "stdc": "stdc1", "bisenet": "bisenetv2_fcn", "lraspp": "mobilenet-v3-d8_lraspp",
    **{f"segformer-b{size}": f"segformer_mit-b{size}" for size in range(6)},
}  # fmt: skip


@dataclass(frozen=True)
class ZooModel:
    """One of the models that `rdistill models` lists."""

    name: str
    config: str  # 'mmseg::FOLDER/FILE.py', or OWN_SOURCE
    parameters: int | None = None
    flops: int | None = None  # 2 for each multiply-add, for an image of SIZE x SIZE pixels
    problem: str | None = None  # why it was not measured


def model_names() -> dict[str, str]:
    """Name -> config, for each model of mmseg's zoo and rdistill's own; sorted by name."""
    names = {name: OWN_SOURCE for name in OWN}
    for name, files in _zoo_files().items():
        names[name] = f"mmseg{PACKAGE}{min(files, key=_preference)}"
    return dict(sorted(names.items()))


@cache
def _zoo_files() -> dict[str, list[str]]:
    register_onedl_alias()
    root = Path(get_installed_path(distribution_of("mmseg"))) / ".mim" / "configs"
    files: dict[str, list[str]] = {}
    for path in sorted(root.glob("*/*.py")):
        if path.parent.name not in LEFT_OUT and "levir" not in path.stem:
            name = START.sub("", SCHEDULE.sub("", path.stem))
            files.setdefault(name, []).append(path.relative_to(root).as_posix())
    return files


def _preference(file: str) -> tuple[bool, bool, str]:
    """Of several configs of a model: not the pruned numbers of mixed precision, and testing on whole images."""
    return "amp" in file, not re.search(r"cityscapes-512x1024|ade20k-512x512", file), file


def zoo_models() -> list[ZooModel]:
    """Every model with its figures, the smallest first; those without figures last."""
    measured = figures()["models"]
    models = [ZooModel(name, config, **measured.get(name, {})) for name, config in model_names().items()]
    return sorted(models, key=lambda model: (model.parameters is None, model.parameters or 0, model.name))


@cache
def figures() -> dict[str, Any]:
    """What ``zoo.json`` holds: ``mmseg`` (its version), ``size``, ``classes``, ``models``."""
    content: dict[str, Any] = json.loads(FIGURES.read_text(encoding="utf-8"))
    return content


def find_model(name: str, flag: str) -> tuple[str, str]:
    """The model that is meant: its name, and its config.

    Args:
        name: one of :func:`model_names`, a beginning of one, a word of ``ALIASES``, or a config file: a path, or
            ``mmseg::FOLDER/FILE.py``. Case, ``-`` and ``_`` count alike. Of several models that begin so, it is the
            smallest.
        flag: where it was named, for the message.

    Raises:
        UserError: there is none.
    """
    if PACKAGE in name or name.endswith(".py"):
        return Path(name.rpartition(PACKAGE)[2]).stem, name
    names = model_names()
    plain = {_plain(known_name): known_name for known_name in reversed(names)}
    wanted = _plain(name)
    if wanted in ALIASES:
        wanted = _plain(ALIASES[wanted])
    if wanted not in plain:
        sizes = {model.name: model.parameters or float("inf") for model in zoo_models()}
        begun = [plain[key] for key in plain if key.startswith(f"{wanted}-")]
        if not begun:
            near = difflib.get_close_matches(wanted, [*plain, *ALIASES], n=3)
            hint = f"did you mean {', '.join(plain.get(word, word) for word in near)}? " if near else ""
            raise UserError(f"{flag}: no model {name!r}; {hint}`rdistill models` lists them")
        return (chosen := min(begun, key=lambda model: (sizes[model], model))), names[chosen]
    return plain[wanted], names[plain[wanted]]


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")


def model_section(name: str, config: str) -> dict[str, Any]:
    """The ``model`` section of a config of :func:`find_model`, as it stands there, with its ``custom_imports``.

    Raises:
        UserError: the config cannot be read, has no model, or needs packages that are not installed.
    """
    if config == OWN_SOURCE:
        return OWN[name]()
    cfg = read_config_file(Path(config))
    if cfg.get("model") is None:
        raise UserError(f"{config}: has no model")
    section = cfg.to_dict()
    model: dict[str, Any] = section["model"]
    if absent := absent_packages(model):
        raise UserError(f"{name}: {absent}")
    if model.get("data_preprocessor") is None:
        model["data_preprocessor"] = section.get("data_preprocessor") or {}
    if section.get("custom_imports"):
        model["custom_imports"] = section["custom_imports"]
    return model
