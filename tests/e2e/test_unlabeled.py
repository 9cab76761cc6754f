"""A sweep over how images without masks count: its students in a cohort have the numbers that each has alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Tiny
from mmengine.config import Config

from e2e.conftest import Sandbox

pytestmark = pytest.mark.e2e


def test_a_cohort_has_the_numbers_of_trials_alone(sandbox: Sandbox, tiny: Tiny, rows: Callable[..., dict]) -> None:
    config = tiny.folder / "unlabeled.py"
    section = "distill = dict(unlabeled=dict(img_dir='img_dir/train', per_batch=2))\n"
    config.write_text(f"_base_ = ['distill.py']\n{section}")
    weights = {}
    for size in (2, "off"):
        study = {
            "config": str(config),
            "space": {"distill.unlabeled.weight": {"type": "choice", "values": [0.5, 2.0]}},
            "search": {"type": "grid", "seed": 1},
            "cohort": {"size": size},
        }
        work_dir = sandbox.root / f"unlabeled-{size}"
        short = ["--data-root", tiny.data_root, "--size", 32, "--batch-size", 2, "--val-interval", 2, "--iters", 4]
        sandbox.run("sweep", sandbox.sweep_file(f"unlabeled-{size}", study), "--work-dir", work_dir, *short)
        finished = [name for name, row in rows(work_dir).items() if row["status"] == "finished"]
        assert len(finished) == 3  # two trials and the student alone
        weights[size] = {name: _weights(work_dir / "trials" / name) for name in finished}
    for name, state in weights[2].items():
        assert all(torch.equal(value, weights["off"][name][key]) for key, value in state.items()), name


@pytest.mark.slow
def test_the_share_is_swept_and_the_best_is_confirmed(sandbox: Sandbox, tiny: Tiny, rows: Callable[..., dict]) -> None:
    """A third and a half of a batch; the student alone sees the labelled images, in the search and on fresh seeds."""
    config = tiny.folder / "unlabeled_share.py"
    section = "distill = dict(unlabeled=dict(img_dir='img_dir/train', share=0.5, min_confidence=0.5))\n"
    config.write_text(f"_base_ = ['distill.py']\n{section}")
    study = {
        "config": str(config),
        "space": {"distill.unlabeled.share": {"type": "choice", "values": [0.34, 0.5]}},
        "search": {"type": "grid", "seed": 1},
        "confirm": {"top": 1, "seeds": [1, 2]},
        "headroom": "off",
    }
    work_dir = sandbox.root / "share"
    short = ["--data-root", tiny.data_root, "--size", 32, "--batch-size", 2, "--val-interval", 2, "--iters", 2]
    done = sandbox.run("sweep", sandbox.sweep_file("share", study), "--work-dir", work_dir, *short)
    table = rows(work_dir)
    assert {row["status"] for row in table.values()} == {"finished"}, done.stderr
    assert {table[name]["distill.unlabeled.share"] for name in ("t0001", "t0002")} == {"0.34", "0.5"}
    for name in table:
        cfg = Config.fromfile(work_dir / "trials" / name / "trial.py")
        images = cfg.get("distill", {}).get("unlabeled")
        assert (images is None) == name.startswith("baseline"), name
    counted = "6 training and 3 validation images, 6 images without masks, 2 beside 2 labelled ones in each batch"
    assert f"data      {counted}\n" in done.stdout
    summary = json.loads((work_dir / "summary.json").read_text())
    assert summary["environment"]["images"] == {"training": 6, "validation": 3, "without_masks": 6}
    confirmed = summary["confirmed"]["configurations"]
    (best,) = (entry for entry in confirmed if entry["id"] != "baseline")
    assert len(best["scores"]) == 2 and "verdict" in done.stdout


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(folder / "last.pth", weights_only=True)["state_dict"]
    return state
