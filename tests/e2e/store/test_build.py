"""`rdistill store build`: killed, gone on with, and read by a training that runs no teacher."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Tiny
from random_crops import builder_of, with_features
from torch import Tensor

from e2e.conftest import Sandbox
from e2e.processes import wait_until
from rdistill.config.load import with_overrides
from rdistill.store.build import _chunks
from rdistill.training.run import train

pytestmark = pytest.mark.e2e
VIEWS = 150  # each of the 6 images has as many
# No two views are alike.
PIPELINE = (
    "[{'type': 'LoadImageFromFile'}, {'type': 'LoadAnnotations'}, {'type': 'Resize', 'scale': [32, 32]}, "
    "{'type': 'RandomFlip', 'prob': 0.5}, {'type': 'PhotoMetricDistortion'}, {'type': 'PackSegInputs'}]"
)


def entries(folder: Path) -> int:
    return sum(path.is_file() and len(path.name) == 32 for path in folder.rglob("*"))


def test_a_killed_build_goes_on_and_a_run_reads_it(
    tiny: Tiny, sandbox: Sandbox, state_equal: Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], bool]
) -> None:
    folder = sandbox.root / "store"
    config = [tiny.folder / "distill.py", "--data-root", tiny.data_root, "--size", 32, "--batch-size", 2]
    config += ["--set", "distill.losses.hidden=None", "--set", f"train_dataloader.dataset.pipeline={PIPELINE}"]

    def store(keep: str = "logits") -> list[object]:
        return ["--set", f"distill.store={{'views': {VIEWS}, 'bits': 32, 'keep': '{keep}', 'dir': '{folder}'}}"]

    with sandbox.start("store", "build", *config, *store()) as killed:
        wait_until(lambda: entries(folder) >= 5, killed)
        killed.kill()
    there = entries(folder)
    assert 5 <= there < 6 * VIEWS

    built = sandbox.run("store", "build", *config, *store())
    lines = {line.split()[0]: line for line in built.stdout.splitlines()}
    assert lines["views"].endswith(f"{VIEWS} of each of 6 images: {6 * VIEWS}") and "best.pth" in lines["teacher"]
    done = re.search(rf"{6 * VIEWS} views: (\d+) computed, (\d+) were there", lines["done"])
    assert done is not None and int(done[2]) >= there and int(done[1]) > 0
    assert list(lines).index("size") < list(lines).index("building")  # sizes stand before anything is computed
    verified = json.loads(sandbox.run("store", "verify", folder, "--json").stdout)
    assert verified["damaged"] == 0 and verified["entries"] == entries(folder)

    runs = {}
    for keep in ("logits", "nothing"):
        runs[keep] = sandbox.root / keep
        sandbox.run(
            "train", *config, *store(keep), "--iters", 8, "--val-interval", 4, "--seed", 3, "--work-dir", runs[keep]
        )
    use = {keep: json.loads((run / "metrics.json").read_text())["teacher_store"] for keep, run in runs.items()}
    assert (use["logits"]["images"], use["logits"]["computed"]) == (16, 0)
    assert use["nothing"]["computed"] == 16
    first, second = (torch.load(run / "last.pth", weights_only=True)["state_dict"] for run in runs.values())
    assert state_equal(first, second)


def test_a_run_finds_what_was_built(tiny: Tiny, tmp_path: Path) -> None:
    cfg = with_features(tiny, dir=str(tmp_path / "store"))
    builder = builder_of(cfg)
    plan = builder.plan()
    assert (plan["images"], plan["views"], plan["batch"]) == (6, 2, 2) and len(plan["outputs"]) == 4
    pairs = [pair for chunk in _chunks(plan, 1) for pair in chunk]
    done = builder.build(pairs)
    assert (done["views"], done["computed"], done["damaged"]) == (12, 12, 0)
    assert abs(done["written"] - 12 * plan["bytes_a_view"]) <= 12 * 4 * 16  # checksums
    assert builder_of(cfg).build(pairs)["computed"] == 0
    options: dict[str, Any] = dict(teacher_metrics=[{}], check=False)
    use = train(cfg, tmp_path / "run", **options)["teacher_store"]
    assert (use["images"], use["computed"]) == (12, 0)
    other_pair = with_overrides(cfg, {"distill.losses.hidden.pair": [0, 0]})  # another of the listed features
    assert train(other_pair, tmp_path / "other", **options)["teacher_store"]["computed"] == 0
