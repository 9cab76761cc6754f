"""Typer's errors are of the classes that the command line tells apart."""

from __future__ import annotations

import pytest
import typer
from typer.testing import CliRunner

from rdistill._compat import typer as compat

app = typer.Typer(no_args_is_help=True)


@app.command()
def first(number: int, option: int = 0) -> None: ...


@app.command()
def second() -> None: ...


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (["first", "1", "--no-such"], compat.NoSuchOption),
        (["first"], compat.MissingParameter),
        (["first", "x"], compat.BadParameter),
        ([], compat.ShowsHelp),
    ],
)
def test_kinds_of_errors(words: list[str], kind: type[Exception]) -> None:
    error = CliRunner().invoke(app, words, standalone_mode=False).exception
    assert isinstance(error, kind) and isinstance(error, compat.AnyError)


def test_the_type_of_a_parameter() -> None:
    error = CliRunner().invoke(app, ["first", "x"], standalone_mode=False).exception
    assert compat.annotation_of(error.param) is int  # type: ignore[union-attr]
    assert compat.annotation_of(object()) is None


def test_a_mistake_in_the_code_is_none_of_the_users() -> None:
    assert not issubclass(typer.Exit, compat.AnyError) and not issubclass(typer.Abort, compat.AnyError)
