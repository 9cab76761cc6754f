"""A config file is read: by any path, from a package, or one line says why not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from config_problems import problems
from conftest import REPO
from mmengine.config import utils as mmengine_config_utils

from rdistill.config.load import load_config, read_config_file
from rdistill.core.errors import UserError

Write = Callable[[str], Path]


@pytest.mark.parametrize("text", ["raise SystemExit", "import sys\nsys.exit(0)"])
def test_a_config_that_exits(write: Write, text: str) -> None:
    (problem,) = problems(write(text))
    assert problem.startswith("cannot be read: it calls sys.exit(")


def test_a_circle_of_bases(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("_base_ = 'b.py'\n")
    (tmp_path / "b.py").write_text("_base_ = ['a.py']\n")
    (problem,) = problems(tmp_path / "a.py")
    assert problem == "cannot be read: it inherits from itself: a.py -> b.py -> a.py"


def test_a_config_of_a_package() -> None:
    name = "mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py"
    cfg = load_config(name, with_data=False)
    assert cfg.model.decode_head.type == "PSPHead" and cfg.model.backbone.depth == 18
    with pytest.raises(UserError, match=r"no such config in mmseg; did you mean mmseg::pspnet/pspnet_r18-d8_4xb2-80k"):
        load_config(name.replace("r18-d8_4xb2", "r18-d8_4xb3"), with_data=False)
    with pytest.raises(UserError, match="no such config"):
        load_config("nopackage::a/b.py", with_data=False)


RECIPE = REPO / "configs/distill/deeplabv3plus_r50-r18_optic-disc.py"


def test_mmseg_alias_finds_the_installed_distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(mmengine_config_utils.MODULE2PACKAGE, "mmseg", "mmsegmentation")  # mmengine ships it so
    file = tmp_path / "a.py"
    file.write_text("_base_ = ['mmseg::_base_/models/deeplabv3plus_r50-d8.py']\n")
    assert read_config_file(file).model.decode_head.type == "DepthwiseSeparableASPPHead"


def test_wrong_path_names_the_nearest() -> None:
    with pytest.raises(UserError) as caught:
        load_config(RECIPE.with_name("deeplabv3plus_r50-r18_optic-disk.py"))
    (problem,) = caught.value.problems
    assert "no such config file" in problem and f"did you mean {RECIPE}?" in problem


def test_a_config_that_raises_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "broken.py"
    file.write_text("model = dict(\n\n1 / 0\n")
    with pytest.raises(UserError, match=r"broken\.py: cannot be read: ") as caught:
        load_config(file)
    assert "\n" not in caught.value.problems[0]


def test_an_incomplete_config_says_what_is_missing(tmp_path: Path) -> None:
    file = tmp_path / "model_only.py"
    file.write_text("_base_ = ['mmseg::_base_/models/deeplabv3plus_r50-d8.py']\n")
    with pytest.raises(UserError, match=r"train_dataloader, val_dataloader, .*train_cfg missing"):
        load_config(file)
