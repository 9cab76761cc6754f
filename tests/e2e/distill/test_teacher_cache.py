"""Runs, cohorts and processes that share remembered teacher outputs train the same students."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from cached_teacher import ON, Counted, files, make_cache
from conftest import REPO, Recorder, Tiny
from torch import Tensor

from rdistill.config.load import with_overrides
from rdistill.training.lockstep import Lane, Lockstep
from rdistill.training.run import train

Equal = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], bool]


@pytest.mark.e2e
def test_two_processes_share(tmp_path: Path) -> None:
    """Both at once on the same images: each has the right answers, and no file is half of one."""
    code = (
        "from pathlib import Path; import torch\n"
        "from rdistill.distill.teacher_cache import TeacherCache; from rdistill.config.distill_spec import CacheSpec\n"
        "images = torch.randn(60, 3, 8, 8, generator=torch.Generator().manual_seed(1))\n"
        f"cache = TeacherCache(lambda: b'one', CacheSpec(memory=0), Path({str(tmp_path)!r}))\n"
        "twice = lambda image: {'twice': image * 2}\n"
        "for _ in range(2): assert torch.equal(cache(images, ['twice'], twice)['twice'], images * 2)\n"
        "print(cache.images - cache.hits)"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", code], cwd=REPO, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    computed = [int(process.communicate(timeout=300)[0]) for process in running]
    assert all(process.returncode == 0 for process in running) and all(count <= 60 for count in computed)
    assert len(files(tmp_path)) == 60 and not list(tmp_path.rglob("*.partial"))
    third = Counted()
    make_cache(tmp_path)(torch.randn(60, 3, 8, 8, generator=torch.Generator().manual_seed(1)), ["twice"], third)
    assert third.images == 0


def weights(folder: Path) -> dict[str, Tensor]:
    return torch.load(folder / "last.pth", weights_only=True)["state_dict"]


@pytest.mark.e2e
def test_a_run_with_the_cache(tiny: Tiny, tmp_path: Path, state_equal: Equal, recorder: Recorder) -> None:
    """Its student is the one without; a second run finds everything; a resumed one is the uninterrupted one."""

    class Cut(Recorder):
        def validated(self, iteration: int, metrics: Mapping[str, Any]) -> None:
            if iteration == 4:
                raise KeyboardInterrupt

    options: dict[str, Any] = dict(teacher_metrics=[{}], check=False)
    cfg = tiny.load("distill", ON)
    metrics = train(cfg, tmp_path / "first", listener=recorder, **options)
    assert metrics["teacher_cache"]["images"] == 12 and "cache on" in recorder.starts[0][2]["teacher_lines"]
    again = train(cfg, tmp_path / "second", **options)
    assert again["teacher_cache"] == {"images": 12, "hit_rate": 1.0, "from_disk": 12 - _repeats(metrics)}
    with pytest.raises(KeyboardInterrupt):
        train(cfg, tmp_path / "cut", listener=Cut([], [], []), **options)
    train(cfg, tmp_path / "cut", resume=True, **options)
    train(with_overrides(cfg, {"distill.cache": "off"}), tmp_path / "without", **options)
    expected = weights(tmp_path / "first")
    assert state_equal(expected, weights(tmp_path / "second")) and state_equal(expected, weights(tmp_path / "cut"))
    for key, value in weights(tmp_path / "without").items():
        torch.testing.assert_close(value, expected[key], rtol=1e-4, atol=1e-5)


def _repeats(metrics: Mapping[str, Any]) -> int:
    """Images that a run without files to begin with met again."""
    return round(metrics["teacher_cache"]["hit_rate"] * metrics["teacher_cache"]["images"])


@pytest.mark.e2e
def test_a_cohort_with_the_cache(tiny: Tiny, tmp_path: Path, state_equal: Equal) -> None:
    """Students that ask for different features, of a teacher that is asked for all; each alone is the same."""
    cfg = tiny.load("distill", {"distill.cache": {"mode": "on", "dir": str(tmp_path / "shared")}}, val_interval=6)
    configs = {
        "logits": with_overrides(cfg, {"distill.losses.hidden": None}),
        "hidden": with_overrides(cfg, {"distill.losses.logits": None}),
    }
    outcome: dict[str, Any] = {}
    lockstep = Lockstep()
    for name, run_cfg in configs.items():

        def run(lane: Lane, run_cfg: Any = run_cfg, name: str = name) -> None:
            outcome[name] = train(run_cfg, tmp_path / name, teacher_metrics=[{}], lane=lane, check=False)

        lockstep.join(name, run)
    while lockstep.step():
        pass
    assert outcome["logits"]["teacher_cache"]["images"] >= 12
    for name, run_cfg in configs.items():
        alone = with_overrides(run_cfg, {"distill.cache.dir": str(tmp_path / f"{name}-cache")})  # finds nothing
        train(alone, tmp_path / f"{name}-alone", teacher_metrics=[{}], check=False)
        assert state_equal(weights(tmp_path / name), weights(tmp_path / f"{name}-alone")), name
