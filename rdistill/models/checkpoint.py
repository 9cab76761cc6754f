"""Checkpoints: loaded strictly and without running code; saved atomically."""

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

MAGIC_BYTES = (
    b"PK\x03\x04",
    b"\x80",
)  # the first bytes of torch.save's files: a zip archive; until torch 1.6, a pickle
STUDENT_PREFIX = "student."  # prefix of the student's weights in the Distiller's checkpoints


def load_file(path: str | Path, *, trust: bool = False, map_location: str | torch.device = "cpu") -> FileOfWeights:
    """Reads a checkpoint without running code that it may contain.

    Checkpoints of rdistill and mmengine can be read. For other content mmengine falls back to an unsafe load; here
    that needs ``trust``. The checksums in the file are verified, which torch.load does not do.

    Args:
        path: the checkpoint file.
        trust: allows the file to run code.
        map_location: passed to ``torch.load``.

    Raises:
        UserError: there is no such file, it is damaged, it contains code, or its weights are no plain tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint file")
    _require_checkpoint_format(path)
    try:
        with torch.serialization.safe_globals(_mmengine_globals()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about kinds of tensors that are refused below
            loaded = torch.load(path, map_location=map_location, weights_only=not trust)
    except pickle.UnpicklingError as error:
        code = texts.UNSAFE_PICKLE.read(error) or "objects"
        raise UserError(
            f"{path}: is damaged, or holds Python code ({code}) that loading would run; "
            f"if you trust where it comes from, pass --trust-checkpoint"
        ) from None
    except Exception as error:  # torch raises all kinds of errors for a damaged file, from EOFError to IndexError
        raise UserError(f"{path}: cannot be read as a checkpoint: {message_line(error)}") from None
    weights = loaded.get("state_dict", loaded) if isinstance(loaded, Mapping) else loaded
    if not isinstance(weights, Mapping) or not all(isinstance(key, str) for key in weights):
        raise UserError(f"{path}: is not a checkpoint: holds a {type(weights).__name__} instead of weights by name")
    for name, value in weights.items():
        if isinstance(value, Tensor) and (what := _not_plain(value)):
            raise UserError(f"{path}: {name} is {what}; weights must be ordinary tensors that hold their values")
    return dict(loaded)


def _require_checkpoint_format(path: Path) -> None:
    """Raises UserError if a file is no checkpoint, or is damaged.

    Without this check, torch would report a config, or the pointer file of Git LFS, as a broken pickle.
    """
    with open(path, "rb") as file:
        first_bytes = file.read(40)
    if not first_bytes:
        raise UserError(f"{path}: is an empty file")
    if not first_bytes.startswith(MAGIC_BYTES):
        first = first_bytes.decode("ascii", "replace").partition("\n")[0]
        raise UserError(f"{path}: is no checkpoint, which torch.save writes: it begins with {first!r}")
    if not first_bytes.startswith(MAGIC_BYTES[0]):
        return
    if not zipfile.is_zipfile(path):
        raise UserError(f"{path}: is cut off after {path.stat().st_size} bytes; copy or download it again")
    if problem := damaged(path):
        raise UserError(f"{path}: is damaged ({problem}); copy or download it again")


def damaged(path: Path) -> str:
    """Describes the damage of a checkpoint, found by the checksums that torch writes; empty if it is not damaged.

    It takes 0.1 s for 200 MB. A file without checksums (torch.serialization.set_crc32_options) counts as undamaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip() if any(entry.CRC for entry in archive.infolist()) else None
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError, RuntimeError, zlib.error) as error:
        return str(error) or type(error).__name__
    return f"the checksum of {bad} is wrong" if bad else ""


def _not_plain(value: Tensor) -> str | None:
    """Describes the kind of a tensor from which weights cannot be copied; None for a plain tensor."""
    if value.is_meta:
        return "a meta tensor, without values"
    if value.is_nested or value.layout is not torch.strided:
        return f"a {'nested' if value.is_nested else 'sparse'} tensor"
    return f"a quantised tensor ({value.dtype})" if value.is_quantized else None


def require_finite(path: str | Path, weights: Mapping[str, Any]) -> None:
    """Raises UserError for the first weight with NaN or infinite values.

    A tensor that has only the values 0 and -inf is accepted: it is an attention mask, which some models keep in their
    state dict.
    """
    for name, value in weights.items():
        if not isinstance(value, Tensor) or not value.numel() or not (value.is_floating_point() or value.is_complex()):
            continue
        if value.is_complex():
            value = torch.view_as_real(value.resolve_conj())
        elif value.element_size() == 1:
            value = value.float()  # torch cannot compare float8 values
        # Read each value of an expanded tensor only once: its file may be small, but its full size larger than memory.
        value = value[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in value.stride())]
        low, high = torch.aminmax(value)  # it takes a quarter of the time of isfinite; NaN appears in both results
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


def _kinds_differ(key: str, loaded: Tensor, own: Tensor) -> bool:
    """Whether copying a weight to the model would lose a part of it, such as the imaginary part.

    BatchNorm's counters are not compared, because averaged checkpoints have them as floats.
    """
    return not key.endswith("num_batches_tracked") and _kind(loaded.dtype) != _kind(own.dtype)


def model_weights(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights of the plain model from any checkpoint: rdistill's, mmseg's, or a plain state dict."""
    weights = checkpoint.get("state_dict", checkpoint)
    weights = {key.removeprefix("module."): value for key, value in weights.items()}
    if any(key.startswith(STUDENT_PREFIX) for key in weights):
        weights = {
            key.removeprefix(STUDENT_PREFIX): value for key, value in weights.items() if key.startswith(STUDENT_PREFIX)
        }
    return {key: value for key, value in weights.items() if isinstance(value, Tensor)}


def load_weights(model: nn.Module, path: str | Path, *, trust: bool = False, what: str = "model") -> CheckpointMeta:
    """Loads a checkpoint into a model; all keys must match in name and shape.

    Args:
        model: the model.
        path: the checkpoint file.
        trust: allows the file to run code.
        what: what the model is, for the message.

    Returns:
        The checkpoint's ``meta`` (empty if it has none).

    Raises:
        UserError: keys are missing or unexpected, or have another shape or another kind of number.
    """
    checkpoint = load_file(path, trust=trust)
    weights = model_weights(checkpoint)
    require_finite(path, weights)
    own = model.state_dict()
    # BatchNorm's counters of batches may be missing: old checkpoints do not have them, and nothing depends on them.
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
        if key in weights and _kinds_differ(key, weights[key], own[key])
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
    """The weights of a checkpoint that fit a student. Some may be missing, such as those of a head for other classes.

    Raises:
        UserError: the checkpoint has less than half of the model's weights.
    """
    loaded, own = model_weights(load_file(path, trust=trust)), model.state_dict()
    require_finite(path, loaded)
    for key in own:
        if key in loaded and _kinds_differ(key, loaded[key], own[key]):
            kinds = _kind(loaded[key].dtype), _kind(own[key].dtype)
            raise UserError(f"load_from: {path}: {key} holds {kinds[0]} values, the student's {kinds[1]} ones")
    fitting = {key: value for key, value in loaded.items() if key in own and value.shape == own[key].shape}
    left_out = [key for key in own if key not in fitting]
    if len(fitting) * 2 < len(own):
        raise UserError(
            f"load_from: {path} has {len(fitting)} of the student's {len(own)} weights, such as no "
            f"{left_out[0]}; it is another model's"
        )
    report = f"{len(fitting)} of {len(own)} weights loaded"
    return MatchingWeights(fitting, report + (f" (not {', '.join(left_out[:3])})" if left_out else ""))


def save_atomically(obj: Any, path: Path) -> None:
    """Writes a checkpoint atomically: after a kill, the file is either the old one or the new one."""
    with written_whole(path) as partial:
        torch.save(obj, partial)


def save_student(model: nn.Module, path: Path, *, classes: list[str], palette: list[Any], meta: CheckpointMeta) -> None:
    """Saves the student alone, in a format that plain ``mmseg.apis.init_model`` can load."""
    weights = {key: value.detach().cpu() for key, value in model.state_dict().items()}
    dataset_meta = {"classes": list(classes), "palette": [list(map(int, colour)) for colour in palette]}
    save_atomically({"meta": {**meta, "dataset_meta": dataset_meta}, "state_dict": weights}, path)


def as_plain_data(value: Any) -> Any:
    """A copy of a value without numpy scalars or other objects, so that it loads with ``weights_only=True``."""
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
    """The types in mmengine's checkpoints that a safe load must allow: numpy values and log histories."""
    numpy_types = [type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "u4", "u8", "?")]
    return [
        slice, np.ndarray, np.dtype, *numpy_types, *pickled_functions(),
        HistoryBuffer, (_history_method, "builtins.getattr"),
    ]  # fmt: skip


def _history_method(owner: Any, name: str) -> Any:
    """Replaces ``getattr`` in a checkpoint: only a log history may refer to its own methods."""
    if owner is not HistoryBuffer or name not in ("min", "max", "mean", "current"):
        raise pickle.UnpicklingError(f"GLOBAL builtins.getattr of {owner!r} is not allowed")
    return getattr(owner, name)
