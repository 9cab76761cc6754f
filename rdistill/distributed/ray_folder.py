"""The folder of a Ray cluster of our own: closed to other users, and cleared of what a killed start left in it.

Ray lets every user of the machine write to its own folder, so there is one above it that none but this user enters.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import ray

from rdistill.core.errors import UserError
from rdistill.core.files import own_folder, write_whole

NAME, RAYS_OWN = "ray", "t"  # the folder in the work dir, and Ray's within it
ELSEWHERE = ".ray-folder"  # a file in the work dir that says where the folder is instead
PREFIX = "rdistill-"  # the name of a folder elsewhere begins with it
OTHERS = ("_ray_lockfiles", "session_", "ray_", "prom_metrics", "tmp", "pymp-", "rdistill-", "torch")  # files in it
LONGEST_TEMP_DIR = 40  # characters; Ray adds 65 for its sockets, and Unix allows 107
PATIENCE_S = 5  # seconds until a killed process must be gone


@contextmanager
def folder_for_ray(scratch: str | Path, say: Callable[[str], None]) -> Iterator[Path]:
    """Gives Ray's own folder, in a folder of mode 0700, for as long as the context lasts.

    It is ``ray/t`` in the work dir; in the temporary folder where that path is too long for sockets, or the work dir
    is a URI. The workers' temporary files go there too. Processes and files that an earlier start left, because it was
    killed, are ended and removed first: whoever calls this holds the work dir, so nobody uses them.

    Args:
        scratch: the work dir.
        say: is given a line about processes that were ended.

    Raises:
        UserError: something else stands in its place.
    """
    local = None if "://" in str(scratch) else Path(scratch).absolute()
    folder = None if local is None else local / NAME
    for old in filter(None, [folder, _elsewhere(local)]):
        clear(old, say)
    if local is None or len(str(local / NAME / RAYS_OWN)) > LONGEST_TEMP_DIR:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        if local is not None:
            write_whole(local / ELSEWHERE, f"{folder}\n")
    assert folder is not None
    if not own_folder(folder):
        raise UserError(f"{folder}: must be a folder of yours, for Ray; move it away, or use another --work-dir")
    tempfile.gettempdir()  # remembers this process's own
    before = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = str(folder)  # the workers inherit it: Ray's lock files, wandb's folders
    try:
        yield folder / RAYS_OWN
    finally:
        if before is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = before
        shutil.rmtree(folder, ignore_errors=True)
        if local is not None:
            (local / ELSEWHERE).unlink(missing_ok=True)


def clear(folder: Path, say: Callable[[str], None]) -> None:
    """Ends what still runs in a folder of Ray's, and removes the folder, unless it is a link or another user's.

    Raises:
        UserError: it holds something else.
    """
    try:
        status = os.lstat(folder)
    except OSError:
        return
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        return
    strange = [name for name in os.listdir(folder) if name != RAYS_OWN and not name.startswith(OTHERS)]
    if strange:
        raise UserError(f"{folder}: is where Ray's files go, but holds {strange[0]}; use another --work-dir")
    left = processes_of(folder)
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=PATIENCE_S)
    if left:
        say(f"cleared   {len(left)} processes of Ray's that an earlier start of this work dir left when it was killed")
    shutil.rmtree(folder, ignore_errors=True)


def processes_of(folder: Path) -> list[psutil.Process]:
    """This user's processes of Ray whose command line, or of workers an open file, is in a folder.

    Ray's workers write over their command line.
    """
    inside, package = f"{folder}/", f"{Path(ray.__file__).parent}/"
    processes = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.uids().real != os.getuid() or process.pid == os.getpid():
                continue
            words = process.cmdline()
            named = any(package in word for word in words) and any(inside in f"{word}/" for word in words)
            worker = bool(words) and words[0].startswith("ray::")
            if named or (worker and any(file.path.startswith(inside) for file in process.open_files())):
                processes.append(process)
    return processes


def _elsewhere(work_dir: Path | None) -> Path | None:
    """Where an earlier start of a work dir had its folder, if that was in the temporary folder."""
    if work_dir is None:
        return None
    try:
        folder = Path((work_dir / ELSEWHERE).read_text().strip())
    except (OSError, UnicodeDecodeError):
        return None
    made_by_rdistill = folder.parent == Path(tempfile.gettempdir()) and folder.name.startswith(PREFIX)
    return folder if made_by_rdistill else None
