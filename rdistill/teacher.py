"""Teachers: frozen models that are asked for logits and features, kept out of everything that trains."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.model import ExponentialMovingAverage, revert_sync_batchnorm
from torch import Tensor, nn

from rdistill import checkpoint
from rdistill.config import TeacherSpec
from rdistill.features import FeatureCapture, as_maps
from rdistill.segmentor import build_segmentor, decode_heads, run_heads, swaps_channels


class Teacher:
    """A model in evaluation mode, without gradients.

    Deliberately no ``nn.Module``: so it is in no optimizer, in no checkpoint, outside DDP, and no
    ``train()`` of its surroundings reaches its dropout or BatchNorm.

    Args:
        model: an mmseg segmentor with its weights.
        feature_names: what is asked of it; see :mod:`rdistill.features`.
        student_preprocessor: normalised the images that it will be given.
        weight: its share where several teachers' logits are averaged.
    """

    def __init__(
        self, model: nn.Module, feature_names: Sequence[str], student_preprocessor: nn.Module, weight: float = 1.0
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.heads = decode_heads(model)
        self.weight = weight
        self.capture = FeatureCapture(model, feature_names)
        self._rescale = _rescaling(student_preprocessor, model.data_preprocessor)

    @torch.no_grad()
    def __call__(self, inputs_nchw: Tensor) -> dict[str, Tensor]:
        """Feature name -> tensor, for one batch as the student's preprocessor normalised it."""
        self.model.to(inputs_nchw.device)
        assert not self.model.training
        size = (inputs_nchw.shape[2], inputs_nchw.shape[3])
        with self.capture:
            features = self.model.extract_feat(self._normalise(inputs_nchw))
            run_heads(self.model, features, self.capture.names)
            return {name: as_maps(self.capture[name].detach(), size) for name in self.capture.names}

    def _normalise(self, inputs_nchw: Tensor) -> Tensor:
        """The same images as this teacher's own preprocessor would give them, where it differs from the student's."""
        if self._rescale is None:
            return inputs_nchw
        flip, scale, shift = self._rescale
        ordered = inputs_nchw.flip(1) if flip else inputs_nchw
        return ordered * scale.to(inputs_nchw) + shift.to(inputs_nchw)


class EmaTeacher(Teacher):
    """The student's own exponential moving average as its teacher (Tarvainen and Valpola, NeurIPS 2017).

    Args:
        student: followed; BatchNorm's statistics are averaged as the weights are.
        decay: share of itself that the teacher keeps at each step.
    """

    def __init__(self, student: nn.Module, feature_names: Sequence[str], decay: float, weight: float = 1.0) -> None:
        self.average = ExponentialMovingAverage(student, momentum=1.0 - decay, update_buffers=True)
        super().__init__(self.average.module, feature_names, student.data_preprocessor, weight)

    def follow(self, student: nn.Module) -> None:
        """Takes one step toward the student; the first time, becomes its copy."""
        self.average.to(next(student.parameters()).device)
        self.average.update_parameters(student)

    def state_dict(self) -> dict[str, Tensor]:
        return self.average.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.average.load_state_dict(state)


def load_teacher_model(spec: TeacherSpec, *, trust_checkpoint: bool = False) -> nn.Module:
    """Builds a teacher's model from its spec and loads its weights strictly.

    Raises:
        UserError: it does not build, or the checkpoint is not its.
    """
    assert spec.model is not None and spec.checkpoint is not None
    model_cfg: dict[str, Any] = copy.deepcopy(dict(spec.model))
    model_cfg["pretrained"] = None  # its checkpoint holds everything: nothing else may be fetched
    if isinstance(model_cfg.get("backbone"), dict):
        model_cfg["backbone"].pop("init_cfg", None)
    model = revert_sync_batchnorm(build_segmentor(model_cfg, what=f"teacher {spec.config or ''}".strip()))
    checkpoint.load_weights(model, spec.checkpoint, trust=trust_checkpoint, what="teacher")
    return model


def mean_logits(outputs: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The weighted average of several teachers' logits (N x C x h x w), at the largest of their resolutions."""
    size = max((output.shape[-2:] for output in outputs), key=lambda shape: shape[0] * shape[1])
    resized = (
        output if output.shape[-2:] == size else nn.functional.interpolate(output, size, mode="bilinear")
        for output in outputs
    )
    return sum(output * (weight / sum(weights)) for output, weight in zip(resized, weights, strict=True))  # type: ignore[return-value]


def _rescaling(student: nn.Module, teacher: nn.Module) -> tuple[bool, Tensor, Tensor] | None:
    """From the student's preprocessing to the teacher's: whether to swap RGB and BGR, a scale and a shift.

    None when they agree.
    """
    flip = swaps_channels(student) != swaps_channels(teacher)
    (our_mean, our_std), (their_mean, their_std) = (_mean_and_std(module) for module in (student, teacher))
    if flip:
        our_mean, our_std = our_mean.flip(0), our_std.flip(0)
    elif torch.allclose(our_mean, their_mean) and torch.allclose(our_std, their_std):
        return None
    return flip, our_std / their_std, (our_mean - their_mean) / their_std


def _mean_and_std(preprocessor: nn.Module) -> tuple[Tensor, Tensor]:
    """Shape (3, 1, 1) each; 0 and 1 for a preprocessor that does not normalise."""
    mean, std = getattr(preprocessor, "mean", None), getattr(preprocessor, "std", None)
    if not isinstance(mean, Tensor) or not isinstance(std, Tensor):
        return torch.zeros(3, 1, 1), torch.ones(3, 1, 1)
    return mean.float(), std.float()
