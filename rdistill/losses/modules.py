"""Losses with layers or state, and :class:`Term`: one configured loss of a distillation."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rdistill.core.errors import UserError
from rdistill.distributed import collectives
from rdistill.schemas.mappings import LossParams

from . import LOSSES, LossInfo, Switch, check_params, functional
from .resize import resize_bilinear


class Adapter(nn.Module):
    """Fits a student's feature to a teacher's: the channels by a 1x1 convolution, the size by resizing.

    If the channels are equal (and not ``always``), it has no convolution and no parameters, because DDP does not
    accept parameters without a gradient.

    Shapes: student N x ``student_channels`` x h x w -> N x ``teacher_channels`` x ``size``, resized
    bilinearly with ``align_corners=False``.
    """

    def __init__(self, student_channels: int, teacher_channels: int, *, always: bool = False) -> None:
        super().__init__()
        self.project: nn.Module = nn.Identity()
        if always or student_channels != teacher_channels:
            self.project = nn.Conv2d(student_channels, teacher_channels, kernel_size=1)

    def forward(self, student: Tensor, size: Sequence[int]) -> Tensor:
        return resize_bilinear(self.project(student), size)


class MGD(nn.Module):
    """Masked generative distillation: regenerate the teacher's feature from a quarter of the student's.

    The student's feature is aligned by an :class:`Adapter`, a random share ``mask_ratio`` of its positions
    (the same for every channel) is zeroed, and conv3-ReLU-conv3 generates the teacher's from the rest.

    Paper: Yang et al., ECCV 2022, arXiv 2205.01529.
    """

    def __init__(self, student_channels: int, teacher_channels: int) -> None:
        super().__init__()
        self.adapter = Adapter(student_channels, teacher_channels)
        self.generate = nn.Sequential(
            nn.Conv2d(teacher_channels, teacher_channels, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(teacher_channels, teacher_channels, kernel_size=3, padding=1),
        )

    def forward(self, student: Tensor, teacher: Tensor, *, mask_ratio: float = 0.75) -> Tensor:
        return functional.mgd(self.generated(student, teacher, mask_ratio=mask_ratio), teacher)

    def generated(self, student: Tensor, teacher: Tensor, *, mask_ratio: float) -> Tensor:
        """The feature generated from the student's: N x teacher channels x H x W of ``teacher``."""
        aligned = self.adapter(student, teacher.shape[-2:])
        n, _, height, width = aligned.shape
        keep = torch.rand((n, 1, height, width), device=aligned.device) >= mask_ratio
        generated: Tensor = self.generate(aligned * keep)
        return generated


class ClassQueue(nn.Module):
    """A ring buffer of embeddings for each class, kept in buffers, so that a resumed run continues with it.

    Nothing here waits for the device: entries that are not present are written to a spare slot behind the ring.
    """

    keys: Tensor  # classes x (size + 1) x C
    written: Tensor  # classes: number of entries ever written

    def __init__(self, num_classes: int, size: int, channels: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("keys", torch.zeros(num_classes, size + 1, channels))
        self.register_buffer("written", torch.zeros(num_classes, dtype=torch.long))

    @torch.no_grad()
    def push(self, keys: Tensor, present: Tensor) -> None:
        """Writes ``keys`` (classes x M x C) where ``present`` (classes x M, bool) is True, over the oldest entries.

        Keys that are not finite are not written, because they would be sampled in many later steps.
        """
        if keys.shape[1] > self.size:
            raise ValueError(f"a queue of {self.size} cannot take {keys.shape[1]} entries a class at once; enlarge it")
        present = present & keys.isfinite().all(dim=2)
        keys = torch.where(present.unsqueeze(2), keys, 0.0)
        position = self.written.unsqueeze(1) + present.cumsum(dim=1) - 1
        slot = torch.where(present, position % self.size, self.size)
        classes = torch.arange(len(keys), device=keys.device).unsqueeze(1)
        self.keys[classes, slot] = keys.to(self.keys.dtype)
        self.written += present.sum(dim=1)

    @torch.no_grad()
    def sample(self, total: int) -> tuple[Tensor, Tensor]:
        """Samples about ``total`` keys with replacement, equally many of each class.

        Returns:
            The keys, K x C, and whether each of them is filled, K bool.
        """
        per_class = total // len(self.keys) + 1
        filled = self.written.clamp(max=self.size).unsqueeze(1)
        uniform = torch.rand((len(self.keys), per_class), device=self.keys.device)
        # Rounding in float32 may give `filled` itself, which is out of range.
        slot = torch.minimum((uniform * filled).long(), (filled - 1).clamp(min=0))
        classes = torch.arange(len(self.keys), device=self.keys.device).unsqueeze(1)
        return self.keys[classes, slot].flatten(0, 1), (filled > 0).expand(-1, per_class).flatten()


class CIRKDMemory(nn.Module):
    """CIRKD's memory bank: pixel and region embeddings of the teacher, and the student's projection to them.

    For every image and class, each training step writes the mean embedding to the region queue, and up to
    ``pixels_per_class`` random pixels of that class to the pixel queue, gathered from all workers. (For the pixel
    queue, the authors' code takes pixels of any class, their paper pixels of that class.) Then student and teacher are
    compared with a sample of both queues. Ignored pixels are left out everywhere, also in the projection's BatchNorm,
    where the authors' code includes them. All workers must have the same number of images. Buffers: classes x (pixel +
    region queue) x teacher channels floats (428 MB at 19 classes and 256 channels with the authors' sizes).

    Paper: Yang et al., CVPR 2022, arXiv 2204.06986.
    """

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        num_classes: int,
        *,
        pixel_queue_size: int = 20000,
        region_queue_size: int = 2000,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        # mmengine replaces this by SyncBatchNorm if a config sets `sync_bn`; on a CPU there is none.
        self.project = nn.Sequential(
            nn.Conv2d(student_channels, teacher_channels, kernel_size=1, bias=False),
            nn.BatchNorm2d(teacher_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(teacher_channels, teacher_channels, kernel_size=1, bias=False),
        )
        self.pixels = ClassQueue(num_classes, pixel_queue_size, teacher_channels)
        self.regions = ClassQueue(num_classes, region_queue_size, teacher_channels)

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        label: Tensor,
        *,
        ignore_index: int = 255,
        tau: float = 0.1,
        kd_tau: float = 1.0,
        grid: int = 32,
        pixels_per_class: int = 16,
        pixel_contrast_size: int = 4096,
        region_contrast_size: int = 1024,
    ) -> Tensor:
        """The sum of the pixel part and the region part. ``label`` is N x H x W, at any resolution."""
        size = teacher.shape[-2:]
        label = functional.resize_nearest(label, size)
        mask = functional.valid_labels(label, self.num_classes, ignore_index)
        projected = resize_bilinear(self.project(_without_ignored(student, mask)), size)
        if self.training:
            self._remember(teacher, label, ignore_index, pixels_per_class)
        losses = []
        for queue, total in ((self.pixels, pixel_contrast_size), (self.regions, region_contrast_size)):
            keys, key_mask = queue.sample(total)
            losses.append(
                functional.cirkd_memory(
                    projected, teacher, keys, mask=mask, key_mask=key_mask, tau=tau, kd_tau=kd_tau, grid=grid
                )
            )
        return losses[0] + losses[1]

    @torch.no_grad()
    def _remember(self, teacher: Tensor, label: Tensor, ignore_index: int, pixels_per_class: int) -> None:
        with functional.without_autocast(teacher.device.type):
            teacher = functional.at_least_float32(teacher).flatten(2)  # N x C x HW
            usable = teacher.isfinite().all(dim=1, keepdim=True)
            masks = functional.class_masks(label, self.num_classes, ignore_index) & usable  # N x classes x HW
            # Replace values that are not used: the product of 0 and NaN is NaN.
            features = functional.unit(torch.where(masks.any(dim=1, keepdim=True), teacher, 0.0), dim=1)
            means = functional.unit(functional.class_means(features, masks), dim=2)  # N x classes x C
            score = torch.rand((len(masks), 1, masks.shape[2]), device=masks.device)
            score, index = torch.where(masks, score, -1.0).topk(min(pixels_per_class, masks.shape[2]), dim=2)
            images = torch.arange(len(masks), device=masks.device).view(-1, 1, 1)
            chosen = features.transpose(1, 2)[images, index]  # N x classes x M x C
        # The queues take classes as the first dimension and the images of all workers after it.
        self.regions.push(
            collectives.gather(means).transpose(0, 1),
            collectives.gather(masks.any(dim=2)).T,
        )
        self.pixels.push(
            collectives.gather(chosen).transpose(0, 1).flatten(1, 2),
            collectives.gather(score >= 0).transpose(0, 1).flatten(1, 2),
        )


def _without_ignored(student: Tensor, valid: Tensor) -> Tensor:
    """Replaces the ignored positions of a student's feature (N x C x h x w) by valid ones, each of them in turn.

    So BatchNorm computes its statistics from valid positions alone. ``valid`` is N x H x W. It may have another size if
    the feature is resized to it later; a position then counts as valid if a valid one is interpolated from it. If no
    position is valid, the result is 0.
    """
    n, channels, *size = student.shape
    if valid.shape[1:] != student.shape[2:]:
        cells = F.adaptive_max_pool2d(valid.float().unsqueeze(1), size)
        valid = F.max_pool2d(cells, kernel_size=3, stride=1, padding=1).squeeze(1) > 0
    valid = valid.flatten()
    positions = valid.int().argsort(descending=True, stable=True)  # the valid positions in order, then the others
    replacement = ((~valid).cumsum(dim=0) - 1) % valid.sum().clamp(min=1)
    source = torch.where(valid, torch.arange(len(valid), device=valid.device), positions[replacement])
    filled = student.movedim(1, 3).reshape(-1, channels)[source]
    return torch.where(valid.any(), filled, 0.0).view(n, *size, channels).movedim(3, 1)


class Term(nn.Module):
    """One configured loss of a distillation: adapts the student, masks ignored pixels, computes the raw loss.

    Args:
        type: a name in :data:`rdistill.losses.LOSSES`.
        student_channels, teacher_channels: channels of the compared tensors (for DSD, of the last layer).
        num_classes: number of classes of the dataset; labels are 0 to num_classes - 1 or ``ignore_index``. It may
            differ from the channels of a head: for two classes a head may have one channel, the logit z of a sigmoid.
            KL, DKD and DIST use it as the logits (0, z), whose softmax is that sigmoid. If only one side has such a
            head, the other losses compare z with the difference of the two logits of the other side.
        ignore_index: label of the pixels that a loss on logits (and IFVD, CIRKDMemory) leaves out.
        params: the loss's parameters; missing ones get their defaults. On logits there is also ``at``: ``"label"``
            upsamples both logits to the resolution of the label, ``"logits"`` compares at the teacher's resolution.
        on_logits: whether logits are compared; otherwise features.

    Attributes:
        params: the current parameters, read in every forward pass: changing an entry changes the loss, except for
            the parameters in ``built_in``.
        built_in: names of the parameters that the constructor of the loss's module has used, such as a queue's size.

    Errors: :class:`rdistill.core.errors.UserError` (a ``ValueError``) for an unknown type, parameters that do not
    fit, logits with different numbers of classes, or a single channel for which a loss has no gradient.
    """

    params: LossParams

    def __init__(
        self,
        type: str,
        *,
        student_channels: int,
        teacher_channels: int,
        num_classes: int,
        ignore_index: int = 255,
        params: Mapping[str, Any] | None = None,
        on_logits: bool = False,
    ) -> None:
        super().__init__()
        on = "logits" if on_logits else "features"
        if problems := check_params(type, params or {}, on):
            raise UserError(*(f"{type}: {problem}" for problem in problems))
        self.info = info = LOSSES[type]
        if on_logits:
            _check_classes(info, student_channels, teacher_channels)
        else:
            _check_feature_channels(info, student_channels, teacher_channels)
        self.logit_channels = _logit_channels(info, student_channels, teacher_channels)
        self.loss_type, self.on_logits, self.ignore_index = type, on_logits, ignore_index
        self.params = {**info.default_params(on), **(params or {})}
        _check_switches(info, on, self.params, num_classes if on_logits else teacher_channels)
        self.adapter: Adapter | None = None
        self.module: nn.Module | None = None
        self.built_in: tuple[str, ...] = ()
        if (module := info.load_module()) is not None:
            self.module, self.built_in = _build(
                module, student_channels, teacher_channels, {**self.params, "num_classes": num_classes}
            )
            _check_buffers(info, self.module)
        elif info.channels != "any" and not on_logits:
            self.adapter = Adapter(student_channels, teacher_channels, always=info.channels == "projected")
        self._function = info.load()
        accepted = inspect.signature(self.module.forward if self.module else self._function).parameters
        self._takes_mask, self.needs_label = "mask" in accepted, on_logits or info.label
        self._label_arguments = {
            name: value
            for name, value in {"ignore_index": ignore_index, "num_classes": num_classes}.items()
            if name in accepted
        }

    def extra_repr(self) -> str:
        return f"{self.loss_type}, on={'logits' if self.on_logits else 'features'}, {self.params}"

    def forward(
        self,
        student: Tensor | Sequence[Tensor],
        teacher: Tensor | Sequence[Tensor],
        label_nhw: Tensor | None = None,
        seen_nhw: Tensor | None = None,
    ) -> Tensor:
        """Computes the raw loss, before its weight, as a float32 scalar.

        Args:
            student, teacher: N x C x H x W each; for DSD also sequences of layers, of equal lengths.
            label_nhw: N x H x W long; it may be left out if ``needs_label`` is false.
            seen_nhw: N x H x W bool: the pixels that a loss on logits uses, if it does not need the labels. None: the
                pixels that have a label.

        Errors: ``ValueError`` for a missing label, a label of a wrong shape, or tensors that do not fit together.
        """
        if label_nhw is None and self.needs_label:
            raise ValueError(f"{self.loss_type} needs the label (N x H x W)")
        if label_nhw is not None and label_nhw.ndim != 3:
            raise ValueError(f"{self.loss_type}: label must be N x H x W, got {tuple(label_nhw.shape)}")
        arguments = {name: value for name, value in self.params.items() if name not in self.built_in}
        arguments |= self._label_arguments
        if self.on_logits:
            assert label_nhw is not None
            size = _last(teacher).shape[-2:] if arguments.pop("at") == "logits" else label_nhw.shape[-2:]
            label_nhw = functional.resize_nearest(label_nhw, size)
            if seen_nhw is None or self.info.label:
                seen_nhw = label_nhw != self.ignore_index
            student, teacher = (self._resized_logits(logits, size) for logits in (student, teacher))
            if self._takes_mask:
                arguments["mask"] = functional.resize_nearest(seen_nhw, size)
        else:
            self._check_positions(_last(teacher))
        if not self.on_logits and self.module is None:
            student = self._match(student, _last(teacher).shape[-2:])
        if self.info.label:
            arguments["label"] = label_nhw
        with collectives.exchanging(self.loss_type, self.info.exchanges):
            if self.module is None:
                loss: Tensor = self._function(student, teacher, **arguments)
                return loss
            return functional.at_least_float32(self.module(student, _detached(teacher), **arguments))

    def _resized_logits(self, logits: Tensor | Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """The logits at the compared size and number of channels.

        They are resized in float32: bfloat16 would round every upsampled logit, and the loss is a small difference.
        """
        if not isinstance(logits, Tensor):
            raise ValueError(f"logits must be one tensor, got {len(logits)}; several layers go on features")
        resized = resize_bilinear(functional.at_least_float32(logits), size)
        return functional.with_logit_channels(resized, self.logit_channels)

    def _check_positions(self, teacher: Tensor) -> None:
        if "positions" in self.info.constant_over and teacher.shape[-2:] == (1, 1):
            raise UserError(
                f"{self.loss_type}: the teacher's feature is 1 x 1, and one position has nothing to be compared "
                "with: nothing can be learnt; choose a feature of more positions, or L2 or Cosine"
            )

    def _match(self, student: Tensor | Sequence[Tensor], size: Sequence[int]) -> Tensor | list[Tensor]:
        """The student's feature (the last one of several) with the teacher's size and, if needed, channels."""
        last = _last(student)
        last = self.adapter(last, size) if self.adapter is not None else resize_bilinear(last, size)
        return last if isinstance(student, Tensor) else [*student[:-1], last]


def _build(
    module: type, student_channels: int, teacher_channels: int, options: Mapping[str, Any]
) -> tuple[nn.Module, tuple[str, ...]]:
    """The module of a loss, and the names of the parameters that its constructor takes."""
    accepted = [name for name in inspect.signature(module).parameters if name in options]
    built: nn.Module = module(student_channels, teacher_channels, **{name: options[name] for name in accepted})
    return built, tuple(name for name in accepted if name != "num_classes")


def _check_buffers(info: LossInfo, module: nn.Module) -> None:
    """Raises UserError unless a loss is declared with ``buffers=True`` exactly if its module has buffers."""
    names = [name for name, _ in module.named_buffers()]
    if bool(names) != info.buffers:
        has = f"has buffers ({names[0]})" if names else "has no buffers"
        raise UserError(
            f"loss {info.name!r}: its module {has}, and it is declared with buffers={info.buffers}; register it with "
            f"buffers={not info.buffers}"
        )


def _logit_channels(info: LossInfo, student_channels: int, teacher_channels: int) -> int:
    """The number of channels in which logits are compared: at least 2 for a softmax, otherwise the smaller number."""
    channels = min(student_channels, teacher_channels)
    return 2 if channels == 1 and info.softmax else channels


def _check_classes(info: LossInfo, student_channels: int, teacher_channels: int) -> None:
    if student_channels != teacher_channels and {student_channels, teacher_channels} != {1, 2}:
        raise UserError(
            f"{info.name}: logits must have as many classes, got a student of {student_channels} and a teacher of "
            f"{teacher_channels}; map the teacher's classes to the student's by its `classes`, or distil features "
            f"instead"
        )
    if "channels" in info.constant_over and not info.softmax and 1 in (student_channels, teacher_channels):
        raise UserError(
            f"{info.name}: logits of one channel (out_channels=1) have no direction but their sign, nothing can be "
            "learnt; use KL or L2"
        )


def _check_switches(info: LossInfo, on: str, params: Mapping[str, Any], channels: int) -> None:
    for name, parameter in info.parameters(on).items():
        if isinstance(parameter, Switch) and params[name] and channels < parameter.min_channels:
            raise UserError(
                f"{info.name}: {name}=True needs at least {parameter.min_channels} "
                f"{'classes' if on == 'logits' else 'channels'}, got {channels}: with fewer nothing can be learnt; "
                f"leave {name} out"
            )


def _check_feature_channels(info: LossInfo, student_channels: int, teacher_channels: int) -> None:
    """Raises UserError for a loss over the channels if a side has only one.

    Both sides have the teacher's channels, except for losses that allow different numbers.
    """
    if "channels" not in info.constant_over:
        return
    compared = {"teacher": teacher_channels}
    if info.channels == "any":
        compared["student"] = student_channels
    for side, channels in compared.items():
        if channels == 1:
            raise UserError(
                f"{info.name}: the {side}'s feature has one channel, over which {info.name} is constant: nothing can "
                "be learnt; choose a feature of several channels, or CWD, AT or L2"
                + (f", or {info.name} with on='logits'" if info.softmax and "logits" in info.on else "")
            )


def _detached(x: Tensor | Sequence[Tensor]) -> Tensor | list[Tensor]:
    return x.detach() if isinstance(x, Tensor) else [layer.detach() for layer in x]


def _last(x: Tensor | Sequence[Tensor]) -> Tensor:
    return x if isinstance(x, Tensor) else x[-1]
