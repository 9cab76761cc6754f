"""The environment variables that the libraries read when they are imported."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

from rdistill.core.files import own_folder


def keep_to_the_work_dir() -> None:
    """Nothing may look for a network or write to the home directory by itself: not wandb, matplotlib or yapf either.

    What the user has set stays.
    """
    os.environ.setdefault("WANDB_MODE", "offline")
    os.environ.setdefault(
        "TORCH_HOME", str(Path("~/.cache/torch").expanduser())
    )  # weights that a user names belong there
    if "XDG_CACHE_HOME" not in os.environ:
        os.environ["XDG_CACHE_HOME"] = str(_cache_folder())
    os.environ.setdefault("MPLCONFIGDIR", str(Path(os.environ["XDG_CACHE_HOME"], "matplotlib")))


def _cache_folder() -> Path:
    """One folder for all commands of a user, or one of this process alone where its name is another user's already.

    wandb writes its log there, so no other user may look into it or have put a link there.
    """
    shared = Path(tempfile.gettempdir(), f".cache-rdistill-{os.getuid()}")
    try:
        if own_folder(shared):
            return shared
    except OSError:  # a disk that is full or cannot be written to
        pass
    folder = Path(tempfile.mkdtemp(prefix="cache-rdistill-"))
    made_by = os.getpid()

    def remove() -> None:
        if os.getpid() == made_by:  # not at the end of a process that this one forked
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return folder
