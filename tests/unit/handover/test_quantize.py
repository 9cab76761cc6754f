"""INT8 of small networks: ranges, the choice of the method, layers in float; and which training images have a part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import Tiny
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from rdistill.core.errors import UserError
from rdistill.handover.quantize import LAYERS, METHODS, Example, HeldOutScorer, load_examples, quantize
from rdistill.models.segmentor import build_segmentor

pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")


class Net(nn.Module):
    """Four convolutions; with ``outlier`` one channel after the first is a thousand times as large, and not used."""

    def __init__(self, outlier: bool) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.third, self.fourth = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 3, 1)
        for parameter in self.parameters():
            nn.init.normal_(parameter, generator=generator)
        if outlier:
            self.first.weight.data[0] *= 1000
            self.second.weight.data[:, 0] = 0

    def forward(self, image: Tensor) -> Tensor:
        return self.fourth(self.third(self.second(self.first(image).relu()).relu()).relu()).argmax(1)


def written(net: Net, file: Path) -> Path:
    torch.onnx.export(
        net.eval(), (torch.zeros(1, 3, 8, 8),), str(file), dynamo=False, input_names=["image"], output_names=["mask"],
        dynamic_axes={"image": {0: "n", 2: "h", 3: "w"}, "mask": {0: "n", 1: "h", 2: "w"}}, opset_version=18,
    )  # fmt: skip
    return file


def examples(net: Net, count: int, seed: int) -> list[Example]:
    """Of several sizes, whose masks are the network's own answers."""
    generator, made = torch.Generator().manual_seed(seed), []
    for index in range(count):
        image = torch.randn(1, 3, 16 + index, 24, generator=generator)
        sample = SegDataSample(metainfo=dict(ori_shape=tuple(image.shape[2:])))
        with torch.no_grad():
            sample.gt_sem_seg = PixelData(data=net(image))
        made.append(Example(image, sample))
    return made


def nodes_of(file: Path) -> list[Any]:
    return list(onnx.load(str(file)).graph.node)


def test_a_loss_that_is_tolerated(tmp_path: Path) -> None:
    net = Net(outlier=False)
    scorer = HeldOutScorer(net, examples(net, 3, 1), 3)
    made = quantize(
        written(net, tmp_path / "a.onnx"), tmp_path / "b.onnx", scorer, examples(net, 4, 0), tolerance=100.0
    )
    scores = made["held_out_mIoU"]
    assert scores["float32"] == 100 and list(scores) == ["float32", *METHODS]
    assert (
        scores[made["method"]] == max(scores[name] for name in METHODS) == round(scorer.score(tmp_path / "b.onnx"), 4)
    )
    assert (made["calibrated"], made["held_out"], made["layers"], made["kept_in_float"]) == (4, 3, 4, [])
    weights = [tensor for tensor in onnx.load(str(tmp_path / "b.onnx")).graph.initializer if tensor.data_type == 3]
    assert [tuple(tensor.dims) for tensor in weights if len(tensor.dims) == 4] == [
        (8, 3, 3, 3),
        (8, 8, 1, 1),
        (8, 8, 1, 1),
        (3, 8, 1, 1),
    ]
    scales = [tensor for tensor in onnx.load(str(tmp_path / "b.onnx")).graph.initializer if "scale" in tensor.name]
    assert {8, 3} <= {tensor.dims[0] for tensor in scales if tensor.dims}, "a scale for each output channel"


def test_layers_that_cost_accuracy_stay_in_float(tmp_path: Path) -> None:
    """256 steps for a channel a thousand times as large leave nothing of the others."""
    net = Net(outlier=True)
    scorer = HeldOutScorer(net, examples(net, 3, 1), 3)
    made = quantize(written(net, tmp_path / "a.onnx"), tmp_path / "b.onnx", scorer, examples(net, 4, 0), tolerance=2.0)
    assert len(made["kept_in_float"]) == 2  # the tensor between two layers has 8 bits where one of them does
    score = scorer.score(tmp_path / "b.onnx")
    others = [made["held_out_mIoU"][name] for name in METHODS if name != made["method"]]
    assert score == pytest.approx(made["held_out_mIoU"][made["method"]], abs=1e-3) and score > max(others) + 10
    kept = next(node for node in nodes_of(tmp_path / "b.onnx") if node.name == made["kept_in_float"][0])
    assert kept.op_type in LAYERS and not any("DequantizeLinear" in name for name in kept.input[1:])


class Padded(Net):
    """Pads by what a size inside it wants, as EfficientNet-Lite0 does; the image's own size is read as well."""

    def forward(self, image: Tensor) -> Tensor:
        maps = F.relu6(self.first(F.pad(image, [0, image.shape[3] % 2])))
        maps = F.pad(maps, [0, 2 - maps.shape[3] % 2, 0, 2 - maps.shape[2] % 2])
        maps = self.third(self.second(maps).relu()).relu()
        return F.interpolate(self.fourth(maps), size=image.shape[2:], mode="bilinear").argmax(1)


def test_sizes_inside_the_network_pass_through_a_maximum(tmp_path: Path) -> None:
    """Without it OpenVINO adds a bias wrongly: tests/unit/handover/test_openvino_file.py."""
    net = Padded(outlier=False)
    scorer = HeldOutScorer(net, examples(net, 3, 1), 3)
    quantize(written(net, tmp_path / "a.onnx"), tmp_path / "b.onnx", scorer, examples(net, 4, 0), tolerance=100.0)
    assert scorer.score(tmp_path / "a.onnx") == 100 and scorer.score(tmp_path / "b.onnx") > 90
    readers = {node.input[0]: node for node in nodes_of(tmp_path / "b.onnx") if node.op_type == "Max"}
    inside, of_image = [], []
    for node in nodes_of(tmp_path / "b.onnx"):
        if node.op_type == "Shape":
            (of_image if node.input[0].startswith("image") else inside).append(node.output[0])
    assert inside and of_image and set(readers) == set(inside)


def test_training_images_alone_have_a_part(tiny: Tiny) -> None:
    cfg = tiny.load("student")
    model = build_segmentor(cfg.model)
    calibration, held_out = load_examples(cfg, model)
    names = [[Path(example.sample.img_path).name for example in half] for half in (calibration, held_out)]
    train = sorted(path.name for path in (tiny.data_root / "img_dir" / "train").iterdir())
    assert sorted(names[0] + names[1]) == train and abs(len(names[0]) - len(names[1])) <= 1
    assert all(Path(example.sample.img_path).parent.name == "train" for example in calibration + held_out)
    example = held_out[0]
    assert example.image.shape == (1, 3, 32, 32) and example.image.dtype == torch.float32
    assert tuple(example.sample.gt_sem_seg.data.shape[1:]) == tuple(example.sample.ori_shape)

    cfg.train_dataloader.dataset.indices = 1
    with pytest.raises(UserError, match=r"--int8: needs at least two training images, .* got 1"):
        load_examples(cfg, model)
