"""Real photographs, from a teacher to the best student of a sweep, and that student in plain mmseg."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from e2e.conftest import Sandbox

REPO = Path(__file__).resolve().parents[2]
DATA = REPO.parent / "shared" / "data"
CLASSES = ["background", "optic disc"]
CAMVID = [
    "Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence", "Car", "Pedestrian", "Bicyclist",
]  # fmt: skip


def needs(name: str) -> pytest.MarkDecorator:
    missing = not (DATA / name / "img_dir" / "train").is_dir()
    return pytest.mark.skipif(missing, reason=f"the real images are not here: no {DATA / name}/img_dir/train")


pytestmark = pytest.mark.e2e
needs_optic_disc, needs_camvid = needs("optic_disc"), needs("camvid")

# Scores models in a process without rdistill: a line of JSON for each (config, checkpoint) pair.
SCORE_IN_PLAIN_MMSEG = """
import json, warnings
from pathlib import Path
import cv2, numpy as np
warnings.simplefilter("ignore")
from mmseg.apis import inference_model, init_model
try:
    import rdistill
except ImportError:
    pass
else:
    raise SystemExit("rdistill must not be importable here")
root = Path(sys.argv[1])
for config, checkpoint in zip(sys.argv[2::2], sys.argv[3::2]):
    model = init_model(config, checkpoint, device="cpu")
    classes = model.dataset_meta["classes"]
    both, either = np.zeros(len(classes)), np.zeros(len(classes))
    for mask in sorted((root / "ann_dir/val").glob("*.png")):
        truth = cv2.imread(str(mask), cv2.IMREAD_UNCHANGED)
        result = inference_model(model, str(root / "img_dir/val" / f"{mask.stem}.jpg"))
        guess = result.pred_sem_seg.data.squeeze(0).numpy()
        assert guess.shape == truth.shape
        for index in range(len(classes)):
            both[index] += ((truth == index) & (guess == index)).sum()
            either[index] += ((truth == index) | (guess == index)).sum()
    print(json.dumps(dict(zip(classes, 100 * both / either))))
"""


@pytest.fixture(scope="module")
def optic_disc() -> list[object]:
    # Weighted classes and quick BatchNorm statistics let some of the discs be found within these few iterations.
    return [
        "--data-root", DATA / "optic_disc", "--size", 64, "--batch-size", 4, "--iters", 20, "--val-interval", 10,
        "--set", "+model.decode_head.loss_decode.class_weight=[0.5,30.0]",
        "--set", "+model.backbone.norm_cfg.momentum=0.5", "--set", "+model.decode_head.norm_cfg.momentum=0.5",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def teacher(sandbox: Sandbox, optic_disc: list[object]) -> Path:
    config = REPO / "configs/teacher/deeplabv3plus_r50-slim_optic-disc-128.py"
    sandbox.run("train", config, "--work-dir", sandbox.root / "teacher", *optic_disc)
    return sandbox.root / "teacher"


@pytest.fixture(scope="module")
def student(sandbox: Sandbox, optic_disc: list[object]) -> Path:
    config = REPO / "configs/student/deeplabv3plus_r18-slim_optic-disc-128.py"
    sandbox.run("train", config, "--work-dir", sandbox.root / "student", "--seed", 3, *optic_disc)
    return sandbox.root / "student"


@pytest.fixture(scope="module")
def distilled(sandbox: Sandbox, teacher: Path, optic_disc: list[object]) -> Path:
    config = REPO / "configs/distill/deeplabv3plus_r50-r18-slim_optic-disc-128.py"
    checkpoint = ["--teacher-checkpoint", teacher / "best.pth"]
    sandbox.run("train", config, "--work-dir", sandbox.root / "distilled", "--seed", 3, *checkpoint, *optic_disc)
    return sandbox.root / "distilled"


@pytest.fixture(scope="module")
def sweep(sandbox: Sandbox, teacher: Path, optic_disc: list[object]) -> Path:
    content: dict[str, Any] = {
        "config": str(REPO / "configs/distill/deeplabv3plus_r50-r18-slim_optic-disc-128.py"),
        "set": {"distill.losses.hidden": {"type": "CWD", "pair": [1, 1], "tau": 4.0, "weight": 10.0}},
        "space": {
            "distill.losses.hidden.weight": {"type": "loguniform", "low": 1.0, "high": 100.0},
            "distill.losses.hidden.pair": {"type": "pairs", "pairs": [[0, 0], [1, 1]]},
        },
        "search": {"type": "optuna", "num_trials": 2},
    }
    arguments = ["--work-dir", sandbox.root / "s", "--teacher-checkpoint", teacher / "best.pth"]
    sandbox.run("sweep", sandbox.sweep_file("real", content), *arguments, *optic_disc)
    return sandbox.root / "s"


def metrics_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())


@needs_optic_disc
def test_metrics(teacher: Path, student: Path, distilled: Path) -> None:
    for folder, seed in ((teacher, 0), (student, 3), (distilled, 3)):
        metrics = metrics_of(folder)
        assert {"mIoU", "aAcc", "IoU", "iter", "best_iter", "seed", "seconds"} <= metrics.keys()
        assert list(metrics["IoU"]) == CLASSES
        assert metrics["mIoU"] == pytest.approx(sum(metrics["IoU"].values()) / 2, abs=1e-3)
        assert 0 < metrics["mIoU"] <= 100 and 0 < metrics["aAcc"] <= 100
        assert (metrics["iter"], metrics["seed"]) == (20, seed) and metrics["best_iter"] in (10, 20)
        assert metrics["seconds"] > 0
        assert ("teacher_mIoU" in metrics) == (folder is distilled)
    # The teacher is scored on the same images, from its best checkpoint.
    assert metrics_of(distilled)["teacher_mIoU"] == pytest.approx(metrics_of(teacher)["mIoU"], abs=1e-3)
    assert metrics_of(distilled)["IoU"] != metrics_of(student)["IoU"]


@needs_optic_disc
def test_eval_scores_what_training_scored(sandbox: Sandbox, distilled: Path) -> None:
    done = sandbox.run("eval", distilled / "student.py", distilled / "student.pth", "--json")
    metrics = metrics_of(distilled)
    assert json.loads(done.stdout) == {key: metrics[key] for key in ("mIoU", "aAcc", "mAcc", "IoU", "trivial")}


@needs_optic_disc
def test_sweep(sweep: Path, teacher: Path, rows: Callable[[Path], dict[str, dict[str, str]]]) -> None:
    table = rows(sweep)
    assert set(table) == {"baseline", "t0001", "t0002"}
    assert {row["status"] for row in table.values()} == {"finished"}
    assert {float(row["teacher_mIoU"]) for row in table.values()} == {metrics_of(teacher)["mIoU"]}
    assert all(row[f"IoU {name}"] for row in table.values() for name in CLASSES)


@needs_optic_disc
def test_students_in_plain_mmseg(
    sandbox: Sandbox, distilled: Path, sweep: Path, rows: Callable[[Path], dict[str, dict[str, str]]]
) -> None:
    """Their masks, at the images' own size, score as training said that they would."""
    files = [distilled / "student.py", distilled / "student.pth", sweep / "best.py", sweep / "best.pth"]
    printed = sandbox.python(SCORE_IN_PLAIN_MMSEG, DATA / "optic_disc", *files)
    scores = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    best = next(iter(rows(sweep).values()))
    expected = [metrics_of(distilled)["IoU"], {name: float(best[f"IoU {name}"]) for name in CLASSES}]
    assert [list(classes) for classes in scores] == [CLASSES, CLASSES]
    for score, messages in zip(scores, expected, strict=True):
        assert score == pytest.approx(messages, abs=1e-3)


@needs_camvid
def test_camvid(sandbox: Sandbox) -> None:
    """Eleven classes, and pixels that count nowhere."""
    options = [
        "--data-root", DATA / "camvid", "--size", "48x64", "--batch-size", 2, "--iters", 4, "--val-interval", 4,
    ]  # fmt: skip
    teacher, student = sandbox.root / "camvid-teacher", sandbox.root / "camvid-student"
    sandbox.run("train", REPO / "configs/teacher/deeplabv3plus_r50-slim_camvid.py", "--work-dir", teacher, *options)
    config = REPO / "configs/distill/deeplabv3plus_r50-r18-slim_camvid.py"
    sandbox.run("train", config, "--work-dir", student, "--teacher-checkpoint", teacher / "best.pth", *options)
    metrics = metrics_of(student)
    assert list(metrics["IoU"]) == CAMVID
    expected = [value for value in metrics["IoU"].values() if value is not None]
    assert metrics["mIoU"] == pytest.approx(sum(expected) / len(expected), abs=1e-3)
    assert metrics["teacher_mIoU"] == pytest.approx(metrics_of(teacher)["mIoU"], abs=1e-3)
