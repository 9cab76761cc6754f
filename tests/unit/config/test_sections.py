"""Sections of another shape and values that are not taken: one line each, before anything is built."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from config_problems import problems

from rdistill.config.load import load_config

Write = Callable[[str], Path]
_SECTIONS = ("train_dataloader", "val_dataloader", "optim_wrapper", "train_cfg", "model", "default_hooks", "env_cfg",
             "randomness", "visualizer", "param_scheduler", "val_evaluator", "custom_hooks")  # fmt: skip


@pytest.mark.parametrize("value", ["'text'", "3", "['x']", "True"])
@pytest.mark.parametrize("key", _SECTIONS)
def test_a_section_of_another_shape(write: Write, key: str, value: str) -> None:
    override = {f"+{key}": eval(value)}
    lines = problems(write(f"{key} = {value}"))
    assert lines[0].startswith(f"{key}: must be ") and ", got " in lines[0], lines
    assert any(line.startswith(f"{key}: ") and ", got " in line for line in problems(write(""), override))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("train_dataloader.batch_size", 0, "must be a whole number of images, at least 1, got 0"),
        ("train_dataloader.batch_size", 1.5, "must be a whole number of images, at least 1, got 1.5"),
        ("train_dataloader.num_workers", -1, "must be a whole number, at least 0, got -1"),
        ("train_cfg.max_iters", float("inf"), "must be a finite number, got inf"),
        ("train_cfg.val_interval", 0, "must be a whole number, at least 1, got 0"),
        ("optim_wrapper.optimizer.lr", float("nan"), "must be a finite number, got nan"),
        ("+train_dataloader.dataset.metainfo.palette", [[0, 0, 300]] * 2, "must be a list of colours"),
        ("train_dataloader.dataset.metainfo.palette", [[0, 0, 3]], "has 1 colours for 2 classes"),
        ("train_dataloader", None, "is required, got None"),
        ("train_dataloader.dataset.pipeline", ["Resize"], "must be a list of sections"),
        ("train_dataloader.dataset.pipeline", None, "is required, to read images and masks"),
        ("train_cfg.val_interval", None, "must be a whole number, at least 1, got None"),
        ("train_cfg.type", None, "is required: 'IterBasedTrainLoop' or"),
        ("+train_dataloader.persistent_workers", True, "needs num_workers of at least 1, got 0"),
        ("param_scheduler.0.end", 0, "must be a whole number, at least 1, got 0"),
    ],
)
def test_a_value_that_is_not_taken(write: Write, key: str, value: Any, message: str) -> None:
    lines = problems(write(""), {key: value})
    assert any(line.startswith(f"{key.lstrip('+')}: {message}") for line in lines), lines


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("train_cfg = {'_delete_': True, 0: None}", "train_cfg.0"),
        ("model = dict(decode_head={0: 1})", "model.decode_head.0"),
        ("model = dict(backbone=dict(norm_cfg={True: 1}))", "model.backbone.norm_cfg.True"),
        ("default_hooks = {0: dict(type='x')}", "default_hooks.0"),
        ("default_hooks = dict(logger={3: 4})", "default_hooks.logger.3"),
        ("custom_hooks = [{'type': 'EMAHook', 0: 1}]", "custom_hooks.0.0"),
        ("val_evaluator = {None: 1}", "val_evaluator.None"),
        ("train_dataloader = dict(dataset=dict(metainfo={0: 1}))", "train_dataloader.dataset.metainfo.0"),
        ("optim_wrapper = dict(paramwise_cfg=dict(custom_keys={0: {}}))", "optim_wrapper.paramwise_cfg.custom_keys.0"),
        ("tracking = {0: 1}", "tracking.0"),
        ("distill = dict(losses={0: {}})", "distill.losses.0"),
    ],
)
def test_a_key_that_is_not_text(write: Write, text: str, place: str) -> None:
    lines = problems(write(text))
    assert any(line.startswith(f"{place}: a key must be text, got ") for line in lines), lines


def test_a_mapping_that_is_a_value_has_any_keys(write: Write) -> None:
    text = "train_dataloader = dict(dataset=dict(metainfo=dict(label_map={0: 1}))); notes = {0: 1}"
    cfg = load_config(write(text), with_data=False)
    assert cfg.train_dataloader.dataset.metainfo.label_map == {0: 1} and cfg.notes == {0: 1}


@pytest.mark.parametrize("value", [3, None, [], [3]])
def test_metrics_of_another_shape(write: Write, value: Any) -> None:
    (line,) = problems(write(f"val_evaluator = dict(_delete_=True, metrics={value!r})"))
    assert line.startswith("val_evaluator.metrics: must be a section with a `type`") and line.endswith(f"got {value!r}")


def test_a_mistyped_key_at_the_top(write: Write) -> None:
    (line,) = problems(write("modle = dict(type='EncoderDecoder')"))
    assert line.startswith("unknown key modle; did you mean 'model'?")
    load_config(write("my_channels = dict(a=1)"), with_data=False)
