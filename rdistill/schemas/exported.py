"""What is known of exported models: ``OUT.onnx.json``, by which `rdistill eval OUT.onnx` knows how to score one, and
what a trial's record says of its student's."""

from __future__ import annotations

from typing import TypedDict

from rdistill.schemas.mappings import Arguments, ConfigValues
from rdistill.schemas.run import Scores

RUNTIMES = ("onnxruntime", "openvino")  # what an exported file can be scored in


class Quantization(TypedDict):
    """How an INT8 model was made."""

    method: str  # how ranges were measured: 'min-max', 'entropy' or 'percentile'
    held_out_mIoU: dict[str, float]  # percent, on held-out training images: 'float32', and each method's
    calibrated: int  # training images that the ranges were measured on
    held_out: int  # training images, others, that chose the method and the layers
    layers: int  # that could be quantised
    kept_in_float: list[str]  # names of those that are not, the most sensitive first


class ExportedStudent(TypedDict, total=False):
    """A confirmed run's student as a file, in its trial's record; scores are of the file itself."""

    precision: str  # 'float32', 'fp16' or 'int8'
    file: str  # its name in the trial's folder
    megabytes: float
    val: Scores
    test: Scores  # where there is a test split; once, at the end
    quantization: Quantization | None  # INT8 has it
    problem: str  # why there is no file that counts: one line; there are no scores then


class ExportRecord(TypedDict, total=False):
    """What a model was exported from. Paths are as they were typed: relative to where the command ran."""

    config: str
    checkpoint: str
    overrides: ConfigValues  # what `--set` set
    shortcuts: Arguments  # such as `size` and `data_root`: None where the config's own value counts
    precision: str  # 'float32', 'fp16' or 'int8'
    quantization: Quantization  # INT8 has it
