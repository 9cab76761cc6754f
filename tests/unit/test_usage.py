"""A wrong command line is one line that says what is wrong, what was meant, and what to do."""

from __future__ import annotations

from typing import Any

import pytest
import typer
from command_names import every_command
from conftest import Command, Outcome

from rdistill.cli import app


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["trian", "a.py"], "trian: no such command of `rdistill`; did you mean 'train'?"),
        (["data", "synthetik"], "synthetik: no such command of `rdistill data`; did you mean 'synthetic'?"),
        (["train"], "CONFIG: is required; see `rdistill train --help`"),
        (["sweep"], "SWEEP.yaml: is required; see `rdistill sweep --help`"),
        (["export", "a.py", "b.pth"], "OUT.onnx: is required; see `rdistill export --help`"),
        (["predict", "a.py", "b.pth"], "IMAGE: is required; see `rdistill predict --help`"),
        (["predict", "a.py", "b.pth", "c.png"], "--out: is required; see `rdistill predict --help`"),
        (["train", "a.py", "b.py"], "b.py: more arguments than `rdistill train` takes; see `rdistill train --help`"),
        (["train", "a.py", "--itres", "3"], "--itres: no such option of `rdistill train`; did you mean '--iters'?"),
        (["train", "a.py", "-x"], "-x: no such option of `rdistill train`; see `rdistill train --help`"),
        (["train", "a.py", "--iters"], "--iters: needs a value after it"),
        (["train", "a.py", "--amp=3"], "--amp: takes no value; leave out what follows `=`"),
        (["train", "a.py", "--iters", "x"], "--iters: must be a whole number, got 'x'"),
        (["train", "a.py", "--iters", "1.5"], "--iters: must be a whole number, got '1.5'"),
        (["train", "a.py", "--workers", "0"], "--workers: must be a whole number of at least 1, got '0'"),
        (
            ["train", "a.py", "--cpus-per-worker", "nan"],
            "--cpus-per-worker: must be a number of at least 0.01, got 'nan'",
        ),
        (
            ["train", "a.py", "--seed", "4294967296"],
            "--seed: must be a whole number from 0 to 4294967295, got '4294967296'",
        ),
        (["export", "a", "b", "c", "--opset", "99"], "--opset: must be a whole number from 16 to 20, got '99'"),
        (["train", "a\nb.py"], "a\\nb.py: no such config file"),
        (["train", "a.py", "--set", "b\x1b[31m"], "--set b\\x1b[31m: must be key=value"),
        (["sweep", "a.yaml", "--work-dir", ""], "--work-dir: is empty; name a folder"),
        (["report", ""], "DIR: is empty; name a folder"),
        (["report", " "], "DIR: is empty; name a folder"),
        (["compare", "a", ""], "DIR: is empty; name a folder"),
        (["data", "synthetic", ""], "DIR: is empty; name a folder"),
        (["predict", "a.py", "a.pth", "a.png", "--out", ""], "--out: is empty; name a folder"),
        (["predict", "a.py", "a.pth", "a.png", "", "--out", "b"], "IMAGE: is empty; give it a value"),
        (["train", "a.py", "--set", "b=1", "--set", ""], "--set: is empty; give it a value, or leave it out"),
        (
            ["train", "a.py", "--set", r'b="\ud83d\ude00"'],
            r"--set b: holds half a character (a surrogate), got '\ud83d\ude00'; write the character itself",
        ),
        (["train", "a.py", "--set", r'b={"\ud83d": 1}'], r"--set b: a key must be text, got '\ud83d'"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value).encode("unicode_escape").decode(),
)
def test_a_wrong_command_line_is_one_line_and_status_2(command: Command, arguments: list[str], line: str) -> None:
    assert command(*arguments) == Outcome(2, "", f"error: {line}\n")


def test_no_command_takes_an_empty_value(command: Command) -> None:
    """As a path it would be the current folder, which nobody named."""
    group: Any = typer.main.get_command(app)
    refused = []
    for path in every_command(group):
        inner = group
        for name in path:
            inner = inner.commands[name]
        for param in () if hasattr(inner, "commands") else inner.params:
            if not getattr(param, "is_flag", False):
                result = command(*path, *([param.opts[0], ""] if param.opts[0].startswith("-") else [""]))
                assert result.status == 2 and ": is empty; " in result.err and result.err.count("\n") == 1, param.name
                refused.append((*path, param.name))
    assert len({path[0] for path in refused}) == 14 and ("data", "synthetic", "out") in refused


def test_a_group_without_a_command_shows_its_help(command: Command) -> None:
    for group in ((), ("data",)):
        result = command(*group)
        assert result.status == 2 and "Usage:" in result.out and result.err == ""


def test_the_help_of_a_command_shows_all_of_its_words(command: Command) -> None:
    """rich takes a word in brackets for a style and leaves it out: ``pip install 'rdistill[onnx]'`` lost its extra."""
    group: Any = typer.main.get_command(app)
    for path in every_command(group):
        inner = group
        for name in path:
            inner = inner.commands[name]
        shown = command(*path, "--help").out.split()
        assert {word for word in inner.help.replace("\\[", "[").split() if word not in shown} == set(), path
    assert "'rdistill[onnx]'." in command("export", "--help").out.split()
