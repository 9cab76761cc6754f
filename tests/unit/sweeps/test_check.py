"""A sweep file is checked whole: every structure that its space can make is built and takes a step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Tiny

from rdistill.checks.run import Report
from rdistill.config.load import Shortcuts, load_run
from rdistill.core.errors import UserError
from rdistill.handover import export, onnx_file
from rdistill.sweeps.check import _scheduler_notes, check_sweep_file
from rdistill.sweeps.study.spec import SweepSpec

Check = Callable[..., Report]


@pytest.fixture
def shortcuts(tiny: Tiny) -> dict[str, Any]:
    return dict(data_root=str(tiny.data_root), size="32", iters=6, batch_size=2, val_interval=2)


def one(report: Report) -> str:
    """The only problem."""
    assert len(report.problems) == 1, report.problems
    return report.problems[0]


@pytest.fixture
def check_sweep(tiny: Tiny, shortcuts: dict[str, Any], tmp_path: Path) -> Check:
    """Checks a sweep of ``distill.py`` with a space."""

    def run(
        space: Mapping[str, Any],
        trial: Mapping[str, Any] | None = None,
        confirm: Mapping[str, Any] | None = None,
        baseline: Mapping[str, Any] | None = None,
        **changed: Any,
    ) -> Report:
        search = dict(type="optuna", num_trials=4)
        content = dict(config=str(tiny.folder / "distill.py"), space=space, search=search, trial=trial or {})
        content |= {} if confirm is None else dict(confirm=confirm)
        content |= {} if baseline is None else dict(baseline=baseline)
        file = tmp_path / "sweep.yaml"
        file.write_text(yaml.safe_dump(content))
        return check_sweep_file(file, {}, Shortcuts(**{**shortcuts, **changed}), work_dir=tmp_path / "work")

    return run


def choice(*values: Any) -> dict[str, Any]:
    return dict(type="choice", values=list(values))


def test_a_sound_sweep(check_sweep: Check) -> None:
    space = {
        "distill.losses.hidden.pair": dict(type="pairs", pairs="auto"),
        "distill.losses.logits.tau": dict(type="uniform", low=1.0, high=4.0),
        "distill.losses.logits.weight": dict(type="loguniform", low=1.0, high=100.0),
        "optim_wrapper.optimizer.lr": choice(0.01, 0.02),
        "model.backbone.contract_dilation": choice(True, False),
    }
    report = check_sweep(space)
    assert report.problems == []
    passed = dict(report.passed)
    # 9 pairs, 2 ends of tau, 2 rates, 2 models
    assert passed["space"] == "15 structures tried, among them 9 feature pairs: finite losses and gradients"
    assert passed["disk"].startswith("5 trials") and passed["resources"].startswith("one trial takes 1 CPU")


def test_pairs_inside_a_choice_are_counted(check_sweep: Check) -> None:
    space = {
        "distill.losses.hidden.pair": choice([0, 0], [1, 1]),
        "+distill.losses.more": choice(dict(type="CWD", pair=[0, 1]), dict(type="AT", pair=[0, 1]), None),
    }
    report = check_sweep(space)
    assert report.problems == []
    assert dict(report.passed)["space"].startswith("4 structures tried, among them 3 feature pairs")


@pytest.mark.parametrize(("grace", "noted"), [(5, False), (6, True), (200, True)])
def test_a_grace_period_as_long_as_a_trial(tiny: Tiny, shortcuts: dict[str, Any], grace: int, noted: bool) -> None:
    base = load_run(tiny.folder / "distill.py", None, Shortcuts(**{**shortcuts, "iters": 6}))
    spec = SweepSpec.model_validate(
        dict(config="a.py", space=dict(a=choice(1)), scheduler=dict(type="asha", grace_period=grace))
    )
    line = f"scheduler.grace_period: is {grace}, and a trial ends at 6: no trial is stopped early"
    assert _scheduler_notes(base, spec) == ([line] if noted else [])


def test_every_wrong_choice_is_named(check_sweep: Check) -> None:
    kl, mgd = dict(type="KL", pair=[1, 1]), dict(type="MGD", pair=[0, 0])
    report = check_sweep(
        {
            "distill.losses.hidden": choice(kl, mgd, dict(type="DKD", pair=[1, 1])),
            "distill.losses.logits.tau": choice(1.0, -1.0),
        }
    )
    assert "DKD does not apply to features" in report.problems[0] and "must be > 0" in report.problems[-1]
    assert all("space.distill.losses." in problem for problem in report.problems)


def test_structures_that_only_fail_when_they_run(check_sweep: Check) -> None:
    report = check_sweep(
        {
            "distill.losses.hidden": choice(
                dict(type="CIRKDMemory", pair=[1, 1], pixel_queue_size=4),  # cannot take a batch's pixels
                dict(type="CWD", pair=[1, 1]),
            ),
            "model.decode_head.c1_in_channels": choice(4, 7),  # layer1 gives 4
            "model.backbone.depth": choice(18, 34),  # multi_grid is that of 18
            "optim_wrapper.optimizer.momentum": choice(0.9, -3.0),
        }
    )
    assert len(report.problems) == 4, report.problems
    memory, depth, channels, momentum = report.problems
    assert memory.startswith("space.distill.losses.hidden = ") and "a queue of 4 cannot take" in memory
    assert channels.startswith("space.model.decode_head.c1_in_channels = 7: ") and "channels" in channels
    assert depth.startswith("space.model.backbone.depth = 34: model: cannot be built")
    assert momentum.startswith("space.optim_wrapper.optimizer.momentum = -3.0: ")


def test_a_swept_teacher_s_labels_are_tried(check_sweep: Check) -> None:
    report = check_sweep({"+distill.labels": choice("data", "teacher"), "+distill.on_ignored": choice(False, True)})
    assert report.problems == [] and dict(report.passed)["space"].startswith("4 structures tried")


def test_searched_shares_are_said_once_for_all_losses_alike(check_sweep: Check) -> None:
    def kl(**share: Any) -> dict[str, Any]:
        return dict(type="KL", weight=dict(share=dict(value=1.0, **share)))

    losses = choice(dict(a=kl(), b=kl(), c=kl(batches=4, every=20)))
    assert dict(check_sweep({"distill.losses": losses}).passed)["weights"] == (
        "a, b: measured in a trial's first 8 batches, where it is a share; c: measured in a trial's first 4 batches, "
        "where it is a share, and again every 20 iterations"
    )


def test_keys_of_the_baselines_alone_are_noted(check_sweep: Check) -> None:
    rate = {"optim_wrapper.optimizer.lr": choice(0.01, 0.02)}
    weight = {"distill.losses.logits.weight": choice(1.0, 3.0)}
    notes = check_sweep(weight, baseline=dict(search=rate)).notes
    assert (
        "baseline.search: optim_wrapper.optimizer.lr: searched for the student alone, but not in space for the "
        "students under a teacher: that is strict where a gain is shown, and unfair where none is"
    ) in notes
    assert not [note for note in check_sweep(rate, baseline=dict(search=rate)).notes if "baseline.search" in note]


def test_swept_features(check_sweep: Check) -> None:
    space = {
        "distill.features": choice(
            dict(student=["backbone.layer3", "backbone.layer4"], teacher=["backbone.layer3", "backbone.nothing"])
        )
    }
    assert "backbone.nothing" in one(check_sweep(space))


def test_broken_sweep_and_config(check_sweep: Check, tmp_path: Path) -> None:
    space = {"distill.losses.hidden.pair": dict(type="pairs", pairs="all")}
    report = check_sweep(space, trial=dict(cpus_per_worker=5000), data_root="/nowhere")
    assert any("no such directory" in problem for problem in report.problems)
    assert any("one trial takes 5000 CPU, but there are" in problem for problem in report.problems)
    with pytest.raises(UserError, match="must be a kind of search dimension"):
        check_sweep({"distill.losses.hidden.pair": dict(type="pair")})


def test_a_choice_of_all_losses_is_tried_and_its_pairs_are_counted(check_sweep: Check) -> None:
    kl, here, there = dict(type="KL", on="logits"), dict(type="CWD", pair=[0, 0]), dict(type="CWD", pair=[1, 1])
    report = check_sweep({"distill.losses": choice(dict(a=kl), dict(a=kl, b=here), dict(b=there, c=here))})
    assert report.problems == []
    assert dict(report.passed)["space"] == (
        "3 structures tried, among them 3 feature pairs: finite losses and gradients"
    )
    report = check_sweep(
        {"distill.losses": choice(dict(a=kl), dict(m=dict(type="CIRKDMemory", pair=[1, 1], pixel_queue_size=4)))}
    )
    assert one(report).startswith("space.distill.losses = {'m': ") and "a queue of 4 cannot take" in one(report)


def test_a_confirmation_of_files_is_tried(check_sweep: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    """A student that becomes no ONNX file, and packages that are not there, are found before the start."""
    pytest.importorskip("onnxruntime")
    space, confirm = {"distill.losses.logits.tau": choice(1.0, 2.0)}, dict(seeds=[1, 2], of="int8")
    report = check_sweep(space, confirm=confirm)
    assert report.problems == []
    assert dict(report.passed)["export"] == "the student becomes an ONNX file; the verdict will be about INT8 files"

    def no_exporter(*_: Any, **__: Any) -> None:
        raise ValueError("an operator that ONNX lacks")

    monkeypatch.setattr(export, "_trace", no_exporter)
    monkeypatch.setattr(export, "_torch_export", no_exporter)
    assert one(check_sweep(space, confirm=confirm)) == (
        "confirm.of: int8: the student cannot be exported: trace: ValueError: an operator that ONNX lacks; "
        "torch.export: ValueError: an operator that ONNX lacks"
    )
    monkeypatch.setattr(onnx_file.require_packages, "__defaults__", (("no_such_package",), "export"))
    assert one(check_sweep(space, confirm=confirm)) == (
        "confirm.of: int8 needs no_such_package, not installed here: pip install 'rdistill[onnx]'"
    )
