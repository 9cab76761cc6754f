"""What users add, as they would: a module that a file names, or an installed package's entry points."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import REPO, Tiny

from e2e.conftest import Sandbox

pytestmark = pytest.mark.e2e

WEIGHT, RATE = "distill.losses.logits.weight", "optim_wrapper.optimizer.lr"
Rows = Callable[[Path], dict[str, dict[str, str]]]
TrialJson = Callable[[Path, str], dict[str, Any]]

SEARCH = """
import warnings

import optuna
import rdistill
from rdistill.searchers import Choice, Whole


@rdistill.searchers.register("Qmc", params={"kind": Choice(values=("sobol", "halton"))}, learns=False)
def qmc(space, *, seed, kind="sobol"):
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    return optuna.samplers.QMCSampler(qmc_type=kind, scramble=False, seed=seed)


@rdistill.schedulers.register("Median", params={"least": Whole(at_least=1)})
def median(*, val_interval, least=3):
    from ray.tune.schedulers import MedianStoppingRule

    return MedianStoppingRule(time_attr="iter", grace_period=val_interval, min_samples_required=least)
"""
POINTS = "[rdistill.searchers]\nQmc = {0}\n[rdistill.schedulers]\nMedian = {0}\n"


def path_with(folder: Path) -> dict[str, str]:
    """The environment in which Python finds a folder's modules and packages too."""
    return {"PYTHONPATH": os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])}


@pytest.fixture(scope="module")
def modules(sandbox: Sandbox) -> Path:
    """A folder of a user's modules; not the current one, where Python looks in any case."""
    folder = sandbox.root / "modules"
    folder.mkdir()
    return folder


def install(folder: Path, package: str, module: str, points: str) -> None:
    """A package as pip leaves it: its module, and beside it what it registers."""
    about = folder / f"{package}-1.0.dist-info"
    about.mkdir(parents=True)
    (folder / f"{package}.py").write_text(module)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(points)


@pytest.fixture(scope="module")
def small(tiny: Tiny) -> list[object]:
    return ["--data-root", tiny.data_root, "--size", 32, "--batch-size", 2, "--val-interval", 2, "--iters", 6]


def study(tiny: Tiny, **sections: Any) -> dict[str, Any]:
    """A sweep that is chosen and stopped by a user's; one trial at a time, so that the order is the same each time."""
    return {
        "config": str(tiny.folder / "distill.py"),
        # Learning rates so far apart that the first trials and the last differ.
        "space": {RATE: {"type": "loguniform", "low": 1e-9, "high": 1e-1}},
        "search": {"type": "Qmc", "num_trials": 6, "kind": "halton"},
        "scheduler": {"type": "Median", "least": 1},
        "trial": {"max_concurrent": 1},
        **sections,
    }


def test_a_searcher_and_a_scheduler_of_a_module(
    sandbox: Sandbox, tiny: Tiny, small: list[object], modules: Path, rows: Rows, trial_json: TrialJson
) -> None:
    """In a cohort. The winner's files need the module no more."""
    (modules / "my_search.py").write_text(SEARCH)
    file = sandbox.sweep_file("module", study(tiny, custom_imports=["my_search"]))
    work_dir = sandbox.root / "module"
    done = sandbox.run("sweep", file, "--work-dir", work_dir, *small, variables=path_with(modules))
    assert done.stderr == ""
    table = rows(work_dir)
    chosen = [trial_json(work_dir, f"t000{number}")["values"][RATE] for number in range(1, 7)]
    # Optuna's first point is by chance; then Halton's sequence in base 2, over eight powers of ten.
    assert chosen[1:] == pytest.approx([10 ** (-9 + 8 * part) for part in (0, 1 / 2, 1 / 4, 3 / 4, 1 / 8)])
    assert table["baseline"]["status"] == "finished"
    assert {row["status"] for row in table.values()} <= {"finished", "stopped"}
    assert json.loads((work_dir / "study.json").read_text())["sweep"]["search"]["kind"] == "halton"
    assert "my_search" not in (work_dir / "best.py").read_text()
    sandbox.run("eval", work_dir / "best.py", work_dir / "best.pth", "--data-root", tiny.data_root)
    again = sandbox.run("sweep", file, "--work-dir", work_dir, *small, "--resume", status=2)
    assert again.stderr.endswith("Failed to import my_search; its folder must be in PYTHONPATH, on every node\n")


def test_a_searcher_and_a_scheduler_of_a_package(sandbox: Sandbox, tiny: Tiny, small: list[object], rows: Rows) -> None:
    """Without cohorts. The report is made of the files alone, and an absent package is said in a line."""
    folder = sandbox.root / "packages"
    install(folder, "their_search", SEARCH, POINTS.format("their_search"))
    file = sandbox.sweep_file("package", study(tiny, cohort={"size": "off"}))
    work_dir = sandbox.root / "package"
    done = sandbox.run("sweep", file, "--work-dir", work_dir, *small, variables=path_with(folder))
    assert done.stderr == ""
    assert len(rows(work_dir)) == 7 and {row["status"] for row in rows(work_dir).values()} <= {"finished", "stopped"}
    sandbox.run("report", work_dir)
    assert "Qmc, seed 0" in (work_dir / "report.html").read_text()
    for command in (["check", file], ["sweep", file, "--work-dir", work_dir, "--resume"]):
        problems = sandbox.run(*command, *small, status=2).stderr.splitlines()
        assert [line.partition(".yaml: ")[2].partition(", got")[0] for line in problems] == [
            "search.type: must be 'optuna', 'auto', 'random' or 'grid'",
            "scheduler.type: must be 'fifo', 'asha' or 'paired'",
        ]  # fmt: skip


def test_what_fails_when_it_is_built_is_said_before_the_first_trial(
    sandbox: Sandbox, tiny: Tiny, small: list[object], modules: Path
) -> None:
    (modules / "failing_search.py").write_text(
        "import rdistill\n"
        "@rdistill.searchers.register('Qmc')\n"
        "def qmc(space, *, seed, kind='a'):\n    return {}[kind]\n"
        "@rdistill.schedulers.register('Median')\n"
        "def median(*, least=3):\n    raise ValueError(f'{least} is too few')\n"
    )
    file = sandbox.sweep_file("failing", study(tiny, custom_imports=["failing_search"]))
    for command in (["check"], ["sweep", "--work-dir", sandbox.root / "failing"]):
        done = sandbox.run(*command, file, *small, status=2, variables=path_with(modules))
        assert [line.partition(": ")[2] for line in done.stderr.splitlines()] == [
            f"{file}: searcher 'Qmc': KeyError: 'halton' (failing_search.py, line 4)",
            f"{file}: scheduler 'Median': ValueError: 1 is too few (failing_search.py, line 7)",
        ]


# ---------------------------------------------------------------------------------------------------------
# The whole example package


@pytest.fixture(scope="module")
def installed(sandbox: Sandbox) -> Path:
    """The folder that pip has installed the example into."""
    source, folder = sandbox.root / "example", sandbox.root / "installed"
    shutil.copytree(REPO / "examples/rdistill-example", source)  # pip builds in it
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(folder), str(source)], check=True, env=sandbox.environment())
    return folder


@pytest.fixture(scope="module")
def photos(sandbox: Sandbox, tiny: Tiny) -> Path:
    """The tiny images in the example's layout."""
    shutil.copytree(tiny.data_root / "img_dir", sandbox.root / "data/photos")
    shutil.copytree(tiny.data_root / "ann_dir", sandbox.root / "data/labels")
    return sandbox.root / "data"


def example_config(sandbox: Sandbox, tiny: Tiny, more: str = "") -> Path:
    """The student under the example's teacher, with the example's loss."""
    file = sandbox.root / f"example{'-named' if more else ''}.py"
    file.write_text(
        f"_base_ = ['{tiny.folder}/student.py']\n{more}"
        "distill = dict(\n"
        "    teachers=[dict(type='example_cnn', num_classes=2, width=6)],\n"
        "    features=dict(student=['backbone.layer4'], teacher=['backbone.network.0']),\n"
        "    losses=dict(logits=dict(type='KL'), hidden=dict(type='ExampleHuber', pair=(0, 0), delta=0.5)))\n"
    )
    return file


@pytest.mark.parametrize("workers", [1, 2])
def test_the_installed_example_trains(
    sandbox: Sandbox, tiny: Tiny, installed: Path, photos: Path, small: list[object], workers: int
) -> None:
    work_dir = sandbox.root / f"example-{workers}"
    sandbox.run(
        "train", example_config(sandbox, tiny), "--work-dir", work_dir, *small, "--data-root", photos,
        "--workers", workers, "--batch-size", 2 * workers, variables=path_with(installed),
    )  # fmt: skip
    metrics = json.loads((work_dir / "metrics.json").read_text())
    assert metrics["iter"] == 6 and metrics["teacher_mIoU"] > 0
    assert "rdistill_example" not in (work_dir / "student.py").read_text()
    assert "a teacher of kind example_cnn" in (work_dir / "model_card.md").read_text()


def test_the_installed_example_sweeps(
    sandbox: Sandbox, tiny: Tiny, installed: Path, photos: Path, small: list[object], rows: Rows
) -> None:
    """In a cohort."""
    content = study(
        tiny,
        config=str(example_config(sandbox, tiny)),
        space={"distill.losses.hidden.delta": {"type": "uniform", "low": 0.1, "high": 1.0}},
        search={"type": "example_qmc", "num_trials": 2, "kind": "halton"},
        scheduler={"type": "example_median", "least": 1},
        trial={},
    )
    work_dir = sandbox.root / "example-sweep"
    done = sandbox.run(
        "sweep", sandbox.sweep_file("example", content), "--work-dir", work_dir, *small, "--data-root", photos,
        variables=path_with(installed),
    )  # fmt: skip
    assert done.stderr == "" and set(rows(work_dir)) == {"baseline", "t0001", "t0002"}


def test_the_example_by_its_modules_without_cohorts(
    sandbox: Sandbox, tiny: Tiny, photos: Path, small: list[object], rows: Rows
) -> None:
    """Not installed: a config names the loss, the teacher and the layout, the sweep file searcher and scheduler."""
    named = "custom_imports = dict(imports=['rdistill_example.layouts', 'rdistill_example.teachers'])\n"
    content = study(
        tiny,
        custom_imports=["rdistill_example.search", "rdistill_example.losses"],
        config=str(example_config(sandbox, tiny, named)),
        space={"distill.losses.hidden.delta": {"type": "uniform", "low": 0.1, "high": 1.0}},
        search={"type": "example_qmc", "num_trials": 1},
        scheduler={"type": "example_median", "least": 1},
        cohort={"size": "off"},
    )
    work_dir = sandbox.root / "example-named"
    source = path_with(REPO / "examples/rdistill-example")
    done = sandbox.run(
        "sweep", sandbox.sweep_file("example-named", content), "--work-dir", work_dir, *small, "--data-root", photos,
        variables=source,
    )  # fmt: skip
    assert done.stderr == "" and {row["status"] for row in rows(work_dir).values()} == {"finished"}
    trial = (work_dir / "trials/t0001/trial.py").read_text()
    assert "rdistill_example.losses" in trial and "rdistill_example.losses" not in (work_dir / "best.py").read_text()
    sandbox.run("check", work_dir / "trials/t0001/trial.py", variables=source)
