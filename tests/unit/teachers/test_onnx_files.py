"""What an ONNX file says of itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from rdistill.core.errors import UserError
from rdistill.teachers.onnx_files import describe_file, file_digest

onnx = pytest.importorskip("onnx")


def made(folder: Path, *shapes: list[int | str], **metadata: str) -> Path:
    """A file that gives each of its inputs as it is."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    inputs = [helper.make_tensor_value_info(f"in{i}", kind, shape) for i, shape in enumerate(shapes)]
    outputs = [helper.make_tensor_value_info(f"out{i}", kind, shape) for i, shape in enumerate(shapes)]
    nodes = [helper.make_node("Identity", [f"in{i}"], [f"out{i}"]) for i in range(len(shapes))]
    graph = helper.make_graph(nodes, "net", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, metadata)
    onnx.save(model, str(folder / "net.onnx"))
    return folder / "net.onnx"


def test_sizes_channels_and_metadata(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    free = describe_file(made(tmp_path, ["n", 3, "h", "w"], mean="[1.0, 2.0, 3.0]", channel_order="RGB"))
    assert (free.input, free.dtype, free.batch, free.channels, free.size) == ("in0", "float32", None, 3, None)
    assert free.outputs == {"out0": 3} and free.facts == {"mean": [1.0, 2.0, 3.0], "channel_order": "RGB"}
    fixed = describe_file(made(tmp_path, [1, 4, 32, 48]))
    assert (fixed.batch, fixed.channels, fixed.size) == (1, 4, (32, 48))


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([["n", 3]], "must take images alone, one input of N x C x H x W floats, got in0"),
        ([["n", 3, 8, 8], ["n", 1, 8, 8]], "must take images alone"),
        ([[4, 3, 8, 8]], "takes 4 images at once; export it with a free batch"),
    ],
)
def test_files_that_are_no_teacher(shapes: list[list[int | str]], message: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(UserError, match=message):
        describe_file(made(tmp_path, *shapes))


def test_a_digest_is_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 3_000_000)
    (tmp_path / "b").write_bytes(b"x" * 3_000_000)
    assert file_digest(tmp_path / "a") == file_digest(tmp_path / "b")
    (tmp_path / "b").write_bytes(b"x" * 3_000_001)
    assert file_digest(tmp_path / "a") != file_digest(tmp_path / "b")
    with pytest.raises(UserError, match="cannot be read"):
        file_digest(tmp_path / "c")
