"""Reads ONNX files with onnxruntime: their inputs, outputs and metadata."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rdistill.core.errors import UserError, error_line

DIGEST = 16  # bytes
CHUNK = 2**20  # bytes that are read at a time
FLOATS = {"tensor(float)": "float32", "tensor(float16)": "float16"}  # type in onnxruntime -> dtype in torch
GPU = "CUDAExecutionProvider"


@dataclass(frozen=True)
class OnnxFile:
    """The description of an ONNX file."""

    input: str  # the name of its input
    dtype: str  # dtype of the input images: float32 or float16
    batch: int | None  # number of images that it takes at a time; None: any number
    channels: int
    size: tuple[int, int] | None  # height and width in pixels; None: any
    outputs: dict[str, int | None]  # name -> channels of a map; None: not known from the file
    facts: Mapping[str, Any]  # its metadata, as `rdistill export` writes them, with JSON values parsed


def describe_file(file: Path) -> OnnxFile:
    """Reads the inputs, outputs and metadata of an ONNX file.

    Raises:
        UserError: it is no ONNX file, or its only input is not a batch of images.
    """
    session = open_file(file)
    inputs, outputs = session.get_inputs(), session.get_outputs()
    image_inputs = [entry for entry in inputs if len(entry.shape) == 4 and entry.type in FLOATS]
    if len(inputs) != 1 or not image_inputs:
        listed = ", ".join(f"{entry.name}: {entry.type} {entry.shape}" for entry in inputs)
        raise UserError(f"{file}: must take images alone, one input of N x C x H x W floats, got {listed}")
    (entry,) = image_inputs
    batch, channels, height, width = (side if isinstance(side, int) else None for side in entry.shape)
    if batch not in (None, 1):
        raise UserError(f"{file}: takes {batch} images at once; export it with a free batch, or with one image")
    return OnnxFile(
        entry.name, FLOATS[entry.type], batch, channels or 3, (height, width) if height and width else None,
        {output.name: _channels(output) for output in outputs},
        {key: _read_fact(value) for key, value in session.get_modelmeta().custom_metadata_map.items()},
    )  # fmt: skip


def open_file(file: Path, *, threads: int = 1, on_gpu: bool = False) -> Any:
    """Opens a session of onnxruntime.

    Args:
        file: the ONNX file.
        threads: number of threads on a CPU.
        on_gpu: whether to use a GPU, if onnxruntime can.

    Raises:
        UserError: onnxruntime is not installed, or cannot open the file.
    """
    try:
        import onnxruntime
    except ImportError:
        raise UserError("a teacher in an ONNX file needs onnxruntime: pip install 'rdistill[onnx]'") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # errors are also raised, so they need not be logged
    providers = [GPU] if on_gpu and GPU in onnxruntime.get_available_providers() else []
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=[*providers, "CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has its own classes of errors
        raise UserError(f"{file}: onnxruntime cannot open it: {error_line(error)}") from error


def file_digest(file: Path) -> str:
    """A digest of a file's content, as hexadecimal text. Raises UserError if the file cannot be read."""
    digest = hashlib.blake2b(digest_size=DIGEST)
    try:
        with open(file, "rb") as content:
            while chunk := content.read(CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from None
    return digest.hexdigest()


def _channels(output: Any) -> int | None:
    is_map = len(output.shape) == 4 and output.type in FLOATS
    return output.shape[1] if is_map and isinstance(output.shape[1], int) else None


def _read_fact(value: str) -> Any:
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value
