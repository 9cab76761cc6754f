"""Lists, verifies and prunes the contents of a store of views."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import datetime

from pydantic import ByteSize, TypeAdapter, ValidationError

from rdistill.core.errors import UserError, did_you_mean
from rdistill.core.words import counted
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
ID_CHARACTERS = 12  # length of the short id, the beginning of a folder's name
UNFINISHED_AGE_S = 3600  # an unfinished file that is older was left by a killed process


def contents(files: StoreFiles) -> list[StoreContents]:
    """Returns each teacher of a store with its number of entries and bytes, the last used one first.

    Raises:
        UserError: there is no store.
    """
    stored = []
    for folder, about in require_store(files).items():
        sizes = [file.size for file in files.listed(folder) if _is_entry(file.name)]
        stored.append(StoreContents(id=folder, about=about, entries=len(sizes), bytes=sum(sizes)))
    return sorted(stored, key=lambda entry: -entry["about"].get("used", 0.0))


def teacher_name(about: StoreAbout) -> str:
    """Returns a teacher's name for messages: ``teacher.py (best.pth, forward fuse, 16 bits)``."""
    checkpoint = f"{about['checkpoint']}, " if about.get("checkpoint") else ""
    classes = f", {about['top_k']} classes" if about.get("top_k") else ""
    return f"{about['teacher']} ({checkpoint}forward {about['forward']}, {about['bits']} bits{classes})"


def last_use(about: StoreAbout) -> str:
    """Returns when a run last started to use a teacher's outputs: ``2026-11-27 15:04``."""
    return datetime.fromtimestamp(about.get("used", 0.0)).strftime("%Y-%m-%d %H:%M")


def verify(files: StoreFiles, *, remove: bool = False, notify: Callable[[str], None]) -> StoreVerified:
    """Reads every entry and compares it with its checksum.

    Args:
        files: the store.
        remove: also remove damaged entries; the next run computes them again.
        notify: called with a line about each damaged entry.

    Raises:
        UserError: there is no store.
    """
    verified = StoreVerified(entries=0, bytes=0, damaged=0)
    for folder in require_store(files):
        for file in files.listed(folder):
            if not _is_entry(file.name):
                continue
            content = files.read(file.name)
            if content is None:  # another process has removed the file
                continue
            verified["entries"] += 1
            verified["bytes"] += len(content)
            if not is_whole(content):
                verified["damaged"] += 1
                notify(f"damaged   {files.where}/{file.name}" + ("; removed" if remove else ""))
                if remove:
                    files.remove(file.name)
    return verified


def prune(
    files: StoreFiles,
    *,
    teacher: str | None = None,
    unused_days: float | None = None,
    max_bytes: int | None = None,
    notify: Callable[[str], None],
) -> int:
    """Removes the outputs of whole teachers from a store, and unfinished files of killed processes.

    Args:
        files: the store.
        teacher: beginning of the id of a teacher to remove.
        unused_days: remove teachers that no run has started to use for this many days.
        max_bytes: remove teachers, the longest unused first, until the store has at most this size.
        notify: called with a line about each removed teacher.

    Returns:
        Number of removed bytes.

    Raises:
        UserError: there is no store, or no such teacher.
    """
    stored = contents(files)
    reasons: dict[str, str] = {}
    if teacher is not None:
        reasons[_matching_id(teacher, [entry["id"] for entry in stored])] = "named"
    for entry in stored:
        idle_days = (time.time() - entry["about"].get("used", 0.0)) / DAY_S
        if unused_days is not None and idle_days >= unused_days:
            reasons.setdefault(entry["id"], f"not used for {idle_days:.0f} days")
    remaining = sum(entry["bytes"] for entry in stored if entry["id"] not in reasons)
    for entry in reversed(stored):
        if max_bytes is not None and remaining > max_bytes and entry["id"] not in reasons:
            reasons[entry["id"]] = "to make room"
            remaining -= entry["bytes"]
    removed = 0
    for entry in stored:
        if entry["id"] in reasons:
            files.remove_folder(entry["id"])
            removed += entry["bytes"]
            notify(f"removed   {entry['id'][:ID_CHARACTERS]}  {teacher_name(entry['about'])}: {reasons[entry['id']]}")
    return removed + _remove_unfinished(files, notify)


def parse_bytes(text: str, where: str) -> int:
    """Parses a size such as ``'10GiB'`` to bytes. Raises UserError, whose text begins with the option ``where``."""
    try:
        return int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError:
        raise UserError(f"{where}: must be a size such as 500MB or 10GiB, got {text!r}") from None


def _remove_unfinished(files: StoreFiles, notify: Callable[[str], None]) -> int:
    oldest_unfinished = time.time() - UNFINISHED_AGE_S
    remaining = [
        file for folder in files.folders() if read_about(files, folder) is not None
        for file in files.listed(folder) if file.name.endswith(PARTIAL) and file.written < oldest_unfinished
    ]  # fmt: skip
    for file in remaining:
        files.remove(file.name)
    if remaining:
        notify(f"removed   {counted(len(remaining), 'unfinished file')} of killed processes")
    return sum(file.size for file in remaining)


def _matching_id(prefix: str, ids: list[str]) -> str:
    matches = [name for name in ids if name.startswith(prefix)]
    if len(matches) != 1:
        problem = "no teacher's id begins with this" if not matches else f"{len(matches)} teachers' ids begin with this"
        hint = did_you_mean(prefix, [name[: len(prefix)] for name in ids])
        raise UserError(f"--teacher {prefix}: {problem}{hint or '; see `rdistill store info`'}")
    return matches[0]


def _is_entry(name: str) -> bool:
    return not name.endswith((ABOUT, PARTIAL))


def totals(stored: list[StoreContents]) -> Mapping[str, int]:
    """Returns the entries and bytes of all teachers together."""
    return {key: sum(entry[key] for entry in stored) for key in ("entries", "bytes")}  # type: ignore[literal-required]
