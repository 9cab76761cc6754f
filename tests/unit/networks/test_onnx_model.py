"""Teachers in ONNX files: what `rdistill export` writes, and files of torch's own exporter."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from rdistill.config.load import read_config_file
from rdistill.core.errors import UserError
from rdistill.distill.teacher_cache import fingerprint
from rdistill.handover.export import export_onnx
from rdistill.handover.inference import Predictor, load_predictor
from rdistill.models.features import FeatureCapture
from rdistill.models.segmentor import build_segmentor, gives_logits, input_channels, num_classes, run_heads
from rdistill.networks import onnx_model  # noqa: F401  registers what is built here
from rdistill.teachers.libraries import onnx

pytest.importorskip("onnxruntime")


class Files:
    """Of files that are named in full."""

    def find(self, name: str) -> Path:
        return Path(name)


class Net(nn.Module):
    def __init__(self, several: bool = False) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.Conv2d(6, 4, 1)
        self.several = several

    def forward(self, images: Tensor) -> Any:
        features = self.stem(images).relu()
        return (features, self.head(features)) if self.several else self.head(features)


def exported(net: nn.Module, file: Path, outputs: list[str], *, free: bool = True) -> Path:
    axes = {name: {0: "n", 2: "h", 3: "w"} for name in ("image", *outputs)}
    torch.onnx.export(
        net.eval(), (torch.zeros(1, 3, 32, 32),), str(file), dynamo=False, input_names=["image"], output_names=outputs,
        dynamic_axes=axes if free else None,
    )  # fmt: skip
    return file


def built(file: Path, **options: Any) -> nn.Module:
    made = onnx(path=str(file), files=Files(), **options)  # type: ignore[arg-type]
    return build_segmentor(dict(made.model)).eval()


@pytest.fixture(scope="module")
def student(both_classes: list[Path]) -> Predictor:
    return load_predictor(read_config_file(both_classes[0]), both_classes[1])


@pytest.fixture(scope="module")
def file(student: Predictor, data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("onnx") / "student.onnx"
    with DefaultScope.overwrite_default_scope("mmseg"):
        export_onnx(student, out, sorted((data_root / "img_dir" / "val").iterdir())[:1], output="logits")
    return out


@torch.no_grad()
def test_what_rdistill_exported_says_all_of_it_by_itself(student: Predictor, file: Path) -> None:
    made = onnx(path=str(file), files=Files())  # type: ignore[arg-type]
    assert made.classes == tuple(student.classes)
    model = build_segmentor(dict(made.model)).eval()
    assert num_classes(model) == 2 and input_channels(model) == 3
    own, preprocessor = student.model.data_preprocessor, model.data_preprocessor
    torch.testing.assert_close(own.mean, preprocessor.mean)
    torch.testing.assert_close(own.std, preprocessor.std)
    images = torch.randn(3, 3, 32, 64)
    expected = student.model.encode_decode(images, [dict(img_shape=(32, 64))])
    actual = run_heads(model, model.extract_feat(images), ())
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    predicted = model.predict(images)
    assert torch.equal(predicted[2].pred_sem_seg.data[0], actual[2].argmax(0))


@torch.no_grad()
def test_several_outputs_are_features_and_logits(tmp_path: Path) -> None:
    net = Net(several=True)
    path = exported(net, tmp_path / "net.onnx", ["features", "classes"])
    model = built(path, logits="classes", num_classes=4, mean=[0] * 3, std=[1] * 3)
    images = torch.randn(2, 3, 24, 40)
    with FeatureCapture(model, ["backbone[0]", "decode_head"]) as capture:
        run_heads(model, model.extract_feat(images), capture.names)
        features, logits = (capture[name] for name in ("backbone[0]", "decode_head"))
    for actual, expected in zip((features, logits), net(images), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    encoder = built(path, num_classes=0, mean=[0] * 3, std=[1] * 3)
    assert not gives_logits(encoder)


@torch.no_grad()
def test_images_of_one_size_alone(tmp_path: Path) -> None:
    """A file that takes one image of one size is run image by image, resized; its map has the image's proportions."""
    net = Net()
    model = built(exported(net, tmp_path / "net.onnx", ["logits"], free=False), mean=[0] * 3, std=[1] * 3)
    images = torch.randn(2, 3, 32, 32)
    actual = run_heads(model, model.extract_feat(images), ())
    torch.testing.assert_close(actual, net(images), rtol=1e-4, atol=1e-5)
    assert run_heads(model, model.extract_feat(torch.randn(2, 3, 64, 128)), ()).shape == (2, 4, 11, 23)


def test_a_copy_runs_and_another_file_is_another_teacher(tmp_path: Path) -> None:
    first = built(exported(Net(), tmp_path / "a.onnx", ["logits"]), num_classes=4, mean=[0] * 3, std=[1] * 3)
    images = torch.randn(1, 3, 32, 32)
    before = run_heads(first, first.extract_feat(images), ())
    again = copy.deepcopy(first)
    assert torch.equal(run_heads(again, again.extract_feat(images), ()), before)
    assert fingerprint(again, "") == fingerprint(first, "")
    second = built(exported(Net(), tmp_path / "a.onnx", ["logits"]), num_classes=4, mean=[0] * 3, std=[1] * 3)
    assert fingerprint(second, "") != fingerprint(first, "")


def test_mistakes(student: Predictor, data_root: Path, file: Path, tmp_path: Path) -> None:
    made = dict(onnx(path=str(file), files=Files()).model)  # type: ignore[arg-type]
    moved = tmp_path / "moved.onnx"
    moved.write_bytes(file.read_bytes() + b"\0")
    made["backbone"]["file"] = str(moved)
    with pytest.raises(UserError, match="has changed since the config was loaded; load the config again"):
        build_segmentor(made)
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(UserError, match="onnxruntime cannot open it"):
        built(tmp_path / "text.onnx")
    mask = tmp_path / "mask.onnx"
    export_onnx(student, mask, sorted((data_root / "img_dir" / "val").iterdir())[:1])
    with pytest.raises(UserError, match=r"gives a mask, .*; export it with --output logits"):
        built(mask, logits="mask")
    net = exported(Net(several=True), tmp_path / "net.onnx", ["a", "b"])
    with pytest.raises(UserError, match="does not say what its images are normalised with; set mean and std"):
        built(net, logits="b", num_classes=4)
    with pytest.raises(UserError, match="has no output 'logits', but a, b; name the one that is logits"):
        built(net, mean=[0] * 3, std=[1] * 3)
    three = build_segmentor(dict(onnx(
        path=str(net), files=Files(), logits="b", num_classes=3, mean=[0] * 3, std=[1] * 3  # type: ignore[arg-type]
    ).model)).eval()  # fmt: skip
    with pytest.raises(UserError, match="must give logits of N x 3"):
        run_heads(three, three.extract_feat(torch.zeros(1, 3, 32, 32)), ())
