"""What is said of a file of fewer bits; files themselves are written in tests/e2e/handover/test_reduce.py."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from rdistill.handover.reduce import FineTuned, Reduced, _refusal_message, as_plain, summary
from rdistill.schemas.exported import Quantization

QUANTIZATION: Quantization = {
    "method": "entropy", "held_out_mIoU": {"float32": 70.0, "min-max": 60.0, "entropy": 69.5}, "calibrated": 32,
    "held_out": 16, "layers": 40, "kept_in_float": [f"/layer{number}/Conv" for number in range(1, 6)],
}  # fmt: skip
INT8 = Reduced(
    Path("a.onnx"), "int8", "mask", 18, "trace", {"float32": 71.25, "int8": 70.75}, 1.0,
    {"float32": 4.5, "int8": 1.25}, {"PyTorch": 9.0, "float32": 6.0, "int8": 3.0}, (64, 96), 1, QUANTIZATION,
)  # fmt: skip


TUNED = FineTuned(300, 1, lost_before=4.5, rounding=69.5)


def test_the_lines_of_a_student_that_was_trained_with_rounding() -> None:
    line = "300 iterations with rounding, {}, because INT8 lost 4.50 mIoU without them; "
    line += "the student with rounding has 69.50 in PyTorch"
    for teachers, under in ((1, "under its teacher"), (2, "under 2 teachers"), (0, "on labels only")):
        lines = dict(summary(replace(INT8, fine_tuned=replace(TUNED, teachers=teachers))))
        assert lines["finetune"] == line.format(under)


def test_the_lines_of_an_int8_file() -> None:
    lines = dict(summary(INT8))
    assert lines["calibrate"] == (
        "on 32 training images; mIoU on 16 held-out ones: float32 70.00, min-max 60.00, entropy 69.50; "
        "entropy is chosen"
    )
    assert lines["float32"] == "5 of 40 layers: /layer1/Conv, /layer2/Conv, /layer3/Conv and 2 more"
    assert lines["mIoU"] == "int8 70.75, float32 71.25 on the validation images: -0.50, at most 1 may be lost"
    assert lines["file"] == "a.onnx: 1.25 MB, float32 has 4.50 MB; opset 18, by trace"
    assert list(lines) == ["calibrate", "float32", "mIoU", "latency", "file"]


def test_layers_that_stay_in_float() -> None:
    none, three = ({**QUANTIZATION, "kept_in_float": QUANTIZATION["kept_in_float"][:count]} for count in (0, 3))
    assert dict(summary(replace(INT8, quantization=none)))["float32"] == "none of 40 layers has to stay in float32"  # type: ignore[arg-type]
    shown = dict(summary(replace(INT8, quantization=three)))["float32"]  # type: ignore[arg-type]
    assert shown == "3 of 40 layers: /layer1/Conv, /layer2/Conv, /layer3/Conv"


def test_a_float16_file_has_no_calibration() -> None:
    half = replace(INT8, precision="fp16", mIoU={"float32": 71.25, "fp16": 71.5}, quantization=None,
                   megabytes={"float32": 4.5, "fp16": 2.25})  # fmt: skip
    lines = dict(summary(half))
    assert list(lines) == ["mIoU", "latency", "file"] and ": +0.25, " in lines["mIoU"]


def test_why_a_file_is_not_written() -> None:
    scores = {"float32": 71.25, "int8": 69.0}
    assert _refusal_message(Path("a.onnx"), "int8", scores, 0.5, QUANTIZATION) == (
        "a.onnx: not written: int8, calibrated by entropy and with 5 of 40 layers in float scores 69.00 mIoU on the "
        "validation images, float32 71.25: 2.25 lost, at most 0.5 accepted by --max-drop; --qat ITERS "
        "continues the training with rounding"
    )
    again = _refusal_message(Path("a.onnx"), "int8", scores, 0.5, QUANTIZATION, TUNED)
    assert "in float, after 300 iterations with rounding (4.50 lost before them) scores 69.00 mIoU" in again
    assert again.endswith("2.25 lost, at most 0.5 accepted by --max-drop")
    assert _refusal_message(Path("a.onnx"), "fp16", {"float32": 71.0, "fp16": 69.0}, 0.5, None).startswith(
        "a.onnx: not written: fp16 scores 69.00 mIoU"
    )


def test_it_is_plain_data() -> None:
    plain = json.loads(json.dumps(as_plain(INT8)))
    assert (plain["file"], plain["timed_size"], plain["precision"]) == ("a.onnx", [64, 96], "int8")
    assert plain["quantization"]["method"] == "entropy"
