"""What is written of a config is read back the same, and can be read by people."""

from __future__ import annotations

import ast
import datetime
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmengine.config import Config

from rdistill.config.load import read_config_file
from rdistill.config.render import WIDTH, assignment, checked_source, comment_line, config_source
from rdistill.core.errors import UserError

CONFIGS = sorted((Path(__file__).parents[3] / "configs").rglob("*optic-disc*.py"))


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


# ---------------------------------------------------------------------------------------------------------
# What mmengine would replace, and what would be code

SUBSTITUTED = [
    "{{$WANDB_API_KEY:none}}",
    "{{ $WANDB_API_KEY : none }}",
    "{{ fileBasename }}",
    "{{fileDirname}}/x",
    "{{ _base_.model }}",
    "{{{{$WANDB_API_KEY:}}}}",
    "{{{$WANDB_API_KEY:}}}",
    "\\{{fileBasename}}'\"\n",
    "{" * 7,
]


@pytest.mark.parametrize("text", SUBSTITUTED)
def test_nothing_is_replaced_when_it_is_read(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    values = {"classes": [text, Path(text)], "a": {"type": text, text: 1, "b": {text}}, "c": text.encode()}
    source, file = checked_source(Config(values)), tmp_path / "a.py"
    file.write_text(source)
    read = Config.fromfile(str(file))
    assert "{{" not in source and "secret" not in read.text + str(read.to_dict())
    assert read.to_dict() == {**values, "classes": [text, text]}


@pytest.mark.parametrize("line", ["a\nimport os", "a\r\nimport os", "\x0cimport os", "x {{$HOME:}} y", "a\x00b", "{{{"])
def test_a_comment_stays_a_comment(line: str) -> None:
    text = comment_line(line)
    assert "{{" not in text and ast.parse(text).body == []


NO_NAMES = ["my-note", "2nd", "class", "", "a\nimport os", "a = 1; b", "ﬁ"]


@pytest.mark.parametrize(
    "key",
    [*NO_NAMES, "__a", "_base_", "filename", "dict", "float", 3, None],
)
def test_keys_that_are_no_names(key: Any) -> None:
    with pytest.raises(UserError):
        config_source(_with_key(key))


def _with_key(key: Any) -> Config:
    cfg = Config(dict(a=1))
    dict.__setitem__(cfg._cfg_dict, key, 2)
    return cfg


NAMES_BELOW = [*NO_NAMES, "a=1)#", "type", "__a", "_base_", "'", 3, 2.5, None, True]


@pytest.mark.parametrize("key", NAMES_BELOW, ids=repr)
def test_a_section_has_any_key(key: Any, tmp_path: Path) -> None:
    values = {"section": {key: 1, "other": [{key: 2}]}}
    file = tmp_path / "a.py"
    file.write_text(checked_source(Config(values)))
    assert Config.fromfile(str(file)).to_dict() == values


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (np.float64(0.1), 0.1),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (range(3), range(3)),
        ({1, 2}, {1, 2}),
        (b"a", b"a"),
        ((1,), (1,)),
        ({}, {}),
        ([(1, [2])], [(1, [2])]),
    ],
)
def test_values_that_are_written_rightly(value: Any, read: Any, tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text(checked_source(Config(dict(a=dict(b=value)))))
    got = Config.fromfile(str(file)).a.b
    assert (got == read and type(got) is type(read)) or isinstance(got, dict)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (datetime.date(2026, 11, 26), "a.b: 2026-11-26 is a date, which no config can hold; write it as text"),
        ({datetime.date(2026, 11, 26): 1}, "a.b: the key 2026-11-26 is a date; write it as text"),
        ([object()], "a.b.0: a config file cannot hold a object"),
        (Path, "a.b: a config file cannot hold a type"),
        (math.sqrt, "a.b: a config file cannot hold a builtin_function_or_method"),
    ],
)
def test_values_that_no_file_holds(value: Any, says: str) -> None:
    with pytest.raises(UserError) as caught:
        config_source(Config(dict(a=dict(b=value))))
    (problem,) = caught.value.problems
    assert problem.startswith(says)


def test_what_is_read_back_otherwise_is_told() -> None:
    """A name that Python has a use for: found by reading the file back."""
    with pytest.raises(UserError, match="read back"):
        checked_source(Config({"slice": 1, "a": {"b": slice(1, 2)}}))
