"""Models of timm's own, saved and loaded: what they give, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from rdistill._compat.torchvision import import_torchvision
from rdistill.core.errors import UserError
from rdistill.models.features import FeatureCapture
from rdistill.models.segmentor import build_segmentor, gives_logits, run_heads
from rdistill.networks import timm_models  # noqa: F401  registers what is built here
from rdistill.teachers.libraries import timm as timm_teacher

MODELS = {
    "resnet18": {},
    "convnext_atto": {"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16]},
    "vit_tiny_patch16_224": {"embed_dim": 16, "depth": 2, "num_heads": 2, "reg_tokens": 4},
}


class Files:
    """Of folders that are named in full."""

    def find_folder(self, name: str) -> Path | None:
        return Path(name) if Path(name).is_dir() else None


def folder_of(name: str, folder: Path, **settings: Any) -> Path:
    """A folder's settings alone."""
    folder.mkdir(exist_ok=True)
    said = {"architecture": name, "pretrained_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.25, 0.2, 0.5]}, **settings}
    (folder / "config.json").write_text(json.dumps(said))
    return folder


def built(folder: Path, **options: Any) -> nn.Module:
    made = timm_teacher(path=str(folder), files=Files(), **options)  # type: ignore[arg-type]
    return build_segmentor(dict(made.model)).eval()


def library() -> Any:
    try:
        import_torchvision()
        import timm
    except Exception as error:  # a torchvision of another torch raises RuntimeError
        pytest.skip(f"timm does not load here: {error}")
    return timm


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
def test_maps_are_the_model_s_own(name: str, tmp_path: Path) -> None:
    timm = library()
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, num_classes=3, **MODELS[name]).eval()
    folder = folder_of(name, tmp_path / "model", num_classes=3, model_args=MODELS[name])
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    teacher = built(folder)
    assert not gives_logits(teacher)
    assert teacher.data_preprocessor.mean.flatten().tolist() == pytest.approx([127.5, 102.0, 76.5])
    images = torch.randn(2, 3, 224, 224)
    expected = model.forward_intermediates(images, intermediates_only=True)
    with FeatureCapture(teacher, ["backbone[0]", "backbone[-2]", "backbone[-1]"]) as capture:
        run_heads(teacher, teacher.extract_feat(images), capture.names)
        first, last_map, last = (capture[feature] for feature in ("backbone[0]", "backbone[-2]", "backbone[-1]"))
    assert torch.equal(first, expected[0]) and torch.equal(last_map, expected[-1])
    assert last.shape == expected[-1].shape
    wide = teacher.extract_feat(torch.randn(1, 3, 40, 64))[-1]
    assert wide.shape[-2:] == {"resnet18": (2, 2), "convnext_atto": (1, 2), "vit_tiny_patch16_224": (3, 4)}[name]


@torch.no_grad()
def test_padding_is_cut_off(tmp_path: Path) -> None:
    """Of 36 x 60 pixels, 48 x 64 with the padding: of 16 rows or columns, the last patches hold 4 rows, 12 columns."""
    timm = library()
    name = "vit_tiny_patch16_224"
    folder = folder_of(name, tmp_path, num_classes=3, model_args=MODELS[name])
    model = timm.create_model(name, pretrained=False, num_classes=3, **MODELS[name])
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    images = torch.randn(1, 3, 36, 60)
    padded, whole = built(folder, fit="pad"), torch.nn.functional.pad(images, (0, 4, 0, 12))
    for cut, uncut in zip(padded.extract_feat(images), padded.extract_feat(whole), strict=True):
        assert uncut.shape[-2:] == (3, 4) and torch.equal(cut, uncut[..., :2, :])


def test_weights_of_another_model(tmp_path: Path) -> None:
    timm = library()
    weights = timm.create_model("resnet18", pretrained=False, num_classes=3).state_dict()
    weights.pop("fc.weight")
    folder = folder_of("resnet18", tmp_path, num_classes=3)
    with pytest.raises(UserError, match=r"has no weights, model.safetensors or pytorch_model.bin"):
        built(folder)
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"does not fit timm's ResNet: 1 missing: fc.weight"):
        built(folder)
    with pytest.raises(UserError, match="has no model resnet_of_nobody"):
        built(folder_of("resnet_of_nobody", tmp_path))


def test_what_the_folder_must_say(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"names no `architecture`: it is no model of timm's; see type='hf'"):
        built(folder_of("", tmp_path))
    with pytest.raises(UserError, match="does not say what its images are normalised with; set mean and std"):
        built(folder_of("resnet18", tmp_path, pretrained_cfg={}))
    made = timm_teacher(path=str(tmp_path), files=Files(), mean=[1, 2, 3], std=[4, 5, 6])  # type: ignore[arg-type]
    assert made.model["data_preprocessor"]["mean"] == [1, 2, 3] and made.classes == ()


def test_a_timm_that_does_not_load_is_one_line(tmp_path: Path) -> None:
    try:
        import_torchvision()
        import timm  # noqa: F401
    except Exception:
        with pytest.raises(
            UserError, match=r"of timm needs it: pip install 'rdistill|timm does not load here"
        ) as caught:
            built(folder_of("resnet18", tmp_path))
        assert len(caught.value.problems) == 1
    else:
        pytest.skip("timm loads here")
