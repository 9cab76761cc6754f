"""A network of one's own in a segmentor's place: what it gives, and what is said where it gives something else."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rdistill.core.errors import UserError
from rdistill.models import module_network  # noqa: F401  registers what is built here
from rdistill.models.segmentor import build_segmentor, input_channels, logit_names, num_classes, run_heads
from rdistill.teachers import module_model

NETWORK = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width, wrapped):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.head = nn.Conv2d(width, 2, 1)
        self.wrapped = wrapped

    def forward(self, images):
        features = self.stem(images).relu()
        logits = self.head(features)
        return {"out": logits, "aux": features} if self.wrapped else logits

def build(width=4, wrapped=False):
    return Net(width, wrapped)

def broken():
    return {}["no such key"]

def number():
    return 3
"""


@pytest.fixture(autouse=True)
def own_net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_net.py").write_text(NETWORK)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_net", raising=False)


def built(build: str = "own_net:build", classes: int = 2, **options: Any) -> nn.Module:
    return build_segmentor(dict(module_model(build, classes, **options).model)).eval()


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_logits_are_the_network_s(wrapped: bool) -> None:
    model = built(logits="out" if wrapped else None, arguments={"width": 6, "wrapped": wrapped})
    images = torch.randn(2, 3, 16, 24)
    logits = run_heads(model, model.extract_feat(images), logit_names(model, training=False))
    expected = model.backbone.network(images)
    assert torch.equal(logits, expected["out"] if wrapped else expected) and logits.shape == (2, 2, 8, 12)
    assert (num_classes(model), input_channels(model), logit_names(model, training=False)) == (2, 3, ["decode_head"])
    assert set(model.state_dict()) == {
        f"backbone.network.{layer}.{name}" for layer in ("stem", "head") for name in ("weight", "bias")
    }


def test_it_predicts_as_a_segmentor() -> None:
    model = built()
    batch = {"inputs": [torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8)], "data_samples": None}
    (sample,) = model.test_step(batch)
    prepared: Tensor = model.data_preprocessor(batch, False)["inputs"]
    red = (batch["inputs"][0][2].float() - 123.675) / 58.395  # images are BGR, the network takes RGB
    assert torch.allclose(prepared[0, 0], red)
    assert sample.pred_sem_seg.data.shape == (1, 16, 16)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (dict(build="own_net:nobody"), "build: must be 'package.module:function', got 'own_net:nobody'"),
        (dict(build="no_such_module:build"), "build: must be 'package.module:function', got 'no_such_module:build'"),
        (dict(build="own_net"), "build: must be 'package.module:function', got 'own_net'"),
        (dict(build="own_net:broken"), "own_net:broken: KeyError: 'no such key'"),
        (dict(build="own_net:number"), "own_net:number: must return a torch.nn.Module, got int"),
    ],
)
def test_a_function_that_does_not_build_it(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(UserError) as caught:
        built(**options)
    assert problem in caught.value.problems[0]


@pytest.mark.parametrize(
    ("options", "got"),
    [
        (dict(classes=3), "must give logits of N x 3 x h x w, got a tensor of 1 x 2 x 4 x 4; say by `logits` which"),
        (dict(arguments={"wrapped": True}), "got a mapping with the keys out, aux; say by `logits`"),
        (dict(logits="logits", arguments={"wrapped": True}), "got a mapping with the keys out, aux; say by `logits`"),
    ],
)
def test_what_it_returns_is_no_logits(options: dict[str, Any], got: str) -> None:
    model = built(**options)
    with pytest.raises(UserError) as caught:
        run_heads(model, model.extract_feat(torch.randn(1, 3, 8, 8)), ["decode_head"])
    assert got in caught.value.problems[0]
