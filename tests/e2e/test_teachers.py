"""Teachers of other libraries through whole commands: checked, scored, taught from, swept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import library_models as made
import pytest
from conftest import Tiny

from e2e.conftest import Place

pytestmark = pytest.mark.e2e
Rows = Callable[[Path], dict[str, dict[str, str]]]


@pytest.fixture(scope="module")
def small(tiny_without_teacher: Tiny) -> list[object]:
    root = tiny_without_teacher.data_root
    return ["--data-root", root, "--size", 32, "--batch-size", 2, "--val-interval", 2, "--iters", 4]


def config(place: Place, tiny: Tiny, name: str, path: str, rest: str) -> Path:
    file = place.root / f"{name}.py"
    file.write_text(
        f"_base_ = ['{tiny.folder}/student.py']\ndistill = dict(teachers=[dict(type='hf', path={path!r})], {rest})\n"
    )
    return file


def test_a_segformer_teaches_and_is_swept(
    place: Place, tiny_without_teacher: Tiny, small: list[object], rows: Rows
) -> None:
    folder = made.save(made.segformer, place.root / "segformer")
    losses = "losses=dict(logits=dict(type='KL'))"
    file = config(place, tiny_without_teacher, "segformer_student", str(folder), losses)
    work_dir = place.root / "from-segformer"
    assert "classes    2 of the student, 2 of the teachers" in place.run("check", file, *small).stdout
    done = place.run("train", file, "--work-dir", work_dir, *small)
    assert done.stderr == "" and "teacher   mIoU" in done.stdout
    metrics = json.loads((work_dir / "metrics.json").read_text())
    assert metrics["teacher_mIoU"] > 0 and "a teacher of kind hf" in (work_dir / "model_card.md").read_text()
    assert "segformer" not in (work_dir / "student.py").read_text()
    content = {
        "config": str(file),
        "space": {"distill.losses.logits.weight": {"type": "loguniform", "low": 1.0, "high": 9.0}},
        "search": {"type": "random", "num_trials": 2},
        "headroom": "off",
    }
    sweep = place.root / "swept-segformer"
    done = place.run("sweep", place.sweep_file("segformer", content), "--work-dir", sweep, *small)
    assert done.stderr == "" and {row["status"] for row in rows(sweep).values()} == {"finished"}


def test_an_encoder_teaches_its_maps_and_has_no_score(
    place: Place, tiny_without_teacher: Tiny, small: list[object]
) -> None:
    folder = made.save(made.dinov2_with_registers, place.root / "dinov2")
    features = "features=dict(student=['backbone.layer4'], teacher=['backbone[-1]'])"
    losses = "losses=dict(hidden=dict(type='CWD', pair=(0, 0)))"
    file = config(place, tiny_without_teacher, "dino_student", str(folder), f"{features}, {losses}")
    work_dir = place.root / "from-dinov2"
    done = place.run("train", file, "--work-dir", work_dir, *small)
    assert "distill.teachers[0]: gives features alone, so it has no score" in done.stdout
    assert json.loads((work_dir / "metrics.json").read_text())["teacher_mIoU"] is None
    logits = config(place, tiny_without_teacher, "no_logits", str(folder), "losses=dict(logits=dict(type='KL'))")
    done = place.run("train", logits, "--work-dir", place.root / "no-logits", *small, status=2)
    (line,) = done.stderr.splitlines()
    assert "the teacher gives features alone, and no logits; give the loss a feature `pair`" in line


def test_a_hub_that_cannot_be_reached(place: Place, tiny_without_teacher: Tiny, small: list[object]) -> None:
    file = config(place, tiny_without_teacher, "hub", "nobody/nothing", "losses=dict(logits=dict(type='KL'))")
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    done = place.run("train", file, "--work-dir", place.root / "hub", *small, status=2, variables=nowhere)
    (line,) = done.stderr.splitlines()
    assert "no such folder nobody/nothing, and the hub does not give it" in line
    assert not (place.root / "hub").exists()
