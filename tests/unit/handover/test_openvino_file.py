"""`eval --runtime openvino`: an exported file in OpenVINO beside onnxruntime; where OpenVINO is absent, one line."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from rdistill.handover import openvino_file
from rdistill.handover.openvino_file import open_in
from rdistill.handover.quantize import Example, HeldOutScorer, quantize
from rdistill.models.efficientnet_lite import SameConv

pytest.importorskip("onnxruntime")


class Padded(nn.Module):
    """A convolution with biases that matter, one that pads by the size of the first's output, and a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 32, 3, stride=2), SameConv(32, 32, 3, 2, groups=32)
        self.last = nn.Conv2d(32, 16, 1, bias=False)
        nn.init.uniform_(self.first.bias, -1.0, 3.0)
        nn.init.normal_(self.second.weight)

    def forward(self, image: Tensor) -> Tensor:
        maps = self.last(F.relu6(self.second(F.relu6(self.first(image)))))
        return F.interpolate(maps, size=image.shape[2:], mode="bilinear").argmax(1)


Command = Callable[..., Any]
Export = Callable[..., None]
needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="needs OpenVINO: pip install 'rdistill[openvino]'"
)


def test_a_runtime_that_is_not_there(
    command: Command, both_classes: list[Path], export: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    export("a.onnx")
    found = importlib.util.find_spec
    monkeypatch.setattr(
        openvino_file.importlib.util, "find_spec", lambda name: None if name == "openvino" else found(name)
    )
    for words, line in (
        (["a.onnx", "--runtime", "openvino"],
         "--runtime openvino: is not installed here: pip install 'rdistill[openvino]'"),
        (["a.onnx", "--runtime", "tensorrt"], "--runtime: must be onnxruntime or openvino, got 'tensorrt'"),
        ([*both_classes, "--runtime", "onnxruntime"],
         f"--runtime: is only for a file that `export` wrote, and {both_classes[1]} is none; leave it out"),
    ):  # fmt: skip
        result = command("eval", *words)
        assert (result.status, result.err) == (2, f"error: {line}\n")
    assert command("eval", "a.onnx", "--runtime", "onnxruntime").status == 0


@needs_openvino
def test_the_file_is_scored_and_timed_in_both(command: Command, both_classes: list[Path], export: Export) -> None:
    export("a.onnx")
    result = command("eval", "a.onnx", "--runtime", "openvino")
    assert (result.status, result.err) == (0, "")
    runtimes, latency = (line for line in result.out.splitlines() if line.startswith(("runtimes", "latency")))
    assert runtimes.startswith("runtimes  openvino mIoU ") and ", onnxruntime " in runtimes
    assert all(f"{name} " in latency for name in ("PyTorch", "onnxruntime", "openvino"))
    scores = json.loads(command("eval", "a.onnx", "--runtime", "openvino", "--json").out)
    assert scores["runtime"] == "openvino"
    assert scores["mIoU"] == pytest.approx(scores["onnxruntime"]["mIoU"], abs=0.5)


@needs_openvino
def test_sizes_and_batches_follow(command: Command, both_classes: list[Path], export: Export) -> None:
    """The file is compiled once, for any size; its result is no memory that the next run overwrites."""
    export("a.onnx", "--output", "logits")
    ours, theirs = (open_in(name, Path("a.onnx")) for name in ("openvino", "onnxruntime"))
    images = [np.random.default_rng(seed).normal(size=shape).astype("f4")
              for seed, shape in enumerate([(1, 3, 32, 32), (2, 3, 64, 96), (1, 3, 32, 32)])]  # fmt: skip
    results = [ours.run(image) for image in images]
    for image, result in zip(images, results, strict=True):
        assert np.allclose(result, theirs.run(image), atol=1e-2, rtol=1e-2)


@needs_openvino
def test_a_file_that_openvino_cannot_compile(
    command: Command, both_classes: list[Path], export: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    import openvino

    export("a.onnx")

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no such operator")

    monkeypatch.setattr(openvino.Core, "compile_model", fail)
    result = command("eval", "a.onnx", "--runtime", "openvino")
    line = "a.onnx: OpenVINO cannot compile it: RuntimeError: no such operator"
    assert (result.status, result.err) == (2, f"error: {line}\n")


@needs_openvino
def test_an_int8_file_that_pads_by_its_own_sizes(tmp_path: Path) -> None:
    """As EfficientNet-Lite0 does, whose file predicted the background alone. Without the maximum 68 % are equal."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Padded().eval()
        images = [torch.randn(1, 3, 65, 64) for _ in range(4)]
    float_file, file = tmp_path / "a.onnx", tmp_path / "b.onnx"
    free = {"image": {0: "n", 2: "h", 3: "w"}, "mask": {0: "n", 1: "h", 2: "w"}}
    names = {"input_names": ["image"], "output_names": ["mask"]}
    torch.onnx.export(net, (images[0],), str(float_file), dynamo=False, dynamic_axes=free, opset_version=18, **names)
    samples = [SegDataSample(metainfo=dict(ori_shape=(65, 64)), gt_sem_seg=PixelData(data=net(x))) for x in images]
    examples = [Example(image, sample) for image, sample in zip(images, samples, strict=True)]
    quantize(float_file, file, HeldOutScorer(net, examples[:1], 16), examples, tolerance=100.0)
    here, there = (open_in(name, file) for name in ("onnxruntime", "openvino"))
    equal = [np.mean(here.run(image.numpy()) == there.run(image.numpy())) for image in images]
    assert min(equal) > 0.99, equal
