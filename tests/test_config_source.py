"""What is written of a config is read back the same, and can be read by people."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

from rdistill.config import read_config_file
from rdistill.config_source import WIDTH, assignment, config_source

CONFIGS = sorted((Path(__file__).parents[1] / "configs").rglob("*optic-disc*.py"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_it_is_read_back_the_same(path: Path, tmp_path: Path) -> None:
    cfg, file = read_config_file(path), tmp_path / "a.py"
    text = config_source(cfg)
    file.write_text(text)
    assert Config.fromfile(str(file)).to_dict() == cfg.to_dict()
    assert max(map(len, text.splitlines())) <= WIDTH and "type='" in text


def test_of_what_fits_on_no_line_each_item_has_its_own() -> None:
    value = {"b": ["x" * 60, "y" * 60], "type": "A"}
    assert assignment("key", value).splitlines() == [
        "key = dict(",
        "    type='A',",
        "    b=[",
        f"        '{'x' * 60}',",
        f"        '{'y' * 60}',",
        "    ],",
        ")",
    ]


@pytest.mark.parametrize(
    ("value", "source"),
    [
        ({"lr": 0.1, "type": "SGD"}, "dict(type='SGD', lr=0.1)"),
        ({"not-a-name": 1}, "{'not-a-name': 1}"),
        ({"from": 1, "to": 2}, "{'from': 1, 'to': 2}"),  # a keyword cannot be an argument's name
        ({0: ()}, "{0: ()}"),
        ((1,), "(1,)"),
        ([], "[]"),
        (Path("a/b"), "'a/b'"),
        ("it's", '"it\'s"'),
        (None, "None"),
    ],
)
def test_values(value: Any, source: str) -> None:
    assert assignment("key", value) == f"key = {source}\n"


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_numbers_that_python_has_no_literal_for(value: float) -> None:
    assert repr(eval(assignment("key", value).partition("= ")[2])) == repr(value)


def test_a_long_tuple_of_one() -> None:
    value = ("x" * 120,)
    assert eval(assignment("key", value).partition("= ")[2]) == value


def test_strings_that_have_a_name() -> None:
    assert assignment("key", ["data", "x"], {"data": "data_root"}) == "key = [data_root, 'x']\n"
