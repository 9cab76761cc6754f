"""ONNX files that do what the model does, at any size, and say how they are to be fed."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from conftest import Run
from mmengine.model import revert_sync_batchnorm
from model_zoo import segmentor
from torch import Tensor, nn

from rdistill.config.load import read_config_file
from rdistill.core.errors import UserError
from rdistill.handover import export, onnx_file
from rdistill.handover.export import ExportError, _AnySizePool, export_onnx, metadata
from rdistill.handover.inference import Predictor, load_predictor, network_input, predict_mask, read_sample
from rdistill.models.quiet_mmseg import Upsample
from rdistill.models.segmentor import build_segmentor

onnxruntime = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")
Command = Callable[..., Any]


@pytest.fixture(scope="module")
def images(data_root: Path) -> list[Path]:
    return sorted((data_root / "img_dir" / "val").iterdir())


@pytest.fixture(scope="module")
def predictor(both_classes: list[Path]) -> Predictor:
    return load_predictor(read_config_file(both_classes[0]), both_classes[1])


def properties(file: Path) -> dict[str, Any]:
    return {entry.key: entry.value for entry in onnx.load(str(file)).metadata_props}


def test_export(
    command: Command,
    both_classes: list[Path],
    predictor: Predictor,
    images: list[Path],
    tmp_path: Path,
) -> None:
    """Fed by nothing but OpenCV and the file's own metadata, it gives the masks of the model."""
    result = command("export", *both_classes, "student.onnx")
    assert (result.status, result.err) == (0, "")
    masks, latency, file = result.out.splitlines()
    assert "equal to PyTorch's on " in masks and f"of {len(images)} images" in masks and "2x32x32" in masks
    assert "PyTorch " in latency and "onnxruntime " in latency and "32 x 32, CPU" in latency
    assert file.startswith("file      student.onnx: ") and "opset 18" in file

    facts = properties(tmp_path / "student.onnx")
    mean, std = (np.array(json.loads(facts[name]), np.float32) for name in ("mean", "std"))
    assert facts["channel_order"] == "RGB" and json.loads(facts["classes"]) == ["background", "optic disc"]
    session = onnxruntime.InferenceSession(str(tmp_path / "student.onnx"))
    for image in images:
        bgr = cv2.resize(cv2.imread(str(image)), tuple(json.loads(facts["validated_at_width_height"])))
        x = ((bgr[..., ::-1] - mean) / std).transpose(2, 0, 1)[None].astype(np.float32)
        (mask,) = session.run(None, {"image": x})
        assert mask.shape == (1, 32, 32) and mask.dtype == np.int64
        expected = cv2.resize(predict_mask(predictor, image), (32, 32), interpolation=cv2.INTER_NEAREST)
        assert (mask[0] == expected).mean() > 0.95  # but for the way back to the image's own size
    for batch, height, width in ((3, 32, 64), (1, 71, 45)):
        (mask,) = session.run(None, {"image": np.zeros((batch, 3, height, width), np.float32)})
        assert mask.shape == (batch, height, width)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["student.onnx", "student.onnx.json"]


def test_logits_of_a_fixed_size(predictor: Predictor, images: list[Path], tmp_path: Path) -> None:
    exported = export_onnx(predictor, tmp_path / "a.onnx", images, output="logits", fixed_size=(32, 48))
    assert exported.agreement == 1 and {size[1:] for size in exported.sizes} == {(32, 48)}
    session = onnxruntime.InferenceSession(str(exported.file))
    x = torch.randn(2, 3, 32, 48)
    (logits,) = session.run(None, {"image": x.numpy()})
    with torch.no_grad():
        expected = predictor.model.encode_decode(x, [dict(img_shape=(32, 48))] * 2)
    np.testing.assert_allclose(logits, expected.numpy(), rtol=1e-3, atol=1e-4)
    with pytest.raises(Exception, match="dimension"):
        session.run(None, {"image": np.zeros((1, 3, 64, 48), np.float32)})


def test_a_model_of_one_channel(one_channel_run: tuple[Run, list[Path]], images: list[Path], tmp_path: Path) -> None:
    """Its mask is by the threshold, and its logits say how they are to be read."""
    predictor = load_predictor(read_config_file(one_channel_run[1][0]), one_channel_run[1][1])
    export_onnx(predictor, tmp_path / "mask.onnx", images)
    export_onnx(predictor, tmp_path / "logits.onnx", images, output="logits")
    assert properties(tmp_path / "mask.onnx")["output"] == "N x H x W, int64: the index in `classes` of each pixel"
    says = "N x 1 x H x W, float32: class 1 where its sigmoid is above 0.3, else class 0"
    assert properties(tmp_path / "logits.onnx")["output"] == says
    x = np.random.default_rng(0).normal(size=(2, 3, 32, 48)).astype(np.float32)
    mask, logits = (
        onnxruntime.InferenceSession(str(tmp_path / f"{name}.onnx")).run(None, {"image": x})[0]
        for name in ("mask", "logits")
    )
    assert mask.shape == (2, 32, 48) and logits.shape == (2, 1, 32, 48)
    assert 0 < mask.mean() < 1 and np.array_equal(mask, 1 / (1 + np.exp(-logits[:, 0])) > 0.3)


def test_a_model_that_differs_is_not_written(
    command: Command,
    both_classes: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both exporters are given other weights than the model that they are compared with."""
    untouched = export._exportable

    def spoilt(network: nn.Module) -> nn.Module:
        network = untouched(network)
        nn.init.constant_(network.model.decode_head.conv_seg.bias, 0.0)
        nn.init.normal_(network.model.decode_head.conv_seg.weight, generator=torch.Generator().manual_seed(0))
        return network

    monkeypatch.setattr(export, "_exportable", spoilt)
    monkeypatch.setattr(export, "_torch_export", export._trace)  # it would take its ten seconds for the same
    result = command("export", *both_classes, "student.onnx")
    assert result.status == 1 and result.err.count("\n") == 1
    assert result.err.startswith("error: student.onnx: not written: trace: masks equal on ")
    assert "% of the pixels, 99.9 % needed" in result.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (6, 6)], ids=str)
def test_any_size_pool_is_torchs(size: tuple[int, int]) -> None:
    for shape in ((1, 2, 7, 11), (2, 3, 4, 5), (1, 1, 3, 2)):
        x = torch.randn(shape, dtype=torch.float64)
        torch.testing.assert_close(_AnySizePool(size)(x), nn.functional.adaptive_avg_pool2d(x, size))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_upsampling_follows_the_size() -> None:
    """mmseg's own keeps the size of the image that it was traced with, and what comes after it hides that."""
    network = nn.Sequential(Upsample(scale_factor=2, mode="bilinear", align_corners=False))
    small, large = torch.randn(1, 2, 3, 4), torch.randn(2, 2, 5, 8)
    assert torch.jit.trace(network, small)(large).shape != network(large).shape  # type: ignore[no-untyped-call]
    traced = torch.jit.trace(export._exportable(network), small)  # type: ignore[no-untyped-call]
    torch.testing.assert_close(traced(large), network(large))


NARROW = {
    "pspnet_r50-d8": {
        "model.backbone.depth": 18, "model.backbone.base_channels": 4, "model.backbone.stem_channels": 4,
        "model.decode_head.in_channels": 32, "model.decode_head.channels": 8, "model.auxiliary_head": None,
    },
    "fast_scnn": {},
    "segformer_mit-b0": {
        "model.backbone.embed_dims": 4, "model.decode_head.in_channels": [4, 8, 20, 32], "model.decode_head.channels": 8
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "exporter"),
    [
        ("pspnet_r50-d8", "trace"),
        ("fast_scnn", "trace"),
        pytest.param("segformer_mit-b0", "torch.export", marks=pytest.mark.slow),  # a minute
    ],
)
def test_models_whose_size_is_hard_to_free(
    name: str, exporter: str, images: list[Path], predictor: Predictor, tmp_path: Path
) -> None:
    """Adaptive pools to several bins; attention, in which tracing keeps the example's size."""
    model = segmentor(name, NARROW[name], tmp_path)
    classes = tuple(map(str, range(19)))
    pipeline = [{**step, "scale": (64, 64)} if step["type"] == "Resize" else step for step in predictor.pipeline]
    predictor = Predictor(model, pipeline, classes, ((0, 0, 0),) * 19, {})
    exported = export_onnx(predictor, tmp_path / "a.onnx", images)
    assert exported.exporter == exporter and exported.agreement >= 0.999 and len(exported.sizes) == 4
    session = onnxruntime.InferenceSession(str(exported.file))
    x: Tensor = torch.randn(3, 3, 96, 160)
    (mask,) = session.run(None, {"image": x.numpy()})
    with torch.no_grad():
        expected = model.encode_decode(x, [dict(img_shape=(96, 160))] * 3).argmax(1)
    assert (torch.from_numpy(mask) == expected).float().mean() >= 0.999


def test_without_the_extra(command: Command, distilled_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file.importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else name)
    result = command("export", distilled_run.folder / "student.py", distilled_run.folder / "student.pth", "a.onnx")
    assert result.status == 2
    assert result.err == ("error: export needs onnxruntime, not installed here: pip install 'rdistill[onnx]'\n")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "is a folder; name the file to write, such as "),
        ("file/a.onnx", "cannot be written: "),
        ("file/below/a.onnx", "cannot be written: "),
        ("x" * 300 + ".onnx", "File name too long; choose another file"),
        ("/proc/a.onnx", "cannot be written: /proc/.a.onnx.partial: No such file or directory; choose another file"),
    ],
    ids=["folder", "below a file", "far below a file", "too long", "proc"],
)
def test_where_no_file_can_be_written(
    command: Command,
    tmp_path: Path,
    name: str,
    message: str,
) -> None:
    """Said before the config is read, and not blamed on the model's size."""
    (tmp_path / "file").touch()
    result = command("export", "no.py", "no.pth", tmp_path / name)
    assert result.status == 2 and result.err.count("\n") == 1 and message in result.err
    assert "no.py" not in result.err and "fixed-size" not in result.err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_image_that_cannot_be_read_is_named(predictor: Predictor, images: list[Path], tmp_path: Path) -> None:
    (tmp_path / "cut.jpg").write_bytes(images[0].read_bytes()[:900])
    with pytest.raises(UserError, match=r"cut.jpg: cannot be read as an image: image file is truncated"):
        export_onnx(predictor, tmp_path / "a.onnx", [*images, tmp_path / "cut.jpg"])


def test_a_disk_that_fills_up_is_not_the_models_fault(
    predictor: Predictor, images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(export, "_trace", full)
    with pytest.raises(ExportError, match=r"a.onnx: cannot be written: OSError: \[Errno 28\] No space left on device$"):
        export_onnx(predictor, tmp_path / "a.onnx", images)


def test_metadata_of_the_channel_order(predictor: Predictor) -> None:
    grey = {"type": "LoadImageFromFile", "color_type": "grayscale"}
    tiff = {"type": "LoadImageFromFile", "imdecode_backend": "tifffile", "color_type": "unchanged"}
    orders = [
        metadata(Predictor(predictor.model, [step], ("a", "b"), ((0, 0, 0),) * 2, {}), "mask", None)
        for step in (grey, tiff)
    ]
    assert [facts["channel_order"] for facts in orders] == ["RGB", "file reversed"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["ddrnet/ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024", "pidnet/pidnet-s_2xb6-120k_1024x1024-cityscapes"],
)
def test_students_of_several_outputs(name: str, images: list[Path], predictor: Predictor, tmp_path: Path) -> None:
    """In training they give two and three; a prediction has the main one."""
    (tmp_path / "model.py").write_text(f"_base_ = ['mmseg::{name}.py']\n")
    cfg = read_config_file(tmp_path / "model.py")
    cfg.merge_from_dict({"model.backbone.init_cfg": None, "norm_cfg.type": "BN"})
    torch.manual_seed(0)
    model = revert_sync_batchnorm(build_segmentor(cfg.model)).eval()
    several = Predictor(model, predictor.pipeline, tuple(map(str, range(19))), ((0, 0, 0),) * 19, {})
    exported = export_onnx(several, tmp_path / "a.onnx", images)
    assert exported.exporter == "trace" and exported.agreement >= 0.999
    sample = read_sample(several, images[0])
    with torch.no_grad():
        logits = model.encode_decode(network_input(several, sample), [dict(img_shape=(32, 32))])
    size = sample.pixels.shape[:2]
    logits = torch.nn.functional.interpolate(logits, size, mode="bilinear", align_corners=model.align_corners)
    expected = logits.argmax(1)[0]
    assert np.array_equal(predict_mask(several, sample), expected.numpy())
