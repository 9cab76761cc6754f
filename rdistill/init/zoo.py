"""Lists the models of the installed mmseg configs by name, with their parameters and FLOPs.

The figures are in ``zoo.json``. :mod:`rdistill.init.list_models` measured them with the version of mmseg that it names.
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
SIZE, CLASSES = 512, 19  # the figures are for images of 512 x 512 pixels and 19 classes
# Folders without semantic segmentors of single images, or with models of other registries.
EXCLUDED_FOLDERS = ("_base_", "dsdl", "san", "vpd", "mask2former", "maskformer")
SCHEDULE = re.compile(r"_(\d+xb?\d+[-_].*|\d+x\d+.*)$")  # part of a file name: GPUs x batch, length, data
PRETRAINING = re.compile(r"[-_](in1k|in22k)-pre|-scratch|-384x384")  # part of a file name: source of the weights
# Usual names of models that are no beginning of a name in the zoo.
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
    """Returns name -> config for each model of mmseg's zoo and of rdistill, sorted by name."""
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
        if path.parent.name not in EXCLUDED_FOLDERS and "levir" not in path.stem:
            name = PRETRAINING.sub("", SCHEDULE.sub("", path.stem))
            files.setdefault(name, []).append(path.relative_to(root).as_posix())
    return files


def _preference(file: str) -> tuple[bool, bool, str]:
    """Sort key for several configs of a model: prefers no mixed precision, then testing on whole images."""
    return "amp" in file, not re.search(r"cityscapes-512x1024|ade20k-512x512", file), file


def zoo_models() -> list[ZooModel]:
    """Returns every model with its figures, the smallest first and those without figures last."""
    measured = figures()["models"]
    models = [ZooModel(name, config, **measured.get(name, {})) for name, config in model_names().items()]
    return sorted(models, key=lambda model: (model.parameters is None, model.parameters or 0, model.name))


@cache
def figures() -> dict[str, Any]:
    """Returns the content of ``zoo.json``: ``mmseg`` (its version), ``size``, ``classes``, ``models``."""
    content: dict[str, Any] = json.loads(FIGURES.read_text(encoding="utf-8"))
    return content


def find_model(name: str, flag: str) -> tuple[str, str]:
    """Finds a model; returns its name and its config.

    Args:
        name: one of :func:`model_names`, the beginning of one, a key of ``ALIASES``, or a config file: a path, or
            ``mmseg::FOLDER/FILE.py``. Case does not matter, and ``-`` equals ``_``. If several names begin so, the
            smallest model is returned.
        flag: the option that named the model, for the message.

    Raises:
        UserError: there is no such model.
    """
    if PACKAGE in name or name.endswith(".py"):
        return Path(name.rpartition(PACKAGE)[2]).stem, name
    names = model_names()
    names_by_form = {_normalised(known_name): known_name for known_name in reversed(names)}
    searched = _normalised(name)
    if searched in ALIASES:
        searched = _normalised(ALIASES[searched])
    if searched not in names_by_form:
        sizes = {model.name: model.parameters or float("inf") for model in zoo_models()}
        matches = [names_by_form[key] for key in names_by_form if key.startswith(f"{searched}-")]
        if not matches:
            similar = difflib.get_close_matches(searched, [*names_by_form, *ALIASES], n=3)
            hint = f"did you mean {', '.join(names_by_form.get(word, word) for word in similar)}? " if similar else ""
            raise UserError(f"{flag}: no model {name!r}; {hint}`rdistill models` lists them")
        return (chosen := min(matches, key=lambda model: (sizes[model], model))), names[chosen]
    return names_by_form[searched], names[names_by_form[searched]]


def _normalised(name: str) -> str:
    return name.lower().replace("_", "-")


def model_section(name: str, config: str) -> dict[str, Any]:
    """Returns the ``model`` section of a config from :func:`find_model`, with the config's ``custom_imports``.

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
