"""Model folders of Hugging Face and timm: finds them on this machine or downloads them, and reads their settings."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rdistill.core.errors import UserError, causes_of, message_line, user_path
from rdistill.schemas.mappings import PlainConfig
from rdistill.teachers.registry import Files

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# Files that are downloaded: settings, weights, tokenizers, and code, which runs only if it is trusted.
FETCHED = ("*.json", "*.safetensors", "*.bin", "*.txt", "*.model", "*.py")
CACHE = "work_dirs/.huggingface"  # the cache if HF_HOME is not set, so that nothing is written to the home directory
PROCESSORS = ("preprocessor_config.json", "processor_config.json")
TIMEOUT_S = 10  # seconds in which the hub must answer


@dataclass(frozen=True)
class Normalisation:
    """The input normalisation of a network; mean and std have three numbers each, on a scale of 0 to 255."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    rgb: bool = True  # whether the network takes RGB images; otherwise BGR


def model_folder(path: str, files: Files, revision: str | None = None) -> Path:
    """The folder of a model: a folder on this machine, or a model of the hub, which is downloaded.

    A model that was downloaded before is taken from the cache, without a request to the hub.

    Args:
        path: a folder, or an id of the hub such as ``nvidia/segformer-b0-finetuned-ade-512-512``.
        files: finds folders.
        revision: branch, tag or commit on the hub.

    Raises:
        UserError: there is no such folder, the hub does not have the model, or it cannot be reached.
    """
    folder = files.find_folder(path)
    if folder is not None:
        return folder
    if not HUB_ID.fullmatch(path):
        raise UserError(f"path: no such folder {path}, and it is no id of the hub, which is OWNER/NAME")
    return _fetched(path, revision)


def read_settings(folder: Path, name: str = "config.json") -> PlainConfig:
    """Reads a JSON file in a model's folder.

    Raises:
        UserError: the file does not exist, or is no JSON object.
    """
    file = folder / name
    if not file.is_file():
        raise UserError(f"path: {folder} has no {name}: it is no folder that `save_pretrained` wrote")
    try:
        with user_path(file):
            content = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"path: {file}: is no JSON: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"path: {file}: must be a JSON object, got a {type(content).__name__}")
    return content


def class_names(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The class names in a model's ``config.json``; transformers omits them if they are its default, two classes."""
    labels = settings.get("id2label")
    if not isinstance(labels, Mapping) or not labels:
        return tuple(f"LABEL_{index}" for index in range(int(settings.get("num_labels") or 2)))
    try:
        return tuple(str(labels[key]) for key in sorted(labels, key=int))
    except ValueError:
        raise UserError(f"path: id2label must have numbers as its keys, got {next(iter(labels))!r}") from None


def normalisation_of(folder: Path) -> Normalisation | None:
    """The normalisation of the image processor in a model's folder; None if the folder has none."""
    file = next((name for name in PROCESSORS if (folder / name).is_file()), None)
    if file is None:
        return None
    settings = read_settings(folder, file)
    settings = settings.get("image_processor", settings)
    if "image_mean" not in settings and "do_normalize" not in settings and "do_rescale" not in settings:
        return None  # the file describes only a tokenizer
    scale = float(settings.get("rescale_factor") or 1 / 255) if settings.get("do_rescale", True) else 1.0
    normalises = bool(settings.get("do_normalize", True))
    mean, std = (settings.get(key) if normalises else None for key in ("image_mean", "image_std"))
    if normalises and (not _three(mean) or not _three(std)):
        raise UserError(f"path: {folder / file}: image_mean and image_std must be three numbers each, got {mean!r}")
    return Normalisation(
        tuple(float(value) / scale for value in mean or (0.0, 0.0, 0.0)),
        tuple(float(value) / scale for value in std or (1.0, 1.0, 1.0)),
        rgb=not settings.get("do_flip_channel_order", False),
    )


def _three(values: Any) -> bool:
    return isinstance(values, Sequence) and len(values) == 3 and all(isinstance(v, (int, float)) for v in values)


def _fetched(path: str, revision: str | None) -> Path:
    try:
        with _cache_in_work_dirs():
            from huggingface_hub import HfApi, snapshot_download
    except ImportError:
        raise UserError(f"path: no such folder {path}, and for the hub: pip install 'rdistill[teachers]'") from None
    fetch = partial(
        snapshot_download, path, revision=revision, allow_patterns=list(FETCHED), etag_timeout=TIMEOUT_S
    )  # fmt: skip
    cache = None if os.environ.get("HF_HOME") or os.environ.get("HF_HUB_CACHE") else Path(CACHE, "hub").absolute()
    try:
        try:
            return Path(fetch(cache_dir=cache, local_files_only=True))
        except Exception:  # it was not downloaded yet
            # `snapshot_download` has no timeout for its first request, so the same request is sent before.
            HfApi().repo_info(path, revision=revision, timeout=TIMEOUT_S)
            with _quiet():
                return Path(fetch(cache_dir=cache))
    except Exception as error:  # the client and three libraries that it uses have their own errors
        raise UserError(
            f"path: no such folder {path}, and the hub does not give it ({type(error).__name__}: "
            f"{message_line(causes_of(error)[-1])}); check the id and the connection, or name a folder that "
            f"`save_pretrained` wrote"
        ) from None


@contextmanager
def _cache_in_work_dirs() -> Iterator[None]:
    """Sets HF_HOME while the client is imported, because it reads the variable only then."""
    if os.environ.get("HF_HOME"):
        yield
        return
    os.environ["HF_HOME"] = str(Path(CACHE).absolute())
    try:
        yield
    finally:
        os.environ.pop("HF_HOME", None)


@contextmanager
def _quiet() -> Iterator[None]:
    """Within the context, the client shows no progress bars, which would mix with the output of a command."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()
