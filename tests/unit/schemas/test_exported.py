"""What `export` writes beside a file has the keys that its type says."""

from __future__ import annotations

from pathlib import Path

from typed_files import unlike

from rdistill.core.files import read_json
from rdistill.handover.onnx_file import read_record, record_path, write_record
from rdistill.schemas.exported import ExportRecord


def test_a_record_as_it_is_written(tmp_path: Path) -> None:
    record: ExportRecord = {
        "config": "student.py", "checkpoint": "student.pth", "overrides": {"model.pretrained": None},
        "shortcuts": {"size": "32", "data_root": None}, "precision": "int8",
        "quantization": {
            "method": "entropy", "held_out_mIoU": {"float32": 70.0, "entropy": 69.5}, "calibrated": 32, "held_out": 32,
            "layers": 40, "kept_in_float": ["/model/decode_head/conv_seg/Conv"],
        },
    }  # fmt: skip
    write_record(tmp_path / "a.onnx", record)
    assert unlike(read_json(record_path(tmp_path / "a.onnx")), ExportRecord) == []
    assert read_record(tmp_path / "a.onnx") == record and read_record(tmp_path / "b.onnx") is None
