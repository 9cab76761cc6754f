"""Losses with weights or state, and :class:`Term`: one configured loss of a distillation."""

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


class Adapter(nn.Module):
    """Makes a student's feature comparable with a teacher's: channels by a 1x1 convolution, size by resizing.

    Without a convolution (equal channels, unless ``always``) it has no parameters, so that nothing is left
    unused in DDP.

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


def resize_bilinear(x: Tensor, size: Sequence[int]) -> Tensor:
    """N x C x h x w -> N x C x ``size``; ``x`` itself when it has that size."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


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
        """What the convolutions make of the student's feature: N x teacher channels x H x W of ``teacher``."""
        aligned = self.adapter(student, teacher.shape[-2:])
        n, _, height, width = aligned.shape
        keep = torch.rand((n, 1, height, width), device=aligned.device) >= mask_ratio
        generated: Tensor = self.generate(aligned * keep)
        return generated


class ClassQueue(nn.Module):
    """A ring buffer of embeddings for each class, in buffers, so that a resumed run goes on with it.

    Nothing here waits for the device: what an image has not got is written to one slot beyond the ring.
    """

    keys: Tensor  # classes x (size + 1) x C
    written: Tensor  # classes: how many were ever written

    def __init__(self, num_classes: int, size: int, channels: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("keys", torch.zeros(num_classes, size + 1, channels))
        self.register_buffer("written", torch.zeros(num_classes, dtype=torch.long))

    @torch.no_grad()
    def push(self, keys: Tensor, present: Tensor) -> None:
        """Write ``keys`` (classes x M x C) where ``present`` (classes x M, bool), over the oldest entries.

        A key that is not finite is never written: it would be drawn for many steps to come.
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
        """About ``total`` keys, as many of each class, with replacement: K x C and whether each exists
        (K)."""
        per_class = total // len(self.keys) + 1
        filled = self.written.clamp(max=self.size).unsqueeze(1)
        uniform = torch.rand((len(self.keys), per_class), device=self.keys.device)
        # float32 rounding may reach filled itself, hence the clamp.
        slot = torch.minimum((uniform * filled).long(), (filled - 1).clamp(min=0))
        classes = torch.arange(len(self.keys), device=self.keys.device).unsqueeze(1)
        return self.keys[classes, slot].flatten(0, 1), (filled > 0).expand(-1, per_class).flatten()


class CIRKDMemory(nn.Module):
    """CIRKD's memory bank: pixel and region embeddings of the teacher, and the student's projection to them.

    Each training step writes, for every image and class, the mean embedding (region queue) and up to
    ``pixels_per_class`` random pixels of that class (pixel queue; the authors' code takes pixels of any
    class, their paper of the class), gathered from all workers; then contrasts student and teacher against a
    sample of both queues. Ignored pixels count nowhere, also not in the projection's BatchNorm (in the authors' code
    they do there). Workers must have equally many images. Buffers: classes x (pixel + region queue) x teacher
    channels floats (428 MB at 19 classes and 256 channels with the authors' sizes).

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
        # SyncBatchNorm is mmengine's to make of this (`sync_bn` of a config); it does not exist on CPU.
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
        """Pixel part + region part, each weighted 1. ``label``: N x H x W, at any resolution."""
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
            # Replaced, since a mask of 0 times NaN is NaN.
            features = functional.unit(torch.where(masks.any(dim=1, keepdim=True), teacher, 0.0), dim=1)
            means = functional.unit(functional.class_means(features, masks), dim=2)  # N x classes x C
            score = torch.rand((len(masks), 1, masks.shape[2]), device=masks.device)
            score, index = torch.where(masks, score, -1.0).topk(min(pixels_per_class, masks.shape[2]), dim=2)
            images = torch.arange(len(masks), device=masks.device).view(-1, 1, 1)
            chosen = features.transpose(1, 2)[images, index]  # N x classes x M x C
        # The queues want classes first, images (of all workers) after.
        self.regions.push(
            collectives.gather(means).transpose(0, 1),
            collectives.gather(masks.any(dim=2)).T,
        )
        self.pixels.push(
            collectives.gather(chosen).transpose(0, 1).flatten(1, 2),
            collectives.gather(score >= 0).transpose(0, 1).flatten(1, 2),
        )


def _without_ignored(student: Tensor, valid: Tensor) -> Tensor:
    """A student's feature (N x C x h x w) with valid positions, each in turn, in the place of the ignored ones.

    So that a BatchNorm sees the valid ones alone. ``valid``: N x H x W, of another size where the feature will be
    resized to that; then every position stays that a valid one may be interpolated from. Without any valid: zeros.
    """
    n, channels, *size = student.shape
    if valid.shape[1:] != student.shape[2:]:
        cells = F.adaptive_max_pool2d(valid.float().unsqueeze(1), size)
        valid = F.max_pool2d(cells, kernel_size=3, stride=1, padding=1).squeeze(1) > 0
    valid = valid.flatten()
    positions = valid.int().argsort(descending=True, stable=True)  # first the valid ones in order, then the others
    turn = ((~valid).cumsum(dim=0) - 1) % valid.sum().clamp(min=1)
    source = torch.where(valid, torch.arange(len(valid), device=valid.device), positions[turn])
    filled = student.movedim(1, 3).reshape(-1, channels)[source]
    return torch.where(valid.any(), filled, 0.0).view(n, *size, channels).movedim(3, 1)


class Term(nn.Module):
    """One configured loss of a distillation: adapts the student, masks ignored pixels, computes the raw loss.

    Args:
        type: a name in :data:`rdistill.losses.LOSSES`.
        student_channels, teacher_channels: of what is compared (for DSD over several layers: of the last).
        num_classes: of the data set; labels are 0 to num_classes - 1 or ``ignore_index``. Not a head's channels:
            two classes may have one, the logit z of a sigmoid. KL, DKD and DIST compare it as the logits (0, z),
            whose softmax is that sigmoid; where only one side is such a head, the other losses compare z with
            the difference of the other side's two.
        ignore_index: label of the pixels that a loss on logits (and IFVD, CIRKDMemory) leaves out.
        params: the loss's parameters; what is missing gets its default. On logits also ``at``: ``"label"``
            upsamples both logits to the label's resolution, ``"logits"`` compares at the teacher's.
        on_logits: whether logits are compared; otherwise features.

    Attributes:
        params: the parameters in force, read at every forward: changing an entry changes the loss (but for
            those of ``built_in``).
        built_in: names of the parameters that shape the loss's module when it is built, such as a queue's size.

    Errors: :class:`rdistill.core.errors.UserError` (a ``ValueError``) for an unknown type, parameters that do not
    fit, logits whose numbers of classes differ, and a single channel where a loss then has no gradient.
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
        takes = inspect.signature(self.module.forward if self.module else self._function).parameters
        self._takes_mask, self.needs_label = "mask" in takes, on_logits or info.label
        self._about_labels = {
            name: value
            for name, value in {"ignore_index": ignore_index, "num_classes": num_classes}.items()
            if name in takes
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
        """The raw loss, unweighted, a float32 scalar.

        Args:
            student, teacher: N x C x H x W each; for DSD also equally long sequences of layers.
            label_nhw: N x H x W long; may be left out where ``needs_label`` is false.
            seen_nhw: N x H x W bool: where a loss on logits looks that is not about the label; None: where there is a
                label.

        Errors: ``ValueError`` for a missing or misshapen label, or tensors that do not fit together.
        """
        if label_nhw is None and self.needs_label:
            raise ValueError(f"{self.loss_type} needs the label (N x H x W)")
        if label_nhw is not None and label_nhw.ndim != 3:
            raise ValueError(f"{self.loss_type}: label must be N x H x W, got {tuple(label_nhw.shape)}")
        arguments = {name: value for name, value in self.params.items() if name not in self.built_in}
        arguments |= self._about_labels
        if self.on_logits:
            assert label_nhw is not None
            size = _last(teacher).shape[-2:] if arguments.pop("at") == "logits" else label_nhw.shape[-2:]
            label_nhw = functional.resize_nearest(label_nhw, size)
            if seen_nhw is None or self.info.label:
                seen_nhw = label_nhw != self.ignore_index
            student, teacher = (self._as_compared(logits, size) for logits in (student, teacher))
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

    def _as_compared(self, logits: Tensor | Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """In float32: bfloat16 would round every upsampled logit, and the loss is a difference of two."""
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
        """The student's (last) feature with the teacher's size and, if need be, channels."""
        last = _last(student)
        last = self.adapter(last, size) if self.adapter is not None else resize_bilinear(last, size)
        return last if isinstance(student, Tensor) else [*student[:-1], last]


def _build(
    module: type, student_channels: int, teacher_channels: int, options: Mapping[str, Any]
) -> tuple[nn.Module, tuple[str, ...]]:
    """The module of a loss, and the names of the parameters that its constructor takes."""
    takes = [name for name in inspect.signature(module).parameters if name in options]
    built: nn.Module = module(student_channels, teacher_channels, **{name: options[name] for name in takes})
    return built, tuple(name for name in takes if name != "num_classes")


def _check_buffers(info: LossInfo, module: nn.Module) -> None:
    """What a loss has seen goes into every checkpoint with its buffers: the declaration says so, and only then."""
    names = [name for name, _ in module.named_buffers()]
    if bool(names) != info.buffers:
        has = f"has buffers ({names[0]})" if names else "has no buffers"
        raise UserError(
            f"loss {info.name!r}: its module {has}, and it is declared with buffers={info.buffers}; register it with "
            f"buffers={not info.buffers}"
        )


def _logit_channels(info: LossInfo, student_channels: int, teacher_channels: int) -> int:
    """How many channels logits are compared with: a softmax needs two, the others take what both sides have."""
    fewest = min(student_channels, teacher_channels)
    return 2 if fewest == 1 and info.softmax else fewest


def _check_classes(info: LossInfo, student_channels: int, teacher_channels: int) -> None:
    if student_channels != teacher_channels and {student_channels, teacher_channels} != {1, 2}:
        raise UserError(
            f"{info.name}: logits must have as many classes, got a student of {student_channels} and a teacher of "
            f"{teacher_channels}; train both on the same classes, or distil features instead"
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
    """A loss over the channels has the teacher's on both sides, or each model's own."""
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
