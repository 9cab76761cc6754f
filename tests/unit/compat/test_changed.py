"""The line that a user reads where a package has changed, and the versions that it names."""

from __future__ import annotations

import pickle
import sys

import pytest
from conftest import REPO

from rdistill import cli
from rdistill._compat.changed import TRIED, LibraryChangedError, private, private_module


def test_the_line_says_what_and_what_to_do() -> None:
    with pytest.raises(LibraryChangedError) as caught:
        private("torch", sys, "_no_such.thing", "does something")
    line = str(caught.value)
    assert "has no sys._no_such.thing, by which rdistill does something; " in line and "\n" not in line
    assert line.endswith(f"pip install 'torch=={TRIED['torch']}'")
    assert str(pickle.loads(pickle.dumps(caught.value))) == line
    with pytest.raises(LibraryChangedError, match=r"has no ray\._no_such_module, by which"):
        private_module("ray", "ray._no_such_module", "does something")


def test_the_versions_are_those_of_the_lock() -> None:
    lines = (REPO / "requirements.lock").read_text().splitlines()
    assert {f"{package}=={version}" for package, version in TRIED.items()} <= set(lines)


def test_the_command_ends_in_that_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def changed(**_: object) -> None:
        raise LibraryChangedError("ray", "thing", "does something")

    monkeypatch.setattr(cli, "app", changed)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 1
    assert capsys.readouterr().err.startswith("error: ray 2.60.0 has no thing, by which rdistill does something; ")
