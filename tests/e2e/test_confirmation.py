"""Confirmations of every kind, in one process and on one Ray: what is compared with what, and where it is trained."""

from __future__ import annotations

import io
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Tiny
from rich.console import Console

from rdistill.config.shortcuts import Shortcuts
from rdistill.core.errors import UserError
from rdistill.distributed.cluster import connected
from rdistill.handover import onnx_file
from rdistill.sweeps.run import SweepOptions, run_sweep
from rdistill.sweeps.study.records import CONFIRMED, EQUAL_COST, TrialRecord, load_record

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

WEIGHT = "distill.losses.logits.weight"
ITERATIONS = 4
Confirm = Callable[..., tuple[Path, list[TrialRecord], list[str]]]


@pytest.fixture(scope="module")
def confirm(tiny: Tiny) -> Iterator[Confirm]:
    """Runs a sweep of one student that is confirmed on two seeds; work dir, records and printed lines."""
    root = Path(tempfile.mkdtemp(prefix="rd", dir="/tmp"))  # short, for Ray's sockets
    study = {
        "config": str(tiny.folder / "distill.py"),
        "space": {WEIGHT: {"type": "choice", "values": [3.0]}},
        "search": {"type": "grid"},
        "confirm": {"top": 1, "seeds": [1, 2]},
        "headroom": "off",
    }
    shortcuts = Shortcuts(
        data_root=str(tiny.data_root), size="32", batch_size=4, iters=ITERATIONS, val_interval=ITERATIONS
    )

    def run(name: str, *, resume: bool = False, **more: Any) -> tuple[Path, list[TrialRecord], list[str]]:
        text = io.StringIO()
        console = Console(file=text, width=200)
        options = SweepOptions(resume=resume)
        records = run_sweep({**study, **more}, root / name, options, shortcuts=shortcuts, console=console)
        return root / name, records, text.getvalue().splitlines()

    with connected(None, root / "ray"):
        yield run
    shutil.rmtree(root, ignore_errors=True)


def ids(records: list[TrialRecord], phase: str) -> set[str]:
    assert all(record.status == "finished" for record in records)
    return {record.id for record in records if record.phase == phase}


def entry_of(work_dir: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    summary = json.loads((work_dir / "summary.json").read_text())
    (entry,) = summary["confirmed"]["configurations"]
    return summary, entry


def test_at_equal_iterations_alone(confirm: Confirm) -> None:
    work_dir, records, lines = confirm("iterations", baseline={"cost": "iterations"})
    assert ids(records, CONFIRMED) == {"t0001-s1", "t0001-s2", "baseline-s1", "baseline-s2"}
    assert ids(records, EQUAL_COST) == set() and not (work_dir / "equal_cost.json").exists()
    summary, entry = entry_of(work_dir)
    assert "equal_cost" not in entry and "equal cost" not in summary["verdict"]
    # One line says which cohorts there are: they stay from the search to the confirmation, and count the images there.
    assert sum(line.startswith("cohorts   ") and "share a teacher" in line for line in lines) == 1
    assert all((work_dir / "trials" / name / "confusion_val.npz").is_file() for name in ids(records, CONFIRMED))


def test_at_equal_cost_alone(confirm: Confirm) -> None:
    """No baseline of equal iterations is trained: the search's own says what a step of the student alone takes."""
    work_dir, records, lines = confirm("seconds", baseline={"cost": "seconds", "seconds": "alone"})
    assert ids(records, CONFIRMED) == {"t0001-s1", "t0001-s2"}
    assert ids(records, EQUAL_COST) == {"baseline-as-t0001-s1", "baseline-as-t0001-s2"}
    summary, entry = entry_of(work_dir)
    (cost,) = json.loads((work_dir / "equal_cost.json").read_text()).values()
    expected = ITERATIONS * cost["distilled"]["alone"] / cost["student_alone"]["alone"]
    assert cost["iterations"] == pytest.approx(expected, abs=0.51)
    assert entry["difference"] is None and entry["equal_cost"]["iterations"] == cost["iterations"]
    longer = [record for record in records if record.phase == EQUAL_COST]
    assert {record.history[-1]["iter"] for record in longer} == {cost["iterations"]}
    assert any(line.startswith("cost      t0001 takes") and "(alone; real:" in line for line in lines)
    assert "At equal iterations" not in summary["verdict"]


def test_without_cohorts(confirm: Confirm) -> None:
    work_dir, records, lines = confirm("off", cohort={"size": "off"})
    again = ids(records, CONFIRMED) | ids(records, EQUAL_COST)
    assert all((work_dir / "trials" / name / "confusion_val.npz").is_file() for name in again)
    assert len(ids(records, CONFIRMED)) == 4 and len(ids(records, EQUAL_COST)) == 2
    _, entry = entry_of(work_dir)
    assert set(entry["seconds"]) == {"real", "alone"} and all(entry["seconds"].values())
    assert not any(line.startswith("cohorts   ") and "share a teacher" in line for line in lines)


def test_of_the_exported_files(confirm: Confirm, tiny: Tiny) -> None:
    """The verdict is about INT8 files; what a kill left unscored is scored when it is resumed, and nothing twice."""
    pytest.importorskip("onnxruntime")
    more = {"baseline": {"cost": "iterations"}, "confirm": {"top": 1, "seeds": [1, 2], "of": "int8"}}
    work_dir, records, lines = confirm("int8", **more)
    again = ids(records, CONFIRMED)
    assert "export    4 students as INT8 files, scored on the validation images" in lines
    assert any(line.startswith("exported  ") and "/best.int8.onnx" in line for line in lines)
    folders = {name: work_dir / "trials" / name for name in again}
    files = {name: folder / "student.int8.onnx" for name, folder in folders.items()}
    assert all(file.is_file() for file in (*files.values(), work_dir / "best.int8.onnx"))
    summary, entry = entry_of(work_dir)
    own = {record.id: record.exported for record in records if record.phase == CONFIRMED}
    means = [sum(own[f"{name}-s{seed}"]["val"]["mIoU"] for seed in (1, 2)) / 2 for name in ("t0001", "baseline")]
    assert [entry["mean"], summary["confirmed"]["baseline"]["mean"]] == pytest.approx(means, abs=1e-3)
    scores = {record.id: record.best["mIoU"] for record in records}
    trained = [scores[f"t0001-s{seed}"] for seed in (1, 2) if seed not in entry["never_trained"]]
    assert entry["pytorch"]["n"] == len(trained)
    assert entry["pytorch"]["mean"] == (pytest.approx(sum(trained) / len(trained), abs=1e-3) if trained else None)
    assert summary["confirmed"]["of"] == "int8"
    assert all((folder / "confusion_val_int8.npz").is_file() for folder in folders.values())

    written = {name: file.stat().st_mtime_ns for name, file in files.items()}
    killed = load_record(folders["t0001-s1"])
    assert killed is not None
    killed.exported = None  # the process died before it was written down, and while it wrote the file
    killed.save(folders["t0001-s1"])
    files["t0001-s1"].unlink()
    (folders["t0001-s1"] / ".student.int8.onnx.cut-off").mkdir()
    _, resumed, lines = confirm("int8", resume=True, **more)
    assert "export    1 student as INT8 files, scored on the validation images" in lines
    now = {name: file.stat().st_mtime_ns for name, file in files.items()}
    assert [name for name in files if now[name] != written[name]] == ["t0001-s1"]
    assert {record.id: record.exported for record in resumed if record.phase == CONFIRMED} == own
    assert not list(folders["t0001-s1"].glob(".student*"))


def test_of_the_exported_files_without_cohorts_and_on_a_test_split(confirm: Confirm, tiny: Tiny) -> None:
    """Files of trials that trained alone are scored on the test split too, here a copy of the validation images."""
    pytest.importorskip("onnxruntime")
    with tempfile.TemporaryDirectory() as test_root:
        shutil.copytree(tiny.data_root, test_root, dirs_exist_ok=True)
        work_dir, records, _ = confirm(
            "int8-off", cohort={"size": "off"}, baseline={"cost": "iterations"},
            confirm={"top": 1, "seeds": [1, 2], "of": "int8"}, set={"test_dataloader.dataset.data_root": test_root},
        )  # fmt: skip
    own = {record.id: record.exported for record in records if record.phase == CONFIRMED}
    assert len(own) == 4 and all(scores["test"]["mIoU"] == scores["val"]["mIoU"] for scores in own.values())
    folders = [work_dir / "trials" / name for name in own]
    assert all((folder / f"confusion_{split}_int8.npz").is_file() for folder in folders for split in ("val", "test"))
    summary, entry = entry_of(work_dir)
    (tested,) = summary["test"]["configurations"]
    assert tested["mean"] == pytest.approx(entry["mean"], abs=1e-3)


def test_what_cannot_be_exported_is_said_before_the_start(confirm: Confirm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"^confirm.of: int8 needs onnx, onnxruntime, onnxscript, not installed here"):
        confirm("none", confirm={"top": 1, "seeds": [1, 2], "of": "int8"})
