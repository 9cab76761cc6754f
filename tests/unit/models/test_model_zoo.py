"""Segmentors of many kinds, inherited from mmseg, distil: as students and as teachers, CNN maps and tokens alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Tiny
from model_zoo import (
    MODELS_OF_SEVERAL,
    ZOO,
    under_itself,
    write_config,
)

from rdistill.checks.dry_run import check_batch, tiny_batch
from rdistill.checks.run import check_pairs
from rdistill.config.distill_spec import distill_spec
from rdistill.config.load import Shortcuts, load_config
from rdistill.distill.distiller import build_distiller


def test_tokens_are_compared_as_maps(tiny: Tiny, tmp_path: Path) -> None:
    """A SegFormer layer's N x L x C against a CNN's map, with an adapter between their widths."""
    file = write_config(tmp_path, "segformer_tokens")
    distill = dict(
        teachers=[dict(config=str(tiny.folder / "teacher.py"), checkpoint=str(tiny.folder / "teacher" / "best.pth"))],
        features=dict(student=[ZOO["segformer_tokens"][2]], teacher=["backbone.layer2"]),
        losses=dict(hidden=dict(type="FitNet", pair=(0, 0))),
    )
    cfg = load_config(file, {"+distill": distill}, Shortcuts(data_root=str(tiny.data_root), size="64"))
    distiller = build_distiller(cfg, seed=0)
    adapter = distiller.terms["hidden"].adapter
    assert adapter is not None
    assert [tuple(weight.shape[:2]) for weight in adapter.parameters() if weight.ndim == 4] == [(32, 64)]


# --- heads that give several tensors, cascades, and what else has a shape of its own --------------------------------


@pytest.mark.parametrize("index", [1, 2, 3])
def test_every_output_of_danet(
    index: int, tiny: Tiny, tmp_path: Path, stream_batches: Callable[..., list[dict[str, Any]]]
) -> None:
    """Its head gives three maps on both sides, beside an auxiliary head."""
    cfg = under_itself("danet", tiny, tmp_path, other=dict(type="KL", on=f"logits[{index}]"))
    distiller = build_distiller(cfg, seed=0)
    assert check_batch(distiller, cfg, stream_batches(cfg, 1)[0]) == []
    assert distiller.routes["other"].student_features == (MODELS_OF_SEVERAL["danet"][1][index],)


def test_features_that_exist_in_training_alone(tiny: Tiny, tmp_path: Path) -> None:
    """DDRNet's backbone gives two maps to a student in training, and one to a teacher that predicts."""
    features = dict(student=["backbone[1]"], teacher=["backbone"])
    cfg = under_itself("ddrnet", tiny, tmp_path, features, hidden=dict(type="CWD", pair=(0, 0)))
    distiller = build_distiller(cfg, seed=0)
    spec = distill_spec(cfg)
    assert spec is not None
    assert check_pairs(spec, distiller.student, [distiller.teachers[0].model], (64, 64)) == []
    assert check_batch(distiller, cfg, tiny_batch(cfg, 2, 0)) == []
