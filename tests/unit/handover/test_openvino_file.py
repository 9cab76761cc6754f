"""`eval --runtime openvino`: an exported file in OpenVINO beside onnxruntime; where OpenVINO is absent, one line."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rdistill.handover import openvino_file
from rdistill.handover.openvino_file import open_in

pytest.importorskip("onnxruntime")
Command = Callable[..., Any]
needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="needs OpenVINO: pip install 'rdistill[openvino]'"
)


def test_a_runtime_that_is_not_there(
    command: Command, both_classes: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command("export", *both_classes, "a.onnx").status == 0
    found = importlib.util.find_spec
    monkeypatch.setattr(
        openvino_file.importlib.util, "find_spec", lambda name: None if name == "openvino" else found(name)
    )
    for words, line in (
        (["a.onnx", "--runtime", "openvino"],
         "--runtime openvino: is not installed here: pip install 'rdistill[openvino]'"),
        (["a.onnx", "--runtime", "tensorrt"], "--runtime: must be onnxruntime or openvino, got 'tensorrt'"),
        ([*both_classes, "--runtime", "onnxruntime"],
         f"--runtime: is for a file of `export`, and {both_classes[1]} is none; leave it out"),
    ):  # fmt: skip
        result = command("eval", *words)
        assert (result.status, result.err) == (2, f"error: {line}\n")
    assert command("eval", "a.onnx", "--runtime", "onnxruntime").status == 0


@needs_openvino
def test_the_file_is_scored_and_timed_in_both(command: Command, both_classes: list[Path]) -> None:
    assert command("export", *both_classes, "a.onnx").status == 0
    result = command("eval", "a.onnx", "--runtime", "openvino")
    assert (result.status, result.err) == (0, "")
    runtimes, latency = (line for line in result.out.splitlines() if line.startswith(("runtimes", "latency")))
    assert runtimes.startswith("runtimes  openvino mIoU ") and ", onnxruntime " in runtimes
    assert all(f"{name} " in latency for name in ("PyTorch", "onnxruntime", "openvino"))
    scores = json.loads(command("eval", "a.onnx", "--runtime", "openvino", "--json").out)
    assert scores["runtime"] == "openvino"
    assert scores["mIoU"] == pytest.approx(scores["onnxruntime"]["mIoU"], abs=0.5)


@needs_openvino
def test_sizes_and_batches_follow(command: Command, both_classes: list[Path]) -> None:
    """The file is compiled once, for any size; its result is no memory that the next run overwrites."""
    assert command("export", *both_classes, "a.onnx", "--output", "logits").status == 0
    ours, theirs = (open_in(name, Path("a.onnx")) for name in ("openvino", "onnxruntime"))
    images = [np.random.default_rng(seed).normal(size=shape).astype("f4")
              for seed, shape in enumerate([(1, 3, 32, 32), (2, 3, 64, 96), (1, 3, 32, 32)])]  # fmt: skip
    results = [ours.run(image) for image in images]
    for image, result in zip(images, results, strict=True):
        assert np.allclose(result, theirs.run(image), atol=1e-2, rtol=1e-2)


@needs_openvino
def test_a_file_that_openvino_cannot_compile(
    command: Command, both_classes: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import openvino

    assert command("export", *both_classes, "a.onnx").status == 0

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no such operator")

    monkeypatch.setattr(openvino.Core, "compile_model", fail)
    result = command("eval", "a.onnx", "--runtime", "openvino")
    line = "a.onnx: OpenVINO cannot compile it: RuntimeError: no such operator"
    assert (result.status, result.err) == (2, f"error: {line}\n")
