"""Modules of losses from 2023 and later that have layers or keep statistics: AfDCD, Theia."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rdistill.core.errors import UserError
from rdistill.distributed import collectives
from rdistill.losses import functional
from rdistill.losses.contrast import number_of_groups
from rdistill.losses.modules import MGD, Adapter


class AfDCD(nn.Module):
    """Augmentation-free dense contrastive distillation: MGD, and a contrastive loss on the feature that it generates.

    The value is mgd + ``contrast`` * omni_contrast, see :func:`rdistill.losses.functional.omni_contrast`. The authors'
    weights on Cityscapes (2e-6 and 0.005, features of 64 x 64, 16 groups) correspond to a weight of 0.008 and a
    ``contrast`` of 10.

    Errors: :class:`rdistill.core.errors.UserError` if the teacher's channels cannot be split into groups.

    Paper: Fan et al., NeurIPS 2023, arXiv 2312.04168.
    """

    def __init__(self, student_channels: int, teacher_channels: int, *, groups: int = 16) -> None:
        super().__init__()
        if not number_of_groups(teacher_channels, groups):
            raise UserError(
                f"AfDCD: the teacher's feature has {teacher_channels} channels, which cannot be split into 2 to "
                f"{groups} groups of one size; set groups, or choose another feature"
            )
        self.groups = groups
        self.mgd = MGD(student_channels, teacher_channels)

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        *,
        mask_ratio: float = 0.75,
        contrast: float = 10.0,
        tau: float = 0.07,
        grid: int = 16,
        patch: int = 4,
    ) -> Tensor:
        generated = self.mgd.generated(student, teacher, mask_ratio=mask_ratio)
        compared = functional.omni_contrast(generated, teacher, tau=tau, grid=grid, patch=patch, groups=self.groups)
        return functional.mgd(generated, teacher) + contrast * compared


class Theia(nn.Module):
    """The loss for features of a foundation model: the teacher's channels are standardised by running statistics.

    The mean and the variance of each channel are those of all training steps so far, of all workers, the current step
    included. (The authors measure them over the dataset beforehand.) They are buffers, so a resumed run continues
    them. The student gets a 1x1 convolution.

    Paper: Shang et al., CoRL 2024, arXiv 2407.20179.
    """

    mean: Tensor  # C
    variance: Tensor  # C, the population variance
    count: Tensor  # positions seen so far; float64, because float32 cannot count beyond 16 million

    def __init__(self, student_channels: int, teacher_channels: int) -> None:
        super().__init__()
        self.adapter = Adapter(student_channels, teacher_channels, always=True)
        self.register_buffer("mean", torch.zeros(teacher_channels))
        self.register_buffer("variance", torch.ones(teacher_channels))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        teacher = functional.at_least_float32(teacher)
        if self.training:
            self._count(teacher)
        typical = self.variance.mean().clamp(min=torch.finfo(self.variance.dtype).tiny)
        deviation = self.variance.clamp(min=functional.NEARLY_ZERO**2 * typical).sqrt()
        target = (teacher - self.mean.view(-1, 1, 1)) / deviation.view(-1, 1, 1)
        return functional.theia(self.adapter(student, teacher.shape[-2:]), target)

    @torch.no_grad()
    def _count(self, teacher: Tensor) -> None:
        """Updates mean and variance by those of the batch (Chan, Golub and LeVeque, 1979)."""
        mean = collectives.mean(teacher.mean(dim=(0, 2, 3)))
        variance = collectives.mean((teacher - mean.view(-1, 1, 1)).square().mean(dim=(0, 2, 3)))
        positions = teacher.shape[0] * teacher.shape[2] * teacher.shape[3] * collectives.count()
        self.count += positions
        share = (positions / self.count).to(self.mean.dtype)
        step = mean - self.mean
        # The share of the first batch is 1, so that the initial values 0 and 1 are replaced.
        self.variance += share * (variance - self.variance + (1 - share) * step.square())
        self.mean += share * step
