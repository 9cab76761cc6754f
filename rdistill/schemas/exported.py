"""Records about exported models: ``OUT.onnx.json``, which `rdistill eval OUT.onnx` reads, and an entry of a trial."""

from __future__ import annotations

from typing import TypedDict

from rdistill.schemas.mappings import Arguments, ConfigValues
from rdistill.schemas.run import Scores

RUNTIMES = ("onnxruntime", "openvino")  # what an exported file can be scored in


class Quantization(TypedDict):
    """How an INT8 model was made."""

    method: str  # how ranges were measured: 'min-max', 'entropy' or 'percentile'
    held_out_mIoU: dict[str, float]  # percent, on held-out training images: 'float32', and each method's
    calibrated: int  # number of training images on which the ranges were measured
    held_out: int  # number of other training images, by which the method and the layers were chosen
    layers: int  # number of layers that could be quantised
    kept_in_float: list[str]  # names of the layers that are not quantised, the most sensitive first


class ExportedStudent(TypedDict, total=False):
    """The exported student of a confirmed run, in its trial's record. The scores are those of the exported file."""

    precision: str  # 'float32', 'fp16' or 'int8'
    file: str  # the file's name in the trial's folder
    megabytes: float
    val: Scores
    test: Scores  # scores on the test split, if there is one
    quantization: Quantization | None  # only an INT8 file has it
    problem: str  # the reason in one line if there is no file; there are no scores then


class ExportRecord(TypedDict, total=False):
    """The source of an exported model. Paths are as typed, relative to the folder in which the command ran."""

    config: str
    checkpoint: str
    overrides: ConfigValues  # values of `--set`
    shortcuts: Arguments  # values of flags such as `--size` and `--data-root`; None stands for the config's own value
    precision: str  # 'float32', 'fp16' or 'int8'
    quantization: Quantization  # only an INT8 file has it
