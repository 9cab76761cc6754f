"""What lies beside an exported model: ``OUT.onnx.json``, by which `rdistill eval OUT.onnx` knows how to score it."""

from __future__ import annotations

from typing import TypedDict

from rdistill.schemas.mappings import Arguments, ConfigValues


class Quantization(TypedDict):
    """How an INT8 model was made."""

    method: str  # how ranges were measured: 'min-max', 'entropy' or 'percentile'
    held_out_mIoU: dict[str, float]  # percent, on held-out training images: 'float32', and each method's
    calibrated: int  # training images that the ranges were measured on
    held_out: int  # training images, others, that chose the method and the layers
    layers: int  # that could be quantised
    kept_in_float: list[str]  # names of those that are not, the most sensitive first


class ExportRecord(TypedDict, total=False):
    """What a model was exported from. Paths are as they were typed: relative to where the command ran."""

    config: str
    checkpoint: str
    overrides: ConfigValues  # what `--set` set
    shortcuts: Arguments  # such as `size` and `data_root`: None where the config's own value counts
    precision: str  # 'float32', 'fp16' or 'int8'
    quantization: Quantization  # INT8 has it
