"""Sets of 1, 4 and 5 bands, of 8 and 16 bits, from the check to the exported file, by the commands themselves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bands import write_bands
from conftest import Tiny
from PIL import Image

onnx = pytest.importorskip("onnx")
pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.mark.parametrize(("bands", "bits"), [(1, 16), (4, 8), (4, 16), (5, 8), (5, 16)])
def test_the_whole_way(
    command: Callable[..., Any],
    tiny_without_teacher: Tiny,
    tmp_path: Path,
    bands: int,
    bits: int,
) -> None:
    data = write_bands(tiny_without_teacher, tmp_path, bands, bits).data_root

    def done(*arguments: Any) -> str:
        result = command(*arguments)
        assert (result.status, result.err) == (0, ""), arguments
        return str(result.out)

    done("train", "teacher.py", "--work-dir", "teacher", "-q")
    assert "give finite losses and gradients" in done("check", "distill.py")
    assert json.loads(done("layers", "distill.py", "--json"))["models"][0]["flops"] > 0
    done("train", "distill.py", "--work-dir", "student", "-q")
    files = ("student/student.py", "student/student.pth")
    assert 0 <= json.loads(done("eval", *files, "--json"))["mIoU"] <= 100
    done("predict", *files, data / "img_dir" / "val", "--out", "out")
    for name in ("0000", "0001", "0002"):
        with Image.open(f"out/masks/{name}.png") as mask:
            assert mask.size == (48, 48)
        assert np.asarray(Image.open(f"out/overlays/{name}.png"))[:200].std() > 10  # neither black nor white
    done("export", *files, "student.onnx")
    facts = {entry.key: entry.value for entry in onnx.load("student.onnx").metadata_props}
    assert facts["channels"] == str(bands) and f"N x {bands} x H x W" in facts["input"]
    assert f"pixel of 0 to {2**bits - 1} " in facts["input"]
    if (bands, bits) == (5, 16):
        done("sweep", "sweep.yaml", "--work-dir", "sweep", "-q")
        index = json.loads(Path("sweep/pictures/pictures.json").read_text())
        assert index.get("reason") is None and len(index["chosen"]) == 3
