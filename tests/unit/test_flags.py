"""A flag is declared once: the commands' groups, the API's arguments and what they set have the same names."""

from __future__ import annotations

from dataclasses import fields
from inspect import Parameter, signature
from typing import Annotated, Any

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

import rdistill
from rdistill.api import BatchArguments, DataArguments, ShortcutArguments
from rdistill.cli import app as commands
from rdistill.config.shortcuts import Shortcuts
from rdistill.flags import (
    BatchFlags,
    DataFlags,
    Flags,
    LoadFlags,
    ModelFlags,
    RunFlags,
    SweepFlags,
    with_flags,
)

SHORTCUTS = [field.name for field in fields(Shortcuts)]


def test_the_shortcuts_of_the_commands_and_of_the_api_are_those_that_there_are() -> None:
    assert list(ShortcutArguments.__annotations__) == SHORTCUTS
    assert [field.name for field in fields(LoadFlags)] == ["set_", *SHORTCUTS, "trust_checkpoint"]


@pytest.mark.parametrize(
    ("group", "function"),
    [
        (RunFlags, rdistill.train),
        (LoadFlags, rdistill.train),
        (SweepFlags, rdistill.sweep),
        (LoadFlags, rdistill.sweep),
        (DataFlags, rdistill.evaluate),
        (BatchFlags, rdistill.headroom),
    ],
)
def test_a_flag_is_an_argument_of_the_function_with_the_same_default(group: type[Flags], function: Any) -> None:
    arguments = signature(function).parameters
    for name, default in group().as_arguments().items():
        assert arguments[name].default == default, name


def test_help_and_notebooks_show_every_shortcut() -> None:
    for function in (rdistill.load_config, rdistill.train, rdistill.sweep):
        assert set(SHORTCUTS) < set(signature(function).parameters)
    for function, flags, arguments in (
        (rdistill.evaluate, DataFlags, DataArguments),
        (rdistill.headroom, BatchFlags, BatchArguments),
    ):
        assert list(flags().as_arguments()) == list(arguments.__annotations__)
        kinds = {parameter.kind for parameter in signature(function).parameters.values()}
        assert Parameter.VAR_KEYWORD not in kinds


def test_an_argument_of_another_function_is_refused() -> None:
    """``evaluate`` has no use for ``iters``: taken without a word, it would seem to have one."""
    with pytest.raises(TypeError, match="unexpected keyword argument 'iters'"):
        rdistill.evaluate("a.py", "a.pth", iters=5)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="unexpected keyword argument 'val_interval'"):
        rdistill.headroom("a.py", val_interval=5)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("layers", ModelFlags), ("predict", ModelFlags), ("export", DataFlags), ("eval", DataFlags),
        ("headroom", BatchFlags), ("train", LoadFlags), ("sweep", LoadFlags), ("check", LoadFlags),
    ],
)  # fmt: skip
def test_a_command_has_the_flags_of_its_group_and_no_other_by_their_names(name: str, group: type[Flags]) -> None:
    """`--iters` of `headroom` is of its own short trainings."""
    every = get_command(commands).commands  # type: ignore[attr-defined]
    options, train = ({option.name: option for option in every[command].params} for command in (name, "train"))
    expected = {field.name for field in fields(group)}  # type: ignore[arg-type]
    expected |= {"iters"} if name == "headroom" else set()
    expected |= {"trust_checkpoint"}
    assert set(options) & {field.name for field in fields(LoadFlags)} == expected
    for flag in expected - {"iters"}:
        assert options[flag].help == train[flag].help, flag


def test_a_command_is_given_its_groups_whole() -> None:
    app, seen = typer.Typer(), []

    @app.command()
    @with_flags
    def command(file: Annotated[str, typer.Argument()], *, loading: LoadFlags, run: RunFlags) -> None:
        seen.append((file, loading, run))

    result = CliRunner().invoke(app, ["a.py", "--iters", "5", "--set", "a=1", "--set", "b=2", "--amp"])
    assert result.exit_code == 0, result.output
    assert seen == [("a.py", LoadFlags(set_=["a=1", "b=2"], iters=5), RunFlags(amp=True))]
    assert "set_" not in seen[0][1].as_arguments() and seen[0][1].as_arguments()["iters"] == 5
    assert CliRunner().invoke(app, ["a.py", "--workers", "0"]).exit_code == 2
