"""Scores: mmseg's IoU by hand, every class by name, and nothing rounded away."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from conftest import NUM_VAL, Tiny
from mmengine.config import Config
from mmseg.evaluation.metrics import IoUMetric

from rdistill.core.errors import UserError
from rdistill.models.segmentor import build_segmentor
from rdistill.training.evaluation import (
    ClassIoUMetric,
    evaluate,
    image_scores,
    tidy_metrics,
    trivial_scores,
    use_class_iou,
)

# Two images of 2 x 3 pixels; 255 is ignored. Class 3 neither occurs nor is predicted.
LABELS = [[[0, 0, 1], [1, 2, 255]], [[0, 0, 0], [2, 2, 1]]]
PREDICTIONS = [[[0, 1, 1], [1, 2, 2]], [[0, 0, 0], [2, 1, 1]]]
CLASSES = ("sky", "road", "car", "boat")


def scored(metric: IoUMetric) -> dict[str, Any]:
    metric.dataset_meta = {"classes": CLASSES}
    for label, prediction in zip(LABELS, PREDICTIONS, strict=True):
        sample = {
            name: {"data": torch.tensor([value])}
            for name, value in (("pred_sem_seg", prediction), ("gt_sem_seg", label))
        }
        metric.process({}, [sample])
    return metric.evaluate(size=2)


def test_iou_by_hand() -> None:
    metrics = scored(ClassIoUMetric(iou_metrics=["mIoU"]))
    # sky: 4 right of 5 labelled or predicted; road: 3 of 5; car: 2 of 3, the prediction on an ignored pixel aside.
    iou = {"sky": 4 / 5, "road": 3 / 5, "car": 2 / 3}
    for name, value in iou.items():
        assert metrics[f"IoU.{name}"] == pytest.approx(100 * value, abs=1e-9)
    assert math.isnan(metrics["IoU.boat"])
    assert metrics["mIoU"] == pytest.approx(100 * np.mean(list(iou.values())), abs=1e-9)
    assert metrics["aAcc"] == pytest.approx(100 * 9 / 11, abs=1e-9)
    assert metrics["mAcc"] == pytest.approx(100 * np.mean([4 / 5, 3 / 3, 2 / 3]), abs=1e-9)


def test_beside_calling_every_pixel_the_same_class() -> None:
    """Labels: 5 sky, 3 road, 3 car. Predicted: 4 sky, 5 road, 2 car, where 8 pixels are no road."""
    metrics = scored(ClassIoUMetric(iou_metrics=["mIoU"]))
    assert metrics["trivial.mIoU"] == pytest.approx(100 * (5 / 11) / 3)
    assert metrics["trivial.left"] == pytest.approx(100 * 6 / 8)
    only_sky = trivial_scores(np.array([4.0, 0.0]), np.array([4.0, 0.0]))
    assert only_sky["mIoU"] == 100.0 and math.isnan(only_sky["left"])


def test_same_figures_as_mmsegs_own_metric() -> None:
    actual, expected = scored(ClassIoUMetric(iou_metrics=["mIoU"])), scored(IoUMetric(iou_metrics=["mIoU"]))
    assert {key: round(actual[key], 2) for key in expected} == pytest.approx(expected)


def test_the_score_of_each_image_by_itself() -> None:
    """Over the classes that are on it or predicted on it; truth by row."""
    half = np.array([[4, 0, 0], [2, 2, 0], [0, 0, 0]])  # IoU 4/6 and 2/4; the third class is nowhere
    nothing = np.zeros((3, 3), dtype=int)  # all of it is ignored
    assert image_scores([half, nothing]) == [pytest.approx(100 * (4 / 6 + 2 / 4) / 2), 0.0]


def test_tidy_metrics() -> None:
    flat = {"mIoU": np.float64(50.123456), "aAcc": 90, "IoU.a b": 10.00004, "IoU.c": float("nan"), "note": "x"}
    assert tidy_metrics(flat) == {"mIoU": 50.1235, "aAcc": 90.0, "IoU": {"a b": 10.0, "c": None}}
    assert tidy_metrics({"mIoU": 1.0}) == {"mIoU": 1.0}
    beside = {"mIoU": 1.0, "trivial.mIoU": 48.87456, "trivial.left": float("nan")}
    assert tidy_metrics(beside) == {"mIoU": 1.0, "trivial": {"mIoU": 48.8746, "left": None}}


def test_use_class_iou() -> None:
    evaluators = dict(
        val_evaluator=dict(type="IoUMetric", iou_metrics=["mIoU"]),
        test_evaluator=[dict(type="IoUMetric"), dict(type="DepthMetric")],
    )
    cfg = Config(evaluators)
    use_class_iou(cfg)
    assert cfg.val_evaluator == dict(type="ClassIoUMetric", iou_metrics=["mIoU"])
    assert [metric.type for metric in cfg.test_evaluator] == ["ClassIoUMetric", "DepthMetric"]


@pytest.mark.parametrize("training", [True, False])
def test_evaluate_scores_the_split(tiny_without_teacher: Tiny, training: bool) -> None:
    cfg = tiny_without_teacher.load("student")
    use_class_iou(cfg)
    torch.manual_seed(0)
    model = build_segmentor(cfg.model).train(training)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    metrics = evaluate(model, cfg)
    assert model.training == training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())  # BatchNorm too
    # Again by hand, at the images' own 48 pixels.
    counts = np.zeros((2, 3))
    dataset = cfg.val_dataloader.dataset
    from mmseg.registry import DATASETS

    data = DATASETS.build(dataset.to_dict())
    assert len(data) == NUM_VAL
    for item in data:
        with torch.no_grad():
            (result,) = model.eval().val_step({"inputs": [item["inputs"]], "data_samples": [item["data_samples"]]})
        prediction, label = result.pred_sem_seg.data.numpy(), item["data_samples"].gt_sem_seg.data.numpy()
        assert prediction.shape == label.shape == (1, 48, 48)
        for index in range(2):
            predicted, truth = prediction == index, label == index
            counts[index] += (predicted & truth).sum(), (predicted | truth).sum(), truth.sum()
    iou = 100 * counts[:, 0] / counts[:, 1]
    assert metrics["IoU"] == {"background": round(iou[0], 4), "optic disc": round(iou[1], 4)}
    assert metrics["mIoU"] == round(iou.mean(), 4)
    assert metrics["aAcc"] == round(100 * counts[:, 0].sum() / counts[:, 2].sum(), 4)


def test_a_split_that_is_not_there(tiny_without_teacher: Tiny) -> None:
    cfg = tiny_without_teacher.load("student")
    model = build_segmentor(cfg.model)
    cfg.pop("test_dataloader")
    with pytest.raises(UserError, match="has no test_dataloader to score on"):
        evaluate(model, cfg, split="test")


def test_a_model_whose_outputs_are_no_numbers_has_no_score(tiny: Tiny) -> None:
    """Their masks would be of the first class throughout, and score as such."""
    cfg = tiny.load("student")
    model = build_segmentor(cfg.model)
    model.decode_head.conv_seg.bias.data[1] = float("nan")
    with pytest.raises(UserError, match=r"50 % of the model's outputs for it are no numbers \(NaN\)"):
        evaluate(model, cfg)


def test_an_miou_of_nan_is_an_error_and_no_json(tiny_without_teacher: Tiny) -> None:
    with pytest.raises(UserError, match="mIoU: is NaN: the masks hold no pixel of any class"):
        tidy_metrics({"mIoU": float("nan"), "IoU.a": float("nan")})
    assert tidy_metrics({"mIoU": 1.0, "mFscore": np.float64("nan")}) == {"mIoU": 1.0, "mFscore": None}
