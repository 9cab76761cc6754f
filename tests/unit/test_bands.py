"""Models and images of other than three channels, wherever a model is run on a blank image or an image is drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from bands import band_pixels, write_bands
from conftest import REPO, Run, Tiny

from rdistill.checks.dry_run import check_batch, tiny_batch
from rdistill.checks.layers import overview
from rdistill.config.distill_spec import distill_spec
from rdistill.config.load import read_config_file
from rdistill.core.errors import UserError
from rdistill.distill.distiller import build_distiller
from rdistill.distill.teacher import Teacher, _rescaling
from rdistill.handover.export import metadata
from rdistill.handover.inference import Predictor, load_predictor, predict_mask, read_sample
from rdistill.models.checkpoint import save_student
from rdistill.models.segmentor import blank_image, build_segmentor, input_channels
from rdistill.sweeps.findings.images import _photo
from rdistill.sweeps.trial.complexity import latency_ms
from rdistill.training.teacher_plan import SHORT_RUN, choose_forward


@pytest.fixture(scope="module")
def five(tiny_without_teacher: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Five bands of 16 bits; the teacher has weights of no meaning."""
    folder = tmp_path_factory.mktemp("five")
    five = write_bands(tiny_without_teacher, folder, bands=5, bits=16)
    model = build_segmentor(read_config_file(folder / "teacher.py").model)
    save_student(model, folder / "teacher" / "best.pth", classes=["a", "b"], palette=[[0] * 3] * 2, meta={})
    return five


@pytest.fixture(scope="module")
def predictor(five: Tiny) -> Predictor:
    return load_predictor(five.load("teacher"), five.folder / "teacher" / "best.pth")


def test_a_model_says_how_many_channels_it_takes(five: Tiny, tiny: Tiny) -> None:
    model = build_segmentor(five.load("student").model)
    assert input_channels(model) == 5 and blank_image(model, (32, 48)).shape == (1, 5, 32, 48)
    assert input_channels(build_segmentor(tiny.load("student").model)) == 3
    cfg = read_config_file(REPO / "configs/student/fast-scnn_optic-disc-128.py")
    assert input_channels(build_segmentor(cfg.model)) == 3


def test_layers(five: Tiny) -> None:
    models = {model.role: model for model in overview(five.load("distill")).models}
    assert models.keys() == {"student", "teacher"} and models["student"].flops > 0


def test_one_step_of_training(five: Tiny) -> None:
    cfg = five.load("distill")
    distiller = build_distiller(cfg, seed=0)
    assert check_batch(distiller, cfg, tiny_batch(cfg, 2, 0)) == []


def test_where_teachers_and_students_are_measured(five: Tiny) -> None:
    """A run of 500 iterations measures its teacher's forward, which shorter ones leave."""
    cfg = five.load("distill", iters=SHORT_RUN)
    (teacher,) = build_distiller(cfg, seed=0).teachers
    spec = distill_spec(cfg)
    assert spec is not None
    _, line = choose_forward(teacher, cfg, spec.teacher(0))  # which is quickest is this machine's affair
    assert line is not None and line.startswith("forward ")
    assert latency_ms(teacher.model, (32, 32)) > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.backbone.in_channels": 4}, "takes images of 4 channels, but the training images have 5; set it to 5"),
        ({"model.data_preprocessor.mean": [1.0] * 3, "model.data_preprocessor.std": [1.0] * 3}, "has 3 values, but"),
    ],
    ids=["in_channels", "mean"],
)
def test_images_of_other_channels_than_the_model(five: Tiny, changes: dict[str, object], message: str) -> None:
    cfg = five.load("student", changes)
    (problem,) = check_batch(build_distiller(cfg, seed=0), cfg, tiny_batch(cfg, 2, 0))
    assert problem.startswith("model.") and message in problem


def test_a_teacher_of_other_channels(five: Tiny, tiny: Tiny, teacher_run: Run) -> None:
    changes = {
        "distill.teachers": [
            dict(config=str(tiny.folder / "teacher.py"), checkpoint=str(teacher_run.folder / "best.pth"))
        ]
    }
    with pytest.raises(
        UserError, match=r"^distill.teachers\[0\]: its model takes images of 3 channels, the student's of 5"
    ):
        build_distiller(five.load("distill", changes), seed=0)


def test_one_side_without_normalisation_has_any_number_of_channels(five: Tiny) -> None:
    plain = build_segmentor(five.load("teacher", {"model.data_preprocessor": dict(type="SegDataPreProcessor")}).model)
    rescaling = _rescaling(build_segmentor(five.load("student").model).data_preprocessor, plain)
    assert rescaling is not None
    flip, scale, shift = rescaling
    x = torch.rand(1, 5, 2, 2)
    assert not flip and torch.equal(x * scale + shift, x * 960 + 1600)


def test_a_teacher_swaps_three_channels_only(five: Tiny) -> None:
    """mmengine's preprocessor swaps no other number, whatever ``bgr_to_rgb`` says."""
    model = build_segmentor(five.load("teacher", {"model.data_preprocessor.bgr_to_rgb": True}).model)
    student = build_segmentor(five.load("student").model).data_preprocessor
    assert Teacher(model, ["decode_head"], student)._rescale is None


def test_predictions_read_and_draw_by_the_pipeline(five: Tiny, tiny: Tiny, predictor: Predictor) -> None:
    image = five.data_root / "img_dir" / "val" / "0000.tif"
    sample = read_sample(predictor, image)
    assert np.array_equal(sample.pixels, band_pixels(tiny.data_root / "img_dir/val/0000.jpg", 5, 16))
    assert predict_mask(predictor, sample).shape == sample.pixels.shape[:2]
    drawn, order = sample.rgb(predictor), sample.pixels[..., :3].astype(float)
    assert drawn.dtype == np.uint8 and np.corrcoef(drawn.ravel(), order.ravel())[0, 1] > 0.99


def test_an_image_of_other_channels_is_refused(predictor: Predictor, tiny: Tiny, tmp_path: Path) -> None:
    image = tmp_path / "four.tif"
    import tifffile

    pixels = band_pixels(tiny.data_root / "img_dir/val/0000.jpg", 4, 16)
    tifffile.imwrite(image, pixels, photometric="minisblack", planarconfig="contig")
    with pytest.raises(UserError, match=r"four.tif: the pipeline reads 4 channels; the model needs 5"):
        predict_mask(predictor, image)


def test_an_image_that_holds_nan_is_refused(five: Tiny, predictor: Predictor, tmp_path: Path) -> None:
    import tifffile

    pixels = np.ones((8, 8, 5), np.float32)
    pixels[0, 0] = np.nan
    tifffile.imwrite(tmp_path / "nan.tif", pixels, photometric="minisblack", planarconfig="contig")
    with pytest.raises(UserError, match=r"nan.tif: contains pixels that are NaN"):
        predict_mask(predictor, tmp_path / "nan.tif")


def test_what_an_exported_model_says(predictor: Predictor) -> None:
    facts = metadata(predictor, "mask", None, np.dtype(np.uint16))
    assert facts["input"] == (
        "N x 5 x H x W, float32, channels in the order of the image's file, (pixel of 0 to 65535 - mean) / std"
    )
    assert facts["channels"] == "5" and facts["mean"] == str([1600.0] * 5) and facts["channel_order"] == "file"


@pytest.mark.parametrize("bands", [1, 2, 3, 4, 5])
def test_a_sweeps_photograph(bands: int) -> None:
    """Of 16 bits, at the size of the mask."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    sample = SegDataSample(gt_sem_seg=PixelData(data=torch.zeros(1, 12, 16, dtype=torch.long)))
    ramp = torch.arange(48).reshape(1, 6, 8).repeat(bands, 1, 1).mul(1300).to(torch.uint16)
    photo = _photo(dict(inputs=ramp, data_samples=sample), bgr=False)
    assert photo.shape == (12, 16, 3) and photo.dtype == np.uint8
    assert photo[0, 0].max() < 20 and photo[-1, -1].min() > 235
