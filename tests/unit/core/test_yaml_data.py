"""YAML as data: numbers as people write them, and one line for what surprises or harms."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from rdistill.core.errors import UserError
from rdistill.core.yaml_data import MAX_DEPTH, not_plain, parse_yaml, read_yaml, yaml_problem


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),  # text in YAML 1.1
        ("-1.5E+3", -1500.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("12", 12),
        ("1_000", 1000),
        ("0x10", 16),
        ("1:30", "1:30"),  # 90 in YAML 1.1
        ("2026-01-01", "2026-01-01"),  # a date in YAML 1.1
        ("=", "="),
        ("[on, no, true]", [True, False, True]),
        ("{on: 1, true: 2}", {"on": 1, "true": 2}),
        ("", None),
        ("{a: &x [1], b: *x}", {"a": [1], "b": [1]}),
        ("{a: &x {k: 1}, b: {<<: *x, j: 2}}", {"a": {"k": 1}, "b": {"k": 1, "j": 2}}),
    ],
)
def test_what_is_read(text: str, value: object) -> None:
    actual = parse_yaml(text)
    assert actual == value and type(actual) is type(value)


LAUGHS = "a0: &a0 [1, 1]\n" + "".join(f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]\n" for i in range(9))
MERGED = "a0: &a0 {k: 1}\n" + "".join(f"a{i + 1}: &a{i + 1} {{<<: [{', '.join([f'*a{i}'] * 9)}]}}\n" for i in range(9))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\nb: 2\na: 3\n", ":3: is not valid YAML: the key 'a' is there twice, first in line 1; keep one of them"),
        ("x:\n  - {k: 1, k: 2}\n", ":2: is not valid YAML: the key 'k' is there twice, first in line 2"),
        ("a: &x {k: *x}\n", ":1: is not valid YAML: *x stands within itself"),
        ("&x [*x]", ":1: is not valid YAML: *x stands within itself"),
        ("a: *y\n", ":1: is not valid YAML: found undefined alias 'y'"),
        ("a: &x 1\nb: &x 2\n", ":2: is not valid YAML: an anchor (&name) is there twice"),
        ("[" * 1000, f":1: is not valid YAML: is nested more than {MAX_DEPTH} deep"),
        (
            "\n".join(f"{' ' * i}a:" for i in range(1000)),
            f":32: is not valid YAML: is nested more than {MAX_DEPTH} deep",
        ),
        (LAUGHS, ":6: is not valid YAML: has more than 50000 values, with what its aliases (*name) stand for"),
        (MERGED, ":6: is not valid YAML: has more than 50000 values, with what its aliases (*name) stand for"),
        ("a: 1\n---\na: 2\n", ":2: is not valid YAML: a second document begins here (---)"),
        ("a:\n\tb: 1\n", ":2: is not valid YAML: a tab cannot indent or begin a value; use spaces"),
        ("a: \x00", ": is not valid YAML: '\\x00' may not stand in it"),
        ("a: !!set {b}", ":1: is not valid YAML: the tag !!set is not taken; write plain values"),
        ("a: !!binary YQ==", ":1: is not valid YAML: the tag !!binary is not taken"),
        ("a: !mine 1", ":1: is not valid YAML: the tag !mine is not taken"),
        ("a: 0x_", ":1: is not valid YAML: '0x_' is no value of type int"),
        ("a: " + "1" * 5000, ":1: is not valid YAML: '1111"),
        ("? [1, 2]\n: 3", ":1: is not valid YAML: a list or a mapping cannot be a key"),
        ("a: [1, 2", ":1: is not valid YAML: expected ',' or ']'"),
    ],
    ids=lambda text: text[:20].encode("unicode_escape").decode(),
)
def test_what_is_refused(text: str, line: str) -> None:
    with pytest.raises(yaml.YAMLError) as caught:
        parse_yaml(text)
    assert yaml_problem(caught.value).startswith(line)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"a: 1\nb: \xff\n", ":2: is not UTF-8 text (byte 0xff); save it as UTF-8"),
        ("a: 1".encode("utf-16"), ":1: is not UTF-8 text (byte 0xff); save it as UTF-8"),
        (b"a: 1\n" * 2**18, ": is larger than 1 MiB; is it the right file?"),
    ],
)
def test_a_file_that_is_no_text(tmp_path: Path, content: bytes, line: str) -> None:
    (tmp_path / "a.yaml").write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_yaml(tmp_path / "a.yaml")
    assert str(caught.value) == f"{tmp_path}/a.yaml{line}"


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read_yaml(tmp_path / "a.yaml") == {"a": 1}


def test_plain_values() -> None:
    itself: list[object] = []
    itself.append(itself)
    assert not_plain({"a": [1, 2.5, "x", None, True, (1, 2)]}, "v") == []
    assert not_plain([1, {"a": float("nan")}], "v") == ["v.1.a: must be a finite number, got nan"]
    half = "holds half a character (a surrogate), got 'a\\udc80'; write the character itself"
    assert not_plain({"a": ["\U0001f600", "a\udc80"]}, "v") == [f"v.a.1: {half}"]
    assert not_plain({"\ud83d": 1}, "v") == ["v: a key must be text, got '\\ud83d'"]
    assert not_plain({0: 1}, "v") == ["v: a key must be text, got 0"]
    assert not_plain({0: float("inf")}, "v", as_json=False) == []
    assert not_plain({1, 2}, "v") == [
        "v: must be text, a number, true, false, null, or a list or mapping of them, got {1, 2}"
    ]
    assert not_plain(itself, "v") == [f"v{'.0' * (MAX_DEPTH + 1)}: is nested more than {MAX_DEPTH} deep"]
