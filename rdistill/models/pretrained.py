"""Finds, downloads and safely loads the files of weights that a config names, without running code from them.

mmengine's checkpoint loaders fall back to an unsafe load. This module replaces all of them, for the whole process, by
loaders that read the files with :func:`rdistill.models.checkpoint.load_file`.
"""

from __future__ import annotations

import os
import re
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from mmengine.fileio import get_file_backend
from mmengine.model import BaseModule
from mmengine.runner import CheckpointLoader
from torch import nn

from rdistill._compat.mmengine import deprecated_model_names, mmcls_weights, model_zoo
from rdistill.core.errors import UserError, did_you_mean, one_line
from rdistill.core.files import lock_file
from rdistill.models.checkpoint import MatchingWeights, load_file, matching_weights, require_finite
from rdistill.models.quiet_mmseg import MSCAN, MixVisionTransformer
from rdistill.schemas.mappings import FileOfWeights, Weights

SAFE_SCHEME = "rdistill-safe:"  # prefix of a run's own checkpoint; its values are not checked, so they may be NaN
WEB = ("http://", "https://")
TORCHVISION, OPENMMLAB, MMCLS = ("modelzoo://", "torchvision://"), ("open-mmlab://", "openmmlab://"), ("mmcls://",)
TIMEOUT_S = 20.0  # seconds in which a server must answer
# Environment variables of torch.load: they force, or forbid, `weights_only=True`.
FORCE_SAFE, FORCE_UNSAFE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"

_trusted: ContextVar[bool] = ContextVar("trusted", default=False)


@contextmanager
def safe_loading(*, trust: bool = False) -> Iterator[None]:
    """Within the context, files that a model loads while it is built or initialised cannot run code.

    Args:
        trust: allows them to run code (``--trust-checkpoint``).
    """
    token = _trusted.set(trust)
    before = {name: os.environ.get(name) for name in (FORCE_SAFE, FORCE_UNSAFE)}
    if not trust:  # torch.load reads these variables, so they also work for models that call it themselves
        os.environ[FORCE_SAFE] = "1"
        os.environ.pop(FORCE_UNSAFE, None)
    try:
        yield
    finally:
        _trusted.reset(token)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def is_trusted() -> bool:
    """Whether files that are loaded now may run code, see :func:`safe_loading`."""
    return _trusted.get()


def pretrained_files(section: Any, where: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Finds the files of weights in a config; yields the key, and a dict with ``checkpoint`` and maybe ``prefix``.

    Args:
        section: a part of a config, such as its ``model``.
        where: the key of that part.
    """
    if isinstance(section, (list, tuple)):
        for index, item in enumerate(section):
            yield from pretrained_files(item, f"{where}.{index}")
    if not isinstance(section, Mapping):
        return
    kind = section.get("type")
    kind = getattr(kind, "__name__", None) or str(kind).rpartition(".")[2]
    if kind in ("Pretrained", "PretrainedInit") and isinstance(section.get("checkpoint"), str):
        yield f"{where}.checkpoint", section
    for key, value in section.items():
        if key == "pretrained" and isinstance(value, str):
            yield f"{where}.{key}", {"checkpoint": value}
        else:
            yield from pretrained_files(value, f"{where}.{key}")


def pretrained_problems(model_cfg: Mapping[str, Any], *, trust: bool = False) -> tuple[list[str], str]:
    """Checks the files of weights that a student's ``model`` section names.

    Files are not downloaded; but for a file that must be, the server has to answer that it has it.

    Returns:
        (problems, one line each; the names of all files, separated by commas).
    """
    problems, names = [], []
    for key, entry in pretrained_files(model_cfg, "model"):
        names.append(str(entry["checkpoint"]))
        try:
            _require_usable(entry, trust=trust)
        except UserError as error:
            # `pretrained` and `init_cfg` can be set to None; in a list of initialisers only the file can be replaced.
            owner = key.removesuffix(".checkpoint")
            without = f", or --set {owner}=None for random weights" if not owner[-1].isdigit() else ""
            problems += [f"{key}: {problem}; fix: --set {key}=FILE{without}" for problem in error.problems]
    return problems, ", ".join(names)


def pretrained_fit(
    student: nn.Module, model_cfg: Mapping[str, Any], *, trust: bool = False
) -> tuple[list[str], list[str]]:
    """Checks that the files of weights of a ``model`` section fit the parts of the model that load them.

    mmengine loads the weights that fit and skips all others, even if none fits. Parts that load files in their own way
    (Swin, BEiT, ViT rename the weights) are not checked, and neither are files that are not on this machine yet.

    Args:
        student: the model built from that section.
        model_cfg: the section; :func:`pretrained_problems` has found no problem in it.
        trust: allows the files to run code when they are loaded.

    Returns:
        (problems, notes about weights that are not loaded), one line each.
    """
    problems, notes = [], []
    for key, entry in pretrained_files(model_cfg, "model"):
        owner, part = _owner(student, key)
        file = None if part is None or _is_special_storage(entry) else local_file(entry["checkpoint"], download=False)
        if part is None or file is None:
            continue
        file_weights, weights = _loaded_weights(entry, file, trust=trust), _without_counters(part.state_dict())
        skipped = [
            name for name in weights if name not in file_weights or file_weights[name].shape != weights[name].shape
        ]
        if weights and len(skipped) == len(weights):
            prefix = owner.partition(".")[2] + "."
            first_key = next(iter(file_weights), "nothing")
            reason = f"the file has {first_key}" if first_key not in weights else f"{first_key} has another shape"
            hint = f"; set prefix={prefix!r}" if len(prefix) > 1 and first_key.startswith(prefix) else ""
            problems.append(
                f"{key}: {entry['checkpoint']}: none of its weights fits {owner}, which would train from random ones: "
                f"{owner} has {skipped[0]}, {reason}{hint or '; name a file of this model'}"
            )
        elif skipped:
            count = f"{len(weights) - len(skipped)} of {len(weights)}"
            loaded = f"{count} weights of {owner} loaded from {entry['checkpoint']}"
            notes.append(f"{key}: {loaded} (not {', '.join(skipped[:3])})")
    return problems, notes


def _owner(student: nn.Module, key: str) -> tuple[str, nn.Module | None]:
    """The key of the section that names a file, and the part of the student that loads it.

    The part is None if it loads files in its own way, not like mmengine.
    """
    owner = re.sub(r"\.(init_cfg|pretrained)(\.\d+)?(\.checkpoint)?$", "", key)
    if key == "model.pretrained":  # mmseg passes it to the backbone
        owner = "model.backbone"
    try:
        part = student.get_submodule(owner.removeprefix("model").removeprefix("."))
    except AttributeError:
        return owner, None
    loads_like_mmengine = getattr(type(part), "init_weights", None) is BaseModule.init_weights
    return owner, part if loads_like_mmengine or isinstance(part, (MixVisionTransformer, MSCAN)) else None


def _loaded_weights(entry: Mapping[str, Any], file: Path, *, trust: bool) -> Weights:
    """The weights that mmengine takes from a file: those whose names have the prefix, without the prefix."""
    weights = _load(file, trust=trust)
    weights = weights.get("state_dict", weights)
    if str(entry["checkpoint"]).startswith(MMCLS):
        weights = mmcls_weights({"state_dict": weights})["state_dict"]
    prefix = f"{entry['prefix'].rstrip('.')}." if entry.get("prefix") else ""
    if not prefix:
        weights = {name.removeprefix("module."): value for name, value in weights.items()}
    return _without_counters({name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)})


def _without_counters(state: Mapping[str, Any]) -> Weights:
    """The tensors of a state dict without BatchNorm's ``num_batches_tracked``, which older files do not have."""
    return {
        name: value
        for name, value in state.items()
        if isinstance(value, torch.Tensor) and not name.endswith("num_batches_tracked")
    }


def _is_special_storage(entry: Mapping[str, Any]) -> bool:
    """Whether a file is in a storage such as petrel, which can only be checked by loading the file."""
    return any(f"{scheme}://" in str(entry["checkpoint"]) for scheme in ("s3", "petrel", "pavi"))


def local_file(name: str, *, download: bool = True) -> Path | None:
    """The local file for a name of weights: a path, a URL, ``torchvision://``, ``open-mmlab://`` or ``mmcls://``.

    Args:
        name: the name, as in a config.
        download: whether to download a file that is not in the cache. If False, None is returned for it, if the server
            has it.

    Raises:
        UserError: there is no model of that name, or the server cannot be reached.
    """
    url = _url_of(name)
    if not url.startswith(WEB):
        return Path(url).expanduser()
    cached = Path(torch.hub.get_dir(), "checkpoints", os.path.basename(urlparse(url).path))
    if cached.is_file():
        return cached
    shown = name if url == name else f"{name} ({url})"
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S):  # torch's download has no timeout
            if not download:
                return None
        _download(url, cached)
    except (urllib.error.URLError, OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "reason", None) or error
        text = one_line(reason) or type(error).__name__
        raise UserError(f"{shown}: cannot be reached ({text}), and is not in the cache as {cached}") from None
    return cached


def _download(url: str, file: Path) -> None:
    """Downloads a file once: other workers on this machine wait for it, and then use it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with lock_file(file):
        if not file.is_file():
            torch.hub.download_url_to_file(url, str(file), progress=False)


def start_weights(student: nn.Module, name: str, *, trust: bool = False) -> MatchingWeights:
    """The weights that a student starts from (``load_from``); ``name`` is a path, a URL or a name of a model zoo.

    Raises:
        UserError: there is no such file, or it belongs to another model.
    """
    try:
        file = local_file(name)
    except UserError as error:
        raise UserError(*(f"load_from: {problem}" for problem in error.problems)) from None
    assert file is not None
    return matching_weights(student, file, trust=trust)


def _require_usable(entry: Mapping[str, Any], *, trust: bool) -> None:
    """Raises UserError if a file of weights cannot be loaded, or has no weight with its ``prefix``."""
    name = str(entry["checkpoint"])
    if _is_special_storage(entry):
        return
    file = local_file(name, download=False)
    if file is None:
        return
    weights = _load(file, trust=trust)
    weights = weights.get("state_dict", weights)
    prefix = entry.get("prefix")
    if prefix and not any(key.startswith(f"{prefix.rstrip('.')}.") for key in weights):
        raise UserError(f"{name}: has no weight that begins with the prefix {prefix!r}{did_you_mean(prefix, weights)}")


def _url_of(name: str) -> str:
    """The URL of a name of a model zoo; any other name is returned unchanged."""
    for schemes, models in (
        (TORCHVISION, "torchvision"),
        (OPENMMLAB, "external"),
        (MMCLS, "mmcls"),
    ):
        scheme = next((scheme for scheme in schemes if name.startswith(scheme)), None)
        if scheme is None:
            continue
        try:
            model, urls = name.removeprefix(scheme), model_zoo(models)
        except ImportError as error:
            raise UserError(f"{name}: needs a package that is not installed: {error}") from None
        if schemes is OPENMMLAB:
            model = deprecated_model_names().get(model, model)
        if model not in urls:
            raise UserError(f"{name}: there is no model of that name{did_you_mean(model, urls)}")
        url = str(urls[model])
        home = os.environ.get("MMENGINE_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "mmengine")
        return url if url.startswith(WEB) else os.path.join(home, url)  # a name of the user's own open_mmlab.json
    return name.removeprefix("file://")


def _load(file: Path, map_location: Any = "cpu", *, trust: bool) -> FileOfWeights:
    """Loads a file of weights to start from.

    Raises:
        UserError: the file is damaged, or has complex weights, whose imaginary part mmengine would drop.
    """
    loaded = load_file(file, trust=trust, map_location=map_location or "cpu")
    weights = loaded.get("state_dict", loaded)
    require_finite(file, weights)
    for name, value in weights.items():
        if isinstance(value, torch.Tensor) and value.is_complex():
            raise UserError(f"{file}: {name} is complex; only `load_from` can start from complex weights")
    return loaded


def _load_named(name: str, map_location: Any = "cpu") -> FileOfWeights:
    """Replaces mmengine's loader of local files, URLs and names of model zoos."""
    file = local_file(name)
    assert file is not None
    loaded = _load(file, map_location, trust=_trusted.get())
    return mmcls_weights(loaded) if name.startswith(MMCLS) else loaded


def _load_from_storage(name: str, map_location: Any = "cpu") -> FileOfWeights:
    """Replaces mmengine's loader of petrel and s3 storage."""
    content = get_file_backend(name, backend_args={"backend": "petrel"}).get(name)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, Path(name).name)
        file.write_bytes(content)
        return _load(file, map_location, trust=_trusted.get())


def _load_from_pavi(name: str, map_location: Any = "cpu") -> FileOfWeights:
    raise UserError(f"{name}: pavi:// is not supported; download the file and name it instead")


def _load_own(name: str, map_location: Any = "cpu") -> FileOfWeights:
    return load_file(name.removeprefix(SAFE_SCHEME), map_location=map_location or "cpu")


for _prefixes, _loader in (
    (("", *WEB, *TORCHVISION, *OPENMMLAB, *MMCLS), _load_named),
    ((r"(\S+\:)?s3://", r"(\S+\:)?petrel://"), _load_from_storage),
    (("pavi://",), _load_from_pavi),
    ((SAFE_SCHEME,), _load_own),
):
    CheckpointLoader.register_scheme(_prefixes, _loader, force=True)
