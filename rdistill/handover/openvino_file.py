"""An ONNX file of `rdistill export` in OpenVINO, which compiles it for the processor that it runs on."""

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
        UserError: OpenVINO is not installed or cannot read the file; or as for
            :func:`rdistill.handover.onnx_file.open_file`.
    """
    checked = open_file(file)  # it also says whose file it is, and what comes out of it
    if runtime == "onnxruntime":
        return checked
    if importlib.util.find_spec("openvino") is None:
        raise UserError("--runtime openvino: is not installed here: pip install 'rdistill[openvino]'")
    import openvino

    # OpenVINO computes in bfloat16 by default where the processor can: the score would be that of the processor too.
    options = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(), "PERFORMANCE_HINT": "LATENCY",
        "EXECUTION_MODE_HINT": "ACCURACY",
    }  # fmt: skip
    try:
        with quietly():
            request = openvino.Core().compile_model(str(file), "CPU", options).create_infer_request()
    except Exception as error:  # OpenVINO's own errors share no base but RuntimeError, and not all have it
        raise UserError(f"{file}: OpenVINO cannot compile it: {error_line(error)}") from None

    def run(image: np.ndarray) -> np.ndarray:
        return np.array(request.infer({INPUT: image})[0])  # a copy: the request's own memory is used again

    return OnnxFile(run, checked.output, checked.size)
