"""One word for one thing: local names say what they hold, and comments use the words of the glossary.

Whoever finds a name or a word here: take the thing's own name (teacher, loss, record, path; actual and expected), and
the standard word (get, notified, computed, images, N, always). docs/glossary.md has the words.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import REPO

PACKAGE = REPO / "rdistill"
FILES = sorted(PACKAGE.rglob("*.py"))
CODE = [
    file for folder in ("rdistill", "tests", "benchmarks", "examples") for file in sorted((REPO / folder).rglob("*.py"))
]
NAMES = {
    "one", "other", "asked", "found", "known", "given", "theirs", "ours", "told", "said", "held", "thin", "keeper",
}  # fmt: skip
WORDS = re.compile(
    r"\b(ask|asks|asked|asking|told|hear|hears|heard|said|reckon\w*|hindmost|pictures?|so\s+many|for\s+ever)\b", re.I
)
# What such a word may stand in: names that a sweep's folder has, which other versions read.
ALLOWED = re.compile(r"pictures/|pictures\.json")

# A comment that begins so is no phrase that stands alone: say what is of, in or with something.
PREPOSITION = re.compile(
    r"#+ *(about|above|across|after|against|along|amid|among|around|as|at|before|behind|below|beneath|beside|between|"
    r"beyond|by|despite|down|during|except|for|from|in|inside|into|like|near|of|off|on|onto|out|outside|over|past|per|"
    r"since|through|to|toward|towards|under|until|unto|up|upon|via|with|within|without)\b",
    re.I,
)


def bound_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, name) of every local or global variable, parameter and loop variable."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name is not None:
            yield node.lineno, node.name


def prose(text: str) -> Iterator[tuple[int, str]]:
    """(line, text) of every comment and docstring."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                yield first.lineno, str(first.value.value)


def comments(text: str) -> Iterator[tuple[int, str]]:
    """(line, first line) of every comment; lines below one another that hold nothing else are one comment."""
    last = 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            line, whole = token.start[0], token.line.lstrip().startswith("#")
            if not whole or line != last + 1:
                yield line, token.string
            last = line if whole else 0


def words_in(text: str) -> list[str]:
    return [match[0] for match in WORDS.finditer(ALLOWED.sub("", text))]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(REPO)))
def test_names_and_words(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    names = [f"line {line}: {name}" for line, name in bound_names(ast.parse(text)) if name in NAMES]
    words = [f"line {line}: {word}" for line, part in prose(text) for word in words_in(part)]
    assert not names, f"name the thing (see {Path(__file__).name})"
    assert not words, f"use the standard word (see {Path(__file__).name})"


def test_the_check_sees_every_kind_of_name() -> None:
    code = "def f(one, *, given=1):\n    found: int = 0\n    for other in [told for told in []]: asked = known = 1\n"
    code += "    with open('') as theirs: pass\n    if (ours := 1): pass\n    try: pass\n    except E as said: pass\n"
    code += "    held, *thin = keeper = []\n"
    assert {name for _, name in bound_names(ast.parse(code))} == NAMES
    assert words_in("writes pictures/ and pictures.json: so\nmany as are asked for") == ["so\nmany", "asked"]


def test_comments_are_phrases_that_stand_alone() -> None:
    texts = {path: path.read_text(encoding="utf-8") for path in CODE}
    fragments = [
        f"{path.relative_to(REPO)}:{line}: {comment}"
        for path, text in texts.items()
        if PREPOSITION.search(text)  # most files hold no such words after a #, and need no tokens
        for line, comment in comments(text)
        if PREPOSITION.match(comment)
    ]
    assert not fragments, "begin with what the comment is about"


def test_a_comment_of_several_lines_is_one_phrase() -> None:
    code = "a = 1  # of these\n# Of those.\n\n# The first line\n# of two.\nb = '# in a text'\n"
    assert [line for line, comment in comments(code) if PREPOSITION.match(comment)] == [1, 2]
    assert len(list(comments(code))) == 3
