"""What goes with the weights: a commented config that plain mmseg runs, and a card that says how good they are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import Run, Tiny
from mmengine.config import Config

from rdistill.config.load import LoadedConfig
from rdistill.config.plain_config import HEADER_END, config_text, replace_header
from rdistill.training.model_card import CARD, hand_over_sweep, write_run_card


def test_the_config_says_what_it_is(distilled_run: Run, tiny: Tiny) -> None:
    text = (distilled_run.folder / "student.py").read_text()
    top = text.partition(HEADER_END)[0]
    assert all(line.startswith("#") for line in top.splitlines())
    assert f"mIoU {distilled_run.metrics['mIoU']:.2f} %" in top and "init_model('student.py', 'student.pth'" in top
    assert text.count(repr(str(tiny.data_root))) == 1 and text.count("data_root=data_root") == 3
    for key in ("model", "train_dataloader", "val_evaluator", "optim_wrapper", "train_cfg", "default_scope"):
        before = text[: text.index(f"\n{key} = ")].splitlines()
        assert next(line for line in reversed(before) if not line or line.startswith("#")).startswith("#"), key
    assert "rdistill" not in text.partition(HEADER_END)[2] and "distill" not in Config.fromfile(
        str(distilled_run.folder / "student.py")
    )


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    values: dict[str, Any] = {
        "model": {"type": "A", "b": (1,), "c": {"not-a-name": None, "d": [1e-5, True, "it's"]}},
        "train_dataloader": {"dataset": {"type": "R", "dataset": {"data_root": "x y"}}},
    }
    file = tmp_path / "a.py"
    file.write_text(config_text(Config(values), ["first"]))
    read = Config.fromfile(str(file))._cfg_dict.to_dict()
    assert {key: read[key] for key in values} == values
    file.write_text(replace_header(file.read_text(), ["second"]))
    assert file.read_text().startswith("# second\n") and Config.fromfile(str(file)).model.b == (1,)


def test_card_of_a_run(distilled_run: Run, tiny: Tiny) -> None:
    card = (distilled_run.folder / CARD).read_text()
    metrics = distilled_run.metrics
    assert (
        f"| this student | {metrics['mIoU']:.2f} |" in card and f"| teacher | {metrics['teacher_mIoU']:.2f} |" in card
    )
    assert f"| optic disc | {metrics['IoU']['optic disc']:.2f} |" in card
    assert f"- Training: `{tiny.data_root}/img_dir/train`, 6 images" in card and "seed 0" in card
    assert "- Loss `logits`: KL x 3 on logits, tau 1.0, per_class True" in card
    assert "- Loss `hidden`: CWD x 50 on student `backbone.layer4` with teacher `backbone.layer4`, tau 4.0" in card
    for heading in ("Figures", "Data", "Training", "Intended use and limits", "Use", "Make it again", "Licence"):
        assert f"\n## {heading}\n" in card
    assert f"rdistill train {distilled_run.folder}/config.py" in card and "torch " in card


def test_a_card_counts_the_images_without_masks(distilled_run: Run, tiny: Tiny, tmp_path: Path) -> None:
    run = tiny.load("distill", {"+distill.unlabeled": {"img_dir": "img_dir/train", "per_batch": 2}})
    write_run_card(LoadedConfig.of(run), tmp_path, distilled_run.metrics)
    card = " ".join((tmp_path / CARD).read_text().split())
    assert "- Without masks, for distillation alone: `" in card
    assert "img_dir/train`, 6 images without masks, 2 beside 2 labelled ones in each batch" in card


@pytest.mark.parametrize(
    ("overrides", "use"),
    [
        ({}, "for distillation, and labelled by the teacher"),
        ({"distill.losses.logits": None, "distill.losses.hidden": None}, "labelled by the teacher"),
    ],
)
def test_a_card_says_what_the_images_without_masks_are_for(
    overrides: dict[str, Any], use: str, distilled_run: Run, tiny: Tiny, tmp_path: Path
) -> None:
    section = {"img_dir": "img_dir/train", "per_batch": 2}
    run = tiny.load("distill", {"+distill.unlabeled": section, "+distill.labels": "teacher", **overrides})
    write_run_card(LoadedConfig.of(run), tmp_path, distilled_run.metrics)
    assert f"- Without masks, {use}: `" in " ".join((tmp_path / CARD).read_text().split())


def test_a_card_counts_the_images_that_are_used(distilled_run: Run, tiny: Tiny, tmp_path: Path) -> None:
    """In folders within the folder too, and of those the first ones alone where the config says so."""
    inside = tmp_path / "data" / "img_dir" / "train" / "inside"
    shutil.copytree(tiny.data_root, tmp_path / "data")
    inside.mkdir()
    for file in sorted(inside.parent.glob("*.jpg")):
        file.rename(inside / file.name)
    run = tiny.load("distill", {"+train_dataloader.dataset.indices": 4}, data_root=str(tmp_path / "data"))
    write_run_card(LoadedConfig.of(run), tmp_path, distilled_run.metrics)
    card = (tmp_path / CARD).read_text()
    assert f"- Training: `{tmp_path}/data/img_dir/train`, 4 images" in card
    assert f"- Validation (selects): `{tmp_path}/data/img_dir/val`, 3 images" in card


@pytest.mark.parametrize("confirmed", [False, True])
def test_card_and_config_of_a_sweep(distilled_run: Run, tmp_path: Path, confirmed: bool) -> None:
    winner = tmp_path / "trials" / "t0001"
    shutil.copytree(distilled_run.folder, winner)
    (winner / "config.py").rename(winner / "trial.py")
    metrics = distilled_run.metrics
    entry = {"iter": metrics["best_iter"], "mIoU": metrics["mIoU"], "IoU": metrics["IoU"]}
    record = {"id": "t0001", "seed": 4, "teacher_mIoU": 50.0, "history": [{**entry, "mIoU": -1.0}, entry]}
    (winner / "trial.json").write_text(json.dumps(record))
    shutil.copy(winner / "student.py", tmp_path / "best.py")
    if confirmed:
        difference = {"n": 3, "mean": 1.5, "low": 0.25, "high": 2.75, "p": 0.04, "above_zero": True}
        longer = {"n": 3, "mean": 42.0, "sd": 1.0, "difference": {**difference, "mean": -0.5, "low": -2.0, "high": 1.0}}
        own = {"id": "t0001", "n": 3, "mean": 41.5, "sd": None, "difference": difference}
        arms = {
            "baseline": {"id": "baseline", "n": 3, "mean": 40.0, "sd": 2.0},
            "configurations": [{**own, "equal_cost": {**longer, "iterations": 8}}],
        }
        summary = {
            "verdict": "It is better. At equal cost it is not.",
            "confirmed": arms,
            "environment": {"command": "rdistill sweep s.yaml"},
        }
        (tmp_path / "summary.json").write_text(json.dumps(summary))
    hand_over_sweep(tmp_path, winner)
    card, config = (tmp_path / CARD).read_text(), (tmp_path / "best.py").read_text()
    assert f"| this student | {metrics['mIoU']:.2f} | best validation of trial t0001" in card
    assert "init_model('best.py', 'best.pth'" in config and "Trial t0001 of a sweep" in config and "seed 4" in config
    Config.fromfile(str(tmp_path / "best.py"))
    assert ("They are not confirmed" in card) is not confirmed
    verdict = "It is better. At equal cost it is not."
    assert (verdict in card and verdict in config) is confirmed
    assert ("| t0001 | 8 | 42.00 | -0.50 (-2.00 to +1.00) |" in card) is confirmed
    assert ("| t0001 | 3 | 41.50 | +1.50 (+0.25 to +2.75) |" in card) is confirmed
    assert ("| baseline | 3 | 40.00 ± 2.00 | - |" in card) is confirmed
    assert ("rdistill sweep s.yaml" in card) is confirmed


def test_a_name_is_neither_html_nor_markdown(distilled_run: Run, tmp_path: Path) -> None:
    cfg = Config.fromfile(str(distilled_run.folder / "config.py"))
    evil = "<script>alert(1)</script> *disc* | `x`\n# title"
    cfg.val_dataloader.dataset.metainfo = dict(classes=["background", evil])
    cfg.test_dataloader.dataset.metainfo = dict(classes=["background", evil])
    cfg.distill.losses = {"a`b <i>": cfg.distill.losses["logits"]}
    write_run_card(LoadedConfig.of(cfg), tmp_path, {**distilled_run.metrics, "IoU": {evil: 50.0}})
    card = (tmp_path / CARD).read_text()
    escaped = "&lt;script&gt;alert(1)&lt;/script&gt; \\*disc\\* \\| \\`x\\` # title"
    assert f"| {escaped} | 50.00 |" in card and f"- 2 classes: background, {escaped}" in card
    assert "<script>" not in card and "\n# title" not in card
    assert "- Loss `` a`b <i> ``: KL" in card
