"""`rdistill headroom`, and the headroom of a sweep: measured once, continued after a kill, and what it says."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Tiny
from torch import Tensor
from typed_files import unlike

from rdistill.core.files import read_json
from rdistill.core.stopping import Stopped, StopRequest
from rdistill.core.storage import open_work_dir
from rdistill.schemas.headroom import ArmRecord, Headroom
from rdistill.sweeps.headroom.arms import ARMS, arm_config
from rdistill.sweeps.headroom.group import NotePrinter
from rdistill.sweeps.headroom.measure import INNER, Request, measure
from rdistill.sweeps.headroom.run import run_headroom
from rdistill.training.run import train

from .conftest import TIMEOUT_S, Sandbox
from .processes import wait_until

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def measured(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("headroom") / "run"
    return folder, run_headroom(tiny.load("distill", iters=80), folder, iterations=20)


def weights(folder: Path) -> dict[str, Tensor]:
    return torch.load(folder / "last.pth", weights_only=True)["state_dict"]  # type: ignore[no-any-return]


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_every_arm_trains_on_every_seed(measured: tuple[Path, dict[str, Any]]) -> None:
    folder, found = measured
    assert json.loads((folder / "headroom.json").read_text()) == json.loads(json.dumps(found))
    assert {arm: list(one["scores"]) for arm, one in found["arms"].items()} == {arm: ["0", "1"] for arm in ARMS}
    assert found["failed"] == [] and found["recommendation"]
    assert found["rates"]["alone_step"] > 0 and found["rates"]["teacher"] > 0
    assert found["plan"]["sweep_hours"] > 0


def test_the_files_are_what_their_types_say(measured: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = measured
    assert unlike(read_json(folder / "headroom.json"), Headroom) == []
    arms = sorted(folder.glob("*/arm.json"))
    assert len(arms) == 2 * len(ARMS)
    assert [line for file in arms for line in unlike(read_json(file), ArmRecord, file.parent.name)] == []


@pytest.mark.parametrize("arm", ["alone", "hard", "half"])
def test_an_arm_is_the_training_that_it_would_be_alone(
    measured: tuple[Path, dict[str, Any]], tiny: Tiny, tmp_path: Path, arm: str
) -> None:
    """To the last bit: sharing data and a teacher changes nothing."""
    folder, _ = measured
    base = tiny.load("distill", {"distill.teachers.0.forward": {"fuse": True}, "distill.cache": "off"}, iters=80)
    train(arm_config(base, arm, 20, seed=1), tmp_path / "run", seed=1)
    assert equal(weights(tmp_path / "run"), weights(folder / f"{arm}-s1"))


def test_a_headroom_that_was_stopped_goes_on(measured: tuple[Path, dict[str, Any]], tiny: Tiny, tmp_path: Path) -> None:
    folder, found = measured
    stop = StopRequest()

    def stop_in_the_second_seed(line: str) -> None:
        if line.startswith("trained   longer-s0"):
            stop.signum = signal.SIGTERM

    cfg = tiny.load("distill", iters=80)
    with pytest.raises(Stopped):
        run_headroom(cfg, tmp_path / "run", iterations=20, stop=stop, notify=stop_in_the_second_seed)
    assert not (tmp_path / "run" / "headroom.json").exists()
    resumed = run_headroom(cfg, tmp_path / "run", iterations=20, resume=True)
    assert resumed["arms"] == found["arms"] and resumed["recommendation"] == found["recommendation"]
    for arm in ARMS:
        assert equal(weights(tmp_path / "run" / f"{arm}-s1"), weights(folder / f"{arm}-s1"))
    lines: list[str] = []
    again = run_headroom(cfg, tmp_path / "run", iterations=20, resume=True, notify=lines.append)
    assert again["arms"] == resumed["arms"] and "finished already" in lines[-1]


# Nothing that looks across a worker's images, and nothing random: then two workers compute what one does.
GROUP_NORM = {"type": "GN", "num_groups": 2}
WITHOUT_BATCH_STATISTICS = {
    "model.backbone.norm_cfg": GROUP_NORM, "model.decode_head.norm_cfg": GROUP_NORM,
    "model.decode_head.dropout_ratio": 0, "model.decode_head.loss_decode.class_weight": None,
}  # fmt: skip


def test_an_arm_of_two_workers_is_the_training_that_it_would_be_alone(
    tiny: Tiny, tmp_path: Path, in_workers: Callable[[int, Callable[[int], Any]], list[Any]]
) -> None:
    """To the last bit that of two workers, and nearly that of one; also what was stopped and went on."""
    settled = {"distill.teachers.0.forward": {"fuse": True}, "distill.cache": "off"}
    base = tiny.load("distill", {**WITHOUT_BATCH_STATISTICS, **settled}, iters=80, batch_size=4)

    def headroom(rank: int, stops: bool) -> str | None:
        stop = StopRequest()

        def stop_the_longer_one(line: str) -> None:  # the others have ended by then
            if stops and rank == 0 and line.startswith("trained   distilled-s0"):
                stop.signum = signal.SIGTERM

        with open_work_dir(tmp_path / "two", *INNER) as here:
            try:
                found = measure(
                    here,
                    base,
                    Request(20, (0,)),
                    [{"mIoU": 50.0}],
                    stop=stop,
                    listener=NotePrinter(stop_the_longer_one),
                )
            except Stopped as stopped:
                return str(stopped)
        assert found["failed"] == [] and found["rates"]["teacher"] > 0
        return None

    stopped, same = in_workers(2, lambda rank: headroom(rank, stops=True))
    assert stopped == same and stopped.startswith("stopped at iteration 2")
    assert not (tmp_path / "two" / "headroom.json").exists()
    times = {file.parent.name: file.stat().st_mtime_ns for file in (tmp_path / "two").glob("*/arm.json")}
    assert set(times) == {f"{arm}-s0" for arm in ARMS} - {"longer-s0"}
    assert in_workers(2, lambda rank: headroom(rank, stops=False)) == [None, None]
    assert (
        times.items()
        <= {file.parent.name: file.stat().st_mtime_ns for file in (tmp_path / "two").glob("*/arm.json")}.items()
    )
    for arm in ("longer", "distilled"):
        cfg = arm_config(base, arm, 20, seed=0)
        in_workers(2, lambda rank, cfg=cfg, arm=arm: bool(train(cfg, tmp_path / arm, seed=0)))
        assert equal(weights(tmp_path / arm), weights(tmp_path / "two" / f"{arm}-s0")), arm
    train(arm_config(base, "distilled", 20, seed=0), tmp_path / "one", seed=0)
    ours, theirs = weights(tmp_path / "distilled"), weights(tmp_path / "one")
    assert max((value.double() - theirs[key].double()).abs().max().item() for key, value in ours.items()) < 1e-5


@pytest.mark.slow  # worker groups start three times
def test_the_command_with_two_workers(tiny: Tiny, sandbox: Sandbox) -> None:
    """Stopped by a signal in the second seed, it goes on where it was."""
    data = ("--data-root", tiny.data_root, "--size", 32, "--batch-size", 4, "--set", "train_cfg.max_iters=80")
    config, work_dir = tiny.folder / "distill.py", sandbox.root / "two"
    short = ("--iters", 20, "--work-dir", work_dir, "--cpus-per-worker", 0.5)
    odd = sandbox.run("headroom", config, *data, *short, "--workers", 3, status=2)
    assert odd.stderr == (
        "error: train_dataloader.batch_size: 4 images do not divide among 3 workers; set --batch-size\n"
    )
    with sandbox.start("headroom", config, *data, *short, "--workers", 2) as process:
        wait_until(lambda: list(work_dir.glob("*-s1/config.py")), process)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 128 + signal.SIGTERM and "--resume" in err, (out, err)
    before = {file.parent.name: file.read_text() for file in work_dir.glob("*/arm.json")}
    assert {f"{arm}-s0" for arm in ARMS} <= before.keys() and not (work_dir / "headroom.json").exists()
    done = sandbox.run("headroom", config, *data, *short, "--workers", 2, "--resume")
    assert done.stdout.splitlines()[-1].startswith("advice    ")
    assert {name: (work_dir / name / "arm.json").read_text() for name in before} == before
    found = json.loads((work_dir / "headroom.json").read_text())
    assert {arm: list(one["scores"]) for arm, one in found["arms"].items()} == {arm: ["0", "1"] for arm in ARMS}
    assert found["failed"] == [] and found["rates"]["teacher"] > 0 and found["plan"]["sweep_hours"] > 0


@pytest.mark.slow  # six starts
def test_the_command(tiny: Tiny, sandbox: Sandbox) -> None:
    """In 60 iterations, and not yet in 20, these students learn both classes: a gap needs students that have."""
    data = ("--data-root", tiny.data_root, "--size", 32, "--batch-size", 2, "--set", "train_cfg.max_iters=240")
    config, work_dir = tiny.folder / "distill.py", sandbox.root / "headroom"
    done = sandbox.run("headroom", config, *data, "--iters", 60, "--seeds", "0,1", "--work-dir", work_dir)
    lines = done.stdout.splitlines()
    assert any(line.startswith("gap       teacher minus student alone: ") for line in lines)
    assert lines[-1].startswith("advice    ")
    again = sandbox.run("headroom", config, *data, "--iters", 60, "--work-dir", work_dir, status=2)
    assert again.stderr.strip().endswith("pass --resume to continue it, or another --work-dir")
    found = json.loads(
        sandbox.run("headroom", config, *data, "--iters", 60, "--work-dir", work_dir, "--resume", "--json").stdout
    )
    assert found["recommendation"] == lines[-1].removeprefix("advice    ")
    other = sandbox.run("headroom", config, *data, "--iters", 64, "--work-dir", work_dir, "--resume", status=2)
    assert other.stderr == (
        f"error: {work_dir}: --resume: iterations was 60, is 64; "
        "set it back, or use another --work-dir for this other headroom\n"
    )
    for wrong, said in (
        (["--seeds", "0,x"], "error: --seeds: must be whole numbers"),
        (["--iters", "0"], "error: --iters: must be at least 20, got 0"),
    ):
        refused = sandbox.run("headroom", config, *data, *wrong, "--work-dir", sandbox.root / "no", status=2)
        assert refused.stderr.startswith(said) and refused.stderr.count("\n") == 1


@pytest.mark.slow  # Ray starts twice
def test_a_sweep_measures_it_first_where_its_file_says_so(tiny: Tiny, sandbox: Sandbox) -> None:
    sweep = {
        "config": str(tiny.folder / "distill.py"),
        "space": {"distill.losses.logits.weight": {"type": "choice", "values": [1.0, 3.0]}},
        "search": {"type": "grid"},
        "headroom": {"iters": 20, "seeds": [0, 1]},
    }
    data = ("--data-root", tiny.data_root, "--size", 32, "--iters", 4, "--val-interval", 2, "--batch-size", 2)
    work_dir = sandbox.root / "sweep"
    done = sandbox.run("sweep", sandbox.sweep_file("headroom", sweep), *data, "--work-dir", work_dir)
    assert done.stdout.index("advice    ") < done.stdout.index("best      ")
    summary = json.loads((work_dir / "summary.json").read_text())
    assert summary["headroom"]["seeds"] == [0, 1] and summary["headroom"]["plan"]["of"] == "this sweep"
    page = sandbox.run("report", work_dir).stdout
    assert "report" in page
    text = (work_dir / "report.html").read_text()
    assert "Headroom" in text and summary["headroom"]["recommendation"] in text
    resumed = sandbox.run("sweep", sandbox.sweep_file("headroom", sweep), *data, "--work-dir", work_dir, "--resume")
    assert "trained   " not in resumed.stdout


@pytest.mark.slow  # three worker groups
def test_a_sweep_of_two_workers_measures_it_in_a_group(tiny: Tiny, sandbox: Sandbox) -> None:
    sweep = {
        "config": str(tiny.folder / "distill.py"),
        "space": {"distill.losses.logits.weight": {"type": "choice", "values": [1.0]}},
        "search": {"type": "grid"},
        "trial": {"workers": 2, "cpus_per_worker": 0.5},
        "headroom": {"iters": 20, "seeds": [0, 1]},
    }
    data = ("--data-root", tiny.data_root, "--size", 32, "--iters", 4, "--val-interval", 2, "--batch-size", 4)
    work_dir = sandbox.root / "group"
    done = sandbox.run("sweep", sandbox.sweep_file("group", sweep), *data, "--work-dir", work_dir)
    assert done.stdout.index("advice    ") < done.stdout.index("best      ")
    found = json.loads((work_dir / "summary.json").read_text())["headroom"]
    assert found["failed"] == [] and found["plan"]["of"] == "this sweep" and found["rates"]["teacher"] > 0
    assert list((work_dir / "headroom" / "ray_train").iterdir())  # Ray Train's own folder of the group
    step = json.loads((work_dir / "step.json").read_text())
    assert list(step["seconds"]) == ["1"] and min(step["seconds"]["1"]) > 0


@pytest.mark.slow  # Ray starts twice
def test_a_tiny_sweep_is_not_held_up_and_says_so(tiny: Tiny, sandbox: Sandbox) -> None:
    sweep = {
        "config": str(tiny.folder / "distill.py"),
        "space": {"distill.losses.logits.weight": {"type": "choice", "values": [1.0]}},
        "search": {"type": "grid"},
    }
    data = ("--data-root", tiny.data_root, "--size", 32, "--iters", 4, "--val-interval", 2, "--batch-size", 2)
    done = sandbox.run("sweep", sandbox.sweep_file("tiny", sweep), *data, "--work-dir", sandbox.root / "tiny")
    assert "headroom  not measured: within a tenth of this sweep's time" in done.stdout
    off = {**sweep, "headroom": False}  # YAML reads `off` so
    done = sandbox.run("sweep", sandbox.sweep_file("off", off), *data, "--work-dir", sandbox.root / "off")
    assert "headroom" not in done.stdout
    wrong = {**sweep, "headroom": {"iters": 20, "seed": [1, 2]}}
    refused = sandbox.run(
        "sweep", sandbox.sweep_file("wrong", wrong), *data, "--work-dir", sandbox.root / "no", status=2
    )
    assert "unknown key headroom.seed; did you mean 'seeds'?" in refused.stderr
