"""`rdistill layers`: tables for 80 columns, everything as JSON, without data or checkpoints."""

from __future__ import annotations

import io
import json

import pytest
from conftest import REPO, Tiny
from rich.console import Console
from typer.testing import CliRunner

from rdistill.checks.layers import as_json, overview, short_number, show
from rdistill.cli import app
from rdistill.config.load import Shortcuts, load_config
from rdistill.core.errors import UserError

SLIM = REPO / "configs/distill/deeplabv3plus_r50-r18-slim_optic-disc-128.py"


@pytest.fixture(scope="module")
def slim_tables() -> str:
    cfg = load_config(SLIM, shortcuts=Shortcuts(data_root="/nowhere", size="64"), with_data=False)
    console = Console(width=80, record=True, file=io.StringIO())
    show(overview(cfg), console)
    return console.export_text()


def test_tables_fit_80_columns(slim_tables: str) -> None:
    lines = slim_tables.splitlines()
    assert max(map(len, lines)) <= 80 and len(lines) < 75
    assert any(line.startswith("backbone.layer4 ") and " 128x8x8 " in line and " 8 " in line for line in lines)
    assert any(line.startswith("decode_head.aspp_modules[3]") for line in lines)
    assert "deeper layers hidden: --depth 3 shows more" in slim_tables


def test_pairs_are_marked(slim_tables: str) -> None:
    assert "pairs [student, teacher]" in slim_tables
    assert "0 = = =" in slim_tables.replace("  ", " ")


def test_marks_and_reasons(tiny_without_teacher: Tiny) -> None:
    names = dict(student=("backbone.layer1", "backbone.layer4"), teacher=("backbone.stem", "decode_head.image_pool"))
    cfg = load_config(
        tiny_without_teacher.folder / "distill.py",
        {"distill.features": names, "distill.losses.hidden.pair": (0, 0)},
        Shortcuts(size="32"),
        with_data=False,
    )
    seen = overview(cfg)
    assert seen.features[0].sensible == [(0, 0)]  # stride 4 and 2; stride 8 has none within a factor of 2
    assert set(seen.features[0].problems) == {(0, 1), (1, 1)}
    file = io.StringIO()
    show(seen, Console(width=80, file=file), depth=1)
    text = file.getvalue()
    assert "0 ~ x" in text and "1 . x" in text and "[0, 1]: the teacher's is pooled to 1 x 1" in text


def test_json_has_every_layer(tiny_without_teacher: Tiny) -> None:
    done = CliRunner().invoke(
        app, ["layers", str(tiny_without_teacher.folder / "distill.py"), "--json", "--size", "32"]
    )
    assert done.exit_code == 0, done.output
    seen = json.loads(done.output)
    assert [model["role"] for model in seen["models"]] == ["student", "teacher"]
    layers = {layer["name"]: layer for layer in seen["models"][1]["layers"]}
    assert layers["backbone.layer4.2.conv3"]["shape"] == [1, 128, 4, 4]
    features = seen["features"][0]
    assert features["student"][0] == dict(index=0, name="backbone.layer3", shape=[1, 16, 4, 4], stride=8.0)
    assert [1, 1] in features["sensible_pairs"] and features["incompatible_pairs"] == []


def test_plain_config_and_own_teacher(tiny_without_teacher: Tiny) -> None:
    folder = tiny_without_teacher.folder
    seen = overview(load_config(folder / "student.py", shortcuts=Shortcuts(size="32"), with_data=False))
    assert [model.role for model in seen.models] == ["model"] and as_json(seen)["features"] == []
    changed = {"distill.teachers": [dict(ema_decay=0.99)]}
    seen = overview(load_config(folder / "distill.py", changed, Shortcuts(size="32"), with_data=False))
    assert [model.role for model in seen.models] == ["student"] and len(seen.features) == 1


def test_unknown_features_are_all_named(tiny_without_teacher: Tiny) -> None:
    names = dict(student=("backbone.layer3", "backbone.layr4"), teacher=("neck", "backbone.layer4"))
    cfg = load_config(
        tiny_without_teacher.folder / "distill.py",
        {"distill.features": names},
        Shortcuts(size="32"),
        with_data=False,
    )
    with pytest.raises(UserError) as caught:
        overview(cfg)
    of_student, of_teacher = caught.value.problems
    assert of_student.startswith("distill.features.student[1]: ") and of_student.endswith(
        "did you mean 'backbone.layer4'?"
    )
    assert of_teacher.startswith("distill.features.teacher[0]: ")


def test_short_number() -> None:
    assert [short_number(count) for count in (None, 0, 999, 1234, 999_600, 2.5e9)] == [
        "",
        "0",
        "999",
        "1.23k",
        "1M",
        "2.5G",
    ]  # type: ignore[arg-type]
