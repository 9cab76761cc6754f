"""What an earlier start left: damaged checkpoints, another config, a finished run."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config

from rdistill.core.differences import differences
from rdistill.core.errors import UserError
from rdistill.core.files import DamagedFileError
from rdistill.core.stopping import Stopped, on_signals, sigterm_kept, terminated_like_ctrl_c
from rdistill.training.resume import (
    BEST,
    LAST,
    PREVIOUS,
    damaged,
    find_earlier_run,
    finished_metrics,
    refuse_different_run,
    refuse_overwriting,
    repair,
)
from rdistill.training.student_files import write_config


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for number, name in enumerate((PREVIOUS, LAST, BEST)):
        torch.save({"state_dict": {"weight": torch.full((1000,), float(number))}}, tmp_path / name)
    return tmp_path


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_a_single_bit_is_found(files: Path) -> None:
    assert damaged(files / LAST) == ""
    flip_a_bit(files / LAST)
    torch.load(files / LAST, weights_only=True)  # torch itself does not look
    assert "checksum" in damaged(files / LAST)
    (files / BEST).write_bytes((files / BEST).read_bytes()[:100])
    assert damaged(files / BEST)


def test_the_newest_whole_checkpoint(files: Path) -> None:
    earlier = find_earlier_run(files)
    assert (earlier.last, earlier.best_is_sound, earlier.notes) == (files / LAST, True, ())
    flip_a_bit(files / LAST)
    earlier = find_earlier_run(files)
    assert earlier.last == files / PREVIOUS and earlier.best_is_sound
    assert f"{files / LAST} is damaged" in earlier.notes[0] and str(files / PREVIOUS) in earlier.notes[1]
    (files / LAST).unlink()  # killed between two renames
    assert find_earlier_run(files).last == files / PREVIOUS
    flip_a_bit(files / BEST)
    assert not find_earlier_run(files).best_is_sound
    flip_a_bit(files / PREVIOUS)
    with pytest.raises(UserError, match="no checkpoint is whole"):
        find_earlier_run(files)


def test_nothing_to_resume(tmp_path: Path) -> None:
    assert find_earlier_run(tmp_path).last is None
    refuse_overwriting(tmp_path, resume=False)
    (tmp_path / PREVIOUS).touch()
    refuse_overwriting(tmp_path, resume=True)
    with pytest.raises(UserError, match="holds a run already; pass --resume"):
        refuse_overwriting(tmp_path, resume=False)


def config(**changes: Any) -> Config:
    cfg = Config(
        dict(
            model=dict(depth=18, size=(2, 3)),
            train_dataloader=dict(batch_size=4, num_workers=0),
            val_dataloader=dict(batch_size=1),
            train_cfg=dict(max_iters=10, val_interval=5),
            optim_wrapper=dict(lr=0.1),
        )
    )
    cfg.merge_from_dict(changes)
    return cfg


MAY_DIFFER = {"train_dataloader.num_workers": 2, "val_dataloader.batch_size": 8, "train_cfg.val_interval": 2}


@pytest.mark.parametrize("changes", [{}, MAY_DIFFER, {"train_cfg.max_iters": 20}], ids=["none", "harmless", "longer"])
def test_the_same_run(tmp_path: Path, changes: dict[str, Any]) -> None:
    write_config(config(), tmp_path / "config.py", 3)
    refuse_different_run(tmp_path, config(**changes), 3)


@pytest.mark.parametrize(
    ("changes", "seed", "line"),
    [
        ({"optim_wrapper.lr": 0.2}, 3, "optim_wrapper.lr was 0.1, is 0.2"),
        ({"train_cfg.max_iters": 5}, 3, "train_cfg.max_iters was 10, is 5"),
        ({"train_cfg.max_iters": 20, "optim_wrapper.lr": 0.2}, 3, "train_cfg.max_iters was 10, is 20"),
        ({}, 4, "randomness.seed was 3, is 4"),
    ],
)
def test_another_run(tmp_path: Path, changes: dict[str, Any], seed: int, line: str) -> None:
    write_config(config(), tmp_path / "config.py", 3)
    with pytest.raises(UserError) as caught:
        refuse_different_run(tmp_path, config(**changes), seed)
    fix = (
        "use another --work-dir for this other run, or continue with "
        f"`rdistill train {tmp_path}/config.py --work-dir {tmp_path} --resume`"
    )
    assert f"{tmp_path}: --resume: {line}; {fix}" in caught.value.problems
    assert len(caught.value.problems) == len(changes) + (seed != 3)


def test_a_finished_run(tmp_path: Path) -> None:
    assert finished_metrics(tmp_path, config()) is None
    (tmp_path / "metrics.json").write_text(json.dumps({"iter": 10}))
    assert finished_metrics(tmp_path, config()) == {"iter": 10}
    assert finished_metrics(tmp_path, config(**{"train_cfg.max_iters": 20})) is None


def test_differences() -> None:
    changes = differences({"a": {"b": 1, "c": [1]}, "d": 2}, {"a": {"b": 1, "c": [2]}, "e": 3})
    assert changes == {"a.c": "a.c was [1], is [2]", "d": "d was 2, is None", "e": "e was None, is 3"}


def test_signals() -> None:
    """The first is a request where it is can_stop_gracefully; all others end at once."""
    before = signal.getsignal(signal.SIGINT)
    with on_signals() as request:
        with pytest.raises(KeyboardInterrupt):  # nothing has begun
            signal.raise_signal(signal.SIGINT)
        request.can_stop_gracefully = True
        signal.raise_signal(signal.SIGTERM)
        assert request.signum == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(SystemExit) as caught:
            signal.raise_signal(signal.SIGTERM)
        assert caught.value.code == 143
    assert signal.getsignal(signal.SIGINT) is before
    stopped = Stopped(signal.SIGINT, 7, 9, {"iter": 5, "metrics": {"mIoU": 61.234}})
    assert str(stopped) == (
        "stopped at iteration 7 of 9, which last.pth holds; best so far, in student.pth: mIoU 61.23 at iteration 5"
    )


@pytest.mark.parametrize("content", ["", "model = dict(", "a = 1\n"])
def test_a_damaged_config_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.py").write_text(content)
    with pytest.raises(DamagedFileError, match=r"config\.py: .*is damaged.*; remove it to go on with") as caught:
        refuse_different_run(tmp_path, config(), 3)
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize("content", ["", '{"iter": 1', "[]"])
def test_what_can_be_made_again_is_set_aside(tmp_path: Path, content: str) -> None:
    (tmp_path / "metrics.json").write_text(content)
    (tmp_path / "teacher.json").write_text("{}")
    lines: list[str] = []
    repair(tmp_path, lines.append)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["metrics.json.damaged", "teacher.json"]
    (line,) = lines
    assert line.startswith(f"{tmp_path}/metrics.json: is damaged (") and ": the run is ended once more; " in line
    assert finished_metrics(tmp_path, config()) is None


def test_sigterm_does_what_ctrl_c_does() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with terminated_like_ctrl_c() as request:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        assert request.signum == signal.SIGTERM
        with sigterm_kept():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # ray.init puts its own there
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before
