"""What a student costs: measured once for each model."""

from __future__ import annotations

import json
from pathlib import Path

from conftest import Tiny
from torch import nn

from rdistill.checks.layers import overview
from rdistill.models.segmentor import build_segmentor
from rdistill.sweeps.trial.complexity import complexity_of, sizes_of
from rdistill.sweeps.trial.complexity import test_size as size_of_images


def test_costs_of_a_student(tiny: Tiny, tmp_path: Path) -> None:
    cfg = tiny.load("distill")
    figures = complexity_of(cfg, ["mIoU", "params", "flops", "latency"], tmp_path)
    student = overview(cfg).models[0]
    assert (figures["params"], figures["flops"]) == (student.parameters, student.flops)
    assert figures["latency"] > 0 and complexity_of(cfg, ["mIoU"], tmp_path) == {}


def test_a_model_is_measured_once(tiny: Tiny, tmp_path: Path) -> None:
    first = complexity_of(tiny.load("distill"), ["latency"], tmp_path)
    other_rate = tiny.load("distill", {"optim_wrapper.optimizer.lr": 0.5})
    assert complexity_of(other_rate, ["latency"], tmp_path) == first
    wider = tiny.load("distill", {"model.decode_head.channels": 16})
    assert complexity_of(wider, ["latency", "params"], tmp_path) != first
    assert len([json.loads(file.read_text()) for file in tmp_path.rglob("*.json")]) == 2


def test_models_that_are_alike_share_their_figures(tiny: Tiny) -> None:
    cfg, wider = tiny.load("distill"), tiny.load("distill", {"model.decode_head.channels": 16})
    models = {
        name: build_segmentor(config.model.to_dict()).eval()
        for name, config in (("baseline", cfg), ("best", cfg), ("wide", wider))
    }
    sizes = sizes_of({**models, "own": nn.Linear(2, 3)}, size_of_images(cfg))
    assert sizes["best"] == sizes["baseline"] and sizes["wide"]["params"] > sizes["best"]["params"]
    assert set(sizes["best"]) == {"params", "flops", "latency_ms"}
    assert sizes["own"]["params"] == 9 and set(sizes["own"]) == {"params", "problem"}
    assert sizes["own"]["problem"].startswith("it does not run on a blank image: ")  # a layer alone does not
