"""rdistill's own models: they are those of its configs, and the teacher starts from weights that a package brings."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rdistill.config.load import load_config
from rdistill.init import own_models
from rdistill.init.own_models import IMPORTS, OWN, OWN_SOURCE, STUDENT, TEACHER
from rdistill.init.zoo import find_model, model_names
from rdistill.models.segmentor import build_segmentor


def test_they_are_among_the_models_by_name() -> None:
    own = {name for name, config in model_names().items() if config == OWN_SOURCE}
    assert own == set(OWN) and {STUDENT, TEACHER} <= own


def test_each_student_and_teacher_of_the_configs_is_known(repo: Path) -> None:
    """`init --student` takes the name that a config of rdistill's own has, up to its data."""
    files = [*(repo / "configs/student").glob("*.py"), *(repo / "configs/teacher").glob("*.py")]
    assert len(files) > 15
    for name in {file.stem.rpartition("_")[0] for file in files}:
        found, _ = find_model(name, "--student")
        assert found.replace("_", "-") == name.replace("_", "-")


@pytest.mark.parametrize("name", [name for name in OWN if name != TEACHER])
def test_they_are_the_models_of_the_configs(name: str, repo: Path) -> None:
    (folder,) = {file.parent for file in repo.glob(f"configs/*/{name}_optic-disc-128.py")}
    cfg = load_config(folder / f"{name}_optic-disc-128.py", with_data=False)
    theirs, ours = build_segmentor(cfg.model), build_segmentor(OWN[name]())
    shapes = [{key: tuple(value.shape) for key, value in model.state_dict().items()} for model in (ours, theirs)]
    assert shapes[0] == shapes[1]
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    ours.load_state_dict(theirs.state_dict())
    with torch.no_grad():
        outputs = [model.eval().encode_decode(image, [dict(img_shape=(64, 64))]) for model in (ours, theirs)]
    assert torch.equal(*outputs)  # strides, dilations and the head's rates too


def test_each_call_makes_a_config_of_its_own() -> None:
    """What is fitted to one data set does not reach the next."""
    first = OWN[STUDENT]()
    first["decode_head"]["num_classes"] = 19
    assert OWN[STUDENT]()["decode_head"]["num_classes"] == 2
    neck, head = first["neck"], first["decode_head"]
    assert neck["in_channels"] == [12, 24, 48, 96] and head["in_channels"] == [neck["out_channels"]] * 4


@pytest.mark.parametrize("there", [True, False])
def test_the_teacher_has_imagenets_weights_where_their_package_is(monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    monkeypatch.setattr(own_models.importlib.util, "find_spec", lambda name: object() if there else None)
    section = OWN[TEACHER]()
    assert section["backbone"] == {"type": "EfficientNetLite0", "imagenet": there}
    assert section["custom_imports"] == IMPORTS and own_models.has_imagenet() is there
