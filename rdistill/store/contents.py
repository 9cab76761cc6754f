"""What a store holds: how much of which teacher, whether it is whole, and what may go."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import datetime

from pydantic import ByteSize, TypeAdapter, ValidationError

from rdistill.core.errors import UserError, did_you_mean
from rdistill.distill.store_files import (
    ABOUT,
    PARTIAL,
    StoreFiles,
    is_whole,
    read_about,
    require_store,
)
from rdistill.schemas.store import StoreAbout, StoreContents, StoreVerified

DAY_S = 24 * 3600
ID_CHARACTERS = 12  # the beginning of a folder's name, by which a message names a teacher
LEFT_OVER_S = 3600  # a file that is being written for longer is what a killed process left


def contents(files: StoreFiles) -> list[StoreContents]:
    """How much a store holds of each teacher, the one that was used last first.

    Raises:
        UserError: there is no store.
    """
    held = []
    for folder, about in require_store(files).items():
        sizes = [file.size for file in files.listed(folder) if _is_entry(file.name)]
        held.append(StoreContents(id=folder, about=about, entries=len(sizes), bytes=sum(sizes)))
    return sorted(held, key=lambda of_teacher: -of_teacher["about"].get("used", 0.0))


def whose(about: StoreAbout) -> str:
    """A teacher as a line names it: ``teacher.py (best.pth, forward fuse, 16 bits)``."""
    checkpoint = f"{about['checkpoint']}, " if about.get("checkpoint") else ""
    classes = f", {about['top_k']} classes" if about.get("top_k") else ""
    return f"{about['teacher']} ({checkpoint}forward {about['forward']}, {about['bits']} bits{classes})"


def used(about: StoreAbout) -> str:
    """``2026-11-27 15:04``: when a run last began to use it."""
    return datetime.fromtimestamp(about.get("used", 0.0)).strftime("%Y-%m-%d %H:%M")


def verify(files: StoreFiles, *, remove: bool = False, say: Callable[[str], None]) -> StoreVerified:
    """Reads every entry and compares it with its checksum.

    Args:
        files: the store.
        remove: damaged entries, which the next run then computes without a word.
        say: is given a line about each damaged entry.

    Raises:
        UserError: there is no store.
    """
    verified = StoreVerified(entries=0, bytes=0, damaged=0)
    for folder in require_store(files):
        for file in files.listed(folder):
            if not _is_entry(file.name):
                continue
            content = files.read(file.name)
            if content is None:  # another process has removed it
                continue
            verified["entries"] += 1
            verified["bytes"] += len(content)
            if not is_whole(content):
                verified["damaged"] += 1
                say(f"damaged   {files.where}/{file.name}" + ("; removed" if remove else ""))
                if remove:
                    files.remove(file.name)
    return verified


def prune(
    files: StoreFiles,
    *,
    teacher: str | None = None,
    unused_days: float | None = None,
    max_bytes: int | None = None,
    say: Callable[[str], None],
) -> int:
    """Removes whole teachers from a store, and what killed processes have left of files.

    Args:
        files: the store.
        teacher: the beginning of the id of one that goes.
        unused_days: those go that no run has begun to use for so long.
        max_bytes: those go that were not used for longest, until the rest takes no more.
        say: is given a line about each.

    Returns:
        Bytes that were removed.

    Raises:
        UserError: there is no store, or no such teacher.
    """
    held = contents(files)
    going: dict[str, str] = {}
    if teacher is not None:
        going[_one_of(teacher, [of_teacher["id"] for of_teacher in held])] = "named"
    for of_teacher in held:
        idle_days = (time.time() - of_teacher["about"].get("used", 0.0)) / DAY_S
        if unused_days is not None and idle_days >= unused_days:
            going.setdefault(of_teacher["id"], f"not used for {idle_days:.0f} days")
    left = sum(of_teacher["bytes"] for of_teacher in held if of_teacher["id"] not in going)
    for of_teacher in reversed(held):
        if max_bytes is not None and left > max_bytes and of_teacher["id"] not in going:
            going[of_teacher["id"]] = "to make room"
            left -= of_teacher["bytes"]
    removed = 0
    for of_teacher in held:
        if of_teacher["id"] in going:
            files.remove_folder(of_teacher["id"])
            removed += of_teacher["bytes"]
            say(
                f"removed   {of_teacher['id'][:ID_CHARACTERS]}  {whose(of_teacher['about'])}: {going[of_teacher['id']]}"
            )
    return removed + _remove_left_overs(files, say)


def parse_bytes(text: str, where: str) -> int:
    """``'10GiB'`` -> bytes. Raises UserError; ``where`` is the option."""
    try:
        return int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError:
        raise UserError(f"{where}: must be a size such as 500MB or 10GiB, got {text!r}") from None


def _remove_left_overs(files: StoreFiles, say: Callable[[str], None]) -> int:
    old = time.time() - LEFT_OVER_S
    left = [
        file for folder in files.folders() if read_about(files, folder) is not None
        for file in files.listed(folder) if file.name.endswith(PARTIAL) and file.written < old
    ]  # fmt: skip
    for file in left:
        files.remove(file.name)
    if left:
        say(f"removed   {len(left)} files that killed processes had begun to write")
    return sum(file.size for file in left)


def _one_of(beginning: str, ids: list[str]) -> str:
    fitting = [name for name in ids if name.startswith(beginning)]
    if len(fitting) != 1:
        what = "no teacher's id begins so" if not fitting else f"{len(fitting)} teachers' ids begin so"
        hint = did_you_mean(beginning, [name[: len(beginning)] for name in ids])
        raise UserError(f"--teacher {beginning}: {what}{hint or '; see `rdistill store info`'}")
    return fitting[0]


def _is_entry(name: str) -> bool:
    return not name.endswith((ABOUT, PARTIAL))


def totals(held: list[StoreContents]) -> Mapping[str, int]:
    """Entries and bytes of all teachers."""
    return {what: sum(of_teacher[what] for of_teacher in held) for what in ("entries", "bytes")}  # type: ignore[literal-required]
