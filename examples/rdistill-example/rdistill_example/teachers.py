"""A kind of teacher: which network a teacher's entry in a config stands for."""

import torch
from torch import nn

import rdistill
from rdistill.teachers import TeacherModel, Whole, module_model


@rdistill.teachers.register("example_cnn", params={"width": Whole(at_least=1)})
def cnn(*, num_classes: int, width: int = 8) -> TeacherModel:
    """A network of PyTorch; its features are ``backbone.network.0`` to ``backbone.network.3``."""
    arguments = dict(num_classes=num_classes, width=width)
    return module_model("rdistill_example.teachers:build", num_classes, arguments=arguments)


def build(num_classes: int, width: int) -> nn.Module:
    """Where a real one would load its weights: these are drawn, the same ones each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        stem = nn.Conv2d(3, width, kernel_size=3, stride=2, padding=1)
        return nn.Sequential(stem, nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, num_classes, kernel_size=1))
