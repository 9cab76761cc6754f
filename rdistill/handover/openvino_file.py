"""Runs ONNX files of `rdistill export` with OpenVINO, which compiles them for the processor of the machine."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import torch

from rdistill.core.errors import UserError, error_line
from rdistill.handover.onnx_file import INPUT, OnnxFile, open_file, quietly


def open_in(runtime: str, file: Path) -> OnnxFile:
    """Loads a model into one of :data:`rdistill.schemas.exported.RUNTIMES`, with as many threads as torch has.

    Raises:
        UserError: OpenVINO is not installed or cannot read the file, or
            :func:`rdistill.handover.onnx_file.open_file` raises it.
    """
    checked = open_file(file)  # it also checks that `rdistill export` wrote the file
    if runtime == "onnxruntime":
        return checked
    if importlib.util.find_spec("openvino") is None:
        raise UserError("--runtime openvino: is not installed here: pip install 'rdistill[openvino]'")
    import openvino

    # OpenVINO computes by default in bfloat16 on processors that support it, so scores would depend on the processor.
    options = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(), "PERFORMANCE_HINT": "LATENCY",
        "EXECUTION_MODE_HINT": "ACCURACY",
    }  # fmt: skip
    try:
        with quietly():
            request = openvino.Core().compile_model(str(file), "CPU", options).create_infer_request()
    except Exception as error:  # OpenVINO's errors have no common base class
        raise UserError(f"{file}: OpenVINO cannot compile it: {error_line(error)}") from None

    def run(image: np.ndarray) -> np.ndarray:
        return np.array(request.infer({INPUT: image})[0])  # a copy, because the request reuses its memory

    return OnnxFile(run, checked.output, checked.size)
