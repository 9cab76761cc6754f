"""A sweep, and who may die in it: a trial's process, a cohort's worker, the driver. All ends as if nothing had been."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Tiny

from e2e.conftest import TIMEOUT_S, Sandbox
from e2e.processes import is_alive, under, wait_until, wait_until_gone

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

WEIGHT = "distill.losses.logits.weight"
ITERATIONS = 60
INTERRUPTED = "interrupted; a run or a sweep continues with --resume"
COHORT, ASSIGNER = "ray::Cohort", "ray::CohortAssigner"
TRIAL = "ray::ImplicitFunc"  # the title of its process, whether it trains or follows a student in a cohort
Rows = Callable[[Path], dict[str, dict[str, str]]]
TrialJson = Callable[[Path, str], dict[str, Any]]
Equal = Callable[[Any, Any], bool]


def study(tiny: Tiny, **changes: Any) -> dict[str, Any]:
    return {
        "config": str(tiny.folder / "distill.py"),
        "space": {WEIGHT: {"type": "choice", "values": [3.0, 30.0]}},
        "search": {"type": "grid", "seed": 1},
        **changes,
    }


@pytest.fixture(scope="module")
def small(tiny: Tiny) -> list[object]:
    return [
        "--data-root", tiny.data_root, "--size", 32, "--batch-size", 2, "--val-interval", 10, "--iters", ITERATIONS,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def whole(sandbox: Sandbox, tiny: Tiny, small: list[object]) -> Path:
    """The sweep that nothing happens to."""
    work_dir = sandbox.root / "whole"
    sandbox.run("sweep", sandbox.sweep_file("whole", study(tiny)), "--work-dir", work_dir, *small)
    return work_dir


def assert_same(work_dir: Path, whole: Path, rows: Rows, equal: Equal) -> None:
    """Every row, but for what it took, and every student to the last bit."""
    of_the_way = dict(seconds="", seconds_real="", seconds_alone="", attempts="")
    actual, expected = (
        {name: {**row, **of_the_way} for name, row in rows(folder).items()} for folder in (work_dir, whole)
    )
    assert actual == expected
    assert {(row["status"], row["iterations"]) for row in actual.values()} == {("finished", str(ITERATIONS))}
    for name in actual:
        left, right = (
            torch.load(folder / "trials" / name / "last.pth", weights_only=True)["state_dict"]
            for folder in (work_dir, whole)
        )
        assert equal(left, right), name


def test_the_work_dir_is_removed(sandbox: Sandbox, tiny: Tiny, small: list[object]) -> None:
    """Nobody can go on: it ends soon, not after the last iteration, with one line."""
    work_dir = sandbox.root / "removed"
    long = [*small[: small.index("--iters")], "--iters", 20_000]
    with sandbox.start("sweep", sandbox.sweep_file("removed", study(tiny)), "--work-dir", work_dir, *long) as process:
        wait_until(lambda: is_training(work_dir), process)
        shutil.rmtree(work_dir)
        _, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 1, err
    what = "was removed or moved while rdistill wrote to it; remove what is left of it, and start again"
    assert err == f"error: {work_dir}: {what}\n"


def is_training(work_dir: Path) -> bool:
    return bool(list(work_dir.glob("trials/*/last.pth")))


@pytest.mark.parametrize(
    ("size", "attempts"),
    [("off", {1, 2}), ("auto", {1})],
    ids=["that trains", "that follows a student in a cohort"],
)
def test_a_trials_own_process(
    sandbox: Sandbox, tiny: Tiny, small: list[object], whole: Path, rows: Rows, trial_json: TrialJson,
    state_equal: Equal, size: str, attempts: set[int],
) -> None:  # fmt: skip
    """Those of all trials at work. One that trained goes on from its checkpoint; a cohort's students do not notice.

    Also not where the actor that knows their cohorts is killed with them: it asks these whom they train.
    """
    work_dir = sandbox.root / f"trial-{size}"
    file = sandbox.sweep_file(f"trial-{size}", study(tiny, cohort={"size": size}))
    with sandbox.start("sweep", file, "--work-dir", work_dir, *small) as process:
        wait_until(lambda: is_training(work_dir), process)
        killed = under(process.pid, TRIAL)
        assert killed
        killed += under(process.pid, ASSIGNER)
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        out, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, (out, err)
    assert_same(work_dir, whole, rows, state_equal)
    assert {trial_json(work_dir, name)["attempts"] for name in rows(work_dir)} == attempts


def test_the_driver(
    sandbox: Sandbox, tiny: Tiny, small: list[object], whole: Path, rows: Rows, state_equal: Equal
) -> None:
    """Killed amid the first trials: those that train end by themselves, and --resume goes on. Nothing else does."""
    work_dir = sandbox.root / "driver"
    arguments = ["sweep", sandbox.sweep_file("driver", study(tiny)), "--work-dir", work_dir, *small]
    with sandbox.start(*arguments) as process:
        wait_until(lambda: is_training(work_dir), process)
        training = [*under(process.pid, COHORT), *under(process.pid, TRIAL)]
        process.kill()
        process.communicate()
    assert training
    wait_until_gone(training)  # Ray's own agents take a minute to see that they are alone

    changed = study(tiny, space={WEIGHT: {"type": "choice", "values": [3.0, 40.0]}})
    refused = sandbox.run("sweep", sandbox.sweep_file("other", changed), *arguments[2:], "--resume", status=2)
    assert f"error: {work_dir}: --resume: " in refused.stderr
    assert WEIGHT in refused.stderr and "was 30.0, is 40.0" in refused.stderr

    sandbox.run(*arguments, "--resume")
    assert_same(work_dir, whole, rows, state_equal)


def test_the_driver_and_rays_own_server(
    sandbox: Sandbox, tiny: Tiny, small: list[object], whole: Path, rows: Rows, state_equal: Equal
) -> None:
    """Killed both, they leave agents of Ray's behind, which the next start ends; damaged files are made again."""
    work_dir = sandbox.root / "gcs"
    arguments = ["sweep", sandbox.sweep_file("gcs", study(tiny)), "--work-dir", work_dir, *small]
    with sandbox.start(*arguments) as process:
        wait_until(lambda: is_training(work_dir), process)
        assert (work_dir / "ray").stat().st_mode & 0o777 == 0o700
        process.send_signal(signal.SIGSTOP)  # it would end before the second has begun, where others are at work
        second = sandbox.run(*arguments, "--resume", status=2)
        assert "another run or sweep is at work in it" in second.stderr
        (server,) = under(process.pid, "gcs_server")
        left = [*under(process.pid, "runtime_env/agent"), *under(process.pid, "dashboard/agent.py")]
        assert left
        for agent in left:  # or they end by themselves before the next start, now and then
            os.kill(agent, signal.SIGSTOP)
        os.kill(server, signal.SIGKILL)
        process.kill()
        process.communicate()
    for name, content in (("step.json", '{"bytes": 1'), ("summary.json", ""), ("teacher.json", "[]")):
        (work_dir / name).write_text(content)
    survived = [agent for agent in left if is_alive(agent)]
    resumed = sandbox.run(*arguments, "--resume")
    assert not any(is_alive(agent) for agent in left)
    if survived:  # Ray's raylet may have ended them, see test_ray_folder.py
        assert "processes of Ray's that an earlier start of this work dir left" in resumed.stdout
    for name in ("step.json", "summary.json", "teacher.json"):
        assert f"the damaged file is kept as {name}.damaged" in resumed.stdout
    assert_same(work_dir, whole, rows, state_equal)
    # The only temporary files left are those that this test has Ray put there.
    assert not (work_dir / "ray").exists() and not list(work_dir.glob(".tmp/*"))
    assert {file.name for file in (sandbox.root / "t").glob("[!.]*")} <= {"_ray_lockfiles"}


def test_terminated(
    sandbox: Sandbox, tiny: Tiny, small: list[object], whole: Path, rows: Rows, state_equal: Equal
) -> None:
    """By SIGTERM, to the driver alone: as Ctrl-C, with its own status."""
    work_dir = sandbox.root / "terminated"
    arguments = ["sweep", sandbox.sweep_file("terminated", study(tiny)), "--work-dir", work_dir, *small]
    with sandbox.start(*arguments) as process:
        wait_until(lambda: is_training(work_dir), process)
        process.terminate()
        out, err = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, err) == (143, f"{INTERRUPTED}\n"), (out, err)
    sandbox.run(*arguments, "--resume")
    assert_same(work_dir, whole, rows, state_equal)


def test_interrupted(
    sandbox: Sandbox, tiny: Tiny, small: list[object], whole: Path, rows: Rows, state_equal: Equal
) -> None:
    """By Ctrl-C, which a terminal sends to all processes: says what is there."""
    work_dir = sandbox.root / "interrupted"
    arguments = ["sweep", sandbox.sweep_file("interrupted", study(tiny)), "--work-dir", work_dir, *small]
    with sandbox.start(*arguments, start_new_session=True) as process:
        wait_until(lambda: is_training(work_dir), process)
        training = [*under(process.pid, COHORT), *under(process.pid, TRIAL)]
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, err) == (130, f"{INTERRUPTED}\n"), (out, err)
    assert f"best      {next(iter(rows(work_dir)))}: {work_dir}/best.pth" in out
    wait_until_gone(training)
    sandbox.run(*arguments, "--resume")
    assert_same(work_dir, whole, rows, state_equal)


@pytest.mark.parametrize("size", ["auto", "off"])
def test_a_worker_of_two(
    sandbox: Sandbox, tiny: Tiny, small: list[object], rows: Rows, trial_json: TrialJson, size: str
) -> None:
    """Of a cohort's group, and of a trial's own."""
    work_dir = sandbox.root / f"worker-{size}"
    file = sandbox.sweep_file(f"worker-{size}", study(tiny, cohort={"size": size}, trial={"workers": 2}))
    with sandbox.start("sweep", file, "--work-dir", work_dir, *small, "--batch-size", 4) as process:
        wait_until(lambda: is_training(work_dir), process)
        os.kill(under(process.pid, "TrainWorker")[-1], signal.SIGKILL)
        out, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, (out, err)
    table = rows(work_dir)
    assert set(table) == {"baseline", "t0001", "t0002"}
    for name, row in table.items():
        assert (row["status"], row["iterations"]) == ("finished", str(ITERATIONS))
        history = trial_json(work_dir, name)["history"]
        assert [entry["iter"] for entry in history] == list(range(10, ITERATIONS + 1, 10)), name
