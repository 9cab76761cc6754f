"""The message from a cohort's actor to its group imports nothing of rdistill: any process may read it."""

from __future__ import annotations

import ast
from pathlib import Path

from rdistill.sweeps.cohort import membership


def test_it_imports_nothing_of_rdistill_and_its_words_differ() -> None:
    tree = ast.parse(Path(str(membership.__file__)).read_text(encoding="utf-8"))
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert modules == {"__future__", "typing"} and not any(isinstance(node, ast.Import) for node in ast.walk(tree))
    assert membership.JOIN != membership.STOP
