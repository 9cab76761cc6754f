"""Errors a user can mend, and the spelling hints they carry."""

from __future__ import annotations

import difflib
import errno
import os
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from rdistill._compat import texts

LONGEST = 1000  # characters of a line; of a longer one the middle is left out


class UserError(ValueError):
    """One or more mistakes of the user's, found before time is spent.

    Each problem is one line that says where, what, got and how to fix it:
    ``sweeps/a.yaml: space.tau.low must be > 0 on a log scale, got 0; raise it or use uniform``.
    The command line prints every problem and exits with status 2, without a traceback.
    """

    def __init__(self, *problems: str) -> None:
        assert problems, "an error without a problem helps nobody"
        self.problems = tuple(printable(problem) for problem in problems)
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[type[UserError], tuple[str, ...]]:
        # Exceptions cross process borders in Ray; the default would rebuild it from one joined string.
        return (type(self), self.problems)


class RunError(RuntimeError):
    """What ends a run that had begun, in one line. The command line prints it and exits with status 1."""


def printable(text: str) -> str:
    """A text as one line: line breaks, control codes and what is no character are written as Python escapes.

    A file may be called ``a\\nb.py``, and must neither break a message in two nor steer the terminal.
    """
    if not text.isprintable():
        text = "".join(
            char if char.isprintable() or unicodedata.category(char) == "Zs" else char.encode("unicode_escape").decode()
            for char in text
        )
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"


def one_line(text: object, most: int | None = None) -> str:
    """A text without line breaks, every run of white space as one space; at most ``most`` characters of it."""
    return " ".join(str(text).split())[:most]


def error_line(error: BaseException, most: int = 300) -> str:
    """``KeyError: what it says`` in one line; of a UserError, whose words are for the user, these alone."""
    text = one_line(error, most)
    if isinstance(error, UserError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def message_line(error: BaseException, most: int = 200) -> str:
    """What an error says in one line, or its kind where it says nothing."""
    return one_line(error, most) or type(error).__name__


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the nearest of ``names``, or an empty string when none is near."""
    near = difflib.get_close_matches(name, list(names), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


@contextmanager
def blaming(what: str) -> Iterator[None]:
    """Turns whatever building a part of a config raises into a :class:`UserError` that names the part.

    mmengine and mmseg raise anything from KeyError to AssertionError for a config that is wrong.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        text = texts.REGISTRY_ADVICE.pattern.sub("", one_line(error)).strip("'\"")
        raise UserError(f"{what}: cannot be built: {type(error).__name__}: {text[:300]}") from error


# What is wrong with a path, and what to do. Anything else is the machine's affair, and no mistake of the user's.
_OF_PATHS = {
    errno.ENAMETOOLONG: "its name is too long; choose a shorter one",
    errno.EISDIR: "is a folder, where a file is needed",
    errno.ENOTDIR: "lies below a file, where a folder is needed",
    errno.EEXIST: "is there already, and is no folder",
    errno.ENOTEMPTY: "is a folder that is not empty",
    errno.EACCES: "may not be read or written by you",
    errno.EPERM: "may not be read or written by you",
    errno.EROFS: "is on a file system that is read only",
    errno.ENOENT: "no such file or folder, or none can be made there",
    errno.ELOOP: "is a link that leads in a circle",
    errno.EINVAL: "is no name that this file system takes",
    errno.EILSEQ: "is no name that this file system takes",
    errno.ENXIO: "is no file that can be read or written",
    errno.ENODEV: "is no file that can be read or written",
}


def problem_of_path(error: OSError | UnicodeError, where: str | os.PathLike[str] | None = None) -> str | None:
    """An error of a user's path in one line; None for one that is not the user's, such as a lost connection.

    Args:
        error: raised by whatever opened, made or read it.
        where: the path as the user knows it; by default the one that the error names.
    """
    if isinstance(error, UnicodeDecodeError):
        wrong = f"byte 0x{error.object[error.start]:02x} at position {error.start}"
        return f"{where or 'a file'}: is no {error.encoding} text: {wrong}"
    if isinstance(error, UnicodeError):
        return f"{where or 'a name'}: holds characters that cannot be written as text: {error}"
    kinds = (FileNotFoundError, NotADirectoryError, IsADirectoryError, FileExistsError, PermissionError)
    if error.errno in _OF_PATHS:
        named = where or error.filename2 or error.filename
        return f"{named}: {_OF_PATHS[error.errno]}" if named else str(error.strerror)
    if not isinstance(error, kinds):
        return None
    return f"{where}: {error}" if where else str(error)


@contextmanager
def user_path(where: str | os.PathLike[str] | None = None, fix: str = "") -> Iterator[None]:
    """Turns what a user's path raises within the context into a :class:`UserError` that names it.

    Args:
        where: the path, or an option with it; by default the one that the error names.
        fix: what to do.
    """
    try:
        yield
    except (OSError, UnicodeError) as error:
        problem = problem_of_path(error, where)
        if problem is None:
            raise
        raise UserError(f"{problem}; {fix}" if fix else problem) from error
