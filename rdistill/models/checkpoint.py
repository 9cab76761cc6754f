"""Weights on disk: loaded without running code, strictly and with a report; saved whole or not at all."""

from __future__ import annotations

import pickle
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import Tensor, nn

from rdistill._compat import texts
from rdistill._compat.numpy import pickled_functions
from rdistill.core.errors import UserError, message_line
from rdistill.core.files import written_whole
from rdistill.schemas.mappings import FileOfWeights
from rdistill.schemas.run import CheckpointMeta

BEGINNINGS = (b"PK\x03\x04", b"\x80")  # torch.save's files begin so: a zip archive; until torch 1.6, a pickle
STUDENT_PREFIX = "student."  # how the Distiller's own checkpoints name the student's weights


def load_file(path: str | Path, *, trust: bool = False, map_location: str | torch.device = "cpu") -> FileOfWeights:
    """Reads a checkpoint without running any code that it may carry.

    rdistill's and mmengine's own checkpoints pass. mmengine itself falls back to an unsafe load when
    it meets anything else; here that needs ``trust``. The checksums of the file are verified: torch.load does not.

    Raises:
        UserError: no such file, a damaged file, one that holds more than data, or weights that are no plain tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint file")
    _require_beginning(path)
    try:
        with torch.serialization.safe_globals(_mmengine_globals()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of kinds of tensors that are refused below
            loaded = torch.load(path, map_location=map_location, weights_only=not trust)
    except pickle.UnpicklingError as error:
        code = texts.UNSAFE_PICKLE.read(error) or "objects"
        raise UserError(
            f"{path}: is damaged, or holds Python code ({code}) that loading would run; "
            f"if you trust where it comes from, pass --trust-checkpoint"
        ) from None
    except Exception as error:  # torch raises anything from EOFError to IndexError for a damaged file
        raise UserError(f"{path}: cannot be read as a checkpoint: {message_line(error)}") from None
    weights = loaded.get("state_dict", loaded) if isinstance(loaded, Mapping) else loaded
    if not isinstance(weights, Mapping) or not all(isinstance(key, str) for key in weights):
        raise UserError(f"{path}: is not a checkpoint: holds a {type(weights).__name__} instead of weights by name")
    for name, value in weights.items():
        if isinstance(value, Tensor) and (what := _not_plain(value)):
            raise UserError(f"{path}: {name} is {what}; weights must be ordinary tensors that hold their values")
    return dict(loaded)


def _require_beginning(path: Path) -> None:
    """A config, or what a repository keeps in place of a large file, would be read as a broken pickle."""
    with open(path, "rb") as file:
        begins = file.read(40)
    if not begins:
        raise UserError(f"{path}: is an empty file")
    if not begins.startswith(BEGINNINGS):
        first = begins.decode("ascii", "replace").partition("\n")[0]
        raise UserError(f"{path}: is no checkpoint, which torch.save writes: it begins with {first!r}")
    if not begins.startswith(BEGINNINGS[0]):
        return
    if not zipfile.is_zipfile(path):
        raise UserError(f"{path}: is cut off after {path.stat().st_size} bytes; copy or download it again")
    if problem := damaged(path):
        raise UserError(f"{path}: is damaged ({problem}); copy or download it again")


def damaged(path: Path) -> str:
    """What is wrong with a checkpoint, by the checksums that torch keeps in it; empty: it is whole.

    Takes 0.1 s for 200 MB. A file written without checksums (torch.serialization.set_crc32_options) passes.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip() if any(entry.CRC for entry in archive.infolist()) else None
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError, RuntimeError, zlib.error) as error:
        return str(error) or type(error).__name__
    return f"the checksum of {bad} is wrong" if bad else ""


def _not_plain(value: Tensor) -> str | None:
    """What a tensor is, if it is none that weights can be copied from."""
    if value.is_meta:
        return "a meta tensor, without values"
    if value.is_nested or value.layout is not torch.strided:
        return f"a {'nested' if value.is_nested else 'sparse'} tensor"
    return f"a quantised tensor ({value.dtype})" if value.is_quantized else None


def require_finite(path: str | Path, weights: Mapping[str, Any]) -> None:
    """Raises UserError that names the first weight with NaN or infinite values.

    A tensor of 0 and -inf alone is a mask of attention, which some models keep beside their weights.
    """
    for name, value in weights.items():
        if not isinstance(value, Tensor) or not value.numel() or not (value.is_floating_point() or value.is_complex()):
            continue
        if value.is_complex():
            value = torch.view_as_real(value.resolve_conj())
        elif value.element_size() == 1:
            value = value.float()  # float8: torch cannot compare it
        # An expanded tensor has each value only once: its file may be small and its size beyond all memory.
        value = value[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in value.stride())]
        low, high = torch.aminmax(value)  # a quarter of the time of isfinite, and NaN shows in both
        if torch.isfinite(low) and torch.isfinite(high):
            continue
        if high == 0 and bool(((value == 0) | (value == -torch.inf)).all()):
            continue
        what = "NaN" if torch.isnan(low) else "infinite values"
        raise UserError(
            f"{path}: {name} holds {what}: training diverged, or the file is damaged; use another checkpoint"
        )


def _kind(dtype: torch.dtype) -> str:
    if dtype.is_complex:
        return "complex"
    return "real" if dtype.is_floating_point else "truth" if dtype is torch.bool else "integer"


def _of_another_kind(key: str, offered: Tensor, own: Tensor) -> bool:
    """Whether torch would drop a part of a weight where it copies it. Averaged checkpoints count batches in floats."""
    return not key.endswith("num_batches_tracked") and _kind(offered.dtype) != _kind(own.dtype)


def model_weights(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The plain model's weights out of any checkpoint: rdistill's, mmseg's, or a bare state dict."""
    weights = checkpoint.get("state_dict", checkpoint)
    weights = {key.removeprefix("module."): value for key, value in weights.items()}
    if any(key.startswith(STUDENT_PREFIX) for key in weights):
        weights = {
            key.removeprefix(STUDENT_PREFIX): value for key, value in weights.items() if key.startswith(STUDENT_PREFIX)
        }
    return {key: value for key, value in weights.items() if isinstance(value, Tensor)}


def load_weights(model: nn.Module, path: str | Path, *, trust: bool = False, what: str = "model") -> CheckpointMeta:
    """Loads a checkpoint into a model; every key must match in name and shape.

    Returns:
        The checkpoint's ``meta`` (empty when it has none).

    Raises:
        UserError: listing missing, unexpected and misshapen keys, and those of another kind of number.
    """
    checkpoint = load_file(path, trust=trust)
    weights = model_weights(checkpoint)
    require_finite(path, weights)
    own = model.state_dict()
    # Counters of batches were added to BatchNorm late: old checkpoints lack them, and nothing depends on them.
    missing = [key for key in own if key not in weights and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in weights if key not in own]
    misshapen = [
        f"{key} {tuple(weights[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own
        if key in weights and weights[key].shape != own[key].shape
    ]
    mistyped = [
        f"{key} {_kind(weights[key].dtype)} instead of {_kind(own[key].dtype)}"
        for key in own
        if key in weights and _of_another_kind(key, weights[key], own[key])
    ]
    if missing or unexpected or misshapen or mistyped:
        parts = [
            f"{len(keys)} {kind}: {', '.join(keys[:5])}{', ...' if len(keys) > 5 else ''}"
            for kind, keys in (
                ("missing", missing),
                ("unexpected", unexpected),
                ("misshapen", misshapen),
                ("of another kind of number", mistyped),
            )
            if keys
        ]
        raise UserError(f"{path}: does not fit the {what} ({type(model).__name__}): {'; '.join(parts)}")
    model.load_state_dict(weights, strict=False)
    meta = checkpoint.get("meta")
    return cast(CheckpointMeta, dict(meta)) if isinstance(meta, Mapping) else {}


@dataclass(frozen=True)
class MatchingWeights:
    """The part of a checkpoint that fits a model."""

    weights: dict[str, Tensor]
    report: str  # one line: how much fits, and what does not


def matching_weights(model: nn.Module, path: str | Path, *, trust: bool = False) -> MatchingWeights:
    """The weights to start a student from. A head for other classes may differ; that nothing fits is an error.

    Raises:
        UserError: less than half of the model's weights are in the checkpoint.
    """
    offered, own = model_weights(load_file(path, trust=trust)), model.state_dict()
    require_finite(path, offered)
    for key in own:
        if key in offered and _of_another_kind(key, offered[key], own[key]):
            kinds = _kind(offered[key].dtype), _kind(own[key].dtype)
            raise UserError(f"load_from: {path}: {key} holds {kinds[0]} values, the student's {kinds[1]} ones")
    fitting = {key: value for key, value in offered.items() if key in own and value.shape == own[key].shape}
    left_out = [key for key in own if key not in fitting]
    if len(fitting) * 2 < len(own):
        raise UserError(
            f"load_from: {path} has {len(fitting)} of the student's {len(own)} weights, such as no "
            f"{left_out[0]}; it is another model's"
        )
    report = f"{len(fitting)} of {len(own)} weights loaded"
    return MatchingWeights(fitting, report + (f" (not {', '.join(left_out[:3])})" if left_out else ""))


def save_atomically(obj: Any, path: Path) -> None:
    """Writes a checkpoint so that a kill leaves the old file or the new one, never half of one."""
    with written_whole(path) as partial:
        torch.save(obj, partial)


def save_student(model: nn.Module, path: Path, *, classes: list[str], palette: list[Any], meta: CheckpointMeta) -> None:
    """Saves the student alone, in the form that plain ``mmseg.apis.init_model`` loads."""
    weights = {key: value.detach().cpu() for key, value in model.state_dict().items()}
    dataset_meta = {"classes": list(classes), "palette": [list(map(int, colour)) for colour in palette]}
    save_atomically({"meta": {**meta, "dataset_meta": dataset_meta}, "state_dict": weights}, path)


def as_plain_data(value: Any) -> Any:
    """The same value without numpy scalars or other objects, so that it loads with ``weights_only=True``."""
    if isinstance(value, Mapping):
        return {str(key): as_plain_data(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_plain_data(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, (bool, int, float, str, Tensor)):
        return value
    if isinstance(value, np.ndarray):
        return value.tolist()
    return str(value)


def _mmengine_globals() -> list[Any]:
    """What mmengine's checkpoints hold beside tensors: numpy values, and log histories."""
    numpy_types = [type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "u4", "u8", "?")]
    return [
        slice, np.ndarray, np.dtype, *numpy_types, *pickled_functions(),
        HistoryBuffer, (_history_method, "builtins.getattr"),
    ]  # fmt: skip


def _history_method(owner: Any, name: str) -> Any:
    """Stands in for ``getattr`` in a checkpoint: a log history refers to its own methods, and to nothing else."""
    if owner is not HistoryBuffer or name not in ("min", "max", "mean", "current"):
        raise pickle.UnpicklingError(f"GLOBAL builtins.getattr of {owner!r} is not allowed")
    return getattr(owner, name)
