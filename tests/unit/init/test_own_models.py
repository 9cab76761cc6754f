"""rdistill's own two models: they build, and the teacher starts from weights that a package brings."""

from __future__ import annotations

import pytest

from rdistill.init import own_models
from rdistill.init.own_models import IMPORTS, OWN, OWN_SOURCE, STUDENT, TEACHER
from rdistill.init.zoo import model_names


def test_both_are_among_the_models_by_name() -> None:
    own = {name for name, config in model_names().items() if config == OWN_SOURCE}
    assert own == set(OWN) == {STUDENT, TEACHER}


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
