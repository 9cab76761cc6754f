"""Tries one training step, without changing the model: it must run and give finite losses and gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from mmengine.config import Config, ConfigDict
from mmengine.dataset import pseudo_collate
from torch import Tensor

from rdistill.config.distill_spec import DistillSpec
from rdistill.config.load import LoadedConfig
from rdistill.config.walk import leaves
from rdistill.core.errors import UserError, error_line
from rdistill.core.words import counted, listed
from rdistill.data.random_state import random_state_of
from rdistill.data.unlabeled import training_data, without_label
from rdistill.distill.batch_labels import BatchLabels, batch_labels, mapped_mask
from rdistill.distill.distiller import Distiller
from rdistill.distill.routes import build_term, make_route, single_or_list, with_class_maps
from rdistill.distill.teacher import Teacher
from rdistill.distributed import collectives as training_workers
from rdistill.models.class_map import masking_models
from rdistill.models.features import FeatureCapture, as_maps
from rdistill.models.packages import absent_behind, absent_packages
from rdistill.models.precision import autocast
from rdistill.models.quiet_mmseg import DATASETS
from rdistill.models.segmentor import ignore_index, input_channels, labels_of, logit_names, run_heads
from rdistill.models.shapes import probe_features
from rdistill.schemas.data import Batch, Packed

MAX_NAMES = 3  # number of parameters that a problem lists


def tiny_batch(config: Config | LoadedConfig, images: int, seed: int) -> Batch:
    """Loads a batch of the first training images, with images without masks in the run's proportion.

    Args:
        config: config of the run.
        images: number of images with masks.
        seed: seed of the augmentation.

    Raises:
        UserError: the dataset or its pipeline fails.
    """
    run = LoadedConfig.of(config)
    data = training_data(run)
    with random_state_of(seed, 0):
        samples = _first_images(data.labeled, images, "train_dataloader.dataset")
        if data.unlabeled is not None:
            count = data.unlabeled_for(images, int(run.cfg.train_dataloader.batch_size))
            samples += map(without_label, _first_images(data.unlabeled, count, "distill.unlabeled"))
    batch: Batch = pseudo_collate(samples)
    return batch


def _first_images(section: ConfigDict, count: int, where: str) -> list[Packed]:
    for _, leaf in leaves(section):
        leaf.setdefault("serialize_data", False)  # serialising would run the garbage collector of the whole process
    try:
        dataset = DATASETS.build(section)
        return [dataset[index % len(dataset)] for index in range(count)]
    except Exception as error:  # a user's dataset or pipeline may raise anything
        reason = absent_packages(section) or f"the pipeline fails: {error_line(error)}"
        raise UserError(f"{where}: {reason}") from error


def check_batch(distiller: Distiller, cfg: Config, batch: Batch, *, workers: int = 1) -> list[str]:
    """Runs one forward and backward pass; returns problems such as losses or gradients that are not finite.

    Args:
        distiller: the models; they are restored bit by bit afterwards.
        cfg: config of the run.
        batch: from :func:`tiny_batch`.
        workers: with several, every parameter must get a gradient, unless the config sets find_unused_parameters.
    """
    files = ", ".join(Path(sample.img_path).name for sample in batch["data_samples"])
    if problem := _channel_problem(distiller.student, batch):
        return [f"{problem} ({files})"]
    try:
        with untouched(distiller), distiller.capture:
            data = distiller.data_preprocessor(batch, True)
            with autocast(cfg.optim_wrapper, data["inputs"].device.type):
                losses = distiller.loss(data["inputs"], data["data_samples"])
                total, values = distiller.parse_losses(losses)
            infinite_losses = [
                key for key, value in values.items() if key != "loss" and not torch.isfinite(value).all()
            ]
            if infinite_losses:
                return [f"one step of training on {files}: {', '.join(infinite_losses)} is not finite"]
            total.backward()
            return _gradient_problems(distiller, workers > 1 and not finds_unused_parameters(cfg))
    except Exception as error:
        return [f"one step of training on {files} fails: {absent_behind(error) or error_line(error)}"]


def class_map_notes(distiller: Distiller, batch: Batch) -> list[str]:
    """Returns a note on each teacher whose class map leaves losses on logits no pixel of the batch.

    Such a loss is 0, and the training would go on without it.
    """
    models = [teacher.model for teacher in distiller.teachers]
    notes = []
    for index in masking_models(models):
        teacher = distiller.teachers[index]
        with untouched(distiller), torch.no_grad():
            inputs = distiller.data_preprocessor(batch, True)["inputs"]
            logits = Teacher(teacher.model, teacher.heads[:1], distiller.student.data_preprocessor)(inputs)
        mapped_nhw = mapped_mask(logits[teacher.heads[0]], inputs.shape[2:])
        if not bool(mapped_nhw.any()):
            notes.append(
                f"distill.teachers[{index}].classes: on each pixel of the first {counted(len(inputs), 'image')} the "
                f"teacher predicts a class that is mapped to none, so losses on logits use no pixel; map more classes, "
                f"or set unmapped='renormalise'"
            )
    return notes


def _channel_problem(student: torch.nn.Module, batch: Batch) -> str | None:
    """Returns a problem if the student accepts another number of channels than the pipeline loads, or None."""
    image_channels, model_channels = int(batch["inputs"][0].shape[0]), input_channels(student)
    mean = getattr(student.data_preprocessor, "mean", None)
    means = 1 if mean is None else int(mean.numel())
    if image_channels not in (1, means) and means != 1:
        return (
            f"model.data_preprocessor.mean: has {means} values, but the training images have {image_channels} "
            f"channels; give mean and std one value, which then applies to every channel"
        )
    if max(image_channels, means) != model_channels:
        return (
            f"model.backbone.in_channels: the student takes images of {model_channels} channels, but the training "
            f"images have {image_channels}; set it to {image_channels}, or set the "
            f"pipeline's color_type to that of the images"
        )
    return None


def finds_unused_parameters(cfg: Config) -> bool:
    """Returns whether DDP searches for parameters without a gradient; mmengine has two keys for this."""
    wrapper = cfg.get("model_wrapper_cfg")
    return bool((cfg if wrapper is None else wrapper).get("find_unused_parameters", False))


@contextmanager
def untouched(distiller: Distiller) -> Iterator[None]:
    """Switches to training mode within the context, then restores buffers, gradients, modes and random state."""
    buffers = [(buffer, buffer.detach().clone()) for buffer in distiller.buffers()]
    modes = [(module, module.training) for module in distiller.modules()]
    distiller.train()
    try:
        with random_state_of(0), training_workers.local_only():  # another worker may have stopped at a problem
            yield
    finally:
        with torch.no_grad():
            for buffer, saved in buffers:
                buffer.copy_(saved)
        for parameter in distiller.parameters():
            parameter.grad = None
        for module, mode in modes:
            module.training = mode


@dataclass(frozen=True)
class Captured:
    """Features and logits of one batch, on which each loss can be tried separately."""

    student: dict[str, Tensor]  # name of a feature or head -> N x C x H x W
    teachers: list[dict[str, Tensor]]
    label_nhw: Tensor


def capture_batch(distiller: Distiller, spec: DistillSpec, batch: Batch) -> Captured:
    """Runs student and teachers once, and captures all listed features and all logits.

    Call it within :func:`untouched`. Features that do not occur in a forward pass are left out.
    """
    student = distiller.student
    data = distiller.data_preprocessor(batch, True)
    inputs = data["inputs"]
    size = (inputs.shape[2], inputs.shape[3])
    names = [
        *logit_names(student, training=True),
        *_features_that_run(student, spec.features.student, size, training=True),
    ]
    with FeatureCapture(student, names) as capture, torch.no_grad():
        run_heads(student, student.extract_feat(inputs), names)
        student_features = {name: as_maps(capture[name], size).detach() for name in capture.names}
    teacher_features = []
    for index, teacher in enumerate(distiller.teachers):
        names = [*teacher.heads, *_features_that_run(teacher.model, spec.teacher_features(index), size)]
        teacher_features.append(Teacher(teacher.model, names, student.data_preprocessor)(inputs))
    labels = batch_labels(data["data_samples"], ignore_index(student), on_ignored=distiller.on_ignored)
    return Captured(student_features, teacher_features, labels.label_nhw)


def check_loss(distiller: Distiller, spec: DistillSpec, name: str, captured: Captured) -> list[str]:
    """Builds one loss of a ``distill`` section and runs it forward and backward on captured features."""
    where = f"distill.losses.{name}"
    heads = [teacher.heads for teacher in distiller.teachers]
    try:
        route = make_route(name, spec.losses[name], spec, logit_names(distiller.student, training=True), heads)
        route = with_class_maps(name, route, [teacher.model for teacher in distiller.teachers])
        missing = [feature for feature in route.student_features if feature not in captured.student]
        if missing:
            return [f"{where}: {missing[0]!r} does not run in a forward pass of the student"]
        features = [captured.student[feature].clone().requires_grad_() for feature in route.student_features]
        labels = BatchLabels([], captured.label_nhw, None, len(captured.label_nhw))
        sides = distiller.compared_tensors(route, single_or_list(features), captured.teachers, labels)
        channels = [(side if isinstance(side, Tensor) else side[-1]).shape[1] for side in sides[:2]]
        labels_spec = labels_of(distiller.student)
        term = build_term(name, spec.losses[name], (channels[0], channels[1]), labels_spec, route.classes)
        raw = term.to(features[0].device)(*sides[:2], sides[2].label_nhw, sides[2].seen_nhw)
        if not torch.isfinite(raw):
            return [f"{where}: is not finite on the first training images"]
        gradients = torch.autograd.grad(raw, features, allow_unused=True) if raw.requires_grad else [None]
    except KeyError as error:
        return [f"{where}: {error} does not run in a forward pass of the teacher"]
    except UserError as error:
        return list(error.problems)
    except Exception as error:
        return [f"{where}: fails on the first training images: {error_line(error)}"]
    with_gradient = [gradient for gradient in gradients if gradient is not None]
    if not with_gradient:
        return [f"{where}: gives the student no gradient"]
    finite = all(torch.isfinite(gradient).all() for gradient in with_gradient)
    return [] if finite else [f"{where}: its gradient is not finite on the first training images"]


def _features_that_run(
    model: torch.nn.Module, names: Sequence[str], size: tuple[int, int], *, training: bool = False
) -> list[str]:
    shapes = probe_features(model, names, size, training=training)
    return [name for name, shape in shapes.items() if not isinstance(shape, str)]


def _gradient_problems(distiller: Distiller, all_used: bool) -> list[str]:
    """Returns problems of the gradients; with ``all_used``, every parameter must have one."""
    problems = []
    trained = [(name, parameter) for name, parameter in distiller.named_parameters() if parameter.requires_grad]
    infinite = [
        name for name, parameter in trained if parameter.grad is not None and not torch.isfinite(parameter.grad).all()
    ]
    if infinite:
        problems.append(f"one step of training gives gradients that are not finite: {listed(infinite, MAX_NAMES)}")
    unused = [name for name, parameter in trained if parameter.grad is None]
    if len(unused) == len(trained):
        problems.append("one step of training gives no gradient to any parameter; check the weights and loss_decode")
    elif unused and all_used:
        problems.append(
            f"parameters without a gradient, for which several workers would wait: {listed(unused, MAX_NAMES)}; remove "
            f"these layers from the model, or set find_unused_parameters=True, which makes each step a little slower"
        )
    return problems
