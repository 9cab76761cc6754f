"""Whole runs: repeated and resumed to the last bit, silent, with what was swept; plain mmseg predicts the same."""

from __future__ import annotations

import multiprocessing
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import KillAt, Killed, Recorder, Run, Tiny
from torch import Tensor

from rdistill.config.load import load_config, read_config_file
from rdistill.distill.distiller import build_distiller
from rdistill.models.segmentor import build_segmentor
from rdistill.training.run import train

Equal = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], bool]


@pytest.fixture
def weights_after(tmp_path: Path) -> Callable[..., dict[str, Tensor]]:
    """Trains and returns the student's weights after the last iteration."""

    def run(cfg: Any, name: str = "run", **options: Any) -> dict[str, Tensor]:
        train(cfg, tmp_path / name, **options)
        weights = Run(tmp_path / name, {}).weights("last.pth")
        return {key: value for key, value in weights.items() if key.startswith("student.")}

    return run


def student_weights(run: Run) -> dict[str, Tensor]:
    return {key: value for key, value in run.weights("last.pth").items() if key.startswith("student.")}


PLAIN_MMSEG = """
import sys
sys.modules["rdistill"] = None  # importing it is an error now
import numpy as np
import torch
torch.set_num_threads(1)
from mmseg.apis import inference_model, init_model
config, checkpoint, out, *images = sys.argv[1:]
model = init_model(config, checkpoint, device="cpu")
results = inference_model(model, images)
np.savez(out, *[result.pred_sem_seg.data.numpy() for result in results], classes=model.dataset_meta["classes"])
"""


@pytest.mark.e2e
def test_plain_mmseg_predicts_the_same_masks(distilled_run: Run, tiny: Tiny, tmp_path: Path) -> None:
    images = sorted((tiny.data_root / "img_dir" / "val").iterdir())
    arguments = [
        distilled_run.folder / "student.py",
        distilled_run.folder / "student.pth",
        tmp_path / "out.npz",
        *images,
    ]
    command = [sys.executable, "-W", "ignore", "-c", PLAIN_MMSEG, *map(str, arguments)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    cfg = tiny.load("distill")
    distiller = build_distiller(cfg, seed=1)
    distiller.load_state_dict(distilled_run.weights("best.pth"))
    from mmseg.registry import DATASETS

    dataset = DATASETS.build(cfg.val_dataloader.dataset.to_dict())
    output = np.load(tmp_path / "out.npz")
    assert output["classes"].tolist() == ["background", "optic disc"]
    classes = set()
    for index, item in enumerate(dataset):
        assert item["data_samples"].img_path == str(images[index])
        with torch.no_grad():
            (result,) = distiller.eval().val_step({"inputs": [item["inputs"]], "data_samples": [item["data_samples"]]})
        mask = result.pred_sem_seg.data.numpy()
        np.testing.assert_array_equal(output[f"arr_{index}"], mask)
        classes |= set(np.unique(mask))
    assert classes == {0, 1}  # else equality would say little


@pytest.mark.e2e
def test_the_written_config_repeats_the_run(distilled_run: Run, tmp_path: Path, state_equal: Equal) -> None:
    metrics = train(load_config(distilled_run.folder / "config.py"), tmp_path / "again")
    again = Run(tmp_path / "again", metrics)
    for name in ("last.pth", "best.pth", "student.pth"):
        assert state_equal(again.weights(name), distilled_run.weights(name))
    assert {**metrics, "seconds": 0} == {**distilled_run.metrics, "seconds": 0}


@pytest.mark.e2e
def test_nothing_but_the_seed_changes_a_run(
    tiny: Tiny, distilled_run: Run, weights_after: Callable[..., Any], state_equal: Equal
) -> None:
    """Not the data workers, not how often it validates, not whether the teacher was scored before."""
    expected = student_weights(distilled_run)
    torch.rand(3)
    changed = tiny.load("distill", {"train_dataloader.num_workers": 2}, val_interval=6)
    processes = set(multiprocessing.active_children())
    assert state_equal(weights_after(changed, "a", teacher_metrics=[{"mIoU": 1.0}]), expected)
    assert set(multiprocessing.active_children()) == processes  # the data workers have ended
    assert not state_equal(weights_after(tiny.load("distill"), "b", seed=1), expected)


@pytest.mark.e2e
def test_baseline_and_distilled_start_equal(tiny: Tiny, weights_after: Callable[..., Any], state_equal: Equal) -> None:
    """Under losses of weight 0 the student is the baseline to the last bit: from its first weights on."""
    nothing = {"distill.losses.logits.weight": 0.0, "distill.losses.hidden.weight": 0.0}
    alone = weights_after(tiny.load("student", iters=3), "alone", seed=5)
    assert state_equal(weights_after(tiny.load("distill", nothing, iters=3), "zero", seed=5), alone)


@pytest.mark.e2e
def test_killed_and_resumed(tiny: Tiny, distilled_run: Run, tmp_path: Path, state_equal: Equal) -> None:
    """With dropout and random flips: to the last bit what it would have been."""
    cfg = tiny.load("distill")
    assert cfg.model.decode_head.get("dropout_ratio", 0.1) > 0
    with pytest.raises(Killed):
        train(cfg, tmp_path / "run", listener=KillAt(4))
    assert torch.load(tmp_path / "run" / "last.pth", weights_only=True)["meta"]["iter"] == 4
    assert not (tmp_path / "run" / "metrics.json").exists()
    recorder = Recorder([], [], [])
    metrics = train(tiny.load("distill"), tmp_path / "run", resume=True, listener=recorder)
    assert recorder.starts[0][:2] == (4, 6) and [iteration for iteration, _ in recorder.validations] == [6]
    assert state_equal(Run(tmp_path / "run", metrics).weights("last.pth"), distilled_run.weights("last.pth"))
    assert state_equal(Run(tmp_path / "run", metrics).weights("student.pth"), distilled_run.weights("student.pth"))
    assert {**metrics, "seconds": 0} == {**distilled_run.metrics, "seconds": 0}
    # What the resumed run wrote as its config is again a whole run's, not one that starts from last.pth.
    assert (tmp_path / "run" / "config.py").read_text() == (distilled_run.folder / "config.py").read_text()


@pytest.mark.e2e
def test_a_run_prints_nothing(
    tiny: Tiny, tmp_path: Path, capfd: pytest.CaptureFixture[str], recorder: Recorder
) -> None:
    metrics = train(tiny.load("distill", iters=3, val_interval=2), tmp_path / "run", listener=recorder)
    assert tuple(capfd.readouterr()) == ("", "")
    ((first, last, facts),) = recorder.starts
    assert (first, last) == (0, 3) and facts["teacher_mIoU"] == metrics["teacher_mIoU"]
    assert facts["effective"]["distill.losses.hidden.pair"] == (1, 1)
    assert [iteration for iteration, _ in recorder.validations] == [2, 3]
    assert recorder.validations[-1][1] == metrics["last"]
    ((iteration, values),) = recorder.steps
    assert iteration == 3 and 0 <= values["lr"] < 0.03
    assert {"loss", "decode.loss_ce", "distill.loss_logits", "raw/logits", "distill.loss_hidden", "raw/hidden"} < set(
        values
    )


@pytest.mark.e2e
def test_resuming_what_is_finished_or_not_begun(
    tiny: Tiny, distilled_run: Run, tmp_path: Path, state_equal: Equal
) -> None:
    shutil.copytree(distilled_run.folder, tmp_path / "run")
    metrics = train(tiny.load("distill"), tmp_path / "run", resume=True)
    assert {**metrics, "seconds": 0} == {**distilled_run.metrics, "seconds": 0}
    assert train(tiny.load("student", iters=1), tmp_path / "new", resume=True)["iter"] == 1


@pytest.mark.e2e
def test_a_student_that_starts_from_a_checkpoint(
    tiny: Tiny, distilled_run: Run, tmp_path: Path, state_equal: Equal
) -> None:
    start = distilled_run.folder / "student.pth"
    cfg = tiny.load("student", {"load_from": str(start), "optim_wrapper.optimizer.lr": 0.0}, iters=1)
    names = {f"student.{name}" for name, _ in build_segmentor(cfg.model).named_parameters()}
    run = Run(tmp_path / "run", train(cfg, tmp_path / "run"))
    expected = {f"student.{key}": value for key, value in torch.load(start, weights_only=True)["state_dict"].items()}
    actual = run.weights("last.pth")
    assert state_equal({key: actual[key] for key in names}, {key: expected[key] for key in names})


@pytest.mark.e2e
def test_swept_values_are_read_back(tiny: Tiny, tmp_path: Path, recorder: Recorder) -> None:
    swept = {
        "distill.losses.logits.weight": 3,
        "distill.losses.logits.tau": 1.0,
        "distill.losses.hidden.pair": [1, 1],
        "distill.task_weight": 1.0,
        "model.decode_head.dropout_ratio": 0.1,
        "model.backbone.depth": 18,
        "optim_wrapper.optimizer.lr": 0.03,
        "+train_dataloader.batch_size": 2,
    }
    train(tiny.load("distill", iters=1), tmp_path / "run", swept=swept, teacher_metrics=[], listener=recorder)
    effective = recorder.starts[0][2]["effective"]
    assert {key: effective[key] for key in swept if key != "distill.losses.hidden.pair"} == {
        key: value for key, value in swept.items() if key != "distill.losses.hidden.pair"
    }
    assert effective["distill.losses.hidden.pair"] == (1, 1) and effective["distill.losses.hidden.weight"] == 50.0


@pytest.mark.e2e
def test_the_callers_config_is_left_alone(tiny: Tiny, tmp_path: Path) -> None:
    cfg = tiny.load("student", iters=1)
    before = cfg.to_dict()
    train(cfg, tmp_path / "run")
    assert cfg.to_dict() == before
    written = read_config_file(tmp_path / "run" / "config.py")
    assert (written.train_dataloader.batch_size, written.train_cfg.max_iters) == (2, 1)
