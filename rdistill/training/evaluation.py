"""Scores on a dataset: mmseg's IoU, unrounded and with every class by name."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dist import all_reduce, get_world_size
from mmengine.evaluator import Evaluator
from mmengine.runner import Runner
from torch import Tensor, nn

from rdistill.config.walk import kind_of, metrics_of
from rdistill.core.errors import UserError
from rdistill.models.quiet_mmseg import METRICS, IoUMetric
from rdistill.models.segmentor import require_numbers
from rdistill.schemas.data import Batch, ScoredSample
from rdistill.schemas.run import Scores

TRIVIAL = "trivial."  # prefix of the figures of :func:`trivial_scores`, as ``IoU.`` is the prefix of the classes


@METRICS.register_module()
class ClassIoUMetric(IoUMetric):
    """mmseg's ``IoUMetric``, which also returns the IoU of each class and does not round.

    All figures are in percent: ``mIoU``, ``aAcc``, ``mAcc``, ``IoU.<class>``, and ``trivial.mIoU`` with
    ``trivial.left`` (see :func:`trivial_scores`). A class that occurs neither in the ground truth nor in a prediction
    has the IoU NaN and does not count for the mean.

    Attributes:
        by_image: if it is a list, the confusion matrix of each image is appended to it: classes x classes, one row for
            each class of the ground truth. It counts the pixels that have a class both in ground truth and prediction.
    """

    default_prefix = ""  # None makes mmengine warn that there is no prefix
    by_image: list[np.ndarray] | None = None

    def process(self, data_batch: Batch, data_samples: Sequence[ScoredSample]) -> None:
        super().process(data_batch, data_samples)
        if self.by_image is not None:
            classes = len(self.dataset_meta["classes"])
            for sample in data_samples:
                pixels = (sample["pred_sem_seg"], sample["gt_sem_seg"])
                predicted, truth = (side["data"].squeeze().cpu() for side in pixels)
                self.by_image.append(confusion(predicted, truth, classes, self.ignore_index))

    def evaluate(self, size: int) -> dict[str, float]:
        """Sums over all workers; no two of them may score the same image (see :func:`split_validation_images`)."""
        if get_world_size() == 1 or self.format_only:
            return dict(super().evaluate(size))
        areas = torch.zeros(4, len(self.dataset_meta["classes"]), dtype=torch.float64)
        for result in self.results:
            areas += torch.stack(list(result))
        self.results.clear()
        areas = areas.to("cuda") if torch.distributed.get_backend() == "nccl" else areas
        all_reduce(areas)
        metrics = self.compute_metrics([tuple(areas.cpu())])
        return {f"{self.prefix}/{name}" if self.prefix else name: value for name, value in metrics.items()}

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        # Sums of pixel counts are exact in float64, in any order; float32 is exact only up to 16 million.
        results = [tuple(area.double() for area in result) for result in results]
        metrics = dict(super().compute_metrics(results))  # writes mmseg's table to the log
        if self.format_only:
            return metrics
        intersect, union, predicted, label = (sum(column).numpy() for column in zip(*results, strict=True))
        with np.errstate(divide="ignore", invalid="ignore"):
            iou, accuracy = intersect / union * 100, intersect / label * 100
        metrics["aAcc"] = float(intersect.sum() / label.sum() * 100)
        metrics["mIoU"], metrics["mAcc"] = float(np.nanmean(iou)), float(np.nanmean(accuracy))
        metrics |= {f"{TRIVIAL}{name}": value for name, value in trivial_scores(predicted, label).items()}
        metrics.update(
            {f"IoU.{name}": float(value) for name, value in zip(self.dataset_meta["classes"], iou, strict=True)}
        )
        return metrics


def trivial_scores(predicted: np.ndarray, label: np.ndarray) -> dict[str, float]:
    """The mIoU of a trivial model that predicts the most frequent class everywhere, and how far a model is from it.

    Args:
        predicted, label: number of pixels of each class in all predictions and in all masks.

    Returns:
        The fields of :class:`rdistill.schemas.run.Trivial`; NaN if there is no pixel, or none of another class.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        score = 100 * label.max() / label.sum() / (label > 0).sum()
        largest = int(predicted.argmax())
        left = 100 * (predicted.sum() - predicted[largest]) / (label.sum() - label[largest])
    return {"mIoU": float(score), "left": float(left) if math.isfinite(left) else math.nan}


def image_scores(counts: Sequence[np.ndarray]) -> list[float]:
    """The mIoU of each image by itself, in percent.

    It is the mean over the classes that occur in the mask or in the prediction of that image; 0 if there is none.

    Args:
        counts: confusion matrices as in :attr:`ClassIoUMetric.by_image`.
    """
    scores = []
    for each in counts:
        hit, union = np.diagonal(each), each.sum(0) + each.sum(1) - np.diagonal(each)
        present = union > 0
        scores.append(float(100 * np.mean(hit[present] / union[present])) if present.any() else 0.0)
    return scores


def confusion(predicted: Tensor, truth: Tensor, classes: int, ignore_index: int) -> np.ndarray:
    """The confusion matrix of one image: classes x classes pixels, one row for each class of the ground truth.

    Both masks have the shape height x width and any dtype. Pixels with ``ignore_index``, or with a value that is no
    class, do not count.
    """
    predicted, truth = predicted.long(), truth.long()
    counted = (truth != ignore_index) & (truth >= 0) & (truth < classes) & (predicted >= 0) & (predicted < classes)
    pairs = truth[counted] * classes + predicted[counted]
    return torch.bincount(pairs, minlength=classes**2).reshape(classes, classes).numpy()


def use_class_iou(cfg: Config) -> None:
    """Replaces every IoUMetric of a config by a :class:`ClassIoUMetric`."""
    for name in ("val_evaluator", "test_evaluator"):
        for metric in metrics_of(cfg.get(name)):
            if kind_of(metric) == "IoUMetric":
                metric["type"] = "ClassIoUMetric"


def split_validation_images(cfg: Config) -> None:
    """Divides validation images among the workers without repeating any, as mmengine would to get equal parts."""
    for name in ("val", "test"):
        metrics = metrics_of(cfg.get(f"{name}_evaluator"))
        if metrics and all(kind_of(metric) == "ClassIoUMetric" for metric in metrics):
            cfg[f"{name}_dataloader"].sampler = dict(type="DefaultSampler", shuffle=False, round_up=False)


def counts_images(cfg: Config, split: str) -> bool:
    """Whether one of a split's metrics can give the confusion matrix of each image."""
    return any(
        kind_of(metric) in ("IoUMetric", "ClassIoUMetric") for metric in metrics_of(cfg.get(f"{split}_evaluator"))
    )


def tidy_metrics(metrics: Mapping[str, Any]) -> Scores:
    """``{'mIoU': .., 'IoU.disc': ..}`` -> ``{'mIoU': .., 'IoU': {'disc': ..}}``; None for a class that never occurs.

    Raises:
        UserError: the mIoU is NaN, because no class occurs at all.
    """
    flat = {key: float(value) for key, value in metrics.items() if isinstance(value, (int, float, np.generic))}
    classes = {key.removeprefix("IoU."): _number(value) for key, value in flat.items() if key.startswith("IoU.")}
    if math.isnan(flat.get("mIoU", 0.0)):
        raise UserError("mIoU: is NaN: the masks hold no pixel of any class, all are ignored; see --label-map")
    tidy: Scores = {  # type: ignore[assignment]  # it keeps the names of other metrics that a config has
        key: _number(value) for key, value in flat.items() if not key.startswith(("IoU.", TRIVIAL))
    }
    trivial = {key.removeprefix(TRIVIAL): _number(value) for key, value in flat.items() if key.startswith(TRIVIAL)}
    if classes:
        tidy["IoU"] = classes
    if trivial:
        tidy["trivial"] = trivial  # type: ignore[typeddict-item]
    return tidy


def _number(value: float) -> float | None:
    """Rounds to four digits; None in place of NaN, which JSON does not have."""
    return None if math.isnan(value) else round(value, 4)


@torch.no_grad()
def evaluate(
    model: nn.Module, cfg: Config, *, split: str = "val", by_image: list[tuple[str, np.ndarray]] | None = None
) -> Scores:
    """Scores a segmentor on a config's ``val`` or ``test`` split, as mmengine's ValLoop does.

    Args:
        model: the segmentor.
        cfg: a config with the split's data loader and evaluator.
        split: ``val`` or ``test``.
        by_image: a list to which the path and the confusion matrix of each image are appended, in order. The evaluator
            must then have a :class:`ClassIoUMetric`.

    Returns:
        ``mIoU``, ``aAcc``, ``mAcc`` and ``IoU`` by class name, in percent.

    Raises:
        UserError: there is no such split, or the model's outputs are NaN.
    """
    if cfg.get(f"{split}_dataloader") is None:
        raise UserError(f"{cfg.filename}: has no {split}_dataloader to score on")
    evaluators = metrics_of(copy.deepcopy(cfg.get(f"{split}_evaluator")))
    if not evaluators:
        raise UserError(f"{cfg.filename}: has no {split}_evaluator to score by")
    loader = Runner.build_dataloader(copy.deepcopy(cfg[f"{split}_dataloader"]), seed=0)
    evaluator = Evaluator(evaluators)
    evaluator.dataset_meta = loader.dataset.metainfo
    counts: list[np.ndarray] = []
    names: list[str] = []
    if by_image is not None:
        next(metric for metric in evaluator.metrics if isinstance(metric, ClassIoUMetric)).by_image = counts
    was_training = model.training
    model.eval()
    for batch in loader:
        predictions = model.val_step(batch)  # type: ignore[operator]
        require_numbers(predictions)
        names += [str(sample.metainfo.get("img_path", "")) for sample in predictions]
        evaluator.process(data_samples=predictions, data_batch=batch)
    model.train(was_training)
    if by_image is not None:
        by_image += zip(names, counts, strict=True)
    return tidy_metrics(evaluator.evaluate(len(loader.dataset)))
