"""The list of models, and its figures measured anew."""

from __future__ import annotations

import pytest

from rdistill.core.errors import UserError
from rdistill.init.list_models import as_plain, matching_models, measure, table_lines
from rdistill.init.zoo import figures


@pytest.mark.parametrize("name", ["fpn_r18-w12", "fast_scnn", "segformer_mit-b0", "pidnet-s"])
def test_figures_are_those_that_are_measured(name: str) -> None:
    (model,) = measure([name])
    assert figures()["models"][name] == {"parameters": model.parameters, "flops": model.flops}


def test_the_list() -> None:
    models = matching_models("Segformer_mit")
    assert [model.name for model in models] == [f"segformer_mit-b{size}" for size in range(6)]
    lines = list(table_lines(models, measured_now=False))
    assert lines[1].split()[:3] == ["segformer_mit-b0", "3.72", "15.7"] and "mmsegmentation 1.4.2" in lines[-1]
    assert as_plain(models)["models"][0]["parameters"] == 3720051
    with pytest.raises(UserError, match=r"^nothing: no model's name contains this; `rdistill models` lists all \d+$"):
        matching_models("nothing")
