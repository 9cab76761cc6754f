"""Each broken set-up is found before time is spent, and all of one set-up's problems come in one list."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import NUM_TRAIN, NUM_VAL, Run, Tiny
from mmengine.config import Config
from torch import Tensor, nn
from typer.testing import CliRunner

from rdistill.checks.run import Report, check_classes, check_config, check_resources, check_run, run_bytes
from rdistill.cli import app
from rdistill.config.schedules import schedule_notes
from rdistill.core.errors import UserError
from rdistill.distill.distiller import Distiller, build_distiller
from rdistill.models.segmentor import build_segmentor
from rdistill.training.run_state import plain_random_state

Check = Callable[..., Report]


def one(report: Report) -> str:
    """The only problem."""
    assert len(report.problems) == 1, report.problems
    return report.problems[0]


def test_a_sound_run(check: Check) -> None:
    report = check()
    assert report.problems == []
    passed = dict(report.passed)
    assert list(passed) == ["config", "data", "models", "classes", "pairs", "optimizer", "step"]
    assert passed["data"] == f"{NUM_TRAIN} training and {NUM_VAL} validation images"
    assert passed["models"] == "the student builds, 1 teacher loaded" and passed["pairs"] == "1 feature pair"
    assert check(name="student").problems == []


def test_nothing_is_left_behind(
    tiny: Tiny,
    tmp_path: Path,
    snapshot: Callable[[nn.Module], dict[str, Tensor]],
    state_equal: Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], bool],
) -> None:
    """Weights, BatchNorm statistics, memory queues, gradients, modes, random state: as if nobody had looked."""
    memory = dict(type="CIRKDMemory", pair=(1, 1), pixel_queue_size=64, region_queue_size=8)
    cfg = tiny.load("distill", {"distill.losses.memory": memory})
    distiller = build_distiller(cfg, seed=0)
    distiller.student.backbone.stem[1].eval()
    modes = [module.training for module in distiller.modules()]
    weights, teacher, random = snapshot(distiller), snapshot(distiller.teachers[0].model), plain_random_state()
    report = check_run(cfg, distiller=distiller, work_dir=tmp_path / "not" / "there")
    assert report.problems == []
    assert state_equal(snapshot(distiller), weights) and state_equal(snapshot(distiller.teachers[0].model), teacher)
    assert all(parameter.grad is None for parameter in distiller.parameters())
    assert [module.training for module in distiller.modules()] == modes
    after = plain_random_state()
    assert torch.equal(after["torch"], random["torch"]) and after["python"] == random["python"]
    assert str(after["numpy"]) == str(random["numpy"])
    assert not (tmp_path / "not").exists()
    assert "forward" not in vars(distiller.student.backbone.layer4)


def test_several_problems_in_one_list(check: Check, tiny: Tiny) -> None:
    """Data that is not there does not hide a missing checkpoint, a wrong layer and another number of classes."""
    names = dict(student=("backbone.layr3", "backbone.layer4"), teacher=("backbone.layer3", "backbone.layer4"))
    report = check(
        {"distill.features": names, "distill.teachers.0.checkpoint": "gone.pth", "model.decode_head.num_classes": 3},
        data_root="/nowhere",
    )
    for part in (
        "data_root: no such directory /nowhere",
        "distill.teachers[0].checkpoint: no such file",
        "distill.features.student[0]: feature 'backbone.layr3'",
        "got a student of 3 and a teacher of 2",
    ):
        assert sum(part in problem for problem in report.problems) == 1, (part, report.problems)
    assert len(report.problems) == 4


def test_broken_section_and_broken_data(check: Check, tiny: Tiny, tmp_path: Path) -> None:
    root = Path(shutil.copytree(tiny.data_root, tmp_path / "data"))
    mask = next((root / "ann_dir/train").iterdir())
    mask.unlink()
    report = check({"distill.losses.hidden.pair": (1, 9), "model.decode_head.num_classes": 5}, data_root=str(root))
    assert any("teacher feature index 9" in problem for problem in report.problems)
    assert any("has no mask" in problem for problem in report.problems)
    assert any("model.decode_head.num_classes: is 5" in problem for problem in report.problems)


def test_unknown_key_names_the_nearest(check: Check) -> None:
    assert "did you mean 'decode_head'?" in check({"model.decode_hed.num_classes": 2}).problems[0]


def test_config_that_is_not_there(tiny: Tiny) -> None:
    assert "no such config file" in one(check_config(tiny.folder / "distil.py"))


def test_classes(check: Check) -> None:
    report = check({"model.decode_head.num_classes": 3}, name="student")
    assert one(report).startswith("model.decode_head.num_classes: is 3, but the data has 2 classes (metainfo.classes)")
    report = check({"val_dataloader.dataset.metainfo": dict(classes=("a", "b", "c"))}, name="student")
    assert report.problems == ["metainfo.classes: training data has 2 classes, validation data 3"]


def test_two_classes_in_one_channel(check: Check, one_channel: dict[str, Any]) -> None:
    """mmseg's `out_channels=1`, with or without saying that the classes are two."""
    report = check(one_channel)
    assert report.problems == [] and ("classes", "2 of the student, 2 of the teachers") in report.passed
    assert check({**one_channel, "model.decode_head.num_classes": 1}).problems == []
    report = check({**one_channel, "distill.losses.logits": {"type": "Cosine"}})
    assert one(report).startswith("distill.losses.logits: Cosine: logits of one channel (out_channels=1)")


def test_one_channel_without_a_sigmoid(check: Check, one_channel: dict[str, Any]) -> None:
    """Pictures of nothing but class 0 would train, and the first of the other class end the run."""
    loss = "model.decode_head.loss_decode"
    report = check({**one_channel, loss: {"type": "CrossEntropyLoss", "loss_weight": 1.0}}, name="student")
    assert report.problems[0].startswith(f"{loss}: its softmax over one channel (out_channels=1) is always 1; set use_")


def test_one_channel_of_a_cascade(tiny: Tiny) -> None:
    """mmseg looks for a threshold where a cascade has a list of heads."""
    common = dict(
        in_channels=32, in_index=3, channels=8, num_classes=2, out_channels=1, threshold=0.5, norm_cfg=dict(type="BN"),
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=True),
    )  # fmt: skip
    heads = [dict(type="FCNHead", num_convs=1, **common), dict(type="OCRHead", ocr_channels=4, **common)]
    cfg = tiny.load("student")
    cfg.model.update(type="CascadeEncoderDecoder", num_stages=2, decode_head=heads)
    (problem,) = check_classes(cfg, build_segmentor(cfg.model))
    assert problem.startswith("model.decode_head: mmseg cannot predict with one output channel")


@pytest.mark.parametrize("loss", ["SKD", "IFVD", "CIRKD"])
def test_a_feature_of_one_channel(check: Check, one_channel: dict[str, Any], loss: str) -> None:
    """The head's own output as a feature: a cosine over its one channel is but a sign."""
    report = check(
        {
            **one_channel,
            "distill.features": {"student": ("decode_head",), "teacher": ("decode_head",)},
            "distill.losses": {"hidden": {"type": loss, "pair": (0, 0)}},
        }
    )
    assert one(report).startswith(f"distill.losses.hidden: {loss}: the student's feature has one channel")


def test_teacher_weights_of_another_model(check: Check, tmp_path: Path, distilled_run: Run) -> None:
    problem = one(check(teacher_checkpoint=str(distilled_run.folder / "student.pth")))
    assert problem.startswith("distill.teachers[0].checkpoint: ") and "does not fit the teacher" in problem


def test_teacher_of_other_classes(check: Check, tiny: Tiny, tmp_path: Path) -> None:
    """Only a loss on logits needs the same classes."""
    teacher = tiny.load("teacher", {"model.decode_head.num_classes": 3})
    torch.save(build_distiller(teacher, seed=0).student.state_dict(), tmp_path / "three.pth")
    changed = {"distill.teachers": [dict(model=teacher.model.to_dict(), checkpoint=str(tmp_path / "three.pth"))]}
    assert "logits must have as many classes" in one(check(changed))
    assert check({**changed, "distill.losses.logits": None}).problems == []


def test_layer_names(check: Check) -> None:
    names = dict(student=("backbone.layer3", "backbone.layer9"), teacher=("backbone.layer3", "backbone.stage4"))
    problems = check({"distill.features": names}).problems
    assert len(problems) == 2
    assert problems[0].startswith("distill.features.student[1]: ") and "did you mean 'backbone.layer" in problems[0]
    assert problems[1].startswith("distill.features.teacher[1]: ")


def test_pair_that_cannot_be_compared(check: Check) -> None:
    names = dict(student=("backbone.layer4", "decode_head.image_pool"), teacher=("backbone.layer4",))
    problem = one(check({"distill.features": names, "distill.losses.hidden.pair": (1, 0)}))
    assert problem.startswith("distill.losses.hidden.pair: [1, 0] (decode_head.image_pool with the teacher's")
    assert problem.endswith("the student's is pooled to 1 x 1, the other is 4 x 4")


def test_auxiliary_output_that_is_not_there(check: Check) -> None:
    assert "distill.losses.logits.on: 'logits[1]'" in one(check({"distill.losses.logits.on": "logits[1]"}))


def test_a_schedule_that_goes_on_after_training(check: Check, tiny: Tiny) -> None:
    warm_up = dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=2)
    poly = dict(type="PolyLR", eta_min=0.0, power=1.0, by_epoch=False, begin=2, end=100)
    report = check({"param_scheduler": [warm_up, poly]})
    assert report.problems == []
    assert [note for note in report.notes if "param_scheduler" in note] == [
        "param_scheduler goes on to 100, but training ends at 6: the learning rate does not fall to its end; "
        "set param_scheduler.1.end=6, or train up to 100 (--iters would move both, and keep one behind the other)"
    ]
    assert not [note for note in check().notes if "param_scheduler" in note]
    for end in (6, None, 10**9):  # None and 10**9: open, as mmengine's default is
        assert schedule_notes(tiny.load("distill", {"param_scheduler": [warm_up, {**poly, "end": end}]})) == [], end


def test_what_will_be_measured(check: Check) -> None:
    share = {"value": 0.5, "batches": 4, "every": 100}
    report = check({"distill.losses.logits.weight.share": share, "distill.losses.hidden.weight.share": 0.25})
    assert report.problems == []
    assert dict(report.passed)["weights"] == (
        "logits: so that its gradient is 0.5 of the task's, measured in the first 4 batches and again every 100 "
        "iterations; hidden: so that its gradient is 0.25 of the task's, measured in the first 8 batches"
    )
    assert [note for note in report.notes if "share" in note] == [
        "distill.losses.hidden.weight.share.batches: is 8, and training ends at 6: the weight changes with every batch "
        "until then"
    ]
    assert "weights" not in dict(check().passed)


def test_batch_that_does_not_divide(tiny: Tiny) -> None:
    problem = one(check_run(tiny.load("distill", batch_size=3), workers=2))
    assert problem.startswith("train_dataloader.batch_size: 3 images do not divide among 2 workers")


def test_disk(built: tuple[Config, Distiller], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg, distiller = built
    monkeypatch.setattr("rdistill.checks.run.shutil.disk_usage", lambda folder: SimpleNamespace(free=3_000_000))
    assert check_run(cfg, distiller=distiller, work_dir=tmp_path).problems == []
    problem = one(check_run(cfg, distiller=distiller, work_dir=tmp_path / "new", trials=100))
    assert "100 trials may take" in problem and f"3 MB are free at {tmp_path}" in problem


def test_estimate_of_checkpoints(tiny: Tiny, distilled_run: Run) -> None:
    """Near what a run left, and not below it."""
    left = sum((distilled_run.folder / name).stat().st_size for name in ("best.pth", "last.pth", "student.pth"))
    cfg = tiny.load("distill")
    estimate = run_bytes(build_distiller(cfg, seed=0), cfg)
    # While it runs there are also the last.pth before and one being written. Files hold names too.
    assert 0.75 * left < estimate < 2.5 * left


def test_resources() -> None:
    have = {"CPU": 4.0, "GPU": 1.0}
    assert check_resources("the run", 1, 4, None, have) == ([], "the run takes 4 CPU and 1 GPU of 4 CPU and 1 GPU")
    problems, _ = check_resources("the run", 2, 1, None, have)
    assert problems[0].startswith("the run takes 2 CPU and 2 GPU, but there are 4 CPU and 1 GPU; request less")
    assert check_resources("the run", 2, 1, 0.5, have)[0] == []
    assert (
        check_resources("the run", 3, 1, None, {"CPU": 2.0})[0]
        and not check_resources("the run", 2, 1, None, {"CPU": 2.0})[0]
    )


def test_report() -> None:
    report = Report()
    assert report.add("a", [], "well") and not report.add("b", ["x", "y"], "") and not report.add("c", ["x"], "")
    assert report.passed == [("a", "well")] and report.problems == ["x", "y"]
    with pytest.raises(UserError, match="x\ny"):
        report.raise_problems()
    Report().raise_problems()


def test_command(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["--data-root", str(tiny.data_root), "--size", "32", "--batch-size", "2"]
    done = CliRunner().invoke(app, ["check", str(tiny.folder / "distill.py"), *small])
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert all(line.startswith("ok ") for line in lines)
    assert [line.split()[1] for line in lines][-3:] == ["step", "disk", "resources"]
    assert not list(tmp_path.iterdir())

    changed = ["--set", "model.decode_head.num_classes=3", "--workers", "900"]
    done = CliRunner().invoke(app, ["check", str(tiny.folder / "student.py"), *small, *changed])
    assert isinstance(done.exception, UserError) and len(done.exception.problems) == 2
    assert "ok        data" in done.output
