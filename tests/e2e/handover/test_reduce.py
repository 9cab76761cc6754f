"""`export --int8` and `--fp16`: written where little is lost, scored as what they are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Run

from rdistill.handover import reduce

pytestmark = pytest.mark.e2e
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
Command = Callable[..., Any]


def test_int8(command: Command, both_classes: list[Path], tmp_path: Path) -> None:
    result = command("export", *both_classes, "a.onnx", "--int8", "--max-drop", 40)
    assert (result.status, result.err) == (0, "")
    calibrate, kept, score, latency, file = result.out.splitlines()
    assert calibrate.startswith("calibrate on ") and "held-out ones: float32 " in calibrate
    assert kept.startswith("float32   ") and " layers" in kept
    assert score.startswith("mIoU      int8 ") and "at most 40 may be lost" in score
    assert "PyTorch " in latency and "float32 " in latency and "int8 " in latency
    assert file.startswith("file      a.onnx: ") and "float32 has " in file
    model = onnx.load(str(tmp_path / "a.onnx"))
    assert {entry.key: entry.value for entry in model.metadata_props}["precision"] == "int8"
    assert sum(node.op_type == "DequantizeLinear" for node in model.graph.node) > 20
    record = json.loads((tmp_path / "a.onnx.json").read_text())
    assert record["precision"] == "int8" and record["quantization"]["method"] in ("min-max", "entropy", "percentile")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.onnx", "a.onnx.json"]
    scored = json.loads(command("eval", "a.onnx", "--json").out)
    assert f"int8 {scored['mIoU']:.2f}, float32 " in score


def test_what_loses_too_much_is_not_written(
    command: Command, both_classes: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The smaller file is given a bias by which every pixel is of the disc, which is the smaller class."""
    untouched = reduce.write_fp16

    def spoilt(float_file: Path, out: Path) -> None:
        untouched(float_file, out)
        model = onnx.load(str(out))
        bias = next(tensor for tensor in model.graph.initializer if tensor.name.endswith("decode_head.conv_seg.bias"))
        bias.CopyFrom(onnx.numpy_helper.from_array(np.array([-99, 99], np.float16), bias.name))
        onnx.save(model, str(out))

    monkeypatch.setattr(reduce, "write_fp16", spoilt)
    result = command("export", *both_classes, "a.onnx", "--fp16", "--max-drop", 0.5)
    assert result.status == 1, result
    assert result.err.startswith("error: a.onnx: not written: fp16 scores "), result.err
    assert result.err.endswith(" lost, at most 0.5 accepted by --max-drop\n") and list(tmp_path.iterdir()) == []


def test_fp16(command: Command, both_classes: list[Path], tmp_path: Path) -> None:
    result = command("export", *both_classes, "a.onnx", "--fp16", "--output", "logits")
    assert (result.status, result.err) == (0, "")
    score, _, file = result.out.splitlines()
    assert score.startswith("mIoU      fp16 ") and file.startswith("file      a.onnx: ")
    model = onnx.load(str(tmp_path / "a.onnx"))
    kinds = {tensor.data_type for tensor in model.graph.initializer if len(tensor.dims) == 4}
    assert kinds == {onnx.TensorProto.FLOAT16}
    assert [entry.type.tensor_type.elem_type for entry in [*model.graph.input, *model.graph.output]] == [1, 1]
    scored = json.loads(command("eval", "a.onnx", "--json").out)
    assert scored["mIoU"] == pytest.approx(scored["pytorch"]["mIoU"], abs=0.5)


def test_flags_that_do_not_go_together(command: Command) -> None:
    for words, line in (
        (["--int8", "--fp16"], "--int8, --fp16: a file has one precision; to get both, export twice"),
        (["--int8", "--images", "x"], "--images: --int8 is scored on the config's own data; leave --images out"),
    ):
        result = command("export", "no.py", "no.pth", "a.onnx", *words)
        assert (result.status, result.err) == (2, f"error: {line}\n")


def test_what_loses_too_much_is_trained_on_with_rounding(
    command: Command, distilled_run: Run, both_classes: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first INT8 file is said to score 50 points less, so that the student trains on under its teacher."""
    untouched, scored = reduce.evaluate_model, list[str]()

    def evaluate(model: Any, cfg: Any, *, split: str) -> Any:
        scores = untouched(model, cfg, split=split)
        scored.append(split)
        return {**scores, "mIoU": scores["mIoU"] - 50.0 * (len(scored) == 2)}

    monkeypatch.setattr(reduce, "evaluate_model", evaluate)
    words = (distilled_run.folder / "config.py", both_classes[1], "a.onnx", "--int8", "--max-drop", 40)
    result = command("export", *words, "--qat", 2, "--json")
    assert (result.status, result.err) == (0, "")
    made = json.loads(result.out)
    tuned = made["fine_tuned"]
    assert (tuned["iterations"], tuned["teachers"], scored) == (2, 1, ["val"] * 4)
    assert tuned["lost_before"] > 40 and 0 < tuned["rounding"] < 100
    assert made["mIoU"]["float32"] - made["mIoU"]["int8"] <= 40
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.onnx", "a.onnx.json"]
    scored.clear()
    result = command("export", *words)
    assert result.status == 1 and " lost, at most 40 accepted by --max-drop; --qat ITERS continues" in result.err
    result = command("export", *both_classes, "b.onnx", "--qat", 2)
    assert (result.status, result.err) == (2, "error: --qat: trains for INT8; add --int8, or leave --qat out\n")
