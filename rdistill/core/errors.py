"""Errors that a user can correct, with hints for misspelled names, and the errors behind an error."""

from __future__ import annotations

import difflib
import errno
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from rdistill._compat import texts
from rdistill._compat.ray import errors_within

COLOUR_CODE = re.compile(r"\x1b\[[0-9;]*m")  # Ray and torch.export colour their messages for a terminal
MAX_LINE_CHARS = 1000  # the middle of a longer line is left out


class UserError(ValueError):
    """One or more mistakes of the user, found before the training starts.

    Each problem is one line that says where it is, what is wrong, what was given and how to fix it:
    ``sweeps/a.yaml: space.tau.low must be > 0 on a log scale, got 0; raise it or use uniform``.
    The command line prints every problem and exits with status 2, without a traceback.
    """

    def __init__(self, *problems: str) -> None:
        assert problems, "an error without a problem helps nobody"
        self.problems = tuple(printable(problem) for problem in problems)
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[type[UserError], tuple[str, ...]]:
        # Ray pickles exceptions between processes; by default this one would be rebuilt from a single joined string.
        return (type(self), self.problems)


class RunError(RuntimeError):
    """An error that ends a run after its start, in one line. The command line prints it and exits with status 1."""


def printable(text: str) -> str:
    """A text as one line: line breaks, control codes and invalid characters are written as Python escapes.

    So a file name such as ``a\\nb.py`` cannot break a message into two lines or send control codes to the terminal.
    """
    if not text.isprintable():
        text = "".join(
            char if char.isprintable() or unicodedata.category(char) == "Zs" else char.encode("unicode_escape").decode()
            for char in text
        )
    half = MAX_LINE_CHARS // 2
    return text if len(text) <= MAX_LINE_CHARS else f"{text[:half]} ... {text[-half:]}"


def one_line(text: object, max_chars: int | None = None) -> str:
    """The first ``max_chars`` characters of a text on one line, without a terminal's colour codes.

    White space and line breaks become single spaces.
    """
    return " ".join(COLOUR_CODE.sub("", str(text)).split())[:max_chars]


def error_line(error: BaseException, max_chars: int = 300) -> str:
    """An error on one line, such as ``KeyError: 'name'``; for a UserError, its message alone."""
    text = one_line(error, max_chars)
    if isinstance(error, UserError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def message_line(error: BaseException, max_chars: int = 200) -> str:
    """The message of an error on one line, or its class name if the message is empty."""
    return one_line(error, max_chars) or type(error).__name__


def cause_of(error: BaseException) -> BaseException:
    """The error that a Ray task raised, with its own class; an error that Ray has not wrapped is returned unchanged."""
    import ray

    return error.as_instanceof_cause() if isinstance(error, ray.exceptions.RayTaskError) else error


def causes_of(error: BaseException, *, also_context: bool = False) -> list[BaseException]:
    """An error and all its causes, the nearest first, each once: those it was raised from, and those that Ray wrapped.

    Args:
        error: any error.
        also_context: whether an error without ``__cause__`` is followed to its ``__context__``, the error that was
            being handled when it was raised.
    """
    causes: list[BaseException] = []
    waiting = [error]
    while waiting:
        current = waiting.pop(0)
        if any(current is earlier for earlier in causes):
            continue
        causes.append(current)
        waiting += errors_within(current)
        cause = current.__cause__ or (current.__context__ if also_context else None)
        waiting += [cause] if cause is not None else []
    return causes


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the most similar of ``names``, or an empty string if none is similar."""
    similar = difflib.get_close_matches(name, list(names), n=1, cutoff=0.6)
    return f"; did you mean {similar[0]!r}?" if similar else ""


@contextmanager
def naming(what: str) -> Iterator[None]:
    """Within the context, every problem of a :class:`UserError` begins with ``what``, if it does not do so already."""
    try:
        yield
    except UserError as error:
        problems = [text if text.startswith(f"{what}:") else f"{what}: {text}" for text in error.problems]
        raise UserError(*problems) from error


@contextmanager
def blaming(what: str) -> Iterator[None]:
    """Turns any exception from building a part of a config into a :class:`UserError` that names the part.

    For a wrong config, mmengine and mmseg raise all kinds of exceptions, from KeyError to AssertionError.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        text = texts.REGISTRY_ADVICE.pattern.sub("", one_line(error)).strip("'\"")
        raise UserError(f"{what}: cannot be built: {type(error).__name__}: {text[:300]}") from error


# Error numbers that a wrong path causes -> what is wrong. All others are failures of the machine, not user mistakes.
_PATH_PROBLEMS = {
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
    """Describes an error of a path in one line; None if the path is not the cause, such as for a lost connection.

    Args:
        error: the error from opening, making or reading the path.
        where: the path as the user wrote it; by default the one that the error names.
    """
    if isinstance(error, UnicodeDecodeError):
        wrong = f"byte 0x{error.object[error.start]:02x} at position {error.start}"
        return f"{where or 'a file'}: is no {error.encoding} text: {wrong}"
    if isinstance(error, UnicodeError):
        return f"{where or 'a name'}: holds characters that cannot be written as text: {error}"
    kinds = (FileNotFoundError, NotADirectoryError, IsADirectoryError, FileExistsError, PermissionError)
    if error.errno in _PATH_PROBLEMS:
        named = where or error.filename2 or error.filename
        return f"{named}: {_PATH_PROBLEMS[error.errno]}" if named else str(error.strerror)
    if not isinstance(error, kinds):
        return None
    return f"{where}: {error}" if where else str(error)


@contextmanager
def user_path(where: str | os.PathLike[str] | None = None, fix: str = "") -> Iterator[None]:
    """Within the context, errors that a wrong path causes become a :class:`UserError` that names the path.

    Args:
        where: the path, or an option with the path; by default the path that the error names.
        fix: tells the user what to do.
    """
    try:
        yield
    except (OSError, UnicodeError) as error:
        problem = problem_of_path(error, where)
        if problem is None:
            raise
        raise UserError(f"{problem}; {fix}" if fix else problem) from error
