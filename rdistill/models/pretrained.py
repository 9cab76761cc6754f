"""Files of weights that a config names and mmengine would load: found, fetched and loaded without running code.

mmengine's loaders of checkpoints fall back to an unsafe load. Here each of them is replaced, for the whole process:
:func:`rdistill.models.checkpoint.load_file` reads what they find.
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

SAFE_SCHEME = "rdistill-safe:"  # a run's own checkpoint, which may hold whatever the run came to
WEB = ("http://", "https://")
TORCHVISION, OPENMMLAB, MMCLS = ("modelzoo://", "torchvision://"), ("open-mmlab://", "openmmlab://"), ("mmcls://",)
TIMEOUT_S = 20.0  # seconds until a server must have answered
FORCE, FORCE_NOT = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"

_trusted: ContextVar[bool] = ContextVar("trusted", default=False)


@contextmanager
def weights_alone(*, trust: bool = False) -> Iterator[None]:
    """While a model is built or initialised: whatever it loads, mmengine's way or its own, may not run code.

    Args:
        trust: it may, as ``--trust-checkpoint`` says.
    """
    token = _trusted.set(trust)
    before = {name: os.environ.get(name) for name in (FORCE, FORCE_NOT)}
    if not trust:  # what torch itself heeds: also for models that call torch.load themselves
        os.environ[FORCE] = "1"
        os.environ.pop(FORCE_NOT, None)
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
    """Whether what is being built may run code that it loads, see :func:`weights_alone`."""
    return _trusted.get()


def pretrained_files(section: Any, where: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Config key -> what names a file of weights: a dict with ``checkpoint``, and ``prefix`` where there is one.

    Args:
        section: a part of a config, such as its ``model``.
        where: that part's key.
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
    """What is wrong with the files of weights that a student's ``model`` section starts from: lines, or what is there.

    A file that is to be downloaded is not, but its server must answer that it has it.
    """
    problems, names = [], []
    for key, entry in pretrained_files(model_cfg, "model"):
        names.append(str(entry["checkpoint"]))
        try:
            _require_usable(entry, trust=trust)
        except UserError as error:
            # `pretrained` and an `init_cfg` alike may be None; of a list of initialisers only the file can be another.
            owner = key.removesuffix(".checkpoint")
            without = f", or --set {owner}=None for random weights" if not owner[-1].isdigit() else ""
            problems += [f"{key}: {problem}; fix: --set {key}=FILE{without}" for problem in error.problems]
    return problems, ", ".join(names)


def pretrained_fit(
    student: nn.Module, model_cfg: Mapping[str, Any], *, trust: bool = False
) -> tuple[list[str], list[str]]:
    """Whether the files of weights of a ``model`` section are those of its parts: problems, and notes.

    mmengine loads what fits and leaves out the rest, even where that is all. A part that reads files in a way of its
    own (Swin, BEiT, ViT rename the weights) is not looked at, nor is a file that is not on this machine yet.

    Args:
        student: built from that section.
        model_cfg: its files were found usable by :func:`pretrained_problems`.
        trust: as there.
    """
    problems, notes = [], []
    for key, entry in pretrained_files(model_cfg, "model"):
        owner, part = _owner(student, key)
        file = None if part is None or _of_storage(entry) else local_file(str(entry["checkpoint"]), download=False)
        if part is None or file is None:
            continue
        offered, own = _offered(entry, file, trust=trust), _weights_of(part.state_dict())
        left_out = [name for name in own if name not in offered or offered[name].shape != own[name].shape]
        if own and len(left_out) == len(own):
            prefix = owner.partition(".")[2] + "."
            first_key = next(iter(offered), "nothing")
            why = f"the file has {first_key}" if first_key not in own else f"{first_key} has another shape"
            hint = f"; set prefix={prefix!r}" if len(prefix) > 1 and first_key.startswith(prefix) else ""
            problems.append(
                f"{key}: {entry['checkpoint']}: none of its weights fits {owner}, which would train from random ones: "
                f"{owner} has {left_out[0]}, {why}{hint or '; name a file of this model'}"
            )
        elif left_out:
            loaded = f"{len(own) - len(left_out)} of {len(own)} weights of {owner} loaded from {entry['checkpoint']}"
            notes.append(f"{key}: {loaded} (not {', '.join(left_out[:3])})")
    return problems, notes


def _owner(student: nn.Module, key: str) -> tuple[str, nn.Module | None]:
    """The key of the section to which a file's key belongs, and its part of the student; None: it loads its own way."""
    owner = re.sub(r"\.(init_cfg|pretrained)(\.\d+)?(\.checkpoint)?$", "", key)
    if key == "model.pretrained":  # mmseg hands it on
        owner = "model.backbone"
    try:
        part = student.get_submodule(owner.removeprefix("model").removeprefix("."))
    except AttributeError:
        return owner, None
    as_mmengine = getattr(type(part), "init_weights", None) is BaseModule.init_weights
    return owner, part if as_mmengine or isinstance(part, (MixVisionTransformer, MSCAN)) else None


def _offered(entry: Mapping[str, Any], file: Path, *, trust: bool) -> Weights:
    """The weights that mmengine takes from a file: those under the prefix, without it."""
    weights = _load(file, trust=trust)
    weights = weights.get("state_dict", weights)
    if str(entry["checkpoint"]).startswith(MMCLS):
        weights = mmcls_weights({"state_dict": weights})["state_dict"]
    prefix = f"{entry['prefix'].rstrip('.')}." if entry.get("prefix") else ""
    if not prefix:
        weights = {name.removeprefix("module."): value for name, value in weights.items()}
    return _weights_of({name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)})


def _weights_of(state: Mapping[str, Any]) -> Weights:
    """Without BatchNorm's counts of batches, which older files lack and nobody misses."""
    return {
        name: value
        for name, value in state.items()
        if isinstance(value, torch.Tensor) and not name.endswith("num_batches_tracked")
    }


def _of_storage(entry: Mapping[str, Any]) -> bool:
    """Whether a file is of a company's own storage, of which only the load itself can say something."""
    return any(f"{scheme}://" in str(entry["checkpoint"]) for scheme in ("s3", "petrel", "pavi"))


def local_file(name: str, *, download: bool = True) -> Path | None:
    """Where the weights of a name are: a path, a URL, ``torchvision://``, ``open-mmlab://`` or ``mmcls://``.

    Args:
        name: as in a config.
        download: what is not in the cache yet; without it, None is returned if the server has it.

    Raises:
        UserError: the name stands for nothing, or cannot be reached.
    """
    url = _url_of(name)
    if not url.startswith(WEB):
        return Path(url).expanduser()
    cached = Path(torch.hub.get_dir(), "checkpoints", os.path.basename(urlparse(url).path))
    if cached.is_file():
        return cached
    shown = name if url == name else f"{name} ({url})"
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S):  # torch's download waits without end
            if not download:
                return None
        _download(url, cached)
    except (urllib.error.URLError, OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "reason", None) or error
        text = one_line(reason) or type(error).__name__
        raise UserError(f"{shown}: cannot be reached ({text}), and is not in the cache as {cached}") from None
    return cached


def _download(url: str, file: Path) -> None:
    """Fetches a file once: the other workers of this machine wait, and then find it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with lock_file(file):
        if not file.is_file():
            torch.hub.download_url_to_file(url, str(file), progress=False)


def start_weights(student: nn.Module, name: str, *, trust: bool = False) -> MatchingWeights:
    """The weights that ``load_from`` gives a student: a path, a URL or a name of a model zoo.

    Raises:
        UserError: there is no such file, or it is another model's.
    """
    try:
        file = local_file(name)
    except UserError as error:
        raise UserError(*(f"load_from: {problem}" for problem in error.problems)) from None
    assert file is not None
    return matching_weights(student, file, trust=trust)


def _require_usable(entry: Mapping[str, Any], *, trust: bool) -> None:
    """Raises UserError where a file of weights cannot be loaded, or has nothing under its ``prefix``."""
    name = str(entry["checkpoint"])
    if _of_storage(entry):
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
    """The URL behind a name of a model zoo; any other name is returned as it is."""
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
    """A file of weights to start from. Complex ones would lose their imaginary part where mmengine copies them."""
    loaded = load_file(file, trust=trust, map_location=map_location or "cpu")
    weights = loaded.get("state_dict", loaded)
    require_finite(file, weights)
    for name, value in weights.items():
        if isinstance(value, torch.Tensor) and value.is_complex():
            raise UserError(f"{file}: {name} is complex; only `load_from` can start from complex weights")
    return loaded


def _load_named(name: str, map_location: Any = "cpu") -> FileOfWeights:
    """mmengine's loader of local files, URLs and names of model zoos."""
    file = local_file(name)
    assert file is not None
    loaded = _load(file, map_location, trust=_trusted.get())
    return mmcls_weights(loaded) if name.startswith(MMCLS) else loaded


def _load_from_storage(name: str, map_location: Any = "cpu") -> FileOfWeights:
    """mmengine's loader of petrel's and other storage of its own."""
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
