"""Packages that mmseg's own parts need: named with the line that installs them, all of a model's at once."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import mmseg
import pytest

from rdistill.config.load import read_config_file
from rdistill.core.errors import UserError
from rdistill.models import packages
from rdistill.models.packages import OPERATORS, TIFFFILE, absent_behind, absent_packages
from rdistill.models.segmentor import build_segmentor

Command = Callable[..., Any]
ZOO = Path(mmseg.__file__).parent / ".mim" / "configs"
DETECTION = "needs mmdetection (pip install onedl-mmdetection) and mmcv's compiled operators (install torch first, then"
COMPILED = "needs mmcv's compiled operators (install torch first, then MMCV_WITH_OPS=1 pip install"
PRETRAIN = "needs mmpretrain (pip install onedl-mmpretrain), not installed here"
NEEDS = {
    "mask2former/mask2former_swin-t_8xb2-90k_cityscapes-512x1024.py": DETECTION,
    "mask2former/mask2former_r101_8xb2-160k_ade20k-512x512.py": DETECTION,  # its custom_imports need it
    "maskformer/maskformer_r101-d32_8xb2-160k_ade20k-512x512.py": DETECTION,  # mmseg's own: a TypeError
    "san/san-vit-b16_coco-stuff164k-640x640.py": COMPILED,
    "ccnet/ccnet_r50-d8_4xb2-40k_cityscapes-512x1024.py": COMPILED,
    "psanet/psanet_r50-d8_4xb2-40k_cityscapes-512x1024.py": COMPILED,
    "point_rend/pointrend_r50_4xb2-80k_cityscapes-512x1024.py": COMPILED,
    "convnext/convnext-base_upernet_8xb2-amp-160k_ade20k-512x512.py": PRETRAIN,
    "poolformer/fpn_poolformer_s12_8xb4-40k_ade20k-512x512.py": PRETRAIN,
    "vpd/vpd_sd_4xb8-25k_nyu-480x480.py": "needs latent-diffusion (",
}


@pytest.fixture(autouse=True)
def _without_them() -> None:
    if OPERATORS.is_installed() or find_spec("mmdet") or find_spec("mmpretrain"):
        pytest.skip("they are installed here")


@pytest.mark.parametrize("name", NEEDS)
def test_models_of_the_zoo(command: Command, name: str) -> None:
    """One line that a shell's command follows from, whatever mmseg itself raises."""
    result = command("layers", ZOO / name, "--size", "64")
    assert result.status == 2 and result.err.count("\n") == 1 and NEEDS[name] in result.err


def test_a_teacher_says_whose_they_are() -> None:
    cfg = read_config_file(ZOO / "maskformer/maskformer_r101-d32_8xb2-160k_ade20k-512x512.py")
    with pytest.raises(UserError, match=r"^teacher x\.py: needs mmdetection \(pip install onedl-mmdetection\)"):
        build_segmentor(cfg.model, what="teacher x.py")


def test_what_is_there_is_not_named() -> None:
    assert absent_packages({"type": "EncoderDecoder", "decode_head": {"type": "FCNHead"}}) == ""
    assert absent_packages([{"type": "LoadImageFromFile", "imdecode_backend": "cv2"}]) == ""
    assert absent_behind(ValueError("shapes differ")) == ""


def test_readers_of_a_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = packages.Package("tifffile", TIFFFILE.install, lambda: False)
    monkeypatch.setitem(packages.BY_BACKEND, "tifffile", (absent,))
    steps = [{"type": "mmseg.LoadImageFromFile", "imdecode_backend": "tifffile"}, {"type": "PackSegInputs"}]
    assert absent_packages(steps) == "needs tifffile (pip install tifffile), not installed here"


def test_the_error_that_led_to_an_error() -> None:
    try:
        try:
            raise ModuleNotFoundError("No module named 'mmpretrain'")
        except ModuleNotFoundError as error:
            raise ImportError("Failed to import custom modules") from error
    except ImportError as error:
        assert absent_behind(error) == PRETRAIN
