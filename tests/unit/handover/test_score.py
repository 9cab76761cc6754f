"""`rdistill eval` of an exported file: the file itself is scored, beside the student that it was made of."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import Run, Tiny

from rdistill.handover.score import ScoredFile, lines

onnxruntime = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")
Command = Callable[..., Any]
Export = Callable[..., None]


def by_hand(file: Path, tiny: Tiny) -> float:
    """mIoU of a file of masks, by nothing but OpenCV, numpy and the file's own metadata."""
    facts = {entry.key: entry.value for entry in onnx.load(str(file)).metadata_props}
    mean, std = (np.array(json.loads(facts[name]), np.float32) for name in ("mean", "std"))
    session, counts = onnxruntime.InferenceSession(str(file)), np.zeros((2, 2))
    for image in sorted((tiny.data_root / "img_dir" / "val").iterdir()):
        truth = cv2.imread(str(tiny.data_root / "ann_dir" / "val" / f"{image.stem}.png"), cv2.IMREAD_UNCHANGED)
        bgr = cv2.resize(cv2.imread(str(image)), tuple(json.loads(facts["validated_at_width_height"])))
        (mask,) = session.run(None, {"image": ((bgr[..., ::-1] - mean) / std).transpose(2, 0, 1)[None].astype("f4")})
        rows, columns = ((np.arange(n) + 0.5) * m // n for n, m in zip(truth.shape, mask[0].shape, strict=True))
        predicted = mask[0][rows.astype(int)[:, None], columns.astype(int)]
        for label in (0, 1):
            counts[label] += [np.sum((truth == label) & (predicted == other)) for other in (0, 1)]
    hit, union = counts.diagonal(), counts.sum(0) + counts.sum(1) - counts.diagonal()
    return float(100 * np.mean(hit / union))


def test_the_file_itself_is_scored(
    command: Command, tiny: Tiny, distilled_run: Run, both_classes: list[Path], export: Export, tmp_path: Path
) -> None:
    """Its score is that of its own weights, whatever the checkpoint is that is named beside it."""
    export("a.onnx")
    expected = by_hand(tmp_path / "a.onnx", tiny)
    record = json.loads((tmp_path / "a.onnx.json").read_text())
    assert [record["config"], record["checkpoint"]] == list(map(str, both_classes))
    record["checkpoint"] = str(distilled_run.folder / "student.pth")
    (tmp_path / "a.onnx.json").write_text(json.dumps(record))

    result = command("eval", "a.onnx")
    assert (result.status, result.err) == (0, "")
    first, background, disc, pytorch, latency, file, note = result.out.splitlines()
    assert first.startswith(f"mIoU {expected:.2f}  aAcc ") and "(val split of " in first
    assert background.split()[0] == "background" and disc.split()[:2] == ["optic", "disc"]
    theirs = distilled_run.metrics["mIoU"]
    assert pytorch.startswith(f"PyTorch   mIoU {theirs:.2f}  aAcc ") and "student.pth): the file's mIoU is " in pytorch
    assert float(pytorch.split("mIoU is ")[1].split()[0]) == pytest.approx(expected - theirs, abs=0.01)
    assert latency.startswith("latency   PyTorch ") and "onnxruntime " in latency and "32 x 32, CPU" in latency
    assert file == f"file      a.onnx: {(tmp_path / 'a.onnx').stat().st_size / 1e6:.2f} MB"
    assert "masks of 32 x 32 are resized to the image's " in note

    Path("a.onnx.json").unlink()
    alone = command("eval", both_classes[0], "a.onnx", "--json")
    scores = json.loads(alone.out)
    assert (alone.status, alone.err) == (0, "") and scores["mIoU"] == pytest.approx(expected, abs=1e-3)
    assert scores["pytorch"] is None and list(scores["latency_ms"]) == ["onnxruntime"]


def test_logits_score_as_pytorch_does(command: Command, both_classes: list[Path], export: Export) -> None:
    """They are resized as the student's are; of a fixed size, images are brought to it and masks back."""
    export("a.onnx", "--output", "logits")
    scores = json.loads(command("eval", "a.onnx", "--json").out)
    assert scores["mIoU"] == pytest.approx(scores["pytorch"]["mIoU"], abs=0.05) and scores["notes"] == []
    export("b.onnx", "--output", "logits", "--fixed-size", "48x64")
    other = json.loads(command("eval", "b.onnx", "--json").out)
    assert other["timed_size"] == [48, 64] and 0 < other["mIoU"] < 100


def test_a_checkpoint_that_is_gone(command: Command, both_classes: list[Path], export: Export, tmp_path: Path) -> None:
    export("a.onnx")
    record = json.loads((tmp_path / "a.onnx.json").read_text())
    (tmp_path / "a.onnx.json").write_text(json.dumps({**record, "checkpoint": "gone.pth"}))
    result = command("eval", "a.onnx")
    assert result.status == 0 and "PyTorch   mIoU" not in result.out
    assert result.err == ("note      gone.pth: no longer exists, so the PyTorch student is not scored for comparison\n")
    (tmp_path / "a.onnx.json").write_text("{}")
    result = command("eval", "a.onnx")
    assert result.status == 2 and "a.onnx.json: is damaged (no config, checkpoint" in result.err


def test_files_that_cannot_be_scored(command: Command, distilled_run: Run, tmp_path: Path) -> None:
    config = distilled_run.folder / "student.py"
    (tmp_path / "text.onnx").write_text("no model")
    tensor = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    graph = onnx.helper.make_graph(
        [node], "g", [tensor], [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])]
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, str(tmp_path / "other.onnx"))
    for words, line in (
        (
            ["text.onnx"],
            "text.onnx: there is no text.onnx.json next to it that names its config; pass CONFIG before it",
        ),
        ([config, "text.onnx"], "text.onnx: onnxruntime cannot open it: "),
        ([config, "none.onnx"], "none.onnx: no such file"),
        ([config, "other.onnx"], "other.onnx: has inputs x and outputs y, not `image` and `mask` or `logits`"),
        ([config], "CHECKPOINT: is required; see `rdistill eval --help`"),
    ):
        result = command("eval", *words)
        assert result.status == 2 and result.err.startswith(f"error: {line}") and result.err.count("\n") == 1, line


@pytest.mark.parametrize(("theirs", "warned"), [(75.5, False), (49.1, True), (77.5, True)])
def test_runtimes_that_compute_different_things(theirs: float, warned: bool) -> None:
    here: Any = {"mIoU": 75.5, "aAcc": 90.0}
    there: Any = {"mIoU": theirs, "aAcc": 90.0}
    scored = ScoredFile(Path("a.onnx"), there, 1.0, None, None, "openvino", here, {"openvino": 1.0}, (32, 32), 1)
    told = list(lines(scored))
    assert ("runtimes", f"openvino mIoU {theirs:.2f}, onnxruntime 75.50: {theirs - 75.5:+.2f}") in told
    assert [line.startswith("openvino computes something else") for word, line in told if word == "warning"] == (
        [True] if warned else []
    )
