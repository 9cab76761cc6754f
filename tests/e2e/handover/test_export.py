"""A model that no exporter follows at any size is refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from model_zoo import segmentor
from torch import Tensor, nn

from rdistill.config.load import read_config_file
from rdistill.handover import export
from rdistill.handover.export import ExportError, export_onnx
from rdistill.handover.inference import Predictor, load_predictor


@pytest.fixture(scope="module")
def images(data_root: Path) -> list[Path]:
    return sorted((data_root / "img_dir" / "val").iterdir())


@pytest.fixture(scope="module")
def predictor(both_classes: list[Path]) -> Predictor:
    return load_predictor(read_config_file(both_classes[0]), both_classes[1])


@pytest.mark.e2e
def test_where_no_exporter_follows_the_size(predictor: Predictor, images: list[Path], tmp_path: Path) -> None:
    class Stubborn(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("it has a will of its own")

    model = segmentor("fast_scnn", {}, tmp_path)
    ten_classes = Predictor(model, predictor.pipeline, tuple("0123456789abcdefghi"), ((0, 0, 0),) * 19, {})
    checks = export._checks(ten_classes, images, None)
    model.backbone = Stubborn()
    assert len(checks) == len(images) + 3
    with pytest.raises(
        ExportError, match=r"not written: trace: RuntimeError: it has.*--fixed-size HxW, which needs less of the model"
    ):
        export_onnx(ten_classes, tmp_path / "a.onnx", images)
