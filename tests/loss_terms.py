"""Every loss as a configured term, and a batch for it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rdistill.losses import LOSSES, Term

CLASSES = 3

SMALL: dict[str, dict[str, Any]] = {  # the authors' queues are too large for a test
    "CIRKDMemory": {
        "pixel_queue_size": 64, "region_queue_size": 8, "pixel_contrast_size": 30, "region_contrast_size": 9
    }
}  # fmt: skip

EVERY_TERM = [(name, on) for name, info in LOSSES.items() for on in info.on]


def make_term(name: str, on: str, **params: Any) -> Term:
    channels = (CLASSES, CLASSES) if on == "logits" else (4, 6)
    return Term(
        name,
        student_channels=channels[0],
        teacher_channels=channels[1],
        num_classes=CLASSES,
        params={**SMALL.get(name, {}), **params},
        on_logits=on == "logits",
    )


def make_batch(on: str, *, student_size: int = 4, teacher_size: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    """Student and teacher of other sizes (and, on features, other channels) and a 16 x 16 label."""
    student_channels, teacher_channels = (CLASSES, CLASSES) if on == "logits" else (4, 6)
    student = torch.randn(2, student_channels, student_size, student_size, requires_grad=True)
    teacher = torch.randn(2, teacher_channels, teacher_size, teacher_size)
    label = torch.randint(0, CLASSES, (2, 16, 16))
    label[..., :8] = 1  # the inside of a class, beside pixels that all have neighbours of other classes
    label[:, :5] = 255
    return student, teacher, label
