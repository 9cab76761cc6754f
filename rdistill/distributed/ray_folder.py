"""The folder of a Ray cluster that rdistill starts: closed to other users, and cleared after a killed start.

Every user of the machine may write to the folder that Ray makes. So it is put in a folder that only this user can
enter.
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
from rdistill.core.words import counted

OUTER_FOLDER, RAY_SUBFOLDER = "ray", "t"  # the closed folder in the work dir, and Ray's folder in it
LOCATION_FILE = ".ray-folder"  # a file in the work dir that names the closed folder if it is elsewhere
PREFIX = "rdistill-"  # prefix of the name of such a folder
# Prefixes of other files that Ray and its workers write to the closed folder.
EXPECTED_FILES = ("_ray_lockfiles", "session_", "ray_", "prom_metrics", "tmp", "pymp-", "rdistill-", "torch")
MAX_PATH_CHARS = 40  # length of the path of Ray's folder: Ray adds 65 characters for its sockets, and Unix allows 107
PATIENCE_S = 5  # seconds to wait for killed processes to end


@contextmanager
def folder_for_ray(scratch: str | Path, notify: Callable[[str], None]) -> Iterator[Path]:
    """Within the context, provides a folder for Ray inside a folder of mode 0700.

    It is ``ray/t`` in the work dir. If that path is too long for sockets, or the work dir is a URI, it is in the
    temporary folder of the system. The workers' temporary files go there, too. Processes and files that an earlier,
    killed start has left are ended and removed first. That is safe, because the caller has locked the work dir.

    Args:
        scratch: the work dir.
        notify: is called with a line if processes were ended.

    Raises:
        UserError: a file or another user's folder is in its place.
    """
    local = None if "://" in str(scratch) else Path(scratch).absolute()
    folder = None if local is None else local / OUTER_FOLDER
    for old in filter(None, [folder, _recorded_location(local)]):
        clear(old, notify)
    if local is None or len(str(local / OUTER_FOLDER / RAY_SUBFOLDER)) > MAX_PATH_CHARS:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        if local is not None:
            write_whole(local / LOCATION_FILE, f"{folder}\n")
    assert folder is not None
    if not own_folder(folder):
        raise UserError(f"{folder}: must be a folder of yours, for Ray; move it away, or use another --work-dir")
    tempfile.gettempdir()  # caches this process's own temporary folder before TMPDIR is changed
    before = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = str(folder)  # inherited by the workers, for Ray's lock files and wandb's folders
    try:
        yield folder / RAY_SUBFOLDER
    finally:
        if before is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = before
        shutil.rmtree(folder, ignore_errors=True)
        if local is not None:
            (local / LOCATION_FILE).unlink(missing_ok=True)


def clear(folder: Path, notify: Callable[[str], None]) -> None:
    """Ends processes that still run in a folder of Ray, and removes the folder, unless it is a link or another user's.

    Raises:
        UserError: the folder holds files that are not Ray's.
    """
    try:
        status = os.lstat(folder)
    except OSError:
        return
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        return
    unexpected = [name for name in os.listdir(folder) if name != RAY_SUBFOLDER and not name.startswith(EXPECTED_FILES)]
    if unexpected:
        raise UserError(f"{folder}: is where Ray's files go, but holds {unexpected[0]}; use another --work-dir")
    remaining = processes_of(folder)
    for process in remaining:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(remaining, timeout=PATIENCE_S)
    if remaining:
        processes = counted(len(remaining), "process")
        notify(f"cleared   {processes} of Ray's that an earlier start of this work dir left when it was killed")
    shutil.rmtree(folder, ignore_errors=True)


def processes_of(folder: Path) -> list[psutil.Process]:
    """This user's Ray processes that use a folder.

    They are found by their command line; Ray's workers, which overwrite their command line, by their open files.
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


def _recorded_location(work_dir: Path | None) -> Path | None:
    """The closed folder of an earlier start, if it was in the temporary folder of the system."""
    if work_dir is None:
        return None
    try:
        folder = Path((work_dir / LOCATION_FILE).read_text().strip())
    except (OSError, UnicodeDecodeError):
        return None
    made_by_rdistill = folder.parent == Path(tempfile.gettempdir()) and folder.name.startswith(PREFIX)
    return folder if made_by_rdistill else None
