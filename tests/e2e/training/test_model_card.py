"""What goes with the weights works in plain mmseg."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Run

# Tests a student and trains it on, with mmengine and mmseg alone.
IN_PLAIN_MMSEG = """
import sys; sys.modules["rdistill"] = None
import json, warnings
warnings.simplefilter("ignore")
from mmengine.config import Config
from mmengine.runner import Runner
folder, out = sys.argv[1:]
cfg = Config.fromfile(f"{folder}/student.py")
cfg.work_dir, cfg.load_from = f"{out}/test", f"{folder}/student.pth"
scores = Runner.from_cfg(cfg).test()
cfg = Config.fromfile(f"{folder}/student.py")
cfg.work_dir, cfg.train_cfg.max_iters, cfg.train_cfg.val_interval = f"{out}/train", 2, 2
runner = Runner.from_cfg(cfg)
runner.train()
print(json.dumps({"mIoU": float(scores["mIoU"]), "iter": runner.iter}))
"""


@pytest.mark.e2e
def test_plain_mmseg_tests_and_trains_it(distilled_run: Run, tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", IN_PLAIN_MMSEG, str(distilled_run.folder), str(tmp_path)]
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["mIoU"] == pytest.approx(distilled_run.metrics["mIoU"], abs=0.01) and result["iter"] == 2
