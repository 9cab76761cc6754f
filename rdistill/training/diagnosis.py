"""Measures why a distillation gains or does not, on a few batches at each validation, without changing the training.

On validation images it measures how often student and teacher agree, which of them is wrong where they differ, and how
confident the teacher is. On training images it measures how large the gradient of the distillation is compared with
that of the task, and the angle between the two. Everything that a forward or backward pass may change is restored:
random states, buffers such as BatchNorm's statistics, and train/eval modes. Gradients are returned by autograd and not
accumulated, so those that wait for an update stay as they are.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from mmengine.dataset import pseudo_collate
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from torch import Tensor, nn

from rdistill.config.distill_spec import DistillSpec
from rdistill.core.errors import error_line
from rdistill.core.files import read_json, write_json
from rdistill.data.random_state import random_state, seed_everything, set_random_state
from rdistill.distill.distiller import Distiller
from rdistill.distill.gradients import gradients, task_loss
from rdistill.distributed import collectives
from rdistill.models.segmentor import ignore_index, why_unscored
from rdistill.schemas.run import Diagnosis, GradientFigures, ValidationFigures
from rdistill.training.run_state import unwrap

DIAGNOSIS = "diagnosis.json"  # the file in the work dir, with one entry for each validation
FIRST_DRAW = 2**62  # number of the first draw of the training images used here: larger than any draw of a run
MAX_PIXELS = 65_536  # the largest number of pixels of an image that are used, evenly spread
BINS = 15  # bins of the confidence, for the calibration error (Guo et al., ICML 2017)
TEMPERATURES = (1.0, 2.0, 4.0, 8.0)  # temperatures for the teacher's entropy, in addition to those of the losses


class TurnTimer(Protocol):
    """Counts the seconds of a run; a :class:`rdistill.training.lockstep.Lane` does."""

    def leave_out(self, seconds: float) -> None:
        """Subtracts seconds of this turn that do not belong to the training."""


class DiagnosisHook(Hook):
    """Measures at each validation and writes the entries to ``diagnosis.json``.

    Args:
        spec: the ``distill`` section; its ``diagnose`` says on how many batches to measure.
        seed: the seed of the run's data.
        lane: the timer of a run in lockstep; the seconds of the diagnosis are subtracted from it.

    Attributes:
        entries: one entry for each validation: ``iter``, with the figures of :func:`on_validation` and
            :func:`on_training`, or with ``problem`` if they could not be measured.
        latest: the entry of this validation; other hooks report it.
    """

    def __init__(self, spec: DistillSpec, seed: int, lane: TurnTimer | None = None) -> None:
        assert spec.diagnose is not None
        self.spec, self.batches, self.seed, self.lane = spec, spec.diagnose.batches, seed, lane
        self.entries: list[Diagnosis] = []
        self.latest: Diagnosis | None = None
        self._teachers: tuple[Any, ...] | None = None
        self._train: list[Any] | None = None
        self._val: list[Any] | None = None

    def before_train(self, runner: Any) -> None:
        file = Path(runner.work_dir, DIAGNOSIS)
        if runner.iter and file.is_file():  # entries after the checkpoint are dropped: that part is trained again
            self.entries = [entry for entry in read_json(file)["entries"] if entry["iter"] <= runner.iter]

    def after_val(self, runner: Any) -> None:
        since = time.perf_counter()
        self.latest = {"iter": runner.iter}
        try:
            self.latest |= self._measured(runner)
        except Exception as error:  # too little memory or an unusual head must not end the training
            self.latest["problem"] = error_line(error)
        seconds = time.perf_counter() - since
        self.latest["seconds"] = round(seconds, 3)
        self.entries.append(self.latest)
        if is_main_process():
            write_json(Path(runner.work_dir, DIAGNOSIS), {"entries": self.entries})
        if self.lane is not None:
            self.lane.leave_out(seconds)

    def _measured(self, runner: Any) -> Diagnosis:
        distiller = unwrap(runner)
        if self._teachers is None:
            self._teachers = tuple(teacher.without_cache() for teacher in distiller.teachers)
        with unchanged(distiller):
            distiller.teachers = self._teachers
            if self._train is None or self._val is None:
                self._train = training_batches(runner.train_dataloader, self.batches)
                images = self.batches * int(runner.train_dataloader.batch_size)
                self._val = validation_batches(runner.val_dataloader, images)
            taus = [float(loss.params["tau"]) for loss in self.spec.losses.values() if loss.params.get("tau")]
            by_teacher = on_validation(distiller, self._val, taus)
            figures: Diagnosis = {**by_teacher[0], **on_training(distiller, self._train)}
            if len(by_teacher) > 1:
                figures["teachers"] = by_teacher
            return figures


@contextmanager
def unchanged(distiller: Distiller) -> Iterator[None]:
    """Restores, at its end, all state that forward and backward passes change.

    Within it, each of several workers computes its losses without the others.
    """
    state = random_state()
    buffers = [(buffer, buffer.detach().clone()) for buffer in distiller.buffers()]
    modes = [(module, module.training) for module in distiller.modules()]
    teachers = distiller.teachers
    try:
        with collectives.local_only():
            seed_everything(0, 0)
            yield
    finally:
        distiller.teachers = teachers
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        for module, mode in modes:
            module.training = mode
        set_random_state(state)


def training_batches(loader: Any, count: int) -> list[Any]:
    """Batches of training images, evenly spread over the dataset, with augmentations that the run never draws."""
    dataset, size = loader.dataset, int(loader.batch_size or 1)
    total = count * size
    indices = [number * len(dataset) // total for number in range(total)]
    samples = [dataset[FIRST_DRAW + number, index] for number, index in enumerate(indices)]
    return [pseudo_collate(samples[start : start + size]) for start in range(0, total, size)]


def validation_batches(loader: Any, images: int) -> list[Any]:
    """Batches of validation images, evenly spread; each is a batch of the validation, so its images have one shape."""
    dataset, size = loader.dataset, int(loader.batch_size or 1)
    total = -(-len(dataset) // size)
    count = min(total, -(-images // size))
    starts = [number * total // count * size for number in range(count)]
    return [
        pseudo_collate([dataset[index] for index in range(start, min(start + size, len(dataset)))]) for start in starts
    ]


# --- on validation images -------------------------------------------------------------------------------------------


@torch.no_grad()
def on_validation(distiller: Distiller, batches: Sequence[Any], taus: Sequence[float]) -> list[ValidationFigures]:
    """Compares the predictions of the student and of each teacher on validation images.

    Args:
        distiller: the distiller, in train or eval mode.
        batches: batches of inputs and data samples as a loader returns them; they are not modified.
        taus: temperatures of the losses.

    Returns:
        For each teacher, in percent of the labelled pixels: ``agreement`` (both predict the same class),
        ``student_error`` and ``teacher_error``. In percent of the teacher's errors: ``errors_repeated``, where the
        student predicts the same wrong class. In percent of the student's errors: ``errors_to_learn``, where the
        teacher is right. For the teacher: ``teacher_confidence`` and ``teacher_calibration_error`` in percent, and
        ``teacher_entropy`` (temperature -> share of the largest possible entropy, 0 to 1). The entry is empty for a
        teacher whose classes are not the student's.
    """
    student, teachers = distiller.student, [teacher.model for teacher in distiller.teachers]
    comparable = [not why_unscored(teacher, student) for teacher in teachers]
    counts = [_Counts(sorted({*TEMPERATURES, *taus})) for _ in teachers]
    if not any(comparable):
        return [{} for _ in teachers]
    student.eval()
    for teacher in teachers:
        teacher.to(next(student.parameters()).device)
    for batch in batches:
        student_results = student.val_step(copy.deepcopy(batch))  # type: ignore[operator]
        for teacher, own, same_classes in zip(teachers, counts, comparable, strict=True):
            if same_classes:
                teacher_results = teacher.val_step(copy.deepcopy(batch))  # type: ignore[operator]
                _count(own, student_results, teacher_results, ignore_index(student))
    return [own.figures() for own in counts]


def _count(counts: _Counts, student_results: Sequence[Any], teacher_results: Sequence[Any], ignore: int) -> None:
    """Adds the labelled pixels of a batch; the results are data samples as mmseg's ``val_step`` returns them."""
    for student_result, teacher_result in zip(student_results, teacher_results, strict=True):
        label = student_result.gt_sem_seg.data.flatten()
        step = max(1, label.numel() // MAX_PIXELS)
        if label.numel() != student_result.pred_sem_seg.data.numel():
            continue  # the config scores predictions at another size than the mask's, with its own metric
        valid = (label[::step] != ignore).nonzero().flatten()
        student_class = student_result.pred_sem_seg.data.flatten()[::step][valid]
        teacher_class = teacher_result.pred_sem_seg.data.flatten()[::step][valid]
        logits = teacher_result.seg_logits.data.flatten(1)[:, ::step][:, valid].float()
        counts.add(label[::step][valid].to(student_class.device), student_class, teacher_class, logits)


class _Counts:
    """Sums over pixels."""

    def __init__(self, temperatures: Sequence[float]) -> None:
        self.pixels = self.agree = self.student_wrong = self.teacher_wrong = self.repeated = self.to_learn = 0
        self.entropy = dict.fromkeys(temperatures, 0.0)
        self.bins = torch.zeros(3, BINS, dtype=torch.float64)  # rows: pixels, sum of confidence, correct pixels
        self.classes = 2

    def add(self, label: Tensor, student: Tensor, teacher: Tensor, logits_cn: Tensor) -> None:
        """Adds the pixels of one image.

        ``logits_cn`` are the teacher's logits; a single channel is the probability of class 1.
        """
        same, student_wrong, teacher_wrong = student == teacher, student != label, teacher != label
        self.pixels += label.numel()
        self.agree += int(same.sum())
        self.student_wrong += int(student_wrong.sum())
        self.teacher_wrong += int(teacher_wrong.sum())
        self.repeated += int((same & teacher_wrong).sum())
        self.to_learn += int((student_wrong & ~teacher_wrong).sum())
        if len(logits_cn) == 1:  # mmseg has applied the sigmoid already
            z = logits_cn.double().clamp(1e-7, 1 - 1e-7).logit()
            logits_cn = torch.cat([torch.zeros_like(z), z])
        self.classes = len(logits_cn)
        for tau in self.entropy:
            logarithm = torch.log_softmax(logits_cn / tau, dim=0)
            self.entropy[tau] -= float((logarithm.exp() * logarithm).sum())
        confidence, chosen = torch.softmax(logits_cn, dim=0).max(dim=0)
        place = (confidence * BINS).long().clamp(max=BINS - 1).cpu()
        for row, values in enumerate((torch.ones_like(confidence), confidence, (chosen == label).to(confidence))):
            self.bins[row].index_add_(0, place, values.double().cpu())

    def figures(self) -> ValidationFigures:
        if not self.pixels:
            return {}
        count, confidence, right = self.bins
        return {
            "pixels": self.pixels,
            "agreement": _percent(self.agree, self.pixels),
            "student_error": _percent(self.student_wrong, self.pixels),
            "teacher_error": _percent(self.teacher_wrong, self.pixels),
            "errors_repeated": _percent(self.repeated, self.teacher_wrong),
            "errors_to_learn": _percent(self.to_learn, self.student_wrong),
            "teacher_confidence": _percent(float(confidence.sum()), float(count.sum())),
            "teacher_calibration_error": _percent(float((confidence - right).abs().sum()), float(count.sum())),
            "teacher_entropy": {
                f"{tau:g}": round(total / self.pixels / math.log(self.classes), 5)
                for tau, total in self.entropy.items()
            },
        }


# --- on training images ---------------------------------------------------------------------------------------------


def on_training(distiller: Distiller, batches: Sequence[Any]) -> GradientFigures:
    """Compares the gradients of the task loss and of the weighted distillation losses at the student's weights.

    Args:
        distiller: the distiller, in train or eval mode.
        batches: batches of inputs and data samples as a loader returns them; they are not modified.

    Returns:
        Means over the batches: ``gradient_task`` and ``gradient_distill`` (Euclidean lengths; the second is that of all
        distillation losses together), ``gradient_ratio`` (the second divided by the first), ``gradient_cosine`` (-1 to
        1), and ``terms``: name of a loss -> its ``ratio`` and ``cosine`` to the task's gradient, and its ``raw`` value
        before the weight.
    """
    distiller.train()
    weights = [parameter for parameter in distiller.student.parameters() if parameter.requires_grad]
    entries: list[dict[str, float]] = []
    for batch in batches:
        with distiller.capture:
            data = distiller.data_preprocessor(copy.deepcopy(batch), True)
            losses = distiller.loss(data["inputs"], data["data_samples"])
            terms = {name: losses[f"distill.loss_{name}"] for name in distiller.terms}
            task = _gradient(task_loss(losses), weights)
            parts = {name: _gradient(loss, weights) for name, loss in terms.items()}
        distill = sum(parts.values(), torch.zeros_like(task))
        entry = {"task": float(task.norm()), "distill": float(distill.norm()), "cosine": _cosine(task, distill)}
        for name, part in parts.items():
            entry |= {f"length {name}": float(part.norm()), f"cosine {name}": _cosine(task, part)}
            entry[f"raw {name}"] = float(losses[f"raw/{name}"])
        entries.append(entry)
    mean = {key: _mean([entry[key] for entry in entries]) for key in (entries[0] if entries else ())}
    if not mean:
        return {}
    task_length = mean["task"]
    return {
        "gradient_task": task_length,
        "gradient_distill": mean["distill"],
        "gradient_ratio": _ratio(mean["distill"], task_length),
        "gradient_cosine": mean["cosine"],
        "terms": {
            name: {
                "ratio": _ratio(mean[f"length {name}"], task_length),
                "cosine": mean[f"cosine {name}"],
                "raw": mean[f"raw {name}"],
            }
            for name in distiller.terms
        },
    }


def _gradient(loss: Tensor, weights: Sequence[nn.Parameter]) -> Tensor:
    """The gradient of a loss with respect to all weights, as one float32 vector; 0 for weights that it does not use."""
    return torch.cat(
        [
            (torch.zeros_like(weight) if gradient is None else gradient).flatten().float()
            for weight, gradient in zip(weights, gradients(loss, weights), strict=True)
        ]
    )


def _cosine(left: Tensor, right: Tensor) -> float:
    lengths = float(left.norm()) * float(right.norm())
    return float(left @ right) / lengths if lengths > 0 else math.nan


def _ratio(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None


def _mean(values: Sequence[float]) -> float | None:
    """The mean of the finite values; None if there is none."""
    numbers = [value for value in values if math.isfinite(value)]
    return float(f"{sum(numbers) / len(numbers):.6g}") if numbers else None


def _percent(part: float, whole: float) -> float | None:
    return round(100 * part / whole, 4) if whole else None
